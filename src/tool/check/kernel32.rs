//! What kernels of 32 bits cannot do.

use super::needs;
use crate::plan::Plan;
use crate::tool::image::boot::Boot;
use crate::tool::image::machine;
use crate::tool::image::unpack::{Report, Severity};
use crate::tool::kernel_config::Config;

/// Reports an initrd of `size` bytes that an ARM kernel may not be able to read. It reads the memory that
/// it maps all the time (lowmem) through /sys/firmware/initrd, and faults beyond.
pub fn lowmem(config: &Config, boot: &Boot, plan: &Plan, size: u64, report: Report) {
    if machine::name(config) != Some("arm") || !needs::in_the_initrd(boot, plan) {
        return;
    }
    let lowmem = mapped(config);
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let (severity, what) = match size {
        size if size > lowmem => (
            Severity::Error,
            "is larger than the memory that this kernel maps (lowmem,",
        ),
        size if size > lowmem / 2 => (
            Severity::Warning,
            "has to lie as a whole in the memory that this kernel maps (lowmem, the first",
        ),
        _ => return,
    };
    let what = format!(
        "the initrd of {} MiB {what} {} MiB): the kernel faults as /sys/firmware/initrd is read beyond",
        mib(size),
        mib(lowmem)
    );
    report(severity, "CONFIG_ARM=y".into(), what);
}

/// The bytes of memory that an ARM kernel maps, as far as its configuration decides that: what is above
/// PAGE_OFFSET without vmalloc's 240 MiB, its gap of 8, and 16 at the top (arch/arm/mm/mmu.c and
/// arch/arm/include/asm/pgtable.h).
fn mapped(config: &Config) -> u64 {
    const VMALLOC: u64 = 264 << 20;
    /// Where none of VMSPLIT_* is another (arch/arm/Kconfig).
    const USUAL: u64 = 0xc000_0000;
    let offset = config.value("PAGE_OFFSET").strip_prefix("0x");
    let offset = offset.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let above = (1u64 << 32).saturating_sub(offset.unwrap_or(USUAL));
    above.saturating_sub(VMALLOC)
}

/// Reports a kernel of 32 bits without the system calls whose times have 32 bits.
pub fn times(config: &Config, report: Report) {
    let narrow = matches!(machine::name(config), Some("arm" | "i386"));
    if (narrow || config.is_off("64BIT")) && config.is_off("COMPAT_32BIT_TIME") {
        let what = "programs that are linked with glibc and know times of 32 bits only fail (ENOSYS): take an \
                    /init for musl, and a real init built with times of 64 bits";
        report(
            Severity::Warning,
            "CONFIG_COMPAT_32BIT_TIME=n".into(),
            what.into(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowmem_is_what_is_above_the_split() {
        for (config, mib) in [
            ("CONFIG_ARM=y", 760),
            ("CONFIG_PAGE_OFFSET=0xC0000000", 760),
            ("CONFIG_PAGE_OFFSET=0xB0000000", 1016),
            ("CONFIG_PAGE_OFFSET=0x80000000", 1784),
            ("CONFIG_PAGE_OFFSET=0x40000000", 2808),
        ] {
            assert_eq!(mapped(&Config::parse(config)) >> 20, mib, "{config}");
        }
    }
}
