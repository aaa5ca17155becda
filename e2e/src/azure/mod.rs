//! Azure, as far as the operator sees it: Resource Manager (ARM) and the Entra token issuer.
//!
//! [`cloud`] is the state and its rules, with the time as a parameter; [`server`] puts it behind HTTPS.
//! Status codes, headers, bodies and the styles of long-running operations follow recorded traffic.

mod abort;
mod actions;
mod children;
pub mod cloud;
mod control;
mod defaults;
mod delete;
mod deleted;
pub mod entra;
pub mod faults;
pub mod files;
mod flip;
mod id;
mod kinds;
mod lineage;
mod lists;
mod operations;
mod put;
mod records;
mod recoverable;
mod refuse;
mod rename;
pub mod roles;
mod secrets;
pub mod server;
pub mod slots;
mod snapshots;
pub mod sql;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_files;
#[cfg(test)]
mod tests_lineage;
#[cfg(test)]
mod tests_reef;
mod throttle;

pub use cloud::Cloud;
pub use put::started;

/// What is listed in a resource, or asked of it, without being a type of its own.
const OF_PARENTS: [&str; 16] = [
    "microsoft.containerservice/managedclusters/abort",
    "microsoft.containerservice/managedclusters/agentpools/abort",
    "microsoft.containerservice/managedclusters/listclusteradmincredential",
    "microsoft.containerservice/managedclusters/listclusterusercredential",
    "microsoft.network/dnszones/all",
    "microsoft.network/dnszones/recordsets",
    "microsoft.sql/servers/databases/move",
    "microsoft.sql/servers/databases/replicationlinks/failover",
    "microsoft.sql/servers/databases/replicationlinks/forcefailoverallowdataloss",
    "microsoft.sql/servers/elasticpools/databases",
    "microsoft.sql/servers/recoverabledatabases",
    "microsoft.sql/servers/restorabledroppeddatabases",
    "microsoft.storage/storageaccounts/fileservices/shares/restore",
    "microsoft.storage/storageaccounts/listkeys",
    "microsoft.resources/resourcegroups/providers",
    "microsoft.resources/resourcegroups/resources",
];

/// The type of the resource that a path names, in lower case; empty where it names an operation, or a subscription.
pub fn kind_of(path: &str) -> String {
    let lower = path.to_lowercase();
    let parts: Vec<&str> = lower.split('/').filter(|part| !part.is_empty()).collect();
    let Some(target) = id::Target::parse(&lower) else {
        // Above subscriptions: of a provider, if of anything.
        let after = parts.iter().rposition(|part| *part == "providers").map(|at| &parts[at + 1..]);
        let [provider, types @ ..] = after.unwrap_or_default() else { return String::new() };
        return types.iter().step_by(2).fold((*provider).to_owned(), |kind, part| format!("{kind}/{part}"));
    };
    let is_operation = |part: &str| {
        let ends = [
            "azureasyncoperation",
            "operationresults",
            "asyncoperations",
            "operationstatuses",
            "operationsstatus",
        ];
        ends.iter().any(|end| part.ends_with(end))
    };
    let of_location = target.types.first().is_some_and(|first| first == "locations");
    let is_operation =
        target.types.iter().any(|part| is_operation(part) || (of_location && part == "operations"))
            || (target.provider.is_none() && parts.get(2).is_some_and(|part| is_operation(part)));
    if is_operation || (target.provider.is_none() && target.group.is_none()) {
        return String::new();
    }
    let mut kind = target.kind();
    if let (None, [_, _, _, _, action]) = (&target.provider, &parts[..]) {
        // Of a group.
        kind = format!("{kind}/{action}");
    }
    match kind.rsplit_once('/') {
        Some((parent, _)) if OF_PARENTS.contains(&kind.as_str()) => parent.to_owned(),
        _ => kind,
    }
}

/// Whether the emulator has this type; in any case.
pub fn is_known(kind: &str) -> bool {
    kinds::find(kind).is_some()
}

/// The resource providers whose types it has.
pub fn providers() -> std::collections::BTreeSet<&'static str> {
    kinds::KINDS.iter().filter_map(|kind| kind.name.split('/').next()).collect()
}

/// Locations of the public cloud.
pub const LOCATIONS: [&str; 48] = [
    "australiacentral",
    "australiaeast",
    "australiasoutheast",
    "austriaeast",
    "belgiumcentral",
    "brazilsouth",
    "canadacentral",
    "canadaeast",
    "centralindia",
    "centralus",
    "centraluseuap",
    "chilecentral",
    "eastasia",
    "eastus",
    "eastus2",
    "eastus2euap",
    "francecentral",
    "germanywestcentral",
    "indonesiacentral",
    "israelcentral",
    "italynorth",
    "japaneast",
    "japanwest",
    "koreacentral",
    "koreasouth",
    "malaysiawest",
    "mexicocentral",
    "newzealandnorth",
    "northcentralus",
    "northeurope",
    "norwayeast",
    "polandcentral",
    "qatarcentral",
    "southafricanorth",
    "southcentralus",
    "southeastasia",
    "southindia",
    "spaincentral",
    "swedencentral",
    "switzerlandnorth",
    "uaenorth",
    "uksouth",
    "ukwest",
    "westcentralus",
    "westeurope",
    "westus",
    "westus2",
    "westus3",
];

/// The subscription of the sandbox.
pub const SUBSCRIPTION: &str = "00000000-0000-4000-8000-000000000001";

/// The Entra tenant of the sandbox.
pub const TENANT: &str = "00000000-0000-4000-8000-00000000000a";

/// Resource group of what exists before the operator comes: the DNS zone and the operator's identity.
pub const PLATFORM_GROUP: &str = "platform";

/// Name of the operator's managed identity.
pub const OPERATOR_IDENTITY: &str = "reef-operator";

/// Host name of ARM in the public cloud, under which pods reach the emulator.
pub const ARM_HOST: &str = "management.azure.com";

/// Host name of Entra in the public cloud, under which pods reach the emulator.
pub const ENTRA_HOST: &str = "login.microsoftonline.com";

/// A request to ARM, after its token was read.
#[derive(Clone, Debug)]
pub struct Request {
    /// HTTP method, upper case.
    pub method: String,
    /// Path, decoded.
    pub path: String,
    /// Query parameters; names in lower case.
    pub query: std::collections::BTreeMap<String, String>,
    /// `If-Match`.
    pub if_match: Option<String>,
    /// `If-None-Match`.
    pub if_none_match: Option<String>,
    /// `x-ms-snapshot`: of a share, the one of this moment is meant.
    pub snapshot: Option<String>,
    /// The body; none if empty.
    pub body: Option<serde_json::Value>,
    /// Object id of the caller.
    pub principal: String,
}

/// An answer of ARM.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Headers; names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// The body; none if empty.
    pub body: Option<serde_json::Value>,
}

impl Response {
    /// An answer with a body.
    pub fn json(status: u16, body: serde_json::Value) -> Self {
        Self { status, headers: Vec::new(), body: Some(body) }
    }

    /// An answer without a body.
    pub fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: None }
    }

    /// An error in ARM's usual envelope, as the resource provider gives it.
    pub fn error(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self::json(status, serde_json::json!({ "error": { "code": code, "message": message.into() } }))
    }

    /// An error that ARM itself gives before any resource provider is asked.
    pub fn gateway_error(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self::json(status, serde_json::json!({ "error": { "code": code, "message": message.into() } }))
            .header("x-ms-failure-cause", "gateway")
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}
