use super::super::Vault;
use super::*;
use crate::edge;
use crate::store::memory::MemoryStore;
use crate::store::scripted::{Mood, Scripted, What};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

fn passphrase(text: &str) -> Secrets {
    Secrets { passphrase: Some(Zeroizing::new(text.into())), ..Secrets::default() }
}

fn key_file(text: &str) -> Secrets {
    Secrets { key_file: Some(Zeroizing::new(text.into())), ..Secrets::default() }
}

fn both(passphrase: &str, file: &str) -> Secrets {
    Secrets { key_file: key_file(file).key_file, ..self::passphrase(passphrase) }
}

fn making<'a>(secrets: &'a Secrets, label: &'a str) -> Making<'a> {
    Making { secrets, label, created_ns: 2, draw: edge::kernel }
}

fn init(secrets: &Secrets) -> (MemoryStore, Vault) {
    let store = MemoryStore::new();
    let vault = Vault::init_sealed(Arc::new(store.clone()), &making(secrets, "first")).unwrap();
    (store, vault)
}

fn opens(store: &MemoryStore, secrets: &Secrets) -> bool {
    match Vault::open_with(Arc::new(store.clone()), secrets) {
        Ok(_) => true,
        Err(error) if error.kind() == Kind::Locked => false,
        Err(error) => panic!("{}", error.line()),
    }
}

fn masters(vault: &Vault) -> &Masters {
    let Keys::Masters(masters) = &vault.keys else { panic!("the master key is not known") };
    masters
}

#[test]
fn a_vault_opens_with_what_it_was_made_with_and_with_nothing_else() {
    for (made, others) in [
        (passphrase("a"), [passphrase("b"), key_file("a"), passphrase("")]),
        (key_file("a"), [passphrase("a"), key_file("b"), key_file("")]),
        (both("a", "b"), [passphrase("a"), key_file("b"), both("b", "a")]),
    ] {
        let (store, _) = init(&made);
        assert!(opens(&store, &made) && !opens(&store, &Secrets::default()));
        assert!(!others.iter().any(|other| opens(&store, other)));
    }
    let (store, _) = init(&passphrase("a"));
    assert!(opens(&store, &both("a", "a file that is not needed")));
}

/// Who can write to the store puts an open vault in the place of a sealed one.
#[test]
fn a_vault_that_is_not_sealed_is_refused_to_who_has_a_key() {
    let store = MemoryStore::new();
    let vault = Vault::init(Arc::new(store.clone()), 1).unwrap();
    assert!(opens(&store, &Secrets::default()) && !opens(&store, &key_file("a")));
    let sealed = Vault::init_sealed(Arc::new(MemoryStore::new()), &making(&key_file("a"), "")).unwrap();
    let group = Secrets { group: sealed.keys.export(vault.id(), "db"), ..Secrets::default() };
    assert!(!opens(&store, &group));
}

#[test]
fn slots_come_and_go_but_for_the_last() {
    let (store, vault) = init(&passphrase("a"));
    put(&store, vault.id(), masters(&vault), &making(&key_file("b"), "second")).unwrap();
    assert!(opens(&store, &passphrase("a")) && opens(&store, &key_file("b")));
    let listed = list(&store, vault.id()).unwrap();
    let labels: Vec<_> =
        listed.slots.iter().map(|found| (found.slot.label.as_str(), found.slot.needs())).collect();
    assert!(labels.contains(&("first", "passphrase")) && labels.contains(&("second", "key file")));
    assert_eq!(remove(&store, vault.id(), "no").unwrap_err().kind(), Kind::Usage);
    assert_eq!(remove(&store, vault.id(), "").unwrap_err().kind(), Kind::Usage);
    let first = listed.slots.iter().find(|found| found.slot.label == "first").unwrap();
    remove(&store, vault.id(), &first.id()).unwrap();
    assert!(!opens(&store, &passphrase("a")) && opens(&store, &key_file("b")));
    let last = &list(&store, vault.id()).unwrap().slots[0];
    assert_eq!(remove(&store, vault.id(), &last.id()).unwrap_err().kind(), Kind::Usage);
    assert!(opens(&store, &key_file("b")));
}

