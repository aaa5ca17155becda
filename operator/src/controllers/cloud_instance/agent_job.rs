//! Runs a step of the reef's agent as a Job and reads its result.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Pod, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PartialObjectMeta, Patch, PatchParams, Preconditions},
};
use reef_crds::condition::Reason;
use serde_json::{Value, json};

use super::{
    bodies::Inputs,
    jobs::{Agent, LABEL_INPUTS, LABEL_STEP, Work},
};
use crate::{
    cluster::keep::{keep_one, unread},
    controller::{Context, trouble::Trouble},
    controllers::reef::bodies::NAMESPACE,
    resources::Verdict,
};

/// Pause after the first failed try; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause after a failed try.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How a Job stands (pure).
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Running,
    Succeeded,
    /// Since then.
    Failed(Timestamp),
}

/// The result of a step that is done, or how it stands.
pub async fn run(
    context: &Context,
    client: &Client,
    inputs: &Inputs,
    work: &Work,
    agent: &Agent<'_>,
    now: Timestamp,
) -> Result<Value, Verdict> {
    let jobs = Api::<Job>::namespaced(client.clone(), NAMESPACE);
    let list = jobs.list(&ListParams::default().labels(&Work::selector(inputs))).await;
    let list = list.map_err(|e| unread("Job", work.step.as_str(), &e))?;
    let of_step = |job: &Job| job.labels().get(LABEL_STEP).is_some_and(|step| step == work.step.as_str());
    let is_mine = |job: &Job| of_step(job) && job.labels().get(LABEL_INPUTS) == Some(&work.inputs);
    let (mut mine, mut others): (Vec<Job>, Vec<Job>) = list.items.into_iter().partition(is_mine);
    mine.sort_by_key(attempt_of);
    // It would undo what is done now: two steps write the same resources of the server, each as a whole.
    if others.iter().any(|job| state(job, now) == State::Running) {
        return Err(Verdict::Working(format!("the reef's agent works at: {}", work.step.as_str())));
    }
    others.retain(of_step);
    if let Err(error) = tidy(client, inputs, work, &others).await {
        tracing::warn!(step = work.step.as_str(), %error, "inputs of the agent without an owner");
    }
    let newest = mine.pop();
    let before = mine.pop().filter(|job| state(job, now) != State::Succeeded);
    let Some(job) = newest else { return begin(context, client, inputs, work, agent, 1).await };
    let attempt = attempt_of(&job);
    // A crash may have left its Secret without an owner, and the Job may have come to its end since.
    let given = give(context, client, inputs, work, attempt, Some(&job)).await;
    let state = state(&job, now);
    if state != State::Succeeded {
        given?;
    }
    match state {
        State::Succeeded if is_undone(&job, &others) => {
            begin(context, client, inputs, work, agent, attempt.saturating_add(1)).await
        }
        State::Succeeded => result(client, &job).await,
        State::Running => {
            // What failed is told until a try does not.
            match (attempt > 1, before) {
                (true, Some(before)) => Err(failed(client, &before, work).await),
                _ => Err(Verdict::Working(format!("the reef's agent works at: {}", work.step.as_str()))),
            }
        }
        State::Failed(at) => {
            let doublings = attempt.saturating_sub(1).min(10);
            let pause = LONGEST_PAUSE.min(FIRST_PAUSE * 2u32.pow(doublings));
            if now < crate::resources::memory::after(at, pause) {
                return Err(failed(client, &job, work).await);
            }
            let again = begin(context, client, inputs, work, agent, attempt.saturating_add(1)).await;
            match again {
                Err(Verdict::Working(_)) => Err(failed(client, &job, work).await),
                other => other,
            }
        }
    }
}

async fn begin(
    context: &Context,
    client: &Client,
    inputs: &Inputs,
    work: &Work,
    agent: &Agent<'_>,
    attempt: u32,
) -> Result<Value, Verdict> {
    // The input first, so that the pod need not wait for it; then whose it is, so that it goes with the Job.
    give(context, client, inputs, work, attempt, None).await?;
    let made = keep_one(context, client, &work.job(inputs, attempt, agent)).await?;
    let job: Job = serde_json::from_value(made).map_err(|e| unreadable(&e.to_string()))?;
    give(context, client, inputs, work, attempt, Some(&job)).await?;
    Err(Verdict::Working(format!("the reef's agent works at: {}", work.step.as_str())))
}

async fn give(
    context: &Context,
    client: &Client,
    inputs: &Inputs,
    work: &Work,
    attempt: u32,
    job: Option<&Job>,
) -> Result<(), Verdict> {
    let uid = job.and_then(ResourceExt::uid);
    keep_one(context, client, &work.secret(inputs, attempt, uid.as_deref())).await.map(drop)
}

