//! Story: the operator is killed before and after each write that it makes while an instance, or a reef, is made, resized
//! and deleted; what comes of it is what comes of it without. `REEF_CRASHES` says how many crashes of each phase are tried
//! (`all` for each of them), `REEF_SEED` which, and `REEF_SHARD` (2/3) that others try the rest.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kube::{Api, Client, ResourceExt};
use reef_crds::Reef;
use reef_e2e::{
    crash::{
        Crashes, Write,
        matrix::{Crash, all, sample, seed},
        snapshot::{Flat, Place, common, differences, snapshot},
    },
    harness::{Sandbox, ok},
    instance_harness::{CUSTOMERS, hash_of, instance_gone, instance_ready, instances},
    reef_harness::{azure_writes, cluster, gone, ready, set, settled},
};

const REGION: &str = include_str!("../../../docs/samples/10-region.yaml");
const CLASS: &str = include_str!("../../../docs/samples/20-reefclass.yaml");

/// Crashes of each phase that are tried if nobody says how many; each takes up to a minute.
const SAMPLE: usize = 1;

/// How long the last writes may take after what says that all is done.
const SETTLES: Duration = Duration::from_secs(30);

fn reef(name: &str) -> String {
    format!(
        "apiVersion: cloud.octopus.com/v1alpha1\nkind: Reef\nmetadata:\n  name: {name}\nspec:\n  regionRef: {{ name: westeurope }}\n\
         \u{20} classRef: {{ name: standard }}\n  deletionPolicy: Delete\n  deletionProtection: false\n"
    )
}

fn instance(size: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {CUSTOMERS}\n---\napiVersion: cloud.octopus.com/v1alpha1\nkind: CloudInstance\n\
         metadata:\n  name: wreck\n  namespace: {CUSTOMERS}\nspec:\n  regionRef: {{ name: westeurope }}\n  subdomain: wreck\n\
         \u{20} release: {{ version: 2026.2.4213 }}\n  deletionPolicy: Delete\n  deletionProtection: false\n{size}"
    )
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Make,
    Resize,
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Instance,
    Reef,
}

impl Subject {
    /// A reef keeps the revision of its class, so it is not resized.
    fn phases(self) -> &'static [Phase] {
        match self {
            Self::Instance => &[Phase::Make, Phase::Resize, Phase::Delete],
            Self::Reef => &[Phase::Make, Phase::Delete],
        }
    }

    fn controller(self) -> &'static str {
        match self {
            Self::Instance => "cloud-instance",
            Self::Reef => "reef",
        }
    }
}

/// What was seen of a phase in which nobody crashed.
struct Seen {
    writes: Vec<Write>,
    end: Flat,
}

struct Story<'a> {
    sandbox: &'a Sandbox,
    client: Client,
    crashes: Crashes<'a>,
    subject: Subject,
    /// What its resources have in their names.
    words: Vec<String>,
    /// What differs from life to life in names: the UIDs of the objects, in whole and in short. The keys of an instance
    /// stay when it goes, so those of earlier lives are among what there is.
    names: Vec<String>,
    /// Name of the AKS cluster that instances are on.
    home: Option<String>,
}

