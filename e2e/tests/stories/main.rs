//! The end-to-end stories, one file each. All are one program, so that several run side by side (the Makefile says how
//! many) and it is linked once.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "a step that fails is to fail its story"
)]

mod alone;
mod api;
// Stories begin by name: the longest of those that run beside others has one that comes early.
mod away;
mod azure;
mod azure_storms;
mod blind;
mod crash_matrix;
mod files;
mod gateway;
mod instance;
mod instance_begun;
mod instance_troubles;
mod instances_adopted;
mod isolation;
mod leadership;
mod moved;
mod network;
mod node;
mod operator;
mod random_worlds;
mod real_azure;
mod reef;
mod reef_adopted;
mod reef_troubles;
mod region;
mod resized;
mod sandbox;
mod skewed;
mod stopped;
mod unshared;
