//! One leader among the replicas, by a Lease.
//!
//! A replica follows the Lease and takes it when it has not changed for its duration *by this replica's
//! own clock*: clocks of other machines are not trusted. Each write carries the resourceVersion that was
//! read, so of two that try at once one gets a conflict. The holder counts its claim from the *start* of
//! its last good renewal and gives it up a margin before others may take it; whoever acts checks the
//! claim right before writing ([`Claim::check`]), and so do the clients ([`crate::actor`]).
//!
//! A lease is no fence: a process that was paused between check and write still writes. Names are fixed
//! and writes conditional for that reason.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::args::{CheckArgs, LeaseArgs};

/// What to do about the Lease now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write our name into it.
    Acquire,
    /// It is ours: write the new time.
    Renew,
    /// Another replica leads.
    Wait,
}

/// Decides (pure). `seen_change` is when this process first saw the Lease in its present state.
pub fn decide(spec: &LeaseSpec, me: &str, seen_change: Instant, now: Instant) -> Step {
    let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
    match spec.holder_identity.as_deref() {
        Some(holder) if holder == me => Step::Renew,
        Some(holder)
            if !holder.is_empty() && now.duration_since(seen_change) <= Duration::from_secs(seconds) =>
        {
            Step::Wait
        }
        _ => Step::Acquire,
    }
}

/// Whether a Lease that is not there may be made (pure). Somebody may have deleted it under a leader, who
/// notices only when it renews: a replica that saw another lead lets the duration pass first.
pub fn may_create(saw_other: Option<Instant>, duration: Duration, now: Instant) -> bool {
    saw_other.is_none_or(|at| now.duration_since(at) > duration)
}

/// The Lease with our claim in it (pure).
pub fn claimed(old: &LeaseSpec, me: &str, seconds: u32, now: Timestamp) -> LeaseSpec {
    let same = old.holder_identity.as_deref() == Some(me);
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(seconds).ok(),
        acquire_time: if same { old.acquire_time.clone() } else { Some(MicroTime(now)) },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(old.lease_transitions.unwrap_or(0) + i32::from(!same)),
        ..old.clone()
    }
}

/// Our claim to lead, shared with everything that acts.
#[derive(Clone, Debug, Default)]
pub struct Claim(Arc<Mutex<Option<Instant>>>);

/// The claim is not current: nothing may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this replica does not lead")]
pub struct NotLeader;

impl Claim {
    /// Whether we may write now.
    pub fn check(&self) -> Result<(), NotLeader> {
        if self.is_current(Instant::now()) { Ok(()) } else { Err(NotLeader) }
    }

