//! The node's HTTPS port, for `kubectl logs`. Only its cluster's API server may call.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use futures::stream;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncSeekExt},
    net::TcpListener,
};

use super::{Shared, template};
use crate::{Context, Error, pki::Identity, tls::TlsListener};

/// Starts the port; returns its number.
pub(super) async fn serve(shared: Arc<Shared>, identity: &Identity, ca: &str) -> Result<u16, Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("kubelet port")?;
    let port = listener.local_addr().context("kubelet port")?.port();
    let router =
        Router::new().route("/containerLogs/{namespace}/{pod}/{container}", get(logs)).with_state(shared);
    let listener = TlsListener::new(listener, identity, Some(ca));
    let listener = listener.map_err(std::io::Error::other).context("kubelet certificate")?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(port)
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Options {
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    previous: bool,
    #[serde(default)]
    timestamps: bool,
    tail_lines: Option<usize>,
}

async fn logs(
    State(shared): State<Arc<Shared>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(options): Query<Options>,
) -> Response {
    match log_file(&shared, &namespace, &pod, &container, options.previous).await {
        Some(file) => Body::from_stream(tail(file, options)).into_response(),
        None => (StatusCode::NOT_FOUND, "the container has not started\n").into_response(),
    }
}

async fn log_file(
    shared: &Shared,
    namespace: &str,
    pod: &str,
    container: &str,
    previous: bool,
) -> Option<PathBuf> {
    let pod = Api::<Pod>::namespaced(shared.client.clone(), namespace).get(pod).await.ok()?;
    let status = pod.status?;
    let all =
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let attempt = all.into_iter().find(|c| c.name == container)?.restart_count - i32::from(previous);
    let file = template::log_file(&shared.pod_folder(&pod.metadata.uid?), container, attempt);
    file.is_file().then_some(file)
}

/// The file's lines, and, if asked to follow, those that come after.
fn tail(
    file: PathBuf,
    options: Options,
) -> impl futures::Stream<Item = Result<String, std::io::Error>> + Send {
    stream::unfold((0u64, true), move |(offset, go_on)| {
        let file = file.clone();
        async move {
            if !go_on {
                return None;
            }
            loop {
                // A file that is gone ends the stream: its pod has been removed.
                let (text, end) = read_from(&file, offset).await.ok()?;
                if !text.is_empty() || !options.follow {
                    let keep = options.tail_lines.filter(|_| offset == 0);
                    return Some((Ok(render(&text, options.timestamps, keep)), (end, options.follow)));
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    })
}

/// Whole lines from an offset, and the offset behind them.
async fn read_from(file: &std::path::Path, offset: u64) -> std::io::Result<(String, u64)> {
    let mut file = tokio::fs::File::open(file).await?;
    file.seek(std::io::SeekFrom::Start(offset)).await?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).await?;
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    bytes.truncate(whole);
    Ok((String::from_utf8_lossy(&bytes).into_owned(), offset + whole as u64))
}

/// Takes the CRI's prefix (time, stream, tag) off each line, or leaves the time.
fn render(text: &str, timestamps: bool, keep: Option<usize>) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let skip = keep.map_or(0, |keep| lines.len().saturating_sub(keep));
    let mut out = String::new();
    for line in &lines[skip..] {
        let mut parts = line.splitn(4, ' ');
        let time = parts.next().unwrap_or_default();
        if timestamps {
            out.push_str(time);
            out.push(' ');
        }
        out.push_str(parts.nth(2).unwrap_or_default());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_of_the_log_format_is_taken_off() {
        let text = "2026-01-01T00:00:00Z stdout F one two\n2026-01-01T00:00:01Z stderr F \n";
        assert_eq!(render(text, false, None), "one two\n\n");
        assert_eq!(render(text, true, Some(1)), "2026-01-01T00:00:01Z \n");
    }
}
