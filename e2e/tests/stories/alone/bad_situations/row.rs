//! What a row is, and how it is run.

use std::{panic::AssertUnwindSafe, time::Instant};

use futures::{FutureExt, future::BoxFuture};

use super::world::{Object, World};

/// Something that is done or looked at.
pub type Step = for<'a> fn(&'a World) -> BoxFuture<'a, ()>;

/// A bad situation.
#[derive(Clone, Copy)]
pub struct Row {
    /// In words.
    pub name: &'static str,
    /// The object that shows it.
    pub object: Object,
    /// Brings it about.
    pub wrong: Step,
    /// What the object shows.
    pub sees: Sees,
    /// Asserts what must not have happened by then. Where it becomes good by itself, that is asserted afterwards.
    pub never: Step,
    /// What makes it good again.
    pub heal: Heal,
}

/// A condition, words of its message, and the reason of an Event.
#[derive(Clone, Copy)]
pub struct Sees {
    /// Type, status and reason of a condition.
    pub condition: (&'static str, &'static str, &'static str),
    /// Words that its message holds.
    pub says: &'static [&'static str],
    /// Reason of an Event about the object, and words of its note.
    pub event: (&'static str, &'static [&'static str]),
}

/// What makes it good again.
#[derive(Clone, Copy)]
pub enum Heal {
    /// This, and then the object becomes Ready.
    ThenReady(Step),
    /// Nothing is done; the object becomes Ready, and this is looked at then.
    ByItself(Step),
    /// This, which looks itself at what came of it.
    Then(Step),
    /// The object is deleted, and it goes.
    Deleted,
}

/// How a row ended.
pub struct Outcome {
    /// The row.
    pub name: &'static str,
    /// Whether all was as the row says.
    pub is_good: bool,
}

/// Runs a row, and says in a line how it went.
pub async fn run(world: &World, row: &Row) -> Outcome {
    let began = Instant::now();
    let done = AssertUnwindSafe(steps(world, row)).catch_unwind().await;
    let is_good = done.is_ok();
    let how = if is_good { "good again" } else { "FAILED" };
    println!("{:5.1} s  {}: {}, {how}", began.elapsed().as_secs_f32(), row.name, row.sees.condition.2);
    Outcome { name: row.name, is_good }
}

async fn steps(world: &World, row: &Row) {
    world.events_from_now(row.object);
    (row.wrong)(world).await;
    world.saw(row.object, row.sees.condition, row.sees.says).await;
    let (reason, words) = row.sees.event;
    world.event(row.object, reason, words).await;
    (row.never)(world).await;
    match row.heal {
        Heal::ThenReady(heal) => {
            heal(world).await;
            world.ready(row.object).await;
        }
        Heal::ByItself(then) => {
            world.ready(row.object).await;
            then(world).await;
        }
        Heal::Then(heal) => heal(world).await,
        Heal::Deleted => {}
    }
    if !row.object.is_shared() {
        world.delete(row.object).await;
        if matches!(row.heal, Heal::Deleted) {
            world.gone(row.object).await;
        }
    }
}

/// Nothing more has to be looked at.
pub fn nothing(_: &World) -> BoxFuture<'_, ()> {
    Box::pin(async {})
}
