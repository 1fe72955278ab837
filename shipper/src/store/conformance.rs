//! The contract of a store, as functions that anybody's store can be run through. Each is one promise.

use super::{Put, Store, StoreErrorKind};
use std::sync::Barrier;

/// Runs every promise, each on a fresh, empty store.
///
/// # Panics
/// If the store breaks a promise; the message says which.
pub fn run(make: impl Fn() -> Box<dyn Store>) {
    run_without_folders(&make);
    a_folder_is_no_object(&*make());
}

/// As [`run`], but for what a server over a file system may get wrong about names that only others begin with. A vault never
/// asks for one.
///
/// # Panics
/// As [`run`].
pub fn run_without_folders(make: impl Fn() -> Box<dyn Store>) {
    what_is_put_is_got(&*make());
    a_missing_object_is_not_found(&*make());
    ranges_are_cut_at_the_end(&*make());
    a_limit_is_kept(&*make());
    a_second_create_changes_nothing(&*make());
    of_racing_creates_one_wins(&*make());
    listings_are_ordered_and_resume(&*make());
    deleting_is_idempotent(&*make());
    bad_names_are_refused(&*make());
    large_objects_are_whole(&*make());
}

fn what_is_put_is_got(store: &dyn Store) {
    for (name, data) in [("a", &b"one"[..]), ("b/c", b""), ("b/d.e-f_g", b"\0\xff\n")] {
        store.put(name, data).expect("put");
        assert_eq!(store.get(name, 100).expect("get"), data);
        assert_eq!(store.len(name).expect("len"), data.len() as u64);
    }
    assert!(!store.url().is_empty());
}

fn a_missing_object_is_not_found(store: &dyn Store) {
    store.put("folder/object", b"x").expect("put");
    are_missing(store, &["missing", "folder/other", "other/missing"]);
}

fn a_folder_is_no_object(store: &dyn Store) {
    store.put("folder/object", b"x").expect("put");
    are_missing(store, &["folder", "folder/object/below"]);
}

fn are_missing(store: &dyn Store, names: &[&str]) {
    for name in names {
        let kinds = [
            store.get(name, 10).expect_err("get").kind(),
            store.get_range(name, 0, 1).expect_err("get_range").kind(),
            store.len(name).expect_err("len").kind(),
        ];
        assert_eq!(kinds, [StoreErrorKind::NotFound; 3], "{name}");
    }
}

fn ranges_are_cut_at_the_end(store: &dyn Store) {
    store.put("r", b"0123456789").expect("put");
    let range = |offset, length| store.get_range("r", offset, length).expect("get_range");
    assert_eq!(range(0, 10), b"0123456789");
    assert_eq!(range(3, 4), b"3456");
    assert_eq!(range(8, 10), b"89");
    assert_eq!(range(10, 1), b"");
    assert_eq!(range(1 << 40, 1), b"");
    assert_eq!(range(5, 0), b"");
}

fn a_limit_is_kept(store: &dyn Store) {
    store.put("l", b"0123456789").expect("put");
    assert_eq!(store.get("l", 9).expect_err("over the limit").kind(), StoreErrorKind::TooLarge);
    assert_eq!(store.get("l", 10).expect("at the limit").len(), 10);
}

fn a_second_create_changes_nothing(store: &dyn Store) {
    assert_eq!(store.put_if_absent("c/x", b"first").expect("create"), Put::Created);
    assert_eq!(store.put_if_absent("c/x", b"second").expect("create"), Put::AlreadyExists);
    assert_eq!(store.put_if_absent("c/x", b"first").expect("create"), Put::AlreadyExists);
    assert_eq!(store.get("c/x", 10).expect("get"), b"first");
}

