//! The shell patterns of aliases: `*`, `?`, `[...]` and `\`, as fnmatch(3) without flags, except that
//! a `-` outside of brackets stands for a `_`: names are compared in that form.

/// The part before the first character that is not just itself.
pub(super) fn literal(pattern: &str) -> &str {
    pattern
        .split(['*', '?', '[', '\\'])
        .next()
        .unwrap_or_default()
}

/// Whether all of `text`, which has `_` for `-`, matches. Takes at most as many steps as the product of
/// the lengths.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.as_bytes(), text.as_bytes());
    // After the last star: the pattern behind it, and the text from which it is tried next.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some((b'*', rest)) = pattern.split_first() {
            // Whatever an earlier star could try, this one can too.
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
            // What is left of the pattern is no star, and there is nothing for it.
            None => return false,
            Some((byte, text)) => one(pattern, *byte).map(|pattern| (pattern, text)),
        };
        match (step, retry) {
            (Some(next), _) => (pattern, text) = next,
            (None, None) => return false,
            (None, Some((behind, tried))) => {
                let next = tried.split_first().map(|(_, next)| next);
                let Some(next) = next.and_then(|next| candidate(behind, next)) else {
                    return false;
                };
                retry = Some((behind, next));
                (pattern, text) = (behind, next);
            }
        }
    }
}

/// Where `pattern` could start to match at the earliest: at its first letter, if it starts with one.
/// Thousands of patterns (`of:N*T*Cvendor,chip`) are ruled out by this alone.
fn candidate<'a>(pattern: &[u8], text: &'a [u8]) -> Option<&'a [u8]> {
    match pattern.first() {
        None | Some(b'*' | b'?' | b'[' | b'\\') => Some(text),
        Some(letter) => {
            let letter = plain(*letter);
            let at = text.iter().position(|byte| *byte == letter)?;
            text.get(at..)
        }
    }
}

fn plain(letter: u8) -> u8 {
    if letter == b'-' { b'_' } else { letter }
}

/// Matches one byte against the front of a pattern that does not start with a star: what is left of
/// the pattern.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (first, rest) = pattern.split_first()?;
    match first {
        b'?' => Some(rest),
        b'[' => match brackets(rest, byte) {
            Some((inside, rest)) => inside.then_some(rest),
            // Never closed: an ordinary character.
            None => (byte == b'[').then_some(rest),
        },
        b'\\' => match rest.split_first() {
            Some((escaped, rest)) => (*escaped == byte).then_some(rest),
            None => (byte == b'\\').then_some(rest),
        },
        literal => (plain(*literal) == byte).then_some(rest),
    }
}

/// Whether `byte` is in the set that starts here, and what follows the set. `None`: it has no end.
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
    fn patterns_match_as_fnmatch_says() {
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
    fn many_stars_do_not_take_for_ever() {
        let pattern = "*a".repeat(30) + "b";
        assert!(!matches(&pattern, &"a".repeat(4000)));
    }

    #[test]
    fn dashes_are_underscores_outside_of_brackets() {
        assert!(matches("a-b[0-9]*-c", "a_b1x_c"));
        assert!(!matches("a-b[0-9]*-c", "a_b-x_c"));
        assert!(matches("*-a", "b_a"));
        assert_eq!(literal("ab*c"), "ab");
        assert_eq!(literal("ab"), "ab");
    }
}
