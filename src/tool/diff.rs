//! `layerinit diff`: the differences between the roots that result from two images.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;

use super::extract::node_xattrs;
use super::image::date::format_utc;
use super::image::files::kind;
use super::image::input::Initrd;
use super::image::merged::equal;
use super::image::node::Node;
use super::image::view::{self, View};
use super::progress::LongStep;
use crate::error::{Context, Result};
use crate::format::erofs::Limits;
use crate::json::{Array, Object};
use crate::text::shown;

/// What to compare, and how to print it.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiffOptions {
    /// Compare modification times, too.
    pub times: bool,
    /// Write one JSON object instead of text.
    pub json: bool,
}

/// A file that only one root has, or that differs.
enum Difference {
    Added(&'static str),
    Removed(&'static str),
    Changed(Vec<FileChange>),
}

/// A changed property of a file. Content has no values to print.
struct FileChange {
    what: String,
    values: Option<(String, String)>,
}

/// Compares two images, and writes the differences. True if there are none.
///
/// # Errors
/// A layer cannot be read. Nothing is printed then.
pub fn diff(old: &Initrd, new: &Initrd, options: DiffOptions, out: &mut dyn Write) -> Result<bool> {
    let found = view::with(old, None, |before| {
        before.complete().during("read", &old.name)?;
        view::with(new, None, |after| {
            after.complete().during("read", &new.name)?;
            let mut sides = Sides {
                old: Side::new(before),
                new: Side::new(after),
                times: options.times,
            };
            let bytes = before.root.nodes.iter().map(Node::size);
            let progress = LongStep::layer("compare the files", bytes.fold(0, u64::saturating_add));
            let found = sides.all(&progress)?;
            progress.finish();
            Ok(found)
        })
    })?;
    let text = match options.json {
        true => json(old, new, &found),
        false => text(&found),
    };
    out.write_all(text.as_bytes())
        .during("write", "the differences")?;
    Ok(found.is_empty())
}

/// One of the two roots.
struct Side<'v> {
    view: &'v View<'v>,
    limits: HashMap<usize, Limits>,
    /// The first name of each file.
    first: BTreeMap<usize, &'v [u8]>,
}

impl<'v> Side<'v> {
    fn new(view: &'v View<'v>) -> Self {
        let mut first = BTreeMap::new();
        for (name, index) in &view.root.names {
            first.entry(*index).or_insert(name.as_slice());
        }
        Self {
            view,
            limits: HashMap::new(),
            first,
        }
    }

    fn node(&self, index: usize) -> Option<&'v Node> {
        self.view.root.nodes.get(index)
    }

    /// Counts the bytes of a file without its holes.
    fn count(&mut self, node: &Node) -> Result<()> {
        let node = node.with_bytes();
        if let (Some(image), Some(inode)) = (self.view.layers.image(node.layer), &node.inode) {
            let limits = self.limits.entry(node.layer);
            limits
                .or_insert_with(|| Limits::of(image))
                .file(image, inode)?;
        }
        Ok(())
    }
}

struct Sides<'v> {
    old: Side<'v>,
    new: Side<'v>,
    times: bool,
}

impl<'v> Sides<'v> {
    /// All differences, in the order of the paths.
    fn all(&mut self, progress: &LongStep) -> Result<BTreeMap<Vec<u8>, Difference>> {
        let mut found = BTreeMap::new();
        let (before, after) = (&self.old.view.root.names, &self.new.view.root.names);
        for (path, index) in before {
            let Some(old) = self.old.node(*index) else {
                continue;
            };
            let difference = match after.get(path) {
                None => Some(Difference::Removed(kind(old.mode))),
                Some(other) => {
                    let changes = match self.new.node(*other) {
                        Some(new) => self.compare((*index, old), (*other, new), progress),
                        None => Ok(Vec::new()),
                    };
                    let changes = changes.during("compare", display(path))?;
                    (!changes.is_empty()).then_some(Difference::Changed(changes))
                }
            };
            found.extend(difference.map(|difference| (path.clone(), difference)));
        }
        for (path, index) in after.iter().filter(|(path, _)| !before.contains_key(*path)) {
            if let Some(new) = self.new.node(*index) {
                found.insert(path.clone(), Difference::Added(kind(new.mode)));
            }
        }
        Ok(found)
    }

