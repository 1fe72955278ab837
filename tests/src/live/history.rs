//! The prefix oracle. Every block is a register with its history of writes, each with the time at which it was issued
//! and the time at which it was acknowledged. An image is a prefix of the history if one instant T exists such that
//! every block of every disk is as a power cut at T may have left it:
//!
//! - no block is from a write that was issued after T;
//! - no block is older than a write that was acknowledged before T (a later write overwrites, a concurrent one may).
//!
//! So each block's content leaves a set of instants, and the image is one instant exactly if all sets have one in
//! common: that keeps the order across writers and disks. The instant must also lie between the beginning and the end
//! of the request to cut.

use super::stamp::{self, BLOCK, Content, WriteId};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Nanoseconds on the clock of the writers.
pub type Time = u64;

/// Acknowledged never.
pub const NEVER: Time = Time::MAX;

/// A write, zeroing or discard as its writer saw it.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// Its number.
    pub id: WriteId,
    /// The disk's place in the group.
    pub disk: usize,
    /// First block.
    pub block: u64,
    /// Blocks.
    pub count: u64,
    /// It leaves zeros, not its stamp.
    pub zeros: bool,
    /// Before it was sent.
    pub issued: Time,
    /// After its reply was received, or [`NEVER`].
    pub acked: Time,
}

/// A read as its reader saw it: what it found in one block.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// The disk's place in the group.
    pub disk: usize,
    /// The block.
    pub block: u64,
    /// What was there.
    pub content: Content,
    /// Before it was sent.
    pub begun: Time,
    /// After its reply was received.
    pub ended: Time,
}

/// All writes to a group of disks.
#[derive(Debug)]
pub struct History {
    /// For each disk and block the writes, oldest first by issue.
    blocks: Vec<Vec<Vec<u32>>>,
    writes: Vec<Write>,
    by_id: HashMap<WriteId, u32>,
}

/// What is known about the instant of an image that is a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instants {
    /// The earliest.
    pub first: Time,
    /// The latest.
    pub last: Time,
}

impl History {
    /// Of disks with these numbers of blocks, and these writes, the first content included.
    pub fn new(sizes: &[u64], mut writes: Vec<Write>) -> Self {
        writes.sort_by_key(|write| write.issued);
        let mut blocks: Vec<Vec<Vec<u32>>> =
            sizes.iter().map(|&blocks| vec![Vec::new(); blocks as usize]).collect();
        let mut by_id = HashMap::new();
        for (index, write) in writes.iter().enumerate() {
            by_id.insert(write.id, index as u32);
            for block in write.block..write.block + write.count {
                blocks[write.disk][block as usize].push(index as u32);
            }
        }
        Self { blocks, writes, by_id }
    }

    /// Checks restored images, one for each disk, against the history. `begun` and `ended` are when the cut was asked
    /// for and when it was known to be over.
    ///
    /// # Errors
    /// The first thing found that no power cut would have left.
    pub fn check(&self, images: &[&Path], begun: Time, ended: Time) -> Result<Instants, String> {
        assert_eq!(images.len(), self.blocks.len());
        let mut instants = Intersection::default();
        for (disk, image) in images.iter().enumerate() {
            let failed = |error: io::Error| format!("{}: {error}", image.display());
            let mut file = File::open(image).map_err(failed)?;
            let length = file.metadata().map_err(failed)?.len();
            if length != self.blocks[disk].len() as u64 * BLOCK as u64 {
                return Err(format!("{} has {length} bytes", image.display()));
            }
            let mut bytes = vec![0; 256 * BLOCK];
            let mut block = 0u64;
            while block < self.blocks[disk].len() as u64 {
                let count = (self.blocks[disk].len() as u64 - block).min(256) as usize;
                file.read_exact(&mut bytes[..count * BLOCK]).map_err(failed)?;
                for one in bytes[..count * BLOCK].chunks_exact(BLOCK) {
                    self.look(disk, block, stamp::read(one, disk, block), &mut instants)?;
                    block += 1;
                }
            }
        }
        let found = instants.finish()?;
        if found.first > ended {
            return Err(format!("a write issued {} ns after the cut ended is there", found.first - ended));
        }
        if found.last < begun {
            return Err(format!("a write acknowledged {} ns before the cut is missing", begun - found.last));
        }
        Ok(found)
    }

