//! Databases: an embedded SQLite for what is in tables, and the users and roles of Azure SQL on top of it. What
//! is not understood is an error, never a silent success.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, config::DbConfig, types::ValueRef};

use super::wire::{Cell, Outcome, SqlError, Transaction};

/// Whoever is signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// The server's administrator, in every database.
    Administrator,
    /// An identity with this SID.
    Identity([u8; 16]),
}

/// Tells the moment, milliseconds of the cloud's time.
pub type Clock = Box<dyn Fn() -> u64>;

/// A session in a database.
pub struct Session {
    connection: Connection,
    database: String,
    who: Who,
    /// A replica takes no changes of its own.
    is_replica: bool,
    clock: Clock,
}

/// Each change with its moment, as Azure's log backups have it; what is not committed has none.
const LOG: &str = "CREATE TABLE IF NOT EXISTS dbo.\"sys.log\" (at INT, statement TEXT NOT NULL)";

const USERS: &str = "CREATE TABLE IF NOT EXISTS dbo.\"sys.users\" (name TEXT PRIMARY KEY COLLATE NOCASE, sid BLOB NOT NULL UNIQUE, owner INT NOT NULL)";

impl Session {
    /// Opens the database in `file`. An identity that is no user of it is refused.
    pub fn open(
        file: &Path,
        (database, is_replica): (&str, bool),
        who: Who,
        clock: Clock,
    ) -> Result<Self, SqlError> {
        let connection = Connection::open_in_memory().map_err(|e| error(&e))?;
        let path = file.to_string_lossy().into_owned();
        // A name that is not known is an error, not a text.
        for config in [DbConfig::SQLITE_DBCONFIG_DQS_DML, DbConfig::SQLITE_DBCONFIG_DQS_DDL] {
            connection.set_db_config(config, false).map_err(|e| error(&e))?;
        }
        connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(|e| error(&e))?;
        connection.execute("ATTACH DATABASE ?1 AS dbo", [path]).map_err(|e| error(&e))?;
        connection.execute(LOG, []).map_err(|e| error(&e))?;
        let session = Self { connection, database: database.to_owned(), who, is_replica, clock };
        if let Who::Identity(sid) = &session.who {
            session.connection.execute(USERS, []).map_err(|e| error(&e))?;
            let query = "SELECT count(*) FROM dbo.\"sys.users\" WHERE sid = ?1";
            let known: i64 = session
                .connection
                .query_row(query, [sid.as_slice()], |row| row.get(0))
                .map_err(|e| error(&e))?;
            if known == 0 {
                return Err(login_failed());
            }
        }
        Ok(session)
    }

    /// Runs the statements of a batch, one after the other; the first error ends it.
    pub fn run(&self, batch: &str) -> Vec<Result<Outcome, SqlError>> {
        let mut outcomes = Vec::new();
        for statement in statements(batch) {
            let outcome = self.statement(&statement);
            let failed = outcome.is_err();
            outcomes.push(outcome);
            if failed {
                break;
            }
        }
        outcomes
    }

