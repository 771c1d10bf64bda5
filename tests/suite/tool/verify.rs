//! `build --verify`, `verify`, and `check` of an image with a list of its layers.

use super::*;

/// A workshop with an archive of credentials, and the image `good.img` of three layers.
fn verified(name: &str, words: &[&str]) -> std::path::PathBuf {
    let directory = workshop(name);
    fs::write(directory.join("init"), init_for(62)).unwrap();
    fs::write(directory.join("app.erofs"), erofs(1, "app")).unwrap();
    let credentials = cpio(&[
        dir("run"),
        dir("run/creds"),
        file("run/creds/key", b"secret"),
    ]);
    fs::write(directory.join("creds.cpio"), credentials).unwrap();
    let build = ["build", "-o", "good.img", "--init", "init", "--verify"];
    let layers = [
        "--layer",
        "base.erofs",
        "--layer",
        "app.erofs",
        "--layer",
        "late.cpio",
    ];
    good(&directory, &[&build[..], &layers, words].concat());
    directory
}

fn digest(directory: &Path, name: &str) -> String {
    let output = Command::new("sha256sum")
        .arg(directory.join(name))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(' ').next().unwrap().into()
}

/// The output of `verify` for the image with a change.
fn changed(directory: &Path, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut image = fs::read(directory.join("good.img")).unwrap();
    change(&mut image);
    fs::write(directory.join("changed.img"), image).unwrap();
    let (_, stderr, status) = run(directory, &["verify", "changed.img"]);
    assert_eq!(status, 1, "{stderr}");
    stderr
}

/// The offset of bytes in an image.
fn position(image: &[u8], bytes: &[u8]) -> usize {
    let found = image
        .windows(bytes.len())
        .position(|window| window == bytes);
    found.unwrap()
}

