//! The emulator against what recorded traffic shows.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Cloud, Request, Response, SUBSCRIPTION, roles};

pub(super) const RG: &str = "/subscriptions/00000000-0000-4000-8000-000000000001/resourceGroups/rg";
const OWNER: &str = "owner";

pub(super) struct World {
    pub(super) cloud: Cloud,
    pub(super) now: u64,
}

impl World {
    pub(super) fn new() -> Self {
        let mut cloud = Cloud::new("https://management.azure.com", 1, 1.0);
        cloud.grant((OWNER, roles::OWNER, &format!("/subscriptions/{SUBSCRIPTION}")));
        Self { cloud, now: 0 }
    }

    /// With a group, and the providers registered.
    pub(super) fn with_group() -> Self {
        let mut world = Self::new();
        assert_eq!(world.put(RG, json!({ "location": "westeurope" })).status, 201);
        for provider in ["Microsoft.Network", "Microsoft.ManagedIdentity"] {
            let path = format!("/subscriptions/{SUBSCRIPTION}/providers/{provider}/register");
            assert_eq!(world.call("POST", &path, None).status, 200);
        }
        world
    }

    pub(super) fn request(method: &str, path: &str, body: Option<Value>) -> Request {
        let (path, query) = path.split_once('?').unwrap_or((path, "api-version=2024-03-01"));
        let path = path.strip_prefix("https://management.azure.com").unwrap_or(path);
        Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query
                .split('&')
                .filter_map(|p| p.split_once('='))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
            if_match: None,
            if_none_match: None,
            snapshot: None,
            body,
            principal: OWNER.to_owned(),
        }
    }

    pub(super) fn call(&mut self, method: &str, path: &str, body: Option<Value>) -> Response {
        self.cloud.handle(&Self::request(method, path, body), self.now)
    }

    pub(super) fn put(&mut self, path: &str, body: Value) -> Response {
        self.call("PUT", path, Some(body))
    }

    pub(super) fn get(&mut self, path: &str) -> Response {
        self.call("GET", path, None)
    }

    pub(super) fn delete(&mut self, path: &str) -> Response {
        self.call("DELETE", path, None)
    }

    pub(super) fn later(&mut self, seconds: u64) {
        self.now += seconds * 1000;
    }
}

pub(super) fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
}

pub(super) fn body(answer: &Response) -> &Value {
    answer.body.as_ref().unwrap()
}

pub(super) fn code(answer: &Response) -> &str {
    let body = body(answer);
    body["error"]["code"].as_str().or(body["code"].as_str()).unwrap_or_default()
}

#[test]
fn a_group_is_made_at_once_and_goes_by_an_operation_with_everything_in_it() {
    let mut world = World::with_group();
    let again = world.put(RG, json!({ "location": "WestEurope", "tags": { "a": "b" } }));
    assert_eq!((again.status, body(&again)["tags"]["a"].as_str()), (200, Some("b")));
    assert_eq!(code(&world.put(RG, json!({ "location": "eastus2" }))), "InvalidResourceGroupLocation");
    let zone = format!("{RG}/providers/Microsoft.Network/dnsZones/a.example");
    assert_eq!(world.put(&zone, json!({ "location": "global" })).status, 201);

    let deleted = world.delete(RG);
    assert_eq!(
        (deleted.status, deleted.body.clone(), header(&deleted, "retry-after")),
        (202, None, Some("15"))
    );
    assert_eq!(header(&deleted, "azure-asyncoperation"), None);
    let poll = header(&deleted, "location").unwrap().to_owned();
    assert!(poll.len() > 2500, "as long as Azure's");
    assert_eq!(world.get(&poll).status, 202);
    assert_eq!(body(&world.get(RG))["properties"]["provisioningState"], "Deleting");
    assert_eq!(world.get(&zone).status, 200);
    assert_eq!(code(&world.put(&zone, json!({ "location": "global" }))), "ResourceGroupBeingDeleted");
    world.later(26);
    assert_eq!((world.get(&poll).status, world.get(&poll).body), (200, None));
    let gone = world.get(RG);
    assert_eq!(
        (gone.status, code(&gone), header(&gone, "x-ms-failure-cause")),
        (404, "ResourceGroupNotFound", Some("gateway"))
    );
    assert_eq!(code(&world.get(&zone)), "ResourceGroupNotFound");
    assert_eq!(code(&world.delete(RG)), "ResourceGroupNotFound");
}

