//! What is in Azure for an instance.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{bodies::Inputs, parts::Part, references::Home};
use crate::{
    azure::Arm,
    bulkhead::Rate,
    controller::Context,
    observed::Observed,
    resources::{
        Pauses, Seen,
        memory::{Memory, after},
        observe::{self, Call},
    },
};

/// Federated credentials of one reef that are read in a cycle of routine looks: there is no list of them, and each says
/// only what its instance's server would say first.
const CREDENTIALS: f64 = 4.0;

/// What is known of each part, read anew where that is due. `has_served` means that all parts were good once.
pub async fn parts(
    context: &Context,
    home: &Home,
    inputs: &Inputs,
    memory: &mut Memory,
    has_served: bool,
    times: (Pauses, f64, Timestamp),
) -> BTreeMap<Part, Seen> {
    let ids: BTreeMap<Part, String> = Part::ALL.iter().map(|part| (*part, inputs.id(*part))).collect();
    memory.retain(&ids.values().cloned().collect());
    let call = |part: Part| Call {
        id: ids[&part].clone(),
        api: inputs.wanted(part).api,
        arm: home.arm_of(context, part),
    };
    let listed: Vec<_> = Part::ALL.into_iter().filter(|part| *part != Part::Federation).map(call).collect();
    // Who asks for a look wants one at Azure itself.
    let is_known = has_served && !memory.is_asked;
    observe::look_up(&context.lists, memory, &listed, is_known, times).await;
    let waits = postpone(&home.arm, &ids[&Part::Federation], memory, is_known, times);
    let calls = Part::ALL.into_iter().filter(|part| !(waits && *part == Part::Federation)).map(call);
    observe::read(memory, calls.collect(), times).await;
    memory.is_asked = false;
    let unread = || Observed::Unknown("not read yet".into());
    Part::ALL.into_iter().map(|part| (part, observe::seen(memory, &ids[&part], unread()))).collect()
}

/// Whether the federated credential is not read now although it may be due, because it was good and it is not its turn.
fn postpone(
    arm: &Arc<Arm>,
    id: &str,
    memory: &mut Memory,
    is_known: bool,
    (pauses, spread, now): (Pauses, f64, Timestamp),
) -> bool {
    if memory.is_doubtful || !is_known {
        return false;
    }
    let due = memory.read.get(id).is_none_or(|read| read.again_at <= after(now, pauses.resync / 4));
    let is_stale = memory.read.get(id).is_some_and(|read| read.again_at == Timestamp::MIN);
    if is_stale || !due {
        return false;
    }
    let rate = Rate { burst: CREDENTIALS, per_second: CREDENTIALS / pauses.resync.as_secs_f64() };
    if arm.cell().spare(rate) {
        return false;
    }
    if let Some(read) = memory.read.get_mut(id) {
        read.again_at = after(now, pauses.resync.mul_f64(0.9 + 0.2 * spread));
    }
    true
}
