//! Claims about the machine of a real group, driven by hand: no byte of a disk moves, jobs are done by the real worker,
//! and a test decides when a copy ends.

use super::{Action, Change, Errno, Group, OpId, Question, Request, Ticket, Token};
use crate::control::message::{Answer, DESCRIPTORS_PER_DISK, Frozen, Refusal};
use crate::id::{Anchor, AttachNumber, CutId, DiskIndex, Nanos, TargetId, VaultId};
use crate::map::bits;
use crate::sidecar::{self, Config, DiskConfig, Handout, OpenDisk, Tracking, Worker};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const BLOCK: u64 = 4096;
const DEADLINE: Duration = Duration::from_millis(250);
const TARGET: TargetId = TargetId([7; 16]);

struct Driven {
    group: Group,
    worker: Worker,
    handout: Handout,
    disks: Vec<OpenDisk>,
    now: Nanos,
    /// Jobs that are not reported yet.
    jobs: usize,
    /// Copies that a test ends.
    copies: Vec<OpId>,
    answers: HashMap<u64, Answer>,
    asked: u64,
    replies: Vec<(u64, Result<(), Errno>)>,
    _maps: Maps,
    _folder: tempfile::TempDir,
}

/// The group's maps, which nobody stops in order here.
struct Maps(PathBuf);

impl Drop for Maps {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("a group has its maps");
    }
}

impl Driven {
    fn new(parent: &Path, direct: Option<bool>) -> Self {
        let folder = tempfile::tempdir_in(parent).unwrap();
        let config = Config {
            group: "g".into(),
            disks: ["a", "b"]
                .map(|name| DiskConfig { name: name.into(), path: folder.path().join(name) })
                .into(),
            block_shift: 12,
            region_shift: 22,
            intent_budget: 64 << 20,
            preserve_limit: None,
            preserve_deadline: DEADLINE,
            direct,
            log_dir: None,
            tracking: Tracking::Availability,
            read_only: false,
            create: Some(8 << 20),
        };
        let opening = sidecar::open(&config).unwrap();
        let maps = sidecar::maps_name(&config.disks);
        let mut driven = Self {
            group: opening.group,
            worker: opening.worker,
            handout: opening.handout,
            disks: opening.disks,
            now: Nanos(0),
            jobs: 0,
            copies: Vec::new(),
            answers: HashMap::new(),
            asked: 0,
            replies: Vec::new(),
            _maps: Maps(memory().join(format!("towline-{}", nix::unistd::geteuid())).join(maps)),
            _folder: folder,
        };
        driven.execute(opening.actions);
        driven.work();
        driven
    }

    fn drive(&mut self, call: impl FnOnce(&mut Group, Nanos, &mut Vec<Action>)) {
        let mut actions = Vec::new();
        call(&mut self.group, self.now, &mut actions);
        self.execute(actions);
    }

    /// Everything that is written or synced ends at once and well; copies wait.
    fn execute(&mut self, actions: Vec<Action>) {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Submit { id, .. } | Action::Sync { id, .. } | Action::Persist { id, .. } => {
                    let mut more = Vec::new();
                    self.group.completed(id, Ok(()), self.now, &mut more);
                    actions.extend(more);
                }
                Action::Preserve { id, .. } => self.copies.push(id),
                Action::Reply { token, result } => self.replies.push((token.0, result)),
                Action::Job(job) => {
                    self.worker.post(*job);
                    self.jobs += 1;
                }
                Action::Answer { ticket, answer } => drop(self.answers.insert(ticket.0, *answer)),
                Action::Reopen { .. } => unreachable!("no sync fails here"),
            }
        }
    }

    /// All jobs are done, and what follows them.
    fn work(&mut self) {
        while self.jobs > 0 || self.group.wake_at() == Some(self.now) {
            self.drive(Group::tick);
            if self.jobs == 0 {
                continue;
            }
            let mut wanted = [PollFd::new(self.worker.wakeup(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut wanted, PollTimeout::try_from(60_000).unwrap()), Ok(1), "the worker hangs");
            nix::unistd::read(self.worker.wakeup(), &mut [0; 8]).unwrap();
            while let Some(report) = self.worker.poll() {
                self.jobs -= 1;
                self.drive(|group, now, actions| group.job_done(report.done, now, actions));
            }
        }
    }

    fn begin_ask(&mut self, question: Question) -> u64 {
        self.asked += 1;
        let ticket = self.asked;
        self.drive(|group, now, actions| group.ask(question, Ticket(ticket), 1, now, actions));
        ticket
    }

    fn ask(&mut self, question: Question) -> Answer {
        let ticket = self.begin_ask(question);
        self.work();
        self.answers.remove(&ticket).expect("an answer comes when the jobs are done")
    }

    fn attach(&mut self) -> AttachNumber {
        let Answer::Attached(attached) = self.ask(Question::Attach { target: TARGET }) else {
            panic!("attached")
        };
        attached.attach
    }

    fn cut(&mut self, attach: AttachNumber) -> Frozen {
        match self.ask(Question::Cut { attach, full: false }) {
            Answer::Frozen(frozen) => frozen,
            other => panic!("{other:?}"),
        }
    }

    /// A guest writes a block of disk 0.
    fn write(&mut self, block: u64) {
        let request = Request {
            disk: DiskIndex(0),
            change: Change::Write,
            fua: false,
            offset: block * BLOCK,
            length: BLOCK,
            token: Token(block),
        };
        self.drive(|group, now, actions| {
            group.request(request, now, actions);
        });
    }

    fn copied(&mut self, id: OpId, result: Result<(), Errno>) {
        self.drive(|group, now, actions| group.completed(id, result, now, actions));
    }

    fn take_replies(&mut self) -> Vec<u64> {
        let replies = std::mem::take(&mut self.replies);
        replies
            .into_iter()
            .map(|(token, result)| result.map(|()| token).expect("no error for the guest"))
            .collect()
    }

    fn preserved(&self) -> u64 {
        let map = &self.group.disks[0].frozen.as_ref().expect("a freeze").preserved;
        bits::runs(0..64, |word| map[word].load(std::sync::atomic::Ordering::Relaxed))
            .map(|run| run.end - run.start)
            .sum()
    }
}

