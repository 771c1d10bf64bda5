//! The file `/layerinit-run.conf`: which program to start, and how. Pure.
//!
//! Records that each end with a NUL. The first is `layerinit-run 1`, the others are `KEY=VALUE`: `arg`, a word of the
//! program's command line; `env`, `NAME=VALUE`; `dir`, the working directory; `user`; and `stop`, the number of the signal
//! that ends the program. `arg` and `env` may be repeated.

use std::ffi::CString;

use crate::error::{Error, Result};
use crate::text::shown;

/// The path of the program in the new root.
pub const PROGRAM: &str = "/layerinit-run";

/// The path of the file.
pub const FILE: &str = "/layerinit-run.conf";

/// The first record: the name, and the version of the format.
const MAGIC: &[u8] = b"layerinit-run 1";

/// The largest file, in bytes: no kernel accepts more arguments and environment.
pub const SIZE_MAX: u64 = 6 << 20;

/// The largest number of a signal (SIGRTMAX).
const SIGNAL_MAX: i32 = 64;

/// Which program to start, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The program and its arguments. There is at least one.
    pub arguments: Vec<CString>,
    /// The environment, `NAME=VALUE` each.
    pub environment: Vec<CString>,
    /// The working directory; empty: `/`.
    pub directory: Vec<u8>,
    /// `USER[:GROUP]`, each a name or a number; empty: root.
    pub user: Vec<u8>,
    /// The signal that ends the program.
    pub stop_signal: i32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: Vec::new(),
            user: Vec::new(),
            stop_signal: libc::SIGTERM,
        }
    }
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// It is not such a file, has another version, or is truncated; a record is unknown or has an invalid
    /// value; there is no program.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let refuse = |what: String| Err(Error::new("read", FILE, what));
        let Some(records) = bytes.strip_suffix(&[0]) else {
            return refuse("it does not end with a NUL: it is truncated".into());
        };
        let mut records = records.split(|byte| *byte == 0);
        match records.next() {
            Some(MAGIC) => {}
            other => {
                let found = other.unwrap_or_default();
                let found = shown(found.get(..32).unwrap_or(found));
                return refuse(format!(
                    "it begins with {found:?}, not with layerinit-run 1"
                ));
            }
        }
        let mut config = Self::default();
        for record in records {
            let mut parts = record.splitn(2, |byte| *byte == b'=');
            let (Some(key), Some(value)) = (parts.next(), parts.next()) else {
                return refuse(format!("{}: a record without =", shown(record)));
            };
            match key {
                b"arg" => config.arguments.push(string(value)?),
                b"env" if !is_variable(value) => {
                    return refuse(format!("{}: not NAME=VALUE", shown(record)));
                }
                b"env" => config.environment.push(string(value)?),
                b"dir" => config.directory = value.to_vec(),
                b"user" => config.user = value.to_vec(),
                b"stop" => match signal(value) {
                    Some(number) => config.stop_signal = number,
                    None => {
                        return refuse(format!("{}: not a signal from 1 to 64", shown(record)));
                    }
                },
                _ => return refuse(format!("{}: an unknown record", shown(record))),
            }
        }
        match config.arguments.first() {
            None => refuse("it names no program".into()),
            Some(program) if program.is_empty() => {
                refuse("the name of the program is empty".into())
            }
            Some(_) => Ok(config),
        }
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = [MAGIC, &[0]].concat();
        let mut record = |key: &str, value: &[u8]| {
            bytes.extend_from_slice(key.as_bytes());
            bytes.push(b'=');
            bytes.extend_from_slice(value);
            bytes.push(0);
        };
        let strings = |key, strings: &[CString], record: &mut dyn FnMut(&str, &[u8])| {
            strings
                .iter()
                .for_each(|string| record(key, string.to_bytes()));
        };
        strings("arg", &self.arguments, &mut record);
        strings("env", &self.environment, &mut record);
        for (key, value) in [("dir", &self.directory), ("user", &self.user)] {
            if !value.is_empty() {
                record(key, value);
            }
        }
        record("stop", self.stop_signal.to_string().as_bytes());
        bytes
    }

    /// The value of a variable of the environment. The last one of a name counts.
    pub fn variable(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.environment.iter().filter_map(|variable| {
            let rest = variable.to_bytes().strip_prefix(name.as_bytes())?;
            rest.strip_prefix(b"=")
        });
        values.next_back()
    }
}

