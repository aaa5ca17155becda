//! The Entra token issuer: exchanges a cluster's ServiceAccount token for an access token where a federated
//! credential says so, and an application's password for one, and nothing else.
//!
//! Access tokens are signed with ES256; Entra's own are RS256. Everything else that callers look at is alike.

use std::collections::HashMap;

use aws_lc_rs::rand;
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode,
    jwk::{Jwk, JwkSet},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{ARM_HOST, Cloud, TENANT};
use crate::{Error, hex};

/// What stands as issuer in the access tokens of a tenant.
pub const ISSUER: &str = "https://sts.windows.net/{tenant}/";

/// Life of an access token, seconds.
pub const TOKEN_SECONDS: u64 = 3600;

/// The issuer.
pub struct Entra {
    signing: EncodingKey,
    verifying: DecodingKey,
    keys: JwkSet,
    /// Life of the tokens that are issued from now on, seconds.
    life: u64,
    /// The keys of the clusters, by the issuer in their tokens.
    issuers: HashMap<String, JwkSet>,
    /// Applications that have a password, by client id.
    applications: HashMap<String, Application>,
}

struct Application {
    password: String,
    principal: String,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    oid: String,
    sub: String,
    appid: String,
    tid: String,
    iat: u64,
    nbf: u64,
    exp: u64,
}

#[derive(Deserialize)]
struct Assertion {
    iss: String,
    sub: String,
    aud: Audience,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// A refusal in OAuth's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// OAuth error, for example `invalid_client`.
    pub error: &'static str,
    /// Text that begins with Entra's error number.
    pub description: String,
}

impl Refusal {
    fn new(error: &'static str, description: impl Into<String>) -> Self {
        Self { error, description: description.into() }
    }

    /// The body of the answer.
    pub fn body(&self) -> Value {
        json!({ "error": self.error, "error_description": self.description })
    }
}

