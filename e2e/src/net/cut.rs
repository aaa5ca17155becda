//! Pods that are cut off from their cluster's API server, as by a partition of the network: what is sent is lost, in both
//! directions, and nothing closes. Everything else stays reachable.

use std::time::Duration;

use kube::ResourceExt;

use super::{Caller, ClusterNetwork};

/// Annotation of a pod that is cut off, whatever its value.
pub const CUT_OFF: &str = "sandbox.octopus.example/cut-off-from-api-server";

/// Pause between looks at the annotation by each connection to the API server.
const PAUSE: Duration = Duration::from_millis(20);

impl ClusterNetwork {
    /// Whether packets from `caller` to `host` are lost now.
    fn is_cut(&self, caller: &Caller, host: &str) -> bool {
        let Caller::Pod(pod) = caller else { return false };
        self.pods.get(pod).is_some_and(|pod| pod.annotations().contains_key(CUT_OFF)) && self.is_api(host)
    }

    /// Waits until packets from `caller` to `host` are lost; for ever if that cannot happen.
    pub(super) async fn cut(&self, caller: &Caller, host: &str) {
        if !matches!(caller, Caller::Pod(_)) || !self.is_api(host) {
            return std::future::pending().await;
        }
        while !self.is_cut(caller, host) {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until they arrive again.
    pub(super) async fn whole(&self, caller: &Caller, host: &str) {
        while self.is_cut(caller, host) {
            tokio::time::sleep(PAUSE).await;
        }
    }
}
