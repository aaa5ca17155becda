//! Removes what was left behind of an instance that was deleted by force, when its reef's cluster answers again.

use std::time::Duration;

use jiff::Timestamp;
use kube::runtime::controller::Action;
use reef_crds::{
    Region, RetainedInstance, RetainedInstanceStatus, cloud_instance::PlacementStatus, condition::Reason,
    reef::DeletionPolicy,
};

use super::{
    Shared,
    look::{held, with, write},
};
use crate::{
    controller::{Error, stop::Stops, trouble::Trouble},
    controllers::{
        cloud_instance::{
            delete::{Advance, advance},
            references::{Whose, inputs_of, on_reef},
        },
        reef::references::Held,
    },
    resources::{Pauses, memory::Memory},
};

/// One step.
pub async fn bury(
    retained: &RetainedInstance,
    shared: &Shared,
    at: (Region, Stops),
    policy: DeletionPolicy,
    memory: &mut Memory,
) -> Result<Action, Error> {
    let context = &*shared.context;
    let spec = &retained.spec;
    let home = match on_reef(context, at, &spec.reef_ref.name).await? {
        Ok(home) => home,
        Err(Held(trouble, stalled)) => return held(retained, shared, &trouble, stalled).await,
    };
    let origin = &spec.origin;
    let whose = Whose {
        instance: (&origin.namespace, &origin.name, &origin.uid),
        subdomain: &spec.subdomain,
        placement: PlacementStatus { storage_account: account(&spec.share.id), ..PlacementStatus::default() },
        database: &spec.database.isolation,
        quota: &spec.share.quota,
    };
    let inputs = match inputs_of(context, whose, &home) {
        Ok(inputs) => inputs,
        Err(Held(trouble, stalled)) => return held(retained, shared, &trouble, stalled).await,
    };
    let now = Timestamp::now();
    let spread = f64::from(now.subsec_nanosecond() % 1000) / 1000.0;
    let pauses = Pauses { poll: context.policy.azure_poll, resync: context.policy.resync };
    match advance(context, &home, &inputs, (policy, &[]), memory, (pauses, spread, now)).await? {
        // This object is what says that something is kept.
        Advance::Done(_) | Advance::MakeRetained => {
            let conditions = retained.status.clone().unwrap_or_default().conditions;
            let next = RetainedInstanceStatus { removed: true, ..with(retained, conditions) };
            write(retained, shared, &next).await?;
            Ok(Action::requeue(Duration::from_millis(100)))
        }
        Advance::Held(trouble) | Advance::Refused(trouble) => held(retained, shared, &trouble, false).await,
        Advance::GoesOn(what) => {
            let trouble = Trouble::new(Reason::Deleting, format!("what was left is removed: {what}"));
            held(retained, shared, &trouble, false).await?;
            Ok(Action::requeue(pauses.poll.min(Duration::from_secs(2))))
        }
    }
}

/// The storage account in the id of a share.
fn account(share: &str) -> String {
    let mut segments = share.split('/').skip_while(|s| !s.eq_ignore_ascii_case("storageAccounts"));
    segments.nth(1).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_account_stands_in_the_shares_id() {
        let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/a1/fileServices/default/shares/fs";
        assert_eq!(super::account(id), "a1");
        assert_eq!(super::account("/x"), "");
    }
}
