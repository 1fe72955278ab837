//! How many user-space instructions does tracking add to a 4 KiB write? callgrind counts the machine over a disk in
//! memory; the slope between N and 2N writes leaves out everything that happens once.

use crate::report::{Report, Table};
use crate::room::Room;
use crate::{Options, Result};
use clap::Args;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use towline_tracker::group::{Action, Change, OpId, Request, Token};
use towline_tracker::id::{DiskIndex, Nanos};
use towline_tracker::sidecar::{self, Config, DiskConfig, Opening, Tracking};

const BLOCK: u64 = 4096;
/// Blocks of the disk: 1 GiB.
const BLOCKS: u64 = 1 << 18;
/// Bytes of the memory that stands for the disk.
const DISK: usize = 1 << 20;
const PAGE: usize = 4096;
/// Requests in flight.
const DEPTH: u64 = 32;
/// Steps over the disk; odd, so that every block is met once before any is met again.
const STRIDE: u64 = 104_729;

/// One run under callgrind.
#[derive(Debug, Args)]
pub(crate) struct Drive {
    /// A folder in memory
    folder: PathBuf,
    /// Writes
    writes: u64,
    /// Nothing is tracked
    #[arg(long)]
    off: bool,
    /// All blocks are marked before
    #[arg(long)]
    marked: bool,
}

/// Answers the question.
pub(crate) fn ask(room: &Room, options: &Options, report: &mut Report) -> Result<()> {
    Room::needs(&["valgrind"])?;
    let writes = if options.quick { 5_000 } else { 50_000 };
    let mut table = Table::new(
        format!("Instructions a 4 KiB write (callgrind, slope between {writes} and {} writes)", 2 * writes),
        &["blocks", "tracked", "untracked", "tracking adds"],
    );
    for (name, marked) in [("marked for the first time", false), ("marked already", true)] {
        let slope = |off: bool| -> Result<f64> {
            let (one, two) = (count(room, writes, off, marked)?, count(room, 2 * writes, off, marked)?);
            Ok((two as f64 - one as f64) / writes as f64)
        };
        let (tracked, untracked) = (slope(false)?, slope(true)?);
        let adds = tracked - untracked;
        table.row([name.into(), format!("{tracked:.1}"), format!("{untracked:.1}"), format!("{adds:.1}")]);
        report.raw(name, [tracked, untracked]);
        report.at_most(
            &format!("instructions that tracking adds, {name}"),
            adds,
            200.0,
            format!("{adds:.1}"),
        );
    }
    report.table(table);
    report.note("Both columns hold the same copy of 4 KiB to a disk in memory and the same driver.");
    Ok(())
}

fn count(room: &Room, writes: u64, off: bool, marked: bool) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(std::env::current_exe()?);
    command.arg("drive").arg(room.memory.path()).arg(writes.to_string());
    command.args(off.then_some("--off")).args(marked.then_some("--marked"));
    let done = command.output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    let collected = said.lines().find_map(|line| line.split("Collected :").nth(1)?.trim().parse().ok());
    collected.ok_or_else(|| format!("callgrind counts nothing: {said}").into())
}

/// The run itself.
pub(crate) fn drive(drive: &Drive) -> Result<()> {
    let path = drive.folder.join("driven.raw");
    crate::room::forget(&path)?;
    std::fs::File::create(&path)?.set_len(BLOCKS * BLOCK)?;
    let config = Config {
        group: "driven".into(),
        disks: vec![DiskConfig { name: "disk".into(), path: path.clone() }],
        block_shift: 12,
        region_shift: 22,
        intent_budget: 4 << 30,
        preserve_limit: None,
        preserve_deadline: Duration::from_millis(250),
        direct: None,
        log_dir: None,
        tracking: if drive.off { Tracking::Off } else { Tracking::Availability },
        read_only: false,
        create: None,
    };
    let mut driver = Driver::new(sidecar::open(&config)?);
    if !drive.off {
        driver.wait_for_spare();
    }
    // Every region has its intent before anything is counted.
    for region in 0..BLOCKS / 1024 {
        driver.write(region * 1024);
    }
    driver.finish();
    if drive.marked {
        driver.writes(BLOCKS);
    }
    driver.writes(drive.writes);
    std::fs::remove_file(&path)?;
    Ok(())
}

/// The part of a buffer that begins at a page.
fn page(buffer: &mut [u8]) -> &mut [u8] {
    let start = buffer.as_ptr().align_offset(PAGE);
    &mut buffer[start..]
}

/// What an engine does, over memory.
struct Driver {
    opening: Opening,
    /// A part of the disk; which block goes where makes no difference to what is counted.
    disk: Vec<u8>,
    data: Vec<u8>,
    actions: Vec<Action>,
    ended: Vec<OpId>,
    replies: u64,
    asked: u64,
    now: Nanos,
}

impl Driver {
    fn new(mut opening: Opening) -> Self {
        let actions = std::mem::take(&mut opening.actions);
        // Each with room to begin at a page: how many instructions a copy takes depends on that.
        let (disk, data) = (vec![0; DISK + PAGE], vec![7; BLOCK as usize + PAGE]);
        let ended = Vec::with_capacity(2 * DEPTH as usize);
        Self { opening, disk, data, actions, ended, replies: 0, asked: 0, now: Nanos(1) }
    }

    /// Executes what the machine wants.
    fn execute(&mut self) {
        for action in self.actions.drain(..) {
            match action {
                Action::Submit { id, offset, length, .. } => {
                    let start = (offset % DISK as u64) as usize;
                    let (disk, data) = (page(&mut self.disk), self.data.as_ptr().align_offset(PAGE));
                    let data = &self.data[data..data + length as usize];
                    disk[start..start + length as usize].copy_from_slice(data);
                    self.ended.push(id);
                }
                Action::Sync { id, .. } | Action::Persist { id, .. } | Action::Preserve { id, .. } => {
                    self.ended.push(id);
                }
                Action::Job(job) => self.opening.worker.post(*job),
                Action::Reply { .. } => self.replies += 1,
                Action::Answer { .. } | Action::Reopen { .. } => {}
            }
        }
    }

    /// Tells the machine what ended, until nothing is left.
    fn complete(&mut self) {
        while let Some(id) = self.ended.pop() {
            self.opening.group.completed(id, Ok(()), self.now, &mut self.actions);
            self.execute();
        }
    }

    fn write(&mut self, block: u64) {
        let request = Request {
            disk: DiskIndex(0),
            change: Change::Write,
            fua: false,
            offset: block * BLOCK,
            length: BLOCK,
            token: Token(block),
        };
        self.opening.group.request(request, self.now, &mut self.actions);
        self.asked += 1;
        self.execute();
    }

    fn writes(&mut self, count: u64) {
        for n in 0..count {
            self.write(n * STRIDE % BLOCKS);
            if n % DEPTH == DEPTH - 1 {
                self.complete();
            }
        }
        self.finish();
    }

    fn finish(&mut self) {
        self.complete();
        assert_eq!(self.replies, self.asked, "every request is answered");
    }

    /// What is made ahead for the first cut is made before anything is counted.
    fn wait_for_spare(&mut self) {
        self.execute();
        let since = Instant::now();
        loop {
            if let Some(report) = self.opening.worker.poll() {
                self.opening.group.job_done(report.done, self.now, &mut self.actions);
                return self.execute();
            }
            assert!(since.elapsed() < Duration::from_secs(120), "the worker makes a spare");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
