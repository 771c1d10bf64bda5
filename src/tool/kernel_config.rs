//! A kernel's configuration, read from a file as /boot/config-* or /proc/config.gz.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use crate::error::{Context, Error, Result};
use crate::format::compress::Codec;

/// A kernel's configuration: option, without CONFIG_, to value.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Config {
    values: BTreeMap<String, String>,
    /// What it says is not set.
    off: BTreeSet<String>,
    /// The architecture, from the first lines, as the kernel's Makefile calls it: x86, arm64.
    pub architecture: Option<String>,
    /// The kernel's version, from there: major and minor number.
    pub version: Option<(u32, u32)>,
}

impl Config {
    /// Reads a configuration, plain or compressed.
    pub fn read(path: &Path) -> Result<Self> {
        /// No configuration is longer: a bound for what a file of another kind can ask for.
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

    /// Reads the text of a .config.
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
                config.off.insert(name.into());
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

    /// What an option is set to: `y`, `m`, or something else; `n` where it is not set.
    pub fn value(&self, option: &str) -> &str {
        self.values.get(option).map_or("n", String::as_str)
    }

    /// Whether an option is set to `y`.
    pub fn built_in(&self, option: &str) -> bool {
        self.value(option) == "y"
    }

    /// Whether an option is said not to be set. For what nearly every kernel has: a configuration that was
    /// shortened by hand is no reason to miss it.
    pub fn is_off(&self, option: &str) -> bool {
        self.off.contains(option)
    }

    /// Whether the kernel makes a file of an initrd that is not all archives: /initrd.image.
    pub fn copies_initrd(&self) -> bool {
        self.built_in("BLK_DEV_RAM")
    }
}

/// The major and minor number of a kernel's version or release, such as "6.12.117+deb13-amd64".
pub fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    let mut number = || parts.next()?.parse().ok();
    Some((number()?, number()?))
}
