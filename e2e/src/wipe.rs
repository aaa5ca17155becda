//! The loss of the management cluster, for stories.
#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a step that fails is to fail its story")]

use crate::{
    harness::{Sandbox, ok, until},
    install::{NAMESPACE, charts},
};

/// Our kinds, what refers before what is referred to.
const KINDS: [&str; 5] = ["cloudinstances", "retainedinstances", "reefs", "regions", "reefclasses"];

/// Everything of ours in the management cluster goes at once, keys and revisions with it, and nobody is there to see
/// it; then the charts come back.
pub fn wipe(sandbox: &Sandbox) {
    let values =
        ok(&sandbox.helm(&["get", "values", "reef-operator", "--namespace", NAMESPACE, "-o", "json"]));
    let values_file = sandbox.folder().join("run/values.json");
    std::fs::write(&values_file, values).expect("write the values");
    ok(&sandbox.helm(&["uninstall", "reef-operator", "--namespace", NAMESPACE, "--wait"]));
    ok(&sandbox.kubectl(&["delete", "validatingadmissionpolicybinding", "--all"]));
    let names = r#"jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}{"\n"}{end}"#;
    for kind in KINDS {
        let release = r#"{"metadata":{"finalizers":null}}"#;
        for object in ok(&sandbox.kubectl(&["get", kind, "-A", "-o", names])).lines() {
            let (namespace, name) = object.split_once('/').expect("namespace/name");
            let namespace = if namespace.is_empty() { "default" } else { namespace };
            ok(&sandbox.kubectl(&["-n", namespace, "patch", kind, name, "--type=merge", "-p", release]));
        }
        // The policy stays in force for a moment after its binding is gone.
        let all: &[&str] = if kind == "cloudinstances" { &["--all", "-A"] } else { &["--all"] };
        until(&format!("{kind} are deleted"), || {
            sandbox.kubectl(&[&["delete", kind][..], all].concat()).status.success().then_some(())
        });
        let crd = format!("{kind}.cloud.octopus.com");
        until(&format!("{crd} is deleted"), || {
            sandbox.kubectl(&["delete", "crd", &crd, "--ignore-not-found"]).status.success().then_some(())
        });
    }
    ok(&sandbox.kubectl(&["-n", NAMESPACE, "delete", "controllerrevisions", "--all"]));
    ok(&sandbox.kubectl(&["-n", NAMESPACE, "delete", "secrets", "-l", "app.kubernetes.io/component=keys"]));
    ok(&sandbox.helm(&["uninstall", "reef-operator-crds", "--namespace", NAMESPACE]));
    let install = |chart: &str, more: &[&str]| {
        let path = charts().join(chart);
        let path = path.to_str().expect("a path of text");
        let base =
            ["upgrade", "--install", chart, path, "--namespace", NAMESPACE, "--wait", "--take-ownership"];
        ok(&sandbox.helm(&[&base[..], more].concat()));
    };
    install("reef-operator-crds", &[]);
    install("reef-operator", &["--values", values_file.to_str().expect("a path of text")]);
}
