//! What a pod in an instance's place in the network reaches.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use reef_e2e::harness::make_namespace;
use serde_json::json;

use super::{Api, PostParams, Row, Story, eventually, pod, row, run, tool};

const EGRESS: &str = "403 Forbidden | refused by the network policies (Egress)";
const INGRESS: &str = "403 Forbidden | refused by the network policies (Ingress)";
const THROUGH: &str = "200 Connection established";
/// A namespace of the cluster that no policy holds.
const OPEN: &str = "open";

/// What four pods found out, a line for each target.
pub(super) struct Found {
    /// Names of the targets.
    targets: Vec<(&'static str, String)>,
    /// From a pod that policies take for the server of the first instance.
    inside: Vec<String>,
    /// From a pod in its namespace that is not the server.
    beside: Vec<String>,
    /// From a pod that no policy holds.
    open: Vec<String>,
    /// From such a pod with the labels of the reef's agent.
    disguised: Vec<String>,
    /// From a pod that policies take for the reef's agent.
    agent: Vec<String>,
}

/// Sends a pod to each place, and lets it try every target.
pub(super) async fn prepare(story: &Story) -> Found {
    make_namespace(&story.reef, OPEN, &json!({})).await;
    let system = listener(story).await;
    let pods = Api::<Pod>::namespaced(story.reef.clone(), &story.b.namespace);
    let theirs = pods.get("octopus-0").await.unwrap().status.unwrap().pod_ip.unwrap();
    let nodes = Api::<Node>::all(story.reef.clone()).list(&ListParams::default()).await.unwrap();
    let addresses = nodes.items[0].status.as_ref().unwrap().addresses.clone().unwrap();
    let node = addresses.into_iter().find(|a| a.type_ == "InternalIP").unwrap().address;
    let targets = vec![
        ("another's Service", format!("octopus.{}.svc:80", story.b.namespace)),
        ("another's pod", format!("{theirs}:8080")),
        ("another's polling Service", format!("octopus.{}.svc:10943", story.b.namespace)),
        ("another's polling port", format!("{theirs}:10943")),
        ("a pod of the reef", system),
        ("the metadata service", "169.254.169.254:80".to_owned()),
        ("the node's kubelet", format!("{node}:10250")),
        ("Entra", "login.microsoftonline.com:443".to_owned()),
    ];
    let mut arguments = vec!["get"];
    arguments.extend(targets.iter().map(|(_, target)| target.as_str()));
    let agent: BTreeMap<_, _> =
        [("app.kubernetes.io/component", "agent"), ("app.kubernetes.io/name", "reef-agent")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
    let unlabelled = BTreeMap::new();
    let from = async |namespace: &str, account: &str, labels: &BTreeMap<String, String>| {
        let said = run(&story.reef, namespace, &pod(tool("scout", account, labels, &arguments))).await;
        let lines: Vec<String> = said.lines().filter(|l| l.starts_with("HTTP/")).map(str::to_owned).collect();
        assert_eq!(lines.len(), targets.len(), "{namespace}: {said}");
        lines
    };
    let inside = from(&story.a.namespace, "octopus", &story.a.labels()).await;
    let beside = from(&story.a.namespace, "octopus", &unlabelled).await;
    let open = from(OPEN, "default", &unlabelled).await;
    let disguised = from(OPEN, "default", &agent).await;
    let agent = from("reef-system", "default", &agent).await;
    Found { targets, inside, beside, open, disguised, agent }
}

/// Something that listens in the reef's namespace; its address.
async fn listener(story: &Story) -> String {
    let labels = [("app".to_owned(), "listener".to_owned())].into();
    let pods = Api::<Pod>::namespaced(story.reef.clone(), "reef-system");
    let listener = pod(tool("listener", "default", &labels, &["serve", "8080"]));
    pods.create(&PostParams::default(), &listener).await.unwrap();
    let ip = eventually("it listens", || async {
        let status = pods.get("listener").await.ok()?.status?;
        let running = status.container_statuses?.first()?.state.clone()?.running;
        running.and(status.pod_ip)
    })
    .await;
    format!("{ip}:8080")
}

pub(super) fn rows<'a>(story: &'a Story, found: &'a Found) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    for (at, (name, _)) in found.targets.iter().enumerate() {
        let said = |lines: &'a [String]| async move { lines[at].clone() };
        let polling = || async move {
            match story.sandbox.polling(&story.aks, &story.b.host()) {
                Some(words) => format!("through the gateway it says {}", String::from_utf8_lossy(&words)),
                None => "nothing through the gateway".to_owned(),
            }
        };
        let web = || async move {
            let status = story.sandbox.through_gateway(&story.aks, &story.b.host(), &story.public_ca());
            format!("through the gateway: {status:?}")
        };
        let inside = format!("network, from its server: {name}");
        let outside = format!("network, from a namespace without policies: {name}");
        match *name {
            "another's Service" => {
                rows.push(row(inside, (said(&found.inside), EGRESS), (web(), "Some(200)")));
                rows.push(row(outside, (said(&found.open), INGRESS), (said(&found.agent), THROUGH)));
            }
            "another's pod" => {
                rows.push(row(inside, (said(&found.inside), EGRESS), (said(&found.agent), THROUGH)));
                let disguise = "network, from elsewhere with the labels of the agent: another's pod";
                rows.push(row(disguise, (said(&found.disguised), INGRESS), (said(&found.agent), THROUGH)));
                rows.push(row(outside, (said(&found.open), INGRESS), (said(&found.agent), THROUGH)));
            }
            "another's polling Service" | "another's polling port" => {
                rows.push(row(inside, (said(&found.inside), EGRESS), (polling(), "it says ")));
                rows.push(row(outside, (said(&found.open), INGRESS), (polling(), "it says ")));
            }
            "Entra" => rows.push(row(
                "network, from a pod beside its server: Entra",
                (said(&found.beside), EGRESS),
                (said(&found.inside), THROUGH),
            )),
            _ => rows.push(row(inside, (said(&found.inside), EGRESS), (said(&found.open), THROUGH))),
        }
    }
    rows
}
