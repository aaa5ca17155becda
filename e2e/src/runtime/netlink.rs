//! Brings up the loopback device of a new network namespace and gives it the pod's address: the two
//! rtnetlink requests behind `ip link set lo up` and `ip addr add`, without needing iproute2.

use std::{io, net::Ipv4Addr};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, socket};

// From linux/rtnetlink.h, linux/if.h and linux/netlink.h.
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const NLM_F_REQUEST_ACK: u16 = 0x1 | 0x4;
const IFF_UP: u32 = 1;
const LOOPBACK_INDEX: u32 = 1;
const AF_INET: u8 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const NLMSG_ERROR: u16 = 2;

/// Brings up loopback with `address` beside 127.0.0.1. Needs `CAP_NET_ADMIN` in the network namespace.
pub fn set_up_loopback(address: Ipv4Addr) -> io::Result<()> {
    // struct ifinfomsg: family, pad, type, index, flags, change
    let mut link = vec![0u8; 4];
    link.extend(LOOPBACK_INDEX.to_ne_bytes());
    link.extend(IFF_UP.to_ne_bytes());
    link.extend(IFF_UP.to_ne_bytes());
    request(RTM_NEWLINK, &link)?;

    // struct ifaddrmsg: family, prefix length, flags, scope, index; then two attributes
    let mut addr = vec![AF_INET, 32, 0, 0];
    addr.extend(LOOPBACK_INDEX.to_ne_bytes());
    for kind in [IFA_LOCAL, IFA_ADDRESS] {
        addr.extend(8u16.to_ne_bytes());
        addr.extend(kind.to_ne_bytes());
        addr.extend(address.octets());
    }
    request(RTM_NEWADDR, &addr)
}

fn request(kind: u16, body: &[u8]) -> io::Result<()> {
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    let length = u32::try_from(16 + body.len()).map_err(io::Error::other)?;
    // struct nlmsghdr: length, type, flags, sequence, port
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend(1u32.to_ne_bytes());
    message.extend(0u32.to_ne_bytes());
    message.extend(body);
    send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0u8; 512];
    let (got, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let field = |at: usize| answer.get(at..at + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    match (got >= 20 && kind == NLMSG_ERROR, field(16)) {
        (true, Some(0)) => Ok(()),
        (true, Some(errno)) => Err(io::Error::from_raw_os_error(-errno)),
        _ => Err(io::Error::other("rtnetlink gave no acknowledgement")),
    }
}
