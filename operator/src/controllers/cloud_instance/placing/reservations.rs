//! Reservations as they stand in the status of a Reef (pure).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use reef_crds::reef::{ReservationStatus, ReservedStatus};

use crate::placement::{Ask, Instance, Reservation, Size, Tier, Tiers};

/// Reads one. One without a revision is of an earlier release, and none of an instance that is there.
pub fn read(status: &ReservationStatus) -> Reservation {
    let ask = status.ask.clone().unwrap_or_default();
    let tier = |dedicated: bool| if dedicated { Tier::Dedicated } else { Tier::Shared };
    Reservation {
        instance: Instance { namespace: status.namespace.clone(), name: status.name.clone() },
        claim: status.uid.clone(),
        revision: status.revision.unwrap_or(0),
        generation: status.generation,
        pool: status.pool.clone(),
        account: status.storage_account.clone(),
        ask: Ask {
            size: Size {
                pods: ask.pods,
                cpu: ask.cpu_millicores,
                memory: ask.memory_bytes,
                database: ask.database_bytes,
                share: ask.share_bytes,
            },
            tiers: Tiers { reef: tier(ask.dedicated_reef), database: tier(ask.dedicated_database) },
            anti_affinity: ask.anti_affinity_group,
        },
        at: status.at.0,
    }
}

/// Writes one.
pub fn write(held: &Reservation) -> ReservationStatus {
    let Ask { size, tiers, anti_affinity } = &held.ask;
    ReservationStatus {
        uid: held.claim.clone(),
        namespace: held.instance.namespace.clone(),
        name: held.instance.name.clone(),
        revision: Some(held.revision),
        generation: held.generation,
        pool: held.pool.clone(),
        storage_account: held.account.clone(),
        ask: Some(ReservedStatus {
            pods: size.pods,
            cpu_millicores: size.cpu,
            memory_bytes: size.memory,
            database_bytes: size.database,
            share_bytes: size.share,
            dedicated_reef: tiers.reef == Tier::Dedicated,
            dedicated_database: tiers.database == Tier::Dedicated,
            anti_affinity_group: anti_affinity.clone(),
        }),
        at: Time(held.at),
    }
}
