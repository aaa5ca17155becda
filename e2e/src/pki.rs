//! Certificates of the sandbox: each cluster has an authority of its own, as on AKS.

use std::{fs, io, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

/// A certificate and its private key, PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub cert: String,
    /// Its key, PKCS#8.
    pub key: String,
}

/// An authority that signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// Who a client certificate stands for in Kubernetes.
pub struct Subject<'a> {
    /// Common name: the user.
    pub user: &'a str,
    /// Organisation: the group.
    pub group: Option<&'a str>,
}

impl Authority {
    /// A new authority. Names must differ between authorities, or a client that trusts two of them
    /// reports a bad signature instead of an unknown issuer.
    pub fn new(name: &str) -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name = distinguished_name(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// The authority's certificate, PEM.
    pub fn cert(&self) -> String {
        self.0.pem()
    }

    /// A server certificate for names and addresses; also good as a client certificate of `subject`.
    pub fn server(&self, subject: &Subject<'_>, names: &[&str]) -> Result<Identity, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.subject_alt_names = names.iter().map(|n| san(n)).collect::<Result<_, _>>()?;
        self.sign(params, subject)
    }

    /// A client certificate.
    pub fn client(&self, subject: &Subject<'_>) -> Result<Identity, rcgen::Error> {
        self.sign(CertificateParams::new(Vec::<String>::new())?, subject)
    }

    fn sign(&self, mut params: CertificateParams, subject: &Subject<'_>) -> Result<Identity, rcgen::Error> {
        params.distinguished_name = distinguished_name(subject.user, subject.group);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !params.subject_alt_names.is_empty() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let key = KeyPair::generate()?;
        let issuer: &Issuer<'_, KeyPair> = &self.0;
        Ok(Identity { cert: params.signed_by(&key, issuer)?.pem(), key: key.serialize_pem() })
    }
}

fn san(name: &str) -> Result<SanType, rcgen::Error> {
    match name.parse() {
        Ok(ip) => Ok(SanType::IpAddress(ip)),
        Err(_) => Ok(SanType::DnsName(name.try_into()?)),
    }
}

fn distinguished_name(common: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name
}

impl Identity {
    /// Writes `NAME.crt` and `NAME.key` into a folder, the key readable by its owner only.
    pub fn write(&self, folder: &Path, name: &str) -> io::Result<()> {
        fs::write(folder.join(format!("{name}.crt")), &self.cert)?;
        write_secret(&folder.join(format!("{name}.key")), self.key.as_bytes())
    }
}

/// Writes a file that only its owner may read, at once: who waits for it never finds half of it.
pub fn write_secret(path: &Path, content: &[u8]) -> io::Result<()> {
    use io::Write;
    let folder = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
    let mut half = tempfile::NamedTempFile::new_in(folder)?;
    half.write_all(content)?;
    half.persist(path)?;
    Ok(())
}
