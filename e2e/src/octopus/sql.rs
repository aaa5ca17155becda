//! The database over TDS, as the instance's own identity.
//!
//! Every statement is a batch of its own of plain T-SQL, so that the order in which an error comes is known.

use std::{borrow::Cow, fmt::Write as _, io, time::Duration};

use serde_json::Value;
use tiberius::{AuthMethod, Client, Config, EncryptionLevel, Row};
use tokio::{net::TcpStream, sync::Mutex, time::timeout};
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt};

use super::{
    connection::Connection,
    identity::Identity,
    settings::Settings,
    start::StartError,
    store::{Answer, Change, Rows, Store, StoreError, Table},
    tunnel::Tunnel,
};

type Wire = Client<Compat<TcpStream>>;

/// How long signing in, and each statement, may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// How many redirections are followed.
const REDIRECTIONS: usize = 3;

/// The database.
pub(super) struct Sql {
    connection: Connection,
    identity: Identity,
    tunnel: Tunnel,
    ca: Vec<u8>,
    /// The connection while it is idle. Who uses it takes it out: one that was left in the middle of
    /// something, because its caller went away, is not used again.
    idle: Mutex<Option<Wire>>,
}

impl Sql {
    /// The database of the settings; connects when it is first asked.
    pub(super) fn new(settings: &Settings) -> Result<Self, StartError> {
        let ca = std::fs::read(&settings.ca)
            .map_err(|e| StartError::Setting(format!("{}: {e}", settings.ca.display())))?;
        Ok(Self {
            connection: settings.connection.clone(),
            identity: Identity::new(settings),
            tunnel: Tunnel::new(settings.proxy.as_deref()),
            ca,
            idle: Mutex::default(),
        })
    }

    async fn connect(&self) -> Result<Wire, StoreError> {
        let away = |error: io::Error| StoreError::Away(error.to_string());
        let token = self.identity.token().await.map_err(away)?;
        let (mut host, mut port) = (self.connection.host.clone(), self.connection.port);
        for _ in 0..=REDIRECTIONS {
            let mut config = Config::new();
            config.host(&host);
            config.port(port);
            config.database(&self.connection.database);
            config.application_name("Octopus Server");
            config.encryption(EncryptionLevel::Required);
            config.trust_cert_ca_bundle(self.ca.clone());
            config.authentication(AuthMethod::aad_token(&token));
            let stream = self.tunnel.connect(&host, port).await.map_err(away)?;
            stream.set_nodelay(true).map_err(away)?;
            // Boxed: signing in is much the largest of all steps.
            let signing_in = Box::pin(Client::connect(config, stream.compat_write()));
            let signed_in = timeout(PATIENCE, signing_in).await;
            match signed_in.map_err(|_| StoreError::Away("signing in took too long".to_owned()))? {
                Ok(wire) => return Ok(wire),
                Err(tiberius::error::Error::Routing { host: to, port: at }) => (host, port) = (to, at),
                Err(error) => return Err(translate(&error)),
            }
        }
        Err(StoreError::Away("the server redirects for ever".to_owned()))
    }

    /// A connection on which `first` was run: the idle one, or a new one where that is broken by now.
    async fn begin(&self, first: &str) -> Result<(Wire, Vec<Row>), StoreError> {
        let idle = self.idle.lock().await.take();
        if let Some(mut wire) = idle {
            match run(&mut wire, first).await {
                Err(StoreError::Away(_)) => {}
                other => return self.keep_or_drop(wire, other).await,
            }
        }
        let mut wire = self.connect().await?;
        let result = run(&mut wire, first).await;
        self.keep_or_drop(wire, result).await
    }

    /// After a refusal the connection is still good.
    async fn keep_or_drop(
        &self,
        wire: Wire,
        result: Result<Vec<Row>, StoreError>,
    ) -> Result<(Wire, Vec<Row>), StoreError> {
        match result {
            Ok(rows) => Ok((wire, rows)),
            Err(error) => {
                if !matches!(error, StoreError::Away(_)) {
                    self.keep(wire).await;
                }
                Err(error)
            }
        }
    }

    async fn keep(&self, wire: Wire) {
        *self.idle.lock().await = Some(wire);
    }

    async fn query(&self, statement: &str) -> Result<Vec<Row>, StoreError> {
        let (wire, rows) = self.begin(statement).await?;
        self.keep(wire).await;
        Ok(rows)
    }

    async fn transaction(&self, changes: &[Change]) -> Result<(), StoreError> {
        let (mut wire, _) = self.begin("BEGIN TRANSACTION").await?;
        for change in changes {
            if let Change::Wait(time) = change {
                tokio::time::sleep(*time).await;
            }
            for statement in statements(change) {
                if let Err(error) = run(&mut wire, &statement).await {
                    // A broken connection is left alone: the server rolls back when it closes.
                    let whole = !matches!(error, StoreError::Away(_));
                    if whole && run(&mut wire, "ROLLBACK").await.is_ok() {
                        self.keep(wire).await;
                    }
                    return Err(error);
                }
            }
        }
        run(&mut wire, "COMMIT").await?;
        self.keep(wire).await;
        Ok(())
    }
}

