//! The way out of a pod: connections through a CONNECT proxy, and one HTTPS request over them.

use std::{fmt::Write as _, io, path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// How long a connection or a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest answer that is read, bytes.
const LONGEST: u64 = 64 * 1024;

/// The way out.
#[derive(Clone)]
pub(super) struct Tunnel {
    /// Address of the proxy, `host:port`; none means direct connections.
    proxy: Option<String>,
}

impl Tunnel {
    /// Through the proxy of this URL, as `HTTPS_PROXY` names it.
    pub(super) fn new(proxy: Option<&str>) -> Self {
        let address = |url: &str| url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Self { proxy: proxy.map(address) }
    }

    /// A connection to a port of a host.
    pub(super) async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let connected = timeout(PATIENCE, async {
            let Some(proxy) = &self.proxy else { return TcpStream::connect((host, port)).await };
            let reached = TcpStream::connect(proxy).await;
            let mut stream =
                reached.map_err(|e| io::Error::new(e.kind(), format!("the proxy {proxy}: {e}")))?;
            let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                if head.len() > 8 * 1024 {
                    return Err(io::Error::other("the proxy's answer is too long"));
                }
                head.push(stream.read_u8().await?);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let status = head.lines().next().unwrap_or_default();
            match status.split(' ').nth(1) {
                Some("200") => Ok(stream),
                _ => Err(io::Error::other(format!("no way to {host}:{port}: the proxy says {status}"))),
            }
        });
        connected.await.map_err(|_| io::Error::other(format!("no way to {host}:{port}: timeout")))?
    }

    /// Posts a form by HTTPS; status and body of the answer.
    pub(super) async fn post(
        &self,
        url: &str,
        ca: &Path,
        form: &[(&str, &str)],
    ) -> io::Result<(u16, Vec<u8>)> {
        let bad = || io::Error::other(format!("{url} is no URL with https"));
        let rest = url.strip_prefix("https://").ok_or_else(bad)?;
        let (authority, path) = rest.split_once('/').ok_or_else(bad)?;
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| bad())?),
            None => (authority, 443),
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|_| bad())?;
        let connector = TlsConnector::from(Arc::new(trusting(ca).await?));
        let body: Vec<_> = form.iter().map(|(k, v)| format!("{k}={}", escape(v))).collect();
        let body = body.join("&");
        let request = format!(
            "POST /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let stream = self.connect(host, port).await?;
        let exchange = timeout(PATIENCE, async {
            let mut stream = connector.connect(name, stream).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            // Some servers end without TLS's goodbye; what was read counts.
            match stream.take(LONGEST).read_to_end(&mut answer).await {
                Err(error) if answer.is_empty() => Err(error),
                _ => Ok(answer),
            }
        });
        let answer = exchange.await.map_err(|_| io::Error::other(format!("{host}: timeout")))??;
        parse(&answer).ok_or_else(|| io::Error::other(format!("{host} gave no HTTP answer")))
    }
}

async fn trusting(ca: &Path) -> io::Result<ClientConfig> {
    let pem =
        tokio::fs::read(ca).await.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", ca.display())))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer[end + 4..].to_vec()))
}

/// As forms want it.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_escaped_and_answers_are_read() {
        assert_eq!(escape("https://a/.default b"), "https%3A%2F%2Fa%2F.default%20b");
        assert_eq!(parse(b"HTTP/1.1 401 No\r\nA: b\r\n\r\n{}"), Some((401, b"{}".to_vec())));
        assert_eq!(parse(b"hello"), None);
    }

    #[tokio::test]
    async fn connections_pass_the_proxy_and_its_refusal_is_told() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let proxy = format!("http://{}", listener.local_addr().unwrap());
        let served = tokio::spawn(async move {
            let mut heads = Vec::new();
            for status in ["200 Connection established", "403 Forbidden"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0u8; 256];
                let got = stream.read(&mut head).await.unwrap();
                heads.push(String::from_utf8_lossy(&head[..got]).into_owned());
                stream.write_all(format!("HTTP/1.1 {status}\r\n\r\nhi").as_bytes()).await.unwrap();
            }
            heads
        });
        let tunnel = Tunnel::new(Some(&proxy));
        let mut stream = tunnel.connect("r1.database.windows.net", 1433).await.unwrap();
        let mut first = [0u8; 2];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"hi", "what follows the proxy's answer is the connection's");
        let refused = tunnel.connect("r2.database.windows.net", 1433).await.unwrap_err().to_string();
        assert!(refused.contains("403") && refused.contains("r2."), "{refused}");
        let heads = served.await.unwrap();
        assert!(heads[0].starts_with("CONNECT r1.database.windows.net:1433 HTTP/1.1\r\n"), "{heads:?}");
    }
}
