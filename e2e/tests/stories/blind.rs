//! Part of stories: one type of resource cannot be read in Azure, and all others can. What was good stays good.

use std::collections::BTreeSet;

use k8s_openapi::{api::core::v1::ServiceAccount, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{Api, Client, api::DeleteParams};
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
        if kind.ends_with("userassignedidentities") {
            world.the_agent_loses_its_account().await;
        }
        let seen = world.looked(&format!("without-{}", kind.replace('/', "-"))).await;
        world.all_are_ready(&seen, kind);
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
    world.the_agent_has_its_identity().await;
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

    /// It was made again while nobody could say what its identity is.
    async fn the_agent_has_its_identity(&self) {
        let account = self.accounts().get("reef-agent").await.unwrap();
        let annotations = account.metadata.annotations.unwrap_or_default();
        let identity = get(self.client, self.names[1]).await.unwrap().status.unwrap().agent_identity.unwrap();
        assert_eq!(annotations.get("azure.workload.identity/client-id"), Some(&identity.client_id));
    }
}
