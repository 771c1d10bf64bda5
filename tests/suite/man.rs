//! The man pages and completions that the tool writes, used by the programs that read them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{said, scratch, tool};
use layerinit::plan::words::DOCS;
use layerinit::tool::cli;

/// Writes the pages into `man` below a new directory, and returns their paths.
fn pages(name: &str) -> Vec<PathBuf> {
    let directory = scratch(name);
    let output = tool(&directory).args(["man", "man"]).output().unwrap();
    assert_eq!(said(&output), (String::new(), String::new(), 0));
    let entries = fs::read_dir(directory.join("man")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Formats a page for a terminal of 80 columns.
fn man(page: &Path) -> Output {
    Command::new("man")
        .args(["--warnings", "--encoding=UTF-8", "--local-file"])
        .arg(page)
        .env("LC_ALL", "C.UTF-8")
        .env("MANPAGER", "cat")
        .env("MANWIDTH", "80")
        .env_remove("MANROFFOPT")
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "man, which formats the pages: {error}; on Debian: apt install man-db groff-base"
            )
        })
}

#[test]
fn man_formats_each_page_without_a_warning() {
    let pages = pages("man-warnings");
    for page in &pages {
        let (text, warnings, status) = said(&man(page));
        assert_eq!((warnings.as_str(), status), ("", 0), "{}", page.display());
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "SEE ALSO"] {
            let found = text.lines().filter(|line| *line == section).count();
            assert_eq!(found, 1, "{section} in {}", page.display());
        }
    }
    // The assertion above relies on this.
    let broken = pages[0].with_file_name("broken.1");
    fs::write(
        &broken,
        ".TH BROKEN 1\n.SH NAME\nbroken \\- a page\n.NOSUCHMACRO\n",
    )
    .unwrap();
    let (_, warnings, _) = said(&man(&broken));
    assert!(warnings.contains("NOSUCHMACRO"), "{warnings:?}");
}

#[test]
fn each_command_and_init_have_a_page() {
    let commands = cli::command();
    let commands = commands
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set());
    let expected: BTreeSet<_> = commands
        .map(|verb| format!("layerinit-{}.1", verb.get_name()))
        .chain(["layerinit.1".into(), "layerinit-init.8".into()])
        .collect();
    let pages = pages("man-names");
    let names: BTreeSet<_> = pages
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_string())
        .collect();
    assert_eq!(names, expected);
    assert!(names.contains("layerinit-build.1") && !names.contains("layerinit-man.1"));
}

/// The title has no date, so packages are reproducible.
#[test]
fn pages_are_reproducible() {
    let pages = pages("man-reproducible");
    let mut titles = 0;
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        for title in text.lines().filter(|line| line.starts_with(".TH ")) {
            let end = concat!(
                " \"\" \"layerinit ",
                env!("CARGO_PKG_VERSION"),
                "\" \"layerinit manual\""
            );
            assert!(title.ends_with(end), "{title}");
            titles += 1;
        }
    }
    assert_eq!(titles, pages.len());
}

#[test]
fn the_page_of_init_has_every_word_of_the_command_line() {
    let pages = pages("man-words");
    let page = pages.iter().find(|page| page.ends_with("layerinit-init.8"));
    let (text, _, _) = said(&man(page.unwrap()));
    let text = text.replace('\u{2010}', "-");
    for word in DOCS {
        let tag = format!("       {}{}", word.name, word.value);
        let found = text
            .lines()
            .any(|line| line == tag || line.starts_with(&format!("{tag} ")));
        assert!(found, "no line {tag:?} in\n{text}");
        let heading = format!("   {}", word.section);
        assert!(
            text.lines().any(|line| line == heading),
            "no heading {heading:?}"
        );
    }
}

/// The completions of bash for a command line that ends with an incomplete word.
fn completions(directory: &Path, words: &str) -> BTreeSet<String> {
    let script = format!(
        "source completions\nCOMP_WORDS=({words})\nCOMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
         _layerinit layerinit \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    let bash = Command::new("bash")
        .args(["-c", &script])
        .current_dir(directory)
        .output();
    let (replies, errors, status) = said(&bash.unwrap());
    assert_eq!((errors.as_str(), status), ("", 0), "{words}");
    replies.lines().map(String::from).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    let directory = scratch("completions");
    let output = tool(&directory)
        .args(["completions", "bash"])
        .output()
        .unwrap();
    let (script, errors, status) = said(&output);
    assert_eq!((errors.as_str(), status), ("", 0));
    fs::write(directory.join("completions"), script).unwrap();
    for (words, expected) in [
        ("layerinit bu", "build"),
        ("layerinit build --layers-i", "--layers-inside"),
        ("layerinit build --as cpio.z", "cpio.zst"),
        ("layerinit check --firmware gr", "grub"),
    ] {
        let expected = BTreeSet::from([expected.to_string()]);
        assert_eq!(completions(&directory, words), expected, "{words}");
    }
}

#[test]
fn every_shell_gets_a_script() {
    let directory = scratch("completions-shells");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = tool(&directory)
            .args(["completions", shell])
            .output()
            .unwrap();
        let (script, errors, status) = said(&output);
        assert_eq!((errors.as_str(), status), ("", 0), "{shell}");
        assert!(script.contains("layers-inside"), "{shell}");
    }
}

/// No line of the help is wider than 100 columns.
#[test]
fn the_help_fits_into_100_columns() {
    let directory = scratch("help-width");
    let mut lines = 0;
    for verb in cli::command().get_subcommands() {
        let output = tool(&directory)
            .args([verb.get_name(), "--help"])
            .env("COLUMNS", "200")
            .output()
            .unwrap();
        let (help, _, status) = said(&output);
        assert_eq!(status, 0);
        // clap would wrap longer lines in the middle of a paragraph.
        let sections = verb.get_after_help().unwrap().to_string();
        for line in help.lines().chain(sections.lines()) {
            assert!(line.chars().count() <= 100, "{}: {line}", verb.get_name());
            lines += 1;
        }
    }
    assert!(lines > 100, "only {lines} lines of help");
}
