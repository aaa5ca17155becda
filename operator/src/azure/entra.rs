//! Tokens of Entra for one identity.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use azure_core::{credentials::TokenCredential, http::ClientOptions};

use super::{ArmError, Identity, client::one_line};

/// Longest wait for a token. A token is asked for minutes before the one in use ends, so few calls ever wait.
const LONGEST: Duration = Duration::from_secs(10);

/// A token that is refused so soon after it was got is not the reason: another would be refused as well, and Entra would be
/// asked with each call.
const YOUNG: Duration = Duration::from_secs(30);

/// Gets tokens, and keeps them until shortly before they end.
pub struct Entra {
    identity: Identity,
    token_file: PathBuf,
    options: ClientOptions,
    current: Mutex<Current>,
}

#[derive(Clone)]
struct Current {
    credential: Arc<dyn TokenCredential>,
    /// Counts the credentials.
    number: u64,
    since: Instant,
}

/// A token, as the header `Authorization`.
pub struct Token {
    /// The header.
    pub header: String,
    number: u64,
}

impl Entra {
    /// Tokens of an identity, in exchange for the one in this file.
    pub fn new(identity: Identity, token_file: PathBuf, options: ClientOptions) -> Result<Self, ArmError> {
        let credential = credential(&identity, &token_file, &options)?;
        let current = Mutex::new(Current { credential, number: 0, since: Instant::now() });
        Ok(Self { identity, token_file, options, current })
    }

    /// A token for a scope.
    pub async fn token(&self, scope: &str) -> Result<Token, ArmError> {
        let Current { credential, number, .. } =
            self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // While one caller gets a new token, the others wait for it, those who would find theirs in the cache too.
        let token = tokio::time::timeout(LONGEST, credential.get_token(&[scope], None)).await;
        let token = token.map_err(|_| ArmError::NoToken {
            client: self.identity.client.clone(),
            message: format!("no answer from Entra within {} s", LONGEST.as_secs()),
            refused: false,
        })?;
        let token = token.map_err(|e| no_token(&self.identity, &e))?;
        Ok(Token { header: format!("Bearer {}", token.token.secret()), number })
    }

    /// Azure does not take a token, though its time is not over: it is forgotten, and the next call gets another.
    pub fn refused(&self, token: &Token, now: Instant) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // Of several calls with one token only the first counts.
        if current.number != token.number || now.saturating_duration_since(current.since) < YOUNG {
            return;
        }
        match credential(&self.identity, &self.token_file, &self.options) {
            Ok(credential) => *current = Current { credential, number: token.number + 1, since: now },
            Err(error) => tracing::warn!(%error, "a credential for Azure"),
        }
    }
}

fn credential(
    identity: &Identity,
    token_file: &Path,
    options: &ClientOptions,
) -> Result<Arc<dyn TokenCredential>, ArmError> {
    identity.proof.credential(identity, token_file, options).map_err(|e| no_token(identity, &e))
}

fn no_token(identity: &Identity, error: &azure_core::Error) -> ArmError {
    let message = one_line(error);
    let refused = is_refused(&message);
    ArmError::NoToken { client: identity.client.clone(), message, refused }
}

/// Entra numbers its refusals; without a number it was not asked or did not answer. Some numbers say only that it has
/// trouble itself, or too much to do: external server, timeout, budget of requests, transient error, throttling.
fn is_refused(message: &str) -> bool {
    const PASSING: [&str; 5] = ["AADSTS90006", "AADSTS90012", "AADSTS90024", "AADSTS90033", "AADSTS90055"];
    message.contains("AADSTS") && !PASSING.iter().any(|number| message.contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::azure::{Cloud, Proof};

    #[test]
    fn trouble_of_entras_own_is_no_refusal() {
        for (message, refused) in [
            ("AADSTS700213: no matching federated identity record found", true),
            ("AADSTS90033: A transient error has occurred. Please try again.", false),
            ("AADSTS90055: The tenant is throttled", false),
            ("connection refused", false),
        ] {
            assert_eq!(is_refused(message), refused, "{message}");
        }
    }

    #[test]
    fn a_token_that_is_refused_is_asked_for_anew_once() {
        let identity = Identity {
            cloud: Cloud::public(),
            tenant: "t".to_owned(),
            client: "c".to_owned(),
            proof: Proof::WorkloadIdentity,
        };
        // Only has to be there: nobody asks for a token.
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").into();
        let entra = Entra::new(identity, file, ClientOptions::default()).unwrap();
        let number = || entra.current.lock().unwrap().number;
        let token = |number| Token { header: String::new(), number };
        let first = entra.current.lock().unwrap().credential.clone();
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        entra.refused(&token(0), at(0));
        assert_eq!(number(), 0, "a new one would be no better");
        entra.refused(&token(0), at(60));
        assert_eq!(number(), 1);
        assert!(!Arc::ptr_eq(&first, &entra.current.lock().unwrap().credential));
        entra.refused(&token(0), at(200));
        assert_eq!(number(), 1, "it was of the one before");
        entra.refused(&token(1), at(70));
        assert_eq!(number(), 1, "too soon");
        entra.refused(&token(1), at(200));
        assert_eq!(number(), 2);
    }
}
