//! Restores through real files.

use super::*;
use crate::store::Store;
use crate::store::scripted::{Mood, Scripted, What};
use crate::vault::entry::EntryKind;
use crate::vault::sample::{BLOCK, Change, Cycle, World, disk_id, secrets, simple};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use towline_tracker::id::CutId;

fn request(to: &Path) -> Request {
    Request {
        group: "db".into(),
        disk: None,
        point: Wanted::Latest,
        to: to.to_owned(),
        how: How::default(),
        jobs: 3,
    }
}

fn forced() -> How {
    How { force: true, ..How::default() }
}

fn quietly(world: &World, request: &Request) -> Result<Restored> {
    restore(&world.vault, request, &|_, _| {})
}

/// Two disks, one of them large and sparse, in several packs, with checkpoints and a fuzzy cycle between.
fn busy() -> World {
    let mut world = World::new();
    for round in 0..6u64 {
        let mut changes: BTreeMap<u64, Change> =
            (0..90).map(|n| (n * 7 + round, Change::Noise(n ^ round << 32))).collect();
        changes.extend((0..30).map(|n| (n * 11 + round, Change::Zero)));
        changes.insert(2_500, Change::Text(round as u8));
        let second = (0..20).map(|n| (n, Change::Text(n as u8 ^ round as u8))).collect();
        let cycle: Cycle = [(3_000 * BLOCK as u64 + 1024, changes), (20 * BLOCK as u64, second)];
        match round {
            3 => drop(world.publish(&cycle, CutId::random(), EntryKind::Fuzzy, 40)),
            4 => drop(world.publish(&cycle, CutId::random(), EntryKind::Point, 40)),
            _ => drop(world.cycle(&cycle)),
        }
    }
    world
}

#[test]
fn every_point_restores_to_what_the_disks_were_sparse_and_bounded() {
    let world = busy();
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(world.points.len(), 5);
    for (n, (id, disks)) in world.points.iter().enumerate() {
        let to = folder.path().join(format!("{n}"));
        let restored =
            quietly(&world, &Request { point: Wanted::Id(id.to_string()), ..request(&to) }).unwrap();
        assert_eq!(restored.point.id, *id);
        for (disk, model) in restored.disks.iter().zip(disks) {
            assert!(fs::read(&disk.path).unwrap() == *model, "{id} {}", disk.name);
            let meta = fs::metadata(&disk.path).unwrap();
            assert!(meta.blocks() * 512 <= 4 << 20, "{} is sparse: {} sectors", disk.name, meta.blocks());
            assert_eq!(meta.mode() & 0o777, 0o600);
            // What is fetched is the image's, frames with little that lives included, not the history's.
            assert!(disk.fetched_bytes < 4 << 20, "{}", disk.fetched_bytes);
        }
        assert_eq!(fs::read_dir(&to).unwrap().count(), 2, "nothing else");
    }
}

#[test]
fn one_disk_is_chosen_by_name_or_id() {
    let world = busy();
    let folder = tempfile::tempdir().unwrap();
    for (n, disk) in ["disk1.raw".to_owned(), disk_id(1).to_string()].into_iter().enumerate() {
        let to = folder.path().join(format!("{n}.raw"));
        quietly(&world, &Request { disk: Some(disk), ..request(&to) }).unwrap();
        assert!(fs::read(&to).unwrap() == world.points.last().unwrap().1[1]);
    }
    let to = folder.path().join("x");
    let error = quietly(&world, &Request { disk: Some("sda".into()), ..request(&to) }).unwrap_err();
    assert_eq!(error.kind(), Kind::GroupNotFound);
    assert!(error.line().contains("disk0.raw"), "{}", error.line());
}