fn anchor(seq: u64) -> Anchor {
    Anchor { vault: VaultId([3; 16]), seq, hash: [seq as u8; 32] }
}

fn memory() -> &'static Path {
    Path::new("/dev/shm")
}

/// C5, F21: a copy that takes longer than its deadline ends nobody's wait but its own. The state is stored before the first
/// unpreserved overwrite is submitted, and the copy changes nothing when it ends late.
#[test]
fn a_copy_that_is_late_turns_the_freeze_fuzzy_and_lets_all_who_wait_go_on() {
    let mut driven = Driven::new(memory(), None);
    let attach = driven.attach();
    driven.write(1);
    driven.write(2);
    let frozen = driven.cut(attach);
    driven.take_replies();
    driven.write(1);
    driven.now = driven.now.after(DEADLINE / 2);
    driven.write(2);
    driven.write(1);
    // The loop must be awake when the oldest copy is late, and not before is anything given up.
    assert!(driven.group.wake_at().unwrap() <= Nanos(0).after(DEADLINE));
    driven.now = Nanos(DEADLINE.as_nanos() as u64 - 1);
    driven.drive(Group::tick);
    assert_eq!((driven.take_replies(), driven.copies.len()), (vec![], 2));
    assert_eq!(driven.ask(Question::Confirm { attach, cut: frozen.cut }), Answer::Confirmed { exact: true });
    driven.now = Nanos(0).after(DEADLINE);
    driven.drive(Group::tick);
    let mut went_on = driven.take_replies();
    went_on.sort_unstable();
    assert_eq!(went_on, [1, 1, 2]);
    assert!(driven.group.header.state().fuzzy, "a successor and who maps the header see it");
    assert_eq!(driven.ask(Question::Confirm { attach, cut: frozen.cut }), Answer::Confirmed { exact: false });
    // Nobody waits or is copied for any more.
    driven.write(1);
    assert_eq!((driven.take_replies(), driven.copies.len()), (vec![1], 2));
    for id in std::mem::take(&mut driven.copies) {
        driven.copied(id, Ok(()));
    }
    assert_eq!((driven.preserved(), driven.take_replies()), (0, vec![]));
}

/// W3, C3: a copy for a freeze that is gone sets no bit of the freeze that came after it, and its error turns none fuzzy.
#[test]
fn a_copy_that_outlives_its_freeze_changes_nothing() {
    for result in [Ok(()), Err(Errno(libc::EIO))] {
        let mut driven = Driven::new(memory(), None);
        let attach = driven.attach();
        driven.write(1);
        let first = driven.cut(attach);
        driven.write(1);
        let late = driven.copies.pop().expect("the block is wanted");
        assert_eq!(driven.ask(Question::Undo { attach, cut: first.cut }), Answer::Done);
        // Who waited for it went on with the freeze's end.
        assert_eq!(driven.take_replies(), [1, 1]);
        let second = driven.cut(attach);
        assert_ne!(first.cut, second.cut);
        driven.copied(late, result);
        assert_eq!(driven.preserved(), 0);
        driven.write(1);
        assert_eq!(driven.take_replies(), [], "the block is still wanted");
        let copy = driven.copies.pop().expect("it is copied for the second freeze");
        driven.copied(copy, Ok(()));
        assert_eq!((driven.preserved(), driven.take_replies()), (1, vec![1]));
        let exact = driven.ask(Question::Confirm { attach, cut: second.cut });
        assert_eq!(exact, Answer::Confirmed { exact: true });
    }
}

