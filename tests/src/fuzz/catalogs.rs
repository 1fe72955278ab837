//! Catalogs: refused, or what they say of a log can be followed. One that was made by the rules is accepted, and says what
//! was put into it.

use super::{Input, VAULT, seal, sealed, told};
use towline::vault::catalog::{Catalog, Kept, Moved};
use towline::vault::entry::{EntryHeader, EntryKind, EntryRef, IndexRef};
use towline::vault::envelope::{ObjectKind, POSITION_TABLE, Seal};
use towline::vault::names::{self, GroupId, ObjectName};
use towline_tracker::codec;
use towline_tracker::id::CutId;

/// Reads a made-up catalog.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let seal = seal();
    let mode = input.u8();
    if mode == 255 {
        return drop(told(Catalog::decode(&seal, 1, input.rest())));
    }
    let mut catalog = by_the_rules(&mut input);
    let made = catalog.clone();
    for _ in 0..mode % 4 {
        break_a_rule(&mut catalog, &mut input);
    }
    // Read under its own number, or under another that it was put at.
    let asked = if mode & 4 == 0 { catalog.number } else { input.number() };
    let mut body = codec::encode_any(&catalog);
    if mode & 8 != 0 {
        input.patch(&mut body);
        body.extend_from_slice(input.take(3));
    }
    let decoded = told(Catalog::decode(&seal, asked, &seal_up(&seal, asked, &body)));
    if asked == made.number && body == codec::encode_any(&made) {
        let bytes = catalog.encode(&seal).expect("it is small");
        assert_eq!(decoded.as_ref(), Some(&made), "nothing was broken");
        assert_eq!(Catalog::decode(&seal, asked, &bytes).ok(), decoded);
        let other = Seal::unkeyed(VAULT, GroupId::of(VAULT, "h"));
        assert!(told(Catalog::decode(&other, asked, &bytes)).is_none(), "of another group");
    }
    if let Some(decoded) = decoded {
        assert_eq!(codec::encode_any(&decoded), body, "{decoded:?}");
        assert!(decoded.number == asked && (asked == 1) == (decoded.previous == [0; 32]), "{decoded:?}");
        holds(&decoded, &mut input);
    }
}

fn seal_up(seal: &Seal, number: u64, body: &[u8]) -> Vec<u8> {
    sealed(seal, ObjectKind::Catalog, &names::catalog(seal.group, number), &[(POSITION_TABLE, body)])
}

fn entry(seq: u64, hash: u8) -> EntryRef {
    EntryRef { seq, hash: [hash; 32] }
}

/// One of the kept points below `seq`, which are in order; 0: none.
pub(super) fn some_below(kept: &[Kept], seq: u64, choice: u8) -> u64 {
    let below = kept.partition_point(|kept| kept.entry.seq < seq);
    match usize::from(choice) % (below + 1) {
        0 => 0,
        at => kept[at - 1].entry.seq,
    }
}

/// Some points that are kept at or below a boundary.
pub(super) fn some_kept(bound: u64, input: &mut Input<'_>) -> Vec<Kept> {
    let mut kept: Vec<Kept> = Vec::new();
    for _ in 0..input.u8() % 8 {
        let seq = if bound == 0 { break } else { 1 + input.number() % bound };
        kept.push(Kept { entry: entry(seq, input.u8()), below: 0 });
    }
    kept.sort_by_key(|kept| kept.entry.seq);
    kept.dedup_by_key(|kept| kept.entry.seq);
    for at in 0..kept.len() {
        kept[at].below = some_below(&kept, kept[at].entry.seq, input.u8());
    }
    kept
}

/// What stands for some entries at or below a boundary, in order.
pub(super) fn some_links(bound: u64, kept: &[Kept], input: &mut Input<'_>) -> Vec<(u64, u64)> {
    let mut links = Vec::new();
    for _ in 0..input.u8() % 4 {
        let base = if bound == 0 { break } else { 1 + input.number() % bound };
        links.push((base, some_below(kept, base, input.u8())));
    }
    links.sort_unstable();
    links.dedup_by_key(|link| link.0);
    links
}

fn by_the_rules(input: &mut Input<'_>) -> Catalog {
    let number = input.number().clamp(1, u64::MAX - 1);
    let bound = input.number().min(u64::MAX - 1);
    let kept = some_kept(bound, input);
    let links = some_links(bound, &kept, input);
    let mut pins: Vec<EntryRef> =
        kept.iter().map(|kept| kept.entry).filter(|_| input.u8().is_multiple_of(4)).collect();
    if input.bool() {
        pins.push(entry(bound.saturating_add(1).saturating_add(input.number()), input.u8()));
    }
    let mut cuts: Vec<u8> = (0..input.u8() % 3).map(|_| input.u8()).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let spoiled = pins.iter().copied().filter(|_| input.bool()).collect();
    Catalog {
        number,
        previous: [u8::from(number > 1); 32],
        time_ns: input.number(),
        group: "g".into(),
        boundary: (bound > 0 || input.bool()).then(|| entry(bound, input.u8())),
        claim: input.bool().then(|| entry(input.number().min(bound), input.u8())),
        kept,
        links,
        shipped: cuts.iter().map(|cut| CutId([*cut; 16])).collect(),
        folded: cuts.iter().map(|cut| ObjectName([!*cut; 16])).rev().collect(),
        pins,
        damaged: cuts.iter().map(|cut| ObjectName([*cut; 16])).collect(),
        settled: number.min(bound),
        spoiled,
        moved: some_moved(number, input),
    }
}

