//! Which routes attach to which listeners (pure).

use std::collections::BTreeMap;

use super::{
    hosts::both,
    spec::{BackendRef, GROUP, Listener, ParentRef, Route},
    table::{Backend, Entry, Path},
};
use crate::net::policy;

/// A Gateway with its listeners.
#[derive(Clone, Debug)]
pub struct Parent {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its listeners.
    pub listeners: Vec<Listener>,
}

/// What attaching needs to know of the cluster.
pub trait Facts {
    /// Labels of a namespace.
    fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String>;
    /// Whether a Service has this port.
    fn has_service(&self, namespace: &str, name: &str, port: u16) -> bool;
}

/// How one reference of a route to a Gateway fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Whether a listener took it, and the reason in the words of the Gateway API.
    pub accepted: Result<(), &'static str>,
    /// Whether what it refers to is there, and the reason if not.
    pub resolved: Result<(), &'static str>,
    /// Positions of the listeners that took it, with the hosts there.
    pub listeners: Vec<(usize, Vec<String>)>,
}

/// Whether a reference means this Gateway.
pub fn means(reference: &ParentRef, route: &Route, parent: &Parent) -> bool {
    reference.group.as_deref().unwrap_or(GROUP) == GROUP
        && reference.kind.as_deref().unwrap_or("Gateway") == "Gateway"
        && reference.namespace.as_ref().unwrap_or(&route.namespace) == &parent.namespace
        && reference.name == parent.name
}

/// Attaches a route to a Gateway that one of its references means.
pub fn attach(route: &Route, reference: &ParentRef, parent: &Parent, facts: &impl Facts) -> Attachment {
    let mut attachment =
        Attachment { accepted: Ok(()), resolved: resolve(route, facts), listeners: Vec::new() };
    if route.unsupported() {
        attachment.accepted = Err("UnsupportedValue");
        return attachment;
    }
    // The reason of a refusal is that of the listener that came nearest to taking it.
    let mut reason = "NoMatchingParent";
    for (position, listener) in parent.listeners.iter().enumerate() {
        let named = reference.section_name.as_ref().is_none_or(|name| *name == listener.name)
            && reference.port.is_none_or(|port| port == listener.port);
        if !named {
            continue;
        }
        if listener.mode() != Some(route.kind.mode()) || !admits(listener, route, parent, facts) {
            if reason == "NoMatchingParent" {
                reason = "NotAllowedByListeners";
            }
            continue;
        }
        let hosts = hosts_at(route, listener);
        if hosts.is_empty() {
            reason = "NoMatchingListenerHostname";
        } else {
            attachment.listeners.push((position, hosts));
        }
    }
    if attachment.listeners.is_empty() {
        attachment.accepted = Err(reason);
    }
    attachment
}

/// Whether the listener takes routes of the route's namespace.
fn admits(listener: &Listener, route: &Route, parent: &Parent, facts: &impl Facts) -> bool {
    let namespaces = &listener.allowed_routes.namespaces;
    match namespaces.from.as_deref().unwrap_or("Same") {
        "All" => true,
        "Same" => route.namespace == parent.namespace,
        "Selector" => {
            let labels = facts.namespace_labels(&route.namespace);
            namespaces.selector.as_ref().is_some_and(|s| policy::matches(s, &labels))
        }
        _ => false,
    }
}

/// The hosts that route and listener have in common; the empty one means any.
fn hosts_at(route: &Route, listener: &Listener) -> Vec<String> {
    let at = listener.hostname.as_deref().unwrap_or_default();
    if route.spec.hostnames.is_empty() {
        return vec![at.to_ascii_lowercase()];
    }
    route.spec.hostnames.iter().filter_map(|host| both(host, at)).collect()
}

fn resolve(route: &Route, facts: &impl Facts) -> Result<(), &'static str> {
    let mut references = route.spec.rules.iter().flat_map(|rule| &rule.backend_refs);
    references.try_for_each(|reference| backend(route, reference, facts).map(drop))
}

fn backend(route: &Route, reference: &BackendRef, facts: &impl Facts) -> Result<Backend, &'static str> {
    if !reference.group.as_deref().unwrap_or_default().is_empty()
        || reference.kind.as_deref().unwrap_or("Service") != "Service"
    {
        return Err("InvalidKind");
    }
    if reference.namespace.as_ref().is_some_and(|n| *n != route.namespace) {
        // ReferenceGrants are not read.
        return Err("RefNotPermitted");
    }
    let port = reference.port.ok_or("BackendNotFound")?;
    if !facts.has_service(&route.namespace, &reference.name, port) {
        return Err("BackendNotFound");
    }
    let weight = reference.weight.unwrap_or(1);
    Ok(Backend { service: format!("{}.{}.svc", reference.name, route.namespace), port, weight })
}

