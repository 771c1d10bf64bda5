//! Segments as text, for the log and `layerinit list`.

use std::fmt;

use super::{Cpio, Kind, Segment};

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x} {:>11} {}", self.offset, self.length, self.kind)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Padding => f.write_str("padding"),
            Self::Cpio(cpio) => cpio.fmt(f),
            Self::Erofs(sb) => {
                write!(f, "erofs {} blocks of {}", sb.blocks, sb.block_size())?;
                let label = sb.label();
                if !label.is_empty() {
                    write!(f, ", label {label:?}")?;
                }
                write!(f, ", checksum {}", sb.checksum)
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
            self.members, self.unpacked
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
        Ok(())
    }
}
