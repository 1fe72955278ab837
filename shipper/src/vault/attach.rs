//! The attach table (V10) and the base of a claim (V2), as a pure function of what the tracker knows and what the log
//! says. It compares *images*, not numbers: a claim stands for its base, and base links lead from an image to the one
//! below it.
//!
//! With A the anchor's entry, T the newest content (of a claim at the head, its base), and the *lineage* T, base of T,
//! base of that, and so on; an entry is of a vouched cut if it has that cut's id and its time. It is of our
//! live freeze if it has the freeze's and is a point, or the last entry that the tracker was told of ([`takes_up`]); else it
//! is of a vouched cut like another:
//!
//! | owner of the newest claim | A | T | decision |
//! |---|---|---|---|
//! | no entries at all | | | initial |
//! | not one of our disks | | | foreign owner, refused |
//! | ours | any | none | initial |
//! | ours | any | a point or fuzzy entry of our live freeze | adopt, release |
//! | ours | in T's lineage, everything above vouched for | = A | delta over A |
//! | ours | likewise | a checkpoint of our live freeze | continue over T |
//! | ours | likewise | checkpoints down to one of our live freeze | continue over that; those above, put but not told, are void |
//! | ours | likewise | of another vouched cut | delta over T |
//! | ours | in T's lineage, above it fuzzy entries or checkpoints not vouched for | | delta over the newest vouched for; the others are void |
//! | ours | in T's lineage, above it a *point* not vouched for | | broken lineage |
//! | ours | not in T's lineage, T vouched for: our own resynchronization was cut short | | resynchronization over T |
//! | ours | none, or of another vault; T's whole lineage vouched for | | as if A were the beginning |
//! | ours | none, or of another vault | otherwise | resynchronization over T |
//! | ours | newer than T, and not in the log as we know it: the vault was put back | | resynchronization over T |
//! | ours | otherwise | | broken lineage |
//!
//! With `take_over`, foreign owner and broken lineage become resynchronization over T. What must be looked at and can't
//! be read is an error; with `take_over` it becomes resynchronization over the newest image that can be read, or, where
//! there is none, initial.
//!
//! The lineage is followed down to the catalog's boundary (V14): every anchor of a tracker whose lineage it is lies above, so one
//! at or below it is not in T's lineage, and a tracker without an anchor does not have all of it vouched for.
//!
//! Adopting needs no look at A: a point of our live cut in this vault was put by a shipper of this very freeze, which
//! chose its base by this table, and it is whole by itself.

use super::Group;
use super::catalog::Catalog;
use super::entry::{Claim, Content, Draft, Entry, EntryHeader, EntryKind, EntryRef, Owner, Payload};
use super::names;
use crate::{Error, Kind, Result};
use towline_tracker::control::message::{Attached, LiveFreeze};
use towline_tracker::id::{Cut, CutId, TargetId, VaultId};
use towline_tracker::mutant;

/// How the table looks into the log.
pub trait Log {
    /// Entries up to this one need not be there: what is kept of them can be asked for; 0: all are there.
    fn bound(&self) -> u64;

    /// The header of an entry; `None` if there is none.
    ///
    /// # Errors
    /// `Damage`, the store's.
    fn header(&mut self, seq: u64) -> Result<Option<EntryHeader>>;

    /// An entry that must be there.
    ///
    /// # Errors
    /// `Damage`, the store's.
    fn entry(&mut self, seq: u64) -> Result<Entry>;
}

/// A log with the catalog that says what of it exists.
pub struct View<'a> {
    /// The log.
    pub group: &'a Group,
    /// The newest catalog.
    pub catalog: Option<&'a Catalog>,
    /// What the newest claim is based on: it exists wherever it is, for somebody may be shipping over it.
    pub claimed: Option<EntryRef>,
}

