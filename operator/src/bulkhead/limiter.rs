//! When calls may go (pure): which of those that wait go now, so that no limit of Azure is exceeded and no cell's calls
//! wait for those of another longer than for its turn.
//!
//! A call counts against several limits and goes when all of them have room. Each call waits for itself: one that is
//! held up by a limit holds up none that does not need this limit. Among those that could go, visible ones go before
//! routine ones, then the one whose cell has waited longest for a turn in the limit that has least room for it, then
//! the one that came first.
//!
//! There is no clock in here: whoever owns it asks [`Limiter::go`] after each change and at [`Limiter::next`].

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use super::{
    account::Account,
    limits::{Key, Limit, Priority},
};

/// A call that waits. Whoever asked first has the lesser one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What a call waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    /// Its place in the queue of the limit that holds it up, from 1.
    pub position: usize,
    /// How many wait for this limit, this one among them.
    pub waiting: usize,
    /// The limit that holds it up.
    pub limit: Limit,
    /// When it will go, if all that wait before it go and no others come; none if it may go now.
    pub until: Option<Duration>,
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "position {} of {} for {}", self.position, self.waiting, self.limit)
    }
}

/// Calls that differ in nothing but when they were asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    cell: Arc<str>,
    priority: Priority,
    limits: Arc<[Id]>,
}

/// Short for a [`Key`], because keys are long and compared often. Never used twice.
type Id = u64;

/// What waits, and what went lately. One for all of a process: providers count by subscription, whoever calls.
#[derive(Clone, Debug, Default)]
pub struct Limiter {
    ids: BTreeMap<Key, Id>,
    accounts: BTreeMap<Id, Account>,
    /// Who waits, by what they wait for. None is empty.
    lines: BTreeMap<Line, VecDeque<Ticket>>,
    /// Where each waits.
    waiting: BTreeMap<Ticket, Line>,
    last_id: Id,
    last_ticket: u64,
    last_turn: u64,
    /// The latest time it was told: callers that wait for each other may tell an earlier one afterwards.
    now: Duration,
}

impl Limiter {
    /// A call of a cell wants to go. Nothing counts yet.
    pub fn ask(&mut self, cell: &str, priority: Priority, limits: &[Limit]) -> Ticket {
        let cell: Arc<str> = cell.into();
        let mut ids = Vec::with_capacity(limits.len());
        for limit in limits {
            let id = self.id(limit);
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        for id in &ids {
            if let Some(account) = self.accounts.get_mut(id) {
                account.wait(&cell);
            }
        }
        let line = Line { cell, priority, limits: ids.into() };
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.lines.entry(line.clone()).or_default().push_back(ticket);
        self.waiting.insert(ticket, line);
        ticket
    }

    /// Lets go what may go now, in this order. It counts from now on.
    pub fn go(&mut self, now: Duration) -> Vec<Ticket> {
        let now = self.forward(now);
        self.settle(now);
        let mut open: Vec<Line> = self.lines.keys().cloned().collect();
        let mut gone = Vec::new();
        loop {
            let mut first: Option<(Rank, Line)> = None;
            // In here there is never more room than before: what is held up stays so.
            open.retain(|line| {
                let Some(rank) = self.rank(line, now) else { return false };
                if first.as_ref().is_none_or(|(least, _)| rank < *least) {
                    first = Some((rank, line.clone()));
                }
                true
            });
            let Some((rank, line)) = first else { break };
            self.take(&line, rank.ticket, now);
            gone.push(rank.ticket);
        }
        gone
    }

    /// When to ask [`Self::go`] again if nothing changes before; none if nothing waits. Nothing may go before, and
    /// something nearly always may then.
    pub fn next(&self, now: Duration) -> Option<Duration> {
        let now = now.max(self.now);
        let all = |line: &Line| {
            let earliest = |account: &Account| account.earliest(&line.cell, line.priority, now);
            self.accounts(line).map(earliest).max().unwrap_or(now)
        };
        self.lines.keys().map(all).min()
    }

    /// A caller gave up. False if its call does not wait any more; if it went, it counts.
    pub fn leave(&mut self, ticket: Ticket) -> bool {
        let Some(line) = self.waiting.get(&ticket).cloned() else { return false };
        self.stop_waiting(&line, ticket);
        true
    }

    /// Azure said that there were too many calls (429) and when to come again: nothing goes that counts against this
    /// limit until then. Never shortens an earlier pause.
    pub fn close(&mut self, limit: &Limit, until: Duration) {
        let id = self.id(limit);
        if let Some(account) = self.accounts.get_mut(&id) {
            account.meter.close(until);
        }
    }

    /// Azure said how many calls are left (`x-ms-ratelimit-remaining-*`). It is believed if they are fewer than we
    /// think, for somebody else uses the same limit; never if they are more.
    pub fn left(&mut self, limit: &Limit, remaining: u32, now: Duration) {
        if remaining >= limit.quota.most() {
            return;
        }
        let (id, now) = (self.id(limit), self.forward(now));
        if let Some(account) = self.accounts.get_mut(&id) {
            account.meter.left(remaining, now);
        }
    }

    /// How many limits it remembers: those that were used lately or are waited for.
    #[cfg(test)]
    pub fn kept(&self) -> usize {
        self.accounts.len()
    }

    /// What a call waits for; none if it does not wait, or counts against no limit.
    pub fn waits(&self, ticket: Ticket, now: Duration) -> Option<Waits> {
        let line = self.waiting.get(&ticket)?;
        let in_limit = |id: &Id| {
            let account = self.accounts.get(id)?;
            let (before, waiting) = self.place(ticket, line, *id);
            let calls = u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1);
            let at = account.when(&line.cell, line.priority, calls, now.max(self.now));
            let until = (at > now).then_some(at);
            Some(Waits { position: before + 1, waiting, limit: account.limit.clone(), until })
        };
        line.limits.iter().filter_map(in_limit).max_by_key(|waits| (waits.until, waits.position))
    }

