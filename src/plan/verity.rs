//! `roothash=` and its companions: a root device that dm-verity verifies block by block.
//!
//! The words are those of systemd-veritysetup-generator(8).

use super::cmdline::Options;
use super::device_spec::Spec;
use crate::bytes::dashed;
use crate::error::{Error, Result};
use crate::format::verity::{Corruption, Format, from_base64, from_hexadecimal};
use crate::text::items;

/// The name of the device, below /dev/mapper.
pub const NAME: &str = "root";

/// The start of the names of devices that verify layers, below /dev/mapper.
pub const LAYER: &str = "layer-";

/// A device that is verified with a hash tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verity {
    /// The device with the data.
    pub data: Spec,
    /// The device with the hash tree; may be the same.
    pub hash: Spec,
    /// The hash of the tree's root.
    pub root_hash: Vec<u8>,
    /// The offset in bytes of the superblock on the hash device, or of the tree if there is no superblock.
    pub hash_offset: u64,
    /// The format, if there is no superblock.
    pub format: Option<Format>,
    /// What the kernel does at a read.
    pub behaviour: Behaviour,
    /// The signature of the root hash, which the kernel verifies with the certificates of its keyrings.
    pub signature: Option<Signature>,
}

/// Where the signature of a root hash is: PKCS#7 in DER, without the content, of the root hash in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// `root-hash-signature=PATH`: a file of the initramfs.
    File(String),
    /// `root-hash-signature=base64:...`.
    Inline(Vec<u8>),
}

impl Signature {
    /// Reads the value of `root-hash-signature=`.
    fn parse(value: &str) -> std::result::Result<Self, &'static str> {
        match value.strip_prefix("base64:").map(from_base64) {
            Some(Some(bytes)) if !bytes.is_empty() => Ok(Self::Inline(bytes)),
            Some(_) => Err("not base64"),
            None if value.starts_with('/') => Ok(Self::File(value.into())),
            // systemd 258 asks udev, which has read the partition.
            None if value == "auto" => Err(
                "a partition with a signature is not read: name a file of the initramfs, or give base64:...",
            ),
            None => Err("neither an absolute path nor base64:..."),
        }
    }
}

/// What dm-verity does at a read, from the options of veritytab(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// What happens if a block is wrong.
    pub corruption: Corruption,
    /// Further parameters of the kernel's target.
    parameters: Vec<&'static str>,
}

impl Behaviour {
    /// Applies an option. Returns whether it is one of these.
    pub fn set(&mut self, option: &str) -> bool {
        match option {
            "ignore-corruption" => self.corruption = Corruption::Ignore,
            "restart-on-corruption" => self.corruption = Corruption::Restart,
            "panic-on-corruption" => self.corruption = Corruption::Panic,
            "ignore-zero-blocks" => self.parameters.push("ignore_zero_blocks"),
            "check-at-most-once" => self.parameters.push("check_at_most_once"),
            _ => return false,
        }
        true
    }

    /// The parameters of the kernel's target after the fixed ones.
    pub fn parameters(&self) -> Vec<&'static str> {
        let corruption = self.corruption.parameter();
        corruption
            .into_iter()
            .chain(self.parameters.iter().copied())
            .collect()
    }
}

/// Reads `roothash=`. `None` without the word.
///
/// # Errors
/// A word cannot be understood, or an option is not supported.
pub(super) fn root(options: &Options) -> Result<Option<Verity>> {
    let Some(text) = &options.roothash else {
        return Ok(None);
    };
    let refuse = |what: &str| Error::new("read", format_args!("roothash={text}"), what);
    let root_hash = from_hexadecimal(text)
        .filter(|hash| hash.len() >= 32)
        .ok_or_else(|| refuse("not 64 hexadecimal digits or more"))?;
    // The Discoverable Partitions Specification: the UUIDs of the partitions are the halves of the root hash.
    let half = |bytes: Option<&[u8]>| {
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        let uuid = dashed(bytes.unwrap_or_default());
        Spec::PartUuid { uuid, offset: 0 }
    };
    let spec = |text: &Option<String>, default| match text {
        Some(text) => Spec::parse(text),
        None => Ok(default),
    };
    let data = spec(&options.verity_data, half(root_hash.get(..16)))?;
    let last = root_hash.len().saturating_sub(16);
    let hash = spec(&options.verity_hash, half(root_hash.get(last..)))?;
    let mut verity = Verity {
        data,
        hash,
        root_hash,
        hash_offset: 0,
        format: None,
        behaviour: Behaviour::default(),
        signature: None,
    };
    let list = options.verity_options.as_deref().unwrap_or_default();
    verity.options(list)?;
    Ok(Some(verity))
}

