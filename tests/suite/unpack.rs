//! Archives into a tmpfs: each corner of init/initramfs.c as literal members and the exact tree
//! that they become. Needs root, for mounts, owners and device nodes.
//!
//! A line of a listing is `type mode owner:group @mtime path`, then what the type has: content, or
//! `-> target`, or major:minor. Files with several links end with their number, and all but the
//! first name `=` that.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::common::*;
use crate::tree::*;
use layerinit::format::cpio::Header;

/// Unpacks these bytes; `dropped` members must not have been created, and the tree must be this.
#[track_caller]
fn gives_bytes(archive: &[u8], dropped: u64, expected: &[&str]) {
    let tree = Tree::new("");
    let done = tree.unpack(archive).unwrap();
    assert_eq!(tree.lines(), expected);
    assert_eq!(done.dropped, dropped, "members that were not created");
}

#[track_caller]
fn gives(entries: &[Entry], expected: &[&str]) {
    gives_bytes(&cpio(entries), 0, expected);
}

#[track_caller]
fn gives_but(dropped: u64, entries: &[Entry], expected: &[&str]) {
    gives_bytes(&cpio(entries), dropped, expected);
}

/// These bytes end in this error, and leave this tree.
#[track_caller]
fn fails(archive: &[u8], error: &str, expected: &[&str]) {
    let tree = Tree::new("");
    assert_eq!(tree.unpack(archive).unwrap_err(), error);
    assert_eq!(tree.lines(), expected);
}

