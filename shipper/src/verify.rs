//! Reads everything in a vault and checks everything: every seal, the chain of every log, every hash of every block,
//! and that indexes and packs agree. Says which recovery points damage affects: those whose image still needs what is
//! damaged. One index and a few packs are in memory at a time. Less may be asked for ([`Depth`]): that everything is there, or
//! that and a sample of the data.

mod packs;
mod resume;

pub use resume::Notes;

use crate::edge::Draw;
use crate::points::{Point, history_with};
use crate::retention::live::{Live, live};
use crate::vault::access::{Place, Reader};
use crate::vault::entry::{Entry, EntryKind, IndexRef, Payload};
use crate::vault::envelope::{self, ObjectKind};
use crate::vault::image::Image;
use crate::vault::index::PackRef;
use crate::vault::limits::PACK_MAX;
use crate::vault::names::{self, GroupId, ObjectName, Parsed};
use crate::vault::pack::PackReader;
use crate::vault::{Group, Vault};
use crate::{Error, Kind, Result, store};
use packs::{Look, check_packs, expected};
use resume::Verified;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Memory for index pages: what is read once needs no cache.
const CACHE: usize = 4 << 20;
/// Blocks looked at together when it is asked whether a point needs what is damaged.
const WINDOW: usize = 1 << 18;

/// How much is read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Depth {
    /// Logs, catalogs and indexes; of packs only that they are there, and as long as they must be.
    Structure,
    /// That, and each pack with this probability, in `0.0..=1.0`: so damage of one pack is found with it.
    Sample(f64),
    /// Every byte.
    #[default]
    All,
}

impl Depth {
    /// Whether a pack is read, by this chance.
    fn reads(self, chance: u64) -> bool {
        match self {
            Self::Structure => false,
            Self::Sample(share) => (chance as f64) < share * u64::MAX as f64,
            Self::All => true,
        }
    }
}

/// What a verification is to be.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// How much is read.
    pub depth: Depth,
    /// Draws a sample.
    pub draw: Draw,
    /// Hears of each index that is done: objects and bytes looked at so far, in this group.
    pub progress: &'a dyn Fn(u64, u64),
    /// Where it is remembered what is read, so that it goes on after an interruption.
    pub notes: Option<Notes<'a>>,
}

/// What was found in a vault.
#[derive(Debug, Default)]
pub struct Report {
    /// The groups, by name.
    pub groups: Vec<GroupReport>,
    /// Objects whose names are none of a vault's: not looked at.
    pub unknown: Vec<String>,
}

/// What was found in a group.
#[derive(Debug)]
pub struct GroupReport {
    /// The group's name.
    pub group: String,
    /// Its points, the oldest first, each with whether damage affects it.
    pub points: Vec<(Point, bool)>,
    /// What is damaged: object and line.
    pub damage: Vec<String>,
    /// Entries read.
    pub entries: u64,
    /// Packs and indexes read, and their bytes.
    pub objects: u64,
    /// Bytes of packs and indexes read.
    pub bytes: u64,
    /// Packs that points need, and how many of them were read.
    pub packs: (u64, u64),
    /// Packs that an interrupted verification had read, if one had, which are not read again.
    pub before: Option<Before>,
    /// Packs and indexes that no entry lists: left by a writer that was stopped; harmless.
    pub orphans: u64,
    /// Which packs and indexes are damaged or lost, of those that points need.
    pub objects_damaged: BTreeSet<ObjectName>,
    /// The newest catalog when it began; 0: there was none.
    pub catalog: u64,
}

/// What an interrupted verification had read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Packs.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When it began, in nanoseconds since 1970.
    pub since_ns: u64,
}

impl Report {
    /// Nothing is damaged.
    pub fn is_sound(&self) -> bool {
        self.groups.iter().all(|group| group.damage.is_empty())
    }
}

/// Verifies the whole vault, or one group of it.
///
/// # Errors
/// `GroupNotFound`; the store's, when it is no damage but a failure to read. Damage is in the report.
pub fn verify(vault: &Vault, group: Option<&str>) -> Result<Report> {
    let options = Options { depth: Depth::All, draw: crate::edge::kernel, progress: &|_, _| {}, notes: None };
    verify_with(vault, group, &options)
}

