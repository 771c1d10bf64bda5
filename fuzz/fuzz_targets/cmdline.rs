//! The kernel command line: every text becomes options and messages about invalid words.
#![no_main]

use layerinit::plan::cmdline::Options;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let options = Options::parse(&text);
    assert!(!options.inits().is_empty());
    assert_eq!(options, Options::parse(&text));
    // Words after `--` belong to the real init.
    let with_arguments = Options::parse(&format!("{text} -- rd.shell=0 init=/x"));
    assert!(text.contains('"') || with_arguments.inits() == options.inits());
});
