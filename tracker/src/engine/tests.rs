//! Claims about the loop, over real sockets and files, with a machine that passes everything through.

use super::passthrough::{NoJobs, PassThrough};
use super::{EngineHandle, Operation, Options, Parts, spawn_parts};
use crate::control::message::{Answer, DESCRIPTORS_PER_DISK};
use crate::frontend::nbd::client::{Client, Operation as Ask};
use crate::frontend::nbd::serve::REQUESTS_MAX;
use crate::group::job::JobDone;
use crate::group::{Errno, Question, SidecarFile};
use crate::id::{Anchor, DiskId, DiskIndex, Generation, TargetId, VaultId};
use crate::io::probe;
use crate::io::uring::{Fault, Faults};
use crate::sidecar::{self, Config, DiskConfig, OpenDisk, Opened, Report, Tracking};
use nix::fcntl::{FcntlArg, fcntl};
use proptest::test_runner::{RngAlgorithm, TestRng};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

const SIZE: u64 = 16 << 20;
/// Only detects a hang.
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    engine: Option<EngineHandle>,
    socket: PathBuf,
    holding: Arc<AtomicBool>,
    stuck: Arc<AtomicBool>,
    waiting: Arc<AtomicUsize>,
    faults: Faults,
    directory: tempfile::TempDir,
}

impl Server {
    /// Serves an empty disk in a new folder under `parent`.
    fn new(parent: &Path, direct: bool, read_only: bool) -> Self {
        Self::with(parent, direct, read_only, NoJobs::new(None), Vec::new())
    }

    fn with(parent: &Path, direct: bool, read_only: bool, jobs: NoJobs, opened: Vec<Opened>) -> Self {
        let directory = tempfile::tempdir_in(parent).unwrap();
        let path = directory.path().join("disk.raw");
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .custom_flags(if direct { libc::O_DIRECT } else { 0 })
            .open(&path)
            .unwrap();
        file.set_len(SIZE).unwrap();
        let nowait = !probe::in_memory(&file);
        let disk = OpenDisk {
            name: "disk.raw".into(),
            path,
            id: DiskId::default(),
            fd: file.into(),
            size: SIZE,
            direct,
            align: if direct { 512 } else { 1 },
            memory_align: if direct { 512 } else { 1 },
            nowait,
            sidecar_in_memory: false,
            device: false,
            block_shift: 12,
        };
        let socket = directory.path().join("nbd.sock");
        let machine = PassThrough::default();
        let (holding, waiting) = (Arc::clone(&machine.holding), Arc::clone(&machine.waiting));
        let stuck = Arc::clone(&machine.stuck);
        let options = Options {
            nbd: vec![UnixListener::bind(&socket).unwrap()],
            nbd_address: socket.display().to_string(),
            read_only,
            names: Vec::new(),
            stop_limit: Duration::from_secs(3),
        };
        let faults = Faults::default();
        let parts = Parts {
            machine,
            jobs,
            disks: vec![disk],
            opened,
            actions: Vec::new(),
            faults: Arc::clone(&faults),
        };
        let engine = Some(spawn_parts(parts, options).unwrap());
        Self { engine, socket, holding, stuck, waiting, faults, directory }
    }

    fn client(&self) -> Client {
        Client::connect(&self.socket, "").unwrap()
    }

    fn engine(&self) -> &EngineHandle {
        self.engine.as_ref().unwrap()
    }

    fn content(&self) -> Vec<u8> {
        std::fs::read(self.directory.path().join("disk.raw")).unwrap()
    }

    fn stop(mut self) {
        let engine = self.engine.take().unwrap();
        engine.stop();
        engine.join().unwrap();
    }
}

#[test]
fn a_stop_that_comes_to_no_end_is_cut_short_and_says_so() {
    let mut server = Server::new(Path::new("/dev/shm"), false, false);
    server.client().write(0, &[1; 4096]).unwrap();
    server.stuck.store(true, SeqCst);
    let engine = server.engine.take().unwrap();
    engine.stop();
    let error = engine.join().unwrap_err();
    assert_eq!(error.kind(), crate::error::Kind::Stuck);
    assert!(error.to_string().contains("does not answer"), "{error}");
    // One that answers late, but within the limit, is no failure.
    let mut server = Server::new(Path::new("/dev/shm"), false, false);
    server.stuck.store(true, SeqCst);
    let engine = server.engine.take().unwrap();
    engine.stop();
    server.stuck.store(false, SeqCst);
    engine.port().submit(DiskIndex(0), Operation::Flush, 1).unwrap_or_default();
    engine.join().unwrap();
}

