//! Azure Files as seen from the nodes of an AKS cluster: who may mount which share.

use serde_json::Value;

use super::{
    Cloud,
    id::{Target, key},
};
use crate::cluster::kubeconfig::encode;

/// Type of a file share.
pub(super) const SHARE: &str = "Microsoft.Storage/storageAccounts/fileServices/shares";

/// Mounts as a node asks for them.
#[derive(Clone, Copy, Debug)]
pub struct MountRequest<'a> {
    /// Name of the storage account; unique in all of Azure.
    pub account: &'a str,
    /// Name of the share in it.
    pub share: &'a str,
    /// The account key that the node has.
    pub key: &'a str,
}

impl Cloud {
    /// Whether a node of the AKS cluster behind a slot gets a share. The error is what the node shows; the
    /// key is not in it.
    pub fn may_mount(&self, slot: &str, wanted: &MountRequest<'_>) -> Result<(), String> {
        let MountRequest { account: name, share, .. } = *wanted;
        let accounts = self.resources("Microsoft.Storage/storageAccounts");
        let account = accounts.iter().find(|account| account["name"] == name);
        let account = account.ok_or_else(|| format!("storage account {name} does not exist"))?;
        let at = key(account["id"].as_str().unwrap_or_default());
        let properties = &account["properties"];
        if properties["publicNetworkAccess"] == "Disabled" {
            return Err(format!("storage account {name} has publicNetworkAccess Disabled"));
        }
        self.network_lets_in(slot, name, &properties["networkAcls"])?;
        if properties["allowSharedKeyAccess"] == false {
            return Err(format!("storage account {name} has allowSharedKeyAccess false"));
        }
        if !self.account_keys(&at).contains(&wanted.key.trim().to_owned()) {
            return Err(format!("permission denied: the key is not one of storage account {name}"));
        }
        if !self.resources.contains_key(&key(&format!("{at}/fileServices/default/shares/{share}"))) {
            return Err(format!("share {share} does not exist in storage account {name}"));
        }
        Ok(())
    }

    /// Every agent pool has to be in a subnet that the account names: pods may run in any of them.
    fn network_lets_in(&self, slot: &str, name: &str, acls: &Value) -> Result<(), String> {
        if acls["defaultAction"] != "Deny" {
            return Ok(());
        }
        let made = self.slots.made();
        let cluster = made.iter().find(|(_, used)| used.name == slot).map(|(key, _)| key.clone());
        let cluster = cluster.ok_or_else(|| "this cluster is not an AKS cluster".to_owned())?;
        let rules = acls["virtualNetworkRules"].as_array().into_iter().flatten();
        let allowed: Vec<String> = rules.filter_map(|rule| rule["id"].as_str().map(key)).collect();
        let below = format!("{cluster}/agentpools/");
        for (_, pool) in self.resources.iter().filter(|(at, _)| at.starts_with(&below)) {
            let subnet = pool["properties"]["vnetSubnetID"].as_str().unwrap_or_default();
            if !allowed.contains(&key(subnet)) {
                let pool = pool["name"].as_str().unwrap_or_default();
                return Err(format!(
                    "storage account {name} denies access: its networkAcls do not allow subnet '{subnet}' of \
                     agent pool {pool}"
                ));
            }
        }
        Ok(())
    }

    /// The keys of the storage account with this resource key.
    pub(super) fn account_keys(&self, at: &str) -> [String; 2] {
        [1, 2].map(|n| {
            let part = |part| super::kinds::uuid(self.seed, &format!("{at}#key{n}#{part}")).replace('-', "");
            let secret: String = (0..4).map(part).collect();
            encode(&secret[..64])
        })
    }

    /// Notes which shares go with the resource that has this key.
    pub(super) fn note_gone_shares(&mut self, gone: impl Fn(&str) -> bool, now: u64) {
        let shares = self.resources.iter().filter(|(at, r)| gone(at) && r["type"] == SHARE);
        let moved = shares.filter_map(|(_, share)| Moved::of(share, version(now), None));
        self.moved_shares.extend(moved.collect::<Vec<_>>());
    }

    /// What became of shares since the last call, in order.
    pub fn take_moved_shares(&mut self) -> Vec<Moved> {
        std::mem::take(&mut self.moved_shares)
    }
}

/// What Azure calls a share that was deleted at a moment, to tell it from others of its name.
pub(super) fn version(now: u64) -> String {
    format!("{:016X}", super::put::file_time(now))
}

/// A share was deleted, or came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Name of the storage account.
    pub account: String,
    /// Name of the share when it was deleted.
    pub share: String,
    /// Which of the deleted shares with that name.
    pub version: String,
    /// Under which name it came back; none if it went.
    pub back_as: Option<String>,
}

impl Moved {
    /// What became of a share.
    pub(super) fn of(share: &Value, version: String, back_as: Option<String>) -> Option<Self> {
        match Target::parse(share["id"].as_str()?)?.names.as_slice() {
            [account, _, share] => {
                Some(Self { account: account.clone(), share: share.clone(), version, back_as })
            }
            _ => None,
        }
    }
}
