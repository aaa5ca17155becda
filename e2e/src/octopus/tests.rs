//! The server over a database in memory: what it keeps, what it refuses, and what corrupts.

use std::{fs, io, net::Ipv4Addr};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{memory::Memory, nodes::Seen, settings::tests::environment, store::Table, *};
use crate::{harness::eventually, probe};

pub(super) const KEY: &str = "API-0123456789ABCDEF";
const OLD: &str = "2026.2.100";
const NEW: &str = "2026.3.1";

/// One instance: its database and its share.
pub(super) struct Instance {
    pub(super) store: Arc<Memory>,
    pub(super) share: TempDir,
}

impl Instance {
    pub(super) fn new() -> Self {
        let share = tempfile::tempdir().unwrap();
        for folder in ["repository", "artifacts", "taskLogs", "eventExports"] {
            fs::create_dir(share.path().join(folder)).unwrap();
        }
        Self { store: Arc::default(), share }
    }

    /// Tries to start a node with this release and these variables.
    async fn try_start(&self, version: &str, changes: &[(&str, &str)]) -> Result<Running, String> {
        let mut env = environment();
        env.insert("SANDBOX_IMAGE".to_owned(), format!("octopusdeploy/octopusdeploy:{version}"));
        env.insert("SANDBOX_UPGRADE_MS".to_owned(), "1".to_owned());
        env.extend(changes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        let mut settings = Settings::read(&env).map_err(|e| e.to_string())?;
        settings.root = self.share.path().to_owned();
        settings.listen = Ipv4Addr::LOCALHOST;
        (settings.web_port, settings.polling_port) = (0, 0);
        serve(settings, self.store.clone()).await.map_err(|e| e.to_string())
    }

    pub(super) async fn start(&self, version: &str) -> Running {
        self.try_start(version, &[]).await.unwrap()
    }

    async fn start_node(&self, version: &str, node: &str) -> Running {
        self.try_start(version, &[("OCTOPUS_SERVER_NODE_NAME", node)]).await.unwrap()
    }

    async fn refused(&self, version: &str, changes: &[(&str, &str)]) -> String {
        self.try_start(version, changes).await.err().expect("it must not start")
    }

    async fn seen(&self, node: &str) -> Seen {
        let seen = Seen::all(&self.store.read(Table::NodesSeen).await.unwrap());
        seen.into_iter().find(|s| s.name == node).unwrap()
    }
}

impl Running {
    /// Ends it as SIGKILL would.
    fn kill(self) {
        self.beat.abort();
        self.http.abort();
        self.stop.cancel();
    }

    async fn raw(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: &[u8],
    ) -> io::Result<(u16, Vec<u8>)> {
        let mut stream = TcpStream::connect(self.web).await?;
        let key = key.map(|key| format!("X-Octopus-ApiKey: {key}\r\n")).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: octopus\r\nConnection: close\r\n{key}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
        let status = String::from_utf8_lossy(&answer[9..12]).parse().map_err(io::Error::other)?;
        Ok((status, answer[end + 4..].to_vec()))
    }

    /// Status and body of a request with the administrator's key.
    pub(super) async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, body) = self.raw(method, path, Some(KEY), body.as_bytes()).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    pub(super) async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, &Value::Null).await
    }

    async fn corrupted(&self) -> bool {
        let (status, health) = self.get("/api/serverstatus/health").await;
        let corrupted = health["Description"].as_str().unwrap().contains("corrupted");
        assert_eq!(status, if corrupted { 418 } else { 200 }, "{health}");
        corrupted
    }
}

/// What the polling port says, and its certificate.
fn first_words(address: std::net::SocketAddr, host: &str) -> std::io::Result<(String, Vec<u8>)> {
    let (words, shown) = probe::first_words(address, host)?;
    Ok((String::from_utf8_lossy(&words).trim_end().to_owned(), shown))
}

