//! FIT images for U-Boot, through mkimage(1) and the device tree compiler.
//!
//! Source: doc/usage/fit/source_file_format.rst of U-Boot.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{BundleOptions, Parts, execute, plain_kernel};
use crate::error::{Context, Error, Result};

const PACKAGE: &str = "u-boot-tools device-tree-compiler";

/// The alignment, in bytes, of the kernel, the device trees and the ramdisk in the file: the size of pages
/// and blocks.
const ALIGN: &str = "0x1000";

/// A key for signing configurations: DIRECTORY/NAME.key, next to DIRECTORY/NAME.crt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FitKey {
    directory: PathBuf,
    name: String,
    algorithm: &'static str,
}

impl FitKey {
    /// The key in this file, an RSA key in PEM.
    ///
    /// # Errors
    /// The file cannot be read, its name does not end with .key, or the size of the key is not 2048, 3072 or
    /// 4096 bits.
    pub fn read(path: &Path) -> Result<Self> {
        let refuse = |what: &str| Error::new("read", path.display(), what);
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let is_key = path.extension().is_some_and(|extension| extension == "key");
        let name = stem.filter(|_| is_key);
        let name = name.ok_or_else(|| refuse("mkimage takes a key from a file NAME.key"))?;
        let text = fs::read_to_string(path).during("read", path.display())?;
        let algorithm = algorithm(&text);
        Ok(Self {
            directory: match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
                _ => ".".into(),
            },
            name: name.into(),
            algorithm: algorithm
                .ok_or_else(|| refuse("no RSA key of 2048, 3072 or 4096 bits in PEM"))?,
        })
    }
}

/// The algorithm for a private key in PEM, from its length: mkimage does not detect it.
fn algorithm(pem: &str) -> Option<&'static str> {
    let mut lines = pem.lines().map(str::trim);
    lines.find(|line| line.starts_with("-----BEGIN") && line.contains("PRIVATE KEY"))?;
    let base64: usize = lines
        .take_while(|line| !line.starts_with("-----"))
        .map(str::len)
        .sum();
    // Bytes of the key in DER: RFC 8017, A.1.2, with or without the frame of RFC 5958.
    match base64 / 4 * 3 {
        1180..1240 => Some("sha256,rsa2048"),
        1760..1820 => Some("sha256,rsa3072"),
        2340..2400 => Some("sha256,rsa4096"),
        _ => None,
    }
}

/// The parts that the source of a FIT image names.
struct FitSource<'a> {
    arch: &'a str,
    kernel: &'a str,
    ramdisk: &'a str,
    /// Name and path.
    device_trees: Vec<(String, String)>,
    key: Option<&'a FitKey>,
}

/// Writes a FIT image to a file next to `output`, and returns the path of the file.
pub(super) fn write(parts: &Parts, output: &Path, options: &BundleOptions) -> Result<PathBuf> {
    let kernel = plain_kernel(parts)?;
    let absolute = |path: &Path| -> Result<String> {
        let path = std::path::absolute(path).during("find", path.display())?;
        let text = path
            .to_str()
            .filter(|text| !text.contains(char::is_control));
        let text = text.ok_or_else(|| {
            Error::new(
                "write",
                output.display(),
                "a path is not UTF-8, or has control characters",
            )
        })?;
        Ok(text.into())
    };
    let mut device_trees = Vec::new();
    for path in &options.device_trees {
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        fs::metadata(path).during("open", path.display())?;
        device_trees.push((name, absolute(path)?));
    }
    let source = FitSource {
        arch: parts.platform.u_boot,
        kernel: &absolute(&kernel)?,
        ramdisk: &absolute(parts.initrd)?,
        device_trees,
        key: options.fit_key.as_ref(),
    };
    let its = parts.temp.path("image.its");
    fs::write(&its, source.text()).during("write", its.display())?;
    let target = parts.temp.beside(output)?;
    let words = arguments(&its, source.key, &target);
    execute(
        Command::new("mkimage").args(words),
        PACKAGE,
        output,
        parts.temp,
    )?;
    Ok(target)
}

