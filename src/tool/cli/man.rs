//! Manual pages: layerinit(1), one for each command, and layerinit-init(8).
//!
//! The help of the commands and [`init_page`](super::init_page) share one form: a line `Name:` at the margin begins a
//! section, text is indented by two spaces, and lines with a larger indentation, like all lines of `Examples:`, keep
//! their line breaks. Source: man(7), groff_man(7).

use std::fs;
use std::io;
use std::path::Path;

use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::init_page;
use crate::error::{Context, Result};
use crate::plan::words::DOCS;

/// The name of the manual, in the middle of the first line of each page.
const MANUAL: &str = "layerinit manual";

/// Name and version, in the last line of each page.
const SOURCE: &str = concat!("layerinit ", env!("CARGO_PKG_VERSION"));

/// Writes all pages into `directory`, which is created if it is missing. They have no date: the same version writes
/// the same bytes.
pub fn write(mut tool: clap::Command, directory: &Path) -> Result<()> {
    tool = tool.disable_help_subcommand(true);
    tool.build();
    fs::create_dir_all(directory).during("create", directory.display())?;
    let commands: Vec<_> = tool
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set())
        .collect();
    let names: Vec<_> = commands
        .iter()
        .filter_map(|verb| verb.get_display_name())
        .collect();
    let mut pages = vec![("layerinit.1".to_string(), command(&tool, &names)?)];
    for verb in commands {
        let name = verb.get_display_name().unwrap_or(verb.get_name());
        pages.push((format!("{name}.1"), command(verb, &["layerinit"])?));
    }
    pages.push(("layerinit-init.8".into(), init()));
    for (name, page) in pages {
        let path = directory.join(name);
        fs::write(&path, page).during("write", path.display())?;
    }
    Ok(())
}

/// The page of the tool or of one of its commands. `related` are pages of section 1 for SEE ALSO.
fn command(command: &clap::Command, related: &[&str]) -> Result<String> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let man = Man::new(command.clone());
    // Each part begins with a preamble, which a page needs once.
    let preamble = Roff::new().render();
    let part = |render: &dyn Fn(&mut Vec<u8>) -> io::Result<()>| {
        let mut bytes = Vec::new();
        render(&mut bytes).during("render", format_args!("the manual page {name}"))?;
        let text = String::from_utf8_lossy(&bytes);
        Result::Ok(text.strip_prefix(&preamble).unwrap_or(&text).to_string())
    };
    let mut page = preamble.clone() + &title(name, "1");
    page += &part(&|out| man.render_name_section(out))?;
    page += &synopsis(command);
    page += &part(&|out| man.render_description_section(out))?;
    page += &part(&|out| man.render_options_section(out))?;
    if command.has_subcommands() {
        page += &part(&|out| man.render_subcommands_section(out))?;
    }
    let mut roff = Roff::new();
    let help = command.get_after_help().map(ToString::to_string);
    sections(&mut roff, &help.unwrap_or_default());
    let related = related.iter().map(|name| format!("{name}(1), "));
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman(related.collect::<String>() + "layerinit-init(8)")]);
    Ok(page + &roff.to_roff())
}

/// SYNOPSIS, as in the help.
fn synopsis(command: &clap::Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    let arguments = usage.strip_prefix(name).unwrap_or_default();
    roff.text([bold(name), roman(arguments)]);
    roff.to_roff()
}

/// The page of `/init`.
fn init() -> String {
    let mut roff = Roff::new();
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("layerinit-init - {}", init_page::SUMMARY))]);
    sections(&mut roff, init_page::DESCRIPTION);
    sections(&mut roff, init_page::COMMAND_LINE);
    let mut section = "";
    for word in DOCS {
        if word.section != section {
            section = word.section;
            roff.control("SS", [section]);
        }
        let mut tag = vec![bold(word.name)];
        tag.extend(placeholders(word.value));
        item(&mut roff, tag, word.help);
        roff.control("br", []);
        roff.text([roman(format!("Default: {}.", word.default))]);
    }
    roff.control("SH", ["FILES"]);
    for (path, help) in init_page::FILES {
        item(&mut roff, placeholders(path), help);
    }
    sections(&mut roff, init_page::FAILURES);
    Roff::new().render() + &title("layerinit-init", "8") + &roff.to_roff()
}

/// The title of a page without a date, and its layout: options and paths are not hyphenated. The title is written here
/// because `Roff` drops empty arguments.
fn title(name: &str, section: &str) -> String {
    format!(".TH {name} {section} \"\" \"{SOURCE}\" \"{MANUAL}\"\n.nh\n.ad l\n")
}

/// A paragraph with a tag.
fn item(roff: &mut Roff, tag: Vec<Inline>, text: &str) {
    roff.control("TP", []);
    roff.text(tag);
    roff.text([roman(text)]);
}

/// Words in capital letters are placeholders, in italics; all else is typed as it stands, in bold.
fn placeholders(mut text: &str) -> Vec<Inline> {
    let mut inlines = Vec::new();
    while let Some(first) = text.chars().next() {
        let capital = first.is_ascii_uppercase();
        let end = text.find(|c: char| c.is_ascii_uppercase() != capital);
        let (run, rest) = text
            .split_at_checked(end.unwrap_or(text.len()))
            .unwrap_or((text, ""));
        inlines.push(if capital { italic(run) } else { bold(run) });
        text = rest;
    }
    inlines
}

/// Text with `code`, which becomes bold.
fn inlines(text: &str) -> Vec<Inline> {
    let parts = text.split('`').enumerate();
    parts
        .map(|(number, part)| match number % 2 {
            0 => roman(part),
            _ => bold(part),
        })
        .collect()
}

/// Sections of text: see the head of this file.
fn sections(roff: &mut Roff, text: &str) {
    let (mut literal, mut examples) = (false, false);
    let mut paragraph = false;
    for line in text.lines() {
        let title = line.strip_suffix(':').filter(|_| !line.starts_with(' '));
        let body = line.strip_prefix("  ").unwrap_or(line);
        let keeps_breaks =
            title.is_none() && (examples || body.starts_with(' ') || body.starts_with("* "));
        // A blank line inside of a literal block is part of it, or ends it: the next line tells.
        if literal && !line.is_empty() && !keeps_breaks {
            roff.control("EE", []);
            literal = false;
        }
        match title {
            Some(title) => {
                roff.control("SH", [title.to_uppercase().as_str()]);
                examples = title == "Examples";
                paragraph = false;
            }
            None if line.is_empty() => paragraph = true,
            None => {
                if paragraph {
                    roff.control("PP", []);
                    paragraph = false;
                }
                if keeps_breaks && !literal {
                    roff.control("EX", []);
                    literal = true;
                }
                roff.text(inlines(body));
            }
        }
    }
    if literal {
        roff.control("EE", []);
    }
}
