//! The world: process 1 of the sandbox's PID namespace.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use kube::Client;
use tokio::{
    io::AsyncReadExt,
    signal::unix::{SignalKind, signal},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Context, Error,
    azure::server::Azure,
    cluster::{Cluster, MANAGEMENT},
    curls,
    dir::Dir,
    install::{self, Demo},
    net::{Caller, ClusterNetwork, Outside, metadata, proxy},
    node::{Image, Node},
    octopus,
    reefs::Reefs,
    shares::Shares,
    sql,
    tools::Tools,
};

/// The user that the image of Octopus Server runs as.
const OCTOPUS_UID: u32 = 999;

/// What a world is made of. The same flags are those of `reef-sandbox up`.
#[derive(Args, Clone, Debug)]
pub struct WorldArgs {
    /// Folder for everything that the sandbox writes.
    #[arg(long, default_value = ".reef-sandbox", env = "REEF_SANDBOX_DIR")]
    pub dir: PathBuf,

    /// Number of spare clusters that reefs get; each has a control plane of its own.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=8))]
    pub reef_slots: u8,

    /// How many times faster than Azure the emulated one is; 1 is Azure's own pace.
    #[arg(long, default_value_t = 20.0, value_parser = time_scale)]
    pub time_scale: f64,

    /// Makes ids and chances of the emulated Azure repeatable.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Number of CPUs that each node says it has. Nothing is bounded by it: it is what the scheduler and resizes of
    /// pods reckon with.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub node_cpus: u32,

    /// Number of nodes of each reef's cluster.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub reef_nodes: u8,

    /// Leave the operator out: an empty management cluster.
    #[arg(long)]
    pub no_operator: bool,

    /// The operator's program.
    #[arg(long, value_name = "FILE", help = "The operator's program [default: beside reef-sandbox]")]
    pub operator_binary: Option<PathBuf>,

    /// A file that the operator's image has besides, in its root folder under its own name.
    #[arg(long, value_name = "FILE")]
    pub operator_file: Option<PathBuf>,

    /// Apply the manifests of this folder when the operator runs, and say how they fare.
    #[arg(long, value_name = "DIR")]
    pub samples: Option<PathBuf>,

    /// With --samples: end when all are Ready (status 0) or cannot be (status 1).
    #[arg(long, requires = "samples")]
    pub exit_when_ready: bool,
}

impl WorldArgs {
    /// These flags as arguments again.
    pub fn to_args(&self) -> Vec<String> {
        let mut args =
            vec![format!("--dir={}", self.dir.display()), format!("--reef-slots={}", self.reef_slots)];
        args.extend([format!("--time-scale={}", self.time_scale), format!("--seed={}", self.seed)]);
        args.extend([format!("--node-cpus={}", self.node_cpus), format!("--reef-nodes={}", self.reef_nodes)]);
        args.extend(self.operator_file.iter().map(|file| format!("--operator-file={}", file.display())));
        args.extend(self.no_operator.then(|| "--no-operator".to_owned()));
        args.extend(self.operator_binary.iter().map(|p| format!("--operator-binary={}", p.display())));
        args.extend(self.samples.iter().map(|p| format!("--samples={}", p.display())));
        args.extend(self.exit_when_ready.then(|| "--exit-when-ready".to_owned()));
        args
    }

    fn operator(&self) -> Result<PathBuf, Error> {
        let beside = || std::env::current_exe().map(|exe| exe.with_file_name("reef-operator"));
        let path = self.operator_binary.clone().map_or_else(beside, Ok).context("find the operator")?;
        if path.is_file() {
            return Ok(path);
        }
        Err(Error::Prerequisite(format!(
            "the operator's program {} is missing: run `cargo build`, or name it with --operator-binary",
            path.display()
        )))
    }
}

/// Builds the world, says that it is ready, and stays until asked to end.
pub async fn run(args: WorldArgs) -> Result<(), Error> {
    let dir = Dir::open(&args.dir)?;
    let mut running = Running::default();
    let lifeline = Lifeline::new()?;
    let result = tokio::select! {
        result = live(&args, &dir, &mut running) => result,
        () = lifeline.asked_to_end() => Ok(()),
    };
    running.kill().await;
    result
}

#[derive(Default)]
struct Running {
    management: Option<Cluster>,
    reefs: Option<Arc<Reefs>>,
}

impl Running {
    fn ended(&mut self) -> Option<String> {
        let ended = self.management.as_mut().and_then(Cluster::ended);
        match (&ended, &self.reefs) {
            (None, Some(reefs)) => reefs.ended(),
            _ => ended,
        }
    }

    async fn kill(&mut self) {
        if let Some(management) = &mut self.management {
            management.kill().await;
        }
        if let Some(reefs) = &self.reefs {
            reefs.kill().await;
        }
    }
}

