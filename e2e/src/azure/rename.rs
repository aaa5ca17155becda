//! A database gets another name on its server, and stays what it is.

use serde_json::{Value, json};

use super::{
    Cloud, Request, Response,
    id::{Target, key, parent_key},
};

impl Cloud {
    /// Answers POST `.../databases/NAME/move`: the body names the id that it has from now on.
    pub(super) fn rename(&mut self, target: &Target, request: &Request) -> Response {
        let at = parent_key(&format!("{}/x", key(&request.path)));
        let Some(database) = self.resources.get(&at) else { return self.not_found(target) };
        let old = database["id"].as_str().unwrap_or_default().to_owned();
        let new = request.body.as_ref().and_then(|body| body["id"].as_str()).unwrap_or_default().to_owned();
        let to = key(&new);
        if parent_key(&to) != parent_key(&at) {
            let message = format!("'{new}' is no database of the same server.");
            return Response::error(400, "InvalidResourceId", message);
        }
        if self.resources.contains_key(&to) || self.pending.contains_key(&to) {
            let message = format!("There is a database '{new}'.");
            return Response::error(409, "DatabaseAlreadyExists", message);
        }
        let below = format!("{at}/");
        let is_its = |path: &&String| **path == at || path.starts_with(&below);
        let paths: Vec<String> = self.resources.keys().filter(is_its).cloned().collect();
        for path in paths {
            let Some(mut resource) = self.resources.remove(&path) else { continue };
            let rest = resource["id"].as_str().and_then(|id| id.get(old.len()..)).unwrap_or_default();
            resource["id"] = json!(format!("{new}{rest}"));
            if path == at {
                resource["name"] = new.rsplit('/').next().map(Value::from).unwrap_or_default();
            }
            self.resources.insert(format!("{to}{}", &path[at.len()..]), resource);
        }
        Response::empty(200)
    }
}
