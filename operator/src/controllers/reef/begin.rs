//! The names and the network of a reef, which stand in its status before anything is made under them (pure).

use std::collections::BTreeSet;

use ipnet::Ipv4Net;
use reef_crds::{
    ReefStatus,
    condition::Reason,
    network::AddressPlan,
    reef::{ClusterStatus, GatewayStatus, PartStatus, SqlServerStatus},
};

use super::names;
use crate::controller::trouble::Trouble;

/// What exists in Azure for a reef of this name already.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Existing {
    /// Name of the SQL server.
    pub sql_server: Option<String>,
    /// Names of the storage accounts.
    pub storage_accounts: Vec<String>,
    /// The network.
    pub address_space: Option<String>,
    /// The revision of the class that it was made from.
    pub revision: Option<String>,
}

/// What the names follow from.
#[derive(Clone, Debug)]
pub struct Origin<'a> {
    /// The operator's fleet.
    pub fleet: &'a str,
    /// Name of the Reef.
    pub reef: &'a str,
    /// Azure location.
    pub location: &'a str,
    /// Azure subscription.
    pub subscription: &'a str,
    /// Name of the DNS zone.
    pub zone: &'a str,
    /// Revision of the class.
    pub revision: &'a str,
    /// The reef's network.
    pub address_space: Ipv4Net,
}

/// The range for a reef: the one that it has, the one that it asks for, or the first that nobody has.
pub fn allocate(
    plan: AddressPlan,
    wish: Option<&str>,
    existing: Option<&str>,
    taken: &BTreeSet<Ipv4Net>,
) -> Result<Ipv4Net, Trouble> {
    let exhausted = |message: String| Trouble::new(Reason::AddressSpaceExhausted, message);
    let collides = |range: &Ipv4Net| taken.iter().find(|t| t.contains(range) || range.contains(*t)).copied();
    // What runs in Azure has the range that it has.
    if let Some(range) = existing.and_then(|text| text.parse::<Ipv4Net>().ok()) {
        return match collides(&range) {
            None => Ok(range),
            Some(other) => Err(exhausted(format!(
                "the reef that exists in Azure has {range}, and another reef has {other}: the two could never be peered; delete one of them"
            ))),
        };
    }
    if let Some(wish) = wish {
        let range = wish.parse::<Ipv4Net>().ok().filter(|range| plan.has(*range));
        let Some(range) = range else {
            let example = plan.reef(0).map(|r| r.to_string()).unwrap_or_default();
            return Err(exhausted(format!(
                "spec.addressSpace {wish} is no range of the region's address plan, whose first is {example}"
            )));
        };
        return match collides(&range) {
            None => Ok(range),
            Some(other) => {
                Err(exhausted(format!("spec.addressSpace {wish} overlaps {other}, which another reef has")))
            }
        };
    }
    let free = (0..plan.reefs()).filter_map(|n| plan.reef(n)).find(|range| collides(range).is_none());
    free.ok_or_else(|| {
        exhausted(format!("all {} ranges of the region's address space are taken", plan.reefs()))
    })
}

/// The status with all names.
pub fn named(old: ReefStatus, origin: &Origin<'_>, existing: &Existing) -> ReefStatus {
    let Origin { fleet, reef, .. } = origin;
    let sql = existing.sql_server.clone().unwrap_or_else(|| names::sql_server(fleet, reef, None));
    let account = existing.storage_accounts.first().cloned();
    let account = account.unwrap_or_else(|| names::storage_account(fleet, reef, 1, None));
    ReefStatus {
        class_revision: Some(origin.revision.to_owned()),
        location: Some(origin.location.to_owned()),
        subscription_id: Some(origin.subscription.to_owned()),
        resource_group: Some(names::group(fleet, reef)),
        address_space: Some(origin.address_space.to_string()),
        sql_server: Some(SqlServerStatus { name: sql, host: None }),
        pools: vec![PartStatus { name: names::pool(1), ready: false }],
        storage_accounts: vec![PartStatus { name: account, ready: false }],
        cluster: Some(ClusterStatus { name: names::cluster(fleet, reef), ..ClusterStatus::default() }),
        gateway: Some(GatewayStatus {
            host: format!("{}.{}", names::record(fleet, reef), origin.zone),
            address: None,
        }),
        ..old
    }
}

