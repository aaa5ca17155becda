//! A container's environment.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};
use kube::{Client, ResourceExt};

use super::sources::{Values, config_map, secret};

use crate::{
    cluster::API_SERVICE_IP,
    runtime::{PROXY_PORT, container::base_env},
};

/// Variable with the image's reference. A program that stands for an image of any tag knows its own by it.
const IMAGE: &str = "SANDBOX_IMAGE";

/// Resolves the environment of a container. The error is what the container's status shows.
pub(super) async fn resolve(
    client: &Client,
    pod: &Pod,
    ip: &str,
    container: &Container,
) -> Result<BTreeMap<String, String>, String> {
    let namespace = pod.namespace().unwrap_or_default();
    let mut env = base_env(&super::template::hostname(pod));
    env.insert("KUBERNETES_SERVICE_HOST".to_owned(), API_SERVICE_IP.to_owned());
    env.insert("KUBERNETES_SERVICE_PORT".to_owned(), "443".to_owned());
    // The sandbox's network is a proxy; see `net`.
    // curl and reqwest read the one of plain HTTP in small letters only.
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "http_proxy"] {
        env.insert(name.to_owned(), format!("http://127.0.0.1:{PROXY_PORT}"));
    }
    env.insert("NO_PROXY".to_owned(), "localhost,127.0.0.1".to_owned());
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.clone().unwrap_or_default();
        let mut values = BTreeMap::new();
        if let Some(reference) = &source.secret_ref {
            values = text(secret(client, &namespace, &reference.name, reference.optional).await?);
        }
        if let Some(reference) = &source.config_map_ref {
            values = text(config_map(client, &namespace, &reference.name, reference.optional).await?);
        }
        env.extend(values.into_iter().map(|(k, v)| (format!("{prefix}{k}"), v)));
    }
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(value), _) => Some(expand(value, &env)),
            (None, Some(source)) => from_source(client, pod, ip, container, source).await?,
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            env.insert(var.name.clone(), value);
        }
    }
    // Last: a program that stands for an image must not be told another.
    env.insert(IMAGE.to_owned(), container.image.clone().unwrap_or_default());
    Ok(env)
}

async fn from_source(
    client: &Client,
    pod: &Pod,
    ip: &str,
    container: &Container,
    source: &EnvVarSource,
) -> Result<Option<String>, String> {
    let namespace = pod.namespace().unwrap_or_default();
    if let Some(field) = &source.field_ref {
        return field_value(pod, ip, &field.field_path).map(Some);
    }
    if let Some(key) = &source.secret_key_ref {
        let mut values = text(secret(client, &namespace, &key.name, key.optional).await?);
        return require(values.remove(&key.key), key.optional, "Secret", &key.name, &key.key);
    }
    if let Some(key) = &source.config_map_key_ref {
        let mut values = text(config_map(client, &namespace, &key.name, key.optional).await?);
        return require(values.remove(&key.key), key.optional, "ConfigMap", &key.name, &key.key);
    }
    if let Some(field) = &source.resource_field_ref {
        let resources = container.resources.clone().unwrap_or_default();
        let (kind, name) = field.resource.split_once('.').unwrap_or(("limits", &field.resource));
        let list = if kind == "requests" { resources.requests } else { resources.limits };
        return Ok(list.and_then(|l| l.get(name).map(|q| q.0.clone())));
    }
    Err("this kind of valueFrom is not supported by the sandbox's node".to_owned())
}

fn require(
    value: Option<String>,
    optional: Option<bool>,
    kind: &str,
    name: &str,
    key: &str,
) -> Result<Option<String>, String> {
    match (value, optional.unwrap_or(false)) {
        (None, false) => Err(format!("couldn't find key {key} in {kind} {name}")),
        (value, _) => Ok(value),
    }
}

/// The value of a downward API field.
pub(super) fn field_value(pod: &Pod, ip: &str, path: &str) -> Result<String, String> {
    let keyed = |map: &BTreeMap<String, String>, rest: &str| {
        let key = rest.trim_start_matches("['").trim_end_matches("']");
        map.get(key).cloned().unwrap_or_default()
    };
    let spec = pod.spec.as_ref();
    Ok(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.podIP" | "status.podIPs" => ip.to_owned(),
        "status.hostIP" => "127.0.0.1".to_owned(),
        _ if path.starts_with("metadata.labels[") => keyed(pod.labels(), &path["metadata.labels".len()..]),
        _ if path.starts_with("metadata.annotations[") => {
            keyed(pod.annotations(), &path["metadata.annotations".len()..])
        }
        other => return Err(format!("fieldPath {other} is not supported by the sandbox's node")),
    })
}

/// The values that are text; others cannot stand in an environment.
fn text(values: Values) -> BTreeMap<String, String> {
    values.into_iter().filter_map(|(k, v)| Some((k, String::from_utf8(v).ok()?))).collect()
}

/// Replaces `$(NAME)` by the variable's value; `$$` is an escaped `$`, an unknown name stays as it is.
pub(super) fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match env.get(name) {
                Some(value) => out.push_str(value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_expand_as_in_kubernetes() {
        let env = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (text, expect) in [
            ("$(A)", "1"),
            ("x$(A)y$(B)", "x1y$(B)"),
            ("$$(A)", "$(A)"),
            ("$", "$"),
            ("$A $(A", "$A $(A"),
            ("100%", "100%"),
        ] {
            assert_eq!(expand(text, &env), expect, "{text}");
        }
    }

    #[tokio::test]
    async fn a_program_knows_its_image_whatever_the_pod_says() {
        let config = kube::Config::new(http::Uri::from_static("http://127.0.0.1:1"));
        let client = Client::try_from(config).unwrap();
        let container = serde_json::from_value(serde_json::json!({
            "name": "octopus", "image": "octopusdeploy/octopusdeploy:2026.2.1234",
            "env": [{ "name": IMAGE, "value": "octopusdeploy/octopusdeploy:2025.1.1" }],
        }));
        let env = resolve(&client, &Pod::default(), "100.64.0.1", &container.unwrap()).await.unwrap();
        assert_eq!(env[IMAGE], "octopusdeploy/octopusdeploy:2026.2.1234");
    }
}
