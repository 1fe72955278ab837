//! Every known bug is killed (`make mutants`): the list is in `towline_tests::mutants`. The checks with a schedule of their
//! own are below; without a bug they are tests like others. Only the runner is for the build with the bugs alone.

use crate::prefix;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use towline::restore::{Request, restore};
use towline::store;
use towline::vault::Vault;
use towline::vault::attach::{Claimant, Decision};
use towline::vault::entry::{DiskImage, Draft, EntryKind, Payload};
use towline::vault::log::Appended;
use towline_tests::live::process::{Running, Site, Tracker, run, towline};
use towline_tests::live::room::Device;
use towline_tests::live::stamp::BLOCK;
use towline_tests::live::writer::first_content;
use towline_tests::mutants::{Death, chosen};
use towline_tracker::control::client::Client;
use towline_tracker::control::message::{Attached, DiskInfo, LiveFreeze};
use towline_tracker::frontend::nbd::client::Operation;
use towline_tracker::id::{Anchor, AttachNumber, Cut, CutId, Generation, Session, TargetId};

/// Ends a check: a claim without a bug, a death with one.
#[track_caller]
pub(crate) fn judge(oracle: &str, seen: Result<(), String>) {
    match (seen, chosen()) {
        (Ok(()), _) => {}
        (Err(what), None) => panic!("{what}"),
        (Err(what), Some(_)) => Death { by_data: true, oracle: oracle.into(), seed: None, what }.tell(),
    }
}

/// R1: what a guest overwrites, zeroes and punches while a freeze ships is as of the cut.
#[test]
fn a_freeze_is_read_as_of_its_cut() {
    let seeds = if chosen().is_some() { 8 } else { 1 };
    let seen = (1..=seeds).try_for_each(|seed| {
        prefix::run(&Site::memory(), seed, 6).and_then(|_| prefix::run(&Site::disk(), seed, 6)).map(drop)
    });
    judge("image", seen);
}

/// R1, a hole: 1. everything is frozen, and who cut it is gone; 2. the guest punches it all: the file is one hole where the
/// cut had data; 3. another shipper finishes the freeze.
#[test]
fn a_hole_that_was_punched_behind_a_cut_is_none() {
    let site = Site::disk();
    first_content(&site.first(), 0, (8 << 20) / BLOCK as u64).unwrap();
    site.init();
    let tracker = site.start(&[]);
    let before = fs::read(site.first()).unwrap();
    let mut shipper = Client::connect(&site.control()).unwrap();
    let attached = shipper.attach(TargetId([1; 16])).unwrap();
    drop(shipper.cut(attached.attach, true).unwrap());
    drop(shipper);
    let mut guest = tracker.client("").unwrap();
    for at in 0..8 {
        guest.call(&Operation::Trim { offset: at << 20, length: 1 << 20 }).unwrap();
    }
    drop(guest);
    site.once(&[]);
    let first = site.points()[0]["id"].as_str().unwrap().to_owned();
    let seen = match fs::read(site.restore(&first).remove(0)).unwrap() == before {
        true => Ok(()),
        false => Err("the point is not the instant of its cut".to_owned()),
    };
    tracker.stop();
    judge("image", seen);
}

/// V1, schedule: 1. a cycle's last pack can't be put (its folder's name is taken); 2. the shipper ends; 3. the log must not
/// hold a point that needs what never arrived.
#[test]
fn no_point_needs_a_pack_that_never_arrived() {
    let site = Site::memory();
    fs::write(site.first(), noise(1, 8 << 20)).unwrap();
    site.init();
    let tracker = site.start(&[]);
    site.once(&[]);
    tracker.client("").unwrap().write(4 << 20, &noise(2, 3 << 20)).unwrap();
    let group = fs::read_dir(site.vault().join("groups")).unwrap().next().unwrap().unwrap().path();
    let (packs, aside) = (group.join("packs"), site.path("aside"));
    fs::rename(&packs, &aside).unwrap();
    fs::write(&packs, "in the way").unwrap();
    let outcome = site.ship(&["--once"]);
    // With the bug it may have ended before it heard of the pack.
    assert!(chosen().is_some() || outcome.code != Some(0), "a pack can't be put: {}", outcome.stderr);
    fs::remove_file(&packs).unwrap();
    fs::rename(&aside, &packs).unwrap();
    let verified = towline(["verify", "--vault", site.vault().to_str().unwrap()]);
    let seen = match verified.code {
        Some(0) => Ok(()),
        code => Err(format!("a point can't be restored: verify ends with {code:?}: {}", verified.stderr)),
    };
    if seen.is_ok() {
        site.once(&[]);
        site.latest_is_the_disk();
    }
    tracker.stop();
    judge("image", seen);
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length / 8).flat_map(|_| word()).collect()
}

