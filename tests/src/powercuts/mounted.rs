//! An image mounted on this host.

use super::image::Image;
use super::scene::folder;
use crate::live::process::{PATIENCE, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A mounted image; its changes are gone with it.
#[derive(Debug)]
pub struct Mounted {
    at: PathBuf,
    _folder: TempDir,
}

impl Mounted {
    /// Mounts an image, which does what a start after a power cut does.
    ///
    /// # Panics
    /// If that fails: the file system itself did not survive.
    #[track_caller]
    pub fn new(image: &Image) -> Self {
        let folder = folder();
        let (file, at) = (folder.path().join("image"), folder.path().join("at"));
        image.save(&file).expect("memory for an image");
        fs::create_dir(&at).expect("a mount point");
        assert!(
            nix::unistd::geteuid().is_root(),
            "only root mounts a machine's drive, whose files are root's"
        );
        run(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(&at)).good();
        Self { at, _folder: folder }
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Requests of a killed tracker may hold it for a moment; and a file system that is still mounted keeps the
        // next image of it from being mounted.
        let begun = Instant::now();
        while run(Command::new("umount").arg(&self.at)).code != Some(0) {
            if begun.elapsed() > PATIENCE {
                let _ = run(Command::new("umount").arg("--lazy").arg(&self.at));
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
