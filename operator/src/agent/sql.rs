//! T-SQL on Azure SQL, as an administrator with a token of Entra.
//!
//! An identity gets into a database as a contained user whose SID is the identity's client id. That needs no
//! question to Entra's directory, and so no right there. Source: Microsoft's pages on contained users; the form
//! with `TYPE = E` is not in them, and in wide use.

use std::{io, time::Duration};

use tiberius::{AuthMethod, Client, Config, EncryptionLevel, Row};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt};

/// Port of Azure SQL.
const PORT: u16 = 1433;

/// So many redirections are followed: within Azure a gateway names the node that has the database.
const REDIRECTIONS: usize = 3;

/// Longest head of a proxy's answer, bytes.
const LONGEST_HEAD: usize = 8192;

/// A database, and who signs in.
#[derive(Clone)]
pub struct Server<'a> {
    /// Host name of the server.
    pub host: &'a str,
    /// Name of the database.
    pub database: &'a str,
    /// Certificates of the authorities that are trusted, PEM, if not the system's.
    pub ca: Option<&'a str>,
    /// Entra token for Azure SQL.
    pub token: &'a str,
    /// Longest time for all of a call.
    pub timeout: Duration,
    /// Host and port of the proxy that connections go through, if there is one.
    pub proxy: Option<String>,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All was as wanted.
    Unchanged,
    /// The user was made.
    Created,
    /// A user of this name with another SID was replaced.
    Replaced,
    /// The user lacked its role.
    RoleAdded,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or it broke.
    #[error("not reachable: {0}")]
    Unreachable(String),
    /// The server lets this identity, or this network, not in.
    #[error("denied ({number}): {message}")]
    Denied {
        /// SQL Server's number.
        number: u32,
        /// Its text.
        message: String,
    },
    /// There is no such database, or it is not open.
    #[error("no such database ({number}): {message}")]
    NoDatabase {
        /// SQL Server's number.
        number: u32,
        /// Its text.
        message: String,
    },
    /// The server asks to come again later.
    #[error("busy ({number}): {message}")]
    Busy {
        /// SQL Server's number.
        number: u32,
        /// Its text.
        message: String,
    },
    /// The server refused a statement.
    #[error("refused ({number}): {message}")]
    Refused {
        /// SQL Server's number.
        number: u32,
        /// Its text.
        message: String,
    },
    /// The client id is none.
    #[error("client id {0} is no UUID")]
    ClientId(String),
    /// Another user of the database has this identity already.
    #[error("user {0} has the same SID: it has to be dropped by hand")]
    OtherName(String),
}

impl From<tiberius::error::Error> for Error {
    fn from(error: tiberius::error::Error) -> Self {
        match error {
            tiberius::error::Error::Server(token) => classed(token.code(), token.message().to_owned()),
            other => Self::Unreachable(other.to_string()),
        }
    }
}

fn classed(number: u32, message: String) -> Error {
    match number {
        18456 | 18470 | 40914 | 40615 | 916 | 15247 => Error::Denied { number, message },
        4060 | 40532 | 911 => Error::NoDatabase { number, message },
        1205 | 10928 | 10929 | 40143 | 40197 | 40501 | 40540 | 40613 | 49918 | 49919 | 49920 => {
            Error::Busy { number, message }
        }
        _ => Error::Refused { number, message },
    }
}

/// Sees to it that the managed identity with this client id is the database's user `name` and owns it.
pub async fn ensure_user(server: &Server<'_>, name: &str, client_id: &str) -> Result<Outcome, Error> {
    let late = || Error::Unreachable(format!("no end after {} s", server.timeout.as_secs()));
    tokio::time::timeout(server.timeout, ensure(server, name, client_id))
        .await
        .unwrap_or_else(|_| Err(late()))
}

