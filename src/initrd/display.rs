//! Segments as text, for the log and for `layerinit list`.

use std::fmt;

use super::{Cpio, Kind, Segment};

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x} {:>11} {}", self.offset, self.length, self.kind)
    }
}

impl Segment {
    /// Why the kernel ignored a bootconfig, or stopped unpacking in or before this archive, for a message.
    /// Files that it did not unpack are missing in the rootfs: kernel modules of the loader, files of
    /// /layers.
    pub fn stopped(&self) -> Option<String> {
        let cpio = match &self.kind {
            Kind::Cpio(cpio) => cpio,
            Kind::Bootconfig { intact: false } => {
                let what =
                    "a bootconfig whose size or checksum is wrong: the kernel has ignored it";
                return Some(what.into());
            }
            Kind::Padding
            | Kind::Stop
            | Kind::Erofs(_)
            | Kind::Squashfs(_)
            | Kind::Bootconfig { .. } => {
                return None;
            }
        };
        let stopped = "the kernel stopped unpacking there";
        match (cpio.bad_sum, cpio.bad_name, cpio.refused) {
            (Some(at), ..) => Some(format!(
                "the member at {at:#x} of this archive does not add up to its sum: {stopped}"
            )),
            (_, Some(at), _) => Some(format!(
                "the name of the member at {at:#x} of this archive has no NUL at its end (GRUB before 2.12 \
                 writes such names for newc:): {stopped}"
            )),
            (.., Some(why)) if !self.offset.is_multiple_of(4) => {
                Some(format!("an archive that the kernel did not unpack: {why}"))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Padding => f.write_str("padding"),
            Self::Stop => f.write_str("stop of the kernel's unpacker"),
            Self::Cpio(cpio) => cpio.fmt(f),
            Self::Erofs(sb) => {
                write!(f, "erofs {} blocks of {}", sb.blocks, sb.block_size())?;
                let label = sb.label();
                if !label.is_empty() {
                    write!(f, ", label {label:?}")?;
                }
                write!(f, ", checksum {}", sb.checksum)
            }
            Self::Squashfs(sb) => {
                write!(f, "squashfs {} inodes", sb.inodes)?;
                match sb.decompressor() {
                    Some((name, _)) => write!(f, ", {name}"),
                    None => write!(f, ", unknown compression {}", sb.compression),
                }
            }
            Self::Bootconfig { intact: true } => f.write_str("bootconfig"),
            Self::Bootconfig { intact: false } => f.write_str("bootconfig, damaged"),
        }
    }
}

impl fmt::Display for Cpio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cpio")?;
        if let Some(codec) = self.codec {
            write!(f, ".{codec}")?;
        }
        write!(
            f,
            " {} members, {} bytes unpacked",
            self.members,
            self.unpacked.bytes(4096)
        )?;
        if self.only_early {
            f.write_str(", early (microcode, ACPI)")?;
        }
        if self.holds_init {
            f.write_str(", holds init")?;
        }
        if let Some(at) = self.bad_sum {
            write!(f, ", wrong sum at {at:#x} of it")?;
        }
        if let Some(at) = self.bad_name {
            write!(f, ", name without NUL at {at:#x} of it")?;
        }
        Ok(())
    }
}