/// C4: at most one freeze lives; who asks for another is told which.
#[test]
fn a_cut_while_a_freeze_lives_is_busy_with_its_cut_id() {
    let mut driven = Driven::new(memory(), None);
    let attach = driven.attach();
    let frozen = driven.cut(attach);
    let busy = Answer::Refused(Refusal::Busy { cut: frozen.cut });
    for full in [false, true] {
        assert_eq!(driven.ask(Question::Cut { attach, full }), busy);
    }
    // Another shipper may take it over, not replace it.
    let attach = driven.attach();
    assert_eq!(driven.ask(Question::Cut { attach, full: false }), busy);
    assert_eq!(driven.ask(Question::Undo { attach, cut: frozen.cut }), Answer::Done);
    assert_ne!(driven.cut(attach).cut, frozen.cut);
}

/// V9, F36: a release counts only from the newest attach, for its target, for the live cut, with that cut's entry; and again with
/// the very same words.
#[test]
fn a_release_is_refused_unless_target_attach_cut_and_entry_match() {
    let mut driven = Driven::new(memory(), None);
    let old = driven.attach();
    let attach = driven.attach();
    let release = |attach, target, cut, anchor| Question::Release { attach, target, cut, anchor };
    let first = driven.cut(attach).cut;
    let still_there = |driven: &mut Driven, cut| {
        let confirmed = driven.ask(Question::Confirm { attach, cut });
        assert_eq!(confirmed, Answer::Confirmed { exact: true }, "a refusal changes nothing");
    };
    let mismatch = |answer| assert!(matches!(answer, Answer::Refused(Refusal::Mismatch(_))), "{answer:?}");
    let no_freeze = |answer| assert_eq!(answer, Answer::Refused(Refusal::NoSuchFreeze));
    mismatch(driven.ask(release(attach, TargetId([8; 16]), first, anchor(1))));
    still_there(&mut driven, first);
    for other in [old, AttachNumber(attach.0 + 1)] {
        let revoked = Answer::Refused(Refusal::Revoked { newest: attach });
        assert_eq!(driven.ask(release(other, TARGET, first, anchor(1))), revoked);
        still_there(&mut driven, first);
    }
    no_freeze(driven.ask(release(attach, TARGET, CutId([9; 16]), anchor(1))));
    still_there(&mut driven, first);
    // While it is stored, and after: the same is done, another entry is not this cut's.
    let asked = driven.begin_ask(release(attach, TARGET, first, anchor(1)));
    let again = driven.begin_ask(release(attach, TARGET, first, anchor(1)));
    let other = driven.begin_ask(release(attach, TARGET, first, anchor(2)));
    driven.work();
    assert_eq!(
        [driven.answers.remove(&asked), driven.answers.remove(&again)],
        [Some(Answer::Done), Some(Answer::Done)]
    );
    no_freeze(driven.answers.remove(&other).unwrap());
    assert_eq!(driven.ask(release(attach, TARGET, first, anchor(1))), Answer::Done);
    no_freeze(driven.ask(release(attach, TARGET, first, anchor(2))));
    no_freeze(driven.ask(release(attach, TARGET, CutId([9; 16]), anchor(1))));
    // The entry of the cut before releases no later one: its blocks are in no entry.
    let second = driven.cut(attach).cut;
    mismatch(driven.ask(release(attach, TARGET, second, anchor(1))));
    still_there(&mut driven, second);
    assert_eq!(driven.ask(release(attach, TARGET, first, anchor(1))), Answer::Done, "it still is");
    assert_eq!(driven.ask(release(attach, TARGET, second, anchor(2))), Answer::Done);
    no_freeze(driven.ask(release(attach, TARGET, first, anchor(1))));
    assert_eq!(driven.group.anchor, Some(anchor(2)));
}

/// V9, V10. Schedule: 1. a group is taken over: its entry lies over others' images; 2. it is being released; 3. a shipper attaches,
/// is told the anchor before, and goes on from that: what lies between is not ours; 4. the release ends, and what the freeze had
/// is not pending any more. A release that has begun is the anchor.
#[test]
fn who_attaches_while_a_freeze_is_being_released_is_told_its_entry() {
    let mut driven = Driven::new(memory(), None);
    let attach = driven.attach();
    let cut = driven.cut(attach).cut;
    let asked = driven.begin_ask(Question::Release { attach, target: TARGET, cut, anchor: anchor(1) });
    let attached = driven.begin_ask(Question::Attach { target: TARGET });
    assert!(!driven.answers.contains_key(&asked), "it is under way");
    let Some(Answer::Attached(told)) = driven.answers.remove(&attached) else { panic!("it attaches") };
    assert_eq!((told.anchor, told.live, told.vouched), (Some(anchor(1)), None, Vec::new()));
    driven.work();
    assert_eq!(driven.answers.remove(&asked), Some(Answer::Done));
}

