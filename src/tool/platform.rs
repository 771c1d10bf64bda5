//! What QEMU and boot loaders need to know about an architecture: one row for each. Pure.

use std::io;

use crate::bytes::{Cursor, ReadAt};
use crate::format::elf::Ident;

/// An architecture.
#[derive(Debug, PartialEq, Eq)]
pub struct Platform {
    /// The architecture, as in `uname -m` and in [`std::env::consts::ARCH`].
    pub name: &'static str,
    /// Debian's name of the architecture.
    pub debian: &'static str,
    /// The architecture in the names of rustc's targets.
    pub rustc: &'static [&'static str],
    /// The QEMU program.
    pub program: &'static str,
    /// The Debian package of the program.
    pub package: &'static str,
    /// The value of -machine.
    pub machine: &'static str,
    /// The value of -cpu without KVM.
    pub cpu: &'static str,
    /// The device of the first serial port, for console=.
    pub console: &'static str,
    /// The word with which a kernel writes to the serial port before it has a driver for it.
    pub early_console: &'static str,
    /// A word for the kernel without KVM; empty: none.
    pub emulation_word: &'static str,
    /// The name in the files of systemd's EFI programs, as in linuxx64.efi.stub.
    pub efi: &'static str,
    /// The name for `mkimage -A`.
    pub u_boot: &'static str,
    /// GRUB's platforms for an ISO, as directories of /usr/lib/grub, and their Debian packages.
    pub grub: &'static [(&'static str, &'static str)],
    /// e_machine of programs (include/uapi/linux/elf-em.h).
    e_machine: &'static [u16],
    /// The field Machine in the header of a PE file ("PE Format", "Machine Types").
    pe_machine: u16,
}

/// All rows. 32-bit programs of x86 run on a kernel of either width, and QEMU's 64-bit machine runs both.
pub static ALL: [Platform; 4] = [
    Platform {
        name: "x86_64",
        debian: "amd64",
        rustc: &["x86_64", "i686"],
        program: "qemu-system-x86_64",
        package: "qemu-system-x86",
        machine: "q35",
        // Five-level page tables only cost time under emulation.
        cpu: "max,la57=off",
        console: "ttyS0",
        early_console: "earlyprintk=ttyS0",
        // On a busy machine the emulated timer is late, and the kernel concludes that it is broken.
        emulation_word: "no_timer_check",
        efi: "x64",
        u_boot: "x86_64",
        grub: &[
            ("i386-pc", "grub-pc-bin"),
            ("x86_64-efi", "grub-efi-amd64-bin"),
        ],
        e_machine: &[62, 3],
        pe_machine: 0x8664,
    },
    Platform {
        name: "aarch64",
        debian: "arm64",
        rustc: &["aarch64"],
        program: "qemu-system-aarch64",
        package: "qemu-system-arm",
        machine: "virt",
        // The architected pointer authentication algorithm makes emulation several times slower.
        cpu: "max,pauth-impdef=on",
        console: "ttyAMA0",
        early_console: "earlycon",
        emulation_word: "",
        efi: "aa64",
        u_boot: "arm64",
        grub: &[("arm64-efi", "grub-efi-arm64-bin")],
        e_machine: &[183],
        pe_machine: 0xaa64,
    },
    Platform {
        name: "arm",
        debian: "armhf",
        rustc: &["arm", "armv7"],
        program: "qemu-system-arm",
        package: "qemu-system-arm",
        // A kernel without LPAE reaches nothing above 4 GiB.
        machine: "virt,highmem=off",
        cpu: "max",
        console: "ttyAMA0",
        early_console: "earlycon",
        emulation_word: "",
        efi: "arm",
        u_boot: "arm",
        grub: &[("arm-efi", "grub-efi-arm-bin")],
        e_machine: &[40],
        pe_machine: 0x01c2,
    },
    Platform {
        name: "riscv64",
        debian: "riscv64",
        rustc: &["riscv64gc"],
        program: "qemu-system-riscv64",
        package: "qemu-system-misc",
        machine: "virt",
        // QEMU has no "max" for riscv64 before 8.2.
        cpu: "rv64",
        console: "ttyS0",
        early_console: "earlycon",
        emulation_word: "",
        efi: "riscv64",
        u_boot: "riscv",
        grub: &[("riscv64-efi", "grub-efi-riscv64-bin")],
        e_machine: &[243],
        pe_machine: 0x5064,
    },
];

/// The names of all rows.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|row| row.name).collect()
}

