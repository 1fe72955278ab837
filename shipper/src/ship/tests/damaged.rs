//! Damage in the vault, and how the next comparison heals it.

use super::*;
use crate::store::Store;
use crate::verify::verify;

/// Blocks with data in [`large`].
const DATA: u64 = 3600;

/// A disk with one point in the vault, then a small one over it. A checkpoint's index is an object of its own, with
/// two pages.
fn large() -> (Fake, MemoryStore) {
    let (fake, store) = (Fake::new(disk(DATA / 2 * 3)), new_vault());
    let checkpoint = Options { checkpoint_every: 12 << 20, ..options(&fake, None) };
    once_with(&fake, &store, &checkpoint).unwrap();
    fake.lock().write(7, &noise(1 << 40));
    once(&fake, &store).unwrap();
    (fake, store)
}

/// The packs, or indexes, that are objects of their own.
fn objects(store: &MemoryStore, end: &str) -> Vec<String> {
    let listed = store.list("", "", 1000).unwrap().into_iter().map(|object| object.name);
    listed.filter(|name| name.ends_with(end)).collect()
}

fn flip(store: &MemoryStore, name: &str, at: usize) {
    let mut bytes = store.get(name, usize::MAX).unwrap();
    bytes[at] ^= 1;
    store.overwrite(name, bytes);
}

/// Which points are affected by damage, the oldest first.
fn affected(store: &MemoryStore) -> Vec<bool> {
    let report = verify(&Vault::open(Arc::new(store.clone())).unwrap(), None).unwrap();
    report.groups[0].points.iter().map(|(_, affected)| *affected).collect()
}

type Damage = fn(&MemoryStore, &str);

/// Schedule: 1. an index of an old point is lost, cut, or a bit of it flips; 2. verification says so; 3. the operator
/// asks for a comparison of everything: its point can be restored, and so can the next ones (F43).
#[test]
fn a_full_cut_heals_an_index_that_is_lost_or_damaged() {
    let damages: [(Damage, u64); 4] = [
        (|store, name| store.delete(name).unwrap(), DATA),
        (|store, name| flip(store, name, 3), DATA),
        (
            |store, name| {
                let bytes = store.get(name, usize::MAX).unwrap();
                store.overwrite(name, bytes[..bytes.len() / 2].to_vec());
            },
            DATA,
        ),
        // A page: only what it says is shipped again.
        (|store, name| flip(store, name, 30_000), DATA * 2 / 3),
    ];
    for (damage, most) in damages {
        let (fake, store) = large();
        let indexes = objects(&store, ".index");
        assert!(indexes.len() == 1 && store.len(&indexes[0]).unwrap() > 100_000);
        damage(&store, &indexes[0]);
        assert_eq!(affected(&store), [true, true]);
        let full = Options { full: true, ..options(&fake, None) };
        let healed = once_with(&fake, &store, &full).unwrap();
        assert!(healed.bytes_shipped > 0 && healed.bytes_shipped <= most * BLOCK as u64, "{healed:?}");
        fake.lock().write(9, &noise(1 << 41));
        once(&fake, &store).unwrap();
        assert_eq!(affected(&store), [true, true, false, false]);
    }
}

/// Schedule: 1. an index is damaged; 2. the host dies: what its intents name is compared, and nothing else is frozen;
/// 3. a freeze of these blocks alone can't complete an image that has lost others.
#[test]
fn a_comparison_of_a_part_that_meets_damage_is_followed_by_one_of_everything() {
    // The whole index: seen before anything is shipped. A page: seen when the block is compared.
    let damages: [(Damage, &[u64]); 2] = [
        (|store, name| store.delete(name).unwrap(), &[DATA / 2 * 3]),
        (|store, name| flip(store, name, 100), &[1, DATA / 2 * 3]),
    ];
    for (damage, expected) in damages {
        let (fake, store) = large();
        damage(&store, &objects(&store, ".index")[0]);
        fake.lock().write(8, &noise(1 << 42));
        fake.lock().recovered = true;
        let (ended, summaries) = run_with(&store, &options(&fake, None)).unwrap();
        let changed: Vec<_> = summaries.iter().map(|summary| summary.bytes_changed / BLOCK as u64).collect();
        assert_eq!(changed, expected);
        let Ended::Once(last) = ended else { panic!("it was asked for one point") };
        check(&fake, &store, last.entry);
        assert_eq!(affected(&store).last(), Some(&false));
    }
}

/// Schedule: 1. a shipper is killed behind a checkpoint; 2. the checkpoint's index is lost; 3. what it covered is lost
/// with it and shipped again, although the freeze is continued.
#[test]
fn what_a_lost_checkpoint_covered_is_not_skipped() {
    // On a busy machine everything may be read before the first pack is put: then there is no checkpoint.
    let killed = || {
        let (fake, store) = (Fake::new(disk(3000)), new_vault());
        let every = Options { checkpoint_every: 1 << 20, ..options(&fake, None) };
        fake.lock().break_at = Some("confirm");
        run_with(&store, &every).unwrap_err();
        kinds(&store).contains(&EntryKind::Checkpoint).then_some((fake, store, every))
    };
    let (fake, store, every) = (0..50).find_map(|_| killed()).expect("a checkpoint in one of fifty");
    store.delete(&objects(&store, ".index")[0]).unwrap();
    let (_, summaries) = run_with(&store, &every).unwrap();
    assert_eq!(summaries.len(), 2);
    summaries.iter().for_each(|summary| drop(check(&fake, &store, summary.entry)));
}

