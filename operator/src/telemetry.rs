//! Logs.

use tracing_subscriber::EnvFilter;

use crate::args::{LogArgs, LogFormat};

/// Starts logging to standard output: JSON objects with `timestamp`, `level`, `message` and the event's
/// fields at the top, or text.
pub fn init(args: &LogArgs) {
    // Checked when the flags were parsed.
    // kube's client logs each failed connection as an error of its own; we log what it meant.
    let levels = format!("kube_client::client::builder=off,{}", args.log_level);
    let filter = EnvFilter::try_new(levels).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    match args.log_format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).init(),
        LogFormat::Text => builder.init(),
    }
}
