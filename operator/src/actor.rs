//! Who calls: the name by which servers tell our processes apart in their logs, and whether this one may write now.
//!
//! All replicas have one identity. Decisions ask for the claim to lead before they write; between such a question and the
//! request there may be a wait, for a token or for a turn. So it is asked once more right before a request goes out.

use http::{HeaderName, HeaderValue, Method, Request, header::USER_AGENT};
use kube::client::Body;
use tower::{BoxError, filter::Predicate};

use crate::leader::{Claim, NotLeader};

/// Longest name of an application that Azure's clients take, characters.
const LONGEST: usize = 24;

/// A process of ours.
#[derive(Clone, Debug, Default)]
pub struct Actor {
    name: String,
    /// None for one that nobody elects: a check, an agent.
    claim: Option<Claim>,
}

impl Actor {
    /// A replica, by the name of its pod, and its claim to lead.
    pub fn replica(name: &str, claim: Claim) -> Self {
        Self { name: name.to_owned(), claim: Some(claim) }
    }

    /// Whether it may write now.
    pub fn may_write(&self) -> Result<(), NotLeader> {
        self.claim.as_ref().map_or(Ok(()), Claim::check)
    }

    /// What it tells API servers about itself, `reef-operator/<version> (<pod>)`; their audit logs show it.
    pub fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        let (version, name) = (env!("CARGO_PKG_VERSION"), &self.name);
        let of = if name.is_empty() { String::new() } else { format!(" ({name})") };
        Some((USER_AGENT, HeaderValue::from_str(&format!("reef-operator/{version}{of}")).ok()?))
    }

    /// What it tells Azure about itself: the end of its name, which tells the pods of a Deployment apart. Azure's clients
    /// put it in front of what they say themselves.
    pub fn application(&self) -> Option<String> {
        let fits = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let fitting: Vec<char> = self.name.chars().filter(fits).collect();
        let end: String = fitting[fitting.len().saturating_sub(LONGEST)..].iter().collect();
        let end = end.trim_start_matches('-').to_owned();
        (!end.is_empty()).then_some(end)
    }
}

/// Lets a request to an API server pass, if it reads, is about the election itself, or we may write.
impl Predicate<Request<Body>> for Actor {
    type Request = Request<Body>;

    fn check(&mut self, request: Request<Body>) -> Result<Request<Body>, BoxError> {
        let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
        if !reads && !request.uri().path().starts_with("/apis/coordination.k8s.io/") {
            self.may_write()?;
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(actor: &Actor, method: Method, path: &str) -> bool {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        actor.clone().check(request).is_ok()
    }

    #[test]
    fn without_a_claim_a_replica_reads_and_takes_part_in_the_election() {
        let follower = Actor::replica("a", Claim::default());
        let lease = "/apis/coordination.k8s.io/v1/namespaces/n/leases/l";
        for (method, path, expect) in [
            (Method::GET, "/api/v1/pods", true),
            (Method::PUT, lease, true),
            (Method::POST, "/api/v1/namespaces/n/secrets", false),
            (Method::PATCH, "/apis/cloud.octopus.com/v1alpha1/reefs/a/status", false),
            (Method::DELETE, "/api/v1/namespaces/n", false),
        ] {
            assert_eq!(passes(&follower, method.clone(), path), expect, "{method} {path}");
            assert!(passes(&Actor::default(), method, path), "nobody elects it");
        }
    }

    #[test]
    fn servers_are_told_the_pod() {
        let actor = Actor::replica("reef-operator-5c7d9b6f8-x2k4q", Claim::default());
        let version = env!("CARGO_PKG_VERSION");
        let expect = format!("reef-operator/{version} (reef-operator-5c7d9b6f8-x2k4q)");
        assert_eq!(actor.header().unwrap().1, expect);
        assert_eq!(actor.application().as_deref(), Some("operator-5c7d9b6f8-x2k4q"));
        for (name, expect) in
            [("", None), ("a b", Some("ab")), ("x-01234567890123456789012", Some("01234567890123456789012"))]
        {
            assert_eq!(Actor::replica(name, Claim::default()).application().as_deref(), expect, "{name}");
        }
        assert_eq!(Actor::default().header().unwrap().1, format!("reef-operator/{version}"));
    }
}
