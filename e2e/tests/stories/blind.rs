//! Part of stories: one type of resource cannot be read in Azure, and all others can; or nothing can be read in a reef's
//! cluster. What was good stays good.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::{core::v1::ServiceAccount, rbac::v1::ClusterRoleBinding},
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use reef_crds::Region;
use reef_e2e::{
    azure::kind_of,
    harness::{Sandbox, eventually, ok},
    instance_harness::{CUSTOMERS, instances},
    reef_harness::{azure_writes, get},
};
use serde_json::json;

const REQUEST: &str = "cloud.octopus.com/reconcile-requested-at";

/// A Region with a Reef and a CloudInstance that are Ready.
pub struct World<'a> {
    /// Where they are.
    pub sandbox: &'a Sandbox,
    /// The management cluster.
    pub client: &'a Client,
    /// The reef's cluster.
    pub cluster: &'a Client,
    /// Names of the three.
    pub names: [&'a str; 3],
}

/// Each type that was ever read, one after the other, answers 503 while everybody looks anew: what cannot be seen is
/// told, all stay Ready, and nothing is written in Azure.
pub async fn one_type_at_a_time(world: &World<'_>) {
    let sandbox = world.sandbox;
    let reads = sandbox.azure_journal().into_iter().filter(|entry| entry["method"] == "GET");
    let kinds: BTreeSet<_> = reads.map(|e| kind_of(e["path"].as_str().unwrap_or_default())).collect();
    let before = azure_writes(sandbox).len();
    let mut told = BTreeSet::new();
    for kind in kinds.iter().filter(|kind| !kind.is_empty()) {
        let fault = json!({ "answer": { "status": 503, "code": "ServiceUnavailable" } });
        sandbox.azure_fault(&json!({ "method": "GET", "type": kind, "fault": fault }));
        let calls = sandbox.azure_journal().len();
        let seen = world.looked(&format!("without-{}", kind.replace('/', "-"))).await;
        world.all_are_ready(&seen, kind);
        if kind.ends_with("userassignedidentities") {
            // Not before: what was seen a moment ago would do.
            world.the_agent_loses_its_account().await;
            world.looked("without-the-account-too").await;
            world.the_agent_has_its_identity().await;
        }
        let unknown = |c: &&Condition| c.status == "Unknown";
        let unknown: Vec<_> = seen.iter().flatten().filter(unknown).collect();
        let reasons = ["AzureUnavailable", "CircuitOpen"];
        assert!(unknown.iter().all(|c| reasons.contains(&c.reason.as_str())), "{kind}: {unknown:?}");
        let met = sandbox.azure_journal().iter().skip(calls).any(|entry| entry["status"] == 503);
        if met && !unknown.is_empty() {
            told.insert(kind.clone());
        }
        sandbox.azure_healed();
        eventually(&format!("{kind} is seen again"), || async {
            let seen = world.looked(&format!("with-{}", kind.replace('/', "-"))).await;
            seen.iter().flatten().all(|c| c.status != "Unknown").then_some(())
        })
        .await;
    }
    assert_eq!(azure_writes(sandbox).len(), before, "nothing is written on what was not seen");
    println!("told of {} types: {told:?}", told.len());
    assert!(told.len() >= 20, "{told:?} of {kinds:?}");
}

