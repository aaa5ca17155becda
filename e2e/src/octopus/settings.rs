//! What the container's environment tells the server.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf, time::Duration};

use k8s_openapi::ByteString;
use serde_json::json;

use super::{
    connection::Connection,
    start::StartError,
    version::{self, Version},
};

/// Where the image brings the certificate of the authority that signs for Azure.
pub const AZURE_CA: &str = "/etc/sandbox/azure-ca.crt";

/// Task cap of a node that was told none.
const TASK_CAP: u32 = 5;

/// The settings of one process.
pub(super) struct Settings {
    /// The release, from the image's tag.
    pub(super) version: Version,
    /// Name of this node in the cluster of servers.
    pub(super) node: String,
    /// Where the database is.
    pub(super) connection: Connection,
    /// How the process signs in.
    pub(super) identity: WorkloadIdentity,
    /// The CONNECT proxy, `http://host:port`.
    pub(super) proxy: Option<String>,
    /// File with the authorities that Azure's names are trusted by.
    pub(super) ca: PathBuf,
    /// The master key, 16 bytes.
    pub(super) master_key: Option<Vec<u8>>,
    /// The administrator who is made at the first start.
    pub(super) admin: Option<Admin>,
    /// Task cap of a new node.
    pub(super) task_cap: u32,
    /// Text of the license.
    pub(super) license: Option<String>,
    /// How long an upgrade of the schema takes.
    pub(super) upgrade: Duration,
    /// Below which folder the mounts are.
    pub(super) root: PathBuf,
    /// Address on which the ports are.
    pub(super) listen: Ipv4Addr,
    /// Port of web portal and API; 0 for any.
    pub(super) web_port: u16,
    /// Port of polling Tentacles; 0 for any.
    pub(super) polling_port: u16,
}

/// What the workload identity webhook, or the pod itself, puts into the environment.
#[derive(Clone)]
pub(super) struct WorkloadIdentity {
    /// Client id of the managed identity.
    pub(super) client: String,
    /// Tenant.
    pub(super) tenant: String,
    /// URL of Entra.
    pub(super) authority: String,
    /// File of the ServiceAccount's token.
    pub(super) token_file: PathBuf,
}

/// An administrator.
pub(super) struct Admin {
    /// User name.
    pub(super) username: String,
    /// Mail address.
    pub(super) email: String,
    /// API key, `API-...`.
    pub(super) key: Option<String>,
}

impl Settings {
    /// Reads the environment. Errors name the variable, and never the value of a secret one.
    pub(super) fn read(env: &BTreeMap<String, String>) -> Result<Self, StartError> {
        Self::parse(env).map_err(StartError::Setting)
    }

    fn parse(env: &BTreeMap<String, String>) -> Result<Self, String> {
        let get = |name: &str| env.get(name).map(String::as_str).filter(|v| !v.is_empty());
        let need = |name: &str| get(name).map(str::to_owned).ok_or_else(|| format!("{name} is not set"));
        if get("ACCEPT_EULA") != Some("Y") {
            return Err("the license agreement must be accepted: set ACCEPT_EULA to Y".to_owned());
        }
        if !matches!(get("DISABLE_DIND"), None | Some("Y" | "N")) {
            return Err("DISABLE_DIND must be Y or N".to_owned());
        }
        let node = get("OCTOPUS_SERVER_NODE_NAME").or_else(|| get("HOSTNAME"));
        let node = node.map_or_else(host_name, str::to_owned);
        if !node.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) || node.len() > 100 {
            return Err("OCTOPUS_SERVER_NODE_NAME must be letters, digits, hyphens, dots".to_owned());
        }
        let license = get("OCTOPUS_SERVER_BASE64_LICENSE").map(|text| {
            let license = base64(text).and_then(|bytes| String::from_utf8(bytes).ok());
            license.ok_or("OCTOPUS_SERVER_BASE64_LICENSE is not text in base64")
        });
        let identity = WorkloadIdentity {
            client: need("AZURE_CLIENT_ID")?,
            tenant: need("AZURE_TENANT_ID")?,
            authority: need("AZURE_AUTHORITY_HOST")?,
            token_file: need("AZURE_FEDERATED_TOKEN_FILE")?.into(),
        };
        Ok(Self {
            version: version::of_image(&need("SANDBOX_IMAGE")?)?,
            node,
            connection: Connection::parse(&need("DB_CONNECTION_STRING")?)?,
            identity,
            proxy: get("HTTPS_PROXY").map(str::to_owned),
            ca: get("SANDBOX_AZURE_CA").unwrap_or(AZURE_CA).into(),
            master_key: get("MASTER_KEY").map(master_key).transpose()?,
            admin: admin(env)?,
            task_cap: number(env, "TASK_CAP", TASK_CAP, 1000)?,
            license: license.transpose()?,
            upgrade: Duration::from_millis(number(env, "SANDBOX_UPGRADE_MS", 200, 600_000)?.into()),
            root: "/".into(),
            listen: Ipv4Addr::UNSPECIFIED,
            web_port: 8080,
            polling_port: 10943,
        })
    }
}

