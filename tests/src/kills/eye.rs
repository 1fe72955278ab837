//! Where a kill finds the two programs. The tracker's header and maps are on tmpfs and the vault is a folder: what a killed
//! process was at is still there to be read when it is dead, and it is read then, before anybody else comes.

use crate::live::process::Site;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use towline::store;
use towline::vault::names;
use towline::vault::{Group, Vault};
use towline_tracker::format::checksum::checksum;
use towline_tracker::id::{CutId, Generation, Session};
use towline_tracker::map::Words;
use towline_tracker::map::header::{GroupHeader, Road};
use towline_tracker::sidecar::files::META;
use towline_tracker::sidecar::jobs::{map_name, preserved_name};
use towline_tracker::sidecar::start::HEADER;
use towline_tracker::sidecar::{maps, sidecar_path};

/// What was under way at a kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// An exact freeze was live, before-images were being copied for it, and more were wanted.
    Preserving,
    /// The disks were synced, the change log was being sealed.
    Sealing,
    /// The shipper had read its last block and put its index or its entry; the tracker did not know of it yet.
    Publication,
    /// The anchor was being stored, the logs were being deleted.
    Release,
    /// A successor had the disk open, and did not serve yet.
    Recovery,
    /// Anything else: no freeze, a cut, a freeze that the guests left alone, an undo.
    Other,
}

impl State {
    /// All, in their order.
    pub const ALL: [Self; 6] =
        [Self::Preserving, Self::Sealing, Self::Publication, Self::Release, Self::Recovery, Self::Other];

    /// Its word in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preserving => "preserving",
            Self::Sealing => "sealing",
            Self::Publication => "publication",
            Self::Release => "release",
            Self::Recovery => "recovery",
            Self::Other => "other",
        }
    }

    /// The state that `now` shows, of programs that served; `before` is the look some moments earlier.
    pub fn found(before: &Look, now: &Look) -> Self {
        match now.road {
            Road::Synced => Self::Sealing,
            Road::Releasing => Self::Release,
            Road::Sealed if now.put => Self::Publication,
            Road::Draining | Road::Sealed if now.preserves_since(before) => Self::Preserving,
            _ => Self::Other,
        }
    }
}

/// What is seen at one moment.
#[derive(Clone, Debug)]
pub struct Look {
    /// How far the freeze has come.
    pub road: Road,
    open: Generation,
    fuzzy: bool,
    /// Blocks preserved, and blocks frozen that are not.
    preserved: u64,
    wanted: u64,
    /// The index or the entry of the freeze is in the vault.
    put: bool,
}

impl Look {
    /// Whether before-images were being copied between the two looks, and more are wanted.
    pub fn preserves_since(&self, before: &Self) -> bool {
        let one = before.open == self.open && before.preserved < self.preserved;
        one && !self.fuzzy && self.wanted > 0
    }
}

/// What tells a start that has come so far from one that has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    session: Session,
    meta: Identity,
    nbd: Identity,
}

type Identity = Option<(u64, i64, i64)>;

/// How far a successor is let go before it is killed in turn.
#[derive(Clone, Copy, Debug)]
pub enum Stage {
    /// It has the disk open: it waits for the lock, or looks at what it finds.
    Opened,
    /// It has stamped the maps; no meta names it yet.
    Stamped,
    /// The first disk's meta names it.
    Named,
}

/// Looks at the programs of a site.
pub struct Eye {
    maps: PathBuf,
    disks: Vec<PathBuf>,
    nbd: PathBuf,
    vault: PathBuf,
    group: Group,
    header: GroupHeader,
    /// The newest entry seen.
    head: u64,
}

impl Eye {
    /// For a site whose tracker serves, with a point in its vault.
    ///
    /// # Panics
    /// If it is not so.
    pub fn new(site: &Site) -> Self {
        let maps = maps_folder(&site.first());
        let vault = site.vault();
        let open = store::open(vault.to_str().expect("a plain path")).and_then(Vault::open);
        let group = open.expect("the vault opens").group(&site.group());
        let words = GroupHeader::WORDS;
        let header = GroupHeader::new(words_of(&maps.join(HEADER), words).expect("the header is there"));
        let real = |name: &String| std::fs::canonicalize(site.path(name)).expect("a disk is there");
        let disks = site.disks.iter().map(real).collect();
        Self { maps, disks, nbd: site.nbd(), vault, group, header, head: 0 }
    }

