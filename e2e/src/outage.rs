//! What stories switch off, and what they see of it.
#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a step that fails is to fail its story")]

use std::collections::{BTreeSet, HashMap};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    cluster::MANAGEMENT,
    harness::{Process, Sandbox, processes, send},
};

impl Sandbox {
    /// The processes of this sandbox, those in its pods too, and of no other.
    pub fn processes(&self) -> Vec<Process> {
        let parents: HashMap<u32, u32> =
            processes().iter().filter_map(|p| Some((p.pid, parent(p.pid)?))).collect();
        let mut ours = BTreeSet::from([self.pid()]);
        loop {
            let more: Vec<u32> = parents
                .iter()
                .filter(|(pid, parent)| ours.contains(parent) && !ours.contains(pid))
                .map(|(pid, _)| *pid)
                .collect();
            if more.is_empty() {
                return processes().into_iter().filter(|p| ours.contains(&p.pid)).collect();
            }
            ours.extend(more);
        }
    }

    /// Stops the management cluster's API server where it stands, so that every call to it hangs, or lets it go on.
    pub fn management(&self, on: bool) {
        self.api_server(MANAGEMENT, on);
    }

    /// The same for the API server of a reef's cluster, by the name of its slot.
    pub fn api_server(&self, cluster: &str, on: bool) {
        let prefix = format!("\0--etcd-prefix=/{cluster}\0");
        let server = self.processes().into_iter().find(|p| p.command.contains(&prefix));
        send(server.expect("its API server").pid, if on { Signal::CONT } else { Signal::STOP });
    }

    /// Kills what holds the pods whose host names begin like this, on all nodes, as the loss of their machines does. The
    /// nodes start their containers again.
    pub fn lose_pods(&self, host: &str) {
        let hostname = format!("\"hostname\":\"{host}");
        for process in self.processes() {
            if process.command.contains("\0pod\0") && process.command.contains(&hostname) {
                send(process.pid, Signal::KILL);
            }
        }
    }

    /// Lets Entra answer no call for a token, or answer again; everything else of Azure goes on.
    pub fn entra(&self, on: bool) {
        if on {
            return self.azure_healed();
        }
        let unavailable = json!({ "answer": { "status": 503, "code": "AADSTS90033: a transient error" } });
        self.azure_fault(&json!({ "type": crate::azure::faults::TOKENS, "fault": unavailable }));
    }

    /// How long tokens of Entra live that are issued from now on, seconds.
    pub fn token_life(&self, seconds: u64) {
        let answer = self.azure_control("POST", "/tokens", &seconds.to_string());
        assert!(answer.contains(" 204 "), "{answer}");
    }

    /// Ends all connections to databases, as Azure SQL does now and then: who goes on has to sign in again.
    pub fn end_sql_sessions(&self) {
        let answer = self.azure_control("DELETE", "/sql/sessions", "");
        assert!(answer.contains(" 204 "), "{answer}");
    }

    /// Lets all AKS clusters that are made present certificates of new authorities under their public names.
    pub fn rotate_authorities(&self) {
        let answer = self.azure_control("DELETE", "/aks/authorities", "");
        assert!(answer.contains(" 204 "), "{answer}");
    }

    /// The names of the slots that a reef's API server runs in.
    pub fn slots(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder().join("logs")).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let slots = names.filter_map(|name| name.strip_suffix("-audit.log").map(str::to_owned));
        slots.filter(|slot| slot != MANAGEMENT).collect()
    }

    /// The audit log of a reef's API server, one event each, by the name of its slot.
    pub fn audit_of(&self, slot: &str) -> Vec<Value> {
        let path = self.folder().join(format!("logs/{slot}-audit.log"));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may hold anything, parentheses too.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
