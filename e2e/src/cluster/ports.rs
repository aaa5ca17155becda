//! Ports for the programs of a cluster.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    process,
};

use crate::{Context, Error};

/// Below the ports that Linux gives to outgoing connections (from 32768 unless told otherwise): a port that was free
/// a moment ago, and of a program that is started again later, is never found taken by one of those.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// A port of 127.0.0.1 that no other sandbox of this user takes while this value lives.
pub struct Port {
    /// The port.
    pub number: u16,
    _lock: File,
}

impl Port {
    /// Takes a port that nobody listens on. Fails if the folder of locks cannot be written, or all are taken.
    pub fn take() -> Result<Self, Error> {
        let user = rustix::process::getuid().as_raw();
        let folder = std::env::temp_dir().join(format!("reef-sandbox-ports-{user}"));
        fs::create_dir_all(&folder).context("create the folder of taken ports")?;
        // Two sandboxes begin at different places, so that a client which outlived one does not meet the other.
        let offset = process::id() % u32::from(PORTS.end - PORTS.start);
        let offset = u16::try_from(offset).unwrap_or_default();
        for number in (PORTS.start + offset..PORTS.end).chain(PORTS.start..PORTS.start + offset) {
            let lock = File::options().create(true).append(true).open(folder.join(number.to_string()));
            let lock = lock.context("write the lock of a port")?;
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        Err(Error::Prerequisite(format!("no port of {PORTS:?} on 127.0.0.1 is free: end what listens there")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once() {
        let kept: Vec<_> = (0..20).map(|_| Port::take().unwrap()).collect();
        let mut numbers: Vec<_> = kept.iter().map(|port| port.number).collect();
        assert!(numbers.iter().all(|number| PORTS.contains(number)));
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 20);
        // Who listens without a lock keeps its port, too.
        let other = (PORTS.start..PORTS.end)
            .find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())
            .unwrap();
        let taken = other.local_addr().unwrap().port();
        assert!((0..20).all(|_| Port::take().unwrap().number != taken));
    }
}
