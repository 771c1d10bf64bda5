//! The record of the layers that a persistent upper was written over, and what happens to an upper that was
//! written over other layers.
//!
//! The record is a text file beside the upper directory:
//!
//! ```text
//! layerinit-upper 1
//! # The layers that "upper" was written over ...
//! layer erofs UUID=4f1c...,DIGEST=0123456789abcdef base.erofs
//! layer cpio DIGEST=...,LENGTH=20480 initrd+0x2f2c00
//! reset 1
//! ```
//!
//! The first line has the version of the format. A layer is the same if its type and its identity are the
//! same; its name is only for people. `reset` has the value of `rd.overlay.reset` at the last boot, if it had
//! one.

use super::cmdline::Stale;
use crate::error::{Error, Result};

/// The version of the record that this program writes, and the newest that it reads.
const FORMAT: u64 = 1;

/// The first word of a record.
const MAGIC: &str = "layerinit-upper";

/// One filesystem below the upper: the root device, or a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackMember {
    /// Its type: `erofs`, `cpio`, or a filesystem of the kernel.
    pub kind: String,
    /// Its identity, without blanks: differs if the content differs.
    pub id: String,
    /// Its name in messages.
    pub name: String,
}

/// The filesystems below an upper, lowest first, and the last `rd.overlay.reset`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StackRecord {
    /// The filesystems.
    pub members: Vec<StackMember>,
    /// The value of `rd.overlay.reset`.
    pub reset: Option<String>,
}

/// Why a record cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordFault {
    /// Its format is newer than `FORMAT`.
    Newer(u64),
    /// It is not a record: why.
    Damaged(String),
}

/// What happens to the upper directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpperState {
    /// There was none; `/init` creates one.
    New,
    /// It was written over the same layers.
    Same,
    /// It was written over other layers, and is used.
    Kept,
    /// It has no record, and is used.
    Unrecorded,
    /// A new one replaces it.
    Reset,
}

impl UpperState {
    /// The name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Same => "same",
            Self::Kept => "kept",
            Self::Unrecorded => "unrecorded",
            Self::Reset => "reset",
        }
    }
}

/// The decision on an upper directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpperVerdict {
    /// What happens to it.
    pub state: UpperState,
    /// The differences from the record, or why it is reset: one clause each.
    pub changes: Vec<String>,
    /// Whether the record must be written.
    pub write_record: bool,
}

impl StackMember {
    fn is(&self, other: &Self) -> bool {
        self.kind == other.kind && self.id == other.id
    }
}

impl StackRecord {
    /// The record as text.
    pub fn encode(&self) -> String {
        let mut text = format!(
            "{MAGIC} {FORMAT}\n# The layers that \"upper\" was written over, the lowest first. /init compares them at each \
             boot\n# (rd.overlay.stale=).\n"
        );
        for StackMember { kind, id, name } in &self.members {
            text.push_str(&format!("layer {kind} {id} {name}\n"));
        }
        if let Some(value) = &self.reset {
            text.push_str(&format!("reset {value}\n"));
        }
        text
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`RecordFault`].
    pub fn parse(text: &str) -> std::result::Result<Self, RecordFault> {
        let damaged = |why: String| RecordFault::Damaged(why);
        let mut lines = text.lines();
        let format = lines.next().and_then(|line| line.strip_prefix(MAGIC));
        match format.and_then(|number| number.trim().parse().ok()) {
            Some(FORMAT) => {}
            Some(newer) if newer > FORMAT => return Err(RecordFault::Newer(newer)),
            _ => {
                return Err(damaged(format!(
                    "it does not begin with \"{MAGIC} {FORMAT}\""
                )));
            }
        }
        let mut record = Self::default();
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut words = line.splitn(4, ' ');
            match [words.next(), words.next(), words.next(), words.next()] {
                [Some("layer"), Some(kind), Some(id), Some(name)] => {
                    let [kind, id, name] = [kind, id, name].map(String::from);
                    record.members.push(StackMember { kind, id, name });
                }
                [Some("reset"), Some(value), None, None] => record.reset = Some(value.into()),
                _ => return Err(damaged(format!("the line {line:?}"))),
            }
        }
        if !text.ends_with('\n') {
            return Err(damaged("its end is missing".into()));
        }
        Ok(record)
    }

    /// The differences in `now`: one clause each, none if the filesystems are the same.
    pub fn changes(&self, now: &Self) -> Vec<String> {
        let is_in =
            |one: &StackMember, list: &[StackMember]| list.iter().any(|other| one.is(other));
        let mut came: Vec<_> = (now.members.iter())
            .filter(|one| !is_in(one, &self.members))
            .collect();
        let mut changes = Vec::new();
        for old in self.members.iter().filter(|one| !is_in(one, &now.members)) {
            let StackMember { kind, id, name } = old;
            let same_name = came.iter().position(|new| new.name == *name);
            changes.push(match same_name.map(|at| came.remove(at)) {
                Some(new) => format!(
                    "{name} has changed (from {kind} {id} to {} {})",
                    new.kind, new.id
                ),
                None => format!("{name} ({kind} {id}) is gone"),
            });
        }
        for StackMember { kind, id, name } in came {
            changes.push(format!("{name} ({kind} {id}) is new"));
        }
        let in_order = self.members.len() == now.members.len()
            && self.members.iter().zip(&now.members).all(|(a, b)| a.is(b));
        if changes.is_empty() && !in_order {
            changes.push("the same layers are stacked in another order".into());
        }
        changes
    }
}

