//! Deleting what no kept point needs: roots, candidates, the condemned entry, the deletes.

use super::live::live;
use crate::store::{Listed, StoreErrorKind};
use crate::vault::Group;
use crate::vault::access::Reader;
use crate::vault::catalog::Catalog;
use crate::vault::entry::{Condemned, Content, Draft, Entry, EntryHeader, EntryKind, EntryRef, Payload};
use crate::vault::log::Appended;
use crate::vault::names::{self, ObjectName, Parsed};
use crate::{Error, Kind, Result, store};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use towline_tracker::id::CutId;
use towline_tracker::mutant;

/// Memory for index pages.
const CACHE: usize = 64 << 20;
/// Names of one condemned entry: some 1.5 MiB.
const NAMES: usize = 10_000;
/// Objects deleted between two looks at whether the plan still stands.
const BATCH: usize = 1000;

/// An object that nothing needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Garbage {
    /// Its name.
    pub name: String,
    /// Its length.
    pub length: u64,
}

/// What a group has that nothing needs.
#[derive(Debug)]
pub struct Plan {
    /// In the order of their names.
    pub garbage: Vec<Garbage>,
    /// Objects and bytes that stay.
    pub live: (u64, u64),
    /// The last entry that was looked at, and its epoch.
    head: EntryHeader,
    /// The number of the catalog, and its hash.
    catalog: (u64, [u8; 32]),
    /// Condemned already, by an entry that is still there.
    condemned: HashSet<String>,
    /// Folds that were looked at.
    folds: HashSet<ObjectName>,
}

/// What was collected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Objects deleted, and their bytes.
    pub deleted: (u64, u64),
    /// Objects and bytes that nothing needs and that the store keeps for a while yet: they are for a later collection.
    pub locked: (u64, u64),
    /// Objects and bytes that stay.
    pub live: (u64, u64),
}

/// How far a collection is: told, and asked whether to go on.
pub trait Progress {
    /// `done` of `total` blocks were looked at.
    ///
    /// # Errors
    /// Any: it ends the collection, which may be done again at any time.
    fn looked(&mut self, done: u64, total: u64) -> Result<()>;

    /// `done` of `total` blocks were copied out of packs that are to go.
    ///
    /// # Errors
    /// As [`Self::looked`].
    fn copied(&mut self, done: u64, total: u64) -> Result<()>;

    /// `done` of `total` objects were deleted.
    ///
    /// # Errors
    /// As [`Self::looked`].
    fn deleted(&mut self, done: u64, total: u64) -> Result<()>;
}

/// Nobody asks how far it is.
impl Progress for () {
    fn looked(&mut self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }

    fn copied(&mut self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }

