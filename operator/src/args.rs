//! Flags and environment variables. Everything is checked here, before anything starts.

use std::{net::SocketAddr, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{agent::AgentArgs, azure::AzureArgs};

/// Runs a cloud of Octopus Server instances on Azure as cells within cells.
#[derive(Debug, Parser)]
#[command(name = "reef-operator", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Reconcile until asked to stop.
    Run(Box<RunArgs>),
    /// Do one step of work on a reef; the operator starts it there.
    Agent(AgentArgs),
    /// Check that the operator could run here: API server, CRDs, permissions. Changes nothing.
    Check(CheckArgs),
}

/// How to log.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// Which messages to log, as in `info` or `info,kube=debug`.
    #[arg(long, global = true, env = "REEF_OPERATOR_LOG_LEVEL", default_value = "info", value_parser = log_level)]
    pub log_level: String,

    /// Format of the log.
    #[arg(long, global = true, env = "REEF_OPERATOR_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Where the operator lives in its cluster.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Namespace of the operator: its Lease and the Secrets that it may read are there.
    #[arg(long, env = "POD_NAMESPACE", value_parser = label)]
    pub namespace: String,

    /// Name of the Lease with which one of the replicas is elected.
    #[arg(long, env = "REEF_OPERATOR_LEASE_NAME", default_value = "reef-operator", value_parser = non_empty)]
    pub lease_name: String,
}

/// How to run.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Name of the fleet: part of the identity of everything that the operator makes. It must never
    /// change: another fleet's resources are never touched.
    #[arg(long, env = "REEF_OPERATOR_FLEET", value_parser = fleet)]
    pub fleet: String,

    /// Where the operator lives.
    #[command(flatten)]
    pub place: CheckArgs,

    /// Name of this process among its replicas.
    #[arg(long, env = "POD_NAME", value_parser = non_empty)]
    pub identity: String,

    /// Address and port of /livez, /readyz and /metrics.
    #[arg(long, env = "REEF_OPERATOR_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// Where Azure is and who we are there.
    #[command(flatten)]
    pub azure: AzureArgs,

    /// Image of the reefs' agents, which is this program's own.
    #[arg(long, env = "REEF_OPERATOR_AGENT_IMAGE", default_value = "reef-operator", value_parser = non_empty)]
    pub agent_image: String,

    /// Image of Octopus Server, without a tag: the tag is the release.
    #[arg(long, env = "REEF_OPERATOR_OCTOPUS_IMAGE", default_value = "octopusdeploy/octopusdeploy", value_parser = non_empty)]
    pub octopus_image: String,

    /// The election of the one replica that works.
    #[command(flatten)]
    pub lease: LeaseArgs,

    /// Reconciles that run at once, per kind; of instances, for each reef.
    #[arg(long, env = "REEF_OPERATOR_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub concurrency: u16,

    /// An object that nothing happened to is looked at again after about this long, seconds.
    #[arg(long, env = "REEF_OPERATOR_RESYNC_SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(5..=86_400))]
    pub resync_seconds: u32,

    /// An Azure operation about which Azure does not say when to ask again is asked about after this long,
    /// seconds.
    #[arg(long, env = "REEF_OPERATOR_AZURE_POLL_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub azure_poll_seconds: u32,

    /// An object that makes no progress for this long is called Stalled, seconds.
    #[arg(long, env = "REEF_OPERATOR_PROGRESS_DEADLINE_SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u32).range(10..=86_400))]
    pub progress_deadline_seconds: u32,
}

/// The election.
#[derive(Args, Clone, Debug)]
pub struct LeaseArgs {
    /// A leader that has not been heard of for this long is replaced, seconds.
    #[arg(long, env = "REEF_OPERATOR_LEASE_DURATION_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(3..=3600))]
    pub lease_duration_seconds: u32,
}

impl LeaseArgs {
    /// How long a claim lasts without renewal.
    pub fn duration(&self) -> Duration {
        Duration::from_secs(u64::from(self.lease_duration_seconds))
    }
}

fn fleet(value: &str) -> Result<String, String> {
    let first = value.starts_with(|c: char| c.is_ascii_lowercase());
    let rest = value.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if first && rest && value.len() <= 20 && !value.ends_with('-') {
        return Ok(value.to_owned());
    }
    Err("must begin with a lower-case letter, hold only lower-case letters, digits and inner dashes, and have at most 20 characters, for example `production`".to_owned())
}

fn label(value: &str) -> Result<String, String> {
    let inner = value.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !value.is_empty() && value.len() <= 63 && inner {
        return Ok(value.to_owned());
    }
    Err("must be the name of a namespace".to_owned())
}

fn non_empty(value: &str) -> Result<String, String> {
    if value.is_empty() { Err("must not be empty".to_owned()) } else { Ok(value.to_owned()) }
}

fn log_level(value: &str) -> Result<String, String> {
    match value.parse::<tracing_subscriber::EnvFilter>() {
        Ok(_) => Ok(value.to_owned()),
        Err(error) => Err(format!("{error}; for example `info` or `info,reef_operator=debug`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(extra: &[&str]) -> Result<Cli, String> {
        let base = ["reef-operator", "run", "--fleet=test", "--namespace=reef-operator", "--identity=a"];
        Cli::try_parse_from(base.iter().chain(extra)).map_err(|e| e.to_string())
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
        parse(&[]).unwrap();
    }

    #[test]
    fn a_bad_value_is_named_with_its_flag() {
        for (flag, value, expect) in [
            ("--fleet", "Prod", "lower-case letter"),
            ("--fleet", "", "lower-case letter"),
            ("--fleet", "a-", "lower-case letter"),
            ("--listen", "8080", "socket address"),
            ("--lease-duration-seconds", "1", "not in 3..=3600"),
            ("--resync-seconds", "4", "not in 5..=86400"),
            ("--concurrency", "0", "not in 1..=1000"),
            ("--log-level", "loud=x=y", "for example"),
            ("--namespace", "A", "name of a namespace"),
            ("--identity", "", "must not be empty"),
        ] {
            let arg = format!("{flag}={value}");
            let args: Vec<_> = ["reef-operator", "run", "--fleet=f", "--namespace=n", "--identity=i"]
                .into_iter()
                .filter(|a| !a.starts_with(flag))
                .chain([arg.as_str()])
                .collect();
            let error = Cli::try_parse_from(args).unwrap_err().to_string();
            assert!(error.contains(flag) && error.contains(expect), "{arg}: {error}");
        }
    }

    #[test]
    fn the_fleet_has_no_default() {
        let error =
            Cli::try_parse_from(["reef-operator", "run", "--namespace=n", "--identity=i"]).unwrap_err();
        assert!(error.to_string().contains("--fleet"));
    }
}
