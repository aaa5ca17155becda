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
        let permit = self.call(call.verb).await;
        let limits = gate.limits(self.name(), provider, call);
        let priority = call.verb.priority(priority);
        let waited = gate.pass(self.name(), priority, &limits, LONGEST_WAIT).await.map_err(NoTurn::Queued)?;
        // Asked last: a probe that waits for its turn is none.
        let call = self.ask(service).map_err(|_| NoTurn::HeldBack)?;
        Ok(Turn { call, limits, waited, _permit: permit })
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use tokio::time::Instant;

    use super::*;
    use crate::bulkhead::{Cells, Rates, Verb};

    #[tokio::test(start_paused = true)]
    async fn reads_go_on_while_writes_wait() {
        let reef = Cells::new(1, Arc::default()).reef("weu-1");
        let gate = Gate::new(Rates::default());
        let call = |verb| limits::Call {
            verb,
            path: "/subscriptions/s/resourceGroups/g/providers/Microsoft.Sql/servers/s",
            location: "westeurope",
        };
        // How long each takes, the wait for a place among its reef's calls included.
        let turn = async |verb| {
            let began = Instant::now();
            let turn = reef.turn(&gate, "Microsoft.Sql", Priority::Visible, &call(verb)).await;
            turn.map(|_| began.elapsed())
        };
        // For less than who writes would go away for.
        let writes = gate.limits("weu-1", "Microsoft.Sql", &call(Verb::Write));
        gate.close(writes.last().unwrap(), LONGEST_WAIT / 2);
        let waiting = join_all((0..100).map(|_| turn(Verb::Write)));
        let others = async {
            // The writes wait first.
            tokio::task::yield_now().await;
            (turn(Verb::Read).await, turn(Verb::Delete).await)
        };
        let (waiting, others) = tokio::join!(waiting, others);
        assert!(waiting.iter().all(|waited| waited != &Ok(Duration::ZERO)));
        assert_eq!(others, (Ok(Duration::ZERO), Ok(Duration::ZERO)));
    }
}
