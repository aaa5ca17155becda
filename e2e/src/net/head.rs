//! The head of a request to the proxy: what is meant, and what is sent on (pure).

/// What a request to the proxy asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Host that is meant.
    pub host: String,
    /// Port that is meant.
    pub port: u16,
    /// Head that the target gets; none for CONNECT, whose bytes are carried as they are.
    pub head: Option<String>,
}

/// Reads a head: CONNECT with a port, or a request with an absolute `http` URL. None for all else.
pub fn read(head: &str) -> Option<Asked> {
    let (line, headers) = head.split_once("\r\n")?;
    let mut words = line.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || !version.starts_with("HTTP/1.") {
        return None;
    }
    if method == "CONNECT" {
        let (host, port) = target.rsplit_once(':')?;
        return Some(Asked { host: host.to_owned(), port: port.parse().ok()?, head: None });
    }
    let uri: http::Uri = target.parse().ok()?;
    let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return None };
    // A user and password have no place here.
    if authority.as_str().contains('@') {
        return None;
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let sent_on = rewrite(method, path, version, authority.as_str(), headers);
    // `authority.port()` has none for a port that is no number, too.
    let port = match authority.as_str().strip_prefix(authority.host())? {
        "" => 80,
        port => port.strip_prefix(':')?.parse().ok()?,
    };
    Some(Asked { host: authority.host().to_owned(), port, head: Some(sent_on) })
}

/// The head in origin form, of one request on one connection. The URL decides over `Host`, RFC 9112
/// section 3.2.2.
fn rewrite(method: &str, path: &str, version: &str, authority: &str, headers: &str) -> String {
    let mut head = format!("{method} {path} {version}\r\nHost: {authority}\r\n");
    for line in headers.lines().filter(|line| !line.is_empty()) {
        let name = line.split(':').next().unwrap_or_default().trim().to_ascii_lowercase();
        let dropped = ["host", "connection", "keep-alive"].contains(&name.as_str());
        if !dropped && !name.starts_with("proxy-") {
            head.extend([line, "\r\n"]);
        }
    }
    head + "Connection: close\r\n\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_with_a_port_is_taken_as_it_is() {
        let asked = read("CONNECT a.b.svc:443 HTTP/1.1\r\nHost: a.b.svc:443\r\n\r\n").unwrap();
        assert_eq!((asked.host.as_str(), asked.port, asked.head), ("a.b.svc", 443, None));
    }

    #[test]
    fn an_absolute_url_becomes_a_path() {
        let close = "Connection: close\r\n\r\n";
        for (head, host, port, expect) in [
            (
                "GET http://a.b.svc/x?y=1 HTTP/1.1\r\n\r\n",
                "a.b.svc",
                80,
                "GET /x?y=1 HTTP/1.1\r\nHost: a.b.svc\r\n",
            ),
            (
                "GET http://a.b.svc:8080 HTTP/1.0\r\n\r\n",
                "a.b.svc",
                8080,
                "GET / HTTP/1.0\r\nHost: a.b.svc:8080\r\n",
            ),
            (
                "POST http://a/api HTTP/1.1\r\nhost: other\r\nProxy-Connection: keep-alive\r\nproxy-authorization: Basic x\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\nContent-Length: 3\r\nX-Host: kept: so\r\n\r\n",
                "a",
                80,
                "POST /api HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX-Host: kept: so\r\n",
            ),
        ] {
            let asked = read(head).unwrap();
            assert_eq!((asked.host.as_str(), asked.port), (host, port), "{head}");
            assert_eq!(asked.head.unwrap(), format!("{expect}{close}"), "{head}");
        }
    }

    #[test]
    fn all_else_is_not_for_the_proxy() {
        for bad in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET https://a/ HTTP/1.1\r\n\r\n",
            "GET http://u:p@a/ HTTP/1.1\r\n\r\n",
            "GET http://a:99999/ HTTP/1.1\r\n\r\n",
            "GET http://a/ HTTP/1.1 more\r\n\r\n",
            "GET http://a/ HTTP/2\r\n\r\n",
            "CONNECT a HTTP/1.1\r\n\r\n",
            "CONNECT a:99999 HTTP/1.1\r\n\r\n",
            "nonsense\r\n\r\n",
            "",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
