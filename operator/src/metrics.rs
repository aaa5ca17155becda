//! Metrics. Names of the first group are those of controller-runtime, so that existing dashboards work.

use std::{
    fmt,
    sync::atomic::{AtomicI64, AtomicU64},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

/// Label of metrics that each controller has.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByController {
    /// Name of the controller, for example `region`.
    pub controller: &'static str,
}

/// Labels of the count of reconciles.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByResult {
    /// Name of the controller.
    pub controller: &'static str,
    /// `success` or `error`.
    pub result: &'static str,
}

/// Labels of the count of writes to API servers.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByOutcome {
    /// Resource, for example `regions/status`.
    pub resource: &'static str,
    /// `changed`, or `skipped` where nothing differed and nothing was sent.
    pub outcome: &'static str,
}

/// Label of metrics of a region.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByRegion {
    /// Name of the Region.
    pub region: String,
}

/// Labels of an emergency stop.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByStop {
    /// Name of the Region.
    pub region: String,
    /// What is stopped, for example `Delete`.
    pub verb: &'static str,
}

/// Labels of metrics of a single object.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByObject {
    /// Kind, for example `Reef`.
    pub kind: String,
    /// Namespace; empty for objects without one.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// Labels of the count of calls to Azure.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByCall {
    /// Resource provider, for example `Microsoft.Network`.
    pub service: String,
    /// HTTP method.
    pub method: String,
    /// HTTP status; 0 where there was no answer.
    pub code: u16,
}

/// Label of metrics of a class of calls to Azure.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByClass {
    /// `reads`, `writes` or `deletes`.
    pub class: &'static str,
}

/// Label of metrics of an Azure service.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByService {
    /// Resource provider.
    pub service: String,
}

/// Label of metrics of a reef's cell; `region/<name>` for what is of a region as a whole.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByReef {
    /// Name of the Reef.
    pub reef: String,
}

/// Labels of metrics of what a reef depends on.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByCell {
    /// Name of the Reef.
    pub reef: String,
    /// A resource provider of Azure, or `cluster`.
    pub service: String,
}

/// Labels of the count of requests to API servers.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByRequest {
    /// `management`, or the name of a Reef.
    pub host: String,
    /// HTTP method.
    pub method: String,
    /// HTTP status; 0 where there was no answer.
    pub code: u16,
}

/// All metrics of the operator.
pub struct Metrics {
    registry: Registry,
    /// Whether this replica leads: 1 or 0.
    pub leader: Gauge<i64, AtomicI64>,
    /// Reconciles by how they ended.
    pub reconciles: Family<ByResult, Counter>,
    /// Reconciles that failed.
    pub reconcile_errors: Family<ByController, Counter>,
    /// How long reconciles take.
    pub reconcile_seconds: Family<ByController, Histogram>,
    /// Reconciles that run now.
    pub active_workers: Family<ByController, Gauge>,
    /// Bound of the reconciles that run at once.
    pub max_concurrent: Family<ByController, Gauge>,
    /// Writes to API servers, done and saved.
    pub writes: Family<ByOutcome, Counter>,
    /// Failures of watches.
    pub watch_errors: Family<ByController, Counter>,
    /// Looks at objects that could not be read.
    pub unreadable: Family<ByController, Counter>,
    /// Calls to Azure.
    pub azure_requests: Family<ByCall, Counter>,
    /// How long calls to Azure take.
    pub azure_request_seconds: Family<ByService, Histogram>,
    /// When the certificate of a region ends, seconds since 1970.
    pub certificate_not_after: Family<ByRegion, Gauge<f64, AtomicU64>>,
    /// Requests to API servers.
    pub requests: Family<ByRequest, Counter>,
    /// Whether the breaker of a reef's service is open: 1 or 0.
    pub breaker_open: Family<ByCell, Gauge>,
    /// Looks that wait for another of their reef to end.
    pub cell_waiting: Family<ByReef, Gauge>,
    /// Time that calls to Azure waited for their turn, by reef.
    pub azure_waited_seconds: Family<ByReef, Histogram>,
    /// Calls that Azure said are left.
    pub azure_calls_left: Family<ByClass, Gauge>,
    /// 1 for each emergency stop that is in force.
    pub emergency_stop: Family<ByStop, Gauge>,
    /// Since when an object is paused, seconds since 1970.
    pub paused_since: Family<ByObject, Gauge<f64, AtomicU64>>,
}

