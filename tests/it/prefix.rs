//! Every point is a prefix of what the guests did: several writers on one and on two disks, cuts at random moments.
//!
//! Each run prints how much was at stake: writes in flight at the cuts, blocks preserved, reads taken from the store
//! and requests that waited. A zero in any means that the run tried nothing, and fails it.

use std::path::{Path, PathBuf};
use std::time::Duration;
use towline_tests::live::history::History;
use towline_tests::live::process::Site;
use towline_tests::live::stamp::BLOCK;
use towline_tests::live::writer::{Clock, Load, Writers, first_content};

/// Blocks of each disk.
const BLOCKS: u64 = (48 << 20) / BLOCK as u64;

/// What was at stake in a run.
#[derive(Debug, Default)]
pub(crate) struct Stake {
    in_flight: u64,
    preserved: u64,
    from_store: u64,
    waited: [u64; 3],
    fuzzy: u64,
    points: usize,
    writes: usize,
}

/// Runs writers and cuts on the site's disks, and checks every point. The tracker gets the site's arguments.
pub(crate) fn run(site: &Site, seed: u64, cuts: usize) -> Result<Stake, String> {
    let clock = Clock::default();
    let mut writes = Vec::new();
    for (disk, name) in site.disks.iter().enumerate() {
        writes.append(&mut first_content(&site.path(name), disk, BLOCKS).unwrap());
    }
    site.init();
    // Small regions, so that requests wait for intents all the time.
    let tracker = site.start(&["--region-size", "64KiB", "--intent-budget", "1GiB"]);
    let load = Load {
        socket: site.nbd(),
        disks: site.disks.iter().map(|name| (name.clone(), BLOCKS)).collect(),
        writers: 3,
        depth: 8,
        blocks_max: 6,
        hot: 60,
        hot_blocks: 48,
        zeros: 4,
        pause: (64, Duration::from_millis(2)),
        seed,
        first_writer: 0,
    };
    let writers = Writers::start(&load, clock);
    let mut stake = Stake::default();
    let mut points = Vec::new();
    let mut state = seed | 1;
    for _ in 0..cuts {
        let begun = clock.now();
        let shipped = site.ship(&["--once", "--json", "--pack-size", "256KiB"]);
        let ended = clock.now();
        // It may give up where there is no room to preserve; it may not publish what is no instant.
        if !matches!(shipped.code, Some(0 | 13)) {
            return Err(format!("ship ended with {:?}: {}", shipped.code, shipped.stderr));
        }
        for line in shipped.stdout.lines() {
            let entry: serde_json::Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
            stake.from_store += entry["reads_from_store"].as_u64().unwrap();
            if entry["kind"] == "point" {
                points.push((entry["id"].as_str().unwrap().to_owned(), begun, ended));
            }
        }
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        std::thread::sleep(Duration::from_millis(state >> 33 & 0xff));
    }
    let status = site.status();
    stake.in_flight = status["in_flight_at_cuts"].as_u64().unwrap();
    stake.preserved = status["preserved_blocks"].as_u64().unwrap();
    stake.waited =
        ["waited_intent", "waited_drain", "waited_preserve"].map(|name| status[name].as_u64().unwrap());
    stake.fuzzy = status["fuzzy_freezes"].as_u64().unwrap();
    let mut done = writers.finish().map_err(|error| format!("a request failed: {error}"))?;
    stake.writes = done.len();
    stake.points = points.len();
    writes.append(&mut done);
    tracker.stop();
    let history = History::new(&vec![BLOCKS; site.disks.len()], writes);
    for (id, begun, ended) in &points {
        let images = site.restore(id);
        let paths: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
        history.check(&paths, *begun, *ended).map_err(|error| format!("point {id}: {error}"))?;
        let _ = std::fs::remove_file(&images[0]);
    }
    // The disks themselves hold the whole history.
    let disks: Vec<PathBuf> = site.disks.iter().map(|name| site.path(name)).collect();
    let paths: Vec<&Path> = disks.iter().map(PathBuf::as_path).collect();
    history.check(&paths, clock.now(), clock.now()).map_err(|error| format!("the disks: {error}"))?;
    println!("{stake:?}");
    Ok(stake)
}

/// Nothing was tried where a count is zero. In memory no write is ever in flight: it ends as it begins.
fn at_stake([memory, disk]: [Stake; 2]) {
    assert!(disk.in_flight > 0, "no write was in flight at a cut: {disk:?}");
    for stake in [&memory, &disk] {
        let [intent, _, preserve] = stake.waited;
        assert!(stake.preserved > 0, "no block was preserved: {stake:?}");
        assert!(stake.from_store > 0, "nothing was read from the store: {stake:?}");
        assert!(intent > 0, "no request waited for an intent: {stake:?}");
        assert!(preserve > 0, "no request waited for a before-image: {stake:?}");
        assert!(stake.points > 0 && stake.writes > 0, "{stake:?}");
    }
}

/// F20, F22: writes in flight at the cut, and blocks rewritten while they ship.
#[test]
fn every_point_of_one_disk_is_a_prefix() {
    at_stake([Site::memory(), Site::disk()].map(|site| run(&site, 1, 8).unwrap()));
}

/// F23: two disks at one instant.
#[test]
fn every_point_of_two_disks_is_one_instant_of_both() {
    at_stake([Site::memory(), Site::disk()].map(|mut site| {
        site.disks.push("second.raw".into());
        run(&site, 2, 8).unwrap()
    }));
}

/// A site whose freezes turn fuzzy while they ship.
pub(crate) fn without_room() -> Site {
    let mut site = Site::disk();
    site.arguments.extend(["--preserve-limit", "512KiB"].map(String::from));
    site
}

/// F21: no room to preserve.
#[test]
fn a_freeze_that_turned_fuzzy_is_not_called_a_point() {
    let stake = run(&without_room(), 3, 4).unwrap();
    assert!(stake.fuzzy > 0 && stake.writes > 0, "{stake:?}");
    assert!(stake.in_flight > 0 && stake.preserved > 0, "{stake:?}");
    assert!(stake.waited.iter().sum::<u64>() > 0, "{stake:?}");
}
