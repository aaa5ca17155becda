//! Actions (POST). Those that we call answer at once; should Azure make one of them asynchronous, its answer is waited for
//! from one call to the next.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use azure_core::http::Method;
use serde_json::Value;

use super::{
    Arm, ArmError, Operation, Progress, Unless,
    client::json,
    operation::{self, Answer},
};

/// Actions whose answers are to come, by URL.
pub type Actions = Arc<Mutex<HashMap<String, Operation>>>;

impl Arm {
    /// Calls an action of a resource that changes nothing, for example `.../listClusterUserCredential`. While its answer is
    /// to come, that is the error, and the next call of the same action asks for it. Null if the answer is empty.
    pub async fn post(&self, action: &str, api_version: &str) -> Result<Value, ArmError> {
        let url = self.url(action, api_version);
        let began = self.waiting().remove(&url);
        let Some(operation) = began else {
            let answer = self.call(Method::Post, &url, action, None, Unless::Never).await?;
            return match operation::action(&answer, self.cloud()) {
                Some(operation) => Err(self.wait_for(url, operation)),
                None => content(&answer),
            };
        };
        let Some(status) = operation.url() else { return Err(gone(action)) };
        let answer = match self.send(Method::Get, status, action, None, Unless::Never).await {
            Ok(answer) => answer,
            Err(error) => {
                // That we could not ask says nothing about the action.
                self.waiting().insert(url, operation);
                return Err(error);
            }
        };
        self.answered(url, action, operation, &answer)
    }

    fn answered(
        &self,
        url: String,
        action: &str,
        operation: Operation,
        answer: &Answer,
    ) -> Result<Value, ArmError> {
        match operation::progress(&operation, answer, self.cloud()) {
            Ok(Progress::Running(operation)) => Err(self.wait_for(url, operation)),
            // A status holds what came of it as its properties; at its Location stands that alone.
            Ok(Progress::Succeeded) if operation.tells_status() => {
                let mut status = content(answer)?;
                Ok(status.get_mut("properties").map(Value::take).unwrap_or_default())
            }
            Ok(Progress::Succeeded) => content(answer),
            Ok(Progress::Failed(error)) => Err(error),
            // The next call begins it anew: it changes nothing.
            Ok(Progress::Lost) => Err(gone(action)),
            Err(error) => {
                self.waiting().insert(url, operation);
                Err(error)
            }
        }
    }

    fn wait_for(&self, url: String, operation: Operation) -> ArmError {
        let wait = operation.wait;
        self.waiting().insert(url, operation);
        ArmError::NotYet { wait }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<String, Operation>> {
        self.actions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Some actions have nothing to say.
fn content(answer: &Answer) -> Result<Value, ArmError> {
    if answer.body.trim_ascii().is_empty() { Ok(Value::Null) } else { json(answer) }
}

fn gone(action: &str) -> ArmError {
    let action = action.rsplit('/').next().unwrap_or_default();
    ArmError::NoAnswer(format!("the answer to {action} cannot be asked for any more"))
}
