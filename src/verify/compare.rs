//! Compares the layers with the list.

use super::list::{Expected, ListEntry};
use super::measured::Measured;
use crate::error::{Error, Result};
use crate::plan::Layer;

/// Compares layers, the lowest first, with the list. `may_vary` says whether a layer may be there for
/// [`Expected::Vary`], or why not.
pub(super) fn compare(
    entries: &[ListEntry],
    layers: &[(Layer, Measured)],
    may_vary: impl Fn(&Layer, &str) -> std::result::Result<(), String>,
) -> Result<()> {
    let mut rest = entries;
    for (layer, found) in layers {
        // Why it is no archive that may vary, where one may be.
        let mut why = Vec::new();
        loop {
            let Some((entry, others)) = rest.split_first() else {
                return Err(unlisted(layer, found, entries, &why));
            };
            match &entry.expected {
                Expected::Vary(directory) => match may_vary(layer, directory) {
                    Ok(()) => break,
                    Err(what) => {
                        why.push(format!("{} may vary, but {what}", entry.name));
                        rest = others;
                    }
                },
                expected if found.is(expected) => {
                    rest = others;
                    break;
                }
                Expected::Sha256(_) | Expected::FsVerity(_) | Expected::Verity(_) => {
                    return Err(different(layer, found, entry, entries, layers, &why));
                }
            }
        }
    }
    let missing = |entry: &&ListEntry| !matches!(entry.expected, Expected::Vary(_));
    match rest.iter().find(missing) {
        None => Ok(()),
        Some(entry) => {
            let number = number(entries, entry);
            let found = layers.len();
            let what = format!(
                "number {number} of the list ({entry}) is missing; there are {found} layers"
            );
            Err(Error::new("verify", "the layers", what))
        }
    }
}

/// The number of a line of the list, among lines that are no comments, from 0 as layers are numbered.
fn number(entries: &[ListEntry], entry: &ListEntry) -> usize {
    let mut all = entries.iter();
    all.position(|other| std::ptr::eq(other, entry))
        .unwrap_or_default()
}

/// The position in the list of a layer with this content.
fn elsewhere(entries: &[ListEntry], found: &Measured) -> Option<usize> {
    let mut all = entries.iter();
    all.position(|entry| found.is(&entry.expected))
}

fn begin(layer: &Layer, found: &Measured) -> String {
    format!("offset {:#x}, {found}", layer.offset)
}

fn unlisted(layer: &Layer, found: &Measured, entries: &[ListEntry], why: &[String]) -> Error {
    let mut what = begin(layer, found);
    let count = entries.len();
    match elsewhere(entries, found) {
        Some(number) => what.push_str(&format!(
            ": the list has it once, as number {number}, and ends before this layer"
        )),
        None => what.push_str(&format!(": not in the list, which has {count} lines")),
    }
    why.iter()
        .for_each(|why| what.push_str(&format!("; {why}")));
    Error::new("verify", layer, what)
}