/// The number of bytes at the start of a kernel that show its architecture.
pub fn kernel_head(kernel: &dyn ReadAt) -> io::Result<Vec<u8>> {
    let mut head = vec![0; 4096];
    let n = kernel.read_at(&mut head, 0)?;
    head.truncate(n);
    Ok(head)
}

impl Platform {
    /// The machine with this name, which may be Debian's.
    pub fn named(name: &str) -> Option<&'static Self> {
        ALL.iter()
            .find(|row| row.name == name || row.debian == name)
    }

    /// The machine for programs with this e_machine.
    pub fn of_program(e_machine: u16) -> Option<&'static Self> {
        ALL.iter().find(|row| row.e_machine.contains(&e_machine))
    }

    /// The machine for a kernel that starts with `head`; `None` if the format is unknown or compressed.
    pub fn of_kernel(head: &[u8]) -> Option<&'static Self> {
        let by_name = |name| ALL.iter().find(|row| row.name == name);
        /// Magic numbers in kernels, and their offsets: Documentation/arch/x86/boot.rst,
        /// Documentation/arch/arm64/booting.rst, Documentation/arch/riscv/boot-image-header.rst, and
        /// arch/arm/boot/compressed/head.S.
        const MAGICS: [(usize, &[u8; 4], &str); 4] = [
            (0x202, b"HdrS", "x86_64"),
            (0x38, b"ARM\x64", "aarch64"),
            (0x38, b"RSC\x05", "riscv64"),
            (0x24, b"\x18\x28\x6f\x01", "arm"),
        ];
        for (offset, magic, name) in MAGICS {
            if head
                .get(offset..)
                .is_some_and(|rest| rest.starts_with(magic))
            {
                return by_name(name);
            }
        }
        if let Some(ident) = Ident::decode(head) {
            return Self::of_program(ident.e_machine);
        }
        let machine = pe_machine(head)?;
        ALL.iter().find(|row| row.pe_machine == machine)
    }
}

/// The machine of a PE file, as a compressed EFI kernel is (CONFIG_EFI_ZBOOT).
fn pe_machine(head: &[u8]) -> Option<u16> {
    if !head.starts_with(b"MZ") {
        return None;
    }
    let e_lfanew = Cursor::new(head.get(0x3c..)?).le32()?;
    let mut header = Cursor::new(head.get(usize::try_from(e_lfanew).ok()?..)?);
    (header.take(4)? == b"PE\0\0").then(|| header.le16())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(head: &[u8]) -> Option<&'static str> {
        Platform::of_kernel(head).map(|row| row.name)
    }

    fn with(offset: usize, magic: &[u8]) -> Vec<u8> {
        let mut head = vec![0; 1024];
        head[offset..offset + magic.len()].copy_from_slice(magic);
        head
    }

    #[test]
    fn a_kernel_is_known_by_its_header() {
        assert_eq!(name(&with(0x202, b"HdrS")), Some("x86_64"));
        assert_eq!(name(&with(0x38, b"ARM\x64")), Some("aarch64"));
        assert_eq!(name(&with(0x38, b"RSC\x05")), Some("riscv64"));
        assert_eq!(
            name(&with(0x24, &0x016f_2818_u32.to_le_bytes())),
            Some("arm")
        );
        let elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xf3\0";
        assert_eq!(name(&with(0, elf)), Some("riscv64"));
        let mut zboot = with(0x40, b"PE\0\0\x64\xaa");
        zboot[..2].copy_from_slice(b"MZ");
        zboot[0x3c] = 0x40;
        assert_eq!(name(&zboot), Some("aarch64"));
    }

    #[test]
    fn anything_else_is_unknown() {
        for head in [
            &b""[..],
            b"MZ",
            b"\x1f\x8b\x08\0",
            &[0xff; 1024],
            b"\x7fELF",
        ] {
            assert_eq!(name(head), None, "{head:?}");
        }
        let mut far = with(0, b"MZ");
        far[0x3c..0x40].fill(0xff);
        assert_eq!(name(&far), None);
    }

    #[test]
    fn programs_choose_the_same_machines() {
        let named = |number| Platform::of_program(number).map(|row| row.name);
        assert_eq!(
            [62, 3, 183, 40, 243, 22].map(named),
            [
                Some("x86_64"),
                Some("x86_64"),
                Some("aarch64"),
                Some("arm"),
                Some("riscv64"),
                None
            ]
        );
        assert_eq!(names(), ["x86_64", "aarch64", "arm", "riscv64"]);
        let named = |name| Platform::named(name).map(|row| row.name);
        assert_eq!(
            ["aarch64", "armhf", "amd64", "mips"].map(named),
            [Some("aarch64"), Some("arm"), Some("x86_64"), None]
        );
    }
}
