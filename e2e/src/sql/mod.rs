//! The SQL front: what stands for every Azure SQL server of the emulator. It speaks TDS with TLS, takes Entra's
//! tokens and nothing else, lets in where the server's network rules do, and keeps each database apart.

mod engine;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_restore;
mod wire;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{Context, Error, azure::server::Azure, pki::Identity};
use engine::Session;
pub use engine::Who;
use wire::{SqlError, Wrapped};

/// A connection that says nothing for this long is closed.
const PATIENCE: Duration = Duration::from_secs(600);

/// Port of Azure SQL.
pub const PORT: u16 = 1433;

/// Domain of Azure SQL servers.
pub const DOMAIN: &str = "database.windows.net";

/// What the emulator says of a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What names the database's content: another one for a database that was made again.
    pub key: String,
    /// Of what content at which moment it was made, milliseconds of the cloud's time: that content first whose own
    /// origin is known.
    pub origins: Vec<Origin>,
    /// Whether it is a replica, which takes no changes of its own.
    pub is_replica: bool,
    /// Name of the database.
    pub database: String,
    /// Whoever signs in.
    pub who: Who,
}

/// That a content began as another was at a moment, milliseconds of the cloud's time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// What names it.
    pub key: String,
    /// What names the other.
    pub from: String,
    /// The moment.
    pub at: u64,
}

/// Why a login is refused: SQL Server's number and text.
pub type Refused = (i32, String);

/// Held while contents are made, so that each is made once.
static RESTORING: Mutex<()> = Mutex::new(());

struct Front {
    azure: Azure,
    /// Name of the cluster from which connections come; none of the reefs' for other places.
    from: String,
    folder: PathBuf,
    tls: Arc<ServerConfig>,
}

/// Serves connections that come from one cluster, on a free port of this machine, as long as the process lives.
pub fn serve(azure: &Azure, identity: &Identity, from: &str, folder: &Path) -> Result<SocketAddr, Error> {
    std::fs::create_dir_all(folder).context("folder of the databases")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("port of the SQL front")?;
    let address = listener.local_addr().context("port of the SQL front")?;
    let tls = config(identity).map_err(io::Error::other).context("TLS of the SQL front")?;
    let (azure, from, folder) = (azure.clone(), from.to_owned(), folder.to_owned());
    let front = Arc::new(Front { azure, from, folder, tls });
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let front = front.clone();
            thread::spawn(move || {
                if let Err(error) = front.connection(stream) {
                    tracing::debug!(%error, "connection to a database");
                }
            });
        }
    });
    Ok(address)
}

/// TLS 1.2, because TLS inside TDS packets ends with the handshake, and 1.3 has none of a fixed length.
fn config(identity: &Identity) -> Result<Arc<ServerConfig>, rustls::Error> {
    let broken = |e: rustls::pki_types::pem::Error| rustls::Error::General(e.to_string());
    let chain = vec![CertificateDer::from_pem_slice(identity.cert.as_bytes()).map_err(broken)?];
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(broken)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Arc::new(config))
}

impl Front {
    fn connection(&self, tcp: TcpStream) -> io::Result<()> {
        let number = self.azure.note_session(tcp.try_clone()?);
        let result = self.serve(tcp);
        self.azure.forget_session(number);
        result
    }

    fn serve(&self, mut tcp: TcpStream) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        wire::message(&mut tcp)?;
        wire::answer(&mut tcp, &wire::PRELOGIN_ANSWER)?;
        let mut tls = ServerConnection::new(self.tls.clone()).map_err(io::Error::other)?;
        let mut wrapped = Wrapped { stream: tcp, left: 0, wrapping: true };
        while tls.is_handshaking() {
            tls.complete_io(&mut wrapped)?;
        }
        wrapped.wrapping = false;
        let mut stream = StreamOwned::new(tls, wrapped);
        let (kind, message) = wire::message(&mut stream)?;
        let login = wire::login(&message).filter(|_| kind == wire::LOGIN);
        let login = login.ok_or_else(|| io::Error::other("no login"))?;
        match self.session(&login) {
            Ok((session, entry)) => {
                wire::answer(&mut stream, &wire::login_ack())?;
                talk(&mut stream, &session, || self.azure.sql_is_same(&login.server, &entry))
            }
            Err(error) => wire::answer(&mut stream, &wire::error(&error)),
        }
    }

    fn session(&self, login: &wire::Login) -> Result<(Session, Entry), SqlError> {
        let token = login.token.as_deref().ok_or_else(engine::login_failed)?;
        let entry = self.azure.sql_login(&self.from, &login.server, &login.database, token);
        let entry = entry.map_err(|(number, message)| SqlError::new(number, message))?;
        self.restore(&entry.origins)?;
        let azure = self.azure.clone();
        let clock = Box::new(move || azure.now());
        let database = (entry.database.as_str(), entry.is_replica);
        Ok((Session::open(&self.folder.join(&entry.key), database, entry.who.clone(), clock)?, entry))
    }
}

impl Front {
    /// Makes the contents that are not there yet.
    fn restore(&self, origins: &[Origin]) -> Result<(), SqlError> {
        let _held = RESTORING.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = origins.iter().filter(|origin| !self.folder.join(&origin.key).exists());
        missing.into_iter().try_for_each(|Origin { key, from, at }| {
            Session::restore(&self.folder.join(from), &self.folder.join(key), *at)
        })
    }
}

fn talk(
    stream: &mut (impl io::Read + io::Write),
    session: &Session,
    is_same: impl Fn() -> bool,
) -> io::Result<()> {
    loop {
        let (kind, message) = wire::message(stream)?;
        if !is_same() {
            return Err(io::Error::other("the database failed over"));
        }
        let tokens = match (kind, wire::batch(&message)) {
            (wire::ATTENTION, _) => wire::stopped(),
            (wire::BATCH, Some(batch)) => {
                let outcomes = session.run(&batch);
                let last = outcomes.len().saturating_sub(1);
                let tokens = outcomes.iter().enumerate().map(|(at, outcome)| match outcome {
                    Ok(outcome) => wire::outcome(outcome, at < last),
                    Err(error) => wire::error(error),
                });
                let tokens: Vec<u8> = tokens.flatten().collect();
                if tokens.is_empty() { wire::outcome(&wire::Outcome::Changed(0), false) } else { tokens }
            }
            _ => wire::error(&SqlError::new(2812, "Only batches are understood by the sandbox.")),
        };
        wire::answer(stream, &tokens)?;
    }
}
