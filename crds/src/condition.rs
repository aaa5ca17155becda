//! Condition types and reasons, and how conditions are put into a status.
//!
//! The contract with kstatus (Helm `--wait`, Flux, Argo CD): `Ready` is always there; `Reconciling` and
//! `Stalled` are there only while they are true and never both; while one of them is true, `Ready` is not.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Makes an enum of unit variants with their list, their names and their meanings: each is written once.
macro_rules! closed_list {
    ($(#[$doc:meta])* $list:ident { $($variant:ident $(= $name:literal)? $(, $owner:ident)?: $meaning:literal)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $list {
            $(#[doc = $meaning] $variant,)*
        }

        impl $list {
            /// All of them, for documentation and tests.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in conditions and Events.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => closed_list!(@name $variant $($name)?),)*
                }
            }

            /// What it means and what to do, for the reference.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $meaning,)*
                }
            }
        }
        closed_list!(@owners $list $($variant $($owner)?;)*);
    };
    (@name $variant:ident) => { stringify!($variant) };
    (@name $variant:ident $name:literal) => { $name };
    (@owners $list:ident $($variant:ident;)*) => {};
    (@owners $list:ident $($variant:ident $owner:ident;)*) => {
        impl $list {
            /// Who has to act.
            pub const fn owner(self) -> Owner {
                match self {
                    $(Self::$variant => Owner::$owner,)*
                }
            }
        }
    };
}

closed_list! {
    /// What a condition speaks about.
    ConditionType {
        Ready: "The object serves the spec that `observedGeneration` names."
        Reconciling: "Work towards the spec goes on or is being retried. Present only while true."
        Stalled: "Nothing will change without a human. Present only while true."
        CredentialsValid: "Region: Entra gives the operator tokens for the region's identity."
        DnsZoneReady = "DNSZoneReady": "Region: the DNS zone exists and the operator can read it."
        CertificateReady: "Region: the wildcard certificate is readable, well formed, for the zone and valid now."
        Placed: "CloudInstance: a reef, a pool and a storage account are chosen and kept for it."
        DatabaseReady: "CloudInstance: its database is there, and its server can open it."
        FileShareReady: "CloudInstance: its file share is there."
        WorkloadAvailable: "CloudInstance: what it has in the reef's cluster is as wanted, and its server serves."
        Resized: "CloudInstance: the server's pod has the CPU and memory that the task cap asks for (its limit of memory is lowered only when the pod is next made). False does not make the instance unready: its server runs with the size it has, and with as many tasks at once as that size is for."
        Configured: "CloudInstance: the settings that the cloud makes in the server are made."
        NetworkReady: "Reef: resource group, network, security group and outbound address are as wanted."
        IdentityReady: "Reef, CloudInstance: the identity (of the reef's agent, of the instance) and its federated credential are as wanted."
        SqlReady = "SQLReady": "Reef: SQL server, its network rule and its elastic pools are as wanted."
        StorageReady: "Reef: the storage accounts are as wanted."
        ClusterReady: "Reef: the AKS cluster and its node pools are as wanted."
        ClusterReachable: "Reef: the cluster's API server answers, and what the operator keeps in the cluster is as wanted."
        AzureReachable: "Reef: Azure Resource Manager answers the calls for the reef's resources."
        GatewayReady: "Reef: the gateway has an address and serves the region's certificate."
        EmergencyStopped: "Region: the operator does not do everything here, because `spec.emergencyStop` says so; the message says what, until when and why. Present only while true."
        Paused: "Nothing is written for this object in Azure or in a reef's cluster, because of the annotation `cloud.octopus.com/paused`. Present only while true."
        DnsReady = "DNSReady": "Reef: its DNS record names the address of its gateway. CloudInstance: its DNS record names its reef."
    }
}

/// Who has to act on a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Whoever wrote the manifest.
    User,
    /// The platform team that runs the operator.
    Platform,
    /// Nobody: all is well, or the operator is at work.
    Nobody,
}

