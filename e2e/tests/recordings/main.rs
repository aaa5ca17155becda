//! Recorded traffic with ARM against the operator's client and against the sandbox's emulator.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "a step that fails is to fail its test"
)]

mod actions;
mod client;
mod credentials;
mod differences;
mod emulator;
mod errors;
mod fuzz;
mod said;
mod seed;
mod sent;
mod shape;
mod written;

use reef_e2e::recordings::{Recording, folder};

/// The recordings; none where there are none, which is said.
fn recordings() -> Option<Vec<Recording>> {
    let folder = folder();
    let all = Recording::all(&folder).unwrap();
    if all.is_none() {
        println!(
            "skipped: there are no recordings at {}; ARM_RECORDINGS names another folder",
            folder.display()
        );
    }
    all
}

/// What became of one recording.
struct Verdict {
    name: String,
    /// What did not go as recorded.
    wrong: Vec<String>,
    /// What was done, in figures.
    did: String,
    /// Types in it that are not spoken.
    not_spoken: Vec<String>,
    /// Whether anything in it is about a type that is spoken.
    is_ours: bool,
}

impl Verdict {
    fn word(&self) -> &'static str {
        match (self.wrong.is_empty(), self.is_ours, self.not_spoken.is_empty()) {
            (false, ..) => "FAILED",
            (true, false, _) => "not spoken",
            (true, true, false) => "passed in part",
            (true, true, true) => "passed",
        }
    }
}

/// Prints a line for each recording and the totals, and fails if one did.
fn report(what: &str, verdicts: &[Verdict]) {
    for verdict in verdicts {
        println!("{what:9} {:14} {} ({})", verdict.word(), verdict.name, verdict.did);
        if !verdict.not_spoken.is_empty() {
            println!("{:9}   types that are not spoken: {}", "", verdict.not_spoken.join(", "));
        }
        for wrong in &verdict.wrong {
            println!("{:9}   {wrong}", "");
        }
    }
    let count = |word: &str| verdicts.iter().filter(|verdict| verdict.word() == word).count();
    let [passed, part, failed, other] = ["passed", "passed in part", "FAILED", "not spoken"].map(count);
    println!(
        "{what:9} {passed} passed, {part} passed in part, {failed} failed, {other} not spoken, of {} recordings",
        verdicts.len()
    );
    assert_eq!(failed, 0, "{what}: see above");
}
