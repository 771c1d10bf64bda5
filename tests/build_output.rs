//! `layerinit build`: labels of layers, the file that is written, layers inside the loader.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "tool/support.rs"]
mod support;
use support::{said, scratch, tool};

/// A directory with an /init and the layers `base` and `app`.
fn workshop(name: &str) -> PathBuf {
    let directory = scratch(name);
    fs::write(directory.join("init"), "#!/init\n").unwrap();
    for layer in ["base", "app"] {
        fs::create_dir_all(directory.join(layer).join("etc")).unwrap();
        fs::write(directory.join(layer).join("etc/motd"), layer).unwrap();
    }
    directory
}

/// Runs the tool and wants success; what it wrote.
fn good(directory: &Path, words: &[&str]) -> String {
    let (stdout, stderr, status) = said(&tool(directory).args(words).output().unwrap());
    assert_eq!((stderr.as_str(), status), ("", 0), "{words:?}: {stdout}");
    stdout
}

/// Builds `image` with these words.
fn build(directory: &Path, words: &[&str]) -> (String, String, i32) {
    let mut command = tool(directory);
    command.args(["build", "-o", "image", "--init", "init"]);
    said(&command.args(words).output().unwrap())
}

// ---- labels

/// The labels of the layers of `image`, and that their checksums are good.
fn labels(directory: &Path) -> Vec<String> {
    let list = good(directory, &["list", "image"]);
    let layers = list.lines().filter(|line| line.contains(" erofs "));
    let label = |line: &str| {
        assert!(line.ends_with("checksum good"), "{line}");
        let (_, rest) = line.split_once("label \"")?;
        Some(rest.split_once('"')?.0.to_string())
    };
    layers.map(|line| label(line).unwrap_or_default()).collect()
}

#[test]
fn a_layer_is_named_after_its_directory_so_that_skip_finds_it() {
    let directory = workshop("build-label");
    let (_, stderr, status) = build(&directory, &["--layer", "base", "--layer", "app/."]);
    assert_eq!((stderr.as_str(), status), ("", 0));
    assert_eq!(labels(&directory), ["base", "app"]);
    let cmdline = "retain_initrd rd.layers.skip=app";
    let plan = good(&directory, &["plan", "image", "--cmdline", cmdline]);
    let layers: Vec<_> = plan
        .lines()
        .filter(|line| line.starts_with("layer "))
        .collect();
    assert_eq!(layers.len(), 1, "{plan}");
    assert!(layers[0].contains("erofs \"base\""), "{plan}");
    assert!(!plan.contains("no such layer"), "{plan}");
}

#[test]
fn a_label_can_be_chosen_for_each_layer() {
    let directory = workshop("build-label-chosen");
    let words = [
        "--layer", "base", "--label", "os", "--layer", "app", "--label", "",
    ];
    assert_eq!(build(&directory, &words).2, 0);
    assert_eq!(labels(&directory), ["os", ""]);
    // The content names the image, and the label is a part of it.
    let uuids = good(&directory, &["list", "image"]);
    let words = ["--layer", "base", "--layer", "app", "--label", ""];
    assert_eq!(build(&directory, &words).2, 0);
    let others = good(&directory, &["list", "image"]);
    let uuid = |list: &str, layer| {
        list.lines()
            .filter(|line| line.contains("uuid"))
            .nth(layer)
            .unwrap()
            .to_string()
    };
    assert_ne!(uuid(&uuids, 0), uuid(&others, 0));
    assert_eq!(uuid(&uuids, 1), uuid(&others, 1));
}

#[test]
fn a_label_that_cannot_be_is_refused() {
    let directory = workshop("build-label-refused");
    fs::write(directory.join("x.cpio"), "").unwrap();
    for (words, status, expected) in [
        (
            &["--layer", "app", "--label", "sixteen-bytes-xx"][..],
            2,
            "error: invalid value 'sixteen-bytes-xx' for '--label <NAME>': longer than the 15 bytes of a volume label",
        ),
        (
            &["--label", "x", "--layer", "app"],
            2,
            "error: --label applies to the --layer before it, and there is none",
        ),
        (
            &["--layer", "app", "--label", "x", "--label", "y"],
            2,
            "error: --label twice for --layer app",
        ),
        (
            &["--layer", "app", "--as", "cpio", "--label", "x"],
            1,
            "layerinit: read app: a cpio archive has no volume label: --label is for what becomes an EROFS image",
        ),
        (
            &["--layer", "x.cpio", "--label", "x"],
            1,
            "layerinit: read x.cpio: not a directory: --label is for what becomes an EROFS image, a file stays as it is",
        ),
    ] {
        let (_, stderr, code) = build(&directory, words);
        assert_eq!(code, status, "{words:?}: {stderr}");
        assert_eq!(stderr.lines().next(), Some(expected), "{words:?}");
    }
}