closed_list! {
    /// Why a condition has its status. A closed list: alerts and runbooks are keyed on it.
    Reason {
        ReconcileSucceeded, Nobody: "All is as the spec says."
        ProgressingWithRetry, Nobody: "Being retried; the other conditions say what is missing."
        Provisioning, Nobody: "Being made or changed in Azure or in the reef's cluster; the message says what."
        WaitingForDependency, Nobody: "Waits for another part of the same object; the message says which."
        ReferenceNotFound, User: "An object that the spec refers to does not exist. Create it or correct the reference."
        ReferenceNotReady, Nobody: "An object that the spec refers to is not Ready yet. Its own conditions say why."
        ReferenceForbidden, Platform: "The operator may not read an object that the spec refers to. Add its namespace to the chart's `rbac.secretNamespaces`."
        CertificateInvalid, User: "The Secret lacks `tls.crt` or `tls.key`, or they hold no certificate with its private key."
        CertificateExpired, User: "The certificate's time of validity is over or has not begun. Renew it."
        CredentialInvalid, Platform: "Entra refused the operator's identity. Check its federated credential: issuer, subject, audience."
        Unauthorized, Platform: "Azure refused the operator's identity an action. Give it the role that the message asks for; a new role takes minutes to spread."
        AzureUnavailable, Platform: "Azure or Entra did not answer or failed. The operator tries again by itself."
        AzureThrottled, Platform: "Azure asks to be called less often. The operator waits by itself."
        AzureConflict, Nobody: "Another operation runs on the resource. The operator waits by itself."
        AzureRejected, User: "Azure refuses what the spec or its class asks for; the message says what. The operator asks again slowly."
        AzureOperationFailed, Platform: "Azure accepted the work and failed at it. The operator tries again by itself."
        AzureResourceNotFound, User: "An Azure resource that the spec refers to does not exist. Create it or correct the reference."
        QuotaExceeded, Platform: "Azure has no room: a quota, a capacity or a SKU of the region. Raise the quota or choose another."
        NameTaken, Platform: "Somebody else's resource has the name that is needed. Nothing of it is touched."
        AdoptionRequired, Platform: "What the object names exists in Azure and belongs to an earlier object of the same name. Confirm with the annotation `confirmation.cloud.octopus.com/adoption=true`, or with `spec.adoptUntil` of the Region."
        DataResourceMissing, Platform: "A resource that holds data was there and is gone. It is not made again by itself: restore it, or confirm the loss with the annotation `confirmation.cloud.octopus.com/recreation=true`."
        Scheduled, Nobody: "Event: a reef, a pool and a storage account were chosen for the instance; the message says why, and why not others."
        NoReefFits, Platform: "No reef of the region can take the instance; the message counts why. Add a reef, or raise a limit."
        ReefFull, Platform: "The instance asks for more room for its data than its elastic pool or storage account has besides what others ask for. It goes on with what it has. Make room, or lower a quota."
        KeysDiffer, Platform: "The copies of the instance's master key differ, or a database exists without one. Nothing is started: restore the Secret that the message names."
        DriftCorrected, Nobody: "Event: somebody changed an object of the operator's in a reef's cluster, and it was put back; the message says which field and by whom."
        WorkloadFailing, Platform: "The server does not come up; the message says what its pod says."
        ResizeDeferred, Platform: "The server's node has no room now for the size that the task cap asks for. The server goes on with the size that it has, and gets the other when pods leave the node, or in its maintenance window on another node, or when its pod is next made."
        ResizeInfeasible, Platform: "The server's node is too small for the size that the task cap asks for. The server goes on with the size that it has until its maintenance window, in which it is moved to a node with room for it, or until its pod is next made: lower spec.taskCap, or add larger nodes."
        ResizeRefused, Platform: "The reef's cluster refuses the size that the task cap asks for, because of a quota, a limit or a policy there that is not the operator's. The server goes on with the size that it has, and is not asked for again until its pod is next made or a look is asked for."
        ResizeMoving, Nobody: "It is the server's maintenance window, its node cannot give it the size that the task cap asks for, and another one can: its tasks end, then its pod is made again there."
        AgentFailed, Platform: "A Job of the reef's agent failed; the message says at what. It is tried again."
        RetainedExists, User: "What is kept of a deleted instance of this name is not used again silently: delete the RetainedInstance, or choose another name."
        AddressSpaceExhausted, Platform: "The region's address space has no free range for another reef, or the range that the spec asks for is taken."
        ClusterUnreachable, Platform: "The API server of the reef's cluster does not answer or refuses the operator."
        ClusterFull, Platform: "The API server of the reef's cluster refuses writes, because its etcd is full. What is there runs on."
        CircuitOpen, Platform: "Calls are held back, because the service did not answer several times in a row. One call at a time finds out when it does again; until then no instance gets a place there."
        Deleting, Nobody: "Being deleted; the message says what is still there."
        DeletionUnconfirmed, User: "Deletion was asked for and nothing was touched: annotate with `confirmation.cloud.octopus.com/deletion=true` if it is meant."
        DeletionBlocked, Platform: "Deletion waits for something that would be lost; the message says what."
        EmergencyStop, Platform: "The Region's `spec.emergencyStop` forbids it; the message says which verb, why and until when. It goes on by itself when the stop is removed or ends."
        Paused, Platform: "The annotation `cloud.octopus.com/paused` of the object forbids it. It goes on by itself when the annotation is removed or its time is over."
        StoppedTooLong, Platform: "A pause or an emergency stop without an end has lasted for more than a day. Remove it, or give it an end."
        Resumed, Nobody: "Event: a pause or an emergency stop is over, and work goes on."
        ApiServerUnavailable, Platform: "The management API server did not answer. The operator tries again by itself."
        SpecInvalid, User: "The spec cannot be served although the API server took it. Install the CRD chart that belongs to the operator."
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A condition as a controller decides it: without times and generations, which [`merge`] adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// What it speaks about.
    pub type_: ConditionType,
    /// `Some(true)` is `True`, `Some(false)` is `False`, `None` is `Unknown`.
    pub status: Option<bool>,
    /// Why.
    pub reason: Reason,
    /// One line: what, where, what to do. Never a secret.
    pub message: String,
}

impl Decided {
    fn status_str(&self) -> &'static str {
        match self.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }
}