fn different(
    layer: &Layer,
    found: &Measured,
    entry: &ListEntry,
    entries: &[ListEntry],
    layers: &[(Layer, Measured)],
    why: &[String],
) -> Error {
    let mut what = begin(layer, found);
    what.push_str(&format!("; the list has {entry}"));
    let is_there = layers.iter().any(|(_, other)| other.is(&entry.expected));
    match (elsewhere(entries, found), is_there) {
        (Some(number), true) => what.push_str(&format!(
            ", and this layer as number {number}: the layers are in another order"
        )),
        (Some(number), false) => what.push_str(&format!(
            ", which is missing, and this layer as number {number}"
        )),
        (None, true) => what.push_str(", which follows later: this layer is not in the list"),
        (None, false) => {}
    }
    why.iter()
        .for_each(|why| what.push_str(&format!("; {why}")));
    Error::new("verify", layer, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initrd::file_pages::FilePages;
    use crate::plan::{Content, Place};
    use crate::verify::digest::{Digest, Digests};
    use crate::verify::list;

    fn layers(contents: &[&str]) -> Vec<(Layer, Measured)> {
        let layer = |(number, content): (usize, &&str)| {
            let layer = Layer {
                number,
                name: (*content).into(),
                place: Place::Initrd,
                source: 0,
                offset: number as u64 * 16,
                length: 16,
                content: Content::Cpio {
                    codec: None,
                    unpacked: FilePages::default(),
                    inodes: 0,
                    has_root: false,
                },
            };
            let exact = Digest::of(content.as_bytes());
            (
                layer,
                Measured::Hashed(Digests {
                    exact,
                    padded: None,
                }),
            )
        };
        contents.iter().enumerate().map(layer).collect()
    }

    /// The digests of layers are shown as their names, in capitals.
    fn result(listed: &str, found: &str) -> String {
        let split = |text: &str| -> Vec<String> {
            text.split_ascii_whitespace().map(String::from).collect()
        };
        let mut text = String::new();
        for name in split(listed) {
            text.push_str(&match name.strip_prefix("vary:") {
                Some(directory) => format!("vary:/{directory}  {directory}\n"),
                None => format!("{}  {name}\n", Digest::of(name.as_bytes())),
            });
        }
        let entries = list::parse(text.as_bytes()).unwrap();
        let names = split(found);
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let done = compare(&entries, &layers(&names), |layer, directory| {
            match layer.name.starts_with(&directory[1..]) {
                true => Ok(()),
                false => Err(format!("not below {directory}")),
            }
        });
        let mut said = done.map_or_else(|error| error.to_string(), |()| "good".into());
        for name in names
            .into_iter()
            .chain(split(listed).iter().map(String::as_str))
        {
            let digest = Digest::of(name.as_bytes()).to_string();
            said = said.replace(&digest, &name.to_uppercase());
        }
        said
    }

    #[test]
    fn layers_have_to_be_those_of_the_list() {
        for (listed, found, expected) in [
            ("", "", "good"),
            ("a b c", "a b c", "good"),
            ("a a", "a a", "good"),
            (
                "a b c",
                "a x c",
                "verify layer 1 (x): offset 0x10, sha256 X; the list has B  b",
            ),
            (
                "a b",
                "a b c",
                "verify layer 2 (c): offset 0x20, sha256 C: not in the list, which has 2 lines",
            ),
            (
                "a b",
                "a b a",
                "verify layer 2 (a): offset 0x20, sha256 A: the list has it once, as number 0, and ends before this \
                 layer",
            ),
            (
                "a b",
                "b a",
                "verify layer 0 (b): offset 0x0, sha256 B; the list has A  a, and this layer as number 1: the layers \
                 are in another order",
            ),
            (
                "a b c",
                "a c",
                "verify layer 1 (c): offset 0x10, sha256 C; the list has B  b, which is missing, and this layer as \
                 number 2",
            ),
            (
                "a b",
                "a",
                "verify the layers: number 1 of the list (B  b) is missing; there are 1 layers",
            ),
            (
                "a",
                "",
                "verify the layers: number 0 of the list (A  a) is missing; there are 0 layers",
            ),
            (
                "a b",
                "a x b",
                "verify layer 1 (x): offset 0x10, sha256 X; the list has B  b, which follows later: this layer is not \
                 in the list",
            ),
            (
                "",
                "a",
                "verify layer 0 (a): offset 0x0, sha256 A: not in the list, which has 0 lines",
            ),
        ] {
            assert_eq!(result(listed, found), expected, "{listed:?} {found:?}");
        }
    }

    #[test]
    fn archives_that_may_vary_are_optional_and_keep_their_place() {
        for (listed, found, expected) in [
            ("a vary:v b", "a b", "good"),
            ("a vary:v b", "a v1 b", "good"),
            ("a vary:v b", "a v1 v2 b", "good"),
            ("a vary:v", "a v1", "good"),
            (
                "a vary:v b",
                "v1 a b",
                "verify layer 0 (v1): offset 0x0, sha256 V1; the list has A  a, which follows later: this layer is not \
                 in the list",
            ),
            (
                "a vary:v",
                "a x",
                "verify layer 1 (x): offset 0x10, sha256 X: not in the list, which has 2 lines; v may vary, but not \
                 below /v",
            ),
            (
                "a vary:v b",
                "a v",
                "verify the layers: number 2 of the list (B  b) is missing; there are 2 layers",
            ),
        ] {
            assert_eq!(result(listed, found), expected, "{listed:?} {found:?}");
        }
    }
}
