//! Names of what a reef is made of (pure). They follow from fleet and reef, so that the same manifests in a
//! new management cluster find what exists. Only names that are global in Azure may need a second try.

use serde_json::{Value, json};

use crate::controller::hash;

/// Name of the resource group.
pub fn group(fleet: &str, reef: &str) -> String {
    format!("reef-{fleet}-{reef}")
}

/// Name of the AKS cluster; also prefix of its DNS name.
pub fn cluster(fleet: &str, reef: &str) -> String {
    // AKS takes at most 63 characters, and 54 for the prefix.
    let readable: String = format!("{fleet}-{reef}").chars().take(45).collect();
    format!("{}-{}", readable.trim_end_matches('-'), hash::hex(&["cluster", fleet, reef], 6))
}

/// The first name for the SQL server, and the next after one that is taken.
pub fn sql_server(fleet: &str, reef: &str, taken: Option<&str>) -> String {
    let readable: String = format!("{fleet}-{reef}").chars().take(50).collect();
    let prefix = format!("{}-", readable.trim_end_matches('-'));
    next(taken, |attempt| format!("{prefix}{}", hash::hex(&["sql", fleet, reef, &attempt.to_string()], 8)))
}

/// The first name for the storage account with this number, and the next after one that is taken.
pub fn storage_account(fleet: &str, reef: &str, number: u8, taken: Option<&str>) -> String {
    let number = number.to_string();
    next(taken, |attempt| {
        format!("reef{}", hash::hex(&["storage", fleet, reef, &number, &attempt.to_string()], 16))
    })
}

/// Name of the elastic pool with this number.
pub fn pool(number: u8) -> String {
    format!("pool-{number}")
}

/// Names below this many attempts are ours to find again.
const ATTEMPTS: u32 = 1000;

fn next(taken: Option<&str>, name: impl Fn(u32) -> String) -> String {
    let Some(taken) = taken else { return name(0) };
    let at = (0..ATTEMPTS).find(|attempt| name(*attempt) == taken);
    name(at.map_or(0, |at| at + 1))
}

/// The name of the reef's DNS record within the zone. Two labels more than an instance's name, so that no
/// instance can ever want it.
pub fn record(fleet: &str, reef: &str) -> String {
    format!("{reef}.{fleet}.reefs")
}

/// Tag or metadata with the fleet.
pub const TAG_FLEET: &str = "reef-operator-fleet";
/// Tag or metadata with the Region.
pub const TAG_REGION: &str = "reef-operator-region";
/// Tag or metadata with the Reef.
pub const TAG_REEF: &str = "reef-operator-reef";
/// Tag of the resource group with the UID of the Reef object that claims all in it.
pub const TAG_CLAIM: &str = "reef-operator-claim";

/// Tag of the resource group with the revision of the class that the reef is made from.
pub const TAG_REVISION: &str = "reef-operator-class-revision";

/// What every resource of a reef is marked with.
pub fn tags(fleet: &str, region: &str, reef: &str) -> Value {
    json!({ TAG_FLEET: fleet, TAG_REGION: region, TAG_REEF: reef })
}

/// Whether something carries these marks.
pub fn marked(found: &Value, tags: &Value) -> bool {
    tags.as_object().is_some_and(|tags| tags.iter().all(|(name, value)| found[name] == *value))
}

/// Names of resources of a type in a list of a group.
pub fn of_kind(list: &[Value], kind: &str, tags: &Value) -> Vec<String> {
    let fits = |r: &&Value| r["type"].as_str().is_some_and(|t| t.eq_ignore_ascii_case(kind));
    let ours = list.iter().filter(fits).filter(|r| marked(&r["tags"], tags));
    let mut names: Vec<_> = ours.filter_map(|r| r["name"].as_str().map(str::to_owned)).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_azure_takes() {
        let (fleet, reef) = ("a-fleet-of-20-letter", "a-reef-whose-name-has-forty-characters-x");
        assert_eq!((fleet.len(), reef.len()), (20, 40));
        let azure = |name: &str, most: usize| {
            assert!(name.len() <= most && !name.ends_with('-') && !name.contains("--"), "{name}");
        };
        azure(&group(fleet, reef), 90);
        azure(&cluster(fleet, reef), 54);
        azure(&sql_server(fleet, reef, None), 63);
        let account = storage_account(fleet, reef, 1, None);
        assert!(
            account.len() <= 24 && account.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()),
            "{account}"
        );
        // These stand in Azure: they must never change.
        assert_eq!(group("prod", "weu-1"), "reef-prod-weu-1");
        assert_eq!(record("prod", "weu-1"), "weu-1.prod.reefs");
        assert_eq!(sql_server("prod", "weu-1", None), "prod-weu-1-66e11d92");
        assert_eq!(cluster("prod", "weu-1"), "prod-weu-1-5de046");
        assert_eq!(storage_account("prod", "weu-1", 1, None), "reef7c61cd1bbc941ddb");
    }

    #[test]
    fn a_name_that_is_taken_has_a_next_one() {
        let first = sql_server("f", "r", None);
        let second = sql_server("f", "r", Some(&first));
        let third = sql_server("f", "r", Some(&second));
        assert!(first != second && second != third && first != third);
        assert_eq!(sql_server("f", "r", Some("somebody-else")), first);
    }

    #[test]
    fn marks_are_compared_whole() {
        let ours = tags("f", "g", "r");
        assert!(marked(&json!({ TAG_FLEET: "f", TAG_REGION: "g", TAG_REEF: "r", "cost": "1" }), &ours));
        assert!(!marked(&json!({ TAG_FLEET: "f", TAG_REGION: "g" }), &ours));
        assert!(!marked(&json!({ TAG_FLEET: "other", TAG_REGION: "g", TAG_REEF: "r" }), &ours));
        assert!(!marked(&Value::Null, &ours));
    }
}
