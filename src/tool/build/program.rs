//! Programs that a build runs: mkfs.erofs and compressors.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use super::temp_files::TempFiles;
use crate::error::{Context, Error, Result};
use crate::tool::progress::Spinner;

/// The number of lines of a failed program's messages that are shown.
const LINES_MAX: usize = 20;

/// What a program prints, to standard output or error; nothing if it is not installed.
pub fn output(command: &mut Command, temp: &TempFiles) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.env("LC_ALL", "C").stdin(Stdio::null());
    let child = match temp.spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        child => child.during("run", &program)?,
    };
    let output = child.wait_with_output().during("run", &program);
    temp.forget_child();
    let output = output?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Runs a program for a layer, with a spinner on a terminal. `package` is the Debian package of the program.
///
/// # Errors
/// The program is not installed, or fails: the error holds its messages, which are otherwise not shown.
pub fn run(command: &mut Command, package: &str, directory: &Path, temp: &TempFiles) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let object = || format!("{program} for {}", directory.display());
    command.env("LC_ALL", "C").stderr(Stdio::piped());
    let child = match temp.spawn(command) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let error = Error::new("run", object(), "it is not installed");
            return Err(error.hint(format!("on Debian: apt install {package}")));
        }
        child => child.during("run", object())?,
    };
    let spinner = Spinner::new(object());
    let output = child.wait_with_output().during("run", object());
    drop(spinner);
    temp.forget_child();
    let output = output?;
    if output.status.success() {
        return Ok(());
    }
    let messages = String::from_utf8_lossy(&output.stderr);
    let mut what = output.status.to_string();
    for line in shown_lines(&messages).take(LINES_MAX) {
        let _ = write!(what, "\n    {}", line.trim_end());
    }
    Err(Error::new("run", object(), what))
}

/// The lines that are shown. For a Python traceback that is only the exception at its end.
fn shown_lines(messages: &str) -> impl Iterator<Item = &str> {
    let mut traceback = false;
    messages.lines().filter(move |line| {
        traceback |= line.starts_with("Traceback (most recent call last):");
        let of_traceback = line.starts_with(' ') || line.starts_with("Traceback (");
        !(line.trim().is_empty() || traceback && of_traceback)
    })
}

#[cfg(test)]
mod tests {
    use super::shown_lines;

    #[test]
    fn a_traceback_is_its_last_line() {
        let lines = |text| shown_lines(text).collect::<Vec<_>>();
        assert_eq!(lines("a\n\n  b\n"), ["a", "  b"]);
        let traceback = "note\nTraceback (most recent call last):\n  File \"x\", line 1\n    import y\nModuleNotFoundError: y\n";
        assert_eq!(lines(traceback), ["note", "ModuleNotFoundError: y"]);
    }
}
