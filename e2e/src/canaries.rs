//! Looks for everything that is secret in everything that people and programs may read: logs, objects, Events, metrics,
//! arguments, journals. An instance's pod has its keys in its environment, where its spec refers to them; no other
//! process may.
#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a step that fails is to fail its story")]

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex, PoisonError},
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, LogParams, ObjectMeta, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use reef_crds::Reef;
use tokio::task::JoinHandle;

use crate::{
    azure::SUBSCRIPTION,
    cluster::kubeconfig::encode,
    harness::{Sandbox, ok, ready_pods},
    install::NAMESPACE,
};

/// Shortest text that is looked for, characters: what is shorter is somewhere by chance.
const SHORTEST: usize = 16;

/// Keys of Secrets whose values are public.
const PUBLIC: [&str; 3] = ["tls.crt", "ca.crt", "azurestorageaccountname"];

/// Texts that are secret, by what they are.
type Secrets = BTreeMap<String, String>;

/// Something that is read, and a word that is in it for certain: that it is found shows that the search finds.
struct Place {
    name: String,
    text: String,
    control: String,
}

/// A cluster: its name, a client of its administrator, and arguments of kubectl.
struct Reachable {
    name: String,
    client: Client,
    kubeconfig: String,
}

/// What is secret, also what was and is gone: the Secrets of the management cluster are followed from the beginning.
pub struct Canaries {
    seen: Arc<Mutex<Secrets>>,
    following: JoinHandle<()>,
}

impl Drop for Canaries {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Canaries {
    /// Follows the Secrets of the management cluster from now on.
    pub fn begin(client: &Client) -> Self {
        let seen = Arc::<Mutex<Secrets>>::default();
        let (all, into) = (Api::<Secret>::all(client.clone()), seen.clone());
        let following = watcher(all, watcher::Config::default()).default_backoff().for_each(move |event| {
            if let Ok(watcher::Event::Apply(secret) | watcher::Event::InitApply(secret)) = event {
                let mut seen = into.lock().unwrap_or_else(PoisonError::into_inner);
                of_secret("management", secret, &mut seen);
            }
            std::future::ready(())
        });
        Self { seen, following: tokio::spawn(following) }
    }

    /// Fails if anything secret shows anywhere in a sandbox. Needs a Ready operator.
    pub async fn do_not_show(&self, sandbox: &Sandbox, client: &Client) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert!(!seen.is_empty(), "Secrets are followed");
        nothing_secret_shows(sandbox, client, seen).await;
    }
}

async fn nothing_secret_shows(sandbox: &Sandbox, client: &Client, mut secrets: Secrets) {
    let clusters = clusters(sandbox, client).await;
    for (number, secret) in sandbox.azure_secrets().into_iter().enumerate() {
        secrets.insert(format!("Azure's secret {number}"), secret);
    }
    for cluster in &clusters {
        of_cluster(cluster, &mut secrets).await;
    }
    let word = format!("canary-{}", jiff::Timestamp::now().as_microsecond());
    plant(sandbox, &clusters, &word).await;
    let (mut shows, mut bytes, mut count) = (Vec::new(), 0, 0);
    let mut look = |place: Place| {
        assert!(place.text.contains(&place.control), "{}: {:?} is not found", place.name, place.control);
        shows.extend(found(&place, &secrets));
        bytes += place.text.len();
        count += 1;
    };
    for cluster in &clusters {
        look(objects(sandbox, cluster, &word));
        for log in logs(cluster).await {
            look(log);
        }
    }
    for pod in ready_pods(client, NAMESPACE).await {
        look(metrics(client, &pod.name_any()).await);
    }
    files(sandbox, &word).into_iter().for_each(&mut look);
    look(journal(sandbox, &word));
    processes(sandbox).into_iter().for_each(&mut look);
    println!("{} secrets looked for in {count} places, {} KiB", secrets.len(), bytes >> 10);
    assert!(shows.is_empty(), "{shows:#?}");
}

/// The management cluster and those of all reefs.
async fn clusters(sandbox: &Sandbox, client: &Client) -> Vec<Reachable> {
    let path = |name: &str| sandbox.folder().join(name).to_string_lossy().into_owned();
    let management = "management".to_owned();
    let kubeconfig = path("management.kubeconfig");
    let mut all = vec![Reachable { name: management, client: client.clone(), kubeconfig }];
    let reefs = Api::<Reef>::all(client.clone()).list(&ListParams::default()).await.expect("reefs");
    for reef in reefs {
        let Some(cluster) = reef.status.and_then(|status| status.cluster) else { continue };
        let kubeconfig = path(&format!("reefs/{}.kubeconfig", cluster.name));
        if fs::exists(&kubeconfig).unwrap_or(false) {
            let client = sandbox.reef_client(&cluster.name).await;
            all.push(Reachable { name: cluster.name, client, kubeconfig });
        }
    }
    all
}