impl<'a> View<'a> {
    /// The log up to this head, by this catalog.
    ///
    /// # Errors
    /// `Damage` of the head or the newest claim; the store's.
    pub fn new(group: &'a Group, catalog: Option<&'a Catalog>, head: u64) -> Result<Self> {
        let mut view = Self { group, catalog, claimed: None };
        if catalog.is_some() && head > 0 {
            let epoch = must(&mut view, head)?.epoch;
            view.claimed = view.entry(epoch)?.claim().and_then(|claim| claim.base);
        }
        Ok(view)
    }

    /// The entry of this number that exists although it is not above the boundary.
    fn known(&self, seq: u64) -> Option<EntryRef> {
        let catalog = self.catalog?;
        let kept = catalog.kept(seq).map(|kept| kept.entry);
        kept.or([catalog.claim, self.claimed].into_iter().flatten().find(|entry| entry.seq == seq))
    }
}

impl Log for View<'_> {
    fn bound(&self) -> u64 {
        self.catalog.map_or(0, Catalog::bound)
    }

    fn header(&mut self, seq: u64) -> Result<Option<EntryHeader>> {
        if seq > self.bound() {
            return self.group.entry_header(seq);
        }
        // What lies there is not what was let go, whoever put it.
        let Some(known) = self.known(seq) else { return Ok(None) };
        Ok(self.group.entry_header(seq)?.filter(|header| header.reference() == known))
    }

    fn entry(&mut self, seq: u64) -> Result<Entry> {
        let entry = self.group.entry_at(seq)?;
        if seq <= self.bound() && self.known(seq) != Some(entry.header.reference()) {
            return Err(Error::damage(&names::entry(self.group.id(), seq), "the catalog does not keep it"));
        }
        Ok(entry)
    }
}

/// An image in the vault that new indexes are laid over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The entry's header.
    pub header: EntryHeader,
    /// Its content.
    pub content: Content,
}

impl Base {
    /// The entry by number and hash.
    pub fn reference(&self) -> EntryRef {
        self.header.reference()
    }
}

/// What a shipper does with the group that it attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The vault has no image of the group: cut in full, ship all that is not zero.
    Initial,
    /// The pending set completes this image: ship frozen blocks.
    Delta(Base),
    /// The live freeze is published: release it with this entry, then go on as with `Delta`.
    Adopt(Base),
    /// A checkpoint of the live freeze: ship what it does not cover.
    Continue(Base),
    /// Cut in full, compare with this image, ship what differs.
    Resync {
        /// The newest image.
        base: Base,
        /// Why, for people.
        reason: String,
        /// Somebody asked for it.
        taken_over: bool,
    },
    /// The log went on without this tracker: refused (V10).
    BrokenLineage {
        /// What does not fit, for people.
        details: String,
    },
    /// The group belongs to other disks: refused (V10).
    Foreign {
        /// Names of the disks and of the host, for people.
        owner: String,
    },
}

/// The explicit word to take a group over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TakeOver {
    /// It was not given.
    #[default]
    No,
    /// Over whatever is found.
    Yes,
    /// It was used for this claim, and nothing was published since: as long as the claim is the log's last entry, what
    /// it was given for is still what is found.
    Since(EntryRef),
}

impl From<bool> for TakeOver {
    fn from(word: bool) -> Self {
        if word { Self::Yes } else { Self::No }
    }
}

