//! What `make test-azure` is told, by environment variables.

use std::path::PathBuf;

use reef_operator::azure::{Cloud, Proof};

/// What every name of a run begins with: the clean-up looks for nothing else.
pub const PREFIX: &str = "test-azure-";

/// What is tested, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Subscription of the reef, a UUID.
    pub subscription: String,
    /// Entra tenant, a UUID.
    pub tenant: String,
    /// Name of the Azure region.
    pub location: String,
    /// Resource id of the public DNS zone.
    pub zone: String,
    /// Namespace and name of the Secret with the wildcard certificate.
    pub tls: (String, String),
    /// Name of the cloud as a Region has it.
    pub cloud_name: String,
    /// The cloud that this program itself calls.
    pub cloud: Cloud,
    /// Client id of the identity that the operator is to act as in the region; its own if none is given.
    pub operator_client: Option<String>,
    /// Size of the nodes.
    pub vm_size: String,
    /// Kubernetes version.
    pub kubernetes: String,
    /// Release of Octopus Server.
    pub release: String,
    /// The operator's namespace.
    pub namespace: String,
    /// As whom this program itself signs in, and how that is proven.
    pub own: (String, Proof),
    /// File with the authorities to trust for Azure instead of the system's.
    pub azure_ca: Option<PathBuf>,
    /// File with the authorities to trust for the server besides the system's.
    pub server_ca: Option<PathBuf>,
    /// URL of Azure's list of retail prices.
    pub prices: String,
    /// The fleet, where no operator says it.
    pub fleet: Option<String>,
    /// Whether the operator may be one that has other regions.
    pub shared: bool,
    /// Whether what it costs was agreed to beforehand.
    pub agreed: bool,
    /// Whether what was made stays when something went wrong.
    pub keeps: bool,
}

