//! The host tool. The arguments are defined in `layerinit::tool::cli`, the work is in `layerinit::tool`.

use std::env;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use layerinit::error::Context;
use layerinit::tool::cli;

/// Standard output. Once its reader has seen enough (`| head`), the rest is dropped.
struct Out(BufWriter<io::StdoutLock<'static>>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(bytes).or_else(forgive)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().or_else(forgive)
    }
}

fn forgive(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    }
}

fn main() -> ExitCode {
    let mut out = Out(BufWriter::new(io::stdout().lock()));
    let request = cli::parse(env::args_os()).unwrap_or_else(|error| error.exit());
    let done = request.run(&mut out);
    // What was found before an error is worth seeing, and comes first.
    let flushed = out.flush().during("write", "standard output");
    match done.and_then(|good| flushed.map(|()| good)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("layerinit: {error}");
            ExitCode::FAILURE
        }
    }
}