/// Every way in which the loop reaches a disk: plain calls, the ring buffered, the ring direct.
fn servers() -> Vec<Server> {
    let memory = Path::new("/dev/shm");
    let mut servers = Vec::new();
    if memory.is_dir() {
        servers.push(Server::new(memory, false, false));
    }
    let here = &std::env::temp_dir();
    servers.push(Server::new(here, false, false));
    servers.push(Server::new(here, true, false));
    servers
}

fn random() -> impl FnMut(u64) -> u64 {
    use proptest::prelude::Rng;
    let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    move |below| random.next_u64() % below
}

/// F19: every kind of request.
#[test]
fn a_disk_reads_as_what_was_done_to_it() {
    for server in servers() {
        let mut client = server.client();
        assert_eq!(client.size(), SIZE);
        let align = u64::from(client.align());
        let mut model = vec![0u8; SIZE as usize];
        let mut draw = random();
        for round in 0..400u64 {
            let limit = [4096, 65536, 300_000, 3 << 20][draw(4) as usize];
            let length = (1 + draw(limit)).next_multiple_of(align);
            let offset = draw(SIZE - length) / align * align;
            let (range, length) = (offset as usize..(offset + length) as usize, length as u32);
            match draw(7) {
                0..=2 => {
                    let byte = round as u8 | 1;
                    model[range.clone()].fill(byte);
                    let data = &model[range.clone()];
                    client.call(&Ask::Write { offset, data, fua: draw(4) == 0 }).unwrap();
                }
                3 => {
                    let may_punch = draw(2) == 0;
                    client.call(&Ask::Zero { offset, length, may_punch }).unwrap();
                    model[range].fill(0);
                }
                4 => {
                    client.call(&Ask::Trim { offset, length }).unwrap();
                    model[range].fill(0);
                }
                5 => client.flush().unwrap(),
                _ => assert!(client.read(offset, length).unwrap() == model[range], "round {round}"),
            }
        }
        assert!(client.read(0, SIZE as u32).unwrap() == model);
        assert!(server.content() == model);
        server.stop();
    }
}

#[test]
fn many_requests_at_once_are_all_answered() {
    for server in servers() {
        let mut client = server.client();
        let align = u64::from(client.align()).max(512);
        for round in 0..3u64 {
            for n in 0..1000u64 {
                let data = vec![(n + round) as u8; align as usize];
                client.send(&Ask::Write { offset: n * align, data: &data, fua: false }, n).unwrap();
                if n >= 500 {
                    client.receive().unwrap().result.unwrap();
                }
            }
            while client.waiting() > 0 {
                client.receive().unwrap().result.unwrap();
            }
        }
        let all = client.read(0, (1000 * align) as u32).unwrap();
        assert!(all.iter().enumerate().all(|(n, &byte)| byte == (n / align as usize + 2) as u8));
        server.stop();
    }
}

#[test]
fn a_client_that_does_not_take_its_replies_gets_them_later() {
    for server in servers() {
        let mut client = server.client();
        client.write(0, &vec![7; 1 << 20]).unwrap();
        // Far more replies than the loop holds for one connection, and than sockets hold. Requests are small: sockets hold
        // them all, however few the loop takes.
        for n in 0..200 {
            client.send(&Ask::Read { offset: 0, length: 1 << 20 }, n).unwrap();
        }
        let mut other = server.client();
        assert_eq!(other.read(0, 512).unwrap(), [7; 512]);
        for _ in 0..200 {
            let data = client.receive().unwrap().result.unwrap();
            assert!(data.len() == 1 << 20 && data.iter().all(|&byte| byte == 7));
        }
        server.stop();
    }
}

