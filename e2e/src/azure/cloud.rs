//! The state of the emulated Azure and its rules. No clock, no network: time comes with each request.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    Request, Response, SUBSCRIPTION, TENANT,
    deleted::Deleted,
    files::Moved,
    id::{Target, key, parent_key},
    kinds::{self, Kind, State},
    lineage::Lineage,
    lists,
    operations::{Effect, Operations, Url},
    put::started,
    records, refuse, roles,
    slots::{Slot, Slots},
    snapshots::Snapshot,
    throttle::Throttle,
};

/// Permissions of a principal at the start: object id, role, scope.
pub type Grant<'a> = (&'a str, &'a str, &'a str);

/// The emulated Azure.
pub struct Cloud {
    pub(super) seed: u64,
    pub(super) scale: f64,
    /// URL under which callers reach it.
    pub(super) base: String,
    pub(super) resources: BTreeMap<String, Value>,
    /// What is being made or changed by providers that show nothing of it before it is done.
    pub(super) pending: BTreeMap<String, Value>,
    pub(super) deleted: Deleted,
    pub(super) snapshots: Vec<Snapshot>,
    pub(super) slots: Slots,
    /// Shares that went or came back and whose files are still where they were.
    pub(super) moved_shares: Vec<Moved>,
    pub(super) lineage: Lineage,
    pub(super) operations: Operations,
    pub(super) registered: BTreeSet<String>,
    pub(super) writes: u64,
    pub(super) throttle: Throttle,
    /// Whether this call is answered the other way round.
    pub(super) flipped: bool,
    /// The moment of the last request, milliseconds.
    pub(super) now: u64,
    /// Object id of who made it.
    pub(super) by: String,
    /// Paths of what a PUT brought into being, in order; also of those whose answer was lost.
    pub(super) made: Vec<String>,
}

impl Cloud {
    /// An empty subscription. `base` is the URL under which callers reach it, `scale` how many times
    /// faster than Azure it is.
    pub fn new(base: &str, seed: u64, scale: f64) -> Self {
        let registered = ["microsoft.resources", "microsoft.authorization"];
        Self {
            seed,
            scale,
            base: base.to_owned(),
            resources: BTreeMap::new(),
            pending: BTreeMap::new(),
            deleted: Deleted::default(),
            snapshots: Vec::new(),
            slots: Slots::default(),
            moved_shares: Vec::new(),
            lineage: Lineage::default(),
            operations: Operations::default(),
            registered: registered.into_iter().map(str::to_owned).collect(),
            writes: 0,
            throttle: Throttle::default(),
            flipped: false,
            now: 0,
            by: String::new(),
            made: Vec::new(),
        }
    }

    /// Puts a resource there that exists before anybody comes; its final body.
    pub fn seed_resource(&mut self, id: &str, body: &Value) -> Value {
        let Some(target) = Target::parse(id) else { return Value::Null };
        if let Some(provider) = &target.provider {
            self.registered.insert(provider.to_lowercase());
        }
        let Some(kind) = kinds::find(&target.kind()) else { return Value::Null };
        let mut resource = self.resource(&target, kind, body, None, id);
        set_state(kind, &mut resource, true);
        self.resources.insert(key(id), resource.clone());
        self.slots.wanted(kind, &key(id), target.name());
        self.put_children(kind, &key(id), body, 0);
        self.slots.created(&key(id), &mut resource);
        self.resources.insert(key(id), resource.clone());
        resource
    }

    /// Adds a cluster that an AKS cluster can get.
    pub fn add_slot(&mut self, slot: Slot) {
        self.slots.add(slot);
    }

    /// Gives a principal a role.
    pub fn grant(&mut self, (principal, role, scope): Grant<'_>) {
        let name = kinds::uuid(self.seed, &format!("{principal}{role}{scope}"));
        let definition =
            format!("/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Authorization/roleDefinitions/{role}");
        let id = format!("{scope}/providers/Microsoft.Authorization/roleAssignments/{name}");
        let properties = json!({ "roleDefinitionId": definition, "principalId": principal, "scope": scope });
        let body = json!({ "id": id, "name": name, "type": "Microsoft.Authorization/roleAssignments", "properties": properties });
        self.resources.insert(key(&id), body);
    }

