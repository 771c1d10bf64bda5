//! `build --layers-outside`: layers for a disk, with dm-verity hash trees, fs-verity digests, and a signed
//! list.

use super::*;

/// A workshop with a directory and an archive as layers.
fn shop(name: &str) -> std::path::PathBuf {
    let directory = workshop(name);
    fs::write(directory.join("init"), init_for(62)).unwrap();
    let tree = directory.join("big/usr");
    fs::create_dir_all(&tree).unwrap();
    // More than 128 blocks: a tree of two levels.
    let mut bytes = Vec::new();
    for number in 0..200_000u32 {
        bytes.extend((number.wrapping_mul(2_654_435_761)).to_le_bytes());
    }
    fs::write(tree.join("data"), bytes).unwrap();
    directory
}

fn build(directory: &Path, more: &[&str]) -> String {
    let words = [
        "build",
        "-o",
        "loader.img",
        "--init",
        "init",
        "--layers-outside",
        "disk",
    ];
    let layers = [
        "--layer",
        "big",
        "--layer",
        "base.erofs",
        "--layer",
        "late.cpio",
    ];
    good(directory, &[&words[..], &layers, more].concat())
}

/// Runs a program; returns its output, and whether it succeeded.
fn output(directory: &Path, package: &str, program: &str, words: &[&str]) -> (String, bool) {
    let mut command = Command::new(program);
    let command = command.current_dir(directory).args(words);
    let output = command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output();
    let output = output.unwrap_or_else(|error| {
        panic!("{program}: {error}; this test needs the Debian package {package}")
    });
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (text.into_owned(), output.status.success())
}

/// A file of the loader.
fn loader_file(directory: &Path, name: &str) -> String {
    let script = format!("cpio -i --quiet --to-stdout {name} <loader.img");
    let (text, success) = output(directory, "cpio", "sh", &["-c", &script]);
    assert!(success, "{text}");
    text
}

/// The list in the loader.
fn list(directory: &Path) -> Vec<String> {
    let text = loader_file(directory, "etc/layerinit/layers.sha256");
    text.lines().map(String::from).collect()
}

