//! What Entra is asked with, for each way to prove an identity that needs no machine of Azure.

use reef_e2e::recordings::{Record, Recording, replay::Server};
use reef_operator::azure::Proof;
use serde_json::{Value, json};

use super::client::client;

/// One answer, so that there is something to call.
fn group() -> Recording {
    let record =
        json!({ "method": "GET", "path": "/g?api-version=v", "status": 200, "resp": { "id": "/g" } });
    let record: Record = serde_json::from_value(record).unwrap();
    Recording { name: "group".to_owned(), began: None, records: vec![record] }
}

#[tokio::test]
async fn entra_is_asked_with_what_proves_the_identity() {
    let server = Server::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let certificate = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap().self_signed(&rsa).unwrap();
    let certificate =
        Proof::certificate(certificate.pem().as_bytes(), rsa.serialize_pem().as_bytes()).unwrap();
    let assertion = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    for (proof, kind) in [
        (Proof::WorkloadIdentity, Some(assertion)),
        (Proof::ClientSecret("hunter2".into()), None),
        (certificate, Some(assertion)),
    ] {
        server.play(&group());
        let arm = client(&server, folder.path(), proof.clone());
        assert_eq!(arm.get("/g", "v").await.unwrap(), json!({ "id": "/g" }), "{proof:?}");
        let asked = server.asked();
        let text = |name: &str| asked.get(name).map(String::as_str);
        assert_eq!(text("grant_type"), Some("client_credentials"), "{proof:?}");
        assert_eq!(text("scope"), Some(format!("{}/.default", server.url()).as_str()));
        assert_eq!(text("client_id"), Some("00000000-0000-4000-8000-0000000000c1"));
        assert_eq!(text("client_assertion_type"), kind, "{proof:?}");
        match proof {
            Proof::ClientSecret(_) => assert_eq!(text("client_secret"), Some("hunter2")),
            Proof::WorkloadIdentity => assert_eq!(text("client_assertion"), Some("federated")),
            _ => {
                let key = jsonwebtoken::DecodingKey::from_rsa_pem(rsa.public_key_pem().as_bytes()).unwrap();
                let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::PS256);
                rules.set_audience(&[format!(
                    "{}/{}/oauth2/v2.0/token",
                    server.url(),
                    super::client::TENANT
                )]);
                let claims = jsonwebtoken::decode::<Value>(text("client_assertion").unwrap(), &key, &rules)
                    .unwrap()
                    .claims;
                assert_eq!(
                    (&claims["iss"], &claims["sub"]),
                    (&claims["sub"], &json!("00000000-0000-4000-8000-0000000000c1"))
                );
            }
        }
    }
}
