//! Azure as a run sees it: reads that are patient, and what is left of runs, found by its tags alone, and its removal.
//!
//! A resource group or record is only taken for a run's if fleet, region and reef of its tags all say so; nobody else's is
//! ever touched.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use reef_operator::azure::{Arm, ArmError, Class};
use serde_json::Value;

use super::{
    say,
    settings::{PREFIX, Settings},
};

const GROUPS_API: &str = "2021-04-01";
const LOCKS_API: &str = "2016-09-01";
const DNS_API: &str = "2018-05-01";

/// So often a read is tried before it fails a run of hours.
const TRIES: u32 = 20;

/// Azure, for the runs of one fleet.
pub struct Azure {
    pub settings: Settings,
    pub arm: Arc<Arm>,
    pub fleet: String,
    /// Between two looks.
    pub pause: Duration,
}

/// What is left of runs. Ids.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    pub groups: Vec<String>,
    /// Groups that Azure made for what is in the others, and that go with it: an AKS cluster hands its tags on to the
    /// group of its nodes.
    pub managed: Vec<String>,
    pub records: Vec<String>,
    /// What could not be looked at, and why.
    pub unknown: Vec<String>,
}

impl Left {
    fn of(groups: &[Value], records: &[Value], fleet: &str, which: &str) -> Self {
        let ids = |all: &[Value], is_meant: &dyn Fn(&Value) -> bool| {
            let meant = all.iter().filter(|one| is_meant(one));
            let mut ids: Vec<_> = meant.filter_map(|one| one["id"].as_str().map(str::to_owned)).collect();
            ids.sort();
            ids
        };
        let is_managed = |group: &Value| group["managedBy"].as_str().is_some_and(|by| !by.is_empty());
        let is_ours = |group: &Value| is_of_a_run(&group["tags"], fleet, which);
        Self {
            groups: ids(groups, &|group| is_ours(group) && !is_managed(group)),
            managed: ids(groups, &|group| is_ours(group) && is_managed(group)),
            records: ids(records, &|record| is_of_a_run(&record["properties"]["metadata"], fleet, which)),
            unknown: Vec::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// One line for each.
    pub fn lines(&self) -> String {
        let there = self.groups.iter().chain(&self.managed).chain(&self.records).map(|id| format!("  {id}"));
        let unknown = self.unknown.iter().map(|why| format!("  could not be looked at: {why}"));
        there.chain(unknown).collect::<Vec<_>>().join("\n")
    }
}

/// Whether tags or metadata are those of a run.
fn is_of_a_run(marks: &Value, fleet: &str, which: &str) -> bool {
    let is_ours = |name: &str| marks[name].as_str().is_some_and(|value| value.starts_with(which));
    marks["reef-operator-fleet"] == fleet && is_ours("reef-operator-region") && is_ours("reef-operator-reef")
}

impl Azure {
    /// Reads a resource, and tries again for a while if Azure does not answer.
    pub async fn get(&self, id: &str, api: &str) -> Result<Value, ArmError> {
        self.patiently(async || self.arm.get(id, api).await).await
    }

    /// The same for a list.
    pub async fn list(&self, path: &str, api: &str) -> Result<Vec<Value>, ArmError> {
        self.patiently(async || self.arm.list(path, api).await).await
    }

    /// Whether a resource group is certainly not there.
    pub async fn is_gone(&self, group: &str) -> Result<bool, String> {
        match self.get(group, GROUPS_API).await {
            Ok(_) => Ok(false),
            Err(error) if error.is_absence() => Ok(true),
            Err(error) => Err(format!("{group}: {error}")),
        }
    }

    async fn patiently<T>(&self, read: impl AsyncFn() -> Result<T, ArmError>) -> Result<T, ArmError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match read().await {
                Err(error) if tries < TRIES && may_pass(error.class()) => {
                    tokio::time::sleep(self.pause).await;
                }
                done => return done,
            }
        }
    }

    /// What is left of the runs of this fleet whose names begin like this.
    pub async fn left(&self, which: &str) -> Left {
        assert!(which.starts_with(PREFIX), "{which} is no run");
        let mut unknown = Vec::new();
        let mut listed = |path: &str, found: Result<Vec<Value>, ArmError>| {
            found.unwrap_or_else(|error| {
                unknown.push(format!("{path}: {error}"));
                Vec::new()
            })
        };
        let path = format!("/subscriptions/{}/resourceGroups", self.settings.subscription);
        let groups = listed(&path, self.list(&path, GROUPS_API).await);
        let path = format!("{}/recordsets", self.settings.zone);
        let records = listed(&path, self.list(&path, DNS_API).await);
        let mut left = Left::of(&groups, &records, &self.fleet, which);
        // Lists show for a while what is gone.
        for (ids, api) in
            [(&mut left.groups, GROUPS_API), (&mut left.managed, GROUPS_API), (&mut left.records, DNS_API)]
        {
            let mut there = Vec::new();
            for id in std::mem::take(ids) {
                if !matches!(self.get(&id, api).await, Err(error) if error.is_absence()) {
                    there.push(id);
                }
            }
            *ids = there;
        }
        Left { unknown, ..left }
    }

