//! What stands in a sidecar, and the order in which it becomes durable.

use super::folder::{Folder, FolderFile};
use crate::format::changes::{self, Encoder, Header};
use crate::format::intents::{IntentSet, LogMark, slot_size, slot_stride};
use crate::format::meta::{Meta, PendingLog};
use crate::id::{CutId, DiskId, Generation, Session};
use crate::mutant;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;

/// The name of the meta.
pub const META: &str = "disk.meta";

/// Blocks of a map that are sealed at a time: the lock-step of a chunk (S5).
const SEAL_CHUNK: u64 = 1 << 16;

/// The name of a session's intents.
pub fn intents_name(session: Session) -> String {
    format!("{session}.intents")
}

/// The name of the intents that replace those which failed in the middle of a session (S4).
pub fn renewed_intents_name(session: Session, open: Generation) -> String {
    format!("{session}-{:016x}.intents", open.0)
}

/// The name of a change log. The session is in it, for a successor that goes on with a generation appends to a fresh
/// inode (S2).
pub fn log_name(generation: Generation, session: Session) -> String {
    format!("{:016x}-{session}.changes", generation.0)
}

/// The generation and the session in the name of a change log. One spelling only: a file of another name is none of ours,
/// neither read as a log nor deleted as one.
pub fn parse_log_name(name: &str) -> Option<(Generation, Session)> {
    let (generation, session) = name.strip_suffix(".changes")?.split_once('-')?;
    let generation = Generation(u64::from_str_radix(generation, 16).ok()?);
    let session = Session(session.parse().ok()?);
    (log_name(generation, session) == name).then_some((generation, session))
}

/// The name of a freeze's preserved data.
pub fn store_name(cut: CutId) -> String {
    format!("{cut}.preserved")
}

/// Replaces the meta: a new file, durable; then its name; then the folder.
///
/// # Errors
/// Whatever the file system says: the old meta or the new one stands.
pub fn store_meta(folder: &impl Folder, meta: &Meta) -> io::Result<()> {
    const NEW: &str = "disk.meta.new";
    let file = folder.create(NEW)?;
    file.write_at(&meta.encode(), 0)?;
    file.sync()?;
    folder.rename(NEW, META)?;
    if mutant::active("directory-not-synced") { Ok(()) } else { folder.sync() }
}

/// Makes the intents of a session (I3): a fresh inode, filled with all regions of the dead session in both slots,
/// synced. It counts only once the meta names it. Gives the file and the sequence of its newest slot.
///
/// # Errors
/// Whatever the file system says.
pub fn create_intents<F: Folder>(
    folder: &F,
    name: &str,
    disk: DiskId,
    session: Session,
    logs: [LogMark; 2],
    regions: &[u32],
    capacity: usize,
) -> io::Result<(F::File, u64)> {
    let file = folder.create(name)?;
    let regions = if mutant::active("intents-started-empty") { &[] } else { regions };
    file.write_at(&vec![0; slot_stride(capacity) + slot_size(capacity)], 0)?;
    for sequence in 0..2 {
        let set = IntentSet { sequence, session, logs, regions: regions.to_vec() };
        file.write_at(&set.encode(disk, capacity), (set.slot() * slot_stride(capacity)) as u64)?;
    }
    file.sync()?;
    Ok((file, 1))
}

/// Makes a change log: a fresh inode with its header, durable, and its name too.
///
/// # Errors
/// Whatever the file system says.
pub fn create_log<F: Folder>(folder: &F, header: &Header) -> io::Result<F::File> {
    let file = folder.create(&log_name(header.generation, header.session))?;
    file.write_at(&header.encode(), 0)?;
    file.sync()?;
    folder.sync()?;
    Ok(file)
}

/// Appends the set bits of a map to a log, by chunks, as sealed or evicted records. Gives where the next record goes
/// and how many blocks there were.
///
/// # Errors
/// Whatever the file system says.
pub fn append_map(
    file: &impl FolderFile,
    encoder: &mut Encoder,
    mut end: u64,
    evicted: bool,
    blocks: u64,
    load: impl Fn(usize) -> u64,
) -> io::Result<(u64, u64)> {
    let (mut count, mut bytes) = (0, Vec::new());
    // A chunk's records are those of 4096 blocks: sparse maps get runs, dense ones bits.
    let step: u64 = 4096;
    for chunk in (0..blocks).step_by(SEAL_CHUNK as usize) {
        for start in (chunk..(chunk + SEAL_CHUNK).min(blocks)).step_by(step as usize) {
            // Mutant: the end of the last chunk is one block early.
            let blocks = blocks - u64::from(mutant::active("seal-misses-last-block"));
            let range: Range<u64> = start..(start + step).min(blocks);
            count += crate::map::bits::runs(range.clone(), &load).map(|run| run.end - run.start).sum::<u64>();
            encoder.blocks(evicted, range, &load, &mut bytes);
        }
        if bytes.len() >= 1 << 20 {
            file.write_at(&bytes, end)?;
            end += bytes.len() as u64;
            bytes.clear();
        }
    }
    file.write_at(&bytes, end)?;
    Ok((end + bytes.len() as u64, count))
}

