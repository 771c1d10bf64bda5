//! Help, wrong usage, and files that are no images.

use super::*;

#[test]
fn help_is_printed_and_wrong_usage_has_status_2() {
    let directory = scratch("tool-help");
    let help = good(&directory, &["--help"]);
    for command in ["build", "list", "check", "plan", "boot"] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        let help = good(&directory, &[command, "--help"]);
        assert!(
            help.contains(&format!("Usage: layerinit {command} ")),
            "{help}"
        );
        assert!(
            help.contains(&format!("Examples:\n  layerinit {command} ")),
            "{help}"
        );
    }
    assert!(good(&directory, &["--version"]).starts_with("layerinit "));
    for words in [
        &[][..],
        &["bake"],
        &["build"],
        &["build", "-o", "x", "--kernel", "6.12"],
        &["build", "-o", "x", "--module", "ext4"],
        &["build", "-o", "x", "--mtime", "-1"],
        &["build", "-o", "x", "--cpio-align", "6"],
        &["list"],
        &["boot"],
        &["boot", "x", "--port", "80"],
        &["boot", "x", "--memory", "0"],
        &["boot", "x", "--smp", "0"],
        &["check", "--pad", "8", "a", "b"],
    ] {
        let (stdout, stderr, status) = run(&directory, words);
        assert_eq!((stdout.as_str(), status), ("", 2), "{words:?}");
        assert!(stderr.contains("--help"), "{words:?}: {stderr}");
    }
    assert_eq!(names(&directory), BTreeSet::new());
}

#[test]
fn files_that_are_no_images_are_named() {
    let directory = scratch("tool-no-image");
    for command in ["list", "check", "plan"] {
        let missing = bad(&directory, &[command, "missing"]);
        assert_eq!(
            missing,
            "layerinit: open missing: ENOENT: No such file or directory\n"
        );
        assert_eq!(
            bad(&directory, &[command, "."]),
            "layerinit: open .: not a regular file\n"
        );
        // The tool does not wait for a writer of the pipe.
        let made = Command::new("mkfifo").arg(directory.join(command)).status();
        assert!(made.unwrap().success());
        assert_eq!(
            bad(&directory, &[command, command]),
            format!("layerinit: open {command}: not a regular file\n")
        );
    }
}

#[test]
fn names_in_messages_have_no_control_characters() {
    let directory = workshop("tool-message");
    let output = tool(&directory)
        .args(["list", "a\x1b[31m\nb"])
        .output()
        .unwrap();
    assert_eq!(
        said(&output).1,
        "layerinit: open a\\u{1b}[31m\\nb: ENOENT: No such file or directory\n"
    );
}

#[test]
fn the_init_of_this_build_is_known_with_its_version() {
    let init = Opened::open(Path::new(env!("CARGO_BIN_EXE_init"))).unwrap();
    let version = layerinit::format::elf::layerinit_version(&init);
    assert_eq!(version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
    // The tool, which contains the text of the note, is not an /init either.
    let tool = Opened::open(Path::new(env!("CARGO_BIN_EXE_layerinit"))).unwrap();
    assert_eq!(layerinit::format::elf::layerinit_version(&tool), None);
}
