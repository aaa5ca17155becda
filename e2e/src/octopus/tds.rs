//! Just enough of a SQL server to see what the server's client puts on the wire: TLS inside TDS packets, a
//! login with a token, batches of the few forms that [`super::sql`] writes. No isolation, no rights.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::Value;

use crate::pki::Identity;

const PRELOGIN: u8 = 0x12;
const ANSWER: u8 = 0x04;

/// What tests look at and decide.
#[derive(Default)]
pub(super) struct Db {
    /// Bodies by id, by table.
    pub(super) tables: BTreeMap<String, BTreeMap<String, String>>,
    /// All batches, in order.
    pub(super) batches: Vec<String>,
    /// Claims of the tokens of those who signed in.
    pub(super) logins: Vec<Value>,
    /// Hang up instead of answering the next batch.
    pub(super) cut: bool,
    /// Refuse those who sign in.
    pub(super) refuse: bool,
}

/// Serves behind a CONNECT proxy; the proxy's address. Port 1433 is the database, others are passed on.
pub(super) fn serve(identity: &Identity, db: &Arc<Mutex<Db>>) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = vec![CertificateDer::from_pem_slice(identity.cert.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let db = db.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (config, db) = (config.clone(), db.clone());
            // A client that goes away ends its thread with an error.
            thread::spawn(move || connection(stream?, config, &db));
        }
    });
    address
}

fn connection(mut tcp: TcpStream, config: Arc<ServerConfig>, db: &Mutex<Db>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tcp.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).map_err(io::Error::other)?;
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    tcp.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    if !target.ends_with(":1433") {
        let mut on = TcpStream::connect(target)?;
        let (mut from, mut to) = (tcp.try_clone()?, on.try_clone()?);
        thread::spawn(move || io::copy(&mut from, &mut to));
        io::copy(&mut on, &mut tcp)?;
        return tcp.shutdown(std::net::Shutdown::Both);
    }
    message(&mut tcp)?;
    // VERSION, ENCRYPTION (on), FEDAUTHREQUIRED, end; then their data.
    let options = [0, 0, 16, 0, 6, 1, 0, 22, 0, 1, 6, 0, 23, 0, 1, 0xff, 16, 0, 0, 0, 0, 0, 1, 1];
    answer(&mut tcp, &options)?;
    let mut conn = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut wrapped = Wrapped { tcp, left: 0, wrapping: true };
    while conn.is_handshaking() {
        conn.complete_io(&mut wrapped)?;
    }
    wrapped.wrapping = false;
    talk(StreamOwned::new(conn, wrapped), db)
}

fn talk(mut stream: StreamOwned<ServerConnection, Wrapped>, db: &Mutex<Db>) -> io::Result<()> {
    let login = message(&mut stream)?;
    let text: String = login.chunks(2).map(|c| char::from(c[0])).collect();
    let odd: String = login.chunks(2).filter_map(|c| c.get(1)).map(|c| char::from(*c)).collect();
    let token = [text, odd].into_iter().find_map(|t| t.find("eyJ").map(|at| t[at..].to_owned()));
    let token = token.ok_or_else(|| io::Error::other("no token"))?;
    let end = token.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))).unwrap_or(token.len());
    let claims = jsonwebtoken::dangerous::insecure_decode_claims(&token[..end]).map_err(io::Error::other)?;
    let refuse = {
        let mut db = db.lock().unwrap();
        db.logins.push(claims);
        db.refuse
    };
    if refuse {
        return answer(&mut stream, &error(18456, "Login failed for user '<token-identified principal>'."));
    }
    let mut ack = vec![0xad, 12, 0, 1, 0x74, 0, 0, 4, 1, b'S', 0, 16, 0, 0, 0];
    ack.extend([0xae, 2, 0, 0, 0, 0, 0xff]);
    ack.extend(done(0));
    answer(&mut stream, &ack)?;
    let mut before = None;
    loop {
        let batch = message(&mut stream)?;
        let headers = usize::try_from(u32::from_le_bytes([batch[0], batch[1], batch[2], batch[3]])).unwrap();
        let units: Vec<_> = batch[headers..].chunks(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
        let statement = String::from_utf16(&units).map_err(io::Error::other)?;
        let tokens = {
            let mut db = db.lock().unwrap();
            if std::mem::take(&mut db.cut) {
                return Ok(());
            }
            db.batches.push(statement.clone());
            execute(&mut db, &mut before, &statement)
        };
        answer(&mut stream, &tokens)?;
    }
}

type Tables = BTreeMap<String, BTreeMap<String, String>>;

