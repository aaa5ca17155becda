//! The CONNECT proxy: the wire under every connection between pods.

use std::{io, path::Path, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    net::{TcpStream, UnixListener, UnixStream},
    task::JoinHandle,
};

use super::{
    Caller, ClusterNetwork,
    resolve::{NoRoute, Target},
};
use crate::runtime;

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
    let head = read_head(&mut stream).await?;
    let Some((host, port)) = target_of(&head) else {
        return refuse(&mut stream, "405 Method Not Allowed", "only CONNECT host:port is understood").await;
    };
    match network.route(caller, host, port) {
        Ok(Target::Local(address)) => carry(stream, TcpStream::connect(address).await).await,
        Ok(Target::Pod { ingress, port }) => carry(stream, runtime::connect(&ingress, port).await).await,
        Err(error) => {
            tracing::info!(cluster = network.name, ?caller, host, port, %error, "no connection");
            let status = match error {
                NoRoute::Refused(_) => "403 Forbidden",
                NoRoute::Unknown(..) | NoRoute::NoEndpoint(..) => "502 Bad Gateway",
            };
            refuse(&mut stream, status, &error.to_string()).await
        }
    }
}

async fn carry<S>(mut stream: UnixStream, target: io::Result<S>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match target {
        Ok(mut target) => {
            stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
            copy_bidirectional(&mut stream, &mut target).await.map(drop)
        }
        Err(error) => refuse(&mut stream, "502 Bad Gateway", &error.to_string()).await,
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

fn target_of(head: &str) -> Option<(&str, u16)> {
    let target = head.strip_prefix("CONNECT ")?.split(' ').next()?;
    let (host, port) = target.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connect_with_a_port_is_taken() {
        assert_eq!(target_of("CONNECT a.b.svc:443 HTTP/1.1\r\n\r\n"), Some(("a.b.svc", 443)));
        for bad in
            ["GET http://a/ HTTP/1.1\r\n\r\n", "CONNECT a HTTP/1.1\r\n\r\n", "CONNECT a:99999 HTTP/1.1"]
        {
            assert_eq!(target_of(bad), None, "{bad}");
        }
    }
}
