//! The text of layerinit-init(8), the manual page of `/init`. The words of the command line come from
//! [`DOCS`](crate::plan::words::DOCS).

/// The subject of the page, for its section NAME.
pub const SUMMARY: &str = "/init that mounts EROFS layers from the initrd and starts the real init";

/// The sections before the command line.
pub const DESCRIPTION: &str = "\
Synopsis:
    /init
    /init --version

Description:
  The kernel starts /init as PID 1 from the initramfs. The program is statically linked, and needs no
  other files. It

    1. mounts /proc, /sys, /dev and /run, and reads the kernel command
       line;
    2. finds the layers: EROFS and SquashFS images and cpio archives
       after the first archive of the initrd, files in /layers, and what
       rd.layers.from= names on disks, which it mounts read-only;
    3. loads kernel modules, if the initramfs holds any that are needed;
    4. mounts each layer in place in memory, with the first backend of
       rd.layers.backend= that works; cpio archives are unpacked into a
       tmpfs;
    5. finds and mounts the device of root=, if that word is given: it is
       the lowest layer, or without layers the root itself;
    6. stacks the layers with overlayfs; a tmpfs or the device of
       rd.overlay= takes the writes;
    7. checks that the real init can be executed there;
    8. moves the mounts, makes the new root /, frees the files of the
       initramfs, and executes the real init.

  Layers that are appended to the initrd need the word retain_initrd (Linux 6.8 and newer), unless the
  kernel has CONFIG_BLK_DEV_RAM=y or the memback patches. Layers in /layers do not.

  The real init gets the arguments, environment, signal actions and signal mask that the kernel gave
  to /init. Messages go to the kernel log, see dmesg(1).

  `/init --version` prints the version, in a running system.";

/// The introduction to the words of the command line.
pub const COMMAND_LINE: &str = "\
Kernel command line:
  The words are split as the kernel splits them: double quotes keep spaces, - and _ are the same in
  names, the last of several equal words wins, and words after -- are for the real init. A bootconfig
  is part of the command line. rd.break=, rd.driver.pre=, rd.driver.blacklist= and rd.layers.from=
  accumulate.

  Where a value is 0 or 1, the words no, n, off, false and yes, y, on, true are accepted, too. A value
  that cannot be used is ignored with a warning, and so are unknown words that begin with rd.layers. or
  rd.overlay.

  modprobe.blacklist= and MODULE.PARAMETER= apply to the modules that /init loads, as for modprobe(8).";

/// Files and what they are for.
pub const FILES: &[(&str, &str)] = &[
    (
        "/sys/firmware/initrd",
        "The initrd, if the kernel retains it.",
    ),
    (
        "/initrd.image",
        "The initrd, copied by a kernel with CONFIG_BLK_DEV_RAM=y if it is more than cpio archives.",
    ),
    (
        "/layers",
        "Files of the initramfs that are layers, lowest first in the order of their names.",
    ),
    (
        "/lib/modules/RELEASE",
        "Kernel modules in the initramfs, with modules.dep, modules.builtin, modules.alias and modules.softdep.",
    ),
    (
        "/etc/modprobe.d, /run/modprobe.d, /usr/local/lib/modprobe.d, /usr/lib/modprobe.d, /lib/modprobe.d",
        "Configuration for modules, see modprobe.d(5).",
    ),
    (
        "/sysroot",
        "The root to boot after a rescue shell. If the boot failed after the root was mounted, that root is \
         here already.",
    ),
    (
        "/run/initramfs/layers/N",
        "Each layer, mounted read-only; 0 is the lowest.",
    ),
    (
        "/run/initramfs/media/N",
        "The filesystem of the word rd.layers.from= number N, from 0, mounted read-only.",
    ),
    (
        "/run/initramfs/upper",
        "The filesystem that takes the writes.",
    ),
    (
        "/run/initramfs/layerinit.json",
        "A report of the boot: segments of the initrd, layers, backends, modules, warnings, and the duration of \
         each step in microseconds.",
    ),
    (
        "/run/systemd/volatile-root",
        "A link to the device of root= if an overlay is over it, for systemd.",
    ),
];

/// The sections after the files.
pub const FAILURES: &str = "\
Failures:
  A failure is one message, which names the step, the object and the reason:

    layerinit: boot failed: STEP OBJECT: REASON

  If the initramfs holds /bin/sh and rd.shell=0 is not given, /init then starts a shell on the console.
  Mount a root at /sysroot in the shell and exit, and the boot continues with that root. Otherwise
  rd.emergency= decides what happens when the shell ends; without that word the machine restarts.

  Where no shell can be started, rd.emergency= and panic= decide; without these words /init waits, and
  says so. Anybody at the console has a root shell: use rd.shell=0, or put no shell into the initramfs,
  where the console is open to others.

  A panic of /init is a bug: its message names file and line, and a shell cannot continue the boot.
  After a fatal signal (SIGSEGV, SIGBUS and the like) there is no shell; the message names the signal,
  the address and the instruction.

Notes:
  rd.debug logs every attempt. layerinit-check(1) finds most causes of failures before the boot, and
  layerinit-plan(1) shows what /init does with an image and a command line.

Examples:
  console=ttyS0 retain_initrd
  retain_initrd rd.layers.skip=debug rd.overlay=tmpfs:size=1g
  retain_initrd root=LABEL=system rootwait rd.overlay=LABEL=data
  retain_initrd rd.break=switch rd.debug

See also:
  layerinit(1), layerinit-build(1), layerinit-check(1), bootparam(7), dmesg(1), dracut.cmdline(7),
  mount(8), tmpfs(5), switch_root(8)";
