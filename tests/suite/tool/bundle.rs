//! `layerinit build --uki`, `--fit` and `--iso`: the programs that it runs, and `list` of the output.

use super::*;

/// A directory with a kernel for x86, a layer, and these programs.
fn workbench(name: &str, programs: &[(&str, &str)]) -> std::path::PathBuf {
    let directory = workshop(name);
    fs::write(directory.join("init"), init_for(62)).unwrap();
    let mut kernel = vec![0; 1024];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    fs::write(directory.join("vmlinuz-6.12-x"), kernel).unwrap();
    fs::create_dir(directory.join("bin")).unwrap();
    for (program, text) in programs {
        script(&directory.join("bin").join(program), text);
    }
    directory
}

/// Runs `layerinit build` with these words. The programs in the directory come first in PATH.
fn build(directory: &Path, words: &[&str]) -> (String, String, i32) {
    let bin = directory.canonicalize().unwrap().join("bin");
    let mut command = tool(directory);
    command.env("PATH", format!("{}:/usr/bin:/bin:/usr/sbin", bin.display()));
    command.arg("build").args(words);
    said(&command.output().unwrap())
}

const UKIFY: &str = "for word; do echo \"$word\"; done >words\n\
    for word; do case $word in --initrd=*) cp \"${word#*=}\" seen;; --os-release=@*) cp \"${word#*@}\" release;;\n\
    --output=*) echo uki >\"${word#*=}\";; esac; done";

/// The words of ukify, with the paths of temporary files shortened.
fn ukify_words(directory: &Path) -> Vec<String> {
    let words = fs::read_to_string(directory.join("words")).unwrap();
    let short = |word: &str| match (word.split_once('='), word.rsplit_once('/')) {
        (Some((option, _)), Some((path, name))) if path.contains(".layerinit-") => {
            format!("{option}=TMP/{name}")
        }
        (Some(("--output", _)), _) => "--output=TMP".into(),
        _ => word.to_string(),
    };
    words.lines().map(short).collect()
}

#[test]
fn ukify_gets_the_kernel_the_image_and_the_command_line() {
    let directory = workbench("bundle-uki", &[("ukify", UKIFY)]);
    fs::create_dir_all(directory.join("root/usr/lib")).unwrap();
    fs::write(directory.join("root/usr/lib/os-release"), "ID=test\n").unwrap();
    let words = [
        "--uki",
        "o.efi",
        "--kernel",
        "./vmlinuz-6.12-x",
        "--init",
        "init",
        "--layer",
        "root",
        "--uki-stub",
        "s.stub",
        "--cmdline",
        "quiet retain_initrd",
        "--uki-sign",
        "db.key",
        "db.crt",
    ];
    let (stdout, stderr, status) = build(&directory, &words);
    assert_eq!((stderr.as_str(), status), ("", 0));
    assert!(stdout.starts_with("initrd: "), "{stdout}");
    assert!(
        stdout.ends_with("\no.efi: 4 bytes, unified kernel image for x86_64\n"),
        "{stdout}"
    );
    let expected = [
        "build",
        "--efi-arch=x64",
        "--linux=./vmlinuz-6.12-x",
        "--initrd=TMP/initrd",
        "--cmdline=quiet retain_initrd",
        "--os-release=TMP/os-release",
        "--stub=s.stub",
        "--secureboot-private-key=db.key",
        "--secureboot-certificate=db.crt",
        "--output=TMP",
    ];
    assert_eq!(ukify_words(&directory), expected);
    assert_eq!(
        fs::read_to_string(directory.join("release")).unwrap(),
        "ID=test\n"
    );
    let image = ["-o", "plain.img", "--init", "init", "--layer", "root"];
    assert_eq!(build(&directory, &image).2, 0);
    let read = |name: &str| fs::read(directory.join(name)).unwrap();
    assert!(read("seen") == read("plain.img"), "ukify got another image");
    let left: Vec<_> = names(&directory)
        .into_iter()
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_missing_word_of_the_command_line_gets_a_warning() {
    let directory = workbench("bundle-words", &[("ukify", UKIFY)]);
    let words = |cmdline: &'static [&'static str]| {
        let words = [
            "--uki",
            "o.efi",
            "--kernel",
            "./vmlinuz-6.12-x",
            "--init",
            "init",
            "--layer",
            "root",
            "--uki-stub",
            "s",
        ];
        [&words[..], cmdline].concat()
    };
    let (stdout, ..) = build(&directory, &words(&["--cmdline", "quiet"]));
    let warning = "\nwarning: retain_initrd is not on the command line: most kernels free the layers before /init starts\n";
    assert!(stdout.contains(warning), "{stdout}");
    let (stdout, ..) = build(&directory, &words(&[]));
    assert!(!stdout.contains("warning"), "{stdout}");
    assert!(ukify_words(&directory).contains(&"--cmdline=retain_initrd".to_string()));
    let (stdout, ..) = build(
        &directory,
        &words(&["--cmdline", "quiet", "--layers-inside"]),
    );
    assert!(!stdout.contains("warning"), "{stdout}");
}

