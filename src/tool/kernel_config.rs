//! A kernel's configuration, from a file like /boot/config-* or /proc/config.gz.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use crate::error::{Context, Error, Result};
use crate::format::compress::Codec;

/// A kernel's configuration. Options are named without CONFIG_.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct KernelConfig {
    values: BTreeMap<String, String>,
    /// Options with a line "is not set".
    disabled: BTreeSet<String>,
    /// The architecture from the comment in the first lines, as in the kernel's Makefile: x86, arm64.
    pub architecture: Option<String>,
    /// The major and minor number of the kernel's version, from the same comment.
    pub version: Option<(u32, u32)>,
}

impl KernelConfig {
    /// Reads a configuration, plain or compressed.
    ///
    /// # Errors
    /// The file cannot be read, or has no line CONFIG_NAME=VALUE.
    pub fn read(path: &Path) -> Result<Self> {
        /// No configuration has more bytes. It bounds a hostile compressed file.
        const MAX: u64 = 16 << 20;
        let context = || path.display();
        let mut file = BufReader::new(File::open(path).during("open", context())?);
        let codec = Codec::detect(file.fill_buf().during("read", context())?);
        let bytes = match codec {
            None => {
                let mut bytes = Vec::new();
                file.take(MAX).read_to_end(&mut bytes).map(|_| bytes)
            }
            Some(codec) => codec.decompress(file, MAX),
        };
        let bytes = bytes.during("read", context())?;
        let config = Self::parse(&String::from_utf8_lossy(&bytes));
        match config.values.is_empty() {
            true => {
                let what = "no kernel configuration: it has no line CONFIG_NAME=VALUE";
                Err(Error::new("read", context(), what))
            }
            false => Ok(config),
        }
    }

    /// Parses the text of a .config.
    pub fn parse(text: &str) -> Self {
        let mut config = Self::default();
        for line in text.lines() {
            if let Some((name, value)) = line
                .strip_prefix("CONFIG_")
                .and_then(|line| line.split_once('='))
            {
                config.values.insert(name.into(), value.trim().into());
            } else if let Some(name) = line
                .strip_prefix("# CONFIG_")
                .and_then(|line| line.strip_suffix(" is not set"))
            {
                config.disabled.insert(name.into());
            } else if config.version.is_none() && line.ends_with(" Kernel Configuration") {
                // "# Linux/x86 6.12.117 Kernel Configuration"
                let mut words = line.split_ascii_whitespace().skip(1);
                let name = words.next().and_then(|word| word.strip_prefix("Linux/"));
                config.architecture = name.map(Into::into);
                let number = words.next().unwrap_or_default();
                config.version = version(number);
            }
        }
        config
    }

    /// The value of an option, such as `y` or `m`; `n` if it is not set.
    pub fn value(&self, option: &str) -> &str {
        self.values.get(option).map_or("n", String::as_str)
    }

    /// Whether an option is set to `y`.
    pub fn built_in(&self, option: &str) -> bool {
        self.value(option) == "y"
    }

    /// Whether the configuration has a line "is not set" for an option. For options that nearly every kernel
    /// has: a shortened configuration does not list them.
    pub fn is_disabled(&self, option: &str) -> bool {
        self.disabled.contains(option)
    }

    /// Whether the kernel writes an initrd that is not all cpio archives to /initrd.image
    /// (populate_initrd_image in init/initramfs.c).
    pub fn copies_initrd(&self) -> bool {
        self.built_in("BLK_DEV_RAM")
    }
}

/// The major and minor number of a kernel release such as "6.12.117+deb13-amd64".
pub fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    let mut number = || parts.next()?.parse().ok();
    Some((number()?, number()?))
}
