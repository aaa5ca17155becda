//! The files of Azure's shares: a folder of the sandbox for each share of a storage account.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    azure::{
        files::{MountRequest, Moved},
        server::Azure,
    },
    dir::Dir,
};

/// What a node needs to mount shares.
pub trait Shares: Send + Sync {
    /// The folder with a share's files, if this node may have it. The error is what the pod shows; the key
    /// is not in it.
    fn mount(&self, wanted: &MountRequest<'_>) -> Result<PathBuf, String>;
}

/// Says which shares there are and who may mount them. [`Azure`] is the one of the sandbox.
pub trait Source: Send + Sync {
    /// Whether a node of the AKS cluster behind a slot gets a share.
    fn may_mount(&self, slot: &str, wanted: &MountRequest<'_>) -> Result<(), String>;
    /// What became of shares since the last call.
    fn take_moved(&self) -> Vec<Moved>;
}

impl Source for Azure {
    fn may_mount(&self, slot: &str, wanted: &MountRequest<'_>) -> Result<(), String> {
        Self::may_mount(self, slot, wanted)
    }

    fn take_moved(&self) -> Vec<Moved> {
        self.take_moved_shares()
    }
}

/// All shares of the sandbox.
pub struct Store {
    folder: PathBuf,
    source: Box<dyn Source>,
    /// Held while folders are made or moved.
    moving: Mutex<()>,
}

impl Store {
    /// The shares of `source`, with their files in the sandbox's folder.
    pub fn new(dir: &Dir, source: impl Source + 'static) -> Arc<Self> {
        Self::at(dir.join("azure-files"), source)
    }

    fn at(folder: PathBuf, source: impl Source + 'static) -> Arc<Self> {
        Arc::new(Self { folder, source: Box::new(source), moving: Mutex::default() })
    }

    /// What the node of the cluster with this name gets.
    pub fn of_cluster(self: &Arc<Self>, slot: &str) -> Arc<dyn Shares> {
        Arc::new(OfCluster { store: self.clone(), slot: slot.to_owned() })
    }

    /// Moves the files of shares that went out of the way of new ones with their names, and those of shares that came
    /// back to where they are found. Called before each mount, and now and then so that people see it.
    pub fn sweep(&self) {
        let _held = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        self.follow();
    }

    /// How many went or came back.
    fn follow(&self) -> usize {
        let moved = self.source.take_moved();
        for Moved { account, share, version, back_as } in &moved {
            let there = self.folder.join(account);
            let aside =
                self.folder.join("deleted").join(account).join(format!("{}_{version}", share.to_lowercase()));
            let done = match back_as {
                None => rename(&there.join(share.to_lowercase()), &aside),
                Some(name) => rename(&aside, &there.join(name.to_lowercase())),
            };
            match done {
                Ok(()) => tracing::debug!(account, share, back_as, "the files of a share are moved"),
                Err(error) => tracing::error!(%error, account, share, back_as, "the files of a share"),
            }
        }
        moved.len()
    }
}

struct OfCluster {
    store: Arc<Store>,
    slot: String,
}

impl Shares for OfCluster {
    fn mount(&self, wanted: &MountRequest<'_>) -> Result<PathBuf, String> {
        let store = &self.store;
        let _held = store.moving.lock().unwrap_or_else(PoisonError::into_inner);
        // A share that went and came again begins without files, so what is gone is moved after the
        // question; and asked again if something was, because it may have been this one.
        loop {
            store.source.may_mount(&self.slot, wanted)?;
            if store.follow() == 0 {
                break;
            }
        }
        let folder = store.folder.join(wanted.account).join(wanted.share.to_lowercase());
        fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        Ok(folder)
    }
}

/// A share that was never mounted has no files to be moved.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    fs::rename(from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Fake(Arc<Mutex<Vec<Moved>>>);

    impl Source for Fake {
        fn may_mount(&self, slot: &str, wanted: &MountRequest<'_>) -> Result<(), String> {
            (slot == "slot-1" && wanted.key == "k").then_some(()).ok_or_else(|| "refused".to_owned())
        }

        fn take_moved(&self) -> Vec<Moved> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    fn moved(share: &str, version: u32, back_as: Option<&str>) -> Moved {
        let version = version.to_string();
        Moved {
            account: "a".to_owned(),
            share: share.to_owned(),
            version,
            back_as: back_as.map(str::to_owned),
        }
    }

    #[test]
    fn a_share_keeps_its_files_until_it_goes_begins_empty_when_it_comes_again_and_comes_back_with_them() {
        let temp = tempfile::tempdir().unwrap();
        let source = Fake::default();
        let store = Store::at(temp.path().to_owned(), source.clone());
        let wanted = MountRequest { account: "a", share: "s", key: "k" };
        assert_eq!(store.of_cluster("slot-2").mount(&wanted).unwrap_err(), "refused");
        assert!(!temp.path().join("a").exists(), "a refused mount makes nothing");
        let node = store.of_cluster("slot-1");
        let folder = node.mount(&wanted).unwrap();
        assert_eq!(folder, temp.path().join("a/s"));
        for (n, text) in [(1, "first"), (2, "second")] {
            fs::write(folder.join("file"), text).unwrap();
            assert_eq!(fs::read_to_string(node.mount(&wanted).unwrap().join("file")).unwrap(), text);
            source.0.lock().unwrap().push(moved("s", n, None));
            assert_eq!(fs::read_dir(node.mount(&wanted).unwrap()).unwrap().count(), 0);
            let aside = temp.path().join(format!("deleted/a/s_{n}/file"));
            assert_eq!(fs::read_to_string(aside).unwrap(), text);
        }
        source.0.lock().unwrap().extend([moved("never-mounted", 1, None), moved("s", 3, None)]);
        store.sweep();
        assert!(!folder.exists() && temp.path().join("deleted/a/s_3").is_dir());
        source.0.lock().unwrap().push(moved("s", 1, Some("back")));
        let back = node.mount(&MountRequest { share: "back", ..wanted }).unwrap();
        assert_eq!(fs::read_to_string(back.join("file")).unwrap(), "first");
    }
}
