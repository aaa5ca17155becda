//! Fifty cells share the limits of one subscription: what one of them does is not noticed by the others. With a virtual
//! clock.

use std::{collections::BTreeMap, time::Duration};

use super::{
    limiter::{Limiter, Ticket},
    limits::{Call, Limit, Priority, Rates, Verb},
    tests_common::{Lcg, ms, s},
};
use Priority::{Routine, Visible};

const GROUP: &str = "/subscriptions/s/resourceGroups/g/providers";

fn limits(verb: Verb, path: &str) -> Vec<Limit> {
    Rates::default().limits(&Call { verb, path: &format!("{GROUP}/{path}"), location: "weu" })
}

fn database(verb: Verb) -> Vec<Limit> {
    limits(verb, "Microsoft.Sql/servers/s/databases/d")
}

fn share(verb: Verb) -> Vec<Limit> {
    limits(verb, "Microsoft.Storage/storageAccounts/a/fileServices/default/shares/f")
}

fn cluster(verb: Verb, name: usize) -> Vec<Limit> {
    limits(verb, &format!("Microsoft.ContainerService/managedClusters/{name}"))
}

/// What one cell wants.
#[derive(Clone)]
struct Want {
    cell: usize,
    priority: Priority,
    limits: Vec<Limit>,
}

/// How a cell behaves that the others are not to notice.
#[derive(Clone)]
struct Crowd {
    want: Want,
    /// So many of its calls wait at any time.
    calls: usize,
    /// Its callers give up after so long.
    patience: Duration,
}

#[derive(Default)]
struct World {
    limiter: Limiter,
    now: Duration,
    /// The calls that are watched, by when they were asked for.
    watched: BTreeMap<Ticket, (usize, Duration)>,
    crowds: Vec<Crowd>,
    /// The calls of the crowds, by whose they are and when they were asked for.
    crowding: BTreeMap<Ticket, (usize, Duration)>,
    /// How many of them each crowd has.
    there: Vec<usize>,
    /// How long watched calls waited, by cell, in the order in which they went.
    waited: Vec<(usize, Duration)>,
    /// How many calls of each crowd went.
    went: BTreeMap<usize, u32>,
    /// How often the limiter was asked.
    asked: u32,
}

impl World {
    fn new(crowds: &[Crowd]) -> Self {
        Self { crowds: crowds.to_vec(), there: vec![0; crowds.len()], ..Self::default() }
    }

    /// Everything that happens at this time.
    fn step(&mut self) {
        loop {
            self.fill();
            let gone = self.limiter.go(self.now);
            self.asked += 1;
            if gone.is_empty() {
                return;
            }
            for ticket in gone {
                if let Some((cell, at)) = self.watched.remove(&ticket) {
                    self.waited.push((cell, self.now.saturating_sub(at)));
                } else {
                    let (of, _) = self.crowding.remove(&ticket).unwrap();
                    self.there[of] -= 1;
                    *self.went.entry(of).or_default() += 1;
                }
            }
        }
    }

    /// Who has waited too long leaves, and each crowd is as large as before.
    fn fill(&mut self) {
        if self.crowds.iter().any(|crowd| crowd.patience < Duration::MAX) {
            let is_late =
                |(of, at): &(usize, Duration)| self.now.saturating_sub(*at) >= self.crowds[*of].patience;
            let late: Vec<_> =
                self.crowding.iter().filter(|(_, call)| is_late(call)).map(|(t, _)| *t).collect();
            for ticket in late {
                assert!(self.limiter.leave(ticket));
                let (of, _) = self.crowding.remove(&ticket).unwrap();
                self.there[of] -= 1;
            }
        }
        for (of, crowd) in self.crowds.iter().enumerate() {
            for _ in self.there[of]..crowd.calls {
                let Want { cell, priority, limits } = &crowd.want;
                let ticket = self.limiter.ask(&cell.to_string(), *priority, limits);
                self.crowding.insert(ticket, (of, self.now));
            }
            self.there[of] = crowd.calls;
        }
    }

    /// When the first of those who are impatient leaves.
    fn leaves(&self) -> Option<Duration> {
        self.crowds.iter().any(|crowd| crowd.patience < Duration::MAX).then_some(())?;
        self.crowding.values().map(|(of, at)| at.saturating_add(self.crowds[*of].patience)).min()
    }

