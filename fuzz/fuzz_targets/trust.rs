//! The list, signature and policy of a loader, a hash tree behind an image, and an archive that the list does not name.
#![no_main]

use std::collections::BTreeSet;

use layerinit::format::verity::{Format, from_base64};
use layerinit::verify::policy::Policy;
use layerinit::verify::signature::{self, Key};
use layerinit::verify::{content, list, tree};
use libfuzzer_sys::fuzz_target;

/// A public key. No list in the seeds has a signature by its secret key.
const KEY: &[u8] = include_bytes!("../../src/verify/testdata/minisign.pub");

fuzz_target!(|data: &[u8]| {
    if let Ok(entries) = list::parse(data) {
        let written: String = entries.iter().map(|entry| format!("{entry}\n")).collect();
        let again = list::parse(written.as_bytes()).expect("a list that was written");
        assert_eq!(again.len(), entries.len());
        for (one, other) in entries.iter().zip(&again) {
            assert_eq!(one.expected, other.expected);
        }
    }
    if let Ok(policy) = Policy::parse(data) {
        let text = String::from_utf8_lossy(data);
        for (word, cmdline) in [
            ("init", "init=/bin/sh"),
            ("root", "root=/dev/sda"),
            ("rd.break", "rd.break"),
        ] {
            assert!(policy.check(cmdline).is_err() || text.contains(word));
        }
        assert!(!policy.allows_shell() || text.contains("rd.shell"));
    }
    if let Ok(key) = Key::parse("key", KEY) {
        assert!(signature::verify(&[key], b"another list", data, None).is_err());
    }
    let _ = Key::parse("data", data);
    if let Some(superblock) = data.first_chunk()
        && let Ok(format) = Format::parse(superblock)
    {
        let table = format.table("8:1", "8:2", data.len() as u64, &[1], &[]);
        assert_eq!(table.split(' ').count(), 10, "{table}");
    }
    // Behind an image of one block, and of two.
    for blocks in 1..=2 {
        let length = blocks * u64::from(tree::BLOCK);
        let mut file = vec![0; length as usize];
        file.extend(data);
        if let Some(found) =
            tree::behind_image(&&file[..], length - 1000).expect("a read of memory")
        {
            assert_eq!((found.offset, found.format.data_blocks), (length, blocks));
            let top = if blocks == 1 {
                0
            } else {
                length as usize + 4096
            };
            assert_eq!(
                found.root,
                tree::hash(&found.format.salt, &file[top..top + 4096])
            );
        }
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Some(bytes) = from_base64(text)
    {
        assert_eq!(bytes.len().div_ceil(3) * 4, text.len());
    }
    let length = data.len() as u64;
    let is_below = content::is_below(&data, 0, length, None, "/run/a");
    let _ = content::changes_loader(&data, 0, length, None, &mut BTreeSet::new());
    if is_below.is_ok()
        && let Some(found) = content::directory(&data, 0, length, None)
    {
        assert!(found == "/run/a" || found.starts_with("/run/a/"), "{found}");
    }
});
