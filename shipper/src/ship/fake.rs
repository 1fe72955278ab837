//! A tracker of a few lines, for tests of the loop: one disk, real files, the control protocol over a real socket. It
//! keeps W3 for the guest's writes and remembers what the disk was at each cut.

use crate::pipeline::tests::noise;
use nix::poll::{PollFd, PollFlags, poll};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use towline_tracker::control::frame::{ANSWER_MAX, REQUEST_MAX};
use towline_tracker::control::message::{
    Answer, Attached, DiskInfo, DiskStatus, Frozen, FrozenDisk, LiveFreeze, Refusal, Request, Status, VERSION,
};
use towline_tracker::control::sys::Channel;
use towline_tracker::format::changes::{Encoder, Header, Seal};
use towline_tracker::id::{Anchor, AttachNumber, Cut, CutId, DiskId, Generation, Session};
use towline_tracker::map::{Words, bits};

pub(super) const BLOCK: usize = 4096;

struct Freeze {
    cut: CutId,
    frozen: BTreeSet<u64>,
    compare: bool,
    whole: bool,
    fuzzy: bool,
    unreadable: bool,
    map: File,
    store: File,
    /// What was changed since.
    open: File,
    /// The last entry of it that was told of.
    shipped: [u8; 32],
}

/// Whether a map in a file has a block.
fn has(map: &File, block: u64) -> bool {
    word(map, block) >> (block % 64) & 1 == 1
}

fn mark(map: &File, block: u64) {
    let word = word(map, block) | 1 << (block % 64);
    map.write_all_at(&word.to_le_bytes(), block / 64 * 8).unwrap();
}

fn word(map: &File, block: u64) -> u64 {
    let mut word = [0; 8];
    map.read_exact_at(&mut word, block / 64 * 8).unwrap();
    u64::from_le_bytes(word)
}

/// What the fake knows and what it is told to do.
pub(super) struct State {
    pub(super) disk: Vec<u8>,
    file: File,
    dirty: BTreeSet<u64>,
    live: Option<Freeze>,
    generation: u64,
    pub(super) attach: u64,
    pub(super) anchor: Option<Anchor>,
    vouched: Vec<Cut>,
    pub(super) resync: Option<String>,
    /// The next cut is of blocks that a host's crash left unsure: they are compared.
    pub(super) recovered: bool,
    /// The disk as it was at each cut.
    pub(super) at_cut: HashMap<CutId, Vec<u8>>,
    pub(super) cuts: Vec<CutId>,
    /// What was asked, without status and hello.
    pub(super) asked: Vec<&'static str>,
    /// So many freezes turn fuzzy.
    pub(super) fuzzy_cuts: u32,
    /// Of so many freezes no block can be read.
    pub(super) unreadable_cuts: u32,
    /// The next request of this name breaks the connection, before it is done.
    pub(super) break_at: Option<&'static str>,
    /// A request of this name is heard and never answered, nor is any after it, on any connection.
    pub(super) hang_at: Option<&'static str>,
    /// The next request of this name is done, and then the connection breaks: its answer is lost.
    pub(super) lose: Option<&'static str>,
    /// Blocks that the guest overwrites after each cut, while the freeze ships.
    pub(super) overwrite: u64,
    seed: u64,
}

pub(super) struct Fake {
    pub(super) folder: tempfile::TempDir,
    state: Arc<Mutex<State>>,
    over: Arc<AtomicBool>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = UnixStream::connect(self.socket());
    }
}

