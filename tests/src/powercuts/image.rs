//! The content of a drive, by pages: what was never written takes no memory, and a copy shares all pages.

use crate::live::process::data_at;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Bytes of a page.
const PAGE: usize = 4096;

/// The smallest part of a write that a power cut leaves whole.
pub const SECTOR: usize = 512;

/// The content of a drive.
#[derive(Clone, Debug)]
pub struct Image {
    size: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
}

impl Image {
    /// Zeros.
    pub fn new(size: u64) -> Self {
        Self { size, pages: BTreeMap::new() }
    }

    /// A file's content.
    ///
    /// # Errors
    /// It can't be read.
    pub fn load(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut image = Self::new(file.metadata()?.len());
        let mut bytes = vec![0; 256 * PAGE];
        let mut at = data_at(&file, 0) / PAGE as u64 * PAGE as u64;
        while at < image.size {
            let length = (image.size - at).min(bytes.len() as u64) as usize;
            file.read_exact_at(&mut bytes[..length], at)?;
            for (place, page) in (at..).step_by(PAGE).zip(bytes[..length].chunks(PAGE)) {
                if page.iter().any(|&byte| byte != 0) {
                    image.write(place, page);
                }
            }
            // What was never written takes no time.
            at = data_at(&file, at + length as u64) / PAGE as u64 * PAGE as u64;
        }
        Ok(image)
    }

    /// A sparse file with this content.
    ///
    /// # Errors
    /// It can't be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.size)?;
        for (page, bytes) in &self.pages {
            file.write_all_at(&bytes[..], page * PAGE as u64)?;
        }
        Ok(())
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether all of a range lies in it.
    pub fn holds(&self, offset: u64, length: u64) -> bool {
        offset.checked_add(length).is_some_and(|end| end <= self.size)
    }

    /// Fills a buffer from an offset on.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        for (page, within, part) in parts(offset, bytes.len()) {
            let length = part.len();
            match self.pages.get(&page) {
                Some(found) => bytes[part].copy_from_slice(&found[within..within + length]),
                None => bytes[part].fill(0),
            }
        }
    }

    /// Writes bytes to an offset.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (page, within, part) in parts(offset, bytes.len()) {
            let page = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[within..within + part.len()].copy_from_slice(&bytes[part]);
        }
    }

    /// Zeros a range.
    pub fn zero(&mut self, offset: u64, length: u64) {
        let (first, last) = (offset.div_ceil(PAGE as u64), (offset + length) / PAGE as u64);
        if first < last {
            let whole: Vec<u64> = self.pages.range(first..last).map(|(&page, _)| page).collect();
            whole.iter().for_each(|page| {
                self.pages.remove(page);
            });
            self.clear(offset, first * PAGE as u64 - offset);
            self.clear(last * PAGE as u64, offset + length - last * PAGE as u64);
        } else {
            self.clear(offset, length);
        }
    }

    fn clear(&mut self, offset: u64, length: u64) {
        self.write(offset, &vec![0; length as usize]);
    }
}

/// The pages of a range: page, first byte within it, bytes of the range.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % PAGE as u64) as usize;
        let part = done..(done + PAGE - within).min(length);
        done = part.end;
        (!part.is_empty()).then_some((at / PAGE as u64, within, part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_what_was_written_to_it() {
        let mut image = Image::new(5 * PAGE as u64);
        let mut model = vec![0; 5 * PAGE];
        let mut rng = crate::sim::rng::Rng::new(1);
        for turn in 0..400 {
            let offset = rng.index(model.len());
            let length = rng.index(model.len() - offset + 1);
            if rng.chance(300) {
                image.zero(offset as u64, length as u64);
                model[offset..offset + length].fill(0);
            } else {
                image.write(offset as u64, &vec![turn as u8; length]);
                model[offset..offset + length].fill(turn as u8);
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        image.save(&path).unwrap();
        assert!(std::fs::read(&path).unwrap() == model);
        let mut read = vec![0; model.len() - 7];
        Image::load(&path).unwrap().read(7, &mut read);
        assert!(read == model[7..]);
        assert!(image.holds(7, 5 * PAGE as u64 - 7) && !image.holds(8, 5 * PAGE as u64 - 7));
        assert!(!image.holds(u64::MAX, 2));
    }
}