#[test]
fn an_addon_has_the_layers_and_no_loader() {
    let directory = workbench("bundle-addon", &[("ukify", UKIFY)]);
    let words = [
        "--uki",
        "x.addon.efi",
        "--layer",
        "base.erofs",
        "--uki-stub",
        "addon.stub",
    ];
    let (stdout, stderr, status) = build(&directory, &words);
    assert_eq!((stderr.as_str(), status), ("", 0));
    assert!(stdout.contains("loader 0 bytes"), "{stdout}");
    assert_eq!(fs::read(directory.join("seen")).unwrap(), erofs(2, "base"));
    assert!(
        !ukify_words(&directory)
            .iter()
            .any(|word| word.starts_with("--linux"))
    );
    for (more, why) in [
        (
            &["--kernel", "./vmlinuz-6.12-x"][..],
            "an addon (*.addon.efi) has no kernel: leave out --kernel",
        ),
        (
            &["--init", "init"],
            "an addon (*.addon.efi) has no loader: leave out --modules, --spec, --init and --verify",
        ),
        (
            &["--verify"],
            "an addon (*.addon.efi) has no loader: leave out --modules, --spec, --init and --verify",
        ),
        (
            &["--iso", "o.iso"],
            "an addon (*.addon.efi) has no loader, and --fit and --iso need one",
        ),
    ] {
        let (_, stderr, status) = build(&directory, &[&words[..], more].concat());
        assert_eq!(status, 2, "{stderr}");
        assert!(stderr.contains(why), "{stderr}");
    }
}

#[test]
fn missing_programs_and_files_are_named_and_no_file_is_left() {
    let directory = workbench(
        "bundle-missing",
        &[(
            "ukify",
            "echo 'Traceback (most recent call last):\n  File x\nValueError: no' >&2; exit 1",
        )],
    );
    let before = names(&directory);
    let uki = [
        "--uki",
        "o.efi",
        "--init",
        "init",
        "--layer",
        "root",
        "--uki-stub",
        "s",
    ];
    let (stdout, stderr, status) = build(&directory, &uki);
    assert_eq!((stdout.as_str(), status), ("", 1));
    let message = "layerinit: find a kernel: there is none in the layers (usr/lib/modules/*/vmlinuz); name one with --kernel\n";
    assert_eq!(stderr, message);
    let uki = [&uki[..], &["--kernel", "./vmlinuz-6.12-x"]].concat();
    let (_, stderr, status) = build(&directory, &uki);
    assert_eq!(status, 1);
    assert_eq!(
        stderr,
        "layerinit: run ukify for o.efi: exit status: 1\n    ValueError: no\n"
    );
    let (_, stderr, status) = build(
        &directory,
        &["-o", "-", "--uki", "o.efi", "--layer", "root"],
    );
    assert_eq!(status, 2);
    assert!(
        stderr.contains("--uki, --fit and --iso need an image in a file, and -o - has none"),
        "{stderr}"
    );
    let (_, stderr, status) = build(&directory, &["--uki", "no/o.efi", "--layer", "root"]);
    assert_eq!(status, 1);
    assert!(
        stderr.starts_with("layerinit: write into no: ENOENT"),
        "{stderr}"
    );
    assert_eq!(names(&directory), before);
}

