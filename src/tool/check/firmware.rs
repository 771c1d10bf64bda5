//! What it takes to load an initrd before the kernel starts.
//!
//! UEFI boot loaders hold an initrd several times at once: as the file that they have read, in the pages that
//! the kernel's stub asks for (EFI_LOAD_FILE2_PROTOCOL), in their own buffers between. All of that is free
//! again when the kernel runs, so it is no part of what the kernel needs, but the machine must have it.
//!
//! Measured: by hand, November 2026: the least memory with which QEMU and OVMF boot an initrd of 205 MiB, for which the kernel
//! itself needs 292 MiB: 440 MiB with GRUB 2.12, 640 with systemd-boot, 896 as a UKI. Of this, 40 MiB for the
//! firmware leave 1.95, 2.93 and 4.18 times the initrd.

/// Who loads the initrd on a machine with UEFI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// GRUB.
    Grub,
    /// systemd-boot, an entry with the lines linux and initrd.
    SdBoot,
    /// A unified kernel image, with systemd-stub.
    Uki,
}

impl Firmware {
    /// Their names on the command line.
    pub const NAMES: [(&str, Self); 3] = [
        ("grub", Self::Grub),
        ("sd-boot", Self::SdBoot),
        ("uki", Self::Uki),
    ];

    /// What a message calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grub => "GRUB",
            Self::SdBoot => "systemd-boot",
            Self::Uki => "systemd-stub (UKI)",
        }
    }

    /// The memory, in bytes, of a machine on which this can load an initrd of `initrd` bytes.
    pub fn machine(self, initrd: u64) -> u64 {
        /// The firmware's own.
        const BASE: u64 = 40 << 20;
        // In tenths; of a UKI the kernel is there as often, too.
        let copies = match self {
            Self::Grub => 20,
            Self::SdBoot => 30,
            Self::Uki => 42,
        };
        (initrd / 10).saturating_mul(copies).saturating_add(BASE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_enough_and_not_much_more() {
        for (firmware, measured) in [
            (Firmware::Grub, 440),
            (Firmware::SdBoot, 640),
            (Firmware::Uki, 896),
        ] {
            let said = firmware.machine(205 << 20) >> 20;
            assert!(
                (measured..=measured + 20).contains(&said),
                "{firmware:?}: {said}"
            );
        }
    }
}