fn number(env: &BTreeMap<String, String>, name: &str, default: u32, most: u32) -> Result<u32, String> {
    match env.get(name).map(|v| v.trim()).filter(|v| !v.is_empty()).map(str::parse::<u32>) {
        None => Ok(default),
        Some(Ok(number)) if number <= most => Ok(number),
        Some(_) => Err(format!("{name} must be a number from 0 to {most}")),
    }
}

fn admin(env: &BTreeMap<String, String>) -> Result<Option<Admin>, String> {
    let get = |name: &str| env.get(name).filter(|v| !v.is_empty()).cloned();
    let key = get("ADMIN_API_KEY");
    if key.as_ref().is_some_and(|key| !key.starts_with("API-") || key.len() < 16) {
        return Err("ADMIN_API_KEY must begin with API- and have at least 16 characters".to_owned());
    }
    match (get("ADMIN_USERNAME"), key) {
        (None, Some(_)) => Err("ADMIN_API_KEY needs ADMIN_USERNAME".to_owned()),
        (None, None) => Ok(None),
        (Some(username), key) => {
            let email = get("ADMIN_EMAIL").unwrap_or_else(|| "octopus@example.local".to_owned());
            Ok(Some(Admin { username, email, key }))
        }
    }
}

fn master_key(text: &str) -> Result<Vec<u8>, String> {
    let key = base64(text).filter(|key| key.len() == 16);
    key.ok_or_else(|| "MASTER_KEY must be 16 bytes in base64".to_owned())
}

fn base64(text: &str) -> Option<Vec<u8>> {
    serde_json::from_value::<ByteString>(json!(text)).ok().map(|bytes| bytes.0)
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An environment as the operator would write it.
    pub fn environment() -> BTreeMap<String, String> {
        let connection = "Server=tcp:r1.database.windows.net,1433;Initial Catalog=db-1;\
                          Authentication=Active Directory Workload Identity;Encrypt=True";
        [
            ("ACCEPT_EULA", "Y"),
            ("SANDBOX_IMAGE", "octopusdeploy/octopusdeploy:2026.2.100"),
            ("DB_CONNECTION_STRING", connection),
            ("MASTER_KEY", "AAECAwQFBgcICQoLDA0ODw=="),
            ("ADMIN_USERNAME", "octoadmin"),
            ("ADMIN_API_KEY", "API-0123456789ABCDEF"),
            ("OCTOPUS_SERVER_NODE_NAME", "octopus-0"),
            ("TASK_CAP", "10"),
            ("DISABLE_DIND", "Y"),
            ("AZURE_CLIENT_ID", "client"),
            ("AZURE_TENANT_ID", "tenant"),
            ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com/"),
            ("AZURE_FEDERATED_TOKEN_FILE", "/var/run/secrets/azure/tokens/azure-identity-token"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    #[test]
    fn an_environment_is_understood() {
        let settings = Settings::parse(&environment()).map_err(|e| panic!("{e}")).unwrap();
        assert_eq!(settings.version.to_string(), "2026.2.100");
        assert_eq!((settings.node.as_str(), settings.task_cap), ("octopus-0", 10));
        assert_eq!(settings.master_key.as_deref().map(<[u8]>::len), Some(16));
        assert_eq!(settings.upgrade, Duration::from_millis(200));
        assert_eq!(settings.admin.unwrap().email, "octopus@example.local");
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_is_told() {
        for (name, value, expect) in [
            ("ACCEPT_EULA", "N", "ACCEPT_EULA"),
            ("SANDBOX_IMAGE", "octopusdeploy/octopusdeploy:latest", "2026.2.1234"),
            ("DB_CONNECTION_STRING", "", "DB_CONNECTION_STRING"),
            ("MASTER_KEY", "hunter2", "MASTER_KEY must be 16 bytes"),
            ("MASTER_KEY", "AAEC", "MASTER_KEY must be 16 bytes"),
            ("ADMIN_API_KEY", "hunter2", "ADMIN_API_KEY must begin"),
            ("ADMIN_USERNAME", "", "needs ADMIN_USERNAME"),
            ("TASK_CAP", "many", "TASK_CAP"),
            ("AZURE_CLIENT_ID", "", "AZURE_CLIENT_ID"),
            ("OCTOPUS_SERVER_BASE64_LICENSE", "hunter2", "base64"),
            ("OCTOPUS_SERVER_NODE_NAME", "a/b", "OCTOPUS_SERVER_NODE_NAME"),
            ("DISABLE_DIND", "yes", "DISABLE_DIND"),
        ] {
            let mut env = environment();
            env.insert(name.to_owned(), value.to_owned());
            let error = Settings::parse(&env).err().unwrap();
            assert!(error.contains(expect) && !error.contains("hunter2"), "{name}={value}: {error}");
        }
    }
}