/// As [`verify`], as deep as is asked for.
///
/// # Errors
/// As [`verify`].
pub fn verify_with(vault: &Vault, group: Option<&str>, options: &Options<'_>) -> Result<Report> {
    let mut report = Report::default();
    let groups = match group {
        Some(name) => vec![vault.group(name)],
        None => vault.groups()?,
    };
    let checked: HashSet<_> = groups.iter().map(Group::id).collect();
    let mut all_verified = Vec::new();
    for group in groups {
        let (id, name) = (group.id(), group.name.clone());
        let verified = remembered(&group, options).map(Arc::new);
        all_verified.extend(verified.clone());
        report.groups.push(loop {
            let done = match Check::new(vault, group.clone(), options, verified.clone()).run() {
                Err(error) if error.kind() == Kind::GroupNotFound && has_data(vault, id)? => {
                    lost(name.clone())
                }
                done => done?,
            };
            // What was let go while it was looked at is not damaged.
            if done.damage.is_empty() || group.newer_catalog(done.catalog)?.is_none() {
                break done;
            }
        });
    }
    if group.is_none() {
        let mut others = BTreeSet::new();
        store::each(&*vault.store, "", "", |object| {
            match names::parse(&object.name) {
                Some(
                    Parsed::Data { group, .. }
                    | Parsed::Fold { group, .. }
                    | Parsed::Moved { group, .. }
                    | Parsed::Entry { group, .. }
                    | Parsed::Catalog { group, .. },
                ) => {
                    others.insert(group);
                }
                Some(_) => {}
                None => report.unknown.push(object.name.clone()),
            }
            Ok::<_, Error>(())
        })?;
        // A claim is put before any pack (V1), so packs without a log are a group whose log is gone; a log that is
        // there now belongs to a group that began after we looked.
        for id in others.difference(&checked.into_iter().collect()) {
            if !has(vault, &names::log(*id))? {
                report.groups.push(lost(id.to_string()));
            }
        }
    }
    // Only now: a group that is finished is not read again because another one was interrupted.
    all_verified.iter().for_each(|verified| verified.end());
    Ok(report)
}

/// What an interrupted verification of a group had read; `None` if nothing is to be remembered, or can be.
fn remembered(group: &Group, options: &Options<'_>) -> Option<Verified> {
    let notes = options.notes.as_ref().filter(|_| options.depth != Depth::Structure)?;
    match Verified::open(notes, group, options.depth, (options.draw)()) {
        Ok(Some(verified)) => return Some(verified),
        Ok(None) => tracing::info!("group {} is being verified by another process as well", group.name),
        Err(error) => tracing::warn!(
            %error,
            folder = %notes.folder.display(),
            "a verification that is interrupted will begin anew; see --state-dir"
        ),
    }
    None
}

/// Whether there is an object of this prefix.
fn has(vault: &Vault, prefix: &str) -> Result<bool> {
    Ok(!vault.store.list(prefix, "", 1)?.is_empty())
}

/// Whether a group has packs, indexes or folds that are objects of their own.
fn has_data(vault: &Vault, group: GroupId) -> Result<bool> {
    Ok(has(vault, &names::packs(group))? || has(vault, &names::folds(group))?)
}

/// A group of which there are packs, and no log that says what they mean.
fn lost(group: String) -> GroupReport {
    let damage = vec![format!("group {group} has packs and no log: its recovery points are lost")];
    let (entries, objects, bytes, packs, before, orphans) = (0, 0, 0, (0, 0), None, 0);
    let objects_damaged = BTreeSet::new();
    GroupReport {
        group,
        points: Vec::new(),
        damage,
        entries,
        objects,
        bytes,
        packs,
        before,
        orphans,
        objects_damaged,
        catalog: 0,
    }
}

/// An index and the entries that list it.
struct Listed {
    reference: IndexRef,
    /// Ranges of points, by their order.
    points: Vec<(usize, usize)>,
}

