//! Objects under a seal of either suite: a section opens where it was sealed, as it was sealed, with the key that it was
//! sealed by, and nowhere and no how else.

use super::{Input, VAULT, told};
use std::sync::Arc;
use towline::Kind;
use towline::vault::envelope::{HEADER, ObjectKind, Seal, TAG, check_header};
use towline::vault::keys::{Masters, Secret};
use towline::vault::names::GroupId;

const KINDS: [ObjectKind; 7] = [
    ObjectKind::Descriptor,
    ObjectKind::Entry,
    ObjectKind::Pack,
    ObjectKind::Index,
    ObjectKind::Slot,
    ObjectKind::Ring,
    ObjectKind::Catalog,
];

/// Seals, changes and opens an object.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let keyed = !input.u8().is_multiple_of(4);
    let (made_by, known) = (1 + input.u8() % 4, 1 + input.u8() % 4);
    let kind = KINDS[usize::from(input.u8()) % KINDS.len()];
    let seal = |generations: u8, group: u8| {
        let group = GroupId([group; 16]);
        let masters = (1..=generations).map(|generation| Secret::from_bytes(&[generation; 32])).collect();
        let keys = keyed.then(|| Arc::new(Masters::new(masters).group(VAULT, group)));
        Seal { keys, draw: || [6; 16], ..Seal::unkeyed(VAULT, group) }
    };
    if input.u8() == 0 {
        let made_up = input.rest();
        assert_eq!(told(check_header("a", made_up)).is_none(), check_header("a", made_up).is_err());
        drop(told(seal(known, 1).opener(kind, "a", made_up)));
        return;
    }
    let sealer = seal(made_by, 1).sealer(kind, "a");
    let (mut sound, mut sections, mut next) = (sealer.header().to_vec(), Vec::new(), 0u64);
    for _ in 0..1 + input.u8() % 3 {
        let (Some(position), length) = (next.checked_add(input.number()), usize::from(input.u8())) else {
            break;
        };
        let (start, body) = (sound.len(), input.take(length));
        sealer.seal(position, body, &mut sound);
        sections.push((position, start..sound.len(), body));
        let Some(after) = position.checked_add(1) else { break };
        next = after;
    }
    let mut bytes = sound.clone();
    input.patch(&mut bytes);

    for (group, kind_there, name) in
        [(2, kind, "a"), (1, KINDS[kind as usize % KINDS.len()], "a"), (1, kind, "b")]
    {
        let elsewhere = seal(made_by, group).opener(kind_there, name, &sound);
        assert!(told(elsewhere).is_none(), "it is sealed for its place");
    }
    let opener = match seal(known, 1).opener(kind, "a", &bytes) {
        Ok(opener) => opener,
        Err(error) => {
            let reason = error.kind();
            told(Err::<(), _>(error));
            // A key that the vault has, or has next, is another matter than one that it never had.
            let unknown = keyed && made_by > known;
            let expected = if made_by == known + 1 { Kind::Locked } else { Kind::Damage };
            let whole = bytes[..HEADER] == sound[..HEADER];
            assert!(if whole { unknown && reason == expected } else { reason != Kind::Usage });
            return;
        }
    };
    assert!(bytes[..HEADER] == sound[..HEADER] && (!keyed || made_by <= known));
    for (position, at, body) in &sections {
        let opened = told(opener.open(*position, &mut bytes[at.clone()].to_vec()).map(|body| body.to_vec()));
        let same = bytes[at.clone()] == sound[at.clone()];
        assert_eq!(opened.as_deref(), same.then_some(*body));
        assert!(told(opener.open(position ^ 1, &mut sound[at.clone()].to_vec())).is_none());
        let cut = at.start..at.end - 1 - usize::from(input.u8()) % TAG;
        assert!(told(opener.open(*position, &mut sound[cut].to_vec())).is_none());
    }
}
