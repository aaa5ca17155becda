//! What keeps one reef's trouble from the others: each reef has a [`Cell`] with a bound for the looks and the calls that
//! run at once, its own share of the calls to Azure, and a breaker for each service that it depends on.
//! All calls to Azure go through one [`Gate`], which keeps to Azure's limits and shares them fairly.
//! Breakers, buckets and the limiter are pure; time is a parameter of theirs.

mod account;
mod breaker;
mod bucket;
mod cell;
mod gate;
mod limiter;
mod limits;
mod meter;
#[cfg(test)]
mod tests_common;
#[cfg(test)]
mod tests_fairness;
#[cfg(test)]
mod tests_limiter;
#[cfg(test)]
mod tests_limits;
#[cfg(test)]
mod tests_simulation;
mod turn;

pub use breaker::{Breaker, Outcome, Refused};
pub use bucket::{Bucket, Rate};
pub use cell::{Call, Cell, Cells, Service};
pub use gate::{Gate, Queued};
pub use limits::{Call as AzureCall, Kind, Limit, Priority, Rates, Verb};
pub use turn::{NoTurn, Turn};
