//! How much the nodes of a cluster have for instances, from the names of their sizes (pure).
//!
//! The name of a size says its vCPUs and its family (`azure/virtual-machines/vm-naming-conventions`), and the family
//! how much memory goes with a vCPU. What kubelet keeps back is in `azure/aks/node-resource-reservations`.

use reef_crds::reef_class::{NodePool, NodePoolMode};

const GI: u64 = 1 << 30;

/// Pods of a node: AKS's own choice with Azure CNI overlay, which a reef's cluster has.
const PODS: u64 = 250;

/// Percent of what a node allocates that is left to AKS's own pods on every node, to the gateway and to the agent.
const OTHERS_PERCENT: u64 = 10;

/// Room for instances on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Pods.
    pub pods: u64,
    /// CPU, millicores; none if a size of the nodes is not known.
    pub cpu: Option<u64>,
    /// Memory, bytes; none if a size of the nodes is not known.
    pub memory: Option<u64>,
}

/// What the node pools for instances have when they are grown. Without one, instances run on the system pool.
pub fn room(pools: &[NodePool]) -> Room {
    let of = |mode| pools.iter().filter(move |pool| pool.mode == mode);
    let mode =
        if of(NodePoolMode::User).next().is_some() { NodePoolMode::User } else { NodePoolMode::System };
    let count = |pool: &NodePool| u64::from(pool.max_count);
    let sum = |what: fn(Size) -> u64| -> Option<u64> {
        of(mode).map(|pool| Some(count(pool) * usable(what(size(&pool.vm_size)?)))).sum()
    };
    Room {
        pods: of(mode).map(|pool| count(pool) * usable(PODS)).sum(),
        cpu: sum(Size::allocatable_cpu),
        memory: sum(Size::allocatable_memory),
    }
}

fn usable(amount: u64) -> u64 {
    amount * (100 - OTHERS_PERCENT) / 100
}

/// What a virtual machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    vcpus: u64,
    gib: u64,
}

impl Size {
    /// AKS keeps back 140m of 4 vCPUs, and 10m for each vCPU more; of fewer than that a little less.
    const fn allocatable_cpu(self) -> u64 {
        self.vcpus * 1000 - (100 + 10 * self.vcpus)
    }

    /// AKS (from 1.29) keeps back 20 MB for each pod that may run and 50 MB more, or a quarter if that is less; and
    /// 100 MiB below which pods are evicted.
    const fn allocatable_memory(self) -> u64 {
        let (all, for_pods) = (self.gib * GI, (20 * PODS + 50) * 1_000_000);
        all - if for_pods < all / 4 { for_pods } else { all / 4 } - (100 << 20)
    }
}

/// A size of the families D, E, F and B, by its name; none if the name does not say it for certain.
fn size(name: &str) -> Option<Size> {
    let name = name.strip_prefix("Standard_")?;
    let start = name.find(|c: char| c.is_ascii_digit())?;
    let (family, rest) = name.split_at(start);
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (vcpus, rest) = rest.split_at(end);
    // Constrained sizes (`-2`) and accelerators have a part more.
    let (features, version) = rest.split_once("_v").unwrap_or((rest, "1"));
    if !features.chars().all(|c| c.is_ascii_lowercase()) {
        return None;
    }
    let (vcpus, version) = (vcpus.parse().ok()?, version.parse().ok()?);
    let gib = gib(family, vcpus, features, version)?;
    (1..=1000).contains(&vcpus).then_some(Size { vcpus, gib })
}

/// Memory of a size, GiB; where sizes of a family differ, the least.
fn gib(family: &str, vcpus: u64, features: &str, version: u32) -> Option<u64> {
    let (has_little, has_much) = (features.contains('l'), features.contains('m'));
    let each = match family {
        // Before version 3 the number is none of vCPUs.
        "D" if version >= 3 => {
            if has_little {
                2
            } else {
                4
            }
        }
        // The largest ones have less than 8 for each.
        "E" if version >= 3 => {
            if vcpus <= 48 {
                8
            } else {
                6
            }
        }
        "F" => 2,
        // Version 1 has 4 for each in the sizes with `m` only, and not with one vCPU; `t` has half a GiB.
        "B" if features.contains('t') || (version == 1 && !(has_much && vcpus >= 2)) => return None,
        "B" if has_little => 2,
        "B" => 4,
        _ => return None,
    };
    Some(vcpus * each)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(mode: NodePoolMode, vm_size: &str, max_count: u16) -> NodePool {
        NodePool { name: "p".to_owned(), mode, vm_size: vm_size.to_owned(), min_count: 1, max_count }
    }

    #[test]
    fn sizes_are_read_from_their_names() {
        for (name, expect) in [
            ("Standard_D8s_v5", Some((8, 32))),
            ("Standard_D4ds_v5", Some((4, 16))),
            ("Standard_D16pls_v6", Some((16, 32))),
            ("Standard_D2_v2", None),
            ("Standard_DC4s_v3", None),
            ("Standard_E16s_v5", Some((16, 128))),
            ("Standard_E96s_v5", Some((96, 576))),
            ("Standard_E16-4s_v5", None),
            ("Standard_F8s_v2", Some((8, 16))),
            ("Standard_FX4mds", None),
            ("Standard_B4ms", Some((4, 16))),
            ("Standard_B4s_v2", Some((4, 16))),
            ("Standard_B2ls_v2", Some((2, 4))),
            ("Standard_B2ts_v2", None),
            ("Standard_B1ms", None),
            ("Standard_B2s", None),
            ("Standard_NC4as_T4_v3", None),
            ("Standard_D0s_v5", None),
            ("Standard_D99999999999999999999s_v5", None),
            ("Standard_D5000s_v5", None),
            ("Standard_", None),
            ("D8s_v5", None),
        ] {
            assert_eq!(size(name).map(|s| (s.vcpus, s.gib)), expect, "{name}");
        }
    }

    #[test]
    fn what_aks_keeps_back_is_at_least_what_it_documents() {
        for (vcpus, documented) in [(1, 60), (2, 100), (4, 140), (8, 180), (16, 260), (32, 420), (64, 740)] {
            let kept = vcpus * 1000 - Size { vcpus, gib: 4 * vcpus }.allocatable_cpu();
            assert!(kept >= documented && kept <= documented + 50, "{vcpus}: {kept}");
        }
        let memory = |gib| gib * GI - Size { vcpus: 1, gib }.allocatable_memory();
        assert_eq!(memory(4), GI + (100 << 20), "a quarter");
        assert_eq!(memory(32), 5_050_000_000 + (100 << 20), "for 250 pods");
    }

    #[test]
    fn the_nodes_for_instances_count_when_they_are_grown() {
        let system = pool(NodePoolMode::System, "Standard_D4s_v5", 5);
        let user = pool(NodePoolMode::User, "Standard_D8s_v5", 50);
        let node = Size { vcpus: 8, gib: 32 };
        let both = room(&[system.clone(), user.clone()]);
        assert_eq!(both.pods, 50 * 225);
        assert_eq!(both.cpu, Some(50 * (node.allocatable_cpu() * 9 / 10)));
        assert_eq!(both.memory, Some(50 * (node.allocatable_memory() * 9 / 10)));
        let alone = room(std::slice::from_ref(&system));
        assert_eq!(alone.cpu, Some(5 * 3474), "instances run there then");
        let unknown = room(&[user, pool(NodePoolMode::User, "Standard_M8ms", 1)]);
        assert_eq!((unknown.pods, unknown.cpu, unknown.memory), (51 * 225, None, None));
    }
}
