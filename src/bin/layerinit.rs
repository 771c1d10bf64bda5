//! The host tool: `layerinit::tool::cli` defines the commands.

use std::env;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use layerinit::error::Context;
use layerinit::tool::cli;

/// Standard output. Output after its reader has ended (`| head`) is dropped.
struct Stdout(BufWriter<io::StdoutLock<'static>>);

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(bytes).or_else(ignore_broken_pipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().or_else(ignore_broken_pipe)
    }
}

fn ignore_broken_pipe(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    }
}

fn main() -> ExitCode {
    let mut out = Stdout(BufWriter::new(io::stdout().lock()));
    let request = cli::parse(env::args_os()).unwrap_or_else(|error| error.exit());
    let done = request.run(&mut out);
    // The output before an error comes first.
    let flushed = out.flush().during("write", "standard output");
    match done.and_then(|status| flushed.map(|()| status)) {
        Ok(status) => status.into(),
        Err(error) => {
            eprintln!("layerinit: {error}");
            ExitCode::FAILURE
        }
    }
}
