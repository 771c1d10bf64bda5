//! Names of container images on the command line, in the form of skopeo(1).

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::text::shown;

/// The location of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The form in which it is stored.
    pub transport: Transport,
    /// The directory or archive.
    pub path: PathBuf,
    /// Which image of several: a tag, or for `docker-archive` a name with a tag.
    pub tag: Option<String>,
}

/// The form in which an image is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// An OCI layout, a directory (OCI image specification, image-layout.md).
    Oci,
    /// The same in a tar archive.
    OciArchive,
    /// What `docker save` writes.
    DockerArchive,
}

/// The prefix of each form.
const TRANSPORTS: [(&str, Transport); 3] = [
    ("oci", Transport::Oci),
    ("oci-archive", Transport::OciArchive),
    ("docker-archive", Transport::DockerArchive),
];

/// The prefixes that skopeo reads, but not this tool.
const OTHERS: [&str; 6] = [
    "docker",
    "docker-daemon",
    "containers-storage",
    "dir",
    "ostree",
    "sif",
];

impl Reference {
    /// The image that a --layer names; `None` if it names a file.
    pub fn parse(layer: &Path) -> Option<Self> {
        let (prefix, rest) = layer.to_str()?.split_once(':')?;
        let (_, transport) = TRANSPORTS.iter().find(|(name, _)| *name == prefix)?;
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag.to_string())),
            None => (rest, None),
        };
        Some(Self {
            transport: *transport,
            path: path.into(),
            tag: tag.filter(|tag| !tag.is_empty()),
        })
    }
}

/// The error for a --layer that is not a file but an image that skopeo can fetch, with the command.
pub fn not_here(layer: &Path) -> Option<Error> {
    let text = layer.to_str()?;
    let (source, name) = match text.split_once(':') {
        Some((prefix, name))
            if OTHERS.contains(&prefix) && (prefix != "docker" || name.starts_with("//")) =>
        {
            (text.to_string(), name.trim_start_matches('/'))
        }
        _ => {
            let first = text.split('/').next()?;
            let is_domain =
                first.contains('.') && !first.starts_with('.') && first.len() < text.len();
            let is_name = is_domain || text.contains(':') || text.contains("@sha256:");
            if !is_name
                || !text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"./:@_-".contains(&byte))
            {
                return None;
            }
            if text.starts_with(['/', '.']) {
                return None;
            }
            (format!("docker://{text}"), text)
        }
    };
    let name = name.split('@').next()?;
    let last = name.rsplit('/').next()?;
    let (directory, tag) = last.split_once(':').unwrap_or((last, "latest"));
    let error = Error::new(
        "read",
        shown(layer.as_os_str().as_bytes()),
        "not a file, and this tool does not fetch images",
    );
    Some(error.hint(format!(
        "fetch it with: skopeo copy {source} oci:{directory}:{tag}; and use --layer oci:{directory}:{tag}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_skopeo() {
        for (text, expected) in [
            ("oci:dir", Some((Transport::Oci, "dir", None))),
            (
                "oci:/srv/dir:v1.2",
                Some((Transport::Oci, "/srv/dir", Some("v1.2"))),
            ),
            (
                "oci-archive:a.tar:",
                Some((Transport::OciArchive, "a.tar", None)),
            ),
            (
                "docker-archive:a.tar:localhost:5000/x:1",
                Some((
                    Transport::DockerArchive,
                    "a.tar",
                    Some("localhost:5000/x:1"),
                )),
            ),
            ("./oci:dir", None),
            ("docker://debian:12", None),
            ("root", None),
        ] {
            let expected = expected.map(|(transport, path, tag)| Reference {
                transport,
                path: path.into(),
                tag: tag.map(String::from),
            });
            assert_eq!(Reference::parse(Path::new(text)), expected, "{text}");
        }
    }

    #[test]
    fn for_an_image_of_a_registry_the_message_has_the_command() {
        let text = |layer: &str| not_here(Path::new(layer)).map(|error| error.to_string());
        assert_eq!(
            text("debian:12").unwrap(),
            "read debian:12: not a file, and this tool does not fetch images; fetch it with: skopeo copy \
             docker://debian:12 oci:debian:12; and use --layer oci:debian:12"
        );
        for (layer, command) in [
            (
                "docker://debian",
                "skopeo copy docker://debian oci:debian:latest;",
            ),
            (
                "quay.io/a/b",
                "skopeo copy docker://quay.io/a/b oci:b:latest;",
            ),
            (
                "a/b@sha256:00",
                "skopeo copy docker://a/b@sha256:00 oci:b:latest;",
            ),
            (
                "docker-daemon:x:1",
                "skopeo copy docker-daemon:x:1 oci:x:1;",
            ),
        ] {
            assert!(text(layer).unwrap().contains(command), "{layer}");
        }
        for layer in ["root", "./a:b", "/srv/a:b", "base.erofs", "a/b", "a b:c"] {
            assert_eq!(text(layer), None, "{layer}");
        }
    }
}
