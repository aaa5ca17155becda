//! PUT: what is refused, what is stored, what is answered.

use axum::extract::State as Shared;
use serde_json::{Map, Value, json};

use super::{
    Cloud, LOCATIONS, Request, Response, SUBSCRIPTION,
    cloud::{set_state, with_etag},
    defaults,
    id::{Target, key, parent_key},
    kinds::{self, Kind, State, Style},
    lineage::Begun,
    operations::{Effect, Url, retry_after},
    server::{Azure, lock},
};

/// The first version of the API that leaves subnets alone where a network is sent without them; those before take it that
/// there are to be none.
const LEAVES_SUBNETS: &str = "2023-09-01";

/// The first version of the storage provider's API that shows that nothing was sent.
const SHOWS_NOTHING: &str = "2023-01-01";

/// The first version of the API by which a file service was seen to be shown as it was sent; older ones were recorded with
/// nothing sent.
const SHOWS_SERVICES: &str = "2024-01-01";

/// What a resource says of the children that come with it by saying nothing.
fn all_children(kind: &Kind, request: &Request, body: &mut Value) {
    let is_old = request.query.get("api-version").is_some_and(|version| version.as_str() < LEAVES_SUBNETS);
    let none = match kind.name {
        "Microsoft.Network/virtualNetworks" if is_old => "subnets",
        "Microsoft.Network/networkSecurityGroups" => "securityRules",
        _ => return,
    };
    let Some(body) = body.as_object_mut() else { return };
    if let Some(properties) = body.entry("properties").or_insert_with(|| json!({})).as_object_mut() {
        let list = properties.entry(none).or_insert(Value::Null);
        if list.is_null() {
            *list = json!([]);
        }
    }
}

impl Cloud {
    pub(super) fn put(&mut self, target: &Target, request: &Request, now: u64) -> Response {
        let Some(kind) = kinds::find(&target.kind()).filter(|_| target.is_resource()) else {
            return Response::gateway_error(
                400,
                "InvalidResourceType",
                format!("The resource type '{}' could not be found.", target.kind()),
            );
        };
        let mut body = request.body.clone().unwrap_or_else(|| json!({}));
        all_children(kind, request, &mut body);
        let key = key(&request.path);
        let old = self.resources.get(&key).cloned();
        if let Some(refusal) = self.refuse_put(target, kind, &body, old.as_ref(), &key, request) {
            return refusal;
        }
        self.writes += 1;
        if old.is_none() && !self.pending.contains_key(&key) {
            self.made.push(request.path.clone());
        }
        let begun = match kind.name {
            "Microsoft.Sql/servers/databases" => self.begun(&body, &key).unwrap_or_default(),
            _ => None,
        };
        let body = begun.as_ref().map_or(body.clone(), |begun| begun.completed(&body));
        let mut resource = self.resource(target, kind, &body, old.as_ref(), &request.path);
        let (style, seconds) = match (&old, &begun) {
            // What stays as it is, but for its tags, is done at once, so there is nothing to wait for.
            (Some(old), _) if is_network(kind) && !self.changes(old, &resource, &body) => {
                (Style::Body(None), 0)
            }
            (Some(_), _) => self.style(kind.update, kind.update_seconds, 200),
            (None, Some(begun)) => self.style(kind.create, begun.seconds(kind.create_seconds), 201),
            (None, None) => self.style(kind.create, kind.create_seconds, 201),
        };
        let operation = begun.as_ref().map(Begun::operation);
        self.descends(&key, begun);
        if let Style::Sync(status) = style {
            let resource = self.at_once(kind, &key, resource, (&body, old.is_none()));
            self.descended(&key, true);
            return self.done(target, &resource, (status, &body), request);
        }
        self.store(kind, &key, &mut resource, (&body, old.is_some()), seconds);
        let wait = match style {
            Style::Body(wait) | Style::Both(wait) => wait,
            Style::Location(wait) => Some(wait),
            Style::Sync(_) => None,
        };
        let id = self.begin(kind, Effect::Provisioned(key), seconds, wait, now);
        let url = |of| self.url(kind, &resource, &id, of, request, now);
        let answer = match style {
            Style::Both(_) => {
                let verb = if old.is_some() { "Update" } else { "Create" };
                accepted(kind, verb, operation, now).header("location", url(Url::Result))
            }
            Style::Location(_) => {
                let answer = Response::empty(202).header("location", url(Url::Result));
                return with_retry_after(answer, wait, self.scale);
            }
            _ => Response::json(if old.is_some() { 200 } else { 201 }, self.shown(&resource)),
        };
        let answer = answer.header("azure-asyncoperation", url(Url::Status));
        with_retry_after(notified(kind, answer), wait, self.scale)
    }