#[test]
fn requests_that_wait_keep_their_data_and_die_with_their_connection() {
    for server in servers() {
        server.holding.store(true, SeqCst);
        let mut kept = server.client();
        let mut lost = server.client();
        for n in 0..20u64 {
            kept.send(&Ask::Write { offset: n * 8192, data: &[1 + n as u8; 4096], fua: false }, n).unwrap();
            lost.send(&Ask::Write { offset: n * 8192 + 4096, data: &[99; 4096], fua: false }, n).unwrap();
        }
        // Another client's reads pass, and what comes later does not overwrite what waits.
        assert_eq!(server.client().read(0, 512).unwrap(), [0; 512]);
        kept.send(&Ask::Read { offset: 0, length: 512 }, 100).unwrap();
        assert_eq!(kept.receive().unwrap().cookie, 100);
        lost.send(&Ask::Read { offset: 0, length: 512 }, 100).unwrap();
        assert_eq!(lost.receive().unwrap().cookie, 100);
        drop(lost);
        // W8: a new connection is served when nothing of the dead one can come any more.
        let mut next = server.client();
        assert_eq!(next.read(4096, 512).unwrap(), [0; 512]);
        server.holding.store(false, SeqCst);
        next.flush().unwrap();
        for _ in 0..20 {
            kept.receive().unwrap().result.unwrap();
        }
        let content = server.content();
        for n in 0..20 {
            assert!(content[n * 8192..n * 8192 + 4096].iter().all(|&byte| byte == 1 + n as u8));
            assert!(content[n * 8192 + 4096..(n + 1) * 8192].iter().all(|&byte| byte == 0));
        }
        server.stop();
    }
}

/// W8: whoever said goodbye may still have requests in flight; a replayed queue must not overtake them.
#[test]
fn a_new_connection_is_served_only_when_the_requests_of_those_who_left_are_done() {
    for server in servers() {
        let port = server.engine().port();
        let mut stays = server.client();
        let mut leaves = server.client();
        server.holding.store(true, SeqCst);
        leaves.send(&Ask::Write { offset: 0, data: &[1; 4096], fua: false }, 1).unwrap();
        leaves.send(&Ask::Read { offset: 8192, length: 512 }, 2).unwrap();
        assert_eq!(leaves.receive().unwrap().cookie, 2);
        leaves.disconnect().unwrap();
        let socket = server.socket.clone();
        let (told, connected) = std::sync::mpsc::channel();
        let comer = std::thread::spawn(move || {
            let mut client = Client::connect(&socket, "").unwrap();
            told.send(()).unwrap();
            client.write(0, &[2; 4096]).unwrap();
        });
        // Connections that were there before go on.
        assert_eq!(stays.read(0, 512).unwrap(), [0; 512]);
        assert!(connected.recv_timeout(Duration::from_millis(200)).is_err(), "it waits");
        server.holding.store(false, SeqCst);
        port.call(DiskIndex(0), Operation::Flush).unwrap();
        comer.join().unwrap();
        assert_eq!(stays.read(0, 4096).unwrap(), [2; 4096]);
        server.stop();
    }
}

