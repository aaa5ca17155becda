//! What an instance is made of in Azure, and what each part needs to be there before it (pure).

use reef_crds::condition::ConditionType;

/// A resource of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Managed identity of the server. It is made first: its tags say where the instance is.
    Identity,
    /// Lets the server's ServiceAccount act as the identity.
    Federation,
    /// Database.
    Database,
    /// File share.
    Share,
    /// The DNS record of the server's host name.
    Record,
}

impl Part {
    /// All parts, each after what it needs.
    pub const ALL: [Self; 5] = [Self::Identity, Self::Federation, Self::Database, Self::Share, Self::Record];

    /// The part that has to be good before this one is made or changed.
    pub fn needs(self) -> Option<Self> {
        match self {
            Self::Identity | Self::Record => None,
            Self::Federation | Self::Database | Self::Share => Some(Self::Identity),
        }
    }

    /// In words, for messages.
    pub const fn what(self) -> &'static str {
        match self {
            Self::Identity => "managed identity",
            Self::Federation => "federated credential",
            Self::Database => "database",
            Self::Share => "file share",
            Self::Record => "DNS record",
        }
    }

    /// The condition that speaks of it.
    pub const fn condition(self) -> ConditionType {
        match self {
            Self::Identity | Self::Federation => ConditionType::IdentityReady,
            Self::Database => ConditionType::DatabaseReady,
            Self::Share => ConditionType::FileShareReady,
            Self::Record => ConditionType::DnsReady,
        }
    }

    /// Numbers in its body that are never lowered, as JSON pointers: how much data it may hold.
    pub const fn grows(self) -> &'static [&'static str] {
        match self {
            Self::Database => &["/properties/maxSizeBytes"],
            Self::Share => &["/properties/shareQuota"],
            _ => &[],
        }
    }

    /// Whether it says itself whose it is. What does not lies inside something that does.
    pub const fn has_marks(self) -> bool {
        !matches!(self, Self::Federation)
    }
}