    fn deleted(&mut self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
}

/// What exists of a log, at one moment.
pub(super) struct State {
    pub(super) head: EntryHeader,
    pub(super) catalog: Option<Catalog>,
    /// Entries above the boundary.
    above: Vec<Entry>,
    /// Points at or below it.
    kept: Vec<Entry>,
    /// The newest claim.
    claim: Entry,
    /// What it is based on, if that is not among the others: somebody may be shipping over it.
    built_on: Option<Entry>,
    /// Cuts whose shipment under it is over.
    over: BTreeSet<CutId>,
    /// Folds made under it that were listed.
    folded: BTreeSet<ObjectName>,
}

impl State {
    pub(super) fn read(group: &Group, head: u64, catalog: Option<Catalog>) -> Result<Self> {
        let bound = catalog.as_ref().map_or(0, Catalog::bound);
        let at = |known: EntryRef| {
            let entry = group.entry_at(known.seq)?;
            if entry.header.reference() == known {
                return Ok(entry);
            }
            Err(Error::damage(&group.name_of(known.seq), "it is not the one that the catalog keeps"))
        };
        group.chain(bound + 1, head)?;
        let above = (bound + 1..=head).map(|seq| group.entry_at(seq)).collect::<Result<Vec<_>>>()?;
        let kept = catalog.iter().flat_map(|catalog| &catalog.kept);
        let kept = kept.map(|kept| at(kept.entry)).collect::<Result<Vec<_>>>()?;
        let Some(last) = above.last() else {
            return Err(Error::new(Kind::GroupNotFound, format!("group {} has no log", group.name)));
        };
        let (head, epoch) = (last.header, last.header.epoch);
        let claim = match above.iter().find(|entry| entry.header.seq == epoch) {
            Some(claim) => claim.clone(),
            None => match catalog
                .as_ref()
                .and_then(|catalog| catalog.claim)
                .filter(|claim| claim.seq == epoch)
            {
                Some(claim) => at(claim)?,
                None => {
                    return Err(Error::damage(&group.name_of(epoch), "the newest claim is not catalogued"));
                }
            },
        };
        let Some(words) = claim.claim() else {
            return Err(Error::damage(&group.name_of(epoch), "it is not the claim that others say it is"));
        };
        let exists = |base: &EntryRef| catalog.as_ref().is_none_or(|catalog| catalog.has(*base));
        let headers = || above.iter().map(|entry| &entry.header);
        let built_on = super::built_on(words.base, headers(), epoch);
        let built_on = built_on.filter(|base| !exists(base)).map(at).transpose()?;
        let mut over = super::over(headers(), epoch);
        let contents = above.iter().chain(&kept).filter_map(Entry::content);
        let mut folded: BTreeSet<_> =
            contents.flat_map(super::folds).filter(|fold| fold.0 == epoch).map(|fold| fold.1).collect();
        // Those that ended lower are of this claim only if it is there, too.
        if let Some(catalog) =
            catalog.as_ref().filter(|catalog| catalog.claim.is_some_and(|c| c.seq == epoch))
        {
            over.extend(&catalog.shipped);
            folded.extend(&catalog.folded);
        }
        Ok(Self { head, catalog, above, kept, claim, built_on, over, folded })
    }

    /// What exists.
    pub(super) fn contents(&self) -> Vec<Content> {
        // Mutant: a claim does not say what it builds on.
        let built_on = self.built_on.as_ref().filter(|_| !mutant::active("claims-base-swept"));
        let roots = self.above.iter().chain(&self.kept).chain(built_on);
        // Mutant: what is no point is nobody's.
        let root =
            |entry: &&Entry| entry.header.kind == EntryKind::Point || !mutant::active("void-entries-swept");
        roots.filter(root).filter_map(Entry::content).cloned().collect()
    }

    /// The entries that exist, and the one that is built on.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.above.iter().chain(&self.kept).chain([&self.claim]).chain(&self.built_on)
    }

    fn bound(&self) -> u64 {
        self.catalog.as_ref().map_or(0, Catalog::bound)
    }

    /// The number of a catalog that the shipper of this group knows, or a newer one: it has shipped since somebody collected by
    /// that. 0: none.
    ///
    /// Schedule: 1. a shipper opens the images that it compares with; 2. a compaction, and a collection by its catalog; 3. the
    /// shipper reads another page of an index that is listed: if it were gone, the image would be damaged to it, and all
    /// be shipped again. Whoever puts an entry looks for a newer catalog, and opens everything anew for the next.
    fn settled(&self) -> u64 {
        let ends = |entry: &&Entry| entry.header.ends_shipment() || entry.header.kind == EntryKind::Claim;
        // What sank below the boundary was shipped over before it did.
        let sunk = self.catalog.as_ref().map_or(0, |catalog| catalog.settled);
        let Some(last) = self.above.iter().rfind(ends).map(|entry| entry.header.seq) else { return sunk };
        let before = self.above.iter().take_while(|entry| entry.header.seq < last);
        let by = before.filter_map(|entry| match &entry.payload {
            Payload::Condemned(condemned) => Some(condemned.catalog.0),
            _ => None,
        });
        by.max().unwrap_or(0).max(sunk)
    }