    /// How many calls have their turn before one in a limit, and how many wait for it.
    fn place(&self, ticket: Ticket, line: &Line, id: Id) -> (usize, usize) {
        let turn = |cell: &str| self.accounts.get(&id).map_or(0, |account| account.turn(cell));
        let (mut waiting, mut before, mut own) = (0, 0, 0);
        let mut own_first = ticket;
        let mut others: BTreeMap<&str, (usize, Ticket)> = BTreeMap::new();
        for (other, tickets) in self.lines.iter().filter(|(other, _)| other.limits.contains(&id)) {
            let Some(first) = tickets.front() else { continue };
            waiting += tickets.len();
            if other.priority < line.priority {
                before += tickets.len();
            } else if other.priority == line.priority && other.cell == line.cell {
                own += tickets.partition_point(|earlier| *earlier < ticket);
                own_first = own_first.min(*first);
            } else if other.priority == line.priority {
                let of = others.entry(&other.cell).or_insert((0, *first));
                *of = (of.0 + tickets.len(), of.1.min(*first));
            }
        }
        // Each other cell has a turn for each of ours, and one more if its next comes before ours.
        let ours = (turn(&line.cell), own_first);
        let turns = |(cell, (count, first)): (&str, (usize, Ticket))| {
            usize::min(count, own + usize::from((turn(cell), first) < ours))
        };
        (before + own + others.into_iter().map(turns).sum::<usize>(), waiting)
    }

    /// Which of those that may go now goes first; none if this one may not.
    fn rank(&self, line: &Line, now: Duration) -> Option<Rank> {
        let ticket = *self.lines.get(line)?.front()?;
        let room = |account: &Account| {
            (account.room(&line.cell, line.priority, now), Reverse(account.turn(&line.cell)))
        };
        let turn = match self.accounts(line).map(room).min() {
            Some((0, _)) => return None,
            Some((_, Reverse(turn))) => turn,
            None => 0,
        };
        Some(Rank { priority: line.priority, turn, ticket })
    }

    fn take(&mut self, line: &Line, ticket: Ticket, now: Duration) {
        self.last_turn += 1;
        for id in line.limits.iter() {
            if let Some(account) = self.accounts.get_mut(id) {
                account.take(&line.cell, self.last_turn, now);
            }
        }
        self.stop_waiting(line, ticket);
    }

    fn stop_waiting(&mut self, line: &Line, ticket: Ticket) {
        self.waiting.remove(&ticket);
        if let Some(tickets) = self.lines.get_mut(line) {
            // In order, because tickets are.
            if let Ok(place) = tickets.binary_search(&ticket) {
                tickets.remove(place);
            }
            if tickets.is_empty() {
                self.lines.remove(line);
            }
        }
        for id in line.limits.iter() {
            if let Some(account) = self.accounts.get_mut(id) {
                account.stop_waiting(&line.cell);
            }
        }
    }

    fn forward(&mut self, now: Duration) -> Duration {
        self.now = self.now.max(now);
        self.now
    }

    /// Drops what is full again and waited for by nobody, so that it does not grow with clusters that are long gone.
    fn settle(&mut self, now: Duration) {
        self.accounts.retain(|_, account| account.settle(now));
        self.ids.retain(|_, id| self.accounts.contains_key(id));
    }

    fn id(&mut self, limit: &Limit) -> Id {
        if let Some(id) = self.ids.get(&limit.key) {
            return *id;
        }
        self.last_id += 1;
        self.ids.insert(limit.key.clone(), self.last_id);
        self.accounts.insert(self.last_id, Account::new(limit.clone()));
        self.last_id
    }

    fn accounts(&self, line: &Line) -> impl Iterator<Item = &Account> {
        line.limits.iter().filter_map(|id| self.accounts.get(id))
    }
}

/// What goes first is less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    priority: Priority,
    /// The cell's last turn in the limit that has least room for it.
    turn: u64,
    ticket: Ticket,
}
