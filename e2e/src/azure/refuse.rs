//! What single types refuse: references to what is not there, names that are taken, limits.

use serde_json::{Value, json};

use super::{
    Cloud, Response,
    id::{Target, key, parent_key},
    kinds::{Kind, State},
};

impl Cloud {
    /// A resource that is being made or changed takes no other change.
    pub(super) fn refuse_busy(&self, kind: &Kind, at: &str) -> Option<Response> {
        if self.pending.contains_key(at) {
            let code = if kind.operation == "server" {
                "ConflictingServerOperation"
            } else {
                "ConflictingDatabaseOperation"
            };
            return Some(Response::error(409, code, "Another operation on this resource is running."));
        }
        let is_aks = kind.name.starts_with("Microsoft.ContainerService/");
        let cluster = at.split("/agentpools/").next().unwrap_or(at);
        let state =
            |at: &str| self.resources.get(at).and_then(|r| r["properties"]["provisioningState"].as_str());
        let settled = |state: Option<&str>| matches!(state, None | Some("Succeeded" | "Failed" | "Canceled"));
        if is_aks && !(settled(state(at)) && settled(state(cluster))) {
            let message = "An operation on the cluster or the pool is running.";
            return Some(Response::json(409, json!({ "code": "OperationNotAllowed", "message": message })));
        }
        let going = matches!(kind.state, State::Provisioning(_)) && state(at) == Some("Deleting");
        going.then(|| Response::error(409, "AnotherOperationInProgress", "The resource is being deleted."))
    }

    /// What single types refuse.
    pub(super) fn refuse_by_kind(&self, target: &Target, body: &Value, at: &str) -> Option<Response> {
        let kind = target.kind();
        match kind.split('/').next().unwrap_or_default() {
            "microsoft.managedidentity" | "microsoft.authorization" => self.refuse_identity(target, body, at),
            "microsoft.network" => self.refuse_network(target, body, at),
            "microsoft.sql" => self.refuse_sql(target, body, at),
            "microsoft.storage" => self.refuse_storage(target, body, at),
            "microsoft.containerservice" => self.refuse_aks(&kind, body, at),
            _ => None,
        }
    }

    fn missing(&self, id: &Value) -> Option<String> {
        let id = id.as_str()?;
        (!self.resources.contains_key(&key(id))).then(|| id.to_owned())
    }

    fn count(&self, kind: &str, fits: impl Fn(&Value) -> bool) -> usize {
        self.resources(kind).iter().filter(|r| fits(r)).count()
    }

    fn refuse_identity(&self, target: &Target, body: &Value, at: &str) -> Option<Response> {
        let properties = &body["properties"];
        let key = at;
        match target.kind().as_str() {
            "microsoft.managedidentity/userassignedidentities" => {
                let group = parent_key(at);
                let here = |r: &Value| {
                    r["id"].as_str().is_some_and(|id| super::id::key(id).starts_with(&format!("{group}/")))
                };
                let full = !self.resources.contains_key(at)
                    && self.count("Microsoft.ManagedIdentity/userAssignedIdentities", here) >= 800;
                full.then(|| {
                    Response::gateway_error(
                        409,
                        "ResourceCountExceedsLimit",
                        "A resource group holds at most 800 identities.",
                    )
                })
            }
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
            "microsoft.authorization/roleassignments" => self.refuse_role(target, properties, at),
            _ => None,
        }
    }