    /// All resources of a type, for the token issuer and for checks.
    pub fn resources(&self, kind: &str) -> Vec<Value> {
        self.resources
            .values()
            .filter(|r| r["type"].as_str().is_some_and(|t| t.eq_ignore_ascii_case(kind)))
            .cloned()
            .collect()
    }

    /// Keys of the subnets of the nodes of the AKS cluster that runs on the slot with this name.
    pub fn subnets_of(&self, slot: &str) -> BTreeSet<String> {
        let made = self.slots.made().into_iter().filter(|(_, s)| s.name == slot);
        let prefixes: Vec<String> = made.map(|(key, _)| format!("{key}/agentpools/")).collect();
        let pools = self.resources.iter().filter(|(key, _)| prefixes.iter().any(|p| key.starts_with(p)));
        pools.filter_map(|(_, pool)| pool["properties"]["vnetSubnetID"].as_str().map(key)).collect()
    }

    /// Ids of everything that exists or is being made, but for what is only a setting of something else.
    pub fn ids(&self) -> Vec<String> {
        let all = self.resources.values().chain(self.pending.values());
        let is_setting =
            |r: &&Value| r["type"].as_str().is_some_and(|kind| kind.ends_with("RetentionPolicies"));
        all.filter(|r| !is_setting(r)).filter_map(|r| r["id"].as_str().map(str::to_owned)).collect()
    }

    /// Answers a request at `now`, milliseconds of the cloud's time.
    pub fn handle(&mut self, request: &Request, now: u64) -> Response {
        self.settle(now);
        self.by.clone_from(&request.principal);
        let Some(target) = Target::parse(&request.path) else {
            return Response::gateway_error(
                404,
                "InvalidResourcePath",
                format!("'{}' is not a path of ARM.", request.path),
            );
        };
        if !request.query.contains_key("api-version") {
            return Response::gateway_error(
                400,
                "MissingApiVersionParameter",
                "Every request needs an api-version in its query.",
            );
        }
        if target.subscription != SUBSCRIPTION {
            return Response::gateway_error(
                404,
                "SubscriptionNotFound",
                format!("The subscription '{}' could not be found.", target.subscription),
            );
        }
        if let Some(answer) = self.operation(&target, request, now) {
            let refusal = self.throttle.take(&target, request, now, self.scale);
            return refusal.unwrap_or_else(|| self.throttle.tell(answer, &target, request));
        }
        if let Some(refusal) = self.authorize(&target, request) {
            return refusal;
        }
        if let Some(refusal) = self.throttle.take(&target, request, now, self.scale) {
            return refusal;
        }
        let answer = match request.method.as_str() {
            "GET" | "HEAD" => lists::page(request, self.get(&target, request, now)),
            "PUT" => {
                let snapshot = self.snapshot(&target, request, now);
                snapshot.unwrap_or_else(|| self.put(&target, request, now))
            }
            "PATCH" => self.patch(&target, request, now),
            "DELETE" => self.delete(&target, request, now),
            "POST" => {
                let answer = self.post(&target, request, now);
                self.told_later(answer, &target, request, now)
            }
            other => {
                Response::gateway_error(405, "MethodNotAllowed", format!("{other} is not supported here."))
            }
        };
        self.throttle.tell(answer, &target, request)
    }

