//! What Azure refuses, throttles, or begins and does not end.

use jiff::SignedDuration;
use serde_json::json;

use super::{
    row::{Heal, Row, Sees, nothing},
    world::{Object, Part, World, answer},
};

pub fn rows() -> Vec<Row> {
    vec![
        unauthorised(),
        role_that_still_spreads(),
        expired_token(),
        busy_server(),
        failure_after_a_good_answer(),
        unregistered_provider(),
        no_such_sku_here(),
        forbidden_by_policy(),
        away(),
        unseen(),
    ]
}

/// Rows that hold up a whole reef, or more: what Azure asks of one instance's calls counts for all calls of their kind.
pub fn alone() -> Vec<Row> {
    vec![throttled_until_a_time(), throttled_without_a_time()]
}

/// How long the writes of a part were apart.
fn pauses(world: &World, instance: &str, part: Part) -> Vec<SignedDuration> {
    let writes = world.writes(instance, part);
    writes.windows(2).map(|pair| pair[1].at.duration_since(pair[0].at)).collect()
}

fn taken(world: &World, instance: &str, part: Part) -> usize {
    world.writes(instance, part).iter().filter(|call| call.status < 300).count()
}

fn unauthorised() -> Row {
    Row {
        name: "the operator lacks the role to make identities",
        object: Object::Instance("unauthorised"),
        wrong: |w| {
            Box::pin(async move {
                let text = "The client does not have authorization to perform action 'Microsoft.ManagedIdentity/userAssignedIdentities/write'.";
                let fault =
                    json!({ "answer": { "status": 403, "code": "AuthorizationFailed", "message": text } });
                w.refuse("unauthorised", Part::Identity, None, &fault);
                w.instance("unauthorised", json!({})).await;
            })
        },
        sees: Sees {
            condition: ("IdentityReady", "False", "Unauthorized"),
            says: &["managed identity", "403 AuthorizationFailed", "userAssignedIdentities/write"],
            event: ("Unauthorized", &["managed identity"]),
        },
        never: |w| Box::pin(async move { assert!(w.made("unauthorised").is_empty(), "all else waits") }),
        heal: Heal::ThenReady(|w| {
            Box::pin(async move {
                w.sandbox.azure_healed_of("unauthorised");
                // Who gave the role asks for a try; by itself it would come later.
                w.look(Object::Instance("unauthorised")).await;
            })
        }),
    }
}

fn role_that_still_spreads() -> Row {
    Row {
        name: "a new role assignment is not in effect everywhere yet",
        object: Object::Instance("spreading"),
        wrong: |w| {
            Box::pin(async move {
                w.refuse("spreading", Part::Database, Some(2), &answer(403, "AuthorizationFailed"));
                w.instance("spreading", json!({})).await;
            })
        },
        sees: Sees {
            condition: ("DatabaseReady", "False", "Unauthorized"),
            says: &["database", "403 AuthorizationFailed"],
            event: ("Unauthorized", &["database"]),
        },
        never: nothing,
        heal: Heal::ByItself(|w| {
            Box::pin(async move {
                assert_eq!(w.writes("spreading", Part::Database).len(), 3);
                let pauses = pauses(w, "spreading", Part::Database);
                assert!(pauses.iter().all(|pause| pause.as_secs() >= 9), "{pauses:?}");
            })
        }),
    }
}

fn expired_token() -> Row {
    Row {
        name: "Azure says that the operator's token has expired",
        object: Object::Instance("expired"),
        wrong: |w| {
            Box::pin(async move {
                w.refuse("expired", Part::Share, Some(1), &answer(401, "ExpiredAuthenticationToken"));
                w.instance("expired", json!({})).await;
            })
        },
        sees: Sees {
            condition: ("FileShareReady", "False", "CredentialInvalid"),
            says: &["file share", "401 ExpiredAuthenticationToken"],
            event: ("CredentialInvalid", &["file share"]),
        },
        never: nothing,
        heal: Heal::ByItself(|w| {
            Box::pin(async move {
                assert_eq!(taken(w, "expired", Part::Share), 1);
                let pauses = pauses(w, "expired", Part::Share);
                assert!(pauses.len() == 1 && pauses[0].as_secs() >= 9, "it is not asked at once: {pauses:?}");
            })
        }),
    }
}