/// Schedule: 1. a bit flips in a pack of the right length: no comparison by index sees it (V7); 2. verification does;
/// 3. the operator asks for a full cut that believes nothing, and it is cut short in the middle: it goes on from its
/// own checkpoint.
#[test]
fn a_full_cut_that_distrusts_the_vault_heals_everything() {
    let (fake, store) = large();
    let pack = objects(&store, ".pack").swap_remove(2);
    flip(&store, &pack, 5000);
    let full = Options { full: true, ..options(&fake, None) };
    let compared = once_with_damage(&full, &store);
    assert_eq!((compared.bytes_shipped, affected(&store)), (0, vec![true; 3]));

    fake.lock().break_at = Some("confirm");
    let distrust =
        Options { distrust: true, checkpoint_every: 1 << 20, every: Some(Duration::from_millis(1)), ..full };
    let stop = Stop::new();
    let told = Told { summaries: Mutex::default(), stop: Some((&stop, 2)) };
    let vault = Vault::open(Arc::new(store.clone())).unwrap();
    assert_eq!(run_in(&Surroundings::here(), vault, &distrust, &stop, &mut &told).unwrap(), Ended::Stopped);
    let summaries = told.summaries.into_inner().unwrap();
    let shipped: Vec<_> = summaries.iter().map(|summary| summary.bytes_shipped / BLOCK as u64).collect();
    assert_eq!(shipped, [DATA, 0], "everything, once");
    summaries.iter().for_each(|summary| drop(check(&fake, &store, summary.entry)));
    assert_eq!(affected(&store), [true, true, true, false, false]);
}

/// As [`once_with`] where the point can't be restored.
fn once_with_damage(options: &Options, store: &MemoryStore) -> Summary {
    let (Ended::Once(summary), _) = run_with(store, options).unwrap() else {
        panic!("it was asked for one point")
    };
    summary
}

/// Schedule: 1. a bit flips in a pack; 2. a verification finds it and marks it, while the shipper runs; 3. the shipper sees the mark at
/// its next entry, and ships again what the pack held; 4. all points from then on are sound, and nothing more is shipped; 5. a
/// verification of everything takes the marks of what is not there any more away.
#[test]
fn marked_damage_heals_by_itself() {
    use crate::retention::damage::{Found, mark};
    let (fake, store) = large();
    let pack = objects(&store, ".pack").swap_remove(2);
    flip(&store, &pack, 5000);
    let vault = Vault::open(Arc::new(store.clone())).unwrap();
    let marked = |everything: bool| {
        let report = verify(&vault, None).unwrap().groups.swap_remove(0);
        let group = vault.group(&report.group);
        let affected = report.points.iter().filter(|(_, affected)| *affected);
        let points =
            affected.map(|(point, _)| group.entry_at(point.seq).unwrap().header.reference()).collect();
        let found = Found { objects: report.objects_damaged, points, everything };
        mark(&group, &found, 1).unwrap()
    };
    assert!(marked(false) && !marked(false), "the same again is nothing new");
    let every = Options { every: Some(Duration::from_millis(1)), ..options(&fake, None) };
    let stop = Stop::new();
    let told = Told { summaries: Mutex::default(), stop: Some((&stop, 4)) };
    let ended = run_in(&Surroundings::here(), vault.clone(), &every, &stop, &mut &told).unwrap();
    assert_eq!(ended, Ended::Stopped);
    let shipped: Vec<_> =
        told.summaries.into_inner().unwrap().iter().map(|s| s.bytes_shipped / BLOCK as u64).collect();
    let healed = shipped.iter().position(|blocks| *blocks > 0).unwrap();
    assert!(healed <= 1 && shipped[healed] < DATA / 2, "{shipped:?}");
    assert!(shipped[healed + 1..].iter().all(|blocks| *blocks == 0), "{shipped:?}");
    let first = 2 + healed;
    let sound: Vec<_> = affected(&store).iter().map(|affected| !affected).collect();
    assert!(
        sound[..first].iter().all(|sound| !sound) && sound[first..].iter().all(|sound| *sound),
        "{sound:?}"
    );
    let group = vault.group(&verify(&vault, None).unwrap().groups[0].group);
    let history = crate::points::history(&vault, &group).unwrap();
    let spoiled: Vec<_> = history.points.iter().map(|point| history.is_spoiled(point)).collect();
    assert_eq!(spoiled.iter().filter(|spoiled| **spoiled).count(), 2, "{spoiled:?}");
    // A shipper that starts looks once more, and finds nothing to do.
    let stop = Stop::new();
    let told = Told { summaries: Mutex::default(), stop: Some((&stop, 2)) };
    run_in(&Surroundings::here(), vault.clone(), &every, &stop, &mut &told).unwrap();
    assert!(told.summaries.into_inner().unwrap().iter().all(|summary| summary.bytes_shipped == 0));
    // The object comes back, from a copy.
    flip(&store, &pack, 5000);
    assert!(marked(true));
    let history = crate::points::history(&vault, &group).unwrap();
    assert!(history.points.iter().all(|point| !history.is_spoiled(point)));
}
