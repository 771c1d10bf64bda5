//! What the kernel's unpacker makes of archives.
//!
//! Source: init/initramfs.c of Linux 7.2, do_header to do_symlink, with its silences: what it drops
//! without a word is reported here. `/init` unpacks cpio layers by the same rules.

use std::collections::HashMap;
use std::io;

use super::files::kind;
use super::rootfs::{Bytes, Node, Rootfs, join, parts};
use crate::bytes::{ReadAt, Skip};
use crate::error::{Context, Error, Result};
use crate::format::cpio::{Archive, Header, Member, Next, PATH_MAX, normalized};
use crate::initrd::member::{LinkKey, Whiteout, link_key, link_target, whiteout, wrong_sum};
use crate::initrd::{self, Cpio, Segment};
use crate::text::shown;

/// More bytes than the names in any initrd take; a bound on what a hostile one can make us remember.
const NAMES_MAX: usize = 256 << 20;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It goes wrong at boot.
    Error,
    /// It works, but is odd or costs something.
    Warning,
}

/// Takes what was found: how bad it is, where, and what.
pub type Report<'a> = &'a mut dyn FnMut(Severity, String, String);

impl Rootfs {
    /// Unpacks the archive in a segment, as far as it goes. What the kernel would not unpack, or not
    /// as the archive has it, is reported.
    pub fn unpack(
        &mut self,
        image: &dyn ReadAt,
        segment: &Segment,
        cpio: &Cpio,
        report: Report,
    ) -> Result<()> {
        let context = || format!("archive at {:#x}", segment.offset);
        let mut archive = initrd::open_archive(image, segment.offset, segment.length, cpio.codec)
            .during("read", context())?;
        let mut links = HashMap::new();
        loop {
            let next = archive.next_member()?;
            // The walk has seen that the kernel stops here; /init does not.
            if self.layer.is_none() && archive.unterminated().is_some() {
                return Ok(());
            }
            let member = match next {
                Next::Member(member) => member,
                // Hard links do not reach across archives.
                Next::Trailer => {
                    links.clear();
                    continue;
                }
                Next::End => return Ok(()),
            };
            let place = match cpio.codec {
                None => format!("{:#010x}", segment.offset.saturating_add(member.offset)),
                Some(codec) => format!("{:#010x} ({codec} {:#x})", segment.offset, member.offset),
            };
            let mut report = |severity, what: String| {
                report(severity, format!("{place} {}", named(&member.name)), what);
            };
            // The kernel looks for microcode and ACPI tables by name, and then unpacks them for
            // nothing: missing directories do not matter.
            let quiet = cpio.only_early;
            let made = self.member(
                &member,
                segment.offset,
                &mut archive,
                &mut links,
                &mut report,
            );
            if let Err(what) = &made
                && !quiet
            {
                report(Severity::Error, what.clone());
            }
            let wrong = wrong_sum(&member, &mut archive).during("read", context())?;
            // The sum of a file that was not created is not checked.
            if let Some(sum) = wrong
                && made.is_ok()
            {
                let stored = member.header.chksum;
                let who = match self.layer {
                    Some(_) => "/init refuses the layer",
                    None => "the kernel stops here",
                };
                let what =
                    format!("its bytes add up to {sum:#x}, its header says {stored:#x}: {who}");
                report(Severity::Error, what);
                return Ok(());
            }
            if self.size > NAMES_MAX {
                let what =
                    format!("names of more than {NAMES_MAX} bytes; the rest is not looked at");
                return Err(Error::new("check", context(), what));
            }
        }
    }