impl Metrics {
    /// Registers all metrics.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("reef_operator_build", "Version of the operator", build);
        registry.register_collector(Box::new(Process));
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let metrics = Self {
            leader: Gauge::default(),
            reconciles: Family::default(),
            reconcile_errors: Family::default(),
            reconcile_seconds: Family::new_with_constructor(seconds),
            active_workers: Family::default(),
            max_concurrent: Family::default(),
            writes: Family::default(),
            watch_errors: Family::default(),
            unreadable: Family::default(),
            azure_requests: Family::default(),
            azure_request_seconds: Family::new_with_constructor(seconds),
            certificate_not_after: Family::default(),
            requests: Family::default(),
            breaker_open: Family::default(),
            cell_waiting: Family::default(),
            azure_waited_seconds: Family::new_with_constructor(seconds),
            azure_calls_left: Family::default(),
            emergency_stop: Family::default(),
            paused_since: Family::default(),
            registry,
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let r = &mut self.registry;
        r.register("reef_operator_leader", "1 if this replica leads", self.leader.clone());
        r.register(
            "controller_runtime_reconcile",
            "Reconciles by controller and result",
            self.reconciles.clone(),
        );
        r.register(
            "controller_runtime_reconcile_errors",
            "Reconciles that failed",
            self.reconcile_errors.clone(),
        );
        r.register_with_unit(
            "controller_runtime_reconcile_time",
            "Time of a reconcile",
            Unit::Seconds,
            self.reconcile_seconds.clone(),
        );
        r.register(
            "controller_runtime_active_workers",
            "Reconciles that run now",
            self.active_workers.clone(),
        );
        r.register(
            "controller_runtime_max_concurrent_reconciles",
            "Bound of the reconciles that run at once, of instances for each reef",
            self.max_concurrent.clone(),
        );
        r.register(
            "reef_operator_apiserver_writes",
            "Writes to API servers, done (changed) and saved because nothing differed (skipped)",
            self.writes.clone(),
        );
        let unreadable = "Looks at objects that could not be read: another schema let them in";
        r.register("reef_operator_unreadable_objects", unreadable, self.unreadable.clone());
        let broken = "Watches that could not be started or broke";
        r.register("reef_operator_watch_errors", broken, self.watch_errors.clone());
        r.register(
            "reef_operator_azure_requests",
            "Calls to Azure by resource provider, method and HTTP status (0: no answer)",
            self.azure_requests.clone(),
        );
        r.register_with_unit(
            "reef_operator_azure_request_duration",
            "Time of a call to Azure",
            Unit::Seconds,
            self.azure_request_seconds.clone(),
        );
        self.with_cells_and_regions()
    }

    fn with_cells_and_regions(mut self) -> Self {
        let r = &mut self.registry;
        r.register_with_unit(
            "reef_operator_region_certificate_not_after",
            "End of the certificate of a region, since 1970",
            Unit::Seconds,
            self.certificate_not_after.clone(),
        );
        r.register(
            "rest_client_requests",
            "Requests to API servers by server, method and HTTP status (0: no answer)",
            self.requests.clone(),
        );
        r.register(
            "reef_operator_breaker_open",
            "1 while calls to a service of a reef are held back because it does not answer",
            self.breaker_open.clone(),
        );
        r.register(
            "reef_operator_reef_waiting",
            "Objects of a reef whose look waits until another look of that reef has ended",
            self.cell_waiting.clone(),
        );
        r.register_with_unit(
            "reef_operator_azure_request_wait",
            "Time that calls to Azure were held back to keep to Azure's rates",
            Unit::Seconds,
            self.azure_waited_seconds.clone(),
        );
        self.registry.register(
            "reef_operator_azure_calls_left",
            "Calls of a class that Azure Resource Manager said are left, when it last said so",
            self.azure_calls_left.clone(),
        );
        self.register_stops();
        self
    }

    fn register_stops(&mut self) {
        self.registry.register(
            "reef_operator_emergency_stop",
            "1 for each emergency stop of a Region that is in force",
            self.emergency_stop.clone(),
        );
        self.registry.register_with_unit(
            "reef_operator_paused_since",
            "Begin of the pause of an object that is paused, since 1970",
            Unit::Seconds,
            self.paused_since.clone(),
        );
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        prometheus_client::encoding::text::encode(&mut out, &self.registry)?;
        Ok(out)
    }

