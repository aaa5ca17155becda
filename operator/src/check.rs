//! Whether the operator can run in this cluster: CRDs and permissions.
//!
//! `reef-operator check` (which `helm test` runs) asks once; the operator itself asks until the answer is
//! good, because a chart or Argo CD may bring CRDs after the operator.

use std::sync::Arc;

use k8s_openapi::{
    api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, Client, ResourceExt, api::PostParams};
use reef_crds::meta::{API_REVISION, API_REVISION_ANNOTATION, GROUP};

use crate::{actor::Actor, args::CheckArgs, client};

/// What stands in the way of a CRD that is there (pure).
pub fn crd_problem(crd: &CustomResourceDefinition) -> Option<String> {
    let name = crd.name_any();
    let revision = crd.annotations().get(API_REVISION_ANNOTATION);
    let number = revision.and_then(|r| r.parse::<u32>().ok());
    if number.is_none_or(|n| n < API_REVISION) {
        let have = revision.map_or("none", String::as_str);
        return Some(format!(
            "CRD {name} has revision {have} and this operator needs {API_REVISION} or later: upgrade the chart reef-operator-crds"
        ));
    }
    let conditions = crd.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let established = conditions.into_iter().any(|c| c.type_ == "Established" && c.status == "True");
    (!established).then(|| format!("CRD {name} is not established yet"))
}

/// What stands in the way of the CRDs in this cluster.
pub async fn crds(client: &Client) -> Result<(), String> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    for crd in reef_crds::all() {
        let name = crd.name_any();
        let found = api.get_opt(&name).await.map_err(|e| format!("CRD {name}: {e}"))?;
        let problem = match found {
            Some(crd) => crd_problem(&crd),
            None => Some(format!("CRD {name} is missing: install the chart reef-operator-crds")),
        };
        if let Some(problem) = problem {
            return Err(problem);
        }
    }
    Ok(())
}

/// A permission that the operator needs.
struct Permission {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    /// In the operator's namespace only.
    namespaced: bool,
    /// On the operator's Lease only.
    lease: bool,
}

const fn cluster(verb: &'static str, group: &'static str, resource: &'static str) -> Permission {
    Permission { verb, group, resource, namespaced: false, lease: false }
}

const fn own(verb: &'static str, group: &'static str, resource: &'static str, lease: bool) -> Permission {
    Permission { verb, group, resource, namespaced: true, lease }
}

const PERMISSIONS: [Permission; 40] = [
    cluster("list", GROUP, "regions"),
    cluster("watch", GROUP, "regions"),
    cluster("patch", GROUP, "regions"),
    cluster("patch", GROUP, "regions/status"),
    cluster("get", GROUP, "reefclasses"),
    cluster("list", GROUP, "reefclasses"),
    cluster("watch", GROUP, "reefclasses"),
    cluster("patch", GROUP, "reefclasses/status"),
    cluster("get", GROUP, "regions"),
    cluster("get", GROUP, "reefs"),
    cluster("list", GROUP, "reefs"),
    cluster("watch", GROUP, "reefs"),
    cluster("patch", GROUP, "reefs"),
    cluster("patch", GROUP, "reefs/status"),
    cluster("update", GROUP, "reefs/status"),
    cluster("get", GROUP, "cloudinstances"),
    cluster("list", GROUP, "cloudinstances"),
    cluster("watch", GROUP, "cloudinstances"),
    cluster("patch", GROUP, "cloudinstances"),
    cluster("patch", GROUP, "cloudinstances/status"),
    cluster("get", GROUP, "retainedinstances"),
    cluster("list", GROUP, "retainedinstances"),
    cluster("watch", GROUP, "retainedinstances"),
    cluster("create", GROUP, "retainedinstances"),
    cluster("delete", GROUP, "retainedinstances"),
    cluster("patch", GROUP, "retainedinstances"),
    cluster("patch", GROUP, "retainedinstances/status"),
    cluster("create", "events.k8s.io", "events"),
    cluster("patch", "events.k8s.io", "events"),
    own("get", "apps", "controllerrevisions", false),
    own("list", "apps", "controllerrevisions", false),
    own("create", "apps", "controllerrevisions", false),
    own("delete", "apps", "controllerrevisions", false),
    own("create", "", "secrets", false),
    own("get", "", "secrets", false),
    own("list", "", "secrets", false),
    own("watch", "", "secrets", false),
    own("create", "coordination.k8s.io", "leases", false),
    own("get", "coordination.k8s.io", "leases", true),
    own("update", "coordination.k8s.io", "leases", true),
];

/// Asks everything once and prints the answers.
pub async fn run(args: &CheckArgs) -> Result<(), String> {
    let client = client::new(Arc::default(), &Actor::default()).await.map_err(|e| e.to_string())?;
    let version = client.apiserver_version().await.map_err(|e| format!("API server: {e}"))?;
    println!("API server {}", version.git_version);
    crds(&client).await?;
    println!("CRDs present, revision {API_REVISION} or later");
    let mut missing = Vec::new();
    for permission in &PERMISSIONS {
        if !allowed(&client, args, permission).await? {
            missing.push(format!("{} {}.{}", permission.verb, permission.resource, permission.group));
        }
    }
    if !missing.is_empty() {
        return Err(format!("missing permissions: {}; install the chart's RBAC", missing.join(", ")));
    }
    println!("permissions present");
    Ok(())
}

async fn allowed(client: &Client, args: &CheckArgs, permission: &Permission) -> Result<bool, String> {
    let Permission { verb, group, resource, namespaced, lease } = permission;
    let (resource, sub) = resource.split_once('/').map_or((*resource, None), |(r, s)| (r, Some(s)));
    let attributes = ResourceAttributes {
        verb: Some((*verb).to_owned()),
        group: Some((*group).to_owned()),
        resource: Some(resource.to_owned()),
        subresource: sub.map(str::to_owned),
        namespace: namespaced.then(|| args.namespace.clone()),
        name: lease.then(|| args.lease_name.clone()),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let answer = Api::all(client.clone()).create(&PostParams::default(), &review).await;
    Ok(answer.map_err(|e| format!("access review: {e}"))?.status.is_some_and(|s| s.allowed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn crd(revision: Option<&str>, established: &str) -> CustomResourceDefinition {
        let annotations = revision.map(|r| json!({ (API_REVISION_ANNOTATION): r }));
        serde_json::from_value(json!({
            "metadata": { "name": "regions.cloud.octopus.com", "annotations": annotations },
            "spec": { "group": GROUP, "names": { "kind": "Region", "plural": "regions" }, "scope": "Cluster", "versions": [] },
            "status": { "conditions": [{ "type": "Established", "status": established }] },
        }))
        .unwrap()
    }

    #[test]
    fn older_crds_are_refused_and_newer_ones_taken() {
        let this = API_REVISION.to_string();
        let next = (API_REVISION + 1).to_string();
        for (revision, established, expect) in [
            (None, "True", Some("has revision none")),
            (Some("0"), "True", Some("has revision 0 and this operator needs")),
            (Some("x"), "True", Some("has revision x")),
            (Some(this.as_str()), "False", Some("not established")),
            (Some(this.as_str()), "True", None),
            (Some(next.as_str()), "True", None),
        ] {
            let problem = crd_problem(&crd(revision, established));
            match expect {
                Some(text) => assert!(problem.unwrap().contains(text), "{revision:?}"),
                None => assert_eq!(problem, None),
            }
        }
    }
}
