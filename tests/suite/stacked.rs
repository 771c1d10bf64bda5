//! Archives as layers over others: literal members, and the exact stack that they become, which equals the
//! tree that the kernel unpacks from all of them; and whiteouts and opaque directories, which the kernel does
//! not know. Needs root. qemu/differential has a kernel unpack the archives without the latter.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::common::*;
use crate::tree::*;
use layerinit::boot::mount::merge::{MERGE_EVERY, MergedLayers};
use layerinit::boot::mount::unpack::{Unpacked, unpack};
use layerinit::boot::mount::{archive, overlay};
use layerinit::bytes::Reader;
use layerinit::format::cpio::Archive;
use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A stack of layers in a directory, which is removed on drop.
struct Layers {
    top: PathBuf,
    stack: overlay::Stack,
    mounted: Vec<PathBuf>,
}

impl Layers {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests mount overlays: run them as root"
        );
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("layerinit-stacked-{}-{number}", std::process::id());
        let top = std::env::temp_dir().join(name);
        for directory in ["layers", "unpack", "root"] {
            fs::create_dir_all(top.join(directory)).unwrap();
        }
        let stack = overlay::Stack {
            directory: top.join("layers").to_str().unwrap().into(),
            names: Vec::new(),
        };
        Self {
            top,
            stack,
            mounted: Vec::new(),
        }
    }

    fn next(&mut self) -> PathBuf {
        let target = self.top.join(format!("layers/{}", self.stack.names.len()));
        fs::create_dir(&target).unwrap();
        self.mounted.push(target.clone());
        target
    }

    /// Adds a layer that is not an archive.
    fn made(&mut self, make: impl FnOnce(PathBuf)) {
        let target = self.next();
        mount("tmpfs", &target, "tmpfs", MountFlags::empty(), None).unwrap();
        make(target);
        self.stack.names.push(self.stack.names.len().to_string());
    }

    /// Adds a layer that is unpacked over the lower ones.
    fn unpacked(&mut self, archive: &[u8]) -> Result<Unpacked, String> {
        let target = self.next();
        let work = |changes| unpack(Archive::new(Reader::new(&archive, 0)), changes);
        let (directory, target) = (self.top.join("unpack"), target.to_str().unwrap().to_owned());
        let directory = directory.to_str().unwrap();
        let done = archive::unpack_layer("test", &self.stack, directory, &target, work);
        self.stack.names.push(self.stack.names.len().to_string());
        done.and_then(|done| done)
            .map_err(|error| error.to_string())
    }

    /// Unpacks a row of archives; returns the largest number of layers below one of them.
    fn row(&mut self, archives: &[Vec<u8>], merges: bool) -> usize {
        let unpack_dir = self.top.join("unpack");
        let path = unpack_dir.to_str().unwrap();
        let mut row = MergedLayers::new(self.stack.clone(), path).unwrap();
        if !merges {
            // A file at the path of the directory into which they are merged.
            fs::create_dir(unpack_dir.join("merged")).unwrap();
        }
        let mut most = 0;
        for archive in archives {
            self.next();
            most = most.max(row.lower().names.len());
            let work = |changes| unpack(Archive::new(Reader::new(&archive.as_slice(), 0)), changes);
            let name = self.stack.names.len().to_string();
            row.unpack_layer(&name, work).unwrap().unwrap();
            self.stack.names.push(name);
        }
        row.finish().unwrap();
        most
    }

    /// Mounts the stack, as in the new root.
    fn root(&mut self) -> PathBuf {
        let root = self.top.join("root");
        overlay::mount(&self.stack, None, root.to_str().unwrap()).unwrap();
        self.mounted.push(root.clone());
        root
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        for target in self.mounted.iter().rev() {
            let _ = unmount(target, UnmountFlags::DETACH);
        }
        // These directories must be empty, unless the test has failed.
        let _ = fs::remove_dir_all(&self.top);
    }
}

