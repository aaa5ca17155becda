//! `reef-sandbox pod`: holds a pod's namespaces, runs its containers and carries its connections.
//!
//! It is process 1 of the pod's PID namespace: when it ends, the kernel ends every container.

use std::{
    collections::HashMap,
    io,
    net::Ipv4Addr,
    process::Stdio,
    sync::{Arc, Mutex},
};

use jiff::Timestamp;
use rustix::{
    process::{Pid, Signal, kill_process},
    system::sethostname,
};
use tokio::{
    fs::File,
    io::{
        AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, Lines, Stdin, copy_bidirectional,
    },
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    process::{Child, Command},
    sync::mpsc,
};

use super::{
    PROXY_PORT, container, netlink,
    spec::{Command as Order, ContainerSpec, PodSpec, Report},
};

type Running = Arc<Mutex<HashMap<String, u32>>>;

/// Runs until standard input closes, which it does when the node is done with the pod or is gone.
pub async fn run(spec: PodSpec) -> io::Result<()> {
    sethostname(spec.hostname.as_bytes())?;
    netlink::set_up_loopback(spec.ip)?;
    let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, PROXY_PORT)).await?;
    let ingress = UnixListener::bind(&spec.ingress)?;
    let egress = spec.egress.clone();
    tokio::spawn(async move {
        while let Ok((mut inner, _)) = proxy.accept().await {
            let egress = egress.clone();
            tokio::spawn(async move {
                let mut outer = UnixStream::connect(egress).await?;
                copy_bidirectional(&mut inner, &mut outer).await
            });
        }
    });
    let ip = spec.ip;
    tokio::spawn(async move {
        while let Ok((outer, _)) = ingress.accept().await {
            tokio::spawn(carry_in(outer, ip));
        }
    });
    serve(BufReader::new(tokio::io::stdin()).lines()).await
}

/// An incoming connection begins with the port, two bytes; the answer is one byte, 0 for connected.
async fn carry_in(mut outer: UnixStream, ip: Ipv4Addr) -> io::Result<()> {
    let port = outer.read_u16().await?;
    match TcpStream::connect((ip, port)).await {
        Ok(mut inner) => {
            outer.write_u8(0).await?;
            copy_bidirectional(&mut outer, &mut inner).await?;
        }
        Err(_) => outer.write_u8(1).await?,
    }
    Ok(())
}

async fn serve(mut orders: Lines<BufReader<Stdin>>) -> io::Result<()> {
    let (reports, mut outgoing) = mpsc::unbounded_channel::<Report>();
    let writer = tokio::spawn(async move {
        let mut stdout = tokio::io::stdout();
        while let Some(report) = outgoing.recv().await {
            let mut line = serde_json::to_vec(&report).unwrap_or_default();
            line.push(b'\n');
            if stdout.write_all(&line).await.is_err() || stdout.flush().await.is_err() {
                break;
            }
        }
    });
    let _ = reports.send(Report::Ready);
    let running = Running::default();
    while let Some(line) = orders.next_line().await? {
        match serde_json::from_str::<Order>(&line).map_err(io::Error::other)? {
            Order::Start { container } => {
                let name = container.name.clone();
                if let Err(error) = start(*container, &running, &reports).await {
                    let _ = reports.send(Report::Failed { name, message: error.to_string() });
                }
            }
            Order::Signal { name, signal } => signal_container(&running, &name, signal),
        }
    }
    writer.abort();
    Ok(())
}

fn signal_container(running: &Running, name: &str, signal: i32) {
    let pid = running.lock().ok().and_then(|r| r.get(name).copied());
    let pid = pid.and_then(|p| i32::try_from(p).ok()).and_then(Pid::from_raw);
    let signal = match signal {
        9 => Some(Signal::KILL),
        15 => Some(Signal::TERM),
        2 => Some(Signal::INT),
        19 => Some(Signal::STOP),
        18 => Some(Signal::CONT),
        _ => None,
    };
    if let (Some(pid), Some(signal)) = (pid, signal) {
        let _ = kill_process(pid, signal);
    }
}

async fn start(
    spec: ContainerSpec,
    running: &Running,
    reports: &mpsc::UnboundedSender<Report>,
) -> io::Result<()> {
    tokio::fs::create_dir_all(&spec.root).await?;
    let spec_file = spec.root.with_extension("json");
    tokio::fs::write(&spec_file, serde_json::to_vec(&spec).map_err(io::Error::other)?).await?;
    let (program, arguments) = container::command(&spec, &spec_file, &std::env::current_exe()?);
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let (Some(pid), Ok(mut map)) = (child.id(), running.lock()) {
        map.insert(spec.name.clone(), pid);
    }
    let log = tokio::fs::OpenOptions::new().create(true).append(true).open(&spec.log).await?;
    let log = Arc::new(tokio::sync::Mutex::new(log));
    let out = child.stdout.take().map(|s| tokio::spawn(copy_log(s, "stdout", log.clone())));
    let err = child.stderr.take().map(|s| tokio::spawn(copy_log(s, "stderr", log)));
    let (running, reports) = (running.clone(), reports.clone());
    tokio::spawn(async move {
        let code = wait(&mut child).await;
        for task in [out, err].into_iter().flatten() {
            let _ = task.await;
        }
        if let Ok(mut map) = running.lock() {
            map.remove(&spec.name);
        }
        let _ = reports.send(Report::Exited { name: spec.name, code });
    });
    Ok(())
}

async fn wait(child: &mut Child) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    match child.wait().await {
        Ok(status) => status.code().or(status.signal().map(|s| 128 + s)).unwrap_or(255),
        Err(_) => 255,
    }
}

/// Appends lines in the CRI's log format: time, stream, `F` for a full line, text.
async fn copy_log(
    stream: impl AsyncRead + Unpin,
    name: &'static str,
    log: Arc<tokio::sync::Mutex<File>>,
) -> io::Result<()> {
    let mut lines = BufReader::new(stream);
    let mut text = Vec::new();
    while lines.read_until(b'\n', &mut text).await? > 0 {
        if text.last() != Some(&b'\n') {
            text.push(b'\n');
        }
        let mut record = format!("{:.9} {name} F ", Timestamp::now()).into_bytes();
        record.append(&mut text);
        let mut log = log.lock().await;
        log.write_all(&record).await?;
        log.flush().await?;
    }
    Ok(())
}
