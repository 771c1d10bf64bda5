//! Builds that fail or are interrupted, and failures of mkfs.erofs.

use super::*;

/// Expects that each build fails with its message, leaves no new file, and does not change an old image.
fn fail(directory: &Path, cases: &[(Vec<&str>, &str)]) {
    fs::write(directory.join("old"), "an old image").unwrap();
    let before = names(directory);
    for (words, expected) in cases {
        for output in ["new", "old"] {
            let words = [&["build", "-o", output][..], words].concat();
            assert_eq!(
                bad(directory, &words),
                format!("layerinit: {expected}\n"),
                "{words:?}"
            );
            assert_eq!(names(directory), before, "{words:?}");
        }
    }
    assert_eq!(fs::read(directory.join("old")).unwrap(), b"an old image");
}

#[test]
fn a_failed_build_leaves_no_file_and_keeps_an_old_image() {
    let directory = workshop("tool-build-fails");
    fs::write(
        directory.join("spec"),
        "dir /a 0755 0 0\nfile /b missing 0644 0 0\n",
    )
    .unwrap();
    fs::write(directory.join("bad-spec"), "dir /a 0755 0 0\n\nlink /b\n").unwrap();
    fail(
        &directory,
        &[
            (
                vec!["--spec", "missing"],
                "open missing: ENOENT: No such file or directory",
            ),
            (
                vec!["--spec", "spec"],
                "open missing (spec line 2): ENOENT: No such file or directory",
            ),
            (
                vec!["--spec", "bad-spec"],
                "read bad-spec line 3: \"link\" is not one of file, dir, nod, slink, pipe, sock",
            ),
            (
                vec!["--init", "missing"],
                "open missing (standard loader line 39): ENOENT: No such file or directory",
            ),
            (
                vec!["--init", "init", "--modules", "root"],
                "find modules in root: no lib/modules/VERSION/modules.dep here",
            ),
        ],
    );
    let before = names(&directory);
    assert_eq!(
        bad(&directory, &["build", "--init", "init", "-o", "root"]),
        "layerinit: write root: it exists, and is not a regular file\n"
    );
    assert_eq!(
        bad(
            &directory,
            &["build", "--init", "init", "-o", "nowhere/image"]
        ),
        "layerinit: write into nowhere: ENOENT: No such file or directory\n"
    );
    assert_eq!(names(&directory), before);
}

#[test]
fn a_build_with_an_invalid_layer_leaves_no_file_and_keeps_an_old_image() {
    let directory = workshop("tool-build-no-layer");
    fs::write(directory.join("text"), "this is no layer").unwrap();
    fs::write(directory.join("zeros"), [0; 4096]).unwrap();
    fs::write(directory.join("cut.erofs"), &erofs(2, "")[..5000]).unwrap();
    fs::write(
        directory.join("trailing"),
        join(&[&cpio(&[file("x", b"")]), &bootconfig(b"a")]),
    )
    .unwrap();
    fs::write(directory.join("empty"), "").unwrap();
    let layer = |path| vec!["--init", "init", "--layer", "base.erofs", "--layer", path];
    fail(
        &directory,
        &[
            (
                layer("missing"),
                "open missing: ENOENT: No such file or directory",
            ),
            (
                layer("text"),
                "read text: neither a directory, an EROFS image nor a cpio archive (read at 0x0: \
                         neither cpio nor EROFS: 74 68 69 73 20 69 73 20 \"this is \")",
            ),
            (layer("zeros"), "read zeros: it holds only zeros, no layer"),
            (layer("empty"), "read empty: it is empty, no layer"),
            (
                layer("cut.erofs"),
                "read cut.erofs: neither a directory, an EROFS image nor a cpio archive (read \
                              at 0x0: truncated EROFS image: its superblock says 8192 bytes, the initrd has 5000 from here)",
            ),
            (
                layer("trailing"),
                "read trailing: it ends with a bootconfig, which only works at the end of the whole image",
            ),
            (
                layer("."),
                "read .: the image is written into this directory, and would contain itself",
            ),
        ],
    );
}

