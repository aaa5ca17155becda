//! What the end-to-end stories share: a sandbox for a test, and ways to wait and look.
#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a step that fails is to fail its story")]

use std::{
    cell::RefCell,
    io::{BufRead, BufReader},
    net::SocketAddr,
    panic,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Once, mpsc},
    thread,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, LogParams, PostParams},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    cluster, probe,
    tools::Tools,
    turns::{self, Turn},
};

/// Longest wait for anything, generous because the machine may be busy; nothing waits this long when all
/// is well.
pub const PATIENCE: Duration = Duration::from_secs(180);

thread_local! {
    /// Why this thread's story failed.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps why a story failed, besides printing it.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |what| {
            PANIC.set(what.to_string());
            print(what);
        }));
    });
}

/// A running sandbox. Dropping it ends it.
pub struct Sandbox {
    program: PathBuf,
    child: Child,
    folder: PathBuf,
    /// Removed with the sandbox; none if the folder is somebody else's.
    temp: Option<TempDir>,
    turn: Turn,
}

impl Sandbox {
    /// Starts a sandbox in a folder of its own and waits until it is ready.
    pub fn start(program: &str, arguments: &[&str]) -> Self {
        Self::start_temp(program, arguments, turns::together())
    }

    /// The same for a story that needs the machine for itself.
    pub fn start_alone(program: &str, arguments: &[&str]) -> Self {
        Self::start_temp(program, arguments, turns::alone())
    }

    /// From now on others may run beside a story that had the machine for itself.
    pub fn share(&self) {
        self.turn.share();
    }

    fn start_temp(program: &str, arguments: &[&str], turn: Turn) -> Self {
        let temp = TempDir::new().expect("a temporary folder");
        let folder = temp.path().to_owned();
        let mut sandbox = Self::start_with(program, &folder, arguments, turn);
        sandbox.temp = Some(temp);
        sandbox
    }

    /// Starts a sandbox in a given folder and waits until it is ready.
    pub fn start_in(program: &str, folder: &Path, arguments: &[&str]) -> Self {
        Self::start_with(program, folder, arguments, turns::together())
    }