    /// Whether a shipper may not know yet where blocks were moved last: an index that another one was moved to since is open to it.
    fn moves_are_open(&self) -> bool {
        let moved = self.catalog.iter().flat_map(|catalog| &catalog.moved);
        moved.map(|moved| moved.to.epoch).max() > Some(self.settled())
    }

    /// The number of the newest catalog; 0: there is none.
    fn number(&self) -> u64 {
        self.catalog.as_ref().map_or(0, |catalog| catalog.number)
    }

    /// Whether a shipment may still be putting, or listing, what it has put in the folder of this epoch and cut.
    fn in_use(&self, epoch: u64, cut: CutId) -> bool {
        // Mutant: what no entry lists is nobody's.
        if mutant::active("sweep-packs-in-use") {
            return false;
        }
        let newest = self.claim.header.seq;
        let continued = self.claim.claim().is_some_and(|claim| claim.continued.contains(&cut));
        epoch > newest || (epoch == newest || continued) && !self.over.contains(&cut)
    }

    /// Whether an object with such a name may go, if nothing that exists needs it: it is on nobody's way into the log or the
    /// catalog.
    pub(super) fn may_go(&self, name: &Parsed) -> bool {
        match *name {
            Parsed::Entry { seq, .. } => seq <= self.bound(),
            Parsed::Data { epoch, cut, .. } => !self.in_use(epoch, cut),
            Parsed::Fold { epoch, name, .. } => self.may_fold_go(epoch, name),
            // Who made it for a catalog that is still to come may be asleep. Mutant: what no catalog names is nobody's.
            Parsed::Moved { number, index, .. } => {
                let is_open = index && self.moves_are_open();
                !is_open && (number <= self.number() || mutant::active("moved-swept-too-early"))
            }
            // Catalogs are for ever, and the rest is not the group's.
            _ => false,
        }
    }

    /// Whether no next entry will list a fold, if none does now.
    fn may_fold_go(&self, epoch: u64, name: ObjectName) -> bool {
        let newest = self.claim.header.seq;
        // Mutant: as for packs.
        epoch < newest
            || epoch == newest && (self.folded.contains(&name) || mutant::active("sweep-packs-in-use"))
    }
}

/// What is garbage in a group, by a catalog that is there, or by one that is to be.
///
/// # Errors
/// `GroupNotFound`; `Damage`: who does not know all that is needed deletes nothing; the store's; the progress's.
pub fn plan(group: &Group, by: Option<&Catalog>, progress: &mut dyn Progress) -> Result<Plan> {
    plan_telling(group, by, progress, &mut |_| Ok(()))
}

/// As [`plan`], telling every object that is no garbage, in order. All of them again, if the log goes on meanwhile.
///
/// # Errors
/// As [`plan`]; those of `tell`.
pub fn plan_telling(
    group: &Group,
    by: Option<&Catalog>,
    progress: &mut dyn Progress,
    tell: &mut dyn FnMut(&Listed) -> Result<()>,
) -> Result<Plan> {
    loop {
        let (head, catalog) = group.tail(0)?;
        let number = catalog.as_ref().map_or((0, [0; 32]), |catalog| (catalog.number, catalog.hash()));
        let planned = State::read(group, head, catalog).and_then(|mut state| {
            if let Some(by) = by {
                state = state.under(by);
            }
            planned(group, &state, number, progress, tell)
        });
        // What was let go, or went on, while it was read is not damaged.
        match planned {
            Err(error) if error.kind() == Kind::Damage && group.newer_catalog(number.0)?.is_some() => {}
            Err(error) if error.kind() == Kind::Damage => {
                let remedy =
                    "nothing is deleted of a group whose log can't be read whole: run `towline verify`";
                return Err(Error::new(Kind::Damage, format!("{}; {remedy}", error.line())));
            }
            planned => return planned,
        }
    }
}

