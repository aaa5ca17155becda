//! What exists already for an instance that has no place yet: the management cluster may have been lost, or a
//! status was not written. Looked for by name in every reef of the region, because the names follow from the
//! instance's identity.

use std::sync::Arc;

use futures::future::join_all;
use kube::ResourceExt;
use reef_crds::{CloudInstance, Reef, condition::Reason};
use serde_json::Value;

use super::names::{self, TAG_ACCOUNT, TAG_CLAIM, TAG_GENERATION, TAG_POOL};
use crate::{
    azure::Arm,
    controller::{Context, trouble::Trouble},
    controllers::reef::{
        bodies::{IDENTITY_API, SQL_API},
        names::marked,
        references::Held,
    },
    observed::Observed,
    resources::observe::observed,
};

/// Where an instance was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Existing {
    /// The Reef.
    pub reef: String,
    /// Elastic pool of the database; none if it has compute of its own.
    pub pool: Option<String>,
    /// Storage account of the share.
    pub account: String,
    /// Number of the placement.
    pub generation: i64,
    /// UID of the CloudInstance that claims it.
    pub claim: String,
}

/// Looks in all reefs at once. Nothing is concluded while one of them could not be asked.
pub async fn find(
    context: &Context,
    arm: &Arc<Arm>,
    instance: &CloudInstance,
    reefs: &[Reef],
) -> Result<Option<Existing>, Held> {
    let answers = join_all(reefs.iter().map(|reef| on_reef(context, arm, instance, reef))).await;
    let mut found = answers.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten();
    let first = found.next();
    if let (Some(first), Some(second)) = (&first, found.next()) {
        let message = format!(
            "the instance exists on Reef {} and on Reef {}: one of them has to be cleared by hand",
            first.reef, second.reef
        );
        return Err(Held(Trouble::new(Reason::AdoptionRequired, message), true));
    }
    Ok(first)
}

async fn on_reef(
    context: &Context,
    arm: &Arc<Arm>,
    instance: &CloudInstance,
    reef: &Reef,
) -> Result<Option<Existing>, Held> {
    let status = reef.status.clone().unwrap_or_default();
    let (Some(group), Some(subscription)) = (status.resource_group, status.subscription_id) else {
        return Ok(None);
    };
    let namespace = instance.namespace().unwrap_or_default();
    let hash = names::hash(&context.fleet, &namespace, &instance.name_any());
    let group = format!("/subscriptions/{subscription}/resourceGroups/{group}/providers");
    let identity =
        format!("{group}/Microsoft.ManagedIdentity/userAssignedIdentities/{}", names::identity(&hash));
    let tags = names::tags(
        &context.fleet,
        &instance.spec.region_ref.name,
        &reef.name_any(),
        &format!("{namespace}/{}", instance.name_any()),
    );
    if let Some(identity) = ask(arm, &identity, IDENTITY_API, reef).await? {
        // One of this name with other marks is shown when something is to be made under it.
        let marks = &identity["tags"];
        return Ok(marked(marks, &tags).then(|| of_identity(&reef.name_any(), marks)));
    }
    let Some(server) = status.sql_server else { return Ok(None) };
    let database =
        format!("{group}/Microsoft.Sql/servers/{}/databases/{}", server.name, names::database(&hash, 1));
    match ask(arm, &database, SQL_API, reef).await? {
        Some(_) => {
            let message = format!(
                "database {database} is kept of a deleted instance of this name and is not used again silently: delete it or its RetainedInstance, or choose another name"
            );
            Err(Held(Trouble::new(Reason::RetainedExists, message), true))
        }
        None => Ok(None),
    }
}

fn of_identity(reef: &str, tags: &Value) -> Existing {
    let text = |name: &str| tags[name].as_str().unwrap_or_default().to_owned();
    Existing {
        reef: reef.to_owned(),
        pool: Some(text(TAG_POOL)).filter(|pool| !pool.is_empty()),
        account: text(TAG_ACCOUNT),
        generation: text(TAG_GENERATION).parse().unwrap_or(1),
        claim: text(TAG_CLAIM),
    }
}

async fn ask(arm: &Arc<Arm>, id: &str, api: &str, reef: &Reef) -> Result<Option<Value>, Held> {
    match observed(arm.get(id, api).await) {
        Observed::Present(value) => Ok(Some(value)),
        Observed::Absent => Ok(None),
        Observed::Unknown(why) => {
            let message = format!("whether the instance exists on Reef {} already: {why}", reef.name_any());
            Err(Held(Trouble::new(Reason::AzureUnavailable, message), false))
        }
    }
}
