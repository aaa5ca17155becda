//! Backups that are copied to the paired region: what databases are made of again when their own region is lost.

use serde_json::{Value, json};

use super::{
    Cloud, Request, Response,
    id::{Target, key, parent_key},
    put::started,
};

const KIND: &str = "microsoft.sql/servers/recoverabledatabases";
const DATABASES: &str = "/databases/";
const RECOVERABLE: &str = "/recoverabledatabases/";

/// Between two copies, milliseconds: the service promises that at most an hour is lost.
const COPIED_EVERY: u64 = 3_600_000;

impl Cloud {
    /// When the newest backup in the paired region is from, milliseconds; none before the first one, where backups
    /// do not leave their region, and for what the server itself keeps.
    fn last_copied(&self, database: &Value) -> Option<u64> {
        let redundancy = database["properties"]["currentBackupStorageRedundancy"].as_str();
        let leaves = matches!(redundancy, Some("Geo" | "GeoZone")) && database["name"] != "master";
        if !leaves {
            return None;
        }
        let first = self.first_backup(database)?;
        let since = self.now.checked_sub(first)?;
        Some(first + since / COPIED_EVERY * COPIED_EVERY)
    }

    /// What an id of a recoverable database stands for, and when its newest backup is from.
    pub(super) fn recoverable(&self, id: &str) -> Option<(&Value, u64)> {
        let id = key(id);
        let database = self.resources.get(&id.replace(RECOVERABLE, DATABASES))?;
        let copied = self.last_copied(database).filter(|_| id.contains(RECOVERABLE))?;
        Some((database, copied))
    }

    /// Databases of a server that can be recovered.
    pub(super) fn listed_recoverable(&self, target: &Target, request: &Request) -> Vec<Value> {
        if target.kind() != KIND {
            return Vec::new();
        }
        let server = parent_key(&format!("{}/x", key(&request.path)));
        let below = format!("{server}{DATABASES}");
        let inside = self.resources.iter().filter(|(at, found)| {
            at.starts_with(&below) && found["type"] == "Microsoft.Sql/servers/databases"
        });
        inside
            .filter_map(|(at, found)| {
                let (_, copied) = self.recoverable(&at.replace(DATABASES, RECOVERABLE))?;
                Some(self.shown_recoverable(found, copied))
            })
            .collect()
    }

    /// What a server lists without its being a resource, by its id: a database that can be recovered or restored.
    pub(super) fn backup(&self, target: &Target, request: &Request, now: u64) -> Option<Response> {
        let kinds = [KIND, "microsoft.sql/servers/restorabledroppeddatabases"];
        let (list, _) = request.path.rsplit_once('/').filter(|_| kinds.contains(&target.kind().as_str()))?;
        let of_list = Request { path: list.to_owned(), ..request.clone() };
        let wanted = key(&request.path);
        let all = self.deleted.listed(target, &of_list, now).into_iter();
        let mut all = all.chain(self.listed_recoverable(target, &of_list));
        let found = all.find(|found| super::defaults::same(&found["id"], &wanted));
        found.map(|found| Response::json(200, found))
    }

    fn shown_recoverable(&self, database: &Value, copied: u64) -> Value {
        let shown = self.shown_database(database);
        let id = shown["id"].as_str().unwrap_or_default().replace(DATABASES, RECOVERABLE);
        let pool = shown["properties"]["elasticPoolId"].as_str().and_then(|id| id.rsplit('/').next());
        json!({
            "id": id, "name": shown["name"], "type": "Microsoft.Sql/servers/recoverableDatabases",
            "properties": {
                "edition": shown["sku"]["tier"], "elasticPoolName": pool, "lastAvailableBackupDate": started(copied),
                "serviceLevelObjective": shown["properties"]["currentServiceObjectiveName"],
            },
        })
    }
}
