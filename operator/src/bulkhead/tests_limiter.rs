//! The limiter step by step, and whatever happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    limiter::{Limiter, Ticket},
    limits::{Key, Kind, Limit, Priority, Quota},
    tests_common::{Lcg, ms, s},
};
use Priority::{Routine, Visible};

fn limit(kind: Kind, of: &str, quota: Quota) -> Limit {
    Limit { key: Key { kind, of: of.to_owned() }, quota }
}

/// Ten at once, one a second.
fn arm() -> Limit {
    limit(Kind::ArmWrites, "s/weu", Quota::per_second(10, 1))
}

/// Twenty in 100 s.
fn window() -> Limit {
    limit(Kind::StorageWrites, "s/weu", Quota::Window { most: 20, length: s(100) })
}

/// Ten at once and one a minute, for one cluster.
fn cluster(name: &str) -> Limit {
    limit(Kind::ClusterPuts, name, Quota::Bucket { burst: 10, refill: s(60) })
}

/// How many more visible calls of a cell nobody has heard of could go now.
fn room(limiter: &Limiter, limit: &Limit, now: Duration) -> usize {
    let mut copy = limiter.clone();
    let asked: BTreeSet<_> =
        (0..99).map(|n| copy.ask(&format!("probe {n}"), Visible, std::slice::from_ref(limit))).collect();
    copy.go(now).iter().filter(|ticket| asked.contains(ticket)).count()
}

/// Asks so often, and lets go what may.
fn take(limiter: &mut Limiter, calls: usize, limits: &[Limit], now: Duration) {
    for n in 0..calls {
        limiter.ask(&format!("one of many {n} at {now:?}"), Visible, limits);
    }
    assert_eq!(limiter.go(now).len(), calls);
}

#[test]
fn calls_go_at_once_while_there_is_room_and_count_when_they_go() {
    let mut limiter = Limiter::default();
    let ticket = limiter.ask("a", Visible, &[arm(), window()]);
    assert_eq!(room(&limiter, &arm(), s(0)), 10 - 1, "the one that came first goes first");
    assert_eq!(limiter.go(s(0)), [ticket]);
    assert_eq!((room(&limiter, &arm(), s(0)), room(&limiter, &window(), s(0))), (9, 19));
    assert_eq!((room(&limiter, &arm(), s(1)), room(&limiter, &window(), s(99))), (10, 19));
    assert_eq!((limiter.go(s(0)), limiter.next(s(0))), (vec![], None), "it does not go twice");
    let ticket = limiter.ask("a", Routine, &[]);
    assert_eq!(limiter.waits(ticket, s(0)), None);
    assert_eq!(limiter.go(s(0)), [ticket], "counts nowhere");
}

#[test]
fn a_call_that_is_held_up_holds_up_no_other() {
    let mut limiter = Limiter::default();
    take(&mut limiter, 10, &[cluster("x")], s(0));
    let held: Vec<_> = (0..50).map(|_| limiter.ask("a", Visible, &[arm(), cluster("x")])).collect();
    let same_cell = limiter.ask("a", Routine, &[arm(), window()]);
    let same_cluster_not = limiter.ask("a", Visible, &[arm(), cluster("y")]);
    let other = limiter.ask("b", Routine, &[arm()]);
    assert_eq!(limiter.go(s(0)), [same_cluster_not, other, same_cell], "visible ones, and then in turns");
    assert_eq!(limiter.next(s(0)), Some(s(60)));
    assert_eq!(limiter.go(s(60)), [held[0]], "first come, first served");
    assert_eq!(limiter.go(s(119)), []);
    assert_eq!(limiter.go(s(180)), [held[1], held[2]]);
}

#[test]
fn visible_work_goes_first_and_has_a_reserve() {
    let mut limiter = Limiter::default();
    let routine: Vec<_> = (0..20).map(|_| limiter.ask("a", Routine, &[cluster("x")])).collect();
    let visible: Vec<_> = (0..3).map(|_| limiter.ask("a", Visible, &[cluster("x")])).collect();
    let gone = limiter.go(s(0));
    assert_eq!(gone, [&visible[..], &routine[..5]].concat());
    assert_eq!(limiter.go(s(59)), []);
    let late = limiter.ask("a", Visible, &[cluster("x")]);
    assert_eq!(limiter.go(s(59)), [late], "of the reserve");
    assert_eq!(limiter.go(s(60)), []);
    assert_eq!(limiter.next(s(60)), Some(s(120)));
    assert_eq!(limiter.go(s(120)), [routine[5]]);
}

