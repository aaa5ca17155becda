//! What a run makes in Azure and what that costs, by Azure's public list of retail prices
//! (<https://learn.microsoft.com/rest/api/cost-management/retail-prices/azure-retail-prices>).

use std::fmt::{self, Write};

use serde::Deserialize;

use super::settings::Settings;

/// How long a run takes, hours: longer than what was seen of each of its steps.
pub const HOURS: f64 = 2.5;

/// Most pages of prices that are read for one thing.
const PAGES: usize = 10;

/// Nodes that are there at least.
pub const NODES: u8 = 2;

/// Size of the elastic pool, eDTU: the smallest.
pub const EDTU: u16 = 50;

/// One thing that is paid for by the hour.
struct Item {
    what: String,
    count: u8,
    /// Its service in the list.
    service: &'static str,
    /// Each of these has to be so.
    is: Vec<(&'static str, String)>,
}

/// A price in the list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Price {
    arm_region_name: String,
    product_name: String,
    sku_name: String,
    meter_name: String,
    unit_of_measure: String,
    retail_price: f64,
    tier_minimum_units: f64,
    #[serde(rename = "type")]
    kind: String,
    currency_code: String,
}

#[derive(Deserialize)]
struct Page {
    #[serde(rename = "Items")]
    items: Vec<Price>,
    #[serde(rename = "NextPageLink")]
    next: Option<String>,
}

/// What a run costs.
pub struct Bill {
    lines: Vec<Line>,
}

struct Line {
    what: String,
    count: u8,
    /// An hour of one, with its currency; or why that is not known.
    hourly: Result<(f64, String), String>,
}

fn items(settings: &Settings) -> Vec<Item> {
    let item = |what: &str, count, service, is: &[(&'static str, &str)]| Item {
        what: what.to_owned(),
        count,
        service,
        is: is.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
    };
    let size = settings.vm_size.as_str();
    let pack = format!("{EDTU} DTU Pack");
    vec![
        item(
            &format!("node {size}"),
            NODES,
            "Virtual Machines",
            &[("armSkuName", size), ("armRegionName", &settings.location)],
        ),
        item("AKS control plane", 1, "Azure Kubernetes Service", &[("meterName", "Standard Uptime SLA")]),
        item(
            &format!("elastic pool of {EDTU} eDTU"),
            1,
            "SQL Database",
            &[("productName", "SQL Database Elastic Pool - Standard"), ("skuName", &pack)],
        ),
        item("NAT gateway", 1, "NAT Gateway", &[("meterName", "Standard Gateway")]),
        item(
            "load balancer",
            1,
            "Load Balancer",
            &[("meterName", "Standard Included LB Rules and Outbound Rules")],
        ),
        item(
            "public IP address",
            2,
            "Virtual Network",
            &[("productName", "IP Addresses"), ("meterName", "Standard IPv4 Static Public IP")],
        ),
    ]
}

impl Bill {
    /// Asks for the prices. What cannot be found is said in its line.
    pub async fn ask(settings: &Settings, http: &reqwest::Client) -> Self {
        let mut lines = Vec::new();
        for item in items(settings) {
            let found = prices(settings, http, &item).await;
            let hourly = found.and_then(|found| {
                choose(&found, &settings.location).ok_or_else(|| "not in the list of prices".to_owned())
            });
            lines.push(Line { what: item.what, count: item.count, hourly });
        }
        Self { lines }
    }

    /// What an hour costs, as far as it is known, and whether all of it is.
    fn hourly(&self) -> (f64, bool) {
        let known = self.lines.iter().filter_map(|line| Some((line.count, line.hourly.as_ref().ok()?.0)));
        let sum = known.map(|(count, price)| f64::from(count) * price).sum();
        (sum, self.lines.iter().all(|line| line.hourly.is_ok()))
    }
}

impl fmt::Display for Bill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut currency = "USD";
        for Line { what, count, hourly } in &self.lines {
            let price = match hourly {
                Ok((price, in_currency)) => {
                    currency = in_currency;
                    format!("{:8.3} {currency} an hour", price * f64::from(*count))
                }
                Err(why) => format!("unknown: {why}"),
            };
            writeln!(f, "  {count} x {what:<28} {price}")?;
        }
        let (hourly, is_whole) = self.hourly();
        let least = if is_whole { "about" } else { "more than" };
        writeln!(
            f,
            "  together {least} {hourly:.2} {currency} an hour: {least} {:.2} {currency} for a run of {HOURS} hours, and {:.2} {currency} for each day that it is left behind",
            hourly * HOURS,
            hourly * 24.0,
        )?;
        f.write_str(
            "  besides, by use: disks of the nodes, storage of an empty instance, traffic, backups, DNS queries",
        )
    }
}

