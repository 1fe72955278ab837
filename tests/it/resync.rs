//! Resynchronizations that are asked for, and those of much that has changed: checksums from the index are compared, and only
//! what differs is shipped.

use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt;
use towline::store;
use towline_tests::live::process::{Outcome, Site, until};
use towline_tests::live::servers::Server;
use towline_tests::live::stamp::BLOCK;
use towline_tests::live::writer::first_content;

const SIZE: u64 = 32 << 20;

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("{name} of {value}"))
}

fn resync(site: &Site, more: &[&str]) -> Outcome {
    let control = site.control();
    site.towline(["resync", "--json", "--tracker", control.to_str().unwrap()].iter().chain(more))
}

/// A disk without zeros, in a vault.
fn protected(site: &Site, size: u64) -> towline_tests::live::process::Tracker {
    first_content(&site.first(), 0, size / BLOCK as u64).unwrap();
    site.init();
    let tracker = site.start(&[]);
    site.once(&["--audit", "0"]);
    tracker
}

/// Changes blocks behind the tracker's back: what a resynchronization is asked for.
fn write_unseen(site: &Site, blocks: &[u64]) {
    let file = fs::File::options().write(true).open(site.first()).unwrap();
    blocks.iter().for_each(|block| file.write_all_at(&[0x5a; BLOCK], block * BLOCK as u64).unwrap());
}

#[test]
fn a_running_shipper_compares_when_it_is_asked_and_stays() {
    let site = Site::memory();
    let tracker = protected(&site, SIZE);
    let mut shipper = site.shipper("ship", &["--json", "--every", "300ms", "--audit", "0"]);
    let published = || -> Vec<Value> {
        let text = fs::read_to_string(site.path("ship.out")).unwrap();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    until("it ships", || !published().is_empty());
    write_unseen(&site, &[5, 700]);
    let attach = number(&site.status(), "attach");
    let told = resync(&site, &["--wait", "--reason", "a doubt"]).good().json();
    assert!(told["done"] == true && told["disks"][0]["resync"].is_null(), "{told}");
    assert_eq!((number(&site.status(), "attach"), shipper.ended()), (attach, None), "nobody else attached");
    until("it is told", || published().iter().any(|point| number(point, "bytes_changed") == SIZE));
    let compared = published().into_iter().find(|point| number(point, "bytes_changed") == SIZE).unwrap();
    assert_eq!(number(&compared, "bytes_shipped"), 2 * BLOCK as u64, "{compared}");
    assert_eq!(number(&compared, "bytes_unchanged"), SIZE - 2 * BLOCK as u64, "{compared}");
    site.latest_is_the_disk();
    shipper.signal(libc::SIGTERM);
    assert_eq!(shipper.wait().unwrap().code(), Some(0));
    tracker.stop();
}

/// Nobody ships at the moment: the wish stays, also when the tracker is killed, and what waits for it can be stopped.
#[test]
fn a_wish_waits_for_the_next_shipper() {
    let site = Site::memory();
    let tracker = protected(&site, SIZE);
    write_unseen(&site, &[9]);
    let told = resync(&site, &["--reason", "a doubt"]).good().json();
    assert!(told["done"] == false && told["disks"][0]["resync"] == "a doubt", "{told}");
    tracker.kill();
    let tracker = site.start(&[]);
    assert_eq!(site.status()["disks"][0]["resync"], "a doubt");
    let mut command = std::process::Command::new(site.programs.join("towline"));
    command.args(["resync", "--wait", "--tracker"]).arg(site.control());
    let err = fs::File::create(site.path("wait.err")).unwrap();
    let child = command.stdout(std::process::Stdio::null()).stderr(err).spawn().unwrap();
    let mut waiting = towline_tests::live::process::Running::new(child);
    until("it asked", || site.status()["disks"][0]["resync"] == "asked for by towline resync");
    waiting.signal(libc::SIGTERM);
    assert_eq!(waiting.wait().unwrap().code(), Some(18));
    assert!(fs::read_to_string(site.path("wait.err")).unwrap().contains("stays asked for"));
    let point = site.once(&["--audit", "0"]);
    assert_eq!(
        (number(&point, "bytes_changed"), number(&point, "bytes_shipped")),
        (SIZE, BLOCK as u64),
        "{point}"
    );
    assert!(site.status()["disks"][0]["resync"].is_null());
    site.latest_is_the_disk();
    tracker.stop();
    assert_eq!(resync(&site, &[]).code, Some(14));
}

/// Goal: a comparison reads checksums, not data, and ships what differs, not more; a cycle over half of the disk is one (DESIGN
/// 4.2). Method: the bytes that went to and from a real server, by its own client's count, against the size of the indexes.
#[test]
fn a_comparison_reads_the_index_and_ships_what_differs() {
    let server = Server::moto();
    let mut site = Site::memory();
    site.url = Some(server.url("vault"));
    site.environment.extend(server.environment());
    // So large that its index does not ride in an entry.
    const SIZE: u64 = 128 << 20;
    let tracker = protected(&site, SIZE);
    let objects = server.store("vault");
    let mut indexes = 0;
    store::each(&objects, "groups/", "", |object| {
        indexes += if object.name.ends_with(".index") { object.length } else { 0 };
        Ok::<_, towline::Error>(())
    })
    .unwrap();
    assert!(indexes > 32 * SIZE / BLOCK as u64, "a hash for each block is in an index: {indexes}");
    // Entries, catalog and listing take a little.
    let little = 64 << 10;
    let is_comparison = |point: &Value, differing: u64| {
        let (down, up) = (number(point, "bytes_down"), number(point, "bytes_up"));
        assert_eq!(number(point, "bytes_shipped"), differing * BLOCK as u64, "{point}");
        assert!(
            down > indexes / 3 && down < indexes + indexes / 4 + little,
            "{down} bytes read, {indexes} of indexes: {point}"
        );
        assert!(up < differing * (BLOCK as u64 + 64) + little, "{up} bytes written: {point}");
        site.latest_is_the_disk();
    };

    write_unseen(&site, &[1, 2, 3, 4000]);
    resync(&site, &[]).good();
    let point = site.once(&["--audit", "0"]);
    assert_eq!(number(&point, "bytes_changed"), SIZE, "{point}");
    is_comparison(&point, 4);

    // The guest writes half of the disk, most of it as it was.
    let half = fs::read(site.first()).unwrap();
    let mut client = tracker.client("").unwrap();
    let mut rewrite = |differing: &[usize]| {
        let mut half = half[..SIZE as usize / 2].to_vec();
        differing.iter().for_each(|block| half[block * BLOCK..(block + 1) * BLOCK].fill(0xc3));
        for (at, data) in (0..).step_by(1 << 20).zip(half.chunks(1 << 20)) {
            client.write(at, data).unwrap();
        }
        client.flush().unwrap();
    };
    rewrite(&[7, 8, 1000]);
    let point = site.once(&["--audit", "0"]);
    assert_eq!(number(&point, "bytes_changed"), SIZE / 2, "{point}");
    is_comparison(&point, 3);
    // A little more than the default is asked for: what has changed is shipped, unread.
    rewrite(&[7, 8, 1000]);
    let point = site.once(&["--audit", "0", "--resync-at", "51%"]);
    assert_eq!(number(&point, "bytes_shipped"), SIZE / 2, "{point}");
    assert!(number(&point, "bytes_down") < indexes / 2 + little, "{point}");
    site.latest_is_the_disk();
    tracker.stop();
}