    /// The differences of a file.
    fn compare(
        &mut self,
        old: (usize, &Node),
        new: (usize, &Node),
        progress: &LongStep,
    ) -> Result<Vec<FileChange>> {
        let mut changes = Vec::new();
        let mut add = |what: &str, old: String, new: String| {
            if old != new {
                let values = Some((old, new));
                changes.push(FileChange {
                    what: what.into(),
                    values,
                });
            }
        };
        let links = (self.old.first.get(&old.0), self.new.first.get(&new.0));
        let (old, new) = (old.1, new.1);
        if kind(old.mode) != kind(new.mode) {
            add("type", kind(old.mode).into(), kind(new.mode).into());
            return Ok(changes);
        }
        if !old.has_type(libc::S_IFLNK) {
            let mode = |node: &Node| format!("{:04o}", node.mode & 0o7777);
            add("mode", mode(old), mode(new));
        }
        let owner = |node: &Node| format!("{}:{}", node.owner.0, node.owner.1);
        add("owner", owner(old), owner(new));
        let device = |node: &Node| {
            node.device
                .map_or(String::new(), |(major, minor)| format!("{major}:{minor}"))
        };
        add("device", device(old), device(new));
        add("target", shown(&old.target), shown(&new.target));
        add("size", old.size().to_string(), new.size().to_string());
        let name = |link: Option<&&[u8]>| link.map_or(String::new(), |link| display(link));
        add("first name", name(links.0), name(links.1));
        if self.times {
            let time = |node: &Node| format!("{}.{:09}", format_utc(node.mtime.0), node.mtime.1);
            add("mtime", time(old), time(new));
        }
        changes.extend(self.xattrs(old, new)?);
        if old.has_type(libc::S_IFREG) && self.content_differs(old, new, progress)? {
            changes.push(FileChange {
                what: "content".into(),
                values: None,
            });
        }
        Ok(changes)
    }

    /// The extended attributes that are different.
    fn xattrs(&mut self, old: &Node, new: &Node) -> Result<Vec<FileChange>> {
        let of = |side: &mut Side, node: &Node| -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
            let xattrs = node_xattrs(side.view, node, &mut side.limits)?.into_iter();
            Ok(xattrs.map(|xattr| (xattr.name, xattr.value)).collect())
        };
        let (before, after) = (of(&mut self.old, old)?, of(&mut self.new, new)?);
        let mut names: Vec<_> = before.keys().chain(after.keys()).collect();
        names.sort();
        names.dedup();
        let differs = |name: &&&Vec<u8>| before.get(**name) != after.get(**name);
        let value = |value: Option<&Vec<u8>>| value.map_or("none".into(), |value| quoted(value));
        let changes = names.iter().filter(differs).map(|name| FileChange {
            what: format!("xattr {}", shown(name)),
            values: Some((value(before.get(*name)), value(after.get(*name)))),
        });
        Ok(changes.collect())
    }

    fn content_differs(&mut self, old: &Node, new: &Node, progress: &LongStep) -> Result<bool> {
        if old.size() != new.size() {
            return Ok(true);
        }
        self.old.count(old)?;
        self.new.count(new)?;
        let before = self.old.view.layers.content(old)?;
        let after = self.new.view.layers.content(new)?;
        equal(&progress.watch(&*before, 0), &*after)
            .map(|equal| !equal)
            .during("read", "content")
    }
}

/// A path from the root.
fn display(path: &[u8]) -> String {
    format!("/{}", shown(path))
}

/// The value of an attribute, or the start and the length of a long one.
fn quoted(value: &[u8]) -> String {
    /// Nobody reads more.
    const MAX: usize = 64;
    match value.len() {
        ..=MAX => format!("\"{}\"", value.escape_ascii()),
        n => format!(
            "{n} bytes \"{}...\"",
            value.get(..MAX).unwrap_or_default().escape_ascii()
        ),
    }
}

fn text(found: &BTreeMap<Vec<u8>, Difference>) -> String {
    let mut text = String::new();
    for (path, difference) in found {
        let path = display(path);
        let line = match difference {
            Difference::Added(kind) => format!("added    {path} ({kind})\n"),
            Difference::Removed(kind) => format!("removed  {path} ({kind})\n"),
            Difference::Changed(changes) => {
                let clauses = changes.iter().map(|change| match &change.values {
                    None => change.what.clone(),
                    Some((old, new)) => format!("{} {old} -> {new}", change.what),
                });
                let clauses: Vec<_> = clauses.collect();
                format!("changed  {path}: {}\n", clauses.join(", "))
            }
        };
        text.push_str(&line);
    }
    text
}

fn json(old: &Initrd, new: &Initrd, found: &BTreeMap<Vec<u8>, Difference>) -> String {
    let mut text = String::new();
    let mut object = Object::new(&mut text);
    object.text("old", &old.name).text("new", &new.name);
    let file = |array: &mut Array, path: &[u8], kind: &str| {
        array
            .object()
            .text("path", &display(path))
            .text("type", kind);
    };
    let mut array = object.array("added");
    for (path, difference) in found {
        if let Difference::Added(kind) = difference {
            file(&mut array, path, kind);
        }
    }
    drop(array);
    let mut array = object.array("removed");
    for (path, difference) in found {
        if let Difference::Removed(kind) = difference {
            file(&mut array, path, kind);
        }
    }
    drop(array);
    let mut array = object.array("changed");
    for (path, difference) in found {
        if let Difference::Changed(changes) = difference {
            let mut object = array.object();
            object.text("path", &display(path));
            let mut list = object.array("changes");
            for change in changes {
                let mut object = list.object();
                object.text("what", &change.what);
                if let Some((old, new)) = &change.values {
                    object.text("old", old).text("new", new);
                }
            }
        }
    }
    drop(array);
    drop(object);
    text.push('\n');
    text
}