#[test]
fn who_gives_up_counts_nowhere() {
    let mut limiter = Limiter::default();
    take(&mut limiter, 10, &[arm()], s(0));
    let tickets: Vec<_> = (0..4).map(|_| limiter.ask("a", Visible, &[arm(), window()])).collect();
    assert!(limiter.leave(tickets[0]) && limiter.leave(tickets[2]));
    assert!(!limiter.leave(tickets[0]), "not twice");
    assert_eq!(limiter.go(s(4)), [tickets[1], tickets[3]]);
    assert!(!limiter.leave(tickets[1]), "it went");
    assert_eq!(room(&limiter, &window(), s(4)), 18);
    assert_eq!(limiter.next(s(4)), None);
}

#[test]
fn too_many_requests_close_one_limit_only() {
    let mut limiter = Limiter::default();
    limiter.close(&cluster("x"), s(100));
    limiter.close(&cluster("x"), s(50));
    let closed = limiter.ask("a", Visible, &[arm(), cluster("x")]);
    let open = limiter.ask("a", Visible, &[arm(), cluster("y")]);
    assert_eq!(limiter.go(s(0)), [open]);
    assert_eq!(limiter.next(s(0)), Some(s(100)));
    let waits = limiter.waits(closed, s(0)).unwrap();
    assert_eq!((waits.limit.key.kind, waits.until), (Kind::ClusterPuts, Some(s(100))));
    assert_eq!(limiter.go(ms(99_999)), []);
    assert_eq!(limiter.go(s(100)), [closed]);
    // Also one that nobody has used for long.
    limiter.go(s(9999));
    limiter.close(&arm(), s(10_010));
    limiter.ask("a", Visible, &[arm()]);
    assert_eq!((limiter.go(s(10_009)).len(), limiter.go(s(10_010)).len()), (0, 1));
}

#[test]
fn what_azure_says_of_the_rest_is_believed_if_it_is_less() {
    for limit in [arm(), window()] {
        let most = usize::try_from(limit.quota.most()).unwrap();
        let mut limiter = Limiter::default();
        limiter.left(&limit, 11_999, s(1));
        assert_eq!(room(&limiter, &limit, s(1)), most);
        limiter.left(&limit, 4, s(1));
        assert_eq!(room(&limiter, &limit, s(1)), 4);
        limiter.left(&limit, 8, s(1));
        assert_eq!(room(&limiter, &limit, s(1)), 4);
        take(&mut limiter, 4, std::slice::from_ref(&limit), s(1));
        assert_eq!(room(&limiter, &limit, s(1)), 0);
        assert_eq!(room(&limiter, &limit, s(102)), most);
    }
}

#[test]
fn who_waits_is_told_for_what_and_how_long() {
    let mut limiter = Limiter::default();
    take(&mut limiter, 20, &[window()], s(7));
    let ask = |limiter: &mut Limiter, cell: &str, priority, calls| -> Vec<Ticket> {
        (0..calls).map(|_| limiter.ask(cell, priority, &[arm(), window()])).collect()
    };
    let greedy = ask(&mut limiter, "greedy", Visible, 30);
    let other = ask(&mut limiter, "other", Visible, 2);
    let routine = ask(&mut limiter, "other", Routine, 1);
    assert_eq!(limiter.go(s(8)), []);
    let place = |ticket| limiter.waits(ticket, s(8)).map(|waits| waits.position).unwrap();
    assert_eq!(
        (place(greedy[0]), place(other[0]), place(greedy[1]), place(other[1])),
        (1, 2, 3, 4),
        "in turns"
    );
    assert_eq!((place(greedy[2]), place(greedy[29]), place(routine[0])), (5, 32, 33));
    let waits = limiter.waits(other[1], s(8)).unwrap();
    assert_eq!(waits.to_string(), "position 4 of 33 for Storage writes (20 per 100 s)");
    assert_eq!(waits.until, Some(s(107)));
    assert_eq!(limiter.next(s(8)), Some(s(107)));
    assert_eq!(limiter.go(s(107))[..4], [greedy[0], other[0], greedy[1], other[1]]);
    assert_eq!(limiter.waits(other[1], s(107)), None, "it went");
    let ticket = limiter.ask("a", Visible, &[cluster("x")]);
    assert_eq!(limiter.waits(ticket, s(107)).unwrap().until, None, "it may go");
}