/// W8 under back-pressure: nothing is received from a connection that has its fill of requests, so nothing tells of
/// its death; the client that comes after it must not be served beside its writes all the same.
#[test]
fn a_connection_that_dies_full_of_requests_is_noticed_before_the_next_is_served() {
    for server in servers() {
        server.holding.store(true, SeqCst);
        let mut lost = server.client();
        for n in 0..200u64 {
            lost.send(&Ask::Write { offset: n * 4096, data: &[99; 512], fua: false }, n).unwrap();
        }
        let begun = Instant::now();
        while server.waiting.load(SeqCst) < REQUESTS_MAX {
            assert!(begun.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(lost);
        let mut next = server.client();
        server.holding.store(false, SeqCst);
        next.write(0, &[1; 4096]).unwrap();
        next.flush().unwrap();
        server.engine().port().call(DiskIndex(0), Operation::Flush).unwrap();
        let content = server.content();
        assert!(
            content[..4096].iter().all(|&byte| byte == 1) && content[4096..].iter().all(|&byte| byte == 0)
        );
        server.stop();
    }
}

/// F47: idle sockets take every place, and are dropped when their time to negotiate is over.
#[test]
fn clients_that_never_negotiate_lose_their_places() {
    let server = servers().remove(0);
    let mut good = server.client();
    let idle: Vec<_> = (0..super::event_loop::CONNECTIONS_MAX + 8)
        .map_while(|_| UnixStream::connect(&server.socket).ok())
        .collect();
    good.write(0, &[7; 512]).unwrap();
    // Waits in the queue until the idle ones go.
    let mut late = server.client();
    assert_eq!(late.read(0, 512).unwrap(), [7; 512]);
    good.flush().unwrap();
    drop(idle);
    server.stop();
}

#[test]
fn a_stop_finishes_what_is_in_flight() {
    for server in servers() {
        let mut client = server.client();
        for n in 0..100u64 {
            client.send(&Ask::Write { offset: n * 4096, data: &[5; 4096], fua: false }, n).unwrap();
        }
        client.receive().unwrap().result.unwrap();
        server.engine().stop();
        let mut answered = 1;
        while let Ok(reply) = client.receive() {
            reply.result.unwrap();
            answered += 1;
        }
        let content = server.content();
        let written = content.chunks(4096).filter(|block| block[0] == 5).count();
        assert!(written >= answered, "{answered} answered, {written} written");
        server.stop();
    }
}

#[test]
fn a_stop_does_not_wait_for_clients_that_hang() {
    let server = servers().pop().unwrap();
    server.holding.store(true, SeqCst);
    let mut client = server.client();
    client.send(&Ask::Write { offset: 0, data: &[5; 4096], fua: false }, 0).unwrap();
    let _silent = UnixStream::connect(&server.socket).unwrap();
    let begun = Instant::now();
    server.stop();
    assert!(begun.elapsed() < PATIENCE);
}

/// A write may wait for intents for ever (strict tracking, S4).
#[test]
fn a_stop_does_not_wait_for_what_a_user_in_the_same_process_waits_for() {
    let server = servers().pop().unwrap();
    server.holding.store(true, SeqCst);
    let port = server.engine().port();
    let write = Operation::Write { offset: 0, data: vec![5; 4096], fua: false };
    port.submit(DiskIndex(0), write, 7).unwrap();
    let content = server.directory.path().join("disk.raw");
    let (told, stopped) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        server.engine().stop();
        let dropped = port.completions().recv();
        assert!(std::fs::read(content).unwrap().iter().all(|&byte| byte == 0));
        server.stop();
        told.send(dropped).unwrap();
    });
    let dropped = stopped.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!((dropped.tag, dropped.result), (7, Err(Errno(libc::ESHUTDOWN))));
}

/// A region counts who holds it in 16 bits.
#[test]
fn a_user_in_the_same_process_can_have_only_so_many_requests_in_flight() {
    let server = servers().remove(0);
    server.holding.store(true, SeqCst);
    let port = server.engine().port();
    for n in 0..70_000 {
        let write = Operation::Write { offset: 0, data: vec![5; 512], fua: false };
        port.submit(DiskIndex(0), write, n).unwrap();
    }
    let refused = port.completions().recv_timeout(PATIENCE).unwrap();
    assert_eq!(refused.result, Err(Errno(libc::EAGAIN)));
    assert!(server.waiting.load(SeqCst) < 1 << 16);
    server.holding.store(false, SeqCst);
    server.stop();
}

/// F47: hostile clients.
#[test]
fn foreign_bytes_and_idle_clients_hurt_nobody_else() {
    let server = servers().remove(0);
    let mut good = server.client();
    let mut draw = random();
    let mut held = Vec::new();
    for n in 0..super::event_loop::CONNECTIONS_MAX + 40 {
        let Ok(mut stream) = UnixStream::connect(&server.socket) else { break };
        let bytes: Vec<u8> = (0..draw(300)).map(|_| draw(256) as u8).collect();
        // The server may have hung up already.
        let _ = if n % 2 == 0 { stream.write_all(&bytes) } else { Ok(()) };
        held.push(stream);
        good.write(0, &[n as u8; 512]).unwrap();
    }
    drop(held);
    let mut late = server.client();
    assert_eq!(late.read(0, 512).unwrap(), good.read(0, 512).unwrap());
    server.stop();
}

