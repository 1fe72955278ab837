//! Points are let go and their space is freed, by the real programs: in folders and buckets, beside shippers and restores.

use crate::mutants::judge;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use towline::points::Wanted;
use towline::restore::{Request, restore};
use towline::retention::collect::collect;
use towline::retention::policy::Policy;
use towline::retention::prune::plan;
use towline::store;
use towline::vault::Vault;
use towline::vault::attach::{Base, Claimant, Decision};
use towline::vault::entry::{DiskImage, Draft, EntryKind, Payload};
use towline::vault::log::Appended;
use towline_tests::live::process::{Outcome, Site, until};
use towline_tests::live::servers::Server;
use towline_tests::live::stamp::BLOCK;
use towline_tracker::control::message::{Attached, DiskInfo};
use towline_tracker::id::{AttachNumber, CutId, Session, TargetId};

/// A command on the site's only group.
pub(crate) fn command(site: &Site, words: &[&str], more: &[&str]) -> Outcome {
    let (group, vault) = (site.group(), site.vault());
    let place = ["--group", &group, "--vault", vault.to_str().unwrap()];
    site.towline(words.iter().chain(&place).chain(more))
}

pub(crate) fn prune(site: &Site, more: &[&str]) -> Value {
    command(site, &["prune", "--json", "--max-repack-size", "0"], more).good().json()["groups"][0].clone()
}

pub(crate) fn ids(site: &Site) -> Vec<String> {
    site.points().iter().map(|point| point["id"].as_str().unwrap().to_owned()).collect()
}

pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Bytes that don't compress: megabyte `place` of a disk in its `turn`-th version.
pub(crate) fn megabyte(turn: u64, place: u64) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    let seed = turn << 32 | place;
    for (n, word) in (0u64..).zip(bytes.chunks_exact_mut(8)) {
        word.copy_from_slice(
            &(seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes(),
        );
    }
    bytes
}

/// Ships `turns` points of a disk of 8 MiB, each of which overwrites half of it, and a little one between; each point with
/// the disk as it was.
fn grow(site: &Site, turns: u64) -> Vec<(String, Vec<u8>)> {
    fs::write(site.first(), (0..8).flat_map(|place| megabyte(0, place)).collect::<Vec<_>>()).unwrap();
    site.init();
    let tracker = site.start(&[]);
    let mut client = tracker.client("").unwrap();
    let mut points = Vec::new();
    for turn in 1..=turns {
        for place in (0..8).filter(|place| (place + turn) % 2 == 0) {
            client.write(place << 20, &megabyte(turn, place)).unwrap();
        }
        for little in [false, true] {
            if little {
                client.write(turn * BLOCK as u64, &[turn as u8; BLOCK]).unwrap();
            }
            client.flush().unwrap();
            let id = site.once(&["--pack-size", "1MiB"])["id"].as_str().unwrap().to_owned();
            points.push((id, fs::read(site.first()).unwrap()));
        }
    }
    tracker.stop();
    points
}

#[track_caller]
fn are_there(site: &Site, points: &[(String, Vec<u8>)]) {
    for (id, image) in points {
        assert!(fs::read(&site.restore(id)[0]).unwrap() == *image, "point {id}");
    }
    for depth in ["all", "sample", "structure"] {
        let verified = command(site, &["verify", "--json", "--depth", depth], &[]).good().json();
        assert_eq!((&verified["sound"], &verified["depth"]), (&Value::Bool(true), &Value::from(depth)));
    }
    assert_eq!(ids(site), points.iter().map(|point| point.0.clone()).collect::<Vec<_>>());
}

fn points_are_let_go_at(site: &Site) {
    let points = grow(site, 5);
    are_there(site, &points);
    command(site, &["points", "pin", &points[1].0], &[]).good();
    let would = prune(site, &["--keep-last", "3", "--dry-run"]);
    are_there(site, &points);
    let done = prune(site, &["--keep-last", "3"]);
    for what in ["points", "objects_deleted", "bytes_deleted"] {
        assert_eq!(would[what], done[what], "a dry run says what is done");
    }
    // Half of the disk was overwritten in all of them.
    assert!(number(&done["bytes_deleted"]) > 4 << 20, "{done}");
    let left: Vec<_> = [1, 7, 8, 9].map(|at| points[at].clone()).into();
    are_there(site, &left);
    assert_eq!(site.points()[0]["pinned"], true);
    let gone = command(site, &["restore", "--point", &points[4].0, "--to", "/dev/null", "--force"], &[]);
    assert_eq!(gone.code, Some(6), "{}", gone.stderr);
    command(site, &["points", "unpin", &points[1].0], &[]).good();
    assert!(number(&prune(site, &["--keep-daily", "1"])["bytes_deleted"]) > 0);
    are_there(site, &left[2..]);
    let again = prune(site, &["--keep-daily", "1"]);
    assert_eq!(number(&again["objects_deleted"]), 0, "{again}");
    // And it goes on.
    let tracker = site.start(&[]);
    tracker.client("").unwrap().write(0, &[9; BLOCK]).unwrap();
    site.once(&[]);
    site.latest_is_the_disk();
    tracker.stop();
}

#[test]
fn points_are_let_go_in_a_folder() {
    points_are_let_go_at(&Site::memory());
}

#[test]
fn points_are_let_go_in_an_s3_bucket() {
    let server = Server::s3();
    let mut site = Site::memory();
    site.url = Some(server.url("vaults/one"));
    site.environment = server.environment();
    points_are_let_go_at(&site);
}

#[test]
fn points_are_let_go_in_an_azure_container() {
    let server = Server::azurite();
    let mut site = Site::memory();
    site.url = Some(server.url("vaults/one"));
    site.environment = server.environment();
    points_are_let_go_at(&site);
}