/// Decides, given the answer to an attach, the vault, and the log with its head (0: empty).
///
/// # Errors
/// `Damage` in the part of the log that was looked at; the store's.
pub fn decide(
    attached: &Attached,
    vault: VaultId,
    head: u64,
    log: &mut impl Log,
    take_over: bool,
) -> Result<Decision> {
    if head == 0 {
        return Ok(Decision::Initial);
    }
    let newest = must(log, head)?;
    let claim = log.entry(newest.epoch)?;
    let Some(owner) = claim.claim() else {
        return Err(Error::damage(
            &format!("entry {}", newest.epoch),
            "it is not the claim that others say it is",
        ));
    };
    let tip = tip(&newest, log)?;
    let ours = owner.owner.iter().any(|owner| attached.disks.iter().any(|disk| disk.id == owner.id));
    if !ours {
        return Ok(match (take_over, tip) {
            (false, _) => Decision::Foreign { owner: describe(owner) },
            (true, 0) => Decision::Initial,
            (true, tip) => resync(log, tip, "the group was taken over from other disks", true)?,
        });
    }
    if tip == 0 {
        return Ok(Decision::Initial);
    }
    let live = |header: &EntryHeader| attached.live.is_some_and(|live| takes_up(live, header));
    let top = must(log, tip)?;
    if live(&top) && top.kind != EntryKind::Checkpoint {
        return Ok(Decision::Adopt(base(log, tip)?));
    }
    let anchor = attached.anchor.filter(|anchor| anchor.vault == vault);
    let bottom = anchor.map_or(0, |anchor| anchor.seq);
    // The lineage from the tip down to the anchor, the newest first.
    let mut above = Vec::new();
    let mut at = tip;
    while at > bottom && at > log.bound() {
        let header = must(log, at)?;
        at = header.base;
        above.push(header);
    }
    // It goes on where entries were let go: below every anchor of a tracker whose lineage it is (V14).
    let cut_off = at > bottom;
    let vouched = |header: &EntryHeader| {
        // Mutant: whatever has the id of a vouched cut is of that cut.
        let id_will_do = mutant::active("vouched-by-id");
        let named = |cut: &Cut| *cut == header.identity() || id_will_do && cut.id == header.cut;
        attached.live.is_some_and(|live| live.identity() == header.identity())
            || attached.vouched.iter().any(named)
    };
    let in_log = match anchor {
        // What our own resynchronization does not lie over need not be readable.
        Some(_) if at != bottom && vouched(&top) => false,
        // Mutant: any entry of that number.
        Some(anchor) => log
            .header(anchor.seq)?
            .is_some_and(|header| header.hash() == anchor.hash || mutant::active("anchor-by-number")),
        None => false,
    };
    if at == bottom && in_log || anchor.is_none() {
        // Above the anchor: first what the tracker vouches for, then what it does not.
        // Mutant: whatever is no point is good to go on from.
        let any = |header: &EntryHeader| {
            mutant::active("claim-continues-unvouched") && header.kind != EntryKind::Point
        };
        let known = above.iter().rev().take_while(|header| vouched(header) || any(header)).count();
        let (unknown, known) = above.split_at(above.len() - known);
        let newest = resumable(known, live).or(known.first()).map_or(bottom, |header| header.seq);
        // Mutant: what is there is what was shipped last.
        if anchor.is_none() && mutant::active("no-anchor-is-delta") {
            return Ok(Decision::Delta(base(log, tip)?));
        }
        if anchor.is_none() && (cut_off || !unknown.is_empty()) {
            let reason = match attached.anchor {
                Some(_) => "the tracker last replicated to another vault",
                None => "the tracker does not know what the vault has (its sidecar is new)",
            };
            return resync(log, tip, reason, false);
        }
        if let Some(point) = unknown.iter().find(|header| header.kind == EntryKind::Point) {
            let details = format!(
                "point {} (entry {}) is newer than what this tracker released last (entry {bottom}) and was not made \
                 from it",
                point.cut, point.seq
            );
            return broken(log, tip, details, take_over);
        }
        let base = base(log, newest)?;
        return Ok(if live(&base.header) { Decision::Continue(base) } else { Decision::Delta(base) });
    }
    if vouched(&top) {
        let newest = resumable(&above, live).map_or(tip, |header| header.seq);
        return resync(log, newest, "an earlier resynchronization was cut short", false);
    }
    // Mutant: what is missing is not missed.
    if tip < bottom && !in_log && mutant::active("older-vault-is-delta") {
        return Ok(Decision::Delta(base(log, tip)?));
    }
    if tip < bottom && !in_log {
        return resync(log, tip, "the vault is older than what this tracker released last", false);
    }
    let details = match in_log {
        true => format!("entry {bottom}, which this tracker released last, was passed over by a later claim"),
        false => format!("entry {bottom} is not the one that this tracker released last"),
    };
    broken(log, tip, details, take_over)
}