/// A variable: its name, what it is, and an example.
struct Variable(&'static str, &'static str, &'static str);

const SUBSCRIPTION: Variable =
    Variable("REEF_AZURE_SUBSCRIPTION", "the subscription to test in, a UUID", "az account show --query id");
const TENANT: Variable =
    Variable("REEF_AZURE_TENANT", "its Entra tenant, a UUID", "az account show --query tenantId");
const LOCATION: Variable =
    Variable("REEF_AZURE_LOCATION", "the Azure region as resource ids spell it", "westeurope");
const ZONE: Variable = Variable(
    "REEF_AZURE_ZONE",
    "the resource id of a public DNS zone",
    "/subscriptions/<uuid>/resourceGroups/<group>/providers/Microsoft.Network/dnsZones/<zone>",
);
const TLS: Variable = Variable(
    "REEF_AZURE_TLS_SECRET",
    "namespace/name of the Secret with the zone's wildcard certificate, in the management cluster",
    "reef-operator/wildcard-tls",
);
const CLOUD: Variable =
    Variable("REEF_AZURE_CLOUD", "AzurePublic, AzureUSGovernment or AzureChina", "AzurePublic");
const OPERATOR: Variable =
    Variable("REEF_AZURE_OPERATOR_CLIENT_ID", "the client id of the operator's identity there, a UUID", "");
const VM_SIZE: Variable = Variable("REEF_AZURE_VM_SIZE", "a size of virtual machines", "Standard_D4s_v5");
const KUBERNETES: Variable = Variable("REEF_AZURE_KUBERNETES", "a Kubernetes version that AKS has", "1.36");
const RELEASE: Variable = Variable("REEF_AZURE_RELEASE", "a release of Octopus Server", "2026.2.4213");
const NAMESPACE: Variable =
    Variable("REEF_AZURE_OPERATOR_NAMESPACE", "the operator's namespace", "reef-operator");
const FLEET: Variable = Variable("REEF_AZURE_FLEET", "the operator's fleet", "");

impl Settings {
    /// Reads the variables. An error names each that is missing or wrong, its value, and what it should be.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let wrong = std::cell::RefCell::new(Vec::new());
        let given = |name: &str| variable(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let check = |v: &Variable, value: String, is_good: fn(&str) -> bool| {
            if !is_good(&value) {
                wrong.borrow_mut().push(format!("{} is '{value}'; it must be {}", v.0, v.1));
            }
            value
        };
        let needed = |v: &Variable, is_good: fn(&str) -> bool| match given(v.0) {
            Some(value) => check(v, value, is_good),
            None => {
                wrong.borrow_mut().push(format!("{} is not set: {} ({})", v.0, v.1, v.2));
                String::new()
            }
        };
        let or = |v: &Variable, is_good: fn(&str) -> bool| {
            check(v, given(v.0).unwrap_or_else(|| v.2.to_owned()), is_good)
        };
        let cloud_name = or(&CLOUD, |v| cloud(v).is_some());
        let tls = needed(&TLS, |v| v.split('/').filter(|part| is_word(part)).count() == 2);
        let (namespace, name) = tls.split_once('/').unwrap_or_default();
        let read = Self {
            subscription: needed(&SUBSCRIPTION, is_uuid),
            tenant: needed(&TENANT, is_uuid),
            location: needed(&LOCATION, |v| v.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())),
            zone: zone(&needed(&ZONE, |v| zone(v).is_some())).unwrap_or_default(),
            tls: (namespace.to_owned(), name.to_owned()),
            cloud: cloud(&cloud_name).unwrap_or_default(),
            cloud_name,
            operator_client: given(OPERATOR.0).map(|value| check(&OPERATOR, value, is_uuid)),
            vm_size: or(&VM_SIZE, is_word),
            kubernetes: or(&KUBERNETES, is_word),
            release: or(&RELEASE, is_word),
            namespace: or(&NAMESPACE, is_word),
            own: own(given("AZURE_CLIENT_ID"), given("AZURE_CLIENT_SECRET")),
            azure_ca: None,
            server_ca: given("REEF_AZURE_SERVER_CA").map(PathBuf::from),
            prices: "https://prices.azure.com".to_owned(),
            fleet: given(FLEET.0).map(|value| check(&FLEET, value, is_word)),
            shared: given("REEF_AZURE_SHARED").is_some_and(|v| v == "yes"),
            agreed: given("REEF_AZURE_YES").is_some_and(|v| v == "yes"),
            keeps: given("REEF_AZURE_KEEP").is_some_and(|v| v == "yes"),
        };
        let wrong = wrong.into_inner();
        if wrong.is_empty() { Ok(read) } else { Err(wrong.join("\n")) }
    }

    /// Name of the DNS zone.
    pub fn zone_name(&self) -> &str {
        self.zone.rsplit('/').next().unwrap_or_default()
    }
}

/// An application with its password, or whoever is signed in with `az`.
fn own(client: Option<String>, secret: Option<String>) -> (String, Proof) {
    match (client, secret) {
        (Some(client), Some(secret)) => (client, Proof::ClientSecret(secret.into())),
        _ => ("whoever is signed in with az".to_owned(), Proof::DeveloperTools),
    }
}

fn cloud(name: &str) -> Option<Cloud> {
    match name {
        "AzurePublic" => Some(Cloud::public()),
        "AzureUSGovernment" => Some(Cloud::us_government()),
        "AzureChina" => Some(Cloud::china()),
        _ => None,
    }
}

fn is_uuid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12]
        && text.chars().all(|c| c == '-' || c.is_ascii_digit() || ('a'..='f').contains(&c))
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// The id of a zone as a Region takes it: `az` writes parts of it in lower case.
fn zone(id: &str) -> Option<String> {
    let parts: Vec<&str> = id.split('/').collect();
    let ["", _, subscription, _, group, _, _, _, name] = parts[..] else { return None };
    let whole = format!(
        "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Network/dnsZones/{name}"
    );
    let is_good = is_uuid(subscription) && !group.is_empty() && is_word(name) && name.contains('.');
    (is_good && whole.eq_ignore_ascii_case(id)).then_some(whole)
}

