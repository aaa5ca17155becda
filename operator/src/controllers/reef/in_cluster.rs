//! What the operator keeps in a reef's cluster: compares, and writes what differs.

use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use reef_crds::{condition::Reason, meta::FIELD_MANAGER};
use serde_json::Value;

use super::{
    manifests::{GATEWAY, Manifest},
    plan::Verdict,
};
use crate::{
    azure::compare::exact_difference,
    causes,
    controller::{Context, trouble::Trouble},
    metrics::ByOutcome,
};

/// How it stands in the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct InCluster {
    /// Whether the API server answers and everything is there.
    pub objects: Verdict,
    /// Whether the gateway works.
    pub gateway: Verdict,
    /// Its public address.
    pub address: Option<String>,
}

impl InCluster {
    /// Nothing can be said before the cluster is there.
    pub fn waiting(what: &str) -> Self {
        let waiting = Verdict::Waiting(format!("waits for: {what}"));
        Self { objects: waiting.clone(), gateway: waiting, address: None }
    }

    /// The cluster cannot be reached.
    pub fn trouble(verdict: Verdict) -> Self {
        Self { objects: verdict.clone(), gateway: verdict, address: None }
    }
}

/// Brings the objects in line, one after the other.
pub async fn keep(context: &Context, client: &Client, manifests: &[Manifest]) -> InCluster {
    let mut gateway = Value::Null;
    for manifest in manifests {
        match keep_one(context, client, manifest).await {
            Ok(live) if manifest.plural == "gateways" => gateway = live,
            Ok(_) => {}
            Err(verdict) => return InCluster::trouble(verdict),
        }
    }
    let address = gateway["status"]["addresses"][0]["value"].as_str().map(str::to_owned);
    let verdict = gateway_verdict(&gateway, address.is_some());
    let address = address.filter(|_| verdict == Verdict::Good);
    InCluster { objects: Verdict::Good, gateway: verdict, address }
}

/// The object as it is now; or why it cannot be said.
async fn keep_one(context: &Context, client: &Client, manifest: &Manifest) -> Result<Value, Verdict> {
    let object = &manifest.object;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    let api_version = text(&object["apiVersion"]);
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, &kind), manifest.plural);
    let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let live = api.get_opt(&name).await.map_err(|e| verdict(&kind, &name, &e))?;
    let count = |outcome| {
        context.metrics.writes.get_or_create(&ByOutcome { resource: manifest.plural, outcome }).inc();
    };
    let why = match live.map(|live| serde_json::to_value(live).unwrap_or_default()) {
        None => "absent".to_owned(),
        Some(live) => match exact_difference(object, &live) {
            Some(why) => why,
            None => {
                count("skipped");
                return Ok(live);
            }
        },
    };
    if context.claim.check().is_err() {
        return Err(Verdict::Unknown(Trouble::new(
            Reason::ClusterUnreachable,
            "this replica no longer leads",
        )));
    }
    tracing::info!(controller = "reef", kind, name, why, "writing to the reef's cluster");
    let apply = PatchParams::apply(FIELD_MANAGER).force();
    let written =
        api.patch(&name, &apply, &Patch::Apply(object)).await.map_err(|e| verdict(&kind, &name, &e))?;
    count("changed");
    Ok(serde_json::to_value(written).unwrap_or_default())
}

/// What a refusal of the reef's API server means.
fn verdict(kind: &str, name: &str, error: &kube::Error) -> Verdict {
    let message = |error: &str| format!("{kind} {name} in the reef's cluster: {error}");
    match error {
        kube::Error::Api(status) => match status.code {
            // A new cluster gets the kinds of its add-ons, and a new role its effect, after a while.
            404 => Verdict::Working(message("the cluster does not know this kind yet")),
            401 | 403 => Verdict::Failed(Trouble::new(Reason::ClusterUnreachable, message(&status.message))),
            400 | 422 => Verdict::Blocked(Trouble::new(Reason::ClusterUnreachable, message(&status.message))),
            _ => Verdict::Unknown(Trouble::new(Reason::ClusterUnreachable, message(&status.message))),
        },
        other => Verdict::Unknown(Trouble::new(Reason::ClusterUnreachable, message(&causes(other)))),
    }
}

fn gateway_verdict(gateway: &Value, has_address: bool) -> Verdict {
    let generation = gateway["metadata"]["generation"].as_i64();
    let conditions = gateway["status"]["conditions"].as_array().into_iter().flatten();
    let programmed = conditions
        .into_iter()
        .find(|c| c["type"] == "Programmed" && c["observedGeneration"].as_i64() == generation);
    let word = |c: &Value| {
        format!("{} {}", c["reason"].as_str().unwrap_or_default(), c["message"].as_str().unwrap_or_default())
    };
    match programmed {
        Some(condition) if condition["status"] == "True" && has_address => Verdict::Good,
        Some(condition) if condition["status"] == "False" => {
            Verdict::Working(format!("Gateway {GATEWAY} is not programmed: {}", word(condition).trim()))
        }
        _ => Verdict::Working(format!("Gateway {GATEWAY} has no address yet")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_gateway_is_good_when_its_newest_spec_is_programmed() {
        let gateway = |generation: i64, seen: i64, status: &str| {
            json!({ "metadata": { "generation": generation }, "status": { "conditions": [
                { "type": "Programmed", "status": status, "reason": "Invalid", "observedGeneration": seen },
            ] } })
        };
        assert_eq!(gateway_verdict(&gateway(2, 2, "True"), true), Verdict::Good);
        for (value, address) in [
            (gateway(2, 1, "True"), true),
            (gateway(2, 2, "True"), false),
            (gateway(2, 2, "False"), true),
            (json!({}), false),
        ] {
            assert!(matches!(gateway_verdict(&value, address), Verdict::Working(_)), "{value}");
        }
    }
}
