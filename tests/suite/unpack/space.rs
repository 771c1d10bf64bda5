//! Full filesystems, and the count of members.

use super::*;

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
        // The root directory takes one inode.
        let tree = Tree::new("nr_inodes=2");
        assert_eq!(
            tree.unpack(&cpio(&[file("a", b""), full])).unwrap_err(),
            format!("create {name}: ENOSPC: No space left on device")
        );
    }
    // In a tmpfs, a hard link takes one, too.
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
