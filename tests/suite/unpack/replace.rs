//! Members that replace earlier ones.

use super::*;

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
            // An existing node keeps its numbers.
            "char 0666 4:4 @3 b 1:3",
            "link 0777 0:0 @4 c -> y",
            "fifo 0666 0:0 @0 d",
        ],
    );
}

#[test]
fn a_member_of_another_type_replaces_an_earlier_one() {
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
fn a_directory_with_files_stays_and_takes_the_attributes_of_its_replacement() {
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
fn a_symbolic_link_replaces_files_and_empty_directories() {
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