/// The prices of a thing, wherever it is.
async fn prices(settings: &Settings, http: &reqwest::Client, item: &Item) -> Result<Vec<Price>, String> {
    let mut filter = format!("serviceName eq '{}' and priceType eq 'Consumption'", item.service);
    for (name, value) in &item.is {
        let _ = write!(filter, " and {name} eq '{value}'");
    }
    let list = format!("{}/api/retail/prices", settings.prices);
    let mut url = reqwest::Url::parse_with_params(&list, [("$filter", &filter)])
        .map_err(|error| format!("{list}: {error}"))?;
    let mut all = Vec::new();
    for _ in 0..PAGES {
        let answer = http.get(url.clone()).send().await;
        let answer = answer.and_then(reqwest::Response::error_for_status).map_err(|e| said(&e))?;
        let body = answer.bytes().await.map_err(|e| said(&e))?;
        let page: Page = serde_json::from_slice(&body).map_err(|e| format!("no list of prices: {e}"))?;
        all.extend(page.items);
        // No token goes along, so it may lead anywhere that the list says.
        match page.next.as_deref().filter(|next| !next.is_empty()).map(reqwest::Url::parse) {
            Some(Ok(next)) => url = next,
            _ => break,
        }
    }
    Ok(all)
}

pub fn said(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(next) = source {
        let _ = write!(text, ": {next}");
        source = next.source();
    }
    text
}

/// The price of an hour at a location: its own, or the one for all of them. Linux, and neither spare capacity nor a
/// reservation.
fn choose(found: &[Price], location: &str) -> Option<(f64, String)> {
    let is_ours = |price: &&Price| {
        let text = format!("{} {} {}", price.product_name, price.sku_name, price.meter_name);
        price.kind == "Consumption"
            && price.tier_minimum_units == 0.0
            && !["Windows", "Spot", "Low Priority"].iter().any(|not| text.contains(not))
    };
    let at = |region: &str| {
        let there = found.iter().filter(is_ours).filter(|p| p.arm_region_name.eq_ignore_ascii_case(region));
        // Of several that fit, the highest: nobody is to be told too little.
        there
            .filter_map(|p| Some((hourly(p)?, p.currency_code.clone())))
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
    };
    [location, "Global", ""].into_iter().find_map(at)
}

fn hourly(price: &Price) -> Option<f64> {
    let hours = match price.unit_of_measure.as_str() {
        "1 Hour" | "1/Hour" => 1.0,
        "1/Day" => 24.0,
        "1/Month" => 730.0,
        _ => return None,
    };
    Some(price.retail_price / hours)
}

#[cfg(test)]
fn price(region: &str, product: &str, meter: &str, unit: &str, price: f64) -> Price {
    Price {
        arm_region_name: region.to_owned(),
        product_name: product.to_owned(),
        meter_name: meter.to_owned(),
        unit_of_measure: unit.to_owned(),
        retail_price: price,
        kind: "Consumption".to_owned(),
        currency_code: "USD".to_owned(),
        ..Price::default()
    }
}

#[test]
fn the_price_of_the_place_counts() {
    let linux = || price("westeurope", "Dsv5", "D4s v5", "1 Hour", 0.23);
    for (name, found, expect) in [
        ("none", vec![], None),
        ("here", vec![linux(), price("eastus", "Dsv5", "D4s v5", "1 Hour", 0.19)], Some(0.23)),
        (
            "Linux as it is sold to everybody",
            vec![
                linux(),
                price("westeurope", "Dsv5 Windows", "D4s v5", "1 Hour", 0.41),
                price("westeurope", "Dsv5", "D4s v5 Spot", "1 Hour", 0.04),
                Price { kind: "Reservation".to_owned(), retail_price: 900.0, ..linux() },
                Price { tier_minimum_units: 5.0, retail_price: 9.0, ..linux() },
            ],
            Some(0.23),
        ),
        (
            "everywhere the same",
            vec![price("Global", "NAT", "Standard Gateway", "1 Hour", 0.045)],
            Some(0.045),
        ),
        ("here before everywhere", vec![price("Global", "IP", "x", "1 Hour", 1.0), linux()], Some(0.23)),
        ("by the day", vec![price("westeurope", "Pool", "eDTUs", "1/Day", 2.4)], Some(0.1)),
        ("by the month", vec![price("", "Disk", "P10", "1/Month", 73.0)], Some(0.1)),
        ("by what is used", vec![price("westeurope", "LB", "Data", "1 GB", 0.005)], None),
        ("elsewhere only", vec![price("eastus", "Dsv5", "D4s v5", "1 Hour", 0.19)], None),
    ] {
        let chosen = choose(&found, "westeurope").map(|(price, _)| (price * 1e6).round() / 1e6);
        assert_eq!(chosen, expect, "{name}");
    }
}

#[test]
fn what_is_not_known_is_said() {
    let line = |what: &str, count, hourly| Line { what: what.to_owned(), count, hourly };
    let known = || line("node", 2, Ok((0.23, "USD".to_owned())));
    let bill = Bill { lines: vec![known()] }.to_string();
    assert!(bill.contains("2 x node") && bill.contains("about 0.46 USD an hour"), "{bill}");
    let half = Bill { lines: vec![known(), line("pool", 1, Err("not in the list of prices".to_owned()))] };
    let half = half.to_string();
    assert!(half.contains("more than 0.46 USD") && half.contains("unknown: not in the list"), "{half}");
}