    /// Checks what a guest read while others wrote: it was there at some instant of the read. A block that is being written
    /// meanwhile may be a mixture.
    ///
    /// # Errors
    /// A write is missing, or something was read that nobody wrote there.
    pub fn check_read(&self, read: &Read) -> Result<(), String> {
        let told = |what: &str| {
            let Read { disk, block, content, begun, ended } = *read;
            format!("disk {disk}, block {block}, read from {begun} to {ended}: {content:?}: {what}")
        };
        if read.content == Content::Foreign {
            let history = self.blocks[read.disk][read.block as usize].iter();
            let mut writes = history.map(|&index| &self.writes[index as usize]);
            let torn = writes.any(|write| write.issued <= read.ended && write.acked >= read.begun);
            return if torn { Ok(()) } else { Err(told("nobody wrote there meanwhile")) };
        }
        let ranges = self.ranges(read.disk, read.block, read.content)?;
        let there = ranges.iter().any(|&(from, to)| from <= read.ended && to >= read.begun);
        if there { Ok(()) } else { Err(told(&format!("it was there only in {ranges:?}"))) }
    }

    /// Adds what one block says about the instant.
    fn look(
        &self,
        disk: usize,
        block: u64,
        content: Content,
        instants: &mut Intersection,
    ) -> Result<(), String> {
        let ranges = self.ranges(disk, block, content)?;
        instants.add(&ranges, || match content {
            Content::Stamp(id) => format!("disk {disk}, block {block} of write {:x}", id.0),
            _ => format!("disk {disk}, block {block} of zeros"),
        })
    }

    /// When a block may have had this content.
    fn ranges(&self, disk: usize, block: u64, content: Content) -> Result<Vec<(Time, Time)>, String> {
        let place = || format!("disk {disk}, block {block}");
        let history = &self.blocks[disk][block as usize];
        match content {
            Content::Foreign => Err(format!("{}: torn, or nothing that was written there", place())),
            Content::Stamp(id) => match self.by_id.get(&id) {
                Some(index) if history.contains(index) && !self.writes[*index as usize].zeros => {
                    let write = &self.writes[*index as usize];
                    Ok(vec![(write.issued, self.overwritten(history, write.acked))])
                }
                _ => Err(format!("{}: the stamp of write {:x}, which was never there", place(), id.0)),
            },
            Content::Zeros => {
                let mut ranges = Vec::new();
                // Without a first content recorded, a block begins with zeros.
                if history.first().is_none_or(|&first| self.writes[first as usize].acked != 0) {
                    ranges.push((0, self.overwritten(history, 0)));
                }
                for &index in history {
                    let write = &self.writes[index as usize];
                    if write.zeros {
                        ranges.push((write.issued, self.overwritten(history, write.acked)));
                    }
                }
                if ranges.is_empty() {
                    return Err(format!("{}: zeros, which were never there", place()));
                }
                Ok(ranges)
            }
        }
    }

    /// The instant at which content acknowledged at `acked` is gone for certain.
    fn overwritten(&self, history: &[u32], acked: Time) -> Time {
        let later = history.iter().map(|&index| &self.writes[index as usize]);
        let later = later.filter(|write| acked != NEVER && write.issued > acked);
        later.map(|write| write.acked).min().unwrap_or(NEVER)
    }
}

/// Instants that all blocks allow.
struct Intersection {
    allowed: Vec<(Time, Time)>,
}

impl Default for Intersection {
    fn default() -> Self {
        Self { allowed: vec![(0, NEVER)] }
    }
}

impl Intersection {
    fn add(&mut self, ranges: &[(Time, Time)], what: impl Fn() -> String) -> Result<(), String> {
        let mut left = Vec::new();
        for &(first, last) in &self.allowed {
            for &(from, to) in ranges {
                if first.max(from) <= last.min(to) {
                    left.push((first.max(from), last.min(to)));
                }
            }
        }
        left.sort_unstable();
        let mut merged: Vec<(Time, Time)> = Vec::new();
        for range in left {
            match merged.last_mut() {
                Some(last) if range.0 <= last.1 => last.1 = last.1.max(range.1),
                _ => merged.push(range),
            }
        }
        if merged.is_empty() {
            return Err(format!(
                "no single instant: {} allows {ranges:?}, the blocks before it {:?}",
                what(),
                self.allowed
            ));
        }
        self.allowed = merged;
        Ok(())
    }