    /// Counts a call to Azure.
    pub fn azure_called(&self, by: &ByCall, took: Duration) {
        let service = ByService { service: by.service.clone() };
        self.azure_request_seconds.get_or_create(&service).observe(took.as_secs_f64());
        self.azure_requests.get_or_create(by).inc();
    }

    /// Counts a reconcile that has ended.
    pub fn reconciled(&self, controller: &'static str, result: &'static str, took: Duration) {
        self.reconciles.get_or_create(&ByResult { controller, result }).inc();
        if result == "error" {
            self.reconcile_errors.get_or_create(&ByController { controller }).inc();
        }
        self.reconcile_seconds.get_or_create(&ByController { controller }).observe(took.as_secs_f64());
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Memory of this process, read when asked.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if let Some(seconds) = cpu_seconds() {
            let counter = ConstCounter::new(seconds);
            let help = "Time of the processors that this process used";
            let metric = encoder.encode_descriptor(
                "process_cpu",
                help,
                Some(&Unit::Seconds),
                counter.metric_type(),
            )?;
            counter.encode(metric)?;
        }
        let Some(bytes) = resident_bytes() else { return Ok(()) };
        let gauge = ConstGauge::new(bytes);
        let help = "Resident memory of the process";
        let metric = encoder.encode_descriptor(
            "process_resident_memory",
            help,
            Some(&Unit::Bytes),
            gauge.metric_type(),
        )?;
        gauge.encode(metric)
    }
}

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name before may hold anything; what follows begins with the state. Linux counts in hundredths of a second.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / 100.0)
}

fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_shows_under_the_name_that_dashboards_use() {
        let metrics = Metrics::new();
        let region = ByController { controller: "region" };
        metrics.reconciled("region", "error", Duration::from_millis(3));
        metrics.active_workers.get_or_create(&region).set(1);
        metrics.max_concurrent.get_or_create(&region).set(16);
        metrics.writes.get_or_create(&ByOutcome { resource: "regions/status", outcome: "skipped" }).inc();
        metrics.certificate_not_after.get_or_create(&ByRegion { region: "w".to_owned() }).set(5.0);
        metrics.emergency_stop.get_or_create(&ByStop { region: "w".to_owned(), verb: "Delete" }).set(1);
        let reef = ByObject { kind: "Reef".to_owned(), namespace: String::new(), name: "r".to_owned() };
        metrics.paused_since.get_or_create(&reef).set(7.0);
        let call = ByCall { service: "Microsoft.Network".to_owned(), method: "GET".to_owned(), code: 200 };
        metrics.watch_errors.get_or_create(&region).inc();
        metrics.azure_called(&call, Duration::from_millis(3));
        let text = metrics.render().unwrap();
        for line in [
            "reef_operator_build_info{version=\"0.1.0\"} 1",
            "reef_operator_leader 0",
            "controller_runtime_reconcile_total{controller=\"region\",result=\"error\"} 1",
            "controller_runtime_reconcile_errors_total{controller=\"region\"} 1",
            "controller_runtime_reconcile_time_seconds_count{controller=\"region\"} 1",
            "controller_runtime_active_workers{controller=\"region\"} 1",
            "controller_runtime_max_concurrent_reconciles{controller=\"region\"} 16",
            "reef_operator_apiserver_writes_total{resource=\"regions/status\",outcome=\"skipped\"} 1",
            "reef_operator_watch_errors_total{controller=\"region\"} 1",
            "reef_operator_azure_requests_total{service=\"Microsoft.Network\",method=\"GET\",code=\"200\"} 1",
            "reef_operator_azure_request_duration_seconds_count{service=\"Microsoft.Network\"} 1",
            "reef_operator_region_certificate_not_after_seconds{region=\"w\"} 5.0",
            "reef_operator_emergency_stop{region=\"w\",verb=\"Delete\"} 1",
            "reef_operator_paused_since_seconds{kind=\"Reef\",namespace=\"\",name=\"r\"} 7.0",
            "process_resident_memory_bytes ",
            "process_cpu_seconds_total ",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