    /// Runs until then, from one event to the next.
    fn run(&mut self, until: Duration) {
        while self.now < until {
            self.step();
            let next = self.limiter.next(self.now);
            assert!(next.is_none_or(|at| at > self.now), "it would spin at {:?}", self.now);
            self.now = [next, self.leaves()].into_iter().flatten().min().unwrap_or(until).min(until);
        }
    }

    fn ask(&mut self, want: &Want) {
        let ticket = self.limiter.ask(&want.cell.to_string(), want.priority, &want.limits);
        self.watched.insert(ticket, (want.cell, self.now));
    }

    /// Asks for these calls, each at its time, and waits until all went.
    fn watch(&mut self, arrivals: &[(Duration, Want)]) {
        for (at, want) in arrivals {
            self.run(*at);
            self.ask(want);
        }
        self.step();
        let end = self.now + s(7200);
        while !self.watched.is_empty() {
            assert!(self.now < end, "{} never went", self.watched.len());
            self.run(self.now + s(1));
        }
    }
}

/// How long each of these calls waits beside crowds, and how many calls of the first crowd went.
fn waits(arrivals: &[(Duration, Want)], crowds: &[Crowd]) -> (Vec<(usize, Duration)>, u32) {
    let mut world = World::new(crowds);
    world.watch(arrivals);
    (world.waited, world.went.get(&0).copied().unwrap_or_default())
}

fn p99(waits: &[(usize, Duration)]) -> Duration {
    let mut waits: Vec<_> = waits.iter().map(|(_, wait)| *wait).collect();
    waits.sort();
    waits[waits.len() * 99 / 100]
}

fn longest(waits: &[(usize, Duration)]) -> Duration {
    waits.iter().map(|(_, wait)| *wait).max().unwrap()
}

/// Cells 1 to 49 want something now and then, so often on average.
fn now_and_then(
    every: Duration,
    end: Duration,
    priority: Priority,
    limits: &[Limit],
) -> Vec<(Duration, Want)> {
    let mut lcg = Lcg::new(7);
    let mut arrivals = Vec::new();
    let twice = u64::try_from(every.as_millis() * 2).unwrap();
    for cell in 1..50 {
        let mut at = ms(lcg.below(twice));
        while at < end {
            arrivals.push((at, Want { cell, priority, limits: limits.to_vec() }));
            at += ms(lcg.below(twice));
        }
    }
    arrivals.sort_by_key(|(at, want)| (*at, want.cell));
    arrivals
}

fn crowd(cell: usize, calls: usize, priority: Priority, limits: Vec<Limit>) -> Crowd {
    Crowd { want: Want { cell, priority, limits }, calls, patience: Duration::MAX }
}

#[test]
fn a_greedy_cell_is_not_noticed() {
    for (name, limits, tick, every, end) in [
        ("ARM reads", database(Verb::Read), ms(40), s(60), s(600)),
        ("ARM writes", database(Verb::Write), ms(100), s(60), s(600)),
        // Ten a second, all at once.
        ("Storage writes", share(Verb::Write), s(1), s(1200), s(3 * 3600)),
    ] {
        for (own, greedy) in [(Visible, Visible), (Routine, Routine), (Visible, Routine), (Routine, Visible)]
        {
            let arrivals = now_and_then(every, end, own, &limits);
            let (alone, _) = waits(&arrivals, &[]);
            let (beside, went) = waits(&arrivals, &[crowd(0, 300, greedy, limits.clone())]);
            println!(
                "{name}, {own:?} beside greedy {greedy:?}: {} calls, p99 {:?} instead of {:?}, longest {:?} instead \
                 of {:?}; {went} greedy calls",
                arrivals.len(),
                p99(&beside),
                p99(&alone),
                longest(&beside),
                longest(&alone)
            );
            // Visible work goes before routine work, also that of other cells.
            if (own, greedy) != (Routine, Visible) {
                let most = p99(&alone).mul_f64(1.05).max(p99(&alone) + tick);
                assert!(p99(&beside) <= most, "{name}, {own:?}, {greedy:?}");
            }
        }
    }
}

