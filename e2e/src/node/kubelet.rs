//! The node's HTTPS port, for `kubectl logs`. Only holders of a client certificate of its cluster may call.

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
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
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

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Options {
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    previous: bool,
    #[serde(default)]
    timestamps: bool,
    tail_lines: Option<usize>,
    limit_bytes: Option<usize>,
    since_seconds: Option<i64>,
    since_time: Option<Timestamp>,
}

impl Options {
    /// Lines before this are left out.
    fn since(&self, now: Timestamp) -> Option<Timestamp> {
        let ago = self.since_seconds.and_then(|s| Timestamp::from_second(now.as_second() - s).ok());
        self.since_time.or(ago)
    }
}

/// A container's run whose log is read.
#[derive(Clone)]
struct Run {
    pods: Api<Pod>,
    pod: String,
    container: String,
    attempt: i32,
    file: PathBuf,
}

impl Run {
    /// Whether nothing will be added to the log any more.
    async fn is_over(&self) -> bool {
        let Ok(pod) = self.pods.get(&self.pod).await else { return true };
        let status = pod.status.unwrap_or_default();
        let now = find(&status, &self.container);
        now.is_none_or(|c| {
            c.restart_count != self.attempt || c.state.as_ref().is_none_or(|s| s.running.is_none())
        })
    }
}

fn find(status: &PodStatus, container: &str) -> Option<ContainerStatus> {
    let all = status.container_statuses.iter().flatten();
    let all = all.chain(status.init_container_statuses.iter().flatten());
    all.into_iter().find(|c| c.name == container).cloned()
}

async fn logs(
    State(shared): State<Arc<Shared>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(options): Query<Options>,
) -> Response {
    match run(&shared, &namespace, &pod, &container, options.previous).await {
        Some(run) => Body::from_stream(tail(run, options)).into_response(),
        None => (StatusCode::NOT_FOUND, "the container has not started\n").into_response(),
    }
}

async fn run(shared: &Shared, namespace: &str, name: &str, container: &str, previous: bool) -> Option<Run> {
    let pods = Api::<Pod>::namespaced(shared.client.clone(), namespace);
    let pod = pods.get(name).await.ok()?;
    let attempt = find(&pod.status?, container)?.restart_count - i32::from(previous);
    let file = template::log_file(&shared.pod_folder(&pod.metadata.uid?), container, attempt);
    let run = Run { pods, pod: name.to_owned(), container: container.to_owned(), attempt, file };
    run.file.is_file().then_some(run)
}

/// The file's lines, and, if asked to follow, those that come while the container runs.
fn tail(run: Run, options: Options) -> impl futures::Stream<Item = Result<String, std::io::Error>> + Send {
    stream::unfold((0u64, true), move |(offset, go_on)| {
        let run = run.clone();
        async move {
            if !go_on {
                return None;
            }
            loop {
                // Asked before reading, so that what the container wrote last is read.
                let over = !options.follow || run.is_over().await;
                // A file that is gone ends the stream: its pod has been removed.
                let (text, end) = read_from(&run.file, offset).await.ok()?;
                if !text.is_empty() || over {
                    return Some((Ok(render(&text, &options, offset == 0, Timestamp::now())), (end, !over)));
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
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

/// Takes the CRI's prefix (time, stream, tag) off each line, or leaves the time; keeps what is asked for.
fn render(text: &str, options: &Options, first: bool, now: Timestamp) -> String {
    let since = options.since(now);
    let recent = |line: &&str| {
        let at = line.split(' ').next().and_then(|t| t.parse::<Timestamp>().ok());
        since.is_none_or(|since| at.is_none_or(|at| at >= since))
    };
    let lines: Vec<&str> = text.lines().filter(recent).collect();
    let keep = options.tail_lines.filter(|_| first);
    let skip = keep.map_or(0, |keep| lines.len().saturating_sub(keep));
    let mut out = String::new();
    for line in &lines[skip..] {
        let mut parts = line.splitn(4, ' ');
        let time = parts.next().unwrap_or_default();
        if options.timestamps {
            out.push_str(time);
            out.push(' ');
        }
        out.push_str(parts.nth(2).unwrap_or_default());
        out.push('\n');
    }
    if let Some(limit) = options.limit_bytes {
        let end = (0..=limit.min(out.len())).rev().find(|&at| out.is_char_boundary(at)).unwrap_or(0);
        out.truncate(end);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_shown_without_the_prefix_of_the_log_format() {
        let text = "2026-01-01T00:00:00Z stdout F one two\n2026-01-01T00:00:09Z stderr F three\n";
        let now = "2026-01-01T00:00:10Z".parse().unwrap();
        let show = |options: Options| render(text, &options, true, now);
        assert_eq!(show(Options::default()), "one two\nthree\n");
        let last = Options { timestamps: true, tail_lines: Some(1), ..Options::default() };
        assert_eq!(show(last), "2026-01-01T00:00:09Z three\n");
        assert_eq!(show(Options { since_seconds: Some(5), ..Options::default() }), "three\n");
        assert_eq!(show(Options { limit_bytes: Some(5), ..Options::default() }), "one t");
    }
}