/// Expects that the archives become this stack, without `dropped` of their members. The kernel must unpack
/// them to the same tree.
#[track_caller]
fn give_but(dropped: u64, archives: &[&[Entry]], expected: &[&str]) {
    let archives: Vec<_> = archives.iter().map(|entries| cpio(entries)).collect();
    let mut layers = Layers::new();
    let mut not_created = 0;
    for archive in &archives {
        not_created += layers.unpacked(archive).unwrap().dropped;
    }
    assert_eq!(lines(&layers.root()), expected);
    assert_eq!(not_created, dropped, "members that were not created");
    keep(&archives.concat());
}

#[track_caller]
fn give(archives: &[&[Entry]], expected: &[&str]) {
    give_but(0, archives, expected);
}

/// The same for what the kernel does not know: whiteouts and opaque directories.
#[track_caller]
fn hides(archives: &[&[Entry]], expected: &[&str]) {
    let mut layers = Layers::new();
    for entries in archives {
        assert_eq!(layers.unpacked(&cpio(entries)).unwrap().dropped, 0);
    }
    assert_eq!(lines(&layers.root()), expected);
}

// ---- parents of lower layers --------------------------------------------------------

/// Runs the tests below in a process that starts no other processes: between fork(2) and execve(2), a child
/// has the files open that this process writes, and the kernel then refuses to remount a layer read-only.
#[test]
fn in_a_process_of_its_own() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["stacked::", "--ignored"])
        .output()
        .unwrap();
    // Directly, not through the test harness, so that tests/run counts these results, too.
    std::io::stdout().write_all(&output.stdout).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && !text.contains(" 0 passed"),
        "{text}{errors}"
    );
}

#[test]
#[ignore = "runs in a process of its own"]
fn a_directory_that_only_a_lower_layer_has_keeps_owner_mode_and_time() {
    give(
        &[
            &[
                at(10, by(1, 2, entry("a", 0o041770, b""))),
                at(20, by(3, 4, entry("a/b", 0o042750, b""))),
                at(30, file("a/b/low", b"low")),
            ],
            &[at(40, by(5, 6, file("a/b/high", b"high")))],
            &[at(50, file("a/top", b""))],
        ],
        &[
            "dir 1770 1:2 @10 a",
            "dir 2750 3:4 @20 a/b",
            "file 0644 5:6 @40 a/b/high \"high\"",
            "file 0644 0:0 @30 a/b/low \"low\"",
            "file 0644 0:0 @50 a/top \"\"",
        ],
    );
}

#[test]
#[ignore = "runs in a process of its own"]
fn a_directory_that_only_a_lower_layer_has_keeps_its_attributes() {
    let mut layers = Layers::new();
    layers.made(|directory| {
        let path = directory.join("a");
        fs::create_dir(&path).unwrap();
        setxattr(&path, "trusted.label", b"red", XattrFlags::empty()).unwrap();
    });
    layers.unpacked(&cpio(&[file("a/b", b"")])).unwrap();
    let path = layers.top.join("layers/1/a");
    let mut value = [0; 8];
    let n = getxattr(&path, "trusted.label", &mut value).unwrap();
    assert_eq!(&value[..n], b"red");
}

#[test]
#[ignore = "runs in a process of its own"]
fn a_parent_that_no_layer_has_stays_missing() {
    give_but(
        2,
        &[
            &[dir("a"), file("f", b"")],
            &[file("b/c", b""), file("f/c", b"")],
        ],
        &["dir 0755 0:0 @0 a", "file 0644 0:0 @0 f \"\""],
    );
}

