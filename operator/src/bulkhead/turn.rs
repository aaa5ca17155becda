//! The turn of a call to Azure.

use std::{sync::Arc, time::Duration};

use tokio::sync::SemaphorePermit;

use super::{
    Gate, Verb,
    cell::{Call, Cell, Service},
};

/// A call that would wait longer for its turn is not made: who asks has other things to do.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Why a call is not made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTurn {
    /// The provider does not answer.
    HeldBack,
    /// The rates leave no room for so long.
    Queued(Duration),
}

/// A call that may go now.
pub struct Turn<'a> {
    /// To be told how it went.
    pub call: Call,
    /// How long it has waited for the rates.
    pub waited: Duration,
    /// One of the calls of its cell that run at once.
    _permit: Option<SemaphorePermit<'a>>,
}

impl Cell {
    /// Waits for the turn of a call to a resource provider of Azure.
    pub async fn turn(
        self: &Arc<Self>,
        gate: &Gate,
        provider: &str,
        (subscription, verb): (&str, Verb),
    ) -> Result<Turn<'_>, NoTurn> {
        let service = Service::Azure(provider.to_owned());
        self.may(&service).map_err(|_| NoTurn::HeldBack)?;
        let permit = self.call().await;
        let waited =
            gate.pass(&self.share, subscription, verb, self.now(), LONGEST_WAIT).map_err(NoTurn::Queued)?;
        if !waited.is_zero() {
            tokio::time::sleep(waited).await;
        }
        // Asked last: a probe that waits for its turn is none.
        let call = self.ask(service).map_err(|_| NoTurn::HeldBack)?;
        Ok(Turn { call, waited, _permit: permit })
    }
}
