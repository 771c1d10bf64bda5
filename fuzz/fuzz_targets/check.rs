//! All of `layerinit check --conflicts` except the kernel's configuration: the rootfs that the archives make,
//! layers over layers, the trees and attributes of EROFS images, the program to start, memory.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use layerinit::tool::check::check;
use layerinit::tool::check::options::CheckOptions;
use layerinit::tool::image::input::Initrd;
use libfuzzer_sys::fuzz_target;

static IMAGE: LazyLock<PathBuf> = LazyLock::new(|| {
    let name = format!("layerinit-fuzz-check-{}", std::process::id());
    std::env::temp_dir().join(name)
});

fuzz_target!(|data: &[u8]| {
    std::fs::write(&*IMAGE, data).expect("a temporary file");
    let options = CheckOptions {
        cmdline: Some("retain_initrd".into()),
        conflicts: true,
        ..CheckOptions::default()
    };
    let mut said = Vec::new();
    let good = Initrd::open(&[IMAGE.clone()], 4).and_then(|image| check(&image, &options, &mut said));
    std::fs::remove_file(&*IMAGE).expect("it was there");
    let said = String::from_utf8(said).expect("text");
    assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
    let last = said.lines().last().unwrap_or_default();
    match good {
        Ok(true) => assert!(last.contains(": good") || last.contains(": 0 errors"), "{last}"),
        Ok(false) => assert!(last.contains(" error"), "{last}"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
