//! Which limits of Azure a call counts against (pure).
//!
//! Azure Resource Manager (ARM) counts calls by subscription and kind, and each resource provider counts those that
//! ARM passes on to it once more. Where Azure's words leave a doubt, the stricter reading is taken.

use std::{fmt, time::Duration};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Classes of calls that ARM counts apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// GET and HEAD.
    Read,
    /// PUT, PATCH and POST.
    Write,
    /// DELETE.
    Delete,
}

impl Verb {
    /// How urgent a call is. Deletes always are: what is not needed any more costs money, and others may wait for its
    /// place.
    pub fn priority(self, asked: Priority) -> Priority {
        if self == Self::Delete { Priority::Visible } else { asked }
    }
}

/// Who waits for a call. Ordered: what goes first is less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Somebody sees that it takes long.
    Visible,
    /// A look whether all is as it should be.
    Routine,
}

/// How many calls a limit lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quota {
    /// A token bucket.
    Bucket {
        /// Calls at once after a rest.
        burst: u32,
        /// Time after which there is room for one more.
        refill: Duration,
    },
    /// A rolling window.
    Window {
        /// Calls in any time of this length.
        most: u32,
        /// The length.
        length: Duration,
    },
}

impl Quota {
    /// A bucket with its rate in calls per second; a rate of 0 counts as 1.
    pub fn per_second(burst: u32, rate: u32) -> Self {
        let rate = u64::from(rate.max(1));
        // Rounded up, so as not to be faster than the rate.
        Self::Bucket { burst, refill: Duration::from_nanos(1_000_000_000_u64.div_ceil(rate)) }
    }

    /// Calls that may go at once after a rest, at least one.
    pub fn most(self) -> u32 {
        match self {
            Self::Bucket { burst: most, .. } | Self::Window { most, .. } => most.max(1),
        }
    }

    /// As many times more as `of` is more than `documented`.
    fn times(self, of: u32, documented: u32) -> Self {
        let more = |calls: u32| {
            let scaled = u64::from(calls) * u64::from(of) / u64::from(documented.max(1));
            u32::try_from(scaled).unwrap_or(u32::MAX).max(1)
        };
        match self {
            Self::Bucket { burst, refill } => {
                let refill = refill.saturating_mul(documented).checked_div(of).unwrap_or(refill);
                Self::Bucket { burst: more(burst), refill: refill.max(Duration::from_nanos(1)) }
            }
            Self::Window { most, length } => Self::Window { most: more(most), length },
        }
    }

    /// Time after which nothing is left to be seen of a call.
    pub fn memory(self) -> Duration {
        match self {
            Self::Bucket { refill, .. } => refill.saturating_mul(self.most()),
            Self::Window { length, .. } => length,
        }
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Window { most, length } => write!(f, "{most} per {}", unit(length)),
            Self::Bucket { burst, refill } if refill < SECOND => {
                let nanos = refill.as_nanos().max(1);
                write!(f, "{} per second, {burst} at once", (SECOND.as_nanos() + nanos / 2) / nanos)
            }
            Self::Bucket { burst, refill } => write!(f, "1 per {}, {burst} at once", unit(refill)),
        }
    }
}

