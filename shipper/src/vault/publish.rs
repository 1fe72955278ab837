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
