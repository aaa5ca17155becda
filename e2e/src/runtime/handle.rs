//! The node's end of a pod process.

use std::{io, path::Path, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    process::{Child, ChildStdin, Command},
    sync::mpsc,
};

use super::spec::{Command as Order, ContainerSpec, PodSpec, Report};

/// A running pod process. Dropping it ends the pod.
pub struct PodHandle {
    child: Child,
    orders: ChildStdin,
}

impl PodHandle {
    /// Starts a pod process. Its own diagnostics go to `diagnostics`; its reports come out of the channel,
    /// [`Report::Ready`] first, and the channel closes when the process ends.
    pub async fn start(
        spec: &PodSpec,
        diagnostics: &Path,
    ) -> io::Result<(Self, mpsc::UnboundedReceiver<Report>)> {
        let _ = tokio::fs::remove_file(&spec.ingress).await;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(diagnostics)?;
        let mut child = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "--net", "--uts", "--pid", "--fork"])
            .args(["--kill-child", "--mount-proc", "--"])
            .arg(std::env::current_exe()?)
            .arg("pod")
            .arg(serde_json::to_string(spec).map_err(io::Error::other)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let (Some(orders), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the pod process has no standard streams"));
        };
        let (reports, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                match serde_json::from_str(&line) {
                    Ok(report) => drop(reports.send(report)),
                    Err(error) => tracing::warn!(%error, line, "unreadable report of a pod process"),
                }
            }
        });
        Ok((Self { child, orders }, receiver))
    }

    /// Starts a container; how it fares comes as a report.
    pub async fn start_container(&mut self, container: ContainerSpec) -> io::Result<()> {
        self.order(&Order::Start { container: Box::new(container) }).await
    }

    /// Sends a signal to the first process of a container, if it runs.
    pub async fn signal(&mut self, name: &str, signal: i32) -> io::Result<()> {
        self.order(&Order::Signal { name: name.to_owned(), signal }).await
    }

    async fn order(&mut self, order: &Order) -> io::Result<()> {
        let mut line = serde_json::to_vec(order).map_err(io::Error::other)?;
        line.push(b'\n');
        self.orders.write_all(&line).await?;
        self.orders.flush().await
    }

    /// Ends the pod process and with it everything in the pod; returns when it is gone.
    pub async fn stop(mut self) {
        let _ = self.child.kill().await;
    }
}

/// Connects to a port of a pod through the socket on which its pod process listens.
pub async fn connect(ingress: &Path, port: u16) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(ingress).await?;
    stream.write_u16(port).await?;
    match stream.read_u8().await? {
        0 => Ok(stream),
        _ => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
    }
}