    fn statement(&self, statement: &str) -> Result<Outcome, SqlError> {
        let words: Vec<String> = statement.split_whitespace().map(str::to_uppercase).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["BEGIN", "TRAN" | "TRANSACTION"] => self.transaction("BEGIN IMMEDIATE", Transaction::Begun),
            ["COMMIT"] | ["COMMIT", "TRAN" | "TRANSACTION"] => self.commit(),
            ["ROLLBACK"] | ["ROLLBACK", "TRAN" | "TRANSACTION"] => {
                self.transaction("ROLLBACK", Transaction::RolledBack)
            }
            ["CREATE", "USER", ..] => self.change(statement, Self::create_user),
            ["DROP", "USER", ..] => self.change(statement, Self::drop_user),
            ["ALTER", "ROLE", ..] => self.change(statement, Self::add_member),
            ["SELECT", "DB_NAME()"] => Ok(single(Cell::Text(self.database.clone()))),
            ["SELECT", "@@VERSION"] => Ok(single(Cell::Text("Microsoft SQL Azure (sandbox)".to_owned()))),
            _ if statement.contains("sys.database_principals") => self.principals(statement),
            ["SELECT", call, ..] if call.starts_with("OBJECT_ID(") => self.object_id(statement),
            ["SELECT", call, ..] if call.starts_with("IS_ROLEMEMBER(") => self.is_member(statement),
            ["SELECT", ..] => self.tables(statement),
            ["INSERT" | "UPDATE" | "DELETE" | "CREATE" | "DROP" | "ALTER", ..] => {
                self.change(statement, Self::tables)
            }
            _ => Err(syntax(statement)),
        }
    }

    fn transaction(&self, statement: &str, what: Transaction) -> Result<Outcome, SqlError> {
        self.connection.execute_batch(statement).map_err(|e| error(&e))?;
        Ok(Outcome::Transaction(what))
    }

    fn commit(&self) -> Result<Outcome, SqlError> {
        let stamp = "UPDATE dbo.\"sys.log\" SET at = ?1 WHERE at IS NULL";
        self.connection.execute(stamp, [self.moment()]).map_err(|e| error(&e))?;
        self.transaction("COMMIT", Transaction::Committed)
    }

    fn moment(&self) -> i64 {
        i64::try_from((self.clock)()).unwrap_or(i64::MAX)
    }

    /// Makes a change and notes it, or neither.
    fn change(
        &self,
        statement: &str,
        make: impl Fn(&Self, &str) -> Result<Outcome, SqlError>,
    ) -> Result<Outcome, SqlError> {
        if self.is_replica {
            let why =
                format!("Failed to update database \"{}\" because the database is read-only.", self.database);
            return Err(SqlError::new(3906, why));
        }
        // Whoever is to write asks for the lock first: one that reads already would not wait for it.
        let is_alone = self.connection.is_autocommit();
        let [begin, done, undone] = if is_alone {
            ["BEGIN IMMEDIATE", "COMMIT", "ROLLBACK"]
        } else {
            ["SAVEPOINT one", "RELEASE one", "ROLLBACK TO one; RELEASE one"]
        };
        let run = |text: &str| self.connection.execute_batch(text).map_err(|e| error(&e));
        run(begin)?;
        let at = is_alone.then(|| self.moment());
        let outcome = make(self, statement).and_then(|outcome| {
            let note = "INSERT INTO dbo.\"sys.log\" VALUES (?1, ?2)";
            self.connection.execute(note, (at, statement)).map_err(|e| error(&e))?;
            run(done)?;
            Ok(outcome)
        });
        if outcome.is_err() {
            // What the first error was is said, and not what came of cleaning up.
            drop(run(undone));
        }
        outcome
    }

    /// Makes the database in `file` as another was at a moment.
    pub fn restore(from: &Path, file: &Path, at: u64) -> Result<(), SqlError> {
        let source = Self::open(from, ("source", true), Who::Administrator, Box::new(|| 0))?;
        let query = "SELECT at, statement FROM dbo.\"sys.log\" WHERE at <= ?1 ORDER BY rowid";
        let mut log = source.connection.prepare(query).map_err(|e| error(&e))?;
        let rows =
            log.query_map([i64::try_from(at).unwrap_or(i64::MAX)], |row| Ok((row.get(0)?, row.get(1)?)));
        let rows: Result<Vec<(i64, String)>, _> = rows.map_err(|e| error(&e))?.collect();
        let moment = std::rc::Rc::new(std::cell::Cell::new(0));
        let clock = moment.clone();
        let unfinished = file.with_extension("unfinished");
        drop(std::fs::remove_file(&unfinished));
        let made =
            Self::open(&unfinished, ("made", false), Who::Administrator, Box::new(move || clock.get()))?;
        for (at, statement) in rows.map_err(|e| error(&e))? {
            moment.set(at.unsigned_abs());
            made.statement(&statement)?;
        }
        drop(made);
        std::fs::rename(&unfinished, file).map_err(|e| SqlError::new(927, e.to_string()))
    }

    fn owns(&self) -> bool {
        let Who::Identity(sid) = &self.who else { return true };
        let query = "SELECT owner FROM dbo.\"sys.users\" WHERE sid = ?1";
        let owner = self.connection.query_row(query, [sid.as_slice()], |row| row.get::<_, i64>(0));
        // Whose user was dropped meanwhile is nobody.
        owner.is_ok_and(|owner| owner == 1)
    }

    fn tables(&self, statement: &str) -> Result<Outcome, SqlError> {
        if !self.owns() {
            let message = format!(
                "The permission was denied on an object of database '{}', schema 'dbo'.",
                self.database
            );
            return Err(SqlError::new(229, message));
        }
        let lower = statement.to_lowercase();
        if lower.contains("sys.users") || lower.contains("sys.log") || statement.contains("sqlite_") {
            return Err(SqlError::new(208, "Invalid object name."));
        }
        let text = translated(statement);
        let mut prepared = self.connection.prepare(&text).map_err(|e| error(&e))?;
        if prepared.column_count() == 0 {
            let changed = prepared.execute([]).map_err(|e| error(&e))?;
            return Ok(Outcome::Changed(changed as u64));
        }
        let columns: Vec<String> = prepared.column_names().into_iter().map(str::to_owned).collect();
        let mut rows = prepared.query([]).map_err(|e| error(&e))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(|e| error(&e))? {
            let cell = |at: usize| match row.get_ref(at) {
                Ok(ValueRef::Integer(n)) => Cell::Int(n),
                Ok(ValueRef::Real(n)) => Cell::Text(n.to_string()),
                Ok(ValueRef::Text(text)) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
                Ok(ValueRef::Blob(bytes)) => Cell::Bytes(bytes.to_vec()),
                Ok(ValueRef::Null) | Err(_) => Cell::Null,
            };
            found.push((0..columns.len()).map(cell).collect());
        }
        Ok(Outcome::Rows { columns, rows: found })
    }

    fn object_id(&self, statement: &str) -> Result<Outcome, SqlError> {
        let name = literals(statement).into_iter().next().ok_or_else(|| syntax(statement))?;
        let name = name.rsplit('.').next().unwrap_or_default().to_owned();
        let query =
            "SELECT rootpage FROM dbo.sqlite_master WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
        let found = self.connection.query_row(query, [name], |row| row.get::<_, i64>(0));
        Ok(single(found.map_or(Cell::Null, Cell::Int)))
    }

    fn administer(&self) -> Result<(), SqlError> {
        if !self.owns() {
            return Err(SqlError::new(15247, "User does not have permission to perform this action."));
        }
        self.connection.execute(USERS, []).map(drop).map_err(|e| error(&e))
    }

    /// `CREATE USER [name] WITH SID = 0x..., TYPE = E`.
    fn create_user(&self, statement: &str) -> Result<Outcome, SqlError> {
        self.administer()?;
        let (name, rest) = bracketed(statement).ok_or_else(|| syntax(statement))?;
        let rest: String = rest.to_uppercase().split_whitespace().collect();
        let sid = rest.strip_prefix("WITHSID=0X").and_then(|rest| rest.strip_suffix(",TYPE=E"));
        let sid = sid.and_then(unhex).filter(|sid| sid.len() == 16).ok_or_else(|| syntax(statement))?;
        let made = self.connection.execute("INSERT INTO dbo.\"sys.users\" VALUES (?1, ?2, 0)", (&name, sid));
        match made {
            Ok(_) => Ok(Outcome::Changed(0)),
            Err(_) => Err(SqlError::new(
                15023,
                format!("User, group, or role '{name}' already exists in the current database."),
            )),
        }
    }

    fn drop_user(&self, statement: &str) -> Result<Outcome, SqlError> {
        self.administer()?;
        let (name, _) = bracketed(statement).ok_or_else(|| syntax(statement))?;
        let dropped = self.connection.execute("DELETE FROM dbo.\"sys.users\" WHERE name = ?1", [&name]);
        match dropped.map_err(|e| error(&e))? {
            0 => Err(unknown_user(&name)),
            _ => Ok(Outcome::Changed(0)),
        }
    }

    /// `ALTER ROLE db_owner ADD MEMBER [name]`.
    fn add_member(&self, statement: &str) -> Result<Outcome, SqlError> {
        self.administer()?;
        let (name, rest) = bracketed(statement).ok_or_else(|| syntax(statement))?;
        let head = statement.split('[').next().unwrap_or_default().to_lowercase();
        let head: Vec<_> = head.split_whitespace().collect();
        if head != ["alter", "role", "db_owner", "add", "member"] || !rest.trim().is_empty() {
            return Err(syntax(statement));
        }
        let changed =
            self.connection.execute("UPDATE dbo.\"sys.users\" SET owner = 1 WHERE name = ?1", [&name]);
        match changed.map_err(|e| error(&e))? {
            0 => Err(SqlError::new(
                15151,
                format!(
                    "Cannot add the principal '{name}', because it does not exist or you do not have permission."
                ),
            )),
            _ => Ok(Outcome::Changed(0)),
        }
    }

    fn is_member(&self, statement: &str) -> Result<Outcome, SqlError> {
        self.administer()?;
        match &literals(statement)[..] {
            [role, name] if role == "db_owner" => {
                let query = "SELECT owner FROM dbo.\"sys.users\" WHERE name = ?1";
                let owner = self.connection.query_row(query, [name], |row| row.get::<_, i64>(0));
                Ok(single(owner.map_or(Cell::Null, Cell::Int)))
            }
            _ => Err(syntax(statement)),
        }
    }

    /// `SELECT name, sid, type FROM sys.database_principals WHERE type = 'E'`, or another list of these columns, with
    /// the condition or with none.
    fn principals(&self, statement: &str) -> Result<Outcome, SqlError> {
        self.administer()?;
        let lower = statement.to_lowercase();
        let (columns, condition) = lower
            .strip_prefix("select ")
            .and_then(|rest| rest.split_once(" from sys.database_principals"))
            .ok_or_else(|| syntax(statement))?;
        let columns: Vec<String> = columns.split(',').map(|c| c.trim().to_owned()).collect();
        let condition: String = condition.split_whitespace().collect();
        if !["", "wheretype='e'"].contains(&condition.as_str())
            || !columns.iter().all(|c| ["name", "sid", "type"].contains(&c.as_str()))
        {
            return Err(syntax(statement));
        }
        let query = format!(
            "SELECT {} FROM (SELECT name, sid, 'E' AS type FROM dbo.\"sys.users\") ORDER BY name",
            columns.join(", ")
        );
        let mut prepared = self.connection.prepare(&query).map_err(|e| error(&e))?;
        let mut rows = prepared.query([]).map_err(|e| error(&e))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(|e| error(&e))? {
            let cell = |at: usize| match row.get_ref(at) {
                Ok(ValueRef::Blob(bytes)) => Cell::Bytes(bytes.to_vec()),
                Ok(ValueRef::Text(text)) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
                _ => Cell::Null,
            };
            found.push((0..columns.len()).map(cell).collect());
        }
        Ok(Outcome::Rows { columns, rows: found })
    }
}

