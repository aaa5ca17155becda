//! Databases that are made of others: copies, restores to a point in time, restores of dropped ones, and geo-replicas
//! with their links and failovers.
//!
//! What is in a database is kept by the SQL front; here is which content a database has and of what that was made.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::{
    Cloud, Request, Response,
    deleted::retention_days,
    id::{Target, key, parent_key},
    kinds,
    operations::{Effect, Url},
    put::{moment, started, with_retry_after},
};
use crate::sql::Origin;

const DATABASE: &str = "Microsoft.Sql/servers/databases";
const LINK: &str = "Microsoft.Sql/servers/databases/replicationLinks";

/// Words for a database that follows another.
const SECONDARY: [&str; 3] = ["secondary", "onlinesecondary", "nonreadablesecondary"];

/// How long a new replica takes to have all that its primary has, milliseconds of the cloud's time.
const SEEDING: u64 = 30_000;

/// What a forced failover loses: all that was written in this time before, milliseconds (the service promises five
/// seconds).
const LOST: u64 = 5_000;

/// How long a failover takes, seconds (recorded of groups: 40).
const FAILOVER: u32 = 40;

/// How long a restore takes, seconds (recorded: 568 and 476).
const RESTORE: u32 = 520;

/// How long a recovery from the paired region takes, seconds (recorded: 804).
const RECOVERY: u32 = 804;

/// Which content each database has.
#[derive(Default)]
pub struct Lineage {
    /// What databases that are being made are made of, and since when, by key.
    begun: HashMap<String, (Begun, u64)>,
    /// Of databases whose content is not their own: by database id, what names it and whether they only follow it.
    contents: BTreeMap<String, (String, bool)>,
    /// What contents were made of.
    origins: Vec<Origin>,
    /// Since when secondaries get what their primaries have, by name of the link.
    seeding: HashMap<String, u64>,
}

/// What a database is made of.
#[derive(Clone, Debug)]
pub struct Begun {
    /// The other one, as it is or was.
    source: Value,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// As the other one is when the copy is done.
    Copy,
    /// As it was at this moment, milliseconds.
    Past(u64),
    /// As it was in its newest backup in the paired region, at this moment, milliseconds.
    Recovered(u64),
    /// It follows the other one.
    Replica,
    /// It follows the other one under another name, which may be on the same server.
    Named,
}

impl Begun {
    /// What the provider calls the operation.
    pub fn operation(&self) -> &'static str {
        match self.how {
            How::Copy | How::Replica => "CreateDatabaseAsCopy",
            How::Named => "CreateLogicalDatabase",
            How::Past(_) => "CreateRestoreRequest",
            How::Recovered(_) => "CreateRecoverRequest",
        }
    }

    /// How long it takes beside a database that begins empty, seconds.
    pub fn seconds(&self, empty: u32) -> u32 {
        match self.how {
            How::Past(_) => RESTORE,
            How::Recovered(_) => RECOVERY,
            How::Copy | How::Replica | How::Named => empty,
        }
    }

    /// The body of the request with what comes from the other database: how it collates always, its size and compute if
    /// none is said.
    pub fn completed(&self, body: &Value) -> Value {
        let mut body = body.clone();
        for name in ["collation", "catalogCollation"] {
            body["properties"][name] = self.source["properties"][name].clone();
        }
        if body["sku"].is_null() && body["properties"]["elasticPoolId"].is_null() {
            body["properties"]["maxSizeBytes"] = self.source["properties"]["maxSizeBytes"].clone();
            if self.source["properties"]["elasticPoolId"].is_null() {
                let name = &self.source["properties"]["currentServiceObjectiveName"];
                body["sku"] = json!({ "name": name });
            }
        }
        body
    }
}

/// A refusal of what a database is to be made of.
fn refuse(status: u16, code: &str, message: impl Into<String>) -> Response {
    Response::error(status, code, message)
}

