//! The error type: the step that failed, its object, the cause, and a hint.
//!
//! [`crate::boot::rescue`] decides what an error means for the machine.

use std::fmt::{self, Write as _};
use std::io;

use rustix::io::Errno;

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A failed step. Displayed as `step object: cause`, for example
/// `mount layer 1 (initrd+0x2f000): EBADMSG: Bad message (erofs: invalid checksum)`.
#[derive(Clone, Debug)]
pub struct Error {
    step: &'static str,
    object: String,
    cause: Cause,
    hint: Option<String>,
}

/// Why a step failed.
#[derive(Clone, Debug)]
pub enum Cause {
    /// A system call failed.
    Os(Errno),
    /// A call on a filesystem context failed, with the kernel's message from the context's log
    /// (Documentation/filesystems/mount_api.rst).
    Kernel(Errno, String),
    /// The input is invalid, or cannot be satisfied: a sentence.
    Reason(String),
    /// A step within this step failed.
    Because(Box<Error>),
    /// Every alternative failed.
    Each(Vec<Error>),
}

impl Error {
    /// An error whose cause is a sentence.
    pub fn new(step: &'static str, object: impl fmt::Display, reason: impl Into<String>) -> Self {
        Self::with(step, object, Cause::Reason(reason.into()))
    }

    /// An error with any cause.
    pub fn with(step: &'static str, object: impl fmt::Display, cause: Cause) -> Self {
        Self {
            step,
            object: object.to_string(),
            cause,
            hint: None,
        }
    }

    /// Adds what the reader can do about the error.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// Replaces the object.
    pub fn of(self, object: impl fmt::Display) -> Self {
        Self {
            object: object.to_string(),
            ..self
        }
    }

    /// Replaces the cause.
    pub fn because(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }

    /// The cause.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// The errno of the call, if the cause is one failed call.
    pub fn errno(&self) -> Option<Errno> {
        match self.cause {
            Cause::Os(errno) | Cause::Kernel(errno, _) => Some(errno),
            Cause::Reason(_) | Cause::Because(_) | Cause::Each(_) => None,
        }
    }

    /// Whether a failed call, of this step or of one within it, returned one of these.
    pub fn has(&self, wanted: &[Errno]) -> bool {
        match &self.cause {
            Cause::Each(errors) => errors.iter().any(|error| error.has(wanted)),
            Cause::Because(error) => error.has(wanted),
            _ => self.errno().is_some_and(|errno| wanted.contains(&errno)),
        }
    }
}

/// Whether a terminal acts on a character or does not show it: control characters and format characters
/// (Unicode categories Cf, Zl and Zp). These can make a name look like another, or like a part of the
/// message.
pub fn is_unprintable(c: char) -> bool {
    let formats = matches!(
        c,
        '\u{ad}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{890}'..='\u{891}'
            | '\u{8e2}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{110bd}'
            | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e007f}'
    );
    formats || c.is_control()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.step)?;
        for c in self.object.chars() {
            match is_unprintable(c) {
                true => write!(f, "{}", c.escape_default())?,
                false => f.write_char(c)?,
            }
        }
        write!(f, ": {}", self.cause)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Os(errno) => name(*errno).fmt(f),
            Self::Kernel(errno, text) => write!(f, "{} (kernel: {text})", name(*errno)),
            Self::Reason(reason) => f.write_str(reason),
            Self::Because(error) => error.fmt(f),
            Self::Each(errors) => {
                for (i, error) in errors.iter().enumerate() {
                    write!(f, "{}{error}", if i == 0 { "" } else { "; " })?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Error {
    /// The failed step within this step. [`Display`](fmt::Display) includes its text.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Because(error) => Some(error),
            _ => None,
        }
    }
}

/// The errno as `ENOENT: No such file or directory`. The table is nix's: strerror(3) would link the locale
/// code of the C library into /init.
pub fn name(errno: Errno) -> nix::errno::Errno {
    nix::errno::Errno::from_raw(errno.raw_os_error())
}

/// Adds step and object to an error.
pub trait Context<T> {
    /// Adds the step that failed and its object, which is formatted only after a failure.
    fn during(self, step: &'static str, object: impl fmt::Display) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn during(self, step: &'static str, object: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error::with(step, object, Cause::Because(Box::new(error))))
    }
}

impl<T> Context<T> for std::result::Result<T, Errno> {
    fn during(self, step: &'static str, object: impl fmt::Display) -> Result<T> {
        self.map_err(|errno| Error::with(step, object, Cause::Os(errno)))
    }
}

impl<T> Context<T> for std::result::Result<T, nix::errno::Errno> {
    fn during(self, step: &'static str, object: impl fmt::Display) -> Result<T> {
        self.map_err(|errno| {
            let errno = Errno::from_raw_os_error(errno as i32);
            Error::with(step, object, Cause::Os(errno))
        })
    }
}

impl<T> Context<T> for io::Result<T> {
    fn during(self, step: &'static str, object: impl fmt::Display) -> Result<T> {
        self.map_err(|error| match Errno::from_io_error(&error) {
            Some(errno) => Error::with(step, object, Cause::Os(errno)),
            None => Error::new(step, object, error.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_cannot_do_anything_to_a_terminal() {
        let error = Error::new("open", "a\u{1b}[31m\u{202e}b\u{fc}", "no");
        assert_eq!(error.to_string(), "open a\\u{1b}[31m\\u{202e}b\u{fc}: no");
    }

    #[test]
    fn names_step_object_and_every_cause() {
        let loop_ = Error::with("open", "/dev/loop-control", Cause::Os(Errno::NOENT));
        let file = Error::with(
            "mount",
            "erofs",
            Cause::Kernel(Errno::INVAL, "cannot find valid erofs superblock".into()),
        );
        let all = Error::with("mount", "layer 3", Cause::Each(vec![file, loop_]));
        assert_eq!(
            all.to_string(),
            "mount layer 3: mount erofs: EINVAL: Invalid argument (kernel: cannot find valid erofs \
             superblock); open /dev/loop-control: ENOENT: No such file or directory"
        );
    }
}
