//! Resolves paths in another root directory.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2, readlinkat};
use rustix::io::Errno;

/// The most symbolic links that the kernel follows in a path (MAXSYMLINKS in include/linux/namei.h).
pub const MAX_SYMLINKS: usize = 40;

/// Opens `path` as if the directory `root` were `/`. Returns an O_PATH descriptor.
///
/// # Errors
/// The errno of openat(2): ENOENT for a missing or dangling path, ELOOP for too many links.
pub fn resolve(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        // Linux before 5.6, or the seccomp filter of a container. EAGAIN: a rename or a mount anywhere in the
        // system raced with a `..` of the path (openat2(2)).
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => walk(root, path),
        done => done,
    }
}

/// [`resolve`] without openat2(2): one component at a time.
fn walk(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let top = || openat(root, ".", flags, Mode::empty());
    let mut todo: Vec<String> = components(path);
    // The directories from the root down to the present one. `..` leads up to the root, not beyond.
    let mut trail = vec![top()?];
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == ".." {
            if trail.len() > 1 {
                trail.pop();
            }
            continue;
        }
        let here = trail.last().ok_or(Errno::NOENT)?;
        let next = openat(here, &*name, flags, Mode::empty())?;
        match readlinkat(&next, "", Vec::new()) {
            Ok(target) => {
                links += 1;
                if links > MAX_SYMLINKS {
                    return Err(Errno::LOOP);
                }
                let target = target.to_string_lossy();
                if target.starts_with('/') {
                    trail = vec![top()?];
                }
                todo.extend(components(&target));
            }
            // Not a link (readlinkat(2)).
            Err(Errno::NOENT | Errno::INVAL) => trail.push(next),
            Err(errno) => return Err(errno),
        }
    }
    trail.pop().ok_or(Errno::NOENT)
}

/// The components of a path, in reverse order.
fn components(path: &str) -> Vec<String> {
    path.split('/')
        .filter(|name| !name.is_empty() && *name != ".")
        .rev()
        .map(Into::into)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn both_ways_of_resolving_stay_in_the_root_and_agree() {
        let root = std::env::temp_dir().join(format!("layerinit-resolve-{}", std::process::id()));
        fs::create_dir_all(root.join("usr/sbin")).unwrap();
        fs::write(root.join("usr/sbin/init"), "x").unwrap();
        for (target, link) in [
            ("/usr/sbin", "sbin"),
            ("../../../usr/sbin/init", "relative"),
            ("/sbin/init", "absolute"),
            ("around", "around"),
            ("nowhere", "dangling"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        let directory = File::open(&root).unwrap();
        let inode = |found: Result<OwnedFd, Errno>| {
            found.map(|fd| File::from(fd).metadata().unwrap().ino())
        };
        for path in [
            "/sbin/init",
            "relative",
            "/absolute",
            "around",
            "dangling",
            "/..//./sbin/../sbin/init",
            "/none",
        ] {
            let by_kernel = openat2(
                &directory,
                path,
                OFlags::PATH,
                Mode::empty(),
                ResolveFlags::IN_ROOT,
            );
            assert_eq!(
                inode(walk(directory.as_fd(), path)),
                inode(by_kernel),
                "{path}"
            );
        }
        fs::remove_dir_all(&root).unwrap();
    }
}
