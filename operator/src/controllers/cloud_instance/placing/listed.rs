//! What Azure lists in pools and accounts and nobody here speaks of: databases and shares of somebody else, or of
//! instances whose objects are not here yet, take room all the same (pure).

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use reef_crds::{CloudInstance, RetainedInstance};
use serde_json::Value;

use crate::{
    placement::{Candidate, Dimension, Gauge},
    resources::lists::Listing,
};

/// The databases and shares of a reef that nobody here speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    databases: Vec<Item>,
    shares: Vec<Item>,
}

/// What was listed of each reef, and when: lists are asked again only after a while, because what our own instances
/// use stands in their statuses.
pub type Cache = HashMap<String, (Timestamp, Listed)>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    name: String,
    /// Elastic pool or storage account.
    within: Option<String>,
    bytes: u64,
}

impl Listed {
    /// From the databases of the server, and the shares of each account: those that are not among the `known`. What is
    /// known now and goes later is none of them then either.
    pub fn of(databases: &Listing, shares: &[(String, Arc<Listing>)], known: &Known) -> Self {
        let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let database = |value: &Value| Item {
            name: name(value),
            within: value["properties"]["elasticPoolId"].as_str().and_then(last).map(str::to_owned),
            bytes: number(&value["properties"]["maxSizeBytes"]),
        };
        let in_account = |(account, shares): &(String, Arc<Listing>)| -> Vec<Item> {
            let share = |value: &Value| Item {
                name: name(value),
                within: Some(account.clone()),
                bytes: number(&value["properties"]["shareQuota"]) << 30,
            };
            shares.items.iter().map(share).collect()
        };
        // Every server has `master`, which is in no pool and counts for no limit.
        let is_stray = |item: &Item| item.name != "master" && !known.0.contains(&item.name);
        Self {
            databases: databases.items.iter().map(database).filter(is_stray).collect(),
            shares: shares.iter().flat_map(in_account).filter(is_stray).collect(),
        }
    }

    /// Counts what is not among the `known` names by now.
    pub fn count_on(&self, known: &Known, reef: &mut Candidate) {
        for item in self.databases.iter().filter(|item| !known.0.contains(&item.name)) {
            if let Some(gauge) = reef.room.get_mut(&Dimension::Databases) {
                *gauge = gauge.plus(1);
            }
            let pools = reef.pools.iter_mut().filter(|pool| item.within.as_ref() == Some(&pool.name));
            for pool in pools {
                pool.databases = pool.databases.map(|gauge| gauge.plus(1));
                pool.storage = pool.storage.map(|gauge| gauge.plus(item.bytes));
            }
        }
        for item in self.shares.iter().filter(|item| !known.0.contains(&item.name)) {
            let accounts =
                reef.accounts.iter_mut().filter(|account| item.within.as_ref() == Some(&account.name));
            for account in accounts {
                account.shares = account.shares.map(|gauge: Gauge| gauge.plus(1));
                account.storage = account.storage.plus(item.bytes);
            }
        }
    }
}

/// Names of the databases and shares of which objects speak: these count where the objects say.
#[derive(Clone, Debug, Default)]
pub struct Known(BTreeSet<String>);

impl Known {
    /// Those of an instance.
    pub fn add(&mut self, instance: &CloudInstance) {
        let Some(status) = &instance.status else { return };
        self.0.extend(status.database.as_ref().map(|database| database.name.clone()));
        self.0.extend(status.share.as_ref().map(|share| share.name.clone()));
    }

    /// Those that are kept.
    pub fn add_kept(&mut self, retained: &RetainedInstance) {
        self.0.extend([retained.spec.database.name.clone(), retained.spec.share.name.clone()]);
    }
}

fn last(id: &str) -> Option<&str> {
    id.rsplit('/').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{Account, Pool};
    use serde_json::json;

    #[test]
    fn what_nobody_speaks_of_takes_room_and_what_is_known_is_not_counted_twice() {
        let database = |name: &str, pool: Option<&str>| {
            let pool = pool.map(|pool| format!("/x/elasticPools/{pool}"));
            json!({ "name": name, "properties": { "elasticPoolId": pool, "maxSizeBytes": 10 } })
        };
        let databases = [
            database("master", None),
            database("db-ours-1", Some("p")),
            database("db-x-1", Some("p")),
            database("y", None),
        ];
        let shares = [(
            "a".to_owned(),
            vec![
                json!({ "name": "fs-ours-1", "properties": { "shareQuota": 1 } }),
                json!({ "name": "fs-x-1", "properties": { "shareQuota": 2 } }),
            ],
        )];
        let known = Known(["db-ours-1".to_owned(), "fs-ours-1".to_owned()].into());
        let listing = |items: Vec<Value>| Listing::new(Timestamp::UNIX_EPOCH, items);
        let shares = shares.map(|(account, shares)| (account, Arc::new(listing(shares))));
        let listed = Listed::of(&listing(databases.to_vec()), &shares, &known);
        let some = |limit| Some(Gauge { limit, used: 0 });
        let mut reef = Candidate {
            room: [(Dimension::Databases, Gauge { limit: 9, used: 0 })].into(),
            pools: vec![Pool {
                name: "p".to_owned(),
                databases: some(9),
                storage: some(99),
                ..Pool::default()
            }],
            accounts: vec![Account { name: "a".to_owned(), shares: some(9), ..Account::default() }],
            ..Candidate::default()
        };
        // Its object is gone by now, and what Azure listed of it was never a stray.
        listed.count_on(&Known::default(), &mut reef);
        assert_eq!(reef.room[&Dimension::Databases].used, 2);
        assert_eq!((reef.pools[0].databases.unwrap().used, reef.pools[0].storage.unwrap().used), (1, 10));
        assert_eq!((reef.accounts[0].shares.unwrap().used, reef.accounts[0].storage.used), (1, 2 << 30));
    }
}