#[test]
#[ignore = "runs in a process of its own"]
fn symbolic_links_of_lower_layers_in_a_path_are_followed() {
    give(
        &[
            &[
                dir("usr"),
                dir("usr/lib"),
                link("lib", "usr/lib"),
                dir("deep"),
                link("deep/up", "../lib"),
                link("chain", "./deep/up/."),
            ],
            &[
                file("lib/one", b"1"),
                file("deep/up/two", b"2"),
                dir("chain/three"),
                file("lib/three/four", b"4"),
            ],
        ],
        &[
            "link 0777 0:0 @0 chain -> ./deep/up/.",
            "dir 0755 0:0 @0 deep",
            "link 0777 0:0 @0 deep/up -> ../lib",
            "link 0777 0:0 @0 lib -> usr/lib",
            "dir 0755 0:0 @0 usr",
            "dir 0755 0:0 @0 usr/lib",
            "file 0644 0:0 @0 usr/lib/one \"1\"",
            "dir 0755 0:0 @0 usr/lib/three",
            "file 0644 0:0 @0 usr/lib/three/four \"4\"",
            "file 0644 0:0 @0 usr/lib/two \"2\"",
        ],
    );
}

#[test]
#[ignore = "runs in a process of its own"]
fn links_lead_only_into_the_stack() {
    let mut layers = Layers::new();
    let canary = layers.top.join("canary");
    fs::create_dir(&canary).unwrap();
    let target = canary.to_str().unwrap();
    let up = format!("../../../../../../../..{target}");
    let low = cpio(&[link("out", target), link("up", &up), link("root", "/")]);
    layers.unpacked(&low).unwrap();
    let high = [
        file("out/x", b""),
        file("up/x", b""),
        file("root/x", b""),
        file("../../y", b""),
    ];
    assert_eq!(layers.unpacked(&cpio(&high)).unwrap().dropped, 2);
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 0);
    let root = layers.root();
    let mut names: Vec<_> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["out", "root", "up", "x", "y"]);
}

#[test]
#[ignore = "runs in a process of its own"]
fn a_link_in_a_higher_layer_is_resolved_in_the_stack() {
    give(
        &[
            &[dir("usr"), dir("usr/lib")],
            &[link("lib", "usr/lib"), file("lib/x", b"x")],
        ],
        &[
            "link 0777 0:0 @0 lib -> usr/lib",
            "dir 0755 0:0 @0 usr",
            "dir 0755 0:0 @0 usr/lib",
            "file 0644 0:0 @0 usr/lib/x \"x\"",
        ],
    );
}

// ---- what is there already ----------------------------------------------------------

#[test]
#[ignore = "runs in a process of its own"]
fn members_replace_files_of_lower_layers() {
    give_but(
        1,
        &[
            &[
                at(1, file("file", b"longer than the other")),
                link("link", "file"),
                dir("empty"),
                dir("full"),
                file("full/x", b""),
                file("to-dir", b""),
                link("to-dir-2", "full"),
                entry("fifo", 0o010600, b""),
            ],
            &[
                at(2, by(7, 8, entry("file", 0o100755, b"short"))),
                file("link", b"no link"),
                file("empty", b"no directory"),
                file("full", b"is dropped"),
                dir("to-dir"),
                dir("to-dir-2"),
                file("to-dir-2/y", b""),
                by(1, 1, entry("fifo", 0o010644, b"")),
            ],
        ],
        &[
            "file 0644 0:0 @0 empty \"no directory\"",
            "fifo 0644 1:1 @0 fifo",
            "file 0755 7:8 @2 file \"short\"",
            "dir 0755 0:0 @0 full",
            "file 0644 0:0 @0 full/x \"\"",
            "file 0644 0:0 @0 link \"no link\"",
            "dir 0755 0:0 @0 to-dir",
            "dir 0755 0:0 @0 to-dir-2",
            "file 0644 0:0 @0 to-dir-2/y \"\"",
        ],
    );
}

#[test]
#[ignore = "runs in a process of its own"]
fn a_repeated_directory_takes_mode_and_owner_and_keeps_its_first_time() {
    give(
        &[
            &[at(5, entry("a", 0o040700, b"")), file("a/x", b"")],
            &[at(6, by(1, 2, entry("a", 0o040751, b""))), file("a/y", b"")],
        ],
        &[
            "dir 0751 1:2 @5 a",
            "file 0644 0:0 @0 a/x \"\"",
            "file 0644 0:0 @0 a/y \"\"",
        ],
    );
}

