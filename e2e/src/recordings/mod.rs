//! Recorded traffic with ARM: one recording is a file of JSON lines, the first about its source, each other one an
//! exchange (format: the README beside the recordings).

pub mod replay;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::azure::is_known;

/// Where recordings are looked for: beside the checkout, unless the variable `ARM_RECORDINGS` names a folder.
pub fn folder() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/arm-recordings");
    std::env::var_os("ARM_RECORDINGS").map_or_else(beside, PathBuf::from)
}

/// One exchange, or several equal ones.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    /// Seconds since the first exchange; some sources have no clock.
    pub t: Option<f64>,
    /// HTTP method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers of the request that matter: `If-Match`, `If-None-Match`; names in lower case.
    #[serde(default)]
    pub req_headers: BTreeMap<String, String>,
    /// Body of the request.
    pub req: Option<Value>,
    /// HTTP status.
    pub status: u16,
    /// Headers of the answer; names in lower case.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Body of the answer, if it is JSON.
    pub resp: Option<Value>,
    /// Body of the answer, if it is not.
    pub resp_text: Option<String>,
    /// How many exchanges this stands for.
    #[serde(default = "once")]
    pub repeat: u32,
}

fn once() -> u32 {
    1
}

impl Record {
    /// Path without query.
    pub fn resource(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }

    /// Whether it changes something.
    pub fn is_write(&self) -> bool {
        matches!(self.method.as_str(), "PUT" | "PATCH" | "POST" | "DELETE")
    }

    /// The query but for `api-version`, with its question mark, and the `api-version`.
    pub fn query(&self) -> (String, String) {
        let query = self.path.split_once('?').map_or("", |(_, query)| query);
        let (version, rest): (Vec<_>, Vec<_>) = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .partition(|pair| pair.starts_with("api-version="));
        let rest = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
        (rest, version.first().map_or("", |pair| &pair["api-version=".len()..]).to_owned())
    }

    /// The error code of its answer in any of ARM's envelopes; none if it is no error that says so.
    pub fn code(&self) -> Option<String> {
        let body = self.resp.as_ref()?;
        let error = body.get("error").filter(|error| error.is_object()).unwrap_or(body);
        match error.get("code").or_else(|| error.get("Code"))? {
            Value::String(code) if !code.is_empty() => Some(code.clone()),
            Value::Number(code) => Some(code.to_string()),
            _ => None,
        }
    }

    /// The type of what it is about, in lower case; empty for operations, and paths of no resource.
    pub fn kind(&self) -> String {
        crate::azure::kind_of(self.resource())
    }
}

/// A recording.
#[derive(Clone, Debug)]
pub struct Recording {
    /// File name without its ending.
    pub name: String,
    /// When it began, if it says so.
    pub began: Option<Timestamp>,
    /// All exchanges in order.
    pub records: Vec<Record>,
}

impl Recording {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut records = Vec::new();
        let lines = text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty());
        for (number, line) in lines {
            let record = serde_json::from_str(line);
            records.push(record.map_err(|e| format!("{} line {}: {e}", path.display(), number + 1))?);
        }
        let meta: Value =
            text.lines().next().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        let began = meta["meta"]["t0"].as_str().and_then(|t0| t0.parse().ok());
        Ok(Self { name, began, records })
    }

    /// Reads all recordings of a folder, by name; none if there is no such folder.
    pub fn all(folder: &Path) -> Result<Option<Vec<Self>>, String> {
        let Ok(entries) = std::fs::read_dir(folder) else { return Ok(None) };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut paths: Vec<_> = paths
            .filter(|path| {
                path.extension().is_some_and(|e| e == "jsonl")
                    && path.file_stem().is_some_and(|s| s != "errors")
            })
            .collect();
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect::<Result<_, _>>().map(Some)
    }

    /// The types of it that the emulator, and so the operator, does not speak.
    pub fn not_spoken(&self) -> Vec<String> {
        let mut kinds: Vec<_> = self
            .records
            .iter()
            .map(Record::kind)
            .filter(|kind| !kind.is_empty() && !is_known(kind))
            .collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }

    /// Whether it is about at least one type that is spoken. Resource groups alone do not count beside others.
    pub fn is_ours(&self) -> bool {
        let mut kinds = self.records.iter().map(Record::kind).filter(|kind| is_known(kind));
        let group = "microsoft.resources/resourcegroups";
        let others = !self.not_spoken().is_empty();
        kinds.any(|kind| !others || kind != group)
    }
}

/// A path with its query, as what is compared: without regard to case, order or signatures.
pub fn key(path: &str) -> String {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut pairs: Vec<String> = query
        .split('&')
        .filter(|pair| {
            !pair.is_empty() && !["t=", "c=", "s=", "h="].iter().any(|signed| pair.starts_with(signed))
        })
        .map(|pair| {
            let plain = [("%24", "$"), ("%20", " "), ("+", " "), ("%27", "'"), ("%2C", ","), ("%2c", ",")];
            plain
                .iter()
                .fold(pair.to_owned(), |text, (coded, plain)| text.replace(coded, plain))
                .to_lowercase()
        })
        .collect();
    pairs.sort();
    format!("{}?{}", path.trim_end_matches('/').to_lowercase(), pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spoken_is_told_from_what_is_not() {
        let kind = |path: &str| crate::azure::kind_of(path);
        let group = "/subscriptions/s/resourceGroups/rg-operations";
        for (path, expect) in [
            (group.to_owned(), "microsoft.resources/resourcegroups"),
            (format!("{group}/providers/Microsoft.KeyVault/vaults/v"), "microsoft.keyvault/vaults"),
            (
                format!("{group}/providers/Microsoft.Storage/storageAccounts/a/listKeys"),
                "microsoft.storage/storageaccounts",
            ),
            (
                format!("{group}/providers/Microsoft.Sql/servers/s/firewallRules"),
                "microsoft.sql/servers/firewallrules",
            ),
            (
                format!("{group}/providers/Microsoft.Sql/servers/s/restorableDroppedDatabases"),
                "microsoft.sql/servers",
            ),
            (format!("{group}/providers/Microsoft.Sql/locations/l/databaseAzureAsyncOperation/1"), ""),
            ("/subscriptions/s/operationresults/1".to_owned(), ""),
            ("/subscriptions/s/providers/Microsoft.Network/locations/l/operations/1".to_owned(), ""),
            (
                "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/dnsOperationStatuses/1"
                    .to_owned(),
                "",
            ),
            (
                "/providers/Microsoft.Management/managementGroups/g".to_owned(),
                "microsoft.management/managementgroups",
            ),
        ] {
            assert_eq!(kind(&path), expect, "{path}");
        }
        let of = |paths: &[&str]| {
            let record = |path: &&str| serde_json::json!({ "method": "GET", "path": path, "status": 200 });
            let records = paths.iter().map(|path| serde_json::from_value(record(path)).unwrap()).collect();
            Recording { name: "r".to_owned(), began: None, records }.is_ours()
        };
        let vault = "/subscriptions/s/resourceGroups/g/providers/Microsoft.KeyVault/vaults/v";
        assert!(of(&["/subscriptions/s/resourceGroups/g"]));
        assert!(!of(&["/subscriptions/s/resourceGroups/g", vault]));
        assert!(!of(&[]), "nothing is about nothing");
    }

    #[test]
    fn signatures_case_and_order_do_not_tell_paths_apart() {
        assert_eq!(key("/A/b?s=~1&api-version=X&%24expand=Y&t=1"), key("/a/B/?$expand=y&api-version=x&h=2"));
        assert_ne!(key("/a?api-version=1"), key("/a?api-version=2"));
    }
}
