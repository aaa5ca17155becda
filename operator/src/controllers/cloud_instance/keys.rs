//! Master key and API key of an instance. They are made once, before anything else, and kept in the operator's
//! namespace for as long as their database may come back: a database without its master key is lost.

use std::collections::BTreeMap;

use aws_lc_rs::rand;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use reef_crds::{
    CloudInstance,
    condition::Reason,
    meta::{CONFIRM_RECREATION, LABEL_FLEET, LABEL_INSTANCE, OPERATOR},
};

use serde_json::json;

use super::{
    bodies::Inputs,
    look::connect,
    names::{self, TAG_KEYS},
    parts::Part,
    references::Home,
};
use crate::{
    causes,
    cluster::keep::{Manifest, keep_one, remove_one},
    controller::{Context, Error, hash, trouble::Trouble},
    controllers::reef::{bodies::NAMESPACE, references::Held, teardown::annotated},
    observed::Observed,
    resources::{Seen, Verdict},
};

/// The keys of an instance.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// Base64 of 16 bytes, with which the server encrypts what is secret in its database.
    pub master_key: String,
    /// With which the agent configures the server.
    pub api_key: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

/// Members of the Secret.
const MASTER_KEY: &str = "master-key";
const API_KEY: &str = "api-key";

impl Keys {
    /// From 48 random bytes.
    fn from_random(bytes: &[u8; 48]) -> Self {
        const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let letters = bytes[16..].iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)]));
        Self {
            master_key: azure_core::base64::encode(&bytes[..16]),
            api_key: format!("API-{}", letters.collect::<String>()),
        }
    }

    /// From the members of a Secret; none if one is missing.
    fn from_secret(secret: &Secret) -> Option<Self> {
        let text = |key: &str| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
        Some(Self { master_key: text(MASTER_KEY)?, api_key: text(API_KEY)? })
    }

    /// What stands in the database's tags, so that other keys are noticed. Says nothing about them.
    pub fn hash(&self) -> String {
        hash::hex(&["keys", &self.master_key, &self.api_key], 16)
    }
}

/// The keys. They are made when it is certain that there is no database for which there must have been some.
pub async fn known(
    context: &Context,
    instance: &CloudInstance,
    home: &Home,
    inputs: &Inputs,
    seen: &BTreeMap<Part, Seen>,
) -> Result<Result<Keys, Held>, Error> {
    match get(context, inputs).await? {
        Ok(None) => {}
        Ok(Some(keys)) => return Ok(Ok(keys)),
        Err(held) => return Ok(Err(held)),
    }
    let held = |reason, message: String, stalled| Ok(Err(Held(Trouble::new(reason, message), stalled)));
    let had = instance.status.as_ref().and_then(|s| s.database.as_ref()).is_some_and(|d| d.ready);
    let database = seen.get(&Part::Database).map(|s| (&s.state, s.operation.is_some()));
    // A confirmed loss is the only way to new keys where there were some.
    let may_make = !had || (annotated(instance, CONFIRM_RECREATION) && !is_spent(instance));
    let keys = match database {
        Some((Observed::Absent, false)) if may_make => match copied(context, home, inputs).await {
            Ok(Some(copy)) => copy,
            Ok(None) => make()?,
            Err(held) => return Ok(Err(held)),
        },
        Some((Observed::Unknown(why), _)) => {
            return held(why.reason, format!("database: {why}"), false);
        }
        _ => match copied(context, home, inputs).await {
            Ok(Some(keys)) => keys,
            Ok(None) => match earlier(context, inputs, seen).await? {
                Some(keys) => keys,
                None => return held(Reason::KeysDiffer, lost(context, inputs), true),
            },
            Err(held) => return Ok(Err(held)),
        },
    };
    // What is kept here is never changed again, so it has to be what the database was made with.
    if let Some((Observed::Present(found), _)) = database
        && found["tags"][TAG_KEYS].as_str().is_some_and(|tag| tag != keys.hash())
    {
        let message = format!(
            "the keys in the reef's cluster are not those that database {} was made with: restore Secret {}/{}; nothing is started meanwhile",
            inputs.database(),
            context.namespace,
            names::keys(&inputs.hash, &inputs.uid)
        );
        return held(Reason::KeysDiffer, message, true);
    }
    keep(context, inputs, &keys).await?;
    Ok(Ok(keys))
}

