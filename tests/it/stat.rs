//! What the real programs tell of requests, bytes and costs.

use serde_json::Value;
use std::fs;
use std::path::Path;
use towline_tests::live::process::Site;
use towline_tests::live::stamp::BLOCK;
use towline_tests::live::writer::first_content;

/// Objects and bytes below a folder.
fn found(folder: &Path) -> (u64, u64) {
    fs::read_dir(folder).unwrap().map(Result::unwrap).fold((0, 0), |(objects, bytes), entry| {
        let (more, length) = match entry.metadata().unwrap() {
            meta if meta.is_dir() => found(&entry.path()),
            meta => (1, meta.len()),
        };
        (objects + more, bytes + length)
    })
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn what_is_told_is_what_was_shipped_and_what_is_there() {
    let site = Site::memory();
    first_content(&site.first(), 0, (4 << 20) / BLOCK as u64).unwrap();
    site.init();
    let tracker = site.start(&[]);
    let first = site.once(&[]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    tracker.client("").unwrap().write(8192, &[1; 3 * BLOCK]).unwrap();
    let second = site.once(&["--audit", "0"]);
    // The claim, the entry, and the listings of a start; what the claim is decided by is read.
    assert!((3..=6).contains(&number(&second["requests_put"])), "{second}");
    assert!(number(&second["requests_get"]) < 40 && second["requests_delete"] == 0, "{second}");
    assert!(number(&second["bytes_up"]) >= number(&second["bytes_put"]), "{second}");

    let vault = site.vault();
    let vault = vault.to_str().unwrap();
    let told = site.towline(["stat", "--vault", vault, "--json"]).good().json();
    let group = &told["groups"][0];
    let there = found(&site.vault().join("groups"));
    assert_eq!((number(&group["all"]["objects"]), number(&group["all"]["bytes"])), there, "{told}");
    let kinds = group["kinds"].as_object().unwrap();
    assert_eq!(kinds.values().map(|kind| number(&kind["bytes"])).sum::<u64>(), there.1);
    assert_eq!((number(&group["points"]), number(&kinds["log"]["objects"])), (2, 4), "{told}");
    let cycles = group["cycles"].as_array().unwrap();
    for (cycle, shipped) in cycles.iter().zip([&first, &second]) {
        for same in ["id", "kind", "time_ns", "bytes_changed", "bytes_put"] {
            assert_eq!(cycle[same], shipped[same], "{same}: {told}");
        }
    }
    assert_eq!(cycles[1]["requests_put"], 1);
    assert!(group["day"]["cycles"].as_f64().unwrap() > 0.0);
    assert_eq!(
        told["costs"].as_array().unwrap().len(),
        3,
        "a folder costs nothing; what it would cost elsewhere"
    );
    assert!(number(&told["asked"]["requests_put"]) > 0 && number(&told["asked"]["bytes_up"]) == 0);

    let prices = site.path("prices.json");
    let table = r#"{"name": "ours", "dated": "now", "currency": "EUR", "storage_gib_month": 1024, "put_1000": 0,
        "get_1000": 0, "delete_1000": 0, "egress_gib": 0}"#;
    fs::write(&prices, table).unwrap();
    let prices = prices.to_str().unwrap();
    let told = site.towline(["stat", "--vault", vault, "--json", "--prices", prices]).good().json();
    let month = told["costs"][0]["month"].as_f64().unwrap();
    assert!((month - there.1 as f64 / f64::from(1 << 20)).abs() < 1e-6, "{told}");
    let text = site.towline(["stat", "--vault", vault, "--group", &site.group()]).good().stdout;
    assert!(["packs", "2 points", "a month"].iter().all(|part| text.contains(part)), "{text}");
    fs::write(prices, "{}").unwrap();
    let refused = site.towline(["stat", "--vault", vault, "--prices", prices]);
    assert!(refused.code == Some(2) && refused.stderr.lines().count() == 1, "{refused:?}");
    assert_eq!(site.towline(["stat", "--vault", vault, "--group", "none"]).code, Some(5));
    tracker.stop();
}
