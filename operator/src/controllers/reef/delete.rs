//! Deletes a reef, one step a look.

use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use reef_crds::Reef;
use serde_json::Value;

use super::{
    bodies::{DNS_API, GROUPS_API, Inputs, LOCKS_API, SQL_API, STORAGE_API},
    names,
    parts::Part,
    teardown::{self, Remains, Step},
};
use crate::{
    azure::{Arm, ArmError},
    leader::Claim,
    observed::Observed,
    resources::{
        Pauses, act,
        memory::Memory,
        observe::{self, observed},
    },
};

/// Looks, decides and does the next step; the step, for the report.
pub async fn step(
    reef: &Reef,
    arm: &Arc<Arm>,
    claim: &Claim,
    inputs: &Inputs,
    memory: &mut Memory,
    times: (Pauses, f64, Timestamp),
) -> Step {
    let (pauses, spread, now) = times;
    observe::poll(arm, memory, pauses, spread, now).await;
    let group = inputs.id(Part::Group);
    let record = inputs.id(Part::Record);
    if memory.operations.contains_key(&group) {
        return Step::Wait("resource group: being deleted".to_owned());
    }
    // What failed while the reef was made no longer matters.
    let locks = inputs.parts().into_iter().filter(|part| part.is_lock()).map(|part| inputs.id(part));
    memory.retain(&locks.chain([group.clone(), record.clone()]).collect());
    let remains = Remains { is_second_look: memory.looked, ..look(arm, inputs).await };
    let step = teardown::next(reef, &remains, &inputs.tags());
    memory.looked = step == Step::LookAgain;
    if claim.check().is_err() {
        return Step::Wait("this replica no longer leads".to_owned());
    }
    let targets = match &step {
        Step::DeleteRecord => vec![(record, DNS_API)],
        Step::DeleteLocks(locks) => locks.iter().map(|id| (id.clone(), LOCKS_API)).collect(),
        Step::DeleteGroup => vec![(group, GROUPS_API)],
        Step::Done(_) | Step::LookAgain | Step::Wait(_) | Step::Held(..) => vec![],
    };
    for (id, api) in targets {
        if memory.failures.get(&id).is_some_and(|failure| failure.retry_at > now) {
            continue;
        }
        tracing::info!(controller = "reef", azure_resource_id = id, "deleting from Azure");
        let answer = arm.delete(&id, api).await;
        act::note(arm, &id, answer, memory, (times.0, times.1)).await;
    }
    step
}

async fn look(arm: &Arc<Arm>, inputs: &Inputs) -> Remains {
    let (group_id, record_id) = (inputs.id(Part::Group), inputs.id(Part::Record));
    let (group, record) = tokio::join!(arm.get(&group_id, GROUPS_API), arm.get(&record_id, DNS_API));
    let (mut group, record) = (observed(group), observed(record));
    if group == Observed::Absent {
        // The object goes because of this answer, so it is asked for twice.
        group = observed(arm.get(&group_id, GROUPS_API).await);
    }
    if !matches!(group, Observed::Present(_)) {
        let none = Observed::Absent;
        return Remains {
            group,
            record,
            resources: Observed::Absent,
            data: none.clone(),
            restorable: none.clone(),
            locks: none,
            is_second_look: false,
        };
    }
    let resources = listed(arm.list(&format!("{group_id}/resources"), GROUPS_API).await);
    let known = match &resources {
        Observed::Present(list) => list.clone(),
        _ => Vec::new(),
    };
    let tags = inputs.tags();
    // A list may leave out what is there: what the status knows is asked in any case.
    let mut servers = names::of_kind(&known, "Microsoft.Sql/servers", &tags);
    servers.push(inputs.sql_server.clone());
    let mut accounts = names::of_kind(&known, "Microsoft.Storage/storageAccounts", &tags);
    accounts.extend(inputs.storage_accounts.iter().cloned());
    for names in [&mut servers, &mut accounts] {
        names.retain(|name| !name.is_empty());
        names.sort();
        names.dedup();
    }
    let sql = |name: &String, list: &str| format!("{group_id}/providers/Microsoft.Sql/servers/{name}/{list}");
    let shares = |name: &String| {
        format!(
            "{group_id}/providers/Microsoft.Storage/storageAccounts/{name}/fileServices/default/shares?$expand=deleted"
        )
    };
    let databases = gather(arm, servers.iter().map(|s| (sql(s, "databases"), SQL_API)).collect()).await;
    let dropped =
        gather(arm, servers.iter().map(|s| (sql(s, "restorableDroppedDatabases"), SQL_API)).collect()).await;
    let shares = gather(arm, accounts.iter().map(|a| (shares(a), STORAGE_API)).collect()).await;
    let (live, deleted) = split(shares);
    Remains {
        group,
        record,
        resources,
        data: both(
            texts(databases, |d| (d["name"] != "master").then(|| format!("database {}", name(d)))),
            live,
        ),
        restorable: both(texts(dropped, |d| Some(format!("database {}", name(d)))), deleted),
        locks: locks(arm, inputs).await,
        is_second_look: false,
    }
}

