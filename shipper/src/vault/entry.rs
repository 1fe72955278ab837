//! Entries of a group's log: what they say and their bytes.

mod content;

pub use content::{Consistency, Content, Covered, DiskImage, IndexRef, Totals};

use super::envelope::{HEADER, ObjectKind, Seal, TAG};
use super::layout::{self, array, entry as at, object};
use super::limits::{ATTACHED_MAX, PAYLOAD_MAX};
use super::names;
use crate::{Error, Result};
use bincode::{Decode, Encode};
use towline_tracker::codec;
use towline_tracker::id::{AttachNumber, Cut, CutId, DiskId, Session, TargetId};

/// Where an entry's attached objects begin.
pub const ATTACHED: usize = HEADER + at::LENGTH + TAG;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum EntryKind {
    /// A new writer epoch.
    Claim = 1,
    /// A recovery point.
    Point = 2,
    /// An image of a fuzzy freeze: a base for later points, itself no instant of the disk.
    Fuzzy = 3,
    /// What a long shipment has shipped so far.
    Checkpoint = 4,
    /// Names that may be deleted (later).
    Condemned = 5,
}

impl EntryKind {
    fn from_number(number: u64) -> Option<Self> {
        [Self::Claim, Self::Point, Self::Fuzzy, Self::Checkpoint, Self::Condemned]
            .into_iter()
            .find(|kind| *kind as u64 == number)
    }

    /// It holds an image: a point, fuzzy or checkpoint.
    pub fn has_content(self) -> bool {
        matches!(self, Self::Point | Self::Fuzzy | Self::Checkpoint)
    }

    /// Its word in lists.
    pub fn word(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Point => "point",
            Self::Fuzzy => "fuzzy",
            Self::Checkpoint => "checkpoint",
            Self::Condemned => "condemned",
        }
    }
}

/// The header of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHeader {
    /// Its number, from 1.
    pub seq: u64,
    /// The hash of the entry before; zero for the first.
    pub previous: [u8; 32],
    /// The seq of the claim under which it was put; a claim's own.
    pub epoch: u64,
    /// The cut id; of a claim a random name of its own.
    pub cut: CutId,
    /// What it is.
    pub kind: EntryKind,
    /// Nanoseconds since 1970: the instant of the cut, or of the claim.
    pub time_ns: u64,
    /// The entry over whose image it lies; 0: over nothing.
    pub base: u64,
    /// Bytes attached.
    pub attached: u64,
    /// Bytes of the payload.
    pub payload: u64,
    /// BLAKE3 of the payload.
    pub payload_hash: [u8; 32],
    /// The object's salt: not a field of the header, but needed to open the rest.
    pub salt: [u8; 32],
}

impl EntryHeader {
    /// The cut whose content it holds; of a claim no cut's.
    pub fn identity(&self) -> Cut {
        Cut { id: self.cut, time_ns: self.time_ns }
    }

    /// Whether a shipment ended with it: it lists all that is needed of its cut.
    pub fn ends_shipment(&self) -> bool {
        matches!(self.kind, EntryKind::Point | EntryKind::Fuzzy)
    }

    fn encode(&self) -> [u8; at::LENGTH] {
        let mut bytes = [0; at::LENGTH];
        layout::set(&mut bytes, at::SEQ, self.seq);
        bytes[at::PREVIOUS].copy_from_slice(&self.previous);
        layout::set(&mut bytes, at::EPOCH, self.epoch);
        bytes[at::CUT].copy_from_slice(&self.cut.0);
        layout::set(&mut bytes, at::KIND, self.kind as u64);
        layout::set(&mut bytes, at::TIME, self.time_ns);
        layout::set(&mut bytes, at::BASE, self.base);
        layout::set(&mut bytes, at::ATTACHED, self.attached);
        layout::set(&mut bytes, at::PAYLOAD, self.payload);
        bytes[at::PAYLOAD_HASH].copy_from_slice(&self.payload_hash);
        bytes
    }

