//! What a vault costs by a table of prices. The built-in tables (`prices.json`) are examples: list prices of one region as they were
//! told at their date, first step of each, without discounts and free shares. Who pays others gives a file of the same form.

use crate::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

const GIB: f64 = (1u64 << 30) as f64;
/// Days of a month, on average.
pub const MONTH_DAYS: f64 = 30.44;

/// A table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// What it is the price of, for people.
    pub name: String,
    /// The scheme of the URLs that it is for: `s3`, `az` or `gs`; any, if it is left out.
    pub store: Option<String>,
    /// When it was true.
    pub dated: String,
    /// What the numbers are.
    pub currency: String,
    /// A GiB kept for a month.
    pub storage_gib_month: f64,
    /// A thousand requests of the class put (with POST and LIST).
    pub put_1000: f64,
    /// Of the class get (with HEAD).
    pub get_1000: f64,
    /// Of deletes.
    pub delete_1000: f64,
    /// A GiB that leaves the store.
    pub egress_gib: f64,
}

/// What costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Use {
    /// Bytes kept.
    pub bytes: u64,
    /// Put requests a day.
    pub puts_day: f64,
    /// Get requests a day.
    pub gets_day: f64,
}

/// What it costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// By this table.
    pub prices: String,
    /// As it was then.
    pub dated: String,
    /// In this currency.
    pub currency: String,
    /// What is kept now, for a month.
    pub storage_month: f64,
    /// A month of requests, at today's pace.
    pub requests_month: f64,
    /// Both.
    pub month: f64,
    /// To read all that is kept once: more than any restore.
    pub read_all: f64,
}

impl Prices {
    /// The built-in tables that fit a vault's URL: all, if it is in no object store.
    ///
    /// # Panics
    /// If `prices.json` is not what a test found it to be.
    pub fn built_in(url: &str) -> Vec<Self> {
        let all = parse(include_str!("prices.json")).expect("a test reads it");
        let scheme = match url.split_once("://") {
            Some(("https", _)) => "az",
            Some((scheme, _)) => scheme,
            None => "",
        };
        match all.iter().any(|prices| prices.fits(scheme)) {
            true => all.into_iter().filter(|prices| prices.fits(scheme)).collect(),
            false => all,
        }
    }

    /// The tables of a file: one, or a list.
    ///
    /// # Errors
    /// `Usage`.
    pub fn of_file(path: &Path) -> Result<Vec<Self>> {
        let wrong = |what: String| Error::new(Kind::Usage, format!("--prices {}: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        parse(&text).map_err(wrong)
    }

    fn fits(&self, scheme: &str) -> bool {
        self.store.as_ref().is_none_or(|store| store == scheme)
    }

    /// What this costs.
    pub fn cost(&self, used: Use) -> Cost {
        let gib = used.bytes as f64 / GIB;
        let storage_month = gib * self.storage_gib_month;
        let day = used.puts_day * self.put_1000 + used.gets_day * self.get_1000;
        let requests_month = day / 1000.0 * MONTH_DAYS;
        Cost {
            prices: self.name.clone(),
            dated: self.dated.clone(),
            currency: self.currency.clone(),
            storage_month,
            requests_month,
            month: storage_month + requests_month,
            read_all: gib * self.egress_gib,
        }
    }
}

fn parse(text: &str) -> std::result::Result<Vec<Prices>, String> {
    let parsed = match text.trim_start().starts_with('[') {
        true => serde_json::from_str::<Vec<Prices>>(text),
        false => serde_json::from_str(text).map(|one| vec![one]),
    };
    let tables = parsed.map_err(|error| error.to_string())?;
    for table in &tables {
        let prices =
            [table.storage_gib_month, table.put_1000, table.get_1000, table.delete_1000, table.egress_gib];
        if !prices.iter().all(|price| price.is_finite() && *price >= 0.0) {
            return Err(format!("a price of {} is less than nothing", table.name));
        }
    }
    match tables.is_empty() {
        true => Err("it has no table".to_owned()),
        false => Ok(tables),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_tables_are_read_and_chosen_by_the_url() {
        let names = |url: &str| {
            Prices::built_in(url).into_iter().map(|prices| prices.store.unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(names("s3://bucket/prefix"), ["s3"]);
        assert_eq!(names("https://a.blob.core.windows.net/c"), ["az"]);
        assert_eq!(names("gs://b"), ["gs"]);
        assert_eq!(names("/backup/vault"), ["s3", "az", "gs"]);
    }

    #[test]
    fn a_cost_is_storage_and_requests_at_the_pace_of_today() {
        let prices = Prices {
            name: "ours".into(),
            store: None,
            dated: "today".into(),
            currency: "EUR".into(),
            storage_gib_month: 2.0,
            put_1000: 10.0,
            get_1000: 1.0,
            delete_1000: 0.0,
            egress_gib: 3.0,
        };
        let cost = prices.cost(Use { bytes: 5 << 30, puts_day: 100.0, gets_day: 1000.0 });
        assert_eq!((cost.storage_month, cost.read_all), (10.0, 15.0));
        assert!((cost.requests_month - 2.0 * MONTH_DAYS).abs() < 1e-9);
        assert_eq!(cost.month, cost.storage_month + cost.requests_month);
        assert_eq!(prices.cost(Use::default()).month, 0.0);
    }

    #[test]
    fn a_file_of_prices_is_one_table_or_a_list_and_nonsense_is_refused_in_one_line() {
        let one = r#"{"name": "x", "dated": "d", "currency": "EUR", "storage_gib_month": 1, "put_1000": 1, "get_1000": 1,
            "delete_1000": 0, "egress_gib": 0}"#;
        assert_eq!(parse(one).unwrap().len(), 1);
        assert_eq!(parse(&format!("[{one}, {one}]")).unwrap().len(), 2);
        let wrong = [
            "",
            "[]",
            "{}",
            "prices",
            &one.replace("\"put_1000\": 1", "\"put_1000\": -1"),
            &one.replace("put_1000", "put_100"),
            &one.replace("\"get_1000\": 1", "\"get_1000\": 1e999"),
        ];
        for wrong in wrong {
            let what = parse(wrong).unwrap_err();
            assert!(!what.contains('\n'), "{what}");
        }
        let error = Prices::of_file(Path::new("/no/such/file")).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
    }
}
