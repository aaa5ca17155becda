//! Lists of resources that several objects share, so that routine looks cost calls per reef and not per object.
//!
//! A list is good for seeing that something is as it was. What it shows to differ, or does not show, is read by itself
//! before anything is concluded: lists of Azure may be minutes old.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde_json::Value;

use crate::azure::{Arm, ArmError};

/// A list that failed is not asked for again for so long.
const FAILED: Duration = Duration::from_secs(5);

/// What was listed.
#[derive(Debug, Default)]
pub struct Listing {
    /// When it was asked for.
    pub at: Timestamp,
    /// The resources.
    pub items: Vec<Value>,
    /// Where each is among them, by its id in lower case.
    by_id: HashMap<String, usize>,
}

impl Listing {
    /// What was listed then.
    pub fn new(at: Timestamp, items: Vec<Value>) -> Self {
        let id = |item: &Value| item["id"].as_str().unwrap_or_default().to_ascii_lowercase();
        let by_id = items.iter().enumerate().map(|(n, item)| (id(item), n)).collect();
        Self { at, items, by_id }
    }

    /// The resource with this id, if it is listed.
    pub fn find(&self, id: &str) -> Option<&Value> {
        self.by_id.get(&id.to_ascii_lowercase()).map(|n| &self.items[*n])
    }
}

/// The last answer, good or bad.
enum Last {
    Good(Arc<Listing>),
    Bad(Timestamp, ArmError),
}

/// One list: held while it is asked for, so that who needs it meanwhile waits for the same answer.
type Slot = Arc<tokio::sync::Mutex<Option<Last>>>;

/// Whose calls ask for a list, and its path: what one cell is refused says nothing to another.
type Key = (String, String);

/// All lists.
#[derive(Default)]
pub struct Lists {
    slots: Mutex<HashMap<Key, Slot>>,
    /// The last good answers, to be looked at without waiting.
    known: Mutex<HashMap<Key, Arc<Listing>>>,
}

impl Lists {
    /// The list at this path, not older than `age`.
    pub async fn get(
        &self,
        arm: &Arm,
        path: &str,
        api: &str,
        age: Duration,
        now: Timestamp,
    ) -> Result<Arc<Listing>, ArmError> {
        let key = (arm.cell().name().to_owned(), path.to_owned());
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.entry(key.clone()).or_default().clone()
        };
        let mut slot = slot.lock().await;
        let is_young = |at: Timestamp, age: Duration| now.duration_since(at).unsigned_abs() < age;
        match &*slot {
            Some(Last::Good(listing)) if is_young(listing.at, age) => return Ok(listing.clone()),
            Some(Last::Bad(at, error)) if is_young(*at, FAILED) => return Err(error.clone()),
            _ => {}
        }
        // Noted first: whoever asks for it and gives up leaves word for those who wait behind.
        let gave_up = ArmError::NoAnswer("the list did not come in time".to_owned());
        let before = slot.replace(Last::Bad(now, gave_up));
        drop(before);
        match arm.list(path, api).await {
            Ok(items) => {
                let listing = Arc::new(Listing::new(now, items));
                *slot = Some(Last::Good(listing.clone()));
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                known.insert(key, listing.clone());
                Ok(listing)
            }
            Err(error) => {
                *slot = Some(Last::Bad(Timestamp::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// The last good answer to a cell, however old.
    pub fn known(&self, cell: &str, path: &str) -> Option<Arc<Listing>> {
        let key = (cell.to_owned(), path.to_owned());
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// Forgets the lists below this path: what they are of is gone.
    pub fn forget(&self, below: &str) {
        let stays = |(_, path): &Key| !path.starts_with(below);
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| stays(key));
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| stays(key));
    }
}

/// The path of the list that a resource is in.
pub fn list_of(id: &str) -> &str {
    id.rsplit_once('/').map_or("", |(list, _)| list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_listed_is_found_whatever_the_case_of_its_id() {
        let listing =
            Listing::new(Timestamp::UNIX_EPOCH, vec![json!({ "id": "/Subscriptions/s/X/a", "n": 1 })]);
        assert_eq!(listing.find("/subscriptions/s/x/A").map(|item| &item["n"]), Some(&json!(1)));
        assert_eq!(listing.find("/subscriptions/s/x/b"), None);
        assert_eq!(list_of("/subscriptions/s/x/A"), "/subscriptions/s/x");
    }
}
