//! Reads a certificate with its private key (pure).

use std::{collections::BTreeMap, fmt::Write as _};

use aws_lc_rs::digest;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use rustls::{
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::{extensions::GeneralName, prelude::parse_x509_certificate};

/// At most this many DNS names are kept.
const NAMES: usize = 20;

/// The public facts of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// DNS names it is for.
    pub dns_names: Vec<String>,
    /// Begin of its validity.
    pub not_before: Timestamp,
    /// End of its validity.
    pub not_after: Timestamp,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// Reads `tls.crt` and `tls.key` of a Secret. The error says what is wrong with which key, never what is
/// in it.
pub fn read(data: &BTreeMap<String, ByteString>) -> Result<Certificate, String> {
    let part = |key: &str| data.get(key).filter(|v| !v.0.is_empty()).ok_or(format!("key {key} is missing"));
    let (cert, key) = (part("tls.crt")?, part("tls.key")?);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&cert.0)
        .collect::<Result<_, _>>()
        .map_err(|e| format!("tls.crt is not PEM: {e:?}"))?;
    let Some(first) = chain.first().cloned() else {
        return Err("tls.crt holds no certificate in PEM".to_owned());
    };
    // The parser's own words could quote the key.
    let key = PrivateKeyDer::from_pem_slice(&key.0)
        .map_err(|_| "tls.key holds no private key in PEM".to_owned())?;
    let signing = default_provider()
        .key_provider
        .load_private_key(key)
        .map_err(|_| "tls.key is of a kind that is not supported (RSA, ECDSA or Ed25519)".to_owned())?;
    CertifiedKey::new(chain, signing)
        .keys_match()
        .map_err(|_| "tls.key does not belong to the certificate in tls.crt".to_owned())?;
    facts(&first)
}

fn facts(der: &[u8]) -> Result<Certificate, String> {
    let (_, parsed) = parse_x509_certificate(der).map_err(|e| format!("tls.crt: {e}"))?;
    // "No end" is the last second of the year 9999, which is beyond what a Timestamp holds.
    let time = |seconds: i64| {
        let edge = if seconds > 0 { Timestamp::MAX } else { Timestamp::MIN };
        Timestamp::from_second(seconds).unwrap_or(edge)
    };
    let names = parsed.subject_alternative_name().map_err(|e| format!("tls.crt: {e}"))?;
    let dns_names = names.into_iter().flat_map(|e| e.value.general_names.iter().cloned());
    let dns_names = dns_names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_owned()),
        _ => None,
    });
    let mut sha256 = String::new();
    for byte in digest::digest(&digest::SHA256, der).as_ref() {
        let _ = write!(sha256, "{byte:02x}");
    }
    Ok(Certificate {
        dns_names: dns_names.take(NAMES).collect(),
        not_before: time(parsed.validity().not_before.timestamp()),
        not_after: time(parsed.validity().not_after.timestamp()),
        sha256,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertifiedKey as Generated, generate_simple_self_signed};

    fn secret(cert: &str, key: &str) -> BTreeMap<String, ByteString> {
        let pairs = [("tls.crt", cert), ("tls.key", key)];
        pairs.into_iter().map(|(k, v)| (k.to_owned(), ByteString(v.as_bytes().to_vec()))).collect()
    }

    fn generate() -> (String, String) {
        let Generated { cert, signing_key } =
            generate_simple_self_signed(["*.octopus.example".to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    #[test]
    fn a_certificate_with_its_key_is_read() {
        let (cert, key) = generate();
        let read = read(&secret(&cert, &key)).unwrap();
        assert_eq!(read.dns_names, ["*.octopus.example"]);
        assert!(read.not_before < read.not_after && read.sha256.len() == 64);
    }

    #[test]
    fn what_is_wrong_is_named_and_the_key_is_not_shown() {
        let ((cert, key), (_, other_key)) = (generate(), generate());
        let broken_key = key.replace("MIGH", "!!!!");
        for (cert, key, expect) in [
            ("", key.as_str(), "tls.crt is missing"),
            (cert.as_str(), "", "tls.key is missing"),
            ("garbage", &key, "tls.crt holds no certificate"),
            (&cert, "garbage", "tls.key holds no private key"),
            (&cert, &broken_key, "tls.key holds no private key"),
            (&cert, &other_key, "does not belong"),
            (&key, &key, "tls.crt holds no certificate"),
        ] {
            let error = read(&secret(cert, key)).unwrap_err();
            assert!(error.contains(expect), "{error}");
            let secret_line = other_key.lines().nth(1).unwrap();
            assert!(!error.contains(secret_line) && !error.contains(key.lines().nth(1).unwrap_or("-")));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(cert: Vec<u8>, key: Vec<u8>) {
            let data = [("tls.crt", cert), ("tls.key", key)].map(|(k, v)| (k.to_owned(), ByteString(v)));
            let _ = read(&data.into());
        }
    }
}
