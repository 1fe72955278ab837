//! The order of publication, without I/O: an entry is put only when every object that was begun before it is durable,
//! and entries one after another.
//!
//! Events come in by calls; what is to be done is pulled with [`Publisher::poll`].

use super::entry::{Content, Draft, EntryHeader, EntryKind, EntryRef, Payload};
use super::envelope::Seal;
use super::fold::Unlisted;
use super::log::Appended;
use std::collections::{BTreeSet, VecDeque};
use towline_tracker::mutant;

/// An object that was begun to be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

/// What the executor does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Put this entry with [`Group::put_entry`](super::Group::put_entry), again until there is an answer; tell
    /// [`Publisher::answer`].
    Put {
        /// Its header.
        header: EntryHeader,
        /// The object's bytes.
        bytes: Vec<u8>,
    },
    /// An entry is in the log.
    Published {
        /// Its header; the new head.
        header: EntryHeader,
        /// Its content, as it was put: not resolved.
        content: Content,
    },
    /// Another shipper claimed the log: stop. Told again at every poll.
    Fenced {
        /// The entry that has our place.
        by: EntryHeader,
    },
}

#[derive(Debug)]
enum State {
    Idle,
    /// An entry was found that is not ours and not yet told.
    Fenced(EntryHeader),
    Putting,
    Published(EntryHeader, Content),
}

/// Orders the puts of one writer epoch.
#[derive(Debug)]
pub struct Publisher {
    seal: Seal,
    epoch: u64,
    head: EntryRef,
    tip: u64,
    next: u64,
    /// Objects not durable yet.
    running: BTreeSet<Token>,
    /// Drafts, each with the first token that it does not depend on.
    queue: VecDeque<(Draft, Token)>,
    state: State,
    /// Folds that no entry lists yet.
    pub unlisted: Unlisted,
}

impl Publisher {
    /// For the writer whose claim is the head of the log.
    pub fn new(seal: Seal, claim: &EntryHeader) -> Self {
        assert_eq!(claim.kind, EntryKind::Claim);
        Self {
            seal,
            epoch: claim.seq,
            head: claim.reference(),
            tip: claim.base,
            next: 0,
            running: BTreeSet::new(),
            queue: VecDeque::new(),
            state: State::Idle,
            unlisted: Unlisted::default(),
        }
    }

    /// The writer epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The last entry that is known to be in the log.
    pub fn head(&self) -> EntryRef {
        self.head
    }

    /// The newest content of our lineage, 0 if there is none: the base of the next.
    pub fn tip(&self) -> u64 {
        self.tip
    }

    /// An object is about to be put: every entry queued from now on waits for it.
    pub fn begin(&mut self) -> Token {
        let token = Token(self.next);
        self.next += 1;
        self.running.insert(token);
        token
    }

    /// An object is durable. One that failed for good is never done, and its entry never put.
    pub fn done(&mut self, token: Token) {
        assert!(self.running.remove(&token), "an object is done once");
    }

    /// Queues a content behind all objects begun and all entries queued so far. Its base is filled in: the
    /// content before it, at first the claim's base.
    pub fn entry(&mut self, draft: Draft) {
        assert!(draft.kind.has_content(), "only contents are shipped");
        self.queue.push_back((draft, Token(self.next)));
    }

    /// Whether an entry is queued that is not told to be published.
    pub fn is_busy(&self) -> bool {
        !self.queue.is_empty() || matches!(self.state, State::Published(..))
    }

