//! The programs behind a reef's AKS cluster, which rows stop, fill and roll back.

use kube::{Client, Config};
use reef_e2e::harness::processes;
use serde_json::Value;

use super::world::World;

/// A reef's API server and its etcd.
pub struct ControlPlane {
    /// Process id of the API server.
    pub server: u32,
    etcd: String,
}

impl ControlPlane {
    /// That of a reef.
    pub async fn of(world: &World, reef: &str) -> Self {
        let issuer = world.reef(reef).await.cluster.unwrap().issuer.unwrap();
        let slot = issuer.rsplit('/').nth(1).unwrap();
        let folder = world.sandbox.folder().join("run").join(slot).to_string_lossy().into_owned();
        let program = |flag: &str| {
            let all = processes();
            let is_it = |command: &str| command.contains(&format!("{folder}/")) && command.contains(flag);
            let found = all.into_iter().find(|process| is_it(&process.command));
            found.unwrap_or_else(|| panic!("{slot} has a program with {flag}"))
        };
        let etcd = program("--advertise-client-urls=").command;
        let etcd = etcd.split('\0').find_map(|flag| flag.strip_prefix("--advertise-client-urls=")).unwrap();
        Self { server: program("--etcd-servers=").pid, etcd: etcd.to_owned() }
    }

    /// Calls etcd's JSON gateway.
    pub async fn etcd(&self, path: &str, body: &Value) -> Value {
        let client = Client::try_from(Config::new(self.etcd.parse().unwrap())).unwrap();
        let request = http::Request::post(path).header("Content-Type", "application/json");
        let text = client.request_text(request.body(body.to_string().into_bytes()).unwrap()).await.unwrap();
        serde_json::from_str(&text).unwrap()
    }
}
