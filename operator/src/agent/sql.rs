//! T-SQL.
use std::time::Duration;
/// s
pub struct Server<'a> {
    /// s
    pub host: &'a str,
    /// s
    pub database: &'a str,
    /// s
    pub ca: Option<&'a str>,
    /// s
    pub token: &'a str,
    /// s
    pub timeout: Duration,
}
/// s
#[derive(Debug)]
pub enum Outcome {
    /// s
    Unchanged,
}
/// s
pub async fn ensure_user(_: &Server<'_>, _: &str, _: &str) -> Result<Outcome, String> {
    Err("not yet".to_owned())
}
