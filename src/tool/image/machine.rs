//! The programs that the kernel of an image can run.

use super::boot::Boot;
use crate::bytes::ReadAt;
use crate::format::elf::{ELFMAG, Ident, Machines, interpreter};
use crate::tool::kernel_config::KernelConfig;

const I386: Machines = Machines::new("i386", &[3]);
const ARM: Machines = Machines::new("arm", &[40]);
const S390: Machines = Machines::new("s390", &[22]);
const POWERPC: Machines = Machines::new("powerpc", &[21, 20]);

/// The first option that is set decides, then the architecture in the first lines of a configuration. Most
/// architectures have a 32-bit and a 64-bit variant.
const ARCHITECTURES: [(&str, &[&str], Machines); 7] = [
    ("X86_64", &["x86", "x86_64"], Machines::X86_64),
    ("X86", &["i386"], I386),
    ("ARM64", &["arm64"], Machines::AARCH64),
    ("ARM", &["arm"], ARM),
    ("RISCV", &["riscv"], Machines::RISCV64),
    ("S390", &["s390"], S390),
    ("PPC64", &["powerpc"], POWERPC),
];

/// The formats of programs that a kernel runs.
#[derive(Debug)]
pub struct Machine {
    machines: Machines,
    /// Program formats that the kernel lacks: their first bytes, and the option.
    missing_formats: Vec<(&'static [u8], String)>,
}

impl Machine {
    /// The machine of a kernel with this configuration, otherwise of the image's `/init`.
    pub fn new(boot: &Boot, image: &(dyn ReadAt + Sync), config: Option<&KernelConfig>) -> Self {
        let machines = config.and_then(configured);
        let machines = machines.or_else(|| of_rdinit(boot, image));
        let formats: [(&[u8], &str); 2] = [(ELFMAG, "BINFMT_ELF"), (b"#!", "BINFMT_SCRIPT")];
        let missing_formats = formats.into_iter().filter_map(|(start, option)| {
            let disabled = config?.is_disabled(option);
            disabled.then(|| (start, format!("CONFIG_{option}=n")))
        });
        Self {
            machines: machines.unwrap_or(Machines::ANY),
            missing_formats: missing_formats.collect(),
        }
    }

    /// The machine of a kernel that runs this program; `None` if the program is not for a known machine.
    pub fn running(program: &dyn ReadAt) -> Option<Self> {
        Some(Self {
            machines: family(program)?,
            missing_formats: Vec::new(),
        })
    }

    /// Why the kernel does not load this module; `None` if it may.
    pub fn refuses_module(&self, module: &[u8]) -> Option<String> {
        let number = Ident::decode(module)?.e_machine;
        let Machines { name, numbers, .. } = self.machines;
        let other = !numbers.is_empty() && !numbers.contains(&number);
        other.then(|| format!("a module for another machine (e_machine {number}, here {name})"))
    }

    /// What the kernel starts in place of a program, or why it does not start it; see [`interpreter`].
    pub fn interpreter(&self, program: &dyn ReadAt) -> Result<Option<String>, String> {
        // These machines have big-endian programs, which `interpreter` does not read.
        let machines = match (self.machines.name, Ident::read(program)) {
            (
                "s390" | "powerpc",
                Some(Ident {
                    big_endian: true, ..
                }),
            ) => Machines::ANY,
            _ => self.machines,
        };
        let needed = interpreter(program, machines)?;
        let mut start = [0; 4];
        let n = program.read_at(&mut start, 0).unwrap_or(0);
        let start = start.get(..n).unwrap_or_default();
        match self
            .missing_formats
            .iter()
            .find(|(kind, _)| start.starts_with(kind))
        {
            Some((kind, option)) => Err(format!(
                "it starts with \"{}\", and the kernel has {option}",
                kind.escape_ascii()
            )),
            None => Ok(needed),
        }
    }
}

fn configured(config: &KernelConfig) -> Option<Machines> {
    let mut all = ARCHITECTURES.iter();
    let set = all.find(|(option, ..)| config.built_in(option));
    let named = || {
        let name = config.architecture.as_deref()?;
        let mut all = ARCHITECTURES.iter();
        all.find(|(_, names, _)| names.contains(&name))
    };
    set.or_else(named).map(|(.., machines)| *machines)
}

/// The name of the machine, for a kernel with this configuration.
pub fn name(config: &KernelConfig) -> Option<&'static str> {
    configured(config).map(|machines| machines.name)
}

/// The size of the pages of most kernels, in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// The size of a kernel's pages in bytes, from its configuration: PAGE_SHIFT in arch/Kconfig (since Linux 6.9),
/// before that an option of each architecture.
pub fn page_size(config: &KernelConfig) -> Option<u64> {
    const SHIFTS: [&str; 3] = ["PAGE_SHIFT", "ARM64_PAGE_SHIFT", "PPC_PAGE_SHIFT"];
    /// Options, and the page size in KiB that each sets.
    const SIZES: [(&str, u64); 12] = [
        ("PAGE_SIZE_4KB", 4),
        ("PAGE_SIZE_8KB", 8),
        ("PAGE_SIZE_16KB", 16),
        ("PAGE_SIZE_32KB", 32),
        ("PAGE_SIZE_64KB", 64),
        ("PAGE_SIZE_256KB", 256),
        ("ARM64_4K_PAGES", 4),
        ("ARM64_16K_PAGES", 16),
        ("ARM64_64K_PAGES", 64),
        ("PPC_4K_PAGES", 4),
        ("PPC_16K_PAGES", 16),
        ("PPC_64K_PAGES", 64),
    ];
    /// Machines with a single page size.
    const OF_4_KIB: [&str; 5] = ["x86_64", "i386", "arm", "riscv64", "s390"];
    let shift = |option: &&str| config.value(option).parse().ok();
    let shift = SHIFTS.iter().find_map(shift);
    if let Some(bytes) = shift.and_then(|shift| 1u64.checked_shl(shift)) {
        return Some(bytes);
    }
    if let Some((_, kib)) = SIZES.iter().find(|(option, _)| config.built_in(option)) {
        return Some(kib.saturating_mul(1024));
    }
    OF_4_KIB.contains(&name(config)?).then_some(4096)
}

/// The machines of the ELF program that `rdinit=` names.
fn of_rdinit(boot: &Boot, image: &(dyn ReadAt + Sync)) -> Option<Machines> {
    let (_, node) = boot.rootfs.find(boot.options.rdinit.as_bytes())?;
    family(&*boot.content(image, node).ok()?)
}

/// The machines whose programs a kernel runs if it runs this one.
fn family(program: &dyn ReadAt) -> Option<Machines> {
    let ident = Ident::read(program)?;
    let mut families = [Machines::X86_64, Machines::AARCH64, Machines::RISCV64].into_iter();
    families.find(|family| !ident.big_endian && family.numbers.contains(&ident.e_machine))
}

/// The largest page size, in bytes, of the kernels that run this program; 4096 if it is not an ELF program.
pub fn page_max(program: Option<&dyn ReadAt>) -> u64 {
    /// e_machine of mips, powerpc64, sparc64, aarch64 and loongarch, which have larger pages.
    const LARGE: [u16; 5] = [8, 21, 43, 183, 258];
    const PAGE: u64 = 4096;
    const LARGE_PAGE: u64 = 65536;
    match program.and_then(Ident::read) {
        Some(ident) if LARGE.contains(&ident.e_machine) => LARGE_PAGE,
        _ => PAGE,
    }
}