#[tokio::test]
async fn what_customers_write_survives_restarts_and_upgrades() {
    let instance = Instance::new();
    let first = instance.start(OLD).await;
    let (_, root) = first.get("/api").await;
    assert_eq!((&root["Application"], &root["Version"]), (&json!("Octopus Deploy"), &json!(OLD)));
    let project = json!({ "Name": "O'Neil's shop", "Customer": { "made": "this" } });
    let (status, project) = first.call("POST", "/api/projects", &project).await;
    assert_eq!((status, &project["Id"]), (201, &json!("Projects-1")));
    assert_eq!(first.call("POST", "/api/projects", &json!({ "Name": "o'neil's SHOP" })).await.0, 400);
    let bytes: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let path = "/api/Spaces-1/packages/raw?fileName=Acme.Web.1.0.0.zip";
    assert_eq!(first.raw("POST", path, Some(KEY), &bytes).await.unwrap().0, 201);
    assert_eq!(first.raw("POST", path, Some(KEY), b"other").await.unwrap().0, 409);
    assert_eq!(
        first.raw("POST", "/api/Spaces-1/packages/raw?fileName=..x", Some(KEY), b"").await.unwrap().0,
        400
    );
    assert_eq!(
        first
            .call("PUT", "/api/serverconfiguration", &json!({ "ServerUri": "https://a.octopus.example" }))
            .await
            .0,
        200
    );
    let shown = first.polling;
    let before = tokio::task::spawn_blocking(move || first_words(shown, "polling.a.octopus.example"));
    let before = before.await.unwrap().unwrap();
    assert_eq!(root["InstallationId"], before.0);
    first.stop().await;
    assert!(instance.seen("octopus-0").await.is_offline);

    for version in [OLD, NEW] {
        let again = instance.start(version).await;
        let (_, root_again) = again.get("/api").await;
        assert_eq!(
            (&root_again["Version"], &root_again["InstallationId"]),
            (&json!(version), &root["InstallationId"])
        );
        assert_eq!(again.get("/api/projects").await.1["Items"], json!([project]));
        let (status, package) = again.raw("GET", path, Some(KEY), b"").await.unwrap();
        assert!(status == 200 && package == bytes, "{status}, {} bytes", package.len());
        let page = String::from_utf8(again.raw("GET", "/", None, b"").await.unwrap().1).unwrap();
        assert!(page.contains("https://a.octopus.example") && page.contains(&before.0), "{page}");
        let shown = again.polling;
        let after = tokio::task::spawn_blocking(move || first_words(shown, "polling.a.octopus.example"));
        assert_eq!(after.await.unwrap().unwrap(), before, "Tentacles trust one certificate");
        assert!(!again.corrupted().await);
        let mark =
            fs::read_to_string(instance.share.path().join("taskLogs/.octopus-octopus-0.json")).unwrap();
        assert!(mark.contains(version), "{mark}");
        again.stop().await;
    }
    let end = instance.start(NEW).await;
    assert_eq!(end.call("DELETE", "/api/projects/Projects-1", &Value::Null).await.0, 200);
    assert_eq!(end.get("/api/projects/Projects-1").await.0, 404);
}

#[tokio::test]
async fn a_newer_schema_and_a_wrong_master_key_are_refused() {
    let instance = Instance::new();
    instance.start(OLD).await.stop().await;
    instance.start(NEW).await.stop().await;
    let refused = instance.refused(OLD, &[]).await;
    assert!(
        refused.contains("protect its data") && refused.contains(NEW) && refused.contains(OLD),
        "{refused}"
    );
    let other = "/////////////////////w==";
    let refused = instance.refused(NEW, &[("MASTER_KEY", other)]).await;
    assert!(refused.contains("not the key") && !refused.contains(other), "{refused}");
    let refused = instance.refused(NEW, &[("MASTER_KEY", "")]).await;
    assert!(refused.contains("MASTER_KEY") && refused.contains("not set"), "{refused}");
    assert!(!instance.start(NEW).await.corrupted().await, "refusals did no harm");

    let keyless = Instance::new();
    keyless.try_start(NEW, &[("MASTER_KEY", "")]).await.unwrap().stop().await;
    assert!(keyless.refused(NEW, &[("MASTER_KEY", other)]).await.contains("not the key"));
}

#[tokio::test]
async fn an_upgrade_beside_a_running_old_node_corrupts_for_ever() {
    let instance = Instance::new();
    let old = instance.start_node(OLD, "octopus-0").await;
    assert!(!old.corrupted().await);
    let new = instance.start_node(NEW, "octopus-1").await;
    assert!(old.corrupted().await && new.corrupted().await);
    old.stop().await;
    new.stop().await;
    for version in [NEW, "2026.4.1"] {
        let later = instance.start(version).await;
        assert!(later.corrupted().await, "{version}");
        later.stop().await;
    }
}

