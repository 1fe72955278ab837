//! Restores into a device or an export that were begun and not finished, one note each in a folder of this host. A note says
//! that it is worth while to look at what is there; what is there is believed by its hashes alone, so nothing depends on a
//! note that is missing, too old or of another point.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The note of one output.
pub(super) struct Begun {
    file: PathBuf,
}

impl Begun {
    /// Of the output that is called so.
    pub(super) fn of(folder: &Path, target: &Path) -> Self {
        let name = blake3::hash(target.as_os_str().as_encoded_bytes()).to_hex();
        Self { file: folder.join(&name[..32]) }
    }

    /// Whether a restore was begun there.
    pub(super) fn is_there(&self) -> bool {
        self.file.is_file()
    }

    /// A restore begins.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn note(&self, target: &Path) -> io::Result<()> {
        let folder = self.file.parent().expect("it lies in a folder");
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        fs::write(&self.file, format!("{}\n", target.display()))
    }

    /// It is finished.
    pub(super) fn end(&self) {
        // One that stays makes the next restore compare, no more.
        let _ = fs::remove_file(&self.file);
    }
}