/// What a route that is attached does at these hosts.
pub fn entries(route: &Route, hosts: &[String], facts: &impl Facts) -> Vec<Entry> {
    let mut entries = Vec::new();
    for rule in &route.spec.rules {
        let references = rule.backend_refs.iter();
        let backends: Vec<_> = references.filter_map(|r| backend(route, r, facts).ok()).collect();
        let mut paths: Vec<_> = rule.matches.iter().map(|m| Path::of(&m.path)).collect();
        if paths.is_empty() {
            paths.push(Path::Prefix("/".to_owned()));
        }
        for host in hosts {
            entries.extend(paths.iter().map(|path| Entry {
                host: host.clone(),
                path: path.clone(),
                age: route.age.clone(),
                backends: backends.clone(),
            }));
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::gateway::spec::{GatewaySpec, Kind};

    struct Cluster;

    impl Facts for Cluster {
        fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String> {
            [("fleet".to_owned(), if namespace == "guest" { "other" } else { "ours" }.to_owned())].into()
        }
        fn has_service(&self, _: &str, name: &str, port: u16) -> bool {
            name == "web" && port == 80
        }
    }

    fn parent() -> Parent {
        let spec: GatewaySpec = serde_json::from_value(json!({ "listeners": [
            { "name": "https", "port": 443, "protocol": "HTTPS", "hostname": "*.example.com",
              "allowedRoutes": { "namespaces": { "from": "Selector", "selector": { "matchLabels": { "fleet": "ours" } } } } },
            { "name": "polling", "port": 10943, "protocol": "TLS", "tls": { "mode": "Passthrough" },
              "allowedRoutes": { "namespaces": { "from": "All" } } },
            { "name": "own", "port": 444, "protocol": "HTTPS" },
            { "name": "plain", "port": 80, "protocol": "HTTP" },
        ] }))
        .unwrap();
        Parent { namespace: "system".to_owned(), name: "reef".to_owned(), listeners: spec.listeners }
    }

    fn route(kind: Kind, namespace: &str, spec: &Value) -> Route {
        let spec = serde_json::from_value(spec.clone()).unwrap();
        let age = (String::new(), namespace.to_owned(), "r".to_owned());
        Route { kind, namespace: namespace.to_owned(), name: "r".to_owned(), age, spec }
    }

    fn attached(kind: Kind, namespace: &str, spec: &Value, section: &str) -> Attachment {
        let reference: ParentRef =
            serde_json::from_value(json!({ "namespace": "system", "name": "reef", "sectionName": section }))
                .unwrap();
        let route = route(kind, namespace, spec);
        assert!(means(&reference, &route, &parent()), "the reference means the Gateway");
        attach(&route, &reference, &parent(), &Cluster)
    }

    #[test]
    fn who_may_attach_where() {
        let a = json!({ "hostnames": ["a.example.com"] });
        let foreign = json!({ "hostnames": ["a.example.org"] });
        for (kind, namespace, spec, section, expect) in [
            (Kind::Http, "n", &a, "https", Ok(())),
            (Kind::Http, "guest", &a, "https", Err("NotAllowedByListeners")),
            (Kind::Tls, "guest", &a, "polling", Ok(())),
            (Kind::Http, "n", &a, "polling", Err("NotAllowedByListeners")),
            (Kind::Tls, "n", &a, "https", Err("NotAllowedByListeners")),
            (Kind::Http, "n", &a, "own", Err("NotAllowedByListeners")),
            (Kind::Http, "system", &foreign, "own", Ok(())),
            (Kind::Http, "system", &a, "plain", Err("NotAllowedByListeners")),
            (Kind::Http, "n", &foreign, "https", Err("NoMatchingListenerHostname")),
            (Kind::Http, "n", &a, "absent", Err("NoMatchingParent")),
        ] {
            let accepted = attached(kind, namespace, spec, section).accepted;
            assert_eq!(accepted, expect, "{kind:?} of {namespace} at {section}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for rule in [
            json!({ "filters": [{ "type": "RequestRedirect" }] }),
            json!({ "matches": [{ "method": "GET" }] }),
            json!({ "matches": [{ "path": { "type": "RegularExpression", "value": "/.*" } }] }),
        ] {
            let spec = json!({ "rules": [rule] });
            assert_eq!(attached(Kind::Http, "n", &spec, "https").accepted, Err("UnsupportedValue"), "{spec}");
        }
    }

    #[test]
    fn backends_are_services_of_the_namespace() {
        for (reference, expect) in [
            (json!({ "name": "web", "port": 80 }), Ok(())),
            (json!({ "name": "web", "port": 81 }), Err("BackendNotFound")),
            (json!({ "name": "absent", "port": 80 }), Err("BackendNotFound")),
            (json!({ "name": "web", "port": 80, "namespace": "other" }), Err("RefNotPermitted")),
            (json!({ "name": "web", "port": 80, "group": "x", "kind": "Bucket" }), Err("InvalidKind")),
        ] {
            let spec = json!({ "rules": [{ "backendRefs": [reference] }] });
            let resolved = attached(Kind::Http, "n", &spec, "https").resolved;
            assert_eq!(resolved, expect, "{spec}");
        }
    }

    #[test]
    fn a_rule_stands_in_the_table_for_each_host_and_path() {
        let spec = json!({ "rules": [
            { "matches": [{ "path": { "value": "/a" } }, { "path": { "type": "Exact", "value": "/b" } }],
              "backendRefs": [{ "name": "web", "port": 80 }, { "name": "absent", "port": 80 }] },
            { "backendRefs": [{ "name": "web", "port": 80, "weight": 0 }] },
        ] });
        let route = route(Kind::Http, "n", &spec);
        let entries = entries(&route, &["x".to_owned(), "y".to_owned()], &Cluster);
        let paths: Vec<_> = entries.iter().map(|e| (e.host.as_str(), e.path.clone())).collect();
        let (a, b, all) = (Path::Prefix("/a".into()), Path::Exact("/b".into()), Path::Prefix("/".into()));
        assert_eq!(
            paths,
            [("x", a.clone()), ("x", b.clone()), ("y", a), ("y", b), ("x", all.clone()), ("y", all)]
        );
        assert_eq!(entries[0].backends.len(), 1, "what is absent gets nothing");
        assert_eq!(entries[0].backends[0].service, "web.n.svc");
        assert_eq!(entries[5].backends[0].weight, 0);
    }
}
