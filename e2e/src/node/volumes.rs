//! A pod's volumes as folders of this machine.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{
        DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccount, ServiceAccountTokenProjection, Volume,
        VolumeProjection,
    },
};
use kube::{Api, Client, ResourceExt, api::PostParams};

use super::{
    Shared, claims,
    env::field_value,
    sources::{Values, config_map, secret},
};

/// Files by path in the volume.
type Files = Values;

/// Life of a projected token unless the pod says otherwise, seconds.
const TOKEN_SECONDS: i64 = 3600;

/// Writes the current content of every volume of a pod. Called at the start and again while the pod runs:
/// what did not change is not touched, and what did changes for the containers at once.
pub(super) async fn refresh(shared: &Shared, pod: &Pod, ip: &str, folder: &Path) -> Result<(), String> {
    let client = &shared.client;
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let target = folder.join(&volume.name);
        if let Some(source) = &volume.persistent_volume_claim {
            // What is mounted stays so, whatever becomes of the claim and the key.
            if target.symlink_metadata().is_err() {
                let namespace = pod.namespace().unwrap_or_default();
                let share = claims::mount(client, shared.shares.as_deref(), &namespace, source).await;
                let share = share.map_err(|e| format!("volume {}: {e}", volume.name))?;
                symlink(share, &target).map_err(|e| e.to_string())?;
            }
            continue;
        }
        fs::create_dir_all(&target).map_err(|e| e.to_string())?;
        if volume.empty_dir.is_some() {
            continue;
        }
        let files = content(client, pod, ip, volume, &target).await;
        let files = files.map_err(|e| format!("volume {}: {e}", volume.name))?;
        publish(&target, &files).map_err(|e| format!("volume {}: {e}", volume.name))?;
    }
    Ok(())
}

async fn content(
    client: &Client,
    pod: &Pod,
    ip: &str,
    volume: &Volume,
    current: &Path,
) -> Result<Files, String> {
    let namespace = pod.namespace().unwrap_or_default();
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        return select(secret(client, &namespace, name, source.optional).await?, source.items.as_deref());
    }
    if let Some(source) = &volume.config_map {
        return select(
            config_map(client, &namespace, &source.name, source.optional).await?,
            source.items.as_deref(),
        );
    }
    if let Some(source) = &volume.downward_api {
        return downward(pod, ip, source.items.as_deref());
    }
    if let Some(projected) = &volume.projected {
        let mut files = Files::new();
        for source in projected.sources.iter().flatten() {
            files.extend(projection(client, pod, ip, source, current).await?);
        }
        return Ok(files);
    }
    Err("this type is not supported by the sandbox's node".to_owned())
}

async fn projection(
    client: &Client,
    pod: &Pod,
    ip: &str,
    source: &VolumeProjection,
    current: &Path,
) -> Result<Files, String> {
    let namespace = pod.namespace().unwrap_or_default();
    if let Some(source) = &source.secret {
        return select(
            secret(client, &namespace, &source.name, source.optional).await?,
            source.items.as_deref(),
        );
    }
    if let Some(source) = &source.config_map {
        return select(
            config_map(client, &namespace, &source.name, source.optional).await?,
            source.items.as_deref(),
        );
    }
    if let Some(source) = &source.downward_api {
        return downward(pod, ip, source.items.as_deref());
    }
    if let Some(source) = &source.service_account_token {
        let token = token(client, pod, source, &current.join(&source.path)).await?;
        return Ok(Files::from([(source.path.clone(), token)]));
    }
    Err("this projection is not supported by the sandbox's node".to_owned())
}

