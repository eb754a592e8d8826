//! The keys of a TLS 1.3 connection, and records sealed and opened with them (RFC 8446, 5.1 to 5.5).

use std::io::IoSlice;

use bytes::{BufMut as _, BytesMut};
use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use rustls::{AlertDescription, ConnectionTrafficSecrets, ContentType, ExtractedSecrets};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Bytes of a record before its body: type, version, length (RFC 8446, 5.1).
pub const HEADER: usize = 5;

/// Bytes of plaintext in a record (RFC 8446, 5.1).
pub const PLAIN_MAX: usize = 1 << 14;

/// Bytes of a sealed record's body (RFC 8446, 5.2).
pub const BODY_MAX: usize = PLAIN_MAX + 256;

/// Bytes of a tag, which are the same for all suites of TLS 1.3.
const TAG: usize = 16;

/// Records sealed with one key: RFC 8446, 5.5 allows AES-GCM 2^24.5 of them, some 300 GB. Longer answers end there.
const SEALED_MAX: u64 = 1 << 24;

/// All that is needed to go on with a connection's TLS, on this server or on another. Whoever has it can read and forge what
/// is sent: it leaves a server only sealed. It is wiped from memory when it is dropped.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secrets {
    pub(super) from_client: Direction,
    pub(super) to_client: Direction,
}

/// One direction: its key, and the number of its next record.
#[derive(Clone, Serialize, Deserialize)]
pub struct Direction {
    key: Key,
    iv: Zeroizing<[u8; NONCE_LEN]>,
    sequence: u64,
}

#[derive(Clone, Serialize, Deserialize)]
enum Key {
    Aes128Gcm(Zeroizing<[u8; 16]>),
    Aes256Gcm(Zeroizing<[u8; 32]>),
    ChaCha20Poly1305(Zeroizing<[u8; 32]>),
}

/// Why a record can't be opened, or what is in it can't be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Longer than TLS allows.
    #[error("a TLS record is too long")]
    TooLong,
    /// Not what the client sealed.
    #[error("a TLS record was changed on its way")]
    Forged,
    /// A message that has no place here.
    #[error("an unexpected TLS message came")]
    Unexpected,
    /// An alert that is none.
    #[error("a malformed TLS alert came")]
    Malformed,
    /// New keys, which are made from a secret that doesn't move.
    #[error(
        "the client renewed its TLS keys, which can't be followed on a connection that was moved"
    )]
    KeyUpdate,
    /// No more can be sealed.
    #[error("{SEALED_MAX} TLS records were sent, and its keys are good for no more")]
    Spent,
    /// The client says that TLS failed.
    #[error("the client ended TLS with the alert {0:?}")]
    Alert(AlertDescription),
}

/// Seals what is sent.
pub struct Sealer(Half);

/// Opens what comes.
pub struct Opener(Half);

struct Half {
    direction: Direction,
    aead: LessSafeKey,
}

impl Secrets {
    /// Of a server's connection. None if its suite isn't one of TLS 1.3's three with 16 byte tags and ring's support.
    pub(super) fn new(extracted: ExtractedSecrets) -> Option<Self> {
        Some(Self {
            from_client: Direction::new(extracted.rx)?,
            to_client: Direction::new(extracted.tx)?,
        })
    }
}

impl Direction {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Option<Self> {
        fn fixed<const N: usize>(bytes: &[u8]) -> Option<Zeroizing<[u8; N]>> {
            bytes.try_into().ok().map(Zeroizing::new)
        }
        let (key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => {
                (Key::Aes128Gcm(fixed(key.as_ref())?), iv)
            }
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => {
                (Key::Aes256Gcm(fixed(key.as_ref())?), iv)
            }
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (Key::ChaCha20Poly1305(fixed(key.as_ref())?), iv)
            }
            _ => return None,
        };
        let iv = fixed(iv.as_ref())?;
        Some(Self { key, iv, sequence })
    }
}

impl RecordError {
    /// What the client is told (RFC 8446, 6.2).
    pub fn alert(self) -> Option<AlertDescription> {
        match self {
            Self::TooLong => Some(AlertDescription::RecordOverflow),
            Self::Forged => Some(AlertDescription::BadRecordMac),
            Self::Unexpected => Some(AlertDescription::UnexpectedMessage),
            Self::Malformed => Some(AlertDescription::DecodeError),
            Self::KeyUpdate => Some(AlertDescription::InternalError),
            Self::Spent => Some(AlertDescription::CloseNotify),
            Self::Alert(_) => None,
        }
    }
}

impl Sealer {
    pub fn new(direction: Direction) -> Self {
        Self(Half::new(direction))
    }

    pub fn into_direction(self) -> Direction {
        self.0.direction
    }