/// S2: a second tracker does not serve a disk; if one did, it would not know of the first one's writes.
#[test]
fn a_second_tracker_keeps_off_a_served_disk() {
    let site = Site::disk();
    first_content(&site.first(), 0, 1024).unwrap();
    site.init();
    let tracker = site.start(&[]);
    let (socket, control) = (site.path("n2"), site.path("c2"));
    let mut command = Command::new(site.programs.join("towline-tracker"));
    command.arg("--disk").arg(site.first()).arg("--nbd").arg(format!("unix:{}", socket.display()));
    command.arg("--control").arg(&control).envs(site.environment.iter().cloned());
    let mut second = Running::new(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    while second.ended().is_none() && !control.exists() {
        std::thread::yield_now();
    }
    let seen = if second.ended().is_some() { Ok(()) } else { shipped_by(&site, &control, &tracker) };
    drop(second);
    if seen.is_ok() {
        tracker.stop();
    }
    judge("image", seen);
}

/// What is written through the first tracker is in the points of the second.
fn shipped_by(site: &Site, control: &Path, first: &Tracker) -> Result<(), String> {
    let ship = || {
        let like = site.ship_command(&["--once"]);
        let mut command = Command::new(like.get_program());
        command.args(like.get_args().map(|argument| match argument == site.control().as_os_str() {
            true => control.as_os_str(),
            false => argument,
        }));
        run(&mut command)
    };
    ship().good();
    first.client("").unwrap().write(0, &[7; 4 * BLOCK]).unwrap();
    // The self-audit compares what did not change with the vault: it may be the first to see it.
    let shipped = ship();
    if shipped.code != Some(0) {
        return Err(shipped.stderr);
    }
    let restored = site.restore("latest").remove(0);
    match fs::read(restored).unwrap() == fs::read(site.first()).unwrap() {
        true => Ok(()),
        false => Err("the newest point lacks what was written through the first tracker".into()),
    }
}

/// W9: a request that is no multiple of the disk's unit is refused and changes nothing, or it is done whole.
#[test]
fn a_ragged_request_is_refused_or_done_whole() {
    let site = Site::disk();
    fs::write(site.first(), vec![7; 1 << 20]).unwrap();
    let tracker = site.start(&[]);
    let mut client = tracker.client("").unwrap();
    let done = client.call(&Operation::Zero { offset: 0, length: 4096 + 100, may_punch: false }).is_ok();
    let found = client.read(0, 8192).unwrap();
    let expected = if done { 0 } else { 7 };
    let seen = match found[..4096 + 100].iter().all(|byte| *byte == expected) {
        true => Ok(()),
        false => Err(format!("told {done}, but it is not so")),
    };
    drop(client);
    tracker.stop();
    judge("disk", seen);
}

/// V12: what an interrupted restore left may be of another point, or what a power cut made of it.
#[test]
fn a_restore_that_goes_on_believes_hashes_alone() {
    let site = Site::memory();
    let length = 1 << 20;
    fs::write(site.first(), vec![9; length]).unwrap();
    site.init();
    let tracker = site.start(&[]);
    site.once(&[]);
    tracker.stop();
    let (to, part) = (site.path("to"), site.path(&format!(".to.{}.part", "ab".repeat(16))));
    fs::write(&part, vec![7; length]).unwrap();
    fs::set_permissions(&part, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let vault = Vault::open(store::open(site.vault().to_str().unwrap()).unwrap()).unwrap();
    let request = Request {
        group: site.group(),
        disk: None,
        point: "latest".parse().unwrap(),
        to: to.clone(),
        how: towline::restore::output::How { resume: true, ..Default::default() },
        jobs: 1,
    };
    restore(&vault, &request, &|_, _| {}).unwrap();
    assert!(!part.exists(), "it was not gone on with");
    let seen = match fs::read(&to).unwrap() == vec![9; length] {
        true => Ok(()),
        false => Err("the file has bytes that the point does not have".to_owned()),
    };
    judge("image", seen);
}

/// V12: what was on a device before a restore is gone.
#[test]
fn a_restore_leaves_nothing_of_what_was_there() {
    let site = Site::disk();
    let length = 4 << 20;
    let mut content = vec![0; length];
    content[length / 2..].fill(9);
    fs::write(site.first(), &content).unwrap();
    site.init();
    let tracker = site.start(&[]);
    site.once(&[]);
    tracker.stop();
    let device = Device::new(&vec![0xff; length]);
    let vault = Vault::open(store::open(site.vault().to_str().unwrap()).unwrap()).unwrap();
    let request = Request {
        group: site.group(),
        disk: None,
        point: "latest".parse().unwrap(),
        to: device.path().into(),
        how: towline::restore::output::How { force: true, ..Default::default() },
        jobs: 1,
    };
    restore(&vault, &request, &|_, _| {}).unwrap();
    let seen = match device.content() == content {
        true => Ok(()),
        false => Err("the device has bytes that the point does not have".to_owned()),
    };
    judge("image", seen);
}

/// V10, schedule: 1. a cut is frozen, and the memory of its host is copied; 2. the copy publishes a fuzzy entry of that cut, of what it
/// found on its own disk since; 3. the original attaches, with the same freeze. Its pending blocks are to be shipped over that entry, not
/// released with it.
#[test]
fn a_copys_fuzzy_entry_is_not_taken_for_ours() {
    let site = Site::memory();
    first_content(&site.first(), 0, 64).unwrap();
    site.init();
    let tracker = site.start(&[]);
    site.once(&[]);
    tracker.stop();
    let vault = Vault::open(store::open(site.vault().to_str().unwrap()).unwrap()).unwrap();
    let group = vault.group(&site.group());
    let point = group.entry_at(group.head(0).unwrap()).unwrap();
    let content = point.content().unwrap().clone();
    let (cut, id) = (Cut { id: CutId::random(), time_ns: point.header.time_ns + 1 }, vault.id());
    let disk = |disk: &DiskImage| DiskInfo {
        id: disk.id,
        name: disk.name.clone(),
        size: disk.size,
        block_shift: disk.block_shift,
        resync: None,
    };
    let attached = |live| Attached {
        attach: AttachNumber(9),
        group: site.group(),
        session: Session(9),
        disks: content.disks.iter().map(disk).collect(),
        anchor: Some(Anchor { vault: id, seq: point.header.seq, hash: point.header.hash() }),
        live,
        vouched: vec![cut],
    };
    let claimant = Claimant { host: "host".into(), target: TargetId(id.0), time_ns: 1 };
    let claim = |live| group.claim(&attached(live), &claimant, false, &mut || Ok(())).unwrap();
    let copy = claim(None).claim;
    let fuzzy = Draft {
        kind: EntryKind::Fuzzy,
        cut: cut.id,
        time_ns: cut.time_ns,
        base: point.header.seq,
        attached: Vec::new(),
        payload: Payload::Content(content.clone()),
    };
    let put = group.append(Some(copy.reference()), copy.seq, &fuzzy).unwrap();
    let Appended::Ours(put) = put else { panic!("nobody else puts: {put:?}") };
    let live = |shipped| LiveFreeze {
        cut: cut.id,
        generation: Generation(1),
        time_ns: cut.time_ns,
        sealed: true,
        fuzzy: false,
        shipped,
    };
    let decision = |shipped| claim(Some(live(shipped))).decision;
    let seen = match decision([0; 32]) {
        Decision::Delta(base) if base.header.seq == put.seq => Ok(()),
        other => Err(format!("the freeze is given up for what the copy found: {other:.60?}")),
    };
    judge("image", seen);
    // What its own shipper told of is its own.
    assert!(matches!(decision(put.hash()), Decision::Adopt(_)));
}

/// Each mutant of the list is killed by what data show.
#[cfg(feature = "mutants")]
#[test]
fn every_mutant_is_killed() {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::time::{Duration, Instant};
    use towline_tests::mutants::{By, MUTANTS, Outcome, kill, row, seed_in, table};

    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("MUTANTS.md");
    let known = fs::read_to_string(&place).unwrap_or_default();
    let chosen = std::env::var("TOWLINE_ONLY").ok().filter(|only| !only.is_empty());
    let list =
        MUTANTS.iter().enumerate().filter(|(_, one)| chosen.as_deref().is_none_or(|only| only == one.name));
    let queue: Mutex<VecDeque<_>> = Mutex::new(list.collect());
    let (rows, alive) = (Mutex::new(vec![String::new(); MUTANTS.len()]), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let Some((place, mutant)) = queue.lock().unwrap().pop_front() else { return };
            let begun = Instant::now();
            let outcome = match mutant.by {
                // `make models` runs it, and fails if the bug is not found.
                By::Model(_) => Outcome {
                    killed: Some(Death {
                        by_data: true,
                        oracle: "image".into(),
                        seed: None,
                        what: String::new(),
                    }),
                    others: Vec::new(),
                    took: Duration::ZERO,
                },
                By::Seeds(test) => {
                    kill(mutant, test, seed_in(&known, mutant.name), 20_000, Duration::from_secs(600))
                }
                By::Test(test) => kill(mutant, test, None, 1, Duration::from_secs(300)),
            };
            println!(
                "{:7.1} s {}: {:?} {:?}",
                begun.elapsed().as_secs_f64(),
                mutant.name,
                outcome.killed,
                outcome.others.first()
            );
            match outcome.killed {
                Some(death) => rows.lock().unwrap()[place] = row(mutant, &death),
                None => alive.lock().unwrap().push(mutant.name),
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let alive = alive.into_inner().unwrap();
    assert!(alive.is_empty(), "nothing kills {alive:?}");
    if chosen.is_none() {
        fs::write(&place, table(&rows.into_inner().unwrap())).unwrap();
    }
}
