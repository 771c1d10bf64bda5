//! A whole image: its merged root, all content, each single layer, and the image compared with itself.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use layerinit::tool::diff::{DiffOptions, diff};
use layerinit::tool::extract::{Wanted, extract};
use layerinit::tool::image::input::Initrd;
use layerinit::tool::image::view;
use libfuzzer_sys::fuzz_target;

/// The directory for an image and its extracted files, in memory if possible.
static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let place = parent.join(format!("layerinit-fuzz-extract-{}", std::process::id()));
    std::fs::create_dir_all(place.join("canary")).expect("a directory");
    place
});

/// The maximum content of an image to extract.
const CONTENT_MAX: u64 = 4 << 20;

fuzz_target!(|data: &[u8]| {
    let path = PLACE.join("image");
    std::fs::write(&path, data).expect("a temporary file");
    let Ok(image) = Initrd::open(&[path], 4) else {
        return;
    };
    let mut content = 0u64;
    let read = view::with(&image, None, |view| {
        let mut buffer = vec![0; 1 << 16];
        for (path, node) in view.entries() {
            assert!(!path.contains(&0) && !path.starts_with(b"/"), "{path:?}");
            content = content.saturating_add(node.size());
            if let Ok(content) = view.layers.content(node) {
                let _ = content.read_at(&mut buffer, 0);
                let _ = content.read_at(&mut buffer, content.size() / 2);
            }
        }
        Ok(())
    });
    if read.is_err() || content > CONTENT_MAX {
        return;
    }
    for layer in [None, Some(0), Some(1)] {
        let wanted = Wanted {
            directory: PLACE.join("out"),
            paths: Vec::new(),
            layer,
            unprivileged: true,
        };
        if let Err(error) = extract(&image, &wanted) {
            assert!(!error.to_string().is_empty());
        }
        let _ = std::fs::remove_dir_all(PLACE.join("out"));
    }
    let left = std::fs::read_dir(&*PLACE).expect("the directory").count();
    assert_eq!(left, 2, "files outside of the directory");
    assert_eq!(std::fs::read_dir(PLACE.join("canary")).expect("the directory").count(), 0);
    let mut said = Vec::new();
    if let Ok(same) = diff(&image, &image, DiffOptions::default(), &mut said) {
        assert!(same, "{}", String::from_utf8_lossy(&said));
    }
});
