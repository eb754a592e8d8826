//! Seals: what carries no seal of this cluster is dropped before anything in it is looked at.
//!
//! ```text
//!  0       4         5     8        12      36
//!  ┌───────┬─────────┬─────┬────────┬───────┬──────────────────────────────────┐
//!  │ BLNC  │ version │ 0   │ key id │ nonce │ XChaCha20-Poly1305: message, tag │
//!  └───────┴─────────┴─────┴────────┴───────┴──────────────────────────────────┘
//! ```
//!
//! The first 36 bytes are the associated data. Nonces are random: 192 bits are enough for that (draft-irtf-cfrg-xchacha,
//! section 3.1), and no state has to outlive a restart.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use std::ops::Range;

use zeroize::Zeroizing;

use super::key::Key;

/// Bytes that a seal adds to a message: header and tag.
pub const OVERHEAD: usize = HEADER + 16;

const MAGIC: [u8; 4] = *b"BLNC";
const VERSION: u8 = 6;

mod field {
    use super::Range;

    pub const MAGIC: Range<usize> = 0..4;
    pub const VERSION: usize = 4;
    pub const RESERVED: Range<usize> = 5..8;
    pub const KEY_ID: Range<usize> = 8..12;
    pub const NONCE: Range<usize> = 12..36;
}

const HEADER: usize = field::NONCE.end;

/// The cluster's keys. More than one are accepted while a new key is on its way to all servers.
pub struct Keyring {
    sealing: Cipher,
    others: Vec<Cipher>,
}

/// Why a datagram is none of this cluster's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No datagram of any balancer.
    #[error("not a datagram of a balancer")]
    Garbage,
    /// Of a balancer that seals in another way.
    #[error(
        "of another version of balancer, which speaks version {0} of the exchange; this one speaks {VERSION}"
    )]
    Version(u8),
    /// Sealed with a key that isn't on this ring.
    #[error("sealed with an unknown key")]
    UnknownKey,
    /// Claims a key of this ring, but was not sealed with it, or has been changed since.
    #[error("broken seal")]
    BadSeal,
}

