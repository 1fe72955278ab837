//! The numbers of a log, from a listing that holds foreign names and does not show all that is there: those listed, and
//! those that follow one another from there on, by a model.

use super::{Input, seal, told};
use std::collections::BTreeSet;
use std::sync::Mutex;
use towline::store::memory::MemoryStore;
use towline::store::scripted::{Call, Mood, Scripted, What};
use towline::store::{Store, StoreErrorKind};
use towline::vault::{Group, names};

/// Lists a made-up log.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (seal, store) = (seal(), MemoryStore::new());
    let put = |store: &MemoryStore, name: &str| store.put(name, b"").expect("memory");
    let reachable = input.u8() < 250;
    let (mut listed, mut hidden) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..input.u8() % 4 {
        // Names beside those of entries, too short, too long, of something else, and seldom one of theirs.
        let (seq, width) = (input.number(), usize::from(input.u8() % 24));
        let end = ["", "x", "/0", ".index"][usize::from(input.u8() % 4)];
        let digits = format!("{seq:0width$}");
        put(&store, &format!("{}{digits}{end}", names::log(seal.group)));
        if digits.len() == 20 && end.is_empty() {
            listed.insert(seq);
        }
    }
    let mut next = 1u64;
    for _ in 0..input.u8() % 12 {
        let set = if input.bool() { &mut listed } else { &mut hidden };
        set.insert(next);
        next = next.saturating_add(1).saturating_add(if input.u8() < 192 { 0 } else { input.number() });
    }
    let entries =
        |set: &BTreeSet<u64>| set.iter().map(|seq| names::entry(seal.group, *seq)).collect::<Vec<_>>();
    entries(&listed).iter().for_each(|name| put(&store, name));
    let late = Mutex::new(entries(&hidden));
    let there: BTreeSet<u64> = listed.union(&hidden).copied().collect();
    let mut expected = listed.clone();
    for seq in &there {
        if *seq == 1 || seq.checked_sub(1).is_some_and(|before| expected.contains(&before)) {
            expected.insert(*seq);
        }
    }

    // What the listing does not show is there when it is asked for.
    let behind = store.clone();
    let script = move |call: &Call<'_>| {
        if call.what == What::Length && call.name.contains("/log/") {
            late.lock().expect("one thread").drain(..).for_each(|name| put(&behind, &name));
        }
        if reachable { Mood::Good } else { Mood::Fail(StoreErrorKind::Transient) }
    };
    let group =
        Group { store: Scripted::new(store, script), seal, name: "g".into(), catalogs: Default::default() };
    let Some(numbers) = told(group.numbers()) else {
        return assert!(!reachable, "a listing is no damage");
    };
    assert!(numbers.iter().eq(expected.iter().copied()), "{listed:?} of {there:?}");
    assert_eq!(
        (numbers.count(), numbers.last()),
        (expected.len() as u64, expected.last().map_or(0, |seq| *seq))
    );
    for seq in expected.iter().copied().chain([0, input.number()]) {
        let before = expected.range(..seq).next_back().map_or(0, |seq| *seq);
        assert_eq!(numbers.before(seq), before);
        let missing = (before + 1 < seq).then(|| before + 1..=seq - 1);
        assert_eq!(numbers.gap(seq), missing);
        if let Some(missing) = missing {
            told(Err::<(), _>(group.gap(&missing)));
        }
    }
}