/// Whether a string is `NAME=VALUE`.
pub fn is_variable(text: &[u8]) -> bool {
    !matches!(text.iter().position(|byte| *byte == b'='), None | Some(0))
}

/// The number of a signal, in decimal digits.
pub fn signal(digits: &[u8]) -> Option<i32> {
    let number: i32 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (1..=SIGNAL_MAX).contains(&number).then_some(number)
}

fn string(value: &[u8]) -> Result<CString> {
    CString::new(value).map_err(|_| Error::new("read", FILE, "a NUL inside a record"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8]) -> String {
        Config::parse(bytes).unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let bytes = b"layerinit-run 1\0arg=/bin/sh\0arg=-c\0arg=echo a=b\nc\0arg=\0env=PATH=/bin\0env=EMPTY=\0dir=/srv\0user=www:80\0stop=3\0";
        let config = Config::parse(bytes).unwrap();
        let expected = Config {
            arguments: [c"/bin/sh", c"-c", c"echo a=b\nc", c""]
                .map(Into::into)
                .to_vec(),
            environment: [c"PATH=/bin", c"EMPTY="].map(Into::into).to_vec(),
            directory: b"/srv".to_vec(),
            user: b"www:80".to_vec(),
            stop_signal: 3,
        };
        assert_eq!(config, expected);
        assert_eq!(config.encode(), bytes);
        assert_eq!(config.variable("PATH"), Some(&b"/bin"[..]));
        assert_eq!(config.variable("EMPTY"), Some(&b""[..]));
        assert_eq!(config.variable("PAT"), None);
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let config = Config::parse(b"layerinit-run 1\0arg=a\0").unwrap();
        let arguments = vec![c"a".into()];
        assert_eq!(
            config,
            Config {
                arguments,
                ..Config::default()
            }
        );
        assert_eq!(config.stop_signal, 15);
        assert_eq!(config.encode(), b"layerinit-run 1\0arg=a\0stop=15\0");
    }

    #[test]
    fn a_hostile_file_gives_a_message() {
        let of = "read /layerinit-run.conf: ";
        for (bytes, what) in [
            (&b""[..], "it does not end with a NUL: it is truncated"),
            (b"\0", "it begins with \"\", not with layerinit-run 1"),
            (
                b"layerinit-run 1",
                "it does not end with a NUL: it is truncated",
            ),
            (
                b"layerinit-run 1\0arg=a",
                "it does not end with a NUL: it is truncated",
            ),
            (
                b"layerinit-run 2\0arg=a\0",
                "it begins with \"layerinit-run 2\", not with layerinit-run 1",
            ),
            (b"layerinit-run 1\0", "it names no program"),
            (
                b"layerinit-run 1\0arg=\0",
                "the name of the program is empty",
            ),
            (b"layerinit-run 1\0arg=a\0\0", ": a record without ="),
            (b"layerinit-run 1\0arg=a\0env=A\0", "env=A: not NAME=VALUE"),
            (
                b"layerinit-run 1\0arg=a\0env==B\0",
                "env==B: not NAME=VALUE",
            ),
            (
                b"layerinit-run 1\0arg=a\0stop=0\0",
                "stop=0: not a signal from 1 to 64",
            ),
            (
                b"layerinit-run 1\0arg=a\0stop=65\0",
                "stop=65: not a signal from 1 to 64",
            ),
            (
                b"layerinit-run 1\0arg=a\0stop=99999999999\0",
                "stop=99999999999: not a signal from 1 to 64",
            ),
            (
                b"layerinit-run 1\0arg=a\0mount=/x\0",
                "mount=/x: an unknown record",
            ),
        ] {
            assert_eq!(refused(bytes), format!("{of}{what}"));
        }
        let long = [&[b'x'; 1000][..], &[0]].concat();
        assert_eq!(
            refused(&long),
            format!(
                "{of}it begins with {:?}, not with layerinit-run 1",
                "x".repeat(32)
            )
        );
    }
}
