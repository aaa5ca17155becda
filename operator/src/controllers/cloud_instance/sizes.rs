//! CPU and memory of a server by its task cap (pure). Source: the table in Octopus's page on high availability,
//! 2023-10.

use serde_json::{Value, json};

/// Task caps that the API takes, in order.
pub const CAPS: [u8; 6] = [5, 10, 20, 40, 80, 160];

/// How many times its CPU limit a server may use while it starts: start and schema upgrade are bound by CPU, and a limit
/// keeps nothing from others. Requests stay, so every node that holds the server can give it.
const STARTING: u32 = 2;

/// CPU and memory of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// CPU that is kept for it, millicores.
    pub cpu_request: u32,
    /// CPU that it gets at most, millicores.
    pub cpu_limit: u32,
    /// Memory that is kept for it, MiB.
    pub memory_request: u32,
    /// Memory that it gets at most, MiB.
    pub memory_limit: u32,
}

/// The size for a task cap. For one that the API does not take, the next larger.
pub fn of(task_cap: u8) -> Size {
    let (cpu_request, cpu_limit, memory_request, memory_limit) = match task_cap {
        0..=10 => (150, 1000, 1500, 3000),
        11..=20 => (1000, 2000, 3000, 6000),
        21..=40 => (1250, 2500, 4000, 8000),
        41..=80 => (2000, 4000, 5000, 10_000),
        81.. => (3500, 7000, 6000, 12_000),
    };
    Size { cpu_request, cpu_limit, memory_request, memory_limit }
}

/// The size while the server starts.
pub fn starting(steady: Size) -> Size {
    Size { cpu_limit: STARTING * steady.cpu_limit, ..steady }
}

impl Size {
    /// The larger of both in everything.
    pub fn max(self, other: Self) -> Self {
        Self {
            cpu_request: self.cpu_request.max(other.cpu_request),
            cpu_limit: self.cpu_limit.max(other.cpu_limit),
            memory_request: self.memory_request.max(other.memory_request),
            memory_limit: self.memory_limit.max(other.memory_limit),
        }
    }

    /// The `resources` of a container.
    pub fn resources(self) -> Value {
        json!({
            "requests": { "cpu": cpu(self.cpu_request), "memory": memory(self.memory_request) },
            "limits": { "cpu": cpu(self.cpu_limit), "memory": memory(self.memory_limit) },
        })
    }
}

/// Millicores as Kubernetes writes them back.
pub fn cpu(millicores: u32) -> String {
    if millicores.is_multiple_of(1000) { (millicores / 1000).to_string() } else { format!("{millicores}m") }
}

/// MiB as Kubernetes writes them back.
pub fn memory(mib: u32) -> String {
    match mib {
        mib if mib.is_multiple_of(1024 * 1024) => format!("{}Ti", mib / 1024 / 1024),
        mib if mib.is_multiple_of(1024) => format!("{}Gi", mib / 1024),
        mib => format!("{mib}Mi"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_as_they_come_back() {
        assert_eq!([cpu(150), cpu(1000), cpu(2500)], ["150m", "1", "2500m"]);
        assert_eq!([memory(1500), memory(2048), memory(1024 * 1024)], ["1500Mi", "2Gi", "1Ti"]);
    }

    #[test]
    fn a_larger_cap_never_gets_less() {
        for pair in CAPS.windows(2) {
            let (less, more) = (of(pair[0]), of(pair[1]));
            assert!(less.cpu_limit <= more.cpu_limit && less.memory_limit <= more.memory_limit, "{pair:?}");
            assert!(more.cpu_request < more.cpu_limit && more.memory_request < more.memory_limit);
        }
    }
}