#[test]
fn time_goes_only_forward() {
    let mut limiter = Limiter::default();
    take(&mut limiter, 4, &[window()], s(50));
    take(&mut limiter, 7, &[window()], s(30));
    limiter.left(&window(), 8, s(20));
    assert_eq!(room(&limiter, &window(), s(149)), 8, "all of them count from the latest time on");
    assert_eq!(room(&limiter, &window(), s(150)), 20);
}

#[test]
fn what_is_over_is_forgotten() {
    let mut limiter = Limiter::default();
    for n in 0..1000 {
        let now = s(60 * n);
        for kind in ["c", "d"] {
            limiter.ask(&format!("reef {n}"), Routine, &[arm(), window(), cluster(&format!("{kind}{n}"))]);
        }
        assert_eq!(limiter.go(now).len(), 2);
        assert!(limiter.kept() < 30, "{}", limiter.kept());
    }
    let ticket = limiter.ask("a", Visible, &[cluster("closed")]);
    limiter.close(&cluster("closed"), s(90_000));
    limiter.go(s(80_000));
    limiter.leave(ticket);
    limiter.go(s(89_999));
    assert_eq!(limiter.kept(), 1, "still closed");
    limiter.go(s(90_000));
    assert_eq!(limiter.kept(), 1, "it fills again from then on");
    limiter.go(s(100_000));
    assert_eq!(limiter.kept(), 0);
}

/// All that happened, to be checked without the limiter's own counts.
#[derive(Default)]
struct Model {
    limiter: Limiter,
    waiting: BTreeMap<Ticket, (usize, Priority, Vec<Limit>)>,
    gone: BTreeSet<Ticket>,
    left: BTreeSet<Ticket>,
    /// When calls went, by limit.
    went: BTreeMap<Key, (Quota, Vec<Duration>)>,
    closed: BTreeMap<Key, Duration>,
    /// All that went, in order.
    log: Vec<(Duration, Ticket)>,
}

impl Model {
    fn ask(&mut self, lcg: &mut Lcg, limits: &[Limit]) {
        let cell = usize::try_from(lcg.below(6)).unwrap();
        let priority = if lcg.once_in(2) { Visible } else { Routine };
        let mut of: Vec<_> = limits.iter().filter(|_| lcg.once_in(3)).cloned().collect();
        if lcg.once_in(2) {
            of.reverse();
        }
        let ticket = self.limiter.ask(&cell.to_string(), priority, &of);
        assert!(self.waiting.insert(ticket, (cell, priority, of)).is_none());
    }

    fn leave(&mut self, lcg: &mut Lcg) {
        let place = usize::try_from(lcg.below(20)).unwrap();
        if let Some(ticket) = self.waiting.keys().nth(place).copied() {
            assert!(self.limiter.leave(ticket));
            self.waiting.remove(&ticket);
            self.left.insert(ticket);
        }
    }

    fn go(&mut self, now: Duration) -> usize {
        let gone = self.limiter.go(now);
        for ticket in &gone {
            let (cell, priority, limits) = self.waiting.remove(ticket).expect("it waited");
            assert!(self.gone.insert(*ticket));
            self.log.push((now, *ticket));
            for limit in &limits {
                assert!(self.closed.get(&limit.key).is_none_or(|until| *until <= now), "{limit} is closed");
                self.went.entry(limit.key.clone()).or_insert((limit.quota, Vec::new())).1.push(now);
            }
            let passed = self.waiting.iter().find(|(earlier, call)| {
                *earlier < ticket && (call.0, call.1, &call.2) == (cell, priority, &limits)
            });
            assert!(passed.is_none(), "first come, first served");
        }
        assert!(self.limiter.go(now).is_empty(), "all that may go went");
        gone.len()
    }

    /// No limit was exceeded at any time.
    fn check(&self) {
        for (key, (quota, went)) in &self.went {
            for (n, from) in went.iter().enumerate() {
                for (m, to) in went.iter().enumerate().skip(n) {
                    let calls = u32::try_from(m - n + 1).unwrap();
                    let most = match quota {
                        Quota::Window { most, length } if to.saturating_sub(*from) < *length => *most,
                        Quota::Window { .. } => break,
                        Quota::Bucket { burst, refill } => {
                            let more = to.saturating_sub(*from).as_nanos() / refill.as_nanos();
                            burst + u32::try_from(more).unwrap()
                        }
                    };
                    assert!(calls <= most, "{key:?}: {calls} calls from {from:?} to {to:?}");
                }
            }
        }
    }
}

