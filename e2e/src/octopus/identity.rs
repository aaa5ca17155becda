//! Workload identity: the ServiceAccount's token is exchanged at Entra for one that the database takes.

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::sync::Mutex;

use super::{
    settings::{Settings, WorkloadIdentity},
    tunnel::Tunnel,
};

/// What the token is for.
const SCOPE: &str = "https://database.windows.net/.default";

/// A token is renewed when it has less than this before it, or a twelfth of its life if that is less.
const MARGIN: Duration = Duration::from_secs(300);

/// Gets tokens and keeps the last one.
pub(super) struct Identity {
    workload: WorkloadIdentity,
    ca: PathBuf,
    tunnel: Tunnel,
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    token: String,
    until: Instant,
    margin: Duration,
}

impl Identity {
    /// The identity that the settings name.
    pub(super) fn new(settings: &Settings) -> Self {
        let tunnel = Tunnel::new(settings.proxy.as_deref());
        let (workload, ca) = (settings.identity.clone(), settings.ca.clone());
        Self { workload, ca, tunnel, kept: Mutex::default() }
    }

    /// A token with some life before it. The error tells Entra's reason.
    pub(super) async fn token(&self) -> io::Result<String> {
        let mut kept = self.kept.lock().await;
        if let Some(kept) = kept.as_ref().filter(|kept| kept.until > Instant::now() + kept.margin) {
            return Ok(kept.token.clone());
        }
        let asked = Instant::now();
        let (token, seconds) = self.exchange().await?;
        let life = Duration::from_secs(seconds);
        *kept = Some(Kept { token: token.clone(), until: asked + life, margin: MARGIN.min(life / 12) });
        Ok(token)
    }

    async fn exchange(&self) -> io::Result<(String, u64)> {
        let file = &self.workload.token_file;
        let assertion = tokio::fs::read_to_string(file)
            .await
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", file.display())))?;
        let url = format!(
            "{}/{}/oauth2/v2.0/token",
            self.workload.authority.trim_end_matches('/'),
            self.workload.tenant
        );
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", self.workload.client.as_str()),
            ("scope", SCOPE),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", assertion.trim()),
        ];
        let (status, body) = self.tunnel.post(&url, &self.ca, &form).await?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        match (status, body["access_token"].as_str()) {
            (200, Some(token)) => Ok((token.to_owned(), body["expires_in"].as_u64().unwrap_or(0))),
            _ => {
                let why = body["error_description"].as_str().unwrap_or("no reason given");
                Err(io::Error::other(format!("Entra answers {status}: {why}")))
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        azure::{TENANT, server::Azure},
        octopus::settings::tests::environment,
    };

    const ISSUER: &str = "https://oidc.example.test/slot-1";
    const SUBJECT: &str = "system:serviceaccount:instance-a:octopus";

    /// A cluster whose ServiceAccount has a federated credential in an emulated Azure.
    pub struct Federation {
        pub folder: TempDir,
        pub workload: WorkloadIdentity,
        pub azure: Azure,
        signing: EncodingKey,
    }

    impl Federation {
        pub async fn new() -> Self {
            let azure = Azure::start(1, 1.0).await.unwrap();
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("ca.crt"), azure.ca()).unwrap();
            let key = rcgen::KeyPair::generate().unwrap();
            let signing = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).unwrap();
            let mut jwk = Jwk::from_encoding_key(&signing, Algorithm::ES256).unwrap();
            jwk.common.key_id = Some("k".to_owned());
            azure.trust(ISSUER, jsonwebtoken::jwk::JwkSet { keys: vec![jwk] });
            let workload = WorkloadIdentity {
                client: azure.make_platform("octopus.example.test", ISSUER, SUBJECT).client_id,
                tenant: TENANT.to_owned(),
                authority: format!("https://localhost:{}/", azure.address().port()),
                token_file: folder.path().join("token"),
            };
            let federation = Self { folder, workload, azure, signing };
            federation.write(SUBJECT);
            federation
        }

        /// The file with the certificates of the authorities.
        pub fn ca(&self) -> std::path::PathBuf {
            self.folder.path().join("ca.crt")
        }

        fn token_file(&self) -> &Path {
            &self.workload.token_file
        }

        fn write(&self, subject: &str) {
            let header = Header { kid: Some("k".to_owned()), ..Header::new(Algorithm::ES256) };
            let exp = jiff::Timestamp::now().as_second() + 600;
            let claims =
                json!({ "iss": ISSUER, "sub": subject, "aud": "api://AzureADTokenExchange", "exp": exp });
            let token = jsonwebtoken::encode(&header, &claims, &self.signing).unwrap();
            std::fs::write(self.token_file(), token + "\n").unwrap();
        }

        /// Settings of a process with this identity.
        pub fn settings(&self) -> Settings {
            let mut settings = Settings::read(&environment()).map_err(|e| panic!("{e}")).unwrap();
            settings.ca = self.ca();
            settings.identity = self.workload.clone();
            settings
        }
    }

    fn claims(token: &str) -> Value {
        jsonwebtoken::dangerous::insecure_decode_claims(token).unwrap()
    }

    #[tokio::test]
    async fn a_service_account_gets_a_token_for_the_database_and_another_does_not() {
        let federation = Federation::new().await;
        let settings = federation.settings();
        let identity = Identity::new(&settings);
        let token = identity.token().await.unwrap();
        assert_eq!(claims(&token)["aud"], "https://database.windows.net");
        assert_eq!(claims(&token)["appid"], federation.workload.client.as_str());
        // Kept: no second exchange, which would fail now.
        std::fs::remove_file(federation.token_file()).unwrap();
        assert_eq!(identity.token().await.unwrap(), token);
        // Renewed when its end is near.
        if let Some(kept) = identity.kept.lock().await.as_mut() {
            kept.until = Instant::now() + Duration::from_secs(60);
        }
        assert!(identity.token().await.is_err());
        federation.write(SUBJECT);
        identity.token().await.unwrap();

        federation.write("system:serviceaccount:instance-b:octopus");
        let refused = Identity::new(&settings).token().await.unwrap_err().to_string();
        assert!(refused.contains("AADSTS700213"), "{refused}");
    }
}
