//! Tokens of whoever is signed in with Azure's command lines on this machine.
//!
//! `azure_identity` has the parts: it asks `az` or `azd` anew for each token, a process each time, and unless it is told the
//! tenant it asks for the one that was signed in to last.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use azure_core::{
    credentials::{AccessToken, TokenCredential, TokenRequestOptions},
    error::{Error, ErrorKind},
};
use azure_identity::{
    AzureCliCredential, AzureCliCredentialOptions, AzureDeveloperCliCredential,
    AzureDeveloperCliCredentialOptions, Executor,
};

/// So long before its end a token is not used any more.
const MARGIN: Duration = Duration::from_secs(300);

/// The tools, and the tokens that they gave, by scope.
pub struct Developer {
    tools: [Arc<dyn TokenCredential>; 2],
    tokens: Mutex<HashMap<String, AccessToken>>,
    /// One at a time asks; who has a token need not wait for that.
    asks: tokio::sync::Mutex<()>,
}

impl Developer {
    /// Tokens for what is in this tenant. Programs are run by `executor`, or as processes of their own.
    pub fn new(tenant: &str, executor: Option<Arc<dyn Executor>>) -> azure_core::Result<Self> {
        let tenant_id = Some(tenant.to_owned());
        let cli = AzureCliCredentialOptions {
            tenant_id: tenant_id.clone(),
            executor: executor.clone(),
            ..AzureCliCredentialOptions::default()
        };
        let developer_cli = AzureDeveloperCliCredentialOptions { tenant_id, executor };
        let tools: [Arc<dyn TokenCredential>; 2] =
            [AzureCliCredential::new(Some(cli))?, AzureDeveloperCliCredential::new(Some(developer_cli))?];
        Ok(Self { tools, tokens: Mutex::default(), asks: tokio::sync::Mutex::default() })
    }

    fn known(&self, scope: &str) -> Option<AccessToken> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(scope).filter(|token| is_fresh(token, SystemTime::now())).cloned()
    }
}

impl fmt::Debug for Developer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Developer")
    }
}

fn is_fresh(token: &AccessToken, now: SystemTime) -> bool {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default() + MARGIN;
    u64::try_from(token.expires_on.unix_timestamp()).is_ok_and(|end| end > now.as_secs())
}

#[async_trait::async_trait]
impl TokenCredential for Developer {
    async fn get_token(
        &self,
        scopes: &[&str],
        options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let scope = scopes.join(" ");
        if let Some(token) = self.known(&scope) {
            return Ok(token);
        }
        // Who waited for another one's question finds the answer.
        let _asks = self.asks.lock().await;
        if let Some(token) = self.known(&scope) {
            return Ok(token);
        }
        let mut refusals = Vec::new();
        for tool in &self.tools {
            match tool.get_token(scopes, options.clone()).await {
                Ok(token) => {
                    let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
                    tokens.insert(scope, token.clone());
                    return Ok(token);
                }
                Err(error) => refusals.push(error.to_string()),
            }
        }
        Err(Error::with_message(ErrorKind::Credential, refusals.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::OsStr,
        io,
        os::unix::process::ExitStatusExt,
        process::{ExitStatus, Output},
    };

    use super::*;

    /// Answers as a tool would, and notes what it was called with.
    #[derive(Debug)]
    struct Machine {
        /// What `az` says; nothing if nobody is signed in.
        az: Option<String>,
        calls: Mutex<Vec<String>>,
    }

    #[async_trait::async_trait]
    impl Executor for Machine {
        async fn run(&self, _: &OsStr, args: &[&OsStr]) -> io::Result<Output> {
            let line = args.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ");
            let answer = if line.contains("azd ") { None } else { self.az.clone() };
            self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            let status = ExitStatus::from_raw(if answer.is_some() { 0 } else { 256 });
            let stderr = b"nobody is signed in".to_vec();
            Ok(Output { status, stdout: answer.unwrap_or_default().into_bytes(), stderr })
        }
    }

    const TENANT: &str = "00000000-0000-4000-8000-00000000000a";

    fn machine(life: Option<u64>) -> (Arc<Machine>, Developer) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let az = life.map(|life| {
            let end = now + life;
            format!(r#"{{"accessToken":"signed-in","expires_on":{end},"tokenType":"Bearer"}}"#)
        });
        let machine = Arc::new(Machine { az, calls: Mutex::default() });
        let developer = Developer::new(TENANT, Some(machine.clone())).unwrap();
        (machine, developer)
    }

    #[tokio::test]
    async fn a_token_of_the_tenant_is_asked_for_once() {
        let (machine, developer) = machine(Some(3600));
        for scope in ["https://arm/.default", "https://arm/.default", "https://sql/.default"] {
            let token = developer.get_token(&[scope], None).await.unwrap();
            assert_eq!(token.token.secret(), "signed-in");
        }
        let calls = machine.calls.lock().unwrap();
        assert_eq!(calls.len(), 2, "{calls:?}");
        assert!(calls.iter().all(|call| call.contains(&format!("--tenant {TENANT}"))), "{calls:?}");
        assert!(calls[0].contains("https://arm/.default") && calls[1].contains("https://sql/.default"));
    }

    #[tokio::test]
    async fn one_that_ends_soon_is_not_kept() {
        let (machine, developer) = machine(Some(299));
        for _ in 0..2 {
            developer.get_token(&["https://arm/.default"], None).await.unwrap();
        }
        assert_eq!(machine.calls.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn who_is_signed_in_nowhere_hears_of_both_tools() {
        let (machine, developer) = machine(None);
        let error = developer.get_token(&["https://arm/.default"], None).await.unwrap_err().to_string();
        assert!(error.contains("AzureCliCredential") && error.contains("AzureDeveloperCli"), "{error}");
        assert_eq!(machine.calls.lock().unwrap().len(), 2);
    }
}
