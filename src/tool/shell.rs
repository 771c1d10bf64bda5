//! Words of a POSIX shell: splits a command, and quotes words for one. Pure.
//!
//! Source: POSIX.1-2024, Shell Command Language, 2.2 Quoting. Nothing is expanded, and `#` starts no comment.

/// Splits a command at blanks that are not quoted by `'...'`, `"..."` or `\`.
///
/// # Errors
/// A quote is not closed, or there is no program to run.
pub fn split(text: &str) -> std::result::Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (Some(open), close) if open == close => quote = None,
            (None | Some('"'), '\\') => {
                let next = characters.next().ok_or("a \\ at the end")?;
                let word = word.get_or_insert_default();
                // In double quotes, a backslash quotes only what is special there.
                if quote.is_some() && !"$`\"\\\n".contains(next) {
                    word.push('\\');
                }
                // Before a line feed, it continues the line.
                if next != '\n' {
                    word.push(next);
                }
            }
            (None, blank) if blank.is_ascii_whitespace() => words.extend(word.take()),
            (_, other) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    match (quote, words.first()) {
        (Some(quote), _) => Err(format!("a {quote} is not closed")),
        (None, None) => Err("no program".into()),
        (None, Some(program)) if program.is_empty() => {
            Err("the name of the program is empty".into())
        }
        (None, Some(_)) => Ok(words),
    }
}

/// Joins words to a command, with quotes where a shell needs them.
pub fn join(words: &[String]) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
    let quoted = words
        .iter()
        .map(|word| match !word.is_empty() && word.chars().all(safe) {
            true => word.clone(),
            false => format!("'{}'", word.replace('\'', r"'\''")),
        });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_as_a_shell_does_it() {
        for (text, expected) in [
            (
                " nginx  -g 'daemon off;'\t",
                &["nginx", "-g", "daemon off;"][..],
            ),
            (
                r#"a "b \" 'c" d\ e '' 'x\y'"#,
                &["a", "b \" 'c", "d e", "", r"x\y"],
            ),
            (r#"a "\d\$\\" \d #e"#, &["a", r"\d$\", "d", "#e"]),
            ("a\\\nb \"c\\\nd\"", &["ab", "cd"]),
        ] {
            assert_eq!(split(text).unwrap(), expected, "{text}");
        }
        for (text, what) in [
            ("", "no program"),
            (" ", "no program"),
            ("'a", "a ' is not closed"),
            ("a \"", "a \" is not closed"),
            ("a\\", "a \\ at the end"),
            ("'' a", "the name of the program is empty"),
        ] {
            assert_eq!(split(text).unwrap_err(), what, "{text}");
        }
    }

    #[test]
    fn what_is_joined_is_split_to_the_same_words() {
        let words = ["a", "", "b c", "$x", "it's", "~", r"\", "\n", "\""].map(String::from);
        let text = join(&words);
        assert_eq!(text, "a '' 'b c' '$x' 'it'\\''s' '~' '\\' '\n' '\"'");
        assert_eq!(split(&text).unwrap(), words);
    }
}
