//! What Azure keeps of deleted things: databases that can be restored, shares that can be undeleted.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    Request,
    id::{Target, key, parent_key},
    put::started,
};

/// A dropped database is listed only after a while, seconds.
const LISTED_AFTER: u64 = 285;

/// Days for which a dropped database can be restored without a policy of its own.
const RETENTION_DAYS: u64 = 7;

const DAY: u64 = 86_400_000;

/// What is kept.
#[derive(Default)]
pub struct Deleted {
    databases: Vec<Kept>,
    shares: Vec<Kept>,
}

struct Kept {
    /// Key of what it lay in.
    parent: String,
    /// When it is listed, and when it is gone, milliseconds.
    listed_at: u64,
    gone_at: u64,
    shown: Value,
}

impl Deleted {
    /// Keeps what Azure keeps of a resource that goes.
    pub fn keep(&mut self, at: &str, resource: &Value, all: &BTreeMap<String, Value>, now: u64) {
        let kind = resource["type"].as_str().unwrap_or_default();
        let name = resource["name"].as_str().unwrap_or_default();
        let parent = parent_key(at);
        if kind == "Microsoft.Sql/servers/databases" {
            let id = resource["id"]
                .as_str()
                .unwrap_or_default()
                .replace("/databases/", "/restorableDroppedDatabases/");
            let shown = json!({
                "id": format!("{id},{now}"), "name": format!("{name},{now}"),
                "type": "Microsoft.Sql/servers/restorableDroppedDatabases",
                "location": resource["location"],
                "properties": {
                    "databaseName": name, "maxSizeBytes": resource["properties"]["maxSizeBytes"],
                    "creationDate": resource["properties"]["creationDate"], "deletionDate": started(now),
                    "earliestRestoreDate": resource["properties"]["creationDate"],
                    "backupStorageRedundancy": resource["properties"]["currentBackupStorageRedundancy"],
                },
                "sku": { "name": resource["sku"]["name"], "tier": resource["sku"]["tier"] },
            });
            let (listed_at, gone_at) = (now + LISTED_AFTER * 1000, now + RETENTION_DAYS * DAY);
            self.databases.push(Kept { parent, listed_at, gone_at, shown });
        } else if kind == "Microsoft.Storage/storageAccounts/fileServices/shares" {
            let service = all.get(&parent).map(|s| s["properties"]["shareDeleteRetentionPolicy"].clone());
            let policy = service.unwrap_or_else(|| json!({ "enabled": true, "days": 7 }));
            if policy["enabled"] == json!(false) {
                return;
            }
            let days = policy["days"].as_u64().unwrap_or(7);
            let mut shown = resource.clone();
            shown["properties"]["deleted"] = json!(true);
            shown["properties"]["deletedTime"] = json!(started(now));
            shown["properties"]["remainingRetentionDays"] = json!(days);
            shown["properties"]["version"] = json!(format!("{now:016X}"));
            shown["name"] = json!(format!("{name}_{now:016X}"));
            self.shares.push(Kept { parent, listed_at: now, gone_at: now + days * DAY, shown });
        }
    }

    /// Forgets what lay in something that is gone itself.
    pub fn forget(&mut self, gone: &impl Fn(&str) -> bool) {
        self.databases.retain(|kept| !gone(&kept.parent));
        self.shares.retain(|kept| !gone(&kept.parent));
    }

    /// What a list shows beside what exists.
    pub fn listed(&self, target: &Target, request: &Request, now: u64) -> Vec<Value> {
        let parent = parent_key(&format!("{}/x", key(&request.path)));
        let expand = request.query.get("$expand").map_or("", String::as_str);
        let kept = match target.kind().as_str() {
            "microsoft.sql/servers/restorabledroppeddatabases" => &self.databases,
            "microsoft.storage/storageaccounts/fileservices/shares" if expand.contains("deleted") => {
                &self.shares
            }
            _ => return Vec::new(),
        };
        let listed = |k: &&Kept| k.parent == parent && k.listed_at <= now && now < k.gone_at;
        kept.iter().filter(listed).map(|k| k.shown.clone()).collect()
    }
}
