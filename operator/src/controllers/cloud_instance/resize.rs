//! How large the server's pod is to be, and how its node stands to that (pure).
//!
//! While the server starts it may use more CPU; when it is ready, what its task cap gives. All of it is changed in the pod
//! that runs. The limit of memory is not lowered there: .NET sizes its heap by the limit that it finds at its start, and
//! would be killed for using what it was given. It is lowered when the pod is next made.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod, PodCondition},
    apimachinery::pkg::api::resource::Quantity,
};
use reef_crds::{condition::Reason, quantity};
use serde_json::{Value, json};

use super::{
    manifests::{QUOTA, SERVER},
    sizes::{self, Size},
};
use crate::controller::trouble::Trouble;

/// What is to be done about the size of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// It is as wanted.
    Nothing,
    /// This is to be asked for.
    Resize(Size),
    /// It was asked for, and the node is at it.
    Working(String),
    /// It was asked for, and the node cannot give it now.
    Pending(Trouble),
}

/// Decides, for the server's task cap.
pub fn decide(pod: &Pod, task_cap: u8) -> Step {
    let Some(asked) = asked(pod).filter(|_| pod.metadata.deletion_timestamp.is_none()) else {
        return Step::Nothing;
    };
    let target = target(pod, asked, sizes::of(task_cap));
    if asked != target {
        return Step::Resize(target);
    }
    let seen = pod.status.as_ref().and_then(|s| s.observed_generation);
    let is_unseen = seen.is_some_and(|seen| pod.metadata.generation.is_some_and(|now| seen < now));
    // What the node says is about what it has seen.
    if let Some(condition) = condition(pod, "PodResizePending").filter(|_| !is_unseen) {
        return Step::Pending(pending(condition, target));
    }
    match condition(pod, "PodResizeInProgress") {
        // What the kubelet could not do it tries again.
        Some(condition) if condition.reason.as_deref() == Some("Error") => {
            Step::Pending(pending(condition, target))
        }
        None if !is_unseen => Step::Nothing,
        _ => Step::Working(format!("the node gives the server {}", in_words(target))),
    }
}

/// What the pod is to ask for.
fn target(pod: &Pod, asked: Size, steady: Size) -> Size {
    let starting = sizes::starting(steady);
    let status = container_status(pod);
    let cpu_limit = match status.and_then(|s| s.started) {
        // A server that serves for a while no longer, or is about to, keeps what it has.
        Some(true) if is_ready(pod) || asked.cpu_limit != starting.cpu_limit => steady.cpu_limit,
        _ => starting.cpu_limit,
    };
    let limits = status.and_then(|s| s.resources.as_ref()?.limits.as_ref());
    let has = limits.and_then(mebibytes).unwrap_or(0);
    Size { cpu_limit, memory_limit: steady.memory_limit.max(has), ..steady }
}

/// The largest task cap that the pod has CPU and memory for, at most the one that is wanted.
pub fn bearable(pod: &Pod, wanted: u8) -> u8 {
    let status = container_status(pod);
    // What is allocated is exact; what is used may be rounded by the kernel.
    let requests = status.and_then(|s| {
        s.allocated_resources.as_ref().or_else(|| s.resources.as_ref().and_then(|r| r.requests.as_ref()))
    });
    let has = requests.and_then(|list| Some((millicores(list)?, mebibytes(list)?)));
    let Some((cpu, memory)) = has else { return wanted };
    let fits = |cap: &u8| {
        let size = sizes::of(*cap);
        size.cpu_request <= cpu && size.memory_request <= memory
    };
    sizes::CAPS.into_iter().filter(|cap| *cap <= wanted).rfind(fits).unwrap_or(sizes::CAPS[0])
}

/// Whether the server has started: its start-up probe was answered.
pub fn has_started(pod: &Pod) -> bool {
    container_status(pod).and_then(|status| status.started) == Some(true)
}

/// What the server's container asks for.
pub fn asked(pod: &Pod) -> Option<Size> {
    let is_server = |container: &&Container| container.name == SERVER;
    let resources = pod.spec.as_ref()?.containers.iter().find(is_server)?.resources.clone()?;
    let (requests, limits) = (resources.requests?, resources.limits?);
    Some(Size {
        cpu_request: millicores(&requests)?,
        cpu_limit: millicores(&limits)?,
        memory_request: mebibytes(&requests)?,
        memory_limit: mebibytes(&limits)?,
    })
}

/// The patch of `pods/resize` that asks for a size, of this very pod.
pub fn patch(pod: &Pod, size: Size) -> Value {
    json!({
        "metadata": { "uid": pod.metadata.uid },
        "spec": { "containers": [{ "name": SERVER, "resources": size.resources() }] },
    })
}

fn container_status(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.iter().flatten().find(|status| status.name == SERVER)
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    let mut all = pod.status.as_ref()?.conditions.iter().flatten();
    all.find(|condition| condition.type_ == type_ && condition.status == "True")
}

fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some()
}

/// What the node says about a size that it does not give.
fn pending(condition: &PodCondition, target: Size) -> Trouble {
    let why = condition.message.as_deref().unwrap_or_default();
    let reason = match condition.reason.as_deref() {
        Some("Infeasible") => Reason::ResizeInfeasible,
        _ => Reason::ResizeDeferred,
    };
    trouble(reason, target, why)
}

/// What the API server says since Kubernetes 1.36 of a size that the pod's node can never give.
const TOO_SMALL: &str = "node didn't have enough";

/// What the cluster says about a size that it does not take: because of the node, or because of a quota, a limit or a policy,
/// which hold on any node.
pub fn refused(size: Size, why: &str) -> Trouble {
    let of_node = why.to_lowercase().contains(TOO_SMALL);
    trouble(if of_node { Reason::ResizeInfeasible } else { Reason::ResizeRefused }, size, why)
}

/// Whether a refusal is that of our own quota, which has room as soon as it is in effect.
pub fn is_of_quota(refusal: &str) -> bool {
    refusal.contains(&format!("exceeded quota: {QUOTA},"))
}

/// Whether a refusal is about who asks, in the words of the authorizer: it says nothing about the size.
pub fn is_of_caller(refusal: &str) -> bool {
    refusal.contains(" cannot patch resource ")
}

fn trouble(reason: Reason, size: Size, why: &str) -> Trouble {
    let (who, hope) = match reason {
        Reason::ResizeInfeasible => (
            "the server's node cannot give it",
            "it waits until its pod is next made, or for another spec.taskCap",
        ),
        Reason::ResizeRefused => (
            "the reef's cluster does not let the server have",
            "it waits for another spec.taskCap, or for a change there",
        ),
        _ => (
            "the server's node cannot give it",
            "it gets it when others leave the node, or when its pod is next made",
        ),
    };
    let message =
        format!("{who} {}, and the server goes on with what it has: {hope} ({why})", in_words(size));
    Trouble::new(reason, message)
}

fn in_words(size: Size) -> String {
    let [cpu, memory] = [sizes::cpu(size.cpu_request), sizes::memory(size.memory_request)];
    format!("{cpu} CPU and {memory} memory")
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from float saturates, and quantities of pods are not negative"
)]
fn millicores(list: &BTreeMap<String, Quantity>) -> Option<u32> {
    Some((quantity::number(&list.get("cpu")?.0)? * 1000.0).ceil() as u32)
}

fn mebibytes(list: &BTreeMap<String, Quantity>) -> Option<u32> {
    let bytes = quantity::bytes(&list.get("memory")?.0)?;
    u32::try_from((bytes + (1 << 20) - 1) >> 20).ok()
}

#[cfg(test)]
#[path = "tests_resize.rs"]
mod tests;
