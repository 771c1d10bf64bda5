//! A filesystem context: one mount being made, with the kernel's own words when it is refused.
//!
//! Source: Documentation/filesystems/mount_api.rst, fs/fsopen.c.

use std::os::fd::OwnedFd;

use rustix::fs::CWD;
use rustix::io::{Errno, read};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::boot::kmsg::Records;
use crate::error::{Cause, Context as _, Error, Result};

/// Lines of the kernel's log that an error quotes at most: a filesystem says it in one or two, and
/// what else goes on in the machine is not wanted.
const RECORDS_MAX: usize = 4;

/// A filesystem that is being configured.
pub struct Context {
    fd: OwnedFd,
    fstype: String,
}

/// A filesystem that is mounted, but nowhere yet.
#[derive(Debug)]
pub struct Mount {
    fd: OwnedFd,
    /// What a message calls it: the filesystem's type, or where it is mounted already.
    name: String,
}

impl Context {
    /// Opens a context of a filesystem type.
    pub fn new(fstype: &str) -> Result<Self> {
        let fd = match fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC) {
            Err(Errno::NODEV) => {
                let why =
                    "ENODEV: the kernel has no such filesystem, and no module for it was loaded";
                return Err(Error::new("mount", fstype, why));
            }
            done => done.during("mount", fstype)?,
        };
        let fstype = fstype.into();
        Ok(Self { fd, fstype })
    }

    /// A context of EROFS. Read-only from the start: the kernel would want to write to a device
    /// otherwise.
    pub fn erofs() -> Result<Self> {
        let context = Self::new("erofs")?;
        context.flag("ro")?;
        Ok(context)
    }

    /// Sets `key=value`. The kernel takes values of up to 255 bytes.
    pub fn string(&self, key: &str, value: &str) -> Result<()> {
        self.explain(fsconfig_set_string(&self.fd, key, value))
    }

    /// Sets an option without a value.
    pub fn flag(&self, key: &str) -> Result<()> {
        self.explain(fsconfig_set_flag(&self.fd, key))
    }

    /// Sets an option as it stands in a list: `key` or `key=value`.
    pub fn option(&self, option: &str) -> Result<()> {
        match option.split_once('=') {
            Some((key, value)) => self.string(key, value),
            None => self.flag(option),
        }
    }

    /// Makes the filesystem and a mount of it.
    pub fn mount(self, attributes: MountAttrFlags) -> Result<Mount> {
        let log = Records::from_now();
        let created = self.explain(fsconfig_create(&self.fd));
        created.map_err(|error| quote(error, log))?;
        let fd = self.explain(fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes))?;
        Ok(Mount {
            fd,
            name: self.fstype,
        })
    }

    /// Adds what the kernel says about a refusal.
    fn explain<T>(&self, result: std::result::Result<T, Errno>) -> Result<T> {
        result.map_err(|errno| {
            let cause = match self.messages() {
                said if said.is_empty() => Cause::Os(errno),
                said => Cause::Kernel(errno, said),
            };
            Error::with("mount", &self.fstype, cause)
        })
    }

    /// Everything in the context's message queue, such as "erofs: Unknown parameter 'x'".
    fn messages(&self) -> String {
        let mut all = String::new();
        let mut buf = [0; 1024];
        // ENODATA ends it; a message is "e text", "w text" or "i text".
        while let Ok(n) = read(&self.fd, &mut buf) {
            let Some(message) = buf.get(..n).filter(|message| !message.is_empty()) else {
                break;
            };
            let message = String::from_utf8_lossy(message);
            let text = message.get(2..).unwrap_or(&message).trim();
            if !all.is_empty() {
                all.push_str("; ");
            }
            all.push_str(text);
        }
        all
    }
}

/// Adds what the kernel's log says of a refusal, where nothing else does: most filesystems tell only
/// that what is wrong with what they were given. `log` begins where the attempt does.
pub fn quote(error: Error, log: Records) -> Error {
    const WARNING: u8 = 4;
    let Cause::Os(errno) = *error.cause() else {
        return error;
    };
    let said: Vec<_> = log
        .filter(|record| record.by_kernel && record.level <= WARNING)
        .map(|record| record.text)
        .take(RECORDS_MAX)
        .collect();
    match said.as_slice() {
        [] => error,
        said => error.because(Cause::Kernel(errno, said.join("; "))),
    }
}

impl Mount {
    /// A second mount of what is mounted at `path`, with what is mounted below it if that is said.
    pub fn again(path: &str, below: bool) -> Result<Self> {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        flags.set(OpenTreeFlags::AT_RECURSIVE, below);
        let fd = open_tree(CWD, path, flags).during("open", path)?;
        let name = path.into();
        Ok(Self { fd, name })
    }

    /// Puts it into the tree.
    pub fn attach(self, target: &str) -> Result<()> {
        move_mount(
            &self.fd,
            "",
            CWD,
            target,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .during("attach", format_args!("{} at {target}", self.name))
    }
}