#[tokio::test]
async fn a_killed_old_node_counts_as_running_until_it_was_silent_for_long() {
    let instance = Instance::new();
    instance.start_node(OLD, "octopus-0").await.kill();
    let mut seen = instance.seen("octopus-0").await;
    assert!(!seen.is_offline);
    seen.last_seen = Timestamp::now() - jiff::SignedDuration::from_secs(31);
    instance.store.write(vec![seen.put()]).await.unwrap();
    let new = instance.start_node(NEW, "octopus-1").await;
    assert!(!new.corrupted().await);
    new.kill();
    assert!(instance.start_node("2026.4.1", "octopus-2").await.corrupted().await);
}

/// An old node that slept through an upgrade, and the same node on two reefs.
#[tokio::test]
async fn nodes_that_meet_later_corrupt_too() {
    let instance = Instance::new();
    let old = instance.start_node(OLD, "octopus-0").await;
    old.beat.abort();
    let mut silent = instance.seen("octopus-0").await;
    silent.is_offline = true;
    instance.store.write(vec![silent.put()]).await.unwrap();
    let new = instance.start_node(NEW, "octopus-1").await;
    assert!(!new.corrupted().await, "the old one seems to be gone");
    beat::beat(&old.server, Timestamp::now()).await.unwrap();
    assert!(new.corrupted().await);

    let instance = Instance::new();
    let one = instance.start(OLD).await;
    one.beat.abort();
    let beat_now = || beat::beat(&one.server, Timestamp::now());
    beat_now().await.unwrap();
    assert!(!one.corrupted().await);
    let other = instance.start(OLD).await;
    beat_now().await.unwrap();
    assert!(other.corrupted().await, "two processes under one name");

    let instance = Instance::new();
    instance.start(OLD).await.kill();
    let again = instance.start(OLD).await;
    again.beat.abort();
    beat::beat(&again.server, Timestamp::now()).await.unwrap();
    assert!(!again.corrupted().await, "a node that was killed and came back is one process");
}