#[test]
fn nor_if_all_others_come_at_once() {
    for (name, limits) in [("ARM reads", database(Verb::Read)), ("ARM writes", database(Verb::Write))] {
        for priority in [Visible, Routine] {
            let want = |cell| Want { cell, priority, limits: limits.clone() };
            let arrivals: Vec<_> = (1..10)
                .flat_map(|n| (1..50).map(move |cell| (n, cell)))
                .map(|(n, cell)| (s(60 * n), want(cell)))
                .collect();
            let (alone, _) = waits(&arrivals, &[]);
            let (beside, _) = waits(&arrivals, &[crowd(0, 300, priority, limits.clone())]);
            println!(
                "{name}, {priority:?}: 49 at once: longest {:?} instead of {:?}",
                longest(&beside),
                longest(&alone)
            );
            // What the greedy one leaves is enough for nearly all.
            let tick = if name == "ARM reads" { ms(40) } else { ms(100) };
            assert!(longest(&beside) <= longest(&alone) + tick * 10);
        }
    }
}

#[test]
fn nor_by_one_that_is_busy_itself() {
    // Two looks a second of four reads and a write, a third of the rate.
    for priority in [Visible, Routine] {
        let call = |n: u64| database(if n % 5 == 4 { Verb::Write } else { Verb::Read });
        let arrivals: Vec<_> =
            (0..6000).map(|n| (ms(100 * n), Want { cell: 1, priority, limits: call(n) })).collect();
        let greedy = [Verb::Read, Verb::Write].map(|verb| crowd(0, 300, priority, database(verb)));
        let (beside, went) = waits(&arrivals, &greedy);
        println!("one busy cell, {priority:?}: longest {:?}; {went} greedy reads", longest(&beside));
        assert_eq!(longest(&beside), s(0));
    }
}

#[test]
fn a_throttled_cell_delays_no_other() {
    let arrivals = |verb| {
        let mut arrivals = now_and_then(s(30), s(600), Routine, &[]);
        for (_, want) in &mut arrivals {
            want.limits = cluster(verb, want.cell);
        }
        arrivals
    };
    for verb in [Verb::Read, Verb::Write] {
        let limits = cluster(verb, 0);
        let (alone, _) = waits(&arrivals(verb), &[]);
        let mut world = World::new(&[crowd(0, 300, Visible, limits.clone())]);
        world.limiter.close(&limits[1], s(3600));
        world.watch(&arrivals(verb));
        println!(
            "beside a throttled cell, {verb:?}: {} calls, longest {:?}",
            alone.len(),
            longest(&world.waited)
        );
        assert_eq!(world.waited, alone, "not one of them");
        assert!(world.went.is_empty());
    }
}

#[test]
fn a_dead_cell_delays_no_other() {
    for (limits, tick) in [(database(Verb::Read), ms(40)), (database(Verb::Write), ms(100))] {
        let arrivals = now_and_then(s(60), s(600), Routine, &limits);
        let (alone, _) = waits(&arrivals, &[]);
        let dead = Crowd { patience: s(10), ..crowd(0, 300, Routine, limits.clone()) };
        let (beside, went) = waits(&arrivals, &[dead]);
        println!(
            "beside a dead cell: p99 {:?} instead of {:?}, {went} of its calls went",
            p99(&beside),
            p99(&alone)
        );
        assert!(p99(&beside) <= p99(&alone) + tick);
        assert!(longest(&beside) <= longest(&alone) + tick);
    }
}

#[test]
fn routine_work_never_delays_a_delete() {
    // All cells flood all limits with routine work, the one that deletes too.
    let flood = |verb| (0..50).map(move |cell| crowd(cell, 20, Routine, share(verb)));
    let crowds: Vec<_> = flood(Verb::Write).chain(flood(Verb::Read)).collect();
    for verb in [Verb::Delete, Verb::Write] {
        let arrivals = now_and_then(s(600), s(1200), verb.priority(Visible), &share(verb));
        let (beside, went) = waits(&arrivals, &crowds);
        println!(
            "{verb:?} beside routine floods: {} calls, longest {:?}, {went}",
            arrivals.len(),
            longest(&beside)
        );
        assert!(longest(&beside) <= ms(100));
    }
    assert_eq!(Verb::Delete.priority(Routine), Visible);
    assert_eq!(Verb::Write.priority(Routine), Routine);
}

