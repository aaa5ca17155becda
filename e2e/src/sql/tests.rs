//! The SQL front as clients see it, with the product's own client among them.

use std::time::Duration;

use reef_operator::agent::sql::{Outcome, Server, ensure_user};
use serde_json::json;
use tempfile::TempDir;
use tiberius::{AuthMethod, Client, Config, EncryptionLevel};
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt};

use super::*;
use crate::azure::{SUBSCRIPTION, slots::Slot};

pub(super) type Wire = Client<Compat<TcpStream>>;

pub(super) const HOST: &str = "sql1.database.windows.net";
pub(super) const AGENT: &str = "11111111-2222-4333-8444-555555555555";
const SERVER: &str = "22222222-2222-4333-8444-55555555aaaa";

pub(super) struct World {
    pub(super) azure: Azure,
    pub(super) inside: SocketAddr,
    outside: SocketAddr,
    _folder: TempDir,
}

pub(super) fn group() -> String {
    format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/r/providers")
}

impl World {
    pub(super) async fn new() -> Self {
        let azure = Azure::start(1, 1000.0).await.unwrap();
        let slot = |name: &str| Slot {
            name: name.to_owned(),
            port: 1,
            ca: String::new(),
            issuer: String::new(),
            version: "1.36.3".to_owned(),
        };
        azure.add_slot(slot("slot-1"));
        azure.occupy(&format!("{}/Microsoft.ContainerService/managedClusters/c", group()), "c");
        let resource_group = group().replace("/providers", "");
        azure.seed(&resource_group, &json!({ "location": "westeurope" }));
        let subnet = format!("{}/Microsoft.Network/virtualNetworks/v/subnets/nodes", group());
        for (id, properties) in [
            ("Microsoft.ContainerService/managedClusters/c", json!({})),
            (
                "Microsoft.ContainerService/managedClusters/c/agentPools/system",
                json!({ "vnetSubnetID": subnet }),
            ),
            ("Microsoft.Sql/servers/sql1", json!({ "administrators": { "sid": AGENT } })),
            (
                "Microsoft.Sql/servers/sql1/virtualNetworkRules/nodes",
                json!({ "virtualNetworkSubnetId": subnet }),
            ),
            ("Microsoft.Sql/servers/sql1/databases/one", json!({ "status": "Online" })),
            ("Microsoft.Sql/servers/sql1/databases/two", json!({ "status": "Online" })),
        ] {
            azure.seed(
                &format!("{}/{id}", group()),
                &json!({ "location": "westeurope", "properties": properties }),
            );
        }
        let folder = TempDir::new().unwrap();
        let serve = |from| super::serve(&azure, azure.sql_identity(), from, folder.path()).unwrap();
        let (inside, outside) = (serve("slot-1"), serve("management"));
        Self { azure, inside, outside, _folder: folder }
    }

    fn token(&self, client: &str, scope: &str) -> String {
        self.azure.token(client, scope)
    }

    pub(super) fn sql_token(&self, client: &str) -> String {
        self.token(client, "https://database.windows.net/.default")
    }

    pub(super) async fn open(
        &self,
        address: SocketAddr,
        host: &str,
        database: &str,
        token: &str,
    ) -> Result<Wire, tiberius::error::Error> {
        let mut config = Config::new();
        config.host(host);
        config.database(database);
        config.authentication(AuthMethod::aad_token(token));
        config.encryption(EncryptionLevel::Required);
        config.trust_cert_ca_bundle(self.azure.ca().as_bytes().to_vec());
        let tcp = TcpStream::connect(address).await.unwrap();
        Box::pin(Client::connect(config, tcp.compat_write())).await
    }

    pub(super) async fn as_(&self, client: &str, database: &str) -> Result<Wire, i32> {
        let opened = self.open(self.inside, HOST, database, &self.sql_token(client)).await;
        opened.map_err(|e| number(&e))
    }
}

/// A proxy that leads to one place whatever it is asked for.
async fn proxy_to(target: SocketAddr) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            assert!(head.starts_with(b"CONNECT sql1.database.windows.net:1433 HTTP/1.1\r\n"));
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut on = TcpStream::connect(target).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut on).await });
        }
    });
    address.to_string()
}

fn number(error: &tiberius::error::Error) -> i32 {
    match error {
        tiberius::error::Error::Server(error) => i32::try_from(error.code()).unwrap(),
        other => panic!("{other}"),
    }
}