    /// Deletes what is left: groups with their locks and all that is in them, and records; and waits until it is gone.
    /// What fails is tried again until then.
    pub async fn remove(&self, which: &str, deadline: Instant) -> Result<(), String> {
        let mut last = String::new();
        loop {
            let left = self.left(which).await;
            if left.is_empty() {
                return Ok(());
            }
            let mut wrong = Vec::new();
            for group in &left.groups {
                wrong.extend(self.delete_group(group).await.err());
            }
            for record in &left.records {
                say(&format!("deleting {record}"));
                let deleted = self.arm.delete(record, DNS_API).await;
                wrong.extend(deleted.err().map(|error| format!("{record}: {error}")));
            }
            let now = [vec![format!("left in Azure:\n{}", left.lines())], wrong].concat().join("\n");
            if now != last {
                say(&now);
                last = now;
            }
            if Instant::now() > deadline {
                return Err(format!("time is up, and {last}"));
            }
            tokio::time::sleep(self.pause).await;
        }
    }

    /// Takes the locks of a group and of what is in it away, and asks for its deletion, unless that is under way.
    async fn delete_group(&self, group: &str) -> Result<(), String> {
        let said = |what: &str, error: &ArmError| format!("{what}: {error}");
        let found = self.arm.get(group, GROUPS_API).await.map_err(|error| said(group, &error))?;
        if found["properties"]["provisioningState"] == "Deleting" {
            return Ok(());
        }
        let list = format!("{group}/providers/Microsoft.Authorization/locks");
        let locks = self.arm.list(&list, LOCKS_API).await.map_err(|error| said(&list, &error))?;
        // A lock of the whole subscription is somebody else's, and in this list too.
        let below = format!("{}/", group.to_lowercase());
        for id in locks.iter().filter_map(|lock| lock["id"].as_str()) {
            if id.to_lowercase().starts_with(&below) {
                say(&format!("deleting {id}"));
                self.arm.delete(id, LOCKS_API).await.map_err(|error| said(id, &error))?;
            }
        }
        say(&format!("deleting {group}"));
        self.arm.delete(group, GROUPS_API).await.map_err(|error| said(group, &error))?;
        Ok(())
    }
}

fn may_pass(class: Class) -> bool {
    !matches!(class, Class::Missing | Class::Auth | Class::Invalid)
}

#[test]
fn only_what_is_a_runs_own_is_found() {
    use serde_json::json;
    let group = |fleet: &str, region: &str, reef: &str| {
        json!({ "id": format!("/{fleet}/{region}/{reef}"), "tags": {
            "reef-operator-fleet": fleet, "reef-operator-region": region, "reef-operator-reef": reef,
        } })
    };
    let mut nodes = group("trial", "test-azure-1", "test-azure-1");
    nodes["id"] = "/nodes".into();
    nodes["managedBy"] = "/trial/test-azure-1/test-azure-1/cluster".into();
    let groups = [
        group("trial", "test-azure-1", "test-azure-1"),
        nodes,
        group("trial", "test-azure-2", "test-azure-2"),
        group("trial", "westeurope", "test-azure-1"),
        group("trial", "test-azure-1", "weu-1"),
        group("production", "test-azure-1", "test-azure-1"),
        json!({ "id": "/untagged" }),
        json!({ "id": "/half", "tags": { "reef-operator-reef": "test-azure-1" } }),
    ];
    let mut record = group("trial", "test-azure-1", "test-azure-1");
    record["properties"]["metadata"] = record["tags"].take();
    let records = [record, json!({ "id": "/soa", "properties": {} })];
    let left = Left::of(&groups, &records, "trial", PREFIX);
    assert_eq!(left.groups, ["/trial/test-azure-1/test-azure-1", "/trial/test-azure-2/test-azure-2"]);
    assert_eq!(left.managed, ["/nodes"]);
    assert_eq!(left.records, ["/trial/test-azure-1/test-azure-1"]);
    assert_eq!(
        Left::of(&groups, &records, "trial", "test-azure-2").groups,
        ["/trial/test-azure-2/test-azure-2"]
    );
    assert!(Left::of(&groups, &records, "", PREFIX).is_empty());
}
