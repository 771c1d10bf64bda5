//! The memory that a UEFI boot loader takes before the kernel starts.
//!
//! It holds the initrd several times at once: as the file that it has read, in the pages of the kernel's stub
//! (EFI_LOAD_FILE2_PROTOCOL), and in its own buffers. All of that is free when the kernel runs, so the kernel
//! does not need it, but the machine does.
//!
//! Measured in November 2026 with QEMU and OVMF: the least memory that boots an initrd of 205 MiB, for which
//! the kernel needs 292 MiB, is 440 MiB with GRUB 2.12, 640 with systemd-boot, and 896 as a UKI. Without 40 MiB
//! for the firmware that is 1.95, 2.93 and 4.18 times the initrd.

/// The boot loader on a machine with UEFI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UefiLoader {
    /// GRUB.
    Grub,
    /// systemd-boot, with an entry that has `linux` and `initrd`.
    SdBoot,
    /// systemd-stub in a unified kernel image.
    Uki,
}

impl UefiLoader {
    /// The values of `--firmware`.
    pub const NAMES: [(&str, Self); 3] = [
        ("grub", Self::Grub),
        ("sd-boot", Self::SdBoot),
        ("uki", Self::Uki),
    ];

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grub => "GRUB",
            Self::SdBoot => "systemd-boot",
            Self::Uki => "systemd-stub (UKI)",
        }
    }

    /// The memory in bytes that a machine needs to load an initrd of `initrd` bytes with it.
    pub fn required_memory(self, initrd: u64) -> u64 {
        /// The memory that the firmware takes.
        const FIRMWARE: u64 = 40 << 20;
        // In tenths of the initrd. A UKI is in memory as often as its initrd.
        let copies = match self {
            Self::Grub => 20,
            Self::SdBoot => 30,
            Self::Uki => 42,
        };
        (initrd / 10)
            .saturating_mul(copies)
            .saturating_add(FIRMWARE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_at_most_20_mib_above_what_was_measured() {
        for (loader, measured) in [
            (UefiLoader::Grub, 440),
            (UefiLoader::SdBoot, 640),
            (UefiLoader::Uki, 896),
        ] {
            let said = loader.required_memory(205 << 20) >> 20;
            assert!(
                (measured..=measured + 20).contains(&said),
                "{loader:?}: {said}"
            );
        }
    }
}
