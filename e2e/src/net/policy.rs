//! Kubernetes NetworkPolicies, evaluated for one connection (pure).
//!
//! This is our evaluator of the `networking.k8s.io/v1` semantics, not Cilium: what it allows, a cluster
//! with Cilium may still refuse (its own policies, identities that lag). Named ports and `endPort` are
//! understood; only TCP exists here.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use k8s_openapi::{
    api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

/// One end of a connection.
#[derive(Clone, Debug)]
pub enum Peer {
    /// A pod.
    Pod(PodPeer),
    /// Anything outside the cluster, known by its address.
    Address(Ipv4Addr),
}

/// What policies can see of a pod.
#[derive(Clone, Debug)]
pub struct PodPeer {
    /// Its namespace.
    pub namespace: String,
    /// The namespace's labels.
    pub namespace_labels: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its named ports.
    pub named_ports: BTreeMap<String, u16>,
}

/// Why a connection is refused: the direction and the pod whose policies refuse it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The caller may not call this.
    Egress,
    /// The called pod does not take calls from this caller.
    Ingress,
}

/// Whether `from` may connect to `to` on `port`.
pub fn check(policies: &[NetworkPolicy], from: &Peer, to: &Peer, port: u16) -> Result<(), Refused> {
    if let Peer::Pod(pod) = from
        && !allowed(policies, pod, Direction::Egress, to, to, port)
    {
        return Err(Refused::Egress);
    }
    if let Peer::Pod(pod) = to
        && !allowed(policies, pod, Direction::Ingress, from, to, port)
    {
        return Err(Refused::Ingress);
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Egress,
    Ingress,
}

/// A pod that no policy selects in a direction is open in it; otherwise one rule has to allow.
fn allowed(
    policies: &[NetworkPolicy],
    pod: &PodPeer,
    direction: Direction,
    other: &Peer,
    target: &Peer,
    port: u16,
) -> bool {
    let mut selected = policies
        .iter()
        .filter(|p| p.metadata.namespace.as_deref() == Some(&pod.namespace) && applies(p, direction))
        .filter_map(|p| p.spec.as_ref())
        .filter(|s| s.pod_selector.as_ref().is_none_or(|sel| matches(sel, &pod.labels)))
        .peekable();
    if selected.peek().is_none() {
        return true;
    }
    selected.any(|spec| match direction {
        Direction::Egress => spec.egress.iter().flatten().any(|rule| {
            peers_match(rule.to.as_deref(), other, &pod.namespace)
                && ports_match(rule.ports.as_deref(), target, port)
        }),
        Direction::Ingress => spec.ingress.iter().flatten().any(|rule| {
            peers_match(rule.from.as_deref(), other, &pod.namespace)
                && ports_match(rule.ports.as_deref(), target, port)
        }),
    })
}

/// Without `policyTypes` a policy is about ingress, and about egress if it has egress rules.
fn applies(policy: &NetworkPolicy, direction: Direction) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let name = if direction == Direction::Egress { "Egress" } else { "Ingress" };
    match &spec.policy_types {
        Some(types) if !types.is_empty() => types.iter().any(|t| t == name),
        _ => direction == Direction::Ingress || spec.egress.is_some(),
    }
}

fn peers_match(peers: Option<&[NetworkPolicyPeer]>, other: &Peer, namespace: &str) -> bool {
    match peers {
        None | Some([]) => true,
        Some(peers) => peers.iter().any(|peer| peer_matches(peer, other, namespace)),
    }
}

fn peer_matches(peer: &NetworkPolicyPeer, other: &Peer, namespace: &str) -> bool {
    if let Some(block) = &peer.ip_block {
        // As with Cilium, address blocks speak of what is outside the cluster, not of pods.
        return matches!(other, Peer::Address(ip) if in_block(block, *ip));
    }
    let Peer::Pod(pod) = other else { return false };
    let in_namespace = match &peer.namespace_selector {
        Some(selector) => matches(selector, &pod.namespace_labels),
        None => pod.namespace == namespace,
    };
    in_namespace && peer.pod_selector.as_ref().is_none_or(|selector| matches(selector, &pod.labels))
}

fn in_block(block: &IPBlock, ip: Ipv4Addr) -> bool {
    let contains = |net: &String| net.parse::<IpNet>().is_ok_and(|net| net.contains(&IpAddr::V4(ip)));
    contains(&block.cidr) && !block.except.iter().flatten().any(contains)
}