impl State {
    /// As it will be when this catalog is there.
    pub(super) fn under(self, by: &Catalog) -> Self {
        let (below, above) = self.above.into_iter().partition(|entry: &Entry| entry.header.seq <= by.bound());
        let kept = self.kept.into_iter().chain::<Vec<_>>(below);
        let kept = kept.filter(|entry| by.kept(entry.header.seq).is_some()).collect();
        Self { catalog: Some(by.clone()), above, kept, ..self }
    }
}

fn planned(
    group: &Group,
    state: &State,
    catalog: (u64, [u8; 32]),
    progress: &mut dyn Progress,
    tell_live: &mut dyn FnMut(&Listed) -> Result<()>,
) -> Result<Plan> {
    let reader = Arc::new(Reader::new(group.clone(), CACHE));
    let mut told = Ok(());
    let mut tell = |done, total| {
        if told.is_ok() {
            told = progress.looked(done, total);
        }
    };
    let mut needed = live(&reader, &state.contents(), state.settled(), &mut tell)?;
    told?;
    // The catalogued claim, too, if it is not the newest any more: whoever knows no newer catalog looks for it.
    needed.names.extend(
        state.catalog.iter().filter_map(|catalog| catalog.claim).map(|claim| group.name_of(claim.seq)),
    );
    needed.names.extend(state.entries().map(|entry| group.name_of(entry.header.seq)));
    let mut plan = Plan {
        garbage: Vec::new(),
        live: (0, 0),
        head: state.head,
        catalog,
        condemned: state.above.iter().filter_map(condemned).flatten().cloned().collect(),
        folds: state.entries().filter_map(Entry::content).flat_map(super::folds).map(|fold| fold.1).collect(),
    };
    store::each(&*group.store, &names::group(group.id()), "", |object| {
        // What has another name is not ours.
        let free = names::parse(&object.name).is_some_and(|name| state.may_go(&name));
        if free && !needed.needs(&object.name) {
            plan.garbage.push(Garbage { name: object.name.clone(), length: object.length });
        } else {
            plan.live = (plan.live.0 + 1, plan.live.1 + object.length);
            tell_live(object)?;
        }
        Ok::<_, Error>(())
    })?;
    Ok(plan)
}

fn condemned(entry: &Entry) -> Option<&Vec<String>> {
    match &entry.payload {
        Payload::Condemned(condemned) => Some(&condemned.names),
        _ => None,
    }
}

/// Deletes what nothing needs. May be ended anywhere and done again; any number may do it at once, beside shippers, readers
/// and prunes.
///
/// # Errors
/// As [`plan`]; `Denied` if the credentials may not delete.
pub fn collect(group: &Group, now_ns: u64, progress: &mut dyn Progress) -> Result<Collected> {
    let plan = condemned_plan(group, now_ns, progress)?;
    let mut collected = Collected { live: plan.live, ..Collected::default() };
    let total = plan.garbage.len() as u64;
    for batch in plan.garbage.chunks(BATCH) {
        plan.check(group)?;
        for garbage in batch {
            let count = match group.store.delete(&garbage.name) {
                Err(error) if error.kind() == StoreErrorKind::Locked => &mut collected.locked,
                done => done.map(|()| &mut collected.deleted)?,
            };
            *count = (count.0 + 1, count.1 + garbage.length);
            progress.deleted(collected.deleted.0 + collected.locked.0, total)?;
        }
    }
    Ok(collected)
}

