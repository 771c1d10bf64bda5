//! Types, modes, owners, times.

use super::*;

#[test]
fn every_type_keeps_its_mode_owner_device_and_time() {
    gives(
        &[
            at(11, by(1, 2, entry("dir", 0o041750, b""))),
            at(12, by(3, 4, entry("file", 0o100640, b"text\n"))),
            at(13, by(5, 6, entry("link", 0o120777, b"file"))),
            at(14, by(7, 8, node("char", 0o020620, 5, 1))),
            at(15, by(9, 10, node("block", 0o060660, 259, 70000))),
            at(16, by(11, 12, entry("fifo", 0o010600, b""))),
            at(17, by(13, 14, entry("sock", 0o140755, b""))),
        ],
        &[
            "block 0660 9:10 @15 block 259:70000",
            "char 0620 7:8 @14 char 5:1",
            "dir 1750 1:2 @11 dir",
            "fifo 0600 11:12 @16 fifo",
            "file 0640 3:4 @12 file \"text\\n\"",
            "link 0777 5:6 @13 link -> file",
            "sock 0755 13:14 @17 sock",
        ],
    );
}

#[test]
fn set_user_id_bits_survive_the_change_of_owner() {
    gives(
        &[
            by(1000, 1000, entry("dir", 0o042775, b"")),
            by(1000, 1000, entry("sgid", 0o102755, b"x")),
            by(1000, 1000, entry("suid", 0o104755, b"")),
            by(1000, 1000, entry("suid2", 0o106711, b"x")),
        ],
        &[
            "dir 2775 1000:1000 @0 dir",
            "file 2755 1000:1000 @0 sgid \"x\"",
            "file 4755 1000:1000 @0 suid \"\"",
            "file 6711 1000:1000 @0 suid2 \"x\"",
        ],
    );
}

#[test]
fn owners_of_32_bits_are_kept_and_minus_one_leaves_the_owner_alone() {
    gives(
        &[
            by(0xffff_fffe, 70000, file("a", b"")),
            by(u32::MAX, 5, file("b", b"")),
            by(5, u32::MAX, dir("c")),
            by(u32::MAX, u32::MAX, link("d", "a")),
        ],
        &[
            "file 0644 4294967294:70000 @0 a \"\"",
            "file 0644 0:5 @0 b \"\"",
            "dir 0755 5:0 @0 c",
            "link 0777 0:0 @0 d -> a",
        ],
    );
}

#[test]
fn no_umask_applies() {
    gives(
        &[
            entry("dir", 0o040777, b""),
            entry("fifo", 0o010666, b""),
            entry("file", 0o100666, b""),
        ],
        &[
            "dir 0777 0:0 @0 dir",
            "fifo 0666 0:0 @0 fifo",
            "file 0666 0:0 @0 file \"\"",
        ],
    );
}

#[test]
fn only_sixteen_bits_of_mode_count() {
    gives(
        &[entry("a", 0xffff_0000 | 0o100604, b"x")],
        &["file 0604 0:0 @0 a \"x\""],
    );
}

#[test]
fn device_numbers_are_truncated_as_in_the_kernel() {
    gives(
        &[
            node("largest", 0o020600, 4095, 0xf_ffff),
            node("major", 0o020600, 4096 + 7, 1),
            node("minor", 0o020600, 8, 0x10_0000 | 3),
            node("whiteout", 0o020000, 0, 0),
        ],
        &[
            "char 0600 0:0 @0 largest 4095:1048575",
            "char 0600 0:0 @0 major 7:1",
            "char 0600 0:0 @0 minor 9:3",
        ],
    );
}

#[test]
fn an_unknown_type_creates_nothing_and_removes_an_earlier_file() {
    gives_but(
        3,
        &[
            file("a", b"1"),
            dir("b"),
            dir("c"),
            file("c/kept", b""),
            file("other", b""),
            entry("a", 0o000644, b""),
            entry("b", 0o170755, b""),
            entry("c", 0o000755, b""),
        ],
        &[
            "dir 0755 0:0 @0 c",
            "file 0644 0:0 @0 c/kept \"\"",
            "file 0644 0:0 @0 other \"\"",
        ],
    );
}

#[test]
fn the_time_of_a_directory_is_set_after_its_files_are_created() {
    gives(
        &[
            at(1000, dir("a")),
            at(2000, dir("a/b")),
            at(3000, file("a/b/c", b"x")),
            at(4000, file("a/d", b"x")),
            at(u32::MAX, file("a/e", b"x")),
        ],
        &[
            "dir 0755 0:0 @1000 a",
            "dir 0755 0:0 @2000 a/b",
            "file 0644 0:0 @3000 a/b/c \"x\"",
            "file 0644 0:0 @4000 a/d \"x\"",
            "file 0644 0:0 @4294967295 a/e \"x\"",
        ],
    );
}

#[test]
fn of_two_members_for_a_directory_the_last_sets_the_mode_and_the_first_the_time() {
    // The kernel sets the times from the last member to the first.
    gives(
        &[
            at(1, entry("a", 0o040700, b"")),
            file("a/b", b""),
            at(2, by(3, 4, entry("a", 0o040751, b""))),
        ],
        &["dir 0751 3:4 @1 a", "file 0644 0:0 @0 a/b \"\""],
    );
}

#[test]
fn a_member_for_the_root_sets_its_mode_owner_and_time() {
    for name in [".", "/", "./", "//", ""] {
        let tree = Tree::new("");
        let root = at(77, by(5, 6, entry(name, 0o040711, b"")));
        tree.unpack(&cpio(&[root, file("a", b"")])).unwrap();
        let stat = fs::metadata(&tree.root).unwrap();
        assert_eq!(
            (stat.mode(), stat.uid(), stat.gid(), stat.mtime()),
            (0o040711, 5, 6, 77),
            "{name:?}"
        );
    }
}
