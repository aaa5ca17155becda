//! Story: what `make test-azure` does is done to the emulated Azure, where it may be broken off as well.

use std::{collections::HashMap, sync::Mutex};

use axum::{Json, Router, extract::Query, routing::get};
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::api::PostParams;
use reef_crds::CloudInstance;
use reef_e2e::{
    azure::{SUBSCRIPTION, TENANT},
    harness::{Sandbox, eventually, ok},
    install::{AZURE_CA_FILE, NAMESPACE, ZONE},
    reef_harness::scale_operator,
};
use reef_operator::azure::Cloud;
use serde_json::{Value, json};

use super::*;

/// A list of prices, in the shape of Azure's; its URL. The prices are made up.
async fn prices() -> String {
    let rows = |Query(query): Query<HashMap<String, String>>| async move {
        let filter = query.get("$filter").cloned().unwrap_or_default();
        let row = |region: &str, meter: &str, unit: &str, price: f64| {
            json!({ "armRegionName": region, "meterName": meter, "unitOfMeasure": unit, "retailPrice": price,
                "tierMinimumUnits": 0.0, "type": "Consumption", "currencyCode": "USD", "productName": "", "skuName": "" })
        };
        let of = |service: &str| filter.contains(&format!("serviceName eq '{service}'"));
        let items = if of("Virtual Machines") {
            vec![row("westeurope", "D4s v5", "1 Hour", 0.25)]
        } else if of("SQL Database") {
            vec![row("westeurope", "eDTUs", "1/Day", 4.8)]
        } else if of("NAT Gateway") {
            vec![row("Global", "Standard Gateway", "1 Hour", 0.05)]
        } else {
            vec![]
        };
        Json(json!({ "BillingCurrency": "USD", "Items": items, "NextPageLink": null }))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/api/retail/prices", get(rows));
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// What the variables would say.
async fn settings(sandbox: &Sandbox) -> Settings {
    let text = std::fs::read_to_string(sandbox.folder().join("azure.json")).unwrap();
    let access: Value = serde_json::from_str(&text).unwrap();
    let field = |name: &str| access[name].as_str().unwrap().to_owned();
    let variable = |name: &str| {
        let value = match name {
            "REEF_AZURE_SUBSCRIPTION" => SUBSCRIPTION.to_owned(),
            "REEF_AZURE_TENANT" => TENANT.to_owned(),
            "REEF_AZURE_LOCATION" => "westeurope".to_owned(),
            "REEF_AZURE_ZONE" => format!(
                "/subscriptions/{SUBSCRIPTION}/resourceGroups/platform/providers/Microsoft.Network/dnsZones/{ZONE}"
            ),
            "REEF_AZURE_TLS_SECRET" => format!("{NAMESPACE}/wildcard-tls"),
            "REEF_AZURE_SERVER_CA" => sandbox.folder().join("run/public-ca.crt").display().to_string(),
            "AZURE_CLIENT_ID" => field("clientId"),
            "AZURE_CLIENT_SECRET" => field("clientSecret"),
            _ => return None,
        };
        Some(value)
    };
    let mut settings = Settings::read(variable).unwrap();
    settings.azure_ca = Some(sandbox.folder().join(AZURE_CA_FILE));
    settings.prices = prices().await;
    let here = field("arm").replace("127.0.0.1", "localhost");
    settings.cloud =
        Cloud { resource_manager: here.clone(), authority: here, hosts: Vec::new(), ..settings.cloud };
    settings
}

async fn suite(sandbox: &Sandbox) -> Suite {
    let settings = settings(sandbox).await;
    let mut suite = Suite::new(settings, sandbox.client().await).await.unwrap();
    suite.cleaner.azure.pause = Duration::from_millis(200);
    let folder = sandbox.folder().to_owned();
    suite.door = Box::new(move |cluster| reef_e2e::harness::gateway(&folder, cluster));
    suite
}

/// Somebody else's group and record of the same fleet, with a lock.
fn plant(sandbox: &Sandbox, suite: &Suite) -> Vec<String> {
    let fleet = &suite.operator.fleet;
    let tags = json!({ "reef-operator-fleet": fleet, "reef-operator-region": "westeurope", "reef-operator-reef": "weu-1" });
    let group = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/reef-{fleet}-weu-1");
    let lock = format!("{group}/providers/Microsoft.Authorization/locks/keep");
    let record = format!("{}/A/somebody", suite.cleaner.azure.settings.zone);
    for (id, body) in [
        (&group, json!({ "location": "westeurope", "tags": tags })),
        (&lock, json!({ "properties": { "level": "CanNotDelete" } })),
        (
            &record,
            json!({ "properties": { "TTL": 60, "ARecords": [{ "ipv4Address": "10.0.0.1" }], "metadata": tags } }),
        ),
    ] {
        let (status, answer) = sandbox.arm("PUT", id, Some(&body));
        assert!([200, 201].contains(&status), "{id}: {status} {answer}");
    }
    vec![group, lock, record]
}

fn of_runs(sandbox: &Sandbox) -> Vec<String> {
    let mut ids = sandbox.azure_ids();
    ids.retain(|id| id.contains(PREFIX));
    ids
}

/// Waits until a run's instance is in service, in a namespace of its own.
async fn in_service(suite: &Suite, name: &str) {
    let instances = Api::<CloudInstance>::namespaced(suite.client.clone(), name);
    eventually("an instance of the run is Ready", || async {
        let instance = instances.get_opt(name).await.ok()??;
        let conditions = instance.status?.conditions;
        conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True").then_some(())
    })
    .await;
}

#[tokio::test]
async fn runs_end_clean_broken_off_or_not() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=1", "--time-scale=200"]);
    let mut suite = suite(&sandbox).await;
    let others = plant(&sandbox, &suite);
    // Called like a run's, and nobody's.
    ok(&sandbox.kubectl(&["create", "namespace", "test-azure-notes"]));

    // Who does not agree gets nothing made, and hears what it would cost.
    let refused = suite.run(|_| false).await.unwrap_err();
    assert!(refused.contains("nothing was made"), "{refused}");
    assert!(of_runs(&sandbox).is_empty());
    let bill = Bill::ask(&suite.cleaner.azure.settings, &suite.http).await.to_string();
    assert!(
        bill.contains("more than 0.75 USD an hour") && bill.contains("unknown: not in the list"),
        "{bill}"
    );

    a_wrong_setting_is_named(&suite).await;

    // A run is broken off with its instance in service, and the operator goes too, and does not come back.
    let name = run_name(SystemTime::now());
    tokio::select! {
        lived = suite.life(&name) => panic!("{lived:?}"),
        () = in_service(&suite, &name) => {}
    }
    let again = suite.run(|_| true).await.unwrap_err();
    assert!(again.contains("CLEAN=1") && again.contains(&name), "{again}");
    scale_operator(&sandbox, 0);
    let gone = Suite::new(suite.cleaner.azure.settings.clone(), suite.client.clone()).await.err().unwrap();
    assert!(gone.contains("no available replica"), "{gone}");
    let refused = suite.cleaner.clean_all(|_| false).await.unwrap_err();
    assert!(refused.contains("nothing was deleted") && !of_runs(&sandbox).is_empty(), "{refused}");
    suite.cleaner.clean_all(|_| true).await.unwrap();
    assert_eq!(of_runs(&sandbox), Vec::<String>::new(), "by the tags alone");
    nothing_is_left(&suite).await;
    scale_operator(&sandbox, 1);
    eventually("the operator is back", || async {
        operator(&suite.client, &suite.cleaner.azure.settings).await.ok()?.is_available.then_some(())
    })
    .await;

    // One fails, says why, and is cleaned up after with the operator's help.
    suite.cleaner.azure.settings.kubernetes = "latest".to_owned();
    let failed = suite.run(|_| true).await.unwrap_err();
    assert!(failed.contains("kubernetesVersion") && !failed.contains("clean-up"), "{failed}");
    nothing_is_left(&suite).await;

    // And one comes to its end.
    suite.cleaner.azure.settings.kubernetes = "1.36".to_owned();
    let asked = Mutex::new(0);
    let counting = |_: &str| {
        *asked.lock().unwrap() += 1;
        true
    };
    suite.run(counting).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), 1);
    nothing_is_left(&suite).await;
    assert_eq!(of_runs(&sandbox), Vec::<String>::new());
    for id in others {
        assert_eq!(sandbox.arm("GET", &id, None).0, 200, "{id} is not of a run");
    }
    ok(&sandbox.kubectl(&["get", "namespace", "test-azure-notes"]));
}

