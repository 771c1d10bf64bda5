//! ISO images that a BIOS and UEFI start, with GRUB, through grub-mkrescue(1) and xorriso.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Parts, execute, place};
use crate::error::{Context, Error, Result};
use crate::text::Words;
use crate::tool::image::iso9660::{GRUB_CONFIG, INITRD};

const PACKAGE: &str = "grub-common xorriso mtools";

/// The directory of GRUB's platforms.
const GRUB: &str = "/usr/lib/grub";

/// Writes an ISO to a file next to `output`, and returns the path of the file.
pub(super) fn write(parts: &Parts, output: &Path) -> Result<PathBuf> {
    for (platform, package) in parts.platform.grub {
        let path = Path::new(GRUB).join(platform);
        if !path.is_dir() {
            let error = Error::new("find", "GRUB", format!("there is no {}", path.display()));
            return Err(error.hint(format!("on Debian: apt install {package}")));
        }
    }
    let root = parts.temp.path("iso");
    let config = root.join(GRUB_CONFIG);
    let directory = config.parent().unwrap_or(&root);
    fs::create_dir_all(directory).during("create", directory.display())?;
    let name = output.file_stem().unwrap_or_default().to_string_lossy();
    let text = grub_config(&name, &parts.cmdline)?;
    fs::write(&config, text).during("write", config.display())?;
    place(&parts.kernel.path, &root.join("boot/vmlinuz"))?;
    place(parts.initrd, &root.join(INITRD))?;
    let target = parts.temp.beside(output)?;
    let mut command = Command::new("grub-mkrescue");
    command.arg("-o").arg(&target).arg(&root);
    execute(&mut command, PACKAGE, output, parts.temp)?;
    Ok(target)
}

/// The menu: one entry, which starts at once.
fn grub_config(title: &str, cmdline: &str) -> Result<String> {
    let mut words = String::new();
    let (kernel, rest) = split_at_init_words(cmdline);
    for (name, value) in Words::new(kernel) {
        let word = match value {
            Some(value) => format!("{name}={value}"),
            None => name.to_string(),
        };
        words.push(' ');
        words.push_str(&grub_word(&word)?);
    }
    for word in rest.split_whitespace() {
        words.push(' ');
        words.push_str(&grub_word(word)?);
    }
    let title = title.replace('\'', " ");
    Ok(format!(
        "set timeout=0\nmenuentry '{title}' {{\n\tlinux /boot/vmlinuz{words}\n\tinitrd /{INITRD}\n}}\n"
    ))
}

/// The kernel's words, and from `--` on those for init.
fn split_at_init_words(cmdline: &str) -> (&str, &str) {
    match cmdline.find(" -- ") {
        Some(at) => cmdline.split_at(at),
        None => (cmdline, ""),
    }
}

/// A word of GRUB's language. GRUB itself puts the kernel's quotes around a word with blanks.
fn grub_word(word: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
    if word.chars().all(plain) {
        return Ok(word.into());
    }
    if word.contains(['\'', '"', '\\']) || word.contains(char::is_control) {
        let what = "GRUB cannot pass quotes, backslashes and control characters inside a word";
        return Err(Error::new("write", format_args!("the word {word}"), what));
    }
    Ok(format!("'{word}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_menu_is_exact() {
        let expected = "set timeout=0\nmenuentry 'it s' {\n\tlinux /boot/vmlinuz console=ttyS0 'a=b c' rd.overlay=tmpfs:size=50% \
                        'x=$y' -- single\n\tinitrd /boot/initrd.img\n}\n";
        let cmdline = "console=ttyS0 a=\"b c\" rd.overlay=tmpfs:size=50%  x=$y -- single";
        assert_eq!(grub_config("it's", cmdline).unwrap(), expected);
        assert!(
            grub_config("x", "")
                .unwrap()
                .contains("\tlinux /boot/vmlinuz\n")
        );
        let error = grub_config("x", "a=b'c").unwrap_err().to_string();
        let what = "write the word a=b'c: GRUB cannot pass quotes, backslashes and control characters inside a word";
        assert_eq!(error, what);
    }
}
