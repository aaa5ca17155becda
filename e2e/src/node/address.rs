//! The address of a pod.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};

use super::Shared;

/// An address under which a pod is reached until it is released.
pub(super) struct Address {
    shared: Arc<Shared>,
    /// The address.
    pub ip: Ipv4Addr,
    /// The socket on which the pod takes connections.
    pub ingress: PathBuf,
    is_released: bool,
}

impl Address {
    /// Makes the pod behind a socket reachable.
    pub fn attach(shared: &Arc<Shared>, ip: Ipv4Addr, ingress: PathBuf) -> Self {
        shared.network.attach(ip, ingress.clone());
        Self { shared: shared.clone(), ip, ingress, is_released: false }
    }

    /// Gives it back, once. A pod that has ended has no network any more; its object keeps the address that it had.
    pub fn release(&mut self) {
        if !std::mem::replace(&mut self.is_released, true) {
            self.shared.network.detach(self.ip, &self.ingress);
            self.shared.free(self.ip);
        }
    }
}
