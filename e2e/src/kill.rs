//! The operator's leader is killed again and again, for stories.
#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a step that fails is to fail its story")]

use std::time::Duration;

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{Api, Client, api::DeleteParams};
use rustix::process::Signal;
use tokio::sync::watch;

use crate::{
    harness::{eventually, processes, send},
    install::NAMESPACE,
};

/// Moments of the kills differ from run to run; `REEF_SEED` repeats one.
pub fn seed() -> u64 {
    let now =
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_micros();
    let given = std::env::var("REEF_SEED").ok().and_then(|s| s.parse().ok());
    given.unwrap_or_else(|| u64::try_from(now() % 1_000_000).expect("a time"))
}

/// Kills whoever leads, after a random while each time, until told to stop; how many times.
pub fn kill_leaders(client: Client, seed: u64) -> (watch::Sender<bool>, tokio::task::JoinHandle<u32>) {
    let (stop, mut stopped) = watch::channel(false);
    let mut dice = seed | 1;
    let killer = tokio::spawn(async move {
        let leases = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
        let mut killed = 0;
        while !*stopped.borrow_and_update() {
            let Some(leader) = leader(&leases).await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            // From at once to well into its work: the first write to Azure comes after a second or two.
            let pause = Duration::from_millis(50 + dice % 2500);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stopped.changed() => break,
            }
            let variable = format!("POD_NAME={leader}\0");
            let process = processes()
                .into_iter()
                .find(|p| p.command.starts_with("/reef-operator\0run") && p.environment.contains(&variable));
            if let Some(process) = process {
                send(process.pid, Signal::KILL);
                killed += 1;
            }
            // A new pod instead of the old one's back-off.
            let now = DeleteParams::default().grace_period(0);
            let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
            let _ = pods.delete(&leader, &now).await;
            wait_for_another(&leases, &leader).await;
        }
        killed
    });
    (stop, killer)
}

async fn leader(leases: &Api<Lease>) -> Option<String> {
    leases.get("reef-operator").await.ok()?.spec?.holder_identity.filter(|holder| !holder.is_empty())
}

async fn wait_for_another(leases: &Api<Lease>, before: &str) {
    eventually("another leads", || async { leader(leases).await.filter(|l| l != before) }).await;
}
