//! The `vault` object: what must be known before anything else is read.

use super::envelope::{self, ObjectKind, POSITION_TABLE, Seal, Suite};
use super::keys::Masters;
use super::layout::{self, array, descriptor as at};
use super::names::{self, GroupId};
use crate::{Error, Result};
use towline_tracker::id::VaultId;

/// The version of the vault's layout as a whole.
pub const FORMAT: u32 = 1;
/// Required-feature flags that this version knows. None yet.
pub const KNOWN_FEATURES: u64 = 0;

/// What the `vault` object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The vault's name.
    pub vault: VaultId,
    /// How its objects are sealed.
    pub suite: Suite,
    /// Features that a reader must know.
    pub required: u64,
    /// Features that a reader may ignore.
    pub optional: u64,
    /// When it was made, in nanoseconds since 1970.
    pub created_ns: u64,
    /// Commits to the master key; zero without one.
    pub commitment: [u8; 32],
}

/// The descriptor is read before the vault id is known, so it is not bound to it.
const SEAL: Seal = Seal::unkeyed(VaultId([0; 16]), GroupId::NONE);

impl Descriptor {
    /// A new vault's.
    pub fn new(vault: VaultId, created_ns: u64) -> Self {
        Self { vault, suite: Suite::Unkeyed, required: 0, optional: 0, created_ns, commitment: [0; 32] }
    }

    /// A new vault's that is sealed with these keys.
    pub fn sealed(vault: VaultId, created_ns: u64, masters: &Masters) -> Self {
        let commitment = masters.commitment(vault);
        Self { suite: Suite::Aes256Gcm, commitment, ..Self::new(vault, created_ns) }
    }

    /// The object's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = [0; at::LENGTH];
        layout::set(&mut body, at::FORMAT, FORMAT.into());
        layout::set(&mut body, at::SUITE, self.suite.number().into());
        layout::set(&mut body, at::REQUIRED, self.required);
        layout::set(&mut body, at::OPTIONAL, self.optional);
        body[at::VAULT].copy_from_slice(&self.vault.0);
        layout::set(&mut body, at::CREATED, self.created_ns);
        body[at::COMMITMENT].copy_from_slice(&self.commitment);
        let sealer = SEAL.sealer(ObjectKind::Descriptor, names::DESCRIPTOR);
        let mut bytes = sealer.header().to_vec();
        sealer.seal(POSITION_TABLE, &body, &mut bytes);
        bytes
    }

    /// Reads the object's bytes.
    ///
    /// # Errors
    /// `NewerVault`, `Damage`.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let name = names::DESCRIPTOR;
        let mut bytes = bytes.to_vec();
        let opener = SEAL.opener(ObjectKind::Descriptor, name, &bytes)?;
        let body = opener.open(POSITION_TABLE, &mut bytes[envelope::HEADER..])?;
        if body.len() < at::LENGTH {
            return Err(Error::damage(name, "it is too short"));
        }
        let format = layout::get(body, at::FORMAT);
        if format != u64::from(FORMAT) {
            return Err(envelope::newer("this vault", format_args!("format {format}")));
        }
        let required = layout::get(body, at::REQUIRED);
        if required & !KNOWN_FEATURES != 0 {
            let unknown = required & !KNOWN_FEATURES;
            return Err(envelope::newer("this vault", format_args!("required features {unknown:#x}")));
        }
        let suite = layout::get(body, at::SUITE);
        let Some(suite) = Suite::from_number(suite) else {
            return Err(envelope::newer("this vault", format_args!("suite {suite}")));
        };
        let reserved = layout::is_zero(body, at::RESERVED) && layout::is_zero(body, at::RESERVED2);
        if body.len() != at::LENGTH || !reserved {
            return Err(Error::damage(name, "it has parts that a vault of this format has not"));
        }
        Ok(Self {
            vault: VaultId(array(body, at::VAULT)),
            suite,
            required,
            optional: layout::get(body, at::OPTIONAL),
            created_ns: layout::get(body, at::CREATED),
            commitment: array(body, at::COMMITMENT),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn it_reads_back_and_every_flipped_bit_or_cut_is_found() {
        let descriptor = Descriptor::new(VaultId([7; 16]), 42);
        let bytes = descriptor.encode();
        assert_eq!(Descriptor::decode(&bytes).unwrap(), descriptor);
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Descriptor::decode(&bytes).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(Descriptor::decode(&bytes[..length]).is_err());
        }
    }

    #[test]
    fn unknown_required_features_are_refused_and_optional_ones_are_not() {
        let mut descriptor = Descriptor::new(VaultId([7; 16]), 42);
        descriptor.optional = 1 << 40;
        assert!(Descriptor::decode(&descriptor.encode()).is_ok());
        descriptor.required = 1 << 3;
        let error = Descriptor::decode(&descriptor.encode()).unwrap_err();
        assert_eq!(error.kind(), Kind::NewerVault);
        assert!(error.line().contains("newer"), "{}", error.line());
    }
}
