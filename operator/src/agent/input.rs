//! What the agent is told to do. The operator writes it into a Secret, because it may hold a key.

use serde::{Deserialize, Serialize};

/// A step with all that it needs.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq)]
#[serde(tag = "step", rename_all = "camelCase")]
pub enum Input {
    /// Give an identity access to a database.
    Access(Access),
    /// Make the settings of the cloud in a server.
    Configure(Configure),
    /// Have a node of a server take no more tasks, or take them again.
    Drain(Drain),
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Access(_) => "Access",
            Self::Configure(_) => "Configure",
            Self::Drain(_) => "Drain",
        })
    }
}

/// Access of an identity to a database.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Access {
    /// Host name of the Azure SQL server.
    pub server: String,
    /// Name of the database.
    pub database: String,
    /// Name of the user in it.
    pub user: String,
    /// Client id of the identity, a UUID.
    pub client_id: String,
    /// Entra tenant of the agent's own identity.
    pub tenant: String,
    /// Where tokens for the database come from; Azure's public cloud if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<Cloud>,
}

/// What the agent has to know of one of Azure's clouds.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cloud {
    /// URL of Entra.
    pub authority: String,
    /// For whom the tokens are that Azure SQL takes.
    pub sql_audience: String,
}

/// Settings of a server.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Configure {
    /// Where the server is reached on the reef.
    pub url: String,
    /// Key of the REST API.
    pub api_key: String,
    /// Release that has to run there.
    pub version: String,
    /// Address under which customers know it.
    pub server_uri: String,
    /// Tasks at once on each node.
    pub task_cap: u8,
}

/// Whether a node takes tasks.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Drain {
    /// Where the server is reached on the reef.
    pub url: String,
    /// Key of the REST API.
    pub api_key: String,
    /// Name of the node.
    pub node: String,
    /// UID of the node's pod for which it was asked.
    pub pod: String,
    /// Whether it is to take no more tasks.
    pub drained: bool,
}