/// The reef's API server refuses all that the operator asks for, as it does when it cannot find out who a token is from,
/// while Azure does not say how clusters are connected with. It is told, and nobody is worse off; when the API server
/// takes the operator again, work goes on through the connection that there was.
pub async fn the_reefs_cluster_refuses_all(world: &World<'_>) {
    let bindings = Api::<ClusterRoleBinding>::all(world.cluster.clone());
    let from_azure = ListParams::default().labels("sandbox.reef/from-azure");
    let given = bindings.list(&from_azure).await.unwrap().items;
    assert!(!given.is_empty(), "the role that Azure gives");
    let fault = json!({ "answer": { "status": 503, "code": "ServiceUnavailable" } });
    world.sandbox.azure_fault(&json!({ "path": "*/listClusterUserCredential", "fault": fault }));
    for binding in &given {
        bindings.delete(&binding.name_any(), &DeleteParams::default()).await.unwrap();
    }
    let reachable = |seen: &[Vec<Condition>; 3], status: &str| {
        seen[1].iter().any(|c| c.type_ == "ClusterReachable" && c.status == status)
    };
    let seen = until_all(world, "refused", |seen| reachable(seen, "Unknown")).await;
    world.all_are_ready(&seen, "anything in the reef's cluster");
    // Each look is one more that wants to connect anew.
    let seen = world.looked("still-refused").await;
    world.all_are_ready(&seen, "anything in the reef's cluster");
    for binding in given {
        let metadata = ObjectMeta { resource_version: None, uid: None, ..binding.metadata };
        let again = ClusterRoleBinding { metadata, ..binding };
        bindings.create(&PostParams::default(), &again).await.unwrap();
    }
    let seen = until_all(world, "taken-again", |seen| reachable(seen, "True")).await;
    world.all_are_ready(&seen, "anything in the reef's cluster");
    world.sandbox.azure_healed();
}

/// Looks until this is seen.
async fn until_all(
    world: &World<'_>,
    what: &str,
    is_it: impl Fn(&[Vec<Condition>; 3]) -> bool,
) -> [Vec<Condition>; 3] {
    let mut looks = 0..;
    eventually(what, || {
        let nonce = format!("{what}-{}", looks.next().unwrap_or(0));
        let is_it = &is_it;
        async move { Some(world.looked(&nonce).await).filter(is_it) }
    })
    .await
}

impl World<'_> {
    fn all_are_ready(&self, seen: &[Vec<Condition>], kind: &str) {
        for (name, conditions) in self.names.iter().zip(seen) {
            let is_ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
            assert!(is_ready, "{name} while {kind} cannot be read: {conditions:#?}");
        }
    }

    /// Asks for a look at each, and waits until it is done: the conditions after it.
    async fn looked(&self, nonce: &str) -> [Vec<Condition>; 3] {
        let [region, reef, instance] = self.names;
        let annotation = format!("{REQUEST}={nonce}");
        for object in [&["region", region][..], &["reef", reef], &["ci", instance, "-n", CUSTOMERS]] {
            ok(&self.sandbox.kubectl(&[&["annotate", "--overwrite"], object, &[&annotation]].concat()));
        }
        eventually(&format!("a look at each {nonce}"), || async {
            let of_region = Api::<Region>::all(self.client.clone()).get(region).await.ok()?.status?;
            let of_reef = get(self.client, reef).await?.status?;
            let of_instance = instances(self.client).get(instance).await.ok()?.status?;
            let handled = [
                &of_region.last_handled_reconcile_at,
                &of_reef.last_handled_reconcile_at,
                &of_instance.last_handled_reconcile_at,
            ];
            let done = handled.iter().all(|at| at.as_deref() == Some(nonce));
            done.then_some([of_region.conditions, of_reef.conditions, of_instance.conditions])
        })
        .await
    }

    fn accounts(&self) -> Api<ServiceAccount> {
        Api::namespaced(self.cluster.clone(), "reef-system")
    }

    async fn the_agent_loses_its_account(&self) {
        self.accounts().delete("reef-agent", &DeleteParams::default()).await.unwrap();
    }

    /// It is made again although nobody can say what its identity is.
    async fn the_agent_has_its_identity(&self) {
        let account = self.accounts().get("reef-agent").await.unwrap();
        let annotations = account.metadata.annotations.unwrap_or_default();
        let identity = get(self.client, self.names[1]).await.unwrap().status.unwrap().agent_identity.unwrap();
        assert_eq!(annotations.get("azure.workload.identity/client-id"), Some(&identity.client_id));
    }
}
