//! What Azure keeps of deleted things: databases that can be restored, shares that can be undeleted.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    Cloud, Request, Response,
    files::{Moved, version},
    id::{Target, key, parent_key},
    put::{file_time, started},
    snapshots::Snapshot,
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
    /// As it was.
    body: Value,
    /// When it went.
    at: u64,
    /// Of a share.
    snapshots: Vec<Snapshot>,
}

impl Deleted {
    /// Keeps what Azure keeps of a resource that goes.
    pub fn keep(
        &mut self,
        (at, resource): (&str, &Value),
        all: &BTreeMap<String, Value>,
        (earliest, snapshots): (Option<String>, Vec<Snapshot>),
        now: u64,
    ) {
        let body = resource.clone();
        let kind = resource["type"].as_str().unwrap_or_default();
        let name = resource["name"].as_str().unwrap_or_default();
        let parent = parent_key(at);
        if kind == "Microsoft.Sql/servers/databases" {
            let id = resource["id"]
                .as_str()
                .unwrap_or_default()
                .replace("/databases/", "/restorableDroppedDatabases/");
            let shown = json!({
                "id": format!("{id},{}", file_time(now)), "name": format!("{name},{}", file_time(now)),
                "type": "Microsoft.Sql/servers/restorableDroppedDatabases",
                "location": resource["location"],
                "properties": {
                    "databaseName": name, "maxSizeBytes": resource["properties"]["maxSizeBytes"],
                    "creationDate": resource["properties"]["creationDate"], "deletionDate": started(now),
                    // The last backup is taken when it goes.
                    "earliestRestoreDate": earliest.unwrap_or_else(|| started(now)),
                    "backupStorageRedundancy": resource["properties"]["currentBackupStorageRedundancy"],
                },
                "sku": { "name": resource["sku"]["name"], "tier": resource["sku"]["tier"] },
            });
            let days = retention_days(all, at);
            let (listed_at, gone_at) = (now + LISTED_AFTER * 1000, now + days * DAY);
            self.databases.push(Kept { parent, listed_at, gone_at, shown, body, at: now, snapshots });
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
            shown["properties"]["version"] = json!(version(now));
            shown["properties"]["leaseState"] = json!("broken");
            // The id tells it from the others of its name.
            shown["id"] = json!(format!("{}_{}", shown["id"].as_str().unwrap_or_default(), version(now)));
            let gone_at = now + days * DAY;
            self.shares.push(Kept { parent, listed_at: now, gone_at, shown, body, at: now, snapshots });
        }
    }

    /// The dropped database that an id names (one of the list, or the database's own with the moment of its deletion), when it
    /// went, and the date since when it can be restored.
    pub fn database(&self, id: &str, deleted: Option<&str>, now: u64) -> Option<(&Value, u64, &Value)> {
        let names = |kept: &&Kept| match deleted {
            None => super::defaults::same(&kept.shown["id"], &key(id)),
            Some(deleted) => {
                let parsed = |text: &str| text.parse::<jiff::Timestamp>().ok();
                super::defaults::same(&kept.body["id"], &key(id))
                    && parsed(deleted).is_some()
                    && parsed(deleted) == kept.shown["properties"]["deletionDate"].as_str().and_then(parsed)
            }
        };
        let found =
            self.databases.iter().find(names).filter(|kept| kept.listed_at <= now && now < kept.gone_at);
        found.map(|kept| (&kept.body, kept.at, &kept.shown["properties"]["earliestRestoreDate"]))
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

/// How many days back a database can be restored.
pub(super) fn retention_days(all: &BTreeMap<String, Value>, database: &str) -> u64 {
    let policy = all.get(&format!("{database}/backupshorttermretentionpolicies/default"));
    policy.and_then(|policy| policy["properties"]["retentionDays"].as_u64()).unwrap_or(RETENTION_DAYS)
}

impl Cloud {
    /// Brings a deleted share back, under its name or another. `service` is the key of the file service.
    pub(super) fn undelete(&mut self, target: &Target, request: &Request, now: u64) -> Response {
        let body = request.body.clone().unwrap_or_default();
        let at = parent_key(&format!("{}/x", key(&request.path)));
        let name = target.names.last().cloned().unwrap_or_default();
        let [Some(share), Some(version)] =
            ["deletedShareName", "deletedShareVersion"].map(|member| body[member].as_str())
        else {
            let message = "deletedShareName and deletedShareVersion are required.";
            return Response::error(400, "InvalidRequestContent", message);
        };
        if self.resources.contains_key(&at) {
            let message = format!("There is a share '{name}' already.");
            return Response::error(409, "ShareAlreadyExists", message);
        }
        let parent = parent_key(&at);
        let is_it = |kept: &Kept| {
            kept.parent == parent
                && kept.gone_at > now
                && super::defaults::same(&kept.body["name"], &share.to_lowercase())
                && kept.shown["properties"]["version"] == version
        };
        let Some(found) = self.deleted.shares.iter().position(is_it) else {
            return Response::error(404, "ShareNotFound", "The specified deleted share does not exist.");
        };
        let kept = self.deleted.shares.remove(found);
        self.moved_shares.extend(Moved::of(&kept.body, version.to_owned(), Some(name.clone())));
        let mut resource = kept.body;
        resource["id"] = json!(request.path.rsplit_once('/').map_or("", |(share, _)| share));
        resource["name"] = json!(name);
        self.resources.insert(at.clone(), resource);
        self.snapshots
            .extend(kept.snapshots.into_iter().map(|(_, moment, share)| (at.clone(), moment, share)));
        Response::empty(200)
    }
}
