//! POST: keys of a storage account, credentials of a cluster.

use serde_json::json;

use super::{
    Cloud, Request, Response, TENANT,
    id::{Target, parent_key},
    slots::Slot,
};
use crate::cluster::kubeconfig::encode;

/// Application id of the server side of every AKS cluster that uses Entra; the same in all tenants.
pub const AKS_SERVER_APP: &str = "6dae42f8-4368-4678-94ff-3960e28e3630";

impl Cloud {
    /// Answers an action on a resource; none if this is no action that the resource has.
    pub(super) fn action(&self, target: &Target, request: &Request) -> Option<Response> {
        let kind = target.kind();
        let at = parent_key(&format!("{}/x", super::id::key(&request.path)));
        let known = [
            "microsoft.storage/storageaccounts/listkeys",
            "microsoft.containerservice/managedclusters/listclusterusercredential",
            "microsoft.containerservice/managedclusters/listclusteradmincredential",
        ];
        if !known.contains(&kind.as_str()) {
            return None;
        }
        let Some(resource) = self.resources.get(&at) else { return Some(self.not_found(target)) };
        let ready = resource["properties"]["provisioningState"] != "Creating";
        if kind.ends_with("/listkeys") {
            if !ready {
                let message = "The account is still being made; its state has to be Succeeded.";
                return Some(Response::error(409, "StorageAccountIsNotProvisioned", message));
            }
            let [one, two] = self.account_keys(&at);
            let made = resource["properties"]["creationTime"].clone();
            let key = |name: &str, value| json!({ "keyName": name, "value": value, "permissions": "FULL", "creationTime": made });
            return Some(Response::json(200, json!({ "keys": [key("key1", one), key("key2", two)] })));
        }
        let Some(slot) = self.slots.of(&at) else {
            let message = "The cluster is not provisioned yet.";
            return Some(Response::json(409, json!({ "code": "OperationNotAllowed", "message": message })));
        };
        let is_admin = kind.ends_with("/listclusteradmincredential");
        if is_admin && resource["properties"]["disableLocalAccounts"] == true {
            let message = "Local accounts of this cluster are disabled.";
            return Some(Response::json(400, json!({ "code": "BadRequest", "message": message })));
        }
        let fqdn = resource["properties"]["fqdn"].as_str().unwrap_or_default();
        let name = resource["name"].as_str().unwrap_or_default();
        let value = encode(&user_kubeconfig(name, fqdn, slot));
        let name = if is_admin { "clusterAdmin" } else { "clusterUser" };
        Some(Response::json(200, json!({ "kubeconfigs": [{ "name": name, "value": value }] })))
    }
}

/// What AKS gives to people: where the cluster is, and a program that gets a token.
fn user_kubeconfig(name: &str, fqdn: &str, slot: &Slot) -> String {
    let arguments =
        ["get-token", "--login", "devicecode", "--server-id", AKS_SERVER_APP, "--tenant-id", TENANT];
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": name, "cluster": {
            "server": format!("https://{fqdn}:443"),
            "certificate-authority-data": encode(&slot.ca),
        }}],
        "users": [{ "name": "clusterUser", "user": { "exec": {
            "apiVersion": "client.authentication.k8s.io/v1beta1", "command": "kubelogin", "args": arguments,
            "interactiveMode": "IfAvailable", "provideClusterInfo": false,
        }}}],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": "clusterUser" } }],
        "current-context": name,
    });
    config.to_string()
}