fn inode(fd: impl AsFd) -> (u64, u64) {
    let file = std::fs::File::from(fd.as_fd().try_clone_to_owned().unwrap());
    let found = file.metadata().unwrap();
    (found.dev(), found.ino())
}

/// C3: nothing that somebody may still read is used again, released or undone.
#[test]
fn the_files_of_each_freeze_are_fresh_while_others_are_read() {
    let mut driven = Driven::new(memory(), None);
    let attach = driven.attach();
    let mut held: Vec<OwnedFd> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for round in 0..6 {
        let frozen = driven.cut(attach);
        let handed = driven.handout.open(frozen.generation, frozen.cut).unwrap();
        for (n, fd) in handed.iter().enumerate().filter(|(n, _)| n % DESCRIPTORS_PER_DISK != 0) {
            assert!(seen.insert(inode(fd)), "file {n} of freeze {round} was another freeze's");
        }
        held.extend(handed);
        let cut = frozen.cut;
        let ended = if round % 2 == 0 {
            driven.ask(Question::Undo { attach, cut })
        } else {
            driven.ask(Question::Release { attach, target: TARGET, cut, anchor: anchor(round) })
        };
        assert_eq!(ended, Answer::Done);
    }
    assert_eq!(seen.len(), 6 * 2 * (DESCRIPTORS_PER_DISK - 1));
}

/// R1, W7: what a shipper is handed can't write, reads the disk in the tracker's own cache mode, and is another open file
/// description than the locked one, so that closing it or keeping it changes nothing about the lock.
#[test]
fn handed_descriptors_are_read_only_of_the_same_cache_mode_and_carry_no_lock() {
    let disk = std::env::temp_dir();
    for (parent, direct) in
        [(memory(), None), (memory(), Some(false)), (&disk, None), (&disk, Some(true)), (&disk, Some(false))]
    {
        let mut driven = Driven::new(parent, direct);
        let attach = driven.attach();
        let frozen = driven.cut(attach);
        let handed = driven.handout.open(frozen.generation, frozen.cut).unwrap();
        assert_eq!(handed.len(), 2 * DESCRIPTORS_PER_DISK);
        for (n, fd) in handed.iter().enumerate() {
            let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap());
            assert_eq!(flags & OFlag::O_ACCMODE, OFlag::O_RDONLY, "descriptor {n}");
            let open = &driven.disks[n / DESCRIPTORS_PER_DISK];
            let as_tracker = n % DESCRIPTORS_PER_DISK == 0 && open.direct;
            assert_eq!(flags.contains(OFlag::O_DIRECT), as_tracker, "descriptor {n}, {direct:?}");
            if n % DESCRIPTORS_PER_DISK == 0 {
                assert!(direct.is_none_or(|direct| open.direct == direct));
                let ours = OFlag::from_bits_retain(fcntl(&open.fd, FcntlArg::F_GETFL).unwrap());
                assert_eq!(ours.contains(OFlag::O_DIRECT), open.direct);
                assert_eq!(inode(fd), inode(&open.fd));
                // A description never meets its own locks: one that does is another.
                assert_eq!((locked(&open.fd), locked(fd)), (false, true));
            }
        }
        let path = driven.disks[0].path.clone();
        drop(handed);
        assert!(locked(std::fs::File::open(&path).unwrap()), "closing them gives nothing up");
        // And who keeps one keeps no lock.
        let kept = driven.handout.open(frozen.generation, frozen.cut).unwrap();
        let (maps, folder) = (driven._maps, driven._folder);
        drop((driven.group, driven.worker, driven.handout, driven.disks));
        let begun = std::time::Instant::now();
        while locked(std::fs::File::open(&path).unwrap()) {
            // The worker's thread ends by itself.
            assert!(begun.elapsed() < Duration::from_secs(60), "the lock went with the tracker");
            std::thread::sleep(Duration::from_millis(1));
        }
        drop((kept, maps, folder));
    }
}

/// Whether another description's lock is in the way of one on the whole file.
fn locked(file: impl AsFd) -> bool {
    let mut lock = libc::flock { l_type: libc::F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
    lock.l_type != libc::F_UNLCK as i16
}
