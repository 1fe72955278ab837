//! The numbers of a log, from a listing that holds foreign names and does not show all that is there: those listed, and
//! those that follow one another from there on, by a model. With a catalog, which a listing may not show either: at or
//! below its boundary what it keeps, and nothing else.

use super::catalogs::{header, some_kept, some_links};
use super::{Input, seal, told};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use towline::store::memory::MemoryStore;
use towline::store::scripted::{Call, Mood, Scripted, What};
use towline::store::{Store, StoreErrorKind};
use towline::vault::catalog::Catalog;
use towline::vault::entry::EntryRef;
use towline::vault::{Group, names};

/// Lists a made-up log.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (seal, store) = (seal(), MemoryStore::new());
    let put = |store: &MemoryStore, name: &str, bytes: &[u8]| store.put(name, bytes).expect("memory");
    let reachable = input.u8() < 250;
    let (mut listed, mut hidden) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..input.u8() % 4 {
        // Names beside those of entries, too short, too long, of something else, and seldom one of theirs.
        let (seq, width) = (input.number(), usize::from(input.u8() % 24));
        let end = ["", "x", "/0", ".index"][usize::from(input.u8() % 4)];
        let digits = format!("{seq:0width$}");
        put(&store, &format!("{}{digits}{end}", names::log(seal.group)), b"");
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
    let asked = input.number();
    let catalog = input.bool().then(|| catalog(&mut input));
    let mut late: Vec<(String, Vec<u8>)> = Vec::new();
    hidden.iter().for_each(|seq| late.push((names::entry(seal.group, *seq), Vec::new())));
    listed.iter().for_each(|seq| put(&store, &names::entry(seal.group, *seq), b""));
    if let Some(catalog) = &catalog {
        // Those before the newest need not be sound. Of a few, the listing shows the first.
        let (few, newest) = (catalog.number < 8, catalog.number);
        let shown = if few { u64::from(input.u8()) % (newest + 1) } else { newest };
        for number in if few { 1 } else { newest }..=newest {
            let name = names::catalog(seal.group, number);
            let sound = catalog.encode(&seal).expect("it is small");
            let bytes = if number == newest { sound } else { Vec::new() };
            if number <= shown { put(&store, &name, &bytes) } else { late.push((name, bytes)) }
        }
    }
    let there: BTreeSet<u64> = listed.union(&hidden).copied().collect();
    let bound = catalog.as_ref().map_or(0, Catalog::bound);
    let kept: BTreeMap<u64, (EntryRef, u64)> = catalog
        .iter()
        .flat_map(|catalog| catalog.kept.iter().map(|kept| (kept.entry.seq, (kept.entry, kept.below))))
        .collect();
    let above = |seq: u64| bound == 0 || seq > bound;
    let mut expected: BTreeSet<u64> = kept.keys().copied().collect();
    expected.extend(listed.iter().filter(|seq| above(**seq)));
    for seq in there.iter().copied().filter(|seq| above(*seq) && *seq > 0) {
        if seq - 1 == bound || expected.contains(&(seq - 1)) {
            expected.insert(seq);
        }
    }

    // What the listing does not show is there when something in its folder is asked for.
    let (behind, late) = (store.clone(), Mutex::new(late));
    let script = move |call: &Call<'_>| {
        let folder = |name: &str| name.rsplit_once('/').map(|parts| parts.0.to_owned());
        late.lock().expect("one thread").retain(|(name, bytes)| {
            let now = call.what == What::Length && folder(name) == folder(call.name);
            if now {
                put(&behind, name, bytes);
            }
            !now
        });
        if reachable { Mood::Good } else { Mood::Fail(StoreErrorKind::Transient) }
    };
    let group =
        Group { store: Scripted::new(store, script), seal, name: "g".into(), known: Default::default() };
    let Some(numbers) = told(group.numbers()) else {
        let last = catalog.is_some_and(|catalog| catalog.number == u64::MAX || bound == u64::MAX);
        return assert!(!reachable || last, "a listing is no damage");
    };
    assert!(numbers.iter().eq(expected.iter().copied()), "{listed:?} of {there:?} by {catalog:?}");
    assert_eq!(
        (numbers.count(), numbers.last()),
        (expected.len() as u64, expected.last().map_or(0, |seq| *seq))
    );
    assert_eq!(numbers.catalog(), catalog.as_ref());
    assert_eq!(numbers.boundary(), catalog.as_ref().and_then(|catalog| catalog.boundary));
    assert_eq!(told(group.newer_catalog(numbers.catalog_number())), Some(None), "it is the newest");
    let links: BTreeMap<u64, u64> =
        catalog.iter().flat_map(|catalog| catalog.links.iter().copied()).collect();
    let stands_for = |seq: u64| match catalog.is_none() || seq > bound || kept.contains_key(&seq) {
        true => seq,
        false => links.get(&seq).copied().unwrap_or(0),
    };
    for seq in expected.iter().chain(&there).chain(links.keys()).copied().chain([0, bound, asked]) {
        let before = expected.range(..seq).next_back().map_or(0, |seq| *seq);
        assert_eq!(numbers.before(seq), before);
        let first = before.max(bound) + 1;
        let missing = (first < seq).then(|| first..=seq - 1);
        assert_eq!(numbers.gap(seq), missing);
        if let Some(missing) = missing {
            told(Err::<(), _>(group.gap(&missing)));
        }
        assert_eq!(numbers.known(seq), kept.get(&seq).map(|kept| kept.0));
        assert_eq!(numbers.stands_for(seq), stands_for(seq));
        let below = kept.get(&seq).map_or_else(|| stands_for(asked), |kept| kept.1);
        assert_eq!(numbers.below(&header(seq, asked)), below);
    }
}

/// What of the log is kept; nothing is broken in it, save that nothing can follow the last of all numbers.
fn catalog(input: &mut Input<'_>) -> Catalog {
    let (number, bound) = (input.number().max(1), input.number());
    let kept = some_kept(bound, input);
    Catalog {
        number,
        previous: [u8::from(number > 1); 32],
        group: "g".into(),
        boundary: (bound > 0).then_some(EntryRef { seq: bound, hash: [9; 32] }),
        links: some_links(bound, &kept, input),
        kept,
        ..Catalog::default()
    }
}