    fn refuse_role(&self, target: &Target, properties: &Value, at: &str) -> Option<Response> {
        let old = self.resources.get(at).map(|r| &r["properties"]["principalId"]);
        if old.is_some_and(|old| *old != properties["principalId"]) {
            let message = "Principal, role and scope of an assignment cannot be changed.";
            return Some(Response::error(400, "RoleAssignmentUpdateNotPermitted", message));
        }
        let same = |r: &Value| {
            ["principalId", "roleDefinitionId"].iter().all(|p| r["properties"][p] == properties[p])
                && r["properties"]["scope"].as_str().is_some_and(|s| s.eq_ignore_ascii_case(&target.scope))
        };
        let others = self.resources("Microsoft.Authorization/roleAssignments");
        let other =
            others.iter().any(|r| same(r) && r["id"].as_str().is_some_and(|id| super::id::key(id) != at));
        other.then(|| {
            Response::error(
                409,
                "RoleAssignmentExists",
                "This principal has this role at this scope already.",
            )
        })
    }

    fn refuse_network(&self, target: &Target, body: &Value, at: &str) -> Option<Response> {
        let properties = &body["properties"];
        match target.kind().as_str() {
            "microsoft.network/dnszones/cname" | "microsoft.network/dnszones/a" => {
                let (here, there) =
                    if at.contains("/cname/") { ("/cname/", "/a/") } else { ("/a/", "/cname/") };
                self.resources.contains_key(&at.replace(here, there)).then(|| {
                    let name = target.name();
                    let message =
                        format!("Record set '{name}' cannot stand beside a CNAME of the same name.");
                    Response::json(400, json!({ "code": "BadRequest", "message": message }))
                })
            }
            "microsoft.network/virtualnetworks"
            | "microsoft.network/natgateways"
            | "microsoft.network/virtualnetworks/subnets" => {
                let subnets =
                    properties["subnets"].as_array().into_iter().flatten().map(|s| &s["properties"]);
                let subnets = subnets.chain([properties]);
                let mut of_subnets =
                    subnets.flat_map(|s| [&s["networkSecurityGroup"]["id"], &s["natGateway"]["id"]]);
                let mut addresses =
                    properties["publicIpAddresses"].as_array().into_iter().flatten().map(|a| &a["id"]);
                if let Some(id) = addresses.find_map(|id| self.missing(id)) {
                    // Of an address the provider says so as if it had been asked for.
                    let message = format!("Resource {id} not found.");
                    let error = json!({ "code": "NotFound", "message": message, "details": [] });
                    return Some(Response::json(404, json!({ "error": error })));
                }
                let missing = of_subnets.find_map(|id| self.missing(id)).map(|id| {
                    let message = format!("What '{}' refers to was not found: {id}.", target.name());
                    Response::error(400, "InvalidResourceReference", message)
                });
                missing.or_else(|| self.refuse_without(&properties["subnets"], at))
            }
            _ => None,
        }
    }

    /// A subnet that is in use cannot be left out of its network.
    fn refuse_without(&self, subnets: &Value, network: &str) -> Option<Response> {
        let named: Vec<_> = subnets
            .as_array()?
            .iter()
            .map(|s| s["name"].as_str().unwrap_or_default().to_lowercase())
            .collect();
        let below = format!("{network}/subnets/");
        let is_left_out = |at: &&String| {
            at.strip_prefix(&below)
                .is_some_and(|name| !name.contains('/') && !named.iter().any(|n| n == name))
        };
        self.resources
            .keys()
            .filter(is_left_out)
            .find_map(|at| Target::parse(at).and_then(|subnet| self.refuse_used(&subnet, at)))
    }

