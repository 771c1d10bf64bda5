//! A persistent upper and its record of the layers: `rd.overlay.stale=` and `rd.overlay.reset`. Needs root.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::disk::{Image, Loop, ext4_of};
use crate::common::guest::*;
use crate::upper::{ext4, failure_of, guest, mounted, words};

/// The script of the test system, which prints the kept files and writes one.
const SCRIPT: &str = "cat /kept 2>/dev/null || echo nothing kept; echo \"$(cat /etc/which)\" >/kept; \
                      grep -o '\"state\":\"[a-z]*\",\"changes\":[^]]*]' /run/initramfs/layerinit.json || echo no state";

/// A disk, and a guest with one layer of some version.
struct Machine {
    disk: Loop,
    image: Image,
    guest: Guest,
}

impl Machine {
    fn new() -> Self {
        let image = ext4(&[]);
        let disk = Loop::attach(&image);
        let guest = guest(&Scratch::new(), SCRIPT);
        Self { disk, image, guest }
    }

    /// Puts the layer of a version into the initramfs.
    fn install(&self, version: &str, options: &[&str]) {
        let scratch = Scratch::new();
        let base = scratch.join("base");
        system(&base, SCRIPT);
        fs::write(base.join("etc/which"), version).unwrap();
        let image = scratch.join("base.erofs");
        run(Command::new("mkfs.erofs")
            .arg("-T0")
            .args(options)
            .arg(&image)
            .arg(&base));
        fs::copy(image, self.guest.scratch.join("rootfs/layers/base.erofs")).unwrap();
    }

    fn boot(&mut self, more: &str) -> Outcome {
        self.guest.cmdline = words(format!("rd.overlay={} {more}", self.disk.0));
        self.guest.boot()
    }

    /// Boots; returns the first line of the test system, and the state in the report.
    fn states(&mut self, more: &str) -> (String, String) {
        let outcome = self.boot(more);
        let mut lines = outcome.reached().lines();
        let mut next = || lines.next().unwrap_or_default().to_string();
        let (kept, report) = (next(), next());
        let state = report.split('"').nth(3).unwrap_or_default().to_string();
        (kept, state)
    }

    /// Calls `look` with the directory on the disk.
    fn look<T>(&self, look: impl FnOnce(&Path) -> T) -> T {
        let mut found = None;
        mounted(&self.image, |root| {
            found = Some(look(&root.join("layerinit")))
        });
        found.unwrap()
    }

    fn record(&self) -> String {
        self.look(|path| fs::read_to_string(path.join("stack")).unwrap())
    }
}

fn pair(kept: &str, state: &str) -> (String, String) {
    (kept.into(), state.into())
}

#[test]
fn an_upper_over_the_same_layers_is_used_and_another_layer_is_named() {
    let mut machine = Machine::new();
    machine.install("one", &[]);
    assert_eq!(machine.states(""), pair("nothing kept", "new"));
    let record = machine.record();
    assert_eq!(machine.states(""), pair("one", "same"));
    assert_eq!(
        machine.record(),
        record,
        "the record was rewritten without a change"
    );
    let lines: Vec<_> = record.lines().collect();
    assert_eq!(lines[0], "layerinit-upper 1");
    assert!(
        matches!(lines[3..], [layer] if layer.starts_with("layer erofs UUID=") && layer.ends_with(" base.erofs")),
        "{record}"
    );

    machine.install("two", &[]);
    let outcome = machine.boot("");
    outcome
        .says("was written over other layers: base.erofs has changed (from erofs UUID=")
        .says("; used anyway (rd.overlay.stale=keep)");
    assert!(
        outcome
            .reached()
            .starts_with("one\n\"state\":\"kept\",\"changes\":[\"base.erofs has changed")
    );
    // The upper has been used over these layers now.
    assert_eq!(machine.states("rd.overlay.stale=fail"), pair("two", "same"));
}