#[test]
fn a_network_is_made_by_an_operation_and_an_update_is_done_at_once() {
    let mut world = World::with_group();
    let network = format!("{RG}/providers/Microsoft.Network/virtualNetworks/v");
    let sent = json!({ "location": "westeurope", "properties": { "addressSpace": { "addressPrefixes": ["10.0.0.0/16"] } } });
    let made = world.put(&network, sent.clone());
    assert_eq!(
        (made.status, header(&made, "retry-after"), header(&made, "location")),
        (201, Some("3"), None)
    );
    assert_eq!(body(&made)["properties"]["provisioningState"], "Updating");
    let poll = header(&made, "azure-asyncoperation").unwrap().to_owned();
    assert_eq!(body(&world.get(&poll))["status"], "InProgress");
    world.later(3);
    assert_eq!(body(&world.get(&poll))["status"], "Succeeded");
    let found = world.get(&network);
    assert_eq!(body(&found)["properties"]["provisioningState"], "Succeeded");
    let guid = body(&found)["properties"]["resourceGuid"].clone();

    let again = world.put(&network, sent);
    assert_eq!((again.status, header(&again, "azure-asyncoperation").is_some()), (200, true));
    assert_eq!(body(&again)["properties"]["provisioningState"], "Succeeded");
    assert_eq!(body(&again)["properties"]["resourceGuid"], guid, "what Azure chose stays");
    assert_ne!(body(&again)["etag"], body(&found)["etag"]);

    let deleted = world.delete(&network);
    assert_eq!((deleted.status, header(&deleted, "retry-after")), (202, Some("10")));
    assert!(header(&deleted, "location").is_some() && header(&deleted, "azure-asyncoperation").is_some());
    world.later(11);
    let gone = world.get(&network);
    assert_eq!((code(&gone), header(&gone, "x-ms-failure-cause")), ("ResourceNotFound", Some("gateway")));
    assert_eq!(world.delete(&network).status, 204);
}

#[test]
fn an_operation_can_fail_late_and_its_url_is_signed() {
    let mut world = World::with_group();
    let network = format!("{RG}/providers/Microsoft.Network/virtualNetworks/v");
    let made = world.put(&network, json!({ "location": "westeurope" }));
    world.cloud.fail_operation(&made, "AllocationFailed", "no room");
    let poll = header(&made, "azure-asyncoperation").unwrap().to_owned();
    assert_eq!(code(&world.get(&poll.replace("&s=", "&s=0"))), "InvalidOperationSignature");
    world.later(3);
    let failed = world.get(&poll);
    assert_eq!(
        (failed.status, body(&failed)["status"].as_str(), code(&failed)),
        (200, Some("Failed"), "AllocationFailed")
    );
    assert_eq!(body(&world.get(&network))["properties"]["provisioningState"], "Failed");
}

#[test]
fn an_identity_answers_201_with_a_location_that_is_no_operation() {
    let mut world = World::with_group();
    let identity = format!("{RG}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/i");
    let made = world.put(&identity, json!({ "location": "westeurope" }));
    assert_eq!((made.status, header(&made, "location")), (201, Some(identity.as_str())));
    let properties = body(&made)["properties"].clone();
    assert!(
        ["clientId", "principalId", "tenantId"]
            .iter()
            .all(|p| properties[p].as_str().is_some_and(|v| v.len() == 36))
    );
    assert_eq!(body(&world.put(&identity, json!({ "location": "westeurope" })))["properties"], properties);

    let credential = |name: &str| format!("{identity}/federatedIdentityCredentials/{name}");
    let of = |subject: &str| json!({ "properties": { "issuer": "https://i", "subject": subject, "audiences": ["a"] } });
    assert_eq!(world.put(&credential("one"), of("s")).status, 201);
    assert_eq!(world.put(&credential("one"), of("t")).status, 200);
    assert_eq!(world.put(&credential("two"), of("t")).status, 409);
    let missing = world.get(&credential("two"));
    assert_eq!((code(&missing), header(&missing, "x-ms-failure-cause")), ("NotFound", None));
    assert_eq!(world.delete(&credential("one")).status, 200);
    assert_eq!(world.delete(&credential("one")).status, 204);
    let orphan = format!(
        "{RG}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/x/federatedIdentityCredentials/f"
    );
    assert_eq!(code(&world.put(&orphan, of("s"))), "ParentResourceNotFound");
}

