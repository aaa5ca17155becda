//! Story: a sandbox starts, refuses company, and leaves nothing behind, however it ends.

use std::{fs, process::Command};

use reef_e2e::harness::{Sandbox, ok, processes, refused, toolbox_pod, until};
use rustix::process::Signal;
use serde_json::json;

const PROGRAM: &str = env!("CARGO_BIN_EXE_reef-sandbox");
const EMPTY: [&str; 2] = ["--no-operator", "--reef-slots=1"];

/// Command lines of processes that mention a folder.
fn using(folder: &str) -> Vec<String> {
    let all = processes().into_iter().filter(|p| p.pid != std::process::id());
    all.map(|p| p.command).filter(|command| command.contains(folder)).collect()
}

#[test]
fn a_sandbox_comes_and_goes() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().to_str().unwrap();
    let mut first = Sandbox::start_in(PROGRAM, temp.path(), &EMPTY);
    fs::write(temp.path().join("notes.txt"), "mine").unwrap();
    let version = ok(&first.kubectl(&["version", "-o", "yaml"]));
    assert!(version.contains("gitVersion: v1.36"), "{version}");
    assert!(ok(&first.kubectl(&["get", "nodes"])).contains("Ready"));
    assert!(using(folder).len() > 5, "two control planes: {:?}", using(folder));

    // Company is refused, and the sandbox that was there first does not notice.
    let second = refused(&first.sandbox(&["up", "--dir", folder, "--no-operator"]));
    assert!(second.contains("is in use") && second.contains("reef-sandbox down"), "{second}");
    ok(&first.kubectl(&["get", "--raw", "/readyz"]));

    // Killed outright, with a pod running: the kernel takes everything with it.
    let pod = serde_json::to_string(&toolbox_pod("sleeper", &["sleep"], &json!({}))).unwrap();
    until("the default service account", || {
        first.kubectl_with(&["apply", "-f", "-"], &pod).status.success().then_some(())
    });
    // Others sleep, too, in the sandboxes of stories beside this one.
    let sleeper = until("the pod's process", || {
        first.processes().into_iter().find(|p| p.command.contains("toolbox\0sleep")).map(|p| p.pid)
    });
    first.signal(Signal::KILL);
    first.wait();
    until("all processes are gone", || using(folder).is_empty().then_some(()));
    until("the pod's process is gone", || (!processes().iter().any(|p| p.pid == sleeper)).then_some(()));
    assert!(
        temp.path().join("run/management/etcd").exists(),
        "a kill leaves files, or the next lines show nothing"
    );

    // The next one cleans up what the crash left, and nothing else.
    let mut next = Sandbox::start_in(PROGRAM, temp.path(), &EMPTY);
    assert!(!ok(&next.kubectl(&["get", "pods", "-A"])).contains("sleeper"));
    assert_eq!(fs::read_to_string(temp.path().join("notes.txt")).unwrap(), "mine");

    // Asked to end, it ends with status 0 and leaves only its logs.
    ok(&next.sandbox(&["down", "--dir", folder]));
    assert_eq!(next.wait(), Some(0));
    assert_eq!(using(folder), Vec::<String>::new());
    let mut left: Vec<_> =
        fs::read_dir(temp.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["lock", "logs", "notes.txt"]);
    assert!(ok(&next.sandbox(&["down", "--dir", folder])).contains("no sandbox runs"));
}

#[test]
fn ctrl_c_while_starting_ends_it_too() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().to_str().unwrap();
    let mut child = Command::new(PROGRAM).args(["up", "--no-operator", "--dir", folder]).spawn().unwrap();
    until("etcd runs", || using(folder).iter().any(|c| c.contains("etcd")).then_some(()));
    reef_e2e::harness::send(child.id(), Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(using(folder), Vec::<String>::new());
}

#[test]
fn what_is_missing_is_named_in_one_line() {
    let temp = tempfile::tempdir().unwrap();
    let up = |extra: &[&str], path: &str| {
        let mut command = Command::new(PROGRAM);
        command.args(["up", "--dir"]).arg(temp.path()).args(extra);
        refused(
            &command.env("PATH", path).env_remove("REEF_TOOLS").env("HOME", temp.path()).output().unwrap(),
        )
    };
    let path = std::env::var("PATH").unwrap();
    let operator = up(&["--operator-binary=/nowhere/reef-operator"], &path);
    assert!(operator.contains("/nowhere/reef-operator is missing") && operator.contains("cargo build"));
    let tools = up(&["--no-operator"], "/usr/bin:/bin");
    assert!(tools.contains("is missing: run `make tools`"), "{tools}");
    let util_linux = up(&["--no-operator"], "/nowhere");
    assert!(util_linux.contains("util-linux"), "{util_linux}");
    for text in [operator, tools, util_linux] {
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
