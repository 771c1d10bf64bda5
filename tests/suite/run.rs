//! `layerinit-run` as PID 1 of a new PID namespace, with busybox as its root.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use crate::common::copy_program;
use crate::common::guest::{Scratch, system};

/// Starts it in a root directory. The kernel ends a PID namespace with SIGINT on power-off.
const START: &str = r#"
mount --make-rprivate /
mount -t proc proc "$1/proc"
mknod "$1/dev/null" c 1 3
exec chroot "$1" /layerinit-run
"#;

/// Returns its console up to the power-off. `script` becomes /bin/script, which the `records` of the
/// configuration start.
fn console(records: &[&str], script: &str) -> String {
    let scratch = Scratch::new();
    let root = scratch.join("root");
    system(&root, script);
    fs::rename(root.join("sbin/init"), root.join("bin/script")).unwrap();
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:\nwww:x:33:34::/var/www:\n",
    )
    .unwrap();
    fs::write(root.join("etc/group"), "www:x:34:\nadm:x:4:www\n").unwrap();
    copy_program(
        env!("CARGO_BIN_EXE_layerinit-run"),
        root.join("layerinit-run"),
    );
    let records: Vec<_> = [&["layerinit-run 1"][..], records].concat();
    let config: String = records.iter().flat_map(|record| [record, "\0"]).collect();
    fs::write(root.join("layerinit-run.conf"), config).unwrap();
    let output = Command::new("timeout")
        .args(["--signal=KILL", "60", "unshare"])
        .args(["--mount", "--pid", "--fork", "--kill-child"])
        .args(["bash", "-euc", START, "bash"])
        .arg(&root)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("TERM", "vt102")
        .env("canary", "not for the program")
        .stdin(Stdio::null())
        .output()
        .expect("this test needs unshare of util-linux");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    assert!(
        output.status.signal() == Some(2) || code == Some(130),
        "{}: {text}{errors}",
        output.status
    );
    text + &errors
}

#[test]
fn the_program_gets_its_configuration() {
    let script = "id -u; id -g; id -G; pwd; echo \"[$1] [$2]\"; /bin/busybox env | sort; exit 7";
    assert_eq!(
        console(
            &[
                "arg=script",
                "arg=a b",
                "arg=",
                "env=PATH=/nowhere:/bin",
                "env=A=1",
                "dir=/srv/new",
                "user=www",
            ],
            script,
        ),
        "33\n34\n34 4\n/srv/new\n[a b] []\nA=1\nHOME=/var/www\nPATH=/nowhere:/bin\nPWD=/srv/new\nSHLVL=1\nTERM=vt102\n\
         layerinit-run: exit status 7\n"
    );
    // Without settings: as root, in /, with the environment that every container has.
    assert_eq!(
        console(
            &["arg=/bin/script"],
            "id -u; id -G; pwd; echo $HOME $PATH $canary"
        ),
        "0\n0\n/\n/root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nlayerinit-run: exit status 0\n"
    );
}

#[test]
fn children_are_reaped_and_sigterm_becomes_the_stop_signal() {
    // The parent of the orphan exits at once. Only its new parent, PID 1, can reap it, which removes it from
    // /proc.
    let script = "orphan=$(sh -c 'sh -c : & echo $!')\n\
                  while [ -e /proc/$orphan ]; do /bin/busybox usleep 1000; done\n\
                  echo reaped\n\
                  trap 'echo stopped; exit 3' QUIT\n\
                  /bin/busybox sleep 1000 &\n\
                  kill -TERM 1\n\
                  wait";
    assert_eq!(
        console(&["arg=script", "stop=3"], script),
        "reaped\nstopped\nlayerinit-run: exit status 3\n"
    );
    assert_eq!(
        console(&["arg=script"], "kill -KILL $$"),
        "layerinit-run: exit status 137\n"
    );
}

#[test]
fn a_program_that_cannot_be_started_is_named() {
    for (records, message) in [
        (
            &["arg=nginx", "env=PATH=/bin:/sbin"][..],
            "find the program nginx: not in PATH (/bin:/sbin)",
        ),
        (
            &["arg=/bin/nginx"],
            "start /bin/nginx: ENOENT: No such file or directory",
        ),
        (
            &["arg=/etc/passwd"],
            "start /etc/passwd: EACCES: Permission denied",
        ),
        (
            &["arg=script", "user=nobody"],
            "find the user nobody: not in /etc/passwd, and not a number",
        ),
        (
            &["arg=script", "dir=/etc/passwd"],
            "enter the working directory /etc/passwd: ENOTDIR: Not a directory",
        ),
        (
            &["arg=/layerinit-run"],
            "start /layerinit-run: it is layerinit-run itself",
        ),
        (&["stop=3"], "read /layerinit-run.conf: it names no program"),
    ] {
        assert_eq!(
            console(records, "echo started"),
            format!("layerinit-run: {message}\nlayerinit-run: exit status 127\n")
        );
    }
}