    fn is_current(&self, now: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| now < until)
    }

    fn set(&self, until: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn until(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the election shows to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The API server has not answered yet, or no longer does.
    Unknown,
    /// Another replica leads.
    Following,
    /// We lead.
    Leading,
    /// We led and no longer do: the process has to end.
    Lost,
}

/// Takes part in the election.
pub struct Election {
    api: Api<Lease>,
    name: String,
    args: LeaseArgs,
    me: String,
    claim: Claim,
    standing: watch::Sender<Standing>,
    /// The Lease as last seen, and since when.
    seen: Option<(LeaseSpec, Instant)>,
    /// When another replica's name was last seen in it.
    saw_other: Option<Instant>,
}

impl Election {
    /// Prepares an election among the replicas that share a Lease, for a claim that is not current yet.
    pub fn new(client: Client, place: &CheckArgs, args: LeaseArgs, me: &str, claim: Claim) -> Self {
        Self {
            api: Api::namespaced(client, &place.namespace),
            name: place.lease_name.clone(),
            args,
            me: me.to_owned(),
            claim,
            standing: watch::channel(Standing::Unknown).0,
            seen: None,
            saw_other: None,
        }
    }

    /// How the election goes.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Runs until `stop`, then gives the Lease back so that another replica can take it at once; or until
    /// a claim that we had is lost.
    pub async fn run(mut self, stop: CancellationToken) {
        // A third of the duration leaves two more tries before the claim ends.
        let pause = self.args.duration() / 3;
        while !stop.is_cancelled() {
            // Standing by or without an answer, look more often: a Lease given back is taken soon, and a
            // claim has several more tries before it ends.
            let pause = if self.turn().await { pause } else { pause.min(Duration::from_secs(1)) };
            if *self.standing.borrow() == Standing::Lost {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
            if *self.standing.borrow() == Standing::Leading && self.claim.check().is_err() {
                tracing::error!(lease = self.name, "the lease was lost");
                self.standing.send_replace(Standing::Lost);
                return;
            }
        }
        self.release().await;
    }

    /// One look and, if it is our turn, one write. True if the claim was renewed.
    async fn turn(&mut self) -> bool {
        let began = Instant::now();
        // Short, so that a claim outlives two or three calls that hang.
        let limit = self.args.duration() / 8;
        let mut renewed = false;
        let standing = match timeout(limit, self.look_and_write()).await {
            Ok(Ok(Step::Wait)) if self.claim.until().is_some() => {
                // We led, and the Lease has another name in it. Nothing of ours may be written any more.
                self.claim.set(None);
                Standing::Lost
            }
            Ok(Ok(Step::Wait)) => Standing::Following,
            Ok(Ok(Step::Acquire | Step::Renew)) => {
                // Others wait the whole duration after our write; the margin is for what we are writing.
                self.claim.set(Some(began + self.args.duration() * 4 / 5));
                renewed = true;
                Standing::Leading
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, lease = self.name, "the lease could not be read or written");
                self.without_answer()
            }
            Err(_) => {
                tracing::warn!(lease = self.name, "the API server did not answer in time");
                self.without_answer()
            }
        };
        let before = self.standing.send_replace(standing);
        if before != standing {
            tracing::info!(lease = self.name, identity = self.me, ?standing, "election");
        }
        renewed
    }

    /// A leader stays one until its claim ends; a follower no longer knows.
    fn without_answer(&self) -> Standing {
        if self.claim.until().is_some() { Standing::Leading } else { Standing::Unknown }
    }

    async fn look_and_write(&mut self) -> kube::Result<Step> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            if !may_create(self.saw_other, self.args.duration(), Instant::now()) {
                return Ok(Step::Wait);
            }
            let spec =
                claimed(&LeaseSpec::default(), &self.me, self.args.lease_duration_seconds, Timestamp::now());
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(spec) };
            return first(self.api.create(&PostParams::default(), &lease).await, Step::Acquire);
        };
        let spec = lease.spec.unwrap_or_default();
        let now = Instant::now();
        let seen_change = match &self.seen {
            Some((seen, since)) if *seen == spec => *since,
            _ => now,
        };
        self.seen = Some((spec.clone(), seen_change));
        let step = decide(&spec, &self.me, seen_change, now);
        // A name that is ours from before a restart is taken anew, not assumed.
        if step == Step::Wait {
            self.saw_other = Some(now);
        } else {
            lease.spec = Some(claimed(&spec, &self.me, self.args.lease_duration_seconds, Timestamp::now()));
            return first(self.api.replace(&self.name, &PostParams::default(), &lease).await, step);
        }
        Ok(step)
    }

    async fn release(&self) {
        let held = self.claim.until().is_some();
        self.claim.set(None);
        if !held {
            return;
        }
        let give_back = async {
            let mut lease = self.api.get(&self.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(&self.me) {
                spec.holder_identity = Some(String::new());
                self.api.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match timeout(Duration::from_secs(3), give_back).await {
            Ok(Ok(())) => tracing::info!(lease = self.name, "gave the lease back"),
            Ok(Err(error)) => tracing::warn!(%error, "could not give the lease back; it will expire"),
            Err(_) => tracing::warn!("could not give the lease back in time; it will expire"),
        }
    }
}

/// Of several that write at the same moment one is first; for the others that is no failure.
fn first(written: kube::Result<Lease>, step: Step) -> kube::Result<Step> {
    match written {
        Ok(_) => Ok(step),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.code == 409 => Ok(Step::Wait),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(holder: Option<&str>, seconds: Option<i32>) -> LeaseSpec {
        LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: seconds,
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_is_taken_when_it_is_free_or_has_not_changed_for_its_duration() {
        let seen = Instant::now();
        for (holder, seconds, age, expect) in [
            (None, None, 0, Step::Acquire),
            (Some(""), Some(15), 0, Step::Acquire),
            (Some("me"), Some(15), 0, Step::Renew),
            (Some("me"), Some(15), 999, Step::Renew),
            (Some("other"), Some(15), 0, Step::Wait),
            (Some("other"), Some(15), 15, Step::Wait),
            (Some("other"), Some(15), 16, Step::Acquire),
            (Some("other"), None, 1, Step::Acquire),
            (Some("other"), Some(-5), 1, Step::Acquire),
        ] {
            let now = seen + Duration::from_secs(age);
            assert_eq!(
                decide(&spec(holder, seconds), "me", seen, now),
                expect,
                "{holder:?} {seconds:?} {age}"
            );
        }
    }

    #[test]
    fn taking_over_counts_a_transition_and_renewing_does_not() {
        let now = Timestamp::from_second(1000).unwrap();
        let taken = claimed(&spec(Some("other"), Some(15)), "me", 15, now);
        assert_eq!((taken.lease_transitions, taken.acquire_time.clone()), (Some(1), Some(MicroTime(now))));
        let later = Timestamp::from_second(1005).unwrap();
        let renewed = claimed(&taken, "me", 15, later);
        assert_eq!((renewed.lease_transitions, renewed.acquire_time), (Some(1), Some(MicroTime(now))));
        assert_eq!(renewed.renew_time, Some(MicroTime(later)));
    }

    #[test]
    fn a_lease_that_vanished_under_another_is_not_made_again_at_once() {
        let (seen, ttl) = (Instant::now(), Duration::from_secs(15));
        assert!(may_create(None, ttl, seen));
        assert!(!may_create(Some(seen), ttl, seen + ttl));
        assert!(may_create(Some(seen), ttl, seen + ttl + Duration::from_secs(1)));
    }

    #[test]
    fn a_claim_ends_by_itself() {
        let claim = Claim::default();
        assert_eq!(claim.check(), Err(NotLeader));
        let now = Instant::now();
        claim.set(Some(now + Duration::from_secs(10)));
        assert!(claim.is_current(now) && claim.check().is_ok());
        assert!(!claim.is_current(now + Duration::from_secs(10)));
    }
}
