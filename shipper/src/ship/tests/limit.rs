//! What a group's log can take, and what is said when it can take no more.

use super::*;
use crate::vault::entry::{Draft, Payload};
use crate::vault::limits::{INDEX_REF, INDEXES_MAX};
use crate::vault::log::Appended;
use towline_tracker::id::{Anchor, CutId};

/// Publishes and releases a point that lists so many indexes: those of the newest, again and again.
fn lists(fake: &Fake, store: &MemoryStore, indexes: usize) {
    let group = group(store);
    let head = group.entry_at(group.head(0).unwrap()).unwrap();
    let mut content = head.content().unwrap().clone();
    let listed = content.disks[0].indexes.clone();
    content.disks[0].indexes = listed.into_iter().cycle().take(indexes).collect();
    let draft = Draft {
        kind: EntryKind::Point,
        cut: CutId::random(),
        time_ns: 1,
        base: head.header.seq,
        attached: Vec::new(),
        payload: Payload::Content(content),
    };
    let appended = group.append(Some(head.header.reference()), head.header.epoch, &draft).unwrap();
    let Appended::Ours(header) = appended else { panic!("nobody else writes") };
    fake.lock().anchor = Some(Anchor { vault: group.seal.vault, seq: header.seq, hash: header.hash() });
}

/// Schedule: 1. a group has as many cycles behind it as an entry can list, but one; 2. one more is published; 3. the next is
/// refused before anything is cut; 4. a cycle that needs two entries finds no room for the second. No panic, no loop.
#[test]
fn a_group_that_is_full_is_one_clear_line() {
    let (fake, store) = (Fake::new(disk(2000)), new_vault());
    once(&fake, &store).unwrap();
    lists(&fake, &store, INDEXES_MAX - 1);
    fake.lock().write(1, &noise(1 << 40));
    let every = Options { minute: Duration::ZERO, ..options(&fake, Some(Duration::from_millis(1))) };
    let error = run_with(&store, &every).unwrap_err();
    assert_eq!(error.kind(), Kind::GroupFull, "{}", error.line());
    assert!(error.line().contains("new vault") && error.line().contains("--group"), "{}", error.line());
    assert_eq!(fake.lock().cuts.len(), 2, "the last one was taken, and no other was cut");
    let newest = group(&store).entry_at(fake.lock().anchor.unwrap().seq).unwrap();
    assert_eq!(newest.content().unwrap().disks[0].indexes.len(), INDEXES_MAX);
    assert!(newest.header.payload as usize >= INDEXES_MAX * INDEX_REF);

    let (fake, store) = (Fake::new(disk(2000)), new_vault());
    once(&fake, &store).unwrap();
    lists(&fake, &store, INDEXES_MAX - 1);
    (0..1500).for_each(|block| fake.lock().write(block, &noise(block | 1 << 43)));
    let every = Options { tracker: fake.socket(), checkpoint_every: 1 << 20, ..every };
    let error = run_with(&store, &every).unwrap_err();
    assert_eq!(error.kind(), Kind::GroupFull, "{}", error.line());
}
