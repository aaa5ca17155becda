//! The turn of a call to Azure.

use std::{sync::Arc, time::Duration};

use tokio::sync::SemaphorePermit;

use super::{
    Gate,
    cell::{Call, Cell, Service},
    gate::Queued,
    limits::{self, Limit, Priority},
};

/// A call that would wait longer for its turn is not made: who asks has other things to do.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Why a call is not made now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoTurn {
    /// The provider does not answer.
    HeldBack,
    /// The limits leave no room for so long.
    Queued(Queued),
}

/// A call that may go now.
pub struct Turn<'a> {
    /// To be told how it went.
    pub call: Call,
    /// What it counts against.
    pub limits: Vec<Limit>,
    /// How long it has waited for the limits.
    pub waited: Duration,
    /// One of the calls of its cell that run at once.
    _permit: Option<SemaphorePermit<'a>>,
}

impl Cell {
    /// Waits for the turn of a call to a resource provider of Azure.
    pub async fn turn(
        self: &Arc<Self>,
        gate: &Arc<Gate>,
        provider: &str,
        priority: Priority,
        call: &limits::Call<'_>,
    ) -> Result<Turn<'_>, NoTurn> {
        let service = Service::Azure(provider.to_owned());
        self.may(&service).map_err(|_| NoTurn::HeldBack)?;
        let permit = self.call().await;
        let limits = gate.limits(self.name(), provider, call);
        let priority = call.verb.priority(priority);
        let waited = gate.pass(self.name(), priority, &limits, LONGEST_WAIT).await.map_err(NoTurn::Queued)?;
        // Asked last: a probe that waits for its turn is none.
        let call = self.ask(service).map_err(|_| NoTurn::HeldBack)?;
        Ok(Turn { call, limits, waited, _permit: permit })
    }
}
