//! What keeps one reef's trouble from the others: each reef has a [`Cell`] with a bound for the looks and the calls that
//! run at once, its own share of the calls to Azure, and a breaker for each service that it depends on.
//! Breakers and buckets are pure; time is a parameter of theirs.

mod breaker;
mod bucket;
mod cell;
mod gate;
#[cfg(test)]
mod tests_simulation;
mod turn;

pub use breaker::{Breaker, Outcome, Refused};
pub use bucket::{Bucket, Rate};
pub use cell::{Call, Cell, Cells, Service};
pub use gate::{Gate, Rates, Verb};
pub use turn::{NoTurn, Turn};
