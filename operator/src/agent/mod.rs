//! The agent: this program on a reef, for work that has to be done there. One run is one step: it reads what to do
//! from a file, does it, and leaves the result as its termination message, which the operator reads from the pod.
//! Doing a step twice does nothing more.

pub mod configure;
pub mod drain;
pub mod input;
mod octopus;
pub mod sql;

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use serde_json::{Value, json};

use crate::{
    actor::Actor,
    azure::{Account, Arms, AzureArgs, Cloud, Proof},
    bulkhead::Cells,
    metrics::Metrics,
};
use input::{Access, Input};

/// Longest result, bytes: what Kubernetes keeps of a termination message.
const LONGEST_RESULT: usize = 4096;

/// Longest time for the database, from dialling to the last answer.
const DATABASE: Duration = Duration::from_secs(60);

/// How to run the agent.
#[derive(Args, Debug)]
pub struct AgentArgs {
    /// File with what to do, JSON.
    #[arg(long)]
    pub input: PathBuf,

    /// File for the result, JSON of at most 4 KiB.
    #[arg(long, default_value = "/dev/termination-log")]
    pub result: PathBuf,

    /// Where Azure is and who the agent is there.
    #[command(flatten)]
    pub azure: AzureArgs,
}

/// Does one step. The error is the text that is in the result too.
pub async fn run(args: AgentArgs) -> Result<(), String> {
    let outcome = step(&args).await;
    let result = match &outcome {
        Ok(result) => result.clone(),
        Err(error) => json!({ "error": error.chars().take(LONGEST_RESULT / 4).collect::<String>() }),
    };
    let text = result.to_string();
    if text.len() > LONGEST_RESULT {
        return Err(format!("the result has {} bytes, and {LONGEST_RESULT} are kept", text.len()));
    }
    std::fs::write(&args.result, text).map_err(|e| format!("--result {}: {e}", args.result.display()))?;
    outcome.map(|_| tracing::info!("done"))
}

async fn step(args: &AgentArgs) -> Result<Value, String> {
    let bad = |e: &dyn std::fmt::Display| format!("--input {}: {e}", args.input.display());
    let text = std::fs::read_to_string(&args.input).map_err(|e| bad(&e))?;
    match serde_json::from_str(&text).map_err(|e| bad(&e))? {
        Input::Access(access) => give_access(args, &access).await,
        Input::Configure(configure) => configure::run(&configure).await,
        Input::Drain(drain) => drain::run(&drain).await,
    }
}

/// Gives a managed identity access to its database.
async fn give_access(args: &AgentArgs, access: &Access) -> Result<Value, String> {
    let ca = match &args.azure.azure_ca_file {
        Some(path) => {
            let text = std::fs::read_to_string(path);
            Some(text.map_err(|e| format!("--azure-ca-file {}: {e}", path.display()))?)
        }
        None => None,
    };
    let arms = Arms::new(args.azure.clone(), Arc::new(Metrics::new()), Actor::default())
        .map_err(|e| e.to_string())?;
    let cell = Cells::new(1, Arc::new(Metrics::new())).reef("agent");
    let known = access.cloud.clone();
    let cloud = known.map_or_else(Cloud::public, |cloud| Cloud {
        authority: cloud.authority,
        sql_audience: cloud.sql_audience,
        ..Cloud::public()
    });
    let account = Account {
        cloud,
        tenant: access.tenant.clone(),
        client: None,
        proof: Proof::WorkloadIdentity,
        location: String::new(),
    };
    let arm = arms.client(&account, cell).map_err(|e| e.to_string())?;
    let bearer = arm.bearer(&arm.cloud().sql_scope()).await.map_err(|e| e.to_string())?;
    let url = format!("https://{}/", access.server)
        .parse()
        .map_err(|e| format!("server {}: {e}", access.server))?;
    let proxy = crate::client::proxy(&url).map_err(|e| e.to_string())?;
    let proxy =
        proxy.and_then(|proxy| Some(format!("{}:{}", proxy.host()?, proxy.port_u16().unwrap_or(3128))));
    let server = sql::Server {
        proxy,
        host: &access.server,
        database: &access.database,
        ca: ca.as_deref(),
        token: bearer.trim_start_matches("Bearer "),
        timeout: DATABASE,
    };
    let outcome = sql::ensure_user(&server, &access.user, &access.client_id).await;
    let outcome = outcome.map_err(|e| format!("database {}: {e}", access.database))?;
    tracing::info!(database = access.database, user = access.user, ?outcome, "access");
    Ok(json!({ "changed": format!("{outcome:?}") }))
}