    fn refuse_sql(&self, target: &Target, body: &Value, at: &str) -> Option<Response> {
        let (properties, is_new) = (&body["properties"], !self.resources.contains_key(at));
        match target.kind().as_str() {
            "microsoft.sql/servers" => {
                let name = target.name();
                let well = (1..=63).contains(&name.len())
                    && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
                    && !name.starts_with('-')
                    && !name.ends_with('-');
                if !well {
                    return Some(Response::error(
                        400,
                        "InvalidResourceName",
                        format!("'{name}' is no name for a server."),
                    ));
                }
                if is_new && self.name_taken("microsoft.sql/servers", name) {
                    return Some(Response::error(
                        409,
                        "NameAlreadyExists",
                        format!("The name '{name}' is taken."),
                    ));
                }
                let here = |r: &Value| r["location"] == body["location"];
                let full = is_new && self.count("Microsoft.Sql/servers", here) >= 250;
                full.then(|| {
                    Response::error(
                        409,
                        "ServerQuotaExceeded",
                        "The region holds at most 250 servers of a subscription.",
                    )
                })
            }
            "microsoft.sql/servers/databases" => {
                if let Err(refusal) = self.begun(body, at) {
                    return Some(refusal);
                }
                if let Some(pool) = properties["elasticPoolId"].as_str() {
                    return self.refuse_pooled(target, pool, at, is_new);
                }
                None
            }
            "microsoft.sql/servers/databases/replicationlinks" => {
                let message = "A link comes with a database that is made as a secondary.";
                Some(Response::error(405, "MethodNotAllowed", message))
            }
            "microsoft.sql/servers/virtualnetworkrules" => {
                let subnet = &properties["virtualNetworkSubnetId"];
                let may_lack = properties["ignoreMissingVnetServiceEndpoint"] == true;
                let lacks = if may_lack { None } else { self.subnet_lacks(subnet, "Microsoft.Sql") };
                lacks.map(|why| Response::error(400, "VirtualNetworkRuleBadRequest", why))
            }
            _ => None,
        }
    }

    fn refuse_pooled(&self, target: &Target, pool: &str, at: &str, is_new: bool) -> Option<Response> {
        let server = parent_key(at);
        let found = self.resources.get(&key(pool)).filter(|_| parent_key(&key(pool)) == server);
        let Some(found) = found else {
            let message =
                format!("Database '{}' names an elastic pool that its server does not have.", target.name());
            return Some(Response::error(404, "ElasticPoolNotFound", message));
        };
        let limit = pool_databases(&found["sku"]);
        let in_pool =
            |r: &Value| r["properties"]["elasticPoolId"].as_str().is_some_and(|id| key(id) == key(pool));
        let pending = self.pending.values().filter(|r| in_pool(r)).count();
        let full = is_new && self.count("Microsoft.Sql/servers/databases", in_pool) + pending >= limit;
        full.then(|| {
            let message = format!("The elastic pool holds at most {limit} databases.");
            Response::error(409, "40881", message)
        })
    }

    fn refuse_storage(&self, target: &Target, body: &Value, at: &str) -> Option<Response> {
        let is_new = !self.resources.contains_key(at);
        match target.kind().as_str() {
            "microsoft.storage/storageaccounts" => {
                let name = target.name();
                let well = (3..=24).contains(&name.len())
                    && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
                if !well {
                    let message = format!(
                        "'{name}' is no name for a storage account: 3 to 24 lower-case letters and digits."
                    );
                    return Some(Response::error(400, "AccountNameInvalid", message));
                }
                if is_new && self.name_taken("microsoft.storage/storageaccounts", name) {
                    return Some(Response::error(
                        409,
                        "StorageAccountAlreadyTaken",
                        format!("The name '{name}' is taken."),
                    ));
                }
                let days = &body["properties"]["keyPolicy"]["keyExpirationPeriodInDays"];
                if days.as_i64().is_some_and(|days| days < 1) {
                    let name = "keyPolicy.keyExpirationPeriodInDays";
                    let message = format!("Values for request parameters are invalid: {name}.");
                    return Some(Response::error(400, "InvalidValuesForRequestParameters", message));
                }
                let rules =
                    body["properties"]["networkAcls"]["virtualNetworkRules"].as_array().into_iter().flatten();
                if let Some(why) = { rules }.find_map(|r| self.subnet_lacks(&r["id"], "Microsoft.Storage")) {
                    return Some(Response::error(400, "NetworkAclsValidationFailure", why));
                }
                let here = |r: &Value| r["location"] == body["location"];
                let full = is_new && self.count("Microsoft.Storage/storageAccounts", here) >= 250;
                full.then(|| {
                    Response::error(
                        409,
                        "MaxStorageAccountsCountPerSubscriptionExceeded",
                        "The region holds at most 250 storage accounts of a subscription.",
                    )
                })
            }
            "microsoft.storage/storageaccounts/fileservices/shares" => {
                let quota = body["properties"]["shareQuota"].as_u64();
                quota.is_some_and(|q| !(1..=102_400).contains(&q)).then(|| {
                    Response::error(
                        400,
                        "InvalidValuesForRequestParameters",
                        "shareQuota must be from 1 to 102400 GiB.",
                    )
                })
            }
            _ => None,
        }
    }