/// Decides what happens to an upper directory. `record` is the text of its record; `now` has the present
/// layers and the value of `rd.overlay.reset`.
///
/// # Errors
///
/// The record has a newer format, or the layers differ and `stale` is [`Stale::Fail`].
pub fn judge(
    upper_exists: bool,
    record: Option<&str>,
    now: &StackRecord,
    stale: Stale,
) -> Result<UpperVerdict> {
    let recorded = match record.map(StackRecord::parse) {
        None => Err("no record says what it was written over".to_string()),
        Some(Ok(record)) => Ok(record),
        Some(Err(RecordFault::Damaged(why))) => Err(format!("its record is damaged: {why}")),
        Some(Err(RecordFault::Newer(format))) => {
            let why = format!(
                "a newer layerinit wrote it, in format {format}; this one knows formats up to {FORMAT}"
            );
            let hint = "boot an image with a newer layerinit, or name another directory";
            return Err(Error::new("use", "the upper directory", why).hint(hint));
        }
    };
    let verdict = |state, changes| UpperVerdict {
        state,
        changes,
        write_record: state != UpperState::Same,
    };
    if !upper_exists {
        return Ok(verdict(UpperState::New, Vec::new()));
    }
    let recorded_reset = recorded
        .as_ref()
        .ok()
        .and_then(|record| record.reset.as_ref());
    if now.reset.is_some() && now.reset.as_ref() != recorded_reset {
        return Ok(verdict(UpperState::Reset, vec!["rd.overlay.reset".into()]));
    }
    let reset_changed = now.reset.as_ref() != recorded_reset;
    let changes = match recorded {
        Ok(record) => record.changes(now),
        Err(why) => vec![why],
    };
    match stale {
        _ if changes.is_empty() => Ok(UpperVerdict {
            write_record: reset_changed,
            ..verdict(UpperState::Same, changes)
        }),
        Stale::Keep if record.is_none() => Ok(verdict(UpperState::Unrecorded, changes)),
        Stale::Keep => Ok(verdict(UpperState::Kept, changes)),
        Stale::Reset => Ok(verdict(UpperState::Reset, changes)),
        Stale::Fail => {
            let why = format!(
                "it was written over other layers: {} (rd.overlay.stale=fail)",
                changes.join("; ")
            );
            let hint = "boot once with rd.overlay.stale=keep to use it over these layers, or with \
                        rd.overlay.stale=reset to begin a new one";
            Err(Error::new("use", "the upper directory", why).hint(hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(kind: &str, id: &str, name: &str) -> StackMember {
        let [kind, id, name] = [kind, id, name].map(String::from);
        StackMember { kind, id, name }
    }

    fn stack() -> StackRecord {
        StackRecord {
            members: vec![
                member("ext4", "UUID=1-2", "root=LABEL=a b"),
                member("erofs", "UUID=3-4,DIGEST=5", "base.erofs"),
                member("cpio", "DIGEST=6,LENGTH=7", "initrd+0x1000"),
            ],
            reset: Some("1".into()),
        }
    }

    const TEXT: &str = "layerinit-upper 1\n\
        # The layers that \"upper\" was written over, the lowest first. /init compares them at each boot\n\
        # (rd.overlay.stale=).\n\
        layer ext4 UUID=1-2 root=LABEL=a b\n\
        layer erofs UUID=3-4,DIGEST=5 base.erofs\n\
        layer cpio DIGEST=6,LENGTH=7 initrd+0x1000\n\
        reset 1\n";

    #[test]
    fn a_record_is_text_and_is_read_back() {
        assert_eq!(stack().encode(), TEXT);
        assert_eq!(StackRecord::parse(TEXT), Ok(stack()));
    }

    #[test]
    fn what_is_no_record_is_damaged_and_a_newer_one_is_newer() {
        for text in [
            "",
            "layerinit-upper\n",
            "layerinit-upper 0\n",
            "layerinit-upper x\nlayer erofs UUID=1 a\n",
            "something else 1\n",
            "layerinit-upper 1\nlayer erofs UUID=1\n",
            "layerinit-upper 1\nreset\n",
            "layerinit-upper 1\nunknown\n",
            "layerinit-upper 1\nlayer erofs UUID=1 a",
        ] {
            let parsed = StackRecord::parse(text);
            assert!(matches!(parsed, Err(RecordFault::Damaged(_))), "{text:?}");
        }
        let newer = StackRecord::parse("layerinit-upper 2\nanything\n");
        assert_eq!(newer, Err(RecordFault::Newer(2)));
    }

    #[test]
    fn what_has_changed_is_named() {
        let old = stack();
        assert_eq!(old.changes(&old), [""; 0]);
        let mut renamed = old.clone();
        renamed.members[1].name = "other.erofs".into();
        assert_eq!(old.changes(&renamed), [""; 0]);
        let mut now = old.clone();
        now.members[1].id = "UUID=8,DIGEST=9".into();
        now.members[2] = member("erofs", "UUID=a,DIGEST=b", "app.erofs");
        assert_eq!(
            old.changes(&now),
            [
                "base.erofs has changed (from erofs UUID=3-4,DIGEST=5 to erofs UUID=8,DIGEST=9)",
                "initrd+0x1000 (cpio DIGEST=6,LENGTH=7) is gone",
                "app.erofs (erofs UUID=a,DIGEST=b) is new",
            ]
        );
        let mut swapped = old.clone();
        swapped.members.swap(1, 2);
        assert_eq!(
            old.changes(&swapped),
            ["the same layers are stacked in another order"]
        );
        let mut twice = old.clone();
        twice.members.push(old.members[2].clone());
        assert_eq!(old.changes(&twice).len(), 1);
    }

    /// The state, and whether the record is written; or the error.
    fn judged(upper: bool, record: Option<&str>, now: &StackRecord, stale: Stale) -> String {
        match judge(upper, record, now, stale) {
            Ok(verdict) => format!("{:?} {}", verdict.state, verdict.write_record),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_word_and_the_record_decide() {
        let same = stack();
        let mut other = stack();
        other.members[1].id = "UUID=8,DIGEST=9".into();
        let plain = |stack: &StackRecord| StackRecord {
            reset: None,
            ..stack.clone()
        };
        let without_reset = plain(&same).encode();
        let recorded = Some(without_reset.as_str());
        let all = [Stale::Keep, Stale::Fail, Stale::Reset];
        for stale in all {
            assert_eq!(judged(false, None, &plain(&same), stale), "New true");
            assert_eq!(judged(false, recorded, &plain(&same), stale), "New true");
            assert_eq!(judged(true, recorded, &plain(&same), stale), "Same false");
            // rd.overlay.reset acts once, and again after a boot without it, or with another value.
            assert_eq!(judged(true, recorded, &same, stale), "Reset true");
            assert_eq!(judged(true, None, &same, stale), "Reset true");
            assert_eq!(judged(true, Some(TEXT), &same, stale), "Same false");
            assert_eq!(judged(true, Some(TEXT), &plain(&same), stale), "Same true");
            let again = StackRecord {
                reset: Some("2".into()),
                ..same.clone()
            };
            assert_eq!(judged(true, Some(TEXT), &again, stale), "Reset true");
            let newer = judged(true, Some("layerinit-upper 9\n"), &same, stale);
            assert!(newer.contains("in format 9"), "{newer}");
        }
        let damaged = Some("layerinit-upper 1\nlay");
        for record in [recorded, None, damaged] {
            let other = plain(&other);
            let kept = judged(true, record, &other, Stale::Keep);
            let expected = match record {
                None => "Unrecorded true",
                Some(_) => "Kept true",
            };
            assert_eq!(kept, expected);
            assert_eq!(judged(true, record, &other, Stale::Reset), "Reset true");
            let failed = judged(true, record, &other, Stale::Fail);
            assert!(
                failed.contains("(rd.overlay.stale=fail); boot once with"),
                "{failed}"
            );
        }
    }
}
