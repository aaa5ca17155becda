//! Long-running programs that the sandbox starts.

use std::{fs::File, io, path::Path, process::Stdio};

use tokio::process::{Child, Command};

/// A program that runs until it is dropped or stopped. Its output goes to a file.
pub struct Program {
    name: String,
    child: Child,
}

impl Program {
    /// Starts a program with its output appended to `log`.
    pub fn start(name: &str, program: &Path, arguments: &[String], log: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = Command::new(program)
            .args(arguments)
            // Go programs collect garbage less often: memory is there, and the processors are what is short.
            .env("GOGC", "400")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// Whether it has ended by itself, and how.
    pub fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(format!("{} ended: {status}", self.name)),
            Err(error) => Some(format!("{}: {error}", self.name)),
        }
    }

    /// Ends it at once. API servers need this: after SIGTERM they linger while clients are attached.
    pub async fn kill(&mut self) {
        let _ = self.child.kill().await;
    }
}
