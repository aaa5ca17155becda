//! DELETE: what is refused, and how what is not goes.

use serde_json::{Value, json};

use super::{
    Cloud, Request, Response,
    id::{Target, key},
    kinds::{self, State, Style},
    lineage::is_first_version,
    operations::{Effect, Url},
    put::{notified, operation_name, precondition, started, with_retry_after},
};

impl Cloud {
    pub(super) fn delete(&mut self, target: &Target, request: &Request, now: u64) -> Response {
        let key = key(&request.path);
        let Some(resource) = self.resources.get(&key).cloned() else {
            let missing = self.not_found(target);
            let code = missing.body.as_ref().map(|b| b["error"]["code"].clone()).unwrap_or_default();
            let parent_is_missing = code == "ResourceGroupNotFound" || code == "ParentResourceNotFound";
            return if parent_is_missing { missing } else { Response::empty(204) };
        };
        let Some(kind) = kinds::find(&target.kind()) else { return self.not_found(target) };
        if let Some(refusal) = self.refuse_delete(target, &key, request, &resource) {
            return refusal;
        }
        if self.delete_snapshot(request) {
            return Response::empty(200);
        }
        let status = if matches!(kind.delete, Style::Sync(_)) { 202 } else { 200 };
        let is_link = kind.name == "Microsoft.Sql/servers/databases/replicationLinks";
        let (style, seconds) = match kind.delete {
            _ if is_link && is_first_version(request) => (Style::Sync(200), 0),
            delete => self.style(delete, kind.delete_seconds, status),
        };
        let wait = match style {
            Style::Both(wait) | Style::Body(wait) => wait,
            Style::Location(wait) => Some(wait),
            Style::Sync(status) => {
                self.remove(&key, now);
                let with_body = kind.name == "Microsoft.Authorization/roleAssignments";
                return if with_body { Response::json(200, resource) } else { Response::empty(status) };
            }
        };
        if let Some(resource) = self.resources.get_mut(&key)
            && matches!(kind.state, State::Provisioning(_))
        {
            resource["properties"]["provisioningState"] = json!("Deleting");
        }
        let seconds = seconds + self.longest_below(&key);
        let id = self.begin(kind, Effect::Deleted(key), seconds, wait, now);
        let url = |kind_of_url| self.url(kind, &resource, &id, kind_of_url, request, now);
        let mut answer = Response::empty(202).header("location", url(Url::Result));
        if !kind.operation.is_empty() {
            answer.body =
                Some(json!({ "operation": operation_name(kind, "Drop"), "startTime": started(now) }));
        }
        let answer = with_retry_after(answer, wait, self.scale);
        if matches!(style, Style::Location(_)) {
            return answer;
        }
        notified(kind, answer.header("azure-asyncoperation", url(Url::Status)))
    }

    /// A group goes when the slowest of its resources is gone.
    fn longest_below(&self, key: &str) -> u32 {
        let below = format!("{key}/providers/");
        let kinds = self.resources.iter().filter(|(k, _)| k.starts_with(&below));
        let kinds = kinds.filter_map(|(_, r)| r["type"].as_str().and_then(kinds::find));
        kinds.map(|k| k.delete_seconds).max().unwrap_or(0)
    }

    fn refuse_delete(
        &self,
        target: &Target,
        key: &str,
        request: &Request,
        resource: &Value,
    ) -> Option<Response> {
        let at_or_below =
            |outer: &str, inner: &str| inner == outer || inner.starts_with(&format!("{outer}/"));
        let lock = self.resources("Microsoft.Authorization/locks").into_iter().find(|lock| {
            let scope = lock["id"].as_str().map(super::id::key).unwrap_or_default();
            let scope =
                scope.split("/providers/microsoft.authorization/").next().unwrap_or_default().to_owned();
            (at_or_below(&scope, key) || at_or_below(key, &scope))
                && !key.contains("/microsoft.authorization/")
        });
        if let Some(lock) = lock {
            let scope = lock["id"].as_str().unwrap_or_default();
            return Some(Response::gateway_error(
                409,
                "ScopeLocked",
                format!("'{}' is locked by '{scope}'.", request.path),
            ));
        }
        if let Some(refusal) = self.refuse_used(target, key) {
            return Some(refusal);
        }
        self.refuse_snapshots(target, request).or_else(|| precondition(request, Some(resource)))
    }
}
