//! What a Region's state means and when to look again (pure).

use std::time::Duration;

use jiff::Timestamp;
use reef_crds::{
    Region,
    condition::Reason,
    network::{AddressPlan, AddressPlanError},
};

use super::{certificate::Certificate, observe::Observation};
use crate::{controller::Policy, observed::Observed};

/// Shortest pause before the next look.
const SHORTEST: Duration = Duration::from_secs(5);

/// The decisions about a Region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its address plan, or why there is none.
    pub addresses: Result<AddressPlan, AddressPlanError>,
    /// Its certificate, or what is wrong.
    pub certificate: Verdict,
    /// When to look again if nothing happens.
    pub look_again: Duration,
}

/// What is said about the certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It can be served.
    Good(Certificate),
    /// It cannot. `waiting` means that this may pass without an edit of the Region.
    Bad {
        /// Why.
        reason: Reason,
        /// In words, with what to do.
        message: String,
        /// Whether it may pass without a human at this object.
        waiting: bool,
        /// What was read, where something was.
        certificate: Option<Certificate>,
    },
    /// We could not find out.
    Unknown(String),
}

/// Decides.
pub fn plan(region: &Region, seen: &Observation, policy: &Policy, now: Timestamp) -> Plan {
    let network = &region.spec.network;
    let addresses =
        AddressPlan::new(&network.address_space, network.reef_prefix_length, network.subnet_prefix_length);
    let certificate = certificate(region, seen, now);
    let look_again = look_again(&certificate, policy, now);
    Plan { addresses, certificate, look_again }
}

fn certificate(region: &Region, seen: &Observation, now: Timestamp) -> Verdict {
    let reference = &region.spec.tls.secret_ref;
    let secret = format!("Secret {}/{}", reference.namespace, reference.name);
    let bad = |reason, message: String, waiting, certificate| Verdict::Bad {
        reason,
        message: format!("spec.tls.secretRef: {secret} {message}"),
        waiting,
        certificate,
    };
    match &seen.certificate {
        Observed::Absent => bad(
            Reason::ReferenceNotFound,
            "does not exist: create it or correct the reference".to_owned(),
            true,
            None,
        ),
        Observed::Unknown(_) if seen.forbidden => bad(
            Reason::ReferenceForbidden,
            "may not be read by the operator: add its namespace to the chart's rbac.secretNamespaces"
                .to_owned(),
            true,
            None,
        ),
        Observed::Unknown(why) => Verdict::Unknown(format!("{secret} could not be read: {why}")),
        Observed::Present(Err(why)) => {
            bad(Reason::CertificateInvalid, format!("is not usable: {why}"), false, None)
        }
        Observed::Present(Ok(found)) if now >= found.not_after => {
            let message = format!("holds a certificate that ended {}: renew it", found.not_after);
            bad(Reason::CertificateExpired, message, false, Some(found.clone()))
        }
        Observed::Present(Ok(found)) if now < found.not_before => {
            let message = format!("holds a certificate that begins {}", found.not_before);
            bad(Reason::CertificateExpired, message, true, Some(found.clone()))
        }
        Observed::Present(Ok(found)) => Verdict::Good(found.clone()),
    }
}

/// After the resync interval, or when the certificate begins or ends, whichever comes first. What waits
/// for something that is not watched is looked at more often.
fn look_again(verdict: &Verdict, policy: &Policy, now: Timestamp) -> Duration {
    let until = |at: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or(SHORTEST);
    let wish = match verdict {
        Verdict::Good(found) => until(found.not_after),
        Verdict::Bad { certificate: Some(found), waiting: true, .. } => until(found.not_before),
        Verdict::Bad { waiting: true, .. } => Duration::from_secs(30),
        Verdict::Bad { .. } => policy.resync,
        Verdict::Unknown(_) => Duration::from_secs(10),
    };
    wish.min(policy.resync).max(SHORTEST)
}
