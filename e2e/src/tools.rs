//! Where the programs are that the sandbox runs beside our own.

use std::{env, path::PathBuf};

use crate::Error;

/// Folders with programs, in the order in which they are searched.
#[derive(Clone, Debug)]
pub struct Tools(Vec<PathBuf>);

impl Tools {
    /// From `REEF_TOOLS` (set by the Makefile), `KUBEBUILDER_ASSETS`, the cache folder of `make tools`
    /// and `PATH`.
    pub fn from_env() -> Self {
        let cache = env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
            .map(|cache| cache.join("reef-operator/tools"));
        let named = ["REEF_TOOLS", "KUBEBUILDER_ASSETS"].map(|name| env::var_os(name).map(PathBuf::from));
        let mut folders: Vec<_> = named.into_iter().flatten().chain(cache).collect();
        folders.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
        Self(folders)
    }

    /// The path of a program.
    pub fn find(&self, program: &str) -> Result<PathBuf, Error> {
        self.0.iter().map(|folder| folder.join(program)).find(|path| path.is_file()).ok_or_else(|| {
            Error::Prerequisite(format!("{program} is missing: run `make tools`, or add its folder to PATH"))
        })
    }
}