#[test]
fn a_request_off_the_disk_or_alignment_is_refused_and_the_connection_lives() {
    for server in servers() {
        let mut client = server.client();
        let kind = |result: std::io::Result<()>| result.unwrap_err().raw_os_error().unwrap();
        assert_eq!(kind(client.write(SIZE, &[1; 512])), libc::ENOSPC);
        assert_eq!(client.read(SIZE - 512, 1024).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        if client.align() > 1 {
            assert_eq!(kind(client.write(100, &[1; 512])), libc::EINVAL);
            assert_eq!(kind(client.write(512, &vec![1; 100_001])), libc::EINVAL);
        }
        assert!(client.read(0, SIZE as u32).unwrap().iter().all(|&byte| byte == 0));
        server.stop();
    }
}

#[test]
fn a_read_only_server_refuses_changes_of_every_door() {
    let server = Server::new(&std::env::temp_dir(), false, true);
    let mut client = server.client();
    assert!(client.read_only());
    assert_eq!(client.write(0, &[1; 512]).unwrap_err().raw_os_error(), Some(libc::EPERM));
    let write = Operation::Write { offset: 0, data: vec![1; 512], fua: false };
    assert_eq!(server.engine().port().call(DiskIndex(0), write), Err(Errno(libc::EPERM)));
    server.stop();
}

#[test]
fn a_user_in_the_same_process_sees_what_clients_see() {
    for server in servers() {
        let port = server.engine().port();
        let disk = DiskIndex(0);
        let other = port.clone();
        for n in 0..200u64 {
            let data = vec![n as u8; 4096];
            port.submit(disk, Operation::Write { offset: n * 4096, data, fua: n % 50 == 0 }, n).unwrap();
        }
        for _ in 0..200 {
            port.completions().recv_timeout(PATIENCE).unwrap().result.unwrap();
        }
        other.call(disk, Operation::Flush).unwrap();
        let read = other.call(disk, Operation::Read { offset: 0, length: 200 * 4096 }).unwrap();
        assert!(read.chunks(4096).enumerate().all(|(n, block)| block.iter().all(|&byte| byte == n as u8)));
        assert_eq!(server.client().read(199 * 4096, 4096).unwrap(), [199; 4096]);
        other.call(disk, Operation::Discard { offset: 0, length: SIZE }).unwrap();
        let zero = Operation::Zero { offset: 0, length: SIZE, may_punch: false, fua: true };
        other.call(disk, zero).unwrap();
        assert!(server.content().iter().all(|&byte| byte == 0));
        let beyond = Operation::Read { offset: SIZE, length: 512 };
        assert_eq!(other.call(disk, beyond), Err(Errno(libc::EINVAL)));
        let nowhere = Operation::Read { offset: 0, length: 512 };
        assert_eq!(other.call(DiskIndex(9), nowhere), Err(Errno(libc::ENODEV)));
        server.stop();
        assert_eq!(other.call(disk, Operation::Flush), Err(Errno(libc::ESHUTDOWN)));
    }
}

/// W5: whatever part of a transfer the kernel does, the rest follows, and its request is answered once, when all is done.
/// Method: each transfer of the ring is cut short or interrupted some times; the machine panics at a second completion.
#[test]
fn short_and_interrupted_transfers_are_continued_to_their_end() {
    use Fault::{Fails, None, Short};
    const LENGTH: usize = 96 << 10;
    let plans: [&[Fault]; 5] = [
        &[Short(512), Short(4096)],
        &[Fails(libc::EINTR), Fails(libc::EAGAIN)],
        &[Short(1024), Fails(libc::EINTR), Short(512), Fails(libc::EAGAIN), None],
        &[Fails(libc::EAGAIN), Short((LENGTH - 512) as u32), Short(512)],
        &[Short(LENGTH as u32)],
    ];
    for server in servers().into_iter().skip(1) {
        let mut client = server.client();
        for (round, plan) in plans.iter().enumerate() {
            for fua in [false, true] {
                let data: Vec<u8> = (0..LENGTH).map(|at| (at / 512 + 7 * round) as u8 ^ fua as u8).collect();
                let offset = (round * LENGTH) as u64;
                let meddle = || server.faults.lock().unwrap().extend(plan.iter());
                meddle();
                client.call(&Ask::Write { offset, data: &data, fua }).unwrap();
                assert!(server.faults.lock().unwrap().is_empty(), "all of it went wrong as planned");
                assert!(server.content()[offset as usize..][..LENGTH] == data, "write {round}");
                meddle();
                assert!(client.read(offset, LENGTH as u32).unwrap() == data, "read {round}");
                assert!(server.faults.lock().unwrap().is_empty());
            }
        }
        server.stop();
    }
}

/// W5: a transfer that comes to nothing, or fails, is the request's error, and ends neither the connection nor others.
#[test]
fn a_transfer_that_moves_nothing_or_fails_is_told_to_its_client() {
    for server in servers().into_iter().skip(1) {
        let mut client = server.client();
        for (fault, told) in [(Fault::Short(0), libc::EIO), (Fault::Fails(libc::ENOSPC), libc::ENOSPC)] {
            let parts = [Fault::Short(512), fault];
            server.faults.lock().unwrap().extend(parts);
            let refused = client.write(0, &[1; 4096]).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(told));
            server.faults.lock().unwrap().extend(parts);
            assert!(client.read(0, 4096).is_err());
            client.write(0, &[2; 4096]).unwrap();
            assert_eq!(client.read(0, 4096).unwrap(), [2; 4096]);
        }
        server.stop();
    }
}

