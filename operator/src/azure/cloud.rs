//! Azure's clouds: where each has its Resource Manager (ARM), and where tokens for it may go.
//!
//! Endpoints and audiences: Azure/azure-sdk-for-go `sdk/azcore/cloud` and the cloud profiles that `az cloud show` prints.

use azure_core::{
    cloud::{CloudConfiguration, CustomConfiguration},
    http::Url,
};

/// A cloud. URLs are without a slash at their end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cloud {
    /// URL of ARM.
    pub resource_manager: String,
    /// For whom the tokens are that ARM takes.
    pub audience: String,
    /// URL of Entra.
    pub authority: String,
    /// For whom the tokens are that Azure SQL takes.
    pub sql_audience: String,
    /// What comes after `file.` in the host names of file shares.
    pub storage_suffix: String,
    /// Hosts beside ARM's own to which ARM's answers may lead. One that begins with a dot stands for all hosts below it.
    pub hosts: Vec<String>,
}

impl Cloud {
    /// The public cloud.
    pub fn public() -> Self {
        Self::new(
            "https://management.azure.com",
            "https://management.azure.com",
            "https://login.microsoftonline.com",
            ["https://database.windows.net", "core.windows.net"],
            // Regional front ends, and the one host of a provider that recorded answers name.
            &[".management.azure.com", ".rp.kubernetesconfiguration.azure.com"],
        )
    }

    /// Azure Government.
    pub fn us_government() -> Self {
        Self::new(
            "https://management.usgovcloudapi.net",
            "https://management.core.usgovcloudapi.net",
            "https://login.microsoftonline.us",
            ["https://database.usgovcloudapi.net", "core.usgovcloudapi.net"],
            &[".management.usgovcloudapi.net"],
        )
    }

    /// Azure in China, operated by 21Vianet.
    pub fn china() -> Self {
        Self::new(
            "https://management.chinacloudapi.cn",
            "https://management.core.chinacloudapi.cn",
            "https://login.chinacloudapi.cn",
            ["https://database.chinacloudapi.cn", "core.chinacloudapi.cn"],
            &[".management.chinacloudapi.cn"],
        )
    }

    fn new(
        resource_manager: &str,
        audience: &str,
        authority: &str,
        [sql, storage]: [&str; 2],
        hosts: &[&str],
    ) -> Self {
        Self {
            resource_manager: resource_manager.to_owned(),
            audience: audience.to_owned(),
            authority: authority.to_owned(),
            sql_audience: sql.to_owned(),
            storage_suffix: storage.to_owned(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        }
    }

    /// The scope of tokens for ARM.
    pub fn scope(&self) -> String {
        format!("{}/.default", self.audience)
    }

    /// The scope of tokens for Azure SQL.
    pub fn sql_scope(&self) -> String {
        format!("{}/.default", self.sql_audience)
    }

    /// Where to go for a URL in one of ARM's answers; none if our token is not to go there. ARM may leave out its own host.
    pub fn follow(&self, url: &str) -> Option<String> {
        // `//host/path` names a host.
        let whole = if url.starts_with('/') && !url.starts_with("//") {
            format!("{}{url}", self.resource_manager)
        } else {
            url.to_owned()
        };
        let to = Url::parse(&whole).ok()?;
        let own = Url::parse(&self.resource_manager).ok()?;
        let host = to.host_str()?;
        let is_own =
            own.host_str() == Some(host) && own.port_or_known_default() == to.port_or_known_default();
        let is_listed = to.port().is_none()
            && self.hosts.iter().any(|known| {
                let below = known.strip_prefix('.').is_some_and(|_| host.ends_with(known.as_str()));
                below || host == known
            });
        let is_plain = to.username().is_empty() && to.password().is_none();
        // As it was given: it is signed.
        (to.scheme() == "https" && is_plain && (is_own || is_listed)).then_some(whole)
    }

    /// The same for the credentials of `azure_identity`.
    pub(super) fn configuration(&self) -> CloudConfiguration {
        let mut custom = CustomConfiguration::default();
        custom.authority_host.clone_from(&self.authority);
        custom.into()
    }
}

impl Default for Cloud {
    fn default() -> Self {
        Self::public()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tokens_go_to_arm_and_to_hosts_that_are_known() {
        for (url, goes) in [
            ("https://management.azure.com/subscriptions/s/x?s=signature", true),
            ("HTTPS://MANAGEMENT.AZURE.COM/x", true),
            ("https://management.azure.com:443/x", true),
            ("https://westeurope.management.azure.com/x", true),
            ("https://westus2.rp.kubernetesconfiguration.azure.com/x", true),
            ("/subscriptions/s/providers/p/operationresults/1", true),
            ("https://management.azure.com:8443/x", false),
            ("https://westeurope.management.azure.com:8443/x", false),
            ("http://management.azure.com/x", false),
            ("//evil.example/x", false),
            ("/\\evil.example/x", true),
            ("https:evil.example", false),
            ("https://evil.example/management.azure.com", false),
            ("https://management.azure.com.evil.example/x", false),
            ("https://evilmanagement.azure.com/x", false),
            ("https://management.azure.com@evil.example/x", false),
            ("https://user:secret@management.azure.com/x", false),
            ("https://management.usgovcloudapi.net/x", false),
            ("subscriptions/s", false),
            ("", false),
        ] {
            assert_eq!(Cloud::public().follow(url).is_some(), goes, "{url}");
        }
        let gov = Cloud::us_government();
        assert!(gov.follow("https://management.usgovcloudapi.net/x").is_some());
        assert_eq!(gov.follow("https://management.azure.com/x"), None);
        assert_eq!(gov.scope(), "https://management.core.usgovcloudapi.net/.default");
        let custom =
            Cloud { resource_manager: "https://arm.local:9443".to_owned(), hosts: vec![], ..Cloud::public() };
        assert!(custom.follow("https://arm.local:9443/x").is_some());
        assert_eq!(custom.follow("https://arm.local/x"), None);
    }

    #[test]
    fn a_signed_url_stays_as_it_is() {
        let url = "https://management.azure.com/a%2Fb?c=A%2b%2B&s=x~y";
        assert_eq!(Cloud::public().follow(url).as_deref(), Some(url));
    }

    proptest! {
        /// Whatever ARM answers, what is followed is HTTPS to a host of the cloud.
        #[test]
        fn nothing_else_is_followed(url in "(https?:)?/{0,3}[a-z@:/\\\\.]{0,12}(management\\.azure\\.com)?[a-z@:/.\\\\]{0,12}|.*") {
            if let Some(to) = Cloud::public().follow(&url) {
                let to = Url::parse(&to).unwrap();
                let host = to.host_str().unwrap();
                prop_assert!(to.scheme() == "https");
                prop_assert!(host == "management.azure.com" || host.ends_with(".management.azure.com") || host.ends_with(".rp.kubernetesconfiguration.azure.com"), "{host}");
            }
        }
    }
}
