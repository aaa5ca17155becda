//! What the derived CRDs still lack before users get them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::json;

use crate::meta::{API_REVISION, API_REVISION_ANNOTATION};

/// Finishes a derived CRD:
/// - optional fields are absent or set, never null (the derive marks them `nullable`, and then a stored
///   null differs for ever from a manifest without the field);
/// - formats that only Rust knows (`uint8`) go, because the API server warns of them;
/// - `status.observedGeneration` is -1 until the operator has looked, so that kstatus does not take a new
///   object for a finished one;
/// - the revision of the schemas stands in an annotation.
pub fn finish(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    crd.metadata
        .annotations
        .get_or_insert_default()
        .insert(API_REVISION_ANNOTATION.to_owned(), API_REVISION.to_string());
    for version in &mut crd.spec.versions {
        let Some(root) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) else {
            continue;
        };
        clean(root);
        if let Some(status) = root.properties.as_mut().and_then(|p| p.get_mut("status")) {
            status.default = Some(JSON(json!({ "observedGeneration": -1 })));
        }
    }
    crd
}

fn clean(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if schema.format.as_deref().is_some_and(|f| f.starts_with("uint")) {
        schema.format = None;
    }
    children(schema).into_iter().for_each(clean);
}

fn children(schema: &mut JSONSchemaProps) -> Vec<&mut JSONSchemaProps> {
    let mut found = Vec::new();
    found.extend(schema.properties.iter_mut().flat_map(|p| p.values_mut()));
    match schema.items.as_mut() {
        Some(JSONSchemaPropsOrArray::Schema(item)) => found.push(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => found.extend(items),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        found.push(values);
    }
    found
}
