//! The proxy: the wire under every connection between pods. It takes CONNECT, and requests for `http` URLs
//! of programs that speak plain HTTP.

use std::{io, path::Path, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
};

use super::{Caller, ClusterNetwork, connect::NoConnection, head, resolve::NoRoute};

/// Longest request head that is read, bytes.
const LONGEST_HEAD: usize = 8 * 1024;

/// Serves the connections that arrive on a socket as those of `caller`, until the handle is aborted.
pub fn serve(socket: &Path, caller: Caller, network: Arc<ClusterNetwork>) -> io::Result<JoinHandle<()>> {
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    Ok(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (caller, network) = (caller.clone(), network.clone());
            tokio::spawn(async move {
                if let Err(error) = handle(stream, &caller, &network).await {
                    tracing::debug!(%error, ?caller, "connection");
                }
            });
        }
    }))
}

async fn handle(mut stream: UnixStream, caller: &Caller, network: &ClusterNetwork) -> io::Result<()> {
    let read = read_head(&mut stream).await?;
    let Some(asked) = head::read(&read) else {
        let why = "only CONNECT host:port and http URLs are understood";
        return refuse(&mut stream, "405 Method Not Allowed", why).await;
    };
    let (host, port) = (asked.host.as_str(), asked.port);
    // Who is cut off hears nothing until it no longer is, and then has to connect anew.
    network.whole(caller, host).await;
    match network.connect(caller, host, port).await {
        Ok(mut target) => {
            match asked.head {
                None => stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?,
                Some(head) => target.write_all(head.as_bytes()).await?,
            }
            tokio::select! {
                ended = copy_bidirectional(&mut stream, &mut target) => ended.map(drop),
                () = network.cut(caller, host) => {
                    network.whole(caller, host).await;
                    Ok(())
                }
            }
        }
        Err(error) => {
            tracing::info!(cluster = network.name, ?caller, host, port, %error, "no connection");
            let status = match error {
                NoConnection::Route(NoRoute::Refused(_)) => "403 Forbidden",
                NoConnection::Route(_) | NoConnection::Io(_) => "502 Bad Gateway",
            };
            refuse(&mut stream, status, &error.to_string()).await
        }
    }
}

async fn refuse(stream: &mut UnixStream, status: &str, why: &str) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{why}",
        why.len()
    );
    stream.write_all(answer.as_bytes()).await
}

/// Reads up to the empty line, one byte at a time: what follows belongs to the connection.
async fn read_head(stream: &mut UnixStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= LONGEST_HEAD {
            return Err(io::Error::other("request head too long"));
        }
        head.push(stream.read_u8().await?);
    }
    String::from_utf8(head).map_err(io::Error::other)
}
