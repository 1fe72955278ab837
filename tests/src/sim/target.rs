//! The vault as the world sees it: the store, the points in it, and what each of them must be.

use super::counts::Counts;
use super::name::name;
use super::restorer::{Images, Restorer, Sources};
use super::store::SimStore;
use std::collections::BTreeMap;
use std::sync::Arc;
use towline::store::Store;
use towline::vault::catalog::Catalog;
use towline::vault::descriptor::Descriptor;
use towline::vault::entry::{Entry, EntryKind};
use towline::vault::envelope::Suite;
use towline::vault::keys::{Masters, Secret};
use towline::vault::names::{self, Parsed};
use towline::vault::slots::{self, Making, Secrets};
use towline::vault::{Group, Vault};
use towline::{Kind, points};
use towline_tracker::id::{CutId, VaultId};

/// The group's name.
pub const GROUP: &str = "sim";

/// The disks at the instant of a cut.
pub struct Snapshot {
    /// Each disk's sectors.
    pub images: Images,
    /// The number of each sector's newest complete value.
    pub newest: Vec<Vec<u64>>,
    /// Whose disks they are: the seed of the host's plan.
    pub host: u64,
    /// Other values that a power cut could have left.
    pub others: Vec<BTreeMap<usize, Vec<u64>>>,
    /// Nobody writes any more: it must be the last image.
    pub quiet: bool,
}

