//! The init of container images that have none: a layer on top with the program `layerinit-run` as
//! /sbin/init, and its configuration, made from that of the image.
//!
//! Source: OCI image specification 1.1, config.md; what Docker makes of --entrypoint.

use std::ffi::CString;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;

use super::archive::{self, CpioOptions};
use super::layer::{self, PreparedLayer};
use super::loader;
use super::new_root;
use super::spec::{Body, FileContent, SpecEntry};
use super::temp_files::TempFiles;
use crate::bytes::Opened;
use crate::error::{Context, Error, Result};
use crate::run::config::{self, Config, FILE, PROGRAM, SIZE_MAX};
use crate::text::shown;
use crate::tool::image::merged::Layers;
use crate::tool::image::node::Node;
use crate::tool::image::rootfs::Rootfs;

/// The layer in messages.
const NAME: &str = "layerinit-run";

/// The last init that `/init` tries. It is a shell, and no init.
const SHELL: &str = "/bin/sh";

/// The path of the init in the layer.
const INIT: &[u8] = b"sbin/init";

/// The names of shells.
const SHELLS: [&str; 5] = ["sh", "ash", "bash", "dash", "zsh"];

/// The numbers of signals on the machines that `/init` is built for. Source: signal(7).
const SIGNALS: [(&str, i32); 20] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
];

/// The first and the last realtime signal of C libraries.
const REALTIME: (i32, i32) = (34, 64);

/// What the command line says about the program.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// The program and its arguments, in place of Entrypoint and Cmd.
    pub entrypoint: Option<Vec<String>>,
    /// Variables for the environment, `NAME=VALUE` each.
    pub env: Vec<String>,
    /// The user, in place of User.
    pub user: Option<String>,
}

/// The layer for the top of `layers`, if one is needed. `image` is the configuration of the last container
/// image, and `init` the path of `/init`, if known.
///
/// # Errors
/// The configuration is damaged; the options have no effect; there is no `layerinit-run`.
pub fn prepare(
    options: &RunOptions,
    image: Option<&ImageConfiguration>,
    layers: &[PreparedLayer],
    init: Option<&Path>,
    cpio: CpioOptions,
    temp: &TempFiles,
) -> Result<Option<PreparedLayer>> {
    let no_effect = |what: &str| match options.env.is_empty() && options.user.is_none() {
        true => Ok(None),
        false => {
            let error = Error::new("use", "--env and --user", what);
            Err(error.hint("--entrypoint starts a program in its place"))
        }
    };
    if image.is_none() && options.entrypoint.is_none() {
        return no_effect("there is no container image, and its init starts");
    }
    let Some(config) = configuration(image, options)? else {
        return no_effect("the image names no program, and its init or shell starts");
    };
    let has_entrypoint = image
        .and_then(|image| image.config().as_ref()?.entrypoint().as_ref())
        .is_some_and(|words| !words.is_empty());
    let new_root = new_root::read(layers, |root, contents| {
        let program = config
            .arguments
            .first()
            .map_or(&b""[..], |program| program.to_bytes());
        NewRoot {
            is_init: is_init(root, program),
            has_sbin: root.find(b"sbin").is_some(),
            init: find_init(root, contents),
        }
    })?;
    let is_shell = !has_entrypoint && is_shell(&config.arguments);
    let starts_init = new_root.is_init
        || match new_root.init {
            Init::Full => true,
            Init::Busybox => is_shell,
            Init::None => false,
        };
    match options.entrypoint {
        Some(_) if new_root.is_init => {
            let what = "it is the init that starts without this option";
            Err(Error::new("use", "--entrypoint", what))
        }
        None if starts_init => no_effect("the image has an init, which starts"),
        _ => top_layer(&config, new_root.has_sbin, init, cpio, temp).map(Some),
    }
}

/// What the layers result in.
struct NewRoot {
    /// Whether the program is /sbin/init.
    is_init: bool,
    has_sbin: bool,
    init: Init,
}

/// The init of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Init {
    None,
    /// One that exists only because busybox has it.
    Busybox,
    Full,
}

/// Whether a program is the image's /sbin/init, whose place the layer takes.
fn is_init(root: &Rootfs, program: &[u8]) -> bool {
    let path = |name| root.find(name).map(|(path, _)| path);
    path(INIT).is_some_and(|init| program == b"init" || path(program) == Some(init))
}

