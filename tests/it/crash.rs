//! `kill -9` of either program: nothing acknowledged is lost, nothing is read again that need not be.

use crate::lineage::wipe_maps;
use std::fs;
use std::time::Duration;
use towline_tests::live::history::History;
use towline_tests::live::process::{Site, WANDERING, run};
use towline_tests::live::room::Room;
use towline_tests::live::stamp::BLOCK;
use towline_tests::live::writer::{Clock, Load, Writers, first_content};

const BLOCKS: u64 = (64 << 20) / BLOCK as u64;

fn load(site: &Site, round: u64) -> Load {
    Load {
        socket: site.nbd(),
        disks: site.disks.iter().map(|name| (name.clone(), BLOCKS)).collect(),
        writers: 2,
        depth: 4,
        blocks_max: 4,
        hot: 50,
        hot_blocks: 64,
        zeros: 2,
        pause: (16, Duration::from_millis(1)),
        seed: round + 1,
        first_writer: 2 * round,
    }
}

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Kills the shipper in its first replication, half way through, and lets another one go on. False if it was done
/// before it could be killed.
fn killed_half_way(site: &Site) -> bool {
    first_content(&site.first(), 0, BLOCKS).unwrap();
    site.init();
    let tracker = site.start(&[]);
    let step = 4 << 20;
    let arguments =
        ["--once", "--json", "--checkpoint-every", "4MiB", "--pack-size", "256KiB", "--memory", "64MiB"];
    let group = site.vault().join("groups");
    let entries = || {
        let groups = fs::read_dir(&group).into_iter().flatten().flatten();
        groups.filter_map(|group| fs::read_dir(group.path().join("log")).ok()).flatten().count()
    };
    let mut shipper = site.shipper("killed", &arguments);
    while entries() < 9 && shipper.ended().is_none() {
        std::thread::sleep(Duration::from_micros(200));
    }
    shipper.kill();
    if site.path("killed.out").metadata().unwrap().len() > 0 {
        return false;
    }
    // Guests go on meanwhile.
    let mut client = tracker.client("").unwrap();
    client.write(1 << 20, &[5; 8192]).unwrap();
    let said = site.ship(&arguments).good();
    // The freeze that was open is finished first; then comes the point that was asked for.
    if said.stdout.lines().count() != 2 {
        assert_eq!(said.stdout.lines().count(), 1, "{}", said.stdout);
        return false;
    }
    // What was put again came after the last checkpoint; what was put before it is not put twice.
    let packs = bytes_below(&group);
    assert!(packs <= (64 << 20) + 4 * step + (8 << 20), "{packs} in the vault: shipped twice");
    // What the killed one had not finished is gone as well.
    let unfinished = fs::read_dir(site.vault().join(".unfinished")).unwrap();
    assert_eq!(unfinished.count(), 0);
    site.latest_is_the_disk();
    tracker.stop();
    true
}

/// F39: killed while shipping.
#[test]
fn an_initial_replication_killed_half_way_is_continued() {
    for site in [Site::memory, Site::disk] {
        assert!((0..20).any(|_| killed_half_way(&site())), "it was always killed too late to prove anything");
    }
}