#[test]
fn nothing_is_replaced_without_force_and_everything_with_it() {
    let mut world = World::new();
    world.cycle(&simple([(1, Change::Noise(1))]));
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("d.raw");
    let one = Request { disk: Some("disk0.raw".into()), ..request(&to) };
    fs::write(&to, "precious").unwrap();
    assert_eq!(quietly(&world, &one).unwrap_err().kind(), Kind::OutputExists);
    assert_eq!(fs::read(&to).unwrap(), b"precious");
    quietly(&world, &Request { how: forced(), ..one.clone() }).unwrap();
    assert!(fs::read(&to).unwrap() == world.points[0].1[0]);
    // A folder is no file, and a file no folder, with or without force.
    for force in [false, true] {
        let to = folder.path().to_owned();
        let how = How { force, ..How::default() };
        let error = quietly(&world, &Request { to, how: how.clone(), ..one.clone() }).unwrap_err();
        assert_eq!(error.kind(), Kind::OutputExists);
        let error = quietly(&world, &Request { disk: None, how, ..one.clone() }).unwrap_err();
        assert_eq!(error.kind(), Kind::OutputExists, "{}", error.line());
    }
    // Into a folder that is there, beside other files; a second time not.
    fs::create_dir(folder.path().join("all")).unwrap();
    fs::write(folder.path().join("all/other"), "x").unwrap();
    let all = request(&folder.path().join("all"));
    quietly(&world, &all).unwrap();
    assert_eq!(quietly(&world, &all).unwrap_err().kind(), Kind::OutputExists);
    quietly(&world, &Request { how: forced(), ..all }).unwrap();
    assert_eq!(fs::read_dir(folder.path().join("all")).unwrap().count(), 3);
}

#[test]
fn a_failed_restore_leaves_nothing_and_harms_nothing() {
    let mut world = busy();
    world.pack_size = 1 << 16;
    let folder = tempfile::tempdir().unwrap();
    let packs = world.store.list("groups/", "", 1000).unwrap();
    let pack = packs.iter().rfind(|object| object.name.ends_with(".pack")).unwrap();
    let mut bytes = world.store.get(&pack.name, 1 << 30).unwrap();
    bytes[100] ^= 4;
    world.store.overwrite(&pack.name, bytes);
    let failing: Vec<_> = world
        .points
        .iter()
        .filter(|(id, _)| {
            let point = Wanted::Id(id.to_string());
            let to = folder.path().join("new");
            let result = quietly(&world, &Request { point: point.clone(), ..request(&to) });
            if result.is_ok() {
                fs::remove_dir_all(&to).unwrap();
                return false;
            }
            let error = result.unwrap_err();
            assert_eq!(error.kind(), Kind::Damage);
            assert!(error.line().contains(&pack.name), "{}", error.line());
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "no folder, no file, no leftover");
            let old = folder.path().join("old.raw");
            fs::write(&old, "old").unwrap();
            let forced = Request { disk: Some("disk0.raw".into()), point, how: forced(), ..request(&old) };
            assert!(quietly(&world, &forced).is_err());
            assert_eq!(fs::read(&old).unwrap(), b"old");
            fs::remove_file(&old).unwrap();
            true
        })
        .collect();
    assert!(!failing.is_empty());
}

#[test]
fn names_from_the_vault_never_lead_out_of_the_folder() {
    let to = Path::new("/srv/out");
    let disk = |name: &str, n| DiskImage {
        id: disk_id(n),
        name: name.into(),
        size: 0,
        block_shift: 12,
        indexes: Vec::new(),
    };
    for name in ["../x", "/etc/passwd", "a/b", "..", ".", "", "a/", "a\0b"] {
        let disks = [disk(name, 0), disk("good.raw", 1)];
        let paths = paths(&disks.iter().collect::<Vec<_>>(), to, true).unwrap();
        assert_eq!(paths, [to.join(disk_id(0).to_string()), to.join("good.raw")], "{name:?}");
    }
    let twins = [disk("same", 0), disk("same", 1)];
    let paths = paths(&twins.iter().collect::<Vec<_>>(), to, true).unwrap();
    assert_eq!(paths, [to.join("same"), to.join(disk_id(1).to_string())]);
    // One that is called as the id that another one gives way to: never two of one name.
    let id = |n| to.join(disk_id(n).to_string());
    let mut hostile = [disk("a/b", 0), disk(&disk_id(0).to_string(), 1)];
    assert_eq!(super::paths(&hostile.iter().collect::<Vec<_>>(), to, true).unwrap(), [id(0), id(1)]);
    hostile.reverse();
    let error = super::paths(&hostile.iter().collect::<Vec<_>>(), to, true).unwrap_err();
    assert!(error.line().contains("--disk"), "{}", error.line());
}

