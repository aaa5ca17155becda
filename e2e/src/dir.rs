//! The folder of a sandbox: what lies where, who owns it, and what a crash left behind.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use crate::{Context, Error};

/// Longest path of a folder whose sockets still fit into `sockaddr_un` (108 bytes).
const LONGEST: usize = 80;

/// Content of the lock file, by which a sandbox knows its folder again.
const MARK: &str = "the folder of a reef-sandbox; what it made here is deleted by the next one\n";

/// The folder of a sandbox.
#[derive(Clone, Debug)]
pub struct Dir(PathBuf);

/// Holds the folder for one sandbox. The lock goes with the process, however it ends.
pub struct Lock(#[expect(dead_code, reason = "held for its lifetime")] File);

impl Dir {
    /// The folder for a new sandbox, made if need be. One that holds something and was not made by a
    /// sandbox is refused: what lies in a sandbox's folder is deleted without asking.
    pub fn create(path: &Path) -> Result<Self, Error> {
        fs::create_dir_all(path).context(format!("create {}", path.display()))?;
        let dir = Self::open(path)?;
        let mut entries = fs::read_dir(&dir.0).context(format!("read {}", path.display()))?;
        let ours = fs::read_to_string(dir.join("lock")).is_ok_and(|text| text == MARK);
        if !ours && entries.next().is_some() {
            return Err(Error::Prerequisite(format!(
                "--dir {} is not empty and was not made by reef-sandbox: choose another",
                path.display()
            )));
        }
        fs::write(dir.join("lock"), MARK).context("write the lock file")?;
        Ok(dir)
    }

    /// The folder of a sandbox that was created before.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let path = path.canonicalize().context(format!("resolve {}", path.display()))?;
        if path.as_os_str().len() > LONGEST {
            return Err(Error::Prerequisite(format!(
                "--dir {} is too long: sockets in it need a path of at most {LONGEST} bytes",
                path.display()
            )));
        }
        Ok(Self(path))
    }

    /// A path in the folder.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.join(path)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Kubeconfig of the management cluster's administrator.
    pub fn management_kubeconfig(&self) -> PathBuf {
        self.join("management.kubeconfig")
    }

    /// Log file of a program.
    pub fn log(&self, name: &str) -> PathBuf {
        self.join("logs").join(format!("{name}.log"))
    }

    /// A socket of this name.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.join("s").join(name)
    }

    /// Takes the folder. Refused while another sandbox has it.
    pub fn lock(&self) -> Result<Lock, Error> {
        let file = File::options().create(true).truncate(false).write(true).open(self.join("lock"));
        let file = file.context(format!("open {}", self.join("lock").display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(Error::InUse(self.0.display().to_string())),
            Err(TryLockError::Error(source)) => Err(source).context("lock the folder"),
        }
    }

    /// Removes what an earlier sandbox left, the logs included. Only with the lock held. Files of others
    /// are not touched.
    pub fn clean(&self, _held: &Lock) -> Result<(), Error> {
        for folder in ["run", "s", "logs", "slots", "azure-files"] {
            remove(&self.join(folder))?;
        }
        for file in ["management.kubeconfig", "azure.json", "pid"] {
            remove(&self.join(file))?;
        }
        for folder in ["run", "s", "logs", "slots"] {
            fs::create_dir_all(self.join(folder)).context("create folders")?;
        }
        Ok(())
    }

    /// Removes the state of an ended sandbox; logs stay for reading.
    pub fn clear(&self) -> Result<(), Error> {
        for name in ["run", "s", "slots", "azure-files", "management.kubeconfig", "azure.json", "pid"] {
            remove(&self.join(name))?;
        }
        Ok(())
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_sandbox_is_refused_and_foreign_files_survive_cleaning() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::create(temp.path()).unwrap();
        let lock = dir.lock().unwrap();
        let refused = dir.lock().err().unwrap().to_string();
        assert!(refused.contains("in use") && refused.contains("reef-sandbox down"), "{refused}");
        fs::write(dir.join("notes.txt"), "mine").unwrap();
        fs::create_dir_all(dir.join("run/etcd")).unwrap();
        dir.clean(&lock).unwrap();
        assert!(dir.join("notes.txt").exists() && !dir.join("run/etcd").exists());
        drop(lock);
        dir.lock().unwrap();
    }

    #[test]
    fn somebody_elses_folder_is_refused_and_ours_is_known_again() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("notes.txt"), "mine").unwrap();
        let refused = Dir::create(temp.path()).unwrap_err().to_string();
        assert!(refused.contains("is not empty"), "{refused}");
        let fresh = temp.path().join("fresh");
        Dir::create(&fresh).unwrap();
        fs::write(fresh.join("notes.txt"), "mine").unwrap();
        Dir::create(&fresh).unwrap();
    }

    #[test]
    fn a_path_too_long_for_sockets_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let refused = Dir::create(&temp.path().join("x".repeat(90))).unwrap_err().to_string();
        assert!(refused.contains("too long"), "{refused}");
    }
}
