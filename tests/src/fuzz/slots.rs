//! Slots and rings of a sealed vault's keys, which anybody who can write to the store can make. A slot: refused, or one that
//! can be tried at a price that is known before. A ring: what it holds is what was put into it. Ours: opened by what they
//! were made for, and by nothing once a byte of them is another.

use super::{Input, VAULT, sealed, told};
use towline::Kind;
use towline::store::Store;
use towline::store::memory::MemoryStore;
use towline::vault::descriptor::Descriptor;
use towline::vault::envelope::{ObjectKind, POSITION_TABLE, Seal};
use towline::vault::keys::{Keys, Masters, Secret};
use towline::vault::names::{self, GroupId, ObjectName};
use towline::vault::slots::{self, LABEL_MAX, Making, Secrets, Stretch};
use towline_tracker::codec;

/// The largest body of a slot.
const SLOT_MAX: usize = 4096;

/// Reads made-up keys.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.u8() % 4 {
        0 => drop(told(slots::decode(VAULT, &object(1), input.rest()))),
        1 | 2 => made_up(&mut input),
        _ => ours(&mut input),
    }
}

fn object(generation: u16) -> String {
    names::slot(generation, ObjectName(draw()))
}

/// The same for all: what is drawn is not what is tried here.
fn draw() -> [u8; 16] {
    [5; 16]
}

/// What is had: a key file, and with `passphrase` one, too.
fn secrets(key: &[u8], passphrase: bool) -> Secrets {
    let some = |bytes: &[u8]| Some(bytes.to_vec().into());
    Secrets { passphrase: some(b"words").filter(|_| passphrase), key_file: some(key), group: None }
}

fn masters(generations: u8) -> Masters {
    Masters::new((1..=generations).map(|generation| Secret::from_bytes(&[generation; 32])).collect())
}

fn made_up(input: &mut Input<'_>) {
    let length = usize::from(input.u8());
    let label = input.take(length);
    let mut body = (label.len() as u64).to_le_bytes().to_vec();
    body.extend_from_slice(label);
    body.extend_from_slice(&input.u64().to_le_bytes());
    let stretched = input.bool();
    body.push(stretched.into());
    if stretched {
        // Memory, passes, lanes: of any size, and most often small.
        (0..3).for_each(|_| body.extend_from_slice(&(input.number() as u32).to_le_bytes()));
    }
    body.push(input.bool().into());
    body.extend_from_slice(&[9; 32 + 48]);
    input.patch(&mut body);
    body.extend_from_slice(input.rest());
    let object = object(1);
    let seal = Seal::unkeyed(VAULT, GroupId::NONE);
    let bytes = sealed(&seal, ObjectKind::Slot, &object, &[(POSITION_TABLE, &body)]);
    let slot = told(slots::decode(VAULT, &object, &bytes));
    let store = MemoryStore::new();
    store.put(&object, &bytes).expect("memory");
    let descriptor = Descriptor::sealed(VAULT, 0, &masters(1));
    let Some(slot) = slot else {
        // Not a pass over memory is spent on it; the fuzzer bounds memory, and time.
        let error = slots::open(&store, &descriptor, &secrets(b"key", true)).expect_err("it is refused");
        assert!(matches!(error.kind(), Kind::Damage | Kind::NewerVault), "{}", error.line());
        return;
    };
    assert_eq!(codec::encode::<_, SLOT_MAX>(&slot), body, "{slot:?}");
    assert!(
        slot.label.len() <= LABEL_MAX && (slot.key_file || slot.passphrase.is_some()),
        "{}",
        slot.needs()
    );
    let cheap = slot.passphrase.is_none_or(|Stretch { memory, passes, lanes }| {
        assert!((1..=16).contains(&passes) && (1..=16).contains(&lanes), "{slot:?}");
        assert!((8 * lanes..=1 << 20).contains(&memory), "{slot:?}");
        memory <= 64 && passes <= 2
    });
    // Without a secret that it needs nothing is spent, either.
    let opened =
        slots::open(&store, &descriptor, &secrets(b"key", cheap)).expect_err("the key in it is made up");
    assert_eq!(opened.kind(), Kind::Locked, "{}", opened.line());
}

fn ours(input: &mut Input<'_>) {
    let generations = 1 + input.u8() % 4;
    let masters = masters(generations);
    let (generation, newest) = masters.newest();
    let (key, store) = (input.array::<8>(), MemoryStore::new());
    let right = secrets(&key, false);
    let making = Making { secrets: &right, label: "", created_ns: 0, draw };
    let slot = slots::put(&store, VAULT, &masters, &making).expect("memory");
    let mut keys: Vec<u8> =
        masters.generations().iter().rev().skip(1).rev().flat_map(|key| *key.bytes()).collect();
    let before = keys.clone();
    input.patch(&mut keys);
    if input.u8() == 1 {
        keys.extend_from_slice(input.take(32));
    }
    let ring = names::ring(generation);
    if generations > 1 {
        let seal = slots::ring_seal(VAULT, generation, newest);
        store
            .put(&ring, &sealed(&seal, ObjectKind::Ring, &ring, &[(POSITION_TABLE, &keys)]))
            .expect("memory");
    }
    let descriptor = Descriptor::sealed(VAULT, 0, &masters);
    let open = |secrets: &Secrets| told(slots::open(&store, &descriptor, secrets));
    let opened = open(&right);
    // The first is what the vault commits to; those between seal nothing of ours.
    let fits = keys.len() == before.len() && keys.iter().zip(&before).take(32).all(|(a, b)| a == b);
    assert_eq!(opened.is_some(), generations == 1 || fits);
    if let Some(Keys::Masters(opened)) = opened {
        let all = opened.generations();
        assert!(all.last() == Some(newest) && all.len() == usize::from(generations));
        assert!(generations == 1 || all[..all.len() - 1].iter().flat_map(|key| *key.bytes()).eq(keys));
    }
    let export = Keys::Masters(masters.clone().into()).export(VAULT, "g");
    assert!(
        open(&Secrets { group: export, ..Secrets::default() }).is_some(),
        "the ring's number is the newest"
    );
    let other = input.array::<8>();
    assert!(other == key || open(&secrets(&other, false)).is_none());
    // A byte of the one or of the other.
    let object = if generations > 1 && input.bool() { &ring } else { &slot };
    let sound = store.get(object, 1 << 16).expect("it is there");
    let mut bytes = sound.clone();
    input.patch(&mut bytes);
    bytes.truncate(bytes.len().saturating_sub(usize::from(input.u8())));
    store.put(object, &bytes).expect("memory");
    assert!(bytes == sound || open(&right).is_none(), "{object}");
}
