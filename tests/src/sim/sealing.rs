//! A session that is about to seal a cut, over a sidecar with logs that others left, and the host's death behind it.

use super::disk::Facts;
use super::folder::SimFolder;
use super::host::Host;
use super::leaves::{Fate, Leaves};
use super::maps::SimMaps;
use std::collections::BTreeSet;
use towline_tracker::format::changes::{self, Encoder, Header, Seal};
use towline_tracker::format::meta::{Meta, PendingLog};
use towline_tracker::group::job::{Job, JobDone, SealDisk};
use towline_tracker::id::{CutId, DiskId, Generation, Session};
use towline_tracker::map::{Words, bits};
use towline_tracker::sidecar::files::{create_log, read_logs};
use towline_tracker::sidecar::folder::Folder;
use towline_tracker::sidecar::jobs::{Home, Jobs};

/// The disk's identity.
pub const DISK: DiskId = DiskId([3; 16]);
/// Its size, in blocks.
pub const BLOCKS: u64 = 256;
const SESSION: Session = Session(2);

/// The header of a log of it.
pub fn header(generation: u64, session: Session) -> Header {
    Header { disk: DISK, session, generation: Generation(generation), block_shift: 12, size: BLOCKS << 12 }
}

/// A map with these blocks.
pub fn map(blocks: impl IntoIterator<Item = u64>) -> Words {
    let map = Words::private(bits::words_for(BLOCKS));
    for block in blocks {
        bits::set(&map, block..block + 1);
    }
    map
}

/// The session: its number is 2, and generation 7 is frozen.
pub struct Sealing {
    /// Does what the machine asks.
    pub jobs: Jobs<SimFolder, Facts, SimMaps>,
    folder: SimFolder,
    meta: Meta,
}

impl Sealing {
    /// Over this sidecar; these logs are pending.
    pub fn new(folder: &SimFolder, logs: Vec<PendingLog>) -> Self {
        let host = Host::new(true);
        drop(host.start());
        let meta = Meta { disk: DISK, session: SESSION, logs: logs.clone(), ..host.meta() };
        let (facts, id, size, block_shift) = (host.facts(), DISK, BLOCKS << 12, 12);
        let homes = vec![Home { folder: folder.clone(), facts, id, size, block_shift, logs }];
        let jobs = Jobs { homes, maps: host.maps.clone(), session: SESSION, draw: || CutId([9; 16]) };
        Self { jobs, folder: folder.clone(), meta }
    }

    /// Seals the cut of generations `first` to 7, with these blocks.
    pub fn seal(&mut self, first: u64, frozen: &Words) {
        let header = header(7, SESSION);
        create_log(&self.folder, &header).unwrap();
        let seal = Seal {
            cut: CutId([1; 16]),
            first: Generation(first),
            last: Generation(7),
            size: header.size,
            time_ns: 0,
            blocks: bits::count(frozen),
            compare: false,
            whole: false,
        };
        let disk = SealDisk {
            frozen: frozen.clone(),
            header,
            encoder: Encoder::new(&header),
            end: changes::HEADER as u64,
            blocks: BLOCKS,
            fresh: false,
            seal,
            meta: self.meta.clone(),
        };
        let done = self.jobs.run(Job::Seal { generation: Generation(7), disks: vec![disk] }).done;
        assert!(matches!(done, JobDone::Sealed { result: Ok(()), .. }), "{done:?}");
    }

    /// What the sidecar's meta says.
    pub fn meta(&self) -> Meta {
        Meta::decode(&self.folder.peek("disk.meta").unwrap()).unwrap()
    }

    /// The host dies: which blocks the logs still know of, or that one is missed.
    pub fn host_dies(self) -> Option<BTreeSet<u64>> {
        // What was deleted is gone for good.
        Folder::sync(&self.folder).unwrap();
        self.folder.host_crash(&mut Fate::new(Leaves::Some(1)));
        let mut found = BTreeSet::new();
        let each = |blocks| found.extend(blocks);
        let logs = read_logs(&self.folder, DISK, Generation(6), &self.meta().logs, each).unwrap();
        logs.bad.is_none().then_some(found)
    }
}
