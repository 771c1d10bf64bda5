//! The end of the guest, from the lines of its console.

/// The longest line: no message of a kernel is longer.
const LINE_MAX: usize = 4096;

/// The line of the init of a container image at its end, before the exit status.
const EXIT_STATUS: &str = "layerinit-run: exit status ";

/// Parts of lines that mean failure.
const FAILURES: [&str; 2] = ["layerinit: boot failed: ", "Kernel panic - not syncing"];

/// Reads a console, in pieces as they come.
#[derive(Debug, Default)]
pub struct Console {
    line: Vec<u8>,
    outcome: Outcome,
}

/// How the guest ended, according to its console.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The exit status that the guest named last.
    pub exit: Option<u8>,
    /// The first line that means failure. It counts only without an exit status.
    pub failure: Option<String>,
}

impl Outcome {
    /// The exit status for this program.
    pub fn status(&self) -> u8 {
        match (self.exit, &self.failure) {
            (Some(status), _) => status,
            (None, Some(_)) => 1,
            (None, None) => 0,
        }
    }
}

impl Console {
    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                _ if self.line.len() < LINE_MAX => self.line.push(*byte),
                _ => {}
            }
        }
    }

    /// The outcome of the lines so far.
    pub fn outcome(mut self) -> Outcome {
        self.end_line();
        match self.outcome.exit {
            Some(_) => Outcome {
                failure: None,
                ..self.outcome
            },
            None => self.outcome,
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        let line = line.trim_end();
        if let Some((_, status)) = line.split_once(EXIT_STATUS) {
            let digits = status.split(|c: char| !c.is_ascii_digit()).next();
            let number: Option<u32> = digits.and_then(|digits| digits.parse().ok());
            let status = number.map(|number| u8::try_from(number).unwrap_or(u8::MAX));
            self.outcome.exit = status.or(self.outcome.exit);
        }
        let begin = FAILURES.iter().filter_map(|part| line.find(part)).min();
        if let Some(text) = begin.and_then(|at| line.get(at..))
            && self.outcome.failure.is_none()
        {
            self.outcome.failure = Some(text.to_string());
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The outcome of a console that comes in pieces of one byte, and as a whole.
    fn outcome(text: &str) -> Outcome {
        let mut whole = Console::default();
        whole.feed(text.as_bytes());
        let whole = whole.outcome();
        let mut pieces = Console::default();
        for byte in text.bytes() {
            pieces.feed(&[byte]);
        }
        assert_eq!(pieces.outcome(), whole);
        whole
    }

    #[test]
    fn a_guest_without_a_word_ends_well() {
        assert_eq!(outcome(""), Outcome::default());
        assert_eq!(outcome("login: \r\nPower down\r\n").status(), 0);
    }

    #[test]
    fn the_last_exit_status_counts() {
        for (text, status) in [
            ("layerinit-run: exit status 0\r\n", 0),
            (
                "layerinit-run: exit status 3\r\n[ 1.5] reboot: Power down\r\n",
                3,
            ),
            ("[    1.500000] layerinit-run: exit status 143", 143),
            ("layerinit-run: exit status 256\n", 255),
            (
                "layerinit-run: exit status 1\nlayerinit-run: exit status 2\n",
                2,
            ),
            (
                "layerinit-run: exit status \nlayerinit-run: exit status\n",
                0,
            ),
        ] {
            assert_eq!(outcome(text).status(), status, "{text:?}");
        }
    }

    #[test]
    fn a_failed_boot_is_a_failure() {
        let panic =
            "[    2.1] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n[ 2.2] more\r\n";
        let failed = outcome(panic);
        assert_eq!(failed.status(), 1);
        let line = "Kernel panic - not syncing: VFS: Unable to mount root fs";
        assert_eq!(failed.failure.as_deref(), Some(line));
        let failed = outcome("layerinit: boot failed: mount layer 0: EIO\r\n");
        assert_eq!(failed.status(), 1);
        // The panic of a kernel whose PID 1 ends after it has told its status is no failure.
        let ended = outcome("layerinit-run: exit status 0\nKernel panic - not syncing: x\n");
        assert_eq!((ended.status(), ended.failure), (0, None));
    }

    #[test]
    fn an_endless_line_takes_little_memory() {
        let mut console = Console::default();
        for _ in 0..1000 {
            console.feed(&[b'x'; 4096]);
        }
        assert!(console.line.len() <= LINE_MAX);
    }
}
