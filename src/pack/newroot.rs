//! The root that the layers make, looked at without mounting anything: whether the real init is in
//! it. Layers are stacked as overlayfs stacks them, but for opaque directories.

use super::boot::Boot;
use super::erofs_tree::{Inode, Tree};
use super::files::kind;
use super::rootfs::Rootfs;
use super::text::shown;
use crate::bytes::{Opened, Part, ReadAt};
use crate::erofs::Superblock;
use crate::error::Result;
use crate::plan::{Content, Plan, Root};
use crate::proof::interpreter;
use crate::segment::Kind;

/// The inodes are stored in a way that is not read here.
const INCOMPAT_METABOX: u32 = 1 << 8;

/// As many symbolic links as the kernel follows (MAXSYMLINKS in include/linux/namei.h).
const LINKS_MAX: usize = 40;

/// The kernel follows `#!` and interpreters this deep (exec_binprm in fs/exec.c).
const DEPTH: usize = 5;

/// What was found in a layer, or in all of them.
pub type Report<'a> = &'a mut dyn FnMut(&crate::plan::Layer, String);

/// Reads every layer of the plan from one end to the other, reports what cannot be read, and says
/// why none of the plan's inits can be started. `Ok(None)`: one can, or that cannot be told.
pub fn init(boot: &Boot, image: &Opened, plan: &Plan, report: Report) -> Result<Option<String>> {
    if plan.root == Root::Initramfs {
        return Ok(refusals(plan, |path| {
            match boot.rootfs.find(path.as_bytes()) {
                None => Err("not there".into()),
                Some((_, node)) => program(node.mode),
            }
        }));
    }
    let sources = boot.open(image)?;
    let mut whole = true;
    let mut parts = Vec::new();
    for layer in &plan.layers {
        if let Some(source) = sources.get(layer.source) {
            parts.push((layer, Part::new(&**source, layer.offset, layer.length)));
        }
    }
    let mut stack = Vec::new();
    for (layer, part) in &parts {
        match &layer.content {
            Content::Erofs { superblock, .. } if is_readable(superblock) => {
                let tree = Tree::new(part, superblock);
                match tree.and_then(|tree| tree.walk(|_| Ok(())).map(|()| tree)) {
                    Ok(tree) => stack.push(Stacked::Erofs(tree)),
                    Err(error) => {
                        report(layer, error.to_string());
                        whole = false;
                    }
                }
            }
            Content::Cpio { codec, .. } => {
                let bytes = codec.is_none().then_some(part);
                stack.push(Stacked::Cpio(unpacked(boot, layer, part), bytes));
            }
            // What is on a device, or stored in ways that are not read here, may have it.
            _ => whole = false,
        }
    }
    if !whole || stack.is_empty() {
        return Ok(None);
    }
    // The uppermost first, as names are looked up.
    stack.reverse();
    Ok(refusals(plan, |path| start(&stack, path, DEPTH)))
}

fn is_readable(superblock: &Superblock) -> bool {
    superblock.feature_incompat & INCOMPAT_METABOX == 0 && superblock.unknown_incompat() == 0
}

/// The files of a cpio layer. What is wrong with it has been said.
fn unpacked(boot: &Boot, layer: &crate::plan::Layer, part: &dyn ReadAt) -> Rootfs {
    let mut rootfs = Rootfs::empty();
    let source = boot.sources.get(layer.source);
    let segments = source.into_iter().flat_map(|source| &source.walk.segments);
    for segment in segments.filter(|segment| segment.offset == layer.offset) {
        if let Kind::Cpio(cpio) = &segment.kind {
            let mut alone = segment.clone();
            alone.offset = 0;
            let _ = rootfs.unpack(part, &alone, cpio, &mut |_, _, _| {});
        }
    }
    rootfs
}

/// Why none of the inits can be started, if that is so.
fn refusals(
    plan: &Plan,
    check: impl Fn(&str) -> std::result::Result<(), String>,
) -> Option<String> {
    let mut refusals = Vec::new();
    for init in &plan.inits {
        match check(init) {
            Ok(()) => return None,
            Err(what) => refusals.push(format!("{init}: {what}")),
        }
    }
    Some(refusals.join("; "))
}

/// Whether a file of this mode can be a program.
fn program(mode: u32) -> std::result::Result<(), String> {
    match mode {
        _ if mode & libc::S_IFMT != libc::S_IFREG => Err(format!("a {}, not a file", kind(mode))),
        _ if mode & 0o111 == 0 => Err(format!("not executable (mode {:04o})", mode & 0o7777)),
        _ => Ok(()),
    }
}

/// Whether the kernel can start a program, and those that it starts in its place. What cannot be
/// read here is taken to be good.
fn start(stack: &[Stacked], path: &str, depth: usize) -> std::result::Result<(), String> {
    let found = find(stack, path.as_bytes()).map_err(|error| error.to_string())?;
    let Some((index, file)) = found else {
        return Err("not there".into());
    };
    program(file.mode)?;
    let content: Option<Box<dyn ReadAt>> = match (stack.get(index), file.place) {
        (Some(Stacked::Erofs(tree)), Place::Erofs(inode)) => tree
            .content(*inode)
            .map(|content| Box::new(content) as Box<dyn ReadAt>),
        (Some(Stacked::Cpio(rootfs, Some(part))), Place::Cpio(path)) => rootfs
            .here(&path)
            .and_then(|node| node.body)
            .map(|body| Box::new(Part::new(*part, body.offset, body.length)) as Box<dyn ReadAt>),
        _ => None,
    };
    let Some(content) = content else {
        return Ok(());
    };
    match needed(&*content)? {
        None => Ok(()),
        Some(_) if depth == 0 => Err("too many interpreters of interpreters".into()),
        Some(needed) => start(stack, &needed, depth.saturating_sub(1))
            .map_err(|what| format!("it needs {}: {what}", shown(needed.as_bytes()))),
    }
}

