//! Snapshots of shares: made by a PUT with `$expand=snapshots`, named by their moment, and in the way of a deletion.

use serde_json::{Value, json};

use super::{
    Cloud, Request, Response,
    id::{Target, key},
    put::started,
};

/// A snapshot: key of its share, moment, and the share as it was.
pub type Snapshot = (String, String, Value);

const SHARE: &str = "microsoft.storage/storageaccounts/fileservices/shares";

/// Whether a query parameter names a word.
fn names(request: &Request, parameter: &str, word: &str) -> bool {
    request.query.get(parameter).is_some_and(|value| value.split([',', '%']).any(|one| one.ends_with(word)))
}

impl Cloud {
    /// Makes a snapshot, if the request asks for one.
    pub(super) fn snapshot(&mut self, target: &Target, request: &Request, now: u64) -> Option<Response> {
        if target.kind() != SHARE || !names(request, "$expand", "snapshots") {
            return None;
        }
        let at = key(&request.path);
        let Some(share) = self.resources.get(&at).cloned() else { return Some(self.not_found(target)) };
        let taken = self.snapshots.iter().filter(|(of, ..)| *of == at).count();
        // Two in one moment have names of their own.
        let moment = started(now.saturating_add(taken as u64));
        let sent = request.body.as_ref().map(|body| body["properties"].clone()).filter(Value::is_object);
        let mut shown = json!({ "id": share["id"], "name": share["name"], "type": share["type"] });
        shown["properties"] = sent.unwrap_or_else(|| json!({}));
        shown["properties"]["snapshotTime"] = json!(moment);
        let mut kept = share;
        if shown["properties"]["metadata"].is_object() {
            kept["properties"]["metadata"] = shown["properties"]["metadata"].clone();
        }
        kept["properties"]["snapshotTime"] = json!(moment);
        if let Some(properties) = kept["properties"].as_object_mut() {
            properties.remove("accessTierChangeTime");
        }
        self.snapshots.push((at, moment, kept));
        Some(Response::json(201, shown))
    }

    /// The snapshot that a request means, as it is shown.
    pub(super) fn snapshot_of(&self, request: &Request) -> Option<Value> {
        let (at, moment) = (key(&request.path), request.snapshot.as_ref()?);
        self.snapshots
            .iter()
            .find(|(of, taken, _)| *of == at && taken == moment)
            .map(|(.., kept)| kept.clone())
    }

    /// Takes away the snapshot that a request means; whether it means one.
    pub(super) fn delete_snapshot(&mut self, request: &Request) -> bool {
        let Some(moment) = &request.snapshot else { return false };
        let at = key(&request.path);
        self.snapshots.retain(|(of, taken, _)| !(*of == at && taken == moment));
        true
    }

    /// A share goes together with its snapshots, unless the request leaves them out.
    pub(super) fn refuse_snapshots(&self, target: &Target, request: &Request) -> Option<Response> {
        let at = key(&request.path);
        let has = target.kind() == SHARE && self.snapshots.iter().any(|(of, ..)| *of == at);
        let without = names(request, "$include", "none") && request.snapshot.is_none();
        (has && without).then(|| {
            let message = "The share has snapshots and the operation requires no snapshots.";
            Response::error(409, "ShareHasSnapshots", message)
        })
    }

    /// The shares of a list as it shows them, with their snapshots if they are asked for.
    pub(super) fn shares(&self, service: &str, shares: Vec<Value>, request: &Request) -> Vec<Value> {
        let mut all = Vec::new();
        if names(request, "$expand", "snapshots") {
            let below = format!("{service}/shares/");
            all.extend(
                self.snapshots.iter().filter(|(of, ..)| of.starts_with(&below)).map(|(.., s)| s.clone()),
            );
        }
        all.extend(shares);
        for share in &mut all {
            share["properties"]["enabledProtocols"] = json!("SMB");
            if let Some(properties) = share["properties"].as_object_mut() {
                properties.remove("signedIdentifiers");
            }
        }
        all
    }

    /// Takes away the snapshots of what goes.
    pub(super) fn take_snapshots(&mut self, gone: impl Fn(&str) -> bool) -> Vec<Snapshot> {
        let (taken, left) = std::mem::take(&mut self.snapshots).into_iter().partition(|(of, ..)| gone(of));
        self.snapshots = left;
        taken
    }
}
