//! Platforms of container images, and whether an image matches one. Pure, except for [`OciPlatform::of_this_machine`].

use std::fmt;

use rustix::system::uname;

/// A platform: operating system, architecture and variant in the names of Go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OciPlatform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl OciPlatform {
    /// A platform. An empty variant means any.
    pub fn new(os: String, architecture: String, variant: Option<String>) -> Self {
        let variant = variant.filter(|variant| !variant.is_empty());
        Self {
            os,
            architecture,
            variant,
        }
    }

    /// `linux/arm/v7`, `linux/arm64` or `arm64`.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split('/');
        let first = parts.next().unwrap_or_default().to_string();
        match parts.next() {
            None => Self::new("linux".into(), first, None),
            Some(second) => Self::new(first, second.into(), parts.next().map(String::from)),
        }
    }

    /// The platform of this machine.
    pub fn of_this_machine() -> Self {
        let name = uname();
        let machine = name.machine().to_string_lossy();
        let architecture = match &*machine {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "i386" | "i486" | "i586" | "i686" => "386",
            "armv6l" | "armv7l" | "armv8l" => "arm",
            "loongarch64" => "loong64",
            // riscv64, ppc64le, s390x
            other => other,
        };
        Self::new("linux".into(), architecture.into(), None)
    }

    /// Whether an image for `found` matches. Without a variant, any variant matches.
    pub fn is_met_by(&self, found: &Self) -> bool {
        self.os == found.os
            && self.architecture == found.architecture
            && (self.variant.is_none() || self.variant == found.variant)
    }
}

impl fmt::Display for OciPlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}
