//! Names of a vault's objects, of a sidecar's change logs, ids, and which point is meant. A name that is understood has
//! one spelling: it is what its meaning is called.

use towline::points::Wanted;
use towline::store::{NAME_MAX, check_name};
use towline::vault::names::{self, Parsed};
use towline_tracker::id::CutId;
use towline_tracker::sidecar::files::{log_name, parse_log_name};

/// Reads a made-up name.
pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let component = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let named = text.len() <= NAME_MAX && text.split('/').all(component);
    assert_eq!(check_name(text).is_ok(), named);
    if let Some(parsed) = names::parse(text) {
        let name = match parsed {
            Parsed::Descriptor => names::DESCRIPTOR.to_owned(),
            Parsed::Slot { generation, name } => names::slot(generation, name),
            Parsed::Ring { generation } => names::ring(generation),
            Parsed::Entry { group, seq } => names::entry(group, seq),
            Parsed::Catalog { group, number, copy: false } => names::catalog(group, number),
            Parsed::Catalog { group, number, copy: true } => names::catalog_copy(group, number),
            Parsed::Moved { group, number, name, index: true } => {
                names::index(group, number, names::NO_CUT, name)
            }
            Parsed::Moved { group, number, name, index: false } => {
                names::pack(group, number, names::NO_CUT, name)
            }
            Parsed::Fold { group, epoch, name } => names::fold(group, epoch, name),
            Parsed::Data { group, epoch, cut, name, index: true } => names::index(group, epoch, cut, name),
            Parsed::Data { group, epoch, cut, name, index: false } => names::pack(group, epoch, cut, name),
        };
        assert_eq!(name, text);
        check_name(text).expect("a name of ours is a name");
    }
    if let Some((generation, session)) = parse_log_name(text) {
        assert_eq!(log_name(generation, session), text);
    }
    if let Ok(id) = text.parse::<CutId>() {
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(Wanted::Id(id)) = text.parse() {
        assert!((1..=32).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    }
}