impl Snapshot {
    /// Every sector is as it was, or as a write in flight made it.
    fn judge(&self, images: &Images) -> Result<(), String> {
        let sizes = |images: &Images| images.iter().map(Vec::len).collect::<Vec<_>>();
        if sizes(images) != sizes(&self.images) {
            return Err(format!("its disks have {:?} sectors for {:?}", sizes(images), sizes(&self.images)));
        }
        for (disk, image) in images.iter().enumerate() {
            for (sector, value) in image.iter().enumerate() {
                let was = self.images[disk][sector];
                let others = self.others[disk].get(&sector);
                if *value != was && others.is_none_or(|others| !others.contains(value)) {
                    return Err(format!(
                        "disk {disk} sector {sector} is {value}, was {was}, could become {others:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// A point that was put.
pub struct Point {
    /// Its entry.
    pub seq: u64,
    /// Its cut.
    pub cut: (CutId, u64),
    /// What it was restored from.
    sources: Sources,
}

/// The vault.
pub struct Target {
    /// Where it is.
    pub store: SimStore,
    /// Cuts by id and instant.
    pub cuts: BTreeMap<(CutId, u64), Snapshot>,
    /// The points that were put, in order, as far as they are kept.
    pub points: Vec<Point>,
    /// It was put back to an old copy.
    pub put_back: bool,
    /// Somebody gave the word to take over.
    pub taken_over: bool,
    /// Entries that were put, in order: for whoever counts them.
    pub entries: Vec<Entry>,
    /// What somebody did to it, or came with, and nobody has noticed yet.
    pub unmet: Vec<&'static str>,
    group: Group,
    catalog: Option<Catalog>,
    restorer: Restorer,
    other: Option<Box<Place>>,
}

/// What opens the vaults that are sealed.
fn secrets() -> Secrets {
    Secrets { key_file: Some(b"the simulator's key".to_vec().into()), ..Secrets::default() }
}

/// The vault in a store, sealed or not.
///
/// # Errors
/// As [`Vault::open_with`].
pub fn open(store: Arc<dyn Store>) -> Result<Vault, towline::Error> {
    match Vault::describe(&*store)?.suite {
        Suite::Unkeyed => Vault::open(store),
        Suite::Aes256Gcm => Vault::open_with(store, &secrets()),
    }
}

/// A vault that shippers can be sent to.
struct Place {
    store: SimStore,
    group: Group,
    catalog: Option<Catalog>,
    points: Vec<Point>,
}

impl Place {
    fn new() -> Self {
        let store = SimStore::new();
        let vault = VaultId(name());
        // Every other one is sealed.
        let descriptor = if vault.0[0].is_multiple_of(2) {
            let masters = Masters::new(vec![Secret::draw(name)]);
            let slot = Making { secrets: &secrets(), label: "", created_ns: 1, draw: name };
            slots::put(&store.objects, vault, &masters, &slot).expect("a store in memory");
            Descriptor::sealed(vault, 1, &masters)
        } else {
            Descriptor::new(vault, 1)
        };
        store.objects.put(names::DESCRIPTOR, &descriptor.encode()).expect("a store in memory");
        let group = open(Arc::new(store.objects.clone())).expect("it was just made").group(GROUP);
        Self { store, group, catalog: None, points: Vec::new() }
    }
}

impl Target {
    /// A new vault.
    pub fn new() -> Self {
        let Place { store, group, points, .. } = Place::new();
        let (cuts, restorer) = (BTreeMap::new(), Restorer::default());
        let (put_back, taken_over, entries, other) = (false, false, Vec::new(), None);
        let unmet = Vec::new();
        Self {
            store,
            cuts,
            points,
            put_back,
            taken_over,
            entries,
            unmet,
            group,
            catalog: None,
            restorer,
            other,
        }
    }

    /// Looks at the entries that were put since it last looked: a point must be the instant of its cut.
    ///
    /// # Errors
    /// What a point is that it must not be.
    pub fn look(&mut self, counts: &mut Counts) -> Result<(), String> {
        for name in std::mem::take(&mut self.store.created) {
            let seq = match names::parse(&name) {
                Some(Parsed::Entry { seq, .. }) => seq,
                Some(Parsed::Catalog { number, copy: false, .. }) => {
                    self.catalog = Some(self.group.catalog_at(number).map_err(|error| error.line())?);
                    let before = self.points.len();
                    self.let_go();
                    counts.add("catalogs");
                    counts.more("points let go", (before - self.points.len()) as u64);
                    continue;
                }
                _ => continue,
            };
            // It does not exist, whatever it is (V14).
            if seq <= self.bound() {
                counts.add("entries below the boundary");
                continue;
            }
            let entry = self.group.entry_at(seq).map_err(|error| format!("{name}: {}", error.line()))?;
            counts.add(&format!("entries: {}", entry.header.kind.word()));
            let disks = entry.content().map_or(&[][..], |content| &content.disks);
            let level = disks.iter().flat_map(|disk| &disk.indexes).map(|index| index.level).max();
            counts.more("entries over folds", u64::from(level >= Some(1)));
            counts.more("entries over folds of folds", u64::from(level >= Some(2)));
            if entry.header.kind == EntryKind::Point {
                let back = self.points.last().is_some_and(|point| point.cut.1 > entry.header.time_ns);
                counts.more("points that are older than those before", u64::from(back));
                let cut = (entry.header.cut, entry.header.time_ns);
                let sources = self.restored(&entry)?;
                self.points.push(Point { seq, cut, sources });
            }
            self.entries.push(entry);
        }
        Ok(())
    }

    /// Restores a point and compares it with its cut.
    fn restored(&mut self, entry: &Entry) -> Result<Sources, String> {
        let header = &entry.header;
        let what = |what: String| format!("point {} of cut {}: {what}", header.seq, header.cut);
        let content = entry.content().ok_or_else(|| what("it has no content".into()))?;
        let restored = self.restorer.restore(&self.store, &self.group, header, content);
        let (images, sources) = match restored {
            Ok(restored) => restored,
            // Never wrong bytes for damaged ones.
            Err(error) if error.kind() == Kind::Damage && !self.store.damaged.is_empty() => {
                return Ok(Sources::new());
            }
            Err(error) => return Err(what(error.line().to_owned())),
        };
        let cut = self.cuts.get(&(header.cut, header.time_ns)).ok_or_else(|| what("nobody cut it".into()))?;
        cut.judge(&images).map_err(|wrong| what(format!("it is not the instant of its cut: {wrong}")))?;
        Ok(sources)
    }

    /// Something happened that could have spoiled a point: every one that is kept is restored again, unless what it was
    /// restored from is the same to the byte.
    ///
    /// # Errors
    /// What a point has become.
    pub fn look_again(&mut self, counts: &mut Counts) -> Result<(), String> {
        let mut points = std::mem::take(&mut self.points);
        for point in &mut points {
            let same = |(name, version): &(String, u64)| self.store.version(name).unwrap_or(0) == *version;
            if !point.sources.is_empty() && point.sources.iter().all(same) {
                continue;
            }
            counts.add("points restored again");
            let before = point.sources.len();
            point.sources = match self.group.entry_at(point.seq) {
                Ok(entry) => self.restored(&entry)?,
                Err(error) if error.kind() == Kind::Damage && !self.store.damaged.is_empty() => {
                    Sources::new()
                }
                Err(error) => return Err(format!("point {}: {}", point.seq, error.line())),
            };
            counts.more("points spoiled by damage", u64::from(before > 0 && point.sources.is_empty()));
        }
        self.points = points;
        Ok(())
    }

    /// Points that the catalog does not keep are gone.
    fn let_go(&mut self) {
        let Some(catalog) = &self.catalog else { return };
        self.points.retain(|point| point.seq > catalog.bound() || catalog.kept(point.seq).is_some());
    }

    /// Entries up to this one exist only if they are kept.
    pub fn bound(&self) -> u64 {
        self.catalog.as_ref().map_or(0, Catalog::bound)
    }

    fn history(&self) -> Result<points::History, towline::Error> {
        points::history(&open(Arc::new(self.store.objects.clone()))?, &self.group)
    }

    /// Readers find the points that there must be, and no others.
    ///
    /// # Errors
    /// What is different.
    pub fn check_points(&self) -> Result<(), String> {
        let history = self.history().map_err(|error| error.line())?;
        if let Some(damage) = history.damage.first().filter(|_| self.store.damaged.is_empty()) {
            return Err(damage.line());
        }
        let found: Vec<u64> = history.points.iter().map(|point| point.seq).collect();
        let expected: Vec<u64> = self.points.iter().map(|point| point.seq).collect();
        if found != expected && self.store.damaged.is_empty() {
            return Err(format!("there are the points {found:?} for {expected:?}"));
        }
        Ok(())
    }

    /// The store was put back to an old copy: points that it had not are gone.
    pub fn forget_points(&mut self) {
        // What was known of it is of another history.
        self.group.known = Arc::default();
        self.catalog = self.group.catalog(0).expect("a copy has whole catalogs");
        let group = &self.group;
        self.points.retain(|point| {
            let header = group.entry_header(point.seq).ok().flatten();
            header.is_some_and(|header| (header.cut, header.time_ns) == point.cut)
        });
        self.entries.clear();
        self.let_go();
        // And those that were let go since are there again.
        for point in self.history().map(|history| history.points).unwrap_or_default() {
            if let Err(at) = self.points.binary_search_by_key(&point.seq, |point| point.seq) {
                let (seq, cut, sources) = (point.seq, (point.id, point.time_ns), Sources::new());
                self.points.insert(at, Point { seq, cut, sources });
            }
        }
        self.put_back = true;
    }

    /// The newest point of the lineage, as who restores finds it.
    pub fn latest(&self) -> Option<points::Point> {
        let vault = open(Arc::new(self.store.objects.clone())).ok()?;
        points::find(&vault, &self.group, &points::Wanted::Latest).ok()
    }

    /// The images of a point, newly read.
    ///
    /// # Errors
    /// It can't be restored.
    pub fn images(&self, seq: u64) -> Result<Images, String> {
        let told = |error: towline::Error| error.line().to_owned();
        let entry = self.group.entry_at(seq).map_err(told)?;
        let content = entry.content().ok_or("it is no point")?;
        let restored = Restorer::default().restore(&self.store, &self.group, &entry.header, content);
        restored.map(|(images, _)| images).map_err(told)
    }

    /// The newest content below an entry, by the log alone: what its claim found.
    pub fn top_below(&self, mut seq: u64) -> u64 {
        while seq > 1 {
            seq -= 1;
            match self.group.entry_header(seq) {
                Ok(Some(header)) if header.kind.has_content() => return seq,
                Ok(Some(header)) if header.kind == EntryKind::Claim => return header.base,
                _ => {}
            }
        }
        0
    }

    /// From now on the shippers put into another vault, new or as it was left. Nobody may be at work.
    pub fn switch(&mut self) {
        let moods = self.store.moods;
        let mut other = self.other.take().unwrap_or_else(|| Box::new(Place::new()));
        std::mem::swap(&mut self.store, &mut other.store);
        std::mem::swap(&mut self.group, &mut other.group);
        std::mem::swap(&mut self.catalog, &mut other.catalog);
        std::mem::swap(&mut self.points, &mut other.points);
        self.store.moods = moods;
        self.entries.clear();
        self.other = Some(other);
    }

    /// What an entry is.
    pub fn kind(&self, seq: u64) -> Option<EntryKind> {
        self.group.entry_header(seq).ok().flatten().map(|header| header.kind)
    }

    /// How many entries the log has.
    pub fn length(&self) -> u64 {
        self.group.head(0).unwrap_or(0)
    }
}

impl Default for Target {
    fn default() -> Self {
        Self::new()
    }
}
