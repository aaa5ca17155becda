//! Watches.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use kube::{
    Api, Resource,
    core::DeserializeGuard,
    runtime::{PredicateConfig, WatchStreamExt, predicates, watcher},
};
use reef_crds::Region;
use serde::de::DeserializeOwned;

use super::{Context, stop, watch_log};
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

/// Regions whose emergency stops changed, by an edit or by time. Nothing else of them: all that is in a region is woken.
pub fn stops(
    context: &Context,
    controller: &'static str,
) -> impl Stream<Item = Result<DeserializeGuard<Region>, watcher::Error>> + Send + use<> {
    let regions = Api::<DeserializeGuard<Region>>::all(context.client.clone());
    // What was seen once is remembered for as long as the process lives.
    let remember = PredicateConfig::default().ttl(Duration::MAX);
    let stops = |region: &DeserializeGuard<Region>| region.0.as_ref().ok().map(stop::fingerprint);
    watcher(regions, watcher::Config::default())
        .default_backoff()
        .inspect(watch_log(controller, "regions", context.metrics.clone()))
        .touched_objects()
        .predicate_filter(stops, remember)
}
