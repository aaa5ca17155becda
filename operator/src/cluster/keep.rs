//! Objects that the operator keeps in the cluster of a reef.

use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use reef_crds::{condition::Reason, meta::FIELD_MANAGER};
use serde_json::Value;

use crate::{
    azure::compare::exact_difference,
    causes,
    cluster::{drift, guard::forbidden},
    controller::{Context, trouble::Trouble},
    metrics::ByOutcome,
    resources::Verdict,
};

/// An object to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Plural name of its kind.
    pub plural: &'static str,
    /// The object.
    pub object: Value,
}

impl Manifest {
    /// Its kind.
    pub fn kind(&self) -> &str {
        self.object["kind"].as_str().unwrap_or_default()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// Where objects of its kind and namespace are.
    pub fn api(&self, client: &Client) -> Api<DynamicObject> {
        let api_version = self.object["apiVersion"].as_str().unwrap_or_default();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let gvk = GroupVersionKind::gvk(group, version, self.kind());
        let resource = ApiResource::from_gvk_with_plural(&gvk, self.plural);
        match self.object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        }
    }
}

/// Compares an object with what it is to be and writes it if it differs: the object as it is then, or why that
/// cannot be said.
pub async fn keep_one(context: &Context, client: &Client, manifest: &Manifest) -> Result<Value, Verdict> {
    let object = &manifest.object;
    let (kind, name) = (manifest.kind(), manifest.name());
    let api = manifest.api(client);
    let live = api.get_opt(name).await.map_err(|e| unread(kind, name, &e))?;
    let count = |outcome| {
        context.metrics.writes.get_or_create(&ByOutcome { resource: manifest.plural, outcome }).inc();
    };
    let (why, who) = match live.map(|live| serde_json::to_value(live).unwrap_or_default()) {
        None => ("absent".to_owned(), None),
        Some(live) => match exact_difference(object, &live) {
            Some(why) => {
                let who = drift::who(&live, &why);
                (why, who)
            }
            None => {
                count("skipped");
                return Ok(live);
            }
        },
    };
    if context.claim.check().is_err() {
        return Err(Verdict::Unknown(Trouble::new(
            Reason::ClusterUnreachable,
            "this replica no longer leads",
        )));
    }
    tracing::info!(kind, name, why, "writing to the reef's cluster");
    let apply = PatchParams::apply(FIELD_MANAGER).force();
    let written =
        api.patch(name, &apply, &Patch::Apply(object)).await.map_err(|e| verdict(kind, name, &e))?;
    count("changed");
    if let Some(who) = who {
        tracing::warn!(kind, name, why, who, "put back what somebody changed");
        context.drifts.note(object, &why, &who);
    }
    Ok(serde_json::to_value(written).unwrap_or_default())
}

/// Deletes an object if it is there.
pub async fn remove_one(context: &Context, client: &Client, manifest: &Manifest) -> Result<(), Verdict> {
    let (kind, name) = (manifest.kind(), manifest.name());
    let api = manifest.api(client);
    let live = api.get_opt(name).await.map_err(|e| unread(kind, name, &e))?;
    if live.is_none() || context.claim.check().is_err() {
        return Ok(());
    }
    tracing::info!(kind, name, "deleting from the reef's cluster");
    match api.delete(name, &DeleteParams::background()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop).map_err(|e| verdict(kind, name, &e)),
    }
}

/// What it means that something cannot be read: nothing is known of it. An API server that cannot ask who a token is from
/// refuses those that are good as well.
pub fn unread(kind: &str, name: &str, error: &kube::Error) -> Verdict {
    match (error, verdict(kind, name, error)) {
        (kube::Error::Api(status), Verdict::Failed(trouble)) if matches!(status.code, 401 | 403) => {
            Verdict::Unknown(trouble)
        }
        (_, verdict) => verdict,
    }
}

/// What a refusal of the reef's API server means.
pub fn verdict(kind: &str, name: &str, error: &kube::Error) -> Verdict {
    let message = |error: &str| format!("{kind} {name} in the reef's cluster: {error}");
    if let Some(trouble) = forbidden(error) {
        let message = format!("{kind} {name} in the reef's cluster is not as wanted: {}", trouble.message);
        return Verdict::Failed(Trouble::new(trouble.reason, message));
    }
    match error {
        // What etcd says when its quota is used up (etcd.io/docs, "Maintenance", space quota).
        kube::Error::Api(status) if status.message.contains("database space exceeded") => {
            Verdict::Failed(Trouble::new(Reason::ClusterFull, message(&status.message)))
        }
        kube::Error::Api(status) => match status.code {
            // A new cluster gets the kinds of its add-ons, and a new role its effect, after a while.
            404 => Verdict::Working(message("the cluster does not know this kind yet")),
            403 => Verdict::Failed(Trouble::new(Reason::ClusterUnreachable, message(&status.message))),
            400 | 422 => Verdict::Blocked(Trouble::new(Reason::ClusterUnreachable, message(&status.message))),
            _ => Verdict::Unknown(Trouble::new(Reason::ClusterUnreachable, message(&status.message))),
        },
        other => Verdict::Unknown(Trouble::new(Reason::ClusterUnreachable, message(&causes(other)))),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_unknown_and_what_is_not_taken_is_refused() {
        let says = |code: u16| {
            let status = Status { code, message: "no".to_owned(), ..Status::default() };
            kube::Error::Api(Box::new(status))
        };
        for (code, read, write) in [
            (401, "unknown", "unknown"),
            (403, "unknown", "failed"),
            (404, "working", "working"),
            (422, "blocked", "blocked"),
            (429, "unknown", "unknown"),
            (500, "unknown", "unknown"),
        ] {
            let word = |verdict| match verdict {
                Verdict::Unknown(_) => "unknown",
                Verdict::Failed(_) => "failed",
                Verdict::Blocked(_) => "blocked",
                Verdict::Working(_) => "working",
                other => panic!("{other:?}"),
            };
            let error = says(code);
            assert_eq!(
                (word(unread("Pod", "p", &error)), word(verdict("Pod", "p", &error))),
                (read, write),
                "{code}"
            );
        }
    }
}