fn throttled_until_a_time() -> Row {
    Row {
        name: "Azure throttles and says until when",
        object: Object::Instance("throttled"),
        wrong: |w| {
            Box::pin(async move {
                let fault =
                    json!({ "answer": { "status": 429, "code": "TooManyRequests", "retryAfter": 17 } });
                w.refuse("throttled", Part::Identity, Some(1), &fault);
                w.instance("throttled", json!({})).await;
            })
        },
        sees: Sees {
            condition: ("IdentityReady", "False", "AzureThrottled"),
            says: &["managed identity", "429 TooManyRequests"],
            event: ("AzureThrottled", &["managed identity"]),
        },
        // A look that somebody asks for does not make it sooner.
        never: |w| Box::pin(async move { w.look(Object::Instance("throttled")).await }),
        heal: Heal::ByItself(|w| {
            Box::pin(async move {
                let pauses = pauses(w, "throttled", Part::Identity);
                assert!(pauses.len() == 1 && pauses[0].as_secs() >= 16, "{pauses:?}");
            })
        }),
    }
}

fn throttled_without_a_time() -> Row {
    Row {
        name: "Azure throttles and does not say until when",
        object: Object::Instance("throttled-more"),
        wrong: |w| {
            Box::pin(async move {
                w.refuse(
                    "throttled-more",
                    Part::Identity,
                    Some(1),
                    &answer(429, "SubscriptionRequestsThrottled"),
                );
                w.instance("throttled-more", json!({})).await;
            })
        },
        sees: Sees {
            condition: ("IdentityReady", "False", "AzureThrottled"),
            says: &["managed identity", "429 SubscriptionRequestsThrottled"],
            event: ("AzureThrottled", &["managed identity"]),
        },
        never: nothing,
        heal: Heal::ByItself(|w| {
            Box::pin(async move {
                let pauses = pauses(w, "throttled-more", Part::Identity);
                assert!(pauses.len() == 1 && pauses[0].as_secs() >= 9, "{pauses:?}");
            })
        }),
    }
}

fn busy_server() -> Row {
    Row {
        name: "the SQL server is busy with another operation",
        object: Object::Instance("busy"),
        wrong: |w| {
            Box::pin(async move {
                w.refuse("busy", Part::Database, Some(3), &answer(409, "ConflictingServerOperation"));
                w.instance("busy", json!({})).await;
            })
        },
        sees: Sees {
            condition: ("DatabaseReady", "False", "AzureConflict"),
            says: &["database", "409 ConflictingServerOperation"],
            event: ("AzureConflict", &["database"]),
        },
        never: nothing,
        heal: Heal::ByItself(|w| {
            Box::pin(async move {
                assert_eq!(
                    (w.writes("busy", Part::Database).len(), taken(w, "busy", Part::Database)),
                    (4, 1)
                );
                let pauses = pauses(w, "busy", Part::Database);
                assert!(pauses[0].as_secs() >= 1 && pauses[2] > pauses[0], "they grow: {pauses:?}");
            })
        }),
    }
}

fn failure_after_a_good_answer() -> Row {
    Row {
        name: "Azure accepts a database and fails at it later",
        object: Object::Instance("late"),
        wrong: |w| {
            Box::pin(async move {
                let fault = json!({ "failLate": { "code": "InternalServerError", "message": "An unexpected error occured." } });
                w.refuse("late", Part::Database, Some(1), &fault);
                w.instance("late", json!({})).await;
            })
        },
        sees: Sees {
            condition: ("DatabaseReady", "False", "AzureOperationFailed"),
            says: &["database", "the operation failed with InternalServerError", "An unexpected error"],
            event: ("AzureOperationFailed", &["database"]),
        },
        never: nothing,
        heal: Heal::ByItself(|w| {
            Box::pin(async move {
                assert_eq!(taken(w, "late", Part::Database), 2);
                let pauses = pauses(w, "late", Part::Database);
                assert!(pauses[0].as_secs() >= 1, "not at once: {pauses:?}");
            })
        }),
    }
}

fn unregistered_provider() -> Row {
    Row {
        name: "the subscription has not registered a resource provider",
        object: Object::Instance("unregistered"),
        wrong: |w| {
            Box::pin(async move {
                w.refuse(
                    "unregistered",
                    Part::Share,
                    Some(1),
                    &answer(409, "MissingSubscriptionRegistration"),
                );
                w.instance("unregistered", json!({})).await;
            })
        },
        sees: Sees {
            condition: ("FileShareReady", "False", "AzureConflict"),
            says: &["file share", "409 MissingSubscriptionRegistration"],
            event: ("AzureConflict", &["file share"]),
        },
        never: |w| {
            Box::pin(async move {
                assert!(
                    !w.calls("POST", "/providers/Microsoft.Storage/register").is_empty(),
                    "it is registered"
                );
            })
        },
        heal: Heal::ByItself(|w| {
            Box::pin(async move { assert_eq!(taken(w, "unregistered", Part::Share), 1) })
        }),
    }
}