    fn refuse_aks(&self, kind: &str, body: &Value, at: &str) -> Option<Response> {
        let flat = |status: u16, code: &str, message: String| {
            Some(Response::json(status, json!({ "code": code, "message": message })))
        };
        let properties = &body["properties"];
        if kind.ends_with("/agentpools") {
            let id = self.missing(&properties["vnetSubnetID"])?;
            return flat(400, "InvalidParameter", format!("vnetSubnetID {id} does not exist."));
        }
        let pools = properties["agentPoolProfiles"].as_array().cloned().unwrap_or_default();
        if let Some(id) = pools.iter().find_map(|pool| self.missing(&pool["vnetSubnetID"])) {
            return flat(400, "InvalidParameter", format!("vnetSubnetID {id} does not exist."));
        }
        if self.resources.contains_key(at) {
            return None;
        }
        if !pools.iter().any(|pool| pool["mode"] == "System") {
            return flat(
                400,
                "InvalidParameter",
                "A cluster needs an agent pool with mode System.".to_owned(),
            );
        }
        let wanted = properties["kubernetesVersion"].as_str().unwrap_or_default();
        let Some(version) = self.slots.version() else {
            return flat(
                409,
                "ManagedClusterCountExceedsQuotaLimit",
                "No cluster is left: start the sandbox with more --reef-slots.".to_owned(),
            );
        };
        let fits = wanted.is_empty() || version == wanted || version.starts_with(&format!("{wanted}."));
        if fits {
            None
        } else {
            flat(
                400,
                "K8sVersionNotSupported",
                format!("Version {wanted} is not supported here; {version} is."),
            )
        }
    }

    /// Global names.
    fn name_taken(&self, kind: &str, name: &str) -> bool {
        let exists = |at: &String| {
            at.contains(&format!("/providers/{kind}/{name}")) && at.ends_with(&format!("/{name}"))
        };
        self.resources.keys().any(exists) || self.pending.keys().any(exists)
    }

    fn subnet_lacks(&self, subnet: &Value, service: &str) -> Option<String> {
        if let Some(id) = self.missing(subnet) {
            return Some(format!("The subnet {id} does not exist."));
        }
        let found = self.resources.get(&key(subnet.as_str()?))?;
        let endpoints = found["properties"]["serviceEndpoints"].as_array();
        let has = endpoints.is_some_and(|e| e.iter().any(|e| e["service"] == service));
        (!has).then(|| format!("The subnet {} has no service endpoint {service}.", found["name"]))
    }

