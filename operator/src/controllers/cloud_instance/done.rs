//! What the agent has done for an instance (pure). It stands at the instance's namespace in the reef's cluster, so
//! that a new management cluster finds it there and nothing is done twice.

use std::collections::BTreeMap;

use serde_json::Value;

/// Annotation: for which inputs the server has access to its database.
const ACCESS: &str = "cloud.octopus.com/access";
/// Annotation: for which inputs the server is configured.
const CONFIGURED: &str = "cloud.octopus.com/configured";
/// Annotation: the release that the server reported when it was configured.
const VERSION: &str = "cloud.octopus.com/reported-version";

/// Annotation: Azure's id of the database for which all of it was done.
const DATABASE: &str = "cloud.octopus.com/database-id";
/// Annotation: UID of the pod for which the server was told to take no more tasks; empty when it takes them again.
const DRAINED: &str = "cloud.octopus.com/drained";

/// What was done, and for which inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Hash of the inputs of the access that was given.
    pub access: Option<String>,
    /// Hash of the inputs of the configuration that was made.
    pub configured: Option<String>,
    /// The release that the server reported then.
    pub version: Option<String>,
    /// Azure's id of the database for which it was done.
    pub database: Option<String>,
    /// UID of the pod for which the server was told, or is about to be told, to take no more tasks.
    pub drained: Option<String>,
}

impl Done {
    /// From the namespace as it is; nothing was done where there is none.
    pub fn of_namespace(namespace: &Value) -> Self {
        let text = |name: &str| namespace["metadata"]["annotations"][name].as_str().map(str::to_owned);
        Self {
            access: text(ACCESS),
            configured: text(CONFIGURED),
            version: text(VERSION),
            database: text(DATABASE),
            drained: text(DRAINED),
        }
    }

    /// UID of the pod for which the server takes no tasks, if it takes none.
    pub fn drained(&self) -> Option<&str> {
        self.drained.as_deref().filter(|uid| !uid.is_empty())
    }

    /// As annotations.
    pub fn annotations(&self) -> BTreeMap<&'static str, &str> {
        let all = [
            (ACCESS, &self.access),
            (CONFIGURED, &self.configured),
            (VERSION, &self.version),
            (DATABASE, &self.database),
            (DRAINED, &self.drained),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_done_is_found_again() {
        let some = |text: &str| Some(text.to_owned());
        let done = Done {
            access: some("a"),
            configured: None,
            version: some("2026.2.1"),
            database: some("guid"),
            drained: some("pod"),
        };
        let namespace = json!({ "metadata": { "annotations": done.annotations() } });
        assert_eq!(Done::of_namespace(&namespace), done);
        assert_eq!(done.drained(), Some("pod"));
        assert_eq!(Done { drained: some(""), ..done }.drained(), None);
        assert_eq!(Done::of_namespace(&Value::Null), Done::default());
    }
}
