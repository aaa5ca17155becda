//! Plan and report of a Region: every situation with what its user sees, and the contract with kstatus.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use proptest::prelude::*;
use reef_crds::{Region, RegionStatus, meta::RECONCILE_REQUESTED_AT};
use serde_json::json;

use super::{
    certificate::Certificate,
    observe::{Observation, Zone},
    plan::plan,
    report::report,
};
use crate::{
    azure::ArmError,
    controller::{Policy, trouble},
    observed::Observed,
};

const POLICY: Policy = Policy {
    resync: Duration::from_secs(600),
    progress_deadline: Duration::from_secs(1800),
    azure_poll: Duration::from_secs(15),
};

fn transition(old: Option<&RegionStatus>, next: &RegionStatus) -> Option<trouble::Transition> {
    trouble::transition(&old.map(|s| s.conditions.clone()).unwrap_or_default(), &next.conditions)
}

const TENANT: &str = "00000000-0000-4000-8000-00000000000a";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn region() -> Region {
    serde_json::from_value(json!({
        "metadata": { "name": "westeurope", "generation": 1, "uid": "u" },
        "spec": { "location": "westeurope",
            "azure": { "tenantId": TENANT, "subscriptionId": TENANT },
            "dns": { "zoneId": format!("/subscriptions/{TENANT}/resourceGroups/g/providers/Microsoft.Network/dnsZones/octopus.example") },
            "tls": { "secretRef": { "namespace": "ns", "name": "tls" } } },
    }))
    .unwrap()
}

/// Valid from 1,000 to 100,000.
fn certificate() -> Certificate {
    Certificate {
        dns_names: vec!["*.octopus.example".to_owned()],
        not_before: at(1_000),
        not_after: at(100_000),
        sha256: "ab".repeat(32),
    }
}

fn seen(certificate: Observed<Result<Certificate, String>>) -> Observation {
    Observation { zone: Ok(zone()), certificate, forbidden: false }
}

fn zone() -> Zone {
    Zone { name_servers: vec!["ns1.example.".to_owned()] }
}

/// A good certificate, and Azure answered with an error.
fn azure_says(status: u16, code: &str) -> Observation {
    let body = format!(r#"{{"error":{{"code":"{code}","message":"m"}}}}"#);
    Observation { zone: Err(ArmError::from_answer(status, None, body.as_bytes())), ..good() }
}

fn no_token(refused: bool) -> Observation {
    let error = ArmError::NoToken { client: "c".to_owned(), message: "AADSTS700213".to_owned(), refused };
    Observation { zone: Err(error), ..good() }
}

fn good() -> Observation {
    seen(Observed::Present(Ok(certificate())))
}

fn forbidden() -> Observation {
    Observation { forbidden: true, ..seen(Observed::Unknown("403".into())) }
}

fn step(region: &Region, seen: &Observation, now: i64) -> RegionStatus {
    report(region, &plan(region, seen, &POLICY, at(now)), &POLICY, at(now))
}

/// `Type=Status/Reason` of each condition but those of Azure, which have a table of their own.
fn summary(status: &RegionStatus) -> String {
    let rest = status
        .conditions
        .iter()
        .filter(|c| !["CredentialsValid", "DNSZoneReady"].contains(&c.type_.as_str()));
    rest.map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)).collect::<Vec<_>>().join(" ")
}

#[test]
fn what_azure_says_shows_in_its_own_conditions() {
    for (seen, ready, credentials, dns) in [
        (good(), "True/ReconcileSucceeded", "True/ReconcileSucceeded", "True/ReconcileSucceeded"),
        (no_token(true), "False/CredentialInvalid", "False/CredentialInvalid", "Unknown/CredentialInvalid"),
        (no_token(false), "False/AzureUnavailable", "Unknown/AzureUnavailable", "Unknown/AzureUnavailable"),
        (
            azure_says(401, "ExpiredAuthenticationToken"),
            "False/CredentialInvalid",
            "False/CredentialInvalid",
            "Unknown/CredentialInvalid",
        ),
        (
            azure_says(403, "AuthorizationFailed"),
            "False/Unauthorized",
            "True/ReconcileSucceeded",
            "False/Unauthorized",
        ),
        (
            azure_says(404, "ResourceNotFound"),
            "False/AzureResourceNotFound",
            "True/ReconcileSucceeded",
            "False/AzureResourceNotFound",
        ),
        (
            azure_says(429, "SubscriptionRequestsThrottled"),
            "False/AzureThrottled",
            "True/ReconcileSucceeded",
            "Unknown/AzureThrottled",
        ),
        (
            azure_says(503, ""),
            "False/AzureUnavailable",
            "True/ReconcileSucceeded",
            "Unknown/AzureUnavailable",
        ),
    ] {
        let status = step(&region(), &seen, 5_000);
        let of = |t: &str| {
            let found = status.conditions.iter().find(|c| c.type_ == t).unwrap();
            format!("{}/{}", found.status, found.reason)
        };
        assert_eq!([of("Ready"), of("CredentialsValid"), of("DNSZoneReady")], [ready, credentials, dns]);
        let stalled = status.conditions.iter().any(|c| c.type_ == "Stalled");
        assert!(!stalled, "all of these may pass by themselves");
    }
}

