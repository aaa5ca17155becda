//! What the operator keeps in a reef's cluster (pure).

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use reef_crds::meta::{LABEL_FLEET, LABEL_REEF, OPERATOR};
use serde_json::{Value, json};

use super::bodies::{AGENT, NAMESPACE};
use crate::cluster::keep::Manifest;

/// Name of the reef's Gateway.
pub const GATEWAY: &str = "reef";
/// Listener of the Gateway for browsers and the REST API.
pub const HTTPS_LISTENER: &str = "https";
/// Listener of the Gateway for polling Tentacles.
pub const POLLING_LISTENER: &str = "polling";
/// Port of polling Tentacles.
const POLLING_PORT: u16 = 10_943;
/// ConfigMap with the authorities that the agent trusts for Azure's endpoints.
pub const AZURE_CA: &str = "azure-ca";
/// Name of the copy of the region's certificate.
pub const CERTIFICATE: &str = "wildcard-tls";

/// What the manifests follow from.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// The operator's fleet.
    pub fleet: &'a str,
    /// Name of the Reef.
    pub reef: &'a str,
    /// Client id of the agent's identity.
    pub agent_client: Option<&'a str>,
    /// The region's DNS zone.
    pub zone: &'a str,
    /// Class of the Gateway.
    pub gateway_class: &'a str,
    /// The authorities that are trusted for Azure's endpoints, PEM, if not the system's.
    pub azure_ca: Option<&'a str>,
    /// The region's certificate and its key; none while it cannot be read.
    pub certificate: Option<&'a BTreeMap<String, ByteString>>,
}

/// All objects, in the order in which they are made.
pub fn all(inputs: &Inputs<'_>) -> Vec<Manifest> {
    let mut manifests = vec![namespace(inputs), priority_class(inputs), agent(inputs)];
    manifests.extend(super::policies::all(&labels(inputs, "policy")));
    manifests.push(agent_network(inputs));
    manifests.extend(inputs.azure_ca.map(|pem| azure_ca(inputs, pem)));
    manifests.extend(inputs.certificate.map(|data| certificate(inputs, data)));
    manifests.push(gateway(inputs));
    manifests
}

fn labels(inputs: &Inputs<'_>, component: &str) -> Value {
    json!({
        "app.kubernetes.io/managed-by": OPERATOR,
        "app.kubernetes.io/part-of": OPERATOR,
        "app.kubernetes.io/component": component,
        LABEL_FLEET: inputs.fleet,
        LABEL_REEF: inputs.reef,
    })
}

fn namespace(inputs: &Inputs<'_>) -> Manifest {
    let mut labels = labels(inputs, "system");
    labels["pod-security.kubernetes.io/enforce"] = json!("restricted");
    let metadata = json!({ "name": NAMESPACE, "labels": labels });
    Manifest {
        plural: "namespaces",
        object: json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata }),
    }
}

/// Instances go before anything without a class, and after what the cluster itself needs.
fn priority_class(inputs: &Inputs<'_>) -> Manifest {
    let object = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": { "name": "reef-instance", "labels": labels(inputs, "server") },
        "value": 100_000, "description": "Octopus Servers of CloudInstances.",
    });
    Manifest { plural: "priorityclasses", object }
}

fn agent(inputs: &Inputs<'_>) -> Manifest {
    let mut metadata = json!({ "name": AGENT, "namespace": NAMESPACE, "labels": labels(inputs, "agent") });
    if let Some(client) = inputs.agent_client {
        metadata["annotations"] = json!({ "azure.workload.identity/client-id": client });
    }
    let object = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata, "automountServiceAccountToken": false });
    Manifest { plural: "serviceaccounts", object }
}

/// Nobody calls the agent.
fn agent_network(inputs: &Inputs<'_>) -> Manifest {
    let pods =
        json!({ "matchLabels": { "app.kubernetes.io/component": "agent", "app.kubernetes.io/name": AGENT } });
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": AGENT, "namespace": NAMESPACE, "labels": labels(inputs, "agent") },
        "spec": { "podSelector": pods, "policyTypes": ["Ingress"] },
    });
    Manifest { plural: "networkpolicies", object }
}

fn azure_ca(inputs: &Inputs<'_>, pem: &str) -> Manifest {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": AZURE_CA, "namespace": NAMESPACE, "labels": labels(inputs, "agent") },
        "data": { "ca.crt": pem },
    });
    Manifest { plural: "configmaps", object }
}

fn certificate(inputs: &Inputs<'_>, data: &BTreeMap<String, ByteString>) -> Manifest {
    // The two keys that the type has, whatever else was in the Secret.
    let data: BTreeMap<_, _> =
        data.iter().filter(|(k, _)| ["tls.crt", "tls.key"].contains(&k.as_str())).collect();
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": { "name": CERTIFICATE, "namespace": NAMESPACE, "labels": labels(inputs, "gateway") },
        "data": data,
    });
    Manifest { plural: "secrets", object }
}

fn gateway(inputs: &Inputs<'_>) -> Manifest {
    // Namespaces of instances carry the label; nobody else may route here.
    let allowed = json!({ "namespaces": { "from": "Selector", "selector": { "matchLabels": { LABEL_FLEET: inputs.fleet } } } });
    let polling = json!({
        "name": POLLING_LISTENER, "port": POLLING_PORT, "protocol": "TLS", "hostname": format!("*.{}", inputs.zone),
        "tls": { "mode": "Passthrough" }, "allowedRoutes": allowed,
    });
    let https = json!({
        "name": HTTPS_LISTENER, "port": 443, "protocol": "HTTPS", "hostname": format!("*.{}", inputs.zone),
        "tls": { "mode": "Terminate", "certificateRefs": [{ "group": "", "kind": "Secret", "name": CERTIFICATE }] },
        "allowedRoutes": allowed,
    });
    let object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": { "name": GATEWAY, "namespace": NAMESPACE, "labels": labels(inputs, "gateway") },
        "spec": { "gatewayClassName": inputs.gateway_class, "listeners": [https, polling] },
    });
    Manifest { plural: "gateways", object }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certificate_and_key_are_copied() {
        let data = ["tls.crt", "tls.key", "ca.key"].map(|k| (k.to_owned(), ByteString(b"x".to_vec())));
        let data = BTreeMap::from(data);
        let inputs = Inputs {
            fleet: "f",
            reef: "r",
            agent_client: Some("c"),
            zone: "a.example",
            gateway_class: "g",
            azure_ca: None,
            certificate: Some(&data),
        };
        let all = all(&inputs);
        let secret = all.iter().find(|m| m.plural == "secrets").unwrap();
        assert_eq!(
            secret.object["data"].as_object().unwrap().keys().collect::<Vec<_>>(),
            ["tls.crt", "tls.key"]
        );
        assert!(
            all.iter().all(|m| m.object["metadata"]["labels"][LABEL_FLEET] == "f"),
            "everything says whose it is"
        );
        let without = super::all(&Inputs { certificate: None, ..inputs });
        assert!(
            without.iter().all(|m| m.plural != "secrets"),
            "a certificate that cannot be read is left alone"
        );
    }
}