    /// Lets the operations whose time has come take effect.
    pub fn settle(&mut self, now: u64) {
        for operation in self.operations.due(now) {
            // When it happened, also if nobody asked since.
            self.now = operation.done_at;
            let now = self.now;
            match operation.effect {
                // What was given up stays as far as it came.
                Effect::Provisioned(_) if operation.canceled => {}
                Effect::Canceled(key) => self.show(&key, "Canceled"),
                Effect::Provisioned(key) => self.provisioned(&key, operation.fails.is_none()),
                Effect::Deleted(key) if operation.fails.is_none() => self.remove(&key, now),
                Effect::FailedOver { link, forced } if operation.fails.is_none() => self.swap(&link, forced),
                Effect::Deleted(_) | Effect::FailedOver { .. } | Effect::Told(_) => {}
            }
        }
        self.now = now;
    }

    fn provisioned(&mut self, key: &str, well: bool) {
        if let Some(mut resource) = self.pending.remove(key)
            && well
        {
            // Its backups begin now.
            if resource["type"] == "Microsoft.Sql/servers/databases" && !self.resources.contains_key(key) {
                resource["properties"]["creationDate"] = json!(started(self.now));
            }
            self.resources.insert(key.to_owned(), resource);
        }
        // What was not made in the end may be made.
        if !well && !self.resources.contains_key(key) {
            self.made.retain(|path| super::id::key(path) != key);
        }
        self.descended(key, well);
        for (kind, resource) in self.with_inline(key) {
            set_state(kind, resource, well);
        }
        if well && let Some(resource) = self.resources.get_mut(key) {
            self.slots.created(key, resource);
            let (id, kind) = (resource["id"].clone(), resource["type"].clone());
            let location = resource["location"].clone();
            self.born_with(id.as_str().unwrap_or_default(), kind.as_str().unwrap_or_default(), &location);
        }
    }

    /// What the provider itself makes in a new resource.
    pub(super) fn born_with(&mut self, id: &str, kind: &str, location: &Value) {
        if kind == "Microsoft.Network/publicIPAddresses"
            && let Some(resource) = self.resources.get_mut(&key(id))
            && resource["properties"]["ipAddress"].is_null()
        {
            resource["properties"]["ipAddress"] = json!(super::defaults::address(id, self.seed));
        }
        let children = match kind {
            "Microsoft.Sql/servers" => {
                let body = json!({ "location": location, "sku": { "name": "System" }, "managedBy": id });
                vec![("databases/master", body)]
            }
            "Microsoft.Sql/servers/databases" => vec![
                ("backupShortTermRetentionPolicies/default", json!({})),
                ("backupLongTermRetentionPolicies/default", json!({})),
            ],
            "Microsoft.Storage/storageAccounts" => vec![("fileServices/default", json!({}))],
            "Microsoft.Network/dnsZones" => vec![("NS/@", records::servers()), ("SOA/@", records::start())],
            _ => return,
        };
        for (child, body) in children {
            let path = format!("{id}/{child}");
            if !self.resources.contains_key(&key(&path)) {
                self.seed_resource(&path, &body);
            }
        }
    }

    /// Takes a resource and all in it away, and keeps what Azure keeps of it.
    pub(super) fn remove(&mut self, key: &str, now: u64) {
        let gone = |at: &str| at == key || at.starts_with(&format!("{key}/"));
        self.unlink(gone);
        let snapshots = self.take_snapshots(gone);
        if let Some(resource) = self.resources.get(key) {
            let earliest = self.earliest_restore(resource);
            self.deleted.keep((key, resource), &self.resources, (earliest, snapshots), now);
        }
        self.note_gone_shares(gone, now);
        self.resources.retain(|at, _| !gone(at));
        self.pending.retain(|at, _| !gone(at));
        self.deleted.forget(&gone);
        self.slots.deleted(&gone);
    }

