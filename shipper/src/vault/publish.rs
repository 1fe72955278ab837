//! The order of publication, without I/O: an entry is put only when every object that was begun before it is durable,
//! and entries one after another; a lost answer is looked up before anything else happens (V8).
//!
//! Events come in by calls; what is to be done is pulled with [`Publisher::poll`].

use super::entry::{Draft, EntryHeader, EntryKind, EntryRef};
use super::envelope::Seal;
use super::log::{Appended, judge};
use std::collections::{BTreeSet, VecDeque};

/// An object that was begun to be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

/// What the executor does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Put this entry if it is absent; answer with [`Publisher::answer`].
    Put {
        /// Its header.
        header: EntryHeader,
        /// The object's bytes.
        bytes: Vec<u8>,
    },
    /// Read the header of this entry; answer with [`Publisher::read_back`].
    ReadBack {
        /// The entry's number.
        seq: u64,
    },
    /// An entry is in the log.
    Published {
        /// Its header; the new head.
        header: EntryHeader,
    },
    /// Another shipper claimed the log: stop. Told again at every poll.
    Fenced {
        /// The entry that has our place.
        by: EntryHeader,
    },
}

/// The store's answer to a conditional put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The entry is there, by this put.
    Created,
    /// An entry is there.
    Exists,
    /// No answer, or an error: it may be there.
    Lost,
}

#[derive(Debug)]
enum State {
    Idle,
    /// An entry was found that is not ours and not yet told.
    Fenced(EntryHeader),
    Putting(EntryHeader),
    /// The entry at our place is to be looked at: the put found one, or its answer was lost.
    WantRead(EntryHeader),
    Reading(EntryHeader),
    Published(EntryHeader),
}

/// Orders the puts of one writer epoch.
#[derive(Debug)]
pub struct Publisher {
    seal: Seal,
    epoch: u64,
    head: EntryRef,
    /// The newest content of our lineage: the base of the next.
    tip: u64,
    next: u64,
    /// Objects not durable yet.
    running: BTreeSet<Token>,
    /// Drafts, each with the first token that it does not depend on.
    queue: VecDeque<(Draft, Token)>,
    state: State,
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

    /// Queues an entry behind all objects begun and all entries queued so far. The base of a content is filled in: the
    /// content before it, at first the claim's base.
    pub fn entry(&mut self, draft: Draft) {
        assert_ne!(draft.kind, EntryKind::Claim, "a claim begins another epoch");
        self.queue.push_back((draft, Token(self.next)));
    }

