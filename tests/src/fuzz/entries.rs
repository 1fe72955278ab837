//! Entries of a vault's log, with good seals: refused, or written again as the same entry, whose images open or are
//! refused.

use super::{Input, seal, told};
use std::sync::Arc;
use towline::store::Store;
use towline::store::memory::MemoryStore;
use towline::vault::Group;
use towline::vault::access::Reader;
use towline::vault::entry::{Draft, EntryKind, EntryRef, decode, decode_header};
use towline::vault::envelope::ObjectKind;
use towline::vault::image::Image;
use towline::vault::layout::{self, entry as at};
use towline::vault::names;

/// Reads a made-up entry.
pub fn run(data: &[u8]) {
    let seal = seal();
    told(decode(&seal, 1, data));
    let mut input = Input::new(data);
    let seq = 1 + u64::from(input.u8()) % 4;
    let kind = 1 + u64::from(input.u8()) % 6;
    let mut head = [0; at::LENGTH];
    layout::set(&mut head, at::SEQ, seq);
    layout::set(&mut head, at::KIND, kind);
    layout::set(&mut head, at::EPOCH, if kind == EntryKind::Claim as u64 { seq } else { seq - 1 });
    layout::set(&mut head, at::BASE, input.u8().into());
    layout::set(&mut head, at::TIME, input.number());
    head[at::CUT].fill(input.u8());
    input.patch(&mut head);
    let attached = usize::from(input.u8());
    let attached = input.take(attached);
    let payload = input.rest();
    layout::set(&mut head, at::ATTACHED, attached.len() as u64);
    layout::set(&mut head, at::PAYLOAD, payload.len() as u64);
    head[at::PAYLOAD_HASH].copy_from_slice(blake3::hash(payload).as_bytes());

    let name = names::entry(seal.group, seq);
    let sealer = seal.sealer(ObjectKind::Entry, &name);
    let mut bytes = sealer.header().to_vec();
    sealer.seal(0, &head, &mut bytes);
    bytes.extend_from_slice(attached);
    sealer.seal(1, payload, &mut bytes);
    let Some(entry) = told(decode(&seal, seq, &bytes)) else { return };
    let header = entry.header;
    assert_eq!(decode_header(&seal, seq, &bytes).expect("the whole was read"), header);
    assert_eq!(header.object_length(), bytes.len() as u64);
    assert!(told(decode(&seal, seq + 1, &bytes)).is_none(), "it is sealed for its place");

    let draft = Draft {
        kind: header.kind,
        cut: header.cut,
        time_ns: header.time_ns,
        base: header.base,
        attached: attached.to_vec(),
        payload: entry.payload.clone(),
    };
    let head = EntryRef { seq: seq - 1, hash: header.previous };
    let (written, again) = draft.encode(&seal, Some(head), header.epoch);
    // An index that rides in the entry itself may be told by the entry's number or by none: payloads may differ.
    assert_eq!(decode(&seal, seq, &again).expect("our own").payload, entry.payload);
    let Some(content) = entry.content() else {
        assert_eq!((again, written.reference()), (bytes, header.reference()));
        assert_eq!(entry.claim().is_some(), header.kind == EntryKind::Claim, "{}", header.kind.word());
        return;
    };
    let store = MemoryStore::new();
    store.put(&name, &bytes).expect("memory");
    let group = Group { store: Arc::new(store), seal, name: "g".into(), known: Arc::default() };
    let reader = Arc::new(Reader::new(group, 1 << 20));
    for disk in &content.disks {
        if let Some(image) = told(Image::open(reader.clone(), disk)) {
            let _ = (image.window(0, 100), image.data_blocks_bound());
        }
    }
}
