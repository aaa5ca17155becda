//! The keys of a reef's storage accounts, with which its nodes mount shares. They are asked for once, go
//! straight into a Secret in `reef-system`, which no instance can read, and stand nowhere else.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, api::PostParams};
use reef_crds::{
    condition::Reason,
    meta::{LABEL_FLEET, LABEL_REEF, OPERATOR},
};

use super::{
    bodies::{Inputs, NAMESPACE, STORAGE_API},
    parts::Part,
};
use crate::{
    azure::Arm,
    cluster::{guard::forbidden, keep::verdict},
    controller::{Context, trouble::Trouble},
    metrics::ByOutcome,
    observed::Observed,
    resources::{self, Seen, Verdict},
};

/// Name of the Secret with the key of a storage account.
pub fn secret_name(account: &str) -> String {
    format!("storage-{account}")
}

/// Makes the Secrets that are missing, for the accounts that are there. A Secret that is there is good whatever Azure says
/// of its account today.
pub async fn keep(
    context: &Context,
    (arm, client): (&Arc<Arm>, &Client),
    inputs: &Inputs,
    seen: &BTreeMap<Part, Seen>,
) -> Verdict {
    let api = Api::<Secret>::namespaced(client.clone(), NAMESPACE);
    for (number, account) in (1u8..).zip(&inputs.storage_accounts) {
        let part = Part::StorageAccount(number);
        let name = secret_name(account);
        match api.get_metadata_opt(&name).await {
            Ok(Some(_)) => continue,
            Ok(None) => {}
            Err(error) => return unreachable(&name, &error),
        }
        if let Err(verdict) = is_made(part, seen.get(&part)) {
            return verdict;
        }
        let keys = arm.post(&format!("{}/listKeys", inputs.id(part)), STORAGE_API).await;
        let keys = match keys {
            Ok(keys) => keys,
            Err(error) => {
                return Verdict::Unknown(Trouble::azure(&format!("key of {}", part.what()), &error));
            }
        };
        let Some(key) = keys["keys"][0]["value"].as_str() else {
            let message = format!("Azure gave no key for {}", part.what());
            return Verdict::Unknown(Trouble::new(Reason::AzureUnavailable, message));
        };
        if context.claim.check().is_err() {
            return Verdict::Working("this replica no longer leads".to_owned());
        }
        match api.create(&PostParams::default(), &secret(inputs, account, key)).await {
            Ok(_) => {
                let by = ByOutcome { resource: "secrets", outcome: "changed" };
                context.metrics.writes.get_or_create(&by).inc();
                tracing::info!(
                    controller = "reef",
                    name,
                    "made the Secret with the key of a storage account"
                );
            }
            Err(error) => return unreachable(&name, &error),
        }
    }
    Verdict::Good
}

/// Why there is no key to be asked for, if there is none.
fn is_made(part: Part, seen: Option<&Seen>) -> Result<(), Verdict> {
    match seen.map(|seen| &seen.state) {
        Some(Observed::Present(account)) if resources::state(account).eq_ignore_ascii_case("Succeeded") => {
            Ok(())
        }
        Some(Observed::Unknown(why)) => {
            let reason = seen.and_then(|seen| seen.blind).unwrap_or(why.reason);
            let message = format!("key of {}, which is not known: {why}", part.what());
            Err(Verdict::Unknown(Trouble::new(reason, message)))
        }
        _ => Err(Verdict::Waiting(format!("waits for: {}", part.what()))),
    }
}

fn unreachable(name: &str, error: &kube::Error) -> Verdict {
    if forbidden(error).is_some() {
        return verdict("Secret", name, error);
    }
    let message = format!("Secret {name} in the reef's cluster: {error}");
    Verdict::Unknown(Trouble::new(Reason::ClusterUnreachable, message))
}

/// With the keys that the driver of Azure Files reads.
fn secret(inputs: &Inputs, account: &str, key: &str) -> Secret {
    let labels = [
        ("app.kubernetes.io/managed-by", OPERATOR),
        ("app.kubernetes.io/part-of", OPERATOR),
        ("app.kubernetes.io/component", "storage"),
        (LABEL_FLEET, inputs.fleet.as_str()),
        (LABEL_REEF, inputs.reef.as_str()),
    ];
    let labels: BTreeMap<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let data = [("azurestorageaccountname", account), ("azurestorageaccountkey", key)];
    let data = data.iter().map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec())));
    Secret {
        metadata: ObjectMeta {
            name: Some(secret_name(account)),
            namespace: Some(NAMESPACE.to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        data: Some(data.collect()),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_account_that_cannot_be_seen_is_not_waited_for() {
        let part = Part::StorageAccount(1);
        let made = |state| is_made(part, Some(&Seen { state, blind: None, operation: None, failure: None }));
        let in_state = |word| Observed::Present(json!({ "properties": { "provisioningState": word } }));
        assert_eq!(made(in_state("succeeded")), Ok(()));
        for waits in [in_state("Creating"), Observed::Absent] {
            assert!(matches!(made(waits), Err(Verdict::Waiting(_))));
        }
        assert!(matches!(made(Observed::Unknown("503".into())), Err(Verdict::Unknown(_))));
        let throttled = Seen {
            state: Observed::Unknown("429".into()),
            blind: Some(Reason::AzureThrottled),
            operation: None,
            failure: None,
        };
        let verdict = is_made(part, Some(&throttled));
        assert!(
            matches!(&verdict, Err(Verdict::Unknown(t)) if t.reason == Reason::AzureThrottled),
            "{verdict:?}"
        );
        assert!(matches!(is_made(part, None), Err(Verdict::Waiting(_))));
    }
}
