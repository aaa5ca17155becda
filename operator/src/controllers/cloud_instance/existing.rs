//! What exists already for an instance that has no place yet: the management cluster may have been lost, or a
//! status was not written. Looked for by name in every reef of the region, because the names follow from the
//! instance's identity.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::join_all;
use jiff::Timestamp;
use kube::ResourceExt;
use reef_crds::{CloudInstance, Reef, Region, condition::Reason};
use serde_json::{Value, json};

use super::{
    intake::may_adopt,
    names::{self, TAG_ACCOUNT, TAG_CLAIM, TAG_GENERATION, TAG_POOL},
};
use crate::{
    azure::Arm,
    controller::{
        Context,
        trouble::{Trouble, reason},
    },
    controllers::reef::{
        bodies::{DNS_API, GROUPS_API, IDENTITY_API, SQL_API},
        names::{TAG_FLEET, TAG_REEF, group, marked, tags},
        references::Held,
    },
    observed::{Observed, Why},
    resources::{marks, observe::observed},
};

/// How long a reef may take to say whether an instance is there.
const LONGEST_SEARCH: Duration = Duration::from_secs(5);

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

/// What came of a search.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is there.
    There(Existing),
    /// It is not there; whether each reef said so itself.
    Nowhere {
        /// Otherwise the subscription's list said it of some.
        all_answered: bool,
    },
}

/// Looks in all reefs at once, and for traces of reefs that nobody has applied yet. Of a reef that cannot be asked, the
/// list of the subscription has to say that the instance is not there; and while what exists is being taken over after a
/// loss of the management cluster, even that is not enough: a second copy with new keys would be worse than a wait.
pub async fn find(
    context: &Context,
    arm: &Arc<Arm>,
    instance: &CloudInstance,
    region: &Region,
    reefs: &[Reef],
    now: Timestamp,
) -> Result<Answer, Held> {
    let search = Search {
        context,
        arm,
        region,
        instance: format!("{}/{}", instance.namespace().unwrap_or_default(), instance.name_any()),
        hash: names::hash(&context.fleet, &instance.namespace().unwrap_or_default(), &instance.name_any()),
    };
    let known: BTreeSet<String> = reefs.iter().map(ResourceExt::name_any).collect();
    search.no_record_of_another(&instance.spec.subdomain, &known).await?;
    let answers = join_all(reefs.iter().map(|reef| search.on_reef_in_time(reef))).await;
    let (mut all, mut silent) = (Vec::new(), Vec::new());
    for (reef, answer) in reefs.iter().zip(answers) {
        match answer {
            Ok(found) => all.extend(found),
            // Another reef may have the answer.
            Err(held) if SILENT.contains(&held.0.reason) => silent.push((reef, held)),
            Err(held) => return Err(held),
        }
    }
    let mut found = all.into_iter();
    let first = found.next();
    if let (Some(first), Some(second)) = (&first, found.next()) {
        let message = format!(
            "the instance exists on Reef {} and on Reef {}: one of them has to be cleared by hand",
            first.reef, second.reef
        );
        return Err(Held(Trouble::new(Reason::AdoptionRequired, message), true));
    }
    if let Some(first) = first {
        return Ok(Answer::There(first));
    }
    let listed = search.identities(reefs).await?;
    for identity in &listed {
        let id = identity["id"].as_str().unwrap_or_default();
        search.reef_is_known(&identity["tags"], "managed identity", id, &known)?;
    }
    // A reef that does not answer holds up those only that may be on it: docs/adr/0010-a-reef-that-does-not-answer.md.
    let (is_recovery, all_answered) = (may_adopt(instance, region, now), silent.is_empty());
    match silent.into_iter().find(|(reef, _)| is_recovery || search.is_on(reef, &listed)) {
        Some((_, held)) => Err(held),
        None => Ok(Answer::Nowhere { all_answered }),
    }
}

/// What is looked for.
struct Search<'a> {
    context: &'a Context,
    arm: &'a Arc<Arm>,
    region: &'a Region,
    /// Namespace and name of the CloudInstance.
    instance: String,
    /// Hash of its identity.
    hash: String,
}

