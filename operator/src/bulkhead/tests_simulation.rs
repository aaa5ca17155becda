//! One reef fails in every way, and another does not notice: simulated with a virtual clock on the real cells, breakers
//! and buckets.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::sleep};

use super::{AzureCall, Cell, Cells, Gate, NoTurn, Outcome, Priority, Rates, Verb};

/// How Azure treats the calls for the reef that is in trouble.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    /// It has none, because nobody is on it.
    Nobody,
    /// It has none, and is as busy as can be.
    Greedy,
    /// No answer, until the caller gives up.
    Hangs,
    /// Fails at once.
    Fails,
    /// Fails after a long time.
    FailsLate,
    /// Too many requests, and says when to come again.
    Throttled,
    /// Answers, and takes long.
    Slow,
    /// Every other call fails.
    Flaky,
}

const LATENCY: Duration = Duration::from_millis(400);

/// What one call comes to: how long it takes, whether it failed, and the pause that it asks for.
fn answer(trouble: Trouble, n: u32) -> (Duration, Outcome, Option<Duration>) {
    let seconds = Duration::from_secs;
    match trouble {
        Trouble::Hangs => (seconds(30), Outcome::Failed, None),
        Trouble::Fails => (LATENCY, Outcome::Failed, None),
        Trouble::FailsLate => (seconds(20), Outcome::Failed, None),
        Trouble::Throttled => (LATENCY, Outcome::Answered, Some(seconds(17))),
        Trouble::Slow => (seconds(25), Outcome::Answered, None),
        Trouble::Flaky if n.is_multiple_of(2) => (LATENCY, Outcome::Failed, None),
        Trouble::Nobody | Trouble::Greedy | Trouble::Flaky => (LATENCY, Outcome::Answered, None),
    }
}

/// One look at an object: four reads and a write. True if all went well.
async fn look(cell: &Arc<Cell>, gate: &Arc<Gate>, trouble: Trouble, count: &AtomicU32) -> bool {
    let _permit = cell.look().await;
    for verb in [Verb::Read, Verb::Read, Verb::Read, Verb::Read, Verb::Write] {
        let path = "/subscriptions/one/resourceGroups/g/providers/Microsoft.Sql/servers/s";
        let asked = AzureCall { verb, path, location: "westeurope" };
        let turn = match cell.turn(gate, "Microsoft.Sql", Priority::Visible, &asked).await {
            Ok(turn) => turn,
            Err(NoTurn::HeldBack | NoTurn::Queued(_)) => return false,
        };
        let (took, outcome, pause) = answer(trouble, count.fetch_add(1, Ordering::Relaxed));
        sleep(took).await;
        if let (Some(pause), Some(own)) = (pause, turn.limits.last()) {
            gate.close(own, pause);
        }
        turn.call.ended(outcome);
        if pause.is_some() {
            return false;
        }
        if outcome == Outcome::Failed {
            return false;
        }
    }
    true
}

/// How long looks of the 49 healthy reefs take while another one is in trouble, the longest one of a hundred; and how
/// many calls were made for that one.
async fn p99(trouble: Trouble, in_one_cell: bool) -> (Duration, u32) {
    let cells = Cells::new(16, Arc::default());
    let gate = Gate::new(Rates::default());
    let sick = cells.reef("sick");
    let well: Vec<_> = (0..49)
        .map(|n| cells.reef(&if in_one_cell { "sick".to_owned() } else { format!("well-{n}") }))
        .collect();
    let asked = Arc::new(AtomicU32::new(0));
    let mut crowd = JoinSet::new();
    // Three hundred instances that try again after a second, which is sooner than any of ours does.
    for n in 0..if trouble == Trouble::Nobody { 0 } else { 300u64 } {
        let (sick, gate, asked) = (sick.clone(), gate.clone(), asked.clone());
        crowd.spawn(async move {
            sleep(Duration::from_millis(n * 7)).await;
            loop {
                look(&sick, &gate, trouble, &asked).await;
                sleep(Duration::from_secs(1)).await;
            }
        });
    }
    let mut looks = JoinSet::new();
    // Two looks a second for ten minutes.
    for n in 0..1200u64 {
        let (well, gate) = (well[usize::try_from(n % 49).unwrap()].clone(), gate.clone());
        looks.spawn(async move {
            sleep(Duration::from_millis(500 * n + 11 * (n % 7))).await;
            let began = well.now();
            assert!(
                look(&well, &gate, Trouble::Nobody, &AtomicU32::new(0)).await,
                "a healthy reef was refused"
            );
            well.now().saturating_sub(began)
        });
    }
    let mut took = looks.join_all().await;
    crowd.abort_all();
    took.sort();
    (took[took.len() * 99 / 100], asked.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn one_reef_in_trouble_slows_no_other() {
    let (alone, _) = p99(Trouble::Nobody, false).await;
    for trouble in [
        Trouble::Hangs,
        Trouble::Fails,
        Trouble::FailsLate,
        Trouble::Throttled,
        Trouble::Slow,
        Trouble::Flaky,
        Trouble::Greedy,
    ] {
        let (beside, calls) = p99(trouble, false).await;
        println!(
            "{trouble:?}: p99 {} ms beside it, {} ms alone; {calls} calls in 10 min",
            beside.as_millis(),
            alone.as_millis()
        );
        assert!(beside <= alone.mul_f64(1.05), "{trouble:?}: {beside:?} instead of {alone:?}");
        assert!(calls > 0, "{trouble:?}: it was not tried");
        // What does not answer is not called all the time: a probe now and then.
        if matches!(trouble, Trouble::Hangs | Trouble::Fails | Trouble::FailsLate) {
            assert!(calls < 100, "{trouble:?}: {calls} calls");
        }
    }
    // In one cell with them it would be noticed.
    assert!(p99(Trouble::Greedy, true).await.0 > alone * 2);
}
