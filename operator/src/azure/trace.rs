//! By which ids Microsoft's support finds the calls that failed while an object was looked at.
//!
//! Conditions leave these ids out, or they would change with each call; an Event about a change has the id of the call
//! that brought it. Kept for one look, so an id is never that of another object's call.

use std::cell::RefCell;

use super::ArmError;

/// Most failed calls of one look that are kept; the last ones stay.
const MOST: usize = 100;

tokio::task_local! {
    /// What failed, as its error says it, and the id of the call.
    static FAILED: RefCell<Vec<(String, String)>>;
}

/// Keeps the ids of calls that fail while a look lasts.
pub fn collect<F: Future>(look: F) -> impl Future<Output = F::Output> {
    FAILED.scope(RefCell::default(), look)
}

/// A call failed. Outside of a look nothing is kept.
pub(super) fn failed(error: &ArmError, id: Option<&str>) {
    let Some(id) = id else { return };
    let _ = FAILED.try_with(|failed| {
        let mut failed = failed.borrow_mut();
        if failed.len() == MOST {
            failed.remove(0);
        }
        failed.push((error.to_string(), id.to_owned()));
    });
}

/// The id of the last call of this look whose failure a text tells of.
pub fn correlation_of(text: &str) -> Option<String> {
    let find = |failed: &RefCell<Vec<(String, String)>>| {
        let failed = failed.borrow();
        failed.iter().rev().find(|(error, _)| text.contains(error.as_str())).map(|(_, id)| id.clone())
    };
    FAILED.try_with(find).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str) -> ArmError {
        ArmError::Failed { code: code.to_owned(), message: "no room".to_owned() }
    }

    #[tokio::test]
    async fn a_text_has_the_id_of_the_last_such_call_of_its_own_look() {
        failed(&error("A"), Some("nobody looks"));
        collect(async {
            for (code, id) in [("A", Some("1")), ("B", Some("2")), ("A", Some("3")), ("B", None)] {
                failed(&error(code), id);
                tokio::task::yield_now().await;
            }
            let told = |code| correlation_of(&format!("database: {}", error(code)));
            assert_eq!((told("A").as_deref(), told("B").as_deref(), told("C")), (Some("3"), Some("2"), None));
            for n in 0..2 * MOST {
                failed(&error("B"), Some(&n.to_string()));
            }
            assert_eq!((told("A"), told("B").as_deref()), (None, Some("199")), "the oldest are forgotten");
        })
        .await;
        collect(async { assert_eq!(correlation_of(&error("A").to_string()), None, "another look") }).await;
        assert_eq!(correlation_of(&error("A").to_string()), None);
    }
}