#[tokio::test]
async fn several_nodes_of_one_release_share_a_database() {
    let instance = Instance::new();
    let one = instance.start_node(OLD, "octopus-0").await;
    let two = instance.start_node(OLD, "octopus-1").await;
    let (_, summary) = one.get("/api/octopusservernodes/summary").await;
    let nodes = summary["Nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 2);
    assert!(
        nodes.iter().all(|n| n["IsOffline"] == false && n["Version"] == OLD && n["RunningTaskCount"] == 0)
    );
    let path = "/api/octopusservernodes/OctopusServerNodes-octopus-1";
    assert_eq!(one.call("DELETE", path, &Value::Null).await.0, 400, "it is online");
    two.stop().await;
    assert_eq!(one.get("/api/octopusservernodes/summary").await.1["Nodes"][1]["IsOffline"], true);
    assert_eq!(one.call("DELETE", path, &Value::Null).await.0, 200);
    assert_eq!(one.get("/api/octopusservernodes").await.1["TotalResults"], 1);
    beat::beat(&one.server, Timestamp::now()).await.unwrap();
    assert!(!one.corrupted().await);
}

#[tokio::test]
async fn only_the_administrators_key_opens_the_api() {
    let instance = Instance::new();
    let server = instance.start(OLD).await;
    for path in [
        "/api/featuresconfiguration",
        "/api/serverconfiguration",
        "/api/licenses/licenses-current",
        "/api/maintenanceconfiguration",
        "/api/octopusservernodes",
        "/api/octopusservernodes/summary",
        "/api/tasks",
        "/api/projects",
    ] {
        for key in [None, Some("API-FFFFFFFFFFFFFFFF"), Some("")] {
            assert_eq!(server.raw("GET", path, key, b"").await.unwrap().0, 401, "{path} {key:?}");
        }
        assert_eq!(server.get(path).await.0, 200, "{path}");
    }
    for path in [
        "/",
        "/api",
        "/api/octopusservernodes/ping",
        "/api/serverstatus",
        "/api/serverstatus/health",
        "/api/serverstatus/hosted/internal",
        "/api/serverstatus/hosted/external",
    ] {
        assert_eq!(server.raw("GET", path, None, b"").await.unwrap().0, 200, "{path}");
    }
    assert_eq!(server.raw("POST", "/api/projects", None, b"{}").await.unwrap().0, 401);
    assert_eq!(server.get("/api/nothing").await.0, 404);
    let users = instance.store.read(Table::Users).await.unwrap();
    assert!(!json!(users).to_string().contains(KEY), "only a hash is kept");
    server.stop().await;
    let other = "API-AAAAAAAAAAAAAAAA";
    let server = instance.try_start(OLD, &[("ADMIN_API_KEY", other)]).await.unwrap();
    assert_eq!(server.get("/api/projects").await.0, 401, "the environment's key is the one that counts");
    assert_eq!(server.raw("GET", "/api/projects", Some(other), b"").await.unwrap().0, 200);
}

#[tokio::test]
async fn settings_are_whole_resources_and_stay() {
    let instance = Instance::new();
    let license = ("OCTOPUS_SERVER_BASE64_LICENSE", "PExpY2Vuc2UvPg==");
    let server = instance.try_start(OLD, &[license]).await.unwrap();
    let path = "/api/featuresconfiguration";
    let (_, mut features) = server.get(path).await;
    assert_eq!(features["IsBuiltInWorkerEnabled"], true);
    features["IsBuiltInWorkerEnabled"] = false.into();
    features["FromALaterRelease"] = json!({ "kept": [1, 2] });
    assert_eq!(server.call("PUT", path, &features).await, (200, features.clone()));
    assert_eq!(server.get(path).await.1, features);
    for bad in [json!([]), json!({ "IsBuiltInWorkerEnabled": "no" })] {
        assert_eq!(server.call("PUT", path, &bad).await.0, 400, "{bad}");
    }
    assert_eq!(server.get(path).await.1, features);
    let (_, licensed) = server.get("/api/licenses/licenses-current").await;
    assert_eq!(licensed["LicenseText"], "<License/>");
    assert_eq!(
        server.call("PUT", "/api/licenses/licenses-current", &json!({ "LicenseText": " " })).await.0,
        400
    );
    assert_eq!(
        server.call("PUT", "/api/maintenanceconfiguration", &json!({ "IsInMaintenanceMode": true })).await.0,
        200
    );
    assert_eq!(server.get("/api/serverstatus").await.1["IsInMaintenanceMode"], true);
    server.stop().await;
    let server = instance.start(NEW).await;
    assert_eq!(server.get(path).await.1, features);
    assert_eq!(server.get("/api/licenses/licenses-current").await.1, licensed);
    assert_eq!(server.get("/api/serverstatus").await.1["IsInMaintenanceMode"], true);
    // Who does not send the whole resource loses the rest of it.
    server.call("PUT", path, &json!({ "IsConfigureFeedsWithLocalOrSmbPathsEnabled": false })).await;
    let (_, features) = server.get(path).await;
    assert_eq!(
        (&features["IsBuiltInWorkerEnabled"], features.get("FromALaterRelease")),
        (&json!(true), None)
    );
}

async fn state(server: &Running, id: &str, expect: &str) {
    eventually(&format!("{id} is {expect}"), || async {
        (server.get(&format!("/api/tasks/{id}")).await.1["State"] == expect).then_some(())
    })
    .await;
}

async fn drain(server: &Running, drain: bool) {
    let path = "/api/octopusservernodes/OctopusServerNodes-octopus-0";
    let (_, mut node) = server.get(path).await;
    node["IsInMaintenanceMode"] = drain.into();
    node["MaxConcurrentTasks"] = 1.into();
    assert_eq!(server.call("PUT", path, &node).await.0, 200);
}

#[tokio::test]
async fn a_drained_node_ends_its_tasks_takes_none_and_says_418() {
    let instance = Instance::new();
    let server = instance.start(OLD).await;
    let task = |seconds: f64| json!({ "Name": "Deploy", "Arguments": { "Seconds": seconds } });
    let (status, ping) = server.get("/api/octopusservernodes/ping").await;
    assert_eq!((status, &ping["MaxConcurrentTasks"], &ping["Version"]), (200, &json!(10), &json!(OLD)));
    assert_eq!(server.call("POST", "/api/tasks", &task(600.0)).await.0, 201);
    state(&server, "ServerTasks-1", "Executing").await;
    drain(&server, true).await;
    let (status, ping) = server.get("/api/octopusservernodes/ping").await;
    assert_eq!(
        (status, &ping["IsInMaintenanceMode"], &ping["IsOffline"]),
        (418, &json!(true), &json!(false))
    );
    let (status, health) = server.get("/api/serverstatus/health").await;
    assert_eq!((status, &health["IsEntireClusterDrainingTasks"]), (418, &json!(true)));
    assert_eq!(server.get("/api/serverstatus/hosted/internal").await.0, 200);
    server.call("POST", "/api/tasks", &task(0.01)).await;
    beat::beat(&server.server, Timestamp::now()).await.unwrap();
    let running = server.get("/api/tasks?running=true&node=OctopusServerNodes-octopus-0").await.1;
    assert_eq!((&running["TotalResults"], &running["Items"][0]["Id"]), (&json!(1), &json!("ServerTasks-1")));
    assert_eq!(server.get("/api/tasks/ServerTasks-2").await.1["State"], "Queued");
    assert_eq!(server.call("POST", "/api/tasks/ServerTasks-1/cancel", &Value::Null).await.0, 200);
    assert_eq!(server.get("/api/octopusservernodes/summary").await.1["Nodes"][0]["RunningTaskCount"], 0);
    server.stop().await;

    let server = instance.start(OLD).await;
    assert_eq!(server.get("/api/octopusservernodes/ping").await.0, 418, "a drain outlives a restart");
    drain(&server, false).await;
    assert_eq!(server.get("/api/octopusservernodes/ping").await.0, 200);
    state(&server, "ServerTasks-2", "Success").await;
    // What runs when the server ends, and what a kill left, is canceled.
    server.call("POST", "/api/tasks", &task(600.0)).await;
    state(&server, "ServerTasks-3", "Executing").await;
    server.stop().await;
    let server = instance.start(OLD).await;
    assert_eq!(server.get("/api/tasks/ServerTasks-3").await.1["State"], "Canceled");
    server.call("POST", "/api/tasks", &task(600.0)).await;
    state(&server, "ServerTasks-4", "Executing").await;
    server.kill();
    let server = instance.start(OLD).await;
    assert_eq!(server.get("/api/tasks?states=Canceled").await.1["TotalResults"], 3);
}

#[tokio::test]
async fn a_lost_database_shows_and_the_node_lives_on() {
    let instance = Instance::new();
    let server = instance.start(OLD).await;
    instance.store.away(true);
    let (status, health) = server.get("/api/serverstatus/health").await;
    assert_eq!((status, &health["IsOperatingNormally"]), (418, &json!(false)));
    assert_eq!(server.get("/api/octopusservernodes/ping").await.0, 200);
    assert_eq!(server.get("/api").await.0, 200);
    assert_eq!(server.get("/api/serverstatus/hosted/internal").await.0, 503);
    assert_eq!(server.get("/api/projects").await.0, 503);
    instance.store.away(false);
    assert!(!server.corrupted().await);
    assert_eq!(server.get("/api/projects").await.0, 200);
    assert_eq!(server.get("/api/serverstatus/hosted/internal").await.0, 200);
}

#[tokio::test]
async fn missing_and_unwritable_mounts_are_refused() {
    let instance = Instance::new();
    let folder = instance.share.path().join("eventExports");
    fs::remove_dir(&folder).unwrap();
    let refused = instance.refused(OLD, &[]).await;
    assert!(refused.contains("eventExports") && refused.contains("missing"), "{refused}");
    // Also root, as whom tests may run, cannot write a file where a folder is.
    fs::create_dir_all(folder.join(".octopus-octopus-0.json")).unwrap();
    let refused = instance.refused(OLD, &[]).await;
    assert!(refused.contains("eventExports"), "{refused}");
    assert!(!instance.store.has(Table::SchemaVersions).await.unwrap(), "the database was not touched");
}
