//! What the server needs of a database: tables of JSON documents, and changes that happen together.

use std::{collections::BTreeMap, time::Duration};

use futures::future::BoxFuture;
use serde_json::Value;

/// A table. Each has a key `Id` and a document `Body`, much as Octopus Server's own tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    /// The releases that made or upgraded the schema; the newest is the schema's version.
    SchemaVersions,
    /// Settings that people make, and the server's own.
    Settings,
    /// Users, with the hashes of their API keys.
    Users,
    /// Nodes as people want them: task cap, drain.
    Nodes,
    /// Nodes as they are: release, process, last seen. Apart from [`Table::Nodes`], so that a node that
    /// says it is alive never undoes what somebody asked of it.
    NodesSeen,
    /// Tasks.
    Tasks,
    /// Which node took a task; the key makes sure that only one does.
    TaskClaims,
    /// Projects.
    Projects,
}

impl Table {
    /// All tables.
    pub(super) const ALL: [Self; 8] = [
        Self::SchemaVersions,
        Self::Settings,
        Self::Users,
        Self::Nodes,
        Self::NodesSeen,
        Self::Tasks,
        Self::TaskClaims,
        Self::Projects,
    ];

    /// Name in the database.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SchemaVersions => "SchemaVersions",
            Self::Settings => "Configuration",
            Self::Users => "Users",
            Self::Nodes => "OctopusServerNode",
            Self::NodesSeen => "OctopusServerNodeSeen",
            Self::Tasks => "ServerTask",
            Self::TaskClaims => "ServerTaskClaim",
            Self::Projects => "Project",
        }
    }
}

/// A change.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Makes a table; a conflict if it exists.
    Create(Table),
    /// Adds a document; a conflict if there is one with this id.
    Insert(Table, String, Value),
    /// Puts a document in the place of the one with this id, if any.
    Put(Table, String, Value),
    /// Removes a document.
    Delete(Table, String),
    /// Takes time while the transaction is open.
    Wait(Duration),
}

/// Why the database did not do it. The texts hold no tokens and no documents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StoreError {
    /// It cannot be reached now.
    #[error("the database cannot be reached: {0}")]
    Away(String),
    /// Somebody else was first.
    #[error("the document or table exists already")]
    Conflict,
    /// It refuses.
    #[error("the database refuses: {0}")]
    Refused(String),
}

/// Documents by id.
pub(super) type Rows = BTreeMap<String, Value>;

/// The answer of a store, later.
pub(super) type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// A database.
pub(super) trait Store: Send + Sync {
    /// Whether a table exists.
    fn has(&self, table: Table) -> Answer<'_, bool>;

    /// All documents of a table.
    fn read(&self, table: Table) -> Answer<'_, Rows>;

    /// Makes all changes in one transaction, or none.
    fn write(&self, changes: Vec<Change>) -> Answer<'_, ()>;
}
