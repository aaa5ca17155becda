//! The objects of a controller's own kind: how they are followed, and which of their changes are worth a look.

use futures::{Stream, StreamExt};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DynamicObject, ListParams},
    core::{ApiResource, DeserializeGuard},
    runtime::{
        Predicate, PredicateConfig, WatchStreamExt,
        events::Recorder,
        predicates,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use reef_crds::condition::Reason;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Context, Error, publish, watch_log};
use crate::{admin::Readiness, metrics::ByController};

/// Objects that are listed at once.
const PAGE: u32 = 500;

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

/// The object, if it can be read. Only another schema lets in one that cannot: that is told, nothing is done for it and
/// nothing of it is touched, and its next edit wakes us.
pub async fn readable<K>(
    object: &Guarded<K>,
    controller: &'static str,
    context: &Context,
    recorder: &Recorder,
) -> Option<K>
where
    K: Resource<DynamicType = ()> + Clone,
{
    let error = match &object.0 {
        Ok(object) => return Some(object.clone()),
        Err(error) => error,
    };
    tracing::error!(controller, name = error.metadata.name, %error, "unreadable object");
    context.metrics.unreadable.get_or_create(&ByController { controller }).inc();
    if context.claim.check().is_ok() {
        let note = format!(
            "the operator cannot read this object, does nothing for it and touches nothing of it: {error}. Correct it, or install the CRD chart that belongs to the operator"
        );
        publish(recorder, &object.object_ref(&()), Reason::SpecInvalid, true, "Read", &note).await;
    }
    None
}

/// An object of a list.
pub enum Listed<'a, K> {
    /// As its type.
    Readable(&'a K),
    /// As it stands there; see [`readable`].
    Unreadable(&'a Value),
}

/// Looks at all objects of a kind, in pages, from the API server itself and not from a cache. One that cannot be read
/// does not hide the others.
pub async fn each<K>(
    client: &Client,
    what: &'static str,
    mut look: impl FnMut(Listed<'_, K>) + Send,
) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let api = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::erase::<K>(&()));
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&parameters).await.map_err(Error::api(what))?;
        for object in page.items {
            let value = serde_json::to_value(object).unwrap_or_default();
            match K::deserialize(&value) {
                Ok(object) => look(Listed::Readable(&object)),
                Err(_) => look(Listed::Unreadable(&value)),
            }
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(()),
        }
    }
}

/// The name of an object that cannot be read, unless it says at `path` that it belongs somewhere else.
pub fn may_be_here(kind: &str, value: &Value, path: &str, name: &str) -> Option<String> {
    let text = |path: &str| value.pointer(path).and_then(Value::as_str);
    let is_elsewhere = text(path).is_some_and(|there| there != name);
    let namespace = text("/metadata/namespace").map(|namespace| format!("{namespace}/")).unwrap_or_default();
    let object = text("/metadata/name").unwrap_or_default();
    (!is_elsewhere).then(|| format!("{kind} {namespace}{object}, which cannot be read"))
}

/// Namespace and name, or the name.
pub fn key<K: Resource>(object: &K) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}
