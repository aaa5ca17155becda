//! The sandbox's program; see the library's documentation.

use std::{fs::File, io, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use reef_e2e::{
    Error,
    dir::Dir,
    octopus, runtime,
    toolbox::{self, Toolbox},
    up,
    world::{self, WorldArgs},
};
use tracing_subscriber::EnvFilter;

/// The whole world of the reef operator on one machine: API servers, nodes, network.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a sandbox and stay until Ctrl-C.
    Up {
        /// End when standard input closes, as it does when the test that started this is killed.
        #[arg(long, hide = true)]
        end_with_stdin: bool,
        #[command(flatten)]
        world: WorldArgs,
    },
    /// End the sandbox that runs in a folder.
    Down {
        /// Folder of the sandbox.
        #[arg(long, default_value = ".reef-sandbox", env = "REEF_SANDBOX_DIR")]
        dir: PathBuf,
    },
    #[command(hide = true, about = "Process 1 of a sandbox; started by up")]
    World(WorldArgs),
    #[command(hide = true, about = "Holds a pod's namespaces; started by the node")]
    Pod { spec: String },
    #[command(hide = true, about = "Becomes a container's program; started by the pod process")]
    Container { spec: PathBuf },
    #[command(hide = true, about = "What the image reef-toolbox runs")]
    Toolbox {
        #[command(subcommand)]
        what: Toolbox,
    },
    #[command(hide = true, about = "What the image octopusdeploy runs")]
    Octopus,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        // In this thread: the sandbox's life hangs on it.
        Command::Up { end_with_stdin, world } => current_thread(async {
            let dir = Dir::create(&world.dir)?;
            let args = WorldArgs { dir: dir.path().to_owned(), ..world }.to_args();
            up::up(&dir, &args, end_with_stdin).await
        }),
        Command::Down { dir } => current_thread(async {
            if !dir.exists() {
                println!("no sandbox runs in {}", dir.display());
                return Ok(());
            }
            up::down(&Dir::open(&dir)?).await
        })
        .map(done),
        Command::World(args) => world(args).map(done),
        Command::Pod { spec } => current_thread(async {
            let spec = serde_json::from_str(&spec).map_err(io::Error::other).map_err(io_error)?;
            runtime::pod::run(spec).await.map_err(io_error)
        })
        .map(done),
        Command::Container { spec } => {
            let spec = runtime::container::read(&spec).map_err(io_error);
            spec.and_then(|spec| Err(io_error(runtime::container::run(&spec))))
        }
        Command::Toolbox { what } => {
            current_thread(async { toolbox::run(what).await.map_err(io_error) }).map(done)
        }
        Command::Octopus => current_thread(async { octopus::run().await.map_err(io_error) }).map(done),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

fn io_error(source: io::Error) -> Error {
    Error::Io { context: "reef-sandbox".to_owned(), source }
}

fn current_thread<T>(task: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io_error)?;
    let result = runtime.block_on(task);
    runtime.shutdown_background();
    result
}

fn world(args: WorldArgs) -> Result<(), Error> {
    let log = Dir::open(&args.dir)?.log("sandbox");
    let log = File::options().create(true).append(true).open(log).map_err(io_error)?;
    let filter =
        EnvFilter::try_from_env("REEF_SANDBOX_LOG").unwrap_or_else(|_| "info,kube_client=off".into());
    tracing_subscriber::fmt().with_writer(log).with_ansi(false).with_env_filter(filter).init();
    let builder = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = builder.map_err(io_error)?;
    let result = runtime.block_on(world::run(args));
    // Reading standard input blocks a thread until the other end closes; do not wait for it.
    runtime.shutdown_background();
    result
}