/// The status with the next name for a server or account whose name somebody has.
pub fn renamed(status: &ReefStatus, fleet: &str, reef: &str, taken: &str) -> Option<ReefStatus> {
    let mut next = status.clone();
    if let Some(server) = next.sql_server.as_mut().filter(|s| s.name == taken && s.host.is_none()) {
        server.name = names::sql_server(fleet, reef, Some(taken));
        return Some(next);
    }
    let account = (1u8..).zip(&mut next.storage_accounts).find(|(_, a)| a.name == taken && !a.ready);
    let (number, account) = account?;
    account.name = names::storage_account(fleet, reef, number, Some(taken));
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan() -> AddressPlan {
        AddressPlan::new("10.0.0.0/14", 16, 20).unwrap()
    }

    fn set(ranges: &[&str]) -> BTreeSet<Ipv4Net> {
        ranges.iter().map(|r| r.parse().unwrap()).collect()
    }

    #[test]
    fn a_range_is_kept_asked_for_or_the_first_free_one() {
        for (wish, existing, taken, expect) in [
            (None, None, set(&[]), Ok("10.0.0.0/16")),
            (None, None, set(&["10.0.0.0/16", "10.2.0.0/16"]), Ok("10.1.0.0/16")),
            (Some("10.3.0.0/16"), None, set(&["10.0.0.0/16"]), Ok("10.3.0.0/16")),
            (Some("10.0.0.0/16"), None, set(&["10.0.0.0/16"]), Err("overlaps 10.0.0.0/16")),
            (Some("10.4.0.0/16"), None, set(&[]), Err("is no range of the region's address plan")),
            (Some("10.0.0.0/20"), None, set(&[]), Err("is no range")),
            (None, Some("10.9.0.0/16"), set(&[]), Ok("10.9.0.0/16")),
            (None, Some("10.9.0.0/16"), set(&["10.9.0.0/16"]), Err("another reef has 10.9.0.0/16")),
            (None, None, set(&["10.0.0.0/14"]), Err("all 4 ranges")),
        ] {
            match (allocate(plan(), wish, existing, &taken), expect) {
                (Ok(range), Ok(expect)) => assert_eq!(range.to_string(), expect),
                (Err(trouble), Err(expect)) => {
                    assert!(trouble.message.contains(expect), "{}", trouble.message);
                }
                (result, expect) => panic!("{result:?}, expected {expect:?}"),
            }
        }
    }

    #[test]
    fn a_taken_name_is_replaced_only_before_anything_has_it() {
        let origin = Origin {
            fleet: "f",
            reef: "r",
            location: "l",
            subscription: "s",
            zone: "z",
            revision: "v",
            address_space: "10.0.0.0/16".parse().unwrap(),
        };
        let status = named(ReefStatus::default(), &origin, &Existing::default());
        let server = status.sql_server.clone().unwrap().name;
        let next = renamed(&status, "f", "r", &server).unwrap();
        assert_ne!(next.sql_server.clone().unwrap().name, server);
        assert_eq!(next.storage_accounts, status.storage_accounts);
        let mut made = status.clone();
        made.sql_server.as_mut().unwrap().host = Some("h".to_owned());
        assert_eq!(renamed(&made, "f", "r", &server), None, "a server that is there keeps its name");
        let account = status.storage_accounts[0].name.clone();
        assert_ne!(renamed(&status, "f", "r", &account).unwrap().storage_accounts[0].name, account);
        assert_eq!(renamed(&status, "f", "r", "unheard"), None);
    }

    proptest! {
        #[test]
        fn no_two_reefs_overlap(wishes in prop::collection::vec(prop::option::of(0u32..6), 0..8)) {
            let mut taken = BTreeSet::new();
            for wish in wishes {
                let wish = wish.map(|n| format!("10.{n}.0.0/16"));
                if let Ok(range) = allocate(plan(), wish.as_deref(), None, &taken) {
                    prop_assert!(plan().has(range));
                    prop_assert!(taken.insert(range));
                }
            }
        }
    }
}
