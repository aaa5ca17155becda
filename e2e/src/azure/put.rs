//! PUT: what is refused, what is stored, what is answered.

use serde_json::{Map, Value, json};

use super::{
    Cloud, Request, Response, SUBSCRIPTION,
    cloud::{set_state, with_etag},
    id::{Target, key, parent_key},
    kinds::{self, Kind, Style},
    operations::{Effect, Url, retry_after},
};

impl Cloud {
    pub(super) fn put(&mut self, target: &Target, request: &Request, now: u64) -> Response {
        let Some(kind) = kinds::find(&target.kind()).filter(|_| target.is_resource()) else {
            return Response::gateway_error(
                400,
                "InvalidResourceType",
                format!("The resource type '{}' could not be found.", target.kind()),
            );
        };
        let body = request.body.clone().unwrap_or_else(|| json!({}));
        let key = key(&request.path);
        let old = self.resources.get(&key).cloned();
        if let Some(refusal) = self.refuse_put(target, kind, &body, old.as_ref(), &key, request) {
            return refusal;
        }
        self.writes += 1;
        let mut resource = self.resource(target, kind, &body, old.as_ref(), &request.path);
        let seconds = if old.is_some() { kind.update_seconds } else { kind.create_seconds };
        let status = if old.is_none() { 201 } else { 200 };
        let Style::Body(wait) = kind.put else {
            set_state(kind, &mut resource, "Succeeded");
            let answer = with_etag(Response::json(status, resource.clone()), &resource);
            let answer = if old.is_none() && target.kind().starts_with("microsoft.managedidentity/") {
                // The resource's own address, relative: no operation, although it looks like one.
                answer.header("location", resource["id"].as_str().unwrap_or_default())
            } else {
                answer
            };
            self.resources.insert(key, resource);
            return answer;
        };
        // An update that is done at once says Succeeded and still names an operation.
        set_state(kind, &mut resource, if seconds == 0 { "Succeeded" } else { "Updating" });
        self.resources.insert(key.clone(), resource.clone());
        let id = self.begin(Effect::Provisioned(key), seconds, wait, now);
        let url = self.url(kind, &resource, &id, Url::Status, request, now);
        Response::json(status, resource)
            .header("azure-asyncoperation", url)
            .header("azure-asyncnotification", "Enabled")
            .header("retry-after", retry_after(wait, self.scale))
    }

    fn refuse_put(
        &self,
        target: &Target,
        kind: &Kind,
        body: &Value,
        old: Option<&Value>,
        key: &str,
        request: &Request,
    ) -> Option<Response> {
        self.refuse_place(target, key)
            .or_else(|| kind.tracked.then(|| refuse_location(target, body, old)).flatten())
            .or_else(|| precondition(request, old))
            .or_else(|| self.refuse_by_kind(target, body, key))
    }