impl Fake {
    pub(super) fn new(disk: Vec<u8>) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::write(folder.path().join("disk"), &disk).unwrap();
        let file = File::options().read(true).write(true).open(folder.path().join("disk")).unwrap();
        let state = State {
            disk,
            file,
            dirty: BTreeSet::new(),
            live: None,
            generation: 1,
            attach: 0,
            anchor: None,
            vouched: Vec::new(),
            resync: None,
            recovered: false,
            at_cut: HashMap::new(),
            cuts: Vec::new(),
            asked: Vec::new(),
            fuzzy_cuts: 0,
            unreadable_cuts: 0,
            break_at: None,
            hang_at: None,
            lose: None,
            overwrite: 0,
            seed: 0,
        };
        let fake = Self { folder, state: Arc::new(Mutex::new(state)), over: Arc::default() };
        let listener = UnixListener::bind(fake.socket()).unwrap();
        let (state, over, folder) = (fake.state.clone(), fake.over.clone(), fake.folder.path().to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let (state, over, folder) = (state.clone(), over.clone(), folder.clone());
                std::thread::spawn(move || serve(&state, &over, &folder, stream.unwrap()));
            }
        });
        fake
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn blocks(&self) -> u64 {
        (self.disk.len() / BLOCK) as u64
    }

    /// The guest writes a block: preserved first if the freeze wants it (W3).
    pub(super) fn write(&mut self, block: u64, data: &[u8]) {
        let at = block as usize * BLOCK;
        let wanted =
            |freeze: &&Freeze| !freeze.fuzzy && freeze.frozen.contains(&block) && !has(&freeze.map, block);
        if let Some(freeze) = self.live.as_ref().filter(wanted) {
            freeze.store.write_all_at(&self.disk[at..at + BLOCK], at as u64).unwrap();
            mark(&freeze.map, block);
        }
        if let Some(freeze) = &self.live {
            mark(&freeze.open, block);
        }
        self.dirty.insert(block);
        self.write_unseen(block, data);
    }

    /// Somebody writes a block, past the tracker.
    pub(super) fn write_unseen(&mut self, block: u64, data: &[u8]) {
        let at = block as usize * BLOCK;
        self.disk[at..at + BLOCK].copy_from_slice(data);
        self.file.write_all_at(data, at as u64).unwrap();
    }

    /// The live freeze can be kept exact no more.
    pub(super) fn turn_fuzzy(&mut self) {
        self.live.as_mut().unwrap().fuzzy = true;
    }

    /// The sidecar is lost: nothing is known of any vault, everything must be compared.
    pub(super) fn forget(&mut self) {
        (self.anchor, self.live) = (None, None);
        self.vouched.clear();
        self.resync = Some("its sidecar is new".into());
    }

    fn cut(&mut self, full: bool, folder: &std::path::Path) -> CutId {
        let cut = CutId::random();
        let whole = full || self.resync.is_some();
        let frozen = if whole { (0..self.blocks()).collect() } else { std::mem::take(&mut self.dirty) };
        self.dirty.clear();
        let open = |name: String| {
            File::options().read(true).write(true).create_new(true).open(folder.join(name)).unwrap()
        };
        let (map, store) = (open(format!("{cut}.map")), open(format!("{cut}.store")));
        let dirty = open(format!("{cut}.open"));
        for map in [&map, &dirty] {
            map.set_len(bits::words_for(self.blocks()) as u64 * 8).unwrap();
        }
        store.set_len(self.disk.len() as u64).unwrap();
        let fuzzy = self.fuzzy_cuts > 0;
        self.fuzzy_cuts = self.fuzzy_cuts.saturating_sub(1);
        let compare = std::mem::take(&mut self.recovered) || self.resync.is_some();
        let unreadable = self.unreadable_cuts > 0;
        self.unreadable_cuts = self.unreadable_cuts.saturating_sub(1);
        self.live = Some(Freeze {
            cut,
            frozen,
            compare,
            whole,
            fuzzy: false,
            unreadable,
            map,
            store,
            open: dirty,
            shipped: [0; 32],
        });
        self.generation += 1;
        self.vouched.push(Cut { id: cut, time_ns: self.time_ns() });
        self.at_cut.insert(cut, self.disk.clone());
        self.cuts.push(cut);
        self.log(folder);
        for _ in 0..self.overwrite {
            self.seed += 1;
            let block = self.seed * 7919 % self.blocks();
            self.write(block, &noise(self.seed | 1 << 50));
        }
        // Fuzzy from its hand-out on: what the test sees is what stands on the disk at the end.
        self.live.as_mut().unwrap().fuzzy = fuzzy;
        cut
    }

    /// The instant of the last cut.
    fn time_ns(&self) -> u64 {
        self.generation * 1_000_000_000
    }

    fn log(&self, folder: &std::path::Path) {
        let freeze = self.live.as_ref().unwrap();
        let header = Header {
            disk: DiskId([1; 16]),
            session: Session(1),
            generation: Generation(self.generation),
            block_shift: 12,
            size: self.disk.len() as u64,
        };
        let words = Words::private(bits::words_for(self.blocks()));
        for block in &freeze.frozen {
            bits::set(&words, *block..block + 1);
        }
        let mut out = header.encode().to_vec();
        let mut encoder = Encoder::new(&header);
        for first in (0..self.blocks()).step_by(1 << 16) {
            let range = first..(first + (1 << 16)).min(self.blocks());
            encoder.blocks(false, range, |index| words[index].load(Ordering::Relaxed), &mut out);
        }
        let seal = Seal {
            cut: freeze.cut,
            first: Generation(self.generation),
            last: Generation(self.generation),
            size: self.disk.len() as u64,
            time_ns: self.time_ns(),
            blocks: freeze.frozen.len() as u64,
            compare: freeze.compare,
            whole: freeze.whole,
        };
        encoder.seal(&seal, &mut out);
        std::fs::write(folder.join(format!("{}.log", freeze.cut)), out).unwrap();
    }

    fn frozen(&self, folder: &std::path::Path) -> (Answer, Vec<OwnedFd>) {
        let freeze = self.live.as_ref().unwrap();
        let about = FrozenDisk {
            id: DiskId([1; 16]),
            size: self.disk.len() as u64,
            block_shift: 12,
            direct: true,
            align: 512,
            compare: freeze.compare,
            whole: freeze.whole,
            frozen_bytes: freeze.frozen.len() as u64 * BLOCK as u64,
        };
        let frozen = Frozen {
            cut: freeze.cut,
            first_generation: Generation(self.generation),
            generation: Generation(self.generation),
            time_ns: self.time_ns(),
            fuzzy: freeze.fuzzy,
            disks: vec![about],
        };
        let names = [
            "disk".to_owned(),
            format!("{}.log", freeze.cut),
            format!("{}.map", freeze.cut),
            format!("{}.store", freeze.cut),
            format!("{}.open", freeze.cut),
        ];
        let open = |name: String| {
            let readable = name != "disk" || !freeze.unreadable;
            File::options().read(readable).write(!readable).open(folder.join(name)).unwrap().into()
        };
        (Answer::Frozen(frozen), names.map(open).into())
    }

    fn disk_status(&self) -> DiskStatus {
        DiskStatus {
            name: "disk.raw".into(),
            id: DiskId([1; 16]).to_string(),
            path: "disk.raw".into(),
            size: self.disk.len() as u64,
            block_size: 4096,
            cache: "direct".into(),
            dirty_bytes: 0,
            frozen_bytes: 0,
            preserved_bytes: 0,
            intent_regions: 0,
            intent_budget: 0,
            resync: self.resync.clone(),
            degraded: false,
            doubtful: false,
            writes: 0,
            reads: 0,
        }
    }

    fn attached(&self) -> Attached {
        let disk = DiskInfo {
            id: DiskId([1; 16]),
            name: "disk.raw".into(),
            size: self.disk.len() as u64,
            block_shift: 12,
            resync: self.resync.clone(),
        };
        let live = self.live.as_ref().map(|freeze| LiveFreeze {
            cut: freeze.cut,
            generation: Generation(self.generation),
            time_ns: self.time_ns(),
            sealed: true,
            fuzzy: freeze.fuzzy,
            shipped: freeze.shipped,
        });
        Attached {
            attach: AttachNumber(self.attach),
            group: "vm".into(),
            session: Session(1),
            disks: vec![disk],
            anchor: self.anchor,
            live,
            vouched: self.vouched.clone(),
        }
    }

    /// The live freeze, if it is this one.
    fn is_live(&self, cut: CutId) -> bool {
        self.live.as_ref().is_some_and(|freeze| freeze.cut == cut)
    }

    fn answer(&mut self, request: Request, folder: &std::path::Path) -> (Answer, Vec<OwnedFd>) {
        let number = match &request {
            Request::Cut { attach, .. }
            | Request::Reopen { attach, .. }
            | Request::Confirm { attach, .. }
            | Request::Shipped { attach, .. }
            | Request::Release { attach, .. }
            | Request::Undo { attach, .. }
            | Request::Resynchronize { attach, .. } => Some(attach.0),
            _ => None,
        };
        if number.is_some_and(|number| number != self.attach) {
            return (Answer::Refused(Refusal::Revoked { newest: AttachNumber(self.attach) }), Vec::new());
        }
        let answer = match request {
            Request::Hello { .. } => Answer::Hello { version: VERSION },
            Request::Attach { .. } => {
                self.attach += 1;
                Answer::Attached(self.attached())
            }
            Request::Cut { .. } if self.live.is_some() => {
                Answer::Refused(Refusal::Busy { cut: self.live.as_ref().unwrap().cut })
            }
            Request::Cut { full, .. } => {
                self.cut(full, folder);
                return self.frozen(folder);
            }
            Request::Reopen { cut, .. } if self.is_live(cut) => return self.frozen(folder),
            Request::Confirm { cut, .. } if self.is_live(cut) => {
                Answer::Confirmed { exact: !self.live.as_ref().unwrap().fuzzy }
            }
            Request::Shipped { cut, entry, .. } if self.is_live(cut) => {
                self.live.as_mut().unwrap().shipped = entry;
                Answer::Done
            }
            Request::Release { cut, anchor, .. } if self.is_live(cut) => {
                let freeze = self.live.take().unwrap();
                if freeze.whole {
                    self.resync = None;
                }
                self.anchor = Some(anchor);
                self.vouched.clear();
                Answer::Done
            }
            Request::Undo { cut, .. } if self.is_live(cut) => {
                self.dirty.append(&mut self.live.take().unwrap().frozen);
                Answer::Done
            }
            Request::Resynchronize { reason, .. } => {
                self.resync = Some(reason);
                Answer::Done
            }
            Request::Status => Answer::Status(Status {
                group: "vm".into(),
                session: 1,
                generation: self.generation + 1,
                tracking: "availability".into(),
                version: "0".into(),
                pid: 1,
                uptime_s: 1,
                nbd: String::new(),
                attach: self.attach,
                freeze: "none".into(),
                cut: None,
                fuzzy: None,
                anchor: None,
                cut_hold_ns_last: 0,
                cut_hold_ns_max: 0,
                cut_cpu_ns_last: 0,
                cut_cpu_ns_max: 0,
                cuts: 0,
                waited_intent: 0,
                waited_drain: 0,
                waited_preserve: 0,
                preserved_blocks: 0,
                in_flight_at_cuts: 0,
                fuzzy_freezes: 0,
                memory_locked: true,
                buffers_registered: true,
                connections: 0,
                disks: vec![self.disk_status()],
            }),
            _ => Answer::Refused(Refusal::NoSuchFreeze),
        };
        (answer, Vec::new())
    }
}

