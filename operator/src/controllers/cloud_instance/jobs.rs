//! Work of the reef's agent for an instance: one Job for each step and its inputs (pure).

use reef_crds::meta::{LABEL_FLEET, LABEL_INSTANCE, LABEL_REEF, OPERATOR};
use serde_json::{Value, json};

use super::{
    bodies::Inputs,
    manifests::{SERVER, Server, WEB_PORT, pod_name},
    names,
};
use crate::{
    agent::input::{self, Access, Configure, Drain, Input},
    azure::Cloud,
    cluster::keep::Manifest,
    controller::hash,
    controllers::reef::{
        bodies::{AGENT, NAMESPACE},
        manifests::AZURE_CA,
    },
};

/// Label of Jobs: which step it is.
pub const LABEL_STEP: &str = "cloud.octopus.com/step";
/// Label of Jobs: hash of the step's inputs.
pub const LABEL_INPUTS: &str = "cloud.octopus.com/inputs";

/// How long a finished Job stays for people to look at, seconds.
const KEPT_SECONDS: u32 = 3600;

/// Longest time of one try, seconds.
const DEADLINE_SECONDS: u32 = 300;

/// Where the agent's pod finds its input.
const INPUT_FOLDER: &str = "/var/run/reef-agent";

/// A step of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Gives the instance's identity access to its database.
    Access,
    /// Makes the settings of the cloud in the server.
    Configure,
    /// Has the server take no more tasks, or take them again.
    Drain,
}

impl Step {
    /// As in names and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Configure => "configure",
            Self::Drain => "drain",
        }
    }
}

/// A Job that is wanted.
#[derive(Clone, Debug)]
pub struct Work {
    /// Which step.
    pub step: Step,
    /// What it follows from.
    pub input: Input,
    /// Short hash of the input.
    pub inputs: String,
}

/// What the agent does for access to the database with this id of Azure's.
pub fn access(inputs: &Inputs, client_id: &str, database: Option<&str>) -> Work {
    let input = Input::Access(Access {
        server: inputs.sql_server.1.clone(),
        database: inputs.database(),
        user: names::identity(&inputs.hash),
        client_id: client_id.to_owned(),
        tenant: inputs.tenant.clone(),
        cloud: (inputs.cloud != Cloud::public()).then(|| input::Cloud {
            authority: inputs.cloud.authority.clone(),
            sql_audience: inputs.cloud.sql_audience.clone(),
        }),
    });
    work(Step::Access, input, database)
}

/// What the agent does for configuration; the settings are in the database with this id of Azure's. That it was done stands
/// at the namespace with this UID: for another one it is done again.
pub fn configure(server: &Server<'_>, database: Option<&str>, namespace: &str) -> Work {
    let inputs = server.inputs;
    let input = Input::Configure(Configure {
        url: format!("http://{SERVER}.{}.svc", inputs.namespace()),
        api_key: server.keys.api_key.clone(),
        version: server.version.to_owned(),
        server_uri: format!("https://{}", inputs.host()),
        task_cap: server.task_cap,
    });
    work(Step::Configure, input, Some(&format!("{} {namespace}", database.unwrap_or_default())))
}

/// What the agent does so that the server takes no more tasks, or takes them again, for its pod with this UID.
pub fn drain(server: &Server<'_>, pod: &str, drained: bool) -> Work {
    // Its own address, which it has even while it is not Ready.
    let url = format!("http://{}.{SERVER}-nodes.{}.svc:{WEB_PORT}", pod_name(), server.inputs.namespace());
    let input = Input::Drain(Drain {
        url,
        api_key: server.keys.api_key.clone(),
        node: pod_name(),
        pod: pod.to_owned(),
        drained,
    });
    work(Step::Drain, input, None)
}

/// A database that was made again is empty: what was done for the one before is to be done again.
fn work(step: Step, input: Input, database: Option<&str>) -> Work {
    let text = serde_json::to_string(&input).unwrap_or_default();
    Work { step, inputs: hash::hex(&["job", step.as_str(), &text, database.unwrap_or_default()], 10), input }
}

impl Work {
    /// Name of the Job of this try, counted from 1, and of its Secret.
    pub fn name(&self, inputs: &Inputs, attempt: u32) -> String {
        format!("{}-{}-{}-{attempt}", self.step.as_str(), inputs.hash, self.inputs)
    }