/// None of the objects, those of the operator among them.
async fn nothing_is_left(suite: &Suite) {
    suite.cleaner.is_clean(PREFIX).await.unwrap();
    let revisions = Api::<ControllerRevision>::namespaced(suite.client.clone(), NAMESPACE);
    let names: Vec<String> =
        revisions.list(&ListParams::default()).await.unwrap().iter().map(ResourceExt::name_any).collect();
    assert!(!names.iter().any(|name| name.starts_with(PREFIX)), "{names:?}");
}

async fn a_wrong_setting_is_named(suite: &Suite) {
    let settings = &suite.cleaner.azure.settings;
    let mut other = settings.clone();
    "no-such".clone_into(&mut other.tls.1);
    let error = Suite::new(other, suite.client.clone()).await.err().unwrap();
    assert!(error.contains("REEF_AZURE_TLS_SECRET") && error.contains("no-such"), "{error}");
    let mut other = settings.clone();
    "default".clone_into(&mut other.namespace);
    let error = Suite::new(other.clone(), suite.client.clone()).await.err().unwrap();
    assert!(error.contains("no operator in namespace default"), "{error}");
    let error = Cleaner::new(other, None).await.err().unwrap();
    assert!(error.contains("REEF_AZURE_FLEET"), "{error}");
    let mut other = settings.clone();
    other.zone = other.zone.replace(ZONE, "no-such.example");
    let error = Suite::new(other, suite.client.clone()).await.unwrap().check().await.unwrap_err();
    assert!(error.contains("REEF_AZURE_ZONE") && error.contains("no-such.example"), "{error}");
    let regions = Api::<Region>::all(suite.client.clone());
    let mut manifest = objects::region(settings, "westeurope");
    manifest["apiVersion"] = "cloud.octopus.com/v1alpha1".into();
    manifest["kind"] = "Region".into();
    let region: Region = serde_json::from_value(manifest).unwrap();
    regions.create(&PostParams::default(), &region).await.unwrap();
    let error = suite.check().await.unwrap_err();
    assert!(error.contains("westeurope") && error.contains("REEF_AZURE_SHARED"), "{error}");
    let deadline = Instant::now() + Duration::from_secs(120);
    objects::delete(&regions, "Region", "westeurope", deadline).await.unwrap();
}
