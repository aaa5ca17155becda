//! Startup, readiness and liveness probes.

use std::{path::PathBuf, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::runtime;

/// What probes tell the pod's task about a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The startup probe succeeded, or there is none.
    Started,
    /// The readiness probe's opinion changed.
    Ready(bool),
    /// The startup or liveness probe gave up: the container is to be restarted.
    Unhealthy(String),
}

/// Probes one run of a container until it is aborted.
pub(super) async fn run(
    container: Container,
    ingress: PathBuf,
    attempt: i32,
    verdicts: mpsc::UnboundedSender<(String, i32, Verdict)>,
) {
    let tell = |verdict| drop(verdicts.send((container.name.clone(), attempt, verdict)));
    if let Some(startup) = &container.startup_probe {
        let mut opinion = Opinion::new(startup, false);
        delay(startup).await;
        loop {
            match opinion.add(check(startup, &container, &ingress).await) {
                Some(Ok(())) => break,
                Some(Err(why)) => return tell(Verdict::Unhealthy(format!("startup probe: {why}"))),
                None => period(startup).await,
            }
        }
    }
    tell(Verdict::Started);
    let readiness = async {
        let Some(probe) = &container.readiness_probe else { return tell(Verdict::Ready(true)) };
        let mut opinion = Opinion::new(probe, false);
        delay(probe).await;
        loop {
            if let Some(changed) = opinion.add(check(probe, &container, &ingress).await) {
                tell(Verdict::Ready(changed.is_ok()));
            }
            period(probe).await;
        }
    };
    let liveness = async {
        let Some(probe) = &container.liveness_probe else { return };
        let mut opinion = Opinion::new(probe, true);
        delay(probe).await;
        loop {
            if let Some(Err(why)) = opinion.add(check(probe, &container, &ingress).await) {
                tell(Verdict::Unhealthy(format!("liveness probe: {why}")));
            }
            period(probe).await;
        }
    };
    futures::join!(readiness, liveness);
}

/// Counts successes and failures against the thresholds of a probe (pure).
struct Opinion {
    good: bool,
    /// Whether `good` was a probe's result; at first it is only assumed.
    said: bool,
    /// The last result and how often in a row it came.
    last: bool,
    run: i32,
    success: i32,
    failure: i32,
}

impl Opinion {
    fn new(probe: &Probe, good: bool) -> Self {
        Self {
            good,
            said: false,
            last: good,
            run: 0,
            success: probe.success_threshold.unwrap_or(1),
            failure: probe.failure_threshold.unwrap_or(3),
        }
    }

    /// The opinion, if this result changes it. A probe that never succeeded gives up too, once.
    fn add(&mut self, result: Result<(), String>) -> Option<Result<(), String>> {
        let ok = result.is_ok();
        self.run = if self.last == ok { self.run + 1 } else { 1 };
        self.last = ok;
        let known = ok == self.good && (ok || self.said);
        let threshold = if ok { self.success } else { self.failure };
        if known || self.run < threshold {
            return None;
        }
        (self.said, self.good) = (true, ok);
        Some(result)
    }
}

async fn delay(probe: &Probe) {
    sleep(seconds(probe.initial_delay_seconds, 0)).await;
}

async fn period(probe: &Probe) {
    sleep(seconds(probe.period_seconds, 10)).await;
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).unwrap_or(default))
}

async fn check(probe: &Probe, container: &Container, ingress: &std::path::Path) -> Result<(), String> {
    let limit = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
    let attempt = async {
        if let Some(action) = &probe.http_get {
            return http(action, container, ingress).await;
        }
        if let Some(action) = &probe.tcp_socket {
            let port = number(&action.port, container)?;
            return runtime::connect(ingress, port).await.map(drop).map_err(|e| e.to_string());
        }
        Err("only httpGet and tcpSocket are supported by the sandbox's node".to_owned())
    };
    timeout(limit, attempt).await.unwrap_or_else(|_| Err("timeout".to_owned()))
}

async fn http(
    action: &HTTPGetAction,
    container: &Container,
    ingress: &std::path::Path,
) -> Result<(), String> {
    if action.scheme.as_deref().is_some_and(|s| s != "HTTP") {
        return Err("only scheme HTTP is supported by the sandbox's node".to_owned());
    }
    let port = number(&action.port, container)?;
    let path = action.path.as_deref().unwrap_or("/");
    let io = |e: std::io::Error| e.to_string();
    let mut stream = runtime::connect(ingress, port).await.map_err(io)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(io)?;
    let mut head = [0u8; 12];
    stream.read_exact(&mut head).await.map_err(io)?;
    let code = std::str::from_utf8(&head[9..12]).ok().and_then(|c| c.parse::<u16>().ok());
    match code {
        Some(200..=399) => Ok(()),
        Some(code) => Err(format!("HTTP status {code}")),
        None => Err("no HTTP answer".to_owned()),
    }
}

fn number(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let found = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let ports = container.ports.iter().flatten();
            ports.into_iter().find(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port)
        }
    };
    found.and_then(|p| u16::try_from(p).ok()).ok_or_else(|| format!("unknown port {port:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opinions(good: bool, success: i32, failure: i32, results: &str) -> String {
        let probe =
            Probe { success_threshold: Some(success), failure_threshold: Some(failure), ..Probe::default() };
        let mut opinion = Opinion::new(&probe, good);
        let mut say = |c| match opinion.add(if c == '+' { Ok(()) } else { Err(String::new()) }) {
            Some(Ok(())) => 'G',
            Some(Err(_)) => 'B',
            None => '.',
        };
        results.chars().map(&mut say).collect()
    }

    #[test]
    fn thresholds_count_consecutive_results() {
        // readiness: not ready at first, ready after one success, unready after three failures in a row
        assert_eq!(opinions(false, 1, 3, "+-+---+"), "G....BG");
        assert_eq!(opinions(false, 2, 3, "+-++"), "...G");
        // liveness: good at first; the third failure in a row is a verdict
        assert_eq!(opinions(true, 1, 3, "--+---"), ".....B");
        // startup: gives up after its failures even though it was never good
        assert_eq!(opinions(false, 1, 3, "---"), "..B");
    }
}