/// Variables with which all is right.
#[cfg(test)]
fn good(name: &str) -> Option<String> {
    let uuid = "00000000-0000-4000-8000-000000000001";
    let value = match name {
        "REEF_AZURE_SUBSCRIPTION" | "REEF_AZURE_TENANT" => uuid.to_owned(),
        "REEF_AZURE_LOCATION" => "westeurope".to_owned(),
        "REEF_AZURE_ZONE" => format!(
            "/subscriptions/{uuid}/resourceGroups/dns/providers/Microsoft.Network/dnsZones/octopus.example"
        ),
        "REEF_AZURE_TLS_SECRET" => "reef-operator/wildcard-tls".to_owned(),
        _ => return None,
    };
    Some(value)
}

#[test]
fn five_variables_are_enough() {
    let read = Settings::read(good).unwrap();
    assert_eq!(read.zone_name(), "octopus.example");
    assert_eq!(read.tls, ("reef-operator".to_owned(), "wildcard-tls".to_owned()));
    assert_eq!((read.cloud.clone(), read.own.1.clone()), (Cloud::public(), Proof::DeveloperTools));
    assert!(
        !read.agreed && !read.keeps && !read.shared && read.fleet.is_none(),
        "nothing is made without being asked for"
    );
}

#[test]
fn each_bad_variable_is_named_with_its_value() {
    for (name, value, expect) in [
        ("REEF_AZURE_SUBSCRIPTION", Some("mine"), "REEF_AZURE_SUBSCRIPTION is 'mine'; it must be"),
        ("REEF_AZURE_TENANT", None, "REEF_AZURE_TENANT is not set"),
        ("REEF_AZURE_TENANT", Some("  "), "REEF_AZURE_TENANT is not set"),
        ("REEF_AZURE_LOCATION", Some("West Europe"), "REEF_AZURE_LOCATION is 'West Europe'"),
        ("REEF_AZURE_ZONE", Some("octopus.example"), "REEF_AZURE_ZONE is 'octopus.example'"),
        ("REEF_AZURE_TLS_SECRET", Some("wildcard-tls"), "REEF_AZURE_TLS_SECRET is 'wildcard-tls'"),
        ("REEF_AZURE_CLOUD", Some("AzureGermany"), "REEF_AZURE_CLOUD is 'AzureGermany'"),
        ("REEF_AZURE_OPERATOR_CLIENT_ID", Some("me"), "REEF_AZURE_OPERATOR_CLIENT_ID is 'me'"),
        ("REEF_AZURE_RELEASE", Some("2026.2; rm"), "REEF_AZURE_RELEASE is '2026.2; rm'"),
    ] {
        let variable = |asked: &str| if asked == name { value.map(str::to_owned) } else { good(asked) };
        let error = Settings::read(variable).unwrap_err();
        assert!(error.contains(expect), "{name}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    assert_eq!(Settings::read(|_| None).unwrap_err().lines().count(), 5, "all at once");
}

#[test]
fn a_zone_may_be_spelt_as_az_does() {
    let spelt = |name: &str| {
        good(name).map(|v| v.replace("resourceGroups", "resourcegroups").replace("dnsZones", "dnszones"))
    };
    assert_eq!(Settings::read(spelt).unwrap().zone, good("REEF_AZURE_ZONE").unwrap());
}

#[test]
fn an_application_signs_in_with_its_password() {
    let variable = |name: &str| match name {
        "AZURE_CLIENT_ID" => Some("c".to_owned()),
        "AZURE_CLIENT_SECRET" => Some("s".to_owned()),
        _ => good(name),
    };
    let read = Settings::read(variable).unwrap();
    assert_eq!(read.own, ("c".to_owned(), Proof::ClientSecret("s".into())));
    assert!(!format!("{read:?}").contains("\"s\""), "the password is not shown");
}

#[test]
fn each_variable_is_described() {
    let asked = std::cell::RefCell::new(Vec::new());
    let variable = |name: &str| {
        asked.borrow_mut().push(name.to_owned());
        good(name)
    };
    Settings::read(variable).unwrap();
    let described = include_str!("../../../../docs/test-azure.md");
    for name in asked.into_inner() {
        assert!(described.contains(&format!("`{name}`")), "docs/test-azure.md lacks {name}");
    }
}
