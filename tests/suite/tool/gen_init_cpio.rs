//! Compares the tool's archives with those of the kernel's usr/gen_init_cpio, byte for byte. The program is
//! built from Debian's kernel source: 6.12, and the newest, which has more options.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::support::{said, scratch, tool};

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// Runs a command that must succeed; returns its standard output.
fn run(command: &mut Command, purpose: &str) -> Vec<u8> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{purpose}: {command:?} does not start: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{purpose}: {command:?}: {}\n{stderr}",
        output.status
    );
    output.stdout
}

/// Returns the path of a Debian package in the cache, after downloading it if necessary.
fn package(suite: &str, name: &str) -> PathBuf {
    let mut command = Command::new(format!("{REPOSITORY}/qemu/kernel/debian-package"));
    let stdout = run(command.args([suite, name]), "fetching the kernel's source");
    let path = String::from_utf8(stdout).unwrap();
    PathBuf::from(path.trim())
}

/// Builds the program from the kernel source in a Debian package. It is cached, because finding a file in the
/// compressed source takes longer than everything else here.
fn gen_init_cpio(deb: &Path) -> PathBuf {
    let file = deb.file_name().unwrap().to_str().unwrap();
    let (name, version) = file.split_once('_').unwrap();
    let version = version.split('_').next().unwrap();
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || Path::new(&std::env::var_os("HOME").expect("HOME is not set")).join(".cache"),
        PathBuf::from,
    );
    let kept = cache.join(format!("layerinit/gen_init_cpio-{version}"));
    let program = kept.join("gen_init_cpio");
    // Tests of this process share the build directory.
    static BUILDING: Mutex<()> = Mutex::new(());
    let _alone = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    if program.exists() {
        return program;
    }
    let work = kept.with_extension(format!("tmp{}", std::process::id()));
    fs::create_dir_all(&work).unwrap();
    let pipeline = format!(
        "dpkg-deb --fsys-tarfile \"$0\" | tar -xO ./usr/src/{name}.tar.xz |
         tar -xJO --occurrence=1 {name}/usr/gen_init_cpio.c"
    );
    let source = run(
        Command::new("sh").args(["-c", &pipeline]).arg(deb),
        "extracting gen_init_cpio.c",
    );
    assert!(!source.is_empty(), "{file} holds no usr/gen_init_cpio.c");
    fs::write(work.join("gen_init_cpio.c"), source).unwrap();
    let mut cc = Command::new("cc");
    run(
        cc.args(["-O1", "-w", "-o", "gen_init_cpio", "gen_init_cpio.c"])
            .current_dir(&work),
        "compiling gen_init_cpio.c",
    );
    // Another process has built the same in the meantime.
    if fs::rename(&work, &kept).is_err() {
        fs::remove_dir_all(&work).unwrap();
    }
    assert!(program.exists(), "{} is not there", program.display());
    program
}

/// Files of all lengths around the padding and the alignment, for the specs.
fn files(directory: &Path) {
    for length in [0, 1, 2, 3, 4, 5, 511, 512, 513, 4096, 4097, 70_001] {
        let bytes: Vec<u8> = (0..length)
            .map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        fs::write(directory.join(format!("f{length}")), bytes).unwrap();
    }
    fs::write(directory.join("high"), vec![0xff; 70_000]).unwrap();
}