impl Store for Sql {
    fn has(&self, table: Table) -> Answer<'_, bool> {
        Box::pin(async move {
            let rows = self.query(&format!("SELECT OBJECT_ID(N'dbo.{}')", table.name())).await?;
            let id = rows.first().map(|row| row.try_get::<i32, _>(0)).transpose();
            Ok(id.map_err(|e| translate(&e))?.flatten().is_some())
        })
    }

    fn read(&self, table: Table) -> Answer<'_, Rows> {
        Box::pin(async move {
            let rows = self.query(&format!("SELECT Id, Body FROM dbo.{}", table.name())).await?;
            let text = |row: &Row, at: usize| {
                let text = row.try_get::<&str, _>(at).map_err(|e| translate(&e))?;
                Ok::<_, StoreError>(text.unwrap_or_default().to_owned())
            };
            let document = |row: &Row| {
                let body = serde_json::from_str(&text(row, 1)?);
                Ok((
                    text(row, 0)?,
                    body.map_err(|_| StoreError::Refused("a document is no JSON".to_owned()))?,
                ))
            };
            rows.iter().map(document).collect()
        })
    }

    fn write(&self, changes: Vec<Change>) -> Answer<'_, ()> {
        Box::pin(async move { self.transaction(&changes).await })
    }
}

/// Runs one statement to the end of its answer: an error may come after rows.
async fn run(wire: &mut Wire, statement: &str) -> Result<Vec<Row>, StoreError> {
    let rows = timeout(PATIENCE, async {
        let answer = wire.simple_query(Cow::Borrowed(statement)).await?;
        Ok::<_, tiberius::error::Error>(answer.into_results().await?.into_iter().next().unwrap_or_default())
    });
    rows.await.map_err(|_| StoreError::Away("no answer in time".to_owned()))?.map_err(|e| translate(&e))
}

/// What an error means to the server. Its statement is not repeated: it holds documents.
fn translate(error: &tiberius::error::Error) -> StoreError {
    match error.code() {
        // A duplicate key, an object that exists.
        Some(2627 | 2601 | 2714) => StoreError::Conflict,
        // Deadlock victim; what Azure SQL says while a database moves or scales.
        Some(code @ (1205 | 40143 | 40197 | 40501 | 40540 | 40613)) => {
            StoreError::Away(format!("error {code}"))
        }
        Some(code) => {
            let message = match error {
                // Messages about signing in and rights name no document.
                tiberius::error::Error::Server(token) if [229, 916, 4060, 18456].contains(&code) => {
                    token.message()
                }
                _ => "",
            };
            StoreError::Refused(format!("error {code} {message}").trim_end().to_owned())
        }
        None => StoreError::Away(error.to_string()),
    }
}

/// A change as T-SQL.
fn statements(change: &Change) -> Vec<String> {
    let insert = |table: Table, id: &str, body: &Value| {
        let body = literal(&body.to_string());
        format!("INSERT INTO dbo.{} (Id, Body) VALUES ({}, {body})", table.name(), literal(id))
    };
    let delete =
        |table: Table, id: &str| format!("DELETE FROM dbo.{} WHERE Id = {}", table.name(), literal(id));
    match change {
        Change::Create(table) => vec![format!(
            "CREATE TABLE dbo.{} (Id NVARCHAR(200) NOT NULL PRIMARY KEY, Body NVARCHAR(MAX) NOT NULL)",
            table.name()
        )],
        Change::Insert(table, id, body) => vec![insert(*table, id, body)],
        Change::Put(table, id, body) => vec![delete(*table, id), insert(*table, id, body)],
        Change::Delete(table, id) => vec![delete(*table, id)],
        Change::Wait(_) => Vec::new(),
    }
}

/// A string literal of T-SQL.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 3);
    let _ = write!(out, "N'{}'", text.replace('\'', "''"));
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_become_plain_statements_whatever_they_hold() {
        let put =
            Change::Put(Table::Projects, "Projects-1".to_owned(), json!({ "Name": "O'Neil'); DROP--" }));
        assert_eq!(
            statements(&put),
            [
                "DELETE FROM dbo.Project WHERE Id = N'Projects-1'",
                "INSERT INTO dbo.Project (Id, Body) VALUES \
                 (N'Projects-1', N'{\"Name\":\"O''Neil''); DROP--\"}')",
            ]
        );
        assert_eq!(
            statements(&Change::Create(Table::Tasks)),
            [
                "CREATE TABLE dbo.ServerTask (Id NVARCHAR(200) NOT NULL PRIMARY KEY, Body NVARCHAR(MAX) NOT NULL)"
            ]
        );
    }
}
