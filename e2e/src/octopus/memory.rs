//! A database in memory, for tests of everything above it.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::store::{Answer, Change, Rows, Store, StoreError, Table};

/// The database; it outlives the servers that use it.
#[derive(Default)]
pub(super) struct Memory {
    tables: Mutex<BTreeMap<Table, Rows>>,
    away: AtomicBool,
}

impl Memory {
    /// Makes it unreachable, or reachable again.
    pub(super) fn away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.away.load(Ordering::Relaxed) {
            true => Err(StoreError::Away("a test cut it off".to_owned())),
            false => Ok(()),
        }
    }
}

fn apply(tables: &mut BTreeMap<Table, Rows>, change: Change) -> Result<(), StoreError> {
    let absent = |table: Table| StoreError::Refused(format!("no table {}", table.name()));
    let mut rows = |table: Table| tables.get_mut(&table).ok_or_else(|| absent(table));
    match change {
        Change::Create(table) if tables.contains_key(&table) => return Err(StoreError::Conflict),
        Change::Create(table) => drop(tables.insert(table, Rows::new())),
        Change::Insert(table, id, _) if rows(table)?.contains_key(&id) => return Err(StoreError::Conflict),
        Change::Insert(table, id, body) | Change::Put(table, id, body) => drop(rows(table)?.insert(id, body)),
        Change::Delete(table, id) => drop(rows(table)?.remove(&id)),
        Change::Wait(_) => {}
    }
    Ok(())
}

impl Store for Memory {
    fn has(&self, table: Table) -> Answer<'_, bool> {
        Box::pin(async move {
            self.check()?;
            Ok(self.tables.lock().unwrap().contains_key(&table))
        })
    }

    fn read(&self, table: Table) -> Answer<'_, Rows> {
        Box::pin(async move {
            self.check()?;
            let tables = self.tables.lock().unwrap();
            tables.get(&table).cloned().ok_or_else(|| StoreError::Refused(format!("no {}", table.name())))
        })
    }

    fn write(&self, changes: Vec<Change>) -> Answer<'_, ()> {
        Box::pin(async move {
            for change in &changes {
                if let Change::Wait(time) = change {
                    tokio::time::sleep(*time).await;
                }
            }
            self.check()?;
            let mut tables = self.tables.lock().unwrap();
            let mut copy = tables.clone();
            for change in changes {
                apply(&mut copy, change)?;
            }
            *tables = copy;
            Ok(())
        })
    }
}
