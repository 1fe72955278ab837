//! Packs of which little is needed are repacked, by the real programs; and who comes in between spoils nothing.

use crate::mutants::judge;
use crate::prune::{command, ids, megabyte, number, prune};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use towline::retention::collect::collect;
use towline::retention::compact::{Bounds, compact};
use towline::store;
use towline::store::directory::DirectoryStore;
use towline::store::scripted::{Call, Mood, Scripted};
use towline::vault::entry::{Content, Draft, EntryKind, Payload};
use towline::vault::fold::{Folder, Unlisted};
use towline::vault::log::Appended;
use towline::vault::{Group, Vault};
use towline_tests::live::process::Site;
use towline_tests::live::stamp::BLOCK;
use towline_tracker::id::CutId;

const ALL: Bounds = Bounds { budget: u64::MAX, pack_size: 1 << 20 };

/// Ships a disk of 8 MiB, and then points that overwrite all but an eighth of each pack; the last one's disk, too.
fn wear(site: &Site) -> (String, Vec<u8>) {
    fs::write(site.first(), (0..8).flat_map(|place| megabyte(0, place)).collect::<Vec<_>>()).unwrap();
    site.init();
    let tracker = site.start(&[]);
    let mut client = tracker.client("").unwrap();
    let mut id = String::new();
    for turn in 0..3 {
        for place in (0..8).filter(|_| turn > 0) {
            client.write((place << 20) + (turn << 17), &megabyte(turn, place)[..6 << 17]).unwrap();
        }
        client.flush().unwrap();
        id = site.once(&["--pack-size", "1MiB"])["id"].as_str().unwrap().to_owned();
    }
    tracker.stop();
    (id, fs::read(site.first()).unwrap())
}

/// Bytes of packs.
fn packed(site: &Site) -> u64 {
    let stat = command(site, &["stat", "--json"], &[]).good().json();
    number(&stat["groups"][0]["kinds"]["packs"]["bytes"])
}

fn worn_packs_are_repacked_at(site: &Site) {
    let point = wear(site);
    prune(site, &["--keep-last", "1"]);
    // The points before the newest one are its tracker's to release: one more, and they can go.
    let tracker = site.start(&[]);
    tracker.client("").unwrap().write(0, &[7; BLOCK]).unwrap();
    let newest = site.once(&[])["id"].as_str().unwrap().to_owned();
    let newest = (newest, fs::read(site.first()).unwrap());
    prune(site, &["--keep-last", "1"]);
    let before = packed(site);
    let would = command(site, &["collect", "--json", "--dry-run"], &[]).good().json()["groups"][0].clone();
    assert!(number(&would["objects_repacked"]) > 0, "{would}");
    let done = command(site, &["collect", "--json"], &[]).good().json()["groups"][0].clone();
    assert_eq!(done["objects_repacked"], would["objects_repacked"]);
    assert!(number(&done["bytes_copied"]) * 2 < number(&done["bytes_repacked"]), "{done}");
    assert!(
        packed(site) + number(&done["bytes_repacked"]) / 2 < before,
        "{} of {before}: {done}",
        packed(site)
    );
    let points: Vec<_> = ids(site);
    for (id, image) in [point, newest].iter().filter(|point| points.contains(&point.0)) {
        assert!(fs::read(&site.restore(id)[0]).unwrap() == *image, "point {id}");
    }
    command(site, &["verify"], &[]).good();
    let again = command(site, &["collect", "--json"], &[]).good().json()["groups"][0].clone();
    assert_eq!(number(&again["objects_repacked"]), 0, "{again}");
    // A shipper that runs goes on over what was moved.
    tracker.client("").unwrap().write(1 << 20, &[8; BLOCK]).unwrap();
    site.once(&[]);
    site.latest_is_the_disk();
    tracker.stop();
}

#[test]
fn worn_packs_are_repacked_in_a_folder() {
    worn_packs_are_repacked_at(&Site::memory());
}

/// The group of a site, as a process of its own sees it.
fn group(site: &Site) -> Group {
    Vault::open(store::open(site.vault().to_str().unwrap()).unwrap()).unwrap().group(&site.group())
}