/// The refusal of whoever has no access.
pub fn login_failed() -> SqlError {
    SqlError::new(18456, "Login failed for user '<token-identified principal>'.")
}

fn unknown_user(name: &str) -> SqlError {
    SqlError::new(
        15151,
        format!("Cannot drop the user '{name}', because it does not exist or you do not have permission."),
    )
}

fn syntax(statement: &str) -> SqlError {
    let near: String = statement.chars().take(60).collect();
    SqlError::new(102, format!("Incorrect syntax near '{near}'."))
}

fn single(cell: Cell) -> Outcome {
    Outcome::Rows { columns: vec![String::new()], rows: vec![vec![cell]] }
}

fn error(error: &rusqlite::Error) -> SqlError {
    let text = error.to_string();
    let number = match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => 2627,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => 1205,
        _ if text.contains("already exists") => 2714,
        _ if text.contains("no such table") => 208,
        _ if text.contains("no such column") => 207,
        _ => 102,
    };
    SqlError::new(number, text)
}

/// The statements of a batch: cut at semicolons outside of quotes and brackets.
fn statements(batch: &str) -> Vec<String> {
    let (mut all, mut current, mut inside) = (Vec::new(), String::new(), None);
    for c in batch.chars() {
        match (inside, c) {
            (None, '\'') => inside = Some('\''),
            (None, '[') => inside = Some(']'),
            (Some(end), c) if c == end => inside = None,
            (None, ';') => {
                all.push(std::mem::take(&mut current));
                continue;
            }
            _ => {}
        }
        current.push(c);
    }
    all.push(current);
    all.into_iter().map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
}