#[test]
fn a_good_region_stays_ready_and_keeps_what_it_knew_while_azure_is_away() {
    let mut region = region();
    let before = step(&region, &good(), 5_000);
    region.status = Some(before.clone());
    let elsewhere = azure_says(404, "SubscriptionNotFound");
    for seen in [azure_says(503, ""), azure_says(429, "TooManyRequests"), elsewhere, no_token(false)] {
        let status = step(&region, &seen, 6_000);
        assert!(summary(&status).starts_with("Ready=True/ReconcileSucceeded CertificateReady=True"));
        assert_eq!(status.dns, before.dns);
        assert!(status.conditions.iter().any(|c| c.type_ == "DNSZoneReady" && c.status == "Unknown"));
    }
    let elsewhere = step(&self::region(), &azure_says(404, "SubscriptionNotFound"), 6_000);
    assert!(summary(&elsewhere).starts_with("Ready=False/AzureResourceNotFound"), "{}", summary(&elsewhere));
    // A zone that is certainly gone is news.
    let gone = step(&region, &azure_says(404, "ResourceNotFound"), 6_000);
    assert!(summary(&gone).starts_with("Ready=False/AzureResourceNotFound"));
}

#[test]
fn a_certificate_for_another_zone_is_no_use() {
    let other = Certificate { dns_names: vec!["*.other.example".to_owned()], ..certificate() };
    let status = step(&region(), &seen(Observed::Present(Ok(other))), 5_000);
    assert!(summary(&status).starts_with("Ready=False/CertificateInvalid Stalled=True"));
    assert!(status.conditions[0].message.contains("must include *.octopus.example"));
}

#[test]
fn each_situation_has_its_conditions_and_names_the_field() {
    let cases = [
        (good(), 5_000, "Ready=True/ReconcileSucceeded CertificateReady=True/ReconcileSucceeded", ""),
        (
            seen(Observed::Absent),
            5_000,
            "Ready=False/ReferenceNotFound Reconciling=True/ProgressingWithRetry CertificateReady=False/ReferenceNotFound",
            "spec.tls.secretRef: Secret ns/tls does not exist",
        ),
        (
            forbidden(),
            5_000,
            "Ready=False/ReferenceForbidden Reconciling=True/ProgressingWithRetry CertificateReady=Unknown/ReferenceForbidden",
            "rbac.secretNamespaces",
        ),
        (
            seen(Observed::Unknown("timeout".into())),
            5_000,
            "Ready=False/ApiServerUnavailable Reconciling=True/ProgressingWithRetry CertificateReady=Unknown/ApiServerUnavailable",
            "timeout",
        ),
        (
            seen(Observed::Present(Err("key tls.key is missing".to_owned()))),
            5_000,
            "Ready=False/CertificateInvalid Stalled=True/CertificateInvalid CertificateReady=False/CertificateInvalid",
            "key tls.key is missing",
        ),
        (
            good(),
            100_000,
            "Ready=False/CertificateExpired Stalled=True/CertificateExpired CertificateReady=False/CertificateExpired",
            "ended 1970-01-02T03:46:40Z: renew it",
        ),
        (
            good(),
            999,
            "Ready=False/CertificateExpired Reconciling=True/ProgressingWithRetry CertificateReady=False/CertificateExpired",
            "begins 1970-01-01T00:16:40Z",
        ),
    ];
    for (seen, now, conditions, message) in cases {
        let status = step(&region(), &seen, now);
        assert_eq!(summary(&status), conditions);
        assert!(status.conditions[0].message.contains(message), "{}", status.conditions[0].message);
        assert_eq!(status.network.unwrap().max_reefs, 256);
    }
}

#[test]
fn a_spec_that_old_crds_let_through_is_stalled() {
    let mut region = region();
    region.spec.network.reef_prefix_length = 4;
    let status = step(&region, &good(), 5_000);
    assert!(summary(&status).starts_with("Ready=False/SpecInvalid Stalled=True/SpecInvalid"));
    assert_eq!(status.network, None);
}

#[test]
fn a_good_region_stays_good_while_the_secret_cannot_be_read() {
    let mut region = region();
    region.status = Some(step(&region, &good(), 5_000));
    let unknown = seen(Observed::Unknown("timeout".into()));
    let blind = step(&region, &unknown, 9_000);
    assert_eq!(
        summary(&blind),
        "Ready=True/ReconcileSucceeded CertificateReady=Unknown/ApiServerUnavailable"
    );
    assert_eq!(blind.certificate, region.status.clone().unwrap().certificate);
    let expired = step(&region, &unknown, 100_000);
    assert!(summary(&expired).starts_with("Ready=False/CertificateExpired Reconciling=True"));
    assert_eq!(expired.certificate, blind.certificate, "and it is not forgotten");
    // A new spec has not been seen good.
    region.metadata.generation = Some(2);
    assert!(summary(&step(&region, &unknown, 9_000)).starts_with("Ready=False/ApiServerUnavailable"));
}