pub(super) async fn run(client: &mut Wire, batch: &str) -> Result<Vec<Vec<String>>, i32> {
    let results = match client.simple_query(batch).await {
        Ok(stream) => stream.into_results().await.map_err(|e| number(&e))?,
        Err(error) => return Err(number(&error)),
    };
    let cell = |row: &tiberius::Row, at: usize| {
        let text = row.try_get::<&str, _>(at).ok().flatten().map(str::to_owned);
        let int = row.try_get::<i32, _>(at).ok().flatten().map(|n| n.to_string());
        text.or(int).unwrap_or_else(|| "NULL".to_owned())
    };
    let rows = results.iter().flatten();
    Ok(rows.map(|row| (0..row.len()).map(|at| cell(row, at)).collect()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_identity_has_its_database_and_no_other() {
    let world = World::new().await;
    assert_eq!(world.as_(SERVER, "one").await.err(), Some(18456), "nobody made it a user");
    let mut agent = world.as_(AGENT, "one").await.unwrap();
    let sid = crate::azure::sql::sid(SERVER).unwrap().map(|b| format!("{b:02x}")).concat();
    run(&mut agent, &format!("CREATE USER [id-1] WITH SID = 0x{sid}, TYPE = E")).await.unwrap();
    let mut server = world.as_(SERVER, "one").await.unwrap();
    let table = "CREATE TABLE dbo.T (Id NVARCHAR(200) NOT NULL PRIMARY KEY, Body NVARCHAR(MAX) NOT NULL)";
    assert_eq!(run(&mut server, table).await, Err(229), "a user without a role");
    run(&mut agent, "ALTER ROLE db_owner ADD MEMBER [id-1]").await.unwrap();
    run(&mut server, table).await.unwrap();
    let long = "x'ü".repeat(5000).replace('\'', "''");
    run(&mut server, &format!("INSERT INTO dbo.T (Id, Body) VALUES (N'a', N'{long}')")).await.unwrap();
    let rows = run(&mut server, "SELECT Id, Body FROM dbo.T").await.unwrap();
    assert_eq!(rows, [["a".to_owned(), "x'ü".repeat(5000)]]);
    assert_eq!(world.as_(SERVER, "two").await.err(), Some(18456), "another's database");
    assert_eq!(run(&mut server, "ALTER ROLE db_owner ADD MEMBER [x]").await.err(), Some(15151));
    for (statement, expect) in [
        ("SELECT Id FROM dbo.Missing", 208),
        ("SELECT [Missing] FROM dbo.T", 207),
        ("INSERT INTO dbo.T (Id, Body) VALUES (N'a', N'')", 2627),
        ("GRANT ALL TO x", 102),
        ("SELECT FROM", 102),
        ("SELECT name FROM sys.users", 208),
        (table, 2714),
    ] {
        assert_eq!(run(&mut server, statement).await.err(), Some(expect), "{statement}");
    }
    assert_eq!(
        run(&mut server, "SELECT DB_NAME(); SELECT OBJECT_ID(N'dbo.U')").await.unwrap(),
        [["one"], ["NULL"]]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_business_here_is_refused() {
    let world = World::new().await;
    let good = world.sql_token(AGENT);
    let arm = world.token(AGENT, "https://management.azure.com/.default");
    for (address, host, database, token, expect) in [
        (world.outside, HOST, "one", &good, 40914),
        (world.inside, "other.database.windows.net", "one", &good, 40532),
        (world.inside, HOST, "three", &good, 4060),
        (world.inside, HOST, "one", &arm, 18456),
        (world.inside, HOST, "one", &"x".repeat(9000), 18456),
    ] {
        let refused = world.open(address, host, database, token).await;
        assert_eq!(number(&refused.err().unwrap()), expect, "{host} {database}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_seen_when_they_are_done() {
    let world = World::new().await;
    let mut one = world.as_(AGENT, "one").await.unwrap();
    let mut other = world.as_(AGENT, "one").await.unwrap();
    run(&mut one, "CREATE TABLE dbo.T (n INT)").await.unwrap();
    let count = "SELECT count(*) FROM dbo.T";
    for (end, expect) in [("ROLLBACK", "0"), ("COMMIT", "1")] {
        run(&mut one, "BEGIN TRANSACTION").await.unwrap();
        run(&mut one, "INSERT INTO dbo.T (n) VALUES (1)").await.unwrap();
        assert_eq!(run(&mut other, count).await.unwrap(), [["0"]]);
        run(&mut one, end).await.unwrap();
        assert_eq!(run(&mut other, count).await.unwrap(), [[expect]], "{end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_gives_access_once() {
    let world = World::new().await;
    let token = world.sql_token(AGENT);
    let proxy = proxy_to(world.inside).await;
    let server = Server {
        host: HOST,
        database: "one",
        ca: Some(world.azure.ca()),
        token: &token,
        timeout: Duration::from_secs(30),
        proxy: Some(proxy),
    };
    let mut outcomes = Vec::new();
    for client in [SERVER, SERVER, "33333333-2222-4333-8444-55555555aaaa"] {
        outcomes.push(ensure_user(&server, "id-1", client).await.unwrap());
    }
    assert_eq!(outcomes, [Outcome::Created, Outcome::Unchanged, Outcome::Replaced]);
    assert_eq!(world.as_(SERVER, "one").await.err(), Some(18456), "its SID is no longer the user's");
    let missing = ensure_user(&Server { database: "three", ..server }, "id-1", SERVER).await;
    assert!(missing.unwrap_err().to_string().contains("4060"));
}
