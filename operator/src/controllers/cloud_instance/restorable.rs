//! What Azure keeps of data that is gone: whoever has to decide between a restore and an empty copy is told whether
//! there is something to restore, and of which time.

use std::sync::Arc;

use serde_json::Value;

use super::{bodies::Inputs, parts::Part, plan::Plan};
use crate::{
    azure::Arm,
    controllers::reef::bodies::{SQL_API, STORAGE_API},
    resources::Verdict,
};
use reef_crds::condition::Reason;

/// Adds to the verdict on data that is gone what can be restored of it.
pub async fn tell(arm: &Arc<Arm>, inputs: &Inputs, plan: &mut Plan) {
    for part in [Part::Database, Part::Share] {
        if let Some(Verdict::Blocked(trouble)) = plan.verdicts.get_mut(&part)
            && trouble.reason == Reason::DataResourceMissing
        {
            let words = match list(arm, inputs, part).await {
                Ok(list) => words(part, inputs, &list),
                // It is asked again with the next look.
                Err(()) => "what Azure keeps of it could not be asked".to_owned(),
            };
            trouble.message = format!("{}. {words}", trouble.message);
        }
    }
}

async fn list(arm: &Arc<Arm>, inputs: &Inputs, part: Part) -> Result<Vec<Value>, ()> {
    let id = inputs.id(part);
    let Some((within, _)) = id.rsplit_once('/') else { return Err(()) };
    let answer = match part {
        Part::Database => {
            let server = within.trim_end_matches("/databases");
            arm.list(&format!("{server}/restorableDroppedDatabases"), SQL_API).await
        }
        _ => arm.list(&format!("{within}?$expand=deleted"), STORAGE_API).await,
    };
    answer.map_err(|error| tracing::warn!(azure_resource_id = id, %error, "what can be restored"))
}

/// What the list says of a part (pure).
fn words(part: Part, inputs: &Inputs, list: &[Value]) -> String {
    let text = |value: &Value, name: &str| value["properties"][name].as_str().unwrap_or("?").to_owned();
    if part == Part::Database {
        let name = inputs.database();
        let ours = list.iter().filter(|dropped| dropped["properties"]["databaseName"] == name.as_str());
        let newest = ours.max_by_key(|dropped| text(dropped, "deletionDate"));
        return match newest {
            Some(dropped) => format!(
                "Azure can restore what was dropped at {}, to any time from {} on: restorableDroppedDatabases/{}",
                text(dropped, "deletionDate"),
                text(dropped, "earliestRestoreDate"),
                dropped["name"].as_str().unwrap_or("?")
            ),
            None => "Azure lists no dropped database of this name; it does so some minutes after the drop"
                .to_owned(),
        };
    }
    let name = inputs.share();
    let is_ours = |share: &&Value| {
        // Azure adds the version of what was deleted to its id; its documentation has it in the name.
        let its = share["name"].as_str().unwrap_or_default();
        let same = its.strip_prefix(&name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
        same && share["properties"]["deleted"] == true
    };
    let newest = list.iter().filter(is_ours).max_by_key(|share| text(share, "deletedTime"));
    match newest {
        Some(share) => format!(
            "Azure keeps what was deleted at {} (version {}): undelete it",
            text(share, "deletedTime"),
            text(share, "version")
        ),
        None => "Azure keeps no deleted share of this name".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::inputs, *};
    use serde_json::json;

    #[test]
    fn the_newest_that_can_be_restored_is_named_with_its_times() {
        let inputs = inputs();
        let dropped = |name: &str, at: &str| json!({ "name": format!("{name},1"), "properties": { "databaseName": name, "deletionDate": at, "earliestRestoreDate": "2026-01-01T00:00:00Z" } });
        let (name, share) = (inputs.database(), inputs.share());
        let list = [
            dropped(&name, "2026-01-02T00:00:00Z"),
            dropped(&name, "2026-01-03T00:00:00Z"),
            dropped("db-other-1", "2026-01-09T00:00:00Z"),
        ];
        let said = words(Part::Database, &inputs, &list);
        assert!(said.contains("dropped at 2026-01-03T00:00:00Z, to any time from 2026-01-01"), "{said}");
        assert!(words(Part::Database, &inputs, &list[2..]).contains("no dropped database"));
        let shares = [
            json!({ "name": share, "properties": {} }),
            json!({ "name": format!("{share}_01D7"), "properties": { "deleted": true, "deletedTime": "2026-01-04T00:00:00Z", "version": "01D7" } }),
            json!({ "name": share, "properties": { "deleted": true, "deletedTime": "2026-01-05T00:00:00Z", "version": "01D8" } }),
            json!({ "name": format!("{share}1_01D9"), "properties": { "deleted": true, "deletedTime": "2026-01-06T00:00:00Z", "version": "01D9" } }),
        ];
        assert!(words(Part::Share, &inputs, &shares).contains("2026-01-05T00:00:00Z (version 01D8)"));
        assert!(words(Part::Share, &inputs, &shares[..1]).contains("no deleted share"));
    }
}
