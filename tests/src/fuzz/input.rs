//! A fuzzer's bytes, taken one after another. When they are used up, everything is zero: every input means something.

/// What is left of an input.
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// At most `length` bytes.
    pub(super) fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Exactly `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let taken = self.take(N);
        bytes[..taken.len()].copy_from_slice(taken);
        bytes
    }

    pub(super) fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    pub(super) fn bool(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    /// A number of any size, small ones most often, and those around the powers of two.
    pub(super) fn number(&mut self) -> u64 {
        match self.u8() {
            small @ 0..128 => u64::from(small),
            shift @ 128..192 => 1 << (shift - 128),
            shift @ 192..255 => (1u64 << (shift - 191)).wrapping_sub(u64::from(self.u8())),
            255 => self.u64(),
        }
    }

    /// Changes `bytes` at up to 255 places.
    pub(super) fn patch(&mut self, bytes: &mut [u8]) {
        for _ in 0..self.u8() {
            let (at, value) = (usize::from(self.u16()), self.u8());
            if !bytes.is_empty() && !self.is_empty() {
                let length = bytes.len();
                bytes[at % length] = value;
            }
        }
    }
}