/// The group, with something that is done before the first request of a kind.
fn before(site: &Site, is_it: fn(&Call<'_>) -> bool, call: impl Fn() + Send + Sync + 'static) -> Group {
    let group = group(site);
    let done = AtomicBool::new(false);
    let store = Scripted::new(DirectoryStore::new(site.vault()), move |asked| {
        if is_it(asked) && !done.swap(true, Ordering::Relaxed) {
            call();
        }
        Mood::Good
    });
    Group { store, ..group }
}

/// A site whose packs are worn, and the newest point's disk.
fn worn(site: &Site) -> Vec<u8> {
    wear(site);
    prune(site, &["--keep-last", "1"]);
    let tracker = site.start(&[]);
    tracker.client("").unwrap().write(0, &[7; BLOCK]).unwrap();
    site.once(&[]);
    tracker.stop();
    prune(site, &["--keep-last", "1"]);
    fs::read(site.first()).unwrap()
}

/// The newest point is this disk.
#[track_caller]
fn is_there(site: &Site, image: &[u8]) {
    let to = site.path("seen");
    let restored = command(site, &["restore", "--force", "--to", to.to_str().unwrap()], &[]);
    judge(
        "image",
        match restored.code {
            Some(0) if fs::read(&to).unwrap() == image => Ok(()),
            Some(0) => Err("the newest point is not its disk".to_owned()),
            _ => Err(restored.stderr),
        },
    );
}

/// V14. Schedule: 1. a compaction has copied, and sleeps before its catalog; 2. a collection; 3. the catalog.
#[test]
fn what_is_made_for_a_catalog_to_come_is_not_swept() {
    let site = Site::memory();
    let image = worn(&site);
    // Some was moved before, and no shipper has said that it knows.
    let some = Bounds { budget: 1, ..ALL };
    assert_eq!(compact(&group(&site), some, 1, &mut ()).unwrap().emptied.0, 1);
    let other = group(&site);
    let catalog = |call: &Call<'_>| call.is_put() && call.name.contains("/catalog/");
    let slow = before(&site, catalog, move || {
        collect(&other, 1, &mut ()).unwrap();
    });
    assert!(compact(&slow, ALL, 1, &mut ()).unwrap().emptied.0 > 0);
    is_there(&site, &image);
    collect(&group(&site), 1, &mut ()).unwrap();
    is_there(&site, &image);
}

/// V14. Schedule: 1. a shipper folds its list, and knows of no compaction; 2. a compaction; 3. a collection plans: what the fold
/// names shows nowhere; 4. the shipper's entry, the first to list the fold; 5. the condemned entry.
#[test]
fn a_fold_that_is_listed_behind_a_plan_is_looked_at() {
    let site = Site::memory();
    let image = worn(&site);
    let shipper = group(&site);
    let head = shipper.head(0).unwrap();
    let newest = (1..=head).rev().map(|seq| shipper.entry_at(seq).unwrap());
    let newest = newest.into_iter().find(|entry| entry.content().is_some()).unwrap();
    let mut content = newest.content().unwrap().clone();
    let mut folder = Folder::new(&shipper, newest.header.epoch, 2, 1 << 20);
    while folder.step(&mut content, &mut Unlisted::default()) {}
    assert!(content.disks[0].indexes.iter().any(|index| index.level > 0), "{content:?}");
    assert!(compact(&group(&site), ALL, 1, &mut ()).unwrap().emptied.0 > 0);
    let base = newest.header.seq;
    let put = move || publish(&shipper, base, &content);
    let condemned = |call: &Call<'_>| call.is_put() && call.name.contains("/log/");
    collect(&before(&site, condemned, put), 1, &mut ()).unwrap();
    is_there(&site, &image);
}

/// A point over the entry `base`, behind everything that is there.
fn publish(group: &Group, base: u64, content: &Content) {
    let last = group.entry_header(group.head(0).unwrap()).unwrap().unwrap();
    let payload = Payload::Content(content.clone());
    let (kind, cut, attached) = (EntryKind::Point, CutId::random(), Vec::new());
    let draft = Draft { kind, cut, time_ns: 1, base, attached, payload };
    let put = group.append(Some(last.reference()), last.epoch, &draft).unwrap();
    assert!(matches!(put, Appended::Ours(_)), "{put:?}");
}
