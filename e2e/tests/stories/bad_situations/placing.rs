//! Places: no reef fits.

use serde_json::json;

use super::{
    row::{Heal, Row, Sees},
    world::Object,
};

pub fn rows() -> Vec<Row> {
    vec![no_reef_fits()]
}

fn no_reef_fits() -> Row {
    Row {
        name: "no reef has the label that an instance asks for",
        object: Object::Instance("golden"),
        wrong: |w| {
            Box::pin(async move {
                let selector = json!({ "reefSelector": { "matchLabels": { "ring": "gold" } } });
                w.instance("golden", json!({ "placement": selector })).await;
            })
        },
        sees: Sees {
            condition: ("Ready", "False", "NoReefFits"),
            says: &["region westeurope", "lacks a label that was asked for"],
            event: ("NoReefFits", &["not weu-1: lacks a label", "not weu-2: lacks a label"]),
        },
        never: |w| Box::pin(async move { assert!(w.made("golden").is_empty()) }),
        heal: Heal::ThenReady(|w| {
            Box::pin(async move {
                w.patch(Object::Reef("weu-2"), json!({ "metadata": { "labels": { "ring": "gold" } } })).await;
                w.ready(Object::Instance("golden")).await;
                let status = w.status("golden").await;
                assert_eq!(status.placement.unwrap().reef, "weu-2");
            })
        }),
    }
}
