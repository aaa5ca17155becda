//! What a reef is made of in Azure, and what each part needs to be there before it (pure).

use reef_crds::condition::ConditionType;

/// A resource of a reef.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The resource group. Its tags hold the claim on everything in it.
    Group,
    /// Network security group of the subnets.
    SecurityGroup,
    /// The static address of outgoing connections.
    EgressAddress,
    /// NAT gateway.
    NatGateway,
    /// Virtual network with its subnet.
    Network,
    /// Identity of the reef's agent, which is the administrator of the SQL server.
    AgentIdentity,
    /// Identity of the AKS cluster.
    ClusterIdentity,
    /// Azure SQL server.
    SqlServer,
    /// Lets the reef's network, and nothing else, reach the SQL server.
    SqlNetworkRule,
    /// Elastic pool with this number, from 1.
    Pool(u8),
    /// Storage account with this number, from 1.
    StorageAccount(u8),
    /// Settings of the file shares of the storage account with this number.
    FileService(u8),
    /// Lets the cluster use the network.
    ClusterNetworkRole,
    /// AKS cluster with its system node pool.
    Cluster,
    /// Another node pool, by its place in the class.
    NodePool(u8),
    /// Lets the operator work in the cluster.
    ClusterAdmin,
    /// Lets the agent's ServiceAccount act as the agent's identity.
    AgentFederation,
    /// Guards the network against deletion.
    NetworkLock,
    /// Guards the elastic pool with this number against deletion.
    PoolLock(u8),
    /// Guards the cluster against deletion.
    ClusterLock,
    /// The DNS record of the reef's gateway.
    Record,
}

impl Part {
    /// The parts that have to be good before this one is made or changed.
    pub fn needs(self) -> Vec<Self> {
        match self {
            Self::Group => vec![],
            Self::SecurityGroup | Self::EgressAddress | Self::AgentIdentity | Self::ClusterIdentity => {
                vec![Self::Group]
            }
            Self::NatGateway => vec![Self::EgressAddress],
            Self::Network => vec![Self::SecurityGroup, Self::NatGateway],
            Self::SqlServer => vec![Self::AgentIdentity],
            Self::SqlNetworkRule => vec![Self::SqlServer, Self::Network],
            Self::Pool(_) => vec![Self::SqlServer],
            Self::StorageAccount(_) | Self::NetworkLock => vec![Self::Network],
            Self::FileService(n) => vec![Self::StorageAccount(n)],
            Self::ClusterNetworkRole => vec![Self::ClusterIdentity, Self::Network],
            Self::Cluster => vec![Self::ClusterIdentity, Self::Network, Self::ClusterNetworkRole],
            Self::NodePool(_) | Self::ClusterAdmin | Self::ClusterLock => vec![Self::Cluster],
            Self::AgentFederation => vec![Self::AgentIdentity, Self::Cluster],
            Self::PoolLock(n) => vec![Self::Pool(n)],
            Self::Record => vec![Self::Group],
        }
    }

    /// In words, for messages.
    pub fn what(self) -> String {
        match self {
            Self::Group => "resource group".to_owned(),
            Self::SecurityGroup => "network security group".to_owned(),
            Self::EgressAddress => "public address for outgoing connections".to_owned(),
            Self::NatGateway => "NAT gateway".to_owned(),
            Self::Network => "virtual network".to_owned(),
            Self::AgentIdentity => "identity of the agent".to_owned(),
            Self::ClusterIdentity => "identity of the cluster".to_owned(),
            Self::SqlServer => "SQL server".to_owned(),
            Self::SqlNetworkRule => "network rule of the SQL server".to_owned(),
            Self::Pool(n) => format!("elastic pool {n}"),
            Self::StorageAccount(n) => format!("storage account {n}"),
            Self::FileService(n) => format!("file service of storage account {n}"),
            Self::ClusterNetworkRole => "role of the cluster at the network".to_owned(),
            Self::Cluster => "AKS cluster".to_owned(),
            Self::NodePool(n) => format!("node pool {n}"),
            Self::ClusterAdmin => "role of the operator at the cluster".to_owned(),
            Self::AgentFederation => "federated credential of the agent".to_owned(),
            Self::NetworkLock => "lock of the virtual network".to_owned(),
            Self::PoolLock(n) => format!("lock of elastic pool {n}"),
            Self::ClusterLock => "lock of the cluster".to_owned(),
            Self::Record => "DNS record".to_owned(),
        }
    }

