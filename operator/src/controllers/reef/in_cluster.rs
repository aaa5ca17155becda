//! What the operator keeps in a reef's cluster: compares, and writes what differs.

use kube::Client;
use serde_json::Value;

use super::manifests::GATEWAY;
use crate::{
    cluster::keep::{Manifest, keep_one},
    controller::Context,
    resources::Verdict,
};

/// How it stands in the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct InCluster {
    /// Whether the API server answers and everything is there.
    pub objects: Verdict,
    /// Whether the gateway works.
    pub gateway: Verdict,
    /// Its public address.
    pub address: Option<String>,
}

impl InCluster {
    /// Nothing can be said before the cluster is there.
    pub fn waiting(what: &str) -> Self {
        let waiting = Verdict::Waiting(format!("waits for: {what}"));
        Self { objects: waiting.clone(), gateway: waiting, address: None }
    }

    /// The cluster cannot be reached.
    pub fn trouble(verdict: Verdict) -> Self {
        Self { objects: verdict.clone(), gateway: verdict, address: None }
    }
}

/// Brings the objects in line, one after the other.
pub async fn keep(context: &Context, client: &Client, manifests: &[Manifest]) -> InCluster {
    let mut gateway = Value::Null;
    for manifest in manifests {
        match keep_one(context, client, manifest).await {
            Ok(live) if manifest.plural == "gateways" => gateway = live,
            Ok(_) => {}
            Err(verdict) => return InCluster::trouble(verdict),
        }
    }
    let address = gateway["status"]["addresses"][0]["value"].as_str().map(str::to_owned);
    let verdict = gateway_verdict(&gateway, address.is_some());
    let address = address.filter(|_| verdict == Verdict::Good);
    InCluster { objects: Verdict::Good, gateway: verdict, address }
}

fn gateway_verdict(gateway: &Value, has_address: bool) -> Verdict {
    let generation = gateway["metadata"]["generation"].as_i64();
    let conditions = gateway["status"]["conditions"].as_array().into_iter().flatten();
    let programmed = conditions
        .into_iter()
        .find(|c| c["type"] == "Programmed" && c["observedGeneration"].as_i64() == generation);
    let word = |c: &Value| {
        format!("{} {}", c["reason"].as_str().unwrap_or_default(), c["message"].as_str().unwrap_or_default())
    };
    match programmed {
        Some(condition) if condition["status"] == "True" && has_address => Verdict::Good,
        Some(condition) if condition["status"] == "False" => {
            Verdict::Working(format!("Gateway {GATEWAY} is not programmed: {}", word(condition).trim()))
        }
        _ => Verdict::Working(format!("Gateway {GATEWAY} has no address yet")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_gateway_is_good_when_its_newest_spec_is_programmed() {
        let gateway = |generation: i64, seen: i64, status: &str| {
            json!({ "metadata": { "generation": generation }, "status": { "conditions": [
                { "type": "Programmed", "status": status, "reason": "Invalid", "observedGeneration": seen },
            ] } })
        };
        assert_eq!(gateway_verdict(&gateway(2, 2, "True"), true), Verdict::Good);
        for (value, address) in [
            (gateway(2, 1, "True"), true),
            (gateway(2, 2, "True"), false),
            (gateway(2, 2, "False"), true),
            (json!({}), false),
        ] {
            assert!(matches!(gateway_verdict(&value, address), Verdict::Working(_)), "{value}");
        }
    }
}
