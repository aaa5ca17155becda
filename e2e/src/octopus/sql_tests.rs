//! The database over TDS: signing in, transactions, broken connections, and a whole server on it.

use std::{
    fs,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    Running,
    identity::tests::Federation,
    serve,
    settings::Settings,
    sql::Sql,
    store::{Change, Store, StoreError, Table},
    tds::{self, Db},
};
use crate::pki::{Authority, Subject};

struct World {
    federation: Federation,
    db: Arc<Mutex<Db>>,
    proxy: String,
}

impl World {
    async fn new() -> Self {
        let federation = Federation::new().await;
        let authority = Authority::new("sandbox SQL authority").unwrap();
        let host = "r1.database.windows.net";
        let identity = authority.server(&Subject { user: host, group: None }, &[host]).unwrap();
        let both = format!("{}{}", federation.azure.ca(), authority.cert());
        fs::write(federation.ca(), both).unwrap();
        let db = Arc::<Mutex<Db>>::default();
        let proxy = format!("http://{}", tds::serve(&identity, &db));
        Self { federation, db, proxy }
    }

    fn settings(&self) -> Settings {
        let mut settings = self.federation.settings();
        settings.proxy = Some(self.proxy.clone());
        settings.root = self.federation.folder.path().to_owned();
        settings.listen = Ipv4Addr::LOCALHOST;
        settings.upgrade = Duration::from_millis(1);
        (settings.web_port, settings.polling_port) = (0, 0);
        settings
    }

    fn store(&self) -> Sql {
        Sql::new(&self.settings()).unwrap()
    }

    fn db<T>(&self, look: impl FnOnce(&mut Db) -> T) -> T {
        look(&mut self.db.lock().unwrap())
    }

    async fn start(&self, version: &str) -> Running {
        let mut settings = self.settings();
        settings.version = version.parse().unwrap();
        let store = Arc::new(Sql::new(&settings).unwrap());
        serve(settings, store).await.map_err(|e| panic!("{e}")).unwrap()
    }
}

fn insert(id: &str, body: Value) -> Change {
    Change::Insert(Table::Projects, id.to_owned(), body)
}

#[tokio::test]
async fn changes_happen_together_or_not_at_all() {
    let world = World::new().await;
    let store = world.store();
    assert!(!store.has(Table::Projects).await.unwrap());
    assert!(matches!(store.read(Table::Projects).await, Err(StoreError::Refused(_))));
    // Long and awkward: it spans packets, and its quotes must not end the literal.
    let body = json!({ "Name": "O'Neil's 'shop' N'x', N''y", "Long": "\u{fc}\u{1f419}'".repeat(4000) });
    store.write(vec![Change::Create(Table::Projects), insert("a'b", body.clone())]).await.unwrap();
    assert!(store.has(Table::Projects).await.unwrap());
    assert_eq!(store.read(Table::Projects).await.unwrap(), [("a'b".to_owned(), body.clone())].into());

    let both = vec![insert("c", json!(1)), insert("a'b", json!(2))];
    assert_eq!(store.write(both).await, Err(StoreError::Conflict));
    assert_eq!(world.db(|db| db.batches.last().cloned()).as_deref(), Some("ROLLBACK"));
    assert_eq!(store.write(vec![Change::Create(Table::Projects)]).await, Err(StoreError::Conflict));
    assert_eq!(store.read(Table::Projects).await.unwrap().len(), 1);
    let put = Change::Put(Table::Projects, "a'b".to_owned(), json!(3));
    store.write(vec![put, insert("c", json!(4))]).await.unwrap();
    let rows = store.read(Table::Projects).await.unwrap();
    assert_eq!(rows, [("a'b".to_owned(), json!(3)), ("c".to_owned(), json!(4))].into());
    store.write(vec![Change::Delete(Table::Projects, "c".to_owned())]).await.unwrap();
    assert_eq!(store.read(Table::Projects).await.unwrap().len(), 1);
    let logins = world.db(|db| std::mem::take(&mut db.logins));
    assert_eq!(logins.len(), 1, "one connection for all of it");
    assert_eq!(logins[0]["appid"], world.federation.workload.client.as_str());
    assert_eq!(logins[0]["aud"], "https://database.windows.net");
}

#[tokio::test]
async fn a_broken_connection_is_replaced_and_a_refusal_is_told() {
    let world = World::new().await;
    let store = world.store();
    store.write(vec![Change::Create(Table::Projects)]).await.unwrap();
    world.db(|db| db.cut = true);
    assert!(store.read(Table::Projects).await.unwrap().is_empty(), "asked again on a new connection");
    world.db(|db| db.cut = true);
    store.write(vec![insert("a", json!(1))]).await.unwrap();
    assert_eq!(world.db(|db| db.logins.len()), 3);

    world.db(|db| (db.refuse, db.cut) = (true, true));
    let refused = store.read(Table::Projects).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Refused(why) if why.contains("18456")), "{refused}");
    world.db(|db| db.refuse = false);
    assert_eq!(store.read(Table::Projects).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_whole_server_lives_on_it() {
    let world = World::new().await;
    for folder in ["repository", "artifacts", "taskLogs", "eventExports"] {
        fs::create_dir(world.federation.folder.path().join(folder)).unwrap();
    }
    let old = world.start("2026.2.100").await;
    let (status, project) = old.call("POST", "/api/projects", &json!({ "Name": "O'Neil's shop" })).await;
    assert_eq!(status, 201);
    let (_, root) = old.get("/api").await;
    world.db(|db| db.cut = true);
    let (status, health) = old.get("/api/serverstatus/health").await;
    assert_eq!(status, 200, "{health}");
    old.stop().await;

    let new = world.start("2026.3.1").await;
    assert_eq!(new.get("/api").await.1["InstallationId"], root["InstallationId"]);
    assert_eq!(new.get("/api/projects/Projects-1").await.1, project);
    assert_eq!(new.get("/api/serverstatus/health").await.0, 200);
    let versions = world.db(|db| db.tables["SchemaVersions"].keys().cloned().collect::<Vec<_>>());
    assert_eq!(versions, ["2026.2.100", "2026.3.1"]);
    let beside = world.start("2026.4.1").await;
    assert_eq!(new.get("/api/serverstatus/health").await.0, 418, "two releases met");
    beside.stop().await;
}