/// The system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("no random bytes to seal with: {0}")]
pub struct SealError(#[from] getrandom::Error);

impl Keyring {
    /// Seals with the first key, opens with any.
    pub fn new(sealing: &Key, others: &[Key]) -> Self {
        Self {
            sealing: Cipher::new(sealing),
            others: others.iter().map(Cipher::new).collect(),
        }
    }

    /// Keys for another purpose, made from these: what is sealed with them is no datagram of the exchange, and the other way
    /// round. A purpose is a nonce that is never drawn for a message.
    #[must_use]
    pub fn derive(&self, purpose: &[u8; 24]) -> Self {
        Self {
            sealing: self.sealing.derive(purpose),
            others: self.others.iter().map(|key| key.derive(purpose)).collect(),
        }
    }

    /// Secrets for another purpose, made from these keys as [`Self::derive`] does: that of the sealing key first.
    pub fn secrets(&self, purpose: &[u8; 24]) -> impl Iterator<Item = Zeroizing<[u8; 32]>> {
        let keys = std::iter::once(&self.sealing).chain(&self.others);
        keys.map(|key| key.secret(purpose))
    }

    /// The datagram that carries `message`.
    pub fn seal(&self, message: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut datagram = vec![0; HEADER];
        datagram[field::MAGIC].copy_from_slice(&MAGIC);
        datagram[field::VERSION] = VERSION;
        datagram[field::KEY_ID].copy_from_slice(&self.sealing.id);
        getrandom::fill(&mut datagram[field::NONCE])?;
        let sealed = self.sealing.encrypt(&datagram, message);
        datagram.extend(sealed);
        Ok(datagram)
    }

    /// The message in a datagram that was sealed with a key of this ring.
    pub fn open(&self, datagram: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (header, sealed) = datagram
            .split_at_checked(HEADER)
            .ok_or(OpenError::Garbage)?;
        if header[field::MAGIC] != MAGIC {
            return Err(OpenError::Garbage);
        }
        if header[field::VERSION] != VERSION {
            return Err(OpenError::Version(header[field::VERSION]));
        }
        if header[field::RESERVED] != [0; 3] {
            return Err(OpenError::Garbage);
        }
        // Two keys may have one id, if rarely.
        let ring = std::iter::once(&self.sealing).chain(&self.others);
        let mut named = ring
            .filter(|cipher| cipher.id == header[field::KEY_ID])
            .peekable();
        named.peek().ok_or(OpenError::UnknownKey)?;
        named
            .find_map(|cipher| cipher.decrypt(header, sealed))
            .ok_or(OpenError::BadSeal)
    }
}

struct Cipher {
    id: [u8; 4],
    aead: XChaCha20Poly1305,
}

impl Cipher {
    fn new(key: &Key) -> Self {
        let mut cipher = Self {
            id: [0; 4],
            aead: XChaCha20Poly1305::new(key.bytes().into()),
        };
        // The tag of nothing under a nonce that is never drawn: says no more of the key than any other tag.
        let mut header = [0; HEADER];
        header[field::MAGIC].copy_from_slice(b"name");
        let tag = cipher.encrypt(&header, &[]);
        cipher.id.copy_from_slice(&tag[..4]);
        cipher
    }

    fn derive(&self, nonce: &[u8; 24]) -> Self {
        Self::new(&Key::from(*self.secret(nonce)))
    }

    /// This one's key stream under `nonce`.
    fn secret(&self, nonce: &[u8; 24]) -> Zeroizing<[u8; 32]> {
        let stream = self.aead.encrypt(&XNonce::from(*nonce), &[0; 32][..]);
        let stream = Zeroizing::new(stream.unwrap_or_default());
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(&stream[..32]);
        secret
    }

    fn encrypt(&self, header: &[u8], message: &[u8]) -> Vec<u8> {
        let payload = Payload {
            msg: message,
            aad: header,
        };
        // Fails for messages of 256 GiB only.
        self.aead
            .encrypt(&nonce(header), payload)
            .unwrap_or_default()
    }

    fn decrypt(&self, header: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.aead
            .decrypt(
                &nonce(header),
                Payload {
                    msg: sealed,
                    aad: header,
                },
            )
            .ok()
    }
}

fn nonce(header: &[u8]) -> XNonce {
    let mut nonce = XNonce::default();
    nonce.copy_from_slice(&header[field::NONCE]);
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ring(sealing: u8, others: &[u8]) -> Keyring {
        let others: Vec<_> = others.iter().map(|byte| Key::from([*byte; 32])).collect();
        Keyring::new(&Key::from([sealing; 32]), &others)
    }

    #[test]
    fn keys_can_be_rotated() {
        let (old, both, new) = (ring(1, &[]), ring(2, &[1]), ring(2, &[]));
        let datagram = old.seal(b"load").unwrap();
        assert_eq!(datagram.len(), 4 + OVERHEAD);
        assert_eq!(both.open(&datagram).unwrap(), b"load");
        assert_eq!(new.open(&datagram), Err(OpenError::UnknownKey));
        assert_eq!(new.open(&both.seal(b"load").unwrap()).unwrap(), b"load");
    }

    #[test]
    fn keys_for_other_purposes_are_others() {
        let both = ring(2, &[1]);
        let (one, two) = (both.derive(&[1; 24]), both.derive(&[2; 24]));
        let old = ring(1, &[]).derive(&[1; 24]).seal(b"load").unwrap();
        assert_eq!(one.open(&old).unwrap(), b"load");
        assert_eq!(two.open(&old), Err(OpenError::UnknownKey));
        assert_eq!(both.open(&old), Err(OpenError::UnknownKey));
    }

    #[test]
    fn datagrams_of_others_are_told_apart() {
        let good = ring(1, &[]).seal(b"load").unwrap();
        let changed = |at: usize, to: u8| {
            let mut datagram = good.clone();
            datagram[at] = to;
            ring(1, &[]).open(&datagram)
        };
        assert_eq!(ring(1, &[]).open(b""), Err(OpenError::Garbage));
        assert_eq!(ring(1, &[]).open(&good[..HEADER]), Err(OpenError::BadSeal));
        assert_eq!(changed(0, b'X'), Err(OpenError::Garbage));
        assert_eq!(changed(4, 9), Err(OpenError::Version(9)));
        assert_eq!(changed(6, 1), Err(OpenError::Garbage));
        assert_eq!(changed(8, good[8] ^ 1), Err(OpenError::UnknownKey));
        assert_eq!(changed(12, good[12] ^ 1), Err(OpenError::BadSeal));
    }

    #[test]
    fn no_two_datagrams_are_alike() {
        let ring = ring(1, &[]);
        assert_ne!(ring.seal(b"load").unwrap(), ring.seal(b"load").unwrap());
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens(message: Vec<u8>) {
            let ring = ring(1, &[]);
            prop_assert_eq!(ring.open(&ring.seal(&message).unwrap()), Ok(message));
        }

        #[test]
        fn garbage_never_opens(bytes: Vec<u8>, dressed: bool) {
            let mut datagram = bytes;
            if dressed {
                let header = ring(1, &[]).seal(b"").unwrap();
                datagram.splice(0..0, header[..field::KEY_ID.end].iter().copied());
            }
            prop_assert!(ring(1, &[]).open(&datagram).is_err());
        }

        #[test]
        fn a_flipped_bit_breaks_the_seal(message: Vec<u8>, at: prop::sample::Index, bit in 0..8u8) {
            let ring = ring(1, &[]);
            let mut datagram = ring.seal(&message).unwrap();
            let at = at.index(datagram.len());
            datagram[at] ^= 1u8 << bit;
            prop_assert!(ring.open(&datagram).is_err());
        }

        #[test]
        fn a_truncation_breaks_the_seal(message: Vec<u8>, at: prop::sample::Index) {
            let ring = ring(1, &[]);
            let datagram = ring.seal(&message).unwrap();
            prop_assert!(ring.open(&datagram[..at.index(datagram.len())]).is_err());
        }
    }
}