    /// Where the group's maps are.
    pub fn maps(&self) -> &Path {
        &self.maps
    }

    /// The road, as cheaply as it can be had.
    pub fn road(&self) -> Road {
        self.header.state().road
    }

    /// Everything that there is to see.
    pub fn look(&mut self) -> Look {
        let state = self.header.state();
        let frozen = Generation(state.open.0 - 1);
        let (mut preserved, mut wanted) = (0, 0);
        for disk in 0..self.disks.len() {
            let read = |name: String| std::fs::read(self.maps.join(name)).unwrap_or_default();
            if state.road == Road::None {
                break;
            }
            let (all, copied) = (read(map_name(frozen, disk)), read(preserved_name(frozen, disk)));
            preserved += copied.iter().map(|byte| u64::from(byte.count_ones() as u8)).sum::<u64>();
            let left =
                all.iter().zip(&copied).map(|(all, copied)| u64::from((all & !copied).count_ones() as u8));
            wanted += left.sum::<u64>();
        }
        let cut = self.header.read_cut(frozen).cut;
        let put = state.road == Road::Sealed && (self.index_is_put(cut) || self.entry_is_put(cut));
        Look { road: state.road, open: state.open, fuzzy: state.fuzzy, preserved, wanted, put }
    }

    /// Whether there are entries that were not there at the last look. Only counted, not read.
    pub fn log_grew(&mut self) -> bool {
        let before = self.head;
        while self.vault.join(names::entry(self.group.id(), self.head + 1)).exists() {
            self.head += 1;
        }
        self.head > before
    }

    /// The newest entry seen.
    pub fn head(&self) -> u64 {
        self.head
    }

    fn entry_is_put(&mut self, cut: CutId) -> bool {
        self.log_grew();
        let header = self.group.entry_header(self.head);
        header.ok().flatten().is_some_and(|header| header.cut == cut && header.kind.has_content())
    }

    /// Whether the index of the live freeze is in the vault: it is the last object before the entry.
    pub fn index_is_put(&self, cut: CutId) -> bool {
        let end = format!("-{cut}");
        let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
        let mut folders = entries(&self.vault.join(names::packs(self.group.id())));
        let of_cut = folders.find(|folder| folder.file_name().to_string_lossy().ends_with(&end));
        of_cut.is_some_and(|folder| {
            entries(&folder.path()).any(|file| file.path().extension().is_some_and(|end| end == "index"))
        })
    }

    /// The newest attach number.
    pub fn attach(&self) -> u64 {
        self.header.attach().0
    }

    /// The live freeze's cut.
    pub fn cut(&self) -> CutId {
        self.header.read_cut(Generation(self.header.state().open.0 - 1)).cut
    }

    /// What a start changes.
    pub fn mark(&self) -> Mark {
        let meta = sidecar_path(None, &self.disks[0]).join(META);
        Mark { session: self.header.session(), meta: identity(&meta), nbd: identity(&self.nbd) }
    }

    /// Whether the successor of whatever left `mark` serves, or did.
    pub fn serves(&self, mark: &Mark) -> bool {
        identity(&self.nbd) != mark.nbd
    }

    /// Whether the process, a successor, has come so far.
    pub fn reached(&self, stage: Stage, pid: u32, mark: &Mark) -> bool {
        let now = self.mark();
        let open = || {
            let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            files.filter_map(|file| std::fs::read_link(file.path()).ok()).any(|path| path == self.disks[0])
        };
        match stage {
            Stage::Opened => open(),
            Stage::Stamped => now.session > mark.session,
            Stage::Named => now.meta != mark.meta,
        }
    }
}

/// Where a group's header and maps are, by its first disk.
///
/// # Panics
/// If the disk is not there.
pub fn maps_folder(disk: &Path) -> PathBuf {
    let place = std::fs::canonicalize(disk).expect("the disk is there");
    let name = format!("{:016x}", checksum(0, place.as_os_str().as_encoded_bytes()));
    let user = nix::unistd::geteuid();
    Path::new("/dev/shm").join(format!("towline-{user}")).join(name)
}

fn identity(path: &Path) -> Identity {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.ctime(), found.ctime_nsec()))
}

fn words_of(path: &Path, words: usize) -> std::io::Result<Words> {
    let file = OwnedFd::from(File::open(path)?);
    let mapped = maps::map(&file, words, false)?;
    assert_ne!(mapped[0].load(Relaxed), 0, "the header is valid");
    Ok(mapped)
}