async fn live(args: &WorldArgs, dir: &Dir, running: &mut Running) -> Result<(), Error> {
    let began = Instant::now();
    let tools = Tools::from_env();
    let operator = if args.no_operator { None } else { Some(args.operator()?) };
    let azure = Azure::start(args.seed, args.time_scale).await?;
    println!("Azure runs {} times as fast as the real one", args.time_scale);
    let images = images(dir, operator.clone(), args.operator_file.clone())?;
    let management = Cluster::start(dir, &tools, (MANAGEMENT, 0), None)?;
    let management = running.management.insert(management);
    let reefs = Reefs::new(dir, &tools, &azure, (images.clone(), args.reef_nodes, args.node_cpus));
    let on_node = OnNode { images, shares: None, count: 1, cpus: args.node_cpus };
    running.reefs = Some(reefs.clone());
    reefs.start(args.reef_slots).await?;
    let stop = CancellationToken::new();
    let (client, _) = start_cluster(dir, &tools, management, on_node, &azure, &stop).await?;
    reefs.wait().await?;
    let nodes = 1 + u16::from(args.reef_slots) * u16::from(args.reef_nodes);
    step(began, &format!("{} API servers with {nodes} nodes", args.reef_slots + 1));
    tokio::spawn(reefs.follow_azure());
    let platform = install::prepare(&client, dir, management, &azure).await?;
    let mut demo = None;
    if operator.is_some() {
        install::operator(dir, &tools, &platform, args.time_scale).await?;
        step(began, "operator installed by helm and Ready");
        if let Some(samples) = &args.samples {
            demo = Some(Demo::apply(&client, samples).await?);
        }
    }
    println!("sandbox ready");
    if let Some(demo) = demo {
        let outcome = demo.watch(began).await;
        if args.exit_when_ready {
            return outcome.into_result();
        }
        outcome.print(dir, &curls::lines(&client, dir).await);
    }
    loop {
        if let Some(what) = running.ended() {
            return Err(Error::Ended(what));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// What a cluster's nodes have.
#[derive(Clone)]
pub(crate) struct OnNode {
    /// What they can run.
    pub images: Vec<Image>,
    /// The shares that they can mount.
    pub shares: Option<Arc<dyn Shares>>,
    /// How many there are.
    pub count: u8,
    /// Number of CPUs that each says it has.
    pub cpus: u32,
}

/// Waits for a cluster and gives it a network and nodes, until `stop`; a client of its administrator, and
/// the network.
pub(crate) async fn start_cluster(
    dir: &Dir,
    tools: &Tools,
    cluster: &mut Cluster,
    on_node: OnNode,
    azure: &Azure,
    stop: &CancellationToken,
) -> Result<(Client, Arc<ClusterNetwork>), Error> {
    let client = cluster.wait(dir, tools).await?;
    azure.trust(&cluster.issuer(), cluster.public_keys(&client).await?);
    let front = sql::serve(azure, azure.sql_identity(), &cluster.name, &dir.join("run/sql"))?;
    let names = azure.clone();
    let metadata = metadata::serve().await.context("the metadata service")?;
    let outside: Outside = Arc::new(move |host: &str, port: u16| match port {
        metadata::PORT => (host == metadata::ADDRESS.to_string()).then_some(metadata),
        443 => names.resolve(host),
        sql::PORT => names.has_sql_server(host).then_some(front),
        _ => None,
    });
    let network = ClusterNetwork::start(cluster, &client, outside, stop).await;
    let socket = cluster.api_socket(dir);
    proxy::serve(&socket, Caller::ApiServer, network.clone()).context("the API server's proxy")?;
    for index in 0..on_node.count {
        let OnNode { images, shares, cpus, .. } = on_node.clone();
        let node = Node { name: format!("{}-node-{index}", cluster.name), index, images, shares, cpus };
        node.start(dir, cluster, network.clone(), stop).await?;
    }
    Ok((client, network))
}

/// What nodes can run: the operator, the simulated Octopus Server, and the sandbox's own tools for network
/// tests.
fn images(dir: &Dir, operator: Option<PathBuf>, file: Option<PathBuf>) -> Result<Vec<Image>, Error> {
    let exe = std::env::current_exe().context("find this program")?;
    let program = |repository: &str, source: PathBuf, arguments: &[&str]| {
        let path = format!("/{repository}");
        Image {
            repository: repository.to_owned(),
            entrypoint: [path.as_str()].iter().chain(arguments).map(|s| (*s).to_owned()).collect(),
            files: vec![(source, path.into())],
            uid: 65532,
        }
    };
    let mut octopus = program("octopusdeploy", exe.clone(), &["octopus"]);
    octopus.uid = OCTOPUS_UID;
    octopus.files.push((dir.join(install::AZURE_CA_FILE), octopus::AZURE_CA.into()));
    let mut images = vec![octopus, program("reef-toolbox", exe, &["toolbox"])];
    let mut operator = operator.map(|path| program("reef-operator", path, &[]));
    if let (Some(operator), Some(file)) = (&mut operator, file) {
        let path = PathBuf::from("/").join(file.file_name().unwrap_or_default());
        operator.files.push((file, path));
    }
    images.extend(operator);
    Ok(images)
}

fn time_scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(scale) if (0.1..=100_000.0).contains(&scale) => Ok(scale),
        _ => Err("must be a number from 0.1 to 100000".to_owned()),
    }
}

fn step(began: Instant, what: &str) {
    println!("{:5.1} s  {what}", began.elapsed().as_secs_f32());
}

/// How the world hears that it should end: its standard input closes, or a signal comes.
struct Lifeline {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Lifeline {
    fn new() -> Result<Self, Error> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("signals")?,
            terminate: signal(SignalKind::terminate()).context("signals")?,
        })
    }

    async fn asked_to_end(mut self) {
        let mut byte = [0u8; 1];
        let mut stdin = tokio::io::stdin();
        tokio::select! {
            _ = stdin.read(&mut byte) => {}
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octopus_server_is_an_image_of_any_release_with_azures_authority() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::create(temp.path()).unwrap();
        let images = images(&dir, None, None).unwrap();
        let reference = "octopusdeploy/octopusdeploy:2026.2.1234";
        let image = images.iter().find(|image| image.is(reference)).unwrap();
        assert_eq!(image.uid, 999);
        assert_eq!(image.entrypoint, ["/octopusdeploy", "octopus"]);
        let ca = (dir.join("run/azure-ca.crt"), PathBuf::from("/etc/sandbox/azure-ca.crt"));
        assert!(image.files.contains(&ca));
    }
}