/// T8.
#[test]
fn a_rotation_cut_short_anywhere_leaves_a_vault_that_opens_with_the_one_or_the_other() {
    for fails in 0.. {
        let (store, vault) = init(&passphrase("a"));
        let changes = AtomicU32::new(0);
        let scripted = Scripted::new(store.clone(), move |call| match call.what {
            What::Put | What::Create | What::Delete if changes.fetch_add(1, Relaxed) >= fails => {
                Mood::Fail(StoreErrorKind::Denied)
            }
            _ => Mood::Good,
        });
        let done = rotate(&*scripted, vault.id(), masters(&vault), &making(&passphrase("b"), ""));
        let (old, new) = (opens(&store, &passphrase("a")), opens(&store, &passphrase("b")));
        assert!(old != new, "one of them, {fails} requests in: {old}, {new}");
        if let Ok((next, left)) = done
            && left == 0
        {
            assert!(new && next.newest().0 == 2 && fails >= 3);
            break;
        }
    }
}

#[test]
fn what_was_sealed_before_a_rotation_is_still_read_and_an_older_group_key_is_refused() {
    let (store, vault) = init(&passphrase("a"));
    let seal = vault.group("db").seal.clone();
    let sealer = seal.sealer(ObjectKind::Pack, "p");
    let mut sealed = Vec::new();
    sealer.seal(0, b"body", &mut sealed);
    let before = vault.keys.export(vault.id(), "db").unwrap();
    let group = |export: &GroupExport| Secrets { group: Some(export.clone()), ..Secrets::default() };
    assert!(opens(&store, &group(&before)));
    for generation in 2..5 {
        let Ok(vault) = Vault::open_with(Arc::new(store.clone()), &passphrase("a")) else { panic!() };
        let (next, left) =
            rotate(&store, vault.id(), masters(&vault), &making(&passphrase("a"), "")).unwrap();
        assert_eq!((next.newest().0, left), (generation, 0));
    }
    let vault = Vault::open_with(Arc::new(store.clone()), &passphrase("a")).unwrap();
    let after = vault.keys.export(vault.id(), "db").unwrap();
    assert!(!opens(&store, &group(&before)) && opens(&store, &group(&after)));
    let seal = vault.group("db").seal;
    assert_eq!(seal.group, vault.keys.group_id(vault.id(), "db"));
    let opener = seal.opener(ObjectKind::Pack, "p", sealer.header()).unwrap();
    assert_eq!(opener.open(0, &mut sealed).unwrap(), b"body");
    assert_eq!(seal.sealer(ObjectKind::Pack, "q").salt()[..2], [4, 0]);
    // Another vault of this id, of somebody else's key.
    let forged = GroupExport { commitment: [1; 32], ..after.clone() };
    assert!(!opens(&store, &group(&forged)));
    // The keys put back to what they were.
    store.delete(&names::ring(4)).unwrap();
    assert!(!opens(&store, &group(&after)));
}

/// F34, and T7: who can write to the store changes a slot.
#[test]
fn a_changed_slot_is_damage_and_one_that_costs_too_much_is_refused() {
    let (store, vault) = init(&key_file("a"));
    let found = list(&store, vault.id()).unwrap().slots.remove(0);
    let bytes = store.get(&found.object, 1 << 16).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(vault.id(), &found.object, &bytes).is_err(), "bit {bit}");
    }
    let dear = Stretch { memory: 1 << 21, ..Stretch::NEW };
    let slot = Slot { passphrase: Some(dear), ..found.slot };
    let sealer = Seal::unkeyed(vault.id(), GroupId::NONE).sealer(ObjectKind::Slot, &found.object);
    let mut bytes = sealer.header().to_vec();
    sealer.seal(POSITION_TABLE, &codec::encode::<_, SLOT_MAX>(&slot), &mut bytes);
    assert_eq!(decode(vault.id(), &found.object, &bytes).unwrap_err().kind(), Kind::Damage);
}

/// F34: a slot that can't be read keeps nobody out whom another lets in, and can be taken away; the last that opens can't.
#[test]
fn a_damaged_slot_keeps_nobody_out_whom_another_lets_in() {
    let (store, vault) = init(&key_file("a"));
    let (id, first) = (vault.id(), list(&store, vault.id()).unwrap().slots.remove(0));
    let second = put(&store, id, masters(&vault), &making(&key_file("b"), "second")).unwrap();
    let mut bytes = store.get(&second, 1 << 16).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    store.delete(&second).unwrap();
    store.put(&second, &bytes).unwrap();
    assert!(opens(&store, &key_file("a")));
    let error = Vault::open_with(Arc::new(store.clone()), &key_file("b")).err().unwrap();
    assert_eq!(error.kind(), Kind::Damage, "{}", error.line());
    assert_eq!(list(&store, id).unwrap().damaged[0].0, second);
    assert_eq!(remove(&store, id, &first.id()).unwrap_err().kind(), Kind::Usage);
    remove(&store, id, &id_of(&second)).unwrap();
    assert!(list(&store, id).unwrap().damaged.is_empty() && opens(&store, &key_file("a")));
}