/// The init among the paths that `/init` tries.
fn find_init(root: &Rootfs, contents: &Layers) -> Init {
    let options = crate::plan::cmdline::Options::parse("");
    let inits = options.inits();
    let inits = inits.iter().filter(|init| *init != SHELL);
    let mut programs = inits.filter_map(|init| {
        let (_, node) = root.find(init.as_bytes())?;
        let is_program = node.has_type(libc::S_IFREG) && node.mode & 0o111 != 0 && node.size() > 0;
        is_program.then_some(node)
    });
    match programs.next() {
        None => Init::None,
        Some(node) if is_busybox(node, contents) => Init::Busybox,
        Some(_) => Init::Full,
    }
}

/// Whether a program is busybox, which may have any name.
fn is_busybox(node: &Node, contents: &Layers) -> bool {
    const MARK: &[u8] = b"BusyBox v";
    /// No busybox is larger.
    const MAX: u64 = 8 << 20;
    let Ok(content) = contents.content(node) else {
        return false;
    };
    let mut bytes = vec![0; usize::try_from(content.size().min(MAX)).unwrap_or(0)];
    content.read_exact_at(&mut bytes, 0).is_ok()
        && bytes.windows(MARK.len()).any(|part| part == MARK)
}

/// Whether a command is a shell without a script.
fn is_shell(arguments: &[CString]) -> bool {
    let [program, options @ ..] = arguments else {
        return false;
    };
    let program = program.to_string_lossy();
    let name = program.rsplit('/').next().unwrap_or_default();
    let options = options
        .iter()
        .all(|option| matches!(option.to_bytes(), b"-i" | b"-l" | b"--login"));
    SHELLS.contains(&name) && options
}

/// The configuration of the program. `None` if nothing names one.
fn configuration(
    image: Option<&ImageConfiguration>,
    options: &RunOptions,
) -> Result<Option<Config>> {
    let image = image.and_then(|image| image.config().as_ref());
    let refuse = |what: String| Error::new("read", "the configuration of the image", what);
    let string = |text: &String| {
        CString::new(text.as_bytes()).map_err(|_| refuse(format!("{text:?}: a NUL in it")))
    };
    let words = match (&options.entrypoint, image) {
        (Some(words), _) => words.clone(),
        (None, Some(image)) => {
            let parts = [image.entrypoint(), image.cmd()];
            parts.into_iter().flatten().flatten().cloned().collect()
        }
        (None, None) => Vec::new(),
    };
    let Some(program) = words.first() else {
        return Ok(None);
    };
    if program.is_empty() {
        return Err(refuse("the name of the program is empty".into()));
    }
    let mut environment: Vec<&String> = image
        .and_then(|image| image.env().as_ref())
        .into_iter()
        .flatten()
        .collect();
    if let Some(wrong) = environment
        .iter()
        .find(|variable| !config::is_variable(variable.as_bytes()))
    {
        return Err(refuse(format!("Env: {wrong:?}: not NAME=VALUE")));
    }
    for variable in &options.env {
        let name = |variable: &str| variable.split('=').next().map(String::from);
        environment.retain(|other| name(other) != name(variable));
        environment.push(variable);
    }
    let stop = image
        .and_then(|image| image.stop_signal().as_deref())
        .filter(|text| !text.is_empty());
    let stop_signal = match stop {
        None => libc::SIGTERM,
        Some(text) => {
            signal(text).ok_or_else(|| refuse(format!("StopSignal: {text:?}: no signal")))?
        }
    };
    let text =
        |text: Option<&String>| string(text.unwrap_or(&String::new())).map(CString::into_bytes);
    let config = Config {
        arguments: words.iter().map(string).collect::<Result<_>>()?,
        environment: environment.into_iter().map(string).collect::<Result<_>>()?,
        directory: text(image.and_then(|image| image.working_dir().as_ref()))?,
        user: text(
            options
                .user
                .as_ref()
                .or(image.and_then(|image| image.user().as_ref())),
        )?,
        stop_signal,
    };
    match config.encode().len() as u64 > SIZE_MAX {
        true => Err(refuse(format!(
            "more than {SIZE_MAX} bytes of arguments and environment"
        ))),
        false => Ok(Some(config)),
    }
}

