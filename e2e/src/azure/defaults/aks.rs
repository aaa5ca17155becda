//! Microsoft.ContainerService.

use serde_json::{Value, json};

use super::Made;
use crate::azure::{id::Target, kinds::uuid};

/// The image that nodes of pools have.
const NODE_IMAGE: &str = "AKSUbuntu-2204gen2containerd-202601.07.0";

pub(super) fn properties(
    made: &mut Made<'_>,
    target: &Target,
    sent: &Value,
    kind: &str,
    (id, seed): (&str, u64),
) {
    match kind {
        "microsoft.containerservice/managedclusters" => cluster(made, target, sent, (id, seed)),
        "microsoft.containerservice/managedclusters/agentpools" => pool(made),
        _ => {}
    }
}

fn cluster(made: &mut Made<'_>, target: &Target, sent: &Value, (id, seed): (&str, u64)) {
    let location = sent["location"].as_str().unwrap_or_default().to_lowercase();
    let prefix = made.map.get("dnsPrefix").and_then(Value::as_str).unwrap_or("aks").to_owned();
    let suffix = &uuid(seed, id)[..8];
    let group = target.group.clone().unwrap_or_default();
    made.drop_empty(&["identityProfile", "addonProfiles", "privateLinkResources"]);
    made.all(json!({
        "fqdn": format!("{prefix}-{suffix}.hcp.{location}.azmk8s.io"),
        "azurePortalFQDN": format!("{prefix}-{suffix}.portal.hcp.{location}.azmk8s.io"),
        "nodeResourceGroup": format!("MC_{group}_{}_{location}", target.name()),
        "powerState": { "code": "Running" }, "maxAgentPools": 100, "supportPlan": "KubernetesOfficial",
        "enableRBAC": true, "servicePrincipalProfile": { "clientId": "msi" }, "securityProfile": {},
        "autoUpgradeProfile": { "nodeOSUpgradeChannel": "NodeImage" }, "workloadAutoScalerProfile": {},
        "oidcIssuerProfile": { "enabled": false }, "metricsProfile": { "costAnalysis": { "enabled": false } },
        "storageProfile": {},
        "resourceUID": uuid(seed, &format!("{id}#uid")).replace('-', "")[..24],
        "identityProfile": { "kubeletidentity": {
            "resourceId": format!("{id}/kubeletidentity"), "clientId": uuid(seed, &format!("{id}#kubelet-client")),
            "objectId": uuid(seed, &format!("{id}#kubelet")),
        }},
        "networkProfile": {},
    }));
    network(made, id);
    for driver in ["diskCSIDriver", "fileCSIDriver", "snapshotController"] {
        let drivers = made.map.get_mut("storageProfile").and_then(Value::as_object_mut);
        drivers.map(|drivers| drivers.entry(driver).or_insert_with(|| json!({ "enabled": true })));
    }
    made.hide("agentPoolProfiles");
}

/// What Azure adds to the network, also where a part of it was sent.
fn network(made: &mut Made<'_>, id: &str) {
    let Some(network) = made.map.get_mut("networkProfile") else { return };
    let address = format!("{id}/outbound");
    let defaults = json!({
        "networkPlugin": "azure", "networkPluginMode": "overlay", "networkPolicy": "none", "networkDataplane": "azure",
        "loadBalancerSku": "standard", "podCidr": "10.244.0.0/16", "serviceCidr": "10.0.0.0/16",
        "dnsServiceIP": "10.0.0.10", "outboundType": "loadBalancer", "ipFamilies": ["IPv4"],
    });
    for (name, value) in defaults.as_object().into_iter().flatten() {
        if network[name].is_null() {
            network[name] = value.clone();
        }
    }
    for (one, all) in [("podCidr", "podCidrs"), ("serviceCidr", "serviceCidrs")] {
        network[all] = json!([network[one]]);
    }
    if network["outboundType"] == "loadBalancer" && network["loadBalancerProfile"].is_null() {
        network["loadBalancerProfile"] = json!({
            "managedOutboundIPs": { "count": 1 }, "effectiveOutboundIPs": [{ "id": address }],
            "backendPoolType": "nodeIPConfiguration",
        });
    }
}

fn pool(made: &mut Made<'_>) {
    made.drop_empty(&["nodeTaints", "nodeLabels", "tags", "availabilityZones"]);
    if made.map.get("scaleSetPriority").is_some_and(|priority| priority == "Regular") {
        made.hide("scaleSetPriority");
        made.hide("scaleSetEvictionPolicy");
        made.hide("spotMaxPrice");
    }
    if made.map.get("osDiskSizeGB").is_some_and(|size| *size == 0) {
        made.hide("osDiskSizeGB");
    }
    made.all(json!({
        "osDiskSizeGB": 128, "osDiskType": "Managed", "kubeletDiskType": "OS", "maxPods": 250,
        "type": "VirtualMachineScaleSets", "osType": "Linux", "osSKU": "Ubuntu", "scaleDownMode": "Delete",
        "enableAutoScaling": false, "powerState": { "code": "Running" }, "enableNodePublicIP": false,
        "mode": "User", "nodeImageVersion": NODE_IMAGE, "upgradeSettings": { "maxSurge": "10%" },
        "enableFIPS": false, "securityProfile": { "enableVTPM": false, "enableSecureBoot": false }, "count": 1,
    }));
    let least =
        ["minCount", "count"].iter().find_map(|n| made.map.get(*n).and_then(Value::as_u64)).unwrap_or(1);
    if made.map.get("count").and_then(Value::as_u64).is_some_and(|count| count < least) {
        made.set("count", json!(least));
    }
}