    /// Creates one member. The error is why the kernel does not.
    fn member<I: Skip>(
        &mut self,
        member: &Member,
        segment: u64,
        archive: &mut Archive<I>,
        links: &mut HashMap<LinkKey, Vec<u8>>,
        report: &mut dyn FnMut(Severity, String),
    ) -> std::result::Result<(), String> {
        let header = &member.header;
        let file_type = header.file_type();
        if header.namesize == 0 || header.namesize > PATH_MAX {
            let length = header.namesize;
            return Err(format!(
                "a name of {length} bytes: the kernel passes it over"
            ));
        }
        if !member.counts() {
            return Err(match file_type {
                _ if member.name.is_empty() => "an empty name: the kernel passes it over".into(),
                libc::S_IFLNK => {
                    "a target of more than 4096 bytes: the kernel passes it over".into()
                }
                _ => format!(
                    "a {} with a body: the kernel passes it over",
                    kind(header.mode)
                ),
            });
        }
        climbs(&member.name, report);
        // tmpfs, ramfs and overlayfs.
        const NAME_MAX: usize = 255;
        let mut components = member.name.split(|byte| *byte == b'/');
        if let Some(long) = components.find(|component| component.len() > NAME_MAX) {
            let length = long.len();
            return Err(format!(
                "a name of {length} bytes, and no file's is longer than {NAME_MAX}: {}",
                self.dropped()
            ));
        }
        let Some(path) = self.place(&member.name)? else {
            return Ok(());
        };
        if path.is_empty() {
            return self.top(header);
        }
        if self.hides(&path, member, report) {
            return Ok(());
        }
        self.clean(&path, file_type, report)?;
        let mut node = Node {
            mode: header.mode,
            layer: self.layer.unwrap_or(0),
            ..Node::default()
        };
        match file_type {
            libc::S_IFREG => {
                let length = u64::from(header.filesize);
                node.body = Some(Bytes {
                    segment,
                    offset: member.body,
                    length,
                });
                return self.file(member, path, node, links);
            }
            libc::S_IFLNK => {
                let error = |error: io::Error| error.to_string();
                node.target = link_target(archive).map_err(error)?;
            }
            libc::S_IFDIR | libc::S_IFCHR | libc::S_IFBLK | libc::S_IFIFO | libc::S_IFSOCK => {}
            _ => {
                return Err(format!(
                    "mode {:o} is no type of file: the kernel passes it over",
                    header.mode
                ));
            }
        }
        self.put(path, node);
        Ok(())
    }

    /// A member for the root directory itself, which the kernel replaces by nothing.
    fn top(&mut self, header: &Header) -> std::result::Result<(), String> {
        let file_type = header.file_type();
        if file_type != libc::S_IFDIR {
            return Err(format!(
                "a {} named as the root directory: {}",
                kind(file_type),
                self.dropped()
            ));
        }
        if let Some(root) = self.nodes.first_mut() {
            root.mode = header.mode;
            root.layer = self.layer.unwrap_or(0);
        }
        Ok(())
    }