impl Cloud {
    /// What a new database is to be made of; none for one that begins empty.
    pub(super) fn begun(&self, body: &Value, at: &str) -> Result<Option<Begun>, Response> {
        let properties = &body["properties"];
        let mode = properties["createMode"].as_str().unwrap_or("Default");
        let is_new = !self.resources.contains_key(at);
        let (source, how) = match (mode.to_lowercase().as_str(), is_new) {
            ("default", _) => return Ok(None),
            ("copy", true) => (self.live(properties, at, false)?, How::Copy),
            // Who sends again what a secondary was made of changes the secondary.
            (mode, false) if SECONDARY.contains(&mode) && self.follows(properties, at) => return Ok(None),
            (mode, true) if SECONDARY.contains(&mode) => {
                let is_named = properties["secondaryType"] == "Named";
                (self.primary(properties, at)?, if is_named { How::Named } else { How::Replica })
            }
            ("pointintimerestore", true) => self.past(properties, at)?,
            ("restore", true) => self.dropped(properties, at)?,
            ("recovery", true) => self.recovered(properties)?,
            (mode, false)
                if ["copy", "pointintimerestore", "recovery", "restore"].contains(&mode)
                    || SECONDARY.contains(&mode) =>
            {
                let message = "A database is never overwritten by another: choose a name that is free.";
                return Err(refuse(409, "DatabaseAlreadyExists", message));
            }
            _ => {
                let message = format!("The sandbox has no createMode '{mode}'.");
                return Err(refuse(400, "InvalidCreateMode", message));
            }
        };
        Ok(Some(Begun { source, how }))
    }

    fn live(&self, properties: &Value, at: &str, same_server: bool) -> Result<Value, Response> {
        let Some(id) = properties["sourceDatabaseId"].as_str() else {
            return Err(refuse(400, "MissingSourceDatabaseId", "This createMode needs a sourceDatabaseId."));
        };
        let source = self.resources.get(&key(id)).filter(|found| found["type"] == DATABASE);
        let source = source.filter(|_| !same_server || parent_key(&key(id)) == parent_key(at));
        let message = format!("The source database '{id}' does not exist.");
        source.cloned().ok_or_else(|| refuse(404, "SourceDatabaseNotFound", message))
    }

    fn past(&self, properties: &Value, at: &str) -> Result<(Value, How), Response> {
        let source = self.live(properties, at, true)?;
        let (_, is_replica) = self.content(&source);
        if is_replica {
            return Err(refuse(400, "OperationNotAllowedOnSecondary", "A geo-secondary cannot be restored."));
        }
        let earliest = self.earliest_restore(&source);
        let moment = point(properties, earliest.as_deref(), self.now)?;
        Ok((source, How::Past(moment)))
    }

    fn dropped(&self, properties: &Value, at: &str) -> Result<(Value, How), Response> {
        let given = ["restorableDroppedDatabaseId", "sourceDatabaseId"].map(|name| properties[name].as_str());
        let Some(id) = given.into_iter().flatten().next() else {
            return Err(refuse(400, "MissingSourceDatabaseId", "This createMode needs a sourceDatabaseId."));
        };
        let deleted = properties["sourceDatabaseDeletionDate"].as_str();
        let found = self.deleted.database(id, deleted, self.now);
        let found = found.filter(|(source, ..)| {
            parent_key(&key(source["id"].as_str().unwrap_or_default())) == parent_key(at)
        });
        let message = format!("No restorable dropped database '{id}' was found.");
        let (source, gone_at, earliest) =
            found.ok_or_else(|| refuse(404, "SourceDatabaseNotFound", message))?;
        let moment = match properties["restorePointInTime"].as_str() {
            Some(_) => point(properties, earliest.as_str(), gone_at)?,
            None => gone_at,
        };
        Ok((source.clone(), How::Past(moment)))
    }

