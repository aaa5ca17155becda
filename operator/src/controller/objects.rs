//! The objects of a controller's own kind: how they are followed, and which of their changes are worth a look.

use futures::{Stream, StreamExt};
use kube::{
    Api, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        Predicate, PredicateConfig, WatchStreamExt, predicates,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;

use super::{Context, watch_log};
use crate::admin::Readiness;

/// An object that may not be readable: one that another version of a CRD let in stops no other.
pub type Guarded<K> = DeserializeGuard<K>;

/// Follows all objects of a kind: the store, and those that are worth a look. Readiness waits for the first list.
/// `gone` hears of each that is deleted.
pub fn follow<K, F>(
    context: &Context,
    (controller, resource): (&'static str, &'static str),
    readiness: Readiness,
    gone: F,
) -> (Store<Guarded<K>>, impl Stream<Item = Result<Guarded<K>, watcher::Error>> + Send + use<K, F>)
where
    F: Fn(&Guarded<K>) + Send + 'static,
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    readiness.expect(controller);
    let (store, writer) = reflector::store();
    let stream = watcher(Api::<Guarded<K>>::all(context.client.clone()), watcher::Config::default())
        .default_backoff()
        .inspect(watch_log(controller, resource, context.metrics.clone()))
        .inspect(move |event| match event {
            // Not by `Store::wait_until_ready`: of two that wait, kube 5 wakes only one, and the controller waits
            // too.
            Ok(watcher::Event::InitDone) => readiness.open(controller),
            Ok(watcher::Event::Delete(object)) => gone(object),
            _ => {}
        })
        .reflect(writer)
        .applied_objects()
        .predicate_filter(intent(), PredicateConfig::default());
    (store, stream)
}

/// What makes an object worth a look: its spec, its annotations, or that it goes.
fn intent<K: Resource>() -> impl Predicate<K> {
    predicates::generation.combine(predicates::annotations).combine(predicates::finalizers)
}

/// Those of the objects that can be read and fit.
pub fn these<K>(store: &Store<Guarded<K>>, fits: impl Fn(&K) -> bool) -> Vec<ObjectRef<Guarded<K>>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let found = store.state_filter(|object| object.0.as_ref().is_ok_and(&fits));
    found.into_iter().map(|object| ObjectRef::from_obj(&*object)).collect()
}

/// The object, if it can be read. Only another schema can do that; its next edit wakes us.
pub fn readable<K: Clone>(object: &Guarded<K>, controller: &'static str) -> Option<K> {
    match &object.0 {
        Ok(object) => Some(object.clone()),
        Err(error) => {
            tracing::error!(controller, name = error.metadata.name, %error, "unreadable object");
            None
        }
    }
}

/// Namespace and name, or the name.
pub fn key<K: Resource>(object: &K) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}
