//! `reef-sandbox up` and `down`: the process that a user starts and ends.
//!
//! The world itself runs as process 1 of a PID namespace ([`crate::world`]). However this process ends,
//! the kernel ends the world: `setpriv --pdeathsig` kills `unshare` with us, and `unshare --kill-child`
//! kills process 1, and with process 1 goes every process of the namespace. Closing the pipe to the
//! world's standard input asks it to end in order.

use std::{
    fs,
    process::{ExitCode, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep},
};

use crate::{Context, Error, dir::Dir};

/// How long an orderly end may take before it is forced.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts a world in `dir` and stays until it ends. `world` are the arguments of `reef-sandbox world`.
///
/// With `end_with_stdin` it also ends when its own standard input closes.
pub async fn up(dir: &Dir, world: &[String], end_with_stdin: bool) -> Result<ExitCode, Error> {
    check_namespaces().await?;
    let lock = dir.lock()?;
    dir.clean(&lock)?;
    fs::write(dir.join("pid"), std::process::id().to_string()).context("write the pid file")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("signals")?;
    let mut child = start(world)?;
    let lifeline = child.stdin.take();
    let status = tokio::select! {
        status = child.wait() => status,
        _ = interrupt.recv() => end(&mut child, lifeline).await,
        _ = terminate.recv() => end(&mut child, lifeline).await,
        () = stdin_closes(), if end_with_stdin => end(&mut child, lifeline).await,
    };
    let status = status.context("wait for the sandbox")?;
    dir.clear()?;
    drop(lock);
    let code = status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}

async fn stdin_closes() {
    let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
}

/// Runs in the main thread, whose death is what `--pdeathsig` waits for.
fn start(world: &[String]) -> Result<Child, Error> {
    let exe = std::env::current_exe().context("find this program")?;
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork"])
        .args(["--kill-child", "--mount-proc", "--"])
        .arg(exe)
        .arg("world")
        .args(world)
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("start setpriv (Debian package util-linux)")
}

async fn end(
    child: &mut Child,
    lifeline: Option<tokio::process::ChildStdin>,
) -> std::io::Result<std::process::ExitStatus> {
    drop(lifeline);
    match tokio::time::timeout(PATIENCE, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            child.kill().await?;
            child.wait().await
        }
    }
}

/// What pods and the sandbox itself need of the kernel.
async fn check_namespaces() -> Result<(), Error> {
    let trial = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--net", "--uts", "--pid", "--fork", "--mount-proc"])
        .arg("true")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .await;
    let reason = match trial {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => format!("unshare (Debian package util-linux): {error}"),
    };
    Err(Error::Prerequisite(format!(
        "the sandbox needs unprivileged user namespaces, and this machine refuses them ({reason}): on Debian set sysctl kernel.unprivileged_userns_clone=1, on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0"
    )))
}

/// Ends the sandbox that runs in `dir` and waits until it is gone.
pub async fn down(dir: &Dir) -> Result<(), Error> {
    let Err(in_use @ Error::InUse(_)) = dir.lock() else {
        println!("no sandbox runs in {}", dir.path().display());
        return Ok(());
    };
    let pid = fs::read_to_string(dir.join("pid")).ok().and_then(|text| text.trim().parse().ok());
    let Some(pid) = pid.and_then(Pid::from_raw) else { return Err(in_use) };
    kill_process(pid, Signal::TERM).map_err(std::io::Error::from).context("signal the sandbox")?;
    let deadline = Instant::now() + PATIENCE + Duration::from_secs(5);
    while dir.lock().is_err() {
        if Instant::now() > deadline {
            return Err(in_use);
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
