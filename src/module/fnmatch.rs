//! Matches the shell patterns of aliases: `*`, `?`, `[...]` and `\`, as fnmatch(3) without flags.
//!
//! Unlike in fnmatch(3), a `-` outside of brackets matches `_`, since names are compared in that form.

/// The part of a pattern before its first special character.
pub(super) fn literal(pattern: &str) -> &str {
    pattern
        .split(['*', '?', '[', '\\'])
        .next()
        .unwrap_or_default()
}

/// Whether `pattern` matches all of `text`, which has `_` for `-`. Takes at most as many steps as the product
/// of the lengths.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.as_bytes(), text.as_bytes());
    // The last star: the pattern after it, and the text at which to retry.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some((b'*', rest)) = pattern.split_first() {
            // This star can match everything that an earlier one could: no need to retry those.
            pattern = rest;
            if rest.is_empty() {
                return true;
            }
            let Some(from) = candidate(rest, text) else {
                return false;
            };
            text = from;
            retry = Some((rest, from));
            continue;
        }
        let step = match text.split_first() {
            None if pattern.is_empty() => return true,
            // The rest of the pattern needs more text.
            None => return false,
            Some((byte, text)) => one(pattern, *byte).map(|pattern| (pattern, text)),
        };
        match (step, retry) {
            (Some(next), _) => (pattern, text) = next,
            (None, None) => return false,
            (None, Some((after, tried))) => {
                let next = tried.split_first().map(|(_, next)| next);
                let Some(next) = next.and_then(|next| candidate(after, next)) else {
                    return false;
                };
                retry = Some((after, next));
                (pattern, text) = (after, next);
            }
        }
    }
}

/// The first place in `text` where `pattern` could match: at its first letter, if it starts with one.
///
/// This alone rules out thousands of patterns (`of:N*T*Cvendor,chip`).
fn candidate<'a>(pattern: &[u8], text: &'a [u8]) -> Option<&'a [u8]> {
    match pattern.first() {
        None | Some(b'*' | b'?' | b'[' | b'\\') => Some(text),
        Some(letter) => {
            let letter = underscored(*letter);
            let at = text.iter().position(|byte| *byte == letter)?;
            text.get(at..)
        }
    }
}

fn underscored(letter: u8) -> u8 {
    if letter == b'-' { b'_' } else { letter }
}

/// Matches one byte against the start of a pattern that does not start with a star. Returns the rest of the
/// pattern.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (first, rest) = pattern.split_first()?;
    match first {
        b'?' => Some(rest),
        b'[' => match brackets(rest, byte) {
            Some((inside, rest)) => inside.then_some(rest),
            // Without a closing bracket, an ordinary character.
            None => (byte == b'[').then_some(rest),
        },
        b'\\' => match rest.split_first() {
            Some((escaped, rest)) => (*escaped == byte).then_some(rest),
            None => (byte == b'\\').then_some(rest),
        },
        literal => (underscored(*literal) == byte).then_some(rest),
    }
}

/// Whether `byte` is in the set at the start of `pattern`, and the pattern after the set. `None`: no closing
/// bracket.
fn brackets(pattern: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let (negated, mut rest) = match pattern.split_first()? {
        (b'!' | b'^', rest) => (true, rest),
        _ => (false, pattern),
    };
    let mut inside = false;
    let mut first = true;
    loop {
        let (low, next) = rest.split_first()?;
        if *low == b']' && !first {
            return Some((inside != negated, next));
        }
        first = false;
        let high = match next {
            [b'-', high, after @ ..] if *high != b']' => {
                rest = after;
                high
            }
            _ => {
                rest = next;
                low
            }
        };
        inside |= (*low..=*high).contains(&byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_fnmatch() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("**", "abc", true),
            ("a*c", "abcbc", true),
            ("a*c", "abcb", false),
            ("*b*d", "abcd", true),
            ("?", "", false),
            ("a?c", "abc", true),
            ("[0-9]", "5", true),
            ("[0-9]", "a", false),
            ("[!0-9]", "a", true),
            ("[^0-9]", "5", false),
            ("[]]", "]", true),
            ("[a-]", "-", true),
            ("[a", "[a", true),
            ("[a", "a", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("\\", "\\", true),
            (
                "pci:v00001AF4d*sv*sd*bc*sc*i*",
                "pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00",
                true,
            ),
            ("usb:v0403p6001d[0-5]*dc*", "usb:v0403p6001d6600dc00", false),
            (
                "cpu:type:x86,ven*fam*mod*:feature:*0081*",
                "cpu:type:x86,ven0fam6mod1:feature:,0081,",
                true,
            ),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "*a".repeat(30) + "b";
        assert!(!matches(&pattern, &"a".repeat(4000)));
    }

    #[test]
    fn a_dash_outside_of_brackets_matches_an_underscore() {
        assert!(matches("a-b[0-9]*-c", "a_b1x_c"));
        assert!(!matches("a-b[0-9]*-c", "a_b-x_c"));
        assert!(matches("*-a", "b_a"));
        assert_eq!(literal("ab*c"), "ab");
        assert_eq!(literal("ab"), "ab");
    }
}
