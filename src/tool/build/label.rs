//! Volume labels of EROFS layers, which name them in `rd.layers.only=` and `rd.layers.skip=`. Pure.

use std::path::Path;

use crate::error::{Error, Result};

/// The maximum length of a label in bytes: `volume_name` of struct erofs_super_block has 16, and mkfs.erofs ends it
/// with a NUL.
pub const LABEL_MAX: usize = 15;

/// The label for a directory: its name, truncated to [`LABEL_MAX`] bytes, with `_` for characters that a list on the
/// kernel command line cannot hold. `None` for `/`, and for a number, which means the position of a layer.
pub fn of_directory(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy();
    let mut label = String::new();
    for c in name.chars() {
        let c = if is_usable(c) { c } else { '_' };
        if label.len().saturating_add(c.len_utf8()) > LABEL_MAX {
            break;
        }
        label.push(c);
    }
    (!is_number(&label)).then_some(label)
}

/// Checks a label of the command line. An empty one means no label.
pub fn parse(text: &str) -> std::result::Result<String, String> {
    if text.len() > LABEL_MAX {
        return Err(format!(
            "longer than the {LABEL_MAX} bytes of a volume label"
        ));
    }
    if is_number(text) {
        return Err("a number means the position of a layer".into());
    }
    match text.chars().find(|c| !is_usable(*c)) {
        Some(c) => Err(format!(
            "{c:?} is not possible in a list on the kernel command line"
        )),
        None => Ok(text.into()),
    }
}

/// The label as the field of the superblock.
pub fn volume_name(label: &str) -> Result<[u8; LABEL_MAX + 1]> {
    let mut field = [0; LABEL_MAX + 1];
    match field
        .get_mut(..label.len())
        .filter(|_| label.len() <= LABEL_MAX)
    {
        Some(to) => to.copy_from_slice(label.as_bytes()),
        None => return Err(Error::new("label", label, "too long for a volume label")),
    }
    Ok(field)
}

fn is_number(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit())
}

/// Commas separate the items of a list, white space separates words, and double quotes are removed.
fn is_usable(c: char) -> bool {
    !(c == ','
        || c == '"'
        || c == char::REPLACEMENT_CHARACTER
        || c.is_whitespace()
        || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gives_its_name_as_far_as_a_list_can_hold_it() {
        for (path, label) in [
            ("/srv/app", Some("app")),
            ("/srv/root-filesystem-of-a-board", Some("root-filesystem")),
            // 14 bytes, and two more that do not fit.
            ("/srv/fourteen-bytesé", Some("fourteen-bytes")),
            ("/srv/a b,c\"d", Some("a_b_c_d")),
            ("/", None),
            ("/srv/10", None),
            ("/srv/1234567890123456x", None),
        ] {
            assert_eq!(of_directory(Path::new(path)).as_deref(), label, "{path}");
        }
    }

    #[test]
    fn a_label_that_init_could_not_match_is_refused() {
        for (text, parsed) in [
            ("app", Ok("app".into())),
            ("", Ok("".into())),
            ("fifteen-bytes-x", Ok("fifteen-bytes-x".into())),
            (
                "sixteen-bytes-xx",
                Err("longer than the 15 bytes of a volume label".into()),
            ),
            ("7", Err("a number means the position of a layer".into())),
            (
                "a,b",
                Err("',' is not possible in a list on the kernel command line".into()),
            ),
        ] {
            assert_eq!(parse(text), parsed, "{text}");
        }
        assert_eq!(
            volume_name("app").unwrap(),
            *b"app\0\0\0\0\0\0\0\0\0\0\0\0\0"
        );
    }
}
