//! What the allocator is told: what an instance asks for and what each reef has (pure).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::reservation::Reservation;

/// An instance, by what never changes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instance {
    /// Namespace of its object.
    pub namespace: String,
    /// Name of its object.
    pub name: String,
}

/// Whether a resource is shared with other instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tier {
    /// With others.
    #[default]
    Shared,
    /// The instance has one of its own.
    Dedicated,
}

/// How far an instance is kept apart from others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tiers {
    /// Dedicated: a reef that is kept for the instance's namespace.
    pub reef: Tier,
    /// Dedicated: no elastic pool.
    pub database: Tier,
}

/// How much an instance asks for, all of its nodes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Number of pods.
    pub pods: u64,
    /// Requested CPU, millicores.
    pub cpu: u64,
    /// Requested memory, bytes.
    pub memory: u64,
    /// Largest size of the database, bytes.
    pub database: u64,
    /// Quota of the file share, bytes.
    pub share: u64,
}

/// A group of instances of one namespace that are to be on different reefs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// Namespace of the instances. Groups of the same name in other namespaces are other groups, so that
    /// nobody can keep others off a reef.
    pub namespace: String,
    /// Name, as the instances give it.
    pub name: String,
}

/// What a placement uses up: the part of a demand that a reservation keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// How much.
    pub size: Size,
    /// How far apart.
    pub tiers: Tiers,
    /// Apart from whom: name of the anti-affinity group, within the instance's namespace.
    pub anti_affinity: Option<String>,
}

impl Ask {
    /// How much of a dimension the placement uses. A dimension of which nothing is used does not matter.
    pub fn needs(&self, dimension: Dimension) -> u64 {
        let pooled = |amount: u64| if self.tiers.database == Tier::Shared { amount } else { 0 };
        match dimension {
            Dimension::Instances | Dimension::Identities | Dimension::Databases | Dimension::Shares => 1,
            Dimension::Pods => self.size.pods,
            Dimension::Cpu => self.size.cpu,
            Dimension::Memory => self.size.memory,
            Dimension::PoolDatabases => pooled(1),
            Dimension::PoolStorage => pooled(self.size.database),
            // What a database is guaranteed is a setting of the pool, the same for all in it.
            Dimension::PoolGuarantee => 0,
            Dimension::ShareStorage => self.size.share,
        }
    }

    /// The anti-affinity group of an instance that asks for this.
    pub fn group(&self, instance: &Instance) -> Option<Group> {
        let name = self.anti_affinity.clone()?;
        Some(Group { namespace: instance.namespace.clone(), name })
    }
}

/// What an instance asks for.
#[derive(Clone, Debug)]
pub struct Demand {
    /// Which instance.
    pub instance: Instance,
    /// UID of its object. A reservation of an earlier object of the same name is not this one's.
    pub claim: String,
    /// `metadata.generation` of its object, which counts changes of its spec. A reservation made for an earlier
    /// spec is not this one's.
    pub revision: i64,
    /// Number of the placement to be: 1 for the first, one more for each move.
    pub generation: i64,
    /// Name of the region, for the words.
    pub region: String,
    /// What the placement uses up.
    pub ask: Ask,
    /// The only reef that will do.
    pub reef: Option<String>,
    /// Labels that a reef has to have.
    pub labels: BTreeMap<String, String>,
    /// Reefs on which Azure had no room for it a while ago.
    pub refused_on: BTreeSet<String>,
}

impl Demand {
    /// Its anti-affinity group.
    pub fn group(&self) -> Option<Group> {
        self.ask.group(&self.instance)
    }
}

/// What a reef, pool or account has a limited amount of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dimension {
    /// Reef: instances (`capacity.maxInstances` of the class).
    Instances,
    /// Reef: identities in its resource group.
    Identities,
    /// Reef: databases on its SQL server, in pools or not.
    Databases,
    /// Reef: pods on its nodes for instances.
    Pods,
    /// Reef: CPU of its nodes for instances, millicores.
    Cpu,
    /// Reef: memory of its nodes for instances, bytes.
    Memory,
    /// Pool: databases in it.
    PoolDatabases,
    /// Pool: storage for databases, bytes.
    PoolStorage,
    /// Pool: what it guarantees to all of its databases, thousandths of an eDTU or vCore.
    PoolGuarantee,
    /// Account: file shares.
    Shares,
    /// Account: provisioned storage, bytes.
    ShareStorage,
}