/// Literal specs.
const TEXTS: [(&str, &str); 11] = [
    ("nothing", ""),
    (
        "comments and blank lines",
        "# one\n\n#file a f1 0 0 0\n  \t \n#\n\r\n",
    ),
    (
        "all types",
        "\
        dir /dev 0755 0 0\n\
        nod /dev/console 0600 0 5 c 5 1\n\
        nod /dev/sda1 0660 0 6 b 8 1\n\
        nod /dev/far 0660 0 6 c 4095 1048575\n\
        pipe /run/pipe 0600 1 1\n\
        sock run/socket 0666 2 3\n\
        slink /bin usr/bin 0777 0 0\n\
        slink /long/link ../../../a/rather/long/target 0777 1000 1000\n\
        file /init f5 0755 0 0\n",
    ),
    (
        "no newline at the end",
        "dir /a 0755 0 0\nfile /a/b f3 0644 0 0",
    ),
    (
        "white space",
        "dir\t /a \t 0755\t0  0 \nfile /a/b f3 0644 0 0 \t \nslink\tx\ty\t777\t0\t0\r\n",
    ),
    (
        "slashes",
        "dir / 0755 0 0\ndir //a 0755 0 0\ndir a/ 0755 0 0\nfile /a//b f1 644 0 0 //c /d\n",
    ),
    (
        "numbers",
        "\
        dir /a 04755 4294967295 65536\n\
        dir /b 7 -1 +5\n\
        file /c f1 0106755 0 0\n\
        dir /d 00000000755 0 0\n",
    ),
    (
        "hard links",
        "\
        file /a f5 0644 0 0 /b c d/e\n\
        file /x f0 0644 0 0 y\n\
        file /after f1 0644 0 0\n\
        file /m f70001 0755 7 8 n o p q\n",
    ),
    (
        "environment",
        "\
        file a ${ONE} 0644 0 0\n\
        file b f${FIVE}${UNSET}1${ONES} 0644 0 0 ${FIVE}\n\
        file ${ONE} ${NESTED} 0644 0 0\n\
        slink ${ONE}s ${ONE} 0777 0 0\n",
    ),
    (
        "repeated and out of order",
        "file /a/b f1 644 0 0\ndir /a 755 0 0\nfile /a/b f2 644 0 0\nslink /a x 777 0 0\n",
    ),
    ("a device for a file", "file /empty /dev/null 0644 0 0\n"),
];

/// Specs with names, targets and files of many lengths.
fn lengths() -> [(&'static str, String); 5] {
    let long = |n: usize| "d/".repeat(n / 2 - 1) + &"n".repeat(2 + n % 2);
    [
        (
            "lengths",
            [0, 1, 2, 3, 4, 5, 511, 512, 513, 4096, 4097, 70_001]
                .map(|n| format!("file /f{n} f{n} 0644 0 0\n"))
                .concat(),
        ),
        (
            "names of every length",
            (1..=70)
                .map(|n| format!("dir {} 0755 0 0\n", "n".repeat(n)))
                .collect(),
        ),
        (
            "long names",
            [255, 256, 4000, 4094]
                .map(|n| format!("file /{} f4097 0644 0 0\n", long(n)))
                .concat(),
        ),
        (
            "long targets",
            [255, 4095]
                .map(|n| format!("slink a{n} {} 0777 0 0\n", "t".repeat(n)))
                .concat(),
        ),
        (
            "a sum that wraps",
            format!(
                "file a high 0644 0 0\n{}",
                "file b f70001 0644 0 0 c\n".repeat(3)
            ),
        ),
    ]
}

/// All specs, by name.
fn specs() -> BTreeMap<&'static str, Vec<u8>> {
    let mut specs = BTreeMap::new();
    // The specs of this repository, which are also for CONFIG_INITRAMFS_SOURCE.
    for (name, file) in [
        ("initramfs-spec/loader", "loader"),
        ("initramfs-spec/shell", "shell"),
    ] {
        let path = Path::new(REPOSITORY).join("initramfs-spec").join(file);
        specs.insert(name, fs::read(path).unwrap());
    }
    specs.extend(TEXTS.map(|(name, text)| (name, text.into())));
    specs.extend(lengths().map(|(name, text)| (name, text.into_bytes())));
    specs.insert(
        "not UTF-8",
        b"dir \xff\xfe 0755 0 0\nslink gr\xfcn \xff 0777 0 0\n".to_vec(),
    );
    specs
}

/// Runs both programs on every spec, with these pairs of options.
fn compare(name: &str, program: &Path, options: &[(&[&str], &[&str])]) {
    let directory = scratch(name);
    files(&directory);
    let environment = [
        ("ONE", "f1"),
        ("ONES", "1"),
        ("FIVE", "5"),
        ("NESTED", "${ONE}${UNSET}"),
        ("LAYERINIT_INIT", "f4097"),
        ("BUSYBOX", "f70001"),
    ];
    for (subject, spec) in specs() {
        fs::write(directory.join("spec"), spec).unwrap();
        for (theirs, ours) in options {
            let mut original = Command::new(program);
            original
                .args(*theirs)
                .arg("spec")
                .envs(environment)
                .current_dir(&directory);
            let expected = run(&mut original, subject);
            let mut command = tool(&directory);
            command
                .args(["build", "--spec", "spec", "-o", "ours"])
                .args(*ours)
                .envs(environment);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{subject}: {:?}", said(&output));
            let actual = fs::read(directory.join("ours")).unwrap();
            let first = actual.iter().zip(&expected).position(|(a, b)| a != b);
            let difference = first.unwrap_or(actual.len().min(expected.len()));
            assert!(
                actual == expected,
                "{subject}, {theirs:?}: differs at byte {difference:#x}"
            );
        }
    }
}

