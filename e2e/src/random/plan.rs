//! From a seed to a list of steps (pure): the same seed always gives the same plan.

use serde_json::{Value, json};

use super::Dice;

/// The reefs of a random world.
pub const REEFS: [&str; 2] = ["weu-1", "weu-2"];

/// Names of the instances, as many as there can be at once.
pub const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

/// Sizes of databases that are used, GiB.
const DATABASES: [u16; 3] = [1, 2, 5];

/// What a new instance is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct New {
    /// Tasks at once.
    pub task_cap: u8,
    /// Room of its share, GiB.
    pub share: u16,
    /// Room of its database, GiB.
    pub database: u16,
    /// Instances of one group are never on one reef.
    pub group: Option<&'static str>,
    /// Whether its data is kept when it is deleted.
    pub retain: bool,
    /// Whether deletion needs a confirmation.
    pub protected: bool,
}

/// A part of an instance in its reef's cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Its server's pod.
    Pod,
    /// The Service before it.
    Service,
    /// The policy that denies by default.
    NetworkPolicy,
    /// The copy of its keys.
    Secret,
    /// The route of its host.
    Route,
    /// All of it.
    Namespace,
}

/// A part of an instance in Azure that holds no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Its DNS record.
    Record,
    /// The federated credential of its identity.
    Credential,
}

