//! TDS 7.4 on the wire, as far as the sandbox's clients speak it. Source of the formats: Microsoft's protocol
//! description MS-TDS.

use std::io::{self, Read, Write};

/// Packets of a client: a batch of statements, a request to stop, a login, the talk before it.
pub const BATCH: u8 = 0x01;
/// A client asks to stop what runs.
pub const ATTENTION: u8 = 0x06;
/// A login.
pub const LOGIN: u8 = 0x10;
const PRELOGIN: u8 = 0x12;
const ANSWER: u8 = 0x04;

/// Longest message that is taken, bytes.
const LONGEST: usize = 64 << 20;

/// Payload of one packet of ours, bytes.
const PIECE: usize = 4088;

/// A value in a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// NULL.
    Null,
    /// A whole number.
    Int(i64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// What a statement gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Rows.
    Rows {
        /// Names of the columns.
        columns: Vec<String>,
        /// The rows.
        rows: Vec<Vec<Cell>>,
    },
    /// So many rows were changed.
    Changed(u64),
    /// A transaction began, ended well, or was undone.
    Transaction(Transaction),
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// It began.
    Begun,
    /// It is done.
    Committed,
    /// It is undone.
    RolledBack,
}

/// An error with its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError {
    /// SQL Server's number.
    pub number: i32,
    /// Its text.
    pub message: String,
}

impl SqlError {
    /// An error with its number.
    pub fn new(number: i32, message: impl Into<String>) -> Self {
        Self { number, message: message.into() }
    }
}

/// One message of any number of packets: its type and content.
pub fn message(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut whole = Vec::new();
    loop {
        let mut head = [0; 8];
        stream.read_exact(&mut head)?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let length = length.checked_sub(8).ok_or_else(|| io::Error::other("packet too short"))?;
        if whole.len() + length > LONGEST {
            return Err(io::Error::other("message too long"));
        }
        let start = whole.len();
        whole.resize(start + length, 0);
        stream.read_exact(whole.get_mut(start..).unwrap_or_default())?;
        if head[1] & 1 == 1 {
            return Ok((head[0], whole));
        }
    }
}

/// Sends an answer.
pub fn answer(stream: &mut impl Write, tokens: &[u8]) -> io::Result<()> {
    let pieces = tokens.chunks(PIECE);
    let count = pieces.len();
    for (at, piece) in pieces.enumerate() {
        stream.write_all(&packet(ANSWER, piece, at + 1 == count))?;
    }
    stream.flush()
}

fn packet(kind: u8, payload: &[u8], last: bool) -> Vec<u8> {
    // Payloads are cut before, so the length fits.
    let length = u16::try_from(payload.len() + 8).unwrap_or(u16::MAX).to_be_bytes();
    [&[kind, u8::from(last), length[0], length[1], 0, 0, 1, 0], payload].concat()
}

/// The answer to what comes before a login: encryption on, tokens are taken.
pub const PRELOGIN_ANSWER: [u8; 24] =
    [0, 0, 16, 0, 6, 1, 0, 22, 0, 1, 6, 0, 23, 0, 1, 0xff, 16, 0, 0, 0, 0, 0, 1, 1];

/// The answer to a good login.
pub fn login_ack() -> Vec<u8> {
    let name = utf16("Microsoft SQL Server");
    let mut body = vec![1, 0x74, 0, 0, 4, 20];
    body.extend(name);
    body.extend([12, 0, 0, 0]);
    let mut token = vec![0xad];
    token.extend(short(body.len()));
    token.extend(body);
    // FEATUREEXTACK for the token.
    token.extend([0xae, 2, 0, 0, 0, 0, 0xff]);
    token.extend(done(0, 0));
    token
}

/// An outcome as tokens; `more` come after it.
pub fn outcome(outcome: &Outcome, more: bool) -> Vec<u8> {
    let more = u16::from(more);
    match outcome {
        Outcome::Rows { columns, rows } => table(columns, rows, more),
        Outcome::Changed(count) => done(0x10 | more, *count),
        Outcome::Transaction(transaction) => {
            let (kind, new, old): (u8, &[u8], &[u8]) = match transaction {
                Transaction::Begun => (8, &[7; 8], &[]),
                Transaction::Committed => (9, &[], &[7; 8]),
                Transaction::RolledBack => (10, &[], &[7; 8]),
            };
            let mut token = vec![0xe3];
            token.extend(short(new.len() + old.len() + 3));
            token.push(kind);
            for value in [new, old] {
                token.push(byte(value.len()));
                token.extend(value);
            }
            [token, done(more, 0)].concat()
        }
    }
}

/// An error as tokens.
pub fn error(error: &SqlError) -> Vec<u8> {
    let text: Vec<u16> = error.message.encode_utf16().take(1000).collect();
    let mut body = error.number.to_le_bytes().to_vec();
    body.extend([1, 14]);
    body.extend(short(text.len()));
    body.extend(text.iter().flat_map(|unit| unit.to_le_bytes()));
    // No names of server and procedure; the line.
    body.extend([0, 0, 1, 0, 0, 0]);
    let mut token = vec![0xaa];
    token.extend(short(body.len()));
    token.extend(body);
    [token, done(2, 0)].concat()
}

/// Says that what ran was stopped.
pub fn stopped() -> Vec<u8> {
    done(0x20, 0)
}

fn done(status: u16, count: u64) -> Vec<u8> {
    let mut token = vec![0xfd];
    token.extend(status.to_le_bytes());
    token.extend([0, 0]);
    token.extend(count.to_le_bytes());
    token
}

/// How a column travels.
#[derive(Clone, Copy, PartialEq)]
enum Type {
    Int,
    BigInt,
    Text,
    Bytes,
}