/// A plan that stands in the log.
fn condemned_plan(group: &Group, now_ns: u64, progress: &mut dyn Progress) -> Result<Plan> {
    loop {
        let mut plan = plan(group, None, progress)?;
        loop {
            plan.check(group)?;
            match condemn(group, &mut plan, now_ns) {
                Ok(true) => return Ok(plan),
                // The log went on: a writer who is busy must not keep us from it for ever.
                Ok(false) if plan.catch_up(group)? => {}
                Ok(false) => break,
                // We slept for so long that our place does not exist any more.
                Err(error) if error.kind() == Kind::Revoked => break,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Plan {
    /// Takes what was appended since for read; `false`: a new claim may build on what nobody built on.
    ///
    /// A content of the claim that was the newest lists what its base does, which is a root, and what its shipment has put,
    /// which was in use; so what was garbage still is. Only a fold may name a pack that its indexes name no more, if
    /// blocks of it were moved after it was made. One that comes later is not listed: see `Publisher::unfold`.
    fn catch_up(&mut self, group: &Group) -> Result<bool> {
        while let Some(entry) = group.entry(self.head.seq + 1)? {
            if entry.header.previous != self.head.hash() {
                return Err(Error::damage(
                    &group.name_of(entry.header.seq),
                    "it does not follow the entry before it",
                ));
            }
            if entry.header.epoch != self.head.epoch {
                return Ok(false);
            }
            if !self.spare(group, &entry)? {
                return Ok(false);
            }
            self.condemned.extend(condemned(&entry).into_iter().flatten().cloned());
            self.head = entry.header;
        }
        Ok(true)
    }

    /// Leaves alone what folds name that this entry is the first to list. `false` if that can't be told.
    ///
    /// Most of it shows nowhere all the same: then it is garbage in the next plan. To plan anew for it would be to plan for ever
    /// beside a shipper that folds more often than a plan takes.
    fn spare(&mut self, group: &Group, entry: &Entry) -> Result<bool> {
        // Mutant: a fold says what is said already.
        if mutant::active("late-fold-not-looked-at") {
            return Ok(true);
        }
        let reader = Reader::new(group.clone(), CACHE);
        let content = entry.content().into_iter();
        let listed = content.flat_map(|content| &content.disks).flat_map(|disk| &disk.indexes);
        for fold in listed.filter(|index| index.level > 0) {
            if !self.folds.insert(fold.name) {
                continue;
            }
            let index = match reader.open_index(fold) {
                Err(error) if error.kind() == Kind::Damage => return Ok(false),
                index => index?,
            };
            let packs: HashSet<_> =
                index.directory.packs.iter().map(|pack| reader.pack_place(pack).object).collect();
            let live = &mut self.live;
            self.garbage.retain(|garbage| {
                let stays = packs.contains(&garbage.name);
                if stays {
                    *live = (live.0 + 1, live.1 + garbage.length);
                }
                !stays
            });
        }
        Ok(true)
    }

    /// That the vault was not put back to an older copy, in which what was garbage is needed.
    fn check(&self, group: &Group) -> Result<()> {
        let (number, hash) = self.catalog;
        let same = number == 0 || group.catalog_at(number)?.hash() == hash;
        if same && group.entry_header(self.head.seq)?.is_some_and(|there| there == self.head) {
            return Ok(());
        }
        // Or it was let go: then somebody else has seen to all of it.
        let line =
            format!("group {} went on, or was put back, while it was looked at; start again", group.name);
        Err(Error::new(Kind::Other, line))
    }
}

/// Puts what is garbage into the log, behind all that was looked at; `false`: something else stands there.
fn condemn(group: &Group, plan: &mut Plan, now_ns: u64) -> Result<bool> {
    let names = plan.garbage.iter().map(|garbage| &garbage.name);
    let new: BTreeSet<&String> = names.filter(|name| !plan.condemned.contains(*name)).collect();
    for names in new.into_iter().collect::<Vec<_>>().chunks(NAMES) {
        let draft = Draft {
            kind: EntryKind::Condemned,
            cut: CutId((group.seal.draw)()),
            time_ns: now_ns,
            base: 0,
            attached: Vec::new(),
            payload: Payload::Condemned(Condemned {
                catalog: plan.catalog,
                names: names.iter().map(|name| (*name).clone()).collect(),
            }),
        };
        match group.append(Some(plan.head.reference()), plan.head.epoch, &draft)? {
            Appended::Ours(header) => plan.head = header,
            Appended::Theirs(_) => return Ok(false),
        }
    }
    Ok(true)
}
