//! Helpers for the tests of the host tool.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{erofs, join, pad};

/// An empty directory for one test, below Cargo's target directory.
pub fn scratch(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if directory.exists() {
        fs::remove_dir_all(&directory).unwrap();
    }
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// The tool, to be run in `directory`, without environment variables that affect it.
pub fn tool(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_layerinit"));
    command
        .current_dir(directory)
        .env_remove("SOURCE_DATE_EPOCH")
        .env_remove("LAYERINIT_INIT")
        .env_remove("LAYERINIT_RUN");
    command
}

/// Returns standard output, standard error and the exit status.
pub fn said(output: &Output) -> (String, String, i32) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let status = output.status.code().unwrap_or(-1);
    (text(&output.stdout), text(&output.stderr), status)
}

/// An EROFS image of one block, with /sbin/init.
pub fn erofs_with_init(label: &str) -> Vec<u8> {
    const FIRST: u64 = 1152 / 32;
    let inode = |mode: u16, data: &[u8]| {
        let words = [2 << 1, 0, mode, 1].map(u16::to_le_bytes).concat();
        let rest = [data.len() as u32, 0, 0, 0, 0, 0]
            .map(u32::to_le_bytes)
            .concat();
        join(&[&words, &rest, data])
    };
    let names = |names: &[(&str, u64)]| {
        let mut nameoff = names.len() as u16 * 12;
        let mut dirents = Vec::new();
        for (name, inode) in names {
            let nid = (FIRST + 4 * inode).to_le_bytes();
            dirents = join(&[&dirents, &nid, &nameoff.to_le_bytes(), &[0, 0]]);
            nameoff += name.len() as u16;
        }
        let text: String = names.iter().map(|(name, _)| *name).collect();
        join(&[&dirents, text.as_bytes()])
    };
    let mut image = erofs(1, label);
    image[1038] = FIRST as u8;
    let tree = [
        inode(0o040_755, &names(&[(".", 0), ("..", 0), ("sbin", 1)])),
        inode(0o040_755, &names(&[(".", 1), ("..", 0), ("init", 2)])),
        inode(0o100_755, &elf(62)),
    ];
    for (n, inode) in tree.iter().enumerate() {
        let at = 1152 + n * 4 * 32;
        image[at..at + inode.len()].copy_from_slice(inode);
    }
    image
}

/// The smallest static program, for this machine (e_machine of x86_64 is 62).
pub fn elf(machine: u16) -> Vec<u8> {
    let mut header = vec![0; 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    header[16] = 2;
    header[18..20].copy_from_slice(&machine.to_le_bytes());
    header[54] = 56;
    header
}

/// `image` followed by `layer` at the next multiple of 4096.
pub fn aligned(mut image: Vec<u8>, layer: &[u8]) -> Vec<u8> {
    pad(&mut image, 4096);
    join(&[&image, layer])
}
