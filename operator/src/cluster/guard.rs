//! A client of a reef's cluster that refuses what an emergency stop or a pause forbids: the net under the decisions.

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use kube::{Client, client::Body};
use tower::{BoxError, Service};

use crate::controller::{stop::Ban, trouble::Trouble};

/// Why a call was not made.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.message)]
struct Forbidden(Trouble);

struct Guard {
    client: Client,
    ban: Ban,
}

impl Service<Request<Body>> for Guard {
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;
    type Response = Response<Body>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if let Some(trouble) = refusal(&self.ban, request.method(), request.uri().path()) {
            let refused: BoxError = Box::new(Forbidden(trouble.clone()));
            return Box::pin(std::future::ready(Err(refused)));
        }
        let client = self.client.clone();
        Box::pin(async move { Ok(client.send(request).await?) })
    }
}

/// Why a call is not made, if it is not.
fn refusal<'a>(ban: &'a Ban, method: &Method, path: &str) -> Option<&'a Trouble> {
    let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(method);
    // A pod holds nothing and comes again: that is how it is restarted.
    let segments: Vec<_> = path.split('/').collect();
    let restarts = matches!(segments[..], ["", "api", "v1", "namespaces", _, "pods", _]);
    let deletes = *method == Method::DELETE && !restarts;
    ban.writes.as_ref().filter(|_| !reads).or(ban.deletions.as_ref().filter(|_| deletes))
}

/// The client, under a ban.
pub fn guarded(client: Client, ban: &Ban) -> Client {
    if *ban == Ban::default() {
        return client;
    }
    let namespace = client.default_namespace().to_owned();
    Client::new(Guard { client, ban: ban.clone() }, namespace)
}

/// Why a call was not made, if that is what an error says.
pub fn forbidden(error: &kube::Error) -> Option<Trouble> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(Forbidden(trouble)) = error.downcast_ref() {
            return Some(trouble.clone());
        }
        source = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use k8s_openapi::api::core::v1::Secret;
    use kube::{
        Api,
        api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    };
    use reef_crds::condition::Reason;
    use serde_json::json;

    use super::*;
    use crate::{cluster::keep::verdict, resources::Verdict};

    fn because(what: &str) -> Trouble {
        Trouble::new(Reason::EmergencyStop, what)
    }

    /// Answers everything and counts.
    struct Server(Arc<AtomicU32>);

    impl Service<Request<Body>> for Server {
        type Error = BoxError;
        type Future = std::future::Ready<Result<Response<Body>, BoxError>>;
        type Response = Response<Body>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            self.0.fetch_add(1, Ordering::Relaxed);
            let body = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" } });
            std::future::ready(Ok(Response::new(Body::from(body.to_string().into_bytes()))))
        }
    }

    #[tokio::test]
    async fn only_what_is_allowed_arrives() {
        let calls = Arc::new(AtomicU32::new(0));
        let ban = Ban { writes: Some(because("all")), deletions: Some(because("d")) };
        let client = guarded(Client::new(Server(calls.clone()), "n"), &ban);
        let secrets = Api::<Secret>::namespaced(client, "n");
        secrets.get("s").await.unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 1, "reads arrive");
        let apply = Patch::Merge(json!({}));
        let refused = [
            secrets.create(&PostParams::default(), &Secret::default()).await.map(drop),
            secrets.patch("s", &PatchParams::default(), &apply).await.map(drop),
            secrets.delete("s", &DeleteParams::default()).await.map(drop),
            secrets.delete_collection(&DeleteParams::default(), &ListParams::default()).await.map(drop),
        ];
        for result in refused {
            let error = result.unwrap_err();
            assert_eq!(forbidden(&error), Some(because("all")), "{error}");
            let Verdict::Failed(trouble) = verdict("Secret", "s", &error) else { panic!("a verdict") };
            assert_eq!(trouble.reason, Reason::EmergencyStop);
            assert!(trouble.message.contains("Secret s"), "{}", trouble.message);
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1, "nothing else does");
    }

    #[test]
    fn what_is_refused() {
        let all = Ban { writes: Some(because("all")), deletions: Some(because("all")) };
        let deletions = Ban { writes: None, deletions: Some(because("d")) };
        let secret = "/api/v1/namespaces/n/secrets/s";
        let pod = "/api/v1/namespaces/n/pods/octopus-0";
        for (ban, method, path, expect) in [
            (&Ban::default(), Method::DELETE, secret, None),
            (&deletions, Method::PATCH, secret, None),
            (&deletions, Method::DELETE, secret, Some(because("d"))),
            (&deletions, Method::DELETE, "/api/v1/namespaces/n/pods", Some(because("d"))),
            (&deletions, Method::DELETE, "/api/v1/namespaces/pods", Some(because("d"))),
            (&deletions, Method::DELETE, pod, None),
            (&all, Method::DELETE, pod, Some(because("all"))),
            (&all, Method::PUT, secret, Some(because("all"))),
            (&all, Method::GET, secret, None),
        ] {
            assert_eq!(refusal(ban, &method, path), expect.as_ref(), "{method} {path}");
        }
    }
}