fn of_racing_creates_one_wins(store: &dyn Store) {
    const RACERS: usize = 8;
    for round in 0..10 {
        let name = format!("race/{round}/x");
        let start = Barrier::new(RACERS);
        let data = |racer: usize| vec![u8::try_from(racer).expect("few"); 10_000];
        let wins: Vec<bool> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..RACERS)
                .map(|racer| {
                    let (start, name) = (&start, &name);
                    scope.spawn(move || {
                        start.wait();
                        let put = store.put_if_absent(name, &data(racer)).expect("create");
                        // Whoever lost can read the winner's object, whole.
                        assert_eq!(store.get(name, 20_000).expect("get").len(), 10_000);
                        put == Put::Created
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().expect("no panic")).collect()
        });
        assert_eq!(wins.iter().filter(|won| **won).count(), 1, "exactly one winner");
        let winner = wins.iter().position(|won| *won).expect("one");
        assert_eq!(store.get(&name, 20_000).expect("get"), data(winner), "the winner's bytes");
    }
    assert_eq!(store.list("", "", 100).expect("list").len(), 10, "losers leave nothing");
}

fn listings_are_ordered_and_resume(store: &dyn Store) {
    let mut names = vec!["a", "a-b", "a/b", "a/b.c", "a/b/c", "a/c", "a0", "b/1", "b/10", "b/2", "z"];
    // A file system can't hold both `a` and `a/b`; the vault never needs it.
    names.retain(|name| !["a", "a/b"].contains(name));
    for name in &names {
        store.put(name, name.as_bytes()).expect("put");
    }
    names.sort_unstable();
    let list = |prefix: &str, after: &str, limit| -> Vec<String> {
        let listed = store.list(prefix, after, limit).expect("list");
        for object in &listed {
            assert_eq!(object.length, object.name.len() as u64);
        }
        listed.into_iter().map(|object| object.name).collect()
    };
    assert_eq!(list("", "", 100), names);
    for prefix in ["a", "a/", "a/b", "b/", "b/1", "nothing/", "z", "a/b/"] {
        let expected: Vec<_> = names.iter().filter(|name| name.starts_with(prefix)).copied().collect();
        assert_eq!(list(prefix, "", 100), expected, "{prefix}");
        for after in ["a", "a/b", "a/b.c", "a/b/", "b/1", "b/~", "zz"] {
            let rest: Vec<_> = expected.iter().filter(|name| **name > after).copied().collect();
            assert_eq!(list(prefix, after, 100), rest, "{prefix} after {after}");
        }
    }
    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let page = list("", &after, 2);
        paged.extend(page.iter().cloned());
        match page.last() {
            Some(last) if page.len() == 2 => after.clone_from(last),
            _ => break,
        }
    }
    assert_eq!(paged, names);
}

fn deleting_is_idempotent(store: &dyn Store) {
    store.put("d/x", b"x").expect("put");
    store.delete("d/x").expect("delete");
    store.delete("d/x").expect("again");
    store.delete("never/was").expect("never there");
    assert_eq!(store.get("d/x", 1).expect_err("gone").kind(), StoreErrorKind::NotFound);
    assert_eq!(store.put_if_absent("d/x", b"y").expect("create"), Put::Created);
}

fn bad_names_are_refused(store: &dyn Store) {
    for name in ["", "../x", "/x", "a/../b", ".x", "a//b"] {
        let kinds = [
            store.put(name, b"").expect_err("put").kind(),
            store.put_if_absent(name, b"").expect_err("put_if_absent").kind(),
            store.get(name, 1).expect_err("get").kind(),
            store.delete(name).expect_err("delete").kind(),
        ];
        assert_eq!(kinds, [StoreErrorKind::BadName; 4], "{name}");
    }
}

fn large_objects_are_whole(store: &dyn Store) {
    let data: Vec<u8> = (0..40_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    store.put("large", &data).expect("put");
    assert!(store.get("large", data.len()).expect("get") == data);
    assert!(store.get_range("large", 39_000_001, 999_999).expect("range") == data[39_000_001..]);
}