/// The newest checkpoint of the live freeze, if nothing but checkpoints lies over it, in a lineage that begins with the
/// newest entry. A shipper killed between putting a checkpoint and telling the tracker leaves one that is not `live` over
/// one that is: without the one below, all that was shipped of the freeze would be read again.
fn resumable(lineage: &[EntryHeader], live: impl Fn(&EntryHeader) -> bool) -> Option<&EntryHeader> {
    lineage.iter().take_while(|header| header.kind == EntryKind::Checkpoint).find(|header| live(header))
}

fn must(log: &mut impl Log, seq: u64) -> Result<EntryHeader> {
    log.header(seq)?.ok_or_else(|| Error::damage(&format!("entry {seq}"), "it is missing"))
}

/// The newest content that the newest entry stands for; 0: none.
fn tip(newest: &EntryHeader, log: &mut impl Log) -> Result<u64> {
    let mut header = *newest;
    loop {
        match header.kind {
            EntryKind::Claim => return Ok(header.base),
            kind if kind.has_content() => return Ok(header.seq),
            _ => header = must(log, header.seq - 1)?,
        }
    }
}

fn base(log: &mut impl Log, seq: u64) -> Result<Base> {
    let entry = log.entry(seq)?;
    match entry.payload {
        Payload::Content(content) => Ok(Base { header: entry.header, content }),
        _ => Err(Error::damage(&format!("entry {seq}"), "it holds no image, although others lie over it")),
    }
}

fn resync(log: &mut impl Log, tip: u64, reason: &str, taken_over: bool) -> Result<Decision> {
    Ok(Decision::Resync { base: base(log, tip)?, reason: reason.to_owned(), taken_over })
}

fn broken(log: &mut impl Log, tip: u64, details: String, take_over: bool) -> Result<Decision> {
    match take_over {
        true => resync(log, tip, "the group was taken over from another lineage", true),
        false => Ok(Decision::BrokenLineage { details }),
    }
}

/// The owner of a group, for messages.
pub fn describe(claim: &Claim) -> String {
    let disks: Vec<_> = claim.owner.iter().map(|disk| format!("{} ({})", disk.name, disk.id)).collect();
    format!("group {} belongs to {} on host {}", claim.group, disks.join(", "), claim.host)
}

/// What a claim says of its maker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// The host's name.
    pub host: String,
    /// The target.
    pub target: TargetId,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
}

/// Whether an entry is of this freeze and may be taken up: its blocks are those that are frozen, and what it holds of them was
/// read for this tracker. A point holds the cut, whoever read it; another kind holds what somebody found on his disk since,
/// and a tracker that went on from a copy of this one's memory has the same freeze over another disk.
pub fn takes_up(live: LiveFreeze, header: &EntryHeader) -> bool {
    // Mutant: whatever is of the cut.
    let told = || live.shipped == header.hash() || mutant::active("taken-up-untold");
    header.identity() == live.identity() && (header.kind == EntryKind::Point || told())
}

impl Decision {
    /// The image that new indexes are laid over.
    pub fn base(&self) -> Option<&Base> {
        match self {
            Self::Delta(base) | Self::Adopt(base) | Self::Continue(base) | Self::Resync { base, .. } => {
                Some(base)
            }
            Self::Initial | Self::BrokenLineage { .. } | Self::Foreign { .. } => None,
        }
    }

