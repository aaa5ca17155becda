//! Puts the operator together: client, admin port, election, controllers; and ends it in order.

use std::{sync::Arc, time::Duration};

use futures::future::{BoxFuture, FutureExt, join_all, pending};
use kube::Client;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{
    actor::Actor,
    admin::{self, Readiness},
    args::RunArgs,
    azure::{Arms, AzureError},
    check, client,
    controller::Context,
    controllers::{cloud_instance, reef, reef_class, region, retained_instance},
    leader::{Claim, Election, Standing},
    metrics::Metrics,
};

/// How long the reconciles that run may take to end. Below the pod's grace period.
const DRAIN: Duration = Duration::from_secs(15);

/// Pause between looks at CRDs that are missing or too old.
const CRD_PAUSE: Duration = Duration::from_secs(2);

/// Why the operator ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No client.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The admin port cannot be opened.
    #[error("--listen {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What went wrong.
        source: std::io::Error,
    },
    /// Azure's settings cannot be used.
    #[error(transparent)]
    Azure(#[from] AzureError),
    /// Signals cannot be received.
    #[error("signals: {0}")]
    Signals(std::io::Error),
    /// The controllers ended although nobody asked them to.
    #[error("the controllers ended by themselves, so this process ends and begins anew")]
    ControllersEnded,
    /// Another replica may lead by now; a fresh process takes part in the election anew.
    #[error("the lease was lost, so this process ends and begins anew")]
    LeaseLost,
}

/// Runs until SIGTERM or SIGINT, or until the lease is lost.
pub async fn run(args: RunArgs) -> Result<(), Error> {
    let (readiness, metrics) = (Readiness::default(), Arc::new(Metrics::new()));
    for gate in ["crds", "lease"] {
        readiness.expect(gate);
    }
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.map_err(|source| Error::Listen { address: args.listen, source })?;
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, fleet = args.fleet, identity = args.identity, listen = %args.listen, "started");
    let stop = stop_on_signal()?;
    let stopped_serving = CancellationToken::new();
    let serving =
        tokio::spawn(admin::serve(listener, readiness.clone(), metrics.clone(), stopped_serving.clone()));
    let claim = Claim::default();
    let actor = Actor::replica(&args.identity, claim.clone());
    let client = client::new(metrics.clone(), &actor).await?;
    let arms = Arc::new(Arms::new(args.azure.clone(), metrics.clone(), actor)?);
    let result = lead(args, (client, arms, claim), readiness, metrics, stop).await;
    stopped_serving.cancel();
    // A client that keeps its connection does not keep us.
    let _ = tokio::time::timeout(Duration::from_secs(1), serving).await;
    tracing::info!("stopped");
    result
}

fn stop_on_signal() -> Result<CancellationToken, Error> {
    let stop = CancellationToken::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let (mut signal, stop) = (signal(kind).map_err(Error::Signals)?, stop.clone());
        tokio::spawn(async move {
            signal.recv().await;
            stop.cancel();
        });
    }
    Ok(stop)
}

async fn lead(
    args: RunArgs,
    (client, arms, claim): (Client, Arc<Arms>, Claim),
    readiness: Readiness,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<(), Error> {
    if !wait_for_crds(&client, &readiness, &stop).await {
        return Ok(());
    }
    let election =
        Election::new(client.clone(), &args.place, args.lease.clone(), &args.identity, claim.clone());
    let mut standing = election.standing();
    // The lease is given back last, when nothing writes any more.
    let release = CancellationToken::new();
    let election = tokio::spawn(election.run(release.clone()));
    let mut controllers: BoxFuture<'static, ()> = pending().boxed();
    let mut started = false;
    let result = loop {
        let now = *standing.borrow_and_update();
        show(now, &readiness, &metrics);
        match now {
            Standing::Lost => break Err(Error::LeaseLost),
            Standing::Leading if !started => {
                started = true;
                let context = Arc::new(Context::new(
                    client.clone(),
                    arms.clone(),
                    claim.clone(),
                    metrics.clone(),
                    &args,
                ));
                let (ending, waiting) = (stop.clone(), context.clone());
                tokio::spawn(async move {
                    ending.cancelled().await;
                    waiting.cells.close();
                });
                let running = tokio::spawn(run_controllers(context, readiness.clone(), stop.clone()));
                controllers = running.map(drop).boxed();
            }
            _ => {}
        }
        tokio::select! {
            // In this order: controllers that end because of `stop` have not ended by themselves.
            biased;
            () = stop.cancelled() => break Ok(()),
            () = &mut controllers => break Err(Error::ControllersEnded),
            changed = standing.changed() => if changed.is_err() { break Err(Error::LeaseLost) },
        }
    };
    if result.is_ok() && started && tokio::time::timeout(DRAIN, controllers).await.is_err() {
        tracing::warn!("reconciles were still running and are abandoned");
    }
    release.cancel();
    let _ = election.await;
    result
}

fn show(standing: Standing, readiness: &Readiness, metrics: &Metrics) {
    metrics.leader.set(i64::from(standing == Standing::Leading));
    match standing {
        Standing::Unknown => readiness.close("lease", "the API server does not answer"),
        Standing::Lost => readiness.close("lease", "lost"),
        Standing::Following | Standing::Leading => readiness.open("lease"),
    }
}

/// True when the CRDs are there, false when asked to stop before.
async fn wait_for_crds(client: &Client, readiness: &Readiness, stop: &CancellationToken) -> bool {
    let mut said = String::new();
    loop {
        match check::crds(client).await {
            Ok(()) => {
                readiness.open("crds");
                return true;
            }
            Err(problem) => {
                if problem != said {
                    tracing::error!(problem, "cannot begin yet");
                    said.clone_from(&problem);
                }
                readiness.close("crds", problem);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(CRD_PAUSE) => {}
            () = stop.cancelled() => return false,
        }
    }
}

async fn run_controllers(context: Arc<Context>, readiness: Readiness, stop: CancellationToken) {
    let [for_regions, for_classes, for_reefs, for_kept] =
        [context.clone(), context.clone(), context.clone(), context.clone()];
    let all = [
        region::run(for_regions, readiness.clone(), stop.clone()).boxed(),
        reef_class::run(for_classes, readiness.clone(), stop.clone()).boxed(),
        reef::run(for_reefs, readiness.clone(), stop.clone()).boxed(),
        retained_instance::run(for_kept, readiness.clone(), stop.clone()).boxed(),
        cloud_instance::run(context, readiness, stop).boxed(),
    ];
    join_all(all).await;
}