fn config(folder: &Path, tracking: Tracking) -> Config {
    Config {
        group: "g".into(),
        disks: ["a", "b"].map(|name| DiskConfig { name: name.into(), path: folder.join(name) }).into(),
        block_shift: 12,
        region_shift: 22,
        intent_budget: 64 << 20,
        preserve_limit: None,
        preserve_deadline: Duration::from_secs(60),
        direct: None,
        log_dir: None,
        tracking,
        read_only: false,
        create: Some(SIZE),
    }
}

/// Goal: loop, machine, sidecar and worker work together, from the first write over a cut to a clean stop and a second
/// start. Method: two disks on each kind of file system, written before, during and after the freeze.
#[test]
fn a_group_is_written_cut_preserved_released_and_stopped() {
    for parent in [Path::new("/dev/shm").to_owned(), std::env::temp_dir()] {
        let folder = tempfile::tempdir_in(parent).unwrap();
        let socket = folder.path().join("nbd.sock");
        for session in 1..=2u8 {
            let _ = std::fs::remove_file(&socket);
            let opening = sidecar::open(&config(folder.path(), Tracking::Availability)).unwrap();
            let handout = opening.handout.clone();
            let nbd = vec![UnixListener::bind(&socket).unwrap()];
            let options = Options { nbd, ..Options::default() };
            let engine = super::spawn(opening, options).unwrap();
            let asker = engine.asker();
            let ask = |question| asker.ask(question).unwrap().recv_timeout(PATIENCE).unwrap();
            let mut client = Client::connect(&socket, "b").unwrap();
            for n in 0..64u64 {
                client.write(n * 65536, &[session; 8192]).unwrap();
            }
            let target = TargetId([session; 16]);
            let Answer::Attached(attached) = ask(Question::Attach { target }) else { panic!("attached") };
            let attach = attached.attach;
            let Answer::Frozen(frozen) = ask(Question::Cut { attach, full: true }) else { panic!("frozen") };
            assert_eq!(handout.open(frozen.generation, frozen.cut).unwrap().len(), 2 * DESCRIPTORS_PER_DISK);
            for n in 0..64u64 {
                let data = [session + 100; 4096];
                client.send(&Ask::Write { offset: n * 65536, data: &data, fua: n % 9 == 0 }, n).unwrap();
            }
            client.send(&Ask::Zero { offset: 8 << 20, length: 4 << 20, may_punch: true }, 64).unwrap();
            client.send(&Ask::Flush, 65).unwrap();
            while client.waiting() > 0 {
                client.receive().unwrap().result.unwrap();
            }
            let Answer::Status(status) = ask(Question::Status) else { panic!("status") };
            assert!(status.preserved_blocks >= 64, "{status:?}");
            assert_eq!((status.connections, status.pid), (1, std::process::id()));
            let cut = frozen.cut;
            assert_eq!(ask(Question::Confirm { attach, cut }), Answer::Confirmed { exact: true });
            let anchor = Anchor { vault: VaultId([session; 16]), seq: 1, hash: [session; 32] };
            assert_eq!(ask(Question::Release { attach, target, cut, anchor }), Answer::Done);
            assert_eq!(client.read(0, 4096).unwrap(), [session + 100; 4096]);
            engine.stop();
            engine.join().unwrap();
        }
    }
}

