//! How to reach the instances from this machine: a line for curl each.

use std::{fs, path::Path};

use kube::{Api, Client, ResourceExt, api::ListParams};
use reef_crds::{CloudInstance, Reef};
use serde_json::Value;

use crate::dir::Dir;

/// A line for each instance that is in service, by name. curl goes to the gateway of its reef instead of asking DNS,
/// and trusts the authority of the sandbox.
pub async fn lines(client: &Client, dir: &Dir) -> Vec<String> {
    let all = ListParams::default();
    let instances = Api::<CloudInstance>::all(client.clone()).list(&all).await;
    let reefs = Api::<Reef>::all(client.clone()).list(&all).await;
    let (Ok(instances), Ok(reefs)) = (instances, reefs) else { return Vec::new() };
    let ca = dir.join("run/public-ca.crt");
    instances.iter().filter_map(|instance| line(instance, &reefs.items, dir, &ca)).collect()
}

fn line(instance: &CloudInstance, reefs: &[Reef], dir: &Dir, ca: &Path) -> Option<String> {
    let status = instance.status.as_ref()?;
    let (url, reef) = (status.url.as_ref()?, &status.placement.as_ref()?.reef);
    let reef = reefs.iter().find(|r| r.name_any() == *reef)?;
    let cluster = &reef.status.as_ref()?.cluster.as_ref()?.name;
    let port = https_port(dir, cluster)?;
    let host = url.trim_start_matches("https://");
    Some(format!("curl --cacert {} --connect-to {host}:443:127.0.0.1:{port} {url}/api", ca.display()))
}

/// Port on this machine of the HTTPS listener of a cluster's gateway.
fn https_port(dir: &Dir, cluster: &str) -> Option<u64> {
    let file = dir.join("reefs").join(format!("{cluster}.gateways.json"));
    let ports: Value = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
    // Listeners with a name of their own have a third segment.
    ports.as_object()?.iter().find(|(name, _)| name.split('/').count() == 2)?.1.as_u64()
}
