//! Story: what `make test-azure` does is done to the emulated Azure, where it may be broken off as well.

use std::{collections::HashMap, sync::Mutex};

use axum::{Json, Router, extract::Query, routing::get};
use reef_e2e::{
    azure::{SUBSCRIPTION, TENANT},
    harness::{Sandbox, eventually},
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
    settings.cloud = Cloud { resource_manager: here.clone(), authority: here, ..settings.cloud };
    settings
}

async fn suite(sandbox: &Sandbox) -> Suite {
    let settings = settings(sandbox).await;
    let mut suite = Suite::new(settings, sandbox.client().await).await.unwrap();
    suite.pause = Duration::from_millis(200);
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
    let record = format!("{}/A/somebody", suite.settings.zone);
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

#[tokio::test]
async fn runs_end_clean_broken_off_or_not() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=1", "--time-scale=200"]);
    let mut suite = suite(&sandbox).await;
    let others = plant(&sandbox, &suite);

    // Who does not agree gets nothing made, and hears what it would cost.
    let refused = suite.run(|_| false).await.unwrap_err();
    assert!(refused.contains("nothing was made"), "{refused}");
    assert!(of_runs(&sandbox).is_empty());
    let bill = Bill::ask(&suite.settings, &suite.http).await.to_string();
    assert!(
        bill.contains("more than 0.75 USD an hour") && bill.contains("unknown: not in the list"),
        "{bill}"
    );

    a_wrong_setting_is_named(&suite).await;

    // A run is broken off when its cluster is being made, and the operator goes too.
    let name = run_name(SystemTime::now());
    tokio::select! {
        lived = suite.life(&name) => panic!("{lived:?}"),
        () = eventually("a cluster of the run", || async {
            let ids = of_runs(&sandbox);
            ids.iter().any(|id| id.contains("/managedClusters/")).then_some(())
        }) => {}
    }
    let again = suite.run(|_| true).await.unwrap_err();
    assert!(again.contains("CLEAN=1") && again.contains(&name), "{again}");
    scale_operator(&sandbox, 0);
    suite.going = Duration::from_secs(3);
    let refused = suite.clean_all(|_| false).await.unwrap_err();
    assert!(refused.contains("nothing was deleted") && !of_runs(&sandbox).is_empty(), "{refused}");
    let waits = suite.clean_all(|_| true).await.unwrap_err();
    assert!(waits.contains("objects wait for the operator"), "{waits}");
    assert_eq!(of_runs(&sandbox), Vec::<String>::new(), "by the tags alone");
    scale_operator(&sandbox, 1);
    suite.going = GOING;
    suite.clean_all(|_| true).await.unwrap();

    // And one to its end.
    let asked = Mutex::new(0);
    suite
        .run(|_| {
            *asked.lock().unwrap() += 1;
            true
        })
        .await
        .unwrap();
    assert_eq!(*asked.lock().unwrap(), 1);
    assert_eq!(of_runs(&sandbox), Vec::<String>::new());
    for id in others {
        assert_eq!(sandbox.arm("GET", &id, None).0, 200, "{id} is not of a run");
    }
}

async fn a_wrong_setting_is_named(suite: &Suite) {
    let mut other = suite.settings.clone();
    "no-such".clone_into(&mut other.tls.1);
    let error = Suite::new(other, suite.client.clone()).await.err().unwrap();
    assert!(error.contains("REEF_AZURE_TLS_SECRET") && error.contains("no-such"), "{error}");
    let mut other = suite.settings.clone();
    "default".clone_into(&mut other.namespace);
    let error = Suite::new(other, suite.client.clone()).await.err().unwrap();
    assert!(error.contains("no operator in namespace default"), "{error}");
    let mut other = suite.settings.clone();
    other.zone = other.zone.replace(ZONE, "no-such.example");
    let error = Suite::new(other, suite.client.clone()).await.unwrap().check().await.unwrap_err();
    assert!(error.contains("REEF_AZURE_ZONE") && error.contains("no-such.example"), "{error}");
}