/// W3, W5: a before-image is in the store as a whole before the block is overwritten, also if the kernel copies it in
/// parts.
#[test]
fn a_before_image_that_is_copied_in_parts_is_whole() {
    use Fault::{Fails, None, Short};
    let folder = tempfile::tempdir().unwrap();
    let opening = sidecar::open(&config(folder.path(), Tracking::Availability)).unwrap();
    let (handout, socket, faults) =
        (opening.handout.clone(), folder.path().join("nbd.sock"), Faults::default());
    let options = Options { nbd: vec![UnixListener::bind(&socket).unwrap()], ..Options::default() };
    let sidecar::Opening { group, worker, disks, opened, actions, .. } = opening;
    let parts = Parts { machine: group, jobs: worker, disks, opened, actions, faults: Arc::clone(&faults) };
    let engine = spawn_parts(parts, options).unwrap();
    let asker = engine.asker();
    let ask = |question| asker.ask(question).unwrap().recv_timeout(PATIENCE).unwrap();
    let mut client = Client::connect(&socket, "a").unwrap();
    let before: Vec<u8> = (0..8192).map(|at| (at / 64) as u8).collect();
    client.write(65536, &before).unwrap();
    let Answer::Attached(attached) = ask(Question::Attach { target: TargetId([1; 16]) }) else {
        panic!("attached")
    };
    let attach = attached.attach;
    let Answer::Frozen(frozen) = ask(Question::Cut { attach, full: false }) else { panic!("frozen") };
    let of_disk = [Short(512), Fails(libc::EINTR), Short(1024), None];
    faults.lock().unwrap().extend(of_disk);
    client.write(65536, &[200; 8192]).unwrap();
    assert!(faults.lock().unwrap().is_empty());
    let mut handed = handout.open(frozen.generation, frozen.cut).unwrap();
    let store = std::fs::File::from(handed.swap_remove(3));
    let mut kept = vec![0; 8192];
    std::os::unix::fs::FileExt::read_exact_at(&store, &mut kept, 65536).unwrap();
    assert!(kept == before);
    assert_eq!(ask(Question::Confirm { attach, cut: frozen.cut }), Answer::Confirmed { exact: true });
    engine.stop();
    engine.join().unwrap();
}

/// S5: what the worker lets go of, the worker closes: the last descriptor of a deleted file frees its space, in whichever
/// thread.
#[test]
fn the_loop_closes_no_file_of_the_sidecar() {
    let (disk, file) = (DiskIndex(0), SidecarFile::Store(Generation(1)));
    let store = tempfile::tempfile().unwrap();
    let report =
        Report { opened: Vec::new(), closed: vec![(disk, file)], done: JobDone::Watched { low: false } };
    let jobs = NoJobs::new(Some(report));
    let closed = Arc::clone(&jobs.closed);
    let opened = vec![Opened { disk, file, fd: store.try_clone().unwrap().into() }];
    let server = Server::with(&std::env::temp_dir(), false, false, jobs, opened);
    server.client().flush().unwrap();
    let begun = Instant::now();
    while closed.lock().unwrap().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "it is closed elsewhere");
        std::thread::sleep(Duration::from_millis(1));
    }
    server.stop();
}

/// S2: who waits for the lock makes its sockets under the same names as soon as it has it.
#[test]
fn the_names_of_sockets_go_while_the_disk_is_still_locked() {
    #[derive(Debug)]
    struct Name(PathBuf, Arc<AtomicBool>);
    impl Drop for Name {
        fn drop(&mut self) {
            let file = std::fs::OpenOptions::new().read(true).write(true).open(&self.0).unwrap();
            let lock = libc::flock {
                l_type: libc::F_WRLCK as i16,
                l_whence: libc::SEEK_SET as i16,
                l_start: 100,
                l_len: 200,
                l_pid: 0,
            };
            self.1.store(fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).is_err(), SeqCst);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let opening = sidecar::open(&config(folder.path(), Tracking::Availability)).unwrap();
    let locked = Arc::new(AtomicBool::new(false));
    let names: Vec<Box<dyn super::Guard>> = vec![Box::new(Name(folder.path().join("a"), locked.clone()))];
    let engine = super::spawn(opening, Options { names, ..Options::default() }).unwrap();
    engine.stop();
    engine.join().unwrap();
    assert!(locked.load(SeqCst));
}

#[test]
fn with_tracking_off_a_disk_is_served_and_stopped_too() {
    let folder = tempfile::tempdir().unwrap();
    let opening = sidecar::open(&config(folder.path(), Tracking::Off)).unwrap();
    let engine = super::spawn(opening, Options::default()).unwrap();
    let port = engine.port();
    let disk = DiskIndex(1);
    port.call(disk, Operation::Write { offset: 4096, data: vec![3; 4096], fua: true }).unwrap();
    port.call(disk, Operation::Flush).unwrap();
    assert_eq!(port.call(disk, Operation::Read { offset: 4096, length: 4096 }), Ok(vec![3; 4096]));
    engine.stop();
    engine.join().unwrap();
}