/// A length of time in words that follow "per".
fn unit(length: Duration) -> String {
    match length {
        SECOND => "second".to_owned(),
        MINUTE => "minute".to_owned(),
        HOUR => "hour".to_owned(),
        _ if length.as_secs().is_multiple_of(60) => format!("{} min", length.as_secs() / 60),
        _ => format!("{} s", length.as_secs()),
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Reads that ARM takes.
    ArmReads,
    /// PUT, PATCH and POST that ARM takes.
    ArmWrites,
    /// Deletes that ARM takes.
    ArmDeletes,
    /// Writes and deletes of the storage provider, by the second.
    StorageBurst,
    /// Writes and deletes of the storage provider, by the hour.
    StorageWrites,
    /// Reads of the storage provider, lists among them.
    StorageReads,
    /// Lists of the storage provider.
    StorageLists,
    /// Writes and deletes of the network provider.
    NetworkWrites,
    /// Reads of the network provider.
    NetworkReads,
    /// PUT of one AKS cluster.
    ClusterPuts,
    /// PUT of the agent pools of one AKS cluster.
    PoolPuts,
    /// GET of one AKS cluster.
    ClusterReads,
    /// Looks at how operations of AKS go.
    AksOperations,
    /// All else of AKS.
    AksOther,
    /// What a provider asks one cell to wait with. No number is known of it.
    Own,
}

impl Kind {
    /// Whether ARM itself counts it, and not a resource provider behind it.
    pub fn is_arm(self) -> bool {
        matches!(self, Self::ArmReads | Self::ArmWrites | Self::ArmDeletes)
    }

    /// Whether several cells use one of it. An AKS cluster is of one cell.
    pub fn is_shared(self) -> bool {
        !matches!(self, Self::ClusterPuts | Self::PoolPuts | Self::ClusterReads | Self::Own)
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::ArmReads => "ARM reads",
            Self::ArmWrites => "ARM writes",
            Self::ArmDeletes => "ARM deletes",
            Self::StorageBurst | Self::StorageWrites => "Storage writes",
            Self::StorageReads => "Storage reads",
            Self::StorageLists => "Storage lists",
            Self::NetworkWrites => "Network writes",
            Self::NetworkReads => "Network reads",
            Self::ClusterPuts => "changes of the AKS cluster",
            Self::PoolPuts => "changes of the AKS cluster's agent pools",
            Self::ClusterReads => "reads of the AKS cluster",
            Self::AksOperations => "AKS operation status",
            Self::AksOther => "other AKS calls",
            Self::Own => "calls",
        }
    }

    /// Azure's number; of ARM by the settings. Who lets ARM take more, or less, than Azure documents means all limits: a
    /// cloud that is faster, or a part of what there is.
    fn quota(self, rates: Rates) -> Quota {
        let Rates { reads_per_second: reads, writes_per_second: writes } = Rates::default();
        let (set, documented) = match self {
            Self::ArmReads | Self::ArmWrites | Self::ArmDeletes | Self::Own => return self.documented(rates),
            Self::StorageBurst
            | Self::StorageWrites
            | Self::NetworkWrites
            | Self::ClusterPuts
            | Self::PoolPuts => (rates.writes_per_second, writes),
            Self::StorageReads
            | Self::StorageLists
            | Self::NetworkReads
            | Self::ClusterReads
            | Self::AksOperations
            | Self::AksOther => (rates.reads_per_second, reads),
        };
        self.documented(rates).times(set.max(1), documented)
    }

    fn documented(self, rates: Rates) -> Quota {
        let window = |most, length| Quota::Window { most, length };
        let by_minute = |burst| Quota::Bucket { burst, refill: MINUTE };
        match self {
            Self::ArmReads => rates.reads(),
            Self::ArmWrites | Self::ArmDeletes => rates.writes(),
            // Storage and network: learn.microsoft.com/azure/azure-resource-manager/management/
            // request-limits-and-throttling and, included there, azure-storage-limits-azure-resource-manager.
            Self::StorageBurst => window(10, SECOND),
            Self::StorageWrites => window(1200, HOUR),
            Self::StorageReads => window(800, 5 * MINUTE),
            Self::StorageLists => window(100, 5 * MINUTE),
            Self::NetworkWrites => window(1000, 5 * MINUTE),
            Self::NetworkReads => window(10_000, 5 * MINUTE),
            // AKS: learn.microsoft.com/azure/aks/quotas-skus-regions, "Throttling limits on AKS resource provider
            // APIs", which also says that clusters and their pools are counted apart.
            Self::ClusterPuts | Self::PoolPuts => by_minute(20),
            Self::ClusterReads | Self::AksOther => Quota::per_second(60, 1),
            Self::AksOperations => Quota::per_second(200, 2),
            // More than any other limit lets through.
            Self::Own => Quota::per_second(10_000, 10_000),
        }
    }
}

/// One limit among all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What is counted.
    pub kind: Kind,
    /// For what it is counted, in lower case: `subscription/location`, or `subscription/group/cluster`.
    pub of: String,
}

/// A limit and its number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    /// Which one.
    pub key: Key,
    /// How many it lets through.
    pub quota: Quota,
}

impl Limit {
    /// The one that is closed when a provider asks a cell to come again later: nobody else is held up by it.
    pub fn own(cell: &str, provider: &str, verb: Verb) -> Self {
        let calls = match verb {
            Verb::Read => "reads",
            Verb::Write => "writes",
            Verb::Delete => "deletes",
        };
        let key = Key { kind: Kind::Own, of: format!("{cell}/{provider}/{calls}") };
        Self { key, quota: Kind::Own.quota(Rates::default()) }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Kind::Own, Some((of, calls))) = (self.key.kind, self.key.of.rsplit_once('/')) {
            let provider = of.rsplit('/').next().unwrap_or_default();
            return write!(f, "{calls} that {provider} asked to wait with");
        }
        write!(f, "{} ({})", self.key.kind.name(), self.quota)
    }
}

/// What ARM lets through for one subscription, location and identity, calls per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Reads.
    pub reads_per_second: u32,
    /// Writes; deletes have the same, counted apart.
    pub writes_per_second: u32,
}

impl Default for Rates {
    /// Azure's own since 2024: a bucket of 250 reads that fills with 25 a second, and of 200 writes and of 200 deletes
    /// that fill with 10 a second (learn.microsoft.com/azure/azure-resource-manager/management/
    /// request-limits-and-throttling).
    fn default() -> Self {
        Self { reads_per_second: 25, writes_per_second: 10 }
    }
}

