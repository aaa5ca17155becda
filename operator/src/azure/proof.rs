//! How the operator proves to Entra who it is.

use std::{
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{digest, rand};
use azure_core::{
    base64::encode_url_safe,
    credentials::{Secret, TokenCredential},
    error::ErrorKind,
    http::{ClientMethodOptions, ClientOptions},
};
use azure_identity::{
    ClientAssertion, ClientAssertionCredential, ClientAssertionCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions, ManagedIdentityCredential, ManagedIdentityCredentialOptions,
    UserAssignedId, WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use rustls::{
    SignatureScheme,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SigningKey},
};
use serde_json::json;

use super::{Identity, developer::Developer};

/// How long an assertion that is signed with a certificate is good for. It is used at once; clocks differ.
const ASSERTION: Duration = Duration::from_secs(600);

/// What proves who the operator is. Its content is never shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Proof {
    /// The pod's ServiceAccount token, for which the identity has a federated credential.
    WorkloadIdentity,
    /// That it runs on a machine of Azure that has the identity.
    ManagedIdentity,
    /// A password of the application.
    ClientSecret(Arc<str>),
    /// A certificate of the application and its private key, PEM.
    ClientCertificate(Arc<Pair>),
    /// Whoever is signed in with Azure's command line on this machine.
    DeveloperTools,
}

/// A certificate and its private key, PEM.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WorkloadIdentity => "WorkloadIdentity",
            Self::ManagedIdentity => "ManagedIdentity",
            Self::ClientSecret(_) => "ClientSecret",
            Self::ClientCertificate(_) => "ClientCertificate",
            Self::DeveloperTools => "DeveloperTools",
        })
    }
}

impl Proof {
    /// From a certificate and its key, PEM. The error says what is wrong with which, never what is in it.
    pub fn certificate(certificate: &[u8], key: &[u8]) -> Result<Self, String> {
        let pair = Pair { certificate: certificate.to_owned(), key: key.to_owned() };
        signer(&pair)?;
        Ok(Self::ClientCertificate(Arc::new(pair)))
    }

    /// What gets tokens with it. `token_file` holds the ServiceAccount token.
    pub(super) fn credential(
        &self,
        identity: &Identity,
        token_file: &Path,
        options: &ClientOptions,
    ) -> azure_core::Result<Arc<dyn TokenCredential>> {
        let (tenant, client) = (identity.tenant.clone(), identity.client.clone());
        let client_options = options.clone();
        Ok(match self {
            Self::WorkloadIdentity => {
                WorkloadIdentityCredential::new(Some(WorkloadIdentityCredentialOptions {
                    credential_options: ClientAssertionCredentialOptions { client_options },
                    client_id: Some(client),
                    tenant_id: Some(tenant),
                    token_file_path: Some(token_file.to_owned()),
                }))?
            }
            Self::ManagedIdentity => {
                ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions {
                    user_assigned_id: Some(UserAssignedId::ClientId(client)),
                    client_options,
                }))?
            }
            Self::ClientSecret(secret) => ClientSecretCredential::new(
                &tenant,
                client,
                Secret::new(secret.to_string()),
                Some(ClientSecretCredentialOptions { client_options }),
            )?,
            Self::ClientCertificate(pair) => {
                let key =
                    signer(pair).map_err(|e| azure_core::Error::with_message(ErrorKind::Credential, e))?;
                let audience = format!("{}/{tenant}/oauth2/v2.0/token", identity.cloud.authority);
                let signed = Signed { key, audience, client: client.clone() };
                let options = ClientAssertionCredentialOptions { client_options };
                ClientAssertionCredential::new(tenant, client, signed, Some(options))?
            }
            Self::DeveloperTools => Arc::new(Developer::new(&tenant, None)?),
        })
    }
}

/// The key that signs, and the thumbprint by which Entra finds the certificate.
struct Signer {
    key: Arc<dyn SigningKey>,
    thumbprint: String,
}

fn signer(pair: &Pair) -> Result<Signer, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pair.certificate)
        .collect::<Result<_, _>>()
        .map_err(|e| format!("tls.crt is not PEM: {e:?}"))?;
    let first = chain.first().cloned().ok_or("tls.crt holds no certificate in PEM")?;
    // The parser's own words could quote the key.
    let key = PrivateKeyDer::from_pem_slice(&pair.key).map_err(|_| "tls.key holds no private key in PEM")?;
    let key = default_provider().key_provider.load_private_key(key);
    let key = key.map_err(|_| "tls.key is of a kind that is not supported")?;
    if key.choose_scheme(&[SignatureScheme::RSA_PSS_SHA256]).is_none() {
        return Err("tls.key is no RSA key, and Entra takes no other".to_owned());
    }
    let matches = CertifiedKey::new(chain, key.clone()).keys_match();
    matches.map_err(|_| "tls.key does not belong to the certificate in tls.crt")?;
    let thumbprint = encode_url_safe(digest::digest(&digest::SHA256, &first));
    Ok(Signer { key, thumbprint })
}

