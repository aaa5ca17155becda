//! Azure Resource Manager (ARM).
//!
//! One client per Azure identity, on the pipeline of `azure_core` with its retries off: the controllers
//! retry, and see each failure. Knows nothing of what our kinds mean.

mod action;
mod args;
mod arms;
mod client;
mod cloud;
pub mod compare;
mod developer;
mod entra;
pub mod error;
pub mod operation;
mod proof;
mod text;
pub mod trace;
mod turn;

pub use args::AzureArgs;
pub use arms::{Account, Arms, Error as AzureError, Identity};
pub use client::{Arm, Unless};
pub use cloud::Cloud;
pub use error::{ArmError, Class};
pub use operation::{Begun, Operation, Progress};
pub use proof::Proof;