fn ports_match(ports: Option<&[NetworkPolicyPort]>, target: &Peer, port: u16) -> bool {
    match ports {
        None | Some([]) => true,
        Some(ports) => ports.iter().any(|p| port_matches(p, target, port)),
    }
}

fn port_matches(rule: &NetworkPolicyPort, target: &Peer, port: u16) -> bool {
    if rule.protocol.as_deref().unwrap_or("TCP") != "TCP" {
        return false;
    }
    let port_number = i32::from(port);
    match (&rule.port, rule.end_port) {
        (None, _) => true,
        (Some(IntOrString::Int(first)), Some(last)) => (*first..=last).contains(&port_number),
        (Some(IntOrString::Int(only)), None) => *only == port_number,
        (Some(IntOrString::String(name)), _) => {
            matches!(target, Peer::Pod(pod) if pod.named_ports.get(name) == Some(&port))
        }
    }
}

/// Whether labels satisfy a selector. An empty selector is satisfied by everything.
pub fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    equal
        && selector.match_expressions.iter().flatten().all(|e| {
            let value = labels.get(&e.key);
            let listed = value.is_some_and(|v| e.values.iter().flatten().any(|x| x == v));
            match e.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(namespace: &str, app: &str) -> Peer {
        Peer::Pod(PodPeer {
            namespace: namespace.to_owned(),
            namespace_labels: [("kubernetes.io/metadata.name".to_owned(), namespace.to_owned())].into(),
            labels: [("app".to_owned(), app.to_owned())].into(),
            ip: Ipv4Addr::new(100, 64, 0, 1),
            named_ports: [("web".to_owned(), 8080)].into(),
        })
    }

    fn policy(spec: &Value) -> NetworkPolicy {
        serde_json::from_value(json!({ "metadata": { "name": "p", "namespace": "a" }, "spec": spec }))
            .unwrap()
    }

    #[test]
    fn without_policies_everything_is_open() {
        assert_eq!(check(&[], &pod("a", "x"), &pod("b", "y"), 80), Ok(()));
    }

    #[test]
    fn default_deny_closes_both_directions_of_its_namespace_only() {
        let deny = [policy(&json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] }))];
        assert_eq!(check(&deny, &pod("a", "x"), &pod("b", "y"), 80), Err(Refused::Egress));
        assert_eq!(check(&deny, &pod("b", "x"), &pod("a", "y"), 80), Err(Refused::Ingress));
        assert_eq!(check(&deny, &pod("b", "x"), &pod("b", "y"), 80), Ok(()));
    }

    #[test]
    fn table() {
        let to_b_web = json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [{
            "to": [{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "b" } },
                     "podSelector": { "matchExpressions": [{ "key": "app", "operator": "In", "values": ["y"] }] } }],
            "ports": [{ "port": "web" }] }] });
        let internet = json!({ "podSelector": { "matchLabels": { "app": "x" } }, "policyTypes": ["Egress"],
            "egress": [{ "to": [{ "ipBlock": { "cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"] } }],
                         "ports": [{ "port": 400, "endPort": 500 }] }] });
        let address = |a, b, c, d| Peer::Address(Ipv4Addr::new(a, b, c, d));
        for (spec, to, port, open) in [
            (&to_b_web, pod("b", "y"), 8080, true),
            (&to_b_web, pod("b", "y"), 8081, false),
            (&to_b_web, pod("b", "z"), 8080, false),
            (&to_b_web, pod("a", "y"), 8080, false),
            (&to_b_web, address(20, 0, 0, 1), 8080, false),
            (&internet, address(20, 0, 0, 1), 443, true),
            (&internet, address(20, 0, 0, 1), 80, false),
            (&internet, address(169, 254, 169, 254), 443, false),
            (&internet, pod("b", "y"), 443, false),
        ] {
            let policies = [policy(spec)];
            assert_eq!(check(&policies, &pod("a", "x"), &to, port).is_ok(), open, "{to:?} {port}");
        }
    }

    #[test]
    fn policy_types_default_as_in_kubernetes() {
        let ingress_only = [policy(&json!({ "podSelector": {} }))];
        assert_eq!(check(&ingress_only, &pod("a", "x"), &pod("b", "y"), 80), Ok(()));
        assert_eq!(check(&ingress_only, &pod("b", "x"), &pod("a", "y"), 80), Err(Refused::Ingress));
        let other = [policy(&json!({ "podSelector": { "matchLabels": { "app": "q" } } }))];
        assert_eq!(check(&other, &pod("b", "x"), &pod("a", "y"), 80), Ok(()));
    }
}
