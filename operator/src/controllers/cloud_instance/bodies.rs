//! What each part of an instance has to be: its id, API version and body (pure).

use azure_mgmt_sql::package_preview_2024_05::models::{
    Database, DatabaseProperties, Sku, TrackedResource, database_properties,
};
use serde_json::{Value, json};

use super::{
    names::{self, TAG_ACCOUNT, TAG_CLAIM, TAG_GENERATION, TAG_KEYS, TAG_POOL},
    parts::Part,
};
use crate::{
    azure::{Cloud, Unless},
    controllers::reef::bodies::{DNS_API, IDENTITY_API, SQL_API, STORAGE_API, typed},
    resources::decide::Wanted,
};

/// ServiceAccount of the server in its namespace.
pub const SERVICE_ACCOUNT: &str = "octopus";

/// Everything that the bodies follow from.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// The operator's fleet.
    pub fleet: String,
    /// Name of the Region.
    pub region: String,
    /// Name of the Reef.
    pub reef: String,
    /// Namespace of the CloudInstance.
    pub instance_namespace: String,
    /// Name of the CloudInstance.
    pub instance_name: String,
    /// UID of the CloudInstance.
    pub uid: String,
    /// Hash of the instance's identity.
    pub hash: String,
    /// Azure location of the reef.
    pub location: String,
    /// Id of the reef's resource group.
    pub group: String,
    /// Azure's cloud.
    pub cloud: Cloud,
    /// Entra tenant.
    pub tenant: String,
    /// Range of addresses that the region's reefs have their networks from.
    pub address_space: String,
    /// Id of the DNS zone, and its name.
    pub zone: (String, String),
    /// Life of the DNS record, seconds.
    pub ttl: u32,
    /// First label of the host name.
    pub subdomain: String,
    /// Host name that the DNS record points to.
    pub gateway_host: String,
    /// Name and host of the reef's SQL server.
    pub sql_server: (String, String),
    /// Elastic pool of the database; none if it has compute of its own.
    pub pool: Option<String>,
    /// Compute of the database's own, if it has that.
    pub sku: Option<String>,
    /// Most that the database holds, bytes.
    pub database_bytes: i64,
    /// Number of the incarnation of database and share.
    pub incarnation: u32,
    /// Storage account of the share.
    pub account: String,
    /// Most that the share holds, GiB.
    pub share_gib: i64,
    /// Issuer of the tokens of the reef's cluster.
    pub issuer: String,
    /// Number of the placement.
    pub generation: i64,
    /// Hash of the instance's keys.
    pub keys_hash: String,
}

impl Inputs {
    /// Namespace and name of the CloudInstance.
    pub fn instance(&self) -> String {
        format!("{}/{}", self.instance_namespace, self.instance_name)
    }

    /// Namespace of the server in the reef's cluster.
    pub fn namespace(&self) -> String {
        names::namespace(&self.instance_name, &self.hash)
    }

    /// Name of the database.
    pub fn database(&self) -> String {
        names::database(&self.hash, self.incarnation)
    }

    /// Name of the share.
    pub fn share(&self) -> String {
        names::share(&self.hash, self.incarnation)
    }

    /// Host name of the server.
    pub fn host(&self) -> String {
        format!("{}.{}", self.subdomain, self.zone.1)
    }

    /// Id of a part.
    pub fn id(&self, part: Part) -> String {
        let in_group = |rest: &str| format!("{}/providers/{rest}", self.group);
        match part {
            Part::Identity => in_group(&format!(
                "Microsoft.ManagedIdentity/userAssignedIdentities/{}",
                names::identity(&self.hash)
            )),
            Part::Federation => {
                format!("{}/federatedIdentityCredentials/{SERVICE_ACCOUNT}", self.id(Part::Identity))
            }
            Part::Database => in_group(&format!(
                "Microsoft.Sql/servers/{}/databases/{}",
                self.sql_server.0,
                self.database()
            )),
            Part::Share => in_group(&format!(
                "Microsoft.Storage/storageAccounts/{}/fileServices/default/shares/{}",
                self.account,
                self.share()
            )),
            Part::Record => format!("{}/CNAME/{}", self.zone.0, self.subdomain),
        }
    }

    /// What says that a part is this instance's, whoever claims it.
    pub fn marks(&self, part: Part) -> Value {
        let tags = names::tags(&self.fleet, &self.region, &self.reef, &self.instance());
        if part == Part::Share { as_metadata(&tags) } else { tags }
    }

    /// The member of a part's marks that holds the claim.
    pub fn claim_of(part: Part, marks: &Value) -> &str {
        let name = if part == Part::Share { TAG_CLAIM.replace('-', "_") } else { TAG_CLAIM.to_owned() };
        marks[name.as_str()].as_str().unwrap_or_default()
    }

    fn claimed(&self, part: Part) -> Value {
        let mut tags = names::tags(&self.fleet, &self.region, &self.reef, &self.instance());
        tags[TAG_CLAIM] = json!(self.uid);
        if part == Part::Share { as_metadata(&tags) } else { tags }
    }

