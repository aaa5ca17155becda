//! What must never show: for tests that look for it everywhere.

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
