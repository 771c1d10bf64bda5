//! Hard links.

use super::*;

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
fn links_are_matched_by_device_inode_and_type() {
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
fn hard_links_reach_across_zeros_without_a_trailer() {
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
fn a_hard_link_replaces_another_file_but_not_itself() {
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
    // The kernel removes the file first, and then cannot link to it.
    gives_but(
        1,
        &[one_of(2, 1, file("a", b"1")), one_of(2, 1, file("a", b"2"))],
        &[],
    );
}

#[test]
fn a_link_to_a_removed_file_is_dropped_with_its_data() {
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
    // The kernel waits forever for a reader of the pipe, and writes to the device.
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
fn a_rewritten_file_keeps_its_links() {
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