impl Search<'_> {
    /// The record of the subdomain names the reef on which the server was published.
    async fn no_record_of_another(&self, subdomain: &str, known: &BTreeSet<String>) -> Result<(), Held> {
        let id = format!("{}/CNAME/{subdomain}", self.region.spec.dns.zone_id);
        match ask(self.arm, &id, DNS_API, "in the DNS zone").await? {
            Some(record) => self.reef_is_known(marks(&id, &record), "DNS record", &id, known),
            None => Ok(()),
        }
    }

    /// Identities of this name in all subscriptions of the region, whatever their reef. Azure Resource Manager's lists may
    /// be some minutes old, which is why the known reefs are asked one by one as well.
    async fn identities(&self, reefs: &[Reef]) -> Result<Vec<Value>, Held> {
        let own = reefs.iter().filter_map(|reef| reef.spec.subscription_id.clone());
        let all: BTreeSet<String> = own.chain([self.region.spec.azure.subscription_id.clone()]).collect();
        let mut listed = Vec::new();
        for subscription in all {
            let filter = format!(
                "resourceType eq 'Microsoft.ManagedIdentity/userAssignedIdentities' and name eq '{}'",
                names::identity(&self.hash)
            );
            let filter = filter.replace(' ', "%20").replace('\'', "%27");
            let list = format!("/subscriptions/{subscription}/resources?$filter={filter}");
            let list = self.arm.list(&list, GROUPS_API).await;
            listed.extend(list.map_err(|error| unknown("in the subscription", &Why::from(&error)))?);
        }
        Ok(listed)
    }

    /// Whether one of the listed resources is a reef's.
    fn is_on(&self, reef: &Reef, listed: &[Value]) -> bool {
        let group = format!("{}/", self.group(reef)).to_ascii_lowercase();
        let id = |resource: &Value| resource["id"].as_str().unwrap_or_default().to_ascii_lowercase();
        listed.iter().any(|resource| id(resource).starts_with(&group))
    }

    /// Id of a reef's resource group. One that was not looked at yet has the names that follow from its own.
    fn group(&self, reef: &Reef) -> String {
        let status = reef.status.clone().unwrap_or_default();
        let group = status.resource_group.unwrap_or_else(|| group(&self.context.fleet, &reef.name_any()));
        let of_region = || self.region.spec.azure.subscription_id.clone();
        let subscription =
            status.subscription_id.or(reef.spec.subscription_id.clone()).unwrap_or_else(of_region);
        format!("/subscriptions/{subscription}/resourceGroups/{group}")
    }

    /// [`Self::on_reef`], but not for long: one that hangs is one that does not answer.
    async fn on_reef_in_time(&self, reef: &Reef) -> Result<Option<Existing>, Held> {
        let place = format!("on Reef {}", reef.name_any());
        let late = |_| unknown(&place, &format!("no answer within {} s", LONGEST_SEARCH.as_secs()).into());
        tokio::time::timeout(LONGEST_SEARCH, self.on_reef(reef)).await.map_err(late)?
    }

    fn reef_is_known(
        &self,
        marks: &Value,
        what: &str,
        id: &str,
        known: &BTreeSet<String>,
    ) -> Result<(), Held> {
        let ours =
            json!({ TAG_FLEET: self.context.fleet.as_str(), names::TAG_INSTANCE: self.instance.as_str() });
        let reef = marks[TAG_REEF].as_str().unwrap_or_default();
        if !marked(marks, &ours) || known.contains(reef) {
            return Ok(());
        }
        let message = format!(
            "{what} {id} says that the instance exists on Reef {reef}, which is not known here: apply the manifest of that Reef first"
        );
        Err(Held(Trouble::new(Reason::ReferenceNotFound, message), false))
    }

    async fn on_reef(&self, reef: &Reef) -> Result<Option<Existing>, Held> {
        let (status, name) = (reef.status.clone().unwrap_or_default(), reef.name_any());
        let group = self.group(reef);
        let identity = format!(
            "{group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{}",
            names::identity(&self.hash)
        );
        let place = format!("on Reef {name}");
        let arm = self.arm.in_cell(self.context.cells.reef(&name));
        let region = &self.region.name_any();
        if let Some(identity) = ask(&arm, &identity, IDENTITY_API, &place).await? {
            // One of this name with other marks is shown when something is to be made under it.
            let tags = names::tags(&self.context.fleet, region, &name, &self.instance);
            let marks = &identity["tags"];
            return Ok(marked(marks, &tags).then(|| of_identity(&name, marks)));
        }
        let Some(server) = status.sql_server else {
            return match ask(&arm, &group, GROUPS_API, &place).await? {
                Some(group) if marked(&group["tags"], &tags(&self.context.fleet, region, &name)) => {
                    let message = format!(
                        "Reef {name} exists in Azure and is not read yet: it is not known whether the instance is there"
                    );
                    Err(Held(Trouble::new(Reason::ReferenceNotReady, message), false))
                }
                _ => Ok(None),
            };
        };
        let database = names::database(&self.hash, 1);
        let database =
            format!("{group}/providers/Microsoft.Sql/servers/{}/databases/{database}", server.name);
        match ask(&arm, &database, SQL_API, &place).await? {
            Some(found)
                if !marked(
                    &found["tags"],
                    &names::tags(&self.context.fleet, region, &name, &self.instance),
                ) =>
            {
                let message = format!(
                    "database {database} exists and does not carry the marks of this instance: it is left alone; remove it, or choose another name"
                );
                Err(Held(Trouble::new(Reason::NameTaken, message), true))
            }
            Some(_) => {
                let message = format!(
                    "database {database} is kept of a deleted instance of this name and is not used again silently: delete it or its RetainedInstance, or choose another name"
                );
                Err(Held(Trouble::new(Reason::RetainedExists, message), true))
            }
            None => Ok(None),
        }
    }
}

async fn ask(arm: &Arm, id: &str, api: &str, place: &str) -> Result<Option<Value>, Held> {
    let answer = arm.get(id, api).await;
    let refused = answer.as_ref().err().map(reason).filter(|r| REFUSED.contains(r));
    match observed(answer) {
        Observed::Present(value) => Ok(Some(value)),
        Observed::Absent => Ok(None),
        Observed::Unknown(why) => {
            let Held(trouble, stalled) = unknown(place, &why);
            Err(Held(Trouble { reason: refused.unwrap_or(trouble.reason), ..trouble }, stalled))
        }
    }
}

/// A reef of which Azure tells us nothing because we may not ask is not one that is silent: lists leave out what we may
/// not see.
const REFUSED: [Reason; 2] = [Reason::Unauthorized, Reason::CredentialInvalid];

/// A reef that did not answer, for now.
const SILENT: [Reason; 2] = [Reason::AzureUnavailable, Reason::AzureThrottled];

fn unknown(place: &str, why: &Why) -> Held {
    let message = format!("whether the instance exists {place} already: {why}");
    Held(Trouble::new(why.reason, message), false)
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
