//! Where each call counts.

use std::time::Duration;

use super::limits::{Call, Kind, Limit, Quota, Rates, Verb};
use Kind::{
    AksOperations, AksOther, ArmDeletes, ArmReads, ArmWrites, ClusterPuts, ClusterReads, NetworkReads,
    NetworkWrites, PoolPuts, StorageBurst, StorageLists, StorageReads, StorageWrites,
};
use Verb::{Delete, Read, Write};

const GROUP: &str = "/subscriptions/S/resourceGroups/G";

fn limits(verb: Verb, path: &str) -> Vec<Limit> {
    Rates::default().limits(&Call { verb, path, location: "West Europe" })
}

fn kinds(verb: Verb, path: &str) -> Vec<Kind> {
    limits(verb, path).into_iter().map(|limit| limit.key.kind).collect()
}

#[test]
fn each_call_counts_where_azure_counts_it() {
    let account = format!("{GROUP}/providers/Microsoft.Storage/storageAccounts/a");
    let shares = format!("{account}/fileServices/default/shares");
    let share = format!("{shares}/f");
    let cluster = format!("{GROUP}/providers/Microsoft.ContainerService/managedClusters/C");
    let pool = format!("{cluster}/agentPools/p");
    let network = format!("{GROUP}/providers/Microsoft.Network/virtualNetworks/v");
    let lock = format!("{account}/providers/Microsoft.Authorization/locks/l");
    let sql = format!("{GROUP}/providers/Microsoft.Sql/servers/s/databases/d");
    for (verb, path, expect) in [
        (Read, GROUP.to_owned(), vec![ArmReads]),
        (Write, GROUP.to_owned(), vec![ArmWrites]),
        (Delete, sql.clone(), vec![ArmDeletes]),
        (Write, format!("{sql}/operations/1/cancel"), vec![ArmWrites]),
        (Read, account.clone(), vec![ArmReads, StorageReads]),
        (Read, shares.clone(), vec![ArmReads, StorageReads, StorageLists]),
        (Read, format!("{shares}?$expand=deleted/x"), vec![ArmReads, StorageReads, StorageLists]),
        (Read, share.clone(), vec![ArmReads, StorageReads]),
        (Write, share.clone(), vec![ArmWrites, StorageBurst, StorageWrites]),
        (Delete, share.clone(), vec![ArmDeletes, StorageBurst, StorageWrites]),
        (Write, format!("{share}/restore"), vec![ArmWrites, StorageBurst, StorageWrites]),
        (Write, format!("{account}/listKeys"), vec![ArmWrites, StorageBurst, StorageWrites, StorageReads]),
        (Write, lock, vec![ArmWrites]),
        (Write, network.clone(), vec![ArmWrites, NetworkWrites]),
        (Delete, network.clone(), vec![ArmDeletes, NetworkWrites]),
        (Read, network, vec![ArmReads, NetworkReads]),
        (Write, cluster.clone(), vec![ArmWrites, ClusterPuts]),
        (Read, cluster.clone(), vec![ArmReads, ClusterReads]),
        (Delete, cluster.clone(), vec![ArmDeletes, AksOther]),
        (Write, format!("{cluster}/listClusterUserCredential"), vec![ArmWrites, AksOther]),
        (Write, pool.clone(), vec![ArmWrites, PoolPuts]),
        (Read, pool.clone(), vec![ArmReads, AksOther]),
        (Delete, pool, vec![ArmDeletes, AksOther]),
        (Read, format!("{cluster}/agentPools"), vec![ArmReads, AksOther]),
    ] {
        assert_eq!(kinds(verb, &path), expect, "{verb:?} {path}");
        assert_eq!(kinds(verb, &path.to_uppercase()), expect, "{verb:?} {path} in upper case");
    }
}

#[test]
fn looks_at_operations_are_reads_and_no_lists() {
    let at = |provider: &str| format!("/subscriptions/S/providers/Microsoft.{provider}/locations/weu");
    let host = "https://management.azure.com";
    for (path, expect) in [
        (
            format!("{host}{}/operations/1?api-version=v", at("ContainerService")),
            vec![ArmReads, AksOperations],
        ),
        (format!("{}/operationresults/1", at("ContainerService")), vec![ArmReads, AksOperations]),
        (format!("{}/operations/1", at("Network")), vec![ArmReads, NetworkReads]),
        (format!("{}/asyncoperations/1?monitor=true", at("Storage")), vec![ArmReads, StorageReads]),
        (format!("{}/databaseAzureAsyncOperation/1", at("Sql")), vec![ArmReads]),
        ("/subscriptions/S/operationresults/e30=".to_owned(), vec![ArmReads]),
        (
            format!("{GROUP}/providers/Microsoft.Network/dnsOperationStatuses/eA"),
            vec![ArmReads, NetworkReads],
        ),
    ] {
        for verb in [Read, Write] {
            assert_eq!(kinds(verb, &path), expect, "{verb:?} {path}");
        }
        assert_eq!(limits(Read, &path)[0].key.of, "s/westeurope", "{path}");
    }
}