async fn ensure(server: &Server<'_>, name: &str, client_id: &str) -> Result<Outcome, Error> {
    let wanted = sid(client_id).ok_or_else(|| Error::ClientId(client_id.to_owned()))?;
    let mut client = open(server).await?;
    let rows = query(&mut client, "SELECT name, sid FROM sys.database_principals WHERE type = 'E'").await?;
    let users = rows.iter().map(|row| {
        let name = row.try_get::<&str, _>(0)?.unwrap_or_default().to_owned();
        Ok((name, row.try_get::<&[u8], _>(1)?.unwrap_or_default().to_vec()))
    });
    let users = users.collect::<Result<Vec<_>, tiberius::error::Error>>()?;
    if let Some((other, _)) = users.iter().find(|(n, sid)| *sid == wanted && !n.eq_ignore_ascii_case(name)) {
        return Err(Error::OtherName(other.clone()));
    }
    let (quoted, hex) = (quoted(name), wanted.map(|byte| format!("{byte:02X}")).concat());
    let create = format!("CREATE USER {quoted} WITH SID = 0x{hex}, TYPE = E");
    let outcome = match users.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)) {
        Some((_, sid)) if *sid == wanted => Outcome::Unchanged,
        Some(_) => {
            // The identity was made again and has another id: the old one is nobody's any more.
            query(&mut client, &format!("DROP USER {quoted}")).await?;
            query(&mut client, &create).await?;
            Outcome::Replaced
        }
        None => {
            query(&mut client, &create).await?;
            Outcome::Created
        }
    };
    let member = format!("SELECT IS_ROLEMEMBER(N'db_owner', N'{}')", name.replace('\'', "''"));
    let rows = query(&mut client, &member).await?;
    let is_owner = rows.first().and_then(|row| row.try_get::<i32, _>(0).ok().flatten()) == Some(1);
    if is_owner {
        return Ok(outcome);
    }
    query(&mut client, &format!("ALTER ROLE db_owner ADD MEMBER {quoted}")).await?;
    Ok(if outcome == Outcome::Unchanged { Outcome::RoleAdded } else { outcome })
}

/// A name as a statement takes it.
fn quoted(name: &str) -> String {
    format!("[{}]", name.replace(']', "]]"))
}

/// The SID of an identity's user: its client id in the byte order of SQL Server, whose first three groups are
/// little-endian.
fn sid(client_id: &str) -> Option<[u8; 16]> {
    let groups: Vec<&str> = client_id.split('-').collect();
    if groups.iter().map(|g| g.len()).ne([8, 4, 4, 4, 12]) {
        return None;
    }
    let mut bytes = u128::from_str_radix(&groups.concat(), 16).ok()?.to_be_bytes();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Some(bytes)
}

type Wire = Client<Compat<TcpStream>>;

async fn open(server: &Server<'_>) -> Result<Wire, Error> {
    let (mut host, mut port) = (server.host.to_owned(), PORT);
    for _ in 0..=REDIRECTIONS {
        let mut config = Config::new();
        config.host(&host);
        config.port(port);
        config.database(server.database);
        config.application_name("reef-operator");
        config.authentication(AuthMethod::aad_token(server.token));
        config.encryption(EncryptionLevel::Required);
        if let Some(ca) = server.ca {
            config.trust_cert_ca_bundle(ca.as_bytes().to_vec());
        }
        let tcp = dial(server.proxy.as_deref(), &host, port).await;
        let tcp = tcp.map_err(|e| Error::Unreachable(format!("{host}:{port}: {e}")))?;
        match Box::pin(Client::connect(config, tcp.compat_write())).await {
            Ok(client) => return Ok(client),
            Err(tiberius::error::Error::Routing { host: to, port: at }) => (host, port) = (to, at),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Unreachable(format!("{host}: redirected too often")))
}

/// A connection, through the proxy if there is one.
async fn dial(proxy: Option<&str>, host: &str, port: u16) -> io::Result<TcpStream> {
    let Some(proxy) = proxy else {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        return Ok(stream);
    };
    let mut stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    stream
        .write_all(format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n").as_bytes())
        .await?;
    let mut head = Vec::new();
    // Byte by byte: what follows belongs to the connection.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > LONGEST_HEAD {
            return Err(io::Error::other("the proxy's answer has no end"));
        }
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status == "200" {
        return Ok(stream);
    }
    Err(io::Error::other(format!("the proxy says {}", head.lines().next().unwrap_or_default())))
}

/// Runs one statement to its end: an error may come after rows.
async fn query(client: &mut Wire, statement: &str) -> Result<Vec<Row>, Error> {
    let results = client.simple_query(statement).await?.into_results().await?;
    Ok(results.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_id_becomes_a_sid() {
        let sid = sid("01234567-89ab-4def-8123-456789abcdef").unwrap();
        assert_eq!(sid[..8], [0x67, 0x45, 0x23, 0x01, 0xab, 0x89, 0xef, 0x4d]);
        assert_eq!(sid[8..], [0x81, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        for bad in
            ["", "01234567", "01234567-89ab-4def-8123-456789abcdeg", "01234567-89ab-4def-8123456789abcdef"]
        {
            assert_eq!(super::sid(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_are_quoted_and_errors_have_a_class() {
        assert_eq!(quoted("a]; DROP USER [b"), "[a]]; DROP USER [b]");
        assert!(matches!(classed(18456, String::new()), Error::Denied { .. }));
        assert!(matches!(classed(4060, String::new()), Error::NoDatabase { .. }));
        assert!(matches!(classed(40613, String::new()), Error::Busy { .. }));
        assert!(matches!(classed(102, String::new()), Error::Refused { number: 102, .. }));
    }
}
