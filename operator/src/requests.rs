//! Counts the requests to API servers, as client-go does: for dashboards, and to see what a routine look costs.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use kube::client::Body;
use tower::{BoxError, Layer, Service};

use crate::metrics::{ByRequest, Metrics};

/// Counts what passes.
#[derive(Clone)]
pub struct CountLayer {
    /// Where to count.
    pub metrics: Arc<Metrics>,
    /// Which API server: `management`, or the name of a Reef.
    pub host: String,
}

impl<S> Layer<S> for CountLayer {
    type Service = Count<S>;

    fn layer(&self, inner: S) -> Count<S> {
        Count { layer: self.clone(), inner }
    }
}

/// A client whose requests are counted.
#[derive(Clone)]
pub struct Count<S> {
    layer: CountLayer,
    inner: S,
}

impl<S, B> Service<Request<Body>> for Count<S>
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
        let CountLayer { metrics, host } = self.layer.clone();
        let method = request.method().to_string();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await.map_err(Into::into);
            let code = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
            metrics.requests.get_or_create(&ByRequest { host, method, code }).inc();
            answer
        })
    }
}
