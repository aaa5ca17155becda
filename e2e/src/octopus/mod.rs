//! `reef-sandbox octopus`: a simulated Octopus Server, the program of the image
//! `octopusdeploy/octopusdeploy`.
//!
//! It is what the operator's promises are tested against. It keeps what customers write in its database
//! and on its share, upgrades the schema of an older release, refuses a newer one, and where two releases
//! meet in one database, or two processes under one name, the database is corrupted for ever
//! ([`start`], [`beat`]). It deploys nothing: a task only takes the time that it was told.

mod api;
mod beat;
mod connection;
mod files;
mod identity;
#[cfg(test)]
mod memory;
mod nodes;
mod packages;
mod polling;
mod resources;
mod server;
mod settings;
mod sql;
#[cfg(test)]
mod sql_tests;
mod start;
mod status;
mod store;
mod tasks;
#[cfg(test)]
mod tds;
#[cfg(test)]
mod tests;
mod tunnel;
mod version;

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

pub use settings::AZURE_CA;

use server::Server;
use settings::Settings;
use start::StartError;
use store::Store;

/// How long requests that are being answered may take when the server ends.
const LAST_REQUESTS: Duration = Duration::from_millis(300);

/// How long the last words to the database may take.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Runs the server that the environment describes, until SIGTERM.
pub async fn run() -> io::Result<()> {
    // Of libraries only warnings: what they say beyond that may hold statements and tokens.
    let filter = EnvFilter::new("off,reef_e2e::octopus=info");
    let _ = tracing_subscriber::fmt().with_ansi(false).with_target(false).with_env_filter(filter).try_init();
    let mut terminate = signal(SignalKind::terminate())?;
    let running = async {
        let settings = Settings::read(&std::env::vars().collect::<BTreeMap<_, _>>())?;
        let store = Arc::new(sql::Sql::new(&settings)?);
        serve(settings, store).await
    };
    let running = tokio::select! {
        running = running => running.map_err(io::Error::other)?,
        _ = terminate.recv() => return Ok(()),
    };
    terminate.recv().await;
    running.stop().await;
    Ok(())
}

/// A server that takes requests.
struct Running {
    server: Arc<Server>,
    #[cfg_attr(not(test), expect(dead_code, reason = "fixed ports in a pod"))]
    web: SocketAddr,
    #[cfg_attr(not(test), expect(dead_code, reason = "fixed ports in a pod"))]
    polling: SocketAddr,
    stop: CancellationToken,
    http: JoinHandle<()>,
    beat: JoinHandle<()>,
}

/// Opens the database and the folders, and begins to take requests.
async fn serve(settings: Settings, store: Arc<dyn Store>) -> Result<Running, StartError> {
    let listen = |port| TcpListener::bind((settings.listen, port));
    tracing::info!("Octopus Server {} on node {} is starting", settings.version, settings.node);
    files::mark(&settings)?;
    let opened = start::open(&*store, &settings, Timestamp::now()).await?;
    let (web, polling) = (listen(settings.web_port).await?, listen(settings.polling_port).await?);
    let (web_at, polling_at) = (web.local_addr()?, polling.local_addr()?);
    let stop = CancellationToken::new();
    polling::serve(polling, &opened.certificate, &opened.installation, &stop)?;
    let server = Arc::new(Server::new(settings, store, opened));
    let app = api::router(&server);
    let ending = stop.clone().cancelled_owned();
    let http = tokio::spawn(async move {
        if let Err(error) = axum::serve(web, app).with_graceful_shutdown(ending).await {
            tracing::error!("The web server ended: {error}");
        }
    });
    let beat = tokio::spawn(beat::run(server.clone()));
    tracing::info!("Listening for HTTP requests on http://{web_at}/");
    tracing::info!("Listening for polling Tentacles on {polling_at}");
    tracing::info!("Web server is ready to process requests");
    Ok(Running { server, web: web_at, polling: polling_at, stop, http, beat })
}

impl Running {
    /// Takes no more requests, and says in the database that this node is gone.
    async fn stop(self) {
        tracing::info!("Shutting down");
        self.beat.abort();
        let _ = self.beat.await;
        self.stop.cancel();
        let http = self.http.abort_handle();
        if timeout(LAST_REQUESTS, self.http).await.is_err() {
            http.abort();
        }
        match timeout(LAST_WORDS, beat::farewell(&self.server, Timestamp::now())).await {
            Ok(Ok(())) => tracing::info!("Node {} is offline", self.server.settings.node),
            Ok(Err(error)) => tracing::warn!("The node could not be marked offline: {error}"),
            Err(_) => tracing::warn!("The node could not be marked offline in time"),
        }
    }
}
