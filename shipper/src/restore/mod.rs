//! Restoring a recovery point into files, a block device or a pipe (V12).
//!
//! A disk is walked in windows of blocks; the data of a window is fetched in *pack order*, each live frame once, by
//! several threads, every block checked against its hash before it is written. A window holds some 50 bytes a block,
//! so memory is bounded whatever the disk's size; a frame that lies across the border of two windows is fetched twice,
//! and because frames are in block order that is one frame an index and border.
//!
//! A new file appears under its name only when it is whole and synced. Several disks get their names together at the end:
//! all of them or, if one can't, none. A restore that is killed, or loses the store, leaves what it has; the next one to the
//! same place goes on with it ([`copy`] says why that can be believed). One that fails for good leaves nothing.

mod begun;
pub mod copy;
pub mod nbd;
pub mod output;
pub mod plan;
pub mod stream;

use crate::points::{Point, Wanted, find};
use crate::vault::access::{CACHE, Reader};
use crate::vault::entry::{Content, DiskImage};
use crate::vault::image::Image;
use crate::vault::names;
use crate::vault::{Group, Vault};
use crate::{Error, Kind, Result};
use output::{How, Output};
use std::collections::HashSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// What to restore, and where.
#[derive(Clone, Debug)]
pub struct Request {
    /// The group's name.
    pub group: String,
    /// The disk, by name or id; may be left out where there is one. All disks if left out where there are several.
    pub disk: Option<String>,
    /// Which point.
    pub point: Wanted,
    /// A file, a block device, an NBD URI or a pipe (`-`: standard output); a folder if several disks are restored.
    pub to: PathBuf,
    /// What becomes of what is there.
    pub how: How,
    /// Threads that fetch, check and write.
    pub jobs: usize,
}

/// What was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The point.
    pub point: Point,
    /// The files, in the order of the point's disks.
    pub disks: Vec<RestoredDisk>,
}

/// A restored disk.
#[derive(Clone, Debug)]
pub struct RestoredDisk {
    /// Its name in the group.
    pub name: String,
    /// Where it is now.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes of it that are data.
    pub data_bytes: u64,
    /// Bytes fetched from the store, without index pages.
    pub fetched_bytes: u64,
    /// Bytes of data that an interrupted restore had left.
    pub kept_bytes: u64,
}

/// How far it is, for a progress bar: bytes of the disks walked and to walk.
pub type Progress<'a> = dyn Fn(u64, u64) + Sync + 'a;

/// Restores.
///
/// # Errors
/// `GroupNotFound` (also for the disk), `PointNotFound`, `OutputExists`, `NoSpace`, `Damage`, the store's and the output's.
pub fn restore(vault: &Vault, request: &Request, progress: &Progress<'_>) -> Result<Restored> {
    let group = vault.group(&request.group);
    let point = find(vault, &group, &request.point)?;
    loop {
        let number = group.known.number();
        let restored = restore_point(&group, point.clone(), request, progress);
        let error = match restored {
            Err(error) if error.kind() == Kind::Damage => error,
            restored => return restored,
        };
        // Not damage, if it was let go meanwhile, or blocks of it were moved.
        let Some(newer) = group.newer_catalog(number)? else { return Err(error) };
        if point.seq <= newer.bound() && newer.kept(point.seq).is_none() {
            let line = format!(
                "point {} was let go by a prune while it was restored; choose another, or pin the next one first",
                point.id
            );
            return Err(Error::new(Kind::PointNotFound, line));
        }
        if output::is_stream(&request.to) {
            return Err(
                error.context("the vault was repacked meanwhile, and a stream can't begin anew; do it again")
            );
        }
        tracing::info!(point = %point.id, "the vault was repacked meanwhile: beginning anew");
    }
}

fn restore_point(
    group: &Group,
    point: Point,
    request: &Request,
    progress: &Progress<'_>,
) -> Result<Restored> {
    let entry = group.entry_at(point.seq)?;
    let content = entry.content().ok_or_else(|| {
        Error::damage(&names::entry(group.id(), point.seq), "it was a point and is one no more")
    })?;
    let disks = wanted_disks(content, request)?;
    let folder = disks.len() > 1;
    if folder && output::takes_one(&request.to) {
        let line = format!(
            "the point has {} disks, and {} takes one: choose it with --disk",
            disks.len(),
            request.to.display()
        );
        return Err(Error::new(Kind::Usage, line));
    }
    let paths = paths(&disks, &request.to, folder)?;
    restore_disks(group.clone(), point, &disks, &paths, request, folder, progress)
}

fn wanted_disks<'a>(content: &'a Content, request: &Request) -> Result<Vec<&'a DiskImage>> {
    let Some(wanted) = &request.disk else { return Ok(content.disks.iter().collect()) };
    let found: Vec<_> =
        content.disks.iter().filter(|disk| disk.name == *wanted || disk.id.to_string() == *wanted).collect();
    if found.len() == 1 {
        return Ok(found);
    }
    let names: Vec<_> = content.disks.iter().map(|disk| format!("{} ({})", disk.name, disk.id)).collect();
    let what = if found.is_empty() { "no disk" } else { "several disks" };
    Err(Error::new(
        Kind::GroupNotFound,
        format!("the point has {what} {wanted}; it has: {}", names.join(", ")),
    ))
}

