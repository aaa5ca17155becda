//! The first thing a server does: it opens its database, and makes or upgrades what is in it.

use std::{io, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    nodes::Seen,
    polling,
    resources::{LICENSE, license},
    server::{CORRUPTED, corrupt, guid, hash, node_id},
    settings::Settings,
    store::{Change, Rows, Store, StoreError, Table},
    tasks,
    version::Version,
};
use crate::pki::Identity;

/// How long a database that cannot be reached is tried.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the start is tried again when another node did the same at the same time.
const ATTEMPTS: usize = 5;

/// Id of the installation's document.
const INSTALLATION: &str = "installation";

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// The environment is not as it should be.
    #[error("{0}")]
    Setting(String),
    /// A mount is missing or cannot be written.
    #[error("{0}")]
    Folder(String),
    /// A later release has been here.
    #[error(
        "Octopus Server {own} was stopped to protect its data: the database was upgraded by {schema}, and a \
         schema cannot be taken back. Run {schema} or later, or restore a backup from before that upgrade"
    )]
    Newer {
        /// The release of the schema.
        schema: Version,
        /// This release.
        own: Version,
    },
    /// An existing database needs its key.
    #[error("the database has data: MASTER_KEY must be the key that it was made with, and is not set")]
    MasterKeyMissing,
    /// The key is another's.
    #[error("MASTER_KEY is not the key that this database was made with")]
    MasterKeyWrong,
    /// The database does not do it.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A port or a certificate.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// An opened database.
pub(super) struct Opened {
    /// Id of the installation.
    pub(super) installation: String,
    /// What the polling port shows.
    pub(super) certificate: Identity,
    /// Id of this process.
    pub(super) run: String,
    /// When it was opened.
    pub(super) at: Timestamp,
    /// Whether the node is drained: that outlives a restart.
    pub(super) draining: bool,
    /// The node's task cap.
    pub(super) cap: u32,
}

/// Opens the database as the settings say.
pub(super) async fn open(
    store: &dyn Store,
    settings: &Settings,
    now: Timestamp,
) -> Result<Opened, StartError> {
    let exists = reach(store).await?;
    let key = match (&settings.master_key, exists) {
        (Some(key), _) => key.clone(),
        (None, true) => return Err(StartError::MasterKeyMissing),
        (None, false) => {
            tracing::warn!("MASTER_KEY is not set: a new one is made, and nobody knows it");
            guid()?.into_bytes()
        }
    };
    if !exists {
        match create(store, settings, &key, now).await {
            Err(StartError::Store(StoreError::Conflict)) => tracing::info!("Another node makes the schema"),
            result => result?,
        }
    }
    let mut attempt = 0;
    let (installation, certificate) = loop {
        attempt += 1;
        match upgrade(store, settings, &key, now).await {
            Err(StartError::Store(StoreError::Conflict)) if attempt < ATTEMPTS => {}
            result => break result?,
        }
    };
    let run = guid()?;
    let node = register(store, settings, &installation, (&run, now)).await?;
    Ok(Opened {
        certificate,
        run,
        at: now,
        draining: node["IsInMaintenanceMode"] == true,
        cap: node["MaxConcurrentTasks"].as_u64().and_then(|c| c.try_into().ok()).unwrap_or(settings.task_cap),
        installation,
    })
}

/// Whether there is a schema; waits a while for a database that cannot be reached.
async fn reach(store: &dyn Store) -> Result<bool, StoreError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match store.has(Table::SchemaVersions).await {
            Err(StoreError::Away(why)) if Instant::now() < until => {
                tracing::warn!("The database cannot be reached: {why}");
                sleep(Duration::from_millis(500)).await;
            }
            result => return result,
        }
    }
}

async fn create(
    store: &dyn Store,
    settings: &Settings,
    key: &[u8],
    now: Timestamp,
) -> Result<(), StartError> {
    let installation = guid()?;
    let certificate = polling::certificate()?;
    let config = |id: &str, body: Value| Change::Insert(Table::Settings, id.to_owned(), body);
    let mut changes: Vec<_> = Table::ALL.map(Change::Create).into();
    changes.push(applied(settings.version, None, &settings.node, now));
    changes.push(config(INSTALLATION, json!({ "Id": installation, "Made": now })));
    changes.push(config("masterkey", json!({ "Hash": hash(&installation, key) })));
    changes.push(config("certificate", json!({ "Certificate": certificate.cert, "Key": certificate.key })));
    changes.push(config(LICENSE.id, license("Community")));
    store.write(changes).await?;
    tracing::info!("The schema of {} was made", settings.version);
    Ok(())
}

