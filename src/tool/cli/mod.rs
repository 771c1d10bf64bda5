//! The tool's command line: each command with its arguments and help.
//!
//! It is part of the library so that the man pages, the completions and the tests of the documentation use the
//! same definition.

mod bundle;
mod container;
mod verification;

mod build;
mod image;

mod boot;
mod cat;
mod check;
mod diff;
mod extract;
mod list;
mod plan;
mod verify;

mod init_page;

mod man;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use boot::BootArgs;
use build::{BuildArgs, BuildRequest};
use cat::CatArgs;
use check::CheckArgs;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::{Generator, Shell};
use diff::DiffArgs;
use extract::ExtractArgs;
use list::ListArgs;
use plan::PlanArgs;
use verify::VerifyArgs;

use crate::error::{Context, Result};
use crate::tool::progress::{self, ProgressLevel};

/// Build and inspect initrds whose EROFS layers /init mounts in place
#[derive(Parser)]
#[command(
    name = "layerinit",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
#[command(after_help = "\
Exit status:
  0 for success, 1 for a failure or a problem found, 2 for wrong usage; of `layerinit boot`, that of
  the guest.

Examples:
  layerinit build -o demo.img --layer rootfs/
  layerinit check demo.img
  layerinit boot demo.img --kernel vmlinuz")]
struct Tool {
    #[command(subcommand)]
    command: Command,
    /// Show a progress bar for short steps, too, and print one line for each layer to standard error
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Show no progress, and print only warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    Build(Box<BuildArgs>),
    List(ListArgs),
    Check(CheckArgs),
    Plan(PlanArgs),
    Verify(VerifyArgs),
    Cat(CatArgs),
    Extract(ExtractArgs),
    Diff(DiffArgs),
    Boot(BootArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Print a completion script for a shell
#[derive(Args)]
#[command(after_help = "\
Files:
  bash loads the script from /usr/share/bash-completion/completions/layerinit, zsh from
  /usr/share/zsh/vendor-completions/_layerinit, fish from
  /usr/share/fish/vendor_completions.d/layerinit.fish (paths of Debian).

Examples:
  layerinit completions bash")]
struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

impl CompletionsArgs {
    fn run(self, out: &mut dyn Write) -> Result<()> {
        let mut command = command();
        command.set_bin_name("layerinit");
        command.build();
        let mut script = Vec::new();
        let written = self.shell.try_generate(&command, &mut script);
        written.during("write", "the completion script")?;
        out.write_all(&script).during("write", "standard output")
    }
}

/// Write the manual pages into a directory
#[derive(Args)]
#[command(hide = true)]
#[command(after_help = "\
Files:
  layerinit.1 and one page for each command in section 1, layerinit-init.8 for /init. The directory
  is created if it is missing. The pages depend on the version of the tool only.

Examples:
  layerinit man man/")]
struct ManArgs {
    /// The directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Finds a name in a table of values. The error lists the names.
fn named<T: Copy>(table: &[(&str, T)], text: &str) -> std::result::Result<T, String> {
    match table.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(*value),
        None => {
            let names: Vec<_> = table.iter().map(|(name, _)| *name).collect();
            Err(format!("one of {}", names.join(", ")))
        }
    }
}

/// A parsed command line.
pub struct Request {
    command: Command,
    level: ProgressLevel,
    /// For `build`.
    build: BuildRequest,
}

/// x
pub fn command() -> clap::Command {
    Tool::command()
}

/// Parses a command line, whose first word is the name of the program.
///
/// # Errors
/// Wrong usage, and also --help and --version: `clap::Error::exit` prints the text and ends the program with the
/// right status.
pub fn parse<Words>(words: Words) -> std::result::Result<Request, clap::Error>
where
    Words: IntoIterator,
    Words::Item: Into<OsString> + Clone,
{
    let matches = command().try_get_matches_from(words)?;
    let tool = Tool::from_arg_matches(&matches)?;
    let wrong = |what| command().error(ErrorKind::ArgumentConflict, what);
    let build = match (&tool.command, matches.subcommand()) {
        (Command::Build(args), Some((_, build))) => BuildRequest {
            layers: args.layers(build).map_err(wrong)?,
            bundles: args.bundles().map_err(wrong)?,
        },
        _ => BuildRequest::default(),
    };
    let level = match (tool.quiet, tool.verbose) {
        (true, _) => ProgressLevel::Quiet,
        (false, true) => ProgressLevel::Verbose,
        (false, false) => ProgressLevel::Normal,
    };
    Ok(Request {
        command: tool.command,
        level,
        build,
    })
}

impl Request {
    /// Runs the command; its output goes to `out`. Returns the exit status: 1 if a problem was found.
    pub fn run(self, out: &mut dyn Write) -> Result<u8> {
        progress::set_level(self.level);
        let good = match self.command {
            Command::Diff(args) => return Ok(args.run(out)),
            Command::Boot(args) => return args.run(out),
            Command::Build(args) => args.run(self.build, out).map(|()| true),
            Command::List(args) => args.run(out),
            Command::Check(args) => args.run(out),
            Command::Plan(args) => args.run(out),
            Command::Verify(args) => args.run(out),
            Command::Cat(args) => args.run(out).map(|()| true),
            Command::Extract(args) => args.run(),
            Command::Completions(args) => args.run(out).map(|()| true),
            Command::Man(args) => man::write(command(), &args.directory).map(|()| true),
        };
        good.map(|good| u8::from(!good))
    }
}
