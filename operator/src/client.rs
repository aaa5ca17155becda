//! The client of the management cluster's API server.

use std::{sync::Arc, time::Duration};

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use kube::{Client, Config, client::ClientBuilder};
use tower::{filter::FilterLayer, timeout::TimeoutLayer};

use crate::{actor::Actor, metrics::Metrics, requests::CountLayer};

/// How long the API server may take to begin an answer. A watch begins its answer at once, so this does
/// not bound its length.
const FIRST_BYTE: Duration = Duration::from_secs(20);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither in a pod nor with a kubeconfig.
    #[error("no way to the API server: neither the pod's service account nor a kubeconfig is usable: {0}")]
    NoConfig(#[from] kube::config::InferConfigError),
    /// The proxy is not understood.
    #[error("HTTPS_PROXY: {proxy:?} must be a URL such as http://proxy.example:3128: {source}")]
    Proxy {
        /// What was given, without user and password.
        proxy: String,
        /// What is wrong with it.
        source: http::uri::InvalidUri,
    },
    /// The configuration cannot be used.
    #[error("client: {0}")]
    Client(#[from] kube::Error),
}

/// A client from the pod's service account or the kubeconfig, through the proxy that `HTTPS_PROXY` and
/// `NO_PROXY` name, for `actor`. It does not retry by itself: the controllers do, and see each failure.
pub async fn new(metrics: Arc<Metrics>, actor: &Actor) -> Result<Client, Error> {
    let mut config = Config::infer().await?;
    config.proxy_url = proxy(&config.cluster_url)?;
    config.default_retry = false;
    config.headers.extend(actor.header());
    config.connect_timeout = Some(Duration::from_secs(5));
    let count = CountLayer { metrics, host: "management".to_owned() };
    let builder = ClientBuilder::try_from(config)?
        .with_layer(&FilterLayer::new(actor.clone()))
        .with_layer(&TimeoutLayer::new(FIRST_BYTE))
        .with_layer(&count);
    Ok(builder.build())
}

/// The proxy for a server, as this process's environment says.
pub fn proxy(server: &Uri) -> Result<Option<Uri>, Error> {
    proxy_for(server, |name| std::env::var(name).ok())
}

/// The proxy for a server, as `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say. kube 5 reads them for
/// kubeconfigs only, and matches `NO_PROXY` against the proxy instead of the server.
fn proxy_for(server: &Uri, get: impl Fn(&str) -> Option<String>) -> Result<Option<Uri>, Error> {
    let either = |name: &str| get(&name.to_lowercase()).or_else(|| get(name)).filter(|v| !v.is_empty());
    let Some(proxy) = either("HTTPS_PROXY").or_else(|| either("ALL_PROXY")) else { return Ok(None) };
    let parsed = proxy.parse::<Uri>();
    let parsed = parsed.map_err(|source| Error::Proxy { proxy: host_of(&proxy).to_owned(), source })?;
    let except = either("NO_PROXY").unwrap_or_default();
    let matcher = Matcher::builder().all(proxy).no(except.clone()).build();
    // For servers known by address the matcher has no `*`.
    let excepted = except.trim() == "*" || matcher.intercept(server).is_none();
    Ok((!excepted).then_some(parsed))
}

/// The address without what may be a password.
fn host_of(proxy: &str) -> &str {
    proxy.rsplit('@').next().unwrap_or(proxy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(server: &str, env: &[(&str, &str)]) -> Option<String> {
        let get = |name: &str| env.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned());
        proxy_for(&server.parse().unwrap(), get).unwrap().map(|uri| uri.to_string())
    }

    #[test]
    fn the_proxy_is_taken_unless_the_server_is_excepted() {
        let server = "https://172.16.0.1:443/";
        let via = ("HTTPS_PROXY", "http://127.0.0.1:3128");
        assert_eq!(chosen(server, &[]), None);
        assert_eq!(chosen(server, &[via]).as_deref(), Some("http://127.0.0.1:3128/"));
        // An exception for the proxy's own address is none for the server.
        assert!(chosen(server, &[via, ("NO_PROXY", "localhost,127.0.0.1")]).is_some());
        for except in ["172.16.0.1", "172.16.0.0/16", "*", "a.example,172.16.0.1"] {
            assert_eq!(chosen(server, &[via, ("NO_PROXY", except)]), None, "{except}");
        }
        assert_eq!(chosen("https://api.example:6443", &[via, ("no_proxy", ".example")]), None);
        let with_user = chosen(server, &[("https_proxy", "http://u:p@proxy.example:8080")]);
        assert_eq!(with_user.as_deref(), Some("http://u:p@proxy.example:8080/"));
    }

    #[test]
    fn a_bad_proxy_is_named_without_its_password() {
        let get = |name: &str| (name == "HTTPS_PROXY").then(|| "http://u:secret@bad host:1".to_owned());
        let error = proxy_for(&"https://a/".parse().unwrap(), get).unwrap_err().to_string();
        assert!(error.contains("bad host:1") && !error.contains("secret"), "{error}");
    }
}
