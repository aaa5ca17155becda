//! What a listener does with a request: the routes attached to it, and which of them wins (pure).

use super::{
    hosts::{covers, narrowness},
    spec::PathMatch,
};

/// A host and a path, and where their requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Host, perhaps with a wildcard; the empty one means any.
    pub host: String,
    /// Path.
    pub path: Path,
    /// Age of the route: the least goes first.
    pub age: (String, String, String),
    /// Services; none if the route names none that is there.
    pub backends: Vec<Backend>,
}

/// Which paths are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// This one.
    Exact(String),
    /// Those that begin with these elements.
    Prefix(String),
}

/// A Service that gets requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name in the cluster's network.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// Its share of the requests.
    pub weight: u32,
}

impl Path {
    /// What a match of a route means; a kind that is unknown counts as prefix.
    pub fn of(path: &PathMatch) -> Self {
        let value = path.value.clone().unwrap_or_else(|| "/".to_owned());
        if path.type_.as_deref() == Some("Exact") { Self::Exact(value) } else { Self::Prefix(value) }
    }

    fn covers(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }

    fn narrowness(&self) -> (bool, usize) {
        match self {
            Self::Exact(exact) => (true, exact.len()),
            Self::Prefix(prefix) => (false, prefix.trim_end_matches('/').len()),
        }
    }
}

/// The entry for a request: the narrowest host decides first, then the narrowest path, then the older route.
pub fn find<'a>(table: &'a [Entry], host: &str, path: &str) -> Option<&'a Entry> {
    let host = host.to_ascii_lowercase();
    let narrowest = table.iter().filter(|e| covers(&e.host, &host)).max_by_key(|e| narrowness(&e.host))?;
    table
        .iter()
        .filter(|e| e.host == narrowest.host && e.path.covers(path))
        .min_by(|a, b| b.path.narrowness().cmp(&a.path.narrowness()).then_with(|| a.age.cmp(&b.age)))
}

/// The Service whose turn it is, by weight.
pub fn pick(backends: &[Backend], turn: usize) -> Option<&Backend> {
    let total: usize = backends.iter().map(|b| b.weight as usize).sum();
    let mut left = turn.checked_rem(total)?;
    backends.iter().find(|backend| {
        let weight = backend.weight as usize;
        let here = left < weight;
        left = left.saturating_sub(weight);
        here
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(host: &str, path: Path, made: &str, service: &str) -> Entry {
        let backends = vec![Backend { service: service.to_owned(), port: 80, weight: 1 }];
        Entry { host: host.to_owned(), path, age: (made.to_owned(), String::new(), String::new()), backends }
    }

    #[test]
    fn exact_hosts_then_long_paths_then_older_routes_win() {
        let prefix = |p: &str| Path::Prefix(p.to_owned());
        let table = [
            entry("a.example.com", prefix("/"), "2", "younger"),
            entry("*.example.com", prefix("/"), "0", "wild"),
            entry("*.example.com", prefix("/only/here"), "0", "deep"),
            entry("*.b.example.com", prefix("/"), "3", "wild-b"),
            entry("a.example.com", prefix("/"), "1", "older"),
            entry("a.example.com", prefix("/api"), "9", "api"),
            entry("a.example.com", prefix("/api/v2/"), "9", "api-2"),
            entry("a.example.com", Path::Exact("/api".to_owned()), "9", "exact"),
        ];
        for (host, path, expect) in [
            ("a.example.com", "/", Some("older")),
            ("A.Example.Com", "/x", Some("older")),
            ("a.example.com", "/api", Some("exact")),
            ("a.example.com", "/api/", Some("api")),
            ("a.example.com", "/api/v1", Some("api")),
            ("a.example.com", "/apis", Some("older")),
            ("a.example.com", "/api/v2", Some("api-2")),
            ("a.example.com", "/only/here", Some("older")),
            ("c.example.com", "/only/here/too", Some("deep")),
            ("c.example.com", "/", Some("wild")),
            ("c.b.example.com", "/", Some("wild-b")),
            ("example.com", "/", None),
            ("example.org", "/", None),
        ] {
            let found = find(&table, host, path).map(|e| e.backends[0].service.as_str());
            assert_eq!(found, expect, "{host}{path}");
        }
    }

    #[test]
    fn backends_take_turns_by_weight() {
        let backend = |service: &str, weight| Backend { service: service.to_owned(), port: 80, weight };
        let backends = [backend("never", 0), backend("twice", 2), backend("once", 1)];
        let turns: Vec<_> = (0..4).map(|turn| pick(&backends, turn).unwrap().service.as_str()).collect();
        assert_eq!(turns, ["twice", "twice", "once", "twice"]);
        assert_eq!(pick(&backends[..1], 0), None);
        assert_eq!(pick(&[], 0), None);
    }
}
