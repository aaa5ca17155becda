//! DELETE: what is refused, and how what is not goes.

use serde_json::Value;

use super::{
    Cloud, Request, Response,
    cloud::set_state,
    id::{Target, key},
    kinds::{self, Style},
    operations::{Effect, Url, retry_after},
    put::precondition,
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
        let (wait, location_only) = match kind.delete {
            Style::Both(wait) => (wait, false),
            Style::Location(wait) => (wait, true),
            Style::Sync(_) | Style::Body(_) => {
                let below = format!("{key}/");
                self.resources.retain(|k, _| *k != key && !k.starts_with(&below));
                let with_body = kind.name == "Microsoft.Authorization/roleAssignments";
                return if with_body { Response::json(200, resource) } else { Response::empty(200) };
            }
        };
        if let Some(resource) = self.resources.get_mut(&key) {
            set_state(kind, resource, "Deleting");
        }
        let id = self.begin(Effect::Deleted(key), kind.delete_seconds, wait, now);
        let url = |kind_of_url| self.url(kind, &resource, &id, kind_of_url, request, now);
        let answer = Response::empty(202)
            .header("location", url(Url::Result))
            .header("retry-after", retry_after(wait, self.scale));
        if location_only { answer } else { answer.header("azure-asyncoperation", url(Url::Status)) }
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
        if target.kind() == "microsoft.network/virtualnetworks/subnets" {
            let used = self.resources.values().any(|r| {
                r["properties"]["subnets"].as_array().is_some_and(|list| {
                    list.iter().any(|s| s["id"].as_str().is_some_and(|id| super::id::key(id) == key))
                })
            });
            if used {
                return Some(Response::error(
                    400,
                    "InUseSubnetCannotBeDeleted",
                    format!("Subnet {} is in use and cannot be deleted.", target.name()),
                ));
            }
        }
        precondition(request, Some(resource))
    }
}
