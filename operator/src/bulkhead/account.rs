//! How the cells share one limit (pure).
//!
//! Turns go round by cell, see [`super::limiter`]. Turns alone are not enough: who asks for much at once would leave
//! nothing to those who ask a moment later, and a window of an hour gives it back after an hour only. So the last part
//! of each limit is kept for those who have the better right to it:
//!
//! | who may go                                              | as long as there is left more than |
//! |---------------------------------------------------------|------------------------------------|
//! | visible work of a cell that had less than its share     | nothing                            |
//! | routine work of a cell that had a quarter of it or less | 20 %                               |
//! | visible work of any cell                                | 25 %                               |
//! | routine work of a cell that had less than its share     | 30 %                               |
//! | routine work of any cell                                | 40 %                               |
//!
//! A cell's share is an equal part for each cell that used the limit lately or waits for it, at most half. What a cell
//! does not use of it, others borrow. A bucket fills up to any of these marks at its full rate, so nothing of its rate
//! is lost. Of a window something is: what was borrowed cannot be given back to whoever comes next.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    limits::{Limit, Priority},
    meter::Meter,
};

/// What routine work always leaves for visible work, percent.
const RESERVE: u32 = 20;

/// What visible work leaves that is more than its cell's share: a part for routine work of the others, which would
/// else not be done at all for as long as one cell asks for all there is.
const VISIBLE_BORROWS: u32 = 25;

/// What routine work leaves that is more than a quarter of its cell's share.
const ROUTINE: u32 = 30;

/// What routine work leaves that is more than its cell's share.
const ROUTINE_BORROWS: u32 = 40;

/// What the cells have had of one limit.
#[derive(Clone, Debug)]
pub struct Account {
    /// The limit.
    pub limit: Limit,
    /// What Azure counts.
    pub meter: Meter,
    /// Who used it lately or waits for it.
    cells: BTreeMap<Arc<str>, Use>,
    /// When the oldest call went that is remembered of any of them.
    oldest: Option<Duration>,
}

/// What one cell has had.
#[derive(Clone, Debug, Default)]
struct Use {
    /// When its calls went, oldest first, as far as [`super::limits::Quota::memory`] reaches back.
    went: VecDeque<Duration>,
    /// The number of its last turn; 0 if that is long ago.
    turn: u64,
    /// How many of its calls wait.
    waiting: usize,
}

impl Account {
    /// Nothing used.
    pub fn new(limit: Limit) -> Self {
        let meter = Meter::new(limit.quota);
        Self { limit, meter, cells: BTreeMap::new(), oldest: None }
    }

    /// How many calls of a cell may go now.
    pub fn room(&self, cell: &str, priority: Priority, now: Duration) -> u32 {
        self.meter.room(now).saturating_sub(self.kept(cell, priority))
    }

    /// When so many calls of a cell will have had room, if the cell goes on to have what it has.
    pub fn when(&self, cell: &str, priority: Priority, calls: u32, now: Duration) -> Duration {
        self.meter.when(calls.saturating_add(self.kept(cell, priority)), now)
    }

    /// Before this, no call of a cell has room. Then it may have.
    pub fn earliest(&self, cell: &str, priority: Priority, now: Duration) -> Duration {
        let at = self.when(cell, priority, 1, now);
        // As calls are forgotten, shares change, and the cell may have a right to what is kept from it now.
        let least = self.part(if priority == Priority::Visible { 0 } else { RESERVE });
        let memory = self.limit.quota.memory();
        match self.oldest {
            Some(oldest) if self.kept(cell, priority) > least => {
                at.min(self.meter.when(least.saturating_add(1), now).max(oldest.saturating_add(memory)))
            }
            _ => at,
        }
    }

    /// How many calls must be left for others.
    fn kept(&self, cell: &str, priority: Priority) -> u32 {
        let cells = number(self.cells.len());
        // What belongs to one cell is kept for no other.
        let is_shared = self.limit.key.kind.is_shared();
        let had = self.cells.get(cell).filter(|_| is_shared).map_or(0, |of| number(of.went.len()));
        let share = self.limit.quota.most() / cells.max(2);
        let is_within = |share: u32| had < share.max(1);
        self.part(match priority {
            Priority::Visible if is_within(share) => 0,
            Priority::Visible => VISIBLE_BORROWS,
            Priority::Routine if is_within(share / 4) => RESERVE,
            Priority::Routine if is_within(share) => ROUTINE,
            Priority::Routine => ROUTINE_BORROWS,
        })
    }

    fn part(&self, percent: u32) -> u32 {
        let most = u64::from(self.limit.quota.most());
        u32::try_from(most * u64::from(percent) / 100).unwrap_or(u32::MAX)
    }

    /// The number of a cell's last turn. Whose is less goes first.
    pub fn turn(&self, cell: &str) -> u64 {
        self.cells.get(cell).map_or(0, |of| of.turn)
    }

    /// A call of a cell goes.
    pub fn take(&mut self, cell: &Arc<str>, turn: u64, now: Duration) {
        self.meter.take(now);
        self.oldest.get_or_insert(now);
        let of = self.cells.entry(cell.clone()).or_default();
        of.went.push_back(now);
        of.turn = turn;
    }

    /// A call of a cell begins to wait.
    pub fn wait(&mut self, cell: &Arc<str>) {
        self.cells.entry(cell.clone()).or_default().waiting += 1;
    }

    /// A call of a cell does not wait any more.
    pub fn stop_waiting(&mut self, cell: &str) {
        if let Some(of) = self.cells.get_mut(cell) {
            of.waiting = of.waiting.saturating_sub(1);
        }
    }

    /// Forgets what does not count any more. False if nothing is left: a new account would be the same.
    pub fn settle(&mut self, now: Duration) -> bool {
        self.meter.settle(now);
        let memory = self.limit.quota.memory();
        self.cells.retain(|_, of| {
            let gone = of.went.partition_point(|at| at.saturating_add(memory) <= now);
            of.went.drain(..gone);
            !of.went.is_empty() || of.waiting > 0
        });
        self.oldest = self.cells.values().filter_map(|of| of.went.front()).min().copied();
        !self.cells.is_empty() || !self.meter.is_full(now)
    }
}

fn number(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
