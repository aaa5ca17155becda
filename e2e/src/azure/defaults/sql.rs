//! Microsoft.Sql.

use serde_json::{Value, json};

use super::{Born, Made, database_sku};
use crate::azure::{SUBSCRIPTION, id::Target, kinds::uuid};

pub(super) fn properties(
    made: &mut Made<'_>,
    target: &Target,
    sent: &Value,
    (kind, id): (&str, &str),
    born: Born<'_>,
) {
    match kind {
        "microsoft.sql/servers" => {
            made.all(json!({
                "administratorLogin": format!("CloudSA{}", &uuid(born.seed, id)[..8]), "version": "12.0",
                "minimalTlsVersion": "1.2", "publicNetworkAccess": "Enabled", "privateEndpointConnections": [],
                "restrictOutboundNetworkAccess": "Disabled",
            }));
            made.set("fullyQualifiedDomainName", json!(format!("{}.database.windows.net", target.name())));
            made.hide("administratorLoginPassword");
            made.drop_empty(&["administrators"]);
        }
        "microsoft.sql/servers/elasticpools" => pool(made, sent, born),
        "microsoft.sql/servers/databases" => database(made, sent, id, born),
        "microsoft.sql/servers/virtualnetworkrules" => {
            made.add("ignoreMissingVnetServiceEndpoint", json!(false));
        }
        "microsoft.sql/servers/databases/backupshorttermretentionpolicies" => {
            made.all(json!({ "retentionDays": 7, "diffBackupIntervalInHours": 12 }));
        }
        "microsoft.sql/servers/databases/backuplongtermretentionpolicies" => {
            made.all(json!({
                "weeklyRetention": "PT0S", "monthlyRetention": "PT0S", "yearlyRetention": "PT0S", "weekOfYear": 0,
            }));
        }
        _ => {}
    }
}

/// The window in which Azure maintains what has no other.
fn maintenance() -> String {
    let windows = "providers/Microsoft.Maintenance/publicMaintenanceConfigurations";
    format!("/subscriptions/{SUBSCRIPTION}/{windows}/SQL_Default")
}

fn pool(made: &mut Made<'_>, sent: &Value, born: Born<'_>) {
    // What comes back are floating-point numbers, whatever was sent.
    let limit =
        |name: &str, value: f64| sent["properties"]["perDatabaseSettings"][name].as_f64().unwrap_or(value);
    let capacity = sent["sku"]["capacity"].as_f64().unwrap_or(50.0);
    let settings =
        json!({ "minCapacity": limit("minCapacity", 0.0), "maxCapacity": limit("maxCapacity", capacity) });
    made.set("perDatabaseSettings", settings);
    made.all(json!({
        "creationDate": born.at, "maxSizeBytes": 107_374_182_400_u64, "zoneRedundant": false,
        "maintenanceConfigurationId": maintenance(), "availabilityZone": "NoPreference",
    }));
    if sent["sku"]["family"].is_string() || sent["sku"].is_null() {
        made.add("licenseType", json!("LicenseIncluded"));
    }
    // Of serverless databases only.
    made.hide("minCapacity");
}

fn database(made: &mut Made<'_>, sent: &Value, id: &str, born: Born<'_>) {
    for write_only in [
        "createMode",
        "sourceDatabaseId",
        "sourceDatabaseDeletionDate",
        "restorePointInTime",
        "recoverableDatabaseId",
        "restorableDroppedDatabaseId",
        "sampleName",
    ] {
        made.hide(write_only);
    }
    made.all(json!({
        "collation": "SQL_Latin1_General_CP1_CI_AS", "maxSizeBytes": 34_359_738_368_u64,
        "requestedBackupStorageRedundancy": "Geo", "catalogCollation": "SQL_Latin1_General_CP1_CI_AS",
        "zoneRedundant": false, "creationDate": born.at, "readScale": "Disabled",
        "isLedgerOn": false, "isInfraEncryptionEnabled": false, "maintenanceConfigurationId": maintenance(),
        "availabilityZone": "NoPreference", "defaultSecondaryLocation": paired(sent["location"].as_str()),
        // Another one each time that it is made.
        "databaseId": uuid(born.seed, &format!("{id}#{}", born.number)),
    }));
    let redundancy = made.map.get("requestedBackupStorageRedundancy").cloned().unwrap_or_default();
    made.set("currentBackupStorageRedundancy", redundancy);
    let is_pooled = made.map.contains_key("elasticPoolId");
    let sku = database_sku(sent, None);
    if !is_pooled && sku["family"].is_string() {
        made.all(json!({ "licenseType": "LicenseIncluded", "maxLogSizeBytes": 68_719_476_736_u64 }));
    }
    let objective =
        if is_pooled { "ElasticPool" } else { sent["sku"]["name"].as_str().unwrap_or("GP_Gen5_2") };
    made.set("currentSku", sku);
    made.set("currentServiceObjectiveName", json!(objective));
    made.set("requestedServiceObjectiveName", json!(objective));
}

/// Where Azure would make a replica by default.
fn paired(location: Option<&str>) -> &'static str {
    match location.unwrap_or_default() {
        "westeurope" => "northeurope",
        "eastus2" => "centralus",
        "australiaeast" => "australiasoutheast",
        _ => "westeurope",
    }
}
