//! The emulator behind HTTPS, its journal, and the control API.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::pending,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use axum::{
    Form, Json, Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response as HttpResponse},
    routing::{delete, get, post},
};
use jiff::Timestamp;
use jsonwebtoken::jwk::JwkSet;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{
    ARM_HOST, Cloud, ENTRA_HOST, OPERATOR_IDENTITY, PLATFORM_GROUP, Request, Response, SUBSCRIPTION, TENANT,
    actions::AKS_SERVER_APP,
    cloud::Grant,
    control,
    entra::{Entra, ISSUER},
    faults::{Fault, Faults, TOKENS},
    files::{MountRequest, Moved},
    id::Target,
    kinds::uuid,
    put, roles, secrets,
    slots::{self, Event, Slot},
};
use crate::{
    Context, Error,
    cluster::Trust,
    pki::{Authority, Identity, Subject},
    sql::DOMAIN,
    tls::TlsListener,
};

/// A running emulator.
#[derive(Clone)]
pub struct Azure(pub(super) Arc<Inner>);

pub(super) struct Inner {
    cloud: Mutex<Cloud>,
    entra: Mutex<Entra>,
    pub(super) faults: Mutex<Faults>,
    pub(super) journal: Mutex<Vec<Value>>,
    began: Instant,
    scale: f64,
    /// Address of ARM and Entra.
    address: SocketAddr,
    /// Address of the control API.
    control: SocketAddr,
    /// Certificate of the authority that signed the server's.
    ca: String,
    /// Certificate of all Azure SQL servers.
    sql: Identity,
    /// Connections to databases.
    pub(super) sessions: Mutex<(u64, HashMap<u64, TcpStream>)>,
}

/// What existed before the operator: ids that manifests refer to.
pub struct Platform {
    /// Id of the DNS zone.
    pub zone_id: String,
    /// Client id of the operator's identity.
    pub client_id: String,
}

impl Azure {
    /// Starts the emulator on two free ports. `scale` is how many times faster than Azure it is.
    pub async fn start(seed: u64, scale: f64) -> Result<Self, Error> {
        let authority = Authority::new("sandbox Azure authority")?;
        let names = [ARM_HOST, ENTRA_HOST, "localhost", "127.0.0.1"];
        let identity = authority.server(&Subject { user: ARM_HOST, group: None }, &names)?;
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let (listener, control) =
            (bind().await.context("ARM's port")?, bind().await.context("control port")?);
        let address = listener.local_addr().context("ARM's port")?;
        let inner = Inner {
            cloud: Mutex::new(Cloud::new(&format!("https://{ARM_HOST}"), seed, scale)),
            entra: Mutex::new(Entra::new()?),
            faults: Mutex::new(Faults::new(seed)),
            journal: Mutex::default(),
            began: Instant::now(),
            scale,
            address,
            control: control.local_addr().context("control port")?,
            ca: authority.cert(),
            sql: authority.server(&Subject { user: DOMAIN, group: None }, &[&format!("*.{DOMAIN}")])?,
            sessions: Mutex::default(),
        };
        let azure = Self(Arc::new(inner));
        let arm = Router::new()
            .route("/{tenant}/oauth2/v2.0/token", post(token))
            .route("/{tenant}/discovery/v2.0/keys", get(keys))
            .route("/{tenant}/.well-known/openid-configuration", get(configuration))
            .fallback(arm)
            .with_state(azure.clone());
        let tls = TlsListener::new(listener, &identity, None);
        let tls = tls.map_err(std::io::Error::other).context("ARM's certificate")?;
        tokio::spawn(async move { axum::serve(tls, arm).await });
        let router = Router::new()
            .route("/journal", get(control::journal))
            .route("/resources", get(control::resources))
            .route("/faults", get(control::labels).post(control::add_fault).delete(control::clear_faults))
            .route("/faults/{label}", delete(control::remove_faults))
            .route("/tokens", post(control::token_life))
            .route("/secrets", get(secrets::all))
            .route("/made", get(put::made))
            .route("/sql/sessions", delete(control::end_sessions))
            .route("/aks/authorities", delete(slots::rotate_authorities))
            .with_state(azure.clone());
        tokio::spawn(async move { axum::serve(control, router).await });
        Ok(azure)
    }

    /// Address of ARM and Entra.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// How an API server comes to trust Entra's tokens for AKS.
    pub fn trust_for_aks(&self) -> Trust {
        Trust {
            issuer: ISSUER.replace("{tenant}", TENANT),
            discovery: format!("https://{}/{TENANT}/.well-known/openid-configuration", self.0.address),
            ca: self.0.ca.clone(),
            audience: AKS_SERVER_APP.to_owned(),
        }
    }

