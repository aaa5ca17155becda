//! From a pod's spec to what the runtime starts.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SecurityContext};
use kube::ResourceExt;

use super::{Image, Shared, env};
use crate::runtime::{ContainerSpec, Mount};

/// Why a container cannot be started now; the reason and message of its waiting state.
#[derive(Debug)]
pub(super) struct Cannot {
    pub reason: &'static str,
    pub message: String,
}

/// What the node refuses to pretend.
pub(super) fn unsupported(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let host = [spec.host_network, spec.host_pid, spec.host_ipc].contains(&Some(true));
    let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let contexts = || all().filter_map(|c| c.security_context.as_ref());
    if host {
        return Some("host namespaces are not supported by the sandbox's node".to_owned());
    }
    if contexts().any(|c| c.privileged == Some(true)) {
        return Some("privileged containers are not supported by the sandbox's node".to_owned());
    }
    if spec.init_containers.iter().flatten().any(|c| c.restart_policy.is_some()) {
        return Some("sidecar containers are not supported by the sandbox's node".to_owned());
    }
    if all().any(|c| c.lifecycle.is_some()) {
        return Some("lifecycle hooks are not supported by the sandbox's node".to_owned());
    }
    None
}

/// Everything about one run of a container.
pub(super) async fn container(
    shared: &Shared,
    pod: &Pod,
    ip: &str,
    container: &Container,
    attempt: i32,
) -> Result<ContainerSpec, Cannot> {
    let reference = container.image.as_deref().unwrap_or_default();
    let image = shared.images.iter().find(|i| i.is(reference)).ok_or_else(|| Cannot {
        reason: "ErrImagePull",
        message: format!("the sandbox has no image {reference}"),
    })?;
    let config = |message: String| Cannot { reason: "CreateContainerConfigError", message };
    let folder = shared.pod_folder(&pod.uid().unwrap_or_default());
    let env = env::resolve(&shared.client, pod, ip, container).await.map_err(config)?;
    let (uid, gid) = user(pod, container, image).map_err(config)?;
    let words = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|word| env::expand(word, &env)).collect()
    };
    // As in Kubernetes: a command replaces the image's entry point, arguments are added to either.
    let mut argv = words(&container.command);
    if argv.is_empty() {
        argv.clone_from(&image.entrypoint);
    }
    argv.extend(words(&container.args));
    let mounts = image.mounts().map(Ok).chain(volume_mounts(pod, container, &folder, &env));
    let mut mounts = mounts.collect::<Result<Vec<_>, String>>().map_err(config)?;
    mounts.push(termination_message(&folder, container, attempt).map_err(|e| config(e.to_string()))?);
    let name = format!("{}-{attempt}", container.name);
    Ok(ContainerSpec {
        name: container.name.clone(),
        argv,
        cwd: container.working_dir.clone().unwrap_or_else(|| "/".to_owned()).into(),
        uid,
        gid,
        read_only_root: security(container).and_then(|s| s.read_only_root_filesystem).unwrap_or(false),
        mounts,
        root: folder.join("containers").join(&name),
        log: log_file(&folder, &container.name, attempt),
        env,
    })
}

/// Where the output of one run of a container goes.
pub(super) fn log_file(pod_folder: &Path, container: &str, attempt: i32) -> PathBuf {
    pod_folder.join("logs").join(format!("{container}-{attempt}.log"))
}

/// The file of a run's termination message.
pub(super) fn message_file(pod_folder: &Path, container: &str, attempt: i32) -> PathBuf {
    pod_folder.join("logs").join(format!("{container}-{attempt}.message"))
}

/// What a run left as its termination message: its file, or, if that is asked for and it failed without
/// one, the end of its log.
pub(super) fn last_words(pod_folder: &Path, container: &Container, attempt: i32, code: i32) -> String {
    let file = message_file(pod_folder, &container.name, attempt);
    let written = std::fs::read_to_string(file).unwrap_or_default();
    let from_log = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if !written.is_empty() || !from_log || code == 0 {
        return written;
    }
    let log = std::fs::read_to_string(log_file(pod_folder, &container.name, attempt)).unwrap_or_default();
    // Each line begins with time, stream and tag.
    let lines: Vec<&str> = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let text = lines[lines.len().saturating_sub(80)..].join("\n");
    let from = text.len().saturating_sub(2048);
    let from = (from..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    text[from..].to_owned()
}

fn termination_message(folder: &Path, container: &Container, attempt: i32) -> std::io::Result<Mount> {
    let source = message_file(folder, &container.name, attempt);
    std::fs::write(&source, "")?;
    let target = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    Ok(Mount { source, target: target.into(), read_only: false })
}

fn security(container: &Container) -> Option<&SecurityContext> {
    container.security_context.as_ref()
}

fn user(pod: &Pod, container: &Container, image: &Image) -> Result<(u32, u32), String> {
    let none = PodSecurityContext::default();
    let of_pod = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).unwrap_or(&none);
    let own = security(container);
    let uid = own.and_then(|s| s.run_as_user).or(of_pod.run_as_user).unwrap_or(i64::from(image.uid));
    let gid = own.and_then(|s| s.run_as_group).or(of_pod.run_as_group).unwrap_or(uid);
    let non_root = own.and_then(|s| s.run_as_non_root).or(of_pod.run_as_non_root);
    if non_root == Some(true) && uid == 0 {
        return Err("container has runAsNonRoot and image will run as root".to_owned());
    }
    let narrow = |id: i64| u32::try_from(id).map_err(|_| format!("user id {id} is out of range"));
    Ok((narrow(uid)?, narrow(gid)?))
}

