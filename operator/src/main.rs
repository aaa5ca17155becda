//! The operator's program.

use std::process::ExitCode;

use clap::Parser;
use reef_operator::{
    agent, app,
    args::{Cli, Command},
    check, telemetry,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::init(&cli.log);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Run(args) => app::run(*args).await.map_err(|e| e.to_string()),
            Command::Agent(args) => agent::run(args).await,
            Command::Check(args) => check::run(&args).await,
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "ended");
            ExitCode::FAILURE
        }
    }
}