    /// Appends a record to `out`, with as much of `pieces` as it takes. Returns how many bytes that is.
    ///
    /// # Errors
    ///
    /// The key has sealed as much as it may. Alerts still go.
    pub fn seal(
        &mut self,
        content: ContentType,
        pieces: &[IoSlice<'_>],
        out: &mut BytesMut,
    ) -> Result<usize, RecordError> {
        if self.0.direction.sequence >= SEALED_MAX && content != ContentType::Alert {
            return Err(RecordError::Spent);
        }
        let length = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        let length = length.min(PLAIN_MAX);
        let body = length + 1 + TAG;
        let mut header = [ContentType::ApplicationData.into(), 3, 3, 0, 0];
        header[3..].copy_from_slice(&(body as u16).to_be_bytes());

        out.reserve(HEADER + body);
        out.put_slice(&header);
        let begin = out.len();
        let mut left = length;
        for piece in pieces {
            let taken = piece.len().min(left);
            out.put_slice(&piece[..taken]);
            left -= taken;
        }
        out.put_u8(content.into());
        let nonce = self.0.next_nonce();
        let tag = self
            .0
            .aead
            .seal_in_place_separate_tag(nonce, Aad::from(header), &mut out[begin..])
            .expect("a record is shorter than any cipher's limit");
        out.put_slice(tag.as_ref());
        Ok(length)
    }
}

impl Opener {
    pub fn new(direction: Direction) -> Self {
        Self(Half::new(direction))
    }

    pub fn into_direction(self) -> Direction {
        self.0.direction
    }

    /// Opens a whole record, header and all, where it is. Returns what it is and its plaintext.
    ///
    /// # Errors
    ///
    /// It can't be opened. The connection is lost then.
    pub fn open(&mut self, mut record: BytesMut) -> Result<(ContentType, BytesMut), RecordError> {
        if record.first() != Some(&ContentType::ApplicationData.into()) {
            return Err(RecordError::Unexpected);
        }
        let mut header = [0; HEADER];
        header.copy_from_slice(&record.split_to(HEADER));
        let nonce = self.0.next_nonce();
        let inner = self
            .0
            .aead
            .open_in_place(nonce, Aad::from(header), &mut record)
            .map_err(|_| RecordError::Forged)?;
        // RFC 8446, 5.4: padding counts.
        if inner.len() > PLAIN_MAX + 1 {
            return Err(RecordError::TooLong);
        }
        let end = inner.iter().rposition(|&byte| byte != 0);
        let end = end.ok_or(RecordError::Unexpected)?;
        let content = ContentType::from(inner[end]);
        record.truncate(end);
        Ok((content, record))
    }
}

impl Half {
    fn new(direction: Direction) -> Self {
        let (algorithm, key) = match &direction.key {
            Key::Aes128Gcm(key) => (&AES_128_GCM, &key[..]),
            Key::Aes256Gcm(key) => (&AES_256_GCM, &key[..]),
            Key::ChaCha20Poly1305(key) => (&CHACHA20_POLY1305, &key[..]),
        };
        let key = UnboundKey::new(algorithm, key).expect("the type of a key gives its length");
        let aead = LessSafeKey::new(key);
        Self { direction, aead }
    }

    /// RFC 8446, 5.3. A connection doesn't live for 2^64 records.
    fn next_nonce(&mut self) -> Nonce {
        let mut nonce = *self.direction.iv;
        let sequence = self.direction.sequence.to_be_bytes();
        for (byte, number) in nonce[NONCE_LEN - sequence.len()..].iter_mut().zip(sequence) {
            *byte ^= number;
        }
        self.direction.sequence = self.direction.sequence.wrapping_add(1);
        Nonce::assume_unique_for_key(nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direction(sequence: u64) -> Direction {
        Direction {
            key: Key::Aes128Gcm(Zeroizing::new([7; 16])),
            iv: Zeroizing::new([9; NONCE_LEN]),
            sequence,
        }
    }

    fn sealed(content: ContentType, plain: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        let mut sealer = Sealer::new(direction(5));
        sealer
            .seal(content, &[IoSlice::new(plain)], &mut out)
            .unwrap();
        out
    }

    fn open(record: BytesMut) -> Result<(ContentType, BytesMut), RecordError> {
        Opener::new(direction(5)).open(record)
    }

    #[test]
    fn padding_goes_and_what_is_only_padding_is_refused() {
        // The last byte that isn't zero is the type: here one that is within the text.
        let (content, plain) = open(sealed(ContentType::Unknown(0), b"text\x17\0\0")).unwrap();
        assert_eq!(
            (content, &plain[..]),
            (ContentType::ApplicationData, &b"text"[..])
        );
        let padding = sealed(ContentType::Unknown(0), &[0; 9]);
        assert_eq!(open(padding), Err(RecordError::Unexpected));
    }

    #[test]
    fn every_bit_of_a_record_counts() {
        let record = sealed(ContentType::ApplicationData, b"text");
        for bit in 0..record.len() * 8 {
            let mut changed = record.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(open(changed).is_err(), "bit {bit}");
        }
        assert!(open(record).is_ok());
    }

    #[test]
    fn a_key_seals_no_more_than_it_may() {
        let mut sealer = Sealer::new(direction(SEALED_MAX - 1));
        let mut out = BytesMut::new();
        let data = ContentType::ApplicationData;
        assert_eq!(sealer.seal(data, &[IoSlice::new(b"a")], &mut out), Ok(1));
        let before = out.len();
        let spent = sealer.seal(data, &[IoSlice::new(b"b")], &mut out);
        assert_eq!((spent, out.len()), (Err(RecordError::Spent), before));
        assert!(
            sealer
                .seal(ContentType::Alert, &[IoSlice::new(&[1, 0])], &mut out)
                .is_ok()
        );
    }
}