fn volume_mounts<'a>(
    pod: &'a Pod,
    container: &'a Container,
    folder: &'a Path,
    env: &'a std::collections::BTreeMap<String, String>,
) -> impl Iterator<Item = Result<Mount, String>> + 'a {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    container.volume_mounts.iter().flatten().map(move |mount| {
        let volume = volumes.into_iter().flatten().find(|v| v.name == mount.name);
        let volume = volume.ok_or_else(|| format!("no volume {}", mount.name))?;
        let expanded = mount.sub_path_expr.as_ref().map(|e| env::expand(e, env));
        let sub = expanded.or_else(|| mount.sub_path.clone()).unwrap_or_default();
        if sub.split('/').any(|part| part == "..") {
            return Err(format!("subPath {sub} must not contain .."));
        }
        let source = below(&folder.join("volumes").join(&mount.name), &sub)?;
        let read_only = match &volume.persistent_volume_claim {
            Some(claim) => claim.read_only == Some(true),
            // All other volumes are written by the node.
            None => volume.empty_dir.is_none(),
        };
        Ok(Mount {
            source,
            target: PathBuf::from(&mount.mount_path),
            read_only: mount.read_only.unwrap_or(false) || read_only,
        })
    })
}

/// A part of a volume, made if it is absent. Links that a container made may not lead out of the volume.
fn below(volume: &Path, sub: &str) -> Result<PathBuf, String> {
    if sub.is_empty() {
        return Ok(volume.to_owned());
    }
    if sub.starts_with('/') {
        return Err(format!("subPath {sub} must be relative"));
    }
    let text = |e: std::io::Error| format!("subPath {sub}: {e}");
    let root = volume.canonicalize().map_err(text)?;
    let mut source = root.clone();
    for part in Path::new(sub) {
        let next = source.join(part);
        if next.symlink_metadata().is_err() {
            std::fs::create_dir(&next).map_err(text)?;
        }
        source = next.canonicalize().map_err(text)?;
        if !source.starts_with(&root) {
            return Err(format!("subPath {sub} leads out of the volume"));
        }
    }
    Ok(source)
}

/// The pod's host name.
pub(super) fn hostname(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|s| s.hostname.clone()).unwrap_or_else(|| pod.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_volume_is_made_and_never_outside_of_it() {
        let temp = tempfile::tempdir().unwrap();
        let (share, volume) = (temp.path().join("share"), temp.path().join("volume"));
        std::fs::create_dir_all(&share).unwrap();
        std::os::unix::fs::symlink(&share, &volume).unwrap();
        std::os::unix::fs::symlink("/", share.join("out")).unwrap();
        std::os::unix::fs::symlink("a", share.join("in")).unwrap();
        let share = share.canonicalize().unwrap();
        assert_eq!(below(&volume, "").unwrap(), volume);
        assert_eq!(below(&volume, "a/b").unwrap(), share.join("a/b"));
        assert_eq!(below(&volume, "in/b").unwrap(), share.join("a/b"));
        assert!(share.join("a/b").is_dir());
        std::fs::write(share.join("file"), "").unwrap();
        assert_eq!(below(&volume, "file").unwrap(), share.join("file"));
        for bad in ["/etc", "out/etc", "out"] {
            assert!(below(&volume, bad).unwrap_err().contains(bad), "{bad}");
        }
    }

    #[test]
    fn a_failed_run_without_a_message_shows_the_end_of_its_log_if_asked_to() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("logs")).unwrap();
        std::fs::write(log_file(temp.path(), "c", 1), "T stderr F one two\nT stdout F three\n").unwrap();
        let container = |policy: Option<&str>| Container {
            name: "c".to_owned(),
            termination_message_policy: policy.map(str::to_owned),
            ..Container::default()
        };
        let fallback = container(Some("FallbackToLogsOnError"));
        assert_eq!(last_words(temp.path(), &fallback, 1, 3), "one two\nthree");
        assert_eq!(last_words(temp.path(), &fallback, 1, 0), "");
        assert_eq!(last_words(temp.path(), &container(None), 1, 3), "");
        std::fs::write(message_file(temp.path(), "c", 1), "said").unwrap();
        assert_eq!(last_words(temp.path(), &fallback, 1, 3), "said");
    }
}