/// An API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// That of the management cluster.
    Management,
    /// That of a reef.
    Reef(&'static str),
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// An instance is made, or made again.
    Create(&'static str, New),
    /// It gets other sizes: task cap, share and database in GiB.
    Edit(&'static str, u8, u16, u16),
    /// It is deleted, with a confirmation or without.
    Delete(&'static str, bool),
    /// The operator is asked to look at it.
    Ask(&'static str),
    /// It is paused, for so many seconds or until told otherwise.
    Pause(&'static str, Option<u16>),
    /// It is not paused any more.
    Unpause(&'static str),
    /// A reef takes no new instances.
    Cordon(&'static str),
    /// It does again.
    Uncordon(&'static str),
    /// Somebody deletes a part of an instance in its reef's cluster.
    Break(&'static str, Piece),
    /// Somebody deletes a part of an instance in Azure.
    Lose(&'static str, Lost),
    /// Calls to Azure fail; see [`crate::azure::faults::Rule`].
    Fault(Value),
    /// Azure is well again.
    Heal,
    /// What a Region is stopped from doing, for so many seconds.
    Stop(&'static str, u16),
    /// The stop is lifted.
    Lift,
    /// The leader is killed.
    Kill,
    /// The leader stands still for so many milliseconds, longer than its lease, and goes on.
    Freeze(u16),
    /// An API server stands still for so many milliseconds.
    Outage(Server, u16),
    /// The driver waits until an instance is Ready, or for some seconds.
    Settle(&'static str, u16),
    /// The driver waits for so many milliseconds.
    Wait(u16),
}

/// What the plan thinks there is.
#[derive(Default)]
struct Guess {
    alive: Vec<(&'static str, New)>,
    deleted: Vec<&'static str>,
    paused: Vec<&'static str>,
    cordoned: Vec<&'static str>,
    faults: bool,
    stopped: bool,
}

/// Instances that a plan begins with, where it may use all names.
const CROWD: usize = 10;

/// In such a plan, every so many steps are followed by a wait for an instance, so that what comes meets servers.
const BETWEEN: usize = 8;

/// The plan of a seed: this many steps, with at most this many instances at once.
pub fn plan(seed: u64, steps: usize, instances: usize) -> Vec<Step> {
    let mut dice = Dice::new(seed);
    let mut guess = Guess::default();
    let mut plan = Vec::new();
    let is_large = instances == NAMES.len();
    while plan.len() < steps {
        let len = plan.len();
        // A world without instances tells little.
        let step = if len < if is_large { CROWD } else { 3 } {
            create(&mut dice, &mut guess, instances)
        } else if is_large && (len - CROWD).is_multiple_of(BETWEEN) {
            alive(&mut dice, &guess).map_or(Some(Step::Wait(1000)), |name| Some(Step::Settle(name, 12)))
        } else {
            any(&mut dice, &mut guess, instances)
        };
        plan.extend(step);
    }
    plan
}

fn any(dice: &mut Dice, guess: &mut Guess, instances: usize) -> Option<Step> {
    match dice.below(100) {
        0..14 => create(dice, guess, instances),
        14..24 => edit(dice, guess),
        24..33 => delete(dice, guess),
        33..36 => Some(Step::Ask(alive(dice, guess)?)),
        36..40 => {
            let name = alive(dice, guess)?;
            let seconds = dice.chance(70).then(|| small(dice, 2, 8));
            guess.paused.push(name);
            Some(Step::Pause(name, seconds))
        }
        40..43 => taken(dice, &mut guess.paused).map(Step::Unpause),
        43..46 => {
            let reef = dice.one(&REEFS).filter(|reef| !guess.cordoned.contains(reef))?;
            guess.cordoned.push(reef);
            Some(Step::Cordon(reef))
        }
        46..49 => taken(dice, &mut guess.cordoned).map(Step::Uncordon),
        49..58 => {
            let pieces = [
                Piece::Pod,
                Piece::Service,
                Piece::NetworkPolicy,
                Piece::Secret,
                Piece::Route,
                Piece::Namespace,
            ];
            Some(Step::Break(alive(dice, guess)?, dice.one(&pieces)?))
        }
        58..62 => Some(Step::Lose(alive(dice, guess)?, dice.one(&[Lost::Record, Lost::Credential])?)),
        62..72 => {
            guess.faults = true;
            Some(Step::Fault(fault(dice)?))
        }
        72..77 => std::mem::take(&mut guess.faults).then_some(Step::Heal),
        77..80 => {
            guess.stopped = true;
            Some(Step::Stop(dice.one(&["Provision", "Delete", "All"])?, small(dice, 2, 8)))
        }
        80..82 => std::mem::take(&mut guess.stopped).then_some(Step::Lift),
        82..87 => Some(Step::Kill),
        87..89 => Some(Step::Freeze(small(dice, 6000, 9000))),
        89..92 => {
            let servers = [Server::Management, Server::Reef(REEFS[0]), Server::Reef(REEFS[1])];
            Some(Step::Outage(dice.one(&servers)?, small(dice, 500, 5000)))
        }
        92..94 => Some(Step::Settle(alive(dice, guess)?, 12)),
        _ => Some(Step::Wait(small(dice, 500, 4000))),
    }
}

/// One of these, which is taken out.
fn taken(dice: &mut Dice, of: &mut Vec<&'static str>) -> Option<&'static str> {
    let found = dice.one(of)?;
    of.retain(|other| *other != found);
    Some(found)
}

/// From `low` to `high`.
fn small(dice: &mut Dice, low: u16, high: u16) -> u16 {
    let more = dice.below(u64::from(high.saturating_sub(low)) + 1);
    low.saturating_add(u16::try_from(more).unwrap_or(0))
}

fn alive(dice: &mut Dice, guess: &Guess) -> Option<&'static str> {
    dice.one(&guess.alive).map(|(name, _)| name)
}

fn create(dice: &mut Dice, guess: &mut Guess, instances: usize) -> Option<Step> {
    let again = (!guess.deleted.is_empty() && dice.chance(50)).then(|| dice.one(&guess.deleted)).flatten();
    let free: Vec<_> = NAMES
        .into_iter()
        .take(instances)
        .filter(|name| guess.alive.iter().all(|(other, _)| other != name))
        .collect();
    let name = again.or_else(|| free.first().copied())?;
    let pairs = match name {
        "a" | "d" => Some("one"),
        "b" | "e" => Some("two"),
        _ => None,
    };
    let new = New {
        task_cap: dice.one(&[5, 5, 10])?,
        share: small(dice, 1, 20),
        database: dice.one(&DATABASES)?,
        group: pairs.filter(|_| dice.chance(60)),
        retain: dice.chance(35),
        protected: dice.chance(40),
    };
    guess.deleted.retain(|other| *other != name);
    guess.alive.retain(|(other, _)| *other != name);
    guess.alive.push((name, new.clone()));
    Some(Step::Create(name, new))
}

fn edit(dice: &mut Dice, guess: &mut Guess) -> Option<Step> {
    let name = alive(dice, guess)?;
    let (_, now) = guess.alive.iter_mut().find(|(other, _)| *other == name)?;
    now.task_cap = dice.one(&[5, 10, 20])?;
    now.share = now.share.saturating_add(small(dice, 0, 10));
    let larger: Vec<_> = DATABASES.into_iter().filter(|size| *size >= now.database).collect();
    now.database = dice.one(&larger)?;
    Some(Step::Edit(name, now.task_cap, now.share, now.database))
}

fn delete(dice: &mut Dice, guess: &mut Guess) -> Option<Step> {
    let name = alive(dice, guess)?;
    let confirmed = dice.chance(80);
    let (_, new) = guess.alive.iter().find(|(other, _)| *other == name)?;
    if confirmed || !new.protected {
        guess.alive.retain(|(other, _)| *other != name);
        guess.deleted.push(name);
    }
    Some(Step::Delete(name, confirmed))
}

/// A rule: what happens, to how many calls, and where.
fn fault(dice: &mut Dice) -> Option<Value> {
    let answer = |status: u16, code: &str| json!({ "answer": { "status": status, "code": code } });
    let mut rule = match dice.below(6) {
        0 => json!({ "rate": 0.4, "fault": answer(429, "TooManyRequests") }),
        1 => {
            let fault = json!({ "answer": { "status": 429, "code": "TooManyRequests", "retryAfter": small(dice, 1, 3) } });
            json!({ "rate": 0.3, "fault": fault })
        }
        2 => json!({ "rate": 0.3, "fault": answer(503, "ServiceUnavailable") }),
        3 => {
            json!({ "fault": "lostAnswer", "method": dice.one(&["PUT", "DELETE", "GET"])?, "count": small(dice, 1, 4) })
        }
        4 => {
            json!({ "fault": "hang", "method": dice.one(&["PUT", "DELETE", "GET"])?, "count": small(dice, 1, 3) })
        }
        _ => json!({
            "fault": { "failLate": { "code": "InternalServerError", "message": "a random world asked for it" } },
            "method": "PUT", "type": "Microsoft.Sql/servers/databases", "count": small(dice, 1, 2),
        }),
    };
    rule["label"] = "random".into();
    if dice.chance(50) {
        rule["path"] = format!("*/resourceGroups/reef-sandbox-{}/*", dice.one(&REEFS)?).into();
    }
    Some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::azure::faults::Rule;

    #[test]
    fn a_seed_gives_one_plan_and_another_seed_another() {
        assert_eq!(plan(7, 30, 6), plan(7, 30, 6));
        assert_ne!(plan(7, 30, 6), plan(8, 30, 6));
        assert_eq!(plan(7, 30, 6).len(), 30);
        assert_eq!(plan(7, 30, 6)[..20], plan(7, 20, 6)[..], "a longer one begins like a shorter one");
    }

    #[test]
    fn a_large_plan_begins_with_a_crowd_and_waits_for_servers() {
        for seed in 0..50 {
            let plan = plan(seed, 56, NAMES.len());
            let made: std::collections::BTreeSet<_> = plan[..CROWD]
                .iter()
                .map(|step| match step {
                    Step::Create(name, _) => *name,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(made.len(), CROWD);
            assert!(plan.iter().filter(|step| matches!(step, Step::Settle(..))).count() >= 5);
        }
    }

    #[test]
    fn many_plans_do_everything_and_ask_for_nothing_that_is_refused() {
        let mut kinds = std::collections::BTreeSet::new();
        for step in (0..300).flat_map(|seed| plan(seed, 30, 6)) {
            let text = format!("{step:?}");
            kinds.insert(text.split('(').next().unwrap().to_owned());
            if let Step::Fault(rule) = step {
                serde_json::from_value::<Rule>(rule).unwrap();
            }
        }
        assert_eq!(kinds.len(), 19, "{kinds:?}");
    }

    #[test]
    fn data_only_grows_and_groups_are_pairs() {
        for seed in 0..300 {
            let mut sizes = std::collections::BTreeMap::new();
            for step in plan(seed, 60, NAMES.len()) {
                match step {
                    Step::Create(name, new) => {
                        assert!(new.group.is_none() || ["a", "b", "d", "e"].contains(&name));
                        sizes.insert(name, (new.share, new.database));
                    }
                    Step::Edit(name, _, share, database) => {
                        let before = sizes.insert(name, (share, database)).unwrap();
                        assert!(share >= before.0 && database >= before.1);
                    }
                    _ => {}
                }
            }
        }
    }
}