/// The program that the kernel starts in place of this one, as the proof at boot has it. Images may
/// be looked at on another machine than they are for: that is no error here.
pub fn needed(program: &dyn ReadAt) -> std::result::Result<Option<String>, String> {
    const ELSEWHERE: [&str; 2] = [
        "an ELF program for another machine",
        "an ELF program of the other byte order",
    ];
    match interpreter(program) {
        Err(what) if ELSEWHERE.iter().any(|start| what.starts_with(start)) => Ok(None),
        other => other,
    }
}

/// The files of one layer.
enum Stacked<'a> {
    Erofs(Tree<'a>),
    /// And the archive, where it is not compressed.
    Cpio(Rootfs, Option<&'a Part<&'a dyn ReadAt>>),
}

/// A file of one layer.
#[derive(Clone)]
enum Place {
    Erofs(Box<Inode>),
    Cpio(Vec<u8>),
}

struct File {
    place: Place,
    mode: u32,
    target: Vec<u8>,
    whiteout: bool,
}

/// A directory: where it is in each layer that has it, by index.
type Merged = Vec<(usize, Place)>;

impl Stacked<'_> {
    fn root(&self) -> Result<Place> {
        Ok(match self {
            Self::Erofs(tree) => Place::Erofs(Box::new(tree.root()?)),
            Self::Cpio(..) => Place::Cpio(Vec::new()),
        })
    }

    fn lookup(&self, directory: &Place, name: &[u8]) -> Result<Option<File>> {
        match (self, directory) {
            (Self::Erofs(tree), Place::Erofs(directory)) => {
                let dirents = tree.directory(directory)?;
                let Some(dirent) = dirents.iter().find(|dirent| dirent.name == name) else {
                    return Ok(None);
                };
                let inode = tree.inode(dirent.nid)?;
                let mode = inode.file.mode;
                let target = match mode & libc::S_IFMT {
                    libc::S_IFLNK => tree.target(&inode)?.unwrap_or_default(),
                    _ => Vec::new(),
                };
                Ok(Some(File {
                    whiteout: inode.file.device == Some((0, 0)),
                    place: Place::Erofs(Box::new(inode)),
                    mode,
                    target,
                }))
            }
            (Self::Cpio(rootfs, _), Place::Cpio(directory)) => {
                let path = match directory.as_slice() {
                    b"" => name.to_vec(),
                    directory => [directory, b"/", name].concat(),
                };
                Ok(rootfs.here(&path).map(|node| File {
                    place: Place::Cpio(path),
                    mode: node.mode,
                    target: node.target.clone(),
                    whiteout: false,
                }))
            }
            _ => Ok(None),
        }
    }
}

/// A file and the layer that it is in, links followed.
fn find(stack: &[Stacked], path: &[u8]) -> Result<Option<(usize, File)>> {
    let mut root: Merged = Vec::new();
    for (index, layer) in stack.iter().enumerate() {
        root.push((index, layer.root()?));
    }
    let components = |path: &[u8]| {
        let names = path.split(|byte| *byte == b'/').rev();
        let names = names.filter(|name| !name.is_empty() && *name != b".");
        names.map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    let mut todo = components(path);
    let mut trail = vec![root.clone()];
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == b".." {
            if trail.len() > 1 {
                trail.pop();
            }
            continue;
        }
        let here = trail.last().cloned().unwrap_or_default();
        let mut merged = Merged::new();
        let mut found = None;
        for (index, place) in here {
            let Some(layer) = stack.get(index) else {
                continue;
            };
            let Some(file) = layer.lookup(&place, &name)? else {
                continue;
            };
            if file.mode & libc::S_IFMT != libc::S_IFDIR || file.whiteout {
                // Under a directory of an upper layer it cannot be seen.
                if merged.is_empty() && !file.whiteout {
                    found = Some((index, file));
                }
                break;
            }
            merged.push((index, file.place));
        }
        match found {
            None if merged.is_empty() => return Ok(None),
            None => trail.push(merged),
            Some((_, file)) if file.mode & libc::S_IFMT == libc::S_IFLNK => {
                links += 1;
                if links > LINKS_MAX {
                    return Ok(None);
                }
                if file.target.starts_with(b"/") {
                    trail = vec![root.clone()];
                }
                todo.extend(components(&file.target));
            }
            Some(found) => return Ok(Some(found).filter(|_| todo.is_empty())),
        }
    }
    let directory = File {
        place: Place::Cpio(Vec::new()),
        mode: libc::S_IFDIR,
        target: Vec::new(),
        whiteout: false,
    };
    Ok(Some((0, directory)))
}