fn lost(context: &Context, inputs: &Inputs) -> String {
    format!(
        "database {} was made with keys that are not here any more: restore Secret {}/{}; nothing is started meanwhile",
        inputs.database(),
        context.namespace,
        names::keys(&inputs.hash, &inputs.uid)
    )
}

fn is_spent(instance: &CloudInstance) -> bool {
    instance.status.as_ref().is_some_and(|s| s.recreation_spent)
}

/// The keys of an earlier object of this name that the database was made with, by the hash in its tags.
async fn earlier(
    context: &Context,
    inputs: &Inputs,
    seen: &BTreeMap<Part, Seen>,
) -> Result<Option<Keys>, Error> {
    let Some(Observed::Present(database)) = seen.get(&Part::Database).map(|s| &s.state) else {
        return Ok(None);
    };
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &context.namespace);
    let ours = ListParams::default().labels(&format!("{LABEL_INSTANCE}={}", inputs.hash));
    let list = secrets.list(&ours).await.map_err(Error::api("list the instance's keys"))?;
    let mut keys = list.items.iter().filter_map(Keys::from_secret);
    Ok(keys.find(|keys| database["tags"][TAG_KEYS] == keys.hash().as_str()))
}

/// The copy of the keys that the reef's cluster has, if it has one. It may be the last one, so it is asked for before
/// others are made.
async fn copied(context: &Context, home: &Home, inputs: &Inputs) -> Result<Option<Keys>, Held> {
    let client = match connect(context, home).await {
        Ok(cluster) => cluster.client,
        Err(Verdict::Unknown(trouble) | Verdict::Failed(trouble)) => return Err(Held(trouble, false)),
        Err(_) => {
            let message = "waits for the reef's cluster";
            return Err(Held(Trouble::new(Reason::WaitingForDependency, message), false));
        }
    };
    copy(&client, &inputs.namespace()).await.map_err(|error| {
        let message = format!("keys in the reef's cluster: {}", causes(&error));
        Held(Trouble::new(Reason::ClusterUnreachable, message), false)
    })
}

/// The keys in the operator's namespace, if they were made. A Secret that lacks one of them is not passed over.
async fn get(context: &Context, inputs: &Inputs) -> Result<Result<Option<Keys>, Held>, Error> {
    let name = names::keys(&inputs.hash, &inputs.uid);
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &context.namespace);
    let found = secrets.get_opt(&name).await.map_err(Error::api("read the instance's keys"))?;
    let Some(secret) = found else { return Ok(Ok(None)) };
    Ok(Keys::from_secret(&secret).map(Some).ok_or_else(|| {
        let message = format!(
            "Secret {}/{name} lacks `{MASTER_KEY}` or `{API_KEY}`: restore it; nothing is started meanwhile",
            context.namespace
        );
        Held(Trouble::new(Reason::KeysDiffer, message), true)
    }))
}

/// The copy in the namespace of the server, if the reef's cluster has one.
async fn copy(cluster: &Client, namespace: &str) -> Result<Option<Keys>, kube::Error> {
    let secrets = Api::<Secret>::namespaced(cluster.clone(), namespace);
    Ok(secrets.get_opt(super::manifests::SERVER).await?.as_ref().and_then(Keys::from_secret))
}

/// New keys, which stand nowhere yet.
fn make() -> Result<Keys, Error> {
    let mut bytes = [0u8; 48];
    rand::fill(&mut bytes).map_err(|_| Error::NoRandom)?;
    Ok(Keys::from_random(&bytes))
}

