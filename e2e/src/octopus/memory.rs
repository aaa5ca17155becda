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
        if self.away.load(Ordering::Relaxed) {
            return Err(StoreError::Away("a test cut it off".to_owned()));
        }
        Ok(())
    }
}

fn apply(tables: &mut BTreeMap<Table, Rows>, change: Change) -> Result<(), StoreError> {
    if let Change::Create(table) = change {
        return match tables.insert(table, Rows::new()) {
            Some(_) => Err(StoreError::Conflict),
            None => Ok(()),
        };
    }
    let (Change::Create(table)
    | Change::Insert(table, ..)
    | Change::Put(table, ..)
    | Change::Delete(table, _)) = change
    else {
        return Ok(());
    };
    let absent = || StoreError::Refused(format!("no table {}", table.name()));
    let rows = tables.get_mut(&table).ok_or_else(absent)?;
    match change {
        Change::Insert(_, id, _) if rows.contains_key(&id) => return Err(StoreError::Conflict),
        Change::Insert(_, id, body) | Change::Put(_, id, body) => drop(rows.insert(id, body)),
        Change::Delete(_, id) => drop(rows.remove(&id)),
        Change::Create(_) | Change::Wait(_) => {}
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
