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
pub const API_REVISION: u32 = 6;

/// User annotation: deletion of a protected object is meant. The value must be `true`.
pub const CONFIRM_DELETION: &str = "confirmation.cloud.octopus.com/deletion";

/// User annotation: what belongs to an earlier object of the same name is to be taken over. The value must be
/// `true`.
pub const CONFIRM_ADOPTION: &str = "confirmation.cloud.octopus.com/adoption";

/// User annotation: a resource that held data and is gone is to be made again, empty. The value must be `true`.
pub const CONFIRM_RECREATION: &str = "confirmation.cloud.octopus.com/recreation";

/// User annotation: the deletion of a Reef is meant although something that could still be restored is lost with it;
/// the deletion of a CloudInstance, although its reef's cluster cannot be reached. The value must be `true`.
pub const CONFIRM_FORCE_DELETION: &str = "confirmation.cloud.octopus.com/force-deletion";

/// Finalizer of a Reef: its Azure resources are looked after before the object goes.
pub const REEF_FINALIZER: &str = "cloud.octopus.com/reef-cleanup";

/// Finalizer of a CloudInstance: what it has is taken down, kept or deleted before the object goes.
pub const INSTANCE_FINALIZER: &str = "cloud.octopus.com/instance-cleanup";

/// Finalizer of a RetainedInstance: what is kept is deleted before the object goes.
pub const RETAINED_FINALIZER: &str = "cloud.octopus.com/retained-cleanup";

/// Finalizer of a Region: nothing may refer to it any more.
pub const REGION_FINALIZER: &str = "cloud.octopus.com/region-cleanup";

/// User annotation: any new value asks for a reconcile now; it comes back in
/// `status.lastHandledReconcileAt` when that reconcile is done.
pub const RECONCILE_REQUESTED_AT: &str = "cloud.octopus.com/reconcile-requested-at";

/// Label with the fleet (the operator's `--fleet`) on everything that the operator makes.
pub const LABEL_FLEET: &str = "cloud.octopus.com/fleet";

/// Label with the name of the Reef on what the operator makes in a reef's cluster.
pub const LABEL_REEF: &str = "cloud.octopus.com/reef";

/// Label with the hash of an instance's identity on everything of it in a reef's cluster.
pub const LABEL_INSTANCE: &str = "cloud.octopus.com/instance";

/// Label with the namespace of the CloudInstance on the instance's namespace in a reef's cluster.
pub const LABEL_INSTANCE_NAMESPACE: &str = "cloud.octopus.com/instance-namespace";

/// Label with the name of the CloudInstance on the instance's namespace in a reef's cluster.
pub const LABEL_INSTANCE_NAME: &str = "cloud.octopus.com/instance-name";

/// Annotation of an instance's namespace in a reef's cluster: UID of the CloudInstance that claims all in it.
pub const ANNOTATION_CLAIM: &str = "cloud.octopus.com/claim";

/// Label with the name of the ReefClass on its revisions.
pub const LABEL_CLASS: &str = "cloud.octopus.com/reefclass";

/// Value of `app.kubernetes.io/managed-by` and `app.kubernetes.io/part-of`, and the category of all kinds
/// (`kubectl get reef-operator`).
pub const OPERATOR: &str = "reef-operator";

/// Field manager of the objects that the operator applies.
pub const FIELD_MANAGER: &str = "reef-operator";

/// Field manager of status patches.
pub const STATUS_FIELD_MANAGER: &str = "reef-operator-status";