    /// The decision, or its refusal as an error with the remedy.
    ///
    /// # Errors
    /// `BrokenLineage`, `ForeignOwner`.
    pub fn accept(self) -> Result<Self> {
        match self {
            Self::BrokenLineage { details } => Err(Error::new(
                Kind::BrokenLineage,
                format!(
                    "broken lineage: {details}; use another vault, or --take-over to compare everything and go on"
                ),
            )),
            Self::Foreign { owner } => Err(Error::new(
                Kind::ForeignOwner,
                format!("{owner}; give this tracker another --group, or ship with --take-over"),
            )),
            decision => Ok(decision),
        }
    }

    /// The claim to put at the head (V2), under a name of its own.
    pub fn claim(&self, attached: &Attached, claimant: &Claimant, name: CutId) -> Draft {
        let base = self.base();
        let cut = base.map(|base| base.header.identity());
        let live = attached.live.map(|live| live.identity());
        let continued =
            cut.filter(|cut| live == Some(*cut) || attached.vouched.contains(cut)).map(|cut| cut.id);
        let (taken_over, reason) = match self {
            Self::Resync { taken_over, reason, .. } => (*taken_over, format!("resynchronization: {reason}")),
            Self::Initial => (false, "initial replication".to_owned()),
            _ => (false, String::new()),
        };
        let claim = Claim {
            base: base.map(Base::reference),
            continued: continued.into_iter().collect(),
            group: attached.group.clone(),
            owner: attached.disks.iter().map(|disk| Owner { id: disk.id, name: disk.name.clone() }).collect(),
            session: attached.session,
            attach: attached.attach,
            host: claimant.host.clone(),
            target: claimant.target,
            taken_over,
            reason,
        };
        Draft {
            kind: EntryKind::Claim,
            cut: name,
            time_ns: claimant.time_ns,
            base: claim.base.map_or(0, |base| base.seq),
            attached: Vec::new(),
            payload: Payload::Claim(claim),
        }
    }
}

impl Group {
    /// Everything that a shipper does before it may append: finds the head, decides by the table, puts the claim, and
    /// does it again when somebody else was quicker.
    ///
    /// `newest` says whether the attach is still the tracker's newest. It is asked when the head is known and nothing is
    /// decided: who attached before has nothing in the log that was not looked at, and who attaches later finds the claim
    /// there, or has put his own in its place. Otherwise a shipper that slept since its attach could pass over entries
    /// that another one has published and the tracker released: fuzzy ones look void to it.
    ///
    /// # Errors
    /// `BrokenLineage`, `ForeignOwner`, `Damage`, the store's, and those of `newest`.
    pub fn claim(
        &self,
        attached: &Attached,
        claimant: &Claimant,
        take_over: impl Into<TakeOver>,
        newest: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Claimed> {
        let word = take_over.into();
        let mut known =
            attached.anchor.filter(|anchor| anchor.vault == self.seal.vault).map_or(0, |anchor| anchor.seq);
        loop {
            let (head, catalog) = self.tail(known)?;
            // Mutant: what was told at the attach still holds.
            if !mutant::active("claim-by-old-attach") {
                newest()?;
            }
            let take_over = match word {
                TakeOver::No => false,
                TakeOver::Yes => true,
                TakeOver::Since(claim) => {
                    head == claim.seq
                        && self.entry_header(head)?.is_some_and(|last| last.reference() == claim)
                }
            };
            let view = View::new(self, catalog.as_ref(), head);
            let decided = match view.and_then(|view| self.decided(attached, view, head, take_over)) {
                Err(damage) if damage.kind() == Kind::Damage => {
                    // What was read may have been let go meanwhile.
                    if self.has_moved(head, number(catalog.as_ref()))? {
                        continue;
                    }
                    self.fallen_back(head, take_over, damage)
                }
                decided => decided,
            };
            let (decision, before) = decided?;
            let draft = decision.claim(attached, claimant, CutId((self.seal.draw)()));
            match self.append(before, 0, &draft)? {
                super::log::Appended::Ours(header) => {
                    // Mutant: what was put is there.
                    let newer = match mutant::active("no-look-at-catalog") {
                        true => None,
                        false => self.newer_catalog(number(catalog.as_ref()))?,
                    };
                    // As for any entry (V14). That a prune let the base go meanwhile is no matter: that of the newest
                    // claim exists, and a collector that has not seen this claim can't condemn anything behind it.
                    if newer.is_none_or(|newer| newer.has(header.reference())) {
                        return Ok(Claimed { decision, claim: header });
                    }
                    known = header.seq;
                }
                super::log::Appended::Theirs(header) => {
                    tracing::info!(
                        entry = names::entry(self.seal.group, header.seq),
                        "another shipper was quicker"
                    );
                    known = header.seq;
                }
            }
        }
    }
}

fn number(catalog: Option<&Catalog>) -> u64 {
    catalog.map_or(0, |catalog| catalog.number)
}

impl Group {
    /// The decision, and the entry that a claim follows.
    fn decided(
        &self,
        attached: &Attached,
        mut view: View<'_>,
        head: u64,
        take_over: bool,
    ) -> Result<(Decision, Option<EntryRef>)> {
        let decision = decide(attached, self.seal.vault, head, &mut view, take_over)?.accept()?;
        let before = match head {
            0 => None,
            // The chain from the base on is checked whenever somebody builds on it.
            head => {
                let from = decision.base().map_or(head, |base| base.header.seq);
                self.chain(from.max(view.bound() + 1), head)?.last().map(EntryHeader::reference)
            }
        };
        Ok((decision, before))
    }