fn no_such_sku_here() -> Row {
    Row {
        name: "the region does not offer the compute of a dedicated database",
        object: Object::Instance("no-sku"),
        wrong: |w| {
            Box::pin(async move {
                let text = "Provisioning of this service objective is restricted in this region.";
                let fault =
                    json!({ "answer": { "status": 400, "code": "ProvisioningDisabled", "message": text } });
                w.refuse("no-sku", Part::Database, None, &fault);
                let database = json!({ "tier": "Dedicated", "sku": "S3" });
                // On this reef and no other, so that it stays and waits.
                let place = json!({ "reefRef": { "name": "weu-1" } });
                w.instance("no-sku", json!({ "isolation": { "database": database }, "placement": place }))
                    .await;
            })
        },
        sees: Sees {
            condition: ("DatabaseReady", "False", "QuotaExceeded"),
            says: &["database", "400 ProvisioningDisabled", "restricted in this region"],
            event: ("QuotaExceeded", &["ProvisioningDisabled"]),
        },
        never: |w| {
            Box::pin(async move { assert_eq!(w.writes("no-sku", Part::Database).len(), 1, "it waits") })
        },
        heal: Heal::ThenReady(|w| {
            Box::pin(async move {
                w.sandbox.azure_healed_of("no-sku");
                w.look(Object::Instance("no-sku")).await;
            })
        }),
    }
}

fn forbidden_by_policy() -> Row {
    Row {
        name: "a policy of Azure forbids the credential of the identity",
        object: Object::Instance("forbidden"),
        wrong: |w| {
            Box::pin(async move {
                w.refuse("forbidden", Part::Credential, None, &answer(403, "RequestDisallowedByPolicy"));
                w.instance("forbidden", json!({})).await;
            })
        },
        sees: Sees {
            condition: ("IdentityReady", "False", "Unauthorized"),
            says: &["federated credential", "403 RequestDisallowedByPolicy"],
            event: ("Unauthorized", &["federated credential"]),
        },
        never: |w| Box::pin(async move { assert!(w.writes("forbidden", Part::Credential).len() <= 2) }),
        heal: Heal::ThenReady(|w| {
            Box::pin(async move {
                w.sandbox.azure_healed_of("forbidden");
                w.look(Object::Instance("forbidden")).await;
            })
        }),
    }
}

fn away() -> Row {
    Row {
        name: "storage is away for a while",
        object: Object::Instance("away"),
        wrong: |w| {
            Box::pin(async move {
                w.refuse("away", Part::Share, Some(3), &answer(503, "ServiceUnavailable"));
                w.instance("away", json!({})).await;
            })
        },
        sees: Sees {
            condition: ("FileShareReady", "False", "AzureUnavailable"),
            says: &["file share", "503 ServiceUnavailable"],
            event: ("AzureUnavailable", &["file share"]),
        },
        never: nothing,
        heal: Heal::ByItself(|w| {
            Box::pin(async move {
                assert_eq!(w.writes("away", Part::Share).len(), 4);
                assert_eq!(w.writes("away", Part::Database).len(), 1, "what is not concerned goes on once");
            })
        }),
    }
}

fn unseen() -> Row {
    Row {
        name: "one reef may not be asked whether the instance is there already",
        object: Object::Instance("unseen"),
        wrong: |w| {
            Box::pin(async move {
                let path = Part::Identity.path("unseen");
                let path = format!("*/resourceGroups/reef-sandbox-weu-2/{path}");
                let fault = answer(403, "AuthorizationFailed");
                let rule = json!({ "label": "unseen", "method": "GET", "path": path, "fault": fault });
                w.sandbox.azure_fault(&rule);
                w.instance("unseen", json!({})).await;
            })
        },
        sees: Sees {
            condition: ("Ready", "False", "Unauthorized"),
            says: &["whether the instance exists on Reef weu-2", "403 AuthorizationFailed"],
            event: ("Unauthorized", &["on Reef weu-2"]),
        },
        // A list would leave out what may not be seen, so it is no answer.
        never: |w| {
            Box::pin(async move {
                assert!(w.made("unseen").is_empty(), "it is made nowhere");
                assert!(w.status("unseen").await.placement.is_none());
            })
        },
        heal: Heal::ThenReady(|w| {
            Box::pin(async move {
                w.sandbox.azure_healed_of("unseen");
                w.look(Object::Instance("unseen")).await;
            })
        }),
    }
}