/// The number of a signal: `SIGQUIT`, `QUIT`, `3`, `SIGRTMIN+3`.
fn signal(text: &str) -> Option<i32> {
    let (first, last) = REALTIME;
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |digits: &str| digits.parse::<u8>().ok().map(i32::from);
    let number = if name == "RTMIN" {
        Some(first)
    } else if name == "RTMAX" {
        Some(last)
    } else if let Some(digits) = name.strip_prefix("RTMIN+") {
        offset(digits).map(|offset| first.saturating_add(offset))
    } else if let Some(digits) = name.strip_prefix("RTMAX-") {
        offset(digits).map(|offset| last.saturating_sub(offset))
    } else {
        let known = SIGNALS.iter().find(|(known, _)| *known == name);
        return known
            .map(|(_, number)| *number)
            .or_else(|| config::signal(text.as_bytes()));
    };
    number.filter(|number| (first..=last).contains(number))
}

/// The value of --env.
///
/// # Errors
/// It is not `NAME=VALUE`.
pub fn variable(text: &str) -> std::result::Result<String, String> {
    match config::is_variable(text.as_bytes()) {
        true => Ok(text.into()),
        false => Err("not NAME=VALUE".into()),
    }
}

fn entry(name: &str, mode: u32, body: Body) -> SpecEntry {
    SpecEntry::of_root(name.trim_start_matches('/'), mode, body, NAME)
}

/// The archive. It has no entries for directories, so those of the image do not change.
fn top_layer(
    config: &Config,
    has_sbin: bool,
    init: Option<&Path>,
    cpio: CpioOptions,
    temp: &TempFiles,
) -> Result<PreparedLayer> {
    let program = FileContent::Location(loader::run_program(init)?);
    let bytes = FileContent::Bytes(config.encode());
    let mut entries = vec![
        entry(
            PROGRAM,
            libc::S_IFREG | 0o755,
            Body::File(program, Vec::new()),
        ),
        // The environment may hold secrets.
        entry(FILE, libc::S_IFREG | 0o600, Body::File(bytes, Vec::new())),
    ];
    if !has_sbin {
        entries.push(entry("sbin", libc::S_IFDIR | 0o755, Body::Empty));
    }
    entries.push(entry(
        "sbin/init",
        libc::S_IFLNK | 0o777,
        Body::Link(PROGRAM.into()),
    ));
    let (file, path) = temp.create("layerinit-run.cpio")?;
    let mut out = BufWriter::new(&file);
    archive::write(
        &entries,
        CpioOptions {
            data_align: 0,
            ..cpio
        },
        &mut out,
        NAME,
    )?;
    out.flush().during("write", NAME)?;
    drop(out);
    let length = file.metadata().during("read", NAME)?.len();
    let location = path.unwrap_or_else(|| crate::tool::tmpfile::proc_path(&file));
    let mut layer = layer::from_file(Opened::new(file, length), &PathBuf::from(NAME))?;
    layer.location = location;
    layer.name = "layerinit-run.cpio".into();
    let words: Vec<_> = config
        .arguments
        .iter()
        .map(|word| shown(word.to_bytes()))
        .collect();
    layer.note = Some(format!(
        "{NAME}, the init of the image, starts: {}",
        words.join(" ")
    ));
    Ok(layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("SIGQUIT", Some(3)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-64", None),
            ("RTMIN+31", None),
            ("SIGRTMAX-1", Some(63)),
            ("SIGRTMIN", Some(34)),
            ("0", None),
            ("65", None),
            ("SIG", None),
            ("", None),
        ] {
            assert_eq!(signal(text), number, "{text}");
        }
    }

    #[test]
    fn a_shell_has_no_script() {
        let shell = |words: &[&str]| {
            is_shell(
                &words
                    .iter()
                    .map(|word| CString::new(*word).unwrap())
                    .collect::<Vec<_>>(),
            )
        };
        assert!(shell(&["/bin/sh"]) && shell(&["bash", "-l"]));
        assert!(
            !shell(&["sh", "-c", "nginx"])
                && !shell(&["nginx"])
                && !shell(&[])
                && !shell(&["/sh/x"])
        );
    }
}
