//! How many calls ARM takes, and what it says of it.
//!
//! Token buckets of ARM for each principal and class of call, and limits of single resource providers. Numbers are those
//! that Azure documents (learn.microsoft.com: "Understand how Azure Resource Manager throttles requests", the limits of
//! the storage and network providers there, and "Quotas and regional limits" of AKS). Time is the cloud's own, so a cloud
//! that is faster than Azure takes more.

use std::collections::{HashMap, VecDeque};

use super::{Request, Response, id::Target, operations::retry_after};

/// What is left of all limits.
#[derive(Default)]
pub struct Throttle {
    buckets: HashMap<String, Bucket>,
    windows: HashMap<String, VecDeque<u64>>,
    /// Whether nothing is refused.
    pub is_off: bool,
}

struct Bucket {
    tokens: f64,
    at: u64,
}

/// Tokens at once, and tokens a second.
type Rate = (f64, f64);

/// Calls within so many milliseconds.
type Window = (usize, u64);

const MINUTES_5: u64 = 300_000;

/// What the header shows for a bucket that is full: more than what is documented for one caller.
const SHOWN: [(&str, u32); 3] = [("reads", 16_499), ("writes", 11_999), ("deletes", 11_999)];

impl Throttle {
    /// Counts a call; the refusal, if there were too many.
    pub fn take(&mut self, target: &Target, request: &Request, now: u64, scale: f64) -> Option<Response> {
        if self.is_off {
            return None;
        }
        let class = class(&request.method);
        let rate: Rate = if class == "reads" { (250.0, 25.0) } else { (200.0, 10.0) };
        let arm = (format!("{} {class}", request.principal), rate);
        if let Some(wait) = self.bucket(&arm.0, rate, now) {
            let code = "SubscriptionRequestsThrottled";
            let message = format!("Number of {class} exceeded the limit.");
            return Some(refusal(Response::gateway_error(429, code, message), wait, scale));
        }
        for (name, rate) in buckets(target, &request.method) {
            if let Some(wait) = self.bucket(&name, rate, now) {
                let body = serde_json::json!({ "code": "Throttled", "message": "Too many requests for this resource." });
                return Some(refusal(Response::json(429, body), wait, scale));
            }
        }
        for (name, (most, length)) in windows(target, class) {
            let taken = self.windows.entry(name).or_default();
            while taken.front().is_some_and(|at| at + length <= now) {
                taken.pop_front();
            }
            if taken.len() >= most {
                let wait = taken.front().map_or(0, |at| at + length - now);
                let answer = Response::error(429, "TooManyRequests", "Too many requests for this provider.");
                return Some(refusal(answer, wait, scale));
            }
            taken.push_back(now);
        }
        None
    }

    /// Milliseconds until the next token, if there is none.
    fn bucket(&mut self, name: &str, (burst, per_second): Rate, now: u64) -> Option<u64> {
        let bucket = self.buckets.entry(name.to_owned()).or_insert(Bucket { tokens: burst, at: now });
        let gone = std::time::Duration::from_millis(now.saturating_sub(bucket.at)).as_secs_f64();
        bucket.tokens = f64::min(bucket.tokens + gone * per_second, burst);
        bucket.at = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return None;
        }
        let seconds = (1.0 - bucket.tokens) / per_second;
        let wait = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default();
        Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
    }

    /// Adds to an answer how many calls are left. ARM's own 404s do not say.
    pub fn tell(&self, answer: Response, target: &Target, request: &Request) -> Response {
        if answer.status == 404 && answer.headers.iter().any(|(_, value)| value == "gateway") {
            return answer;
        }
        let class = class(&request.method);
        let burst = if class == "reads" { 250.0 } else { 200.0 };
        let left = self.buckets.get(&format!("{} {class}", request.principal)).map_or(burst, |b| b.tokens);
        let Some((_, full)) = SHOWN.iter().find(|(name, _)| *name == class) else { return answer };
        let shown = f64::from(*full) - (burst - left).floor();
        let name = match class {
            "reads" => "x-ms-ratelimit-remaining-subscription-global-reads",
            "writes" => "x-ms-ratelimit-remaining-subscription-global-writes",
            _ => "x-ms-ratelimit-remaining-subscription-global-deletes",
        };
        let answer = answer.header(name, format!("{shown:.0}"));
        let provider = target.provider.as_deref().unwrap_or_default();
        if provider.eq_ignore_ascii_case("Microsoft.Network") && target.kind().contains("/dnszones") {
            return answer.header("x-ms-ratelimit-remaining-subscription-resource-requests", "11999");
        }
        answer
    }
}

