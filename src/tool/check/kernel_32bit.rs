//! Limits of 32-bit kernels.

use super::context::Check;
use super::requirements::has_layers_in_initrd;
use crate::bytes::ReadAt;
use crate::tool::finding::Findings;
use crate::tool::image::machine;
use crate::tool::kernel_config::KernelConfig;

/// Reports an initrd that an ARM kernel may not be able to read: the kernel faults when /sys/firmware/initrd
/// is read beyond lowmem.
pub fn lowmem(check: &Check, findings: &mut Findings) {
    let Some((plan, config)) = check.plan_and_config() else {
        return;
    };
    if machine::name(config) != Some("arm") || !has_layers_in_initrd(plan) {
        return;
    }
    let (size, lowmem) = (check.image.size(), lowmem_size(config));
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let what = |relation: &str| {
        format!(
            "the initrd of {} MiB {relation} {} MiB): the kernel faults when /init reads /sys/firmware/initrd beyond",
            mib(size),
            mib(lowmem)
        )
    };
    if size > lowmem {
        let relation = "is larger than the memory that this kernel maps (lowmem,";
        findings.error("CONFIG_ARM=y", what(relation));
    } else if size > lowmem / 2 {
        let relation = "has to fit into the memory that this kernel maps (lowmem, the first";
        findings.warning("CONFIG_ARM=y", what(relation));
    }
}

/// The bytes of lowmem of an ARM kernel, from its configuration: the address space above PAGE_OFFSET without
/// the 240 MiB of vmalloc, its gap of 8, and 16 at the top (arch/arm/mm/mmu.c and
/// arch/arm/include/asm/pgtable.h).
fn lowmem_size(config: &KernelConfig) -> u64 {
    const VMALLOC: u64 = 264 << 20;
    /// With VMSPLIT_3G, the default (arch/arm/Kconfig).
    const DEFAULT: u64 = 0xc000_0000;
    let offset = config.value("PAGE_OFFSET").strip_prefix("0x");
    let offset = offset.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let above = (1u64 << 32).saturating_sub(offset.unwrap_or(DEFAULT));
    above.saturating_sub(VMALLOC)
}

/// Reports a 32-bit kernel without the system calls with 32-bit times.
pub fn time32(check: &Check, findings: &mut Findings) {
    let Some((_, config)) = check.plan_and_config() else {
        return;
    };
    let is_32bit = matches!(machine::name(config), Some("arm" | "i386"));
    if (is_32bit || config.is_disabled("64BIT")) && config.is_disabled("COMPAT_32BIT_TIME") {
        let what = "programs that are linked with glibc and use 32-bit times fail (ENOSYS): use an /init for \
                    musl, and a real init built with 64-bit times";
        findings.warning("CONFIG_COMPAT_32BIT_TIME=n", what);
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
            assert_eq!(
                lowmem_size(&KernelConfig::parse(config)) >> 20,
                mib,
                "{config}"
            );
        }
    }
}
