//! What reads foreign bytes, one target a file: a plain function that feeds a reader with what a fuzzer made up and fails
//! by panic. The same functions run under libFuzzer (`tests/fuzz`, `make fuzz`) and over every committed input
//! (`it/fuzz.rs`, `make test`).
//!
//! A checksum or a seal would keep a fuzzer outside, so a target makes them itself: behind them the bytes are the
//! fuzzer's. Each target has an oracle beside "no panic": what is accepted is written again as the same bytes, or is what
//! a model says, or is sound (ordered, inside the disk, inside its limits). The fuzzer bounds memory.

pub mod answers;
pub mod catalogs;
pub mod changes;
pub mod command_line;
pub mod control;
pub mod descriptor;
pub mod entries;
pub mod header;
pub mod indexes;
mod input;
pub mod intents;
pub mod key_files;
pub mod locations;
pub mod logs;
pub mod meta;
pub mod names;
pub mod nbd_session;
pub mod numbers;
pub mod packs;
pub mod seals;
pub mod slots;

use input::Input;
use std::error::Error;
use towline::vault::envelope::{ObjectKind, Seal};
use towline::vault::names::GroupId;
use towline_tracker::id::VaultId;

/// A target: its name, as in `tests/fuzz`, and its function.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name.
    pub name: &'static str,
    /// The function.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "answers", run: answers::run },
    Target { name: "catalogs", run: catalogs::run },
    Target { name: "changes", run: changes::run },
    Target { name: "command_line", run: command_line::run },
    Target { name: "control", run: control::run },
    Target { name: "descriptor", run: descriptor::run },
    Target { name: "entries", run: entries::run },
    Target { name: "header", run: header::run },
    Target { name: "indexes", run: indexes::run },
    Target { name: "intents", run: intents::run },
    Target { name: "key_files", run: key_files::run },
    Target { name: "locations", run: locations::run },
    Target { name: "logs", run: logs::run },
    Target { name: "meta", run: meta::run },
    Target { name: "names", run: names::run },
    Target { name: "nbd_session", run: nbd_session::run },
    Target { name: "numbers", run: numbers::run },
    Target { name: "packs", run: packs::run },
    Target { name: "seals", run: seals::run },
    Target { name: "slots", run: slots::run },
];

const VAULT: VaultId = VaultId([1; 16]);

/// The group whose objects are made up.
fn seal() -> Seal {
    Seal::unkeyed(VAULT, GroupId::of(VAULT, "g"))
}

/// People are told why something is refused: in one line.
fn told<T>(result: Result<T, impl Error>) -> Option<T> {
    let error = match result {
        Ok(value) => return Some(value),
        Err(error) => error,
    };
    let line = error.to_string();
    assert!(!line.is_empty() && !line.contains('\n'), "{line:?}");
    assert!(error.source().is_none_or(|cause| !cause.to_string().is_empty()), "{line}");
    None
}

/// An object of sealed sections: bodies with their positions.
fn sealed(seal: &Seal, kind: ObjectKind, name: &str, sections: &[(u64, &[u8])]) -> Vec<u8> {
    let sealer = seal.sealer(kind, name);
    let mut bytes = sealer.header().to_vec();
    sections.iter().for_each(|(position, body)| sealer.seal(*position, body, &mut bytes));
    bytes
}