/// The arguments of mkimage. The data is outside of the tree (-E), where it can be aligned.
fn arguments(its: &Path, key: Option<&FitKey>, target: &Path) -> Vec<String> {
    let mut words: Vec<String> = ["-f", &its.display().to_string(), "-E", "-B", ALIGN]
        .map(String::from)
        .into();
    if let Some(key) = key {
        // Marks the key as required: otherwise an attacker could leave out the signature.
        words.extend([
            "-k".into(),
            key.directory.display().to_string(),
            "-r".into(),
        ]);
    }
    words.push(target.display().to_string());
    words
}

impl FitSource<'_> {
    /// The source in the device tree's language.
    fn text(&self) -> String {
        let mut text = String::from(
            "/dts-v1/;\n/ {\n\tdescription = \"layerinit\";\n\t#address-cells = <1>;\n\timages {\n",
        );
        // U-Boot starts such a kernel in place, or moves it to the address in its header: no address of the
        // board is needed here.
        let in_place = "\t\t\tload = <0>;\n\t\t\tentry = <0>;\n";
        self.image(&mut text, "kernel", "kernel_noload", self.kernel, in_place);
        for (number, (_, path)) in (1..).zip(&self.device_trees) {
            self.image(&mut text, &format!("fdt-{number}"), "flat_dt", path, "");
        }
        self.image(&mut text, "ramdisk", "ramdisk", self.ramdisk, "");
        text.push_str("\t};\n\tconfigurations {\n\t\tdefault = \"conf-1\";\n");
        match self.device_trees.as_slice() {
            [] => self.configuration(&mut text, 1, None),
            trees => {
                for (number, (name, _)) in (1..).zip(trees) {
                    self.configuration(&mut text, number, Some(name));
                }
            }
        }
        text.push_str("\t};\n};\n");
        text
    }

    fn image(&self, text: &mut String, name: &str, kind: &str, path: &str, more: &str) {
        let (arch, path) = (self.arch, quoted(path));
        // The parts are stored uncompressed: the kernel and /init decompress the compressed parts of the
        // ramdisk.
        let _ = write!(
            text,
            "\t\t{name} {{\n\t\t\tdescription = \"{name}\";\n\t\t\tdata = /incbin/(\"{path}\");\n\
             \t\t\ttype = \"{kind}\";\n\t\t\tarch = \"{arch}\";\n\t\t\tos = \"linux\";\n\
             \t\t\tcompression = \"none\";\n{more}\
             \t\t\thash-1 {{\n\t\t\t\talgo = \"crc32\";\n\t\t\t}};\n\
             \t\t\thash-2 {{\n\t\t\t\talgo = \"sha256\";\n\t\t\t}};\n\t\t}};\n"
        );
    }

    fn configuration(&self, text: &mut String, number: usize, tree: Option<&str>) {
        let description = quoted(tree.unwrap_or("layerinit"));
        let _ = write!(
            text,
            "\t\tconf-{number} {{\n\t\t\tdescription = \"{description}\";\n\t\t\tkernel = \"kernel\";\n\
             \t\t\tramdisk = \"ramdisk\";\n"
        );
        let mut signed = "\"kernel\", \"ramdisk\"".to_string();
        if tree.is_some() {
            let _ = writeln!(text, "\t\t\tfdt = \"fdt-{number}\";");
            signed.push_str(", \"fdt\"");
        }
        if let Some(FitKey {
            name, algorithm, ..
        }) = self.key
        {
            let name = quoted(name);
            let _ = write!(
                text,
                "\t\t\tsignature-1 {{\n\t\t\t\talgo = \"{algorithm}\";\n\t\t\t\tkey-name-hint = \"{name}\";\n\
                 \t\t\t\tsign-images = {signed};\n\t\t\t}};\n"
            );
        }
        text.push_str("\t\t};\n");
    }
}