/// `list` and `check` read a FIT image of mkimage.
#[test]
fn the_ramdisk_of_a_fit_image_is_the_image() {
    let directory = workbench("bundle-fit", &[]);
    let words = [
        "--fit",
        "o.itb",
        "-o",
        "a.img",
        "--kernel",
        "./vmlinuz-6.12-x",
        "--init",
        "init",
        "--layer",
        "root",
    ];
    let (stdout, stderr, status) = build(&directory, &words);
    assert_eq!(
        (stderr.as_str(), status),
        ("", 0),
        "are u-boot-tools and device-tree-compiler installed?"
    );
    assert!(
        stdout.contains(" bytes, FIT image for x86_64\n"),
        "{stdout}"
    );
    let plain = good(&directory, &["list", "a.img"]);
    let listed = good(&directory, &["list", "o.itb"]);
    let (place, segments) = listed.split_once("\n\n").unwrap();
    assert_eq!(segments, plain);
    let (_, place) = place.rsplit_once("ramdisk at ").unwrap();
    let offset = usize::from_str_radix(place.trim_start_matches("0x"), 16).unwrap();
    let (fit, image) = (
        fs::read(directory.join("o.itb")).unwrap(),
        fs::read(directory.join("a.img")).unwrap(),
    );
    assert_eq!(offset % 4096, 0);
    assert!(fit[offset..offset + image.len()] == image);
    let (stdout, ..) = run(&directory, &["check", "o.itb"]);
    assert!(!stdout.contains("U-Boot refuses it"), "{stdout}");
    let mut flipped = fit;
    flipped[offset + 64] ^= 1;
    fs::write(directory.join("bad.itb"), flipped).unwrap();
    let (stdout, ..) = run(&directory, &["check", "bad.itb"]);
    assert!(stdout.contains(": U-Boot refuses it"), "{stdout}");
}

/// An ISO as distributions make it, with an initrd that is named by its path.
#[test]
fn the_initrd_of_an_iso_is_found_by_its_path() {
    let directory = workbench("bundle-iso", &[]);
    let image = ["-o", "a.img", "--init", "init", "--layer", "root"];
    assert_eq!(build(&directory, &image).2, 0);
    for place in ["iso/boot/grub", "iso/live/deep"] {
        fs::create_dir_all(directory.join(place)).unwrap();
    }
    fs::copy(
        directory.join("a.img"),
        directory.join("iso/boot/initrd.img"),
    )
    .unwrap();
    fs::write(
        directory.join("iso/live/deep/A-long-Name.cpio"),
        cpio(&[file("x", b"1")]),
    )
    .unwrap();
    let menu = "set timeout=0\nmenuentry 'a' {\n\tlinux /boot/vmlinuz retain_initrd rd.overlay.readonly\n}\n";
    fs::write(directory.join("iso/boot/grub/grub.cfg"), menu).unwrap();
    for (options, iso) in [(&["-R"][..], "r.iso"), (&[], "plain.iso")] {
        let mut mkisofs = Command::new("genisoimage");
        mkisofs
            .args(["-quiet", "-o", iso])
            .args(options)
            .arg("iso")
            .current_dir(&directory);
        assert!(mkisofs.status().expect("genisoimage runs").success());
        let plain = good(&directory, &["list", "a.img"]);
        let listed = good(&directory, &["list", iso]);
        assert!(listed.ends_with(&format!("\n\n{plain}")), "{listed}");
        assert!(
            listed.contains(&format!(" {iso}:/boot/initrd.img\n")),
            "{listed}"
        );
        // This root has no init.
        let (plan, ..) = run(&directory, &["plan", iso]);
        assert!(
            plan.contains("read-only"),
            "the command line of the menu counts: {plan}"
        );
    }
    let deep = good(&directory, &["list", "r.iso:/live/deep/A-long-Name.cpio"]);
    assert!(deep.contains("cpio 1 member"), "{deep}");
    let missing = bad(&directory, &["list", "r.iso:/live/none"]);
    assert_eq!(
        missing,
        "layerinit: read r.iso: it has no file /live/none; name the initrd of an ISO as in FILE.iso:/live/initrd.img\n"
    );
    let no_iso = bad(&directory, &["list", "a.img:/boot/initrd.img"]);
    assert!(
        no_iso.starts_with("layerinit: read a.img: no ISO 9660 filesystem; "),
        "{no_iso}"
    );
}
