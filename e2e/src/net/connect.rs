//! Opening what the network has found.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{
    Caller, ClusterNetwork,
    resolve::{NoRoute, Target},
};
use crate::runtime;

/// An open connection.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NoConnection {
    /// Nothing is meant by the name, nothing is ready there, or a policy refuses it.
    #[error(transparent)]
    Route(#[from] NoRoute),
    /// It did not answer.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl ClusterNetwork {
    /// Connects `caller` to what `host` and `port` mean in the cluster.
    pub async fn connect(
        &self,
        caller: &Caller,
        host: &str,
        port: u16,
    ) -> Result<Box<dyn Wire>, NoConnection> {
        let opened: io::Result<Box<dyn Wire>> = match self.route(caller, host, port)? {
            Target::Local(address) => TcpStream::connect(address).await.map(|s| Box::new(s) as _),
            Target::Pod { ingress, port } => runtime::connect(&ingress, port).await.map(|s| Box::new(s) as _),
        };
        Ok(opened?)
    }

    /// Its name, for logs.
    pub fn name(&self) -> &str {
        &self.name
    }
}