/// A file for every disk. Names come from the vault and must not lead elsewhere (T21): one that could gives way to
/// the disk's id. No two may be the same: with `--force` one disk would take the other's place.
fn paths(disks: &[&DiskImage], to: &Path, folder: bool) -> Result<Vec<PathBuf>> {
    if !folder {
        return Ok(vec![to.to_owned(); disks.len()]);
    }
    let mut taken = HashSet::new();
    let paths = disks.iter().map(|disk| {
        let mut parts = Path::new(&disk.name).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == &*disk.name);
        let names = [(plain && !disk.name.contains('\0')).then(|| disk.name.clone()), Some(disk.id.to_string())];
        let free = names.into_iter().flatten().find(|name| taken.insert(name.clone()));
        free.map(|name| to.join(name)).ok_or_else(|| {
            let line = format!("two disks of the point are called {}; restore them one by one with --disk", disk.id);
            Error::new(Kind::Damage, line)
        })
    });
    paths.collect()
}

fn restore_disks(
    group: Group,
    point: Point,
    disks: &[&DiskImage],
    paths: &[PathBuf],
    request: &Request,
    folder: bool,
    progress: &Progress<'_>,
) -> Result<Restored> {
    let hasher = group.hasher();
    let reader = Arc::new(Reader::new(group, CACHE));
    let images = disks.iter().map(|disk| Image::open(reader.clone(), disk)).collect::<Result<Vec<_>>>()?;
    let made = folder && make_folder(&request.to)?;
    let mut outputs = Vec::new();
    let done: Result<_> = (|| {
        for (image, path) in images.iter().zip(paths) {
            outputs.push(Output::create(path, image.size(), 1 << image.block_shift(), &request.how)?);
        }
        let space = outputs.iter().map(Output::space).collect::<Result<Vec<_>>>()?;
        if let Some(Some((free, _))) = space.first() {
            check_space(
                &images,
                space.iter().flatten().fold(*free, |sum, (_, has)| sum.saturating_add(*has)),
            )?;
        }
        let total = images.iter().map(Image::size).sum();
        let (mut walked, mut restored) = (0, Vec::new());
        for ((image, output), (disk, path)) in images.iter().zip(&outputs).zip(disks.iter().zip(paths)) {
            let tell = |bytes| progress(walked + bytes, total);
            let copied = copy::copy(image, hasher, output, request.jobs, copy::WINDOW, &tell)?;
            walked += image.size();
            restored.push(RestoredDisk {
                name: disk.name.clone(),
                path: path.clone(),
                size: image.size(),
                data_bytes: copied.data_bytes + copied.kept_bytes,
                fetched_bytes: copied.fetched_bytes,
                kept_bytes: copied.kept_bytes,
            });
        }
        // Only now, when every disk is whole, do the files get their names.
        outputs.iter().try_for_each(Output::sync)?;
        output::commit(std::mem::take(&mut outputs))?;
        if folder {
            // Also one that a killed restore has made.
            output::sync_folder_of(&request.to)?;
        }
        Ok(restored)
    })();
    match done {
        Ok(disks) => Ok(Restored { point, disks }),
        Err(error) => {
            // What may pass: the store is away, or what gives access to it has expired.
            let passes = matches!(error.kind(), Kind::Unreachable | Kind::Denied);
            let keeps = passes && request.how.resume;
            let kept: Vec<_> = outputs.into_iter().map(|output| keeps && output.keep()).collect();
            if kept.contains(&true) {
                return Err(error.context("what was restored so far is kept, run the same again to go on"));
            }
            if made {
                let _ = fs::remove_dir(&request.to);
            }
            Err(error)
        }
    }
}

/// Makes the folder for several disks; answers whether it is new.
fn make_folder(path: &Path) -> Result<bool> {
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::caused(
            Kind::OutputExists,
            format!(
                "{}: the point has several disks, so --to must be a folder; or choose one with --disk",
                path.display()
            ),
            error,
        )),
        Err(error) => Err(Error::io(format_args!("{} can't be made", path.display()), error)),
    }
}

/// Refuses early what can't fit. Counts exactly only when the cheap bound does not fit.
fn check_space(images: &[Image], free: u64) -> Result<()> {
    let bytes = |blocks: u64, image: &Image| blocks.saturating_mul(1 << image.block_shift());
    let bound =
        images.iter().fold(0u64, |sum, image| sum.saturating_add(bytes(image.data_blocks_bound(), image)));
    if bound <= free {
        return Ok(());
    }
    let mut needed = 0u64;
    for image in images {
        for window in image.windows(copy::WINDOW) {
            needed = needed.saturating_add(bytes(window?.data_blocks() as u64, image));
        }
    }
    if needed <= free {
        return Ok(());
    }
    Err(Error::new(
        Kind::NoSpace,
        format!(
            "not enough space: {} of data and {} free; make room or restore elsewhere",
            crate::cli::bytes(needed),
            crate::cli::bytes(free)
        ),
    ))
}

#[cfg(test)]
mod tests;
