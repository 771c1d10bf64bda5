//! The configuration of a kernel.
#![no_main]

use layerinit::tool::kernel_config::KernelConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let config = KernelConfig::parse(&text);
    // Line endings do not matter.
    assert_eq!(config, KernelConfig::parse(&text.replace("\r\n", "\n").replace('\n', "\r\n")));
});
