//! What stands in a sidecar, and the order in which it becomes durable.

use super::folder::{Folder, FolderFile};
use crate::format::changes::{self, Encoder, Header};
use crate::format::intents::{IntentSet, LogMark, slot_size, slot_stride};
use crate::format::meta::Meta;
use crate::id::{CutId, DiskId, Generation, Session};
use crate::mutant;
use std::io;
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

/// The generation and the session in the name of a change log.
pub fn parse_log_name(name: &str) -> Option<(Generation, Session)> {
    let (generation, session) = name.strip_suffix(".changes")?.split_once('-')?;
    Some((Generation(u64::from_str_radix(generation, 16).ok()?), Session(session.parse().ok()?)))
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
    /// Blocks of every record of every unreleased log.
    pub ranges: Vec<Range<u64>>,
    /// Sealed ones: generation, first generation, cut.
    pub seals: Vec<changes::Seal>,
    /// The names of all logs, released or not.
    pub names: Vec<String>,
    /// The oldest generation with a log.
    pub first: Option<Generation>,
    /// Why one of them can't be believed.
    pub bad: Option<String>,
}

/// Reads every log of a later generation than `released`. `marks` say how much of which must be there at least.
///
/// # Errors
/// The folder can't be read; what is wrong with a log is in [`Logs::bad`].
pub fn read_logs(
    folder: &impl Folder,
    disk: DiskId,
    released: Generation,
    marks: &[(Session, LogMark)],
) -> io::Result<Logs> {
    let mut logs = Logs::default();
    for name in folder.names()? {
        let Some((generation, session)) = parse_log_name(&name) else { continue };
        logs.names.push(name.clone());
        if generation <= released {
            continue;
        }
        let least = marks
            .iter()
            .filter(|(of, mark)| *of == session && mark.generation == generation)
            .map(|(_, mark)| mark.length)
            .max()
            .unwrap_or(0);
        match read_log(folder, &name, disk, generation, session, least) {
            Ok((contents, mut ranges)) => {
                let first = contents.seal.map_or(generation, |seal| seal.first);
                logs.first = Some(logs.first.map_or(first, |other| other.min(first)));
                logs.seals.extend(contents.seal);
                logs.ranges.append(&mut ranges);
            }
            // Made, but never durable: nothing was ever appended to it.
            Err(BadFile::Unborn) if least <= changes::HEADER as u64 => {}
            Err(why) => logs.bad = Some(format!("{name}: {why}")),
        }
    }
    for (session, mark) in marks {
        let named = log_name(mark.generation, *session);
        // A later durable log contains it (C6): it was deleted on purpose.
        let contained = logs.seals.iter().any(|seal| seal.last > mark.generation);
        let needed = mark.length > changes::HEADER as u64 && mark.generation > released && !contained;
        if needed && !logs.names.contains(&named) {
            logs.bad = Some(format!("{named} is missing"));
        }
    }
    logs.seals.sort_by_key(|seal| seal.last);
    Ok(logs)
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
    generation: Generation,
    session: Session,
    least: u64,
) -> Result<(changes::Contents, Vec<Range<u64>>), BadFile> {
    let bytes = folder.read(name).map_err(|error| BadFile::Bad(error.to_string()))?;
    let mut ranges = Vec::new();
    let contents = changes::read(&bytes[..], |record| match record {
        changes::Record::Evicted(mut blocks) | changes::Record::Sealed(mut blocks) => {
            ranges.append(&mut blocks)
        }
        changes::Record::Seal(_) => {}
    })
    .map_err(|error| {
        if bytes.len() <= changes::HEADER { BadFile::Unborn } else { BadFile::Bad(error.to_string()) }
    })?;
    let header = contents.header;
    if header.disk != disk || header.generation != generation || header.session != session {
        return Err(BadFile::Bad("it is of another disk, generation or session".into()));
    }
    let rest = usize::try_from(contents.length).map_or(&[][..], |at| bytes.get(at..).unwrap_or_default());
    if contents.seal.is_none() && changes::any_record(&header, rest) {
        let why = format!("it is damaged at byte {}, and goes on behind it", contents.length);
        return Err(BadFile::Bad(why));
    }
    // A sealed log is whole by itself. It may be shorter than one whose appends failed and that it took the place of (F6).
    if contents.seal.is_none() && contents.length < least {
        return Err(BadFile::Bad(format!("it is damaged at byte {} of at least {least}", contents.length)));
    }
    Ok((contents, ranges))
}
