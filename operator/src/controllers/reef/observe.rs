//! What is in Azure for a reef.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{bodies::Inputs, parts::Part};
use crate::{
    azure::Arm,
    observed::Observed,
    resources::{
        Pauses, Seen,
        memory::{Memory, Read},
        observe::{Call, read, seen},
    },
};

/// What is known of each part, read anew where that is due, with the client for it.
pub async fn parts(
    arm_of: impl Fn(Part) -> Arc<Arm>,
    inputs: &Inputs,
    memory: &mut Memory,
    times: (Pauses, f64, Timestamp),
) -> BTreeMap<Part, Seen> {
    // With the seen of none the ids and versions are known, and that is all that is needed here.
    let nothing = BTreeMap::new();
    let group = inputs.wanted(Part::Group, &nothing);
    let call = |part: Part, id: &str, api| Call { id: id.to_owned(), api, arm: arm_of(part) };
    read(memory, vec![call(Part::Group, &group.id, group.api)], times).await;
    let all: Vec<_> = inputs.parts().into_iter().map(|part| (part, inputs.wanted(part, &nothing))).collect();
    memory.retain(&all.iter().map(|(_, wanted)| wanted.id.clone()).collect());
    let group_is_absent = matches!(memory.read.get(&group.id), Some(Read { state: Observed::Absent, .. }));
    let calls = all
        .iter()
        .filter(|(part, wanted)| !wanted.id.is_empty() && (*part == Part::Record || !group_is_absent))
        .map(|(part, wanted)| call(*part, &wanted.id, wanted.api))
        .collect();
    read(memory, calls, times).await;
    if group_is_absent {
        // Nothing is in a group that is not there.
        let outside = [inputs.id(Part::Group), inputs.id(Part::Record)].into();
        memory.retain(&outside);
    }
    let unread = |part: Part, id: &str| match part {
        _ if id.is_empty() => Observed::Unknown("who the operator is in Entra is not known".into()),
        Part::Record => Observed::Unknown("not read yet".into()),
        _ if group_is_absent => Observed::Absent,
        _ => Observed::Unknown("not read yet".into()),
    };
    all.into_iter().map(|(part, wanted)| (part, seen(memory, &wanted.id, unread(part, &wanted.id)))).collect()
}
