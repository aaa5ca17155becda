//! Room for data that grows: an instance gets more of its pool and its storage account only while they have room for all
//! that is asked for in them. What it has goes on meanwhile.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt;
use reef_crds::{Reef, cloud_instance::PlacementStatus, condition::Reason};

use super::{Shared, parts::Part, placing, plan::Plan, references::Home};
use crate::{
    controller::{Error, trouble::Trouble},
    observed::Observed,
    placement::{Candidate, Gauge},
    resources::{Seen, Verdict, Write},
};

/// Takes what grows out of a plan if there is no room for it, and says so.
pub(super) async fn hold(
    shared: &Shared,
    home: &Home,
    placement: Option<&PlacementStatus>,
    (plan, seen): (&mut Plan, &BTreeMap<Part, Seen>),
    now: Timestamp,
) -> Result<(), Error> {
    let Some(placement) = placement else { return Ok(()) };
    // A database with compute of its own takes nothing from others.
    let is_limited = |part: Part| part != Part::Database || placement.pool.is_some();
    let growing = plan.writes.iter().filter(|write| is_limited(write.part) && grows(write, seen));
    let growing: Vec<Part> = growing.map(|write| write.part).collect();
    if growing.is_empty() {
        return Ok(());
    }
    placing::prepare(&shared.context, &home.arm, std::slice::from_ref(&home.reef), now).await;
    let reef = if placing::is_listed(&shared.context, &home.reef) {
        let turn = shared.turn(&home.region.name_any());
        let mut before = turn.lock().await;
        placing::counted(&shared.context, &mut before, &home.reef, now).await?
    } else {
        None
    };
    for part in growing {
        let held = match &reef {
            Some(reef) => no_room(reef, placement, part).map(Verdict::Failed),
            None => Some(Verdict::Unknown(nobody_knows(&home.reef, part))),
        };
        if let Some(verdict) = held {
            plan.writes.retain(|write| write.part != part);
            plan.verdicts.insert(part, verdict);
        }
    }
    Ok(())
}

/// What is on the reef counts although nobody can say how much that is.
fn nobody_knows(reef: &Reef, part: Part) -> Trouble {
    let message = format!(
        "{}: the larger size waits, because it is not known what else is on Reef {}; it goes on with the size that it has",
        part.what(),
        reef.name_any()
    );
    Trouble::new(Reason::AzureUnavailable, message)
}

/// Whether a write enlarges what is there (pure).
fn grows(write: &Write<Part>, seen: &BTreeMap<Part, Seen>) -> bool {
    let Some(Seen { state: Observed::Present(found), .. }) = seen.get(&write.part) else { return false };
    write.grows.iter().any(|pointer| {
        let number = |value: &serde_json::Value| value.pointer(pointer).and_then(serde_json::Value::as_f64);
        number(&write.body).is_some_and(|wanted| number(found).is_none_or(|has| wanted > has))
    })
}

/// Why the pool or the account of an instance cannot hold all that is asked for in it; what the instance asks for is among
/// that (pure).
fn no_room(reef: &Candidate, placement: &PlacementStatus, part: Part) -> Option<Trouble> {
    let (what, within, gauge) = match part {
        Part::Database => {
            let name = placement.pool.as_ref()?;
            ("elastic pool", name, reef.pools.iter().find(|pool| pool.name == *name)?.storage?)
        }
        Part::Share => {
            let name = &placement.storage_account;
            ("storage account", name, reef.accounts.iter().find(|account| account.name == *name)?.storage)
        }
        _ => return None,
    };
    let gib = |bytes: u64| bytes.div_ceil(1 << 30);
    let Gauge { limit, used } = gauge;
    (used > limit).then(|| {
        let message = format!(
            "{}: the larger size waits, because {} GiB are asked for in {what} {within} of Reef {}, which has {} GiB; it goes on with the size that it has",
            part.what(),
            gib(used),
            reef.name,
            gib(limit)
        );
        Trouble::new(Reason::ReefFull, message)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        azure::Unless,
        placement::{Account, Pool},
    };

    const GIB: u64 = 1 << 30;

    fn write(part: Part, body: Value) -> Write<Part> {
        Write {
            part,
            id: "/x".to_owned(),
            api: "v",
            body,
            found: None,
            unless: Unless::Never,
            whole: None,
            grows: part.grows(),
            why: "properties.shareQuota".to_owned(),
        }
    }

    #[test]
    fn only_more_of_what_is_there_is_growth() {
        let quota = |gib: u32| json!({ "properties": { "shareQuota": gib } });
        let has = |state: Observed<Value>| {
            BTreeMap::from([(Part::Share, Seen { state, blind: None, operation: None, failure: None })])
        };
        let there = has(Observed::Present(quota(10)));
        assert!(grows(&write(Part::Share, quota(11)), &there));
        assert!(!grows(&write(Part::Share, quota(10)), &there));
        assert!(!grows(&write(Part::Share, quota(9)), &there));
        assert!(!grows(&write(Part::Share, quota(11)), &has(Observed::Absent)), "it was placed with it");
        assert!(!grows(&write(Part::Record, quota(11)), &there));
    }

    #[test]
    fn nothing_grows_over_the_limit_of_its_pool_or_account() {
        let gauge = |limit: u64, used: u64| Gauge { limit: limit * GIB, used: used * GIB };
        let reef = |pool: Option<Gauge>, account: Gauge| Candidate {
            name: "r".to_owned(),
            pools: vec![Pool { name: "p".to_owned(), storage: pool, ..Pool::default() }],
            accounts: vec![Account { name: "a".to_owned(), storage: account, ..Account::default() }],
            ..Candidate::default()
        };
        let place = |pool: Option<&str>| PlacementStatus {
            pool: pool.map(str::to_owned),
            storage_account: "a".to_owned(),
            ..PlacementStatus::default()
        };
        let full = reef(Some(gauge(100, 101)), gauge(10, 11));
        let trouble = no_room(&full, &place(Some("p")), Part::Database).unwrap();
        assert_eq!(trouble.reason, Reason::ReefFull);
        assert!(
            trouble.message.contains("101 GiB are asked for in elastic pool p of Reef r, which has 100 GiB")
        );
        assert!(
            no_room(&full, &place(Some("p")), Part::Share).unwrap().message.contains("storage account a")
        );
        assert_eq!(no_room(&full, &place(None), Part::Database), None, "it has compute of its own");
        let exact = reef(Some(gauge(100, 100)), gauge(10, 10));
        assert_eq!(no_room(&exact, &place(Some("p")), Part::Database), None);
        assert_eq!(no_room(&exact, &place(Some("p")), Part::Share), None);
        assert_eq!(
            no_room(&reef(None, gauge(1, 1)), &place(Some("p")), Part::Database),
            None,
            "no limit is set"
        );
    }
}
