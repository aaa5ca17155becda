//! What a gateway does with what arrives at one listener: it finds the route and carries the bytes.

use std::{
    io,
    sync::{
        Arc, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version, header, uri::Authority},
    response::{IntoResponse, Response},
};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::server::Acceptor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::TcpStream,
};

use super::table::{Backend, Entry, find, pick};
use crate::net::{
    Caller, ClusterNetwork,
    connect::{NoConnection, Wire},
};

/// Longest wait for the greeting of a TLS client.
const GREETING: Duration = Duration::from_secs(5);

/// Headers that speak of one connection only, RFC 9110 section 7.6.1.
const HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The traffic of a listener.
pub struct Traffic {
    network: Arc<ClusterNetwork>,
    caller: Caller,
    table: RwLock<Arc<[Entry]>>,
    turn: AtomicUsize,
}

impl Traffic {
    /// Nothing is routed yet. The gateway's pods are those of `namespace`, named after `gateway`.
    pub fn new(network: Arc<ClusterNetwork>, namespace: &str, gateway: &str) -> Self {
        let caller = Caller::Gateway { namespace: namespace.to_owned(), name: gateway.to_owned() };
        Self { network, caller, table: RwLock::new(Arc::new([])), turn: AtomicUsize::new(0) }
    }

    /// Routes from now on by this table.
    pub fn route_by(&self, table: Vec<Entry>) {
        if let Ok(mut current) = self.table.write()
            && **current != *table
        {
            *current = table.into();
        }
    }

    /// Where what is meant for this host and path goes, or what to answer: 404 without a route, 500 if the
    /// route has no Service that is there.
    fn backend(&self, host: &str, path: &str) -> Result<Backend, StatusCode> {
        let table = self.table.read().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?.clone();
        let entry = find(&table, host, path).ok_or(StatusCode::NOT_FOUND)?;
        // In turn, so that each gets its share.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        pick(&entry.backends, turn).cloned().ok_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    async fn connect(&self, host: &str, backend: &Backend) -> Result<Box<dyn Wire>, NoConnection> {
        let wire = self.network.connect(&self.caller, &backend.service, backend.port).await;
        if let Err(error) = &wire {
            let (cluster, caller) = (self.network.name(), &self.caller);
            tracing::warn!(cluster, ?caller, host, service = backend.service, port = backend.port, %error, "gateway");
        }
        wire
    }

    /// Answers a request of a listener that ends TLS, as Envoy does: 404 without a route, 500 without a
    /// Service, 503 if the Service cannot be reached.
    pub async fn request(&self, request: Request) -> Response {
        let host = host_of(&request).unwrap_or_default();
        let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
        let backend = match self.backend(name, request.uri().path()) {
            Ok(backend) => backend,
            Err(status) => return status.into_response(),
        };
        let Ok(wire) = self.connect(name, &backend).await else {
            return (StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream").into_response();
        };
        match forward(request, &host, wire).await {
            Ok(response) => response,
            Err(error) => {
                tracing::warn!(cluster = self.network.name(), host, %error, "gateway");
                (StatusCode::SERVICE_UNAVAILABLE, "upstream connect error").into_response()
            }
        }
    }

    /// Carries a connection of a listener that leaves TLS alone to where the client's greeting says.
    pub async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        let greeting = tokio::time::timeout(GREETING, greeting(&mut stream));
        let (name, bytes) = greeting.await.map_err(io::Error::other)??;
        let Ok(backend) = self.backend(&name, "/") else {
            tracing::info!(cluster = self.network.name(), name, "no TLSRoute with a Service");
            return Ok(());
        };
        let Ok(mut wire) = self.connect(&name, &backend).await else { return Ok(()) };
        wire.write_all(&bytes).await?;
        copy_bidirectional(&mut stream, &mut wire).await.map(drop)
    }
}