#[test]
fn archives_equal_those_of_gen_init_cpio_6_12() {
    let program = gen_init_cpio(&package("trixie", "linux-source-6.12"));
    compare(
        "gen_init_cpio-6.12",
        &program,
        &[
            (&["-t", "0"], &[]),
            (&["-t", "1234567890"], &["--mtime", "1234567890"]),
            (
                &["-t", "4294967295", "-c"],
                &["--mtime", "4294967295", "--cpio-checksums"],
            ),
        ],
    );
}

#[test]
fn archives_equal_those_of_the_newest_gen_init_cpio() {
    // The package "linux-source" is empty and depends on the newest one.
    let newest = package("sid", "linux-source");
    let mut command = Command::new("dpkg-deb");
    let depends = run(
        command.arg("-f").arg(newest).arg("Depends"),
        "looking up the newest kernel source",
    );
    let depends = String::from_utf8(depends).unwrap();
    let name = depends.split([' ', ',', '(', '\n']).next().unwrap();
    let program = gen_init_cpio(&package("sid", name));
    compare(
        "gen_init_cpio-newest",
        &program,
        &[
            (&["-t", "7", "-c"], &["--mtime", "7", "--cpio-checksums"]),
            (&["-t", "0", "-a", "4"], &["--cpio-align", "4"]),
            (&["-t", "0", "-a", "512"], &["--cpio-align", "512"]),
            (
                &["-t", "0", "-c", "-a", "4096"],
                &["--cpio-align", "4096", "--cpio-checksums"],
            ),
            // Not a power of two, and more than fits into a name.
            (&["-t", "0", "-a", "12"], &["--cpio-align", "12"]),
            (&["-t", "0", "-a", "65536"], &["--cpio-align", "65536"]),
        ],
    );
}

/// gen_init_cpio reports these errors and mostly exits with status 0; here, they are failures and leave no
/// file.
#[test]
fn complaints_of_gen_init_cpio_are_errors() {
    let program = gen_init_cpio(&package("trixie", "linux-source-6.12"));
    let directory = scratch("gen_init_cpio-bad");
    files(&directory);
    for line in [
        "lnk a b 0777 0 0",
        "dir a",
        "dir a 0755 0",
        " dir a 0755 0 0",
        "dir a rwx 0 0",
        "nod a 0644 0 0 c 1",
        "slink a 0777 0 0",
        "file a 0644 0 0",
        "file a missing 0644 0 0",
        "file a ${UNSET} 0644 0 0",
    ] {
        fs::write(directory.join("spec"), format!("dir x 0755 0 0\n{line}\n")).unwrap();
        let mut original = Command::new(&program);
        let original = original
            .args(["-t", "0", "spec"])
            .current_dir(&directory)
            .output()
            .unwrap();
        assert!(
            !original.stderr.is_empty(),
            "{line:?}: gen_init_cpio says nothing"
        );
        let output = tool(&directory)
            .args(["build", "--spec", "spec", "-o", "ours"])
            .output()
            .unwrap();
        let (stdout, stderr, status) = said(&output);
        assert_eq!((stdout.as_str(), status), ("", 1), "{line:?}");
        assert!(stderr.contains("spec line 2"), "{line:?}: {stderr}");
        assert!(!directory.join("ours").exists(), "{line:?}");
    }
    let not_utf8 = std::ffi::OsString::from_vec(b"sp\xffec".to_vec());
    fs::write(directory.join(&not_utf8), "dir x 0755 0 0\nx\n").unwrap();
    let output = tool(&directory)
        .args(["build", "-o", "ours", "--spec"])
        .arg(not_utf8)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
}
