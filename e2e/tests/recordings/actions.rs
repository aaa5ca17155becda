//! An action that was synchronous and becomes asynchronous.

use std::time::Duration;

use reef_e2e::recordings::{Record, Recording, replay::Server};
use reef_operator::azure::{ArmError, Proof};
use serde_json::{Value, json};

use super::client::client;

fn recording(records: &[Value]) -> Recording {
    let read = |record: &Value| serde_json::from_value::<Record>(record.clone()).unwrap();
    Recording { name: "action".to_owned(), began: None, records: records.iter().map(read).collect() }
}

const ACTION: &str = "/c/listKeys";
const RESULT: &str = "https://management.azure.com/operationresults/1?s=signed";

#[tokio::test]
async fn an_action_whose_answer_comes_later_is_asked_for_it() {
    let server = Server::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let accepted = json!({
        "method": "POST", "path": "/c/listKeys?api-version=v", "status": 202,
        "headers": { "location": RESULT, "retry-after": "3" },
    });
    let keys = json!({ "keys": [] });
    server.play(&recording(&[
        accepted.clone(),
        poll(202, Value::Null),
        poll(503, Value::Null),
        poll(200, keys.clone()),
    ]));
    let arm = client(&server, folder.path(), Proof::WorkloadIdentity);
    let wait = |seconds| ArmError::NotYet { wait: Some(Duration::from_secs(seconds)) };
    assert_eq!(arm.post(ACTION, "v").await, Err(wait(3)));
    assert_eq!(arm.post(ACTION, "v").await, Err(ArmError::NotYet { wait: None }));
    assert_eq!(arm.post(ACTION, "v").await.unwrap_err().to_string(), "ARM answered 503 503: ");
    assert_eq!(arm.post(ACTION, "v").await, Ok(keys), "its answer, and not another action");
    assert!(server.look(|replay| replay.strays().is_empty()));

    // Its URL leads nowhere: begun anew.
    server.play(&recording(&[
        accepted.clone(),
        poll(404, Value::Null),
        json!({
            "method": "POST", "path": "/c/listKeys?api-version=v", "status": 200, "resp": { "keys": [1] },
        }),
    ]));
    let arm = client(&server, folder.path(), Proof::WorkloadIdentity);
    assert_eq!(arm.post(ACTION, "v").await, Err(wait(3)));
    assert!(matches!(arm.post(ACTION, "v").await, Err(ArmError::NoAnswer(_))));
    assert_eq!(arm.post(ACTION, "v").await, Ok(json!({ "keys": [1] })));

    // Only its status can be asked for, and holds the answer; or does not.
    let accepted = json!({
        "method": "POST", "path": "/c/listKeys?api-version=v", "status": 202, "headers": { "azure-asyncoperation": RESULT },
    });
    server.play(&recording(&[
        accepted.clone(),
        poll(200, json!({ "status": "InProgress" })),
        poll(200, json!({ "status": "Succeeded", "properties": { "keys": [2] } })),
        accepted,
        poll(200, json!({ "status": "Succeeded" })),
    ]));
    let arm = client(&server, folder.path(), Proof::WorkloadIdentity);
    assert_eq!(arm.post(ACTION, "v").await, Err(ArmError::NotYet { wait: None }));
    assert_eq!(arm.post(ACTION, "v").await, Err(ArmError::NotYet { wait: None }));
    assert_eq!(arm.post(ACTION, "v").await, Ok(json!({ "keys": [2] })));
    assert_eq!(arm.post(ACTION, "v").await, Err(ArmError::NotYet { wait: None }));
    assert_eq!(
        arm.post(ACTION, "v").await,
        Ok(Value::Null),
        "it is done: another call would be another action"
    );
}

fn poll(status: u16, resp: impl Into<Value>) -> Value {
    json!({ "method": "GET", "path": "/operationresults/1?s=signed", "status": status, "resp": resp.into() })
}

#[tokio::test]
async fn an_action_may_have_nothing_to_say() {
    let server = Server::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    server.play(&recording(&[
        json!({ "method": "POST", "path": "/c/listKeys?api-version=v", "status": 200 }),
        json!({
            "method": "POST", "path": "/c/listKeys?api-version=v", "status": 202,
            "headers": { "location": RESULT },
        }),
        poll(200, Value::Null),
        json!({
            "method": "POST", "path": "/c/listKeys?api-version=v", "status": 202,
            "headers": { "azure-asyncoperation": RESULT },
        }),
        poll(204, Value::Null),
    ]));
    let arm = client(&server, folder.path(), Proof::WorkloadIdentity);
    assert_eq!(arm.post(ACTION, "v").await, Ok(Value::Null));
    for _ in ["by its Location", "by its status"] {
        assert_eq!(arm.post(ACTION, "v").await, Err(ArmError::NotYet { wait: None }));
        assert_eq!(arm.post(ACTION, "v").await, Ok(Value::Null));
    }
}
