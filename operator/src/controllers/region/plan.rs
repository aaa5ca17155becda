//! What a Region's state means and when to look again (pure).

use std::time::Duration;

use jiff::Timestamp;
use reef_crds::{
    Region,
    condition::Reason,
    network::{AddressPlan, AddressPlanError},
    region::CredentialType,
};

use super::{
    certificate::Certificate,
    observe::{Observation, Zone},
};
use crate::{
    azure::{ArmError, Class},
    controller::{Policy, trouble::Trouble},
    observed::Observed,
};

/// Shortest pause before the next look.
const SHORTEST: Duration = Duration::from_secs(5);

/// Pause while something that is not watched is waited for.
pub const WAITING: Duration = Duration::from_secs(30);

/// Pause while we could not look.
const BLIND: Duration = Duration::from_secs(10);

/// The decisions about a Region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its address plan, or why there is none.
    pub addresses: Result<AddressPlan, AddressPlanError>,
    /// Whether Entra knows us.
    pub credentials: Verdict<()>,
    /// Its DNS zone.
    pub zone: Verdict<Zone>,
    /// Its certificate.
    pub certificate: Verdict<Certificate>,
    /// When to look again if nothing happens.
    pub look_again: Duration,
}

/// What is said about one thing that a Region needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<T> {
    /// It is as it has to be.
    Good(T),
    /// It is not.
    Bad {
        /// What was read, where something was.
        found: Option<T>,
        /// Why, and what to do.
        trouble: Trouble,
        /// Whether it may pass without an edit of the Region.
        waiting: bool,
    },
    /// We could not find out.
    Unknown(Trouble),
}

fn trouble(reason: Reason, message: impl Into<String>) -> Trouble {
    Trouble { reason, message: message.into() }
}

/// Decides.
pub fn plan(region: &Region, seen: &Observation, policy: &Policy, now: Timestamp) -> Plan {
    let network = &region.spec.network;
    let addresses =
        AddressPlan::new(&network.address_space, network.reef_prefix_length, network.subnet_prefix_length);
    let (credentials, zone) = azure(region, seen);
    let certificate = certificate(region, seen, now);
    let blind = matches!(seen.certificate, Observed::Unknown(_)).then_some(BLIND);
    let pauses = [pause(&credentials), pause(&zone), pause(&certificate), blind, validity(&certificate, now)];
    let look_again = pauses.into_iter().flatten().fold(policy.resync, Duration::min).max(SHORTEST);
    Plan { addresses, credentials, zone, certificate, look_again }
}

/// One call tells about both: who we are and whether the zone is there.
fn azure(region: &Region, seen: &Observation) -> (Verdict<()>, Verdict<Zone>) {
    let error = match &seen.zone {
        Ok(zone) => return (Verdict::Good(()), Verdict::Good(zone.clone())),
        Err(error) => error,
    };
    let zone = format!("spec.dns.zoneId {}", region.spec.dns.zone_name());
    let bad = |reason, message: String| Verdict::Bad {
        found: None,
        trouble: trouble(reason, message),
        waiting: true,
    };
    let unknown = |reason: Reason| Verdict::Unknown(trouble(reason, format!("{zone}: {error}")));
    let unauthenticated = matches!(error, ArmError::NoToken { .. } | ArmError::Answer { status: 401, .. });
    match error.class() {
        Class::Auth if unauthenticated => {
            let hint = match region.spec.azure.credential.as_ref().map(|credential| credential.kind) {
                None | Some(CredentialType::WorkloadIdentity) => {
                    "check the federated credential of the identity"
                }
                Some(_) => "check spec.azure.credential",
            };
            let verdict = Verdict::Bad {
                found: None,
                trouble: trouble(Reason::CredentialInvalid, format!("spec.azure: {error}; {hint}")),
                waiting: true,
            };
            (verdict, unknown(Reason::CredentialInvalid))
        }
        Class::Auth => {
            (Verdict::Good(()), bad(Reason::Unauthorized, format!("{zone} may not be read: {error}")))
        }
        Class::Missing if error.is_absence() => {
            let message = format!("{zone} does not exist: create the zone or correct the id ({error})");
            (Verdict::Good(()), bad(Reason::AzureResourceNotFound, message))
        }
        // It stays as it was: the answer is not about the zone. And somebody may have mistyped it.
        Class::Missing if error.code() == "SubscriptionNotFound" => {
            let message = format!("{zone}: {error}; correct the subscription in it, if that is wrong");
            (Verdict::Good(()), Verdict::Unknown(trouble(Reason::AzureResourceNotFound, message)))
        }
        Class::Throttled => (Verdict::Good(()), unknown(Reason::AzureThrottled)),
        Class::Transient if unauthenticated || matches!(error, ArmError::NoAnswer(_)) => {
            let blind = trouble(Reason::AzureUnavailable, format!("spec.azure: {error}"));
            (Verdict::Unknown(blind), unknown(Reason::AzureUnavailable))
        }
        // A 404 that speaks of something else is no absence.
        Class::Transient
        | Class::Missing
        | Class::Conflict
        | Class::Capacity
        | Class::Invalid
        | Class::NameTaken
        | Class::Locked
        | Class::NotRegistered => (Verdict::Good(()), unknown(Reason::AzureUnavailable)),
    }
}