#[test]
fn names_that_look_like_types_mislead_nobody() {
    let path =
        "/subscriptions/s/resourceGroups/providers/providers/Microsoft.Storage/storageAccounts/providers";
    assert_eq!(kinds(Read, path), [ArmReads, StorageReads]);
    assert_eq!(kinds(Read, "/subscriptions/s/resourceGroups/providers"), [ArmReads]);
    assert_eq!(kinds(Write, "/subscriptions/s/resourceGroups/operationresults"), [ArmWrites]);
    assert_eq!(kinds(Read, ""), [ArmReads]);
    assert_eq!(kinds(Read, "/"), [ArmReads]);
    let nowhere = Call { verb: Read, path: "/providers/Microsoft.Sql", location: "" };
    assert_eq!(Rates::default().limits(&nowhere)[0].key.of, "/");
}

#[test]
fn clusters_are_counted_apart_and_providers_by_place() {
    let path =
        |cluster: &str| format!("{GROUP}/providers/Microsoft.ContainerService/managedClusters/{cluster}");
    let of = |path: &str| limits(Write, path)[1].key.of.clone();
    assert_eq!(of(&path("C")), "s/g/c");
    assert_ne!(of(&path("c")), of(&path("d")));
    assert_eq!(of(&format!("{}/agentPools/a", path("c"))), of(&format!("{}/agentPools/b", path("C"))));
    assert_eq!(limits(Read, &path("c"))[0].key.of, "s/westeurope");
}

#[test]
fn limits_have_names() {
    let share =
        format!("{GROUP}/providers/Microsoft.Storage/storageAccounts/a/fileServices/default/shares/f");
    let pool = format!("{GROUP}/providers/Microsoft.ContainerService/managedClusters/c/agentPools/p");
    let names = |verb, path: &str| limits(verb, path).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        names(Write, &share),
        [
            "ARM writes (10 per second, 200 at once)",
            "Storage writes (10 per second)",
            "Storage writes (1200 per hour)"
        ]
    );
    assert_eq!(names(Read, &share)[1], "Storage reads (800 per 5 min)");
    assert_eq!(names(Write, &pool)[1], "changes of the AKS cluster's agent pools (1 per minute, 20 at once)");
}

#[test]
fn the_settings_are_arms_rates() {
    let arm = |reads_per_second, writes_per_second, verb| {
        let call = Call { verb, path: GROUP, location: "" };
        Rates { reads_per_second, writes_per_second }.limits(&call)[0].quota
    };
    let bucket = |burst, millis| Quota::Bucket { burst, refill: Duration::from_millis(millis) };
    assert_eq!(arm(25, 10, Read), bucket(250, 40));
    assert_eq!(arm(25, 10, Write), bucket(200, 100));
    assert_eq!(arm(50, 5, Delete), bucket(100, 200));
    assert_eq!(arm(3, 1, Read), Quota::Bucket { burst: 30, refill: Duration::from_nanos(333_333_334) });
    assert_eq!(arm(3, 1, Read).to_string(), "3 per second, 30 at once");
    assert_eq!(arm(0, 0, Read), bucket(10, 1000), "never none at all");
}

#[test]
fn the_settings_mean_all_limits() {
    let account = format!("{GROUP}/providers/Microsoft.Storage/storageAccounts/a");
    let cluster = format!("{GROUP}/providers/Microsoft.ContainerService/managedClusters/C");
    let quotas = |rates: Rates, verb, path: &str| -> Vec<Quota> {
        let call = Call { verb, path, location: "" };
        rates.limits(&call).into_iter().map(|limit| limit.quota).collect()
    };
    let fast = Rates { reads_per_second: 5000, writes_per_second: 2000 };
    let minutes = Duration::from_secs(300);
    assert_eq!(quotas(fast, Read, &account)[1], Quota::Window { most: 160_000, length: minutes });
    assert_eq!(
        quotas(fast, Write, &cluster)[1],
        Quota::Bucket { burst: 4000, refill: Duration::from_millis(300) }
    );
    let half = Rates { reads_per_second: 12, writes_per_second: 5 };
    assert_eq!(quotas(half, Read, &account)[1], Quota::Window { most: 384, length: minutes });
    let hour = Duration::from_secs(3600);
    assert_eq!(quotas(half, Write, &account)[2], Quota::Window { most: 600, length: hour });
    let none = Rates { reads_per_second: 0, writes_per_second: 0 };
    assert!(quotas(none, Read, &account).iter().all(|quota| quota.most() >= 1));
}