fn name(request: &Request) -> Option<&'static str> {
    Some(match request {
        Request::Attach { .. } => "attach",
        Request::Cut { .. } => "cut",
        Request::Reopen { .. } => "reopen",
        Request::Confirm { .. } => "confirm",
        Request::Shipped { .. } => "shipped",
        Request::Release { .. } => "release",
        Request::Undo { .. } => "undo",
        Request::Resynchronize { .. } => "resynchronize",
        Request::Hello { .. } | Request::Status => return None,
    })
}

fn serve(state: &Mutex<State>, over: &AtomicBool, folder: &std::path::Path, stream: UnixStream) {
    let channel = Channel::new(stream);
    loop {
        let mut fds = [PollFd::new(channel.stream().as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, 50u8).unwrap() == 0 {
            if over.load(Ordering::Relaxed) {
                return;
            }
            continue;
        }
        let Ok((request, _)) = channel.receive::<Request, REQUEST_MAX>() else { return };
        let (answer, files) = {
            let mut state = state.lock().unwrap();
            let asked = name(&request);
            state.asked.extend(asked);
            if asked.is_some() && state.hang_at == asked {
                state.hang_at = Some("hello");
            }
            if state.hang_at == Some("hello") {
                drop(state);
                // Until the client has gone, or the test is over.
                let mut gone = [PollFd::new(channel.stream().as_fd(), PollFlags::POLLIN)];
                while !over.load(Ordering::Relaxed) && poll(&mut gone, 50u8).unwrap() == 0 {}
                return;
            }
            if asked.is_some() && state.break_at == asked {
                state.break_at = None;
                return;
            }
            let answer = state.answer(request, folder);
            if asked.is_some() && state.lose == asked {
                state.lose = None;
                return;
            }
            answer
        };
        let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        if channel.send::<_, ANSWER_MAX>(&answer, &borrowed).is_err() {
            return;
        }
    }
}