struct Check<'a> {
    vault: &'a Vault,
    options: &'a Options<'a>,
    reader: Arc<Reader>,
    damage: Vec<String>,
    /// Indexes that can't be used.
    bad_indexes: HashSet<ObjectName>,
    /// Frames that can't be used.
    bad_frames: HashSet<(ObjectName, u32)>,
    /// Indexes with such frames, or with pages that can't be read.
    suspects: HashSet<ObjectName>,
    objects_damaged: BTreeSet<ObjectName>,
    catalog: u64,
    seen: HashSet<String>,
    /// What points need; none if nothing was ever let go, so that everything must be there.
    needed: Option<Live>,
    objects: u64,
    bytes: u64,
    packs: (u64, u64),
    /// What was read before an interruption, and is being read.
    verified: Option<Arc<Verified>>,
    /// Draws the sample.
    seed: [u8; 16],
    /// Packs that are not read again, and their bytes.
    before: (u64, u64),
}

impl<'a> Check<'a> {
    fn new(
        vault: &'a Vault,
        group: Group,
        options: &'a Options<'a>,
        verified: Option<Arc<Verified>>,
    ) -> Self {
        Self {
            seed: verified.as_ref().map_or_else(options.draw, |verified| verified.seed),
            verified,
            before: (0, 0),
            vault,
            options,
            reader: Arc::new(Reader::new(group, CACHE)),
            damage: Vec::new(),
            bad_indexes: HashSet::new(),
            bad_frames: HashSet::new(),
            suspects: HashSet::new(),
            objects_damaged: BTreeSet::new(),
            catalog: 0,
            seen: HashSet::new(),
            needed: None,
            objects: 0,
            bytes: 0,
            packs: (0, 0),
        }
    }

    fn group(&self) -> &Group {
        self.reader.group()
    }

    fn run(mut self) -> Result<GroupReport> {
        let mut listed: HashMap<ObjectName, Listed> = HashMap::new();
        let mut points = 0;
        let pruned = self.catalogs()?;
        let (mut contents, mut rests_on) = (Vec::new(), Vec::new());
        let (mut contradictions, mut order) = (Vec::new(), Vec::new());
        let history = history_with(self.vault, self.group(), |entry| {
            let is_point = entry.header.kind == EntryKind::Point;
            contents.extend(entry.content().filter(|_| pruned).cloned());
            if let Payload::Condemned(condemned) = &entry.payload {
                rests_on.push((entry.header.seq, condemned.catalog));
            }
            for reference in indexes(entry) {
                let found = listed.entry(reference.name).or_insert_with(|| {
                    order.push(reference.name);
                    Listed { reference: *reference, points: Vec::new() }
                });
                if found.reference != *reference {
                    contradictions.push((entry.header.seq, reference.name, is_point.then_some(points)));
                }
                match found.points.last_mut() {
                    _ if !is_point => {}
                    Some((_, end)) if *end == points => *end = points + 1,
                    _ => found.points.push((points, points + 1)),
                }
            }
            points += usize::from(is_point);
        })?;
        self.damage.extend(history.damage.iter().map(Error::line));
        for (seq, (number, hash)) in rests_on.into_iter().filter(|(_, (number, _))| *number > 0) {
            let catalog = self.group().catalog_at(number);
            if self.note(catalog)?.is_some_and(|catalog| catalog.hash() != hash) {
                let name = names::catalog(self.group().id(), number);
                self.damage.push(Error::damage(&name, format_args!("entry {seq} rests on another")).line());
            }
        }
        if pruned {
            self.needed = Some(live(&self.reader, &contents, u64::MAX, &mut |_, _| {})?);
        }
        let mut affected = BTreeSet::new();
        for (seq, index, point) in contradictions {
            self.damage
                .push(format!("entry {seq} says other things of index {index} than entries before it"));
            affected.extend(point);
        }
        for name in &order {
            self.index(&listed[name].reference)?;
        }
        let orphans = self.orphans()?;
        self.affected(&history.points, &listed, &mut affected)?;
        let points = history.points.into_iter().enumerate();
        Ok(GroupReport {
            group: self.group().name.clone(),
            points: points.map(|(n, point)| (point, affected.contains(&n))).collect(),
            damage: self.damage,
            entries: history.entries,
            objects: self.objects,
            bytes: self.bytes,
            packs: self.packs,
            before: self.verified.filter(|_| self.before.0 > 0).map(|verified| Before {
                packs: self.before.0,
                bytes: self.before.1,
                since_ns: verified.since_ns,
            }),
            orphans,
            objects_damaged: self.objects_damaged,
            catalog: self.catalog,
        })
    }

