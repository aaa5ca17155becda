//! House rules that the compiler does not know.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "a step that fails is to fail its story"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Files that decide and therefore take time, randomness and the world as parameters.
const PURE: [&str; 32] = [
    "drift.rs",
    "plan.rs",
    "report.rs",
    "requeue.rs",
    "certificate.rs",
    "parts.rs",
    "bodies.rs",
    "names.rs",
    "begin.rs",
    "teardown.rs",
    "manifests.rs",
    "revision.rs",
    "trouble.rs",
    "hash.rs",
    "compare.rs",
    "operation.rs",
    "standing.rs",
    "stop.rs",
    "decide.rs",
    "policies.rs",
    "sizes.rs",
    "jobs.rs",
    "pod.rs",
    "resize.rs",
    "route.rs",
    "done.rs",
    "listed.rs",
    "demand.rs",
    "candidate.rs",
    "used.rs",
    "reservations.rs",
    "vm_sizes.rs",
];
const PURE_FOLDERS: [&str; 2] = ["placement", "rollout"];

/// What makes code impure. Times and sizes come in as arguments.
const FORBIDDEN: [&str; 9] = [
    "async fn",
    ".await",
    "kube::Client",
    "Api<",
    "Timestamp::now",
    "Instant::now",
    "SystemTime",
    "std::env",
    "rand::",
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let nested = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    nested.filter(|path| path.extension().is_some_and(|e| e == "rs")).collect()
}

fn is_pure(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let folder = |part: &str| path.components().any(|c| c.as_os_str() == part);
    PURE.contains(&name) || PURE_FOLDERS.into_iter().any(folder)
}

#[test]
fn deciding_code_does_no_input_or_output() {
    let all = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let pure: Vec<_> = all.into_iter().filter(|path| is_pure(path)).collect();
    assert!(pure.len() >= PURE.len(), "the list of pure files no longer matches the tree: {pure:?}");
    let mut impure = Vec::new();
    for path in pure {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let words = FORBIDDEN.into_iter().filter(|word| code.contains(word));
        impure.extend(words.map(|word| format!("{}: {word}", path.display())));
    }
    assert!(impure.is_empty(), "these have to stay pure: {impure:#?}");
}

#[test]
fn files_stay_readable() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for package in ["crds", "operator", "e2e"] {
        for path in sources(&root.join(package)) {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            assert!(lines <= 500, "{} has {lines} lines: that is two things", path.display());
        }
    }
}
