//! Master key and API key of an instance. They are made once, before anything else, and kept in the operator's
//! namespace for as long as their database may come back: a database without its master key is lost.

use std::collections::BTreeMap;

use aws_lc_rs::rand;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, api::PostParams};
use reef_crds::meta::{LABEL_FLEET, LABEL_INSTANCE, OPERATOR};

use super::names;
use crate::controller::{Context, Error, hash};

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
    pub fn from_secret(secret: &Secret) -> Option<Self> {
        let text = |key: &str| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
        Some(Self { master_key: text(MASTER_KEY)?, api_key: text(API_KEY)? })
    }

    /// What stands in the database's tags, so that other keys are noticed. Says nothing about them.
    pub fn hash(&self) -> String {
        hash::hex(&["keys", &self.master_key], 16)
    }
}

/// The keys of this instance, if they were made.
pub async fn get(context: &Context, instance_hash: &str) -> Result<Option<Keys>, Error> {
    let name = names::keys(instance_hash);
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &context.namespace);
    let secret = secrets.get_opt(&name).await.map_err(Error::api("read the instance's keys"))?;
    Ok(secret.as_ref().and_then(Keys::from_secret))
}

/// The copy in the namespace of the server, if the reef's cluster has one.
pub async fn copy(cluster: &Client, namespace: &str) -> Result<Option<Keys>, kube::Error> {
    let secrets = Api::<Secret>::namespaced(cluster.clone(), namespace);
    Ok(secrets.get_opt(super::manifests::SERVER).await?.as_ref().and_then(Keys::from_secret))
}

/// New keys, which stand nowhere yet.
pub fn make() -> Result<Keys, Error> {
    let mut bytes = [0u8; 48];
    rand::fill(&mut bytes).map_err(|_| Error::NoRandom)?;
    Ok(Keys::from_random(&bytes))
}

/// Puts keys into the operator's namespace. They are never changed, and go with nothing.
pub async fn keep(context: &Context, instance_hash: &str, instance: &str, keys: &Keys) -> Result<(), Error> {
    context.claim.check()?;
    let labels = [
        ("app.kubernetes.io/managed-by", OPERATOR),
        ("app.kubernetes.io/part-of", OPERATOR),
        ("app.kubernetes.io/component", "keys"),
        (LABEL_FLEET, context.fleet.as_str()),
        (LABEL_INSTANCE, instance_hash),
    ];
    let labels: BTreeMap<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let annotations = BTreeMap::from([(names::TAG_INSTANCE.to_owned(), instance.to_owned())]);
    let data = [(MASTER_KEY, &keys.master_key), (API_KEY, &keys.api_key)];
    let data = data.map(|(k, v)| (k.to_owned(), ByteString(v.clone().into_bytes())));
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(names::keys(instance_hash)),
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