    fn start_with(program: &str, folder: &Path, arguments: &[&str], turn: Turn) -> Self {
        keep_panics();
        let mut child = Command::new(program)
            .args(["up", "--end-with-stdin", "--dir"])
            .arg(folder)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("reef-sandbox starts");
        let stdout = child.stdout.take().expect("standard output");
        let (ready, is_ready) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                println!("sandbox: {line}");
                if line == "sandbox ready" {
                    let _ = ready.send(());
                }
            }
        });
        let sandbox = Self { program: program.into(), child, folder: folder.to_owned(), temp: None, turn };
        is_ready.recv_timeout(PATIENCE).expect("the sandbox becomes ready; its output is above");
        sandbox
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Process id of `reef-sandbox up`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends `reef-sandbox up` a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    /// Waits for the end of `reef-sandbox up`; its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        until("the sandbox ends", || self.child.try_wait().expect("wait")).code()
    }

    /// Runs `reef-sandbox` with these arguments.
    pub fn sandbox(&self, arguments: &[&str]) -> Output {
        Command::new(&self.program).args(arguments).output().expect("reef-sandbox runs")
    }

    /// The administrator of the management cluster.
    pub async fn client(&self) -> Client {
        let text = std::fs::read_to_string(self.folder.join("management.kubeconfig")).expect("kubeconfig");
        cluster::client(&text).await.expect("a client")
    }

    /// Runs kubectl against the management cluster.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        self.tool("kubectl", arguments, None)
    }

    /// Runs kubectl with a manifest on its standard input.
    pub fn kubectl_with(&self, arguments: &[&str], manifest: &str) -> Output {
        self.tool("kubectl", arguments, Some(manifest))
    }

    /// Runs helm against the management cluster.
    pub fn helm(&self, arguments: &[&str]) -> Output {
        self.tool("helm", arguments, None)
    }

    fn tool(&self, tool: &str, arguments: &[&str], stdin: Option<&str>) -> Output {
        use std::io::Write;
        let program = Tools::from_env().find(tool).expect("the tool");
        let home = self.folder.join("run/helm-of-the-test");
        let mut child = Command::new(program)
            .args(arguments)
            .env("KUBECONFIG", self.folder.join("management.kubeconfig"))
            .env("HELM_CACHE_HOME", home.join("cache"))
            .env("HELM_CONFIG_HOME", home.join("config"))
            .env("HELM_DATA_HOME", home.join("data"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the tool runs");
        if let (Some(text), Some(mut input)) = (stdin, child.stdin.take()) {
            input.write_all(text.as_bytes()).expect("write the manifest");
        }
        child.wait_with_output().expect("the tool ends")
    }

    /// Makes calls to the emulated Azure fail; see [`crate::azure::faults::Rule`].
    pub fn azure_fault(&self, rule: &Value) {
        let answer = self.azure_control("POST", "/faults", &rule.to_string());
        assert!(answer.contains(" 204 "), "{answer}");
    }

    /// Ends all faults of the emulated Azure.
    pub fn azure_healed(&self) {
        self.azure_control("DELETE", "/faults", "");
    }

    /// Ends those faults of the emulated Azure that have this label.
    pub fn azure_healed_of(&self, label: &str) {
        self.azure_control("DELETE", &format!("/faults/{label}"), "");
    }

    /// The labels of the faults that the emulated Azure still has.
    pub fn azure_faults(&self) -> Vec<String> {
        let answer = self.azure_control("GET", "/faults", "");
        answer.lines().filter_map(|line| line.strip_prefix("label ").map(str::to_owned)).collect()
    }

    /// Every call to the emulated Azure so far.
    pub fn azure_journal(&self) -> Vec<Value> {
        let answer = self.azure_control("GET", "/journal", "");
        answer.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The path of each PUT that brought something into being in the emulated Azure so far.
    pub fn azure_made(&self) -> Vec<String> {
        let answer = self.azure_control("GET", "/made", "");
        answer.lines().filter(|line| line.starts_with("/subscriptions/")).map(str::to_owned).collect()
    }

    pub(crate) fn azure_control(&self, method: &str, path: &str, body: &str) -> String {
        use std::io::{Read, Write};
        let text = std::fs::read_to_string(self.folder.join("azure.json")).expect("azure.json");
        let access: Value = serde_json::from_str(&text).expect("JSON");
        let address = access["control"].as_str().and_then(|c| c.strip_prefix("http://")).expect("control");
        let mut stream = std::net::TcpStream::connect(address).expect("the control API");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all((head + body).as_bytes()).expect("the control API takes the request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the control API answers");
        answer
    }

    /// Calls the emulated Azure as the owner of the subscription: status and body.
    pub fn arm(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let text = std::fs::read_to_string(self.folder.join("azure.json")).expect("azure.json");
        let access: Value = serde_json::from_str(&text).expect("JSON");
        let field = |name: &str| access[name].as_str().expect("a field of azure.json").to_owned();
        let ca = std::fs::read_to_string(field("ca")).expect("the CA");
        let address = field("arm").trim_start_matches("https://").parse().expect("an address");
        let separator = if path.contains('?') { '&' } else { '?' };
        let target = format!("{path}{separator}api-version=2025-01-01");
        let call = probe::Call { address, host: "localhost", ca: &ca };
        let bearer = format!("Bearer {}", field("token"));
        let (status, body) = call.send(method, &target, &[("Authorization", &bearer)], body);
        (status, serde_json::from_str(&body).unwrap_or_default())
    }

    /// Ids of all resources of a group and of what is in them, as Azure keeps them, sorted.
    pub fn azure_ids(&self) -> Vec<String> {
        let answer = self.azure_control("GET", "/resources", "");
        let mut ids: Vec<_> =
            answer.lines().filter(|l| l.starts_with("/subscriptions/")).map(str::to_owned).collect();
        ids.sort();
        // What is being changed is there as it was and as it will be.
        ids.dedup();
        ids
    }

    /// The administrator of a reef's cluster, by the name of the AKS cluster.
    pub async fn reef_client(&self, cluster: &str) -> Client {
        let path = self.folder.join("reefs").join(format!("{cluster}.kubeconfig"));
        cluster::client(&std::fs::read_to_string(path).expect("kubeconfig of the reef"))
            .await
            .expect("a client")
    }

    /// Asks a reef's gateway for a page of a host, by the name of the AKS cluster; the status, if it answers.
    pub fn through_gateway(&self, cluster: &str, host: &str, ca: &str) -> Option<u16> {
        let answer = self.https(cluster, host, ca)?.exchange("GET", "/", &[], &[]);
        answer.ok().map(|answer| answer.status)
    }

    /// The way to a host through a reef's gateway, by the name of the AKS cluster; none without a Gateway.
    pub fn https<'a>(&self, cluster: &str, host: &'a str, ca: &'a str) -> Option<probe::Call<'a>> {
        let address = gateway(&self.folder, cluster)?;
        Some(probe::Call { address, host, ca })
    }

    /// What the server behind a host says first on the port for polling Tentacles of a reef's gateway,
    /// whatever its certificate.
    pub fn polling(&self, cluster: &str, host: &str) -> Option<Vec<u8>> {
        let address = self.gateway(cluster, |name| name.ends_with("/polling"))?;
        probe::first_words(address, host).ok().map(|(words, _)| words).filter(|words| !words.is_empty())
    }

    /// Where a listener of a reef's gateway is on this machine.
    fn gateway(&self, cluster: &str, means: impl Fn(&str) -> bool) -> Option<SocketAddr> {
        listener(&self.folder, cluster, means)
    }

    /// The audit log of the management cluster, one event each.
    pub fn audit(&self) -> Vec<Value> {
        let path = self.folder.join("logs/management-audit.log");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// Where a reef's gateway is on this machine, by the sandbox's folder and the name of the AKS cluster; none without one.
pub fn gateway(folder: &Path, cluster: &str) -> Option<SocketAddr> {
    listener(folder, cluster, |name| name.split('/').count() == 2)
}

fn listener(folder: &Path, cluster: &str, means: impl Fn(&str) -> bool) -> Option<SocketAddr> {
    let path = folder.join("reefs").join(format!("{cluster}.gateways.json"));
    let ports: Value = serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()?;
    let (_, port) = ports.as_object()?.iter().find(|(name, _)| means(name))?;
    Some(SocketAddr::from(([127, 0, 0, 1], u16::try_from(port.as_u64()?).ok()?)))
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if thread::panicking() && matches!(self.child.try_wait(), Ok(None)) {
            let format = "-o=jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.annotations} {.status.conditions}{\"\\n\"}{end}";
            let objects = self.kubectl(&["get", "reef-operator", "-A", format]);
            eprintln!("objects of the failed story:\n{}", String::from_utf8_lossy(&objects.stdout));
            let pods = self.kubectl(&[
                "-n",
                "reef-operator",
                "logs",
                "-l",
                "app.kubernetes.io/component=operator",
                "--tail=15",
            ]);
            eprintln!("the operator's last words:\n{}", String::from_utf8_lossy(&pods.stdout));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("logs of the failed story:");
            for entry in std::fs::read_dir(self.folder.join("logs")).into_iter().flatten().flatten() {
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let lines: Vec<_> = text.lines().collect();
                let name = entry.file_name().to_string_lossy().into_owned();
                // What etcd says is rarely why, and the audit log is too much.
                if !name.contains("audit") && !name.contains("etcd") {
                    eprintln!("== {name}");
                    lines.iter().rev().take(6).rev().for_each(|line| eprintln!("{line}"));
                }
            }
            // Once more where who reads the end of the output finds it.
            eprintln!("{}", PANIC.take());
        }
    }
}

/// Sends a process a signal.
pub fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    let _ = kill_process(pid, signal);
}

/// Looks until there is something; fails the test after [`PATIENCE`].
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Like [`until`], for looks that ask a server.
pub async fn eventually<T, F>(what: &str, look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    eventually_within(PATIENCE.as_secs(), what, look).await
}

/// The same with more patience, in seconds, for what is much work.
pub async fn eventually_within<T, F>(seconds: u64, what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Standard output of a command that has to succeed.
pub fn ok(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard error of a command that has to be refused.
pub fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "not refused: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A running process: its id, its command line and its environment, each argument ended by a zero byte.
pub struct Process {
    /// Its id on this machine.
    pub pid: u32,
    /// Its command line.
    pub command: String,
    /// Its environment.
    pub environment: String,
}

/// All processes of this machine that we may look at; zombies are none.
pub fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let read = |name: &str| {
                let bytes = std::fs::read(entry.path().join(name)).ok()?;
                Some(String::from_utf8_lossy(&bytes).into_owned())
            };
            let command = read("cmdline").filter(|c| !c.is_empty())?;
            Some(Process { pid, command, environment: read("environ").unwrap_or_default() })
        })
        .collect()
}

/// Makes a namespace with these labels that pods can be put into.
pub async fn make_namespace(client: &Client, name: &str, labels: &Value) {
    let namespace: Namespace =
        serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels } }))
            .expect("a namespace");
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await.expect("it is created");
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), name);
    eventually("the default service account", || async { accounts.get("default").await.ok() }).await;
}