/// Inputs that are not wanted any more, and that a crash left without an owner before there was another spec: they go with
/// their Jobs, and at once if there are none.
async fn tidy(client: &Client, inputs: &Inputs, work: &Work, others: &[Job]) -> Result<(), kube::Error> {
    let secrets = Api::<Secret>::namespaced(client.clone(), NAMESPACE);
    let of_step = format!("{},{LABEL_STEP}={}", Work::selector(inputs), work.step.as_str());
    let all = secrets.list_metadata(&ListParams::default().labels(&of_step)).await?;
    let is_left = |secret: &PartialObjectMeta<Secret>| {
        secret.owner_references().is_empty() && secret.labels().get(LABEL_INPUTS) != Some(&work.inputs)
    };
    for secret in all.iter().filter(|secret| is_left(secret)) {
        let name = secret.name_any();
        let tidied = if let Some(job) = others.iter().find(|job| job.name_any() == name) {
            let owner = json!([{ "apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job.uid() }]);
            let patch = json!({ "metadata": { "uid": secret.uid(), "ownerReferences": owner } });
            secrets.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
        } else {
            // The one that was looked at, and no other.
            let (uid, resource_version) = (secret.uid(), secret.resource_version());
            let params = DeleteParams::default().preconditions(Preconditions { uid, resource_version });
            secrets.delete(&name, &params).await.map(drop)
        };
        match tidied {
            // It is gone, or another one by now.
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Whether the same step was done for other inputs since: who edits there and back wants it done again. In doubt it is
/// done again, which changes nothing.
fn is_undone(job: &Job, others: &[Job]) -> bool {
    let created = |job: &Job| job.metadata.creation_timestamp.as_ref().map(|t| t.0);
    others.iter().any(|other| created(other) >= created(job))
}

fn attempt_of(job: &Job) -> u32 {
    job.name_any().rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn state(job: &Job, now: Timestamp) -> State {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_ref());
    let find =
        |type_: &str| conditions.into_iter().flatten().find(|c| c.type_ == type_ && c.status == "True");
    if find("Complete").is_some() {
        return State::Succeeded;
    }
    match find("Failed") {
        Some(condition) => State::Failed(condition.last_transition_time.as_ref().map_or(now, |t| t.0)),
        None => State::Running,
    }
}

/// What the pod of a Job left as its last words.
async fn last_words(client: &Client, job: &Job) -> Result<Option<String>, kube::Error> {
    let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    let name = format!("batch.kubernetes.io/job-name={}", job.name_any());
    let list = pods.list(&ListParams::default().labels(&name)).await?;
    let terminated = |pod: &Pod| {
        let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
        status.state.as_ref()?.terminated.clone()
    };
    Ok(list.items.iter().filter_map(terminated).find_map(|t| t.message))
}

async fn result(client: &Client, job: &Job) -> Result<Value, Verdict> {
    let words = last_words(client, job).await.map_err(|e| unread("Job", &job.name_any(), &e))?;
    // The pod of an older Job may be gone: that it succeeded is enough, and what it said is asked again.
    let Some(words) = words else { return Ok(Value::Null) };
    serde_json::from_str(&words).map_err(|e| unreadable(&e.to_string()))
}

async fn failed(client: &Client, job: &Job, work: &Work) -> Verdict {
    let words = last_words(client, job).await.ok().flatten().unwrap_or_default();
    let error =
        serde_json::from_str::<Value>(&words).ok().and_then(|v| v["error"].as_str().map(str::to_owned));
    let error = error.unwrap_or_else(|| {
        let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let message = conditions.filter(|c| c.type_ == "Failed").find_map(|c| c.message.clone());
        message.unwrap_or_else(|| "it left no words".to_owned())
    });
    tracing::debug!(job = job.name_any(), error, "the reef's agent failed");
    // Without the Job's name, which is another with each try.
    let message = format!("the reef's agent failed at {}: {error}", work.step.as_str());
    Verdict::Failed(Trouble::new(Reason::AgentFailed, message))
}

fn unreadable(error: &str) -> Verdict {
    let message = format!("the reef's agent left a result that cannot be read: {error}");
    Verdict::Failed(Trouble::new(Reason::AgentFailed, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_says_how_it_stands() {
        let now = Timestamp::from_second(100).unwrap();
        let job = |type_: &str, status: &str| -> Job {
            let condition =
                json!({ "type": type_, "status": status, "lastTransitionTime": "1970-01-01T00:00:07Z" });
            serde_json::from_value(json!({
                "metadata": { "name": "access-abc-def-12" }, "status": { "conditions": [condition] },
            }))
            .unwrap()
        };
        assert_eq!(state(&job("Complete", "True"), now), State::Succeeded);
        assert_eq!(state(&job("Failed", "True"), now), State::Failed(Timestamp::from_second(7).unwrap()));
        assert_eq!(state(&job("Failed", "False"), now), State::Running);
        assert_eq!(state(&Job::default(), now), State::Running);
        assert_eq!(attempt_of(&job("Complete", "True")), 12);
    }

    #[test]
    fn what_was_done_is_done_again_after_something_else() {
        let job = |at: &str| -> Job {
            serde_json::from_value(json!({ "metadata": { "creationTimestamp": at } })).unwrap()
        };
        let [first, second] = ["2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"].map(job);
        assert!(!is_undone(&first, &[]) && !is_undone(&second, std::slice::from_ref(&first)));
        assert!(is_undone(&first, std::slice::from_ref(&second)));
        assert!(is_undone(&first, std::slice::from_ref(&first)), "in the same second");
    }
}
