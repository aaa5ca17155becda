//! What is well in a reef's cluster is not read again as long as nothing is heard from there: everything that an instance
//! has in the cluster is followed, so a routine look costs no call to its API server.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

use super::in_cluster::{InCluster, Wanted};
use crate::{cluster::watch::Mark, resources::Verdict};

/// After so many routine looks everything is read all the same.
const CYCLES: u32 = 6;

struct Steady {
    wanted: String,
    mark: Mark,
    at: Timestamp,
    found: InCluster,
}

/// Instances with which all was well when they were last looked at in their cluster, by UID.
#[derive(Default)]
pub struct Steadies(Mutex<HashMap<String, Steady>>);

impl Steadies {
    /// How an instance stands, if it was well, the same is wanted, and nothing was heard since.
    pub fn known(
        &self,
        uid: &str,
        wanted: &str,
        mark: Mark,
        resync: Duration,
        now: Timestamp,
    ) -> Option<InCluster> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(uid)?;
        let is_young = now.duration_since(known.at).unsigned_abs() < resync * CYCLES;
        (known.wanted == wanted && known.mark == mark && is_young).then(|| known.found.clone())
    }

    /// Remembers how it stands, if all is well. The mark is from before it was looked at.
    pub fn keep(&self, uid: &str, wanted: String, mark: Mark, found: &InCluster, at: Timestamp) {
        let verdicts = [&found.access, &found.workload, &found.configured, &found.resized];
        if !found.lags && verdicts.into_iter().all(|verdict| *verdict == Verdict::Good) {
            let steady = Steady { wanted, mark, at, found: found.clone() };
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), steady);
        } else {
            self.forget(uid);
        }
    }

    /// It is looked at anew the next time.
    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// All that follows from what is wanted, to be compared. Of the keys there is the hash.
pub fn of(wanted: &Wanted<'_>) -> String {
    let server = &wanted.server;
    format!(
        "{:?} {} {} {} {} {:?} {} {} {} {:?} {}",
        server.inputs,
        server.image,
        server.version,
        server.task_cap,
        server.client_id,
        wanted.database,
        wanted.agent.image,
        wanted.agent.client_id,
        wanted.agent.has_ca,
        wanted.routes,
        wanted.may_adopt,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::cloud_instance::done::Done;

    const RESYNC: Duration = Duration::from_secs(600);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn only_what_was_well_and_has_not_changed_is_known() {
        let well = InCluster::all(&Verdict::Good, Done::default());
        let all = Steadies::default();
        all.keep("a", "w".to_owned(), (0, 1), &well, at(0));
        let known = |wanted, mark, now| all.known("a", wanted, mark, RESYNC, at(now)).is_some();
        assert!(known("w", (0, 1), 3599));
        assert!(!known("w", (0, 1), 3600), "now and then it is read all the same");
        assert!(!known("x", (0, 1), 1), "something else is wanted");
        assert!(!known("w", (0, 2), 1), "something was heard");
        assert!(!known("w", (1, 1), 1), "nothing could be heard for a while");
        all.keep("a", "w".to_owned(), (0, 1), &InCluster { lags: true, ..well.clone() }, at(1));
        assert!(!known("w", (0, 1), 2), "nobody would hear of its pod");
        let worse = InCluster { workload: Verdict::Working("it starts".to_owned()), ..well };
        all.keep("a", "w".to_owned(), (0, 1), &worse, at(1));
        assert!(!known("w", (0, 1), 2), "what is not well is looked at");
    }
}