    /// The condition that speaks of it.
    pub fn condition(self) -> ConditionType {
        match self {
            Self::Group
            | Self::SecurityGroup
            | Self::EgressAddress
            | Self::NatGateway
            | Self::Network
            | Self::NetworkLock => ConditionType::NetworkReady,
            Self::AgentIdentity | Self::AgentFederation => ConditionType::IdentityReady,
            Self::SqlServer | Self::SqlNetworkRule | Self::Pool(_) | Self::PoolLock(_) => {
                ConditionType::SqlReady
            }
            Self::StorageAccount(_) | Self::FileService(_) => ConditionType::StorageReady,
            Self::ClusterIdentity
            | Self::ClusterNetworkRole
            | Self::Cluster
            | Self::NodePool(_)
            | Self::ClusterAdmin
            | Self::ClusterLock => ConditionType::ClusterReady,
            Self::Record => ConditionType::DnsReady,
        }
    }

    /// Whether customers' data lies in it, or customers' servers run on it. Such a part, once it was there, is
    /// not made again by itself.
    pub fn is_precious(self) -> bool {
        matches!(self, Self::SqlServer | Self::StorageAccount(_) | Self::Cluster)
    }

    /// Whether its name is one for all of Azure.
    pub fn has_global_name(self) -> bool {
        matches!(self, Self::SqlServer | Self::StorageAccount(_))
    }

    /// Whether it carries tags that say whose it is. What carries none lies inside something that does.
    pub fn has_tags(self) -> bool {
        matches!(
            self,
            Self::Group
                | Self::SecurityGroup
                | Self::EgressAddress
                | Self::NatGateway
                | Self::Network
                | Self::AgentIdentity
                | Self::ClusterIdentity
                | Self::SqlServer
                | Self::Pool(_)
                | Self::StorageAccount(_)
                | Self::Cluster
        )
    }

    /// Whether it guards another part against deletion.
    pub fn is_lock(self) -> bool {
        matches!(self, Self::NetworkLock | Self::PoolLock(_) | Self::ClusterLock)
    }
}

/// All parts of a reef with so many pools, storage accounts and node pools beside the system pool.
pub fn all(pools: u8, accounts: u8, node_pools: &[u8]) -> Vec<Part> {
    let mut parts = vec![
        Part::Group,
        Part::SecurityGroup,
        Part::EgressAddress,
        Part::NatGateway,
        Part::Network,
        Part::NetworkLock,
        Part::AgentIdentity,
        Part::ClusterIdentity,
        Part::SqlServer,
        Part::SqlNetworkRule,
    ];
    parts.extend((1..=pools).flat_map(|n| [Part::Pool(n), Part::PoolLock(n)]));
    parts.extend((1..=accounts).flat_map(|n| [Part::StorageAccount(n), Part::FileService(n)]));
    parts.extend([Part::ClusterNetworkRole, Part::Cluster]);
    parts.extend(node_pools.iter().map(|n| Part::NodePool(*n)));
    parts.extend([Part::ClusterAdmin, Part::ClusterLock, Part::AgentFederation, Part::Record]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_comes_after_what_it_needs_and_depends_on_the_group() {
        let parts = all(2, 2, &[1, 2]);
        for (at, part) in parts.iter().enumerate() {
            for need in part.needs() {
                let before = parts.iter().position(|p| *p == need);
                assert!(before.is_some_and(|before| before < at), "{part:?} needs {need:?}");
            }
            let mut roots = vec![*part];
            while roots.iter().any(|p| *p != Part::Group) {
                roots = roots
                    .into_iter()
                    .flat_map(|p| if p == Part::Group { vec![p] } else { p.needs() })
                    .collect();
            }
            assert!(!roots.is_empty(), "{part:?}");
        }
    }
}