/// Text for a string of the device tree's language.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_exact() {
        let source = FitSource {
            arch: "arm64",
            kernel: "/k",
            ramdisk: "/a \"b\"",
            device_trees: vec![("board".into(), "/d".into())],
            key: Some(&FitKey {
                directory: "keys".into(),
                name: "dev".into(),
                algorithm: "sha256,rsa2048",
            }),
        };
        let image = |name: &str, kind: &str, path: &str, more: &str| {
            format!(
                "\t\t{name} {{\n\t\t\tdescription = \"{name}\";\n\t\t\tdata = /incbin/(\"{path}\");\n\
                 \t\t\ttype = \"{kind}\";\n\t\t\tarch = \"arm64\";\n\t\t\tos = \"linux\";\n\
                 \t\t\tcompression = \"none\";\n{more}\t\t\thash-1 {{\n\t\t\t\talgo = \"crc32\";\n\t\t\t}};\n\
                 \t\t\thash-2 {{\n\t\t\t\talgo = \"sha256\";\n\t\t\t}};\n\t\t}};\n"
            )
        };
        let expected = [
            "/dts-v1/;\n/ {\n\tdescription = \"layerinit\";\n\t#address-cells = <1>;\n\timages {\n",
            &image(
                "kernel",
                "kernel_noload",
                "/k",
                "\t\t\tload = <0>;\n\t\t\tentry = <0>;\n",
            ),
            &image("fdt-1", "flat_dt", "/d", ""),
            &image("ramdisk", "ramdisk", "/a \\\"b\\\"", ""),
            "\t};\n\tconfigurations {\n\t\tdefault = \"conf-1\";\n\t\tconf-1 {\n\t\t\tdescription = \"board\";\n",
            "\t\t\tkernel = \"kernel\";\n\t\t\tramdisk = \"ramdisk\";\n\t\t\tfdt = \"fdt-1\";\n",
            "\t\t\tsignature-1 {\n\t\t\t\talgo = \"sha256,rsa2048\";\n\t\t\t\tkey-name-hint = \"dev\";\n",
            "\t\t\t\tsign-images = \"kernel\", \"ramdisk\", \"fdt\";\n\t\t\t};\n\t\t};\n\t};\n};\n",
        ];
        assert_eq!(source.text(), expected.concat());
        let words = arguments(Path::new("i.its"), source.key, Path::new("o.itb"));
        assert_eq!(words.join(" "), "-f i.its -E -B 0x1000 -k keys -r o.itb");
        let words = arguments(Path::new("i.its"), None, Path::new("o.itb"));
        assert_eq!(words.join(" "), "-f i.its -E -B 0x1000 o.itb");
    }

    #[test]
    fn the_size_of_a_key_is_that_of_its_text() {
        let pem = |kind: &str, bytes: usize| {
            let base64 = "x".repeat(bytes.div_ceil(3) * 4);
            let lines: Vec<_> = base64
                .as_bytes()
                .chunks(64)
                .map(String::from_utf8_lossy)
                .collect();
            let lines = lines.join("\n");
            format!("-----BEGIN {kind}PRIVATE KEY-----\n{lines}\n-----END {kind}PRIVATE KEY-----\n")
        };
        assert_eq!(algorithm(&pem("", 1190)), Some("sha256,rsa2048"));
        assert_eq!(algorithm(&pem("RSA ", 1217)), Some("sha256,rsa2048"));
        assert_eq!(algorithm(&pem("", 2350)), Some("sha256,rsa4096"));
        for text in [
            "",
            "x",
            "-----BEGIN CERTIFICATE-----\nx\n",
            &pem("EC ", 120),
        ] {
            assert_eq!(algorithm(text), None, "{text}");
        }
    }
}
