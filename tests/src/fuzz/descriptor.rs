//! The `vault` object. What is accepted is written again as the same bytes.

use super::{sealed, told};
use towline::vault::descriptor::Descriptor;
use towline::vault::envelope::{ObjectKind, POSITION_TABLE, Seal};
use towline::vault::names::{DESCRIPTOR, GroupId};
use towline_tracker::id::VaultId;

/// Reads a made-up descriptor.
pub fn run(data: &[u8]) {
    told(Descriptor::decode(data));
    // It is read before the vault is known, so it is sealed for none.
    let seal = Seal::unkeyed(VaultId([0; 16]), GroupId::NONE);
    let bytes = sealed(&seal, ObjectKind::Descriptor, DESCRIPTOR, &[(POSITION_TABLE, data)]);
    if let Some(descriptor) = told(Descriptor::decode(&bytes)) {
        assert_eq!(descriptor.encode(), bytes, "{descriptor:?}");
    }
}