impl Entra {
    /// A new issuer with a key of its own.
    pub fn new() -> Result<Self, Error> {
        let key = rcgen::KeyPair::generate()?;
        let broken = |error: jsonwebtoken::errors::Error| Error::Token(error.to_string());
        let signing = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).map_err(broken)?;
        let verifying = DecodingKey::from_ec_pem(key.public_key_pem().as_bytes()).map_err(broken)?;
        let mut jwk = Jwk::from_encoding_key(&signing, Algorithm::ES256).map_err(broken)?;
        jwk.common.key_id = Some("sandbox".to_owned());
        Ok(Self {
            signing,
            verifying,
            keys: JwkSet { keys: vec![jwk] },
            life: TOKEN_SECONDS,
            issuers: HashMap::new(),
            applications: HashMap::new(),
        })
    }

    /// Makes the tokens of a cluster verifiable.
    pub fn trust(&mut self, issuer: &str, keys: JwkSet) {
        self.issuers.insert(issuer.to_owned(), keys);
    }

    /// Makes an application with a password, which is returned.
    pub fn register(&mut self, client: &str, principal: &str) -> Result<String, Error> {
        let mut bytes = [0; 20];
        rand::fill(&mut bytes).map_err(|_| Error::Token("no random numbers".to_owned()))?;
        let password = hex(&bytes);
        let application = Application { password: password.clone(), principal: principal.to_owned() };
        self.applications.insert(client.to_owned(), application);
        Ok(password)
    }

    /// How long tokens live from now on, seconds: what Entra's policies of token lifetimes decide.
    pub fn set_life(&mut self, seconds: u64) {
        self.life = seconds;
    }

    /// The issuer's public keys.
    pub fn keys(&self) -> &JwkSet {
        &self.keys
    }

    /// An access token for an identity. `scope` is a resource with `/.default`, `now` seconds since 1970.
    pub fn issue(&self, client_id: &str, principal: &str, scope: &str, now: u64) -> Result<String, Error> {
        let claims = Claims {
            iss: ISSUER.replace("{tenant}", TENANT),
            aud: audience(scope).to_owned(),
            oid: principal.to_owned(),
            sub: principal.to_owned(),
            appid: client_id.to_owned(),
            tid: TENANT.to_owned(),
            iat: now,
            nbf: now,
            exp: now + self.life,
        };
        let header = Header { kid: Some("sandbox".to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims, &self.signing).map_err(|e| Error::Token(e.to_string()))
    }

    /// The object id in a token for ARM; otherwise the code and message with which ARM refuses it.
    pub fn principal(&self, token: &str) -> Result<String, (&'static str, String)> {
        let mut validation = Validation::new(Algorithm::ES256);
        let arm = format!("https://{ARM_HOST}");
        validation.set_audience(&[arm.as_str(), &format!("{arm}/"), "https://management.core.windows.net/"]);
        validation.leeway = 0;
        match decode::<Claims>(token, &self.verifying, &validation) {
            Ok(data) => Ok(data.claims.oid),
            Err(error) => Err(match error.kind() {
                jsonwebtoken::errors::ErrorKind::ExpiredSignature => {
                    ("ExpiredAuthenticationToken", "The token has ended.".to_owned())
                }
                jsonwebtoken::errors::ErrorKind::InvalidAudience => {
                    ("InvalidAuthenticationTokenAudience", "The token is for another audience.".to_owned())
                }
                _ => ("InvalidAuthenticationToken", "This is no token of this tenant.".to_owned()),
            }),
        }
    }

    /// Object id and client id in a token for Azure SQL; none if it is not one, or its time is over.
    pub fn sql_principal(&self, token: &str) -> Option<(String, String)> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&["https://database.windows.net", "https://database.windows.net/"]);
        validation.leeway = 0;
        let data = decode::<Claims>(token, &self.verifying, &validation).ok()?;
        Some((data.claims.oid, data.claims.appid))
    }

    /// Answers the token endpoint: client credentials with a federated assertion or a password.
    pub fn exchange(
        &self,
        form: &HashMap<String, String>,
        cloud: &Cloud,
        now: u64,
    ) -> Result<Value, Refusal> {
        let field = |name: &str| form.get(name).map(String::as_str).filter(|v| !v.is_empty());
        if field("grant_type") != Some("client_credentials") {
            return Err(Refusal::new(
                "unsupported_grant_type",
                "AADSTS70003: only client_credentials is a grant type here.",
            ));
        }
        let missing =
            |name: &str| Refusal::new("invalid_request", format!("AADSTS900144: the form lacks '{name}'."));
        let client = field("client_id").ok_or_else(|| missing("client_id"))?;
        let scope = field("scope").ok_or_else(|| missing("scope"))?;
        if let Some(password) = field("client_secret") {
            let application = self.applications.get(client).filter(|a| a.password == password);
            let application = application.ok_or_else(|| {
                let text = format!("AADSTS7000215: this is not a client secret of application '{client}'.");
                Refusal::new("invalid_client", text)
            })?;
            return self.granted(client, &application.principal, scope, now);
        }
        let assertion = field("client_assertion").ok_or_else(|| missing("client_assertion"))?;
        let identities = cloud.resources("Microsoft.ManagedIdentity/userAssignedIdentities");
        let identity =
            identities.iter().find(|i| i["properties"]["clientId"] == client).ok_or_else(|| {
                Refusal::new(
                    "unauthorized_client",
                    format!("AADSTS700016: no application '{client}' in tenant '{TENANT}'."),
                )
            })?;
        let assertion = self.assertion(assertion)?;
        let id = identity["id"].as_str().unwrap_or_default().to_lowercase();
        let credentials =
            cloud.resources("Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials");
        let fits = |credential: &Value| {
            let properties = &credential["properties"];
            let below =
                credential["id"].as_str().is_some_and(|c| c.to_lowercase().starts_with(&format!("{id}/")));
            let audience = properties["audiences"]
                .as_array()
                .is_some_and(|a| a.iter().any(|a| assertion.has(a.as_str().unwrap_or_default())));
            below
                && audience
                && properties["issuer"] == assertion.iss.as_str()
                && properties["subject"] == assertion.sub.as_str()
        };
        if !credentials.iter().any(fits) {
            return Err(Refusal::new(
                "invalid_client",
                format!(
                    "AADSTS700213: no federated credential fits subject '{}' with its issuer and audience.",
                    assertion.sub
                ),
            ));
        }
        let principal = identity["properties"]["principalId"].as_str().unwrap_or_default();
        self.granted(client, principal, scope, now)
    }

    fn granted(&self, client: &str, principal: &str, scope: &str, now: u64) -> Result<Value, Refusal> {
        let token = self.issue(client, principal, scope, now);
        let token = token.map_err(|e| Refusal::new("server_error", e.to_string()))?;
        Ok(
            json!({ "token_type": "Bearer", "expires_in": self.life, "ext_expires_in": self.life, "access_token": token }),
        )
    }

    /// Verifies a cluster's token against that cluster's keys.
    fn assertion(&self, token: &str) -> Result<Assertion, Refusal> {
        let bad = |why: &str| {
            Refusal::new("invalid_client", format!("AADSTS700027: the assertion is not verified: {why}."))
        };
        let header = decode_header(token)
            .map_err(|_| Refusal::new("invalid_request", "AADSTS50027: this is no JWT."))?;
        let claimed: Assertion = jsonwebtoken::dangerous::insecure_decode_claims(token)
            .map_err(|_| Refusal::new("invalid_request", "AADSTS50027: this is no JWT."))?;
        let keys = self.issuers.get(&claimed.iss).ok_or_else(|| {
            Refusal::new(
                "invalid_client",
                format!("AADSTS700211: no federated credential fits issuer '{}'.", claimed.iss),
            )
        })?;
        let key = header
            .kid
            .as_deref()
            .and_then(|kid| keys.find(kid))
            .ok_or_else(|| bad("the key is not known"))?;
        let key = DecodingKey::from_jwk(key).map_err(|_| bad("the key is not usable"))?;
        let mut validation = Validation::new(header.alg);
        // The audience is compared with the federated credential's, below.
        validation.validate_aud = false;
        match decode::<Assertion>(token, &key, &validation) {
            Ok(data) => Ok(data.claims),
            Err(error) if matches!(error.kind(), jsonwebtoken::errors::ErrorKind::ExpiredSignature) => {
                Err(Refusal::new("invalid_client", "AADSTS700024: the assertion has ended or has not begun."))
            }
            Err(_) => Err(bad("the signature does not match")),
        }
    }
}

impl Assertion {
    fn has(&self, audience: &str) -> bool {
        match &self.aud {
            Audience::One(one) => one == audience,
            Audience::Many(many) => many.iter().any(|a| a == audience),
        }
    }
}

/// The resource of a scope.
fn audience(scope: &str) -> &str {
    scope.strip_suffix("/.default").unwrap_or(scope)
}