/// Indexes for which others stand, made for catalogs up to this one.
fn some_moved(number: u64, input: &mut Input<'_>) -> Vec<Moved> {
    let mut names: Vec<u8> = (0..input.u8() % 4).map(|_| input.u8()).collect();
    names.sort_unstable();
    names.dedup();
    let one = |name: &u8| moved(*name, 1 + input.number() % number);
    names.iter().map(one).collect()
}

fn moved(name: u8, epoch: u64) -> Moved {
    let (from, name) = (ObjectName([name; 16]), ObjectName([!name; 16]));
    let (cut, hash) = (names::NO_CUT, [1; 32]);
    Moved { from, to: IndexRef { epoch, cut, name, entry: 0, offset: 0, length: 9, hash, level: 1 } }
}

fn break_a_rule(catalog: &mut Catalog, input: &mut Input<'_>) {
    let (what, seq) = (input.u8(), input.number());
    let at = usize::from(input.u8());
    match what % 19 {
        0 => catalog.number = seq,
        1 => catalog.previous = [input.u8(); 32],
        2 => catalog.group = String::from_utf8_lossy(input.take(at % 4)).into_owned(),
        3 => catalog.boundary = input.bool().then(|| entry(seq, 0)),
        4 => catalog.claim = Some(entry(seq, 0)),
        5 => catalog.kept.push(Kept { entry: entry(seq, 0), below: input.number() }),
        6 => catalog.kept.iter_mut().skip(at % 4).take(1).for_each(|kept| kept.below = seq),
        7 => catalog.kept.iter_mut().skip(at % 4).take(1).for_each(|kept| kept.entry.seq = seq),
        8 => catalog.links.push((seq, input.number())),
        9 => catalog.links.insert(0, (input.number(), seq)),
        10 => catalog.pins.push(entry(seq, input.u8())),
        11 => catalog.pins.reverse(),
        12 => catalog.shipped.push(CutId([input.u8(); 16])),
        13 => catalog.folded.push(ObjectName([input.u8(); 16])),
        17 => catalog.damaged.push(ObjectName([input.u8(); 16])),
        18 => catalog.spoiled.push(entry(seq, input.u8())),
        14 => catalog.moved.push(moved(input.u8(), seq)),
        15 => catalog.moved.iter_mut().skip(at % 4).take(1).for_each(|moved| moved.to.cut = CutId([1; 16])),
        _ => catalog.moved.iter_mut().skip(at % 4).take(1).for_each(|moved| moved.to.name = moved.from),
    }
}

/// What walkers of a log rely on, whatever number they ask for.
fn holds(catalog: &Catalog, input: &mut Input<'_>) {
    let bound = catalog.bound();
    assert!(bound < u64::MAX && catalog.number < u64::MAX, "there is a next one: {catalog:?}");
    let exists = |seq: u64| seq > bound || catalog.kept.iter().any(|kept| kept.entry.seq == seq);
    let links = catalog.links.iter().flat_map(|(base, to)| [*base, *to]);
    let asked = [0, bound, bound + 1, u64::MAX, input.number(), input.number()];
    for seq in catalog.kept.iter().map(|kept| kept.entry.seq).chain(links).chain(asked) {
        let stands = catalog.stands_for(seq);
        assert!(stands <= seq && (stands == 0 || exists(stands)), "{stands} for {seq}: {catalog:?}");
        assert!(!exists(seq) || stands == seq, "{stands} for {seq}, which exists: {catalog:?}");
        assert_eq!(catalog.stands_for(stands), stands, "{catalog:?}");
        assert_eq!(catalog.kept(seq).is_some(), seq <= bound && exists(seq), "{seq}: {catalog:?}");
        // Of two entries of this number that differ only a boundary below both lets both be.
        let both = [0, 1].map(|hash| catalog.has(entry(seq, hash)));
        assert!(if seq > bound { both == [true; 2] } else { both != [true; 2] }, "{seq}: {catalog:?}");
        // Down a lineage, from an image of this number.
        let mut image = seq;
        let mut base = input.number();
        while image > 0 {
            base = if image == 1 { 0 } else { base % image };
            let below = catalog.below(&header(image, base));
            assert!(below < image && (below == 0 || exists(below)), "{below} < {image}: {catalog:?}");
            image = below.min(bound);
        }
    }
    assert!(catalog.kept.iter().all(|kept| kept.entry.seq <= bound && catalog.has(kept.entry)));
    assert!(catalog.pins.iter().all(|pin| catalog.is_pinned(*pin) && catalog.has(*pin)), "{catalog:?}");
    assert!(catalog.claim.is_none_or(|claim| claim.seq <= bound), "{catalog:?}");
    // What stands for a listed index is where no other object can be.
    let made = |moved: &Moved| {
        let object = moved.to.object(GroupId::of(VAULT, "g"));
        matches!(names::parse(&object), Some(names::Parsed::Moved { number, index: true, .. }) if number <= catalog.number)
    };
    assert!(catalog.moved.iter().all(made), "{catalog:?}");
}

/// The header of a point.
pub(super) fn header(seq: u64, base: u64) -> EntryHeader {
    EntryHeader {
        seq,
        previous: [0; 32],
        epoch: 0,
        cut: CutId([0; 16]),
        kind: EntryKind::Point,
        time_ns: 0,
        base,
        attached: 0,
        payload: 0,
        payload_hash: [0; 32],
        salt: [0; 32],
    }
}
