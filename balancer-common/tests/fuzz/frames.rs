//! Frames for a fuzzer: each kind as it should be, and what mutations make of it.

use fastrand::Rng;

use crate::frame::{DATAGRAM, DATAGRAM_V6, FIRST, FIRST_V6, Segment, TAG, TWO_TAGS};
use crate::kinds::{atomic, error, error_types, fragments, long};

/// Makes frames without end, the same ones for the same seed.
pub struct Fuzzer {
    rng: Rng,
    samples: Vec<Vec<u8>>,
}

impl Fuzzer {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            samples: samples(),
        }
    }

    /// Makes `frame` the next one: as it should be, mutated up to four times, or garbage.
    pub fn make(&mut self, frame: &mut Vec<u8>) {
        frame.clear();
        match self.rng.u8(..16) {
            0 => self.add_garbage(frame),
            // Garbage after an EtherType that is read.
            1 => {
                let sample = self.rng.usize(..self.samples.len());
                frame.extend(&self.samples[sample][..14]);
                self.add_garbage(frame);
            }
            _ => {
                let sample = self.rng.usize(..self.samples.len());
                frame.extend(&self.samples[sample]);
                for _ in 0..self.rng.u8(..=4) {
                    self.mutate(frame);
                }
            }
        }
    }

    fn mutate(&mut self, frame: &mut Vec<u8>) {
        /// Numbers that mean something somewhere in a header.
        const BYTES: [u8; 24] = [
            0, 1, 3, 4, 5, 6, 8, 11, 17, 44, 50, 51, 58, 60, 0x10, 0x20, 0x45, 0x46, 0x4f, 0x50,
            0x60, 0x81, 0xf0, 0xff,
        ];
        const NUMBERS: [u16; 16] = [
            0, 1, 7, 8, 19, 20, 27, 28, 39, 40, 80, 0x0800, 0x1fff, 0x2000, 0x8100, 0xffff,
        ];
        if frame.is_empty() {
            return self.add_garbage(frame);
        }
        let at = self.place(frame);
        match self.rng.u8(..9) {
            0 => frame[at] = self.rng.u8(..),
            1 => frame[at] ^= 1 << self.rng.u8(..8),
            2 => frame[at] = BYTES[self.rng.usize(..BYTES.len())],
            3 => put(frame, at, NUMBERS[self.rng.usize(..NUMBERS.len())]),
            // A length that is off by a little.
            4 => {
                let number = u16::from_be_bytes([frame[at], *frame.get(at + 1).unwrap_or(&0)]);
                put(
                    frame,
                    at,
                    number.wrapping_add(self.rng.u16(..9)).wrapping_sub(4),
                );
            }
            5 => frame.truncate(at),
            6 => self.add_garbage(frame),
            7 => {
                let tag = if self.rng.bool() { TAG } else { TWO_TAGS };
                let at = frame.len().min(12);
                frame.splice(at..at, tag.iter().copied());
            }
            // The end of another.
            _ => {
                let other = &self.samples[self.rng.usize(..self.samples.len())];
                frame.truncate(at);
                frame.extend(other.iter().skip(at));
            }
        }
    }

    /// Where to change something: among the headers, most often.
    fn place(&mut self, frame: &[u8]) -> usize {
        let end = if self.rng.u8(..8) == 0 {
            frame.len()
        } else {
            frame.len().min(90)
        };
        self.rng.usize(..end)
    }

    fn add_garbage(&mut self, frame: &mut Vec<u8>) {
        let size = self.rng.usize(..100);
        frame.extend((0..size).map(|_| self.rng.u8(..)));
    }
}

fn put(frame: &mut [u8], at: usize, number: u16) {
    for (byte, new) in frame[at..].iter_mut().zip(number.to_be_bytes()) {
        *byte = new;
    }
}

/// Every kind of frame that the parser tells from others, as it should be.
pub fn samples() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for tags in [&[][..], TAG, TWO_TAGS] {
        for segment in [FIRST, FIRST_V6, DATAGRAM, DATAGRAM_V6] {
            frames.push(Segment { tags, ..segment }.frame());
        }
        for datagram in [DATAGRAM, DATAGRAM_V6] {
            let datagram = long(Segment { tags, ..datagram });
            frames.extend(fragments(&datagram, 7));
        }
    }
    frames.push(FIRST.second().frame());
    frames.push(FIRST_V6.second().frame());
    frames.push(atomic(&DATAGRAM_V6));
    for about in [FIRST, FIRST_V6, DATAGRAM, DATAGRAM_V6] {
        frames.extend(error_types(&about).iter().map(|&kind| error(&about, kind)));
    }
    frames.extend(others());
    frames
}

/// Of no flow.
fn others() -> [Vec<u8>; 4] {
    let mut arp = FIRST.frame();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let mut options = FIRST.frame();
    options[14] = 0x46;
    let mut hop_by_hop = FIRST_V6.frame();
    hop_by_hop[20] = 0;
    [arp, options, hop_by_hop, error(&FIRST, 8)]
}