#[test]
fn another_layer_below_fails_the_boot_with_stale_fail() {
    let mut machine = Machine::new();
    machine.install("one", &[]);
    assert_eq!(machine.states(""), pair("nothing kept", "new"));
    let record = machine.record();
    machine.install("two", &[]);
    machine.guest.cmdline = words(format!(
        "rd.overlay={} rd.overlay.stale=fail",
        machine.disk.0
    ));
    failure_of(&machine.guest)
        .says("use the upper directory: it was written over other layers: base.erofs has changed (from erofs ")
        .says(" (rd.overlay.stale=fail); boot once with rd.overlay.stale=keep to use it over these layers, or ");
    assert_eq!(machine.record(), record);
    let fallback = machine.boot("rd.overlay.stale=fail rd.overlay.fallback=tmpfs");
    fallback.says("CANNOT BE USED: use the upper directory: it was written over other layers");
    assert!(fallback.reached().starts_with("nothing kept\n"));
    assert_eq!(machine.states(""), pair("one", "kept"));
    assert_eq!(machine.states("rd.overlay.stale=fail"), pair("two", "same"));
}

#[test]
fn another_layer_below_begins_a_new_upper_with_stale_reset() {
    let mut machine = Machine::new();
    machine.install("one", &[]);
    assert_eq!(
        machine.states("rd.overlay.stale=reset"),
        pair("nothing kept", "new")
    );
    assert_eq!(
        machine.states("rd.overlay.stale=reset"),
        pair("one", "same")
    );
    let old = machine.record();
    machine.install("two", &[]);
    let outcome = machine.boot("rd.overlay.stale=reset");
    outcome
        .says(":/layerinit is reset: base.erofs has changed (from erofs ")
        .says("; earlier writes are in /run/initramfs/upper/layerinit/old/upper");
    assert!(
        outcome
            .reached()
            .starts_with("nothing kept\n\"state\":\"reset\"")
    );
    machine.look(|path| {
        assert_eq!(
            fs::read_to_string(path.join("old/upper/kept")).unwrap(),
            "one\n"
        );
        assert_eq!(fs::read_to_string(path.join("old/stack")).unwrap(), old);
    });
    assert_eq!(
        machine.states("rd.overlay.stale=reset"),
        pair("two", "same")
    );
    // One old generation is kept.
    machine.install("three", &[]);
    assert_eq!(
        machine.states("rd.overlay.stale=reset"),
        pair("nothing kept", "reset")
    );
    machine.look(|path| {
        assert_eq!(
            fs::read_to_string(path.join("old/upper/kept")).unwrap(),
            "two\n"
        );
        let names = fs::read_dir(path).unwrap().count();
        assert_eq!(names, 4, "upper, work, stack, old");
    });
}

#[test]
fn a_reset_happens_once_for_each_new_value_of_its_word() {
    let mut machine = Machine::new();
    machine.install("one", &[]);
    assert_eq!(machine.states(""), pair("nothing kept", "new"));
    assert_eq!(
        machine.states("rd.overlay.reset"),
        pair("nothing kept", "reset")
    );
    // The word is still on the command line, as from a boot loader that always passes it.
    let again = machine.boot("rd.overlay.reset");
    again.says("rd.overlay.reset: already done at an earlier boot with this word");
    assert!(again.reached().starts_with("one\n\"state\":\"same\""));
    assert!(machine.record().ends_with("\nreset 1\n"));
    assert_eq!(
        machine.states("rd.overlay.reset=second"),
        pair("nothing kept", "reset")
    );
    assert_eq!(
        machine.states("rd.overlay.reset=second"),
        pair("one", "same")
    );
    assert_eq!(machine.states(""), pair("one", "same"));
    assert!(!machine.record().contains("reset"));
    assert_eq!(
        machine.states("rd.overlay.reset=second"),
        pair("nothing kept", "reset")
    );
    assert_eq!(machine.states("rd.overlay.reset=0"), pair("one", "same"));
}