/// What is in the Secrets of a cluster. Releases of helm are not: they hold the chart.
async fn of_cluster(cluster: &Reachable, secrets: &mut Secrets) {
    let all = Api::<Secret>::all(cluster.client.clone()).list(&ListParams::default()).await;
    let mut count = 0;
    for secret in all.expect("Secrets") {
        count += of_secret(&cluster.name, secret, secrets);
    }
    assert!(count > 0, "cluster {} has secrets", cluster.name);
}

/// What is in a Secret; how many texts.
fn of_secret(cluster: &str, secret: Secret, secrets: &mut Secrets) -> usize {
    if secret.type_.as_deref() == Some("helm.sh/release.v1") {
        return 0;
    }
    let name = secret.name_any();
    let uid = secret.metadata.uid.clone().unwrap_or_default();
    let mut count = 0;
    for (key, value) in secret.data.unwrap_or_default() {
        let Ok(text) = String::from_utf8(value.0) else { continue };
        if !PUBLIC.contains(&key.as_str()) && text.trim().len() >= SHORTEST {
            count += 1;
            // One that was made anew, or renewed, is another.
            let version = secret.metadata.resource_version.as_deref().unwrap_or_default();
            add(secrets, &format!("{cluster} Secret {name} ({uid}, {version}) {key}"), text.trim());
        }
    }
    count
}

/// A secret as it is, each long line of it, and as manifests hold it.
fn add(secrets: &mut Secrets, name: &str, text: &str) {
    for (number, line) in text.lines().enumerate() {
        if line.len() >= SHORTEST && !line.starts_with("-----") {
            secrets.insert(format!("{name} line {number}"), line.to_owned());
        }
    }
    secrets.insert(format!("{name} in base64"), encode(text));
}

/// What of all this is in a place. The secret itself is not told.
fn found(place: &Place, secrets: &Secrets) -> Vec<String> {
    let known = secrets.iter().filter(|(_, secret)| place.text.contains(secret.as_str()));
    let mut all: Vec<_> = known.map(|(name, _)| format!("{} shows {name}", place.name)).collect();
    let shapes = [
        "-----BEGIN PRIVATE KEY",
        "-----BEGIN RSA PRIVATE KEY",
        "-----BEGIN EC PRIVATE KEY",
        "AccountKey=",
        "&sig=",
    ];
    all.extend(
        shapes.iter().filter(|s| place.text.contains(**s)).map(|s| format!("{} shows {s}", place.name)),
    );
    all.extend(token(&place.text).map(|at| format!("{} shows a token after {at:?}", place.name)));
    all
}

/// What stands before a token with a signature, if there is one: two parts that begin as JSON does, and a third.
fn token(text: &str) -> Option<String> {
    let is_of_it = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.match_indices(".eyJ").find_map(|(dot, _)| {
        let begin = text[..dot].rfind(|c| !is_of_it(c)).map_or(0, |at| at + 1);
        let claims = &text[dot + 1..];
        let signature = claims.trim_start_matches(is_of_it).strip_prefix('.')?;
        let signed = signature.find(|c| !is_of_it(c)).unwrap_or(signature.len()) >= SHORTEST;
        let before: Vec<char> = text[..begin].chars().rev().take(60).collect();
        (text[begin..dot].starts_with("eyJ") && signed).then(|| before.into_iter().rev().collect())
    })
}

/// Puts the word where it has to be found.
async fn plant(sandbox: &Sandbox, clusters: &[Reachable], word: &str) {
    for cluster in clusters {
        let metadata = ObjectMeta { name: Some(word.to_owned()), ..ObjectMeta::default() };
        let planted = ConfigMap { metadata, ..ConfigMap::default() };
        let api = Api::<ConfigMap>::namespaced(cluster.client.clone(), "default");
        api.create(&PostParams::default(), &planted).await.expect("it is planted");
    }
    sandbox.arm("GET", &format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{word}"), None);
}

/// All objects of all kinds but Secrets: specs, statuses, conditions, Events, inputs and last words of Jobs.
fn objects(sandbox: &Sandbox, cluster: &Reachable, word: &str) -> Place {
    let kubectl = |arguments: &[&str]| {
        ok(&sandbox.kubectl(&[&["--kubeconfig", cluster.kubeconfig.as_str()], arguments].concat()))
    };
    let kinds = kubectl(&["api-resources", "--verbs=list", "-o", "name"]);
    let kinds: Vec<_> = kinds.lines().filter(|kind| *kind != "secrets").collect();
    assert!(kinds.contains(&"pods") && kinds.iter().any(|kind| kind.starts_with("events")));
    let text = kubectl(&["get", &kinds.join(","), "-A", "-o", "json", "--show-managed-fields"]);
    Place { name: format!("objects of {}", cluster.name), text, control: word.to_owned() }
}

/// Logs of all containers of a cluster, of those that ran before too.
async fn logs(cluster: &Reachable) -> Vec<Place> {
    let pods = Api::<Pod>::all(cluster.client.clone()).list(&ListParams::default()).await.expect("pods");
    let mut all = Vec::new();
    for pod in pods {
        let api = Api::<Pod>::namespaced(cluster.client.clone(), &pod.namespace().unwrap_or_default());
        let mut text = String::new();
        let spec = pod.spec.clone().unwrap_or_default();
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            for previous in [false, true] {
                let container = Some(container.name.clone());
                let parameters = LogParams { container, previous, ..LogParams::default() };
                text += &api.logs(&pod.name_any(), &parameters).await.unwrap_or_default();
            }
        }
        let is_operator = pod.labels().get("app.kubernetes.io/component").is_some_and(|c| c == "operator");
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref()).into_iter().flatten();
        // One that starts has not said it yet.
        let is_ready = { conditions }.any(|c| c.type_ == "Ready" && c.status == "True");
        let control = match pod.name_any() == "octopus-0" {
            _ if !is_ready || pod.metadata.deletion_timestamp.is_some() => "",
            true => "Web server is ready",
            false if is_operator => "\"started\"",
            false => "",
        };
        let name = format!("log of {} in {}", pod.name_any(), cluster.name);
        all.push(Place { name, text, control: control.to_owned() });
    }
    all
}

