//! Whether packs hold what an index says: every frame is opened, every block hashed.

use crate::vault::access::{Index, Reader};
use crate::vault::frame::BlockHash;
use crate::vault::index::{PackRef, PageFrame};
use crate::vault::pack::PackReader;
use crate::{Error, Kind, Result};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Packs checked at a time.
const WORKERS: usize = 4;

/// What an index expects of a frame.
pub(super) struct Needed {
    pub(super) frame: PageFrame,
    /// Place in the frame, block, hash.
    blocks: Vec<(u16, u64, BlockHash)>,
}

/// What an index expects of its packs, by pack; frames in no order, one may come twice. Also which pages can't be read.
pub(super) fn expected(reader: &Reader, index: &Index) -> Result<(Vec<Vec<Needed>>, Vec<Error>)> {
    let directory = &index.directory;
    let mut packs: Vec<Vec<Needed>> = Vec::new();
    packs.resize_with(directory.packs.len(), Vec::new);
    let (mut data, mut zeros) = (0, 0);
    let mut unread = Vec::new();
    for number in 0..directory.pages.len() {
        let page = match reader.page(index, number) {
            Err(error) if error.kind() == Kind::Damage => {
                unread.push(error);
                continue;
            }
            page => page?,
        };
        let mut frames: Vec<Needed> =
            page.frames.iter().map(|frame| Needed { frame: *frame, blocks: Vec::new() }).collect();
        for run in &page.runs {
            let Some(frame) = run.frame else {
                zeros += u64::from(run.count);
                continue;
            };
            data += u64::from(run.count);
            for n in 0..run.count {
                let slot = run.slot + u16::try_from(n).expect("a data run is short");
                let hash = page.hashes[(run.hash + n) as usize];
                frames[usize::from(frame)].blocks.push((slot, run.block + u64::from(n), hash));
            }
        }
        frames.into_iter().for_each(|needed| packs[needed.frame.pack as usize].push(needed));
    }
    if unread.is_empty() && (data, zeros) != (directory.data_blocks, directory.zero_blocks) {
        let name = reader.index_place(&index.reference).name;
        return Err(Error::damage(&name, "its directory counts other blocks than its pages hold"));
    }
    Ok((packs, unread))
}

/// Something wrong with a pack: all of it, or one frame.
pub(super) struct Finding {
    pub(super) pack: usize,
    pub(super) frame: Option<u32>,
    pub(super) error: Error,
}

/// How a pack is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Not at all: nothing of it shows, and it may be gone.
    Not,
    /// Whether it is there, as long as it must be.
    There,
    /// As [`Self::There`]: all of it was read before an interruption.
    Before,
    /// All of it is read.
    Whole,
}

/// Checks the packs of an index, each as `look` says; `sound` hears of each that was read whole and is as it must be.
pub(super) fn check_packs(
    reader: &Reader,
    index: &Index,
    expected: &[Vec<Needed>],
    look: &(dyn Fn(&PackRef) -> Look + Sync),
    sound: &(dyn Fn(&PackRef) + Sync),
) -> Result<Vec<Finding>> {
    let next = AtomicUsize::new(0);
    let findings = Mutex::new(Vec::new());
    let shift = index.directory.head.block_shift;
    let work = || -> Result<()> {
        loop {
            let pack = next.fetch_add(1, Ordering::Relaxed);
            let Some(reference) = index.directory.packs.get(pack) else { return Ok(()) };
            let look = look(reference);
            if look == Look::Not {
                continue;
            }
            let is_sound = Cell::new(true);
            let mut tell = |frame: Option<u32>, error: Error| match error.kind() {
                Kind::Damage | Kind::NewerVault => {
                    is_sound.set(false);
                    findings.lock().expect("no panic with the lock").push(Finding { pack, frame, error });
                    Ok(())
                }
                _ => Err(error),
            };
            if look != Look::Whole {
                there(reader, reference).or_else(|error| tell(None, error))?;
                continue;
            }
            match open_pack(reader, reference) {
                Ok(found) if found.disk != index.directory.head.disk || found.block_shift != shift => {
                    tell(None, Error::damage(found.name(), "it holds blocks of another disk"))?;
                }
                Ok(found) => check_pack(reader, &found, &expected[pack], &mut tell)?,
                Err(error) => tell(None, error)?,
            }
            if is_sound.get() {
                sound(reference);
            }
        }
    };
    match WORKERS.min(index.directory.packs.len()) {
        0 | 1 => work()?,
        workers => std::thread::scope(|scope| {
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
        })?,
    }
    let mut findings = findings.into_inner().expect("no panic with the lock");
    findings.sort_by_key(|finding| (finding.pack, finding.frame));
    Ok(findings)
}

/// It is there, and as long as it must be.
fn there(reader: &Reader, reference: &PackRef) -> Result<()> {
    let place = reader.pack_place(reference);
    let there = reader.group().store.len(&place.object)?;
    if place.offset == 0 && there != place.length {
        return Err(Error::damage(
            &place.name,
            format_args!("it has {there} bytes instead of {}", place.length),
        ));
    }
    Ok(())
}

fn open_pack(reader: &Reader, reference: &PackRef) -> Result<PackReader> {
    there(reader, reference)?;
    let place = reader.pack_place(reference);
    let length = usize::try_from(reference.length).expect("checked against the limit");
    let bytes = reader.read(&place, 0, length)?;
    if bytes.get(crate::vault::layout::object::SALT) != Some(&reference.salt[..]) {
        return Err(Error::damage(&place.name, "its salt is not the one that the index names"));
    }
    PackReader::open(&reader.group().seal, &place.name, bytes)
}

fn check_pack(
    reader: &Reader,
    pack: &PackReader,
    expected: &[Needed],
    tell: &mut impl FnMut(Option<u32>, Error) -> Result<()>,
) -> Result<()> {
    let hasher = reader.group().hasher();
    let shift = pack.block_shift;
    let mut by_frame: HashMap<u32, Vec<&Needed>> = HashMap::new();
    expected.iter().for_each(|needed| by_frame.entry(needed.frame.number).or_default().push(needed));
    for (number, frame) in (0u32..).zip(&pack.frames) {
        let expected = by_frame.remove(&number).unwrap_or_default();
        let data = match pack.frame(number as usize) {
            Ok(data) => data,
            Err(error) => {
                tell(Some(number), error)?;
                continue;
            }
        };
        for needed in expected {
            let same = (needed.frame.offset, needed.frame.sealed, needed.frame.blocks as usize)
                == (frame.offset, frame.sealed, frame.blocks.len());
            let sound = same
                && needed.blocks.iter().all(|(slot, block, hash)| {
                    let at = usize::from(*slot) << shift;
                    frame.blocks[usize::from(*slot)] == *block
                        && hasher.hash(&data[at..at + (1 << shift)]) == *hash
                });
            if !sound {
                tell(
                    Some(number),
                    Error::damage(pack.name(), format_args!("frame {number} is not what the index says")),
                )?;
            }
        }
    }
    match by_frame.is_empty() {
        true => Ok(()),
        false => tell(None, Error::damage(pack.name(), "the index names frames that it does not have")),
    }
}
