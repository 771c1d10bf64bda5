//! SHA-256 of layers.

use std::fmt;
use std::io;

use sha2::{Digest as _, Sha256};

use crate::bytes::ReadAt;

/// The bytes that one read requests. A read of sysfs returns a page.
const PIECE: usize = 1 << 16;

/// cpio(1) and gen_init_cpio pad an archive to a multiple of this, in bytes.
const RECORD: u64 = 512;

/// A SHA-256. Displayed as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Digest {
    /// The digest of bytes in memory.
    ///
    /// # Errors
    /// The file cannot be read, or is shorter.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Parses 64 hexadecimal digits of either case.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut digest = [0; 32];
        let (pairs, rest) = text.as_chunks();
        if pairs.len() != digest.len() || !rest.is_empty() {
            return None;
        }
        for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
            let value = |digit: u8| char::from(digit).to_digit(16);
            *byte = u8::try_from(value(*high)? << 4 | value(*low)?).ok()?;
        }
        Some(Self(digest))
    }
}

/// The digests of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests {
    /// The digest of its bytes.
    pub exact: Digest,
    /// The digest of an archive with the zeros after it, up to a multiple of 512, as in a file that cpio(1)
    /// writes.
    pub padded: Option<Digest>,
}

impl Digests {
    /// Reads `length` bytes of `file` from `offset`, and the zeros after them where `pads`.
    pub fn of(file: &dyn ReadAt, offset: u64, length: u64, pads: bool) -> io::Result<Self> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; PIECE];
        let mut done = 0;
        while done < length {
            let left = usize::try_from(length.saturating_sub(done)).unwrap_or(PIECE);
            let piece = buffer.get_mut(..left.min(PIECE)).unwrap_or_default();
            let n = file.read_at(piece, offset.saturating_add(done))?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hash.update(piece.get(..n).unwrap_or_default());
            done = done.saturating_add(n as u64);
        }
        let mut padded = None;
        let missing = length.next_multiple_of(RECORD).saturating_sub(length);
        let mut zeros = [0; RECORD as usize];
        let zeros = usize::try_from(missing)
            .ok()
            .and_then(|n| zeros.get_mut(..n))
            .unwrap_or_default();
        if pads
            && !zeros.is_empty()
            && file
                .read_exact_at(zeros, offset.saturating_add(length))
                .is_ok()
            && zeros.iter().all(|byte| *byte == 0)
        {
            let mut hash = hash.clone();
            hash.update(zeros);
            padded = Some(Digest(hash.finalize().into()));
        }
        Ok(Self {
            exact: Digest(hash.finalize().into()),
            padded,
        })
    }

    /// Whether one of them equals this.
    pub fn has(&self, digest: &Digest) -> bool {
        self.exact == *digest || self.padded == Some(*digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4, and `sha256sum </dev/null`.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_digest_is_that_of_the_standard() {
        assert_eq!(Digest::of(b"abc").to_string(), ABC);
        let parsed = Digest::parse(ABC.to_uppercase().as_bytes());
        assert_eq!(parsed, Some(Digest::of(b"abc")));
        for wrong in [&ABC[1..], &format!("{ABC}0"), &ABC.replace('b', "g"), ""] {
            assert_eq!(Digest::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn an_archive_also_has_the_digest_of_its_padded_file() {
        let mut file = vec![7; 3];
        file.extend(b"abc");
        let bare = Digests::of(&&file[..], 3, 3, true).unwrap();
        assert_eq!((bare.exact, bare.padded), (Digest::of(b"abc"), None));
        file.resize(3 + 512, 0);
        let padded = Digests::of(&&file[..], 3, 3, true).unwrap();
        assert_eq!(padded.exact, Digest::of(b"abc"));
        assert_eq!(padded.padded, Some(Digest::of(&file[3..])));
        assert!(padded.has(&Digest::of(b"abc")) && padded.has(&Digest::of(&file[3..])));
        assert_eq!(Digests::of(&&file[..], 3, 3, false).unwrap().padded, None);
        file[300] = 1;
        assert_eq!(Digests::of(&&file[..], 3, 3, true).unwrap().padded, None);
        let short = Digests::of(&&file[..], 3, 600, true).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
    }
}