#[test]
fn what_can_not_fit_is_refused_before_anything_is_fetched() {
    let world = busy();
    let entry = world.group.entry_at(world.group.head(0).unwrap()).unwrap();
    let reader = Arc::new(Reader::new(world.group.clone(), CACHE));
    let images: Vec<_> = entry
        .content()
        .unwrap()
        .disks
        .iter()
        .map(|disk| Image::open(reader.clone(), disk).unwrap())
        .collect();
    let data: usize = images
        .iter()
        .flat_map(|image| (0..2).map(|n| image.window(n << 19, 1 << 19).unwrap().data_blocks()))
        .sum();
    let exact = (data * BLOCK) as u64;
    let bound: u64 = images.iter().map(Image::data_blocks_bound).sum::<u64>() * BLOCK as u64;
    assert!(exact < bound, "blocks lie over one another");
    assert!(check_space(&images, exact).is_ok(), "counted exactly where the bound does not fit");
    assert_eq!(check_space(&images, exact - 1).unwrap_err().kind(), Kind::NoSpace);
}

#[test]
fn what_was_on_a_device_is_gone_where_the_disk_has_zeros() {
    let mut world = World::new();
    world.cycle(&simple([
        (1, Change::Noise(1)),
        (5, Change::Text(1)),
        (39, Change::Noise(2)),
        (40, Change::Noise(3)),
    ]));
    world.cycle(&simple([(5, Change::Zero)]));
    let entry = world.group.entry_at(world.group.head(0).unwrap()).unwrap();
    let reader = Arc::new(Reader::new(world.group.clone(), CACHE));
    let image = Image::open(reader, &entry.content().unwrap().disks[0]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("device");
    let model = &world.points[1].1[0];
    fs::write(&path, vec![0xaa; model.len() + 5000]).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let output = Output::in_place(file, &path, &How::default());
    copy::copy(&image, world.group.hasher(), &output, 2, 7, &|_| {}).unwrap();
    let found = fs::read(&path).unwrap();
    assert!(found[..model.len()] == **model);
    assert!(found[model.len()..].iter().all(|byte| *byte == 0xaa), "beyond the disk nothing is touched");
}

/// The vault of a world behind a store that is away from the n-th read of a pack on.
fn away_after(world: &World, reads: usize) -> Vault {
    let left = std::sync::atomic::AtomicUsize::new(reads);
    let store = Scripted::new(world.store.clone(), move |call| {
        let pack = matches!(call.what, What::Range { .. }) && call.name.ends_with(".pack");
        let spent = pack
            && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err();
        if spent { Mood::Fail(crate::store::StoreErrorKind::Transient) } else { Mood::Good }
    });
    Vault::open_with(store, &secrets()).unwrap()
}

/// Goal: an interrupted restore goes on with what it has, whatever became of that, and never hands out a wrong byte. Method:
/// the store goes away after n reads, for each n; then the same, and other points, are restored over what is left, of
/// which bytes were spoilt meanwhile (as by a power cut, which keeps what it likes).
#[test]
fn an_interrupted_restore_goes_on_and_believes_nothing_but_hashes() {
    let world = busy();
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("all");
    let resume = How { resume: true, ..How::default() };
    let whole = quietly(&world, &request(&folder.path().join("whole"))).unwrap();
    let fetched = |restored: &Restored| restored.disks.iter().map(|disk| disk.fetched_bytes).sum::<u64>();
    let kept = |restored: &Restored| restored.disks.iter().map(|disk| disk.kept_bytes).sum::<u64>();
    let mut less = 0;
    for (round, (point, disks)) in (0..8).zip(world.points.iter().rev().cycle()) {
        let away = away_after(&world, round);
        let interrupted = Request { how: resume.clone(), jobs: 1, ..request(&to) };
        let error = restore(&away, &interrupted, &|_, _| {}).unwrap_err();
        assert!(error.kind() == Kind::Unreachable && error.line().contains("to go on"), "{}", error.line());
        let left = || fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().path());
        assert_eq!(left().count(), 2, "one for each disk, under no disk's name");
        if round % 3 == 2 {
            for part in left() {
                let length = fs::metadata(&part).unwrap().len();
                let file = fs::OpenOptions::new().write(true).open(part).unwrap();
                std::os::unix::fs::FileExt::write_all_at(&file, &[0xaa; 3 * BLOCK], 2 * BLOCK as u64)
                    .unwrap();
                file.set_len(length / 2).unwrap();
            }
        }
        let again = Request { point: Wanted::Id(point.to_string()), how: resume.clone(), ..request(&to) };
        let restored = quietly(&world, &again).unwrap();
        for (disk, model) in restored.disks.iter().zip(disks) {
            assert!(fs::read(&disk.path).unwrap() == *model, "round {round}, {}", disk.name);
            let meta = fs::metadata(&disk.path).unwrap();
            assert!(meta.blocks() * 512 <= 4 << 20, "{} is sparse", disk.name);
        }
        assert_eq!(fs::read_dir(&to).unwrap().count(), 2, "nothing is left");
        less += u64::from(round == 7 && kept(&restored) > 0 && fetched(&restored) < fetched(&whole));
        fs::remove_dir_all(&to).unwrap();
    }
    assert_eq!(less, 1, "what was there was fetched again");
    // Who does not want to go on begins anew, and leaves nothing.
    restore(&away_after(&world, 5), &Request { how: resume.clone(), ..request(&to) }, &|_, _| {})
        .unwrap_err();
    let error = restore(&away_after(&world, 5), &request(&to), &|_, _| {}).unwrap_err();
    assert!(!error.line().contains("to go on"), "{}", error.line());
    assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    // What fails for good leaves nothing for another try, which would fail too.
    restore(&away_after(&world, 5), &Request { how: resume.clone(), ..request(&to) }, &|_, _| {})
        .unwrap_err();
    for object in world.store.list("groups/", "", 1000).unwrap() {
        let mut bytes = world.store.get(&object.name, 1 << 30).unwrap();
        if object.name.ends_with(".pack") {
            bytes[64..].iter_mut().step_by(500).for_each(|byte| *byte ^= 4);
        }
        world.store.overwrite(&object.name, bytes);
    }
    let error = quietly(&world, &Request { how: resume, ..request(&to) }).unwrap_err();
    assert_eq!(error.kind(), Kind::Damage, "{}", error.line());
    assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
}

