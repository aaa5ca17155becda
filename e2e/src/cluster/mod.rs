//! Control planes: each cluster has an etcd, an API server, a
//! controller manager and a scheduler.

mod flags;
pub use flags::API_SERVICE_IP;
pub mod kubeconfig;
mod ports;

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use jsonwebtoken::jwk::JwkSet;
use kube::{Client, Config, config::KubeConfigOptions};
use tokio::time::Instant;

use crate::{
    Context, Error,
    dir::Dir,
    pki::{Authority, Identity, Subject, write_secret},
    process::Program,
    tools::Tools,
};
use ports::Port;

/// Name of the management cluster.
pub const MANAGEMENT: &str = "management";

/// How long a control plane may take, seconds. It takes about five on two cores.
const READY_SECONDS: u64 = 120;

/// An issuer of tokens that an API server trusts.
pub struct Trust {
    /// What stands in the tokens.
    pub issuer: String,
    /// Where its keys are found.
    pub discovery: String,
    /// Certificate of the authority of that address, PEM.
    pub ca: String,
    /// Audience of the tokens.
    pub audience: String,
}

impl Trust {
    fn configuration(&self) -> String {
        let none = "";
        let configuration = serde_json::json!({
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "AuthenticationConfiguration",
            "jwt": [{
                "issuer": {
                    "url": self.issuer, "discoveryURL": self.discovery,
                    "certificateAuthority": self.ca, "audiences": [self.audience],
                },
                "claimMappings": { "username": { "claim": "oid", "prefix": none } },
            }],
        });
        configuration.to_string()
    }
}

/// A running cluster.
pub struct Cluster {
    /// Its name: `management`, or the name of a reef slot.
    pub name: String,
    /// Tells clusters apart in addresses: pods of cluster n have 100.(64+n).x.y.
    pub index: u8,
    /// Port of its API server on 127.0.0.1.
    pub port: u16,
    /// Certificate of its authority, PEM.
    pub ca: String,
    /// Certificate of the authority that vouches for its public name, PEM.
    pub public_ca: String,
    /// Folder with its keys and settings.
    pub folder: PathBuf,
    authority: Authority,
    programs: Vec<Program>,
    // After the programs: a port is given away when nobody listens there any more.
    ports: Vec<Port>,
}

impl Cluster {
    /// Starts etcd and the API server of a cluster and returns without waiting for it; see [`Cluster::wait`]. With
    /// `entra` it also takes the tokens of that issuer, which has to run by then.
    pub fn start(
        dir: &Dir,
        tools: &Tools,
        (name, index): (&str, u8),
        entra: Option<&Trust>,
    ) -> Result<Self, Error> {
        let folder = dir.join("run").join(name);
        fs::create_dir_all(&folder).context("create the cluster's folder")?;
        let authority = Authority::new(&format!("{name} cluster authority"))?;
        let [api, etcd, peers] = [Port::take()?, Port::take()?, Port::take()?];
        let mut cluster = Self {
            name: name.to_owned(),
            index,
            port: api.number,
            ca: authority.cert(),
            public_ca: String::new(),
            folder,
            authority,
            programs: Vec::new(),
            ports: Vec::new(),
        };
        cluster.write_files(dir)?;
        cluster.rotate_public()?;
        if let Some(trust) = entra {
            let path = cluster.folder.join("authentication.json");
            fs::write(&path, trust.configuration()).context("write the authentication settings")?;
        }
        let store = format!("http://127.0.0.1:{}", etcd.number);
        cluster.run(dir, tools, "etcd", &flags::etcd(&cluster, &store, peers.number))?;
        cluster.ports = vec![api, etcd, peers];
        let arguments = flags::api_server(&cluster, dir, &store, entra.is_some());
        cluster.run(dir, tools, "kube-apiserver", &arguments)?;
        Ok(cluster)
    }

    fn run(&mut self, dir: &Dir, tools: &Tools, program: &str, arguments: &[String]) -> Result<(), Error> {
        let log = dir.log(&format!("{}-{program}", self.name));
        let program = Program::start(program, &tools.find(program)?, arguments, &log)
            .context(format!("start {program} of {}", self.name))?;
        self.programs.push(program);
        Ok(())
    }

    fn write_files(&self, dir: &Dir) -> Result<(), Error> {
        let folder = &self.folder;
        let io = |what: &str| format!("write {what} of {}", self.name);
        fs::write(folder.join("ca.crt"), &self.ca).context(io("ca.crt"))?;
        let names = [
            "127.0.0.1",
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            flags::API_SERVICE_IP,
        ];
        let server = self.authority.server(&Subject { user: "kube-apiserver", group: None }, &names)?;
        server.write(folder, "apiserver").context(io("apiserver.crt"))?;
        let kubelet_client = Subject { user: "kube-apiserver-kubelet-client", group: None };
        let kubelet_client = self.authority.client(&kubelet_client)?;
        kubelet_client.write(folder, "kubelet-client").context(io("kubelet-client.crt"))?;
        // Signs ServiceAccount tokens; a cluster's tokens are worth nothing at another cluster.
        let signer = rcgen::KeyPair::generate()?;
        write_secret(&folder.join("sa.key"), signer.serialize_pem().as_bytes()).context(io("sa.key"))?;
        fs::write(folder.join("sa.pub"), signer.public_key_pem()).context(io("sa.pub"))?;
        for (file, subject) in [
            ("controller-manager", Subject { user: "system:kube-controller-manager", group: None }),
            ("scheduler", Subject { user: "system:kube-scheduler", group: None }),
        ] {
            let identity = self.authority.client(&subject)?;
            self.write_kubeconfig(&folder.join(format!("{file}.kubeconfig")), &identity)?;
        }
        let admin = self.authority.client(&Subject { user: "admin", group: Some("system:masters") })?;
        self.write_kubeconfig(&self.kubeconfig(dir), &admin)?;
        fs::write(folder.join("audit-policy.yaml"), flags::AUDIT_POLICY).context(io("audit policy"))?;
        fs::write(folder.join("egress.yaml"), flags::egress(&self.api_socket(dir))).context(io("egress"))
    }

