//! Watches.

use std::sync::Arc;

use futures::{Stream, StreamExt};
use kube::{
    Api, Resource,
    runtime::{PredicateConfig, WatchStreamExt, predicates, watcher},
};
use serde::de::DeserializeOwned;

use super::watch_log;
use crate::metrics::Metrics;

/// Objects that appeared, changed in any way, or went. For what a controller is woken by beside its own kind.
pub fn touched<K>(
    api: Api<K>,
    controller: &'static str,
    resource: &'static str,
    metrics: Arc<Metrics>,
) -> impl Stream<Item = Result<K, watcher::Error>> + Send
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Send + 'static,
{
    watcher(api, watcher::Config::default())
        .default_backoff()
        .inspect(watch_log(controller, resource, metrics))
        .touched_objects()
        .predicate_filter(predicates::resource_version, PredicateConfig::default())
}
