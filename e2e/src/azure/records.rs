//! What a DNS zone has from its beginning, and how many record sets it shows.

use serde_json::{Value, json};

use super::{cloud::Cloud, id::key};

/// The record set of the zone's own servers.
pub fn servers() -> Value {
    let servers: Vec<_> =
        (1..=4).map(|n| json!({ "nsdname": format!("ns{n}-01.azure-dns.example.") })).collect();
    json!({ "properties": { "TTL": 172_800, "NSRecords": servers } })
}

/// The start of authority.
pub fn start() -> Value {
    json!({ "properties": { "TTL": 3600, "SOARecord": {
        "email": "azuredns-hostmaster.example", "host": "ns1-01.azure-dns.example.", "serialNumber": 1,
        "refreshTime": 3600, "retryTime": 300, "expireTime": 2_419_200, "minimumTTL": 300,
    }}})
}

impl Cloud {
    /// All record sets of the zone with this id.
    pub(super) fn record_sets(&self, zone: &str) -> Vec<&Value> {
        let below = format!("{}/", key(zone));
        let found =
            self.resources.iter().filter(|(at, _)| at.strip_prefix(&below).is_some_and(|r| r.contains('/')));
        found.map(|(_, record)| record).collect()
    }
}