/// Runs a program of the image `reef-toolbox` as a pod to its end; its log and exit code.
pub async fn toolbox(client: &Client, namespace: &str, name: &str, arguments: &[&str]) -> (String, i32) {
    let pod = toolbox_pod(name, arguments, &json!({}));
    toolbox_run(client, namespace, &pod).await
}

/// Runs a pod to its end; the log and exit code of its first container.
pub async fn toolbox_run(client: &Client, namespace: &str, pod: &Pod) -> (String, i32) {
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    let name = pod.name_any();
    api.create(&PostParams::default(), pod).await.expect("the pod is created");
    let code = eventually(&format!("pod {name} ends"), || async {
        let status = api.get(&name).await.ok()?.status?;
        let state = status.container_statuses?.first()?.state.clone()?;
        Some(state.terminated?.exit_code)
    })
    .await;
    (api.logs(&name, &LogParams::default()).await.expect("its log"), code)
}

/// A pod that runs the toolbox; `more` is merged into its spec.
pub fn toolbox_pod(name: &str, arguments: &[&str], more: &Value) -> Pod {
    let mut spec = json!({
        "restartPolicy": "Never",
        "containers": [{ "name": "toolbox", "image": "reef-toolbox", "args": arguments }],
    });
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    let labels = json!({ "app": name });
    serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels }, "spec": spec }))
        .expect("a pod")
}

/// Pods of a namespace that are Ready.
pub async fn ready_pods(client: &Client, namespace: &str) -> Vec<Pod> {
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    let list = api.list(&ListParams::default()).await.map(|l| l.items).unwrap_or_default();
    let is_ready = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
            && pod.metadata.deletion_timestamp.is_none()
    };
    list.into_iter().filter(is_ready).collect()
}