    /// What is sent is put into what is there, members that are null are taken away, and then it is as a PUT.
    pub(super) fn patch(&mut self, target: &Target, request: &Request, now: u64) -> Response {
        let Some(old) = self.resources.get(&key(&request.path)) else { return self.not_found(target) };
        let mut body = self.shown(old);
        merge(&mut body, request.body.as_ref().unwrap_or(&Value::Null));
        let mut answer = self.put(target, &Request { body: Some(body), ..request.clone() }, now);
        let is_share = target.kind() == "microsoft.storage/storageaccounts/fileservices/shares";
        if let (Some(shown), Some(sent), true) = (&mut answer.body, &request.body, is_share)
            && answer.status == 200
        {
            // What was sent alone, and not what came of it.
            shown["properties"] = sent["properties"].clone();
        }
        answer
    }

    /// Stores what is done at once, with all that comes with it.
    fn at_once(
        &mut self,
        kind: &Kind,
        key: &str,
        mut resource: Value,
        (body, is_new): (&Value, bool),
    ) -> Value {
        set_state(kind, &mut resource, true);
        self.resources.insert(key.to_owned(), resource.clone());
        self.slots.wanted(kind, key, resource["name"].as_str().unwrap_or_default());
        self.put_children(kind, key, body, 0);
        self.slots.created(key, &mut resource);
        self.resources.insert(key.to_owned(), resource.clone());
        if is_new {
            let id = resource["id"].as_str().unwrap_or_default();
            self.born_with(id, kind.name, &resource["location"]);
        }
        resource
    }

    /// Stores what is being made or changed, in the state that its provider shows meanwhile.
    fn store(
        &mut self,
        kind: &Kind,
        key: &str,
        resource: &mut Value,
        (body, exists): (&Value, bool),
        seconds: u32,
    ) {
        // An update that is done at once says Succeeded and still names an operation.
        match kind.state {
            State::Provisioning(_) if seconds == 0 => set_state(kind, resource, true),
            State::Provisioning(word) => {
                let word = if exists { "Updating" } else { word };
                resource["properties"]["provisioningState"] = json!(word);
            }
            State::Own(property, word) => resource["properties"][property] = json!(word),
            State::None => {}
        }
        if matches!(kind.state, State::Own(..)) {
            self.pending.insert(key.to_owned(), resource.clone());
        } else {
            self.resources.insert(key.to_owned(), resource.clone());
            self.slots.wanted(kind, key, resource["name"].as_str().unwrap_or_default());
            self.put_children(kind, key, body, seconds);
        }
    }

    /// The answer to a PUT that is done.
    fn done(
        &self,
        target: &Target,
        resource: &Value,
        (status, sent): (u16, &Value),
        request: &Request,
    ) -> Response {
        let version = request.query.get("api-version").map_or("", String::as_str);
        let body = match target.kind().as_str() {
            "microsoft.storage/storageaccounts/fileservices" if version >= SHOWS_SERVICES => {
                as_sent(resource, sent, version)
            }
            "microsoft.storage/storageaccounts/fileservices" => json!({ "name": "default" }),
            "microsoft.storage/storageaccounts/fileservices/shares" => as_sent(resource, sent, version),
            "microsoft.authorization/roleassignments" => {
                let mut new = resource.clone();
                new["properties"]["createdBy"] = Value::Null;
                new
            }
            _ => self.shown(resource),
        };
        let answer = Response::json(status, body);
        let answer = with_etag(answer, resource);
        if status == 201 && target.kind().starts_with("microsoft.managedidentity/") {
            // The resource's own address, relative: no operation, although it looks like one.
            return answer.header("location", resource["id"].as_str().unwrap_or_default());
        }
        answer
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
            .or_else(|| self.refuse_busy(kind, key))
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
                json!(body["location"].as_str().unwrap_or_default().to_lowercase().replace(' ', "")),
            );
            // Only some providers show that there are none.
            let shows_none =
                ["Microsoft.Storage/", "Microsoft.ManagedIdentity/", "Microsoft.Network/dnsZones"];
            let is_shown = body["tags"].is_object()
                && (body["tags"] != json!({}) || !kind.name.starts_with("Microsoft.ContainerService/"));
            if is_shown {
                resource.insert("tags".to_owned(), body["tags"].clone());
            } else if shows_none.iter().any(|name| kind.name.starts_with(name)) {
                resource.insert("tags".to_owned(), json!({}));
            }
        }
        if let Some(sku) = defaults::sku(target, body, old) {
            resource.insert("sku".to_owned(), sku);
        }
        for extra in ["kind", "identity", "zones", "managedBy"] {
            let kept = || old.map(|o| o[extra].clone()).unwrap_or_default();
            let value = if body[extra].is_null() { kept() } else { body[extra].clone() };
            if !value.is_null() {
                resource.insert(extra.to_owned(), self.with_identities(extra, value, &id));
            }
        }
        if kind.etag {
            resource
                .insert("etag".to_owned(), json!(kinds::uuid(self.seed, &format!("{id}#{}", self.writes))));
        }
        let old_properties = old.map(|o| &o["properties"]);
        let at = started(self.now);
        let born = defaults::Born { seed: self.seed, number: self.writes, at: &at, by: &self.by };
        resource.insert(
            "properties".to_owned(),
            defaults::properties(target, body, old_properties, &key(&id), born).into(),
        );
        if let Some(of_kind) = defaults::kind(kind.name, resource.get("sku")) {
            resource.insert("kind".to_owned(), of_kind.into());
        }
        if kind.name == "Microsoft.Storage/storageAccounts/fileServices"
            && let Some(account) = self.resources.get(&parent_key(&key(&id)))
        {
            resource.insert("sku".to_owned(), account["sku"].clone());
        }
        if kind.name.starts_with("Microsoft.ContainerService/managedClusters") {
            self.show_version(&mut resource, &key(&id));
        }
        Value::Object(resource)
    }
}

