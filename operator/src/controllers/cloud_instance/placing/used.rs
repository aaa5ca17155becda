//! What is on the reefs: the instances that have a place, and what is kept of those that are gone (pure).

use std::collections::{BTreeMap, BTreeSet};

use reef_crds::{CloudInstance, RetainedInstance};
use serde_json::Value;

use super::{
    super::sizes,
    demand::{ask, kept, seen, who},
};
use crate::{
    observed::Observed,
    placement::{Ask, Candidate, Instance, Placement, Reservation, Seen, Size},
};

/// All instances and all that is kept. Instances are read first: what goes meanwhile is among what is kept then.
#[derive(Default)]
pub struct Used {
    instances: BTreeMap<Instance, (Seen, Ask)>,
    /// UIDs of the instances that have a place.
    placed: BTreeSet<String>,
    kept: Vec<Kept>,
}

struct Kept {
    reef: String,
    ask: Ask,
    pool: Option<String>,
    account: String,
}

impl Used {
    /// Adds an instance, also one that is being deleted: it has its place until it is gone.
    pub fn add(&mut self, instance: &CloudInstance) {
        let seen = seen(instance);
        if seen.placement.is_some() {
            self.placed.insert(seen.claim.clone());
        }
        self.instances.insert(who(instance), (seen, ask(instance)));
    }

    /// Adds an instance that cannot be read, where its status says that it is: it counts as a large one, and its database
    /// and share besides where Azure lists them, as nobody's. One that says no place has none that we gave it.
    pub fn add_unreadable(&mut self, instance: &Value) {
        let text = |pointer: &str| instance.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let number = |pointer: &str| instance.pointer(pointer).and_then(Value::as_i64);
        let named = (text("/metadata/namespace"), text("/metadata/name"));
        let (Some(namespace), Some(name)) = named else { return };
        let claim = text("/metadata/uid").unwrap_or_default();
        let placement = text("/status/placement/reef").map(|reef| Placement {
            reef,
            pool: text("/status/placement/pool"),
            account: text("/status/placement/storageAccount").unwrap_or_default(),
            generation: number("/status/placement/generation").unwrap_or(1),
        });
        if placement.is_some() {
            self.placed.insert(claim.clone());
        }
        let large = sizes::of(u8::MAX);
        let size = Size {
            pods: 1,
            cpu: u64::from(large.cpu_request),
            memory: u64::from(large.memory_request) << 20,
            ..Size::default()
        };
        let seen = Seen { claim, revision: number("/metadata/generation").unwrap_or(0), placement };
        self.instances.insert(Instance { namespace, name }, (seen, Ask { size, ..Ask::default() }));
    }

    /// Adds what is kept of an instance. What is kept of one that is still there counts with it.
    pub fn add_kept(&mut self, retained: &RetainedInstance) {
        let spec = &retained.spec;
        if self.placed.contains(&spec.origin.uid) {
            return;
        }
        self.kept.push(Kept {
            reef: spec.reef_ref.name.clone(),
            ask: kept(&spec.share.quota, &spec.database.isolation),
            pool: spec.database.pool.clone(),
            account: account(&spec.share.id).unwrap_or_default().to_owned(),
        });
    }

    /// Counts on a reef what is there.
    pub fn count_on(&self, reef: &mut Candidate) {
        for (instance, (seen, ask)) in &self.instances {
            if let Some(place) = &seen.placement
                && place.reef == reef.name
            {
                reef.count(instance, ask, place.pool.as_deref(), &place.account);
            }
        }
        for kept in &self.kept {
            if kept.reef == reef.name {
                reef.count_kept(&kept.ask, kept.pool.as_deref(), &kept.account);
            }
        }
    }

    /// An instance as it was read. All were, so one that is not among them is gone.
    pub fn seen(&self, instance: &Instance) -> Observed<Seen> {
        self.instances.get(instance).map_or(Observed::Absent, |(seen, _)| Observed::Present(seen.clone()))
    }

    /// The instances of these reservations.
    pub fn seen_of(&self, reservations: &[Reservation]) -> BTreeMap<Instance, Observed<Seen>> {
        reservations.iter().map(|held| (held.instance.clone(), self.seen(&held.instance))).collect()
    }
}

/// The storage account in the resource id of a share.
fn account(id: &str) -> Option<&str> {
    let mut segments = id.split('/');
    segments.find(|segment| segment.eq_ignore_ascii_case("storageAccounts"))?;
    segments.next()
}