fn execute(db: &mut Db, before: &mut Option<Tables>, statement: &str) -> Vec<u8> {
    let change = |kind: u8, descriptor: &[u8]| {
        let mut token = vec![0xe3, u8::try_from(descriptor.len() + 3).unwrap(), 0, kind];
        token.push(u8::try_from(descriptor.len()).unwrap());
        token.extend(descriptor);
        token.push(0);
        [token, done(0)].concat()
    };
    let literals = literals(statement);
    let table = statement.split("dbo.").nth(1).unwrap_or_default();
    let table = table.split([' ', '\'']).next().unwrap_or_default().to_owned();
    let words: Vec<_> = statement.split(' ').take(2).collect();
    match words[..] {
        ["BEGIN", "TRANSACTION"] => {
            *before = Some(db.tables.clone());
            return change(8, &[7; 8]);
        }
        ["COMMIT"] if before.take().is_some() => return change(9, &[]),
        ["ROLLBACK"] => {
            if let Some(tables) = before.take() {
                db.tables = tables;
            }
            return change(10, &[]);
        }
        ["SELECT", _] if statement.contains("OBJECT_ID") => {
            let id = db.tables.contains_key(&table).then_some(1i32);
            let mut row = vec![0xd1, if id.is_some() { 4 } else { 0 }];
            row.extend(id.iter().flat_map(|id| id.to_le_bytes()));
            return [columns(&[("", None)]), row, done(0x10)].concat();
        }
        ["CREATE", "TABLE"] => {
            if db.tables.insert(table, BTreeMap::new()).is_some() {
                return error(2714, "There is already an object of that name.");
            }
            return done(0);
        }
        _ => {}
    }
    let Some(rows) = db.tables.get_mut(&table) else { return error(208, "Invalid object name.") };
    match (words[0], &literals[..]) {
        ("SELECT", []) => {
            let columns = columns(&[("Id", Some(400)), ("Body", Some(0xffff))]);
            let rows: Vec<u8> = rows.iter().flat_map(|(id, body)| row(id, body)).collect();
            [columns, rows, done(0x10)].concat()
        }
        ("INSERT", [id, _]) if rows.contains_key(id) => error(2627, "Violation of PRIMARY KEY constraint."),
        ("INSERT", [id, body]) => {
            rows.insert(id.clone(), body.clone());
            done(0x10)
        }
        ("DELETE", [id]) => {
            rows.remove(id);
            done(0x10)
        }
        _ => error(102, "Incorrect syntax."),
    }
}

/// The values of `N'...'` literals.
fn literals(statement: &str) -> Vec<String> {
    let (mut found, mut rest) = (Vec::new(), statement);
    while let Some(at) = rest.find("N'") {
        let (mut value, mut chars) = (String::new(), rest[at + 2..].char_indices().peekable());
        let mut end = rest.len();
        while let Some((offset, c)) = chars.next() {
            if c != '\'' {
                value.push(c);
            } else if chars.next_if(|(_, next)| *next == '\'').is_some() {
                value.push('\'');
            } else {
                end = at + 2 + offset + 1;
                break;
            }
        }
        found.push(value);
        rest = &rest[end..];
    }
    found
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// COLMETADATA: a width in bytes makes NVARCHAR, none INT.
fn columns(columns: &[(&str, Option<u16>)]) -> Vec<u8> {
    let mut token = vec![0x81, u8::try_from(columns.len()).unwrap(), 0];
    for (name, width) in columns {
        token.extend([0, 0, 0, 0, 1, 0]);
        match width {
            None => token.extend([0x26, 4]),
            Some(width) => {
                token.push(0xe7);
                token.extend(width.to_le_bytes());
                token.extend([0x09, 0x04, 0xd0, 0x00, 0x34]);
            }
        }
        token.push(u8::try_from(name.len()).unwrap());
        token.extend(utf16(name));
    }
    token
}

fn row(id: &str, body: &str) -> Vec<u8> {
    let (id, body) = (utf16(id), utf16(body));
    let mut token = vec![0xd1];
    token.extend(u16::try_from(id.len()).unwrap().to_le_bytes());
    token.extend(id);
    token.extend(u64::try_from(body.len()).unwrap().to_le_bytes());
    token.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    token.extend(body);
    token.extend([0; 4]);
    token
}

fn done(status: u16) -> Vec<u8> {
    let mut token = vec![0xfd];
    token.extend(status.to_le_bytes());
    token.extend([0; 10]);
    token
}

fn error(number: i32, message: &str) -> Vec<u8> {
    let mut body = number.to_le_bytes().to_vec();
    body.extend([1, 14]);
    body.extend(u16::try_from(message.len()).unwrap().to_le_bytes());
    body.extend(utf16(message));
    body.extend([0, 0, 1, 0, 0, 0]);
    let mut token = vec![0xaa];
    token.extend(u16::try_from(body.len()).unwrap().to_le_bytes());
    token.extend(body);
    [token, done(2)].concat()
}

/// One message of any number of packets.
fn message(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let mut head = [0; 8];
        stream.read_exact(&mut head)?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]])) - 8;
        let start = whole.len();
        whole.resize(start + length, 0);
        stream.read_exact(&mut whole[start..])?;
        if head[1] & 1 == 1 {
            return Ok(whole);
        }
    }
}

fn answer(stream: &mut impl Write, tokens: &[u8]) -> io::Result<()> {
    let pieces = tokens.chunks(4088);
    let count = pieces.len();
    for (at, piece) in pieces.enumerate() {
        stream.write_all(&packet(ANSWER, piece, at + 1 == count))?;
    }
    stream.flush()
}

fn packet(kind: u8, payload: &[u8], last: bool) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 8).unwrap().to_be_bytes();
    [&[kind, u8::from(last), length[0], length[1], 0, 0, 1, 0], payload].concat()
}

/// The wire; while `wrapping`, what passes is inside PRELOGIN packets.
struct Wrapped {
    tcp: TcpStream,
    left: usize,
    wrapping: bool,
}

impl Read for Wrapped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.wrapping {
            return self.tcp.read(buffer);
        }
        if self.left == 0 {
            let mut head = [0; 8];
            self.tcp.read_exact(&mut head)?;
            self.left = usize::from(u16::from_be_bytes([head[2], head[3]])) - 8;
        }
        let most = buffer.len().min(self.left);
        let got = self.tcp.read(&mut buffer[..most])?;
        self.left -= got;
        Ok(got)
    }
}

impl Write for Wrapped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.wrapping {
            let piece = &bytes[..bytes.len().min(4088)];
            self.tcp.write_all(&packet(PRELOGIN, piece, true))?;
            return Ok(piece.len());
        }
        self.tcp.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}
