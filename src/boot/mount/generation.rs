//! The upper directory on a device and its record. A reset replaces both such that a power failure at any
//! point leaves the old ones or the new ones, never a mix.
//!
//! In the directory of `rd.overlay=`:
//!
//! | name | what |
//! |---|---|
//! | `upper` | the upper directory of overlayfs |
//! | `work` | its work directory |
//! | `stack` | the record of the layers below ([`crate::plan::identity`]) |
//! | `old` | the `upper` and `stack` before the last reset |
//! | `old.tmp` | those that are about to be `old` |
//! | `next.tmp` | an `upper` and `stack` that are being made |
//! | `next` | complete ones that are being installed |
//!
//! The rename of `next.tmp` to `next` commits the change. Before it, the old ones are in place, and the next
//! boot deletes `next.tmp`. After it, only renames are left, and the next boot completes them before anything
//! else.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fd::OwnedFd;
use rustix::fs::syncfs;

use crate::error::{Context, Error, Result};

/// The longest record that is read, in bytes: 500 layers with long names.
const RECORD_MAX: u64 = 1 << 20;

/// A step of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Deletes a file, or a directory with everything in it.
    Remove(&'static str),
    /// Creates a directory.
    Create(&'static str),
    /// Creates an upper directory with its attributes.
    CreateUpper(&'static str),
    /// Creates a file with the record.
    Write(&'static str),
    /// Renames the first to the second.
    Rename(&'static str, &'static str),
    /// Waits until the device has all steps so far.
    Sync,
}

use Step::{Create, CreateUpper, Remove, Rename, Sync, Write as WriteRecord};

/// The directory of `rd.overlay=`.
pub struct UpperStore<'a> {
    /// The directory, open.
    pub directory: &'a OwnedFd,
    /// Its path.
    pub path: &'a str,
}

/// The steps that make new ones, up to the commit.
const PREPARE: [Step; 6] = [
    Create("next.tmp"),
    CreateUpper("next.tmp/upper"),
    WriteRecord("next.tmp/stack"),
    Sync,
    Rename("next.tmp", "next"),
    Sync,
];

/// The steps that put `next` in place. Leaves out those that are done already. `has` tells which names exist.
fn install(has: impl Fn(&str) -> bool) -> Vec<Step> {
    let mut steps = Vec::new();
    if !has("next") {
        // It was incomplete when the power failed.
        if has("next.tmp") {
            steps.push(Remove("next.tmp"));
        }
        return steps;
    }
    let (new_upper, new_record) = (has("next/upper"), has("next/stack"));
    let replaces = new_upper && has("upper");
    if replaces {
        if !has("old.tmp") {
            steps.push(Create("old.tmp"));
        }
        if new_record && has("stack") {
            steps.push(Rename("stack", "old.tmp/stack"));
        }
        // Files that overlayfs left there can prevent a mount of the old upper directory, but not of the new
        // one.
        if has("work") {
            steps.push(Remove("work"));
        }
        steps.push(Rename("upper", "old.tmp/upper"));
    }
    if new_upper {
        steps.push(Rename("next/upper", "upper"));
    }
    if new_record {
        steps.push(Rename("next/stack", "stack"));
    }
    // The older generation is kept until the new one is in place.
    if replaces || has("old.tmp") {
        steps.extend([Remove("old"), Rename("old.tmp", "old")]);
    }
    steps.extend([Remove("next"), Sync]);
    steps
}

/// The steps that replace the record only.
const REPLACE_RECORD: [Step; 5] = [
    Remove("stack.tmp"),
    WriteRecord("stack.tmp"),
    Sync,
    Rename("stack.tmp", "stack"),
    Sync,
];

impl UpperStore<'_> {
    /// Completes what an earlier boot has committed and not finished, and deletes what it has not committed.
    ///
    /// # Errors
    /// A step fails; the next call completes it.
    pub fn recover(&self) -> Result<()> {
        let steps = install(|name| self.has(name));
        self.run(&steps, "", &|_| Ok(()))
    }

    /// Whether there is an upper directory.
    pub fn has_upper(&self) -> bool {
        self.has("upper")
    }

    /// The record, if there is one. Bytes that are not UTF-8 are replaced.
    pub fn record(&self) -> Result<Option<String>> {
        let path = self.join("stack");
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = match options.open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            done => done.during("open", &path)?,
        };
        let mut bytes = Vec::new();
        file.take(RECORD_MAX)
            .read_to_end(&mut bytes)
            .during("read", &path)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Starts with a new upper directory, made by `create`, and `record`. The previous ones are moved to
    /// `old`. Call [`recover`](Self::recover) first.
    ///
    /// # Errors
    /// A step fails. Before the commit the old directory is unchanged, after it [`recover`](Self::recover)
    /// completes the change.
    pub fn begin(&self, record: &str, create: &dyn Fn(&str) -> Result<()>) -> Result<()> {
        self.run(&PREPARE, record, create)?;
        self.recover()
    }

    /// Replaces the record.
    pub fn write_record(&self, record: &str) -> Result<()> {
        self.run(&REPLACE_RECORD, record, &|_| Ok(()))
    }

    fn join(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.join(name)).is_ok()
    }

    fn run(&self, steps: &[Step], record: &str, create: &dyn Fn(&str) -> Result<()>) -> Result<()> {
        for step in steps {
            self.step(*step, record, create)?;
        }
        Ok(())
    }

    fn step(&self, step: Step, record: &str, create: &dyn Fn(&str) -> Result<()>) -> Result<()> {
        match step {
            Remove(name) => remove(&self.join(name)),
            Create(name) => fs::create_dir(self.join(name)).during("create", self.join(name)),
            CreateUpper(name) => create(&self.join(name)),
            WriteRecord(name) => {
                let path = self.join(name);
                let mut options = OpenOptions::new();
                let file = options.write(true).create_new(true).mode(0o644).open(&path);
                let mut file = file.during("create", &path)?;
                file.write_all(record.as_bytes())
                    .and_then(|()| file.sync_all())
                    .during("write", path)
            }
            Rename(from, to) => {
                let (from, to) = (self.join(from), self.join(to));
                fs::rename(&from, &to).during("rename", format_args!("{from} to {to}"))
            }
            Sync => syncfs(self.directory).during("write out", self.path),
        }
    }
}

