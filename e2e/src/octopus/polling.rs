//! The port of polling Tentacles. Its TLS ends here and nowhere before: Tentacles trust this certificate,
//! so it lives as long as the database.

use std::{io, sync::Arc, time::Duration};

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::pki::Identity;

/// How long a caller may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A new certificate of an installation.
pub(super) fn certificate() -> io::Result<Identity> {
    let made = || {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name.push(DnType::CommonName, "Octopus Portal");
        let key = KeyPair::generate()?;
        let cert = params.self_signed(&key)?.pem();
        Ok::<_, rcgen::Error>(Identity { cert, key: key.serialize_pem() })
    };
    made().map_err(io::Error::other)
}

/// Tells each caller the installation's id, until `stop`.
pub(super) fn serve(
    listener: TcpListener,
    identity: &Identity,
    installation: &str,
    stop: &CancellationToken,
) -> io::Result<()> {
    let acceptor = acceptor(identity).map_err(io::Error::other)?;
    let (line, stop) = (format!("{installation}\n"), stop.clone());
    let accept = async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors, most likely; there may be some soon.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (acceptor, line) = (acceptor.clone(), line.clone());
            tokio::spawn(timeout(PATIENCE, answer(acceptor, stream, line)));
        }
    };
    tokio::spawn(async move { stop.run_until_cancelled(accept).await });
    Ok(())
}

async fn answer(acceptor: TlsAcceptor, stream: TcpStream, line: String) -> io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    stream.write_all(line.as_bytes()).await?;
    stream.shutdown().await
}

fn acceptor(identity: &Identity) -> Result<TlsAcceptor, Box<dyn std::error::Error + Send + Sync>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let chain = vec![CertificateDer::from_pem_slice(identity.cert.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let config = config.with_no_client_auth().with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