    fn operation(&self, target: &Target, request: &Request, now: u64) -> Option<Response> {
        let segments: Vec<&str> = request.path.split('/').collect();
        let [.., kind, id] = segments.as_slice() else { return None };
        let kind = kind.to_lowercase();
        let located = segments.iter().any(|s| s.eq_ignore_ascii_case("locations"));
        let url = match kind.as_str() {
            "operations" | "dnsoperationstatuses" if target.group.is_none() => Url::Status,
            "operationresults" | "dnsoperationresults" | "asyncoperations" if target.group.is_none() => {
                Url::Result
            }
            sql if located && sql.ends_with("azureasyncoperation") => Url::Status,
            sql if located && sql.ends_with("operationresults") => Url::Result,
            _ => return None,
        };
        if request.method != "GET" {
            return None;
        }
        let answer = self.operations.poll(id, url, (request, &self.base), now, self.scale);
        // The storage provider's last answer is the resource itself, and so is that of a failover.
        let shows = kind == "asyncoperations" || kind == "replicationlinkoperationresults";
        let of = self.operations.resource(id).filter(|_| shows && answer.status == 200);
        Some(match of.and_then(|key| self.resources.get(key)) {
            Some(resource) => Response { body: Some(resource.clone()), ..answer },
            None => answer,
        })
    }

    /// Whether the caller has a role at the scope or above it that allows the action.
    fn authorize(&self, target: &Target, request: &Request) -> Option<Response> {
        let verb = match request.method.as_str() {
            "GET" | "HEAD" => "read",
            "PUT" | "PATCH" => "write",
            "DELETE" => "delete",
            _ => "action",
        };
        let action = format!("{}/{verb}", target.kind());
        let scope = key(&request.path);
        let granted = self.resources("Microsoft.Authorization/roleAssignments").iter().any(|assignment| {
            let properties = &assignment["properties"];
            let role =
                properties["roleDefinitionId"].as_str().and_then(|id| id.rsplit('/').next()).unwrap_or("");
            let at = properties["scope"].as_str().map(key).unwrap_or_default();
            properties["principalId"] == request.principal.as_str()
                && (scope == at || scope.starts_with(&format!("{at}/")))
                && roles::allows(role, &action)
        });
        (!granted).then(|| {
            let principal = &request.principal;
            let path = &request.path;
            Response::gateway_error(
                403,
                "AuthorizationFailed",
                format!("Principal '{principal}' may not do '{action}' at '{path}'."),
            )
        })
    }

    /// Object ids that have a role at the resource with this key or above it.
    pub fn principals(&self, role: &str, scope: &str) -> BTreeSet<String> {
        let assignments = self.resources("Microsoft.Authorization/roleAssignments");
        let fits = |assignment: &&Value| {
            let properties = &assignment["properties"];
            let given = properties["roleDefinitionId"].as_str().and_then(|id| id.rsplit('/').next());
            let at = properties["scope"].as_str().map(key).unwrap_or_default();
            given == Some(role) && (scope == at || scope.starts_with(&format!("{at}/")))
        };
        let ids = assignments.iter().filter(fits).filter_map(|a| a["properties"]["principalId"].as_str());
        ids.map(str::to_owned).collect()
    }

    fn get(&self, target: &Target, request: &Request, now: u64) -> Response {
        if target.group.is_none() && target.provider.is_none() {
            if request.path.trim_end_matches('/').to_lowercase().ends_with("/resources") {
                return self.list_subscription(request);
            }
            if request.path.trim_end_matches('/').to_lowercase().ends_with("/resourcegroups") {
                return self.list_groups(request);
            }
            return Response::json(
                200,
                json!({
                    "id": format!("/subscriptions/{SUBSCRIPTION}"), "subscriptionId": SUBSCRIPTION,
                    "tenantId": TENANT, "displayName": "sandbox", "state": "Enabled",
                }),
            );
        }
        if target.provider.is_none()
            && request.path.trim_end_matches('/').to_lowercase().ends_with("/resources")
        {
            return self.list_group(target);
        }
        if target.provider.is_some() && !target.is_resource() {
            return self.list(target, request, now);
        }
        let found = self.resources.get(&key(&request.path)).map(|resource| {
            let shown = self.snapshot_of(request).unwrap_or_else(|| self.shown(resource));
            with_etag(Response::json(200, shown), resource)
        });
        let of_nodes = || {
            let is_it = |group: &Value| group["id"].as_str().is_some_and(|id| key(id) == key(&request.path));
            self.node_groups().find(is_it).map(|group| Response::json(200, group))
        };
        let found = found.or_else(of_nodes).or_else(|| self.backup(target, request, now));
        match (found, request.method.as_str()) {
            (Some(_), "HEAD") => Response::empty(204),
            (None, "HEAD") => Response { body: None, ..self.not_found(target) },
            (Some(answer), _) => answer,
            (None, _) => self.not_found(target),
        }
    }