#[test]
fn a_new_upper_made_with_the_word_is_not_reset_at_the_next_boot() {
    let mut machine = Machine::new();
    machine.install("one", &[]);
    assert_eq!(
        machine.states("rd.overlay.reset"),
        pair("nothing kept", "new")
    );
    assert_eq!(machine.states("rd.overlay.reset"), pair("one", "same"));
}

#[test]
fn images_without_a_uuid_are_distinguished_by_their_content() {
    let mut machine = Machine::new();
    // Of the same size and with the same times, so the superblocks are equal.
    machine.install("one", &["-U00000000-0000-0000-0000-000000000000"]);
    assert_eq!(machine.states(""), pair("nothing kept", "new"));
    assert!(
        machine.record().contains("\nlayer erofs DIGEST="),
        "{}",
        machine.record()
    );
    let outcome = machine.boot("");
    outcome.says("it has no UUID, so all of it is read to tell whether it has changed");
    assert!(outcome.reached().contains("\"state\":\"same\""));
    machine.install("two", &["-U00000000-0000-0000-0000-000000000000"]);
    assert_eq!(machine.states(""), pair("one", "kept"));
}

#[test]
fn archives_and_their_order_are_part_of_the_stack() {
    let mut machine = Machine::new();
    machine.install("one", &[]);
    let layers = machine.guest.scratch.join("rootfs/layers");
    let archive = |name: &str, content: &str| {
        let entries = [
            crate::common::dir("etc"),
            crate::common::file("etc/which", content.as_bytes()),
        ];
        fs::write(layers.join(name), crate::common::cpio(&entries)).unwrap();
    };
    archive("x.cpio", "x");
    archive("y.cpio", "y");
    let mut boot = |more| {
        machine.guest.cmdline = words(format!("rd.overlay={} {more}", machine.disk.0));
        let outcome = machine.guest.boot();
        let text = outcome.reached().to_string();
        text.lines().nth(1).unwrap().to_string()
    };
    assert!(boot("").starts_with("\"state\":\"new\""));
    archive("y.cpio", "z");
    let changed = boot("");
    assert!(
        changed.contains("[\"y.cpio has changed (from cpio DIGEST="),
        "{changed}"
    );
    fs::rename(layers.join("x.cpio"), layers.join("z.cpio")).unwrap();
    let order = boot("");
    assert!(
        order.contains("[\"the same layers are stacked in another order\"]"),
        "{order}"
    );
    let gone = boot("rd.layers.skip=z.cpio");
    assert!(
        gone.contains("[\"z.cpio (cpio DIGEST=") && gone.contains(") is gone\"]"),
        "{gone}"
    );
}

#[test]
fn the_root_device_is_part_of_the_stack() {
    let base = |which: &str| {
        let scratch = Scratch::new();
        system(&scratch.join("base"), SCRIPT);
        fs::write(scratch.join("base/etc/which"), which).unwrap();
        ext4_of(&scratch.join("base"))
    };
    let (one, two, data) = (base("one"), base("two"), ext4(&[]));
    let [one, two, data] = [&one, &two, &data].map(Loop::attach);
    let mut guest = Guest::new(&[]);
    let mut boot = |root: &Loop| {
        guest.cmdline = words(format!("root={} rd.overlay={}", root.0, data.0));
        let text = guest.boot().reached().to_string();
        text.lines().nth(1).unwrap().to_string()
    };
    assert!(boot(&one).contains("\"new\""));
    assert!(boot(&one).contains("\"same\""));
    let other = boot(&two);
    assert!(
        other.starts_with("\"state\":\"kept\",\"changes\":[\"root=")
            && other.contains("(ext4 UUID="),
        "{other}"
    );
}

