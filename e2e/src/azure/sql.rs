//! What the emulator knows of logins at Azure SQL servers.

use serde_json::Value;

use super::{
    cloud::Cloud,
    entra::Entra,
    id::key,
    lineage::retention,
    put::{moment, started},
    server::{Azure, lock},
};
use crate::sql::{DOMAIN, Entry, Refused, Who};

impl Azure {
    /// Whether there is an Azure SQL server with this host name.
    pub fn has_sql_server(&self, host: &str) -> bool {
        server(&lock(self.cloud()), host).is_some()
    }

    /// Lets whoever has this token into a database, from the cluster with this name, or says why not.
    pub fn sql_login(&self, from: &str, host: &str, database: &str, token: &str) -> Result<Entry, Refused> {
        let now = self.now();
        // In the order in which tokens are given: the other way round the two could wait for each other for ever.
        let entra = lock(self.entra());
        let mut cloud = lock(self.cloud());
        cloud.settle(now);
        login(&cloud, &entra, from, (host, database), token)
    }

    /// Whether a database is still what a connection was let into: a failover ends connections.
    pub fn sql_is_same(&self, host: &str, entry: &Entry) -> bool {
        let now = self.now();
        let mut cloud = lock(self.cloud());
        cloud.settle(now);
        let Some(server) = server(&cloud, host) else { return false };
        let id = format!("{}/databases/{}", server["id"].as_str().unwrap_or_default(), entry.database);
        // The master has no content of its own here.
        let found = cloud.resources.get(&key(&id));
        let is_same = |found| cloud.content(found) == (entry.key.clone(), entry.is_replica);
        entry.database == "master" || found.is_some_and(is_same)
    }
}

/// A new database has its first backup only after a while, seconds (recorded: 146 and 178).
const FIRST_BACKUP: u64 = 146;

impl Cloud {
    /// The moment since which a database can be restored; none before its first backup.
    pub(super) fn earliest_restore(&self, database: &Value) -> Option<String> {
        let first = self.first_backup(database)?;
        let at = database["id"].as_str().map(key).unwrap_or_default();
        let kept = self.now.saturating_sub(retention(&self.resources, &at));
        Some(started(first.max(kept)))
    }

    /// When a database had its first backup, milliseconds; none as long as it has none.
    pub(super) fn first_backup(&self, database: &Value) -> Option<u64> {
        let made: jiff::Timestamp = database["properties"]["creationDate"].as_str()?.parse().ok()?;
        let first = moment(&(made + std::time::Duration::from_secs(FIRST_BACKUP)).to_string())?;
        (first <= self.now).then_some(first)
    }

    /// A database as it is shown.
    pub(super) fn shown_database(&self, database: &Value) -> Value {
        let mut shown = database.clone();
        match self.earliest_restore(database) {
            Some(earliest) => shown["properties"]["earliestRestoreDate"] = serde_json::json!(earliest),
            None => drop(shown["properties"].as_object_mut().and_then(|p| p.remove("earliestRestoreDate"))),
        }
        let pool =
            database["properties"]["elasticPoolId"].as_str().and_then(|id| self.resources.get(&key(id)));
        if let Some(sku) = pool.map(|pool| &pool["sku"]) {
            shown["sku"]["tier"] = sku["tier"].clone();
            shown["properties"]["currentSku"]["tier"] = sku["tier"].clone();
            if sku["family"].is_string() {
                shown["kind"] = serde_json::json!("v12.0,user,vcore,pool");
                shown["properties"]["maxLogSizeBytes"] = serde_json::json!(68_719_476_736_u64);
            }
        }
        shown
    }
}

fn server(cloud: &Cloud, host: &str) -> Option<Value> {
    let name = host.strip_suffix(DOMAIN)?.strip_suffix('.')?;
    let servers = cloud.resources("Microsoft.Sql/servers");
    servers.into_iter().find(|s| s["name"].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name)))
}

