use super::super::files::{intents_name, read_logs, renewed_intents_name};
use super::super::folder::Directory;
use super::*;
use crate::disk::Disk;
use crate::disk::geometry::Geometry;
use crate::format::changes::Encoder;
use crate::map::Words;
use std::cell::RefCell;
use std::rc::Rc;

const DISK: DiskId = DiskId([3; 16]);
const BLOCKS: u64 = 256;
const SESSION: Session = Session(2);

/// A disk that nothing is wrong with.
struct Facts {
    sidecar: Directory,
    /// The logs that the meta listed when the mark was cleared.
    listed: Rc<RefCell<Vec<PendingLog>>>,
}

impl DiskFacts for Facts {
    fn fingerprint(&self) -> io::Result<Fingerprint> {
        Ok(Fingerprint::default())
    }

    fn fsync(&self) -> io::Result<()> {
        Ok(())
    }

    fn mark(&self) -> io::Result<Option<Mark>> {
        Ok(None)
    }

    fn set_mark(&self, _mark: &Mark) -> io::Result<bool> {
        self.listed.replace(Meta::decode(&self.sidecar.read(META)?).map_err(io::Error::other)?.logs);
        Ok(true)
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Maps that no job of these tests needs.
struct NoMaps;

impl Maps for NoMaps {
    fn create(&self, _name: &str, words: usize, _dense: bool) -> io::Result<Words> {
        Ok(Words::private(words))
    }

    fn reserve(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }

    fn open(&self, _name: &str, _words: usize, _dense: bool) -> io::Result<Words> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _name: &str) {}

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

struct Site {
    jobs: Jobs<Directory, Facts, NoMaps>,
    folder: Directory,
    listed: Rc<RefCell<Vec<PendingLog>>>,
    meta: Meta,
    _place: tempfile::TempDir,
}

fn site() -> Site {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("sidecar");
    let open = || Directory::new(&path).unwrap();
    let (id, size, block_shift) = (DISK, BLOCKS << 12, 12);
    let geometry = Geometry { size, block_shift, region_shift: 15 };
    let disk = Disk::untracked("disk".into(), "disk".into(), geometry, true, 512);
    let meta = Meta { disk: DISK, session: SESSION, ..disk.meta };
    let listed = Rc::default();
    let facts = Facts { sidecar: open(), listed: Rc::clone(&listed) };
    let homes = vec![Home { folder: open(), facts, id, size, block_shift, logs: Vec::new() }];
    let jobs = Jobs { homes, maps: NoMaps, session: SESSION, draw: || CutId([1; 16]) };
    Site { jobs, folder: open(), listed, meta, _place: place }
}

fn header() -> Header {
    let (session, generation) = (SESSION, Generation(7));
    Header { disk: DISK, session, generation, block_shift: 12, size: BLOCKS << 12 }
}

fn every_other_block() -> Words {
    let map = Words::private(bits::words_for(BLOCKS));
    for block in (0..BLOCKS).step_by(2) {
        bits::set(&map, block..block + 1);
    }
    map
}

impl Site {
    fn stored(&self) -> Meta {
        Meta::decode(&self.folder.read("disk.meta").unwrap()).unwrap()
    }

    fn run(&mut self, job: Job) -> JobDone {
        self.jobs.run(job).done
    }

    /// A clean stop over this open map, with this log to go on with.
    fn stop(&mut self, open: &Words, log: (Header, Encoder, u64), dead: bool, marked: bool) {
        let ((header, encoder, end), open) = (log, open.clone());
        let (blocks, unsealed, meta) = (BLOCKS, None, self.meta.clone());
        let disk = StopDisk { open, unsealed, header, encoder, end, dead, blocks, marked, meta };
        let done = self.run(Job::Stop { disks: vec![disk], keep_maps: false });
        assert!(matches!(done, JobDone::Stopped { result: Ok(()), .. }), "{done:?}");
    }
}

/// Promise 5, S4. Schedule: 1. tracking fails; 2. fresh intents are made; 3. a meta names them, or can't be stored; again and
/// again, within one session.
#[test]
fn healing_again_and_again_leaves_one_file_of_intents_and_the_one_that_counts() {
    let mut site = site();
    site.folder.create(&intents_name(SESSION)).unwrap();
    site.meta.intents = intents_name(SESSION);
    store_meta(&site.folder, &site.meta).unwrap();
    for generation in 7..40 {
        let name = renewed_intents_name(SESSION, Generation(generation));
        let (disk, regions) = (DiskIndex(0), std::collections::BTreeSet::new());
        let job = Job::RenewIntents { disk, name: name.clone(), regions, capacity: 8 };
        let JobDone::IntentsRenewed { result: Ok(_), .. } = site.run(job) else { panic!("they are made") };
        let mut names = site.folder.names().unwrap();
        names.retain(|name| name.ends_with(".intents"));
        assert!(names.contains(&name) && names.contains(&site.meta.intents), "{names:?}");
        assert!(names.len() <= 2, "{names:?}");
        if generation % 3 > 0 {
            site.meta.intents = name;
            store_meta(&site.folder, &site.meta).unwrap();
        }
    }
}

/// F6, I2. Schedule: 1. appends to a log fail, after many that were durable; 2. a clean stop puts a log with everything in
/// its place, which is shorter; 3. the host dies before the meta says that the stop was clean: the intents count.
#[test]
fn a_log_that_takes_a_longer_ones_place_does_not_look_cut_off() {
    let mut site = site();
    let (open, header) = (every_other_block(), header());
    let mut encoder = Encoder::new(&header);
    let file = create_log(&site.folder, &header).unwrap();
    let mut end = changes::HEADER as u64;
    for block in (0..BLOCKS).step_by(2) {
        let load = |word: usize| if word == block as usize / 64 { 1 << (block % 64) } else { 0 };
        (end, _) = append_map(&file, &mut encoder, end, true, BLOCKS, load).unwrap();
    }
    site.stop(&open, (header, encoder, end), true, false);
    let known = PendingLog { generation: Generation(7), session: SESSION, length: end, cut: None };
    let found = Words::private(bits::words_for(BLOCKS));
    let each = |blocks| {
        bits::set(&found, blocks);
    };
    let logs = read_logs(&site.folder, DISK, Generation(6), &[known], each);
    assert_eq!(logs.unwrap().bad, None);
    assert!((0..BLOCKS).all(|block| bits::get(&found, block) == bits::get(&open, block)));
}

/// S4, I2. Schedule: 1. writes went untracked, and a clean stop writes all of it to the log; 2. the mark is cleared, and the
/// last meta can't be stored; 3. the end of the log is lost. The loss must be noticed.
#[test]
fn a_stop_says_how_long_the_log_is_before_it_clears_the_mark() {
    let mut site = site();
    let header = header();
    create_log(&site.folder, &header).unwrap();
    let log = (header, Encoder::new(&header), changes::HEADER as u64);
    site.stop(&every_other_block(), log, false, true);
    let length = site.stored().clean.unwrap().log.length;
    assert!(length > changes::HEADER as u64);
    let log = PendingLog { generation: Generation(7), session: SESSION, length, cut: None };
    assert_eq!(*site.listed.borrow(), [log]);
}
