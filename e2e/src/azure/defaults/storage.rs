//! Microsoft.Storage.

use serde_json::{Value, json};

use super::{Born, Made};
use crate::azure::id::Target;

pub(super) fn properties(made: &mut Made<'_>, target: &Target, sent: &Value, kind: &str, born: Born<'_>) {
    match kind {
        "microsoft.storage/storageaccounts" => account(made, target, sent, born),
        "microsoft.storage/storageaccounts/fileservices" => {
            made.all(json!({
                "shareDeleteRetentionPolicy": { "enabled": true, "days": 7 }, "protocolSettings": { "smb": {} },
                "cors": { "corsRules": [] },
            }));
        }
        "microsoft.storage/storageaccounts/fileservices/shares" => {
            made.all(json!({
                "shareQuota": 102_400, "accessTier": "TransactionOptimized", "leaseStatus": "unlocked",
                "leaseState": "available", "accessTierChangeTime": born.at,
                "signedIdentifiers": [],
            }));
            // Only lists show it.
            made.hide("enabledProtocols");
            made.set("lastModifiedTime", json!(born.at));
        }
        _ => {}
    }
}

fn account(made: &mut Made<'_>, target: &Target, sent: &Value, born: Born<'_>) {
    let encrypted = json!({ "keyType": "Account", "enabled": true, "lastEnabledTime": born.at });
    made.all(json!({
        "minimumTlsVersion": "TLS1_2", "supportsHttpsTrafficOnly": true, "allowBlobPublicAccess": false,
        "allowCrossTenantReplication": false, "privateEndpointConnections": [], "creationTime": born.at,
        "keyCreationTime": { "key1": born.at, "key2": born.at }, "primaryLocation": sent["location"],
        "encryption": { "services": { "file": encrypted, "blob": encrypted }, "keySource": "Microsoft.Storage" },
        "networkAcls": { "bypass": "AzureServices", "defaultAction": "Allow", "virtualNetworkRules": [], "ipRules": [] },
    }));
    if let Some(acls) = made.map.get_mut("networkAcls").and_then(Value::as_object_mut) {
        for list in ["virtualNetworkRules", "ipRules"] {
            let rules = acls.entry(list).or_insert(Value::Null);
            if rules.is_null() {
                *rules = json!([]);
            }
            if list == "virtualNetworkRules" {
                rules
                    .as_array_mut()
                    .into_iter()
                    .flatten()
                    .for_each(|rule| rule["state"] = json!("Succeeded"));
            }
        }
    }
    let name = target.name();
    let endpoint = |service: &str| format!("https://{name}.{service}.core.windows.net/");
    let services: &[&str] = match sent["kind"].as_str() {
        Some("BlobStorage") => &["dfs", "blob", "table"],
        Some("FileStorage") => &["file"],
        _ => &["dfs", "web", "blob", "queue", "table", "file"],
    };
    let endpoints: serde_json::Map<_, _> =
        services.iter().map(|service| ((*service).to_owned(), json!(endpoint(service)))).collect();
    made.set("primaryEndpoints", endpoints.into());
    made.set("statusOfPrimary", json!("available"));
    if sent["kind"] != "FileStorage" {
        made.add("accessTier", json!("Hot"));
    }
}