    /// Reads every catalog and checks their chain; whether there is one.
    fn catalogs(&mut self) -> Result<bool> {
        let newest = self.group().catalog(0);
        let Some(newest) = self.note(newest)?.flatten() else { return Ok(false) };
        self.catalog = newest.number;
        let mut before = Some([0; 32]);
        for number in 1..=newest.number {
            for name in self.group().catalog_names(number) {
                // Only of the newest the second copy may be still to come.
                let missing = number == newest.number && !self.group().has_object(&name)?;
                if missing && self.group().has_object(&names::catalog(self.group().id(), number))? {
                    continue;
                }
                let copy = self.group().catalog_named(&name, number);
                let copy = self.note(copy)?;
                let before = before.filter(|_| copy.is_some());
                if before.is_some_and(|before| copy.as_ref().is_some_and(|copy| copy.previous != before)) {
                    self.damage.push(Error::damage(&name, "it does not follow the catalog before it").line());
                }
            }
            before = self.group().catalog_at(number).ok().map(|catalog| catalog.hash());
        }
        Ok(true)
    }

    /// Passes damage on into the report; any other failure ends the verification.
    fn note<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if matches!(error.kind(), Kind::Damage | Kind::NewerVault) => {
                self.damage.push(error.line());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The object at a place has this length: more than that would be bytes that nothing seals.
    fn length(&self, place: &Place) -> Result<()> {
        let there = self.group().store.len(&place.object)?;
        if place.offset == 0 && there != place.length {
            return Err(Error::damage(
                &place.name,
                format_args!("it has {there} bytes instead of {}", place.length),
            ));
        }
        Ok(())
    }

    fn index(&mut self, reference: &IndexRef) -> Result<()> {
        // What nobody reads any more may be anything.
        self.seen.insert(self.reader.index_place(reference).name);
        let read = self.group().known.stands_for(reference);
        let place = self.reader.index_place(&read);
        self.objects += 1;
        self.bytes += read.length;
        self.seen.insert(place.name.clone());
        let opened = self.length(&place).and_then(|()| self.reader.open_index(reference));
        let Some(index) = self.note(opened)? else {
            self.bad_indexes.insert(reference.name);
            self.objects_damaged.insert(read.name);
            return Ok(());
        };
        let expected = expected(&self.reader, &index);
        let Some((expected, unread)) = self.note(expected)? else {
            self.bad_indexes.insert(reference.name);
            self.objects_damaged.insert(read.name);
            return Ok(());
        };
        for error in unread {
            self.damage.push(error.line());
            self.suspects.insert(reference.name);
            self.objects_damaged.insert(read.name);
        }
        // A fold refers to packs of the indexes that it folds; what it says of them is its own.
        let looks: HashMap<ObjectName, Look> =
            index.directory.packs.iter().map(|pack| (pack.name, self.look_at(read.name, pack))).collect();
        let sound = |pack: &PackRef| {
            self.verified.iter().for_each(|verified| verified.note(read.name, pack));
        };
        let findings = check_packs(&self.reader, &index, &expected, &|pack| looks[&pack.name], &sound)?;
        for pack in index.directory.packs.iter().filter(|pack| looks[&pack.name] != Look::Not) {
            if self.seen.insert(self.reader.pack_place(pack).name) {
                let read = looks[&pack.name] == Look::Whole;
                self.objects += 1;
                self.bytes += if read { pack.length } else { 0 };
                self.packs = (self.packs.0 + 1, self.packs.1 + u64::from(read));
                if looks[&pack.name] == Look::Before {
                    self.before = (self.before.0 + 1, self.before.1 + pack.length);
                }
            }
        }
        (self.options.progress)(self.objects, self.bytes);
        for finding in findings {
            let pack = &index.directory.packs[finding.pack];
            self.damage.push(finding.error.line());
            self.suspects.insert(reference.name);
            self.objects_damaged.insert(pack.name);
            let all = expected[finding.pack].iter().map(|needed| needed.frame.number);
            let frames: Vec<u32> = finding.frame.map_or_else(|| all.collect(), |frame| vec![frame]);
            self.bad_frames.extend(frames.into_iter().map(|frame| (pack.name, frame)));
        }
        Ok(())
    }

    fn look_at(&self, index: ObjectName, pack: &PackRef) -> Look {
        let place = self.reader.pack_place(pack);
        if self.needed.as_ref().is_some_and(|needed| !needed.needs(&place.object)) {
            return Look::Not;
        }
        // The same in each run of an interrupted verification, whatever order it takes.
        let chance = blake3::Hasher::new().update(&self.seed).update(&pack.name.0).finalize();
        let chance = chance.as_bytes().first_chunk().expect("it is longer");
        match self.options.depth.reads(u64::from_le_bytes(*chance)) {
            // What was found damaged since is looked at again.
            true if self.verified.as_ref().is_some_and(|verified| verified.has(index, pack))
                && !self.group().known.damaged().contains(&pack.name) =>
            {
                Look::Before
            }
            true => Look::Whole,
            false => Look::There,
        }
    }

    /// Objects that no entry lists are checked as far as they can be by themselves.
    fn orphans(&mut self) -> Result<u64> {
        let mut found = Vec::new();
        let id = self.group().id();
        for folder in [names::packs(id), names::folds(id), names::moved_all(id)] {
            store::each(&*self.vault.store, &folder, "", |object| {
                if !self.seen.contains(&object.name) {
                    found.push((object.name.clone(), object.length));
                }
                Ok::<_, Error>(())
            })?;
        }
        let count = found.len() as u64;
        let all = self.options.depth == Depth::All;
        for (name, length) in found.into_iter().filter(|_| all) {
            let index = match names::parse(&name) {
                Some(Parsed::Data { index, .. } | Parsed::Moved { index, .. }) => index,
                Some(Parsed::Fold { .. }) => true,
                _ => continue,
            };
            self.objects += 1;
            self.bytes += length;
            let checked = self.orphan(&name, index);
            // Whoever collects may be deleting it.
            if checked.is_err() && !self.group().has_object(&name)? {
                continue;
            }
            self.note(checked)?;
        }
        Ok(count)
    }

    fn orphan(&self, name: &str, index: bool) -> Result<()> {
        let group = self.group();
        if index {
            // Without an entry that names its hash there is only its beginning to look at.
            let head = group.store.get_range(name, 0, envelope::HEADER)?;
            return group.seal.opener(ObjectKind::Index, name, &head).map(|_| ());
        }
        let pack = PackReader::open(&group.seal, name, group.store.get(name, PACK_MAX)?)?;
        (0..pack.frames.len()).try_for_each(|frame| pack.frame(frame).map(|_| ()))
    }

    /// Which points need what is damaged.
    fn affected(
        &mut self,
        points: &[Point],
        listed: &HashMap<ObjectName, Listed>,
        affected: &mut BTreeSet<usize>,
    ) -> Result<()> {
        let mut suspected = BTreeSet::new();
        for (name, index) in listed {
            let all = index.points.iter().flat_map(|(from, to)| *from..*to);
            if self.bad_indexes.contains(name) {
                affected.extend(all);
            } else if self.suspects.contains(name) {
                suspected.extend(all);
            }
        }
        for point in suspected {
            if affected.contains(&point) {
                continue;
            }
            match self.needs_bad_frames(&points[point]) {
                // A page that it needs.
                Err(error) if error.kind() == Kind::Damage => affected.insert(point),
                needs => needs? && affected.insert(point),
            };
        }
        Ok(())
    }

    fn needs_bad_frames(&self, point: &Point) -> Result<bool> {
        let entry = self.group().entry_at(point.seq)?;
        for disk in entry.content().map_or(&[][..], |content| &content.disks) {
            let image = Image::open(self.reader.clone(), disk)?;
            for first in (0..image.blocks()).step_by(WINDOW) {
                let window = image.window(first, WINDOW)?;
                let bad = window.data().any(|(_, frame, ..)| {
                    self.bad_frames.contains(&(image.pack(frame.pack).name, frame.number))
                });
                if bad {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

fn indexes(entry: &Entry) -> impl Iterator<Item = &IndexRef> {
    entry.content().into_iter().flat_map(|content| &content.disks).flat_map(|disk| &disk.indexes)
}

#[cfg(test)]
mod tests;
