//! The story of a run: a reef and an instance are made, looked at, resized, and deleted, with the operator's leader killed
//! on the way.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Namespace, Pod},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use reef_crds::{
    CloudInstance, CloudInstanceStatus, Reef, ReefClass, Region, RetainedInstance,
    meta::RECONCILE_REQUESTED_AT,
};
use serde_json::{Value, json};

use super::{Suite, bill::said, objects, say};

const GROUPS_API: &str = "2021-04-01";
const SQL_API: &str = "2023-08-01";
const STORAGE_API: &str = "2025-06-01";

/// Room of database and share, GiB: at first and later.
const ROOM: [(u32, u32); 2] = [(10, 100), (20, 120)];

/// Providers of what the operator makes in a group.
const OURS: [&str; 5] = [
    "microsoft.containerservice/",
    "microsoft.managedidentity/",
    "microsoft.network/",
    "microsoft.sql/",
    "microsoft.storage/",
];

const MINUTE: Duration = Duration::from_secs(60);

/// How long each may take. What was seen takes less than half of it. A resolver may keep for five minutes that a name is not
/// there.
const REEF: Duration = MINUTE.saturating_mul(60);
const INSTANCE: Duration = MINUTE.saturating_mul(40);
const NAMES: Duration = MINUTE.saturating_mul(15);
const OTHERS: Duration = MINUTE.saturating_mul(5);

/// How many rounds of looks there are, and how many in a row have to write nothing.
const ROUNDS: u32 = 10;
const QUIET: u32 = 3;

