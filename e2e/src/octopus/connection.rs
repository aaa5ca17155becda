//! The connection string: `Server=tcp:host,1433;Initial Catalog=db;Authentication=...;Encrypt=True`.

/// Where the database is. How to sign in is always the same: by workload identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    /// Host name of the SQL server.
    pub(super) host: String,
    /// Port.
    pub(super) port: u16,
    /// Name of the database.
    pub(super) database: String,
}

impl Connection {
    /// Reads a connection string. The error names what is wrong, never a value: it could be a password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (mut server, mut database, mut signs_in, mut encrypts) = (None, None, false, false);
        for pair in text.split(';').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or("the connection string has a part without \"=\"")?;
            let (key, value) = (key.trim(), value.trim());
            match key.to_ascii_lowercase().as_str() {
                "server" | "data source" => server = Some(address(value)?),
                "initial catalog" | "database" => database = Some(value.to_owned()),
                "authentication" => {
                    let known = ["active directory workload identity", "active directory default"];
                    signs_in = known.contains(&value.to_ascii_lowercase().as_str());
                    if !signs_in {
                        return Err("the connection string's Authentication must be Active Directory \
                                    Workload Identity or Active Directory Default"
                            .to_owned());
                    }
                }
                "encrypt" => encrypts = ["true", "mandatory"].contains(&value.to_ascii_lowercase().as_str()),
                "password" | "pwd" | "user id" | "uid" => {
                    return Err(format!(
                        "the connection string has {key}: the server is Entra-only and takes no passwords"
                    ));
                }
                _ => return Err(format!("the connection string's {key} is not supported by the sandbox")),
            }
        }
        let (host, port) = server.ok_or("the connection string has no Server")?;
        let database = database.filter(|d| !d.is_empty());
        let database = database.ok_or("the connection string has no Initial Catalog")?;
        match (signs_in, encrypts) {
            (false, _) => Err("the connection string has no Authentication".to_owned()),
            (_, false) => Err("the connection string must have Encrypt=True".to_owned()),
            _ => Ok(Self { host, port, database }),
        }
    }
}

/// `tcp:host,port`; the prefix and the port may be left out.
fn address(text: &str) -> Result<(String, u16), String> {
    let text = text.strip_prefix("tcp:").unwrap_or(text);
    let (host, port) = text.split_once(',').unwrap_or((text, "1433"));
    let port = port.trim().parse();
    let named = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    match (named, port) {
        (true, Ok(port)) => Ok((host.to_owned(), port)),
        _ => Err("the connection string's Server must look like tcp:host,1433".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Server=tcp:r1.database.windows.net,1433;Initial Catalog=db-1;\
                        Authentication=Active Directory Workload Identity;Encrypt=True";

    #[test]
    fn what_the_operator_writes_is_understood() {
        let expect = Connection {
            host: "r1.database.windows.net".to_owned(),
            port: 1433,
            database: "db-1".to_owned(),
        };
        assert_eq!(Connection::parse(GOOD), Ok(expect.clone()));
        let other = "data source = r1.database.windows.net ; DATABASE=db-1;\
                     authentication=active directory default; encrypt=true;";
        assert_eq!(Connection::parse(other), Ok(expect));
    }

    #[test]
    fn everything_else_is_refused_and_no_value_is_told() {
        for (text, expect) in [
            (format!("{GOOD};Password=hunter2"), "Password"),
            (format!("{GOOD};User ID=hunter2"), "takes no passwords"),
            (format!("{GOOD};TrustServerCertificate=hunter2"), "TrustServerCertificate"),
            (GOOD.replace("Encrypt=True", "Encrypt=hunter2"), "Encrypt=True"),
            (GOOD.replace("Encrypt=True", ""), "Encrypt=True"),
            (GOOD.replace("Workload Identity", "hunter2"), "Authentication must be"),
            (GOOD.replace("Authentication=Active Directory Workload Identity", ""), "no Authentication"),
            (GOOD.replace("1433", "hunter2"), "must look like"),
            (GOOD.replace("Initial Catalog=db-1", "Initial Catalog="), "no Initial Catalog"),
            (GOOD.replace("Server=tcp:r1.database.windows.net,1433", ""), "no Server"),
            ("hunter2".to_owned(), "without \"=\""),
        ] {
            let error = Connection::parse(&text).unwrap_err();
            assert!(error.contains(expect) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
