//! `reef-sandbox toolbox`: the program of the image `reef-toolbox`, for tests of nodes and network.

use std::{io, time::Duration};

use axum::{Router, extract::Request};
use clap::Subcommand;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{pki::Identity, runtime::PROXY_PORT, tls::TlsListener};

/// Longest body that is echoed, bytes.
const LONGEST_BODY: usize = 64 << 20;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Toolbox {
    /// Answer every HTTP request on a port with 200 and the pod's host name.
    Serve {
        /// Port.
        port: u16,
    },
    /// Answer every HTTP request on a port with what was asked, and of whom: a line, the headers, the body.
    Echo {
        /// Port.
        port: u16,
    },
    /// Say the pod's host name to every TLS client on a port, with a certificate of its own.
    Greet {
        /// Port.
        port: u16,
    },
    /// GET an `http` URL through the proxy that `http_proxy` names, print the answer's first and last line.
    Fetch {
        /// URL.
        url: String,
    },
    /// Connect through the pod's proxy, send a GET, print the answer's first and last line; a line for each target.
    Get {
        /// HOST:PORT.
        #[arg(required = true)]
        targets: Vec<String>,
    },
    /// Connect without the proxy; succeeds only if the pod can leave its network namespace.
    Direct {
        /// HOST:PORT.
        target: String,
    },
    /// Print an environment variable or a file.
    Show {
        /// `$NAME` or a path.
        what: String,
    },
    /// Write a file, to see whether it is allowed.
    Write {
        /// Path.
        path: String,
    },
    /// Add the pod's host name as a line to a file, and print the file.
    Append {
        /// Path.
        path: String,
    },
    /// Wait for a signal.
    Sleep {
        /// Do not end at SIGTERM.
        #[arg(long)]
        ignore_term: bool,
    },
}

/// Does it.
pub async fn run(what: Toolbox) -> io::Result<()> {
    match what {
        Toolbox::Serve { port } => serve(port).await,
        Toolbox::Echo { port } => {
            let listener = TcpListener::bind(("0.0.0.0", port)).await?;
            println!("serving");
            axum::serve(listener, Router::new().fallback(echo)).await
        }
        Toolbox::Greet { port } => greet(port).await,
        Toolbox::Fetch { url } => fetch(&url).await,
        Toolbox::Get { targets } => {
            for target in &targets {
                get(target).await?;
            }
            Ok(())
        }
        Toolbox::Direct { target } => {
            TcpStream::connect(&target).await?;
            println!("connected");
            Ok(())
        }
        Toolbox::Show { what } => {
            let text = match what.strip_prefix('$') {
                Some(name) => std::env::var(name).map_err(io::Error::other)?,
                None => tokio::fs::read_to_string(&what).await?,
            };
            println!("{text}");
            Ok(())
        }
        Toolbox::Write { path } => tokio::fs::write(path, "written").await,
        Toolbox::Append { path } => {
            let name = std::env::var("HOSTNAME").map_err(io::Error::other)?;
            let old = tokio::fs::read_to_string(&path).await.or_else(|e| match e.kind() {
                io::ErrorKind::NotFound => Ok(String::new()),
                _ => Err(e),
            })?;
            let new = format!("{old}{name}\n");
            tokio::fs::write(&path, &new).await?;
            print!("{new}");
            Ok(())
        }
        Toolbox::Sleep { ignore_term } => {
            // A handler that does nothing, instead of the default that ends the process.
            let _ignored = ignore_term
                .then(|| tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()))
                .transpose()?;
            println!("sleeping");
            std::future::pending().await
        }
    }
}

async fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    let name = std::env::var("HOSTNAME").unwrap_or_default();
    println!("serving");
    loop {
        let (mut stream, _) = listener.accept().await?;
        let mut request = [0u8; 1024];
        let _ = stream.read(&mut request).await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", name.len());
        let _ = stream.write_all(format!("{head}{name}").as_bytes()).await;
    }
}

async fn echo(request: Request) -> Vec<u8> {
    let (parts, body) = request.into_parts();
    let name = std::env::var("HOSTNAME").unwrap_or_default();
    let mut answer = format!("{} {} at {name}\n", parts.method, parts.uri).into_bytes();
    for (name, value) in &parts.headers {
        answer.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"].concat());
    }
    answer.push(b'\n');
    // A body that breaks off shows by its absence.
    answer.extend(axum::body::to_bytes(body, LONGEST_BODY).await.unwrap_or_default());
    answer
}

async fn greet(port: u16) -> io::Result<()> {
    let name = std::env::var("HOSTNAME").unwrap_or_default();
    let made = rcgen::generate_simple_self_signed([name.clone()]).map_err(io::Error::other)?;
    let identity = Identity { cert: made.cert.pem(), key: made.signing_key.serialize_pem() };
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    let mut listener = TlsListener::new(listener, &identity, None).map_err(io::Error::other)?;
    println!("serving");
    loop {
        let (mut stream, _) = axum::serve::Listener::accept(&mut listener).await;
        let _ = stream.write_all(name.as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

async fn fetch(url: &str) -> io::Result<()> {
    let proxy = std::env::var("http_proxy").map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(proxy.trim_start_matches("http://")).await?;
    stream.write_all(format!("GET {url} HTTP/1.1\r\nProxy-Connection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    println!("{} | {}", answer.lines().next().unwrap_or_default(), answer.lines().last().unwrap_or_default());
    Ok(())
}

async fn get(target: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", PROXY_PORT)).await?;
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut body = String::new();
    if head.contains(" 200 ") {
        let request = format!("GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
    }
    let mut answer = Vec::new();
    // Who speaks something else than HTTP may end roughly, or wait for more: what was said by then counts.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    body.push_str(&String::from_utf8_lossy(&answer));
    println!("{} | {}", head.lines().next().unwrap_or_default(), body.lines().last().unwrap_or_default());
    Ok(())
}