impl Dimension {
    /// Those that a reef has, whatever its pools and accounts.
    pub const OF_REEF: [Self; 6] =
        [Self::Instances, Self::Identities, Self::Databases, Self::Pods, Self::Cpu, Self::Memory];
}

/// How much there is of something, and how much of it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    /// All of it.
    pub limit: u64,
    /// What is used. It may be more than the limit where the limit was lowered.
    pub used: u64,
}

impl Gauge {
    /// Whether this much more fits.
    pub fn holds(self, need: u64) -> bool {
        self.used.checked_add(need).is_some_and(|sum| sum <= self.limit)
    }

    /// With this much more used.
    #[must_use]
    pub fn plus(self, need: u64) -> Self {
        Self { used: self.used.saturating_add(need), ..self }
    }
}

/// An elastic pool of a reef.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Its name, unique in the reef.
    pub name: String,
    /// Whether it is in service.
    pub ready: bool,
    /// Its size, thousandths of an eDTU or vCore.
    pub capacity: u64,
    /// What it guarantees to each of its databases, thousandths of an eDTU or vCore.
    pub guarantee: u64,
    /// Databases in it (`sql.pool.maxDatabases` of the class); none if that is not known.
    pub databases: Option<Gauge>,
    /// Storage that is promised to databases, bytes (`sql.pool.maxSize` of the class); none if the class sets no
    /// size, and then storage is not counted.
    pub storage: Option<Gauge>,
}

impl Pool {
    /// What the pool guarantees to its databases; Azure refuses a database beyond it.
    pub(super) fn guaranteed(&self) -> Option<Gauge> {
        let used = self.databases?.used.saturating_mul(self.guarantee);
        Some(Gauge { limit: self.capacity, used })
    }
}

/// A storage account of a reef, for shares of many instances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Its name, unique in the reef.
    pub name: String,
    /// Whether it is in service.
    pub ready: bool,
    /// Shares (`storage.sharesPerAccount` of the class); none if that is not known.
    pub shares: Option<Gauge>,
    /// Provisioned storage, bytes.
    pub storage: Gauge,
}

/// Whether a reef is in service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Its condition Ready is true.
    Ready,
    /// It is not; the condition's reason.
    NotReady(String),
}

impl Default for Readiness {
    fn default() -> Self {
        Self::NotReady("Unknown".to_owned())
    }
}

/// A reef as it is seen. The default has nothing and takes nobody.
#[derive(Clone, Debug, Default)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is in service.
    pub ready: Readiness,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether it takes no new instances.
    pub cordoned: bool,
    /// The namespaces for whose instances it is kept; for everybody where there is none.
    pub dedicated_to: Option<BTreeSet<String>>,
    /// What there is of each [`Dimension::OF_REEF`] and how much is used. One that is absent is not known, and
    /// a demand that needs it does not fit.
    pub room: BTreeMap<Dimension, Gauge>,
    /// What is kept back of every limit, percent: beyond it, the reef is taken only if there is no other.
    pub reserve_percent: u8,
    /// Its elastic pools.
    pub pools: Vec<Pool>,
    /// Its storage accounts.
    pub accounts: Vec<Account>,
    /// The instances whose use is in `room`, `pools` and `accounts`.
    pub counted: BTreeSet<Instance>,
    /// Whether one of those asked for a dedicated reef.
    pub holds_dedicated: bool,
    /// The anti-affinity groups of those.
    pub groups: BTreeSet<Group>,
    /// Reservations in the Reef's status. Those of instances that are counted are not counted again.
    pub reservations: Vec<Reservation>,
}

/// Where an instance is, or is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The reef.
    pub reef: String,
    /// The elastic pool; none where the database has its own resources.
    pub pool: Option<String>,
    /// The storage account.
    pub account: String,
    /// Its number: 1 for the first, one more for each move.
    pub generation: i64,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reef {}", self.reef)?;
        if let Some(pool) = &self.pool {
            write!(f, ", pool {pool}")?;
        }
        write!(f, ", storage account {}", self.account)
    }
}