    fn finish(self) -> Result<Instants, String> {
        match (self.allowed.first(), self.allowed.last()) {
            (Some(&(first, _)), Some(&(_, last))) => Ok(Instants { first, last }),
            _ => Err("no single instant".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn write(id: u64, disk: usize, block: u64, issued: Time, acked: Time) -> Write {
        Write { id: WriteId(id), disk, block, count: 1, zeros: false, issued, acked }
    }

    /// Images of two disks of two blocks, each block by the number of its write; 0 for zeros.
    fn images(folder: &Path, blocks: [[u64; 2]; 2]) -> Vec<PathBuf> {
        let disks = blocks.iter().enumerate().map(|(disk, blocks)| {
            let mut bytes = vec![0; 2 * BLOCK];
            for (block, (bytes, &id)) in bytes.chunks_exact_mut(BLOCK).zip(blocks).enumerate() {
                if id != 0 {
                    stamp::fill(bytes, WriteId(id), disk, block as u64);
                }
            }
            let path = folder.join(format!("{disk}"));
            std::fs::write(&path, bytes).unwrap();
            path
        });
        disks.collect()
    }

    fn check(history: &History, blocks: [[u64; 2]; 2], begun: Time, ended: Time) -> Result<Instants, String> {
        let folder = tempfile::tempdir().unwrap();
        let paths = images(folder.path(), blocks);
        let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        history.check(&paths, begun, ended)
    }

    #[test]
    fn only_images_of_one_instant_pass() {
        let writes = vec![
            write(1, 0, 0, 10, 20),
            write(2, 1, 0, 30, 40),
            write(3, 0, 0, 50, 60),
            write(4, 1, 1, 55, 70),
        ];
        let history = History::new(&[2, 2], writes);
        assert_eq!(check(&history, [[1, 0], [2, 0]], 45, 48), Ok(Instants { first: 30, last: 60 }));
        assert!(check(&history, [[3, 0], [2, 4]], 0, NEVER).is_ok());
        assert!(check(&history, [[1, 0], [2, 4]], 0, NEVER).is_ok(), "3 and 4 were in flight together");
        assert!(
            check(&history, [[3, 0], [0, 0]], 0, NEVER).is_err(),
            "2 was acknowledged before 3 was issued"
        );
        assert!(check(&history, [[1, 0], [2, 0]], 61, 70).is_err(), "3 was acknowledged before the cut");
        assert!(check(&history, [[3, 0], [2, 0]], 45, 48).is_err(), "3 was issued after the cut");
        assert!(check(&history, [[2, 0], [2, 0]], 0, NEVER).is_err(), "a write of another place");
        assert!(check(&history, [[9, 0], [2, 0]], 0, NEVER).is_err(), "a write of nobody");
    }

    #[test]
    fn a_read_finds_what_was_there_while_it_ran() {
        let history = History::new(&[2], vec![write(1, 0, 0, 10, 20), write(2, 0, 0, 30, 40)]);
        let read = |content, begun, ended| {
            history.check_read(&Read { disk: 0, block: 0, content, begun, ended }).is_ok()
        };
        let [one, two] = [1, 2].map(|id| Content::Stamp(WriteId(id)));
        assert!(read(Content::Zeros, 5, 15) && read(Content::Zeros, 15, 18), "1 is not acknowledged");
        assert!(!read(Content::Zeros, 21, 25), "1 was acknowledged before the read began");
        assert!(read(one, 12, 15) && read(one, 35, 50) && !read(one, 5, 9) && !read(one, 41, 50));
        assert!(read(two, 31, 32) && read(two, 90, 99) && !read(two, 21, 29), "2 was not issued");
        assert!(read(Content::Foreign, 15, 16) && !read(Content::Foreign, 21, 29));
        assert!(!read(Content::Stamp(WriteId(9)), 1, 99), "a write of nobody");
    }

    #[test]
    fn zeros_are_content_like_any_other() {
        let mut zero = write(2, 0, 0, 30, 40);
        zero.zeros = true;
        let history = History::new(&[2, 2], vec![write(1, 0, 0, 10, 20), zero, write(3, 1, 1, 50, 60)]);
        assert_eq!(check(&history, [[0, 0], [0, 0]], 0, 5), Ok(Instants { first: 0, last: 60 }));
        assert!(check(&history, [[0, 0], [0, 3]], 0, NEVER).is_ok());
        assert!(check(&history, [[1, 0], [0, 3]], 0, NEVER).is_err(), "the zeroing was acknowledged before");
        // A disk whose first content is recorded had no zeros.
        let first = |block| Write { count: 1, ..write(10 + block, 0, block, 0, 0) };
        let history = History::new(&[2, 2], vec![first(0), first(1)]);
        assert!(check(&history, [[10, 0], [0, 0]], 0, NEVER).is_err());
        assert!(check(&history, [[10, 11], [0, 0]], 0, NEVER).is_ok());
    }
}
