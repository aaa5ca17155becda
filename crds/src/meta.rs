//! Names that appear outside this repository: the API group, labels, annotations, field managers.
//!
//! They are part of the API: renaming one orphans what carries the old name.

/// The API group of every kind.
pub const GROUP: &str = "cloud.octopus.com";

/// The API version of every kind.
pub const VERSION: &str = "v1alpha1";

/// Annotation on each CRD: a number that grows with every change of the schemas. The operator refuses to
/// start on CRDs with a smaller number than [`API_REVISION`], because fields it relies on would be dropped
/// by the API server without an error.
pub const API_REVISION_ANNOTATION: &str = "cloud.octopus.com/api-revision";

/// The revision of the schemas in this build. Raise it with every change to them.
pub const API_REVISION: u32 = 2;

/// User annotation: deletion of a protected object is meant. The value must be `true`.
pub const CONFIRM_DELETION: &str = "confirmation.cloud.octopus.com/deletion";

/// User annotation: any new value asks for a reconcile now; it comes back in
/// `status.lastHandledReconcileAt` when that reconcile is done.
pub const RECONCILE_REQUESTED_AT: &str = "cloud.octopus.com/reconcile-requested-at";

/// Label with the fleet (the operator's `--fleet`) on everything that the operator makes.
pub const LABEL_FLEET: &str = "cloud.octopus.com/fleet";

/// Value of `app.kubernetes.io/managed-by` and `app.kubernetes.io/part-of`, and the category of all kinds
/// (`kubectl get reef-operator`).
pub const OPERATOR: &str = "reef-operator";

/// Field manager of the objects that the operator applies.
pub const FIELD_MANAGER: &str = "reef-operator";

/// Field manager of status patches.
pub const STATUS_FIELD_MANAGER: &str = "reef-operator-status";