/// Signs assertions (learn.microsoft.com/entra/identity-platform/certificate-credentials).
struct Signed {
    key: Signer,
    audience: String,
    client: String,
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Signed {
    /// An assertion with this id that is good from now on.
    fn assertion(&self, id: &str, now: Duration) -> Result<String, String> {
        let header = json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": self.key.thumbprint });
        let claims = json!({
            "aud": self.audience, "iss": self.client, "sub": self.client, "jti": id,
            "nbf": now.as_secs(), "iat": now.as_secs(), "exp": (now + ASSERTION).as_secs(),
        });
        let text = format!("{}.{}", encode_url_safe(header.to_string()), encode_url_safe(claims.to_string()));
        let signer = self.key.key.choose_scheme(&[SignatureScheme::RSA_PSS_SHA256]).ok_or("no RSA key")?;
        let signature = signer.sign(text.as_bytes()).map_err(|e| e.to_string())?;
        Ok(format!("{text}.{}", encode_url_safe(signature)))
    }
}

#[async_trait::async_trait]
impl ClientAssertion for Signed {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Never the same one twice.
        let mut id = [0; 16];
        let error = |text: String| azure_core::Error::with_message(ErrorKind::Credential, text);
        rand::fill(&mut id).map_err(|_| error("no random numbers".to_owned()))?;
        let id = encode_url_safe(id);
        self.assertion(&id, now).map_err(error)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use azure_core::http::{AsyncRawResponse, HttpClient, Request, StatusCode, Transport, headers::Headers};

    use super::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};

    fn pair(key: &KeyPair) -> (Vec<u8>, Vec<u8>) {
        let certificate = CertificateParams::new(Vec::<String>::new()).unwrap().self_signed(key).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }

    /// The metadata service of a machine; notes what it is asked.
    #[derive(Debug, Default)]
    struct Metadata(Mutex<Vec<(String, bool)>>);

    #[async_trait::async_trait]
    impl HttpClient for Metadata {
        async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
            let is_told = request.headers().get_optional_str(&"metadata".into()) == Some("true");
            self.0.lock().unwrap().push((request.url().to_string(), is_told));
            let answer = r#"{"access_token":"of the machine","expires_on":"4102444800","token_type":"Bearer","resource":"r"}"#;
            Ok(AsyncRawResponse::from_bytes(StatusCode::Ok, Headers::new(), answer))
        }
    }

    #[tokio::test]
    async fn the_machine_is_asked_for_the_identity_that_is_meant() {
        let metadata = Arc::new(Metadata::default());
        let options =
            ClientOptions { transport: Some(Transport::new(metadata.clone())), ..ClientOptions::default() };
        let identity = Identity {
            cloud: crate::azure::Cloud::public(),
            tenant: "t".to_owned(),
            client: "00000000-0000-4000-8000-0000000000c1".to_owned(),
            proof: Proof::ManagedIdentity,
        };
        let credential = identity.proof.credential(&identity, Path::new("/none"), &options).unwrap();
        for _ in 0..2 {
            let token = credential.get_token(&["https://management.azure.com/.default"], None).await.unwrap();
            assert_eq!(token.token.secret(), "of the machine");
        }
        let asked = metadata.0.lock().unwrap();
        let [(url, is_told)] = &asked[..] else { panic!("not once: {asked:?}") };
        assert!(
            url.starts_with("http://169.254.169.254/metadata/identity/oauth2/token?") && *is_told,
            "{url}"
        );
        let has = |query: &str| url.contains(query);
        assert!(has("client_id=00000000-0000-4000-8000-0000000000c1"), "{url}");
        assert!(has("resource=https%3A%2F%2Fmanagement.azure.com"), "{url}");
    }

    #[test]
    fn a_certificate_that_cannot_sign_is_refused_without_showing_it() {
        let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let (certificate, key) = pair(&rsa);
        let other = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap().serialize_pem();
        let elliptic = pair(&KeyPair::generate().unwrap());
        for (certificate, key, expect) in [
            (&b"x"[..], &key[..], "tls.crt holds no certificate"),
            (&certificate, b"SECRET", "tls.key holds no private key"),
            (&certificate, other.as_bytes(), "does not belong"),
            (&elliptic.0, &elliptic.1, "no RSA key"),
        ] {
            let error = Proof::certificate(certificate, key).unwrap_err();
            assert!(error.contains(expect) && !error.contains("SECRET"), "{error}");
        }
        let proof = Proof::certificate(&certificate, &key).unwrap();
        assert_eq!(
            format!("{proof:?} {:?}", Proof::ClientSecret("s".into())),
            "ClientCertificate ClientSecret"
        );
    }

    #[test]
    fn an_assertion_says_who_for_whom_and_until_when() {
        let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let (certificate, key) = pair(&rsa);
        let key = signer(&Pair { certificate, key }).unwrap();
        let signed =
            Signed { key, audience: "https://login/t/oauth2/v2.0/token".to_owned(), client: "c".to_owned() };
        let text = signed.assertion("one", Duration::from_secs(1000)).unwrap();
        let parts: Vec<&str> = text.split('.').collect();
        let part = |at: usize| -> serde_json::Value {
            serde_json::from_slice(&azure_core::base64::decode_url_safe(parts[at]).unwrap()).unwrap()
        };
        assert_eq!(
            (part(0)["alg"].as_str(), part(0)["x5t#S256"].as_str().map(str::len)),
            (Some("PS256"), Some(43))
        );
        assert_eq!(part(1)["exp"], 1600);
        assert_eq!(part(1)["aud"], "https://login/t/oauth2/v2.0/token");
        let public = aws_lc_rs::signature::UnparsedPublicKey::new(
            &aws_lc_rs::signature::RSA_PSS_2048_8192_SHA256,
            rsa.public_key_raw(),
        );
        let (signed_part, signature) = text.rsplit_once('.').unwrap();
        let signature = azure_core::base64::decode_url_safe(signature).unwrap();
        public.verify(signed_part.as_bytes(), &signature).unwrap();
    }
}
