//! Who may talk with the server, and how it is reached (pure).

use serde_json::{Value, json};

use super::{POLLING_PORT, SERVER, Server, WEB_PORT, metadata, object, selector};
use crate::{
    cluster::keep::Manifest,
    controllers::reef::{
        bodies::{AGENT, NAMESPACE},
        manifests::{GATEWAY, HTTPS_LISTENER, POLLING_LISTENER},
    },
};

/// What no instance may reach: networks of reefs, pods, services, and the cloud's metadata address.
const INSIDE: [&str; 6] =
    ["10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "168.63.129.16/32"];

/// Nothing goes in or out but what is named here.
pub(super) fn policies(server: &Server<'_>) -> Vec<Manifest> {
    let inputs = server.inputs;
    let policy = |name: &str, spec: Value| {
        let body = json!({ "metadata": metadata(inputs, name), "spec": spec });
        object("networkpolicies", "networking.k8s.io/v1", "NetworkPolicy", body)
    };
    let system = |labels: Value| {
        json!({
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": NAMESPACE } },
            "podSelector": { "matchLabels": labels },
        })
    };
    let gateway = system(json!({ "gateway.networking.k8s.io/gateway-name": GATEWAY }));
    let agent = system(json!({ "app.kubernetes.io/component": "agent", "app.kubernetes.io/name": AGENT }));
    let port = |port: u16| json!({ "protocol": "TCP", "port": port });
    let dns = json!({
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "kube-system" } },
        "podSelector": { "matchLabels": { "k8s-app": "kube-dns" } },
    });
    let mut inside = INSIDE.to_vec();
    // The networks of the region's reefs, wherever its addresses are.
    if !inside.contains(&inputs.address_space.as_str()) {
        inside.push(&inputs.address_space);
    }
    let internet = json!({ "ipBlock": { "cidr": "0.0.0.0/0", "except": inside } });
    vec![
        // The empty lists are said, so that a rule which somebody adds here is a difference.
        policy(
            "default-deny",
            json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [], "egress": [] }),
        ),
        policy(
            "from-gateway-and-agent",
            json!({
                "podSelector": { "matchLabels": selector(inputs) },
                "policyTypes": ["Ingress"],
                "ingress": [
                    { "from": [gateway], "ports": [port(WEB_PORT), port(POLLING_PORT)] },
                    { "from": [agent], "ports": [port(WEB_PORT)] },
                ],
            }),
        ),
        policy(
            "to-internet",
            json!({
                "podSelector": { "matchLabels": selector(inputs) },
                "policyTypes": ["Egress"],
                // The database and Entra have public addresses; who may enter is for them to say. Targets of
                // deployments listen at any port.
                "egress": [
                    { "to": [dns], "ports": [{ "protocol": "UDP", "port": 53 }, { "protocol": "TCP", "port": 53 }] },
                    { "to": [internet] },
                ],
            }),
        ),
    ]
}

/// Routes.
pub(super) fn routes(server: &Server<'_>) -> Vec<Manifest> {
    let inputs = server.inputs;
    let parent = |listener: &str| json!([{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": NAMESPACE, "name": GATEWAY, "sectionName": listener }]);
    let backend =
        |port: u16| json!([{ "group": "", "kind": "Service", "name": SERVER, "port": port, "weight": 1 }]);
    let http = json!({
        "parentRefs": parent(HTTPS_LISTENER), "hostnames": [inputs.host()],
        "rules": [{ "matches": [{ "path": { "type": "PathPrefix", "value": "/" } }], "backendRefs": backend(80) }],
    });
    // Tentacles prove who they are by their certificates, so TLS has to reach the server as it is.
    let tls = json!({
        "parentRefs": parent(POLLING_LISTENER), "hostnames": [inputs.host()],
        "rules": [{ "backendRefs": backend(POLLING_PORT) }],
    });
    let route = |plural, kind: &str, spec: Value| {
        let body = json!({ "metadata": metadata(inputs, SERVER), "spec": spec });
        object(plural, "gateway.networking.k8s.io/v1", kind, body)
    };
    vec![route("httproutes", "HTTPRoute", http), route("tlsroutes", "TLSRoute", tls)]
}