impl Story<'_> {
    /// Asks for a phase.
    fn ask(&self, phase: Phase) {
        let manifest = match (self.subject, phase) {
            (_, Phase::Delete) => {
                let (kind, namespace) = match self.subject {
                    Subject::Instance => ("ci", CUSTOMERS),
                    Subject::Reef => ("reef", "default"),
                };
                ok(&self.sandbox.kubectl(&["-n", namespace, "delete", kind, "wreck", "--wait=false"]));
                return;
            }
            (Subject::Instance, Phase::Make) => instance("  taskCap: 5\n"),
            (Subject::Instance, Phase::Resize) => {
                instance("  taskCap: 10\n  quota: { share: 300Gi, database: 30Gi }\n")
            }
            (Subject::Reef, _) => reef("wreck"),
        };
        ok(&self.sandbox.kubectl_with(&["apply", "-f", "-"], &manifest));
    }

    /// Waits until what was asked for is done.
    async fn done(&self, phase: Phase) {
        match (self.subject, phase) {
            (Subject::Instance, Phase::Delete) => instance_gone(&self.client, "wreck").await,
            (Subject::Reef, Phase::Delete) => gone(&self.client, "wreck").await,
            (Subject::Instance, _) => drop(instance_ready(&self.client, "wreck").await),
            (Subject::Reef, _) => drop(ready(&self.client, "wreck").await),
        }
    }

    /// Learns the UID of the object.
    async fn learn(&mut self) {
        let uid = match self.subject {
            Subject::Instance => {
                instances(&self.client).get_opt("wreck").await.unwrap().and_then(|o| o.uid())
            }
            Subject::Reef => {
                Api::<Reef>::all(self.client.clone()).get_opt("wreck").await.unwrap().and_then(|o| o.uid())
            }
        };
        if let Some(uid) = uid.filter(|uid| !self.names.contains(uid)) {
            let short = uid[..8].to_owned();
            self.names.extend([uid, short]);
        }
    }

    /// All there is of it.
    async fn snapshot(&self) -> Flat {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        // A reef's own cluster is there while the reef is.
        let own = || async {
            Some(Api::<Reef>::all(self.client.clone()).get_opt("wreck").await.unwrap()?.status?.cluster?.name)
        };
        let home = match self.subject {
            Subject::Instance => self.home.clone(),
            Subject::Reef => own().await,
        };
        let reef = match &home {
            Some(home) => Some(self.sandbox.reef_client(home).await),
            None => None,
        };
        let mut clusters = vec![Place { name: "management", client: &self.client, whole: false }];
        let whole = self.subject == Subject::Reef;
        clusters.extend(reef.as_ref().map(|client| Place { name: "reef", client, whole }));
        let mut flat = snapshot(self.sandbox, &clusters, &words, &self.names).await;
        if self.subject == Subject::Instance {
            // What others would find taken.
            let home = Api::<Reef>::all(self.client.clone()).get("weu-1").await.unwrap();
            let kept = home.status.map(|status| status.reservations.len());
            flat.insert("management Reef weu-1 reservations".to_owned(), format!("{kept:?}"));
        }
        flat
    }

    /// Makes, resizes and deletes it without a crash.
    async fn undisturbed(&mut self) -> BTreeMap<String, Seen> {
        let mut all = BTreeMap::new();
        for phase in self.subject.phases() {
            self.crashes.watch_all().await;
            let mark = self.crashes.mark();
            self.ask(*phase);
            self.done(*phase).await;
            if self.subject == Subject::Instance && *phase == Phase::Make {
                let status = instances(&self.client).get("wreck").await.unwrap().status.unwrap();
                self.words = vec!["wreck".to_owned(), hash_of(&status)];
            }
            self.tell_calls(*phase, mark.1);
            // Nobody looks at what is gone.
            let looking = if *phase == Phase::Delete { "region" } else { self.subject.controller() };
            settled(&self.client, looking, 2.0, async || {
                let (of_servers, _) = self.crashes.mark();
                of_servers + azure_writes(self.sandbox).len()
            })
            .await;
            self.learn().await;
            let writes = self.crashes.writes_since(mark, &self.names);
            all.insert(format!("{phase:?}"), Seen { writes, end: self.snapshot().await });
        }
        all
    }

    /// Says how many calls to Azure were about it since a moment of the journal.
    fn tell_calls(&self, phase: Phase, since: usize) {
        let journal = self.sandbox.azure_journal();
        let is_its = |path: &str| self.words.iter().any(|word| path.contains(word.as_str()));
        let its = journal.iter().skip(since).filter(|call| call["path"].as_str().is_some_and(is_its));
        let (reads, writes): (Vec<_>, Vec<_>) = its.partition(|call| call["method"] == "GET");
        println!(
            "{:?} {phase:?}: {} writes and {} reads of its own at Azure",
            self.subject,
            writes.len(),
            reads.len()
        );
    }

    /// One phase with a crash: whether it came to that, and what is not as without.
    async fn crashed(
        &mut self,
        phase: Phase,
        crash: Option<&Crash>,
        seen: [&Seen; 2],
    ) -> (bool, Vec<String>) {
        if let Some((write, when)) = crash {
            self.crashes.arm(write, *when).await;
        }
        let made_before = self.sandbox.azure_made().len();
        self.ask(phase);
        let is_reached = self.crashes.until(self.done(phase)).await;
        let expected = common(&seen[0].end, &seen[1].end);
        self.learn().await;
        let mut differs = Vec::new();
        let deadline = Instant::now() + SETTLES;
        // The last writes come after what says that it is done.
        while Instant::now() < deadline {
            differs = differences(&expected, [&seen[0].end, &seen[1].end], &self.snapshot().await);
            if differs.is_empty() {
                break;
            }
        }
        let mut made = BTreeMap::new();
        for path in self.sandbox.azure_made().into_iter().skip(made_before) {
            *made.entry(path.to_lowercase()).or_insert(0) += 1;
        }
        differs.extend(
            made.iter().filter(|(_, n)| **n > 1).map(|(path, n)| format!("{path} was made {n} times")),
        );
        (is_reached, differs)
    }

    /// Which crashes of each phase are tried, in order; some are not reached and made up for by others.
    fn choose(&self, lives: [&BTreeMap<String, Seen>; 2], most: usize, seed: u64) -> Vec<Vec<Crash>> {
        let mut tries: Vec<Vec<Crash>> = Vec::new();
        for (n, phase) in self.subject.phases().iter().enumerate() {
            // How many statuses and Events are written on the way depends on how quick things are.
            let [mut writes, other] = lives.map(|life| life[&format!("{phase:?}")].writes.clone());
            writes.retain(|write| other.contains(write));
            writes.sort();
            // Without these nobody watches.
            let mut servers = vec!["Azure", "management"];
            servers.extend((*phase == Phase::Make).then_some("reef"));
            for server in servers {
                assert!(writes.iter().any(|write| write.server == server), "{phase:?}: no write to {server}");
            }
            let crashes = all(&writes);
            // One that is not reached is made up for by another.
            tries.push(sample(&share(&crashes), most.saturating_mul(3), seed.wrapping_add(n as u64)));
            println!(
                "{:?} {phase:?}: {} writes, {} of {} crashes may be tried",
                self.subject,
                crashes.len() / 2,
                tries[n].len(),
                crashes.len()
            );
        }
        tries
    }

    /// Tries crashes of each phase, one of each in a life; what came of it.
    async fn run(mut self) {
        let (seed, most) = (seed(), most());
        println!("REEF_SEED={seed}");
        let first = self.undisturbed().await;
        let second = self.undisturbed().await;
        let phases = self.subject.phases();
        let tries = self.choose([&first, &second], most, seed);
        let (mut same, mut missed, mut wrong) = (0, Vec::new(), Vec::new());
        let mut reached = vec![0; phases.len()];
        let is_left = |n: usize, reached: &[usize]| {
            tries.iter().zip(reached).any(|(tries, reached)| n < tries.len() && *reached < most)
        };
        for n in 0.. {
            if !is_left(n, &reached) {
                break;
            }
            for ((phase, tries), reached) in phases.iter().zip(&tries).zip(&mut reached) {
                let (crash, key) = (tries.get(n).filter(|_| *reached < most), format!("{phase:?}"));
                let (is_reached, differs) = self.crashed(*phase, crash, [&first[&key], &second[&key]]).await;
                *reached += usize::from(is_reached);
                let Some((write, when)) = crash else {
                    wrong.extend(differs.iter().map(|what| format!("{phase:?} without a crash: {what}")));
                    continue;
                };
                let came = if !differs.is_empty() {
                    "DIFFERS"
                } else if is_reached {
                    "the same"
                } else {
                    "not reached"
                };
                println!("{phase:?}, {when:?} {write}: {came}");
                differs.iter().take(20).for_each(|what| println!("    {what}"));
                match (is_reached, differs.is_empty()) {
                    (true, true) => same += 1,
                    (false, true) => missed.push(format!("{phase:?}, {when:?} {write}")),
                    _ => wrong
                        .extend(differs.iter().map(|what| format!("{phase:?}, {when:?} {write}: {what}"))),
                }
            }
        }
        println!(
            "{:?}: {same} crashes came to the same end, {} were not reached, {} differences",
            self.subject,
            missed.len(),
            wrong.len()
        );
        assert!(wrong.is_empty(), "{wrong:#?}");
        let is_tried = |n: usize| !tries[n].is_empty();
        let is_left_out = (0..phases.len()).any(|n| is_tried(n) && reached[n] == 0);
        assert!(!is_left_out, "{same}; not reached: {missed:#?}");
        // How many statuses and Events there are differs from life to life; other writes are made in each.
        let needed: Vec<_> =
            missed.iter().filter(|m| !m.contains("/status ") && !m.contains("/events ")).collect();
        assert!(most < usize::MAX || needed.is_empty(), "not reached: {needed:#?}");
    }
}

