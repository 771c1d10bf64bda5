//! The signature of a list that does not come with the loader, in the format of minisign(1).
//!
//! <https://jedisct1.github.io/minisign/>: Ed25519 over the BLAKE2b-512 of the file (`ED`), or over the file
//! itself (`Ed`, legacy). The trusted comment is signed, too; its word `version:N` prevents the boot of an
//! older list.

use minisign_verify::{PublicKey, Signature};

use crate::error::{Error, Result};
use crate::plan::loader_files;

/// The path of the signature in the initramfs.
pub const PATH: &str = "/etc/layerinit/layers.sha256.minisig";

/// The directory of the public keys in the loader: `*.pub`, as minisign writes them.
pub const KEYS: &str = loader_files::KEYS;

/// The word of the trusted comment that has the version.
pub const VERSION: &str = "version:";

/// A public key.
#[derive(Clone, Debug)]
pub struct Key {
    name: String,
    key: PublicKey,
}

impl Key {
    /// Parses a key: two lines as in minisign's file, or the second alone. `name` is for messages.
    ///
    /// # Errors
    /// It is not a key.
    pub fn parse(name: &str, text: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(text);
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let line = lines.next_back().unwrap_or_default().trim();
        match PublicKey::from_base64(line) {
            Ok(key) => Ok(Self {
                name: name.into(),
                key,
            }),
            Err(error) => {
                let what = format!("not a public key of minisign: {error}");
                Err(Error::new("read", name, what))
            }
        }
    }
}

/// Verifies a list. Returns the trusted comment, which is signed, too.
///
/// # Errors
/// None of the keys made the signature, the list or the comment was changed, or its version is below
/// `minimum`.
pub fn verify(keys: &[Key], list: &[u8], signature: &[u8], minimum: Option<u64>) -> Result<String> {
    let refuse = |what: String| Err(Error::new("verify the signature", PATH, what));
    let text = String::from_utf8_lossy(signature);
    let signature = match Signature::decode(&text) {
        Ok(signature) => signature,
        Err(error) => return refuse(format!("not a signature of minisign: {error}")),
    };
    let mut why = Vec::new();
    let verified = keys.iter().any(|key| {
        let result = key.key.verify(list, &signature, true);
        if let Err(error) = &result {
            why.push(format!("{}: {error}", key.name));
        }
        result.is_ok()
    });
    if !verified {
        return refuse(format!("made with none of the keys ({})", why.join("; ")));
    }
    let comment = signature.trusted_comment();
    match (version(comment), minimum) {
        (_, None) => Ok(comment.into()),
        (Some(version), Some(minimum)) if version >= minimum => Ok(comment.into()),
        (Some(version), Some(minimum)) => refuse(format!(
            "the list has version {version}, and the loader boots none before {minimum}"
        )),
        (None, Some(minimum)) => refuse(format!(
            "the list has no version (version:N in the trusted comment), and the loader boots none before {minimum}"
        )),
    }
}

/// The version in a trusted comment.
fn version(comment: &str) -> Option<u64> {
    let mut words = comment.split_ascii_whitespace();
    words
        .find_map(|word| word.strip_prefix(VERSION))?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // minisign 0.11: -G -W; -S -t 'version:7 test', and -S -l -t 'none' of "abc\n".
    const KEY: &str = include_str!("testdata/minisign.pub");
    const OTHER: &str = include_str!("testdata/other.pub");
    const SIGNED: &str = include_str!("testdata/abc.minisig");
    const LEGACY: &str = include_str!("testdata/legacy.minisig");

    fn said(keys: &[&str], list: &[u8], signature: &str, minimum: Option<u64>) -> String {
        let keys: Vec<_> = keys
            .iter()
            .enumerate()
            .map(|(n, key)| Key::parse(&format!("key{n}"), key.as_bytes()).unwrap())
            .collect();
        match verify(&keys, list, signature.as_bytes(), minimum) {
            Ok(comment) => comment,
            Err(error) => {
                let text = error.to_string();
                let prefix = "verify the signature /etc/layerinit/layers.sha256.minisig: ";
                text.strip_prefix(prefix).expect("its step").into()
            }
        }
    }

    #[test]
    fn a_signature_of_minisign_is_verified() {
        let bare = KEY.lines().nth(1).unwrap();
        for keys in [&[KEY][..], &[OTHER, KEY], &[bare]] {
            assert_eq!(said(keys, b"abc\n", SIGNED, None), "version:7 test");
            assert_eq!(said(keys, b"abc\n", SIGNED, Some(7)), "version:7 test");
            assert_eq!(said(keys, b"abc\n", LEGACY, None), "none");
        }
    }

    #[test]
    fn any_change_is_refused() {
        let refused = |keys: &[&str], list: &[u8], signature: &str, minimum| {
            let said = said(keys, list, signature, minimum);
            assert!(
                said.starts_with("made with none of the keys (key0: ")
                    || said.starts_with("not a signature of minisign: "),
                "{said}"
            );
        };
        refused(&[KEY], b"abc", SIGNED, None);
        refused(&[KEY], b"abc\n\n", LEGACY, None);
        refused(&[OTHER], b"abc\n", SIGNED, None);
        refused(
            &[KEY],
            b"abc\n",
            &SIGNED.replace("version:7", "version:8"),
            Some(8),
        );
        refused(&[KEY], b"abc\n", "", None);
        for signature in [SIGNED, LEGACY] {
            for (at, byte) in signature.bytes().enumerate() {
                // The untrusted comment, and the last line feed, are not signed.
                let first_line = signature.find('\n').unwrap();
                if at <= first_line || byte == b'\n' {
                    continue;
                }
                let mut changed = signature.as_bytes().to_vec();
                changed[at] = if byte == b'A' { b'B' } else { b'A' };
                let changed = String::from_utf8(changed).unwrap();
                refused(&[KEY], b"abc\n", &changed, None);
            }
        }
    }

    #[test]
    fn an_older_list_is_refused() {
        for (signature, minimum, expected) in [
            (
                SIGNED,
                8,
                "the list has version 7, and the loader boots none before 8",
            ),
            (
                LEGACY,
                1,
                "the list has no version (version:N in the trusted comment), and the loader boots none before 1",
            ),
        ] {
            assert_eq!(said(&[KEY], b"abc\n", signature, Some(minimum)), expected);
        }
    }

    #[test]
    fn what_is_no_key_is_an_error() {
        for text in ["", "untrusted comment: x\n", "RWQ", &KEY[..KEY.len() - 9]] {
            let error = Key::parse("a.pub", text.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("read a.pub: not a public key of minisign: "),
                "{error}"
            );
        }
    }
}