fn login(
    cloud: &Cloud,
    entra: &Entra,
    from: &str,
    (host, database): (&str, &str),
    token: &str,
) -> Result<Entry, Refused> {
    let failed = || (18456, "Login failed for user '<token-identified principal>'.".to_owned());
    let cannot_open = |number: i32, why: &str| (number, format!("Cannot open {why}"));
    let server = server(cloud, host).ok_or_else(|| {
        cannot_open(40532, &format!("server \"{host}\" requested by the login. The login failed."))
    })?;
    let id = key(server["id"].as_str().unwrap_or_default());
    if !is_let_in(cloud, &id, from) {
        let name = server["name"].as_str().unwrap_or_default();
        return Err(cannot_open(
            40914,
            &format!("server '{name}' requested by the login. Client is not allowed to access the server."),
        ));
    }
    let (object, client) = entra.sql_principal(token).ok_or_else(failed)?;
    let administrator = server["properties"]["administrators"]["sid"].as_str().unwrap_or_default();
    let who = if [&object, &client].into_iter().any(|id| id.eq_ignore_ascii_case(administrator)) {
        Who::Administrator
    } else {
        Who::Identity(sid(&client).ok_or_else(failed)?)
    };
    let found = cloud.resources.get(&format!("{id}/databases/{}", database.to_lowercase()));
    let online = found.filter(|d| d["properties"]["status"] == "Online");
    match (online, database.eq_ignore_ascii_case("master")) {
        (Some(found), _) => {
            let (key, is_replica) = cloud.content(found);
            let database = found["name"].as_str().unwrap_or(database).to_owned();
            Ok(Entry { origins: cloud.origins(&key), key, is_replica, database, who })
        }
        (None, true) => Ok(Entry {
            key: format!("master-{}", server["name"]).replace('"', ""),
            origins: Vec::new(),
            is_replica: false,
            database: "master".to_owned(),
            who,
        }),
        (None, false) => Err(cannot_open(
            4060,
            &format!("database \"{database}\" requested by the login. The login failed."),
        )),
    }
}

/// Whether the server has a network rule for the subnet of the cluster from which the call comes.
fn is_let_in(cloud: &Cloud, server: &str, from: &str) -> bool {
    let subnets = cloud.subnets_of(from);
    let rules = cloud.resources("Microsoft.Sql/servers/virtualNetworkRules");
    rules.iter().any(|rule| {
        let of_server = rule["id"].as_str().is_some_and(|id| key(id).starts_with(&format!("{server}/")));
        let subnet = rule["properties"]["virtualNetworkSubnetId"].as_str().map(key);
        of_server && subnet.is_some_and(|subnet| subnets.contains(&subnet))
    })
}

/// The SID of an identity's user: its client id in the byte order of SQL Server.
pub fn sid(client_id: &str) -> Option<[u8; 16]> {
    let hex: String = client_id.chars().filter(|c| *c != '-').collect();
    let number = u128::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == 32)?;
    let mut bytes = number.to_be_bytes();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Some(bytes)
}

/// A small world without ARM in between.
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a step that fails is to fail its test")]
impl Azure {
    /// Puts a resource there.
    pub fn seed(&self, id: &str, body: &Value) {
        lock(self.cloud()).seed_resource(id, body);
    }

    /// Gives the AKS cluster with this id a free slot.
    pub fn occupy(&self, id: &str, name: &str) {
        let kind = super::kinds::find("Microsoft.ContainerService/managedClusters").unwrap();
        let mut cloud = lock(self.cloud());
        cloud.slots.wanted(kind, &key(id), name);
        cloud.slots.created(&key(id), &mut serde_json::json!({ "properties": {} }));
    }

    /// Answers a request to ARM of somebody who may do anything.
    pub fn ask(&self, method: &str, path: &str, body: Option<Value>) -> super::Response {
        let (now, mut cloud) = (self.now(), lock(self.cloud()));
        let request = super::tests::World::request(method, path, body);
        let scope = format!("/subscriptions/{}", super::SUBSCRIPTION);
        cloud.grant((&request.principal, super::roles::OWNER, &scope));
        cloud.handle(&request, now)
    }

    /// A token for the identity with this client id, whose object id is another.
    pub fn token(&self, client: &str, scope: &str) -> String {
        let now = jiff::Timestamp::now().as_second().unsigned_abs();
        lock(self.entra()).issue(client, &client.replace('-', ""), scope, now).unwrap()
    }
}
