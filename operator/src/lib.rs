//! The reef operator: runs a cloud of Octopus Server instances on Azure as cells within cells.
//!
//! `docs/architecture.md` tells how the parts work together; start reading at [`app`].

pub mod admin;
pub mod app;
pub mod args;
pub mod azure;
pub mod check;
pub mod client;
pub mod cluster;
pub mod controller;
pub mod controllers;
pub mod leader;
pub mod metrics;
pub mod observed;
pub mod telemetry;