// ---- types, modes, owners, times ----------------------------------------------------

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
fn device_numbers_are_cut_as_the_kernel_cuts_them() {
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
fn a_type_that_is_none_creates_nothing_and_removes_what_was_there() {
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
fn a_directory_has_its_time_after_everything_in_it_was_made() {
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
fn of_two_members_for_one_directory_the_last_gives_mode_and_the_first_gives_time() {
    // The kernel sets times from its last member to its first.
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
fn a_member_for_the_root_directory_gives_it_mode_owner_and_time() {
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

// ---- hard links ---------------------------------------------------------------------

#[test]
fn hard_linked_data_may_come_with_the_first_the_middle_or_the_last_link() {
    for with_data in 0..3 {
        let body = |n| if n == with_data { &b"data"[..] } else { b"" };
        gives(
            &[
                one_of(3, 9, file("a", body(0))),
                file("between", b"x"),
                one_of(3, 9, file("b", body(1))),
                one_of(3, 9, file("c", body(2))),
            ],
            &[
                "file 0644 0:0 @0 a \"data\" 3 links",
                "file 0644 0:0 @0 b \"data\" 3 links = a",
                "file 0644 0:0 @0 between \"x\"",
                "file 0644 0:0 @0 c \"data\" 3 links = a",
            ],
        );
    }
}

#[test]
fn the_last_of_several_links_gives_the_attributes_and_data_over_longer_data_replaces_it() {
    gives(
        &[
            at(1, by(1, 1, one_of(2, 9, file("a", b"longer text")))),
            at(2, by(2, 2, one_of(2, 9, entry("b", 0o104755, b"short")))),
        ],
        &[
            "file 4755 2:2 @2 a \"short\" 2 links",
            "file 4755 2:2 @2 b \"short\" 2 links = a",
        ],
    );
}

#[test]
fn links_are_told_apart_by_device_inode_and_type() {
    gives(
        &[
            one_of(2, 1, file("a", b"1")),
            change(one_of(2, 1, file("b", b"2")), |header| header.min = 1),
            change(one_of(2, 1, file("c", b"3")), |header| header.maj = 1),
            one_of(2, 2, file("d", b"4")),
            one_of(2, 1, node("e", 0o020600, 1, 3)),
            one_of(2, 1, node("f", 0o060600, 1, 3)),
        ],
        &[
            "file 0644 0:0 @0 a \"1\"",
            "file 0644 0:0 @0 b \"2\"",
            "file 0644 0:0 @0 c \"3\"",
            "file 0644 0:0 @0 d \"4\"",
            "char 0600 0:0 @0 e 1:3",
            "block 0600 0:0 @0 f 1:3",
        ],
    );
}

#[test]
fn a_member_with_one_link_is_never_linked() {
    gives(
        &[
            one_of(1, 7, file("a", b"1")),
            one_of(0, 7, file("b", b"2")),
            one_of(1, 7, file("c", b"3")),
        ],
        &[
            "file 0644 0:0 @0 a \"1\"",
            "file 0644 0:0 @0 b \"2\"",
            "file 0644 0:0 @0 c \"3\"",
        ],
    );
}

#[test]
fn hard_links_do_not_reach_across_archives() {
    let first = cpio(&[one_of(2, 1, file("a", b"1")), one_of(2, 1, file("b", b""))]);
    let second = cpio(&[one_of(2, 1, file("c", b"2")), one_of(2, 1, file("d", b""))]);
    gives_bytes(
        &join(&[&first, &[0; 512], &second]),
        0,
        &[
            "file 0644 0:0 @0 a \"1\" 2 links",
            "file 0644 0:0 @0 b \"1\" 2 links = a",
            "file 0644 0:0 @0 c \"2\" 2 links",
            "file 0644 0:0 @0 d \"2\" 2 links = c",
        ],
    );
}

#[test]
fn hard_links_reach_across_zeros_where_no_trailer_ends_the_archive() {
    let first = cpio_without_trailer(&[one_of(2, 1, file("a", b"1"))]);
    let second = cpio(&[one_of(2, 1, file("b", b""))]);
    gives_bytes(
        &join(&[&first, &[0; 512], &second]),
        0,
        &[
            "file 0644 0:0 @0 a \"1\" 2 links",
            "file 0644 0:0 @0 b \"1\" 2 links = a",
        ],
    );
}

#[test]
fn device_nodes_fifos_and_sockets_are_linked_and_the_first_link_gives_the_attributes() {
    gives(
        &[
            at(5, one_of(2, 1, node("c1", 0o020600, 1, 3))),
            at(6, by(7, 7, one_of(2, 1, node("c2", 0o020666, 1, 5)))),
            one_of(2, 2, entry("f1", 0o010600, b"")),
            one_of(2, 2, entry("f2", 0o010666, b"")),
            one_of(2, 3, entry("s1", 0o140600, b"")),
            one_of(2, 3, entry("s2", 0o140600, b"")),
        ],
        &[
            "char 0600 0:0 @5 c1 1:3 2 links",
            "char 0600 0:0 @5 c2 1:3 2 links = c1",
            "fifo 0600 0:0 @0 f1 2 links",
            "fifo 0600 0:0 @0 f2 2 links = f1",
            "sock 0600 0:0 @0 s1 2 links",
            "sock 0600 0:0 @0 s2 2 links = s1",
        ],
    );
}

#[test]
fn directories_and_symbolic_links_are_never_hard_linked() {
    gives(
        &[
            one_of(2, 1, dir("a")),
            one_of(2, 1, dir("b")),
            one_of(2, 2, link("c", "x")),
            one_of(2, 2, link("d", "y")),
        ],
        &[
            "dir 0755 0:0 @0 a",
            "dir 0755 0:0 @0 b",
            "link 0777 0:0 @0 c -> x",
            "link 0777 0:0 @0 d -> y",
        ],
    );
}

#[test]
fn a_hard_link_takes_the_place_of_a_file_but_not_of_itself() {
    gives(
        &[
            one_of(2, 1, file("a", b"1")),
            file("b", b"old"),
            one_of(2, 1, file("b", b"")),
        ],
        &[
            "file 0644 0:0 @0 a \"1\" 2 links",
            "file 0644 0:0 @0 b \"1\" 2 links = a",
        ],
    );
    // The kernel removes the file first, and has nothing left to link to.
    gives_but(
        1,
        &[one_of(2, 1, file("a", b"1")), one_of(2, 1, file("a", b"2"))],
        &[],
    );
}

#[test]
fn a_link_to_what_is_gone_is_dropped_with_its_data() {
    gives_but(
        2,
        &[
            one_of(2, 1, file("a", b"1")),
            entry("a", 0, b""),
            one_of(2, 1, file("b", b"2")),
        ],
        &[],
    );
}

#[test]
fn a_link_to_a_file_that_became_a_symbolic_link_writes_where_that_points() {
    gives(
        &[
            one_of(2, 1, file("a", b"1")),
            link("a", "c"),
            one_of(2, 1, file("b", b"22")),
        ],
        &[
            "link 0777 0:0 @0 a -> c 2 links",
            "link 0777 0:0 @0 b -> c 2 links = a",
            "file 0644 0:0 @0 c \"22\"",
        ],
    );
}

#[test]
fn a_link_to_a_file_that_became_a_pipe_or_a_device_opens_neither() {
    // The kernel waits for ever for a reader of the pipe, and writes to the device.
    for (mode, line) in [
        (0o010600, "fifo 0600 0:0 @0"),
        (0o020600, "char 0600 0:0 @0"),
    ] {
        let device = if mode == 0o020600 { " 1:3" } else { "" };
        gives_but(
            1,
            &[
                one_of(2, 1, file("a", b"1")),
                node("a", mode, 1, 3),
                one_of(2, 1, entry("b", 0o100777, b"22")),
            ],
            &[
                &format!("{line} a{device} 2 links"),
                &format!("{line} b{device} 2 links = a"),
            ],
        );
    }
}

#[test]
fn a_file_written_again_keeps_the_links_that_it_has() {
    gives(
        &[
            one_of(2, 1, file("a", b"old")),
            one_of(2, 1, file("b", b"")),
            file("a", b"new"),
        ],
        &[
            "file 0644 0:0 @0 a \"new\" 2 links",
            "file 0644 0:0 @0 b \"new\" 2 links = a",
        ],
    );
}

// ---- replacing ----------------------------------------------------------------------

#[test]
fn the_last_of_several_members_with_one_name_wins() {
    gives(
        &[
            at(1, file("a", b"a longer first")),
            at(2, entry("a", 0o100600, b"second")),
            node("b", 0o020600, 1, 3),
            at(3, by(4, 4, node("b", 0o020666, 1, 5))),
            link("c", "x"),
            at(4, link("c", "y")),
            entry("d", 0o010600, b""),
            entry("d", 0o010666, b""),
        ],
        &[
            "file 0600 0:0 @2 a \"second\"",
            // A node that is there already keeps its numbers.
            "char 0666 4:4 @3 b 1:3",
            "link 0777 0:0 @4 c -> y",
            "fifo 0666 0:0 @0 d",
        ],
    );
}

#[test]
fn a_member_of_another_type_replaces_what_has_its_name() {
    let make = |name, kind: &str| match kind {
        "file" => file(name, b"x"),
        "dir" => dir(name),
        "link" => link(name, "x"),
        "char" => node(name, 0o020644, 1, 3),
        "block" => node(name, 0o060644, 1, 3),
        "fifo" => entry(name, 0o010644, b""),
        _ => entry(name, 0o140644, b""),
    };
    let shown = |kind| match kind {
        "file" => "file 0644 0:0 @0 a \"x\"",
        "dir" => "dir 0755 0:0 @0 a",
        "link" => "link 0777 0:0 @0 a -> x",
        "char" => "char 0644 0:0 @0 a 1:3",
        "block" => "block 0644 0:0 @0 a 1:3",
        "fifo" => "fifo 0644 0:0 @0 a",
        _ => "sock 0644 0:0 @0 a",
    };
    let kinds = ["file", "dir", "link", "char", "block", "fifo", "sock"];
    for first in kinds {
        for second in kinds {
            gives(&[make("a", first), make("a", second)], &[shown(second)]);
        }
    }
}

#[test]
fn a_directory_that_is_not_empty_stays_and_takes_the_attributes_of_what_could_not_replace_it() {
    let full = || [at(9, dir("a")), file("a/b", b"")];
    let [one, two] = full();
    gives_but(
        1,
        &[one, two, at(3, by(1, 2, entry("a", 0o100600, b"x")))],
        &["dir 0755 0:0 @9 a", "file 0644 0:0 @0 a/b \"\""],
    );
    let [one, two] = full();
    gives_but(
        1,
        &[one, two, at(3, by(1, 2, node("a", 0o020600, 1, 3)))],
        &["dir 0600 1:2 @9 a", "file 0644 0:0 @0 a/b \"\""],
    );
    let [one, two] = full();
    gives_but(
        1,
        &[one, two, at(3, by(1, 2, link("a", "x")))],
        &["dir 0755 1:2 @9 a", "file 0644 0:0 @0 a/b \"\""],
    );
}

#[test]
fn a_symbolic_link_is_replaced_and_not_followed() {
    gives(
        &[
            dir("d"),
            file("f", b"kept"),
            link("to-d", "d"),
            link("to-f", "f"),
            link("to-nothing", "n"),
            file("to-d", b"1"),
            file("to-f", b"2"),
            dir("to-nothing"),
            link("to-f2", "f"),
            link("to-f2", "d"),
        ],
        &[
            "dir 0755 0:0 @0 d",
            "file 0644 0:0 @0 f \"kept\"",
            "file 0644 0:0 @0 to-d \"1\"",
            "file 0644 0:0 @0 to-f \"2\"",
            "link 0777 0:0 @0 to-f2 -> d",
            "dir 0755 0:0 @0 to-nothing",
        ],
    );
}

#[test]
fn a_symbolic_link_takes_the_place_of_files_and_empty_directories() {
    gives(
        &[
            file("a", b"x"),
            dir("b"),
            node("c", 0o020600, 1, 3),
            at(4, by(1, 2, link("a", "1"))),
            link("b", "2"),
            link("c", "3"),
        ],
        &[
            "link 0777 1:2 @4 a -> 1",
            "link 0777 0:0 @0 b -> 2",
            "link 0777 0:0 @0 c -> 3",
        ],
    );
}

// ---- parents ------------------------------------------------------------------------

#[test]
fn members_without_their_parent_directory_are_dropped_and_counted() {
    gives_but(
        6,
        &[
            file("no/file", b"x"),
            dir("no/dir"),
            link("no/link", "x"),
            node("no/node", 0o020600, 1, 3),
            file("a", b""),
            file("a/below-a-file", b"x"),
            one_of(2, 1, file("no/first", b"lost")),
            dir("no"),
            file("no/in-time", b""),
        ],
        &[
            "file 0644 0:0 @0 a \"\"",
            "dir 0755 0:0 @0 no",
            "file 0644 0:0 @0 no/in-time \"\"",
        ],
    );
}

#[test]
fn a_directory_made_too_early_gives_its_time_to_what_comes_by_its_name() {
    gives_but(
        1,
        &[at(5, dir("a/b")), dir("a"), at(6, file("a/b", b""))],
        &["dir 0755 0:0 @0 a", "file 0644 0:0 @5 a/b \"\""],
    );
}

#[test]
fn the_second_link_to_a_dropped_first_is_dropped_too() {
    gives_but(
        2,
        &[
            one_of(2, 1, file("no/first", b"lost")),
            one_of(2, 1, file("second", b"")),
        ],
        &[],
    );
}

#[test]
fn symbolic_links_on_the_way_are_followed() {
    gives(
        &[
            dir("usr"),
            dir("usr/lib"),
            link("lib", "usr/lib"),
            link("lib64", "/lib"),
            file("lib/a", b"1"),
            file("lib64/b", b"2"),
            dir("lib/"),
        ],
        &[
            "link 0777 0:0 @0 lib -> usr/lib",
            "link 0777 0:0 @0 lib64 -> /lib",
            "dir 0755 0:0 @0 usr",
            "dir 0755 0:0 @0 usr/lib",
            "file 0644 0:0 @0 usr/lib/a \"1\"",
            "file 0644 0:0 @0 usr/lib/b \"2\"",
        ],
    );
}

// ---- nothing leaves the tree --------------------------------------------------------

#[test]
fn nothing_leads_out_of_the_tree() {
    let tree = Tree::new("");
    let canary = tree.outside.join("canary");
    fs::write(&canary, "alive").unwrap();
    let outside = tree.outside.to_str().unwrap().to_owned();
    let down = format!("out{outside}");
    let deep = "../".repeat(40);
    let names = [
        "../one".to_owned(),
        format!("{deep}two"),
        "/../three".to_owned(),
        "dir/../../four".to_owned(),
        "absolute/five".to_owned(),
        "up/six".to_owned(),
        "canary".to_owned(),
        format!("{deep}{outside}/canary"),
        format!("{outside}/canary"),
        "absolute/canary".to_owned(),
    ];
    let mut entries = vec![
        dir("dir"),
        link("absolute", &outside),
        link("up", "../../../.."),
        link("slash", "/"),
        link("canary-by-link", &down),
    ];
    entries.extend(names.iter().map(|name| file(name, b"inside")));
    entries.push(file("slash/seven", b""));
    entries.push(dir(".."));
    entries.push(entry("..", 0o000000, b""));
    let done = tree.unpack(&cpio(&entries)).unwrap();
    assert_eq!(
        tree.lines()
            .iter()
            .filter(|line| line.starts_with("file"))
            .cloned()
            .collect::<Vec<_>>(),
        [
            "file 0644 0:0 @0 canary \"inside\"",
            "file 0644 0:0 @0 four \"inside\"",
            "file 0644 0:0 @0 one \"inside\"",
            "file 0644 0:0 @0 seven \"\"",
            "file 0644 0:0 @0 six \"inside\"",
            "file 0644 0:0 @0 three \"inside\"",
            "file 0644 0:0 @0 two \"inside\"",
        ]
    );
    // What asked for the directories of the outside, which are not there inside.
    assert_eq!(done.dropped, 5);
    let left: Vec<_> = fs::read_dir(&tree.outside)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(fs::read(&canary).unwrap(), b"alive");
}

// ---- names --------------------------------------------------------------------------

#[test]
fn slashes_and_dots_in_names_mean_what_they_mean_to_the_kernel() {
    gives_but(
        2,
        &[
            dir("./d"),
            file("/slash", b""),
            file("//slashes", b""),
            file("./dot", b""),
            file("d//double", b""),
            file("d/./inner", b""),
            file("d/../up", b""),
            dir("d/sub/"),
            file("d/file/", b"a directory's name"),
            file("d/.", b"a directory"),
        ],
        &[
            "dir 0755 0:0 @0 d",
            "file 0644 0:0 @0 d/double \"\"",
            "file 0644 0:0 @0 d/inner \"\"",
            "dir 0755 0:0 @0 d/sub",
            "file 0644 0:0 @0 dot \"\"",
            "file 0644 0:0 @0 slash \"\"",
            "file 0644 0:0 @0 slashes \"\"",
            "file 0644 0:0 @0 up \"\"",
        ],
    );
}

#[test]
fn any_bytes_but_nul_make_a_name() {
    let tree = Tree::new("");
    let archive = join(&[
        &raw(of_mode(0o100644), b"new\nline\0", b"1"),
        &raw(of_mode(0o100644), b"\xff\xfe\0", b"2"),
        &raw(of_mode(0o100644), "\u{1f980}\0".as_bytes(), b"3"),
    ]);
    assert_eq!(tree.unpack(&archive).unwrap().dropped, 0);
    let mut names: Vec<_> = fs::read_dir(&tree.root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_encoded_bytes())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [&b"new\nline"[..], "\u{1f980}".as_bytes(), b"\xff\xfe"]
    );
}

#[test]
fn a_name_ends_at_its_first_nul() {
    gives_bytes(
        &raw(of_mode(0o100644), b"a\0padding\0", b"x"),
        0,
        &["file 0644 0:0 @0 a \"x\""],
    );
}

#[test]
fn what_grub_makes_of_newc_is_unpacked() {
    gives_bytes(
        GRUB_2_06,
        0,
        &[
            "dir 0777 0:0 @0 etc",
            "file 0777 0:0 @0 etc/motd \"hello\\n\"",
        ],
    );
}

#[test]
fn a_name_that_goes_on_in_its_padding_ends_the_archive() {
    for (mode, body) in [(0o100644, &b"x"[..]), (0o120777, b"x"), (0o040755, b"")] {
        let mut odd = raw(of_mode(mode), b"no-nul.", body);
        odd[117] = b'x';
        let archive = join(&[
            &cpio_without_trailer(&[file("a", b"1")]),
            &odd,
            &cpio(&[file("b", b"2")]),
        ]);
        fails(
            &archive,
            "read cpio member at 0x74 of its archive: a name does not end with NUL",
            &["file 0644 0:0 @0 a \"1\""],
        );
    }
}

#[test]
fn a_name_that_the_kernel_does_not_look_at_may_end_with_anything() {
    // A directory or device with a body, or a link with an overlong target, is passed over whole.
    let archive = join(&[
        &raw(of_mode(0o040755), b"no-nul", b"x"),
        &raw(of_mode(0o020755), b"no-nul", b"x"),
        &raw(of_mode(0o120777), b"no-nul", &[b'x'; 4097]),
        &cpio(&[file("b", b"2")]),
    ]);
    gives_bytes(&archive, 3, &["file 0644 0:0 @0 b \"2\""]);
}

#[test]
fn members_with_a_name_of_no_length_or_over_path_max_are_passed_over() {
    let long = [&[b'/'; 4096][..], b"\0"].concat();
    let archive = join(&[
        &raw(of_mode(0o100644), b"", b"body"),
        &raw(of_mode(0o100644), &long, b"body"),
        &raw(of_mode(0o040755), &long, b""),
        &raw(of_mode(0o120777), &long, b"x"),
        &cpio(&[file("b", b"2")]),
    ]);
    gives_bytes(&archive, 4, &["file 0644 0:0 @0 b \"2\""]);
}

#[test]
fn a_component_over_255_bytes_is_dropped() {
    let long = "x".repeat(256);
    let fits = "x".repeat(255);
    gives_but(
        3,
        &[
            file(&long, b"1"),
            dir(&long),
            link(&long, "x"),
            file(&fits, b"2"),
        ],
        &[&format!("file 0644 0:0 @0 {fits} \"2\"")],
    );
}

#[test]
fn a_symbolic_link_keeps_a_target_of_4095_bytes_and_longer_ones_are_dropped() {
    let fits = format!("{}x", "/".repeat(4094));
    let at_limit = "x".repeat(4096);
    let over = "x".repeat(4097);
    gives_but(
        2,
        &[link("a", &fits), link("b", &at_limit), link("c", &over)],
        &[&format!("link 0777 0:0 @0 a -> {fits}")],
    );
}

#[test]
fn the_target_of_a_symbolic_link_ends_at_its_first_nul() {
    gives(
        &[entry("a", 0o120777, b"x\0y"), entry("b", 0o120777, b"x\0")],
        &["link 0777 0:0 @0 a -> x", "link 0777 0:0 @0 b -> x"],
    );
}

#[test]
fn a_symbolic_link_may_be_called_like_the_trailer() {
    gives(
        &[link("TRAILER!!!", "x"), file("after", b"")],
        &[
            "link 0777 0:0 @0 TRAILER!!! -> x",
            "file 0644 0:0 @0 after \"\"",
        ],
    );
}

// ---- bodies -------------------------------------------------------------------------

#[test]
fn directories_nodes_and_pipes_with_a_body_are_passed_over() {
    gives_but(
        5,
        &[
            entry("dir", 0o040755, b"body"),
            entry("char", 0o020600, b"body"),
            entry("block", 0o060600, b"070701"),
            entry("fifo", 0o010600, b"b"),
            entry("sock", 0o140600, b"body"),
            file("after", b"x"),
        ],
        &["file 0644 0:0 @0 after \"x\""],
    );
}

#[test]
fn bodies_of_every_length_around_the_buffer_arrive_whole() {
    let body: Vec<u8> = (0..400_001u32).map(|n| (n % 251) as u8).collect();
    for length in [
        0, 1, 3, 4095, 4096, 4097, 131_071, 131_072, 131_073, 400_001,
    ] {
        let tree = Tree::new("");
        let body = &body[..length];
        let sum = body.iter().map(|byte| u32::from(*byte)).sum();
        let archive = cpio(&[summed(sum, file("a", body)), file("b", b"after")]);
        tree.unpack(&archive).unwrap();
        assert!(fs::read(tree.root.join("a")).unwrap() == body, "{length}");
        assert_eq!(fs::read(tree.root.join("b")).unwrap(), b"after");
    }
}

#[test]
fn a_sum_of_070702_is_held_against_the_body_also_where_that_is_empty() {
    gives(
        &[
            summed(b'A' as u32 + b'B' as u32, file("a", b"AB")),
            summed(0, file("empty", b"")),
            summed(99, dir("no-file-no-sum")),
            summed(99, link("no-file", "x")),
        ],
        &[
            "file 0644 0:0 @0 a \"AB\"",
            "file 0644 0:0 @0 empty \"\"",
            "link 0777 0:0 @0 no-file -> x",
            "dir 0755 0:0 @0 no-file-no-sum",
        ],
    );
    fails(
        &cpio(&[summed(5, file("empty", b"")), file("b", b"")]),
        "unpack empty: the sum of its bytes is 0x0, its header says 0x5",
        &["file 0644 0:0 @0 empty \"\""],
    );
}

#[test]
fn the_sum_of_what_was_dropped_is_not_asked_for() {
    gives_but(
        1,
        &[summed(1, file("no/parent", b"AB")), file("b", b"")],
        &["file 0644 0:0 @0 b \"\""],
    );
}

#[test]
fn a_body_cut_short_is_an_error_and_leaves_what_came() {
    let mut archive = cpio_without_trailer(&[file("a", b"1"), file("b", b"0123456789")]);
    archive.truncate(archive.len() - 8);
    let tree = Tree::new("");
    let error = tree.unpack(&archive).unwrap_err();
    assert!(error.starts_with("read b: "), "{error}");
    // All of the length that the header promised, as in the kernel.
    let b = fs::read(tree.root.join("b")).unwrap();
    assert_eq!((b.len(), &b[..4]), (10, &b"0123"[..]));
}

// ---- space --------------------------------------------------------------------------

#[test]
fn no_space_left_is_an_error_that_names_the_file() {
    let tree = Tree::new("size=64k");
    let body = vec![1; 100 << 10];
    let archive = cpio(&[file("small", b"x"), file("too-big", &body)]);
    assert_eq!(
        tree.unpack(&archive).unwrap_err(),
        "write too-big: ENOSPC: No space left on device"
    );
}

#[test]
fn no_inodes_left_is_an_error_that_names_the_member_of_any_type() {
    for (full, name) in [
        (file("last", b""), "last"),
        (dir("last"), "last"),
        (link("last", "x"), "last"),
        (node("last", 0o020600, 1, 3), "last"),
    ] {
        // The root takes one.
        let tree = Tree::new("nr_inodes=2");
        assert_eq!(
            tree.unpack(&cpio(&[file("a", b""), full])).unwrap_err(),
            format!("create {name}: ENOSPC: No space left on device")
        );
    }
    // A hard link counts as one, too.
    let tree = Tree::new("nr_inodes=2");
    let archive = cpio(&[one_of(2, 1, file("a", b"")), one_of(2, 1, file("b", b""))]);
    assert_eq!(
        tree.unpack(&archive).unwrap_err(),
        "create b: ENOSPC: No space left on device"
    );
}

#[test]
fn members_are_counted_without_trailers() {
    let tree = Tree::new("");
    let archive = join(&[
        &cpio(&[file("a", b""), file("b", b"")]),
        &cpio(&[dir("c"), file("no/parent", b"")]),
    ]);
    let done = tree.unpack(&archive).unwrap();
    assert_eq!((done.members, done.dropped), (4, 1));
}

// ---- the kernel's own cases ---------------------------------------------------------

/// init/initramfs_test.c of Linux 7.2: a test here for each of its cases, under its name.
mod initramfs_test {
    use super::*;

    #[test]
    fn extract() {
        let archive = join(&[
            &raw(
                Header {
                    ino: 1,
                    mode: 0o100777,
                    uid: 12,
                    gid: 34,
                    nlink: 1,
                    mtime: 56,
                    min: 1,
                    ..Header::default()
                },
                b"initramfs_test_extract\0",
                b"",
            ),
            &raw(
                Header {
                    ino: 2,
                    mode: 0o040777,
                    nlink: 1,
                    mtime: 57,
                    min: 1,
                    ..Header::default()
                },
                b"initramfs_test_extract_dir\0",
                b"",
            ),
            &raw(Header::default(), b"TRAILER!!!\0", b""),
        ]);
        gives_bytes(
            &archive,
            0,
            &[
                "file 0777 12:34 @56 initramfs_test_extract \"\"",
                "dir 0777 0:0 @57 initramfs_test_extract_dir",
            ],
        );
    }

    #[test]
    fn fname_overrun() {
        let name = b"initramfs_test_fname_overrun\0";
        let mut archive = raw(of_mode(0o100777), name, b"");
        // The NUL and the padding behind it.
        while let Some(zero) = archive.iter().rposition(|byte| *byte == 0) {
            archive[zero] = b'P';
        }
        archive.extend([b'B'; 20]);
        archive.push(0);
        fails(
            &archive,
            "read cpio member at 0x0 of its archive: a name does not end with NUL",
            &[],
        );
    }

    #[test]
    fn data() {
        gives_bytes(
            &raw(of_mode(0o100777), b"initramfs_test_data\0", b"ASDF"),
            0,
            &["file 0777 0:0 @0 initramfs_test_data \"ASDF\""],
        );
    }

    #[test]
    fn csum() {
        let sum = b"ASDF".iter().map(|byte| u32::from(*byte)).sum();
        let archive = |sum| {
            let with = Header {
                crc: true,
                chksum: sum,
                ..of_mode(0o100777)
            };
            let without = Header {
                chksum: 5555,
                ..of_mode(0o100777)
            };
            join(&[
                &raw(with, b"initramfs_test_csum\0", b"ASDF"),
                &raw(without, b"initramfs_test_csum_not_here\0", b"ASDF"),
            ])
        };
        gives_bytes(
            &archive(sum),
            0,
            &[
                "file 0777 0:0 @0 initramfs_test_csum \"ASDF\"",
                "file 0777 0:0 @0 initramfs_test_csum_not_here \"ASDF\"",
            ],
        );
        // The file stays, and nothing after it comes.
        fails(
            &archive(sum - 1),
            "unpack initramfs_test_csum: the sum of its bytes is 0x11e, its header says 0x11d",
            &["file 0777 0:0 @0 initramfs_test_csum \"ASDF\""],
        );
    }

    #[test]
    fn hardlink() {
        let header = Header {
            ino: 1,
            nlink: 2,
            min: 1,
            ..of_mode(0o100777)
        };
        gives_bytes(
            &join(&[
                &raw(header, b"initramfs_test_hardlink\0", b""),
                &raw(header, b"initramfs_test_hardlink_link\0", b"ASDF"),
            ]),
            0,
            &[
                "file 0777 0:0 @0 initramfs_test_hardlink \"ASDF\" 2 links",
                "file 0777 0:0 @0 initramfs_test_hardlink_link \"ASDF\" 2 links = initramfs_test_hardlink",
            ],
        );
    }

    #[test]
    fn many() {
        let mut archive = Vec::new();
        let mut expected = Vec::new();
        for n in 0..1000 {
            let header = Header {
                ino: n,
                min: 1,
                ..of_mode(0o100777)
            };
            let name = format!("initramfs_test_many-{n}\0");
            archive.extend(raw(header, name.as_bytes(), b""));
            expected.push(format!("file 0777 0:0 @0 initramfs_test_many-{n} \"\""));
        }
        expected.sort();
        let expected: Vec<_> = expected.iter().map(String::as_str).collect();
        gives_bytes(&archive, 0, &expected);
    }

    #[test]
    fn fname_pad() {
        let data = b"this file data is aligned at 4K in the archive\0";
        let mut name = b"padded_fname".to_vec();
        name.resize(4096 - 110, 0);
        let archive = raw(of_mode(0o100777), &name, data);
        assert_eq!(&archive[4096..][..data.len()], data);
        gives_bytes(
            &archive,
            0,
            &[
                "file 0777 0:0 @0 padded_fname \"this file data is aligned at 4K in the archive\\x00\"",
            ],
        );
    }

    #[test]
    fn fname_path_max() {
        let of_length = |start: &str, length: usize| {
            let mut name = start.as_bytes().to_vec();
            name.resize(length - 1, b'/');
            name.push(0);
            name
        };
        let archive = join(&[
            &raw(
                of_mode(0o040777),
                &of_length("fname_oversize", 4097),
                b"this file data will not be unpacked\0",
            ),
            &raw(of_mode(0o040777), &of_length("fname_ok", 4096), b""),
        ]);
        gives_bytes(&archive, 1, &["dir 0777 0:0 @0 fname_ok"]);
    }

    #[test]
    fn hdr_hex() {
        let header = Header {
            ino: 1,
            uid: 0x12_3456,
            gid: 0x12_3457,
            ..of_mode(0o100777)
        };
        let good = raw(
            header,
            b"initramfs_test_hdr_hex_0\0",
            b"this is not unpacked",
        );
        // "0x" in front of uid, gid and namesize, which older kernels took.
        for field in [22, 30, 94] {
            let mut archive = good.clone();
            archive[field..field + 2].copy_from_slice(b"0x");
            fails(
                &archive,
                "read cpio member at 0x0 of its archive: a header field is not hexadecimal",
                &[],
            );
        }
    }
}
