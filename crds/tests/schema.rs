//! What users get: the committed CRDs are those of the types, and every field explains itself.
#![allow(clippy::unwrap_used, reason = "a step that fails is to fail its test")]

use std::{fs, path::Path};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use reef_crds::meta::{API_REVISION, API_REVISION_ANNOTATION};

fn golden(name: &str) -> CustomResourceDefinition {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("generated").join(name);
    serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn the_committed_files_are_what_the_types_give() {
    for crd in reef_crds::all() {
        let name = format!("{}.yaml", crd.spec.names.plural);
        assert!(golden(&name) == crd, "{name} differs: run `make generate`");
    }
}

#[test]
fn the_revision_stands_on_every_crd() {
    for crd in reef_crds::all() {
        assert_eq!(crd.metadata.annotations.unwrap()[API_REVISION_ANNOTATION], API_REVISION.to_string());
    }
}

#[test]
fn every_field_is_described_and_nothing_is_nullable() {
    for crd in reef_crds::all() {
        let kind = crd.spec.names.kind.clone();
        for version in crd.spec.versions {
            let root = version.schema.unwrap().open_api_v3_schema.unwrap();
            walk(&kind, &root);
            let status = &root.properties.unwrap()["status"];
            assert_eq!(status.default.as_ref().unwrap().0["observedGeneration"], -1, "{kind}");
        }
    }
}

fn walk(path: &str, schema: &JSONSchemaProps) {
    assert_ne!(schema.nullable, Some(true), "{path} is nullable");
    for (name, field) in schema.properties.iter().flatten() {
        let path = format!("{path}.{name}");
        let described = field.description.as_deref().is_some_and(|d| d.len() > 10);
        assert!(described || path.contains(".conditions."), "{path} has no description");
        if let Some(JSONSchemaPropsOrArray::Schema(item)) = &field.items {
            assert!(
                item.properties.iter().flatten().all(|(_, p)| p.default.is_none()),
                "{path}: default in a list"
            );
            assert!(field.max_items.is_some(), "{path} has no bound");
            walk(&path, item);
        }
        walk(&path, field);
    }
}

#[test]
fn empty_lists_that_never_settle_in_argo_cd_are_left_out() {
    for crd in reef_crds::all() {
        let text = serde_json::to_string(&crd).unwrap();
        for empty in
            ["\"categories\":[]", "\"shortNames\":[]", "\"additionalPrinterColumns\":[]", "\"labels\":{}"]
        {
            assert!(!text.contains(empty), "{}: {empty}", crd.spec.names.kind);
        }
    }
}
