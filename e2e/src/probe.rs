//! A small HTTPS client for the stories: one request, one answer, one connection.
#![expect(clippy::missing_panics_doc, reason = "a call that fails is to fail its story")]

use std::{
    fmt::Write as _,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme,
    StreamOwned, WantsVerifier,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use serde_json::Value;

/// Where to call, under which name, and whom to trust.
pub struct Call<'a> {
    /// Address on this machine.
    pub address: SocketAddr,
    /// Host name that is meant.
    pub host: &'a str,
    /// Certificates of the authorities, PEM.
    pub ca: &'a str,
}

impl Call<'_> {
    /// Status and body; fails the test when there is no answer.
    pub fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> (u16, String) {
        match self.try_send(method, target, headers, body) {
            Ok(answer) => answer,
            #[expect(clippy::panic, reason = "a call that fails is to fail its story")]
            Err(error) => panic!("{method} {target}: {error}"),
        }
    }

    /// Status and body, or why there is no answer.
    pub fn try_send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> io::Result<(u16, String)> {
        let mut headers = headers.to_vec();
        headers.push(("Content-Type", "application/json"));
        let body = body.map(Value::to_string).unwrap_or_default();
        let answer = self.exchange(method, target, &headers, body.as_bytes())?;
        Ok((answer.status, String::from_utf8_lossy(&answer.body).into_owned()))
    }

    /// Sends a request with any body; the answer, or why there is none.
    pub fn exchange(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.ca.as_bytes()) {
            roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
        }
        let config = builder()?.with_root_certificates(roots).with_no_client_auth();
        let mut stream = connect(config, self.host, self.address)?;
        let mut request =
            format!("{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.host);
        for (name, value) in headers {
            let _ = write!(request, "{name}: {value}\r\n");
        }
        let _ = write!(request, "Content-Length: {}\r\n\r\n", body.len());
        stream.write_all(request.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        // Some servers end without TLS's goodbye; what was read counts.
        if let Err(error) = stream.read_to_end(&mut answer)
            && answer.is_empty()
        {
            return Err(error);
        }
        parse(&answer).ok_or_else(|| io::Error::other("no HTTP answer"))
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its status line and headers.
    pub head: String,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let body = &answer[end + 4..];
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("\ntransfer-encoding: chunked");
    let body = if chunked { unchunk(body)? } else { body.to_vec() };
    Some(Answer { status, head, body })
}

/// A body that came in chunks; none if its end is missing.
fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + size)?);
        rest = rest.get(end + 4 + size..)?;
    }
}

/// What a server that speaks first says to a TLS client, and the certificate that it shows, DER. Nobody vouches
/// for the certificate: this is for ports whose callers pin it, and for finding out who is behind a name.
pub fn first_words(address: SocketAddr, host: &str) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let anybody = Arc::new(Anybody(provider.signature_verification_algorithms));
    let config = builder()?.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth();
    let mut stream = connect(config, host, address)?;
    let mut words = vec![0; 4096];
    let count = stream.read(&mut words)?;
    words.truncate(count);
    let shown = stream.conn.peer_certificates().and_then(|chain| chain.first());
    let shown = shown.ok_or_else(|| io::Error::other("no certificate"))?.to_vec();
    Ok((words, shown))
}

fn builder() -> io::Result<ConfigBuilder<ClientConfig, WantsVerifier>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)
}

fn connect(
    config: ClientConfig,
    host: &str,
    address: SocketAddr,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(StreamOwned::new(connection, stream))
}

/// Trusts every certificate, for stories about connections whose certificate is the instance's own.
#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_or_in_chunks() {
        let of = |text: &str| parse(text.as_bytes()).map(|answer| (answer.status, answer.text()));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(of("HTTP/1.1 404 Not Found\r\nA: b\r\n\r\nno"), Some((404, "no".to_owned())));
        let parts = format!("{chunked}3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n");
        assert_eq!(of(&parts), Some((200, "abc0123456789".to_owned())));
        assert_eq!(of(&format!("{chunked}3\r\nab")), None, "the end is missing");
        assert_eq!(of("SSH-2.0\r\n\r\n"), None);
    }
}
