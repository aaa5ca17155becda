//! What runs on a cluster or a pool is given up at somebody's wish, and the resource stays as far as it came.

use serde_json::json;

use super::{
    Cloud, Request, Response,
    id::{Target, key, parent_key},
    kinds,
    operations::{Effect, Url},
};

/// How long AKS takes to give up, seconds (recorded: 5).
const SECONDS: u32 = 5;

impl Cloud {
    /// Answers POST `.../abort`.
    pub(super) fn abort(&mut self, target: &Target, request: &Request, now: u64) -> Response {
        let at = parent_key(&format!("{}/x", key(&request.path)));
        let Some(resource) = self.resources.get(&at).cloned() else { return self.not_found(target) };
        let Some(kind) = resource["type"].as_str().and_then(kinds::find) else {
            return self.not_found(target);
        };
        if !self.operations.cancel(&at, now) {
            let message = "There is no operation to abort.";
            return Response::json(409, json!({ "code": "OperationNotAllowed", "message": message }));
        }
        // What is answered is as it was (recorded); this word is AKS's own, as its documentation has it.
        let was = self.shown(&resource);
        self.show(&at, "Canceling");
        let at_of = at.clone();
        let id = self.begin(kind, Effect::Canceled(at), SECONDS, None, now);
        // A pool is where its cluster is.
        let cluster = self.resources.get(at_of.split("/agentpools/").next().unwrap_or(&at_of));
        let url = |of| self.url(kind, cluster.unwrap_or(&resource), &id, of, request, now);
        Response::json(202, was)
            .header("location", url(Url::Result))
            .header("azure-asyncoperation", url(Url::Status))
    }

    /// Gives a resource and what came inline with it a state.
    pub(super) fn show(&mut self, at: &str, state: &str) {
        for (_, resource) in self.with_inline(at) {
            resource["properties"]["provisioningState"] = json!(state);
        }
    }
}