/// The host that a request is for, with its port if it names one.
fn host_of(request: &Request) -> Option<String> {
    let header = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    header.or_else(|| request.uri().authority().map(Authority::as_str)).map(str::to_owned)
}

async fn forward(mut request: Request, host: &str, wire: Box<dyn Wire>) -> Result<Response, hyper::Error> {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    drop_hop_headers(headers);
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert("x-forwarded-host", host);
    }
    let (mut sender, connection) = http1::handshake(TokioIo::new(wire)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "gateway's connection");
        }
    });
    let mut response = sender.send_request(request).await?.map(Body::new);
    drop_hop_headers(response.headers_mut());
    Ok(response)
}

fn drop_hop_headers(headers: &mut HeaderMap) {
    let named: Vec<_> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse::<HeaderName>().ok())
        .collect();
    for name in HOP.iter().chain(&named) {
        headers.remove(name);
    }
    headers.remove("keep-alive");
}

/// Reads a TLS client's greeting: the name it asks for, and all bytes that were read.
async fn greeting(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut acceptor = Acceptor::default();
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read.extend_from_slice(&buffer[..count]);
        let mut fresh = &buffer[..count];
        while !fresh.is_empty() {
            acceptor.read_tls(&mut fresh)?;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_owned);
                return Ok((name.unwrap_or_default(), read));
            }
            Err((error, _)) => return Err(io::Error::other(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_connection_are_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Mine"),
            ("keep-alive", "timeout=5"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("accept", "*/*"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        drop_hop_headers(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }

    #[tokio::test]
    async fn bodies_go_through_as_they_come() {
        use futures::StreamExt;
        let (wire, mut server) = tokio::io::duplex(4096);
        let (parts, sent) = futures::channel::mpsc::unbounded::<io::Result<&str>>();
        let request = Request::post("https://a.example/up?x=1")
            .header("connection", "close")
            .body(Body::from_stream(sent))
            .unwrap();
        let forwarded = tokio::spawn(forward(request, "a.example:443", Box::new(wire)));
        parts.unbounded_send(Ok("first")).unwrap();
        let got = read_until(&mut server, "first").await;
        assert!(got.starts_with("POST /up?x=1 HTTP/1.1\r\n"), "{got}");
        assert!(got.contains("x-forwarded-host: a.example:443\r\n") && !got.contains("close"), "{got}");
        // The caller has not ended, and gets the beginning of an answer that has not ended either.
        server.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await.unwrap();
        let response = forwarded.await.unwrap().unwrap();
        assert!(response.headers().is_empty(), "{:?}", response.headers());
        let mut body = response.into_body().into_data_stream();
        assert_eq!(body.next().await.unwrap().unwrap(), "one");
        parts.unbounded_send(Ok("second")).unwrap();
        read_until(&mut server, "second").await;
        drop(parts);
        read_until(&mut server, "0\r\n\r\n").await;
        server.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
        assert_eq!(body.next().await.unwrap().unwrap(), "two");
        assert!(body.next().await.is_none());
    }

    async fn read_until(stream: &mut tokio::io::DuplexStream, what: &str) -> String {
        let mut text = String::new();
        while !text.contains(what) {
            text.push(char::from(stream.read_u8().await.unwrap()));
        }
        text
    }

    #[tokio::test]
    async fn the_greeting_is_read_and_kept_whole() {
        use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from("tentacle.example.com").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sent = hello.clone();
        let sender = tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // In two pieces, as the network likes.
            stream.write_all(&sent[..50]).await.unwrap();
            stream.flush().await.unwrap();
            tokio::task::yield_now().await;
            stream.write_all(&sent[50..]).await.unwrap();
            stream
        });
        let (mut stream, _) = listener.accept().await.unwrap();
        let (name, bytes) = greeting(&mut stream).await.unwrap();
        assert_eq!((name.as_str(), bytes), ("tentacle.example.com", hello));
        drop(sender.await.unwrap());
    }
}
