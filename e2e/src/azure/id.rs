//! Paths of ARM.

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Subscription id.
    pub subscription: String,
    /// Resource group; none above it.
    pub group: Option<String>,
    /// Provider namespace as written, for example `Microsoft.Network`.
    pub provider: Option<String>,
    /// Type segments as written.
    pub types: Vec<String>,
    /// Names, one for each type; one less where the path names a collection or an action.
    pub names: Vec<String>,
    /// The scope before the last `/providers/`, for extension resources such as role assignments.
    pub scope: String,
}

impl Target {
    /// Reads a path; `None` if it is not one of a subscription.
    pub fn parse(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
        let [subscriptions, subscription, rest @ ..] = segments.as_slice() else { return None };
        if !subscriptions.eq_ignore_ascii_case("subscriptions") {
            return None;
        }
        let is = |segment: &str, word: &str| segment.eq_ignore_ascii_case(word);
        let group = match rest {
            [word, name, ..] if is(word, "resourceGroups") => Some((*name).to_owned()),
            _ => None,
        };
        let providers = segments.iter().rposition(|s| is(s, "providers"));
        let (provider, tail) = match providers.and_then(|at| Some((segments.get(at + 1)?, at))) {
            Some((provider, at)) => (Some((*provider).to_owned()), &segments[at + 2..]),
            None => (None, &segments[0..0]),
        };
        let scope_end = providers.unwrap_or(segments.len());
        Some(Self {
            subscription: (*subscription).to_owned(),
            group,
            provider,
            types: tail.iter().step_by(2).map(|s| (*s).to_owned()).collect(),
            names: tail.iter().skip(1).step_by(2).map(|s| (*s).to_owned()).collect(),
            scope: format!("/{}", segments[..scope_end].join("/")),
        })
    }

    /// Full type in lower case, for example `microsoft.network/virtualnetworks/subnets`.
    pub fn kind(&self) -> String {
        match &self.provider {
            Some(provider) => format!("{provider}/{}", self.types.join("/")).to_lowercase(),
            None if self.group.is_some() => "microsoft.resources/resourcegroups".to_owned(),
            None => "microsoft.resources/subscriptions".to_owned(),
        }
    }

    /// Whether it names one resource, and not a collection or an action.
    pub fn is_resource(&self) -> bool {
        self.types.len() == self.names.len()
    }

    /// Last name.
    pub fn name(&self) -> &str {
        self.names.last().or(self.group.as_ref()).map_or("", String::as_str)
    }

    /// Names after the provider, as messages of ARM show them.
    pub fn path_of_names(&self) -> String {
        let provider = self.provider.clone().unwrap_or_default();
        let pairs = self.types.iter().zip(&self.names).map(|(t, n)| format!("{t}/{n}"));
        format!("{provider}/{}", pairs.collect::<Vec<_>>().join("/"))
    }
}

/// The key of an id: ARM's names know no case.
pub fn key(id: &str) -> String {
    id.trim_end_matches('/').to_lowercase()
}

/// The key of the resource that contains this one; a resource group for what is directly in it.
pub fn parent_key(key: &str) -> String {
    let segments: Vec<&str> = key.split('/').collect();
    let parent = &segments[..segments.len().saturating_sub(2)];
    let is_provider = parent.len() >= 2 && parent[parent.len() - 2] == "providers";
    if is_provider { parent[..parent.len() - 2].join("/") } else { parent.join("/") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_without_regard_to_case() {
        let subnet = Target::parse(
            "/Subscriptions/S/resourcegroups/rg/providers/Microsoft.Network/virtualNetworks/v/subnets/s",
        )
        .unwrap();
        assert_eq!(subnet.kind(), "microsoft.network/virtualnetworks/subnets");
        assert_eq!((subnet.group.as_deref(), subnet.name(), subnet.is_resource()), (Some("rg"), "s", true));
        let group = Target::parse("/subscriptions/S/resourceGroups/rg").unwrap();
        assert_eq!((group.kind().as_str(), group.name()), ("microsoft.resources/resourcegroups", "rg"));
        let list =
            Target::parse("/subscriptions/S/resourceGroups/rg/providers/Microsoft.Network/dnsZones").unwrap();
        assert!(!list.is_resource());
        let extension = Target::parse("/subscriptions/S/resourceGroups/rg/providers/Microsoft.Network/dnsZones/z/providers/Microsoft.Authorization/roleAssignments/r").unwrap();
        assert_eq!(extension.kind(), "microsoft.authorization/roleassignments");
        assert!(extension.scope.ends_with("/dnsZones/z"));
        assert_eq!(Target::parse("/providers/Microsoft.Sql"), None);
    }

    #[test]
    fn parents() {
        assert_eq!(
            parent_key("/subscriptions/s/resourcegroups/g/providers/p/t/n"),
            "/subscriptions/s/resourcegroups/g"
        );
        assert_eq!(
            parent_key("/subscriptions/s/resourcegroups/g/providers/p/t/n/u/m"),
            "/subscriptions/s/resourcegroups/g/providers/p/t/n"
        );
        assert_eq!(parent_key("/subscriptions/s/resourcegroups/g"), "/subscriptions/s");
    }
}
