//! The sandbox: the whole world that the operator lives in, on one machine.
//!
//! Real API servers with their schedulers and controllers ([`cluster`]), nodes that run what is scheduled
//! as real processes in namespaces of their own ([`node`], [`runtime`]), and a network in which every
//! connection has a known caller and passes the clusters' network policies ([`net`]). Everything listens
//! on loopback or on sockets in one folder, needs no privileges, and is gone when its first process is.

pub mod azure;
pub mod canaries;
pub mod cluster;
pub mod crash;
mod curls;
pub mod dir;
pub mod gateway;
pub mod harness;
pub mod install;
pub mod instance_harness;
pub mod kstatus;
pub mod net;
pub mod node;
pub mod octopus;
pub mod outage;
pub mod pki;
pub mod probe;
pub mod process;
pub mod random;
pub mod recordings;
pub mod reef_harness;
pub mod reefs;
pub mod runtime;
pub mod shares;
pub mod sql;
pub mod tls;
pub mod toolbox;
pub mod tools;
pub mod turns;
pub mod up;
pub mod wipe;
pub mod world;

/// Why the sandbox cannot do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine lacks something. The text says what, and how to get it.
    #[error("{0}")]
    Prerequisite(String),
    /// The folder is in use by another sandbox.
    #[error(
        "{0} is in use by a running sandbox: end it with `reef-sandbox down --dir {0}`, or choose another --dir"
    )]
    InUse(String),
    /// Something that was started did not become ready.
    #[error("{what} was not ready after {seconds} s; see {log}")]
    NotReady {
        /// What.
        what: String,
        /// How long we waited, seconds.
        seconds: u64,
        /// Where to look.
        log: String,
    },
    /// A program that has to run ended.
    #[error("{0}")]
    Ended(String),
    /// helm refused.
    #[error("helm: {0}")]
    Helm(String),
    /// A file or process could not be made.
    #[error("{context}: {source}")]
    Io {
        /// What was tried.
        context: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// A certificate could not be made.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A token could not be made.
    #[error("token: {0}")]
    Token(String),
    /// An API server refused.
    #[error("{0}")]
    Kube(#[from] kube::Error),
    /// A kubeconfig of ours is not understood.
    #[error("{0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
}

/// Adds to an error what was tried.
pub trait Context<T> {
    /// Adds to an error what was tried.
    fn context(self, what: impl Into<String>) -> Result<T, Error>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, what: impl Into<String>) -> Result<T, Error> {
        self.map_err(|source| Error::Io { context: what.into(), source })
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