impl Suite {
    /// The whole story of a run with this name.
    pub async fn life(&self, name: &str) -> Result<(), String> {
        let client = || self.client.clone();
        let settings = &self.cleaner.azure.settings;
        let (regions, classes) = (Api::<Region>::all(client()), Api::<ReefClass>::all(client()));
        let reefs = Api::<Reef>::all(client());
        let namespace = json!({ "metadata": { "name": name } });
        objects::apply(&Api::<Namespace>::all(client()), name, namespace).await?;
        objects::apply(&regions, name, objects::region(settings, name)).await?;
        objects::apply(&classes, name, objects::class(settings, name)).await?;
        objects::ready(&regions, name, OTHERS).await?;
        objects::ready(&classes, name, OTHERS).await?;
        objects::apply(&reefs, name, objects::reef(name)).await?;
        self.killed_while_making(name).await?;
        let reef = objects::ready(&reefs, name, REEF).await?;
        let instances = Api::<CloudInstance>::namespaced(client(), name);
        let manifest = |room| objects::instance(settings, name, room);
        objects::apply(&instances, name, manifest(ROOM[0])).await?;
        tokio::time::sleep(self.cleaner.azure.pause).await;
        self.kill_leader().await?;
        let status = objects::ready(&instances, name, INSTANCE).await?.status.unwrap_or_default();
        let cluster = reef.status.and_then(|status| status.cluster).map(|c| c.name).unwrap_or_default();
        self.serves(&status, &cluster).await?;
        self.is_there_once(name).await?;
        self.rests(name).await?;
        objects::apply(&instances, name, manifest(ROOM[1])).await?;
        objects::ready(&instances, name, INSTANCE).await?;
        self.serves(&status, &cluster).await?;
        objects::delete(&instances, "CloudInstance", name, Instant::now() + INSTANCE).await?;
        self.is_kept_and_purged(name).await?;
        objects::delete(&reefs, "Reef", name, Instant::now() + REEF).await?;
        let deadline = Instant::now() + OTHERS;
        loop {
            // Azure's lists are late.
            let left = self.cleaner.azure.left(name).await;
            if left.is_empty() {
                say("nothing with the reef's tags is left in Azure");
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("the Reef is gone, and this is not:\n{}", left.lines()));
            }
            tokio::time::sleep(self.cleaner.azure.pause).await;
        }
        self.cleaner.objects(&self.client).delete(name, Instant::now() + OTHERS).await
    }

    /// Waits until something of the reef is in Azure, and kills the operator's leader.
    async fn killed_while_making(&self, name: &str) -> Result<(), String> {
        let deadline = Instant::now() + REEF;
        while self.cleaner.azure.left(name).await.groups.is_empty() {
            if Instant::now() > deadline {
                return Err(format!("Reef {name}: no resource group came into being"));
            }
            tokio::time::sleep(self.cleaner.azure.pause).await;
        }
        self.kill_leader().await
    }

    async fn kill_leader(&self) -> Result<(), String> {
        let pod = self.leader().await?;
        let namespace = &self.cleaner.azure.settings.namespace;
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let now = DeleteParams::default().grace_period(0);
        pods.delete(&pod, &now).await.map_err(|error| format!("pod {pod}: {error}"))?;
        say(&format!("the operator's leader {pod} is killed"));
        Ok(())
    }

    async fn leader(&self) -> Result<String, String> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), &self.cleaner.azure.settings.namespace);
        let lease = leases.get(&self.operator.lease).await;
        let lease = lease.map_err(|error| format!("Lease {}: {error}", self.operator.lease))?;
        let holder = lease.spec.and_then(|spec| spec.holder_identity).filter(|holder| !holder.is_empty());
        holder.ok_or_else(|| format!("Lease {}: nobody holds it", self.operator.lease))
    }

    /// The server answers under its name, with the release that was wanted.
    async fn serves(&self, status: &CloudInstanceStatus, cluster: &str) -> Result<(), String> {
        let url = format!("{}/api", status.url.clone().unwrap_or_default());
        let host = url.trim_start_matches("https://").trim_end_matches("/api").to_owned();
        let deadline = Instant::now() + NAMES;
        loop {
            // Who asks too soon hears for minutes that the name is not there.
            tokio::time::sleep(self.cleaner.azure.pause).await;
            // A new client each time, which asks for the name anew.
            let why = match self.server_client(&host, cluster)?.get(&url).send().await {
                Ok(answer) => {
                    let code = answer.status();
                    let body = answer.bytes().await.unwrap_or_default();
                    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                    if code.is_success() && body["Version"] == self.cleaner.azure.settings.release.as_str() {
                        say(&format!(
                            "{url} answers {code}, release {}",
                            self.cleaner.azure.settings.release
                        ));
                        return Ok(());
                    }
                    format!("{code}, release {}", body["Version"])
                }
                Err(error) => said(&error),
            };
            if Instant::now() > deadline {
                return Err(format!("{url}: {why}"));
            }
        }
    }

    /// Though its leader was killed, the operator made nothing twice, and all has the reef's tags.
    async fn is_there_once(&self, name: &str) -> Result<(), String> {
        let azure = &self.cleaner.azure;
        let left = azure.left(name).await;
        let [group] = &left.groups[..] else {
            return Err(format!("not one resource group:\n{}", left.lines()));
        };
        let list = azure.list(&format!("{group}/resources"), GROUPS_API).await;
        let list = list.map_err(|error| format!("{group}: {error}"))?;
        let mut counts = BTreeMap::new();
        for resource in &list {
            let text = |member: &str| resource[member].as_str().unwrap_or_default().to_lowercase();
            *counts.entry(text("type")).or_insert(0) += 1;
            // A policy of the subscription may add what is not ours, and the system database is the server's own.
            let is_ours = OURS.iter().any(|provider| text("type").starts_with(provider))
                && !text("id").ends_with("/databases/master");
            if is_ours && resource["tags"]["reef-operator-reef"] != name {
                return Err(format!("{}: the tag reef-operator-reef is not {name}", resource["id"]));
            }
        }
        for kind in [
            "microsoft.containerservice/managedclusters",
            "microsoft.sql/servers",
            "microsoft.storage/storageaccounts",
        ] {
            match counts.get(kind) {
                Some(1) => {}
                other => return Err(format!("{group}: {} of {kind}, not 1", other.unwrap_or(&0))),
            }
        }
        // The reef's, and the instance's.
        if left.records.len() < 2 {
            return Err(format!("records are missing:\n{}", left.lines()));
        }
        say("Azure has one of each thing, with the reef's tags");
        Ok(())
    }

    /// Looks that find nothing to do write nothing.
    async fn rests(&self, name: &str) -> Result<(), String> {
        let regions = Api::<Region>::all(self.client.clone()).list(&ListParams::default()).await;
        if regions.map_err(|error| error.to_string())?.items.len() != 1 {
            say(
                "not looked at: writes to Azure while nothing changes, because the operator has other regions",
            );
            return Ok(());
        }
        let mut before = match self.writes().await {
            Ok(before) => before,
            Err(why) => {
                say(&format!("not looked at: writes to Azure while nothing changes, because of {why}"));
                return Ok(());
            }
        };
        let mut quiet = 0;
        for round in 0..ROUNDS {
            self.look(&Api::<Reef>::all(self.client.clone()), name, round).await?;
            self.look(&Api::<CloudInstance>::namespaced(self.client.clone(), name), name, round).await?;
            let after = self.writes().await?;
            quiet = if after == before { quiet + 1 } else { 0 };
            if quiet == QUIET {
                say(&format!("{QUIET} looks in a row at the reef and the instance wrote nothing to Azure"));
                return Ok(());
            }
            before = after;
        }
        Err(format!("of {ROUNDS} rounds of looks, no {QUIET} in a row wrote nothing to Azure"))
    }

    /// Has the operator look at an object, and waits until it has.
    async fn look<K: objects::Kind>(&self, api: &Api<K>, name: &str, round: u32) -> Result<(), String> {
        let value = format!("test-azure-{round}");
        let asked = json!({ "metadata": { "annotations": { RECONCILE_REQUESTED_AT: value } } });
        let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(&asked)).await;
        patched.map_err(|error| format!("{name}: {error}"))?;
        let deadline = Instant::now() + OTHERS;
        while Instant::now() < deadline {
            let object = api.get(name).await.ok().and_then(|object| serde_json::to_value(object).ok());
            if object.is_some_and(|object| object["status"]["lastHandledReconcileAt"] == value) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(format!("{} {name}: nobody looks at it", K::kind(&())))
    }

    /// The operator's leader, and its writes to Azure since it began.
    async fn writes(&self) -> Result<(String, u64), String> {
        let (leader, namespace) = (self.leader().await?, &self.cleaner.azure.settings.namespace);
        let path = format!("/api/v1/namespaces/{namespace}/pods/{leader}:8080/proxy/metrics");
        let request = http::Request::get(&path).body(Vec::new()).map_err(|error| error.to_string())?;
        let text = self.client.request_text(request).await.map_err(|error| format!("{path}: {error}"))?;
        let is_write = |line: &&str| {
            line.starts_with("reef_operator_azure_requests_total{")
                && ["PUT", "PATCH", "DELETE"].iter().any(|m| line.contains(&format!("method=\"{m}\"")))
        };
        let counts = text.lines().filter(is_write).map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        let counts: Option<Vec<u64>> = counts.collect();
        let count = counts.map(|counts| counts.iter().sum());
        Ok((leader, count.ok_or_else(|| format!("{path}: not the operator's metrics"))?))
    }

    /// With the deletion policy `Retain` the data outlives the instance, with the room that it had last; deleting what is
    /// kept deletes it.
    async fn is_kept_and_purged(&self, name: &str) -> Result<(), String> {
        let all = Api::<RetainedInstance>::all(self.client.clone());
        let list = all.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let kept = list.items.into_iter().find(|kept| kept.spec.origin.namespace == name);
        let kept = kept.ok_or_else(|| format!("no RetainedInstance of {name}"))?;
        let (database, share) = (&kept.spec.database.id, &kept.spec.share.id);
        let read = async |id: &str, api: &str| {
            self.cleaner.azure.get(id, api).await.map_err(|error| format!("kept data: {id}: {error}"))
        };
        let bytes = read(database, SQL_API).await?["properties"]["maxSizeBytes"].as_u64();
        let gib = read(share, STORAGE_API).await?["properties"]["shareQuota"].as_u64();
        let wanted = (u64::from(ROOM[1].0) << 30, u64::from(ROOM[1].1));
        if (bytes, gib) != (Some(wanted.0), Some(wanted.1)) {
            return Err(format!("{database} has {bytes:?} bytes and {share} {gib:?} GiB, not {wanted:?}"));
        }
        say("the instance is gone, its data is kept, with the room that it was given later");
        let kept = kept.metadata.name.unwrap_or_default();
        objects::delete(&all, "RetainedInstance", &kept, Instant::now() + INSTANCE).await?;
        for (id, api) in [(database, SQL_API), (share, STORAGE_API)] {
            match self.cleaner.azure.get(id, api).await {
                Err(error) if error.is_absence() => {}
                Err(error) => return Err(format!("{id}: {error}")),
                Ok(_) => return Err(format!("{id} is there though what was kept was deleted")),
            }
        }
        say("what was kept is deleted");
        Ok(())
    }
}
