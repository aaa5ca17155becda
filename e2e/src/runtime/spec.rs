//! What the node tells the pod process, and what it hears back: JSON lines over its standard streams.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// A pod's surroundings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodSpec {
    /// Host name inside the pod.
    pub hostname: String,
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// Socket of the sandbox that the pod's outgoing connections are handed to.
    pub egress: PathBuf,
    /// Socket on which the pod process takes connections for the pod.
    pub ingress: PathBuf,
}

/// A container, ready to be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Name in the pod.
    pub name: String,
    /// Program and arguments. The program is a path in the container.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Working directory in the container.
    pub cwd: PathBuf,
    /// User id in the container.
    pub uid: u32,
    /// Group id in the container.
    pub gid: u32,
    /// Whether the root file system is read-only.
    pub read_only_root: bool,
    /// The image's files and the pod's volumes.
    pub mounts: Vec<Mount>,
    /// An empty folder of the container's own, on which its root is mounted.
    pub root: PathBuf,
    /// File to which its output is appended, in the CRI's format.
    pub log: PathBuf,
}

/// A bind mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// File or folder on this machine.
    pub source: PathBuf,
    /// Path in the container.
    pub target: PathBuf,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// From the node to the pod process.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "do")]
pub enum Command {
    /// Start a container.
    Start {
        /// The container.
        container: Box<ContainerSpec>,
    },
    /// Send a container's first process a signal.
    Signal {
        /// Name of the container.
        name: String,
        /// Number of the signal.
        signal: i32,
    },
}

/// From the pod process to the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "event")]
pub enum Report {
    /// The pod's network is up and its sockets are listening.
    Ready,
    /// A container ended.
    Exited {
        /// Name of the container.
        name: String,
        /// Exit code; 128 + signal when a signal ended it.
        code: i32,
    },
    /// A container could not be started.
    Failed {
        /// Name of the container.
        name: String,
        /// Why.
        message: String,
    },
}