#[test]
#[ignore = "runs in a process of its own"]
fn hard_links_do_not_reach_across_layers() {
    give(
        &[
            &[one_of(2, 7, file("a", b"")), one_of(2, 7, file("b", b"x"))],
            &[one_of(2, 7, file("c", b"")), one_of(2, 7, file("d", b"y"))],
        ],
        &[
            "file 0644 0:0 @0 a \"x\" 2 links",
            "file 0644 0:0 @0 b \"x\" 2 links = a",
            "file 0644 0:0 @0 c \"y\" 2 links",
            "file 0644 0:0 @0 d \"y\" 2 links = c",
        ],
    );
}

#[test]
#[ignore = "runs in a process of its own"]
fn writing_a_lower_file_with_several_names_changes_one_name() {
    // The only difference from the kernel, which writes to the file under all its names: a lower layer is
    // read-only.
    hides(
        &[
            &[one_of(2, 7, file("a", b"")), one_of(2, 7, file("b", b"x"))],
            &[file("a", b"new")],
        ],
        &[
            "file 0644 0:0 @0 a \"new\"",
            "file 0644 0:0 @0 b \"x\" 2 links",
        ],
    );
}

#[test]
#[ignore = "runs in a process of its own"]
fn the_root_is_that_of_the_layer_below_unless_the_archive_has_one() {
    let mut layers = Layers::new();
    let root = at(7, by(1, 2, entry(".", 0o040711, b"")));
    layers.unpacked(&cpio(&[root])).unwrap();
    layers.unpacked(&cpio(&[file("a", b"")])).unwrap();
    let seen = |path: PathBuf| {
        use std::os::unix::fs::MetadataExt;
        let stat = fs::metadata(path).unwrap();
        (stat.mode(), stat.uid(), stat.gid(), stat.mtime())
    };
    assert_eq!(seen(layers.top.join("layers/1")), (0o040711, 1, 2, 7));
    assert_eq!(seen(layers.root()), (0o040711, 1, 2, 7));
}

