//! Every condition that instances have shown, so that one that stood for a moment is not missed.

use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use kube::{
    Api, Client,
    api::DynamicObject,
    core::{ApiResource, GroupVersionKind},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::Value;

/// A condition that was shown.
pub struct Shown {
    /// Namespace and name of the instance.
    pub of: (String, String),
    /// The condition.
    pub condition: Value,
    /// Whether the status spoke of the newest spec.
    pub is_current: bool,
}

/// What was shown so far, in order.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<Vec<Shown>>>);

impl History {
    /// Follows all instances until the program ends.
    pub fn begin(client: &Client) -> Self {
        let history = Self::default();
        let kind = GroupVersionKind::gvk("cloud.octopus.com", "v1alpha1", "CloudInstance");
        let api = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::from_gvk(&kind));
        let all = history.clone();
        tokio::spawn(async move {
            let mut touched =
                watcher(api, watcher::Config::default()).default_backoff().touched_objects().boxed();
            while let Some(found) = touched.next().await {
                if let Ok(object) = found {
                    all.add(&object);
                }
            }
        });
        history
    }

    fn add(&self, object: &DynamicObject) {
        let metadata = &object.metadata;
        let of = (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default());
        let is_current = object.data["status"]["observedGeneration"].as_i64() == metadata.generation;
        let conditions = object.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let shown = conditions.into_iter().map(|condition| Shown { of: of.clone(), condition, is_current });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(shown);
    }

    /// How much was shown by now.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether something that fits was shown after so much.
    pub fn has(&self, from: usize, fits: impl Fn(&Shown) -> bool) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[from..].iter().any(fits)
    }
}