    /// ARM itself knows the groups and the resources in them; what is inside a resource only its provider
    /// knows.
    pub(super) fn not_found(&self, target: &Target) -> Response {
        let group = target.group.clone().unwrap_or_default();
        let group_key = key(&format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}"));
        if target.group.is_some() && !self.resources.contains_key(&group_key) {
            return Response::gateway_error(
                404,
                "ResourceGroupNotFound",
                format!("There is no resource group '{group}'."),
            );
        }
        let kind = target.kind();
        // Of a cluster that AKS had, AKS itself says that it is gone.
        let is_aks = kind.starts_with("microsoft.containerservice/") && self.had_cluster(target);
        let parent = key(&format!("{}/providers/{}", target.scope, target.path_of_names()));
        if target.types.len() > 1 && !self.resources.contains_key(&parent_key(&parent)) {
            return Response::gateway_error(
                404,
                "ParentResourceNotFound",
                format!("A '{kind}' cannot be read: its parent '{}' does not exist.", parent_key(&parent)),
            );
        }
        if !is_aks && kinds::find(&kind).map_or(target.types.len() <= 1, |k| k.tracked) {
            let name = format!("{}/{}", kinds::find(&kind).map_or(kind.as_str(), |k| k.name), target.name());
            return Response::gateway_error(
                404,
                "ResourceNotFound",
                format!("There is no '{name}' in resource group '{group}'."),
            );
        }
        refuse::not_found(target, &kind)
    }

    fn post(&mut self, target: &Target, request: &Request, now: u64) -> Response {
        if let Some(answer) = self.action(target, request) {
            return answer;
        }
        match target.kind().as_str() {
            "microsoft.storage/storageaccounts/fileservices/shares/restore" => {
                return self.undelete(target, request, now);
            }
            "microsoft.containerservice/managedclusters/abort"
            | "microsoft.containerservice/managedclusters/agentpools/abort" => {
                return self.abort(target, request, now);
            }
            "microsoft.sql/servers/databases/move" => return self.rename(target, request),
            "microsoft.sql/servers/databases/replicationlinks/failover" => {
                return self.fail_over(target, request, false, now);
            }
            "microsoft.sql/servers/databases/replicationlinks/forcefailoverallowdataloss" => {
                return self.fail_over(target, request, true, now);
            }
            _ => {}
        }
        let register =
            target.group.is_none() && target.types.last().is_some_and(|t| t.eq_ignore_ascii_case("register"));
        match (&target.provider, register) {
            (Some(provider), true) => {
                self.registered.insert(provider.to_lowercase());
                Response::json(
                    200,
                    json!({
                        "id": format!("/subscriptions/{SUBSCRIPTION}/providers/{provider}"), "namespace": provider, "registrationState": "Registering",
                    }),
                )
            }
            _ => Response::gateway_error(404, "InvalidResourceType", "This action is not known."),
        }
    }
}

/// Shows that a resource is as it has to be, or that making it failed.
pub(super) fn set_state(kind: &Kind, resource: &mut Value, well: bool) {
    match kind.state {
        State::Provisioning(_) => {
            resource["properties"]["provisioningState"] = json!(if well { "Succeeded" } else { "Failed" });
        }
        State::Own(property, word) if well => resource["properties"][property] = json!(word),
        State::None | State::Own(..) => {}
    }
}

pub(super) fn with_etag(answer: Response, resource: &Value) -> Response {
    match resource["etag"].as_str() {
        Some(etag) => answer.header("etag", etag),
        None => answer,
    }
}
