//! The folders of the instance's share.

use std::{fs, path::PathBuf};

use jiff::Timestamp;
use serde_json::json;

use super::{settings::Settings, start::StartError};

/// What a server keeps on its share.
const FOLDERS: [&str; 4] = ["repository", "artifacts", "taskLogs", "eventExports"];

/// Leaves in every folder a mark of this node and its release: a folder that is not there or cannot be
/// written must not be noticed only when a customer needs it.
pub(super) fn mark(settings: &Settings) -> Result<(), StartError> {
    let mark = json!({
        "Node": settings.node, "Version": settings.version.to_string(), "Started": Timestamp::now(),
    });
    for name in FOLDERS {
        let folder = settings.root.join(name);
        let broken = |why: &dyn std::fmt::Display| StartError::Folder(format!("{}: {why}", folder.display()));
        if !folder.is_dir() {
            return Err(broken(&"the folder is missing; a volume must be mounted there"));
        }
        let file = folder.join(format!(".octopus-{}.json", settings.node));
        fs::write(&file, format!("{mark}\n")).map_err(|e| broken(&e))?;
    }
    Ok(())
}

/// The folder of a space's packages.
pub(super) fn packages(settings: &Settings, space: &str) -> PathBuf {
    settings.root.join("repository").join(space)
}
