//! The differences between ARM and the emulator that are known and stay, each for a reason.

use reef_e2e::recordings::folder;

const FILE: &str = include_str!("differences.txt");

/// One line of the file: type, method and what differs, each with `*` for anything. Before them, in this order: `+` if only
/// recordings of other folders than the project's show it; `@NAME` if it is of one recording; `!VERSION,...` if it is of
/// other versions of the API than these. The reason goes before the line.
struct Line {
    recording: Option<String>,
    /// Versions at which it is a difference all the same.
    compared: Vec<String>,
    kind: String,
    method: String,
    what: String,
    reason: String,
    /// Whether only recordings of other folders show it.
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
pub struct Differences {
    lines: Vec<Line>,
    /// Whether the recordings are others than the project's.
    elsewhere: bool,
}

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
        Self { lines, elsewhere: std::env::var_os("ARM_RECORDINGS").is_some() }
    }

    /// Whether a difference is one of them.
    pub fn knows(&mut self, recording: &str, difference: &Difference) -> bool {
        let Difference { kind, method, version, what } = difference;
        let method = method.replace(' ', "-");
        let is_status = what.contains("answered");
        let elsewhere = self.elsewhere;
        let line = self.lines.iter_mut().find(|line| {
            line.recording.as_ref().is_none_or(|of| of == recording)
                && (elsewhere || !line.elsewhere)
                && (line.compared.is_empty() || is_of_version(&line.compared, version, what))
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
        let mut reasons: Vec<&str> = self.lines.iter().map(|line| line.reason.as_str()).collect();
        reasons.dedup();
        for reason in reasons {
            let used: usize =
                self.lines.iter().filter(|line| line.reason == reason).map(|line| line.used).sum();
            println!("emulator  {used:4} differences: {reason}");
        }
    }

    /// What differs no more has no place in the file; other recordings than those it was written for may not show all.
    pub fn none_is_stale(&self) {
        if self.elsewhere || !folder().exists() {
            return;
        }
        let stale: Vec<_> = self
            .lines
            .iter()
            .filter(|l| l.used == 0 && !l.elsewhere)
            .map(|l| format!("{} {} {}", l.kind, l.method, l.what))
            .collect();
        assert!(stale.is_empty(), "differences.txt: these differ no more:\n{}", stale.join("\n"));
    }
}

/// Whether a difference may come of another version of the API than those compared: a property that one of the two does not
/// have. Never one that was sent, one of another type, or another word; and by the state of a resource clients decide at
/// every version.
fn is_of_version(compared: &[String], version: &str, what: &str) -> bool {
    let mut words = what.split(' ').skip(1);
    let (verb, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let is_state = ["properties.provisioningState", "properties.state", "properties.status"]
        .contains(&path.trim_start_matches("value[]."));
    !compared.iter().any(|one| one == version) && !is_state && ["has", "lacks"].contains(&verb)
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).filter(|&at| rest.is_char_boundary(at)).any(|at| glob(after, &rest[at..]))
        }),
    }
}