    fn recovered(&self, properties: &Value) -> Result<(Value, How), Response> {
        let given = ["recoverableDatabaseId", "sourceDatabaseId"].map(|name| properties[name].as_str());
        let Some(id) = given.into_iter().flatten().next() else {
            return Err(refuse(
                400,
                "MissingSourceDatabaseId",
                "This createMode needs a recoverableDatabaseId.",
            ));
        };
        let message = format!("No recoverable database '{id}' was found.");
        let found = self.recoverable(id).map(|(source, copied)| (source.clone(), How::Recovered(copied)));
        found.ok_or_else(|| refuse(404, "SourceDatabaseNotFound", message))
    }

    /// Whether a database follows the one that is named.
    fn follows(&self, properties: &Value, at: &str) -> bool {
        let source = properties["sourceDatabaseId"].as_str().and_then(|id| self.resources.get(&key(id)));
        let own = self.resources.get(at).map(|own| self.content(own));
        let of = source.map(|source| self.content(source).0);
        own.is_some_and(|(content, follows)| follows && Some(content) == of)
    }

    /// A replica is on another server, or a named one, and its primary follows nobody itself.
    fn primary(&self, properties: &Value, at: &str) -> Result<Value, Response> {
        let source = self.live(properties, at, false)?;
        let id = key(source["id"].as_str().unwrap_or_default());
        let is_named = properties["secondaryType"] == "Named";
        if parent_key(&id) == parent_key(at) && !is_named {
            let message = "A secondary is on another server than its primary.";
            return Err(refuse(400, "InvalidSecondaryDatabase", message));
        }
        if is_named && source["sku"]["tier"] != "Hyperscale" {
            let message = "Only a Hyperscale database has named replicas.";
            return Err(refuse(400, "InvalidSecondaryDatabase", message));
        }
        if self.content(&source).1 {
            let message = "A secondary cannot be the source of another.";
            return Err(refuse(400, "OperationNotAllowedOnSecondary", message));
        }
        let below = format!("{id}/replicationlinks/");
        let is_geo = |(at, link): &(&String, &Value)| {
            at.starts_with(&below) && link["properties"]["linkType"] == "GEO"
        };
        if !is_named && self.resources.iter().filter(is_geo).count() >= 4 {
            return Err(refuse(
                409,
                "ReplicationLinkLimitReached",
                "A database has at most four geo-secondaries.",
            ));
        }
        Ok(source)
    }

    /// Remembers what a database that is being made is made of.
    pub(super) fn descends(&mut self, at: &str, begun: Option<Begun>) {
        if let Some(begun) = begun {
            self.lineage.begun.insert(at.to_owned(), (begun, self.now));
        }
    }

    /// A database is made, or is not: it has its content, and a replica its links.
    pub(super) fn descended(&mut self, at: &str, well: bool) {
        let Some((Begun { source, how }, since)) = self.lineage.begun.remove(at) else { return };
        let Some(made) = self.resources.get(at).filter(|_| well).cloned() else { return };
        let own = database_id(&made);
        let (from, _) = self.content(&source);
        match how {
            How::Copy => self.lineage.origins.push(Origin { key: own, from, at: self.now }),
            How::Past(at) | How::Recovered(at) => self.lineage.origins.push(Origin { key: own, from, at }),
            How::Replica | How::Named => {
                self.lineage.contents.insert(own, (from, true));
                self.link(&source, &made, Some(since));
            }
        }
    }

    /// What names a database's content, and whether it only follows it.
    pub(super) fn content(&self, database: &Value) -> (String, bool) {
        let own = database_id(database);
        self.lineage.contents.get(&own).cloned().unwrap_or((own, false))
    }

    /// Of what a content was made, the first of them first.
    pub(super) fn origins(&self, content: &str) -> Vec<Origin> {
        let (mut all, mut next) = (Vec::new(), content.to_owned());
        while let Some(origin) = self.lineage.origins.iter().find(|origin| origin.key == next) {
            next.clone_from(&origin.from);
            all.insert(0, origin.clone());
        }
        all
    }