/// How many crashes of each phase are tried.
fn most() -> usize {
    match std::env::var("REEF_CRASHES").as_deref() {
        Ok("all") => usize::MAX,
        Ok(number) => number.parse().expect("REEF_CRASHES is a number, or all"),
        Err(_) => SAMPLE,
    }
}

/// Of some crashes those that are this run's.
fn share(crashes: &[Crash]) -> Vec<Crash> {
    let Ok(shard) = std::env::var("REEF_SHARD") else { return crashes.to_vec() };
    let (mine, all) = shard.split_once('/').expect("REEF_SHARD is like 2/3");
    let [mine, all] = [mine, all].map(|number| number.parse::<usize>().expect("a number"));
    assert!((1..=all).contains(&mine), "REEF_SHARD {shard}");
    crashes.iter().skip(mine - 1).step_by(all).cloned().collect()
}

async fn world(sandbox: &Sandbox, subject: Subject) -> Story<'_> {
    let client = sandbox.client().await;
    // Others lead soon, and looks come often.
    set(sandbox, "lease.durationSeconds=3,resyncSeconds=5");
    for manifest in [REGION, CLASS] {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], manifest));
    }
    let mut home = None;
    if subject == Subject::Instance {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], &reef("weu-1")));
        home = Some(cluster(&ready(&client, "weu-1").await));
    }
    let crashes = Crashes::begin(sandbox).await;
    Story { sandbox, client, crashes, subject, words: vec!["wreck".to_owned()], names: Vec::new(), home }
}

#[tokio::test]
async fn an_instance_survives_its_operator_wherever_it_crashes() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=1", "--time-scale=200"]);
    world(&sandbox, Subject::Instance).await.run().await;
}

#[tokio::test]
async fn a_reef_survives_its_operator_wherever_it_crashes() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=1", "--time-scale=200"]);
    world(&sandbox, Subject::Reef).await.run().await;
}