#[test]
fn no_progress_within_the_deadline_is_a_stall_and_stays_one() {
    let mut region = region();
    region.status = Some(step(&region, &seen(Observed::Absent), 5_000));
    let before = step(&region, &seen(Observed::Absent), 5_000 + 1_799);
    assert!(summary(&before).contains("Reconciling=True"));
    let after = step(&region, &seen(Observed::Absent), 5_000 + 1_800);
    assert!(summary(&after).contains("Stalled=True/ReferenceNotFound"));
    region.status = Some(after.clone());
    assert_eq!(step(&region, &seen(Observed::Absent), 9_999), after);
    // It goes on by itself when the Secret comes.
    assert!(summary(&step(&region, &good(), 10_000)).starts_with("Ready=True"));
}

#[test]
fn the_next_look_is_when_something_can_change() {
    let look = |seen: &Observation, now| plan(&region(), seen, &POLICY, at(now)).look_again.as_secs();
    assert_eq!(look(&good(), 5_000), 600);
    assert_eq!(look(&good(), 99_900), 100);
    assert_eq!(look(&good(), 99_999), 5);
    assert_eq!(look(&good(), 700), 300);
    assert_eq!(look(&seen(Observed::Absent), 5_000), 30);
    assert_eq!(look(&seen(Observed::Unknown("".into())), 5_000), 10);
    assert_eq!(look(&seen(Observed::Present(Err(String::new()))), 5_000), 600);
}

#[test]
fn a_request_to_reconcile_is_answered_with_its_own_value() {
    let mut region = region();
    region.annotations_mut().insert(RECONCILE_REQUESTED_AT.to_owned(), "now".to_owned());
    assert_eq!(step(&region, &good(), 5_000).last_handled_reconcile_at.as_deref(), Some("now"));
    region.status = Some(step(&region, &good(), 5_000));
    region.annotations_mut().insert(RECONCILE_REQUESTED_AT.to_owned(), "again".to_owned());
    let unknown = seen(Observed::Unknown("".into()));
    assert_eq!(step(&region, &unknown, 6_000).last_handled_reconcile_at.as_deref(), Some("again"));
}

#[test]
fn only_changes_of_ready_and_its_reason_are_announced() {
    let (absent, ready) = (step(&region(), &seen(Observed::Absent), 5_000), step(&region(), &good(), 5_000));
    assert!(!transition(None, &absent).unwrap().ready);
    assert_eq!(transition(Some(&absent), &absent), None);
    assert!(transition(Some(&absent), &ready).unwrap().ready);
    let renewed = RegionStatus { last_handled_reconcile_at: Some("x".to_owned()), ..ready.clone() };
    assert_eq!(transition(Some(&ready), &renewed), None);
}

fn any_observation() -> impl Strategy<Value = Observation> {
    prop_oneof![
        Just(good()),
        Just(forbidden()),
        Just(azure_says(404, "ResourceNotFound")),
        Just(azure_says(503, "")),
        Just(no_token(true)),
        Just(seen(Observed::Absent)),
        ".*".prop_map(|why| seen(Observed::Unknown(why.into()))),
        "\\PC*\n.*".prop_map(|why| seen(Observed::Present(Err(why)))),
        Just(seen(Observed::Present(Err("broken".to_owned())))),
    ]
}

proptest! {
    /// Over any history: what Flux, Helm and Argo CD rely on, and silence when nothing changes.
    #[test]
    fn the_contract_with_kstatus_holds(history in prop::collection::vec((any_observation(), 0i64..200_000, 0i64..2), 1..12)) {
        let mut region = region();
        let mut now = 0;
        for (seen, later, edit) in history {
            now += later;
            region.metadata.generation = region.metadata.generation.map(|g| g + edit);
            let status = step(&region, &seen, now);
            let is = |t: &str| status.conditions.iter().any(|c| c.type_ == t && c.status == "True");
            prop_assert!(status.conditions.iter().any(|c| c.type_ == "Ready"));
            prop_assert!(!(is("Reconciling") && is("Stalled")));
            prop_assert_eq!(is("Ready"), !is("Reconciling") && !is("Stalled"));
            prop_assert_eq!(status.observed_generation, region.metadata.generation);
            for condition in &status.conditions {
                prop_assert!(condition.observed_generation <= status.observed_generation);
                prop_assert!(["Ready", "CertificateReady", "CredentialsValid", "DNSZoneReady"].contains(&condition.type_.as_str()) || condition.status == "True");
                prop_assert!(condition.message.lines().count() <= 1);
                prop_assert!(condition.last_transition_time.0 <= at(now));
            }
            region.status = Some(status.clone());
            prop_assert_eq!(step(&region, &seen, now), status);
        }
    }
}