    /// The emulator's state.
    pub(super) fn cloud(&self) -> &Mutex<Cloud> {
        &self.0.cloud
    }

    /// The token issuer.
    pub(super) fn entra(&self) -> &Mutex<Entra> {
        &self.0.entra
    }

    /// The certificate of all Azure SQL servers.
    pub fn sql_identity(&self) -> &Identity {
        &self.0.sql
    }

    /// What listens on this machine for one of Azure's names.
    pub fn resolve(&self, host: &str) -> Option<SocketAddr> {
        if [ARM_HOST, ENTRA_HOST].contains(&host) {
            return Some(self.0.address);
        }
        let port = lock(&self.0.cloud).slots.port(host)?;
        Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// Adds a cluster that an AKS cluster can get.
    pub fn add_slot(&self, slot: Slot) {
        lock(&self.0.cloud).slots.add(slot);
    }

    /// Lets what is due take effect, also while nobody calls; what became of clusters since the last time.
    pub fn tick(&self) -> Vec<Event> {
        let now = self.now();
        let mut cloud = lock(&self.0.cloud);
        cloud.settle(now);
        cloud.slots.take_events()
    }

    /// Whether a node of the AKS cluster behind a slot gets a share; see [`Cloud::may_mount`].
    pub fn may_mount(&self, slot: &str, wanted: &MountRequest<'_>) -> Result<(), String> {
        lock(&self.0.cloud).may_mount(slot, wanted)
    }

    /// What became of shares since the last call.
    pub fn take_moved_shares(&self) -> Vec<Moved> {
        lock(&self.0.cloud).take_moved_shares()
    }

    /// The AKS clusters that are made, by slot, with the object ids of those who administrate each.
    pub fn administrators(&self) -> Vec<(Slot, BTreeSet<String>)> {
        let cloud = lock(&self.0.cloud);
        let made = cloud.slots.made().into_iter();
        made.map(|(key, slot)| (slot, cloud.principals(roles::AKS_RBAC_CLUSTER_ADMIN, &key))).collect()
    }

    /// Remembers a connection to a database, so that it can be ended; under which number.
    pub fn note_session(&self, stream: TcpStream) -> u64 {
        let mut sessions = lock(&self.0.sessions);
        sessions.0 += 1;
        let number = sessions.0;
        sessions.1.insert(number, stream);
        number
    }

    /// Forgets a connection that has ended.
    pub fn forget_session(&self, number: u64) {
        lock(&self.0.sessions).1.remove(&number);
    }

    /// Certificate of the emulator's authority, PEM.
    pub fn ca(&self) -> &str {
        &self.0.ca
    }

    /// Makes tokens of a cluster's ServiceAccounts verifiable.
    pub fn trust(&self, issuer: &str, keys: JwkSet) {
        lock(&self.0.entra).trust(issuer, keys);
    }

    /// Makes what a platform team has before it installs the operator: a DNS zone, an identity for the
    /// operator, its federated credential for the ServiceAccount `subject` of the cluster with this issuer,
    /// and its roles.
    pub fn make_platform(&self, zone: &str, issuer: &str, subject: &str) -> Platform {
        let mut cloud = lock(&self.0.cloud);
        let group = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{PLATFORM_GROUP}");
        let here = json!({ "location": "westeurope" });
        cloud.seed_resource(&group, &here);
        let zone_id = format!("{group}/providers/Microsoft.Network/dnsZones/{zone}");
        cloud.seed_resource(&zone_id, &json!({ "location": "global" }));
        let identity =
            format!("{group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{OPERATOR_IDENTITY}");
        let made = cloud.seed_resource(&identity, &here);
        let text = |name: &str| made["properties"][name].as_str().unwrap_or_default().to_owned();
        let (principal, client_id) = (text("principalId"), text("clientId"));
        let credential = json!({ "properties": { "issuer": issuer, "subject": subject, "audiences": ["api://AzureADTokenExchange"] } });
        cloud.seed_resource(&format!("{identity}/federatedIdentityCredentials/operator"), &credential);
        let subscription = format!("/subscriptions/{SUBSCRIPTION}");
        let grants: [Grant<'_>; 2] = [
            (&principal, roles::CONTRIBUTOR, &subscription),
            (&principal, roles::USER_ACCESS_ADMINISTRATOR, &subscription),
        ];
        for grant in grants {
            cloud.grant(grant);
        }
        Platform { zone_id, client_id }
    }

    /// What a user of the sandbox needs to call ARM: endpoint, CA file, a bearer token or an application's password, control
    /// API.
    pub fn access(&self, ca_file: &std::path::Path) -> Result<Value, Error> {
        let user = "00000000-0000-4000-8000-0000000000ff";
        lock(&self.0.cloud).grant((user, roles::OWNER, &format!("/subscriptions/{SUBSCRIPTION}")));
        let mut entra = lock(&self.0.entra);
        let token = entra.issue(user, user, &format!("https://{ARM_HOST}/.default"), seconds())?;
        Ok(json!({
            "arm": format!("https://{}", self.0.address),
            "ca": ca_file,
            "token": token,
            "clientId": user,
            "clientSecret": entra.register(user, user)?,
            "control": format!("http://{}", self.0.control),
            "subscription": SUBSCRIPTION,
            "tenant": TENANT,
        }))
    }

    /// The cloud's own time, milliseconds.
    pub fn now(&self) -> u64 {
        let scaled = self.0.began.elapsed().as_secs_f64() * self.0.scale * 1000.0;
        std::time::Duration::try_from_secs_f64(scaled / 1000.0)
            .map_or(u64::MAX, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    /// `client` is the identity that calls, `agent` what the program says of itself.
    fn note(&self, (method, path): (&str, &str), status: u16, client: &str, agent: &str) {
        lock(&self.0.journal).push(json!({
            "time": Timestamp::now(), "method": method, "path": path, "status": status, "client": client,
            "agent": agent,
        }));
    }

    /// One call to ARM with its faults; `None` where there is no answer at all.
    fn call(&self, request: &Request) -> Result<Response, NoAnswer> {
        let target = Target::parse(&request.path);
        let (kind, name) = target.as_ref().map(|t| (t.kind(), t.name().to_owned())).unwrap_or_default();
        let fault = lock(&self.0.faults).meet((&request.method, &request.path), &kind, &name);
        let now = self.now();
        let mut cloud = lock(&self.0.cloud);
        match fault {
            None => Ok(cloud.handle(request, now)),
            Some(fault @ Fault::Answer { takes_effect, .. }) => {
                if takes_effect {
                    cloud.handle(request, now);
                }
                fault.answer().ok_or(NoAnswer::Cut)
            }
            Some(Fault::Hang) => Err(NoAnswer::Hang),
            Some(Fault::LostAnswer) => {
                cloud.handle(request, now);
                Err(NoAnswer::Cut)
            }
            Some(Fault::NoAnswer) => {
                cloud.handle(request, now);
                Err(NoAnswer::Hang)
            }
            Some(Fault::Flip) => Ok(cloud.handle_flipped(request, now)),
            Some(Fault::Pages { items }) => {
                let mut request = request.clone();
                request.query.entry("$top".to_owned()).or_insert_with(|| items.to_string());
                Ok(cloud.handle(&request, now))
            }
            Some(Fault::Omit) => {
                let whole = cloud.handle(request, now);
                Ok(lock(&self.0.faults).omit(whole))
            }
            Some(Fault::FailLate { code, message }) => {
                let answer = cloud.handle(request, now);
                cloud.fail_operation(&answer, &code, &message);
                Ok(answer)
            }
        }
    }
}

enum NoAnswer {
    Hang,
    Cut,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seconds() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or(0)
}

/// Why a call for a token gets no answer of Entra's own, if a test wants that.
fn token_fault(azure: &Azure, tenant: &str, client: &str) -> Option<Result<HttpResponse, NoAnswer>> {
    let fault = lock(&azure.0.faults).meet(("POST", "/token"), TOKENS, client)?;
    let (status, answer) = match fault {
        Fault::Answer { status, code, .. } => {
            let body = json!({ "error": "temporarily_unavailable", "error_description": code });
            (status, Ok((StatusCode::from_u16(status).unwrap_or_default(), Json(body)).into_response()))
        }
        Fault::Hang => (0, Err(NoAnswer::Hang)),
        Fault::LostAnswer
        | Fault::NoAnswer
        | Fault::FailLate { .. }
        | Fault::Flip
        | Fault::Omit
        | Fault::Pages { .. } => (0, Err(NoAnswer::Cut)),
    };
    azure.note(("POST", &format!("/{tenant}/oauth2/v2.0/token")), status, client, "");
    Some(answer)
}

async fn token(
    State(azure): State<Azure>,
    Path(tenant): Path<String>,
    Form(form): Form<HashMap<String, String>>,
) -> HttpResponse {
    let client = form.get("client_id").map_or("", String::as_str);
    match token_fault(&azure, &tenant, client) {
        None => {}
        Some(Ok(answer)) => return answer,
        Some(Err(NoAnswer::Hang)) => return pending::<HttpResponse>().await,
        Some(Err(NoAnswer::Cut)) => return cut(),
    }
    let result = {
        let (entra, cloud) = (lock(&azure.0.entra), lock(&azure.0.cloud));
        entra.exchange(&form, &cloud, seconds())
    };
    let (status, body) = match result {
        Ok(_) if tenant != TENANT => {
            let text = format!("AADSTS90002: there is no tenant '{tenant}'.");
            (StatusCode::BAD_REQUEST, json!({ "error": "invalid_request", "error_description": text }))
        }
        Ok(body) => (StatusCode::OK, body),
        Err(refusal) if refusal.error == "invalid_client" => (StatusCode::UNAUTHORIZED, refusal.body()),
        Err(refusal) => (StatusCode::BAD_REQUEST, refusal.body()),
    };
    azure.note(("POST", &format!("/{tenant}/oauth2/v2.0/token")), status.as_u16(), client, "");
    (status, Json(body)).into_response()
}

/// Where the keys of the issuer are. API servers of this machine ask, so the address is loopback's.
async fn configuration(State(azure): State<Azure>) -> HttpResponse {
    let base = format!("https://{}/{TENANT}", azure.0.address);
    let configuration = json!({
        "issuer": ISSUER.replace("{tenant}", TENANT),
        "jwks_uri": format!("{base}/discovery/v2.0/keys"),
        "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
        "token_endpoint": format!("{base}/oauth2/v2.0/token"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["ES256"],
    });
    Json(configuration).into_response()
}

async fn keys(State(azure): State<Azure>) -> HttpResponse {
    Json(json!(lock(&azure.0.entra).keys())).into_response()
}

async fn arm(
    State(azure): State<Azure>,
    uri: Uri,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> HttpResponse {
    let path = uri.path().to_owned();
    let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let bearer = text(header::AUTHORIZATION).and_then(|v| v.strip_prefix("Bearer ").map(str::to_owned));
    let (answer, client) = match principal(&azure, bearer) {
        Err(refusal) => (Ok(refusal), "-".to_owned()),
        Ok(principal) => match serde_json::from_slice(&body) {
            Err(error) if !body.is_empty() => {
                let message = format!("The body is not JSON: {error}");
                (Ok(Response::gateway_error(400, "InvalidRequestContent", message)), principal)
            }
            parsed => {
                let request = Request {
                    method: method.as_str().to_owned(),
                    path: path.clone(),
                    query: query(uri.query().unwrap_or_default()),
                    if_match: text(header::IF_MATCH),
                    if_none_match: text(header::IF_NONE_MATCH),
                    snapshot: text(header::HeaderName::from_static("x-ms-snapshot")),
                    body: parsed.ok(),
                    principal: principal.clone(),
                };
                (azure.call(&request), principal)
            }
        },
    };
    let status = answer.as_ref().map_or(0, |a| a.status);
    let agent = text(header::USER_AGENT).unwrap_or_default();
    azure.note((method.as_str(), &path), status, &client, &agent);
    match answer {
        Ok(answer) => http(answer, &uuid(1, &format!("call {}", lock(&azure.0.journal).len()))),
        Err(NoAnswer::Hang) => pending::<HttpResponse>().await,
        Err(NoAnswer::Cut) => cut(),
    }
}

/// A body that breaks off makes the server close the connection: the caller has no answer.
fn cut() -> HttpResponse {
    let broken = futures::stream::once(async { Err::<Bytes, _>(std::io::Error::other("cut")) });
    HttpResponse::new(Body::from_stream(broken))
}

fn principal(azure: &Azure, bearer: Option<String>) -> Result<String, Response> {
    let refuse = |code: &str, message: &str| {
        let challenge =
            format!("Bearer authorization_uri=\"https://{ENTRA_HOST}/{TENANT}\", error=\"invalid_token\"");
        Response::gateway_error(401, code, message).header("www-authenticate", challenge)
    };
    let Some(token) = bearer else {
        return Err(refuse("AuthenticationFailed", "There is no Authorization header."));
    };
    lock(&azure.0.entra).principal(&token).map_err(|(code, message)| refuse(code, &message))
}

fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    // Of what our callers send only `$` comes escaped.
    pairs.map(|(k, v)| (k.replace("%24", "$").to_lowercase(), v.to_owned())).collect()
}

fn http(answer: Response, id: &str) -> HttpResponse {
    let mut response = match answer.body {
        Some(body) => Json(body).into_response(),
        None => ().into_response(),
    };
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let ids = ["x-ms-request-id", "x-ms-correlation-request-id"].map(|name| (name, id.to_owned()));
    for (name, value) in answer.headers.into_iter().chain(ids) {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
