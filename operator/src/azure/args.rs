//! Flags about Azure.

use std::path::PathBuf;

use clap::Args;

/// Where Azure is and how the operator proves who it is.
#[derive(Args, Clone, Debug)]
pub struct AzureArgs {
    /// Client id of the managed identity that the operator acts as, unless a Region names another.
    #[arg(long, env = "AZURE_CLIENT_ID")]
    pub azure_client_id: Option<String>,

    /// File with the ServiceAccount token that Entra exchanges for access tokens.
    #[arg(
        long,
        env = "AZURE_FEDERATED_TOKEN_FILE",
        default_value = "/var/run/secrets/azure/tokens/azure-identity-token"
    )]
    pub azure_federated_token_file: PathBuf,

    /// PEM file with the authorities that are trusted for Azure's endpoints, instead of the system's.
    #[arg(long, env = "REEF_OPERATOR_AZURE_CA_FILE")]
    pub azure_ca_file: Option<PathBuf>,

    /// Reads that go to Azure Resource Manager in the long run, a second, for each subscription and location. Reefs share
    /// it fairly. The default is what Azure allows.
    #[arg(long, env = "REEF_OPERATOR_AZURE_READS_PER_SECOND", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub azure_reads_per_second: u32,

    /// The same for writes, and for deletes.
    #[arg(long, env = "REEF_OPERATOR_AZURE_WRITES_PER_SECOND", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub azure_writes_per_second: u32,
}
