//! Calls to a reef's API server pass the breaker of the reef.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use kube::client::Body;
use tower::{BoxError, Layer, Service};

use crate::{
    azure::ArmError,
    bulkhead::{self, Cell, Outcome},
    leader::NotLeader,
};

/// Why a call was not made.
#[derive(Debug, thiserror::Error)]
#[error("calls to the reef's API server are held back, because it does not answer")]
struct HeldBack;

/// Puts the breaker in front of a client.
#[derive(Clone)]
pub struct BreakerLayer(pub Arc<Cell>);

impl<S> Layer<S> for BreakerLayer {
    type Service = Breaker<S>;

    fn layer(&self, inner: S) -> Breaker<S> {
        Breaker { cell: self.0.clone(), inner }
    }
}

/// A client behind the breaker of a reef.
#[derive(Clone)]
pub struct Breaker<S> {
    cell: Arc<Cell>,
    inner: S,
}

impl<S, B> Service<Request<Body>> for Breaker<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Ok(call) = self.cell.ask(bulkhead::Service::Cluster) else {
            return Box::pin(async { Err(HeldBack.into()) });
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await.map_err(Into::into);
            call.ended(match &answer {
                Ok(answer) if matches!(answer.status().as_u16(), 500 | 502..=504) => Outcome::Failed,
                // 429 and the like are answers: the API server is there.
                Ok(_) => Outcome::Answered,
                // Without a token, or a claim to lead, nobody was asked.
                Err(error) if error.is::<ArmError>() || error.is::<NotLeader>() => Outcome::Unknown,
                Err(_) => Outcome::Failed,
            });
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulkhead::Cells;
    use std::sync::{
        Mutex,
        atomic::{AtomicU16, AtomicU32, Ordering},
    };
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_fails_is_left_alone_until_it_answers() {
        let cell = Cells::new(1, Arc::default()).reef("r");
        let (asked, status) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU16::new(503)));
        let (count, answers) = (asked.clone(), status.clone());
        let inner = service_fn(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            let answer = Response::builder().status(answers.load(Ordering::SeqCst)).body(());
            async move { answer }
        });
        let client = Mutex::new(ServiceBuilder::new().layer(BreakerLayer(cell.clone())).service(inner));
        let status_of = async || {
            let client = client.lock().unwrap().clone();
            client.oneshot(Request::new(Body::empty())).await.map(|a| a.status().as_u16())
        };
        for _ in 0..5 {
            assert_eq!(status_of().await.unwrap(), 503);
        }
        let refused = status_of().await.unwrap_err().to_string();
        assert!(refused.contains("held back"), "{refused}");
        assert_eq!(asked.load(Ordering::SeqCst), 5);
        status.store(429, Ordering::SeqCst);
        tokio::time::advance(std::time::Duration::from_secs(11)).await;
        assert_eq!(status_of().await.unwrap(), 429, "an answer");
        assert_eq!(status_of().await.unwrap(), 429);
    }
}