fn applied(version: Version, from: Option<Version>, node: &str, now: Timestamp) -> Change {
    let from = from.map(|v| v.to_string());
    Change::Insert(
        Table::SchemaVersions,
        version.to_string(),
        json!({ "From": from, "Node": node, "Applied": now }),
    )
}

/// The release that last upgraded the schema.
pub(super) fn schema(versions: &Rows) -> Option<Version> {
    versions.keys().filter_map(|v| v.parse().ok()).max()
}

/// Checks what exists and brings it to this release; the installation's id and its certificate.
async fn upgrade(
    store: &dyn Store,
    settings: &Settings,
    key: &[u8],
    now: Timestamp,
) -> Result<(String, Identity), StartError> {
    let broken = || StoreError::Refused("the schema lacks documents of the installation".to_owned());
    let (own, versions) = (settings.version, store.read(Table::SchemaVersions).await?);
    let schema = schema(&versions).ok_or_else(broken)?;
    if schema > own {
        return Err(StartError::Newer { schema, own });
    }
    let config = store.read(Table::Settings).await?;
    let text = |id: &str, member: &str| {
        config.get(id).and_then(|d| d[member].as_str()).map(str::to_owned).ok_or_else(broken)
    };
    let installation = text(INSTALLATION, "Id")?;
    if text("masterkey", "Hash")? != hash(&installation, key) {
        return Err(StartError::MasterKeyWrong);
    }
    if let Some(mark) = config.get(CORRUPTED) {
        tracing::error!("THE DATABASE IS CORRUPTED: {}", mark["Why"].as_str().unwrap_or_default());
    }
    if schema < own {
        let others = Seen::all(&store.read(Table::NodesSeen).await?);
        if let Some(other) = others.iter().find(|o| o.alive(now) && o.version != own.to_string()) {
            // Before the upgrade and apart from it: what is rolled back has been tried all the same.
            let why = format!(
                "node {} upgrades the schema from {schema} to {own} while node {} runs {}",
                settings.node, other.name, other.version
            );
            corrupt(store, &why, now).await?;
        }
        tracing::info!("Upgrading the schema from {schema} to {own}");
        let change = applied(own, Some(schema), &settings.node, now);
        store.write(vec![change, Change::Wait(settings.upgrade)]).await?;
        tracing::info!("The schema was upgraded to {own}");
    }
    let certificate =
        Identity { cert: text("certificate", "Certificate")?, key: text("certificate", "Key")? };
    Ok((installation, certificate))
}

/// Enters this node, the administrator and the license, and ends what a run before this one left.
async fn register(
    store: &dyn Store,
    settings: &Settings,
    installation: &str,
    (run, now): (&str, Timestamp),
) -> Result<Value, StoreError> {
    let id = node_id(&settings.node);
    let nodes = store.read(Table::Nodes).await?;
    let new = json!({
        "Id": id, "Name": settings.node, "MaxConcurrentTasks": settings.task_cap, "IsInMaintenanceMode": false,
    });
    let seen = Seen {
        name: settings.node.clone(),
        version: settings.version.to_string(),
        run: run.to_owned(),
        last_seen: now,
        is_offline: false,
    };
    let mut changes = vec![seen.put()];
    let node = nodes.get(&id).cloned();
    if node.is_none() {
        changes.push(Change::Insert(Table::Nodes, id, new.clone()));
    }
    if let Some(admin) = &settings.admin {
        let id = format!("Users-{}", admin.username);
        let hash = admin.key.as_ref().map(|key| hash(installation, key.as_bytes()));
        let user = json!({
            "Id": id, "Username": admin.username, "EmailAddress": admin.email, "ApiKeyHash": hash,
        });
        changes.push(Change::Put(Table::Users, id, user));
    }
    if let Some(text) = &settings.license {
        changes.push(Change::Put(Table::Settings, LICENSE.id.to_owned(), license(text)));
    }
    changes.extend(tasks::abandoned(&store.read(Table::Tasks).await?, &settings.node, now));
    store.write(changes).await?;
    Ok(node.unwrap_or(new))
}