#[test]
fn mkfs_erofs_gets_the_options_and_its_messages_are_shown_if_it_fails() {
    let directory = workshop("tool-build-mkfs");
    fs::create_dir(directory.join("bin")).unwrap();
    let words = ["build", "-o", "image", "--init", "init", "--layer", "root"];
    let with_path = |more: &[&str]| {
        let mut command = tool(&directory);
        said(
            &command
                .args(words)
                .args(more)
                .env("PATH", directory.join("bin"))
                .output()
                .unwrap(),
        )
    };
    let (_, stderr, status) = with_path(&[]);
    let missing = "layerinit: run mkfs.erofs for root: it is not installed; on Debian: apt install erofs-utils\n";
    assert_eq!((stderr.as_str(), status), (missing, 1));

    script(
        &directory.join("bin/mkfs.erofs"),
        "echo progress; echo no room >&2; exit 3",
    );
    let (stdout, stderr, status) = with_path(&[]);
    let failed = "layerinit: run mkfs.erofs for root: exit status: 3\n    no room\n";
    assert_eq!((stdout.as_str(), stderr.as_str(), status), ("", failed, 1));

    script(&directory.join("bin/mkfs.erofs"), "echo \"$*\" >&2; exit 1");
    let (_, stderr, _) = with_path(&[
        "--mtime",
        "5",
        "--mkfs-erofs-arg=--all-root",
        "--mkfs-erofs-arg=-C65536",
    ]);
    let root = fs::canonicalize(directory.join("root")).unwrap();
    let nil = "-U00000000-0000-0000-0000-000000000000";
    let given = stderr.lines().last().unwrap().trim();
    assert!(
        given.starts_with(&format!("-zlz4hc -T5 {nil} --all-root -C65536 ")),
        "{given}"
    );
    assert!(
        given.ends_with(&format!(" /proc/self/fd/0 {}", root.display())),
        "{given}"
    );
    let (_, stderr, _) = with_path(&["--erofs-compression", "none"]);
    assert!(
        stderr
            .lines()
            .last()
            .unwrap()
            .trim()
            .starts_with("-Enoinline_data -T0 -U"),
        "{stderr}"
    );
    assert!(!directory.join("image").exists());
}

#[test]
fn an_interrupted_build_leaves_no_file_and_no_process() {
    let directory = workshop("tool-build-interrupted");
    fs::create_dir(directory.join("bin")).unwrap();
    let slow = "echo $$ >\"${0%/*}/../pid.new\"; mv \"${0%/*}/../pid.new\" \"${0%/*}/../pid\"; exec sleep 1000";
    script(&directory.join("bin/mkfs.erofs"), slow);
    let path = format!("{}:/usr/bin:/bin", directory.join("bin").display());
    for (signal, status) in [("INT", 130), ("TERM", 143), ("HUP", 129), ("QUIT", 131)] {
        let before = names(&directory);
        // A shell that runs the tests in the background makes them ignore SIGINT, and the tool would inherit
        // that.
        let mut build = Command::new("env");
        build
            .arg(format!("--default-signal={signal}"))
            .arg(env!("CARGO_BIN_EXE_layerinit"))
            .args(["build", "-o", "image", "--init", "init", "--layer", "root"])
            .current_dir(&directory)
            .env("PATH", &path);
        let mut build = build.spawn().unwrap();
        let patience = Instant::now() + Duration::from_secs(60);
        while !directory.join("pid").exists() {
            assert!(Instant::now() < patience, "mkfs.erofs was not started");
            std::thread::sleep(Duration::from_millis(5));
        }
        let kill = format!("kill -{signal} {}", build.id());
        let kill = Command::new("sh").args(["-c", &kill]).status();
        assert!(kill.unwrap().success());
        assert_eq!(build.wait().unwrap().code(), Some(status), "SIG{signal}");
        let pid = fs::read_to_string(directory.join("pid")).unwrap();
        fs::remove_file(directory.join("pid")).unwrap();
        assert_eq!(names(&directory), before, "SIG{signal}");
        // Killed, but not yet reaped by init.
        let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        assert!(
            state.is_empty() || state.contains(") Z "),
            "SIG{signal}: {state}"
        );
    }
}

#[test]
fn a_build_ignores_signals_that_its_parent_ignores() {
    let directory = workshop("tool-build-nohup");
    fs::create_dir(directory.join("bin")).unwrap();
    script(
        &directory.join("bin/mkfs.erofs"),
        "kill -HUP $PPID; exec /usr/bin/mkfs.erofs \"$@\"",
    );
    let path = format!("{}/bin:/usr/bin:/bin", directory.display());
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' HUP; exec \"$@\"", "-"])
        .arg(env!("CARGO_BIN_EXE_layerinit"))
        .args(["build", "-o", "image", "--init", "init", "--layer", "root"]);
    let output = shell.current_dir(&directory).env("PATH", path).output();
    assert_eq!(said(&output.unwrap()).2, 0);
    assert!(directory.join("image").exists());
}

#[test]
fn fakeroot_is_refused_where_it_has_no_effect() {
    let directory = workshop("tool-build-fakeroot");
    let build = |form: &str| {
        let words = [
            "build", "-o", "image", "--init", "init", "--layer", "root", "--as", form,
        ];
        let mut command = tool(&directory);
        said(
            &command
                .args(words)
                .env("FAKEROOTKEY", "1")
                .output()
                .unwrap(),
        )
    };
    assert_eq!(build("erofs").2, 0);
    let (_, stderr, status) = build("cpio.gz");
    assert!(
        stderr.starts_with("layerinit: read root: fakeroot has no effect"),
        "{stderr}"
    );
    assert_eq!(status, 1);
}
