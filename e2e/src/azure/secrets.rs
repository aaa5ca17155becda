//! What stories ask the emulator besides its journal: what must never show, and what came into being.

use axum::extract::State;

use super::{
    cloud::Cloud,
    server::{Azure, lock},
};

impl Cloud {
    /// The keys of all storage accounts, and the signatures of the URLs of all operations.
    fn secrets(&self) -> Vec<String> {
        let accounts = self.resources("Microsoft.Storage/storageAccounts");
        let ids = accounts.iter().filter_map(|account| account["id"].as_str());
        let mut all: Vec<_> = ids.flat_map(|id| self.account_keys(&super::id::key(id))).collect();
        all.extend(self.operations.signatures());
        all
    }
}

/// One secret a line.
pub(super) async fn all(State(azure): State<Azure>) -> String {
    lock(azure.cloud()).secrets().into_iter().map(|secret| secret + "\n").collect()
}

/// The path of each PUT that brought something into being, one a line.
pub(super) async fn made(State(azure): State<Azure>) -> String {
    lock(azure.cloud()).made.iter().map(|path| path.clone() + "\n").collect()
}