/// Our locks that are there.
async fn locks(arm: &Arc<Arm>, inputs: &Inputs) -> Observed<Vec<String>> {
    let ids = inputs.parts().into_iter().filter(|part| part.is_lock()).map(|part| inputs.id(part));
    let answers = join_all(ids.map(|id| async move { (observed(arm.get(&id, LOCKS_API).await), id) })).await;
    let mut there = Vec::new();
    for (state, id) in answers {
        match state {
            Observed::Present(_) => there.push(id),
            Observed::Absent => {}
            Observed::Unknown(why) => return Observed::Unknown(why),
        }
    }
    Observed::Present(there)
}

fn name(value: &Value) -> String {
    value["name"].as_str().unwrap_or_default().to_owned()
}

/// Live shares, and deleted ones that can be restored.
fn split(shares: Observed<Vec<Value>>) -> (Observed<Vec<String>>, Observed<Vec<String>>) {
    let is_deleted = |s: &Value| s["properties"]["deleted"] == Value::Bool(true);
    let live = texts(shares.clone(), |s| (!is_deleted(s)).then(|| format!("share {}", name(s))));
    let deleted = texts(shares, |s| is_deleted(s).then(|| format!("share {}", name(s))));
    (live, deleted)
}

fn texts(list: Observed<Vec<Value>>, text: impl Fn(&Value) -> Option<String>) -> Observed<Vec<String>> {
    match list {
        Observed::Present(list) => Observed::Present(list.iter().filter_map(text).collect()),
        Observed::Unknown(why) => Observed::Unknown(why),
        Observed::Absent => Observed::Absent,
    }
}

/// Both lists; unknown if one of them is.
fn both(a: Observed<Vec<String>>, b: Observed<Vec<String>>) -> Observed<Vec<String>> {
    match (a, b) {
        (Observed::Unknown(why), _) | (_, Observed::Unknown(why)) => Observed::Unknown(why),
        (Observed::Present(mut a), Observed::Present(b)) => {
            a.extend(b);
            Observed::Present(a)
        }
        (Observed::Absent, other) | (other, Observed::Absent) => other,
    }
}

fn listed(answer: Result<Vec<Value>, ArmError>) -> Observed<Vec<Value>> {
    match answer {
        Ok(list) => Observed::Present(list),
        Err(error) => Observed::Unknown((&error).into()),
    }
}

async fn gather(arm: &Arc<Arm>, lists: Vec<(String, &'static str)>) -> Observed<Vec<Value>> {
    let answers = join_all(lists.into_iter().map(|(path, api)| async move {
        match arm.list(&path, api).await {
            // What is certainly not there holds nothing.
            Err(error) if error.is_absence() => Ok(Vec::new()),
            answer => answer,
        }
    }))
    .await;
    let all: Result<Vec<_>, ArmError> = answers.into_iter().collect();
    listed(all.map(|lists| lists.into_iter().flatten().collect()))
}