    /// What is in use by something else cannot go alone.
    pub(super) fn refuse_used(&self, target: &Target, at: &str) -> Option<Response> {
        let uses = |r: &Value, path: &[&str]| {
            let found = path.iter().fold(&r["properties"], |value, step| &value[*step]);
            super::defaults::same(found, at)
        };
        let any = |kind: &str, path: &[&str]| self.resources(kind).iter().any(|r| uses(r, path));
        let name = target.name();
        let code = match target.kind().as_str() {
            "microsoft.network/virtualnetworks/subnets"
                if any("Microsoft.ContainerService/managedClusters/agentPools", &["vnetSubnetID"]) =>
            {
                "InUseSubnetCannotBeDeleted"
            }
            "microsoft.network/networksecuritygroups"
                if any("Microsoft.Network/virtualNetworks/subnets", &["networkSecurityGroup", "id"]) =>
            {
                "InUseNetworkSecurityGroupCannotBeDeleted"
            }
            "microsoft.network/natgateways"
                if any("Microsoft.Network/virtualNetworks/subnets", &["natGateway", "id"]) =>
            {
                "InUseNatGatewayCannotBeDeleted"
            }
            "microsoft.network/publicipaddresses" => {
                let gateways = self.resources("Microsoft.Network/natGateways");
                let taken = gateways.iter().flat_map(|g| {
                    g["properties"]["publicIpAddresses"].as_array().cloned().unwrap_or_default()
                });
                taken
                    .into_iter()
                    .any(|a| super::defaults::same(&a["id"], at))
                    .then_some("PublicIPAddressCannotBeDeleted")?
            }
            "microsoft.sql/servers/elasticpools"
                if any("Microsoft.Sql/servers/databases", &["elasticPoolId"]) =>
            {
                return Some(Response::error(409, "40877", format!("The elastic pool {name} is not empty.")));
            }
            _ => return None,
        };
        Some(Response::error(400, code, format!("{name} is in use and cannot be deleted.")))
    }
}

/// What a provider says of a resource that it does not have.
pub(super) fn not_found(target: &Target, kind: &str) -> Response {
    let (names, name) = (target.path_of_names(), target.name());
    let message = format!("Resource '{names}' was not found.");
    match kind {
        // DNS and AKS leave out the envelope.
        kind if kind.starts_with("microsoft.network/dnszones/") => {
            Response::json(404, json!({ "code": "NotFound", "message": message }))
        }
        kind if kind.starts_with("microsoft.containerservice/") => {
            let is_pool = kind.ends_with("/agentpools");
            let what = if is_pool { "AgentPool" } else { "ManagedCluster" };
            Response::json(
                404,
                json!({
                    "code": "NotFound", "message": message, "subcode": format!("Get{what}_NotFound_HCPServerError"),
                    "details": [{ "code": "Unspecified", "message": format!("rpc error: {what} not found") }],
                }),
            )
        }
        kind if kind.starts_with("microsoft.sql/") => Response::error(404, "ResourceNotFound", message),
        "microsoft.storage/storageaccounts/fileservices/shares" => {
            Response::error(404, "ShareNotFound", message)
        }
        "microsoft.authorization/roleassignments" => {
            let message = format!("The role assignment '{name}' is not found.");
            Response::error(404, "RoleAssignmentNotFound", message)
        }
        "microsoft.authorization/locks" => {
            Response::error(404, "LockNotFound", format!("The lock '{name}' could not be found."))
        }
        _ => Response::error(404, "NotFound", message),
    }
}

/// How many databases a pool holds, by its size.
fn pool_databases(sku: &Value) -> usize {
    let capacity = sku["capacity"].as_u64().unwrap_or(0);
    match (sku["tier"].as_str(), capacity) {
        (Some("Premium"), ..=125) => 50,
        (Some("Premium" | "BusinessCritical"), _)
        | (Some("GeneralPurpose"), ..=2)
        | (Some("Basic" | "Standard"), ..=50) => 100,
        (Some("GeneralPurpose"), ..=4) | (Some("Basic" | "Standard"), ..=100) => 200,
        (Some("Hyperscale"), _) => 25,
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_hold_what_azure_documents() {
        for (tier, capacity, expect) in [
            ("Standard", 50, 100),
            ("Standard", 100, 200),
            ("Standard", 200, 500),
            ("Premium", 125, 50),
            ("Premium", 250, 100),
            ("GeneralPurpose", 2, 100),
            ("GeneralPurpose", 8, 500),
        ] {
            assert_eq!(
                pool_databases(&json!({ "tier": tier, "capacity": capacity })),
                expect,
                "{tier} {capacity}"
            );
        }
    }
}
