//! The differences between ARM and the emulator that are known and stay, each for a reason.

use reef_e2e::recordings::folder;

const FILE: &str = include_str!("differences.txt");

/// One line of the file: type, method and what differs, each with `*` for anything, in one recording only if it begins
/// with `@` and that one's name, of others than the project's own folder if it begins with `+`, and only at other versions of the API than those after a `!`. The reason goes before it.
struct Line {
    recording: Option<String>,
    /// Versions at which it is a difference all the same.
    compared: Vec<String>,
    kind: String,
    method: String,
    what: String,
    reason: String,
    /// Whether recordings of the folder show it.
    elsewhere: bool,
    used: usize,
}

/// What differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Of which type, in lower case.
    pub kind: String,
    /// In the answer to which method; of a poll, with ` poll` after it.
    pub method: String,
    /// At which version of the API.
    pub version: String,
    /// What, in words.
    pub what: String,
}

/// All of them.
pub struct Differences(Vec<Line>);

impl Differences {
    /// Reads the file.
    pub fn read() -> Self {
        let mut reason = String::new();
        let mut lines = Vec::new();
        for line in FILE.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(text) = line.strip_prefix('#') {
                text.trim().clone_into(&mut reason);
                continue;
            }
            assert!(!reason.is_empty(), "differences.txt: {line}: the reason goes before it");
            let (elsewhere, line) = match line.strip_prefix('+') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            let (recording, line) = match line.strip_prefix('@').and_then(|rest| rest.split_once(' ')) {
                Some((recording, rest)) => (Some(recording.to_owned()), rest.trim()),
                None => (None, line),
            };
            let (compared, line) = match line.strip_prefix('!').and_then(|rest| rest.split_once(' ')) {
                Some((versions, rest)) => (versions.split(',').map(str::to_owned).collect(), rest.trim()),
                None => (Vec::new(), line),
            };
            let mut words = line.splitn(3, char::is_whitespace).map(str::trim);
            let mut word = || words.next().unwrap_or_default().to_owned();
            let (kind, method, what) = (word().to_lowercase(), word(), word());
            assert!(!what.is_empty(), "differences.txt: {line}: TYPE METHOD WHAT");
            // What is there and should not be, or the other way round, is never a matter of taste.
            let is_wide = recording.is_none() && what.contains("answered");
            assert!(!is_wide, "differences.txt: {line}: only of one recording, with @NAME before it");
            let elsewhere = elsewhere || !compared.is_empty();
            lines.push(Line {
                elsewhere,
                recording,
                compared,
                kind,
                method,
                what,
                reason: reason.clone(),
                used: 0,
            });
        }
        Self(lines)
    }

    /// Whether a difference is one of them.
    pub fn knows(&mut self, recording: &str, difference: &Difference) -> bool {
        let Difference { kind, method, version, what } = difference;
        let method = method.replace(' ', "-");
        let is_status = what.contains("answered");
        let line = self.0.iter_mut().find(|line| {
            line.recording.as_ref().is_none_or(|of| of == recording)
                && !line.compared.contains(version)
                // By it clients decide, at every version.
                && (line.compared.is_empty() || !what.contains(" properties.provisioningState "))
                && (!is_status || line.what.contains("answered"))
                && glob(&line.kind, kind)
                && glob(&line.method, &method)
                && glob(&line.what, what)
        });
        line.is_some_and(|line| {
            line.used += 1;
            true
        })
    }

    /// How often each reason was needed.
    pub fn print(&self) {
        let mut reasons: Vec<&str> = self.0.iter().map(|line| line.reason.as_str()).collect();
        reasons.dedup();
        for reason in reasons {
            let used: usize = self.0.iter().filter(|line| line.reason == reason).map(|line| line.used).sum();
            println!("emulator  {used:4} differences: {reason}");
        }
    }

    /// What differs no more has no place in the file; other recordings than those it was written for may not show all.
    pub fn none_is_stale(&self) {
        if std::env::var_os("ARM_RECORDINGS").is_some() || !folder().exists() {
            return;
        }
        let stale: Vec<_> = self
            .0
            .iter()
            .filter(|l| l.used == 0 && !l.elsewhere)
            .map(|l| format!("{} {} {}", l.kind, l.method, l.what))
            .collect();
        assert!(stale.is_empty(), "differences.txt: these differ no more:\n{}", stale.join("\n"));
    }
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).filter(|&at| rest.is_char_boundary(at)).any(|at| glob(after, &rest[at..]))
        }),
    }
}