/// Puts keys into the operator's namespace. They are never changed, and go with nothing.
async fn keep(context: &Context, inputs: &Inputs, keys: &Keys) -> Result<(), Error> {
    context.claim.check()?;
    let labels = [
        ("app.kubernetes.io/managed-by", OPERATOR),
        ("app.kubernetes.io/part-of", OPERATOR),
        ("app.kubernetes.io/component", "keys"),
        (LABEL_FLEET, context.fleet.as_str()),
        (LABEL_INSTANCE, inputs.hash.as_str()),
    ];
    let labels: BTreeMap<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let annotations = BTreeMap::from([(names::TAG_INSTANCE.to_owned(), inputs.instance())]);
    let data = [(MASTER_KEY, &keys.master_key), (API_KEY, &keys.api_key)];
    let data = data.map(|(k, v)| (k.to_owned(), ByteString(v.clone().into_bytes())));
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(names::keys(&inputs.hash, &inputs.uid)),
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        data: Some(data.into()),
        immutable: Some(true),
        ..Secret::default()
    };
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &context.namespace);
    secrets
        .create(&PostParams::default(), &secret)
        .await
        .map(drop)
        .map_err(Error::api("keep the instance's keys"))
}

/// The copy that stays on the reef with the data that it opens.
fn kept(fleet: &str, instance_hash: &str, instance: &str, keys: Option<&Keys>) -> Manifest {
    let encode = |text: &str| azure_core::base64::encode(text);
    let data =
        keys.map(|keys| json!({ MASTER_KEY: encode(&keys.master_key), API_KEY: encode(&keys.api_key) }));
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {
            "name": format!("kept-{instance_hash}"), "namespace": NAMESPACE,
            // Without the label of the instance: what carries that goes with it.
            "labels": { "app.kubernetes.io/managed-by": OPERATOR, "app.kubernetes.io/component": "keys", LABEL_FLEET: fleet },
            "annotations": { names::TAG_INSTANCE: instance },
        },
        "data": data,
    });
    Manifest { plural: "secrets", object }
}

/// Leaves a copy of the keys on the reef before an instance goes whose data stays: with the management cluster the other
/// one may be lost, and without its master key a database cannot be read.
pub async fn leave_copy(
    context: &Context,
    cluster: &Client,
    inputs: &Inputs,
) -> Result<Result<(), Trouble>, Error> {
    let keys = match get(context, inputs).await? {
        Ok(Some(keys)) => Some(keys),
        // Ours was lost: the one that goes with the namespace is the last.
        Ok(None) => match copy(cluster, &inputs.namespace()).await {
            Ok(copy) => copy,
            Err(error) => {
                let message = format!("keys in the reef's cluster: {}", causes(&error));
                return Ok(Err(Trouble::new(Reason::ClusterUnreachable, message)));
            }
        },
        Err(Held(trouble, _)) => return Ok(Err(trouble)),
    };
    let Some(keys) = keys else { return Ok(Ok(())) };
    let copy = kept(&inputs.fleet, &inputs.hash, &inputs.instance(), Some(&keys));
    Ok(match keep_one(context, cluster, &copy).await {
        Ok(_) => Ok(()),
        Err(Verdict::Unknown(trouble) | Verdict::Failed(trouble) | Verdict::Blocked(trouble)) => Err(trouble),
        Err(_) => Err(Trouble::new(Reason::ClusterUnreachable, "the copy of the keys cannot be written yet")),
    })
}

/// Removes that copy after the data that it opened.
pub async fn remove_copy(context: &Context, cluster: &Client, instance_hash: &str) -> Result<(), Verdict> {
    remove_one(context, cluster, &kept(&context.fleet, instance_hash, "", None)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_form_that_the_server_takes() {
        let keys = Keys::from_random(&[7; 48]);
        assert_eq!(azure_core::base64::decode(&keys.master_key).unwrap().len(), 16);
        assert!(keys.api_key.starts_with("API-") && keys.api_key.len() == 36, "{}", keys.api_key);
        assert_eq!(format!("{keys:?}"), "Keys", "they are never shown");
        assert_ne!(keys.hash(), Keys::from_random(&[8; 48]).hash());
        assert!(make().unwrap() != make().unwrap());
    }
}
