//! ReefClass: keeps each edit as a revision, from which reefs are made.

mod revision;

use std::{collections::BTreeSet, convert::Infallible, sync::Arc};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
    runtime::{Config, Controller, controller::Action, events::Recorder},
};
use reef_crds::{
    Reef, ReefClass, ReefClassStatus,
    condition::{ConditionType, Decided, Reason, merge, ours},
    meta::{LABEL_CLASS, RECONCILE_REQUESTED_AT},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::Readiness,
    controller::{
        Context, Error, Reconciles,
        objects::{self, Guarded},
        status,
    },
    metrics::ByOutcome,
};

const CONTROLLER: &str = "reefclass";

struct Shared {
    context: Arc<Context>,
    recorder: Recorder,
    reconciles: Reconciles<String>,
}

/// Runs the controller until `stop`, then lets the reconciles that run end.
pub async fn run(context: Arc<Context>, readiness: Readiness, stop: CancellationToken) {
    let shared = Arc::new(Shared {
        recorder: context.recorder(CONTROLLER),
        reconciles: Reconciles::new(CONTROLLER, context.metrics.clone(), context.concurrency),
        context: context.clone(),
    });
    let gone = shared.clone();
    let forget = move |class: &Guarded<ReefClass>| gone.reconciles.forget(&class.name_any());
    let (store, classes) = objects::follow(&context, (CONTROLLER, "reefclasses"), readiness, forget);
    Controller::for_stream(classes, store)
        .with_config(Config::default().concurrency(context.concurrency))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, |_, never: &Infallible, _| match *never {}, shared)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(controller = CONTROLLER, %error, "controller");
            }
        })
        .await;
}

async fn reconcile(class: Arc<Guarded<ReefClass>>, shared: Arc<Shared>) -> Result<Action, Infallible> {
    let read = objects::readable(&class, CONTROLLER, &shared.context, &shared.recorder).await;
    let Some(class) = read else { return Ok(Action::await_change()) };
    Ok(shared.reconciles.run(class.name_any(), look(&class, &shared.context)).await)
}

async fn look(class: &ReefClass, context: &Context) -> Result<Action, Error> {
    context.claim.check()?;
    if class.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let wanted = revision::of(class, &context.namespace, &context.fleet);
    let name = wanted.name_any();
    let api = Api::<ControllerRevision>::namespaced(context.client.clone(), &context.namespace);
    let count = |outcome| {
        context.metrics.writes.get_or_create(&ByOutcome { resource: "controllerrevisions", outcome }).inc();
    };
    if api.get_metadata_opt(&name).await.map_err(Error::api("read the revision"))?.is_some() {
        count("skipped");
    } else {
        match api.create(&PostParams::default(), &wanted).await {
            Ok(_) => count("changed"),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(Error::api("make the revision")(error)),
        }
    }
    prune(class, context, &api, &name).await?;
    let generation = class.metadata.generation.unwrap_or(0);
    let old = class.status.clone().map(|s| ReefClassStatus { conditions: ours(&s.conditions), ..s });
    let decided = [Decided {
        type_: ConditionType::Ready,
        status: Some(true),
        reason: Reason::ReconcileSucceeded,
        message: format!("new reefs are made from revision {name}"),
    }];
    let before = old.as_ref().map(|s| s.conditions.clone()).unwrap_or_default();
    let next = ReefClassStatus {
        observed_generation: Some(generation),
        conditions: merge(&before, &decided, generation, Timestamp::now()),
        last_handled_reconcile_at: class.annotations().get(RECONCILE_REQUESTED_AT).cloned(),
        revision: Some(name),
    };
    let classes = Api::<ReefClass>::all(context.client.clone());
    status::write(context, &classes, class, old.as_ref(), &next, "reefclasses/status").await?;
    Ok(Action::requeue(context.policy.resync))
}

/// Deletes old revisions that no reef was made from.
async fn prune(
    class: &ReefClass,
    context: &Context,
    api: &Api<ControllerRevision>,
    newest: &str,
) -> Result<(), Error> {
    let selector = format!("{LABEL_CLASS}={}", class.name_any());
    let revisions = api.list_metadata(&ListParams::default().labels(&selector)).await;
    let revisions = revisions.map_err(Error::api("list revisions"))?;
    let all: Vec<_> = revisions
        .items
        .iter()
        .map(|r| (r.name_any(), r.metadata.creation_timestamp.clone().map(|t| t.0).unwrap_or_default()))
        .collect();
    if all.len() <= revision::KEPT {
        return Ok(());
    }
    // From the API server itself: an empty cache is no reason to delete.
    let reefs = Api::<Reef>::all(context.client.clone());
    let reefs = reefs.list(&ListParams::default()).await.map_err(Error::api("list Reefs"))?;
    let unnamed = |reef: &&Reef| reef.status.as_ref().is_none_or(|status| status.class_revision.is_none());
    if reefs.items.iter().filter(unnamed).any(|reef| reef.spec.class_ref.name == class.name_any()) {
        // It may have been made from any of them, and its status is still to be found out, as after a restore.
        return Ok(());
    }
    let used: BTreeSet<_> = reefs.items.into_iter().filter_map(|r| r.status?.class_revision).collect();
    for name in revision::superfluous(all, newest, &used) {
        context.claim.check()?;
        match api.delete(&name, &DeleteParams::default()).await {
            Ok(_) => tracing::info!(controller = CONTROLLER, name, "deleted an old revision"),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(Error::api("delete a revision")(error)),
        }
    }
    Ok(())
}