    fn decode(name: &str, bytes: &[u8], salt: [u8; 32]) -> Result<Self> {
        let bad = |what: &str| Err(Error::damage(name, what));
        if bytes.len() != at::LENGTH
            || !layout::is_zero(bytes, at::RESERVED)
            || !layout::is_zero(bytes, at::RESERVED2)
        {
            return bad("its header has another form");
        }
        let Some(kind) = EntryKind::from_number(layout::get(bytes, at::KIND)) else {
            return bad("it is of an unknown kind");
        };
        let header = Self {
            seq: layout::get(bytes, at::SEQ),
            previous: array(bytes, at::PREVIOUS),
            epoch: layout::get(bytes, at::EPOCH),
            cut: CutId(array(bytes, at::CUT)),
            kind,
            time_ns: layout::get(bytes, at::TIME),
            base: layout::get(bytes, at::BASE),
            attached: layout::get(bytes, at::ATTACHED),
            payload: layout::get(bytes, at::PAYLOAD),
            payload_hash: array(bytes, at::PAYLOAD_HASH),
            salt,
        };
        if header.attached > ATTACHED_MAX as u64 || header.payload > PAYLOAD_MAX as u64 {
            return bad("it claims to be larger than an entry can be");
        }
        let epoch_fits = match kind {
            EntryKind::Claim => header.epoch == header.seq,
            _ => header.epoch < header.seq,
        };
        if header.seq == 0 || !epoch_fits || header.base >= header.seq {
            return bad("its numbers contradict each other");
        }
        Ok(header)
    }

    /// The hash of the entry: BLAKE3 over its header, which holds the payload's hash and the hash of the entry before.
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.encode()).as_bytes()
    }

    /// The entry's number and hash.
    pub fn reference(&self) -> EntryRef {
        EntryRef { seq: self.seq, hash: self.hash() }
    }

    /// The length of the whole object.
    pub fn object_length(&self) -> u64 {
        (ATTACHED + TAG) as u64 + self.attached + self.payload
    }
}

/// An entry by number and hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EntryRef {
    /// Its number.
    pub seq: u64,
    /// Its hash.
    pub hash: [u8; 32],
}

/// A new writer epoch (V1, V2): one at each start of a shipper.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Claim {
    /// The entry whose image the next content lies over; `None`: nothing.
    pub base: Option<EntryRef>,
    /// Cuts whose packs, of older epochs, go on being used.
    pub continued: Vec<CutId>,
    /// The group's name.
    pub group: String,
    /// The disks of the claiming tracker: who owns the group.
    pub owner: Vec<Owner>,
    /// The tracker's session.
    pub session: Session,
    /// The shipper's attach number.
    pub attach: AttachNumber,
    /// The host's name, for messages.
    pub host: String,
    /// The target that the shipper serves.
    pub target: TargetId,
    /// Somebody asked to take the group over.
    pub taken_over: bool,
    /// Why the claim has the base that it has, for people.
    pub reason: String,
}

/// A disk of the tracker that owns a group.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Owner {
    /// The disk.
    pub id: DiskId,
    /// Its name in the group.
    pub name: String,
}

/// Names that nobody needs any more, and that anybody may delete at any later time (V14).
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Condemned {
    /// The number of the catalog by which they are not needed, and its hash; 0: there was none.
    pub catalog: (u64, [u8; 32]),
    /// Full names.
    pub names: Vec<String>,
}

/// A payload, by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Of a claim.
    Claim(Claim),
    /// Of a point, fuzzy or checkpoint.
    Content(Content),
    /// Of a condemned entry.
    Condemned(Condemned),
}

/// A whole entry without what is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its header.
    pub header: EntryHeader,
    /// Its payload.
    pub payload: Payload,
}

impl Entry {
    /// The content, if it is a point, fuzzy or checkpoint.
    pub fn content(&self) -> Option<&Content> {
        match &self.payload {
            Payload::Content(content) => Some(content),
            _ => None,
        }
    }

    /// The claim, if it is one.
    pub fn claim(&self) -> Option<&Claim> {
        match &self.payload {
            Payload::Claim(claim) => Some(claim),
            _ => None,
        }
    }
}

