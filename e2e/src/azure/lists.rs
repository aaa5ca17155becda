//! Lists: of a group, of a subscription, of a type.

use serde_json::{Value, json};

use super::{
    ARM_HOST, Request, Response, SUBSCRIPTION,
    cloud::Cloud,
    id::{Target, key, parent_key},
    kinds,
};

impl Cloud {
    /// All top-level resources of a group, without their properties.
    pub(super) fn list_group(&self, target: &Target) -> Response {
        let group = target.group.clone().unwrap_or_default();
        let below = key(&format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/"));
        if !self.resources.contains_key(below.trim_end_matches("/providers")) {
            return self.not_found(target);
        }
        let found = self.resources.iter().filter(|(k, r)| k.starts_with(&below) && is_tracked(r));
        Response::json(200, json!({ "value": found.map(|(_, r)| short(r)).collect::<Vec<_>>() }))
    }

    /// The resource groups of the subscription.
    pub(super) fn list_groups(&self, request: &Request) -> Response {
        if request.query.contains_key("$filter") {
            return Response::error(400, "InvalidFilterInQueryString", "Groups are not filtered here.");
        }
        let is_group = |r: &&Value| r["type"] == "Microsoft.Resources/resourceGroups";
        let mut found: Vec<_> = self.resources.values().filter(is_group).map(|r| self.shown(r)).collect();
        found.extend(self.node_groups());
        Response::json(200, json!({ "value": found }))
    }

    /// The groups in which AKS keeps the nodes of its clusters, with the tags of these.
    pub(super) fn node_groups(&self) -> impl Iterator<Item = Value> {
        let is_cluster = |r: &&Value| r["type"] == "Microsoft.ContainerService/managedClusters";
        self.resources.values().filter(is_cluster).filter_map(|cluster| {
            let name = cluster["properties"]["nodeResourceGroup"].as_str()?;
            Some(json!({
                "id": format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{name}"), "name": name,
                "type": "Microsoft.Resources/resourceGroups", "location": cluster["location"],
                "tags": cluster["tags"], "managedBy": cluster["id"],
                "properties": { "provisioningState": "Succeeded" },
            }))
        })
    }

    /// All top-level resources of the subscription, without their properties, filtered by name and type as `$filter` says.
    pub(super) fn list_subscription(&self, request: &Request) -> Response {
        let filter = request.query.get("$filter").map_or("", String::as_str);
        let Some(terms) = terms(filter) else {
            let message = format!("Invalid $filter '{filter}' specified in the query string.");
            return Response::error(400, "InvalidFilterInQueryString", message);
        };
        let fits = |resource: &Value| {
            terms.iter().all(|(name, value)| {
                let member = if name == "resourceType" { "type" } else { name };
                resource[member].as_str().is_some_and(|found| found.eq_ignore_ascii_case(value))
            })
        };
        let found = self.resources.values().filter(|r| is_tracked(r) && fits(r));
        Response::json(200, json!({ "value": found.map(short).collect::<Vec<_>>() }))
    }

    pub(super) fn list(&self, target: &Target, request: &Request, now: u64) -> Response {
        let parent = parent_key(&format!("{}/x", key(&request.path)));
        if target.group.is_some() && !self.resources.contains_key(&parent) {
            return self.not_found(target);
        }
        if target.group.is_none() && target.types.len() == 1 {
            // Of the whole subscription.
            let kind = target.kind();
            let of_kind = |r: &&Value| r["type"].as_str().is_some_and(|t| t.eq_ignore_ascii_case(&kind));
            let found: Vec<_> = self.resources.values().filter(of_kind).map(|r| self.shown(r)).collect();
            return Response::json(200, json!({ "value": found }));
        }
        if ["recordsets", "all"]
            .iter()
            .any(|word| target.kind() == format!("microsoft.network/dnszones/{word}"))
        {
            return Response::json(200, json!({ "value": self.record_sets(&parent) }));
        }
        if target.kind() == "microsoft.sql/servers/elasticpools/databases" {
            let in_pool = |r: &&Value| super::defaults::same(&r["properties"]["elasticPoolId"], &parent);
            let found: Vec<_> = self.resources.values().filter(in_pool).map(|r| self.shown(r)).collect();
            return Response::json(200, json!({ "value": found }));
        }
        if target.kind() == "microsoft.authorization/locks" {
            // Those of what is below as well.
            let below = format!("{parent}/");
            let is_lock = |k: &str| k.starts_with(&below) && k.contains("/microsoft.authorization/locks/");
            let found: Vec<_> =
                self.resources.iter().filter(|(k, _)| is_lock(k)).map(|(_, r)| self.shown(r)).collect();
            return Response::json(200, json!({ "value": found }));
        }
        let below = format!("{}/", key(&request.path));
        let found = self
            .resources
            .iter()
            .filter(|(k, _)| k.strip_prefix(&below).is_some_and(|name| !name.contains('/')));
        let mut found: Vec<_> = found.map(|(_, r)| self.shown(r)).collect();
        if target.kind() == "microsoft.storage/storageaccounts/fileservices/shares" {
            found = self.shares(&parent, found, request);
        }
        found.extend(self.deleted.listed(target, request, now));
        found.extend(self.listed_recoverable(target, request));
        Response::json(200, json!({ "value": found }))
    }
}

/// Most items that come at once unless `$top` asks for fewer: of a zone's record sets (the provider's default), and of any
/// other list (Resource Manager's).
const RECORD_SETS_OF_A_PAGE: usize = 100;
const ITEMS_OF_A_PAGE: usize = 1000;

/// A list page by page: what comes after this one is behind its `nextLink`.
pub(super) fn page(request: &Request, mut whole: Response) -> Response {
    let of_a_zone = request.path.to_lowercase().contains("/dnszones/");
    let most = if of_a_zone { RECORD_SETS_OF_A_PAGE } else { ITEMS_OF_A_PAGE };
    let number = |name: &str| request.query.get(name).map(|text| text.parse::<usize>());
    let (Ok(from), Ok(top)) = (number("$skiptoken").unwrap_or(Ok(0)), number("$top").unwrap_or(Ok(0))) else {
        let message = "$top or $skiptoken is none of ours.";
        return Response::error(400, "InvalidQueryParameterValue", message);
    };
    let top = Some(top).filter(|top| *top > 0);
    let most = top.map_or(most, |top| top.min(most));
    let Some(body) = whole.body.as_mut() else { return whole };
    let Some(items) = body.get_mut("value").and_then(Value::as_array_mut) else { return whole };
    items.drain(..from.min(items.len()));
    if items.len() > most {
        items.truncate(most);
        let others =
            request.query.iter().filter(|(name, _)| !["$skiptoken", "$top"].contains(&name.as_str()));
        let mut query: Vec<String> =
            others.map(|(name, value)| format!("{name}={}", value.replace(' ', "%20"))).collect();
        query.extend([format!("$top={most}"), format!("$skiptoken={}", from + most)]);
        let next = format!("https://{ARM_HOST}{}?{}", request.path, query.join("&"));
        body["nextLink"] = json!(next);
    }
    whole
}

fn is_tracked(resource: &Value) -> bool {
    let kind = resource["type"].as_str().and_then(kinds::find);
    kind.is_some_and(|k| k.tracked)
}

fn short(resource: &Value) -> Value {
    let mut short = resource.clone();
    if let Some(map) = short.as_object_mut() {
        map.retain(|name, _| ["id", "name", "type", "location", "tags", "sku"].contains(&name.as_str()));
    }
    short
}

/// The comparisons of a filter, all of which have to hold: `eq` of name and type only.
fn terms(filter: &str) -> Option<Vec<(String, String)>> {
    let filter = filter.replace("%20", " ").replace('+', " ").replace("%27", "'");
    let terms = filter.split(" and ").filter(|term| !term.is_empty()).map(|term| {
        let (name, value) = term.split_once(" eq ")?;
        let value = value.trim().strip_prefix('\'')?.strip_suffix('\'')?;
        let name =
            ["resourceType", "name", "location"].into_iter().find(|n| n.eq_ignore_ascii_case(name.trim()))?;
        Some((name.to_owned(), value.to_owned()))
    });
    terms.collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{RG, World, body},
        *,
    };

