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
        let source = folder.join("volumes").join(&mount.name).join(&sub);
        if !sub.is_empty() && !source.exists() {
            std::fs::create_dir_all(&source).map_err(|e| e.to_string())?;
        }
        let written_by_node = volume.empty_dir.is_none();
        Ok(Mount {
            source,
            target: PathBuf::from(&mount.mount_path),
            read_only: mount.read_only.unwrap_or(false) || written_by_node,
        })
    })
}
