//! Bytes on their way to a socket: small ones appended to one vector, large ones in buffers of their own between
//! them, sent together in one call.

use super::buffer::{Buffer, Pool};
use std::ops::Range;

/// The most segments of one send: well below the kernel's limit of 1024 vectors.
const SEGMENTS_MAX: usize = 256;

/// A piece that lies in a buffer of its own.
#[derive(Debug)]
struct Segment {
    /// It comes before this byte of the small ones.
    before: usize,
    buffer: Buffer,
    length: usize,
}

/// One batch of bytes.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Replies and small data, in order.
    bytes: Vec<u8>,
    segments: Vec<Segment>,
    /// Bytes of the segments.
    held: usize,
    /// Bytes that the kernel has taken.
    sent: usize,
    vectors: Vec<libc::iovec>,
    header: Option<Box<libc::msghdr>>,
}

// SAFETY: the raw pointers are scratch for one call; `prepare` sets all of them anew before each.
unsafe impl Send for Outgoing {}

impl Outgoing {
    /// Where small things are appended.
    #[inline]
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Appends the first `length` bytes of a buffer, without copying.
    pub fn append(&mut self, buffer: Buffer, length: usize) {
        assert!(length <= buffer.len(), "a segment lies in its buffer");
        self.held += length;
        self.segments.push(Segment { before: self.bytes.len(), buffer, length });
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.held
    }

    /// Nothing is to be sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// No more segments fit into one send: later replies wait for the next.
    pub fn is_full(&self) -> bool {
        self.segments.len() >= SEGMENTS_MAX
    }

    /// The kernel took `count` more bytes. True: that was all.
    pub fn advance(&mut self, count: usize) -> bool {
        self.sent += count;
        self.sent == self.len()
    }

    /// Forgets everything and gives the buffers back.
    pub fn clear(&mut self, pool: &mut Pool) {
        self.bytes.clear();
        self.segments.drain(..).for_each(|segment| pool.give(segment.buffer));
        (self.held, self.sent) = (0, 0);
        // One large batch shall not hold its memory for ever.
        self.bytes.shrink_to(1 << 20);
    }

    /// What is not yet sent, as one slice, if it is one.
    pub(super) fn contiguous(&self) -> Option<&[u8]> {
        self.segments.is_empty().then(|| &self.bytes[self.sent..])
    }

    /// Describes what is not yet sent for `sendmsg`. The pointers are good while `self` is not touched.
    pub(super) fn prepare(&mut self) -> *const libc::msghdr {
        self.vectors.clear();
        let mut skip = self.sent;
        let mut at = 0;
        let vectors = &mut self.vectors;
        let mut push = |bytes: &[u8]| {
            let Range { start, end } = skip.min(bytes.len())..bytes.len();
            skip -= start;
            if start < end {
                let rest = &bytes[start..end];
                vectors.push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
            }
        };
        for segment in &self.segments {
            push(&self.bytes[at..segment.before]);
            push(&segment.buffer[..segment.length]);
            at = segment.before;
        }
        push(&self.bytes[at..]);
        // SAFETY: all-zero is a valid message header.
        let header = self.header.get_or_insert_with(|| Box::new(unsafe { std::mem::zeroed() }));
        header.msg_iov = self.vectors.as_mut_ptr();
        header.msg_iovlen = self.vectors.len();
        &raw const **header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would send now.
    fn gather(outgoing: &mut Outgoing) -> Vec<u8> {
        outgoing.prepare();
        let mut all = Vec::new();
        for vector in &outgoing.vectors {
            // SAFETY: `prepare` has just described living memory.
            all.extend_from_slice(unsafe {
                std::slice::from_raw_parts(vector.iov_base.cast(), vector.iov_len)
            });
        }
        all
    }

    #[test]
    fn wherever_the_kernel_stops_the_rest_follows() {
        let mut pool = Pool::new();
        let mut outgoing = Outgoing::default();
        let mut expected = Vec::new();
        for n in 0..5u8 {
            outgoing.bytes().extend([n; 3]);
            expected.extend([n; 3]);
            let mut buffer = pool.take(4096);
            buffer[..10].fill(100 + n);
            outgoing.append(buffer, 10);
            expected.extend([100 + n; 10]);
        }
        outgoing.bytes().extend([9; 2]);
        expected.extend([9; 2]);
        for step in 0..expected.len() {
            assert_eq!(gather(&mut outgoing), expected[step..]);
            assert_eq!(outgoing.advance(1), step + 1 == expected.len());
        }
        outgoing.clear(&mut pool);
        assert!(outgoing.is_empty());
    }
}