/// The token in `path` while it has more than a fifth of its life before it, else a new one.
async fn token(
    client: &Client,
    pod: &Pod,
    source: &ServiceAccountTokenProjection,
    path: &Path,
) -> Result<Vec<u8>, String> {
    let seconds = source.expiration_seconds.unwrap_or(TOKEN_SECONDS);
    let written = fs::metadata(path).and_then(|m| m.modified()).ok();
    let age = written.and_then(|at| at.elapsed().ok());
    if age.is_some_and(|age| age.as_secs() < u64::try_from(seconds).unwrap_or(0) * 4 / 5)
        && let Ok(token) = fs::read(path)
    {
        return Ok(token);
    }
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone());
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: source.audience.clone().map(|audience| vec![audience]),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod.name_any()),
                uid: pod.uid(),
            }),
            expiration_seconds: Some(seconds),
        }),
        ..TokenRequest::default()
    };
    let api = Api::<ServiceAccount>::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let account = account.unwrap_or_else(|| "default".to_owned());
    let answer = api.create_token_request(&account, &PostParams::default(), &request).await;
    let answer = answer.map_err(|e| format!("token of {account}: {e}"))?;
    answer
        .status
        .and_then(|s| s.token)
        .map(String::into_bytes)
        .ok_or_else(|| "the API server gave no token".to_owned())
}

fn select(mut all: Files, items: Option<&[KeyToPath]>) -> Result<Files, String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else { return Ok(all) };
    items
        .iter()
        .map(|item| {
            let value = all.remove(&item.key).ok_or_else(|| format!("no key {}", item.key))?;
            Ok((item.path.clone(), value))
        })
        .collect()
}

fn downward(pod: &Pod, ip: &str, items: Option<&[DownwardAPIVolumeFile]>) -> Result<Files, String> {
    let fields = items.into_iter().flatten().filter_map(|i| Some((&i.path, i.field_ref.as_ref()?)));
    fields.map(|(path, f)| Ok((path.clone(), field_value(pod, ip, &f.field_path)?.into_bytes()))).collect()
}

/// Puts files in place the way kubelets do, all of them at once: a new folder, then the link `..data`
/// turned to it.
fn publish(target: &Path, files: &Files) -> io::Result<()> {
    let data = target.join("..data");
    let same =
        |(path, content): (&String, &Vec<u8>)| fs::read(data.join(path)).is_ok_and(|old| old == *content);
    if data.exists() && files.iter().all(same) && count(&data) == files.len() {
        return Ok(());
    }
    let name = format!("..{}", Timestamp::now().as_nanosecond());
    let folder = target.join(&name);
    for (path, content) in files {
        let file = folder.join(path);
        fs::create_dir_all(file.parent().unwrap_or(&folder))?;
        fs::write(&file, content)?;
        // A token's age is read off its file, so what did not change keeps its time.
        let old = data.join(path);
        if fs::read(&old).is_ok_and(|old| old == *content) {
            fs::File::options().write(true).open(&file)?.set_modified(fs::metadata(&old)?.modified()?)?;
        }
    }
    fs::create_dir_all(&folder)?;
    let old = fs::read_link(&data).ok();
    let link = target.join("..data_new");
    let _ = fs::remove_file(&link);
    symlink(&name, &link)?;
    fs::rename(&link, &data)?;
    for first in files.keys().filter_map(|p| Path::new(p).components().next()) {
        let visible = target.join(first);
        if visible.symlink_metadata().is_err() {
            symlink(PathBuf::from("..data").join(first), visible)?;
        }
    }
    old.map_or(Ok(()), |old| fs::remove_dir_all(target.join(old)))
}

fn count(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| if e.path().is_dir() { count(&e.path()) } else { 1 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_version_replaces_all_files_and_an_equal_one_touches_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path();
        let files =
            |text: &str| Files::from([("a/b".to_owned(), text.into()), ("c".to_owned(), text.into())]);
        publish(folder, &files("1")).unwrap();
        assert_eq!(fs::read_to_string(folder.join("a/b")).unwrap(), "1");
        let first = fs::read_link(folder.join("..data")).unwrap();
        publish(folder, &files("1")).unwrap();
        assert_eq!(fs::read_link(folder.join("..data")).unwrap(), first);
        publish(folder, &files("2")).unwrap();
        assert_eq!(fs::read_to_string(folder.join("c")).unwrap(), "2");
        assert!(!folder.join(first).exists());
        publish(folder, &Files::from([("c".to_owned(), b"2".to_vec())])).unwrap();
        assert!(!folder.join("a/b").exists());
    }
}