fn type_of(cells: &mut dyn Iterator<Item = &Cell>) -> Type {
    let small = |n: &i64| i32::try_from(*n).is_ok();
    cells.fold(Type::Int, |so_far, cell| match (so_far, cell) {
        (so_far, Cell::Null) => so_far,
        (Type::Int, Cell::Int(n)) if small(n) => Type::Int,
        (Type::Int | Type::BigInt, Cell::Int(_)) => Type::BigInt,
        (Type::Int | Type::Bytes, Cell::Bytes(_)) => Type::Bytes,
        _ => Type::Text,
    })
}

fn table(columns: &[String], rows: &[Vec<Cell>], more: u16) -> Vec<u8> {
    let types: Vec<Type> = (0..columns.len())
        .map(|at| {
            let empty = rows.iter().all(|row| matches!(row.get(at), None | Some(Cell::Null)));
            // Without a value nobody knows; a number is what the clients ask for there.
            if empty && rows.is_empty() {
                Type::Text
            } else {
                type_of(&mut rows.iter().filter_map(|row| row.get(at)))
            }
        })
        .collect();
    let mut token = vec![0x81];
    token.extend(short(columns.len()));
    for (name, type_) in columns.iter().zip(&types) {
        token.extend([0, 0, 0, 0, 1, 0]);
        match type_ {
            Type::Int => token.extend([0x26, 4]),
            Type::BigInt => token.extend([0x26, 8]),
            Type::Text => token.extend([0xe7, 0xff, 0xff, 0x09, 0x04, 0xd0, 0x00, 0x34]),
            Type::Bytes => token.extend([0xa5, 0xff, 0xff]),
        }
        token.push(byte(name.encode_utf16().count()));
        token.extend(utf16(name));
    }
    for row in rows {
        token.push(0xd1);
        row.iter().zip(&types).for_each(|(cell, type_)| put(&mut token, cell, *type_));
    }
    token.extend(done(0x10 | more, rows.len() as u64));
    token
}

fn put(token: &mut Vec<u8>, cell: &Cell, type_: Type) {
    match (type_, cell) {
        (Type::Int | Type::BigInt, Cell::Int(n)) => {
            let bytes = n.to_le_bytes();
            let length = if type_ == Type::Int { 4 } else { 8 };
            token.push(length);
            token.extend(bytes.iter().take(usize::from(length)));
        }
        (Type::Int | Type::BigInt, _) => token.push(0),
        (_, Cell::Null) => token.extend([0xff; 8]),
        (_, Cell::Bytes(bytes)) => long(token, bytes),
        (_, Cell::Text(text)) => long(token, &utf16(text)),
        (_, Cell::Int(n)) => long(token, &utf16(&n.to_string())),
    }
}

/// A value of any length: its length, one chunk, and the end.
fn long(token: &mut Vec<u8>, bytes: &[u8]) {
    token.extend((bytes.len() as u64).to_le_bytes());
    if !bytes.is_empty() {
        token.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        token.extend(bytes);
    }
    token.extend([0; 4]);
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn short(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes()
}

fn byte(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

/// The text of a batch, which comes after its headers.
pub fn batch(message: &[u8]) -> Option<String> {
    let length = message.get(..4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes)?;
    text(message.get(usize::try_from(length).ok()?..)?)
}

fn text(bytes: &[u8]) -> Option<String> {
    let units: Vec<_> = bytes.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
    String::from_utf16(&units).ok()
}

/// What a login says.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Host name of the server.
    pub server: String,
    /// Name of the database.
    pub database: String,
    /// Entra token, if it is a login by token.
    pub token: Option<String>,
}

/// Reads a login.
pub fn login(message: &[u8]) -> Option<Login> {
    let number =
        |at: usize| message.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes).map(usize::from);
    let field = |at: usize| {
        let (offset, length) = (number(at)?, number(at + 2)?);
        text(message.get(offset..offset + 2 * length)?)
    };
    let database = field(68)?;
    let has_extensions = message.get(27)? & 0x10 != 0;
    let token = if has_extensions { token_in(message, number(56)?) } else { None };
    Some(Login { server: field(52)?, database, token })
}

fn token_in(message: &[u8], at: usize) -> Option<String> {
    let number = |at: usize| {
        let value = message.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)?;
        usize::try_from(value).ok()
    };
    let mut at = number(at)?;
    loop {
        match *message.get(at)? {
            0xff => return None,
            // FEDAUTH: options, the length of the token, the token.
            2 => {
                let length = number(at + 6)?;
                return text(message.get(at + 10..at + 10 + length)?);
            }
            _ => at = at.checked_add(5)?.checked_add(number(at + 1)?)?,
        }
    }
}

/// The wire; while `wrapping`, what passes is inside packets of the talk before a login.
pub struct Wrapped<S> {
    /// The connection.
    pub stream: S,
    /// Bytes of the packet that is being read.
    pub left: usize,
    /// Whether TLS is still being agreed on.
    pub wrapping: bool,
}

impl<S: Read> Read for Wrapped<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.wrapping {
            return self.stream.read(buffer);
        }
        if self.left == 0 {
            let mut head = [0; 8];
            self.stream.read_exact(&mut head)?;
            self.left = usize::from(u16::from_be_bytes([head[2], head[3]])).saturating_sub(8);
        }
        let most = buffer.len().min(self.left);
        let got = self.stream.read(buffer.get_mut(..most).unwrap_or_default())?;
        self.left -= got;
        Ok(got)
    }
}

impl<S: Write> Write for Wrapped<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.wrapping {
            return self.stream.write(bytes);
        }
        let piece = bytes.get(..bytes.len().min(PIECE)).unwrap_or_default();
        self.stream.write_all(&packet(PRELOGIN, piece, true))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