/// The answer of the storage provider to what it has written: as it was sent, not as it is.
fn as_sent(resource: &Value, sent: &Value, version: &str) -> Value {
    let mut shown = json!({ "id": resource["id"], "name": resource["name"], "type": resource["type"] });
    match sent["properties"].as_object() {
        None if version < SHOWS_NOTHING => {}
        properties => shown["properties"] = properties.cloned().unwrap_or_default().into(),
    }
    shown
}

/// A location is required, is one that Azure has, and stays.
fn refuse_location(target: &Target, body: &Value, old: Option<&Value>) -> Option<Response> {
    let location = body["location"].as_str().map(|l| l.to_lowercase().replace(' ', ""));
    if let Some(unknown) = location.as_deref().filter(|l| *l != "global" && !LOCATIONS.contains(l)) {
        let code = if target.provider.is_none() {
            "LocationNotAvailableForResourceGroup"
        } else {
            "LocationNotAvailableForResourceType"
        };
        let message = format!("'{unknown}' is no location of '{}'.", target.kind());
        return Some(Response::gateway_error(400, code, message));
    }
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

/// A merge patch (RFC 7396).
fn merge(into: &mut Value, patch: &Value) {
    let (Some(into), Some(patch)) = (into.as_object_mut(), patch.as_object()) else { return };
    for (name, value) in patch {
        match into.get_mut(name) {
            _ if value.is_null() => drop(into.remove(name)),
            Some(old) if old.is_object() && value.is_object() => merge(old, value),
            _ => drop(into.insert(name.clone(), value.clone())),
        }
    }
}

/// That a write goes on; the SQL provider says which.
fn accepted(kind: &Kind, verb: &str, operation: Option<&str>, now: u64) -> Response {
    if kind.operation.is_empty() {
        return Response::empty(202);
    }
    let operation = operation.map_or_else(|| operation_name(kind, verb), str::to_owned);
    Response::json(202, json!({ "operation": operation, "startTime": started(now) }))
}

/// Whether the network provider has this type; DNS is another one.
fn is_network(kind: &Kind) -> bool {
    kind.name.starts_with("Microsoft.Network/") && !kind.name.contains("dnsZones")
}

/// The network provider says that it can also tell others when an operation is done.
pub(super) fn notified(kind: &Kind, answer: Response) -> Response {
    if is_network(kind) { answer.header("azure-asyncnotification", "Enabled") } else { answer }
}

/// A verb and a type in the words of the SQL provider.
pub(super) fn operation_name(kind: &Kind, verb: &str) -> String {
    let what = match kind.operation {
        "server" if verb != "Drop" => return "UpsertLogicalServer".to_owned(),
        "virtualNetworkRules" if verb != "Drop" => return "UpsertVnetFirewallRule".to_owned(),
        "shortTermRetentionPolicy" => return "UpdateLogicalDatabase".to_owned(),
        "longTermRetentionPolicy" => return "UpsertDatabaseBackupArchivalPolicyV2".to_owned(),
        "server" => "LogicalServer",
        "elasticPool" => "LogicalElasticPool",
        "virtualNetworkRules" => "VnetFirewallRule",
        "replicationLink" => "DatabaseReplicationLink",
        _ => "LogicalDatabase",
    };
    format!("{verb}{what}")
}

/// A moment of the cloud's time as a date; the cloud began with the year 2026.
pub fn started(now: u64) -> String {
    let began = 1_767_225_600_000_i64;
    let at = began.saturating_add(i64::try_from(now).unwrap_or(0));
    jiff::Timestamp::from_millisecond(at).unwrap_or_default().to_string()
}

/// The moment of the cloud's time that a date names; none before the cloud began.
pub(super) fn moment(date: &str) -> Option<u64> {
    let date: jiff::Timestamp = date.parse().ok()?;
    u64::try_from(date.as_millisecond() - 1_767_225_600_000).ok()
}

/// A moment of the cloud's time in units of 100 ns since 1601, as Azure numbers what it keeps of deleted things.
pub(super) fn file_time(now: u64) -> u64 {
    (11_644_473_600_000 + 1_767_225_600_000 + now) * 10_000
}

pub(super) fn with_retry_after(answer: Response, wait: Option<u32>, scale: f64) -> Response {
    match wait {
        Some(seconds) => answer.header("retry-after", retry_after(seconds, scale)),
        None => answer,
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
    })
}

/// The path of each PUT that brought something into being, one a line.
pub(super) async fn made(Shared(azure): Shared<Azure>) -> String {
    lock(azure.cloud()).made.iter().map(|path| path.clone() + "\n").collect()
}