    /// What a part has to be.
    pub fn wanted(&self, part: Part) -> Wanted {
        let (api, body) = match part {
            Part::Identity => (IDENTITY_API, Some(self.identity())),
            Part::Federation => (IDENTITY_API, Some(self.federation())),
            Part::Database => (SQL_API, self.database_body()),
            Part::Share => (STORAGE_API, Some(self.share_body())),
            Part::Record => (DNS_API, Some(self.record())),
        };
        let unless = if part == Part::Record { Unless::Exists } else { Unless::Never };
        Wanted { id: self.id(part), api, body, unless }
    }

    fn identity(&self) -> Value {
        let mut tags = self.claimed(Part::Identity);
        tags[TAG_ACCOUNT] = json!(self.account);
        tags[TAG_POOL] = json!(self.pool.as_deref().unwrap_or_default());
        tags[TAG_GENERATION] = json!(self.generation.to_string());
        json!({ "location": self.location, "tags": tags })
    }

    fn federation(&self) -> Value {
        json!({ "properties": {
            "issuer": self.issuer,
            "subject": format!("system:serviceaccount:{}:{SERVICE_ACCOUNT}", self.namespace()),
            "audiences": ["api://AzureADTokenExchange"],
        }})
    }

    fn database_body(&self) -> Option<Value> {
        let mut tags = self.claimed(Part::Database);
        tags[TAG_KEYS] = json!(self.keys_hash);
        let pool = |name| {
            format!(
                "{}/providers/Microsoft.Sql/servers/{}/elasticPools/{name}",
                self.group, self.sql_server.0
            )
        };
        let properties = DatabaseProperties {
            elastic_pool_id: self.pool.as_ref().map(pool),
            max_size_bytes: Some(self.database_bytes),
            collation: Some("SQL_Latin1_General_CP1_CI_AS".to_owned()),
            requested_backup_storage_redundancy: Some(
                database_properties::RequestedBackupStorageRedundancy::Zone,
            ),
            ..DatabaseProperties::default()
        };
        let resource = TrackedResource { tags: Some(tags), ..TrackedResource::new(self.location.clone()) };
        // With neither pool nor SKU Azure would choose one that costs more than all of the pool.
        let sku = match (&self.pool, &self.sku) {
            (Some(_), _) => None,
            (None, sku) => Some(sku_of(sku.as_deref()?)),
        };
        typed(&Database { sku, properties: Some(properties), ..Database::new(resource) })
    }

    fn share_body(&self) -> Value {
        json!({ "properties": {
            // SMB is what shares of these accounts speak; Azure does not show it.
            "shareQuota": self.share_gib, "accessTier": "TransactionOptimized",
            "metadata": self.claimed(Part::Share),
        }})
    }

    fn record(&self) -> Value {
        json!({ "properties": {
            "TTL": self.ttl, "CNAMERecord": { "cname": self.gateway_host },
            "metadata": self.claimed(Part::Record),
        }})
    }
}

/// Metadata of shares takes no dashes in names.
fn as_metadata(tags: &Value) -> Value {
    let pairs = tags.as_object().into_iter().flatten();
    pairs.map(|(name, value)| (name.replace('-', "_"), value.clone())).collect()
}

/// The compute of a database as Azure gives it back: `S3` is 100 DTU of Standard, `GP_Gen5_2` two vCores of
/// General Purpose. Source: Microsoft's page on the limits of single databases by DTU.
fn sku_of(name: &str) -> Sku {
    let dtu = |tier: &str, capacity: i32| Sku {
        tier: Some(tier.to_owned()),
        capacity: Some(capacity),
        ..Sku::new(tier.to_owned())
    };
    match name {
        "Basic" => dtu("Basic", 5),
        "S0" => dtu("Standard", 10),
        "S1" => dtu("Standard", 20),
        "S2" => dtu("Standard", 50),
        "S3" => dtu("Standard", 100),
        "S4" => dtu("Standard", 200),
        "S6" => dtu("Standard", 400),
        "S7" => dtu("Standard", 800),
        "S9" => dtu("Standard", 1600),
        "S12" => dtu("Standard", 3000),
        "P1" => dtu("Premium", 125),
        "P2" => dtu("Premium", 250),
        "P4" => dtu("Premium", 500),
        "P6" => dtu("Premium", 1000),
        "P11" => dtu("Premium", 1750),
        "P15" => dtu("Premium", 4000),
        name => by_vcore(name).unwrap_or_else(|| Sku::new(name.to_owned())),
    }
}

fn by_vcore(name: &str) -> Option<Sku> {
    let (family, capacity) = name.rsplit_once('_')?;
    let tier = match family {
        "GP_Gen5" => "GeneralPurpose",
        "BC_Gen5" => "BusinessCritical",
        _ => return None,
    };
    Some(Sku {
        tier: Some(tier.to_owned()),
        family: Some("Gen5".to_owned()),
        capacity: Some(capacity.parse().ok()?),
        ..Sku::new(family.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compute_of_its_own_is_named_as_azure_takes_it() {
        let sku = sku_of("GP_Gen5_2");
        assert_eq!((sku.name.as_str(), sku.capacity), ("GP_Gen5", Some(2)));
        assert_eq!((sku.tier.as_deref(), sku.family.as_deref()), (Some("GeneralPurpose"), Some("Gen5")));
        let sku = sku_of("S3");
        assert_eq!((sku.name.as_str(), sku.capacity), ("Standard", Some(100)));
        assert_eq!(sku_of("GP_Gen5_x").name, "GP_Gen5_x", "Azure says what is wrong with it");
    }
}