#[test]
fn an_upper_of_a_newer_format_is_refused_and_not_changed() {
    let mut machine = Machine::new();
    machine.install("one", &[]);
    assert_eq!(machine.states(""), pair("nothing kept", "new"));
    let newer = "layerinit-upper 2\nwhatever that is\n";
    machine.look(|path| fs::write(path.join("stack"), newer).unwrap());
    for more in ["", "rd.overlay.stale=reset", "rd.overlay.reset"] {
        machine.guest.cmdline = words(format!("rd.overlay={} {more}", machine.disk.0));
        failure_of(&machine.guest).says(
            "use the upper directory: a newer layerinit wrote it, in format 2; this one knows formats up to 1",
        );
    }
    assert_eq!(machine.record(), newer);
}

#[test]
fn an_upper_without_a_usable_record_is_treated_as_stale() {
    let mut machine = Machine::new();
    machine.install("one", &[]);
    assert_eq!(machine.states(""), pair("nothing kept", "new"));
    // As from versions without a record.
    let forget =
        |machine: &Machine| machine.look(|path| fs::remove_file(path.join("stack")).unwrap());
    forget(&machine);
    machine.guest.cmdline = words(format!(
        "rd.overlay={} rd.overlay.stale=fail",
        machine.disk.0
    ));
    failure_of(&machine.guest).says("no record says what it was written over");
    assert_eq!(machine.states(""), pair("one", "unrecorded"));
    assert_eq!(machine.states("rd.overlay.stale=fail"), pair("one", "same"));
    forget(&machine);
    assert_eq!(
        machine.states("rd.overlay.stale=reset"),
        pair("nothing kept", "reset")
    );
    machine.look(|path| fs::write(path.join("stack"), "\0\0\0").unwrap());
    machine
        .boot("")
        .says("was written over other layers: its record is damaged: it does not begin with \"layerinit-upper 1\"");
    assert_eq!(machine.states(""), pair("one", "same"));
}

#[test]
fn a_reset_replaces_a_work_directory_that_overlayfs_refuses() {
    let mut machine = Machine::new();
    machine.install("one", &[]);
    assert_eq!(machine.states(""), pair("nothing kept", "new"));
    machine.look(|path| fs::create_dir_all(path.join("work/work/incompat/volatile")).unwrap());
    machine.guest.cmdline = words(format!("rd.overlay={}", machine.disk.0));
    failure_of(&machine.guest).says("mount overlay: EINVAL");
    assert_eq!(
        machine.states("rd.overlay.reset"),
        pair("nothing kept", "reset")
    );
}

#[test]
fn an_interrupted_reset_is_completed_by_the_next_boot() {
    let mut machine = Machine::new();
    machine.install("one", &[]);
    assert_eq!(machine.states(""), pair("nothing kept", "new"));
    // Committed, and the old upper renamed.
    let record = machine.record();
    machine.look(|path| {
        fs::create_dir_all(path.join("next/upper")).unwrap();
        fs::write(path.join("next/upper/kept"), "next\n").unwrap();
        fs::write(path.join("next/stack"), &record).unwrap();
        fs::create_dir(path.join("old")).unwrap();
        fs::rename(path.join("stack"), path.join("old/stack")).unwrap();
        fs::rename(path.join("upper"), path.join("old/upper")).unwrap();
    });
    assert_eq!(machine.states(""), pair("next", "same"));
    // Not committed.
    machine.look(|path| {
        fs::create_dir_all(path.join("next.tmp/upper")).unwrap();
        fs::write(path.join("next.tmp/upper/kept"), "half\n").unwrap();
    });
    assert_eq!(machine.states(""), pair("one", "same"));
    assert_eq!(
        machine.states("rd.overlay.reset"),
        pair("nothing kept", "reset")
    );
}

#[test]
fn words_without_a_device_get_a_warning() {
    let scratch = Scratch::new();
    let mut guest = guest(&scratch, "true");
    guest.cmdline = "rd.overlay.stale=fail rd.overlay.reset";
    guest
        .boot()
        .says("rd.overlay.stale= has no effect: rd.overlay= names no device")
        .says("rd.overlay.reset has no effect: rd.overlay= names no device");
}
