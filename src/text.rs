//! Text from outside: the words of the kernel command line, split as in next_arg() of lib/cmdline.c, lists in
//! them, and names in messages.

use std::fmt;

use crate::error::is_unprintable;

/// Splits a command line into names and values.
pub struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    /// The words of `text` up to `--`, which ends the kernel's words.
    pub fn new(text: &'a str) -> Self {
        Self { rest: text }
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = (&'a str, Option<&'a str>);

    fn next(&mut self) -> Option<Self::Item> {
        // The kernel's isspace() is for Latin-1, with 0xa0, the no-break space. That byte is also part of
        // UTF-8 characters, so only ASCII white space separates here.
        let space = |c: char| c.is_ascii_whitespace() || c == '\x0b';
        let text = self.rest.trim_start_matches(space);
        let mut quoted = false;
        let end = text.find(|c| {
            quoted ^= c == '"';
            !quoted && space(c)
        });
        let (word, rest) = text.split_at_checked(end.unwrap_or(text.len()))?;
        self.rest = rest;
        if word.is_empty() || word == "--" {
            self.rest = "";
            return None;
        }
        // A quote before the name encloses the whole word; one after the equals sign encloses the value.
        let unquoted = match word.strip_prefix('"') {
            Some(word) => word.strip_suffix('"').unwrap_or(word),
            None => word,
        };
        Some(match unquoted.split_once('=') {
            Some((name, value)) => match value.strip_prefix('"') {
                Some(value) => (name, Some(value.strip_suffix('"').unwrap_or(value))),
                None => (name, Some(value)),
            },
            None => (unquoted, None),
        })
    }
}

/// The items of a comma-separated list, without empty ones.
pub fn items(list: &str) -> Vec<String> {
    list.split(',')
        .filter(|item| !item.is_empty())
        .map(Into::into)
        .collect()
}

/// A name for a message. Escapes characters that a terminal acts on or does not show, bytes that are not
/// UTF-8, and the backslash.
pub fn shown(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\0'..='\x7f' if c.is_control() => text.push_str(&format!("\\x{:02x}", c as u32)),
                _ if is_unprintable(c) => text.extend(c.escape_unicode()),
                _ => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// What [`shown`] returns, made when it is displayed: for names that only an error shows.
#[derive(Clone, Copy)]
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<(&str, Option<&str>)> {
        Words::new(text).collect()
    }

    #[test]
    fn words_are_split_as_the_kernel_splits_them() {
        for (text, expected) in [
            ("", vec![]),
            (" \t\n", vec![]),
            ("a b=c", vec![("a", None), ("b", Some("c"))]),
            ("a=\"b c\" d", vec![("a", Some("b c")), ("d", None)]),
            ("\"a=b c\" d", vec![("a", Some("b c")), ("d", None)]),
            ("a=b\" \"c", vec![("a", Some("b\" \"c"))]),
            ("a=\"b", vec![("a", Some("b"))]),
            ("a==b", vec![("a", Some("=b"))]),
            ("a= b", vec![("a", Some("")), ("b", None)]),
            ("a -- b", vec![("a", None)]),
            ("a --b", vec![("a", None), ("--b", None)]),
        ] {
            assert_eq!(words(text), expected, "{text:?}");
        }
    }

    #[test]
    fn names_cannot_do_anything_to_a_terminal() {
        for (name, expected) in [
            (&b"plain/name.txt"[..], "plain/name.txt"),
            ("gr\u{fc}n".as_bytes(), "gr\u{fc}n"),
            (b"a\nb\tc\\d", "a\\nb\\tc\\\\d"),
            (b"\x1b[31m\x07\x7f", "\\x1b[31m\\x07\\x7f"),
            (b"\xff\xc3", "\\xff\\xc3"),
            (b"\xc2\x9b", "\\u{9b}"),
            // A name that would look like init.cpio, and one like init.
            ("init.\u{202e}oipc".as_bytes(), "init.\\u{202e}oipc"),
            ("in\u{200b}it".as_bytes(), "in\\u{200b}it"),
            // Of other alphabets, with accents of their own, and symbols.
            (
                "e\u{301}\u{5d0}\u{4e2d}\u{1f5ff}".as_bytes(),
                "e\u{301}\u{5d0}\u{4e2d}\u{1f5ff}",
            ),
        ] {
            assert_eq!(shown(name), expected);
        }
        for c in
            "\u{ad}\u{61c}\u{200b}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}\u{feff}\
                  \u{fff9}\u{e0001}\u{e0041}\u{e007f}"
                .chars()
        {
            let expected = format!("\\u{{{:x}}}", u32::from(c));
            assert_eq!(shown(c.to_string().as_bytes()), expected);
        }
    }
}