/// Bytes of all files in a folder.
fn bytes_below(folder: &std::path::Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_below(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

/// F2: the tracker dies under a client.
#[test]
fn a_killed_tracker_has_lost_nothing_and_reads_nothing_again() {
    for site in [Site::memory(), Site::disk()] {
        let clock = Clock::default();
        let mut writes = first_content(&site.first(), 0, BLOCKS).unwrap();
        site.init();
        let mut tracker = site.start(&["--region-size", "64KiB", "--intent-budget", "1GiB"]);
        site.once(&[]);
        for round in 0..4u64 {
            let writers = Writers::start(&load(&site, round), clock);
            std::thread::sleep(Duration::from_millis(200 + 37 * round));
            // In the middle of a cycle every other time.
            let shipper = (round % 2 == 1).then(|| site.shipper("cycle", &["--every", "1s"]));
            std::thread::sleep(Duration::from_millis(60));
            tracker.kill();
            // What was in flight stays without an answer; the writers' lists are kept.
            writes.append(&mut writers.interrupted());
            drop(shipper);
            tracker = site.start(&["--region-size", "64KiB", "--intent-budget", "1GiB"]);
            let status = site.status();
            assert!(status["disks"][0]["resync"].is_null(), "{status}");
            let begun = clock.now();
            let point = site.once(&[]);
            let ended = clock.now();
            assert!(number(&point["bytes_read"]) < 32 << 20, "no more than what changed: {point}");
            let image = site.restore(point["id"].as_str().unwrap());
            let history = History::new(&[BLOCKS], writes.clone());
            history.check(&[&image[0]], begun, ended).unwrap();
        }
        site.latest_is_the_disk();
        tracker.stop();
    }
}

/// A group of two disks, its sidecars in a room, killed after its first point; and then a start that failed when it had
/// stamped the maps and not yet stored a meta.
fn failed_behind_the_stamp(room: &Room) -> Site {
    let mut site = Site::disk();
    site.disks = vec!["a.raw".into(), "b.raw".into()];
    let more = ["--group", "a", "--create", "16MiB", "--log-dir", room.path().to_str().unwrap()];
    site.arguments.extend(more.map(str::to_string));
    site.init();
    let tracker = site.start(&[]);
    site.once(&[]);
    tracker.client("a.raw").unwrap().write(0, &[1; BLOCK]).unwrap();
    tracker.kill();
    room.fill();
    let failed = run(&mut site.tracker_command(&[]));
    assert_eq!(failed.code, Some(5), "{}", failed.stderr);
    assert!(failed.stderr.contains("a change log of disk a.raw"), "{}", failed.stderr);
    room.free();
    site
}

/// S1: the next start uses the failed one's session number, but other maps, for the disks are in another order. The maps
/// that the failed one had stamped with that number know nothing of what this one's guest writes.
#[test]
fn maps_that_a_failed_start_has_stamped_are_not_taken_for_those_of_the_next_one() {
    for room in [Room::memory(16), Room::disk(16)] {
        let mut site = failed_behind_the_stamp(&room);
        site.disks.reverse();
        let tracker = site.start(&[]);
        tracker.client("a.raw").unwrap().write(8 << 20, &[2; BLOCK]).unwrap();
        tracker.kill();
        site.disks.reverse();
        let tracker = site.start(&[]);
        site.once(&[]);
        site.latest_is_the_disk();
        tracker.stop();
    }
}

/// Promise 4, all the same.
#[test]
fn a_start_that_failed_between_two_kills_costs_nothing() {
    for room in [Room::memory(16), Room::disk(16)] {
        let site = failed_behind_the_stamp(&room);
        let tracker = site.start(&[]);
        tracker.client("a.raw").unwrap().write(8 << 20, &[2; BLOCK]).unwrap();
        tracker.kill();
        let tracker = site.start(&[]);
        let point = site.once(&[]);
        assert_eq!(number(&point["bytes_changed"]), 2 * BLOCK as u64, "{point}");
        site.latest_is_the_disk();
        tracker.stop();
    }
}

/// F3: a power cut keeps any part of what was not synced.
#[test]
fn after_the_hosts_death_the_intents_and_the_logs_say_all_that_changed() {
    for site in [Site::memory(), Site::disk()] {
        let large = 1 << 30;
        site.init();
        let mut tracker = site.start(&[&WANDERING[..], &["--create", "1GiB"]].concat());
        site.once(&[]);
        let budget = number(&site.status()["disks"][0]["intent_budget"]) * (16 << 20);
        assert!(budget < large / 2, "most regions must leave the intents again");
        for round in 0..3u64 {
            let mut client = tracker.client("").unwrap();
            let mut written = 0;
            for n in 0..200 {
                // Every region, many times over.
                let block = (n * 7919 + round * 104_729) % (large / BLOCK as u64);
                client.write(block * BLOCK as u64, &[n as u8 | 1; BLOCK]).unwrap();
                written += BLOCK as u64;
            }
            client.disconnect().unwrap();
            tracker.kill();
            wipe_maps(&site);
            tracker = site.start(&WANDERING);
            assert!(site.status()["disks"][0]["resync"].is_null(), "{}", site.status());
            let point = site.once(&[]);
            let compared = number(&point["bytes_changed"]);
            assert!(compared <= budget + written, "{compared} compared: {point}");
            assert!(number(&point["bytes_shipped"]) <= written + written / 10, "only what differs: {point}");
            site.latest_is_the_disk();
        }
        tracker.stop();
    }
}
