//! Kubeconfig files.

use serde_json::{Value, json};

use crate::pki::Identity;

/// A kubeconfig with a client certificate.
pub fn with_certificate(cluster: &str, port: u16, ca: &str, identity: &Identity) -> String {
    let user = json!({
        "client-certificate-data": encode(&identity.cert),
        "client-key-data": encode(&identity.key),
    });
    render(cluster, port, ca, &user)
}

fn render(cluster: &str, port: u16, ca: &str, user: &Value) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": cluster, "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority-data": encode(ca),
        }}],
        "users": [{ "name": "user", "user": user }],
        "contexts": [{ "name": cluster, "context": { "cluster": cluster, "user": "user" } }],
        "current-context": cluster,
    });
    // JSON is YAML too, and every client reads it.
    format!("{config:#}\n")
}

/// Base64, as kubeconfigs have it.
pub fn encode(text: &str) -> String {
    use k8s_openapi::ByteString;
    match serde_json::to_value(ByteString(text.as_bytes().to_vec())) {
        Ok(Value::String(encoded)) => encoded,
        _ => String::new(),
    }
}
