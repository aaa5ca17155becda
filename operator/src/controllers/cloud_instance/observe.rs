//! What is in Azure for an instance.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{bodies::Inputs, parts::Part};
use crate::{
    azure::Arm,
    observed::Observed,
    resources::{Pauses, Seen, memory::Memory, observe},
};

/// What is known of each part, read anew where that is due.
pub async fn parts(
    arm: &Arc<Arm>,
    inputs: &Inputs,
    memory: &mut Memory,
    (pauses, spread, now): (Pauses, f64, Timestamp),
) -> BTreeMap<Part, Seen> {
    let calls: Vec<_> = Part::ALL.iter().map(|part| (inputs.id(*part), inputs.wanted(*part).api)).collect();
    memory.retain(&calls.iter().map(|(id, _)| id.clone()).collect());
    observe::read(arm, memory, calls, pauses, spread, now).await;
    let unread = || Observed::Unknown("not read yet".to_owned());
    Part::ALL.into_iter().map(|part| (part, observe::seen(memory, &inputs.id(part), unread()))).collect()
}
