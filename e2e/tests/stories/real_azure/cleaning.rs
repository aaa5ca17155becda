//! What is left of runs in Azure, found by its tags alone, and its removal.
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

/// How long the groups of runs may take to go.
const GOING: Duration = Duration::from_secs(3600);

/// What is left of runs. Ids.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    pub groups: Vec<String>,
    pub records: Vec<String>,
}

impl Left {
    /// Looks for what is left of the runs of this fleet whose names begin like this.
    pub async fn find(
        arm: &Arc<Arm>,
        settings: &Settings,
        fleet: &str,
        which: &str,
    ) -> Result<Self, ArmError> {
        assert!(which.starts_with(PREFIX), "{which} is no run");
        let list = format!("/subscriptions/{}/resourceGroups", settings.subscription);
        let groups = arm.list(&list, GROUPS_API).await?;
        let records = arm.list(&format!("{}/recordsets", settings.zone), DNS_API).await?;
        Ok(Self::of(&groups, &records, fleet, which))
    }

    fn of(groups: &[Value], records: &[Value], fleet: &str, which: &str) -> Self {
        let ids = |all: &[Value], marks: fn(&Value) -> &Value| {
            let ours = all.iter().filter(|one| is_of_a_run(marks(one), fleet, which));
            let mut ids: Vec<_> = ours.filter_map(|one| one["id"].as_str().map(str::to_owned)).collect();
            ids.sort();
            ids
        };
        Self { groups: ids(groups, |g| &g["tags"]), records: ids(records, |r| &r["properties"]["metadata"]) }
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.records.is_empty()
    }

    /// One line for each.
    pub fn lines(&self) -> String {
        let ids: Vec<_> = self.groups.iter().chain(&self.records).map(|id| format!("  {id}")).collect();
        ids.join("\n")
    }

    /// Deletes it: records, locks, and the groups with all that is in them; and waits until it is gone.
    pub async fn remove(self, arm: &Arc<Arm>, pause: Duration) -> Result<(), String> {
        for record in &self.records {
            say(&format!("deleting {record}"));
            arm.delete(record, DNS_API).await.map_err(|error| format!("{record}: {error}"))?;
        }
        let (deadline, mut last) = (Instant::now() + GOING, String::new());
        loop {
            let mut there = Vec::new();
            for group in &self.groups {
                match arm.get(group, GROUPS_API).await {
                    Err(error) if error.class() == Class::Missing => {}
                    Ok(found) => {
                        let state = found["properties"]["provisioningState"].as_str().unwrap_or("there");
                        there.push(format!("{group}: {state}"));
                        if state != "Deleting"
                            && let Err(error) = delete_group(arm, group).await
                        {
                            there.push(error);
                        }
                    }
                    Err(error) => there.push(format!("{group}: {error}")),
                }
            }
            if there.is_empty() {
                return Ok(());
            }
            let now = there.join("\n");
            if now != last {
                say(&now);
                last = now;
            }
            if Instant::now() > deadline {
                return Err(format!("still there after {} minutes:\n{last}", GOING.as_secs() / 60));
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// Whether tags or metadata are those of a run.
fn is_of_a_run(marks: &Value, fleet: &str, which: &str) -> bool {
    let is_ours = |name: &str| marks[name].as_str().is_some_and(|value| value.starts_with(which));
    marks["reef-operator-fleet"] == fleet && is_ours("reef-operator-region") && is_ours("reef-operator-reef")
}

/// Takes the locks of a group and of what is in it away, and asks for its deletion.
async fn delete_group(arm: &Arc<Arm>, group: &str) -> Result<(), String> {
    let said = |what: &str, error: &ArmError| format!("{what}: {error}");
    let list = format!("{group}/providers/Microsoft.Authorization/locks");
    let locks = arm.list(&list, LOCKS_API).await.map_err(|error| said(&list, &error))?;
    // A lock of the whole subscription is somebody else's, and in this list too.
    let below = format!("{}/", group.to_lowercase());
    for id in locks.iter().filter_map(|lock| lock["id"].as_str()) {
        if id.to_lowercase().starts_with(&below) {
            say(&format!("deleting {id}"));
            arm.delete(id, LOCKS_API).await.map_err(|error| said(id, &error))?;
        }
    }
    say(&format!("deleting {group}"));
    arm.delete(group, GROUPS_API).await.map_err(|error| said(group, &error))?;
    Ok(())
}

#[test]
fn only_what_is_a_runs_own_is_found() {
    use serde_json::json;
    let group = |fleet: &str, region: &str, reef: &str| {
        json!({ "id": format!("/{fleet}/{region}/{reef}"), "tags": {
            "reef-operator-fleet": fleet, "reef-operator-region": region, "reef-operator-reef": reef,
        } })
    };
    let groups = [
        group("trial", "test-azure-1", "test-azure-1"),
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
    assert_eq!(left.records, ["/trial/test-azure-1/test-azure-1"]);
    assert_eq!(
        Left::of(&groups, &records, "trial", "test-azure-2").groups,
        ["/trial/test-azure-2/test-azure-2"]
    );
    assert!(Left::of(&groups, &records, "", PREFIX).is_empty());
}