fn certificate(region: &Region, seen: &Observation, now: Timestamp) -> Verdict<Certificate> {
    let reference = &region.spec.tls.secret_ref;
    let secret = format!("Secret {}/{}", reference.namespace, reference.name);
    let bad = |reason, message: &str, waiting, found: Option<&Certificate>| Verdict::Bad {
        found: found.cloned(),
        trouble: trouble(reason, format!("spec.tls.secretRef: {secret} {message}")),
        waiting,
    };
    let found = match &seen.certificate {
        Observed::Present(Ok(found)) => found,
        Observed::Present(Err(why)) => {
            return bad(Reason::CertificateInvalid, &format!("is not usable: {why}"), false, None);
        }
        Observed::Absent => {
            let message = "does not exist: create it or correct the reference";
            return bad(Reason::ReferenceNotFound, message, true, None);
        }
        Observed::Unknown(_) if known(region).is_some_and(|c| now >= c.not_after) => {
            // That it cannot be read now does not make a certificate last longer.
            let message = "could not be read, and what it held has ended";
            return bad(Reason::CertificateExpired, message, true, known(region).as_ref());
        }
        Observed::Unknown(_) if seen.forbidden => {
            let message = format!(
                "spec.tls.secretRef: {secret} may not be read by the operator: add its namespace to the chart's rbac.secretNamespaces"
            );
            return Verdict::Unknown(trouble(Reason::ReferenceForbidden, message));
        }
        Observed::Unknown(why) => {
            let message = format!("{secret} could not be read: {why}");
            return Verdict::Unknown(trouble(Reason::ApiServerUnavailable, message));
        }
    };
    let wildcard = format!("*.{}", region.spec.dns.zone_name());
    if now >= found.not_after {
        let message = format!("holds a certificate that ended {}: renew it", found.not_after);
        return bad(Reason::CertificateExpired, &message, false, Some(found));
    }
    if now < found.not_before {
        let message = format!("holds a certificate that begins {}", found.not_before);
        return bad(Reason::CertificateExpired, &message, true, Some(found));
    }
    if !found.dns_names.iter().any(|name| name.eq_ignore_ascii_case(&wildcard)) {
        let names = found.dns_names.join(", ");
        let message = format!("holds a certificate for {names}, which must include {wildcard}");
        return bad(Reason::CertificateInvalid, &message, false, Some(found));
    }
    Verdict::Good(found.clone())
}

/// The certificate that was read last.
fn known(region: &Region) -> Option<Certificate> {
    let last = region.status.as_ref()?.certificate.as_ref()?;
    Some(Certificate {
        dns_names: last.dns_names.clone(),
        not_before: last.not_before.0,
        not_after: last.not_after.0,
        sha256: last.sha256.clone(),
    })
}

fn pause<T>(verdict: &Verdict<T>) -> Option<Duration> {
    match verdict {
        // Of what was found the time to look again is known.
        Verdict::Bad { waiting: true, found: None, .. } => Some(WAITING),
        Verdict::Unknown(_) => Some(BLIND),
        Verdict::Good(_) | Verdict::Bad { .. } => None,
    }
}

/// Until the certificate ends, or begins.
fn validity(verdict: &Verdict<Certificate>, now: Timestamp) -> Option<Duration> {
    let at = match verdict {
        Verdict::Good(found) => found.not_after,
        Verdict::Bad { found: Some(found), waiting: true, .. } => found.not_before,
        _ => return None,
    };
    Duration::try_from(at.duration_since(now)).ok()
}