    /// Nothing is queued or running.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.running.is_empty() && matches!(self.state, State::Idle)
    }

    /// What to do next; `None`: wait for an event.
    pub fn poll(&mut self) -> Option<Action> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => {
                let (draft, barrier) = self.queue.front_mut()?;
                if self.running.first().is_some_and(|token| token < barrier) {
                    return None;
                }
                if draft.kind.has_content() {
                    draft.base = self.tip;
                }
                let (header, bytes) = draft.encode(&self.seal, Some(self.head), self.epoch);
                self.state = State::Putting(header);
                Some(Action::Put { header, bytes })
            }
            State::WantRead(header) => {
                self.state = State::Reading(header);
                Some(Action::ReadBack { seq: header.seq })
            }
            State::Published(header) => Some(Action::Published { header }),
            State::Fenced(by) => {
                self.state = State::Fenced(by);
                Some(Action::Fenced { by })
            }
            state @ (State::Putting(_) | State::Reading(_)) => {
                self.state = state;
                None
            }
        }
    }

    /// The answer to [`Action::Put`].
    pub fn answer(&mut self, answer: Answer) {
        let State::Putting(header) = self.state else { panic!("nothing is being put") };
        match answer {
            Answer::Created => self.published(header),
            Answer::Exists | Answer::Lost => self.state = State::WantRead(header),
        }
    }

    /// The answer to [`Action::ReadBack`]: the header found, or none. If reading failed, ask again with
    /// [`Self::read_failed`].
    pub fn read_back(&mut self, found: Option<EntryHeader>) {
        let State::Reading(ours) = self.state else { panic!("nothing is being read") };
        match found.map(|found| judge(&ours, found)) {
            // The put did not arrive: put again.
            None => self.state = State::Idle,
            Some(Appended::Ours(header)) => self.published(header),
            // Our own epoch's collector was quicker: no fencing, take the next place (V2).
            Some(Appended::Theirs(found))
                if found.kind == EntryKind::Condemned && found.epoch == self.epoch =>
            {
                self.head = found.reference();
                self.state = State::Idle;
            }
            Some(Appended::Theirs(found)) => self.state = State::Fenced(found),
        }
    }

    /// Reading back failed: it is asked for again at the next poll.
    pub fn read_failed(&mut self) {
        let State::Reading(header) = self.state else { panic!("nothing is being read") };
        self.state = State::WantRead(header);
    }

    fn published(&mut self, header: EntryHeader) {
        self.queue.pop_front().expect("it was queued");
        self.head = header.reference();
        if header.kind.has_content() {
            self.tip = header.seq;
        }
        self.state = State::Published(header);
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
        let publisher = Publisher::new(world.group.seal, &claim);
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
        publisher.answer(Answer::Created);
        assert_eq!(publisher.poll(), Some(Action::Published { header: first }));
        let second = put(&mut publisher);
        assert_eq!((second.seq, second.base, second.previous), (5, 4, first.hash()));
        publisher.answer(Answer::Created);
        publisher.poll();
        assert!(publisher.is_idle());
    }

    #[test]
    fn a_lost_answer_is_looked_up_and_the_entry_adopted_or_put_again() {
        let (_, mut publisher, draft) = world();
        publisher.entry(draft);
        let header = put(&mut publisher);
        publisher.answer(Answer::Lost);
        assert_eq!(publisher.poll(), Some(Action::ReadBack { seq: 4 }));
        publisher.read_failed();
        assert_eq!(publisher.poll(), Some(Action::ReadBack { seq: 4 }));
        publisher.read_back(None);
        assert_eq!(put(&mut publisher), header, "it had not arrived");
        publisher.answer(Answer::Exists);
        assert_eq!(publisher.poll(), Some(Action::ReadBack { seq: 4 }));
        // Another seal: ours.
        let found = EntryHeader { salt: [7; 32], ..header };
        publisher.read_back(Some(found));
        assert_eq!(publisher.poll(), Some(Action::Published { header: found }));
        assert_eq!(publisher.head(), found.reference());
    }

    /// Also one of the same epoch and cut: who went on from a copy of our memory has both, but not our content.
    #[test]
    fn anybody_elses_entry_at_our_place_fences_for_good() {
        let other: [fn(EntryHeader) -> EntryHeader; 3] = [
            |header| EntryHeader { kind: EntryKind::Claim, epoch: 4, ..header },
            |header| EntryHeader { payload_hash: [7; 32], ..header },
            |header| EntryHeader { time_ns: header.time_ns + 1, ..header },
        ];
        for other in other {
            let (_, mut publisher, draft) = world();
            publisher.entry(draft);
            let header = put(&mut publisher);
            publisher.answer(Answer::Exists);
            publisher.poll();
            let by = other(header);
            publisher.read_back(Some(by));
            assert_eq!(publisher.poll(), Some(Action::Fenced { by }));
            assert_eq!(publisher.poll(), Some(Action::Fenced { by }));
        }
    }

    #[test]
    fn losing_to_a_condemned_entry_of_the_own_epoch_is_no_fencing() {
        let (_, mut publisher, draft) = world();
        publisher.entry(draft);
        let header = put(&mut publisher);
        publisher.answer(Answer::Exists);
        publisher.poll();
        let condemned = EntryHeader { kind: EntryKind::Condemned, ..header };
        publisher.read_back(Some(condemned));
        let again = put(&mut publisher);
        assert_eq!((again.seq, again.previous, again.base), (5, condemned.hash(), 2));
    }
}