impl Verity {
    /// Reads `systemd.verity_root_options=`, as in veritytab(5).
    fn options(&mut self, list: &str) -> Result<()> {
        let mut format = Format {
            hash_type: 1,
            uuid: String::new(),
            algorithm: "sha256".into(),
            data_block: 4096,
            hash_block: 4096,
            data_blocks: 0,
            salt: Vec::new(),
        };
        let mut superblock = true;
        for item in items(list) {
            let (name, value) = item.split_once('=').unwrap_or((&item, ""));
            let wrong = |what: &str| {
                Error::new(
                    "read",
                    format_args!("systemd.verity_root_options={item}"),
                    what,
                )
            };
            let number = || value.parse::<u64>().map_err(|_| wrong("not a number"));
            let small = || value.parse::<u32>().map_err(|_| wrong("not a number"));
            match name {
                "superblock" => superblock = !matches!(value, "0" | "no" | "false" | "off"),
                "format" => format.hash_type = small()?,
                "data-block-size" => format.data_block = small()?,
                "hash-block-size" => format.hash_block = small()?,
                "data-blocks" => format.data_blocks = number()?,
                "hash-offset" => self.hash_offset = number()?,
                "hash" => format.algorithm = value.into(),
                "salt" if value == "-" => format.salt.clear(),
                "salt" => {
                    let salt = from_hexadecimal(value).filter(|salt| salt.len() <= 256);
                    format.salt =
                        salt.ok_or_else(|| wrong("not hexadecimal digits, 512 at most"))?;
                }
                "root-hash-signature" => {
                    self.signature = Some(Signature::parse(value).map_err(wrong)?);
                }
                _ if self.behaviour.set(name) => {}
                // They tell systemd when to set the device up; `/init` does it now.
                "uuid" | "_netdev" | "noauto" | "nofail" | "x-initrd.attach" => {}
                _ => return Err(wrong("not supported")),
            }
        }
        if !superblock {
            format.check().map_err(|what| {
                Error::new(
                    "read",
                    format_args!("systemd.verity_root_options={list}"),
                    what,
                )
            })?;
            self.format = Some(format);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn read(words: &str) -> Result<Option<Verity>> {
        root(&Options::parse(words))
    }

    #[test]
    fn without_devices_the_root_hash_names_the_partitions() {
        let verity = read(&format!("roothash={HASH}")).unwrap().unwrap();
        assert_eq!(
            verity.data.to_string(),
            "PARTUUID=00010203-0405-0607-0809-0a0b0c0d0e0f"
        );
        assert_eq!(
            verity.hash.to_string(),
            "PARTUUID=10111213-1415-1617-1819-1a1b1c1d1e1f"
        );
        assert_eq!(verity.behaviour.parameters(), [""; 0]);
        assert_eq!(read("root=/dev/sda1").unwrap(), None);
    }

    #[test]
    fn devices_and_options_are_those_of_systemd() {
        let verity = read(&format!(
            "roothash={HASH} systemd.verity_root_data=/dev/vda1 systemd.verity_root_hash=LABEL=h \
             systemd.verity_root_options=restart-on-corruption,hash-offset=4096,ignore-zero-blocks,superblock=no,\
             data-blocks=7,salt=0aff,hash=sha512"
        ));
        let verity = verity.unwrap().unwrap();
        assert_eq!(
            (verity.data.to_string(), verity.hash.to_string()),
            ("/dev/vda1".into(), "LABEL=h".into())
        );
        assert_eq!(
            verity.behaviour.parameters(),
            ["restart_on_corruption", "ignore_zero_blocks"]
        );
        assert_eq!(verity.hash_offset, 4096);
        let format = verity.format.unwrap();
        assert_eq!(
            (format.data_blocks, format.salt, format.algorithm),
            (7, vec![10, 255], "sha512".into())
        );
    }

    #[test]
    fn a_signature_is_a_file_or_base64() {
        let signature = |value: &str| {
            let words =
                format!("roothash={HASH} systemd.verity_root_options=root-hash-signature={value}");
            read(&words).map(|verity| verity.unwrap().signature.unwrap())
        };
        assert_eq!(
            signature("/etc/root.p7s,panic-on-corruption").unwrap(),
            Signature::File("/etc/root.p7s".into())
        );
        assert_eq!(
            signature("base64:MIIA/w==").unwrap(),
            Signature::Inline(vec![0x30, 0x82, 0, 0xff])
        );
        let systemd = "a partition with a signature is not read: name a file of the initramfs, or give base64:...";
        for (value, expected) in [
            ("base64:", "not base64"),
            ("base64:MIIA_w==", "not base64"),
            ("auto", systemd),
            ("root.p7s", "neither an absolute path nor base64:..."),
            ("", "neither an absolute path nor base64:..."),
        ] {
            let error = signature(value).unwrap_err().to_string();
            let word = format!("read systemd.verity_root_options=root-hash-signature={value}: ");
            assert_eq!(error, word + expected);
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for (words, expected) in [
            (
                "roothash=0102".into(),
                "read roothash=0102: not 64 hexadecimal digits or more",
            ),
            (
                format!("roothash={HASH} systemd.verity_root_options=fec-roots=2"),
                "read systemd.verity_root_options=fec-roots=2: not supported",
            ),
            (
                format!("roothash={HASH} systemd.verity_root_options=superblock=0"),
                "read systemd.verity_root_options=superblock=0: the number of blocks is impossible",
            ),
        ] {
            assert_eq!(read(&words).unwrap_err().to_string(), expected);
        }
    }
}