    /// Gives its public name a certificate of a new authority, which the API server takes up by itself.
    pub fn rotate_public(&mut self) -> Result<(), Error> {
        let authority = Authority::new(&format!("{} public authority", self.name))?;
        // The names that AKS clusters get are known only when they are made.
        let names = flags::public_names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let server = authority.server(&Subject { user: "kube-apiserver", group: None }, &names)?;
        server.write(&self.folder, "public").context(format!("write public.crt of {}", self.name))?;
        self.public_ca = authority.cert();
        Ok(())
    }

    fn write_kubeconfig(&self, path: &Path, identity: &Identity) -> Result<(), Error> {
        let text = kubeconfig::with_certificate(&self.name, self.port, &self.ca, identity);
        write_secret(path, text.as_bytes()).context(format!("write {}", path.display()))
    }

    /// Kubeconfig of the cluster's administrator.
    pub fn kubeconfig(&self, dir: &Dir) -> PathBuf {
        if self.name == MANAGEMENT {
            dir.management_kubeconfig()
        } else {
            dir.join("slots").join(format!("{}.kubeconfig", self.name))
        }
    }

    /// Socket through which the API server reaches nodes, pods and services.
    pub fn api_socket(&self, dir: &Dir) -> PathBuf {
        dir.socket(&format!("{}-api", self.name))
    }

    /// Credentials of a node: a server certificate for its kubelet's port that is also the node's identity.
    pub fn node_identity(&self, node: &str) -> Result<Identity, Error> {
        let user = format!("system:node:{node}");
        let subject = Subject { user: &user, group: Some("system:nodes") };
        Ok(self.authority.server(&subject, &["127.0.0.1", "localhost"])?)
    }

    /// A client with an identity.
    pub async fn client(&self, identity: &Identity) -> Result<Client, Error> {
        client(&kubeconfig::with_certificate(&self.name, self.port, &self.ca, identity)).await
    }

    /// A client of the cluster's administrator.
    pub async fn admin(&self) -> Result<Client, Error> {
        let subject = Subject { user: "reef-sandbox", group: Some("system:masters") };
        self.client(&self.authority.client(&subject)?).await
    }

    /// Waits until the API server says that it is ready, then starts what works against it: the
    /// controller manager gives up on an API server that is not there within ten seconds.
    pub async fn wait(&mut self, dir: &Dir, tools: &Tools) -> Result<Client, Error> {
        let client = self.admin().await?;
        let log = dir.log(&format!("{}-kube-apiserver", self.name)).display().to_string();
        let deadline = Instant::now() + Duration::from_secs(READY_SECONDS);
        while !is_ready(&client).await {
            if let Some(what) = self.ended() {
                return Err(Error::Ended(format!("{what}; see {log}")));
            }
            if Instant::now() > deadline {
                let what = format!("API server of {}", self.name);
                return Err(Error::NotReady { what, seconds: READY_SECONDS, log });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.run(dir, tools, "kube-controller-manager", &flags::controller_manager(self))?;
        self.run(dir, tools, "kube-scheduler", &flags::scheduler(self))?;
        Ok(client)
    }

    /// What stands as issuer in the cluster's tokens.
    pub fn issuer(&self) -> String {
        format!("https://oidc.sandbox.example/{}/", self.name)
    }

    /// The keys that verify the cluster's tokens, as the issuer's discovery publishes them.
    pub async fn public_keys(&self, client: &Client) -> Result<JwkSet, Error> {
        let request = http::Request::get("/openid/v1/jwks").body(Vec::new());
        let request = request.map_err(std::io::Error::other).context("keys of the cluster")?;
        let text = client.request_text(request).await?;
        serde_json::from_str(&text).map_err(std::io::Error::other).context("keys of the cluster")
    }

    /// Which of its programs has ended by itself.
    pub fn ended(&mut self) -> Option<String> {
        let name = self.name.clone();
        self.programs.iter_mut().find_map(Program::ended).map(|what| format!("{name}: {what}"))
    }

    /// Ends it.
    pub async fn kill(&mut self) {
        for program in &mut self.programs {
            program.kill().await;
        }
    }

    /// What network policies see as the API server's address.
    pub fn api_address() -> Ipv4Addr {
        flags::API_ADDRESS
    }

    /// Base of the pods' addresses.
    pub fn pod_network(&self) -> Ipv4Addr {
        Ipv4Addr::new(100, 64 + self.index, 0, 0)
    }
}

async fn is_ready(client: &Client) -> bool {
    match http::Request::get("/readyz").body(Vec::new()) {
        Ok(request) => client.request_text(request).await.is_ok(),
        Err(_) => false,
    }
}

/// A client from the text of a kubeconfig.
pub async fn client(kubeconfig: &str) -> Result<Client, Error> {
    let parsed = kube::config::Kubeconfig::from_yaml(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await?;
    // The API servers are ours and on this machine; a proxy of the user's environment cannot reach them.
    config.proxy_url = None;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}