    /// What the word to take over means for a log that can't be read where it must be: everything is compared with the
    /// newest image that can be read, so it need not be of our lineage.
    fn fallen_back(&self, head: u64, take_over: bool, damage: Error) -> Result<(Decision, Option<EntryRef>)> {
        if !take_over {
            let remedy = "--take-over compares everything with the newest image that can be read and goes on";
            return Err(Error::new(Kind::Damage, format!("{}; {remedy}", damage.line())));
        }
        let unreadable = |error: &Error| error.kind() == Kind::Damage;
        let numbers = self.numbers()?;
        let (mut at, mut base) = (head, None);
        while at > 0 && base.is_none() {
            at = match self.entry_at(at) {
                Ok(entry) if numbers.known(at).is_some_and(|known| known != entry.header.reference()) => {
                    numbers.before(at)
                }
                Ok(Entry { header, payload: Payload::Claim(_) }) => numbers.stands_for(header.base),
                Ok(Entry { header, payload: Payload::Content(content) }) => {
                    base = Some(Base { header, content });
                    at
                }
                Ok(_) => numbers.before(at),
                Err(error) if unreadable(&error) => numbers.before(at),
                Err(error) => return Err(error),
            };
        }
        let before = match self.entry_header(head) {
            // It was there a moment ago.
            Ok(header) => Some(header.ok_or_else(|| self.gone(head))?.reference()),
            // Behind a gap it is no entry of ours but a stray name, and what followed it would stand there for ever (V3).
            Err(error) if unreadable(&error) && numbers.gap(head).is_some() => {
                return Err(error.context("this stands behind a gap and is no entry: remove it"));
            }
            // Nobody can check the link to what nobody can read.
            Err(error) if unreadable(&error) => Some(EntryRef { seq: head, hash: [0; 32] }),
            Err(error) => return Err(error),
        };
        let decision = base.map_or(Decision::Initial, |base| {
            let reason = format!("the damaged log was taken over: {}", damage.line());
            Decision::Resync { base, reason, taken_over: true }
        });
        Ok((decision, before))
    }
}

/// A shipper's right to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// What to do.
    pub decision: Decision,
    /// The claim; its seq is the writer epoch, and it is the head.
    pub claim: EntryHeader,
}

#[cfg(test)]
mod tests;