#[test]
fn records_are_guarded_by_etags() {
    let mut world = World::with_group();
    let zone = format!("{RG}/providers/Microsoft.Network/dnsZones/a.example");
    world.put(&zone, json!({ "location": "global" }));
    let record = format!("{zone}/CNAME/x");
    let mut create = World::request(
        "PUT",
        &record,
        Some(json!({ "properties": { "TTL": 60, "CNAMERecord": { "cname": "y" } } })),
    );
    create.if_none_match = Some("*".to_owned());
    let made = world.cloud.handle(&create, 0);
    assert_eq!(made.status, 201);
    let etag = header(&made, "etag").unwrap().to_owned();
    let taken = world.cloud.handle(&create, 0);
    assert_eq!((taken.status, code(&taken)), (412, "PreconditionFailed"));
    let mut update = World { cloud: world.cloud, now: 0 };
    let mut change = World::request("PUT", &record, create.body.clone());
    change.if_match = Some(etag.clone());
    assert_eq!(update.cloud.handle(&change, 0).status, 200);
    assert_eq!(update.cloud.handle(&change, 0).status, 412, "the ETag moved");
    assert_eq!(update.put(&format!("{zone}/A/x"), json!({})).status, 400, "beside a CNAME is nothing else");
    let missing = update.get(&format!("{zone}/A/y"));
    assert!(body(&missing)["error"].is_null() && code(&missing) == "NotFound", "DNS leaves out the envelope");
    let list = update.get(&format!("{zone}/CNAME"));
    assert_eq!(body(&list)["value"].as_array().unwrap().len(), 1);
}

#[test]
fn callers_get_what_their_roles_give() {
    let mut world = World::with_group();
    let reader = |world: &mut World, method: &str, path: &str| {
        let mut request = World::request(method, path, Some(json!({ "location": "westeurope" })));
        request.principal = "reader".to_owned();
        world.cloud.handle(&request, 0)
    };
    let refused = reader(&mut world, "GET", RG);
    assert_eq!((refused.status, code(&refused)), (403, "AuthorizationFailed"));
    world.cloud.grant(("reader", roles::READER, RG));
    assert_eq!(reader(&mut world, "GET", RG).status, 200);
    assert_eq!(reader(&mut world, "PUT", RG).status, 403);
    assert_eq!(reader(&mut world, "GET", &format!("{RG}2")).status, 403, "a name that only begins alike");

    let lock = format!("{RG}/providers/Microsoft.Authorization/locks/keep");
    assert_eq!(world.put(&lock, json!({ "properties": { "level": "CanNotDelete" } })).status, 201);
    assert_eq!(code(&world.delete(RG)), "ScopeLocked");
    assert_eq!(world.delete(&lock).status, 200);
    assert_eq!(world.delete(RG).status, 202);
}

#[test]
fn what_arm_itself_refuses() {
    let mut world = World::new();
    let network = format!("{RG}/providers/Microsoft.Network/virtualNetworks/v");
    let unknown = "/subscriptions/00000000-0000-4000-8000-000000000002/resourceGroups/rg";
    for (method, path, sent, status, expect) in [
        ("GET", unknown.to_owned(), json!(null), 404, "SubscriptionNotFound"),
        ("PUT", RG.to_owned(), json!({}), 400, "LocationRequired"),
        ("PUT", network.clone(), json!({ "location": "x" }), 409, "MissingSubscriptionRegistration"),
        ("PUT", format!("{RG}/providers/Microsoft.Unheard/of/x"), json!({}), 400, "InvalidResourceType"),
        ("GET", network, json!(null), 404, "ResourceGroupNotFound"),
    ] {
        let answer = world.call(method, &path, Some(sent));
        assert_eq!((answer.status, code(&answer)), (status, expect), "{method} {path}");
    }
    let mut bare = World::request("GET", RG, None);
    bare.query = BTreeMap::new();
    assert_eq!(code(&world.cloud.handle(&bare, 0)), "MissingApiVersionParameter");
}