/// The new list of conditions: exactly those decided, in their order. `lastTransitionTime` is kept where
/// the status did not flip, so that an unchanged state gives an equal list (and no write).
pub fn merge(old: &[Condition], decided: &[Decided], generation: i64, now: Timestamp) -> Vec<Condition> {
    decided
        .iter()
        .map(|new| {
            let kept = old
                .iter()
                .find(|c| c.type_ == new.type_.as_str() && c.status == new.status_str())
                .map(|c| c.last_transition_time.clone());
            Condition {
                type_: new.type_.as_str().to_owned(),
                status: new.status_str().to_owned(),
                reason: new.reason.as_str().to_owned(),
                message: one_line(&new.message),
                observed_generation: Some(generation),
                last_transition_time: kept.unwrap_or_else(|| whole_seconds(now)),
            }
        })
        .collect()
}

/// Messages quote what others said, and that may have line ends and any length.
fn one_line(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(1024).collect()
}

/// Those of the conditions that are ours. Somebody else's stay in the object whatever we send.
pub fn ours(conditions: &[Condition]) -> Vec<Condition> {
    let known = |c: &&Condition| ConditionType::ALL.iter().any(|t| t.as_str() == c.type_);
    conditions.iter().filter(known).cloned().collect()
}

/// The conditions without what `Reconciling` and `Stalled` say of an older spec: a new spec gets its whole
/// progress deadline.
pub fn of_this_spec(conditions: &[Condition], generation: i64) -> Vec<Condition> {
    let progress = [ConditionType::Reconciling.as_str(), ConditionType::Stalled.as_str()];
    let stays =
        |c: &&Condition| !progress.contains(&c.type_.as_str()) || c.observed_generation == Some(generation);
    conditions.iter().filter(stays).cloned().collect()
}

/// Since when the condition of this type has been true; none if it is not.
pub fn true_since(conditions: &[Condition], type_: ConditionType) -> Option<Timestamp> {
    conditions
        .iter()
        .find(|c| c.type_ == type_.as_str() && c.status == "True")
        .map(|c| c.last_transition_time.0)
}

/// The API server keeps whole seconds; anything finer would never equal what is read back.
fn whole_seconds(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(status: Option<bool>) -> Decided {
        Decided {
            type_: ConditionType::Ready,
            status,
            reason: Reason::ReconcileSucceeded,
            message: "ok".to_owned(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_transition_time_moves_only_when_the_status_flips() {
        let first = merge(&[], &[decided(Some(false))], 1, at(100));
        let same = merge(&first, &[decided(Some(false))], 2, at(200));
        assert_eq!(same[0].last_transition_time.0, at(100));
        assert_eq!(same[0].observed_generation, Some(2));
        let flipped = merge(&same, &[decided(Some(true))], 2, at(300));
        assert_eq!(flipped[0].last_transition_time.0, at(300));
        assert_eq!(true_since(&flipped, ConditionType::Ready), Some(at(300)));
        assert_eq!(true_since(&same, ConditionType::Ready), None);
    }

    #[test]
    fn times_are_whole_seconds() {
        let now = Timestamp::new(100, 999_999_999).unwrap();
        assert_eq!(merge(&[], &[decided(None)], 1, now)[0].last_transition_time.0, at(100));
    }

    #[test]
    fn whoever_is_on_call_finds_every_reason() {
        let page = include_str!("../../docs/troubles.md");
        let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
        for reason in Reason::ALL {
            let found: Vec<_> =
                rows.iter().filter(|row| row.starts_with(&format!("| `{reason}` |"))).collect();
            assert_eq!(found.len(), 1, "{reason} in docs/troubles.md");
            let cells: Vec<_> = found[0].trim_matches('|').split(" | ").map(str::trim).collect();
            assert_eq!(cells.len(), 4, "{reason}: what it means, what the operator does, what you do");
            assert!(cells.iter().all(|cell| !cell.is_empty()), "{reason}");
        }
        assert_eq!(rows.len(), Reason::ALL.len(), "a row for a reason that there is not");
    }

    #[test]
    fn names_are_pascal_case_and_unique() {
        let reasons: Vec<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        let types: Vec<_> = ConditionType::ALL.iter().map(|t| t.as_str()).collect();
        for names in [reasons, types] {
            for name in &names {
                let is_word = name.chars().all(char::is_alphanumeric);
                assert!(is_word && name.starts_with(|c: char| c.is_ascii_uppercase()), "{name}");
                assert_eq!(names.iter().filter(|n| *n == name).count(), 1, "{name} twice");
            }
        }
    }
}