fn some_limits() -> Vec<Limit> {
    let bucket = |burst, millis| Quota::Bucket { burst, refill: ms(millis) };
    vec![
        limit(Kind::ArmReads, "s/weu", bucket(20, 200)),
        limit(Kind::ArmWrites, "s/weu", bucket(5, 700)),
        limit(Kind::ClusterPuts, "c", bucket(1, 3000)),
        limit(Kind::PoolPuts, "c", bucket(3, 1000)),
        limit(Kind::StorageBurst, "s/weu", Quota::Window { most: 2, length: s(1) }),
        limit(Kind::StorageWrites, "s/weu", Quota::Window { most: 12, length: s(30) }),
        limit(Kind::NetworkReads, "s/weu", Quota::Window { most: 40, length: s(20) }),
    ]
}

/// A few thousand random steps, and then time until all went.
fn random(seed: u64) -> Model {
    let (mut model, mut lcg, limits) = (Model::default(), Lcg::new(seed), some_limits());
    let mut now = s(0);
    for _ in 0..3000 {
        match lcg.below(20) {
            0..8 => model.ask(&mut lcg, &limits),
            8 | 9 => model.leave(&mut lcg),
            10 => {
                let limit = &limits[usize::try_from(lcg.below(7)).unwrap()];
                model.limiter.left(limit, u32::try_from(lcg.below(30)).unwrap(), now);
            }
            11 if lcg.once_in(4) => {
                let limit = &limits[usize::try_from(lcg.below(7)).unwrap()];
                let until = now + ms(lcg.below(9000));
                model.limiter.close(limit, until);
                let closed = model.closed.entry(limit.key.clone()).or_default();
                *closed = (*closed).max(until);
            }
            _ => {
                // Nothing goes before it is time.
                if let Some(next) = model.limiter.next(now).filter(|next| *next > now) {
                    let between = now + next.saturating_sub(now).mul_f64(0.99).min(ms(lcg.below(2000)));
                    assert!(
                        between >= next || model.limiter.clone().go(between).is_empty(),
                        "not before {next:?}"
                    );
                }
                now += ms(lcg.below(1000));
                model.go(now);
            }
        }
    }
    model.go(now);
    drain(&mut model, now);
    model
}

/// Nothing comes any more: all go, and soon.
fn drain(model: &mut Model, from: Duration) {
    let (mut now, mut idle) = (from, 0);
    while let Some(next) = model.limiter.next(now) {
        assert!(next > now, "it would spin");
        now = next;
        idle += usize::from(model.go(now) == 0);
    }
    assert!(model.waiting.is_empty());
    let went = model.log.iter().filter(|(at, _)| *at > from).count();
    assert!(now.saturating_sub(from) < s(3600), "{went} took {:?}", now.saturating_sub(from));
    assert!(idle <= went, "asked in vain {idle} times for {went} calls");
}

#[test]
fn whatever_happens_no_limit_is_exceeded_and_no_call_is_lost() {
    let mut all = 0;
    for seed in 0..10 {
        let model = random(seed);
        model.check();
        assert!(model.gone.is_disjoint(&model.left));
        all += model.gone.len();
        assert!(model.limiter.waits(*model.gone.first().unwrap(), s(0)).is_none());
    }
    assert!(all > 5000, "{all}");
}

#[test]
fn the_same_calls_go_in_the_same_order() {
    assert_eq!(random(42).log, random(42).log);
}

#[test]
fn what_is_told_comes_to_pass() {
    // One limit, all cells with equal rights: the estimate is exact.
    for limit in [cluster("c"), limit(Kind::PoolPuts, "c", Quota::Window { most: 7, length: s(20) })] {
        let mut lcg = Lcg::new(5);
        let mut limiter = Limiter::default();
        let asked: Vec<_> = (0..60)
            .map(|_| limiter.ask(&lcg.below(9).to_string(), Visible, std::slice::from_ref(&limit)))
            .collect();
        let first = limiter.go(s(0));
        let told: BTreeMap<_, _> = asked
            .into_iter()
            .filter(|ticket| !first.contains(ticket))
            .map(|ticket| (ticket, limiter.waits(ticket, s(0)).unwrap()))
            .collect();
        let mut now = s(0);
        let mut place = 0;
        while let Some(next) = limiter.next(now) {
            now = next;
            for ticket in limiter.go(now) {
                place += 1;
                assert_eq!((told[&ticket].position, told[&ticket].until), (place, Some(now)), "{ticket:?}");
            }
        }
        assert_eq!(place, told.len());
    }
}