#[test]
#[ignore = "runs in a process of its own"]
fn layers_are_sealed_and_nothing_is_left_in_the_unpack_directory() {
    let mut layers = Layers::new();
    layers.unpacked(&cpio(&[dir("a")])).unwrap();
    layers.unpacked(&cpio(&[file("a/b", b"")])).unwrap();
    for layer in 0..2 {
        let path = layers.top.join(format!("layers/{layer}/new"));
        let error = fs::write(path, b"").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
    let left = fs::read_dir(layers.top.join("unpack")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
#[ignore = "runs in a process of its own"]
fn an_archive_that_breaks_leaves_no_overlay_mounted() {
    let mut layers = Layers::new();
    layers.unpacked(&cpio(&[dir("a")])).unwrap();
    let archive = cpio(&[summed(1, file("a/b", b"AB"))]);
    assert_eq!(
        layers.unpacked(&archive).unwrap_err(),
        "unpack a/b: the sum of its bytes is 0x83, its header says 0x1"
    );
    let left = fs::read_dir(layers.top.join("unpack")).unwrap();
    assert_eq!(left.count(), 0);
}

// ---- whiteouts and opaque directories -----------------------------------------------

#[test]
#[ignore = "runs in a process of its own"]
fn a_device_0_0_hides_a_file_a_link_and_a_whole_directory() {
    hides(
        &[
            &[
                file("kept", b""),
                file("file", b""),
                link("link", "kept"),
                dir("dir"),
                dir("dir/sub"),
                file("dir/sub/x", b""),
            ],
            &[
                node("file", 0o020000, 0, 0),
                one_of(4, 1, node("link", 0o020000, 0, 0)),
                one_of(4, 1, node("dir", 0o020000, 0, 0)),
                one_of(4, 1, node("not-there", 0o020000, 0, 0)),
                one_of(4, 1, node("not/there/either", 0o020000, 0, 0)),
            ],
        ],
        &["file 0644 0:0 @0 kept \"\""],
    );
}

#[test]
#[ignore = "runs in a process of its own"]
fn a_device_0_0_without_a_name_hides_nothing() {
    for name in ["..", ".", "/", "d/..", "d/../.."] {
        let mut layers = Layers::new();
        layers.unpacked(&cpio(&[dir("d"), file("x", b"")])).unwrap();
        layers
            .unpacked(&cpio(&[node(name, 0o020755, 0, 0)]))
            .unwrap();
        let names: Vec<_> = fs::read_dir(layers.root()).unwrap().collect();
        assert_eq!(names.len(), 2, "{name}");
    }
}

#[test]
#[ignore = "runs in a process of its own"]
fn hidden_files_can_be_created_again() {
    hides(
        &[
            &[dir("dir"), file("dir/old", b""), file("file", b"old")],
            &[
                node("dir", 0o020000, 0, 0),
                dir("dir"),
                file("dir/new", b""),
                node("file", 0o020000, 0, 0),
                file("file", b"new"),
            ],
        ],
        &[
            "dir 0755 0:0 @0 dir",
            "file 0644 0:0 @0 dir/new \"\"",
            "file 0644 0:0 @0 file \"new\"",
        ],
    );
}

#[test]
#[ignore = "runs in a process of its own"]
fn an_opaque_directory_shows_only_its_own_files_wherever_the_mark_is() {
    let mark = || file("dir/.wh..wh..opq", b"");
    let (new, sub, inside) = (
        || file("dir/new", b"1"),
        || dir("dir/sub"),
        || file("dir/sub/in", b""),
    );
    for members in [
        [mark(), new(), sub(), inside()],
        [new(), mark(), sub(), inside()],
        [new(), sub(), inside(), mark()],
    ] {
        let [a, b, c, d] = members;
        hides(
            &[
                &[
                    at(3, entry("dir", 0o040700, b"")),
                    file("dir/old", b""),
                    file("dir/new", b"old"),
                    dir("dir/sub"),
                    file("dir/sub/old", b""),
                    dir("dir/gone"),
                    file("dir/gone/x", b""),
                    file("other", b""),
                ],
                &[a, b, c, d],
            ],
            &[
                "dir 0700 0:0 @3 dir",
                "file 0644 0:0 @0 dir/new \"1\"",
                "dir 0755 0:0 @0 dir/sub",
                "file 0644 0:0 @0 dir/sub/in \"\"",
                "file 0644 0:0 @0 other \"\"",
            ],
        );
    }
}

#[test]
#[ignore = "runs in a process of its own"]
fn opaque_marks_follow_links_and_may_hide_nothing() {
    hides(
        &[
            &[
                dir("usr"),
                dir("usr/lib"),
                file("usr/lib/old", b""),
                link("lib", "usr/lib"),
            ],
            &[
                file("lib/.wh..wh..opq", b""),
                file("lib/new", b""),
                file("missing/.wh..wh..opq", b""),
            ],
        ],
        &[
            "link 0777 0:0 @0 lib -> usr/lib",
            "dir 0755 0:0 @0 usr",
            "dir 0755 0:0 @0 usr/lib",
            "file 0644 0:0 @0 usr/lib/new \"\"",
        ],
    );
}

#[test]
#[ignore = "runs in a process of its own"]
fn the_root_can_be_opaque_and_the_lowest_layer_keeps_no_mark() {
    hides(
        &[
            &[file(".wh..wh..opq", b""), file("old", b""), dir("d")],
            &[file("./.wh..wh..opq", b""), file("new", b"")],
        ],
        &["file 0644 0:0 @0 new \"\""],
    );
}

// ---- many in a row --------------------------------------------------------------------

/// Archives with a few names that often collide, as files, directories, links, nodes, whiteouts and opaque
/// directories.
fn random_archives(number: usize, mut seed: u64) -> Vec<Vec<u8>> {
    let mut random = move |below: u64| {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) % below
    };
    let mut archives = Vec::new();
    for n in 0..number {
        let names: Vec<_> = (0..1 + random(5))
            .map(|_| {
                let depth = 1 + random(3);
                let parts: Vec<_> = (0..depth)
                    .map(|_| ["a", "b", "c"][random(3) as usize])
                    .collect();
                parts.join("/")
            })
            .collect();
        let body = format!("of {n}");
        let opaque: Vec<_> = names
            .iter()
            .map(|name| format!("{name}/.wh..wh..opq"))
            .collect();
        let entries: Vec<_> = names
            .iter()
            .zip(&opaque)
            .enumerate()
            .map(|(i, (name, opaque))| {
                let entry = match random(10) {
                    0..=3 => dir(name),
                    4..=5 => file(name, body.as_bytes()),
                    6 => entry(name, 0o120777, b"a/b"),
                    7 => entry(name, 0o010600, b""),
                    8 => entry(name, 0o020000, b""),
                    _ => file(opaque, b""),
                };
                at((100 * n + i) as u32, by(random(3) as u32, 0, entry))
            })
            .collect();
        archives.push(cpio(&entries));
    }
    archives
}

#[test]
#[ignore = "runs in a process of its own"]
fn merged_archives_equal_separate_layers() {
    let base: &[Entry] = &[
        dir("a"),
        at(5, dir("a/b")),
        at(6, file("a/b/c", b"base")),
        at(7, by(1, 2, dir("b"))),
        file("b/a", b"base"),
        file("c", b"base"),
    ];
    // overlayfs makes whiteouts with the current time.
    let layer = |path: &PathBuf| {
        let mut lines = lines(path);
        for line in &mut lines {
            if line.starts_with("char 0000 0:0 @") {
                *line = format!("whiteout {}", line.split(' ').nth(4).unwrap());
            }
        }
        lines
    };
    let mut seen = 0;
    for seed in 0..6 {
        let archives = random_archives(3 * MERGE_EVERY + 5, seed);
        let mut one_by_one = Layers::new();
        let mut row = Layers::new();
        // Also without a base.
        if seed % 2 == 0 {
            one_by_one.unpacked(&cpio(base)).unwrap();
            row.unpacked(&cpio(base)).unwrap();
        }
        for archive in &archives {
            one_by_one.unpacked(archive).unwrap();
        }
        let merges = seed != 0;
        let most = row.row(&archives, merges);
        // The base, the merged layer, and the archives that are not merged.
        assert_eq!(most <= MERGE_EVERY + 1, merges, "{most} layers");
        let expected = lines(&one_by_one.root());
        seen += expected.len();
        assert_eq!(lines(&row.root()), expected, "seed {seed}");
        #[cfg(feature = "tool")]
        {
            // The tool predicts it.
            let bases = (seed % 2 == 0).then(|| cpio(base));
            let layers: Vec<_> = bases.into_iter().chain(archives.iter().cloned()).collect();
            let image = [cpio(&[own_init("init")]), layers.concat()].concat();
            let (image_path, out) = (row.top.join("image"), row.top.join("out"));
            fs::write(&image_path, image).unwrap();
            let mut tool = Command::new(env!("CARGO_BIN_EXE_layerinit"));
            tool.args([&"extract".into(), &image_path, &"-C".into(), &out]);
            assert!(tool.status().unwrap().success(), "seed {seed}");
            assert_eq!(lines(&out), expected, "seed {seed}: extracted");
        }
        for (a, b) in one_by_one.mounted.iter().zip(&row.mounted) {
            assert_eq!(layer(b), layer(a), "seed {seed}: {}", b.display());
        }
    }
    assert!(seen > 20, "{seen}: these archives leave nothing");
}