fn flip(directory: &Path, name: &str, at: u64) {
    let path = directory.join(name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn hash_trees_equal_those_of_veritysetup() {
    let directory = shop("outside-verity");
    build(
        &directory,
        &[
            "--verify",
            "--verity",
            "--verity-options",
            "panic-on-corruption",
        ],
    );
    let lines = list(&directory);
    let image = fs::read(directory.join("disk/10-big.erofs")).unwrap();
    let length = layerinit::format::erofs::Superblock::read(&&image[..], 0)
        .unwrap()
        .unwrap()
        .length();
    let offset = format!("--hash-offset={}", length.next_multiple_of(4096));
    let root = lines[0]
        .strip_prefix("verity:")
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    for (name, line) in [("10-big.erofs", &lines[0]), ("20-base.erofs", &lines[1])] {
        assert!(
            line.starts_with("verity:") && line.ends_with(&format!("  {name}")),
            "{line}"
        );
    }
    assert!(
        !lines[2].contains(':') && lines[2].ends_with("  30-late.cpio"),
        "{lines:?}"
    );
    let verify = |root: &str| {
        let words = [
            "verify",
            "disk/10-big.erofs",
            "disk/10-big.erofs",
            root,
            &offset,
        ];
        output(&directory, "cryptsetup-bin", "veritysetup", &words)
    };
    let (said, success) = verify(root);
    assert!(success, "{said}");
    let other = root.replace('a', "b");
    assert!(!verify(&other).1);
    let (said, _) = output(
        &directory,
        "cryptsetup-bin",
        "veritysetup",
        &["dump", "disk/10-big.erofs", &offset],
    );
    assert!(
        said.contains("Hash algorithm:  \tsha256\nSalt:            \t-\n"),
        "{said}"
    );

    let policy = loader_file(&directory, "etc/layerinit/policy");
    assert!(
        policy.ends_with("verity-options panic-on-corruption\nallow rd.layers.from\n"),
        "{policy}"
    );
    let verified = good(&directory, &["verify", "loader.img", "--from", "disk"]);
    assert_eq!(verified.lines().count(), 4, "{verified}");
    assert!(
        verified.starts_with(&format!("verity:{root}  ")),
        "{verified}"
    );
    // The layers would also boot without the tree.
    let (said, _, status) = run(
        &directory,
        &[
            "check",
            "loader.img",
            "--cmdline",
            "rd.layers.from=LABEL=a:/",
            "--from",
            "disk",
        ],
    );
    assert!(!said.contains("verification"), "{said} {status}");

    // A flipped bit in the data, in the tree, and in its superblock.
    let good_image = image;
    for (at, message) in [
        (
            5000,
            "the hash tree after the image is not that of its data",
        ),
        (
            good_image.len() as u64 - 5,
            "the hash tree after the image is not that of its data",
        ),
        (length.next_multiple_of(4096), "; the list has verity:"),
        (
            length.next_multiple_of(4096) + 4096,
            "; the list has verity:",
        ),
    ] {
        flip(&directory, "disk/10-big.erofs", at);
        let (_, stderr, status) = run(&directory, &["verify", "loader.img", "--from", "disk"]);
        assert!(status == 1 && stderr.contains(message), "{at} {stderr}");
        fs::write(directory.join("disk/10-big.erofs"), &good_image).unwrap();
    }
    // Without --from, the layers are missing.
    let (_, stderr, status) = run(&directory, &["verify", "loader.img"]);
    assert!(
        status == 1 && stderr.contains("is missing; there are 0 layers"),
        "{stderr}"
    );
}

#[test]
fn fs_verity_digests_equal_those_of_fsverity() {
    let directory = shop("outside-fs-verity");
    build(&directory, &["--verify", "--fs-verity"]);
    let files = [
        "disk/10-big.erofs",
        "disk/20-base.erofs",
        "disk/30-late.cpio",
    ];
    let (said, success) = output(
        &directory,
        "fsverity",
        "fsverity",
        &[&["digest"][..], &files].concat(),
    );
    assert!(success, "{said}");
    let lines: Vec<_> = list(&directory)
        .iter()
        .map(|line| line.replacen("  ", " disk/", 1))
        .collect();
    assert_eq!(lines, said.lines().collect::<Vec<_>>());
    good(&directory, &["verify", "loader.img", "--from", "disk"]);
    flip(&directory, "disk/30-late.cpio", 3);
    let (_, stderr, status) = run(&directory, &["verify", "loader.img", "--from", "disk"]);
    assert!(status == 1, "{stderr}");
}

#[test]
fn a_signed_list_is_beside_the_layers() {
    let directory = shop("outside-signed");
    let (said, success) = output(
        &directory,
        "minisign",
        "minisign",
        &["-G", "-W", "-p", "a.pub", "-s", "a.key"],
    );
    assert!(success, "{said}");
    let words = [
        "--verify",
        "--verity",
        "--key",
        "a.pub",
        "--minimum-version",
        "3",
    ];
    // Somebody else signs it.
    build(&directory, &words);
    assert!(directory.join("disk/layers.sha256").exists());
    assert!(!directory.join("disk/layers.sha256.minisig").exists());
    build(
        &directory,
        &[&words[..], &["--sign", "a.key", "--list-version", "3"]].concat(),
    );
    let verify = ["verify", "loader.img", "--from", "disk"];
    good(&directory, &verify);
    good(&directory, &[&verify[..], &["--key", "a.pub"]].concat());
    flip(&directory, "disk/layers.sha256", 9);
    let (_, stderr, status) = run(&directory, &verify);
    assert!(
        status == 1 && stderr.contains("made with none of the keys"),
        "{stderr}"
    );
    build(
        &directory,
        &[&words[..], &["--sign", "a.key", "--list-version", "2"]].concat(),
    );
    let (_, stderr, status) = run(&directory, &verify);
    assert!(
        status == 1 && stderr.contains("the list has version 2"),
        "{stderr}"
    );
}

#[test]
fn layers_outside_work_without_verification() {
    let directory = shop("outside-plain");
    let said = build(&directory, &["--verity"]);
    assert!(
        said.contains("disk/10-big.erofs: ") && said.contains(" bytes, with a hash tree\n"),
        "{said}"
    );
    assert!(said.trim_end().ends_with("3 layers in disk"), "{said}");
    let again: Vec<_> = ["10-big.erofs", "20-base.erofs", "30-late.cpio"]
        .map(|name| fs::read(directory.join("disk").join(name)).unwrap())
        .into();
    build(&directory, &["--verity"]);
    for (name, bytes) in ["10-big.erofs", "20-base.erofs", "30-late.cpio"]
        .iter()
        .zip(&again)
    {
        assert!(
            fs::read(directory.join("disk").join(name)).unwrap() == *bytes,
            "{name}"
        );
    }
    let cmdline = ["--cmdline", "rd.layers.from=LABEL=a:/", "--from", "disk"];
    let (plan, ..) = run(
        &directory,
        &[&["plan", "loader.img"][..], &cmdline].concat(),
    );
    assert!(plan.contains("30-late.cpio"), "{plan}");
    let (_, stderr, status) = run(
        &directory,
        &["build", "-o", "x.img", "--verity", "--layer", "big"],
    );
    assert!(
        status == 2 && stderr.contains("--layers-outside"),
        "{stderr}"
    );
}