    #[test]
    fn a_list_is_the_same_in_pages() {
        let mut world = World::with_group();
        let kind = "providers/Microsoft.ManagedIdentity/userAssignedIdentities";
        for n in 0..5 {
            world.put(&format!("{RG}/{kind}/id-{n}"), json!({ "location": "westeurope" }));
        }
        let list = format!("{RG}/{kind}?api-version=2023-01-31");
        let whole = body(&world.get(&list))["value"].as_array().unwrap().clone();
        assert_eq!(whole.len(), 5);
        for (size, pages) in [(2, 3), (5, 1), (1, 5), (0, 1)] {
            let (mut next, mut all, mut seen) = (Some(format!("{list}&$top={size}")), Vec::new(), 0);
            while let Some(url) = next {
                let answer = world.get(&url);
                all.extend(body(&answer)["value"].as_array().unwrap().clone());
                next = body(&answer)["nextLink"].as_str().map(str::to_owned);
                seen += 1;
            }
            assert_eq!((&all, seen), (&whole, pages), "pages of {size}");
        }
    }

    #[test]
    fn filters_are_read_or_refused() {
        let two = terms("resourceType%20eq%20%27A/b%27%20and%20name%20eq%20%27x%27").unwrap();
        assert_eq!(two, [("resourceType".to_owned(), "A/b".to_owned()), ("name".to_owned(), "x".to_owned())]);
        assert_eq!(terms(""), Some(vec![]));
        for bad in ["name ne 'x'", "name eq x", "tags eq 'x'"] {
            assert_eq!(terms(bad), None, "{bad}");
        }
    }
}