/// What a folder holds of change logs.
#[derive(Debug, Default)]
pub struct Logs {
    /// Sealed ones: generation, first generation, cut.
    pub seals: Vec<changes::Seal>,
    /// Logs that must still be found, or something that contains them: what was known of them before, for the next meta.
    /// What was only read may not be durable and is not added.
    pub pending: Vec<PendingLog>,
    /// The oldest generation with a log.
    pub first: Option<Generation>,
    /// Why one of them can't be believed.
    pub bad: Option<String>,
}

/// Reads every log of a later generation than `released`. `known` says which must be there, and at least how long,
/// unless a later sealed one contains them (C6): those were deleted on purpose, and what is left of them is of no
/// importance. `each` is given the blocks of every record, in no order, and some more than once: the logs of a fragmented
/// disk may be larger than memory, and are never in it as a whole.
///
/// # Errors
/// The folder can't be read; what is wrong with a log is in [`Logs::bad`].
pub fn read_logs(
    folder: &impl Folder,
    disk: DiskId,
    released: Generation,
    known: &[PendingLog],
    mut each: impl FnMut(Range<u64>),
) -> io::Result<Logs> {
    let mut logs = Logs { pending: still_pending(known, released), ..Logs::default() };
    let mut bad = Vec::new();
    let mut found = Vec::new();
    let mut sealed = None;
    for name in folder.names()? {
        let Some((generation, session)) = parse_log_name(&name) else { continue };
        if generation <= released {
            continue;
        }
        let of = (generation, session);
        let least = logs.pending.iter().find(|log| (log.generation, log.session) == of);
        let least = least.map_or(0, |log| log.length);
        match read_log(folder, &name, disk, of, least, &mut each) {
            Ok(contents) => {
                found.push(of);
                if contents.seal.is_some() {
                    sealed = sealed.max(Some(of));
                }
                let first = contents.seal.map_or(generation, |seal| seal.first);
                logs.first = Some(logs.first.map_or(first, |other| other.min(first)));
                logs.seals.extend(contents.seal);
            }
            // Made, but never durable: nothing was ever appended to it.
            Err(BadFile::Unborn) if least == 0 => found.push(of),
            Err(why) => {
                found.push(of);
                bad.push((of, format!("{name}: {why}")));
            }
        }
    }
    let missing =
        logs.pending.iter().map(|log| (log.generation, log.session)).filter(|of| !found.contains(of));
    bad.extend(missing.map(|of| (of, format!("{} is missing", log_name(of.0, of.1)))));
    let counts = |(of, why)| if sealed.is_none_or(|sealed| sealed <= of) { Some(why) } else { None };
    logs.bad = bad.into_iter().find_map(counts);
    logs.seals.sort_by_key(|seal| seal.last);
    Ok(logs)
}

/// What must still be found of what was known: unreleased, more than a header, and in no later log of which it is known,
/// too, that it is sealed. What is known twice is joined.
fn still_pending(known: &[PendingLog], released: Generation) -> Vec<PendingLog> {
    let of = |log: &PendingLog| (log.generation, log.session);
    let sealed = known.iter().filter(|log| log.cut.is_some()).map(of).max();
    let mut pending: Vec<PendingLog> = Vec::new();
    for log in known {
        let contained = sealed.is_some_and(|sealed| sealed > of(log));
        if log.generation <= released || log.length <= changes::HEADER as u64 || contained {
            continue;
        }
        match pending.iter_mut().find(|other| of(other) == of(log)) {
            Some(other) => {
                other.length = other.length.max(log.length);
                other.cut = other.cut.or(log.cut);
            }
            None => pending.push(*log),
        }
    }
    pending
}

/// What is wrong with a log.
#[derive(Debug)]
enum BadFile {
    /// It has no header yet.
    Unborn,
    /// Damage.
    Bad(String),
}

impl std::fmt::Display for BadFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unborn => f.write_str("it has no header"),
            Self::Bad(why) => f.write_str(why),
        }
    }
}