fn class(method: &str) -> &'static str {
    match method {
        "GET" | "HEAD" => "reads",
        "DELETE" => "deletes",
        _ => "writes",
    }
}

fn is(target: &Target, provider: &str) -> bool {
    target.provider.as_deref().is_some_and(|p| p.eq_ignore_ascii_case(provider))
}

/// Limits of AKS for each cluster.
fn buckets(target: &Target, method: &str) -> Vec<(String, Rate)> {
    let Some(cluster) = target.names.first().filter(|_| is(target, "Microsoft.ContainerService")) else {
        return Vec::new();
    };
    let name = |what: &str| format!("{what} {} {cluster}", target.scope).to_lowercase();
    match (method, target.kind().as_str()) {
        ("PUT", "microsoft.containerservice/managedclusters") => vec![(name("cluster"), (20.0, 1.0 / 60.0))],
        ("PUT", "microsoft.containerservice/managedclusters/agentpools") => {
            vec![(name("pools"), (20.0, 1.0 / 60.0))]
        }
        ("GET", "microsoft.containerservice/managedclusters") => vec![(name("read"), (60.0, 1.0))],
        _ => Vec::new(),
    }
}

/// Limits of the storage and network providers for the whole subscription.
fn windows(target: &Target, class: &str) -> Vec<(String, Window)> {
    let all: &[(&str, &str, Window)] = &[
        ("Microsoft.Storage", "writes", (1200, 3_600_000)),
        ("Microsoft.Storage", "writes", (10, 1000)),
        ("Microsoft.Storage", "reads", (800, MINUTES_5)),
        ("Microsoft.Network", "writes", (1000, MINUTES_5)),
        ("Microsoft.Network", "reads", (10_000, MINUTES_5)),
    ];
    let class = if class == "deletes" { "writes" } else { class };
    let mine = all.iter().filter(|(provider, of, _)| is(target, provider) && *of == class);
    let mut mine: Vec<_> =
        mine.map(|(provider, of, window)| (format!("{provider} {of} {}", window.1), *window)).collect();
    if is(target, "Microsoft.Storage") && class == "reads" && !target.is_resource() {
        mine.push(("Microsoft.Storage lists".to_owned(), (100, MINUTES_5)));
    }
    mine
}

fn refusal(answer: Response, wait: u64, scale: f64) -> Response {
    let seconds = u32::try_from(wait.div_ceil(1000)).unwrap_or(u32::MAX).max(1);
    answer.header("retry-after", retry_after(seconds, scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(throttle: &mut Throttle, method: &str, path: &str, now: u64) -> Option<Response> {
        let request = Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: std::collections::BTreeMap::new(),
            if_match: None,
            if_none_match: None,
            snapshot: None,
            body: None,
            principal: "p".to_owned(),
        };
        throttle.take(&Target::parse(path).unwrap(), &request, now, 1.0)
    }

    #[test]
    fn a_cluster_takes_twenty_puts_and_then_one_a_minute() {
        let mut throttle = Throttle::default();
        let cluster =
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/c";
        assert!((0..20).all(|_| call(&mut throttle, "PUT", cluster, 0).is_none()));
        let refused = call(&mut throttle, "PUT", cluster, 0).unwrap();
        assert_eq!((refused.status, refused.headers.last().unwrap().1.as_str()), (429, "60"));
        assert!(call(&mut throttle, "PUT", &cluster.replace("/c", "/d"), 0).is_none(), "another cluster");
        assert!(call(&mut throttle, "PUT", cluster, 60_000).is_none());
    }

    #[test]
    fn storage_counts_in_windows_and_arm_in_buckets() {
        let mut throttle = Throttle::default();
        let list = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/a/fileServices/default/shares";
        let refused = (0..101).filter_map(|n| call(&mut throttle, "GET", list, n)).count();
        assert_eq!(refused, 1);
        assert!(call(&mut throttle, "GET", list, 300_000).is_none());
        let group = "/subscriptions/s/resourceGroups/g";
        let refused = (0..300).filter_map(|_| call(&mut throttle, "DELETE", group, 400_000)).count();
        assert_eq!(refused, 100);
    }
}
