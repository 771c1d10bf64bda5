//! Names: parents, symbolic links in paths, attempts to leave the tree, lengths.

use super::*;

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
fn a_dropped_directory_gives_its_time_to_a_later_file_of_its_name() {
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
fn symbolic_links_in_a_path_are_followed() {
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
    // Members whose paths exist outside, but not in the tree.
    assert_eq!(done.dropped, 5);
    let left: Vec<_> = fs::read_dir(&tree.outside)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(fs::read(&canary).unwrap(), b"alive");
}

#[test]
fn slashes_and_dots_in_names_are_read_as_in_the_kernel() {
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
fn names_may_have_any_bytes_but_nul() {
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
fn archives_of_grub_are_unpacked() {
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
fn a_name_that_continues_in_its_padding_ends_the_archive() {
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
fn names_of_skipped_members_need_no_nul() {
    // A directory or device with a body, or a link with an overlong target, is skipped.
    let archive = join(&[
        &raw(of_mode(0o040755), b"no-nul", b"x"),
        &raw(of_mode(0o020755), b"no-nul", b"x"),
        &raw(of_mode(0o120777), b"no-nul", &[b'x'; 4097]),
        &cpio(&[file("b", b"2")]),
    ]);
    gives_bytes(&archive, 3, &["file 0644 0:0 @0 b \"2\""]);
}

#[test]
fn members_with_an_empty_or_overlong_name_are_skipped() {
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
fn a_symbolic_link_may_have_the_name_of_the_trailer() {
    gives(
        &[link("TRAILER!!!", "x"), file("after", b"")],
        &[
            "link 0777 0:0 @0 TRAILER!!! -> x",
            "file 0644 0:0 @0 after \"\"",
        ],
    );
}