    /// What to do next; `None`: wait for an event.
    pub fn poll(&mut self) -> Option<Action> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => {
                let (mut draft, barrier) = self.queue.pop_front()?;
                if self.running.first().is_some_and(|token| *token < barrier) {
                    self.queue.push_front((draft, barrier));
                    return None;
                }
                draft.base = self.tip;
                if let Payload::Content(content) = &mut draft.payload {
                    self.unlisted.undo(content);
                }
                let (header, bytes) = draft.encode(&self.seal, Some(self.head), self.epoch);
                self.queue.push_front((draft, barrier));
                self.state = State::Putting;
                Some(Action::Put { header, bytes })
            }
            State::Published(header, content) => Some(Action::Published { header, content }),
            State::Fenced(by) => {
                self.state = State::Fenced(by);
                Some(Action::Fenced { by })
            }
            State::Putting => {
                self.state = State::Putting;
                None
            }
        }
    }

    /// The answer to [`Action::Put`].
    pub fn answer(&mut self, answer: Appended) {
        assert!(matches!(self.state, State::Putting), "an entry is being put");
        match answer {
            Appended::Ours(header) => self.published(header),
            // Our own epoch's collector was quicker: no fencing, take the next place (V2). It must be at our place and behind our
            // head: at another the vault was put back, and what we published is gone.
            Appended::Theirs(found)
                if found.kind == EntryKind::Condemned
                    && found.epoch == self.epoch
                    && (found.seq, found.previous) == (self.head.seq + 1, self.head.hash) =>
            {
                self.head = found.reference();
                self.state = State::Idle;
                self.unlisted.collected();
            }
            // Mutant: whoever was quicker, the next place is free.
            Appended::Theirs(found) if mutant::active("fencing-ignored") => {
                self.head = found.reference();
                self.state = State::Idle;
            }
            Appended::Theirs(found) => self.state = State::Fenced(found),
        }
    }

    fn published(&mut self, header: EntryHeader) {
        let (draft, _) = self.queue.pop_front().expect("it was queued");
        let Payload::Content(content) = draft.payload else { panic!("only contents are shipped") };
        (self.head, self.tip) = (header.reference(), header.seq);
        self.unlisted.published();
        self.state = State::Published(header, content);
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::Payload;
    use super::super::sample::{Change, World, simple};
    use super::*;
    use towline_tracker::id::CutId;

    fn world() -> (World, Publisher, Draft) {
        let mut world = World::new();
        world.cycle(&simple([(1, Change::Text(1))]));
        let content = world.base.clone().unwrap().content;
        world.claim(false).unwrap();
        let claim = world.group.entry_header(world.epoch).unwrap().unwrap();
        let publisher = Publisher::new(world.group.seal.clone(), &claim);
        let (attached, payload) = (Vec::new(), Payload::Content(content));
        let draft =
            Draft { kind: EntryKind::Point, cut: CutId([9; 16]), time_ns: 1, base: 0, attached, payload };
        (world, publisher, draft)
    }

    fn put(publisher: &mut Publisher) -> EntryHeader {
        let Some(Action::Put { header, .. }) = publisher.poll() else { panic!("a put is due") };
        assert_eq!(publisher.poll(), None, "one entry at a time");
        header
    }

    #[test]
    fn an_entry_waits_for_every_object_begun_before_it_and_for_none_after() {
        let (_, mut publisher, draft) = world();
        let (a, b) = (publisher.begin(), publisher.begin());
        publisher.entry(draft);
        let _later = publisher.begin();
        assert_eq!(publisher.poll(), None);
        publisher.done(b);
        assert_eq!(publisher.poll(), None);
        publisher.done(a);
        assert_eq!(put(&mut publisher).seq, 4);
    }

    #[test]
    fn entries_go_one_after_another_each_over_the_one_before() {
        let (_, mut publisher, draft) = world();
        publisher.entry(draft.clone());
        publisher.entry(Draft { cut: CutId([8; 16]), ..draft });
        let first = put(&mut publisher);
        assert_eq!((first.seq, first.base, first.epoch), (4, 2, 3));
        publisher.answer(Appended::Ours(first));
        assert!(matches!(publisher.poll(), Some(Action::Published { header, .. }) if header == first));
        let second = put(&mut publisher);
        assert_eq!((second.seq, second.base, second.previous), (5, 4, first.hash()));
        publisher.answer(Appended::Ours(second));
        assert!(matches!(publisher.poll(), Some(Action::Published { header, .. }) if header == second));
        assert_eq!((publisher.poll(), publisher.head()), (None, second.reference()));
    }

    #[test]
    fn anybody_elses_entry_at_our_place_fences_for_good() {
        let (_, mut publisher, draft) = world();
        publisher.entry(draft);
        let header = put(&mut publisher);
        let by = EntryHeader { kind: EntryKind::Claim, epoch: 4, ..header };
        publisher.answer(Appended::Theirs(by));
        assert_eq!(publisher.poll(), Some(Action::Fenced { by }));
        assert_eq!(publisher.poll(), Some(Action::Fenced { by }));
    }

    /// Schedule: 1. an entry is published; 2. the vault is put back to a copy without it; 3. a collector, who sees the copy, puts a
    /// condemned entry in its place; 4. the writer's next entry would follow that, over packs that are gone.
    #[test]
    fn a_condemned_entry_in_the_place_of_what_was_published_fences() {
        let (_, mut publisher, draft) = world();
        publisher.entry(draft.clone());
        let first = put(&mut publisher);
        publisher.answer(Appended::Ours(first));
        publisher.poll();
        publisher.entry(draft);
        put(&mut publisher);
        let by = EntryHeader { kind: EntryKind::Condemned, cut: CutId([7; 16]), ..first };
        publisher.answer(Appended::Theirs(by));
        assert_eq!(publisher.poll(), Some(Action::Fenced { by }));
    }

    #[test]
    fn losing_to_a_condemned_entry_of_the_own_epoch_is_no_fencing() {
        let (_, mut publisher, draft) = world();
        publisher.entry(draft);
        let header = put(&mut publisher);
        let condemned = EntryHeader { kind: EntryKind::Condemned, ..header };
        publisher.answer(Appended::Theirs(condemned));
        let again = put(&mut publisher);
        assert_eq!((again.seq, again.previous, again.base), (5, condemned.hash(), 2));
    }
}