/// An entry that is not in the log yet: all but its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// What it will be.
    pub kind: EntryKind,
    /// The cut id, or a claim's random name.
    pub cut: CutId,
    /// The time for its header.
    pub time_ns: u64,
    /// The entry over whose image it lies; 0: nothing.
    pub base: u64,
    /// Objects that ride inside, one after another; offsets in the payload and in indexes count from the object's
    /// first byte, so the first is at [`ATTACHED`].
    pub attached: Vec<u8>,
    /// Its payload; must fit the kind.
    pub payload: Payload,
}

impl Draft {
    /// The bytes of the entry at `head.seq + 1`, and its header.
    ///
    /// # Panics
    /// If the draft contradicts itself: our own mistake.
    pub fn encode(&self, seal: &Seal, head: Option<EntryRef>, epoch: u64) -> (EntryHeader, Vec<u8>) {
        let payload = match (&self.payload, self.kind) {
            (Payload::Claim(claim), EntryKind::Claim) => codec::encode::<_, PAYLOAD_MAX>(claim),
            (Payload::Content(content), kind) if kind.has_content() => {
                codec::encode::<_, PAYLOAD_MAX>(content)
            }
            (Payload::Condemned(names), EntryKind::Condemned) => codec::encode::<_, PAYLOAD_MAX>(names),
            _ => panic!("the payload is that of another kind"),
        };
        assert!(self.attached.len() <= ATTACHED_MAX, "{} bytes are attached", self.attached.len());
        let seq = head.map_or(1, |head| head.seq + 1);
        let sealer = seal.sealer(ObjectKind::Entry, &names::entry(seal.group, seq));
        let header = EntryHeader {
            seq,
            previous: head.map_or([0; 32], |head| head.hash),
            epoch: if self.kind == EntryKind::Claim { seq } else { epoch },
            cut: self.cut,
            kind: self.kind,
            time_ns: self.time_ns,
            base: self.base,
            attached: self.attached.len() as u64,
            payload: payload.len() as u64,
            payload_hash: *blake3::hash(&payload).as_bytes(),
            salt: sealer.salt(),
        };
        if let Payload::Content(content) = &self.payload {
            // No reader would take it.
            content.check(&header).unwrap_or_else(|what| panic!("a draft that nobody can read: {what}"));
        }
        let length = usize::try_from(header.object_length()).expect("an entry fits memory");
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(sealer.header());
        sealer.seal(0, &header.encode(), &mut bytes);
        bytes.extend_from_slice(&self.attached);
        sealer.seal(1, &payload, &mut bytes);
        assert_eq!(bytes.len(), length);
        EntryHeader::decode("our own entry", &header.encode(), header.salt).expect("our own entry is sound");
        (header, bytes)
    }
}

/// Reads the header of entry `seq` from the object's first [`ATTACHED`] bytes.
///
/// # Errors
/// `Damage`, `NewerVault`.
pub fn decode_header(seal: &Seal, seq: u64, bytes: &[u8]) -> Result<EntryHeader> {
    let name = names::entry(seal.group, seq);
    if bytes.len() < ATTACHED {
        return Err(Error::damage(&name, "it ends too early"));
    }
    let opener = seal.opener(ObjectKind::Entry, &name, bytes)?;
    let mut section = bytes[HEADER..ATTACHED].to_vec();
    let header = EntryHeader::decode(&name, opener.open(0, &mut section)?, array(bytes, object::SALT))?;
    if header.seq != seq {
        return Err(Error::damage(&name, format_args!("it says that it is entry {}", header.seq)));
    }
    Ok(header)
}

/// Reads entry `seq` from the whole object. What is attached is not looked at: it has its own seals.
///
/// # Errors
/// `Damage`, `NewerVault`.
pub fn decode(seal: &Seal, seq: u64, bytes: &[u8]) -> Result<Entry> {
    let header = decode_header(seal, seq, bytes)?;
    let name = names::entry(seal.group, seq);
    if bytes.len() as u64 != header.object_length() {
        return Err(Error::damage(&name, "its length is not what its header says"));
    }
    let attached = usize::try_from(header.attached).expect("checked against the limit");
    let payload = decode_payload(seal, &header, &bytes[ATTACHED + attached..])?;
    Ok(Entry { header, payload })
}

