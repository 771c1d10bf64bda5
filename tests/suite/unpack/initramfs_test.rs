//! The cases of init/initramfs_test.c of Linux 7.2, under the same names.

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
    // The NUL and the padding after it.
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
    // The file stays, and later members are not unpacked.
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
        &["file 0777 0:0 @0 padded_fname \"this file data is aligned at 4K in the archive\\x00\""],
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
    // "0x" in front of uid, gid and namesize, which older kernels accepted.
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