    /// Two databases are linked; the secondary has begun to get what the primary has at that moment, or has it.
    fn link(&mut self, primary: &Value, secondary: &Value, seeding: Option<u64>) {
        let name = kinds::uuid(self.seed, &format!("link {} {}", primary["id"], secondary["id"]));
        self.lineage.seeding.extend(seeding.map(|since| (name.clone(), since)));
        let since = started(seeding.unwrap_or(self.now));
        for (mine, partner, roles) in
            [(primary, secondary, ["Primary", "Secondary"]), (secondary, primary, ["Secondary", "Primary"])]
        {
            let server =
                partner["id"].as_str().and_then(Target::parse).and_then(|t| t.names.first().cloned());
            let id = format!("{}/replicationLinks/{name}", mine["id"].as_str().unwrap_or_default());
            let properties = json!({
                "partnerServer": server, "partnerDatabase": partner["name"], "partnerDatabaseId": partner["id"],
                "partnerLocation": partner["location"], "role": roles[0], "partnerRole": roles[1],
                "replicationMode": "ASYNC", "startTime": since, "percentComplete": 100,
                "linkType": if secondary["properties"]["secondaryType"] == "Named" { "NAMED" } else { "GEO" },
                "replicationState": "CATCH_UP", "isTerminationAllowed": true,
            });
            let link = json!({ "id": id, "name": name, "type": LINK, "properties": properties });
            self.resources.insert(key(&id), link);
        }
    }

    /// A link as it is shown: while its replica has not all yet, it says so.
    pub(super) fn shown_link(&self, link: &Value) -> Value {
        let mut shown = link.clone();
        if let Some(done) = self.seeded(link) {
            shown["properties"]["replicationState"] = json!("SEEDING");
            shown["properties"]["percentComplete"] = json!(done);
        }
        shown
    }

    /// How much of its primary a replica has, per cent; none if all.
    fn seeded(&self, link: &Value) -> Option<u64> {
        let since = self.lineage.seeding.get(link["name"].as_str()?)?;
        let done = self.now.saturating_sub(*since) * 100 / SEEDING;
        (done < 100).then_some(done)
    }

    fn partner(&self, at: &str) -> Option<String> {
        let name = format!("/replicationlinks/{}", at.rsplit('/').next()?);
        self.resources.keys().find(|other| *other != at && other.ends_with(&name)).cloned()
    }

    /// Ends the links of what goes: whoever followed has from now on what it had at this moment, for itself.
    pub(super) fn unlink(&mut self, gone: impl Fn(&str) -> bool) {
        let links: Vec<String> = {
            let of = self.resources.iter().filter(|(at, link)| link["type"] == LINK && gone(at));
            of.map(|(at, _)| at.clone()).collect()
        };
        for at in links {
            let partner = self.partner(&at);
            for side in partner.iter().chain([&at]) {
                let database = self.resources.get(&parent_key(side)).cloned().unwrap_or_default();
                let (content, is_replica) = self.content(&database);
                if is_replica {
                    let key = format!("{}-{}", database_id(&database), self.now);
                    self.lineage.origins.push(Origin { key: key.clone(), from: content, at: self.now });
                    self.lineage.contents.insert(database_id(&database), (key, false));
                }
            }
            for side in partner.into_iter().chain([at]) {
                self.resources.remove(&side);
            }
        }
    }

    /// Makes the secondary that has this link the primary.
    pub(super) fn fail_over(
        &mut self,
        target: &Target,
        request: &Request,
        forced: bool,
        now: u64,
    ) -> Response {
        let at = parent_key(&format!("{}/x", key(&request.path)));
        let (Some(link), Some(kind)) = (self.resources.get(&at).cloned(), kinds::find(LINK)) else {
            return self.not_found(target);
        };
        if link["properties"]["role"] != "Secondary" {
            let message = "A failover is asked of the secondary: this database is the primary of its link.";
            return refuse(400, "InvalidReplicationRole", message);
        }
        if !forced && self.seeded(&link).is_some() {
            let message = "The secondary has not all of its primary yet: wait for CATCH_UP.";
            return refuse(409, "ReplicationNotInCatchUpState", message);
        }
        let effect = Effect::FailedOver { link: at.clone(), forced };
        let id = self.begin(kind, effect, FAILOVER, Some(15), now);
        let database = self.resources.get(&parent_key(&at)).cloned().unwrap_or_default();
        let url = |of| self.url(kind, &database, &id, of, request, now);
        let verb = if forced { "ForceFailoverContinuousCopy" } else { "FailoverContinuousCopy" };
        let answer = Response::json(202, json!({ "operation": verb, "startTime": started(now) }))
            .header("location", url(Url::Result));
        let is_first = is_first_version(request);
        let answer = if is_first { answer } else { answer.header("azure-asyncoperation", url(Url::Status)) };
        with_retry_after(answer, Some(15), self.scale)
    }

