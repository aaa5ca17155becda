//! What the gateway reads of Gateways and routes: the parts of `gateway.networking.k8s.io/v1` that it obeys.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{ResourceExt, api::DynamicObject};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// Group of all kinds here.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// `spec` of a Gateway.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    /// Whose Gateway it is.
    pub gateway_class_name: String,
    /// Where it listens.
    pub listeners: Vec<Listener>,
}

/// One listener of a Gateway.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Hosts that it serves; none means all.
    pub hostname: Option<String>,
    /// Port that callers from the internet use.
    pub port: u16,
    /// `HTTPS`, `TLS` and others.
    pub protocol: String,
    /// How TLS is treated.
    pub tls: ListenerTls,
    /// Which routes may attach.
    pub allowed_routes: AllowedRoutes,
}

/// How a listener treats TLS.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerTls {
    /// `Terminate`, the default, or `Passthrough`.
    pub mode: Option<String>,
    /// Secrets of its namespace with a certificate; the first counts.
    pub certificate_refs: Vec<CertificateRef>,
}

/// Names a Secret.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CertificateRef {
    /// Its name.
    pub name: String,
}

/// Which routes may attach to a listener.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AllowedRoutes {
    /// By namespace.
    pub namespaces: AllowedNamespaces,
}

/// Namespaces whose routes may attach.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AllowedNamespaces {
    /// `All`, `Same` (the default) or `Selector`.
    pub from: Option<String>,
    /// With `Selector`: labels of the namespaces.
    pub selector: Option<LabelSelector>,
}

/// What a listener does, of what this gateway can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Ends TLS and routes requests by HTTPRoutes.
    Https,
    /// Routes connections by the name in the client's greeting, by TLSRoutes.
    Passthrough,
}

impl Listener {
    /// What it does; none if this gateway cannot do it.
    pub fn mode(&self) -> Option<Mode> {
        match (self.protocol.as_str(), self.tls.mode.as_deref().unwrap_or("Terminate")) {
            ("HTTPS", "Terminate") => Some(Mode::Https),
            ("TLS", "Passthrough") => Some(Mode::Passthrough),
            _ => None,
        }
    }
}

/// `spec` of an HTTPRoute or a TLSRoute.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteSpec {
    /// What it attaches to.
    pub parent_refs: Vec<ParentRef>,
    /// Hosts; none means those of the listener.
    pub hostnames: Vec<String>,
    /// What is to be done with which requests.
    pub rules: Vec<Rule>,
}

/// What a route attaches to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ParentRef {
    /// Its group; none means ours.
    pub group: Option<String>,
    /// Its kind; none means Gateway.
    pub kind: Option<String>,
    /// Its namespace; none means the route's.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// One listener; none means all.
    pub section_name: Option<String>,
    /// Listeners of one port; none means all.
    pub port: Option<u16>,
}

/// What is to be done with which requests.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// Which requests; none means all.
    pub matches: Vec<Match>,
    /// Where they go, by weight.
    pub backend_refs: Vec<BackendRef>,
    /// Changes of requests and answers; not understood here.
    pub filters: Vec<Value>,
}

/// Which requests a rule is for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Match {
    /// By path.
    pub path: PathMatch,
    /// By more than the path, which is not understood here.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// Which paths a rule is for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PathMatch {
    /// `PathPrefix` (the default), `Exact` or others.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// The prefix or the path; `/` without one.
    pub value: Option<String>,
}

/// Where requests go.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct BackendRef {
    /// Its group; none means the core group.
    pub group: Option<String>,
    /// Its kind; none means Service.
    pub kind: Option<String>,
    /// Its namespace; none means the route's.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Port of the Service.
    pub port: Option<u16>,
    /// Its share; none means 1.
    pub weight: Option<u32>,
}

/// Kind of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An HTTPRoute.
    Http,
    /// A TLSRoute.
    Tls,
}

impl Kind {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Tls => "TLSRoute",
        }
    }

    /// What a listener has to do for such a route.
    pub fn mode(self) -> Mode {
        match self {
            Self::Http => Mode::Https,
            Self::Tls => Mode::Passthrough,
        }
    }
}

/// A route.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When it was made, then its namespace and name: the least of these goes first.
    pub age: (String, String, String),
    /// What it says.
    pub spec: RouteSpec,
}

impl Route {
    /// Reads a route; none if it is not of its kind's form.
    pub fn read(kind: Kind, object: &DynamicObject) -> Option<Self> {
        let (namespace, name) = (object.namespace()?, object.name_any());
        let made = object.creation_timestamp().map(|t| t.0.to_string()).unwrap_or_default();
        Some(Self {
            kind,
            age: (made, namespace.clone(), name.clone()),
            namespace,
            name,
            spec: read_spec(object)?,
        })
    }

    /// Whether it wants something that this gateway does not do.
    pub fn unsupported(&self) -> bool {
        let rules = self.spec.rules.iter();
        rules.clone().any(|rule| !rule.filters.is_empty())
            || rules.flat_map(|rule| &rule.matches).any(|m| {
                !m.more.is_empty() || !matches!(m.path.type_.as_deref(), None | Some("PathPrefix" | "Exact"))
            })
    }
}

/// Reads the spec of an object; none if it is not of its kind's form.
pub fn read_spec<T: DeserializeOwned>(object: &DynamicObject) -> Option<T> {
    T::deserialize(object.data.get("spec")?).ok()
}