/// A device has no name to withhold: a note says that a restore was begun there.
#[test]
fn a_restore_into_a_device_goes_on_by_a_note() {
    let world = busy();
    let folder = tempfile::tempdir().unwrap();
    let (path, notes) = (folder.path().join("device"), folder.path().join("state/restores"));
    let model = &world.points.last().unwrap().1[0];
    fs::write(&path, vec![0xaa; model.len() + 5000]).unwrap();
    let how = How { force: true, resume: true, notes: Some(notes.clone()) };
    let into = |vault: &Vault, how: &How| {
        let content = world.base.as_ref().unwrap().content.clone();
        let group = vault.group("db");
        let image = Image::open(Arc::new(Reader::new(group.clone(), CACHE)), &content.disks[0])?;
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let output = Output::in_place(file, &path, how);
        let copied = copy::copy(&image, group.hasher(), &output, 1, 700, &|_| {})?;
        output.sync()?;
        output::commit(vec![output])?;
        Ok::<_, Error>(copied)
    };
    let noted = || fs::read_dir(&notes).unwrap().count();
    let anew = How { resume: false, notes: None, force: true };
    let whole = into(&world.vault, &anew).unwrap();
    fs::write(&path, vec![0xaa; model.len() + 5000]).unwrap();
    into(&away_after(&world, 4), &how).unwrap_err();
    assert_eq!(noted(), 1);
    let rest = into(&world.vault, &how).unwrap();
    assert!(rest.kept_bytes > 0 && rest.fetched_bytes < whole.fetched_bytes, "{rest:?} of {whole:?}");
    assert_eq!(noted(), 0);
    let found = fs::read(&path).unwrap();
    assert!(found[..model.len()] == **model && found[model.len()..].iter().all(|byte| *byte == 0xaa));
    // Finished is finished: the next one looks at nothing.
    assert_eq!(into(&world.vault, &how).unwrap().kept_bytes, 0);
}