fn read_log(
    folder: &impl Folder,
    name: &str,
    disk: DiskId,
    (generation, session): (Generation, Session),
    least: u64,
    each: impl FnMut(Range<u64>),
) -> Result<changes::Contents, BadFile> {
    let file = folder.reader(name).map_err(|error| BadFile::Bad(error.to_string()))?;
    let (mut file, mut each) = (BufReader::new(file), each);
    let contents = changes::read(&mut file, |record| match record {
        // Mutant: what was evicted is said again when the log is sealed.
        changes::Record::Evicted(_) if mutant::active("unsealed-logs-not-read") => {}
        changes::Record::Evicted(blocks) | changes::Record::Sealed(blocks) => {
            blocks.into_iter().for_each(&mut each)
        }
        changes::Record::Seal(_) => {}
    });
    let contents = contents.map_err(|error| match error {
        // Nothing behind what should be a header.
        changes::BadLog::Header(_) if file.fill_buf().is_ok_and(<[u8]>::is_empty) => BadFile::Unborn,
        error => BadFile::Bad(error.to_string()),
    })?;
    let header = contents.header;
    if header.disk != disk || header.generation != generation || header.session != session {
        return Err(BadFile::Bad("it is of another disk, generation or session".into()));
    }
    // A sealed log is whole by itself. It may be shorter than one whose appends failed and that it took the place of (F6).
    if contents.seal.is_none() && contents.length < least {
        return Err(BadFile::Bad(format!("it is damaged at byte {} of at least {least}", contents.length)));
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::folder::Directory;

    const DISK: DiskId = DiskId([3; 16]);

    /// Makes a log of this many evicted blocks, sealed or not; gives what a meta would say of it.
    fn log(folder: &Directory, generation: u64, session: u64, blocks: u64, sealed: bool) -> PendingLog {
        let (generation, session) = (Generation(generation), Session(session));
        let header = Header { disk: DISK, session, generation, block_shift: 12, size: 1 << 24 };
        let file = create_log(folder, &header).unwrap();
        let mut encoder = Encoder::new(&header);
        let head = changes::HEADER as u64;
        let (mut length, blocks) =
            append_map(&file, &mut encoder, head, !sealed, blocks, |_| u64::MAX).unwrap();
        let seal = sealed.then(|| {
            let (cut, first, last) = (CutId([generation.0 as u8; 16]), generation, generation);
            let (size, time_ns, compare, whole) = (1 << 24, 5, false, false);
            changes::Seal { cut, first, last, size, time_ns, blocks, compare, whole }
        });
        if let Some(seal) = &seal {
            let mut bytes = Vec::new();
            encoder.seal(seal, &mut bytes);
            file.write_at(&bytes, length).unwrap();
            length += bytes.len() as u64;
        }
        PendingLog { generation, session, length, cut: seal.map(|seal| seal.identity()) }
    }

    /// Every way in which a known log can be gone or short, and the two that excuse it.
    #[test]
    fn a_lost_log_is_noticed_unless_it_was_released_or_a_later_sealed_one_contains_it() {
        let place = tempfile::tempdir().unwrap();
        let folder = Directory::new(&place.path().join("sidecar")).unwrap();
        let old = log(&folder, 5, 1, 64, false);
        let name = log_name(old.generation, old.session);
        let check = |released, known: &[PendingLog]| {
            let logs = read_logs(&folder, DISK, Generation(released), known, |_| ()).unwrap();
            (logs.bad.is_some(), logs.pending)
        };
        assert_eq!(check(4, &[old]), (false, vec![old]));
        folder.open(&name).unwrap().set_len(old.length - 1).unwrap();
        assert!(check(4, &[old]).0, "cut off");
        assert!(!check(4, &[]).0, "a torn tail that nobody knows of");
        folder.remove(&name).unwrap();
        assert_eq!(check(4, &[old]), (true, vec![old]), "missing, and still so for the next start");
        assert_eq!(check(5, &[old]), (false, vec![]), "released");
        log(&folder, 6, 2, 64, false);
        assert!(check(4, &[old]).0, "a later log that is not sealed contains nothing");
        let sealed = log(&folder, 6, 2, 64, true);
        // Nobody has listed the sealed one yet: it may not be durable.
        assert_eq!(check(4, &[old]), (false, vec![old]));
        assert_eq!(check(4, &[old, sealed]), (false, vec![sealed]));
        folder.remove(&log_name(sealed.generation, sealed.session)).unwrap();
        assert_eq!(check(4, &[old, sealed]), (true, vec![sealed]), "both are gone, and the cut has a name");
    }
}
