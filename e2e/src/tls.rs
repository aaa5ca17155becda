//! HTTPS listeners.

use std::{error::Error as StdError, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ResolvesServerCert, WebPkiClientVerifier},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::pki::Identity;

/// Longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Accepts TLS connections; a handshake that fails or takes long is that client's trouble alone.
pub struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
}

impl TlsListener {
    /// Serves with a certificate. With `clients`, the certificate of an authority, only its clients are let in.
    pub fn new(
        listener: TcpListener,
        identity: &Identity,
        clients: Option<&str>,
    ) -> Result<Self, Box<dyn StdError + Send + Sync>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let config = match clients {
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
                config.with_client_cert_verifier(verifier)
            }
            None => config.with_no_client_auth(),
        };
        let chain = vec![CertificateDer::from_pem_slice(identity.cert.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
        let config = config.with_single_cert(chain, key)?;
        Ok(Self::with(listener, config))
    }

    /// Serves with whatever certificate the resolver has for a connection; none ends the handshake.
    pub fn with_resolver(
        listener: TcpListener,
        resolver: Arc<dyn ResolvesServerCert>,
    ) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        Ok(Self::with(listener, config))
    }

    fn with(listener: TcpListener, config: ServerConfig) -> Self {
        Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)), handshakes: JoinSet::new() }
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => {
                    let Ok((stream, address)) = accepted else { continue };
                    let handshake = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream));
                    self.handshakes.spawn(async move { Some((handshake.await.ok()?.ok()?, address)) });
                }
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(connection)) = done {
                        return connection;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use axum::serve::Listener;

    use super::*;
    use crate::{
        pki::{Authority, Subject},
        probe::Call,
    };

    #[tokio::test]
    async fn a_client_that_says_nothing_holds_nobody_up() {
        let authority = Authority::new("tests").unwrap();
        let identity = authority.server(&Subject { user: "server", group: None }, &["localhost"]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tls = TlsListener::new(listener, &identity, None).unwrap();
        let silent = TcpStream::connect(address).await.unwrap();
        let ca = authority.cert();
        let client = tokio::task::spawn_blocking(move || {
            Call { address, host: "localhost", ca: &ca }.exchange("GET", "/", &[], &[])
        });
        let began = tokio::time::Instant::now();
        drop(tls.accept().await);
        assert!(began.elapsed() < HANDSHAKE, "it waited for the silent client");
        assert!(client.await.unwrap().is_err(), "nobody answered");
        drop(silent);
    }
}
