//! A small container runtime: what containerd and runc are to a real node.
//!
//! A pod is a set of Linux namespaces (user, mount, network, PID) held by a process of ours, the *pod
//! process* ([`pod`]). Each container is a child of it with a user and mount namespace of its own, a root
//! file system made of bind mounts, the user id that the pod asks for, and no capabilities
//! ([`container`]). There are no image layers: an image is a program on this machine.
//!
//! The pod's network has nothing but a loopback device with the pod's address. The only way out is an
//! HTTP CONNECT proxy on 127.0.0.1, and the only way in is [`connect`]; both end in this sandbox, which
//! therefore knows who is calling.

pub mod container;
pub mod handle;
pub mod netlink;
pub mod pod;
pub mod spec;

pub use handle::{PodHandle, connect};
pub use spec::{ContainerSpec, Mount, PodSpec};

/// Where a pod finds the CONNECT proxy.
pub const PROXY_PORT: u16 = 3128;
