//! The reef operator: runs a cloud of Octopus Server instances on Azure as cells within cells.
//!
//! `docs/architecture.md` tells how the parts work together; start reading at [`app`].

pub mod actor;
pub mod admin;
pub mod agent;
pub mod app;
pub mod args;
pub mod azure;
pub mod bulkhead;
pub mod check;
pub mod client;
pub mod cluster;
pub mod controller;
pub mod controllers;
pub mod leader;
pub mod metrics;
pub mod observed;
pub mod placement;
pub mod requests;
pub mod resources;
pub mod telemetry;

/// An error with its sources, in one text. Libraries put the cause that matters into the last of them.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}
