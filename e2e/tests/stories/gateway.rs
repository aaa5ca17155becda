//! Story: a reef's gateway carries what routes say to where policies let it.

use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use reef_e2e::{
    azure::SUBSCRIPTION,
    harness::{Sandbox, eventually, make_namespace, toolbox, toolbox_pod, until},
    pki::{Authority, Subject},
    probe::Answer,
};
use serde_json::{Value, json};

const CLUSTER: &str = "aks";
const GATEWAY_API: &str = "gateway.networking.k8s.io";
const HOST: &str = "a.reef.example";

struct Story {
    sandbox: Sandbox,
    client: Client,
    ca: String,
}

#[tokio::test]
async fn a_gateway_carries_what_routes_say() {
    let story = Story::begin().await;
    story.serves_what_is_routed().await;
    let before = story.shown("HTTPRoute", "one", "web").await.resource_version();
    story.lets_older_routes_win().await;
    story.refuses_what_may_not_attach().await;
    story.says_what_is_not_there().await;
    story.passes_tls_through().await;
    let after = story.shown("HTTPRoute", "one", "web").await.resource_version();
    assert_eq!(before, after, "a status is written only when it changes");
    story.obeys_policies().await;
    story.ends_with_its_gateway().await;
}

impl Story {
    /// An AKS cluster with a Gateway, and servers in two namespaces that may be routed to.
    async fn begin() -> Self {
        let arguments = ["--no-operator", "--reef-slots=1", "--time-scale=2000"];
        let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &arguments);
        let subscription = format!("/subscriptions/{SUBSCRIPTION}");
        let register = format!("{subscription}/providers/Microsoft.ContainerService/register");
        assert_eq!(sandbox.arm("POST", &register, None).0, 200);
        let group = format!("{subscription}/resourceGroups/reef");
        let (status, answer) = sandbox.arm("PUT", &group, Some(&json!({ "location": "westeurope" })));
        assert_eq!(status, 201, "{answer}");
        let pool = json!({ "name": "system", "mode": "System", "count": 1 });
        let cluster = json!({ "location": "westeurope", "properties": { "dnsPrefix": "reef", "agentPoolProfiles": [pool] } });
        let id = format!("{group}/providers/Microsoft.ContainerService/managedClusters/{CLUSTER}");
        let (status, answer) = sandbox.arm("PUT", &id, Some(&cluster));
        assert_eq!(status, 201, "{answer}");
        let kubeconfig = sandbox.folder().join(format!("reefs/{CLUSTER}.kubeconfig"));
        until("the cluster is there", || kubeconfig.is_file().then_some(()));
        let client = sandbox.reef_client(CLUSTER).await;
        let authority = Authority::new("the story's authority").unwrap();
        let subject = Subject { user: "gateway", group: None };
        let identity = authority.server(&subject, &["*.reef.example"]).unwrap();
        let story = Self { sandbox, client, ca: authority.cert() };
        make_namespace(&story.client, "system", &json!({})).await;
        make_namespace(&story.client, "guest", &json!({})).await;
        story
            .make(
                "v1",
                "Secret",
                "system",
                "tls",
                json!({
                    "type": "kubernetes.io/tls",
                    "stringData": { "tls.crt": identity.cert, "tls.key": identity.key },
                }),
            )
            .await;
        let from = json!({ "namespaces": { "from": "Selector", "selector": { "matchLabels": { "fleet": "test" } } } });
        let spec = json!({ "gatewayClassName": "approuting-istio", "listeners": [
            { "name": "https", "port": 443, "protocol": "HTTPS", "hostname": "*.reef.example",
              "tls": { "certificateRefs": [{ "name": "tls" }] }, "allowedRoutes": from },
            { "name": "polling", "port": 10943, "protocol": "TLS", "hostname": "*.reef.example",
              "tls": { "mode": "Passthrough" }, "allowedRoutes": from },
        ] });
        story.make_routing("Gateway", "system", "reef", spec).await;
        for namespace in ["one", "two"] {
            make_namespace(&story.client, namespace, &json!({ "fleet": "test" })).await;
            story.serve(namespace, "web", &["echo", "8080"]).await;
        }
        story
    }

    async fn serves_what_is_routed(&self) {
        // Only the gateway's pods get in.
        let policy = |ingress: Value| json!({ "spec": { "podSelector": {}, "policyTypes": ["Ingress"], "ingress": ingress } });
        let (api, kind) = ("networking.k8s.io/v1", "NetworkPolicy");
        self.make(api, kind, "one", "deny", policy(json!([]))).await;
        let gateway = json!({
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "system" } },
            "podSelector": { "matchLabels": { "gateway.networking.k8s.io/gateway-name": "reef" } },
        });
        let allow = json!([{ "from": [gateway], "ports": [{ "port": "web" }] }]);
        self.make(api, kind, "one", "gateway", policy(allow)).await;
        assert_eq!(self.get(HOST, "/").await.status, 404, "nothing is routed yet");
        self.make_routing("HTTPRoute", "one", "web", route(HOST, "https", "web")).await;
        let answer = self.answers(HOST, "/x/y?z=1", 200).await;
        let text = answer.text();
        assert!(text.starts_with("GET /x/y?z=1 at web-one\n"), "{text}");
        for header in ["host: a.reef.example", "x-forwarded-host: a.reef.example", "x-forwarded-proto: https"]
        {
            assert!(text.lines().any(|line| line == header), "{header}: {text}");
        }

        // Bodies go through whole, both ways.
        let body = vec![b'x'; 1 << 20];
        let call = self.sandbox.https(CLUSTER, HOST, &self.ca).unwrap();
        let answer = call.exchange("PUT", "/large", &[("X-Forwarded-Proto", "http")], &body).unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.body.ends_with(&body) && answer.body.len() < body.len() + 1024);
        assert!(!answer.text().contains("x-forwarded-proto: http\n"), "a caller cannot say how it came");

        let (log, _) = toolbox(&self.client, "two", "neighbour", &["fetch", "http://web.one.svc/"]).await;
        assert!(log.starts_with("HTTP/1.1 403"), "{log}");
        self.route_says("HTTPRoute", "one", "web", ["Accepted", "ResolvedRefs"]).await;
        eventually("the listener counts the route", || async {
            let gateway = self.shown("Gateway", "system", "reef").await;
            let status = &gateway.data["status"];
            let programmed = status["conditions"].as_array()?.iter().find(|c| c["type"] == "Programmed")?;
            let counts = [0, 1].map(|at| status["listeners"][at]["attachedRoutes"].as_u64());
            (programmed["status"] == "True" && counts == [Some(1), Some(0)]).then_some(())
        })
        .await;
    }

    async fn lets_older_routes_win(&self) {
        self.make_routing("HTTPRoute", "two", "web", route(HOST, "https", "web")).await;
        self.make_routing("HTTPRoute", "two", "wild", route("*.reef.example", "https", "web")).await;
        let mut deep = route(HOST, "https", "web");
        deep["rules"][0]["matches"] = json!([{ "path": { "type": "PathPrefix", "value": "/two" } }]);
        self.make_routing("HTTPRoute", "two", "deep", deep).await;
        for name in ["web", "wild", "deep"] {
            self.route_says("HTTPRoute", "two", name, ["Accepted", "ResolvedRefs"]).await;
        }
        for (host, path, namespace) in
            [(HOST, "/", "one"), (HOST, "/two/x", "two"), ("b.reef.example", "/", "two")]
        {
            let text = self.answers(host, path, 200).await.text();
            assert!(text.starts_with(&format!("GET {path} at web-{namespace}\n")), "{host}{path}: {text}");
        }
        for name in ["web", "wild", "deep"] {
            self.remove("HTTPRoute", "two", name).await;
        }
        self.answers("b.reef.example", "/", 404).await;
    }

    async fn refuses_what_may_not_attach(&self) {
        for (namespace, host, section, reason) in [
            ("guest", "guest.reef.example", "https", "NotAllowedByListeners"),
            ("two", "other.example", "https", "NoMatchingListenerHostname"),
            ("two", "lost.reef.example", "absent", "NoMatchingParent"),
            ("two", "wrong.reef.example", "polling", "NotAllowedByListeners"),
        ] {
            self.make_routing("HTTPRoute", namespace, "refused", route(host, section, "web")).await;
            self.route_says("HTTPRoute", namespace, "refused", [reason, ""]).await;
            self.remove("HTTPRoute", namespace, "refused").await;
        }
        assert_eq!(self.get("guest.reef.example", "/").await.status, 404);
    }

    async fn says_what_is_not_there(&self) {
        self.make_routing("HTTPRoute", "two", "absent", route("absent.reef.example", "https", "absent"))
            .await;
        self.answers("absent.reef.example", "/", 500).await;
        self.route_says("HTTPRoute", "two", "absent", ["Accepted", "BackendNotFound"]).await;
        // A Service whose pods are not there.
        let service = json!({ "spec": { "selector": { "app": "nobody" }, "ports": [{ "port": 80 }] } });
        self.make("v1", "Service", "two", "absent", service).await;
        self.answers("absent.reef.example", "/", 503).await;
        self.route_says("HTTPRoute", "two", "absent", ["Accepted", "ResolvedRefs"]).await;
    }

    async fn passes_tls_through(&self) {
        self.serve("two", "greeter", &["greet", "8443"]).await;
        assert_eq!(self.sandbox.polling(CLUSTER, HOST), None, "nothing is routed yet");
        self.make_routing("TLSRoute", "two", "polling", route("t.reef.example", "polling", "greeter")).await;
        let words = until("the server greets", || self.sandbox.polling(CLUSTER, "t.reef.example"));
        assert_eq!(String::from_utf8_lossy(&words), "greeter-two");
        assert_eq!(self.sandbox.polling(CLUSTER, "u.reef.example"), None);
        self.route_says("TLSRoute", "two", "polling", ["Accepted", "ResolvedRefs"]).await;
    }

    async fn obeys_policies(&self) {
        self.answers(HOST, "/", 200).await;
        let api = self.api("networking.k8s.io/v1", "NetworkPolicy", "one");
        api.delete("gateway", &DeleteParams::default()).await.unwrap();
        self.answers(HOST, "/", 503).await;
        let log = std::fs::read_to_string(self.sandbox.folder().join("logs/sandbox.log")).unwrap();
        let refused = |line: &str| line.contains(HOST) && line.contains("refused by the network policies");
        assert!(log.lines().any(refused), "the log says why");
    }

    async fn ends_with_its_gateway(&self) {
        self.remove("Gateway", "system", "reef").await;
        until("its ports close", || self.sandbox.https(CLUSTER, HOST, &self.ca).is_none().then_some(()));
    }

    fn api(&self, version: &str, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    async fn make(&self, version: &str, kind: &str, namespace: &str, name: &str, mut object: Value) {
        object["metadata"]["name"] = json!(name);
        object["apiVersion"] = json!(version);
        object["kind"] = json!(kind);
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let api = self.api(version, kind, namespace);
        // The Gateway API is served a moment after the cluster is there.
        eventually(&format!("{kind} {name} is made"), || async {
            match api.create(&PostParams::default(), &object).await {
                Ok(_) => Some(()),
                Err(kube::Error::Api(status)) if status.code == 404 => None,
                Err(error) => panic!("{kind} {name}: {error}"),
            }
        })
        .await;
    }

    async fn make_routing(&self, kind: &str, namespace: &str, name: &str, spec: Value) {
        self.make(&format!("{GATEWAY_API}/v1"), kind, namespace, name, json!({ "spec": spec })).await;
    }

    async fn shown(&self, kind: &str, namespace: &str, name: &str) -> DynamicObject {
        self.api(&format!("{GATEWAY_API}/v1"), kind, namespace).get(name).await.unwrap()
    }

    async fn remove(&self, kind: &str, namespace: &str, name: &str) {
        let api = self.api(&format!("{GATEWAY_API}/v1"), kind, namespace);
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// A pod of the toolbox, named after its namespace too, with a Service on port 80.
    async fn serve(&self, namespace: &str, name: &str, arguments: &[&str]) {
        let pod_name = format!("{name}-{namespace}");
        let mut pod = serde_json::to_value(toolbox_pod(&pod_name, arguments, &json!({}))).unwrap();
        let port: u16 = arguments[1].parse().unwrap();
        pod["spec"]["containers"][0]["ports"] = json!([{ "name": "web", "containerPort": port }]);
        pod["spec"]["containers"][0]["readinessProbe"] =
            json!({ "tcpSocket": { "port": "web" }, "periodSeconds": 1 });
        self.make("v1", "Pod", namespace, &pod_name, pod).await;
        let ports = json!([{ "port": 80, "targetPort": "web" }]);
        let service = json!({ "spec": { "selector": { "app": pod_name }, "ports": ports } });
        self.make("v1", "Service", namespace, name, service).await;
    }

    /// What the gateway answers, once it answers.
    async fn get(&self, host: &str, path: &str) -> Answer {
        eventually("the gateway answers", || async {
            self.sandbox.https(CLUSTER, host, &self.ca)?.exchange("GET", path, &[], &[]).ok()
        })
        .await
    }

    /// Waits for an answer of this status.
    async fn answers(&self, host: &str, path: &str, status: u16) -> Answer {
        eventually(&format!("{host}{path} answers {status}"), || async {
            Some(self.get(host, path).await).filter(|answer| answer.status == status)
        })
        .await
    }

    /// Waits until a route has these reasons of Accepted and ResolvedRefs in its generation; an empty one is
    /// any.
    async fn route_says(&self, kind: &str, namespace: &str, name: &str, reasons: [&str; 2]) {
        eventually(&format!("{kind} {namespace}/{name} says {reasons:?}"), || async {
            let route = self.shown(kind, namespace, name).await;
            let parents = route.data["status"]["parents"].as_array()?.clone();
            let [parent] = parents.as_slice() else { return None };
            assert_eq!(parent["controllerName"], "istio.io/gateway-controller");
            assert_eq!(parent["parentRef"], route.data["spec"]["parentRefs"][0]);
            let conditions = parent["conditions"].as_array()?;
            let holds = ["Accepted", "ResolvedRefs"].iter().zip(reasons).all(|(type_, reason)| {
                conditions.iter().any(|c| {
                    c["type"] == *type_
                        && c["observedGeneration"].as_i64() == route.metadata.generation
                        && (reason.is_empty() || c["reason"] == reason)
                        && (reason.is_empty() || (c["status"] == "True") == (reason == *type_))
                })
            });
            holds.then_some(())
        })
        .await;
    }
}

/// A route of all paths of a host to a Service.
fn route(host: &str, section: &str, service: &str) -> Value {
    json!({
        "parentRefs": [{ "namespace": "system", "name": "reef", "sectionName": section }],
        "hostnames": [host],
        "rules": [{ "backendRefs": [{ "name": service, "port": 80 }] }],
    })
}