/// A pipe gets the disk in block order, whatever windows and threads there are (V12), and of a damaged one what comes
/// before the damage: nothing that is not verified.
#[test]
fn a_pipe_gets_the_disk_in_block_order_and_nothing_unverified() {
    let world = busy();
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reader = || {
        let pipe = pipe.clone();
        std::thread::spawn(move || fs::read(pipe).unwrap())
    };
    for (id, disks) in &world.points {
        for (n, model) in disks.iter().enumerate() {
            let read = reader();
            let (point, disk) = (Wanted::Id(id.to_string()), Some(format!("disk{n}.raw")));
            quietly(&world, &Request { point, disk, ..request(&pipe) }).unwrap();
            assert!(read.join().unwrap() == *model, "{id}, disk {n}");
        }
    }
    assert_eq!(quietly(&world, &request(&pipe)).unwrap_err().kind(), Kind::Usage);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing beside the pipe");

    let into_pipe = |window: usize| {
        let content = world.base.as_ref().unwrap().content.clone();
        let reader = Arc::new(Reader::new(world.group.clone(), CACHE));
        let image = Image::open(reader, &content.disks[0]).unwrap();
        let output = Output::create(&pipe, image.size(), BLOCK as u64, &How::default()).unwrap();
        copy::copy(&image, world.group.hasher(), &output, 3, window, &|_| {})
    };
    let model = &world.points.last().unwrap().1[0];
    let read = reader();
    into_pipe(7).unwrap();
    assert!(read.join().unwrap() == *model);
    let packs = world.store.list("groups/", "", 1000).unwrap();
    let pack = packs.iter().rfind(|object| object.name.ends_with(".pack")).unwrap();
    let mut bytes = world.store.get(&pack.name, 1 << 30).unwrap();
    bytes[100] ^= 4;
    world.store.overwrite(&pack.name, bytes);
    let read = reader();
    assert_eq!(into_pipe(7).unwrap_err().kind(), Kind::Damage);
    let got = read.join().unwrap();
    assert!(got.len() < model.len() && model.starts_with(&got), "{} bytes of it", got.len());
}

#[test]
fn a_disk_that_somebody_has_locked_is_not_replaced_even_with_force() {
    let mut world = World::new();
    world.cycle(&simple([(1, Change::Noise(1))]));
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("d.raw");
    fs::write(&to, vec![1; 300]).unwrap();
    let file = fs::File::open(&to).unwrap();
    let lock = libc::flock { l_type: libc::F_RDLCK as i16, l_whence: 0, l_start: 101, l_len: 1, l_pid: 0 };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    let forced = Request { disk: Some("disk0.raw".into()), how: super::tests::forced(), ..request(&to) };
    let error = quietly(&world, &forced).unwrap_err();
    assert!(error.kind() == Kind::OutputExists && error.line().contains("in use"), "{}", error.line());
    drop(file);
    quietly(&world, &forced).unwrap();
}