    /// The failover is done: the two have changed their roles.
    pub(super) fn swap(&mut self, at: &str, forced: bool) {
        let Some(partner) = self.partner(at) else { return };
        let database = |link: &str| self.resources.get(&parent_key(link)).cloned().unwrap_or_default();
        let (new, old) = (database(at), database(&partner));
        let (mut content, _) = self.content(&new);
        if forced {
            let key = format!("{}-{}", database_id(&new), self.now);
            let at = self.now.saturating_sub(LOST);
            self.lineage.origins.push(Origin { key: key.clone(), from: content, at });
            content = key;
        }
        self.lineage.contents.insert(database_id(&new), (content.clone(), false));
        self.lineage.contents.insert(database_id(&old), (content, true));
        for (link, roles) in [(at, ["Primary", "Secondary"]), (&partner, ["Secondary", "Primary"])] {
            if let Some(link) = self.resources.get_mut(link) {
                link["properties"]["role"] = json!(roles[0]);
                link["properties"]["partnerRole"] = json!(roles[1]);
            }
        }
        self.take_over(&old, &new);
    }

    /// Who else followed the old primary follows the new one, by another link.
    fn take_over(&mut self, old: &Value, new: &Value) {
        let below = format!("{}/replicationlinks/", key(old["id"].as_str().unwrap_or_default()));
        let is_others = |(at, link): &(&String, &Value)| {
            at.starts_with(&below) && link["properties"]["role"] == "Primary"
        };
        let links: Vec<String> = self.resources.iter().filter(is_others).map(|(at, _)| at.clone()).collect();
        let (content, _) = self.content(new);
        for at in links {
            let Some(partner) = self.partner(&at) else { continue };
            let Some(secondary) = self.resources.get(&parent_key(&partner)).cloned() else { continue };
            self.resources.remove(&at);
            self.resources.remove(&partner);
            self.lineage.contents.insert(database_id(&secondary), (content.clone(), true));
            self.link(new, &secondary, None);
        }
    }
}

/// Whether this is the API's first version, which has other manners, and which Azure's own tools use for links to this day.
pub(super) fn is_first_version(request: &Request) -> bool {
    request.query.get("api-version").is_some_and(|version| version.starts_with("2014-04-01"))
}

fn database_id(database: &Value) -> String {
    database["properties"]["databaseId"].as_str().unwrap_or_default().to_owned()
}

/// The point in time that is asked for: from the earliest one there is until now.
fn point(properties: &Value, earliest: Option<&str>, now: u64) -> Result<u64, Response> {
    let asked = properties["restorePointInTime"].as_str().unwrap_or_default();
    let from = earliest.and_then(moment);
    let at = moment(asked).filter(|at| *at <= now && from.is_some_and(|from| from <= *at));
    at.ok_or_else(|| {
        let earliest = earliest.unwrap_or("its first backup, which it does not have yet");
        let message = format!("restorePointInTime '{asked}' must be a time from {earliest} until now.");
        refuse(400, "InvalidRestorePointInTime", message)
    })
}

/// Days for which a database can be restored, as milliseconds.
pub(super) fn retention(all: &BTreeMap<String, Value>, database: &str) -> u64 {
    retention_days(all, database) * 86_400_000
}
