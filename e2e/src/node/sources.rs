//! What pods take their settings from: Secrets and ConfigMaps.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};

/// Values by key.
pub(super) type Values = BTreeMap<String, Vec<u8>>;

/// The values of a Secret. One that is missing is an error unless it is optional.
pub(super) async fn secret(
    client: &Client,
    namespace: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<Values, String> {
    let found = Api::<Secret>::namespaced(client.clone(), namespace).get_opt(name).await;
    let found = found.map_err(|e| format!("Secret {name}: {e}"))?;
    let values =
        found.map(|secret| secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect());
    present("secret", name, optional, values)
}

/// The values of a ConfigMap. One that is missing is an error unless it is optional.
pub(super) async fn config_map(
    client: &Client,
    namespace: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<Values, String> {
    let found = Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(name).await;
    let found = found.map_err(|e| format!("ConfigMap {name}: {e}"))?;
    let values = found.map(|map| {
        let text = map.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes()));
        let binary = map.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0));
        text.chain(binary).collect()
    });
    present("configmap", name, optional, values)
}

fn present(kind: &str, name: &str, optional: Option<bool>, values: Option<Values>) -> Result<Values, String> {
    match values {
        Some(values) => Ok(values),
        None if optional.unwrap_or(false) => Ok(Values::new()),
        None => Err(format!("{kind} \"{name}\" not found")),
    }
}