/// The values of the literals of a statement.
fn literals(statement: &str) -> Vec<String> {
    let (mut all, mut current, mut inside) = (Vec::new(), String::new(), false);
    let mut chars = statement.chars().peekable();
    while let Some(c) = chars.next() {
        match (inside, c) {
            (true, '\'') if chars.peek() == Some(&'\'') => {
                chars.next();
                current.push('\'');
            }
            (true, '\'') => {
                inside = false;
                all.push(std::mem::take(&mut current));
            }
            (true, c) => current.push(c),
            (false, '\'') => inside = true,
            (false, _) => {}
        }
    }
    all
}

/// The first name in brackets, and what comes after it.
fn bracketed(statement: &str) -> Option<(String, &str)> {
    let (_, rest) = statement.split_once('[')?;
    let (mut name, mut chars) = (String::new(), rest.char_indices().peekable());
    while let Some((at, c)) = chars.next() {
        if c != ']' {
            name.push(c);
        } else if chars.next_if(|(_, next)| *next == ']').is_some() {
            name.push(']');
        } else {
            return Some((name, rest.get(at + 1..)?));
        }
    }
    None
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (text.len().is_multiple_of(2)).then(|| (0..text.len()).step_by(2).map(pair).collect())?
}

/// T-SQL as SQLite takes it: literals without their N, names in quotes, no `MAX`.
fn translated(statement: &str) -> String {
    let (mut out, mut inside) = (String::new(), false);
    let mut chars = statement.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                inside = !inside;
                out.push(c);
            }
            'N' if !inside
                && chars.peek() == Some(&'\'')
                && !out.ends_with(|c: char| c.is_alphanumeric()) => {}
            '[' | ']' if !inside => out.push('"'),
            '(' if !inside => {
                let ahead: String = chars.clone().take(4).collect();
                if ahead.eq_ignore_ascii_case("max)") {
                    chars.by_ref().take(4).for_each(drop);
                } else {
                    out.push(c);
                }
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_cut_and_translated() {
        assert_eq!(
            statements("SELECT 1; INSERT INTO [a;b] VALUES (N'x;''y');\n;"),
            ["SELECT 1", "INSERT INTO [a;b] VALUES (N'x;''y')"]
        );
        assert_eq!(literals("VALUES (N'it''s', N'')"), ["it's", ""]);
        assert_eq!(
            translated("CREATE TABLE dbo.[T] (a NVARCHAR(MAX), b N'N[]')"),
            "CREATE TABLE dbo.\"T\" (a NVARCHAR, b 'N[]')"
        );
        assert_eq!(bracketed("DROP USER [a]]b] x"), Some(("a]b".to_owned(), " x")));
        assert_eq!(unhex("00FF"), Some(vec![0, 255]));
        assert_eq!((unhex("0"), unhex("zz")), (None, None));
    }
}