#[test]
fn routine_work_does_not_take_the_rate_from_visible_work() {
    let limits = database(Verb::Write);
    let mut crowds = vec![crowd(0, 300, Visible, limits.clone())];
    crowds.extend((1..50).map(|cell| crowd(cell, 20, Routine, limits.clone())));
    let mut world = World::new(&crowds);
    world.run(s(600));
    let routine: u32 = (1..50).map(|of| world.went.get(&of).copied().unwrap_or_default()).sum();
    println!("in 10 min {} visible calls of one cell, {routine} routine ones of 49", world.went[&0]);
    assert!(world.went[&0] >= 6000 * 3 / 4, "most of it");
    assert!(routine >= 500, "and yet there is some for them");
    // Within the cell that has it all there is none while visible work waits.
    let crowds = [crowd(0, 20, Visible, limits.clone()), crowd(0, 300, Routine, limits)];
    let mut world = World::new(&crowds);
    world.run(s(60));
    let before = world.went.clone();
    world.run(s(600));
    assert_eq!(world.went[&0] - before[&0], 5400);
    assert_eq!(world.went[&1], before[&1]);
}

#[test]
fn what_others_do_not_use_is_used() {
    // Of a bucket of 200 that fills with 10 a second: three quarters at once, and all of the rate.
    for (priority, at_once) in [(Visible, 150), (Routine, 120)] {
        let mut world = World::new(&[crowd(0, 300, priority, database(Verb::Write))]);
        world.run(ms(600_001));
        assert_eq!(world.went[&0], at_once + 6000);
    }
    // Beside others that ask for little, it has all the rest of the rate.
    let arrivals = now_and_then(s(60), s(600), Visible, &database(Verb::Write));
    let (_, went) = waits(&arrivals, &[crowd(0, 300, Visible, database(Verb::Write))]);
    let others = u32::try_from(arrivals.len()).unwrap();
    assert!((6000..=6200).contains(&(went + others)), "{went} and {others}");
    // What is taken of a window is gone for an hour, so a quarter is left for whoever comes next.
    let mut world = World::new(&[crowd(0, 300, Visible, share(Verb::Write))]);
    world.run(s(3600));
    assert_eq!(world.went[&0], 900);
    // It is not asked much more often than calls go: each is asked for, goes, and is forgotten later.
    world.run(s(10 * 3600));
    println!("asked {} times for {} calls", world.asked, world.went[&0]);
    assert!(world.asked <= 3 * world.went[&0]);
}

#[test]
fn turns_go_round_by_cell() {
    let limits = database(Verb::Read);
    let crowds: Vec<_> =
        (0..7).map(|cell| crowd(cell, [300, 9, 1, 30, 2, 80, 8][cell], Visible, limits.clone())).collect();
    let mut world = World::new(&crowds);
    // What is there at first goes to those who have more calls than others have turns.
    world.run(s(60));
    let before = world.went.clone();
    world.run(s(600));
    let went: Vec<_> = world.went.iter().map(|(of, went)| went - before[of]).collect();
    println!("seven cells with queues of any length: {went:?}");
    assert!(
        went.len() == 7 && went.iter().max().unwrap() - went.iter().min().unwrap() <= 20,
        "one in a hundred"
    );
    // One that comes now and then waits for one turn of each, however many calls they have.
    let arrivals: Vec<_> = (0..20)
        .map(|n| (s(600) + ms(n * 7777), Want { cell: 9, priority: Visible, limits: limits.clone() }))
        .collect();
    world.watch(&arrivals);
    println!("an eighth waits {:?} at most", longest(&world.waited));
    assert!(longest(&world.waited) <= ms(40) * 8);
}

#[test]
fn who_needs_two_scarce_limits_gets_both() {
    // Seven cells want all of one, seven others all of the other, and one cell both, and the first alone too.
    let mut crowds =
        vec![crowd(0, 50, Visible, share(Verb::Write)), crowd(0, 50, Visible, database(Verb::Write))];
    crowds.extend((1..8).map(|cell| crowd(cell, 50, Visible, database(Verb::Write))));
    crowds.extend((8..15).map(|cell| crowd(cell, 50, Visible, share(Verb::Delete))));
    let mut world = World::new(&crowds);
    world.run(s(3600));
    let storage: u32 = world.went.iter().filter(|(of, _)| **of == 0 || **of > 8).map(|(_, went)| went).sum();
    println!("of {storage} Storage writes of 8 cells in 1 h {} are its own", world.went[&0]);
    assert!(world.went[&0] * 8 >= storage * 9 / 10);
}
