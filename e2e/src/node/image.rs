//! What a node can run: programs of this machine under the names of images.

use std::path::PathBuf;

use crate::runtime::Mount;

/// A program that stands for a container image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Last part of the repository, for example `reef-operator`. Registry and tag do not matter.
    pub repository: String,
    /// Program and first arguments, paths in the container.
    pub entrypoint: Vec<String>,
    /// Files of this machine that the image brings, with their paths in the container.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// The user that the image runs as unless the pod says otherwise.
    pub uid: u32,
}

impl Image {
    /// Whether an image reference names this image.
    pub fn is(&self, reference: &str) -> bool {
        let without_digest = reference.split('@').next().unwrap_or(reference);
        let last = without_digest.rsplit('/').next().unwrap_or(without_digest);
        last.split(':').next() == Some(self.repository.as_str())
    }

    /// The image's files as mounts.
    pub fn mounts(&self) -> impl Iterator<Item = Mount> + '_ {
        self.files.iter().map(|(source, target)| Mount {
            source: source.clone(),
            target: target.clone(),
            read_only: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_matched_by_repository() {
        let image =
            Image { repository: "reef-operator".to_owned(), entrypoint: vec![], files: vec![], uid: 65532 };
        for reference in ["reef-operator", "reef-operator:1", "reg:5000/a/reef-operator:1@sha256:00"] {
            assert!(image.is(reference), "{reference}");
        }
        for reference in ["operator", "x-reef-operator:1", "reef-operator/other"] {
            assert!(!image.is(reference), "{reference}");
        }
    }
}