/// Deletes a file or a directory, if it exists. Links are not followed.
fn remove(path: &str) -> Result<()> {
    let done = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done.during("remove", path).map_err(immutable_hint),
    }
}

/// Adds the usual reason why root may not remove a file.
fn immutable_hint(error: Error) -> Error {
    match error.errno() {
        Some(rustix::io::Errno::PERM) => {
            error.hint("is a file in it immutable (lsattr, chattr -i)?")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    /// A directory for each test, removed at its end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("layerinit-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn in_store<T>(path: &Path, work: impl FnOnce(&UpperStore<'_>) -> T) -> T {
        let directory = OwnedFd::from(fs::File::open(path).unwrap());
        work(&UpperStore {
            directory: &directory,
            path: path.to_str().unwrap(),
        })
    }

    /// A new upper directory, which holds the file `new`.
    fn create_new(path: &str) -> Result<()> {
        fs::create_dir(path).during("create", path)?;
        fs::write(format!("{path}/new"), "").during("write", path)
    }

    /// What has to match: the name of the file in `upper`, and the record.
    fn generation(path: &Path) -> (String, String) {
        let mut names = fs::read_dir(path.join("upper")).unwrap();
        let name = names.next().unwrap().unwrap().file_name();
        let record = fs::read_to_string(path.join("stack")).unwrap();
        (name.into_string().unwrap(), record)
    }

    /// A directory with an upper of the generation `old`, and an older one.
    fn old_generation(path: &Path, with_record: bool) {
        for (directory, name) in [("upper", "old"), ("work/work", "x"), ("old/upper", "older")] {
            fs::create_dir_all(path.join(directory)).unwrap();
            fs::write(path.join(directory).join(name), "").unwrap();
        }
        fs::write(path.join("old/stack"), "older").unwrap();
        if with_record {
            fs::write(path.join("stack"), "old").unwrap();
        }
    }

    /// Takes the first `count` steps of a reset as [`UpperStore::begin`] does. `false` if there are not so many.
    fn interrupted(store: &UpperStore<'_>, count: usize) -> bool {
        let mut left = count;
        for stage in [0, 1] {
            let steps = match stage {
                0 => PREPARE.to_vec(),
                _ => install(|name| store.has(name)),
            };
            for step in steps {
                let Some(rest) = left.checked_sub(1) else {
                    return true;
                };
                left = rest;
                store.step(step, "new", &create_new).unwrap();
            }
        }
        false
    }

    #[test]
    fn a_reset_that_is_interrupted_after_any_step_leaves_the_old_one_or_the_new_one() {
        for with_record in [true, false] {
            let (mut count, mut olds, mut news) = (0, 0, 0);
            loop {
                let scratch = Scratch::new("reset");
                let path = scratch.0.as_path();
                old_generation(path, with_record);
                let more = in_store(path, |store| {
                    let more = interrupted(store, count);
                    // The next boot is interrupted, too, after any of its steps.
                    let steps = install(|name| store.has(name));
                    for step in steps.iter().take(count % 3) {
                        store.step(*step, "", &create_new).unwrap();
                    }
                    store.recover().unwrap();
                    more
                });
                if !with_record && !path.join("stack").exists() {
                    fs::write(path.join("stack"), "old").unwrap();
                }
                match generation(path) {
                    (name, record) if name == "old" && record == "old" => {
                        olds += 1;
                        assert!(path.join("old/upper/older").exists(), "after {count} steps");
                    }
                    (name, record) if name == "new" && record == "new" => {
                        news += 1;
                        assert!(path.join("old/upper/old").exists(), "after {count} steps");
                        assert_eq!(path.join("old/stack").exists(), with_record);
                        assert!(!path.join("work").exists());
                    }
                    mix => panic!("a mix after {count} steps: {mix:?}"),
                }
                for name in ["next", "next.tmp", "old.tmp"] {
                    assert!(!path.join(name).exists(), "{name} after {count} steps");
                }
                // And then a reset succeeds whatever is there.
                in_store(path, |store| store.begin("third", &create_new).unwrap());
                assert_eq!(generation(path).1, "third");
                if !more {
                    break;
                }
                count += 1;
            }
            assert!(olds >= 5 && news >= 5, "{olds} old, {news} new");
        }
    }

    #[test]
    fn the_first_one_is_complete_or_not_there() {
        let mut count = 0;
        loop {
            let scratch = Scratch::new("first");
            let path = scratch.0.as_path();
            let more = in_store(path, |store| {
                let more = interrupted(store, count);
                store.recover().unwrap();
                if !store.has_upper() {
                    store.begin("new", &create_new).unwrap();
                }
                more
            });
            assert_eq!(generation(path), ("new".into(), "new".into()));
            let names = fs::read_dir(path).unwrap().count();
            assert_eq!(names, 2, "only upper and stack");
            if !more {
                break;
            }
            count += 1;
        }
        assert!(count > 8);
    }

    #[test]
    fn a_record_is_replaced_as_a_whole() {
        let scratch = Scratch::new("record");
        let path = scratch.0.as_path();
        old_generation(path, true);
        for count in 0..=REPLACE_RECORD.len() {
            in_store(path, |store| {
                store.write_record("old").unwrap();
                for step in &REPLACE_RECORD[..count] {
                    store.step(*step, "new", &create_new).unwrap();
                }
                let record = store.record().unwrap().unwrap();
                let expected = if count < 4 { "old" } else { "new" };
                assert_eq!(record, expected, "after {count} steps");
            });
        }
    }

    #[test]
    fn a_link_is_not_followed() {
        let scratch = Scratch::new("link");
        let path = scratch.0.as_path();
        let victim = path.join("victim");
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("file"), "precious").unwrap();
        for name in ["old", "next.tmp", "old.tmp", "stack.tmp", "stack"] {
            std::os::unix::fs::symlink(&victim, path.join(name)).unwrap();
        }
        fs::create_dir(path.join("upper")).unwrap();
        in_store(path, |store| {
            let error = store.record().unwrap_err().to_string();
            assert!(error.contains("/stack: ELOOP"), "{error}");
            store.write_record("new").unwrap();
            store.recover().unwrap();
            fs::remove_file(path.join("old.tmp")).unwrap();
            store.begin("new", &create_new).unwrap();
        });
        let text = fs::read_to_string(victim.join("file")).unwrap();
        assert_eq!(
            (text, generation(path).1),
            ("precious".into(), "new".into())
        );
    }
}