/// Reads the payload of the entry with this header from its sealed section.
///
/// # Errors
/// `Damage`.
pub fn decode_payload(seal: &Seal, header: &EntryHeader, section: &[u8]) -> Result<Payload> {
    let name = names::entry(seal.group, header.seq);
    let opener = seal.opener_with_salt(ObjectKind::Entry, &name, &header.salt);
    let mut section = section.to_vec();
    let body = &*opener.open(1, &mut section)?;
    if body.len() as u64 != header.payload || *blake3::hash(body).as_bytes() != header.payload_hash {
        return Err(Error::damage(&name, "its payload is not the one that its header names"));
    }
    let bad =
        |error: codec::CodecError| Error::caused(crate::Kind::Damage, format!("{name} is damaged"), error);
    let payload = match header.kind {
        EntryKind::Claim => {
            let claim: Claim = codec::decode::<_, PAYLOAD_MAX>(body).map_err(bad)?;
            if claim.base.map_or(0, |base| base.seq) != header.base
                || seal.group_of(&claim.group) != seal.group
            {
                return Err(Error::damage(&name, "its payload contradicts its place"));
            }
            Payload::Claim(claim)
        }
        EntryKind::Condemned => Payload::Condemned(codec::decode::<_, PAYLOAD_MAX>(body).map_err(bad)?),
        _ => {
            let mut content: Content = codec::decode::<_, PAYLOAD_MAX>(body).map_err(bad)?;
            content.resolve(header.seq);
            content.check(header).map_err(|what| Error::damage(&name, what))?;
            Payload::Content(content)
        }
    };
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Change, World, simple};
    use super::*;
    use proptest::prelude::*;

    fn entries() -> Vec<(Group, Entry, Vec<u8>)> {
        let mut world = World::new();
        world.cycle(&simple([(1, Change::Text(1)), (3, Change::Noise(1))]));
        (1..=2)
            .map(|seq| {
                let name = names::entry(world.group.id(), seq);
                let bytes = crate::store::Store::get(&world.store, &name, 1 << 20).unwrap();
                (world.group.clone(), world.group.entry_at(seq).unwrap(), bytes)
            })
            .collect()
    }
    use super::super::Group;

    #[test]
    fn an_entry_read_whole_is_the_entry_read_in_parts() {
        for (group, entry, bytes) in entries() {
            assert_eq!(decode(&group.seal, entry.header.seq, &bytes).unwrap(), entry);
            for length in 0..bytes.len() {
                assert!(decode(&group.seal, entry.header.seq, &bytes[..length]).is_err());
            }
            assert!(decode(&group.seal, entry.header.seq + 1, &bytes).is_err(), "sealed for its place");
        }
    }

    proptest! {
        /// Goal: an entry that somebody made, with good seals, never panics a reader. Method: change header and
        /// payload and seal them again.
        #[test]
        fn made_up_entries_are_refused_or_sound(
            which in 0usize..2,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            header_too in any::<bool>(),
        ) {
            let (group, entry, bytes) = entries().swap_remove(which);
            let payload = ATTACHED + usize::try_from(entry.header.attached).unwrap();
            let mut body = bytes[payload..bytes.len() - TAG].to_vec();
            let mut head = bytes[HEADER..ATTACHED - TAG].to_vec();
            for (at, value) in &changes {
                let target = if header_too { &mut head } else { &mut body };
                let at = at.index(target.len());
                target[at] = *value;
            }
            head[at::PAYLOAD_HASH].copy_from_slice(blake3::hash(&body).as_bytes());
            let seq = entry.header.seq;
            let sealer = group.seal.sealer(ObjectKind::Entry, &names::entry(group.id(), seq));
            let mut made = sealer.header().to_vec();
            sealer.seal(0, &head, &mut made);
            made.extend_from_slice(&bytes[ATTACHED..payload]);
            sealer.seal(1, &body, &mut made);
            if let Ok(entry) = decode(&group.seal, seq, &made)
                && let Some(content) = entry.content()
            {
                let reader = std::sync::Arc::new(super::super::access::Reader::new(group, 1 << 20));
                for disk in &content.disks {
                    // What is listed wrongly is refused when it is opened.
                    if let Ok(image) = super::super::image::Image::open(reader.clone(), disk) {
                        let _ = image.window(0, 100);
                    }
                }
            }
        }
    }
}