/// F38: prunes and collections one after another, beside a running shipper, a guest that writes, and a restore of the newest point.
#[test]
fn a_shipper_and_its_collector_do_not_disturb_each_other() {
    let site = Site::memory();
    fs::write(site.first(), (0..8).flat_map(|place| megabyte(0, place)).collect::<Vec<_>>()).unwrap();
    site.init();
    let tracker = site.start(&[]);
    let mut client = tracker.client("").unwrap();
    site.once(&[]);
    let mut shipper = site.shipper("shipper", &["--every", "1s", "--pack-size", "1MiB", "--memory", "64MiB"]);
    let newest = || ids(&site).last().unwrap().clone();
    for turn in 1..=6 {
        let before = newest();
        for place in (0..8).filter(|place| (place + turn) % 3 == 0) {
            client.write(place << 20, &megabyte(turn, place)).unwrap();
        }
        until("another point", || {
            prune(&site, &["--keep-last", "1"]);
            newest() != before
        });
        site.restore("latest");
    }
    assert!(shipper.ended().is_none(), "it was not disturbed");
    shipper.signal(libc::SIGTERM);
    shipper.wait();
    site.once(&[]);
    site.latest_is_the_disk();
    prune(&site, &["--keep-last", "1"]);
    let verified = command(&site, &["verify", "--json"], &[]).good().json();
    assert_eq!((&verified["sound"], number(&verified["groups"][0]["orphans"])), (&Value::Bool(true), 0));
    assert!(site.points().len() <= 3, "{}", site.points().len());
    tracker.stop();
}

#[test]
fn a_prune_without_a_rule_and_a_damaged_log_let_nothing_go() {
    let site = Site::memory();
    let points = grow(&site, 2);
    let none = command(&site, &["prune"], &[]);
    assert!(none.code == Some(2) && none.stderr.contains("--keep-last"), "{}", none.stderr);
    let entry = find(&site.vault(), "log").into_iter().nth(2).expect("an entry");
    let file = fs::File::options().read(true).write(true).open(&entry).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 100).unwrap();
    for words in [&["prune", "--keep-last", "1"][..], &["collect"]] {
        let refused = command(&site, words, &[]);
        assert!(refused.code == Some(9) && refused.stderr.contains("verify"), "{}", refused.stderr);
    }
    file.write_all_at(&byte, 100).unwrap();
    are_there(&site, &points);
}

/// V14, schedule: 1. a prune has looked at the log, and is about to let a point go; 2. a claim over that point, as a failover
/// makes it; 3. the prune's catalog is put; 4. a collection; 5. the claim's shipper, which has heard of none of it, publishes over
/// the point.
#[test]
fn a_claim_over_a_point_that_is_let_go_just_then_keeps_what_it_needs() {
    let site = Site::memory();
    let points = grow(&site, 3);
    let vault = Vault::open(store::open(site.vault().to_str().unwrap()).unwrap()).unwrap();
    let group = vault.group(&site.group());
    let policy = Policy { last: 2, ..Policy::default() };
    let pruning = plan(&vault, &group, &policy, &jiff::tz::TimeZone::UTC, 1).unwrap();
    let first = &pruning.verdicts[0];
    assert!(first.reasons.is_empty() && first.point.id.to_string() == points[0].0);
    let entry = group.entry_at(first.point.seq).unwrap();
    let base = Base { header: entry.header, content: entry.content().unwrap().clone() };
    let disk = |disk: &DiskImage| DiskInfo {
        id: disk.id,
        name: disk.name.clone(),
        size: disk.size,
        block_shift: disk.block_shift,
        resync: None,
    };
    let attached = Attached {
        attach: AttachNumber(9),
        group: site.group(),
        session: Session(9),
        disks: base.content.disks.iter().map(disk).collect(),
        anchor: None,
        live: None,
        vouched: Vec::new(),
    };
    let claimant = Claimant { host: "other".into(), target: TargetId([1; 16]), time_ns: 1 };
    let last = || group.entry_header(group.head(0).unwrap()).unwrap().unwrap().reference();
    let put = |epoch, draft: &Draft| match group.append(Some(last()), epoch, draft).unwrap() {
        Appended::Ours(header) => header,
        Appended::Theirs(header) => panic!("nobody else puts: {header:?}"),
    };
    let claim = put(0, &Decision::Delta(base.clone()).claim(&attached, &claimant, CutId::random()));
    assert!(group.put_catalog(&pruning.catalog).unwrap());
    collect(&group, 1, &mut ()).unwrap();
    let over = Draft {
        kind: EntryKind::Point,
        cut: CutId::random(),
        time_ns: 1,
        base: base.header.seq,
        attached: Vec::new(),
        payload: Payload::Content(base.content),
    };
    put(claim.seq, &over);
    let to = site.path("over");
    let request = Request {
        group: site.group(),
        disk: None,
        point: Wanted::Latest,
        to: to.clone(),
        how: Default::default(),
        jobs: 1,
    };
    let seen = restore(&vault, &request, &|_, _| {}).map_err(|error| error.line());
    judge(
        "image",
        seen.and_then(|_| match fs::read(&to).unwrap() == points[0].1 {
            true => Ok(()),
            false => Err("it is not what it was made over".to_owned()),
        }),
    );
}

/// The files of a kind, in the order of their names.
fn find(vault: &Path, kind: &str) -> Vec<std::path::PathBuf> {
    let group = fs::read_dir(vault.join("groups")).unwrap().next().unwrap().unwrap().path();
    let mut files: Vec<_> =
        fs::read_dir(group.join(kind)).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}