/// Goal: objects and bytes read for point 300 are those of its image, not of its history (V12). Method: 300 points that
/// write the same hundred blocks over and over, 6 MiB in all, and a store that counts.
#[test]
fn what_is_read_for_a_point_is_its_image_and_not_its_history() {
    let mut world = World::new();
    world.claim(false).unwrap();
    let size = 100 * BLOCK as u64;
    for round in 0..300u64 {
        // Two frames a point, each of its own place; the packs and indexes are objects, not parts of entries.
        let changes = (0..8).map(|n| ((round * 37 + n * 13) % 100, Change::Noise(round << 8 | n)));
        let cycle: Cycle = [(size, changes.collect()), (0, BTreeMap::new())];
        let header = world.publish(&cycle, CutId::random(), EntryKind::Point, 4);
        world.release(&header);
    }
    // Object and length of each read.
    let reads: Arc<Mutex<Vec<(String, usize)>>> = Arc::default();
    let seen = reads.clone();
    let store = Scripted::new(world.store.clone(), move |call| {
        let length = match call.what {
            What::Range { length, .. } => length,
            What::Get => 0,
            _ => return Mood::Good,
        };
        seen.lock().unwrap().push((call.name.to_owned(), length));
        Mood::Good
    });
    let vault = Vault::open_with(store, &secrets()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("disk");
    let wanted = Request { disk: Some("disk0.raw".into()), jobs: 1, ..request(&to) };
    reads.lock().unwrap().clear();
    let restored = restore(&vault, &wanted, &|_, _| {}).unwrap();
    assert!(fs::read(&to).unwrap() == world.points.last().unwrap().1[0]);
    let reads = std::mem::take(&mut *reads.lock().unwrap());
    // Of packs: each live frame once; a frame lives if one of the hundred blocks is still its own.
    let content = world.base.as_ref().unwrap().content.clone();
    let reader = Arc::new(Reader::new(world.group.clone(), CACHE));
    let image = Image::open(reader, &content.disks[0]).unwrap();
    let window = image.window(0, 100).unwrap();
    let live: HashSet<_> =
        window.data().map(|(_, frame, ..)| (image.pack(frame.pack).name, frame.number)).collect();
    let packs: Vec<_> = reads.iter().filter(|(name, ..)| name.ends_with(".pack")).collect();
    assert!(packs.len() <= live.len(), "{} reads of packs for {} live frames", packs.len(), live.len());
    let bytes: usize = packs.iter().map(|(_, length)| length).sum();
    assert_eq!(bytes as u64, restored.disks[0].fetched_bytes);
    let written: u64 = 300 * 8 * BLOCK as u64;
    assert!((bytes as u64) < written / 5, "{bytes} of {written} bytes written in all");
    // Of the log: the head and the point, whatever came before.
    let entries: Vec<_> = reads.iter().filter(|(name, ..)| name.contains("/log/")).collect();
    assert!(entries.len() <= 8, "{entries:?}");
    // Indexes: those that the point lists.
    let listed: HashSet<_> = content.disks[0].indexes.iter().map(|index| index.name).collect();
    let others = reads.iter().filter(|(name, ..)| !name.ends_with(".pack") && !name.contains("/log/"));
    let mut opened = HashSet::new();
    for (name, ..) in others {
        match names::parse(name) {
            Some(names::Parsed::Data { name, index: true, .. }) => {
                assert!(
                    listed.contains(&name) && opened.insert(name),
                    "{name:?} is read once, if it is listed"
                );
            }
            other => assert_eq!(other, Some(names::Parsed::Descriptor), "{name}"),
        }
    }
}