    /// Providers that are not registered, and parents that are not there or are going.
    fn refuse_place(&self, target: &Target, key: &str) -> Option<Response> {
        if let Some(provider) = &target.provider
            && !self.registered.contains(&provider.to_lowercase())
        {
            let code = "MissingSubscriptionRegistration";
            let message = format!("This subscription is not registered for {provider}.");
            let details = json!([{ "code": code, "target": provider, "message": message }]);
            let error = json!({ "code": code, "message": message, "details": details });
            return Some(Response::json(409, json!({ "error": error })));
        }
        let name = target.group.clone().unwrap_or_default();
        let group = super::id::key(&format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{name}"));
        match self.resources.get(&group) {
            None if target.provider.is_some() && target.group.is_some() => {
                return Some(self.not_found(target));
            }
            Some(found) if found["properties"]["provisioningState"] == "Deleting" => {
                let message = format!("Resource group '{name}' is being deleted.");
                return Some(Response::gateway_error(409, "ResourceGroupBeingDeleted", message));
            }
            _ => {}
        }
        let orphan = target.types.len() > 1 && !self.resources.contains_key(&parent_key(key));
        orphan.then(|| {
            let message = format!("The parent of '{}' does not exist.", target.path_of_names());
            Response::gateway_error(404, "ParentResourceNotFound", message)
        })
    }

    /// What single types refuse.
    fn refuse_by_kind(&self, target: &Target, body: &Value, key: &str) -> Option<Response> {
        let properties = &body["properties"];
        match target.kind().as_str() {
            "microsoft.managedidentity/userassignedidentities/federatedidentitycredentials" => {
                let siblings = format!("{}/federatedidentitycredentials/", parent_key(key));
                let others: Vec<_> =
                    self.resources.iter().filter(|(k, _)| k.starts_with(&siblings) && *k != key).collect();
                if others.iter().any(|(_, r)| {
                    r["properties"]["issuer"] == properties["issuer"]
                        && r["properties"]["subject"] == properties["subject"]
                }) {
                    return Some(Response::error(
                        409,
                        "Conflict",
                        "Another credential of this identity has this issuer and subject.",
                    ));
                }
                (others.len() >= 20).then(|| {
                    Response::error(400, "BadRequest", "An identity has at most 20 federated credentials.")
                })
            }
            "microsoft.authorization/roleassignments" => {
                let same = |r: &Value| {
                    ["principalId", "roleDefinitionId"].iter().all(|p| r["properties"][p] == properties[p])
                        && r["properties"]["scope"]
                            .as_str()
                            .is_some_and(|s| s.eq_ignore_ascii_case(&target.scope))
                };
                let others = self.resources("Microsoft.Authorization/roleAssignments");
                let other = others
                    .iter()
                    .any(|r| same(r) && r["id"].as_str().is_some_and(|id| super::id::key(id) != key));
                other.then(|| {
                    Response::error(
                        409,
                        "RoleAssignmentExists",
                        "This principal has this role at this scope already.",
                    )
                })
            }
            "microsoft.network/dnszones/cname" | "microsoft.network/dnszones/a" => {
                let (here, there) =
                    if key.contains("/cname/") { ("/cname/", "/a/") } else { ("/a/", "/cname/") };
                self.resources.contains_key(&key.replace(here, there)).then(|| {
                    Response::json(400, json!({ "code": "BadRequest", "message": format!("Record set '{}' cannot stand beside a CNAME of the same name.", target.name()) }))
                })
            }
            _ => None,
        }
    }

    /// What is stored: what was sent, with what the provider adds.
    pub(super) fn resource(
        &self,
        target: &Target,
        kind: &Kind,
        body: &Value,
        old: Option<&Value>,
        path: &str,
    ) -> Value {
        // The first spelling of an id stays.
        let id = old.and_then(|o| o["id"].as_str()).unwrap_or(path).to_owned();
        let mut resource = Map::new();
        resource.insert("id".to_owned(), json!(id));
        resource.insert("name".to_owned(), json!(target.name()));
        resource.insert("type".to_owned(), json!(kind.name));
        if kind.tracked {
            resource.insert(
                "location".to_owned(),
                json!(body["location"].as_str().unwrap_or_default().to_lowercase()),
            );
            resource.insert(
                "tags".to_owned(),
                if body["tags"].is_object() { body["tags"].clone() } else { json!({}) },
            );
        }
        if body["sku"].is_object() {
            resource.insert("sku".to_owned(), body["sku"].clone());
        }
        if kind.etag {
            resource
                .insert("etag".to_owned(), json!(kinds::uuid(self.seed, &format!("{id}#{}", self.writes))));
        }
        let old_properties = old.map(|o| &o["properties"]);
        resource.insert(
            "properties".to_owned(),
            kinds::properties(target, body, old_properties, &key(&id), self.seed).into(),
        );
        Value::Object(resource)
    }
}

/// A location is required, and stays.
fn refuse_location(target: &Target, body: &Value, old: Option<&Value>) -> Option<Response> {
    let location = body["location"].as_str().map(str::to_lowercase);
    let was = old.and_then(|o| o["location"].as_str()).map(str::to_lowercase);
    match (location, was) {
        (None, _) => Some(Response::gateway_error(400, "LocationRequired", "The body needs a location.")),
        (Some(new), Some(was)) if new != was => {
            let is_group = target.provider.is_none();
            let code = if is_group { "InvalidResourceGroupLocation" } else { "InvalidResourceLocation" };
            let message = format!("'{}' is in {was} and cannot be made in {new}.", target.name());
            Some(Response::gateway_error(409, code, message))
        }
        _ => None,
    }
}

/// `If-None-Match: *` and `If-Match`.
pub(super) fn precondition(request: &Request, old: Option<&Value>) -> Option<Response> {
    let etag = old.and_then(|o| o["etag"].as_str());
    let none_match_fails = request.if_none_match.as_deref() == Some("*") && old.is_some();
    let match_fails = request
        .if_match
        .as_deref()
        .is_some_and(|wanted| old.is_none() || (wanted != "*" && Some(wanted) != etag));
    (none_match_fails || match_fails).then(|| {
        let message = "If-Match or If-None-Match does not hold.";
        Response::json(412, json!({ "code": "PreconditionFailed", "message": message }))
            .header("x-ms-failure-cause", "service")
    })
}
