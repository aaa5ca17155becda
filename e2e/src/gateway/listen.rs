//! The ports of a gateway on this machine.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, RwLock},
};

use axum::{Router, extract::Request};
use k8s_openapi::api::core::v1::Secret;
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::{spec::Mode, traffic::Traffic};
use crate::{Context, Error, tls::TlsListener};

/// The certificate of a listener, which may change while it listens.
#[derive(Debug, Default)]
struct Certificate(RwLock<Option<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().ok()?.clone()
    }
}

/// A listener's port on this machine; dropping it closes the port.
pub struct Open {
    /// The port.
    pub port: u16,
    /// What it does with what arrives.
    pub traffic: Arc<Traffic>,
    certificate: Arc<Certificate>,
    _task: AbortOnDropHandle<()>,
}

impl Open {
    /// Opens a port.
    pub async fn new(mode: Mode, traffic: Traffic) -> Result<Self, Error> {
        let (traffic, certificate) = (Arc::new(traffic), Arc::new(Certificate::default()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("a gateway's port")?;
        let port = listener.local_addr().map(|a: SocketAddr| a.port()).context("a gateway's port")?;
        let task = match mode {
            Mode::Https => {
                let tls = TlsListener::with_resolver(listener, certificate.clone());
                let tls = tls.map_err(std::io::Error::other).context("a gateway's TLS")?;
                let traffic = traffic.clone();
                let answer = move |request: Request| {
                    let traffic = traffic.clone();
                    async move { traffic.request(request).await }
                };
                let router = Router::new().fallback(answer);
                tokio::spawn(async move {
                    // Ends only with the task.
                    let _ = axum::serve(tls, router).await;
                })
            }
            Mode::Passthrough => tokio::spawn(pass(listener, traffic.clone())),
        };
        Ok(Self { port, traffic, certificate, _task: AbortOnDropHandle::new(task) })
    }

    /// Serves with a certificate from now on; without one no client gets in.
    pub fn certify(&self, certificate: Option<CertifiedKey>) {
        if let Ok(mut current) = self.certificate.0.write() {
            *current = certificate.map(Arc::new);
        }
    }
}

async fn pass(listener: TcpListener, traffic: Arc<Traffic>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let traffic = traffic.clone();
        tokio::spawn(async move {
            if let Err(error) = traffic.connection(stream).await {
                tracing::debug!(%error, "gateway's connection");
            }
        });
    }
}

/// The certificate and key of a Secret; none if they are not there or not of use.
pub fn certified(secret: &Secret) -> Option<CertifiedKey> {
    let data = secret.data.as_ref()?;
    let chain =
        CertificateDer::pem_slice_iter(&data.get("tls.crt")?.0).collect::<Result<Vec<_>, _>>().ok()?;
    let key = PrivateKeyDer::from_pem_slice(&data.get("tls.key")?.0).ok()?;
    (!chain.is_empty()).then_some(())?;
    Some(CertifiedKey::new(chain, any_supported_type(&key).ok()?))
}