#[test]
fn the_loader_lists_the_digests_of_the_files() {
    let directory = verified("verify-list", &["--verify-allow", "rd.shell"]);
    let line = |name: &str| format!("{}  {name}\n", digest(&directory, name));
    let list = ["base.erofs", "app.erofs", "late.cpio"].map(line).concat();
    let image = fs::read(directory.join("good.img")).unwrap();
    position(&image, list.as_bytes());
    position(&image, b"\nallow rd.shell\n");
    let said = good(&directory, &["verify", "good.img"]);
    assert!(
        said.ends_with("good.img: as the loader lists it\n"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 4, "{said}");
    let (said, ..) = run(
        &directory,
        &[
            "check",
            "good.img",
            "--cmdline",
            "retain_initrd quiet rd.shell",
        ],
    );
    assert!(!said.contains("verification"), "{said}");
    // An EROFS image follows the loader, so no other stop is needed.
    assert!(!good(&directory, &["list", "good.img"]).contains("stop"));
}

#[test]
fn a_layer_that_is_not_listed_is_named_with_both_digests() {
    let directory = verified("verify-changed", &[]);
    let image = fs::read(directory.join("good.img")).unwrap();
    let [base, app] = ["base.erofs", "app.erofs"].map(|name| {
        let bytes = fs::read(directory.join(name)).unwrap();
        (position(&image, &bytes), bytes, digest(&directory, name))
    });

    let said = changed(&directory, |image| image[app.0 + 3000] ^= 1);
    assert!(
        said.contains(&format!("(initrd+{0:#x}): offset {0:#x}, sha256 ", app.0)),
        "{said}"
    );
    assert!(
        said.contains(&format!("; the list has {}  app.erofs", app.2)),
        "{said}"
    );

    let said = changed(&directory, |image| {
        image.drain(app.0..app.0 + app.1.len());
    });
    assert!(
        said.contains("app.erofs, which is missing, and this layer as number 2"),
        "{said}"
    );

    let said = changed(&directory, |image| {
        let end = app.0 + app.1.len();
        let between = image[base.0 + base.1.len()..app.0].to_vec();
        let swapped = [&app.1[..], &between, &base.1].concat();
        image.splice(base.0..end, swapped);
    });
    assert!(said.contains("the layers are in another order"), "{said}");

    let said = changed(&directory, |image| {
        image.extend(cpio(&[file("etc/shadow", b"")]))
    });
    assert!(
        said.contains(": not in the list, which has 3 lines"),
        "{said}"
    );

    let said = changed(&directory, |image| {
        pad(image, 4096);
        image.extend(&app.1);
    });
    assert!(
        said.contains(": the list has it once, as number 1, and ends before this layer"),
        "{said}"
    );

    let said = changed(&directory, |image| image.extend(b"junk"));
    assert!(said.contains("neither cpio nor EROFS"), "{said}");

    let said = changed(&directory, |image| image.truncate(app.0));
    assert!(
        said.contains("verify the layers: number 1 of the list"),
        "{said}"
    );

    let said = changed(&directory, |image| {
        let list = position(image, app.2.as_bytes());
        image[list] ^= 1;
    });
    assert!(said.contains("verify layer 1"), "{said}");
    let said = changed(&directory, |image| {
        let list = position(image, app.2.as_bytes());
        image[list] = b'x';
    });
    assert!(
        said.contains(
            "/etc/layerinit/layers.sha256: read line 2: the digest has not 64 hexadecimal digits"
        ),
        "{said}"
    );
    // `check` finds the same, and the words that the policy refuses.
    let (said, _, status) = run(
        &directory,
        &[
            "check",
            "changed.img",
            "--cmdline",
            "retain_initrd init=/bin/sh",
        ],
    );
    assert_eq!(status, 1);
    assert!(
        said.contains("error: verification: read /etc/layerinit/layers.sha256"),
        "{said}"
    );
    assert!(
        said.contains("error: verification: check init=/bin/sh: the policy"),
        "{said}"
    );
}

#[test]
fn the_kernel_does_not_unpack_archives_after_the_loader() {
    let directory = verified("verify-stop", &[]);
    let words = [
        "build",
        "-o",
        "stop.img",
        "--init",
        "init",
        "--verify",
        "--layer",
        "late.cpio",
    ];
    good(&directory, &words);
    let said = good(&directory, &["list", "stop.img"]);
    assert!(
        said.contains(" 16 stop of the kernel's unpacker\n"),
        "{said}"
    );
    good(&directory, &["verify", "stop.img"]);
    let words = [&words[..], &["--layer", "base.erofs", "--layers-inside"]].concat();
    good(&directory, &words);
    good(&directory, &["verify", "stop.img"]);
    // A boot loader appends another /init.
    let image = fs::read(directory.join("stop.img")).unwrap();
    let appended = [image, cpio(&[program("init")])].concat();
    fs::write(directory.join("appended.img"), appended).unwrap();
    let json = good(&directory, &["list", "--json", "appended.img"]);
    assert_eq!(json.matches("\"by_kernel\":true").count(), 1, "{json}");
    let (_, said, status) = run(&directory, &["verify", "appended.img"]);
    assert!(
        status == 1 && said.contains(": not in the list, which has 2 lines"),
        "{said}"
    );
}

#[test]
fn an_archive_that_may_vary_is_confined_to_its_directory() {
    let directory = verified(
        "verify-except",
        &[
            "--layer",
            "creds.cpio",
            "--verify-except",
            "creds",
            "--verify-except",
            "more:/run/more",
        ],
    );
    let image = fs::read(directory.join("good.img")).unwrap();
    position(
        &image,
        b"\nvary:/run/creds  creds.cpio\nvary:/run/more  more\n",
    );
    let at = position(&image, &fs::read(directory.join("creds.cpio")).unwrap());
    let with = |archive: &[u8]| {
        fs::write(directory.join("with.img"), [&image[..at], archive].concat()).unwrap();
        run(&directory, &["verify", "with.img"])
    };
    for archive in [
        cpio(&[]),
        cpio(&[file("run/creds/other", b"other")]),
        [
            cpio(&[file("run/creds/a", b"1")]),
            cpio(&[file("run/more/b", b"2")]),
        ]
        .concat(),
    ] {
        assert_eq!(with(&archive).2, 0);
    }
    for (archive, expected) in [
        (
            cpio(&[file("etc/shadow", b"")]),
            "creds.cpio may vary, but etc/shadow is not below /run/creds; more may vary, but etc/shadow is not below \
             /run/more",
        ),
        (
            [
                cpio(&[file("run/more/b", b"2")]),
                cpio(&[file("run/creds/a", b"1")]),
            ]
            .concat(),
            "more may vary, but run/creds/a is not below /run/more",
        ),
        (
            erofs(1, "creds"),
            "creds.cpio may vary, but it is not a cpio archive",
        ),
    ] {
        let (_, said, status) = with(&archive);
        assert!(status == 1 && said.contains(expected), "{said}");
    }
}

/// Runs minisign with a test key pair, `NAME.key` and `NAME.pub`.
fn minisign(directory: &Path, words: &[&str]) {
    let mut command = Command::new("minisign");
    let output = command.current_dir(directory).args(words).output();
    let output = output.expect("this test needs minisign (package minisign)");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_list_from_outside_the_loader_has_to_be_signed() {
    let directory = verified("verify-signed", &[]);
    for name in ["k", "o"] {
        let (public, secret) = (format!("{name}.pub"), format!("{name}.key"));
        minisign(
            &directory,
            &["-G", "-W", "-f", "-p", &public, "-s", &secret],
        );
    }
    let build = |words: &[&str]| {
        let all = [
            "build",
            "-o",
            "signed.img",
            "--init",
            "init",
            "--verify",
            "--key",
            "k.pub",
        ];
        let layers = ["--layer", "base.erofs", "--layer", "late.cpio"];
        good(&directory, &[&all[..], &layers, words].concat());
        fs::read(directory.join("signed.img")).unwrap()
    };
    let verify = |image: &[u8], words: &[&str]| {
        fs::write(directory.join("it.img"), image).unwrap();
        run(&directory, &[&["verify", "it.img"], words].concat())
    };
    let image = build(&["--sign", "k.key", "--list-version", "7"]);
    assert_eq!(image, build(&["--sign", "k.key", "--list-version", "7"]));
    let (said, _, status) = verify(&image, &[]);
    assert!(status == 0 && said.lines().count() == 3, "{said}");
    assert_eq!(verify(&image, &["--key", "k.pub"]).2, 0);
    let (_, said, status) = verify(&image, &["--key", "o.pub"]);
    assert!(
        status == 1 && said.contains("made with none of the keys (o.pub: "),
        "{said}"
    );
    // The list is not a layer.
    let (said, ..) = run(&directory, &["plan", "signed.img"]);
    assert_eq!(said.matches(" bytes, ").count(), 2, "{said}");
    let changed = |from: &[u8]| {
        let mut image = image.clone();
        let at = position(&image, from);
        // Another base64 digit, so that the damaged text is still valid base64.
        let byte = &mut image[at + from.len()];
        *byte = if *byte == b'A' { b'B' } else { b'A' };
        verify(&image, &[])
    };
    for from in [
        &b"trusted comment: version:"[..],
        &digest(&directory, "base.erofs").as_bytes()[..30],
    ] {
        let (_, said, status) = changed(from);
        assert!(
            status == 1 && said.contains("made with none of the keys"),
            "{said}"
        );
    }
    let key = fs::read(directory.join("k.pub")).unwrap();
    let (_, said, status) = changed(&key[..key.len() - 20]);
    assert!(
        status == 1 && said.contains("verify the signature"),
        "{said}"
    );
    // Without the list.
    let image = build(&[]);
    let (_, said, status) = verify(&image, &[]);
    assert!(
        status == 1 && said.contains("the list has to be signed, and there is no"),
        "{said}"
    );
    // An older list.
    let image = build(&[
        "--sign",
        "k.key",
        "--list-version",
        "7",
        "--minimum-version",
        "8",
    ]);
    let (_, said, status) = verify(&image, &[]);
    assert!(
        status == 1 && said.contains("the list has version 7, and the loader boots none before 8"),
        "{said}"
    );
    // Signed with another key.
    let image = build(&["--sign", "o.key"]);
    let (_, said, status) = verify(&image, &[]);
    assert!(
        status == 1 && said.contains("made with none of the keys"),
        "{said}"
    );
    // A list made by hand, and one in the loader.
    let image = build(&["--layers-inside", "--sign", "k.key"]);
    assert_eq!(verify(&image, &[]).2, 0);
    good(
        &directory,
        &[
            "build", "-o", "loader", "--init", "init", "--verify", "--key", "k.pub",
        ],
    );
    let list = ["base.erofs", "late.cpio"]
        .map(|name| format!("{}  {name}\n", digest(&directory, name)))
        .concat();
    fs::write(directory.join("list"), &list).unwrap();
    minisign(
        &directory,
        &["-S", "-l", "-s", "k.key", "-m", "list", "-x", "sig"],
    );
    let [loader, signature, base, late] = ["loader", "sig", "base.erofs", "late.cpio"]
        .map(|name| fs::read(directory.join(name)).unwrap());
    let archive = cpio(&[
        dir("etc"),
        dir("etc/layerinit"),
        file("etc/layerinit/layers.sha256", list.as_bytes()),
        file("etc/layerinit/layers.sha256.minisig", &signature),
    ]);
    let image = [loader, archive, base, late].concat();
    let (_, said, status) = verify(&image, &[]);
    assert_eq!((said.as_str(), status), ("", 0));
}

#[test]
fn invalid_exceptions_are_refused() {
    let directory = verified("verify-wrong", &[]);
    let build = [
        "build",
        "-o",
        "x.img",
        "--init",
        "init",
        "--layer",
        "base.erofs",
        "--layer",
        "creds.cpio",
    ];
    let bad = |words: &[&str]| run(&directory, &[&build[..], words].concat()).1;
    for (words, expected) in [
        (
            &["--verify", "--verify-except", "base"][..],
            "let vary base.erofs: it is not a cpio archive",
        ),
        (
            &["--verify", "--verify-except", "creds:/etc"],
            "run is not below /etc",
        ),
        (
            &["--verify", "--verify-except", "other"],
            "no layer has this file name, and there is no directory",
        ),
        (
            &["--verify", "--verify-except", "creds:/"],
            "an absolute path, not /",
        ),
        (
            &["--verify", "--verify-allow", "rd.brake"],
            "/init has no word rd.brake",
        ),
        (&["--verify-allow", "rd.break"], "--verify"),
    ] {
        let said = bad(words);
        assert!(said.contains(expected), "{words:?}: {said}");
    }
    fs::write(
        directory.join("spec"),
        "file etc/layerinit/layers.sha256 base.erofs 0644 0 0\n",
    )
    .unwrap();
    let said = bad(&["--verify", "--spec", "spec"]);
    assert!(said.contains("a spec has this file already"), "{said}");
    let said = run(&directory, &["verify", "base.erofs"]).1;
    assert!(
        said.contains("there is no /etc/layerinit/layers.sha256"),
        "{said}"
    );
}

#[test]
fn an_archive_in_front_of_the_loader_must_not_change_it() {
    let directory = verified("verify-front", &[]);
    let image = fs::read(directory.join("good.img")).unwrap();
    let with = |archive: &[u8]| {
        fs::write(directory.join("front.img"), [archive, &image].concat()).unwrap();
        run(&directory, &["verify", "front.img"])
    };
    let microcode = cpio(&[
        dir("kernel"),
        dir("kernel/x86"),
        dir("kernel/x86/microcode"),
        file("kernel/x86/microcode/a", b"1"),
    ]);
    assert_eq!(with(&microcode).2, 0);
    assert_eq!(with(&cpio(&[dir("bin"), program("bin/sh")])).2, 0);
    let (_, said, status) = with(&cpio(&[file("lib/modules/6.12/evil.ko", b"")]));
    assert_eq!(status, 1);
    assert!(
        said.contains("the archive at 0x0 in front of the loader: lib/modules/6.12/evil.ko is where /init reads its own files"),
        "{said}"
    );
    let (_, said, status) = with(&cpio(&[
        dir("layers"),
        file("layers/99-x", &cpio(&[file("x", b"")])),
    ]));
    assert!(status == 1 && said.contains("layers/99-x"), "{said}");
}

#[test]
fn layers_on_a_disk_are_compared_with_the_list() {
    let directory = verified("verify-disk", &["--verify-allow", "rd.layers.from"]);
    fs::create_dir(directory.join("disk")).unwrap();
    fs::copy(directory.join("base.erofs"), directory.join("disk/base")).unwrap();
    let from = "rd.layers.from=LABEL=sys:/base retain_initrd";
    let words = ["check", "good.img", "--cmdline", from, "--from", "disk"];
    let (said, ..) = run(&directory, &words);
    // The list has the layer once; the disk and the initrd both have it.
    let refusal = "verification: verify layer 1 (initrd+0x1000): ";
    assert!(said.contains(refusal), "{said}");
}

#[test]
fn a_squashfs_image_stops_the_kernel_as_an_erofs_image_does() {
    let directory = verified("verify-squashfs", &[]);
    let mut command = Command::new("mksquashfs");
    let command = command.current_dir(&directory);
    let output = command.args(["root", "base.squashfs", "-quiet"]).output();
    let output = output.expect("this test needs mksquashfs (package squashfs-tools)");
    assert!(output.status.success(), "{output:?}");
    let build = ["build", "-o", "s.img", "--init", "init", "--verify"];
    good(
        &directory,
        &[&build[..], &["--layer", "base.squashfs"]].concat(),
    );
    assert!(!good(&directory, &["list", "s.img"]).contains("stop"));
    good(&directory, &["verify", "s.img"]);
    let mut image = fs::read(directory.join("s.img")).unwrap();
    image.extend(cpio(&[program("init")]));
    fs::write(directory.join("s.img"), image).unwrap();
    let json = good(&directory, &["list", "--json", "s.img"]);
    assert_eq!(json.matches("\"by_kernel\":true").count(), 1, "{json}");
    let (_, said, status) = run(&directory, &["verify", "s.img"]);
    let refusal = ": not in the list, which has 1 lines";
    assert!(status == 1 && said.contains(refusal), "{said}");
}
