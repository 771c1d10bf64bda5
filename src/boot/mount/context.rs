//! Mounts made with fsopen(2), fsconfig(2) and fsmount(2), which report why the kernel refuses one.
//!
//! Source: Documentation/filesystems/mount_api.rst, fs/fsopen.c.

use std::os::fd::OwnedFd;

use rustix::fs::CWD;
use rustix::io::{Errno, read};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::boot::kmsg::KernelRecords;
use crate::error::{Cause, Context, Error, Result};

/// The number of kernel log records that an error quotes at most. A filesystem writes one or two about a
/// failed mount; more would come from other parts of the kernel.
const RECORDS_MAX: usize = 4;

/// A filesystem context: a filesystem that is being configured.
pub struct FsContext {
    fd: OwnedFd,
    fstype: String,
}

/// A mount that is not attached to the tree yet. It is unmounted when this is dropped.
#[derive(Debug)]
pub struct Mount {
    fd: OwnedFd,
    /// Its name in messages: the filesystem type, or the path that it is a bind mount of.
    name: String,
}

impl FsContext {
    /// Opens a context for a filesystem type.
    ///
    /// # Errors
    /// The kernel has no such filesystem (ENODEV), which may need a module.
    pub fn new(fstype: &str) -> Result<Self> {
        let fd = match fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC) {
            Err(Errno::NODEV) => {
                let why =
                    "ENODEV: the kernel has no such filesystem, and no module for it is loaded";
                return Err(Error::new("mount", fstype, why));
            }
            done => done.during("mount", fstype)?,
        };
        let fstype = fstype.into();
        Ok(Self { fd, fstype })
    }

    /// Opens a context for the filesystem of an image. It is read-only from the start; otherwise the kernel
    /// would open the device for writing.
    pub fn read_only(fstype: &str) -> Result<Self> {
        let context = Self::new(fstype)?;
        context.flag("ro")?;
        Ok(context)
    }

    /// Sets `key=value`. The kernel accepts values of up to 255 bytes.
    pub fn string(&self, key: &str, value: &str) -> Result<()> {
        self.explain(fsconfig_set_string(&self.fd, key, value))
    }

    /// Sets an option without a value.
    pub fn flag(&self, key: &str) -> Result<()> {
        self.explain(fsconfig_set_flag(&self.fd, key))
    }

    /// Sets an option of mount(8): `key` or `key=value`.
    pub fn option(&self, option: &str) -> Result<()> {
        match option.split_once('=') {
            Some((key, value)) => self.string(key, value),
            None => self.flag(option),
        }
    }

    /// Creates the filesystem instance and a mount of it.
    ///
    /// # Errors
    /// The kernel refuses the filesystem; the error has its messages.
    pub fn mount(self, attributes: MountAttrFlags) -> Result<Mount> {
        let log = KernelRecords::from_now();
        let created = self.explain(fsconfig_create(&self.fd));
        created.map_err(|error| quote_kernel_log(error, log))?;
        let fd = self.explain(fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes))?;
        Ok(Mount {
            fd,
            name: self.fstype,
        })
    }

    /// Adds the messages of the context to an error.
    fn explain<T>(&self, result: std::result::Result<T, Errno>) -> Result<T> {
        result.map_err(|errno| {
            let cause = match self.messages() {
                text if text.is_empty() => Cause::Os(errno),
                text => Cause::Kernel(errno, text),
            };
            Error::with("mount", &self.fstype, cause)
        })
    }

    /// Reads the context's message queue, such as "erofs: Unknown parameter 'x'".
    fn messages(&self) -> String {
        let mut all = String::new();
        let mut buf = [0; 1024];
        // ENODATA ends the queue; a message is "e text", "w text" or "i text".
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

/// Adds the kernel's log records to an error that has only an errno: many filesystems report the reason
/// there and not in the context. `log` starts before the failed attempt.
pub fn quote_kernel_log(error: Error, log: KernelRecords) -> Error {
    const WARNING: u8 = 4;
    let Cause::Os(errno) = *error.cause() else {
        return error;
    };
    let records: Vec<_> = log
        .filter(|record| record.by_kernel && record.level <= WARNING)
        .map(|record| record.text)
        .take(RECORDS_MAX)
        .collect();
    match records.as_slice() {
        [] => error,
        records => error.because(Cause::Kernel(errno, records.join("; "))),
    }
}

impl Mount {
    /// A bind mount of `path`, as of `mount --bind`.
    pub fn bind(path: &str) -> Result<Self> {
        Self::clone_tree(path, OpenTreeFlags::empty())
    }

    /// A bind mount of `path` and of all mounts below it, as of `mount --rbind`.
    pub fn rbind(path: &str) -> Result<Self> {
        Self::clone_tree(path, OpenTreeFlags::AT_RECURSIVE)
    }

    fn clone_tree(path: &str, flags: OpenTreeFlags) -> Result<Self> {
        let flags = flags | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let fd = open_tree(CWD, path, flags).during("open", path)?;
        let name = path.into();
        Ok(Self { fd, name })
    }

    /// Attaches the mount at `target`.
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