    /// Selects the Jobs of this instance.
    pub fn selector(inputs: &Inputs) -> String {
        format!("{LABEL_INSTANCE}={}", inputs.hash)
    }

    fn labels(&self, inputs: &Inputs) -> Value {
        json!({
            "app.kubernetes.io/managed-by": OPERATOR,
            "app.kubernetes.io/part-of": OPERATOR,
            "app.kubernetes.io/name": AGENT,
            "app.kubernetes.io/component": "agent",
            LABEL_FLEET: inputs.fleet, LABEL_REEF: inputs.reef, LABEL_INSTANCE: inputs.hash,
            LABEL_STEP: self.step.as_str(), LABEL_INPUTS: self.inputs,
        })
    }

    /// The Secret with the input. It belongs to its Job, once that is there, and goes with it.
    pub fn secret(&self, inputs: &Inputs, attempt: u32, job_uid: Option<&str>) -> Manifest {
        let name = self.name(inputs, attempt);
        let owner =
            job_uid.map(|uid| json!([{ "apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid }]));
        let text = serde_json::to_string(&self.input).unwrap_or_default();
        let mut object = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": true,
            "metadata": { "name": name, "namespace": NAMESPACE, "labels": self.labels(inputs) },
            "data": { "input.json": azure_core::base64::encode(text) },
        });
        if let Some(owner) = owner {
            object["metadata"]["ownerReferences"] = owner;
        }
        Manifest { plural: "secrets", object }
    }

    /// The Job.
    pub fn job(&self, inputs: &Inputs, attempt: u32, agent: &Agent<'_>) -> Manifest {
        let name = self.name(inputs, attempt);
        let labels = self.labels(inputs);
        let object = json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": { "name": name, "namespace": NAMESPACE, "labels": labels },
            "spec": {
                "backoffLimit": 0, "activeDeadlineSeconds": DEADLINE_SECONDS, "ttlSecondsAfterFinished": KEPT_SECONDS,
                "template": { "metadata": { "labels": labels }, "spec": pod(&name, agent) },
            },
        });
        Manifest { plural: "jobs", object }
    }
}

/// How the agent runs.
#[derive(Clone, Copy, Debug)]
pub struct Agent<'a> {
    /// Its image.
    pub image: &'a str,
    /// Client id of its identity.
    pub client_id: &'a str,
    /// Whether Azure's endpoints are trusted by an authority of their own.
    pub has_ca: bool,
}

fn pod(secret: &str, agent: &Agent<'_>) -> Value {
    let token = json!({ "serviceAccountToken": { "path": "azure-identity-token", "audience": "api://AzureADTokenExchange", "expirationSeconds": 3600 } });
    let mut volumes = vec![
        json!({ "name": "input", "secret": { "secretName": secret } }),
        json!({ "name": "azure-token", "projected": { "sources": [token] } }),
    ];
    let mut mounts = vec![
        json!({ "name": "input", "mountPath": INPUT_FOLDER, "readOnly": true }),
        json!({ "name": "azure-token", "mountPath": "/var/run/secrets/azure/tokens", "readOnly": true }),
    ];
    let input = format!("--input={INPUT_FOLDER}/input.json");
    let client = format!("--azure-client-id={}", agent.client_id);
    let mut args = vec!["agent".to_owned(), input, client];
    if agent.has_ca {
        volumes.push(json!({ "name": "azure-ca", "configMap": { "name": AZURE_CA } }));
        mounts.push(
            json!({ "name": "azure-ca", "mountPath": "/etc/reef-operator/azure-ca", "readOnly": true }),
        );
        args.push("--azure-ca-file=/etc/reef-operator/azure-ca/ca.crt".to_owned());
    }
    json!({
        "serviceAccountName": AGENT, "automountServiceAccountToken": false, "restartPolicy": "Never",
        "enableServiceLinks": false,
        "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
        "volumes": volumes,
        "containers": [{
            "name": "agent", "image": agent.image, "args": args, "volumeMounts": mounts,
            "resources": { "requests": { "cpu": "10m", "memory": "32Mi" }, "limits": { "cpu": "500m", "memory": "128Mi" } },
            "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
            },
        }],
    })
}