impl Rates {
    /// The limits that a call counts against.
    pub fn limits(self, call: &Call<'_>) -> Vec<Limit> {
        let path = call.path.to_ascii_lowercase();
        let path = Path::parse(&path);
        // How an operation goes is read, whoever asks.
        let verb = if path.is_operation { Verb::Read } else { call.verb };
        let place = format!("{}/{}", path.subscription, place(call.location));
        let in_place = |kind| (kind, place.clone());
        let mut keys = vec![in_place(arm(verb))];
        match path.provider {
            "microsoft.storage" => keys.extend(storage(verb, &path).into_iter().map(in_place)),
            "microsoft.network" => keys.push(in_place(network(verb))),
            "microsoft.containerservice" => keys.push(aks(verb, &path).unwrap_or_else(|| {
                in_place(if path.is_operation { Kind::AksOperations } else { Kind::AksOther })
            })),
            _ => {}
        }
        let limit = |(kind, of): (Kind, String)| Limit { key: Key { kind, of }, quota: kind.quota(self) };
        keys.into_iter().map(limit).collect()
    }

    /// Bursts are as Azure has them for its own rates.
    fn reads(self) -> Quota {
        Quota::per_second(self.reads_per_second.max(1).saturating_mul(10), self.reads_per_second)
    }

    fn writes(self) -> Quota {
        Quota::per_second(self.writes_per_second.max(1).saturating_mul(20), self.writes_per_second)
    }
}

/// A call to ARM.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Its class.
    pub verb: Verb,
    /// The path of its URL; the case of letters does not matter.
    pub path: &'a str,
    /// The Azure location of the cell that calls; empty if it has none.
    pub location: &'a str,
}

/// What a path says.
#[derive(Debug, Default)]
struct Path<'a> {
    subscription: &'a str,
    group: &'a str,
    /// The last resource provider.
    provider: &'a str,
    /// Types and names of the resource after its provider, in turns.
    parts: Vec<&'a str>,
    /// Whether it asks how an operation goes.
    is_operation: bool,
}

impl<'a> Path<'a> {
    /// From a path in lower case. Paths of ARM are pairs of a type and a name; a list or an action ends with half a
    /// pair.
    fn parse(path: &'a str) -> Self {
        let mut found = Self::default();
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let segments: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        for pair in segments.chunks(2) {
            let Some((word, rest)) = pair.split_first() else { continue };
            let name = rest.first().copied().unwrap_or_default();
            match *word {
                "providers" if !name.is_empty() => {
                    found.provider = name;
                    found.parts.clear();
                    continue;
                }
                "subscriptions" if found.provider.is_empty() => found.subscription = name,
                "resourcegroups" if found.provider.is_empty() => found.group = name,
                _ => {}
            }
            if !found.provider.is_empty() {
                found.parts.extend(pair);
            }
            found.is_operation |= is_operation(word, &found.parts);
        }
        found
    }

    /// Whether it names all resources of a type, or an action.
    fn is_half(&self) -> bool {
        self.parts.len() % 2 == 1
    }
}

/// Whether a type is that of operations. Azure's providers have a name each for it.
fn is_operation(word: &str, parts: &[&str]) -> bool {
    let is_named = ["azureasyncoperation", "operationresults", "asyncoperations", "operationstatuses"]
        .iter()
        .any(|end| word.ends_with(end));
    // Below a resource they are its own operations, to be listed and cancelled.
    is_named || (word == "operations" && parts.first() == Some(&"locations"))
}

/// A location as Azure's APIs have it: `West Europe` is `westeurope`.
fn place(location: &str) -> String {
    location.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_lowercase()).collect()
}

fn arm(verb: Verb) -> Kind {
    match verb {
        Verb::Read => Kind::ArmReads,
        Verb::Write => Kind::ArmWrites,
        Verb::Delete => Kind::ArmDeletes,
    }
}

fn storage(verb: Verb, path: &Path<'_>) -> Vec<Kind> {
    match verb {
        Verb::Read if path.is_half() => vec![Kind::StorageReads, Kind::StorageLists],
        Verb::Read => vec![Kind::StorageReads],
        // A POST; but its answers said that 799 are left, which are the reads (azure.md 3.3).
        Verb::Write if path.parts.last() == Some(&"listkeys") => {
            vec![Kind::StorageBurst, Kind::StorageWrites, Kind::StorageReads]
        }
        Verb::Write | Verb::Delete => vec![Kind::StorageBurst, Kind::StorageWrites],
    }
}

fn network(verb: Verb) -> Kind {
    match verb {
        Verb::Read => Kind::NetworkReads,
        Verb::Write | Verb::Delete => Kind::NetworkWrites,
    }
}

/// What AKS counts by cluster. A POST names an action and so is not among it.
fn aks(verb: Verb, path: &Path<'_>) -> Option<(Kind, String)> {
    let of = |cluster: &str| format!("{}/{}/{cluster}", path.subscription, path.group);
    match (verb, path.parts.as_slice()) {
        (Verb::Write, ["managedclusters", cluster]) => Some((Kind::ClusterPuts, of(cluster))),
        (Verb::Write, ["managedclusters", cluster, "agentpools", _]) => Some((Kind::PoolPuts, of(cluster))),
        (Verb::Read, ["managedclusters", cluster]) => Some((Kind::ClusterReads, of(cluster))),
        _ => None,
    }
}