async fn metrics(client: &Client, pod: &str) -> Place {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:8080/proxy/metrics");
    let request = http::Request::get(path).body(Vec::new()).expect("a request");
    let text = client.request_text(request).await.expect("metrics");
    Place { name: format!("metrics of {pod}"), text, control: "reef_operator_build_info".to_owned() }
}

/// What the sandbox's own programs log: API servers and their audits, schedulers, nodes.
fn files(sandbox: &Sandbox, word: &str) -> Vec<Place> {
    let entries = fs::read_dir(sandbox.folder().join("logs")).expect("the logs");
    let place = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let text = String::from_utf8_lossy(&fs::read(entry.path()).unwrap_or_default()).into_owned();
        // Slots that no reef has got have an audit too.
        let has_word = name == "management-audit.log";
        let control = if has_word { word.to_owned() } else { String::new() };
        Place { name: format!("file {name}"), text, control }
    };
    let all: Vec<_> = entries.flatten().map(place).collect();
    assert!(all.iter().any(|place| !place.control.is_empty()), "the audit is there");
    all
}

fn journal(sandbox: &Sandbox, word: &str) -> Place {
    let text = sandbox.azure_journal().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    Place { name: "Azure's journal".to_owned(), text, control: format!("resourceGroups/{word}") }
}

/// Arguments of all processes, and the environment of all but instances.
fn processes(sandbox: &Sandbox) -> Vec<Place> {
    let all = sandbox.processes();
    let folder = sandbox.folder().to_string_lossy().into_owned();
    let arguments = all.iter().map(|p| p.command.replace('\0', " ") + "\n").collect();
    let others = all.iter().filter(|p| !p.command.starts_with("/octopusdeploy\0"));
    let environment = others.map(|p| p.environment.replace('\0', "\n")).collect();
    vec![
        Place { name: "arguments".to_owned(), text: arguments, control: folder },
        Place {
            name: "environment".to_owned(),
            text: environment,
            control: "POD_NAME=reef-operator-".to_owned(),
        },
    ]
}

impl Sandbox {
    /// Keys and signatures of the emulated Azure.
    fn azure_secrets(&self) -> Vec<String> {
        let answer = self.azure_control("GET", "/secrets", "");
        let (_, body) = answer.split_once("\r\n\r\n").expect("an answer");
        let all: Vec<_> =
            body.lines().map(str::trim).filter(|l| l.len() >= SHORTEST).map(str::to_owned).collect();
        assert!(!all.is_empty(), "there are accounts or operations");
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_text(text: &str) -> Vec<String> {
        let mut secrets = Secrets::new();
        add(&mut secrets, "key", "-----BEGIN KEY-----\n0123456789abcdefXYZ\nshort\n");
        found(&Place { name: "here".to_owned(), text: text.to_owned(), control: String::new() }, &secrets)
    }

    #[test]
    fn a_secret_is_found_as_it_is_by_line_and_in_base64() {
        let whole = encode("-----BEGIN KEY-----\n0123456789abcdefXYZ\nshort\n");
        for (text, expect) in [
            ("key=0123456789abcdefXYZ;", Some("here shows key line 1")),
            (&*format!("data: {whole}"), Some("here shows key in base64")),
            ("0123456789abcdefXY short", None),
            ("-----BEGIN PRIVATE KEY-----", Some("here shows -----BEGIN PRIVATE KEY")),
        ] {
            assert_eq!(in_text(text).first().map(String::as_str), expect, "{text}");
        }
    }

    #[test]
    fn a_token_is_known_by_its_shape() {
        let token_of = |signature: &str| format!("auth=eyJ0eXAiOiJKV1QifQ.eyJzdWIiOiJhIn0.{signature}\"");
        assert_eq!(token(&token_of("0123456789abcdef-_")), Some("auth=".to_owned()));
        assert_eq!(token(&token_of("short")), None);
        assert_eq!(token("a.eyJzdWIi"), None);
        assert_eq!(token("metadata.eyJ0eXAi.0123456789abcdef"), None);
    }
}