    /// Who leaves a file out.
    fn dropped(&self) -> &'static str {
        match self.layer {
            Some(_) => "/init leaves the file out, as the kernel would",
            None => "the kernel drops the file without a word",
        }
    }

    /// Takes away what a layer's member is there to hide, if it is one of those.
    fn hides(
        &mut self,
        path: &[u8],
        member: &Member,
        report: &mut dyn FnMut(Severity, String),
    ) -> bool {
        if self.layer.is_none() {
            return false;
        }
        let (parent, last) = parts(path);
        match whiteout(member) {
            Some(Whiteout::Directory(_)) => self.hide(parent),
            Some(Whiteout::Name) => self.whiteout(path),
            None if member.header.file_type() == libc::S_IFREG && last.starts_with(b".wh.") => {
                report(
                    Severity::Warning,
                    "a whiteout of OCI images is a file like any other here: use a character device 0:0"
                        .into(),
                );
                return false;
            }
            None => return false,
        }
        true
    }

    /// A regular file: a new one, more of an earlier one, or a further name of one.
    fn file(
        &mut self,
        member: &Member,
        path: Vec<u8>,
        node: Node,
        links: &mut HashMap<LinkKey, Vec<u8>>,
    ) -> std::result::Result<(), String> {
        let header = &member.header;
        let empty = node.body.is_none_or(|body| body.length == 0);
        if let Some(key) = link_key(header) {
            if !links.contains_key(&key) {
                self.size = self
                    .size
                    .saturating_add(path.len())
                    .saturating_add(size_of::<LinkKey>());
            }
            let first = links.entry(key).or_insert_with(|| path.clone());
            if *first != path {
                let Some(index) = self.names.get(first).copied() else {
                    return Err(format!(
                        "a hard link to {}, which is not there",
                        shown(first)
                    ));
                };
                self.name(path, index);
                if let Some(first) = self.nodes.get_mut(index).filter(|_| !empty) {
                    *first = node;
                }
                return Ok(());
            }
        }
        self.put(path, node);
        Ok(())
    }

    /// Where a name leads: its directory's links followed, its own not.
    /// `None` where that cannot be known.
    fn place(&self, name: &[u8]) -> std::result::Result<Option<Vec<u8>>, String> {
        let path = normalized(name);
        let (parent, last) = parts(&path);
        let directory = self.resolve(parent);
        let is_directory = |path: &Vec<u8>| {
            self.here(path)
                .is_some_and(|node| node.mode & libc::S_IFMT == libc::S_IFDIR)
        };
        match (directory.filter(is_directory), self.layer) {
            (None, Some(_)) if self.partial => Ok(None),
            (None, Some(_)) => Err(format!(
                "there is no directory {} in this layer or below: /init leaves the file out",
                shown(parent)
            )),
            (None, None) => Err(format!(
                "there is no directory {}: the kernel drops the file without a word",
                shown(parent)
            )),
            (Some(directory), _) if last == b".." || last.is_empty() => Ok(Some(
                self.resolve(&join(&directory, last)).unwrap_or_default(),
            )),
            (Some(directory), _) => Ok(Some(join(&directory, last))),
        }
    }

    /// Removes what is of another type: clean_path.
    fn clean(
        &mut self,
        path: &[u8],
        file_type: u32,
        report: &mut dyn FnMut(Severity, String),
    ) -> std::result::Result<(), String> {
        let Some((there, layer)) = self.here(path).map(|node| (node.mode, node.layer)) else {
            return Ok(());
        };
        if there & libc::S_IFMT == file_type {
            return Ok(());
        }
        let (old, new) = (kind(there), kind(file_type));
        if there & libc::S_IFMT == libc::S_IFDIR && self.below(path).next().is_some() {
            let who = match self.layer {
                Some(_) => "/init leaves it out, as the kernel would",
                None => "the kernel drops it",
            };
            return Err(format!(
                "a {new} in place of a directory that is not empty: {who}"
            ));
        }
        if self.layer.is_none_or(|own| own == layer) {
            report(
                Severity::Warning,
                format!("a {new} in place of an earlier {old}"),
            );
            self.names.remove(path);
        }
        // In place of what a lower layer has: `put` takes note.
        Ok(())
    }
}

/// Says so where a name has `..` in it. The kernel's unpacker follows them, but not beyond the root.
fn climbs(name: &[u8], report: &mut dyn FnMut(Severity, String)) {
    let mut depth = 0i64;
    let mut lowest = 0;
    for component in normalized(name).split(|byte| *byte == b'/') {
        depth = depth.saturating_add(if component == b".." { -1 } else { 1 });
        lowest = depth.min(lowest);
    }
    if lowest < 0 {
        report(Severity::Error, "its name leads out of the archive".into());
    } else if name
        .split(|byte| *byte == b'/')
        .any(|component| component == b"..")
    {
        report(Severity::Warning, "its name has `..` in it".into());
    }
}

fn named(name: &[u8]) -> String {
    match name {
        b"" => "(no name)".into(),
        name => shown(name),
    }
}
