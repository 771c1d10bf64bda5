//! `layerinit build --layer` with tar archives and container images: compares the stack that the kernel
//! mounts with the output of umoci. Needs root, umoci, skopeo and mkfs.erofs of three Debian releases.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{NEWER_MKFS, NEWEST_MKFS};
use crate::support::{said, scratch, tool};

/// Runs a shell script in a directory.
fn shell(directory: &Path, script: &str) -> Output {
    let mut command = Command::new("bash");
    command.args(["-euc", script]).current_dir(directory);
    let output = command.output().expect("bash runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {text}");
    output
}

/// The members of an archive, as arguments of `add` in the Python program of [`archive`].
type Members<'a> = &'a [&'a str];

/// Writes a tar archive.
fn archive(path: &Path, members: Members) {
    const ADD: &str = r"
import io, sys, tarfile
t = tarfile.open(sys.argv[1], 'w', format=tarfile.PAX_FORMAT)
D, S, L, C, P = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE
CAP = '\1\0\0\2\0\40\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
def add(name, type=tarfile.REGTYPE, data=b'', link='', mode=None, **more):
    i = tarfile.TarInfo(name)
    i.type, i.size, i.linkname, i.mtime = type, len(data), link, 1700000000
    i.mode = mode if mode is not None else 0o755 if type == D else 0o644
    i.pax_headers = {'SCHILY.xattr.' + k: v for k, v in more.pop('xattrs', {}).items()}
    for k, v in more.items():
        setattr(i, k, v)
    t.addfile(i, io.BytesIO(data))
";
    let calls: String = members
        .iter()
        .map(|member| format!("add({member})\n"))
        .collect();
    let mut python = Command::new("python3");
    let output = python
        .args(["-c", &format!("{ADD}{calls}t.close()")])
        .arg(path)
        .output();
    let output = output.expect("python3 runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The layers of the image that the tests compare, with every kind of change that a layer can make to lower
/// ones.
const LAYERS: [Members; 3] = [
    &[
        "'etc', D, mode=0o750, uid=3, gid=4, mtime=1600000000",
        "'etc/a', data=b'a'",
        "'etc/b', L, link='etc/a'",
        "'usr/', D",
        "'usr/lib/', D",
        "'usr/lib/x', data=b'x'",
        "'lib', S, link='usr/lib'",
        "'opq/', D",
        "'opq/old', data=b'o'",
        "'opq/sub/', D",
        "'opq/sub/f'",
        "'gone', data=b'g'",
        "'gonedir/', D",
        "'gonedir/x'",
        "'tmp/', D, mode=0o1777",
        "'var/', D",
        "'var/run', S, link='/run'",
        "'run/', D",
        "'suid', mode=0o4755, data=b's' * 5000, xattrs={'security.capability': CAP, 'user.nl': 'a\\nb'}",
        "'file-then-dir'",
        "'dir-then-file/', D",
        "'dir-then-file/x'",
        "'zeros', data=b'\\0' * 3000000 + b'end'",
    ],
    &[
        "'etc/c', L, link='etc/a'",
        "'lib/y', data=b'y'",
        "'var/run/pid', data=b'1'",
        "'opq/.wh..wh..opq'",
        "'opq/new'",
        "'.wh.gone'",
        "'.wh.gonedir'",
        "'tmp/x'",
        "'n' * 254",
        "'long/', D",
        "'long/' + 'd' * 100 + '/', D",
        "'long/' + 'd' * 100 + '/' + 'e' * 100, S, link='t' * 200",
        "'file-then-dir/', D",
        "'file-then-dir/in'",
        "'dir-then-file', data=b'f'",
        "'dir-then-file/.wh.x'",
        "'owner', uid=70000000, gid=65534",
    ],
    &[
        "'opq/.wh.new'",
        "'gonedir/', D, mode=0o700",
        "'gonedir/again'",
        "'fifo', P",
        "'dev/', D",
        "'dev/null', C, devmajor=1, devminor=3, mode=0o666",
    ],
];

/// Makes an OCI layout with these layers, `image:v1`, and unpacks it with umoci.
fn layout(directory: &Path, layers: &[Members]) {
    let mut script = "umoci init --layout image; umoci new --image image:v1\n".to_string();
    for (number, members) in layers.iter().enumerate() {
        archive(&directory.join(format!("{number}.tar")), members);
        script += &format!("umoci raw add-layer --image image:v1 {number}.tar\n");
    }
    shell(
        directory,
        &format!("{script}umoci unpack --image image:v1 bundle"),
    );
}

/// Runs the tool with its own cache and this mkfs.erofs.
fn run(directory: &Path, mkfs: Option<&Path>, words: &[&str]) -> (String, String, i32) {
    let mut command = tool(directory);
    command.env("XDG_CACHE_HOME", directory.join("cache"));
    if let Some(mkfs) = mkfs.and_then(Path::parent) {
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", mkfs.display()));
    }
    command.args(["build", "--spec", "/dev/null", "-o", "out.img"]);
    said(&command.args(words).output().unwrap())
}

fn good(directory: &Path, mkfs: Option<&Path>, words: &[&str]) -> String {
    let (stdout, stderr, status) = run(directory, mkfs, words);
    assert_eq!((stderr.as_str(), status), ("", 0), "{words:?}: {stdout}");
    stdout
}

/// Runs the tool, expects a failure that leaves no file, and returns its message.
fn bad(directory: &Path, words: &[&str]) -> String {
    let names = |path: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(path).into_iter().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names
    };
    let cache = directory.join("cache/layerinit/layers");
    let before = (names(directory), names(&cache));
    let (stdout, stderr, status) = run(directory, None, words);
    assert_eq!((stdout.as_str(), status), ("", 1), "{words:?}: {stderr}");
    let after = names(directory)
        .into_iter()
        .filter(|path| !path.ends_with("cache"));
    let expected: Vec<_> = before
        .0
        .into_iter()
        .filter(|path| !path.ends_with("cache"))
        .collect();
    assert_eq!(
        after.collect::<Vec<_>>(),
        expected,
        "{words:?}: something is left behind"
    );
    assert_eq!(names(&cache), before.1, "{words:?}");
    stderr
}

/// Lists a directory: type, mode, owner, size, time, links, attributes and content. The sizes and link counts
/// of directories, which depend on the filesystem, are omitted.
const SHOW: &str = r"
show() {
    (
        cd $1
        find . -mindepth 1 -printf '%y %m %U %G %s %T@ %n %p -> %l\n' | sed -E 's/^(d \S+ \S+ \S+) \S+ (\S+) \S+/\1 - \2/' | sort -k8
        find . -mindepth 1 -links +1 ! -type d -printf '%i %p\n' | sort -k2 | awk '{ if (!($1 in n)) n[$1] = $2; print n[$1], $2 }' | sort
        getfattr -R -h -d -m '^(user|security.capability|trusted)' .
        find . -type f -exec sha256sum {} + | sort -k2
    ) 2>&1
}
";

/// Compares the stack of the EROFS images in out.img with the bundle of umoci.
fn compare(directory: &Path) {
    let listed = tool(directory)
        .args(["list", "--json", "out.img"])
        .output()
        .unwrap();
    let script = format!(
        r#"{SHOW}
rm -rf m; mkdir -p m/root m/images; lower=
jq -r '.segments[]? | select(.kind == "erofs") | "\(.offset) \(.length)"' list.json >m/list
[ -s m/list ]
n=0
while read -r offset length; do
    dd if=out.img of=m/images/$n bs=4096 iflag=skip_bytes,count_bytes skip=$offset count=$length status=none
    mkdir m/$n
    mount -t erofs -o loop,ro m/images/$n m/$n
    lower=m/$n${{lower:+:$lower}}
    n=$((n + 1))
done <m/list
mkdir m/none
mount -t overlay -o lowerdir=$lower:m/none o m/root
show m/root >found
show bundle/rootfs >expected
diff expected found
"#
    );
    fs::write(directory.join("list.json"), listed.stdout).unwrap();
    fs::write(directory.join("compare"), script).unwrap();
    shell(
        directory,
        "unshare --mount --propagation private bash -eu compare",
    );
}

#[test]
fn the_stack_of_an_image_equals_umoci_unpack_with_every_mkfs_erofs() {
    let directory = scratch("container-compare");
    layout(&directory, &LAYERS);
    let (newer, newest) = (&*NEWER_MKFS, &*NEWEST_MKFS);
    let mut images = Vec::new();
    for mkfs in [None, Some(newer.as_path()), Some(newest.as_path())] {
        for flatten in [&[][..], &["--flatten"]] {
            let words = [&["--layer", "oci:image:v1"][..], flatten].concat();
            good(&directory, mkfs, &words);
            compare(&directory);
            let image = fs::read(directory.join("out.img")).unwrap();
            // With and without the cache.
            let cached = good(&directory, mkfs, &words);
            assert!(cached.contains("from the cache"), "{cached}");
            assert!(fs::read(directory.join("out.img")).unwrap() == image);
            let made = good(&directory, mkfs, &[&words[..], &["--no-cache"]].concat());
            assert!(!made.contains("from the cache"), "{made}");
            assert!(fs::read(directory.join("out.img")).unwrap() == image);
            images.push(image);
        }
    }
    let lines = good(&directory, None, &["--layer", "oci:image:v1"]);
    assert_eq!(lines.lines().count(), 4, "{lines}");
}

#[test]
fn every_form_of_an_image_gives_the_same_layers() {
    let directory = scratch("container-forms");
    layout(&directory, &LAYERS);
    shell(
        &directory,
        "skopeo copy -q oci:image:v1 docker-archive:docker.tar:example.org/demo:1
         skopeo copy -q oci:image:v1 oci-archive:archive.tar:v1
         skopeo copy -q --dest-compress --dest-compress-format zstd oci:image:v1 oci:zstd:v1
         gzip -k docker.tar",
    );
    good(&directory, None, &["--no-cache", "--layer", "oci:image:v1"]);
    let expected = fs::read(directory.join("out.img")).unwrap();
    for layer in [
        "oci:image",
        "oci-archive:archive.tar",
        "oci-archive:archive.tar:v1",
        "oci:zstd:v1",
        "docker-archive:docker.tar",
        "docker-archive:docker.tar:example.org/demo:1",
        "docker-archive:docker.tar.gz",
    ] {
        good(&directory, None, &["--no-cache", "--layer", layer]);
        assert!(
            fs::read(directory.join("out.img")).unwrap() == expected,
            "{layer}"
        );
    }
    for (layer, what) in [
        (
            "oci:image:v2",
            "read oci:image:v2: it has no image v2, but v1\n",
        ),
        (
            "docker-archive:docker.tar:demo",
            "read docker-archive:docker.tar:demo: it has no image demo, but example.org/demo:1\n",
        ),
        ("oci:0.tar", "open oci:0.tar: there is no such directory\n"),
        (
            "oci-archive:0.tar",
            "read oci-archive:0.tar: not an OCI layout: it has no index.json\n",
        ),
    ] {
        assert_eq!(
            bad(&directory, &["--layer", layer]),
            format!("layerinit: {what}")
        );
    }
}

#[test]
fn tar_archives_are_layers_in_every_compression() {
    let directory = scratch("container-tar");
    layout(&directory, &LAYERS);
    shell(&directory, "gzip -k 0.tar; xz -k 1.tar; zstd -q 2.tar");
    let words = [
        "--layer",
        "0.tar.gz",
        "--layer",
        "1.tar.xz",
        "--layer",
        "2.tar.zst",
    ];
    good(&directory, None, &words);
    compare(&directory);
    // A single archive keeps its whiteouts, because the lower layers are unknown.
    let list = |layer: &str| {
        good(&directory, None, &["--layer", layer]);
        let output = tool(&directory)
            .args(["list", "--files", "out.img"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let files = list("2.tar");
    assert!(
        files.contains("c---------   1     0     0       0, 0 1970-01-01 00:00:00 opq/new\n"),
        "{files}"
    );
    assert!(!files.contains(".wh."), "{files}");
}

#[test]
fn sparse_files_of_every_format_are_complete() {
    let directory = scratch("container-sparse");
    shell(
        &directory,
        "mkdir -p tree bundle
         for n in $(seq 0 60); do printf x$n | dd of=tree/many bs=1 seek=$((n * 100000)) conv=notrunc status=none; done
         truncate -s 30M tree/many; truncate -s 20M tree/hole; printf end >>tree/hole; echo plain >tree/plain
         chmod 755 tree; find tree -exec touch -h -d @1700000000 {} +
         ln -s ../tree bundle/rootfs
         for f in gnu posix; do tar -C tree --format=$f -Scf $f.tar .; done
         for v in 0.0 0.1; do tar -C tree --format=posix --sparse-version=$v -Scf $v.tar .; done",
    );
    for format in ["gnu", "posix", "0.0", "0.1"] {
        let name = format!("{format}.tar");
        assert!(fs::metadata(directory.join(&name)).unwrap().len() < 2 << 20);
        good(&directory, None, &["--layer", &name]);
        compare(&directory);
    }
}

#[test]
fn platforms_of_an_index_are_selected() {
    let directory = scratch("container-platform");
    layout(&directory, &[&["'a'"]]);
    // An index as buildx writes it: two platforms and an attestation under one tag.
    shell(
        &directory,
        r#"jq -c '.manifests[0].platform = {"architecture": "s390x", "os": "linux"}
              | .manifests += [.manifests[0] | .platform = {"architecture": "arm", "os": "linux", "variant": "v7"}]
              | del(.manifests[].annotations)' image/index.json >index
           digest=$(sha256sum index | cut -d' ' -f1); size=$(stat -c %s index)
           cp index image/blobs/sha256/$digest
           echo '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json",
             "digest":"sha256:'$digest'","size":'$size',"annotations":{"org.opencontainers.image.ref.name":"v1"}}]}' \
             >image/index.json"#,
    );
    for platform in ["linux/s390x", "s390x", "linux/arm", "linux/arm/v7"] {
        good(
            &directory,
            None,
            &["--layer", "oci:image:v1", "--platform", platform],
        );
    }
    let hint = "; choose one with --platform\n";
    for (platform, name) in [("linux/arm/v6", "linux/arm/v6"), ("mips", "linux/mips")] {
        let message = bad(
            &directory,
            &["--layer", "oci:image:v1", "--platform", platform],
        );
        let expected =
            format!("it has no image for {name}, but for linux/s390x, linux/arm/v7{hint}");
        assert!(message.ends_with(&expected), "{message}");
    }
    let message = bad(&directory, &["--layer", "oci:image:v1"]);
    assert!(
        message.ends_with(&format!(", but for linux/s390x, linux/arm/v7{hint}")),
        "{message}"
    );
}

#[test]
fn hostile_archives_are_refused_and_no_file_is_left() {
    let directory = scratch("container-hostile");
    let layer: &[&str] = &["--layer", "0.tar"];
    for (members, what) in [
        (&["'../evil'"][..], "../evil: a name with .. in it\n"),
        (&["'a/../../evil'"], "a/../../evil: a name with .. in it\n"),
        (
            &["'/etc/evil'"],
            "/etc/evil: an absolute name; --absolute-names takes it relative to the new root\n",
        ),
        (
            &["'a', S, link='/tmp'", "'a/evil'"],
            "a/evil: a of the same archive is a link to /tmp\n",
        ),
        (
            &["'a', S, link='../..'", "'a/evil'"],
            "a/evil: a link on its path leads out of the root directory\n",
        ),
        (
            &["'a', L, link='../../etc/shadow'"],
            "a: a link to ../../etc/shadow, with .. in it\n",
        ),
        (
            &["'a', L, link='etc/shadow'"],
            "a: a hard link to etc/shadow, which does not exist\n",
        ),
        (
            &["'a', S, link='a'", "'a/b'"],
            "a/b: more symbolic links on its path than the kernel follows\n",
        ),
        (&["'a'", "'a/b'"], "a/b: a is not a directory\n"),
        (
            &["'a', D", "'b', L, link='a'"],
            "b: a hard link to a directory\n",
        ),
        (&["'.wh.'"], ".wh.: a whiteout without a name\n"),
        (&["'.wh...'"], ".wh...: a whiteout without a name\n"),
    ] {
        archive(&directory.join("0.tar"), members);
        assert_eq!(
            bad(&directory, layer),
            format!("layerinit: read 0.tar: {what}")
        );
    }
    archive(&directory.join("0.tar"), &["'/etc/good'"]);
    good(&directory, None, &["--layer", "0.tar", "--absolute-names"]);
    fs::remove_file(directory.join("out.img")).unwrap();

    // Truncated in the middle of a file, uncompressed and compressed.
    archive(&directory.join("whole.tar"), &["'a', data=b'x' * 100000"]);
    shell(
        &directory,
        "head -c 50000 whole.tar >0.tar; gzip -k whole.tar; head -c 200 whole.tar.gz >cut.tar.gz",
    );
    assert_eq!(
        bad(&directory, layer),
        "layerinit: read 0.tar: a: the archive is truncated in this file\n"
    );
    let message = bad(&directory, &["--layer", "cut.tar.gz"]);
    assert!(message.contains("truncated"), "{message}");

    // 10 GB of zeros, compressed or as a sparse file.
    shell(
        &directory,
        "python3 - <<'E' >header
import sys, tarfile
i = tarfile.TarInfo('zeros'); i.size = 10 << 30
sys.stdout.buffer.write(i.tobuf(tarfile.GNU_FORMAT))
E
        head -c 100M /dev/zero | gzip -1 >zeros.gz
        gzip header; (cat header.gz; for n in $(seq 103); do cat zeros.gz; done) >bomb.tar.gz
        truncate -s 10G sparse; tar -Scf sparse.tar sparse; rm sparse",
    );
    let message = bad(&directory, &["--layer", "bomb.tar.gz"]);
    assert!(message.contains("it unpacks to more than "), "{message}");
    let message = bad(&directory, &["--layer", "sparse.tar"]);
    assert!(
        message.contains("its files take more than 8 GiB, too much for an initrd"),
        "{message}"
    );

    shell(
        &directory,
        "python3 - <<'E' >many.tar
import sys, tarfile
out = sys.stdout.buffer
one = tarfile.TarInfo('').tobuf(tarfile.USTAR_FORMAT)
rest, total = one[156:], int(one[148:154], 8)
for n in range(500100):
    name = b'%d' % n
    out.write(name + one[len(name):148] + b'%06o\\0 ' % (total + sum(name)) + rest)
out.write(bytes(1024))
E",
    );
    assert_eq!(
        bad(&directory, &["--layer", "many.tar"]),
        "layerinit: read many.tar: it has more than 500000 files, too many for an initrd\n"
    );
}

#[test]
fn a_damaged_image_is_refused_and_no_file_is_left() {
    let directory = scratch("container-damaged");
    layout(&directory, &[&["'a', data=b'a' * 10000"]]);
    let damage = |script: &str| {
        let copy = "rm -rf bad; cp -r image bad; cd bad/blobs/sha256; layer=$(ls -S | head -1)";
        shell(&directory, &format!("{copy}\n{script}"));
        bad(&directory, &["--layer", "oci:bad:v1"])
    };
    // Both the configuration and the layer are verified; the largest blob is one of them.
    let message = damage("printf X | dd of=$layer bs=1 seek=30 conv=notrunc status=none");
    assert!(
        message.contains(": the digest does not match: its bytes have sha256:"),
        "{message}"
    );
    let message = damage("truncate -s -1 $layer");
    assert!(message.contains("bytes, the manifest says"), "{message}");
    let message = damage("rm $layer");
    assert!(
        message.contains("the image has no file blobs/sha256/"),
        "{message}"
    );
    let message = damage("rm ../../index.json");
    assert!(
        message.ends_with("not an OCI layout: it has no index.json\n"),
        "{message}"
    );
    let message = damage("echo '{' >../../index.json");
    assert!(message.contains("its JSON is invalid"), "{message}");
}

#[test]
fn the_name_of_an_image_in_a_registry_gives_the_skopeo_command() {
    let directory = scratch("container-registry");
    assert_eq!(
        bad(&directory, &["--layer", "docker://debian:12"]),
        "layerinit: read docker://debian:12: not a file, and this tool does not fetch images; fetch it with: skopeo \
         copy docker://debian:12 oci:debian:12; and use --layer oci:debian:12\n"
    );
}

#[test]
fn the_cache_has_a_limit_and_replaces_damaged_images() {
    let directory = scratch("container-cache");
    let cache = directory.join("cache/layerinit/layers");
    let cached = || {
        fs::read_dir(&cache)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect::<Vec<_>>()
    };
    for number in 0..4 {
        let name = format!("{number}.tar");
        let data = format!("'a', data=__import__('random').Random({number}).randbytes(700000)");
        archive(&directory.join(&name), &[&data]);
        good(&directory, None, &["--layer", &name, "--cache-size", "2"]);
    }
    // Each image has 700 KB, so the oldest two are removed.
    assert_eq!(cached().len(), 2);
    let words = ["--layer", "3.tar"];
    assert!(good(&directory, None, &words).contains("3.tar: from the cache\n"));
    for path in cached() {
        fs::write(path, "damaged").unwrap();
    }
    assert!(good(&directory, None, &words).contains("3.tar: 2 files, "));
    assert!(good(&directory, None, &words).contains("3.tar: from the cache\n"));
}

/// Makes an OCI layout `image:v1` of one layer, with these words for `umoci config`.
fn program_image(directory: &Path, members: Members, config: &str) {
    layout(directory, &[members]);
    shell(
        directory,
        &format!("umoci config --image image:v1 {config}"),
    );
}

/// The members of the uppermost layer of out.img, and its layerinit-run.conf. `None` if it is an EROFS image.
fn top_layer(directory: &Path) -> Option<(String, String)> {
    let listed = tool(directory)
        .args(["list", "--json", "out.img"])
        .output()
        .unwrap();
    fs::write(directory.join("list.json"), listed.stdout).unwrap();
    let script = r#"
rm -rf top; mkdir top
eval "$(jq -r '[.segments[]? | select(.kind != "padding")] | last | "kind=\(.kind) offset=\(.offset)"' list.json)"
[ $kind = cpio ] || exit 0
tail -c +$((offset + 1)) out.img >top/archive
cd top; cpio --quiet -idmu <archive; rm archive
find . -mindepth 1 -printf '%y %m %U %G %p -> %l\n' | sort -k5
"#;
    let members = String::from_utf8(shell(directory, script).stdout).unwrap();
    let config = fs::read_to_string(directory.join("top/layerinit-run.conf"));
    config.ok().map(|config| (members, config))
}

#[test]
fn an_image_without_an_init_gets_one_from_its_configuration() {
    let directory = scratch("container-run");
    program_image(
        &directory,
        &["'usr/', D", "'usr/sbin/', D", "'sbin', S, link='usr/sbin'"],
        "--config.entrypoint /serve --config.cmd 'a b' --config.env A=1 --config.env PATH=/bin \
         --config.user www:80 --config.workingdir /srv --config.stopsignal SIGQUIT",
    );
    let lines = good(&directory, None, &["--layer", "oci:image:v1"]);
    let note = "layerinit-run, the init of the image, starts: /serve a b\n";
    assert!(lines.contains(note), "{lines}");
    let (members, config) = top_layer(&directory).unwrap();
    assert_eq!(
        config,
        "layerinit-run 1\0arg=/serve\0arg=a b\0env=A=1\0env=PATH=/bin\0dir=/srv\0user=www:80\0stop=3\0"
    );
    // cpio(1) has made the directory. The archive has no member for it, so that `sbin` of the image stays a
    // link.
    assert_eq!(
        members,
        "f 755 0 0 ./layerinit-run -> \nf 600 0 0 ./layerinit-run.conf -> \nd 755 0 0 ./sbin -> \n\
         l 777 0 0 ./sbin/init -> /layerinit-run\n"
    );
    assert_eq!(
        fs::read(directory.join("top/layerinit-run")).unwrap(),
        fs::read(env!("CARGO_BIN_EXE_layerinit-run")).unwrap()
    );
    // `plan` and `check` find an init.
    let words = ["--init", "init", "--layer", "oci:image:v1"];
    let mut build = tool(&directory);
    fs::copy(env!("CARGO_BIN_EXE_init"), directory.join("init")).unwrap();
    build.env("XDG_CACHE_HOME", directory.join("cache"));
    build.args(["build", "-o", "whole.img"]).args(words);
    assert_eq!(said(&build.output().unwrap()).2, 0);
    let checked = said(
        &tool(&directory)
            .args(["check", "whole.img"])
            .output()
            .unwrap(),
    );
    assert_eq!(checked.2, 0, "{checked:?}");
    assert!(!checked.0.contains("no init"), "{checked:?}");

    // Options override the configuration, and --entrypoint disables Cmd.
    let words = [
        "--layer",
        "oci:image:v1",
        "--entrypoint",
        "/other 'x y'",
        "--env",
        "A=2",
        "--env",
        "B=3",
        "--user",
        "7",
    ];
    good(&directory, None, &words);
    let (_, config) = top_layer(&directory).unwrap();
    assert_eq!(
        config,
        "layerinit-run 1\0arg=/other\0arg=x y\0env=PATH=/bin\0env=A=2\0env=B=3\0dir=/srv\0user=7\0stop=3\0"
    );
    // The build is reproducible, also from the cache.
    let image = fs::read(directory.join("out.img")).unwrap();
    good(&directory, None, &[&["--no-cache"], &words[..]].concat());
    assert!(fs::read(directory.join("out.img")).unwrap() == image);
}

#[test]
fn the_init_of_an_image_is_used_unless_it_is_busybox() {
    const INIT: Members = &["'sbin/', D", "'sbin/init', data=b'#!/bin/sh', mode=0o755"];
    const BUSYBOX: Members = &[
        "'bin/', D",
        "'bin/[', data=b'\\x7fELF BusyBox v1.37', mode=0o755",
        "'sbin/', D",
        "'sbin/init', L, link='bin/['",
    ];
    const NO_PROGRAM: Members = &["'sbin/', D", "'sbin/init', data=b'#!/bin/sh'"];
    const NONE: Members = &["'etc/', D"];
    for (number, (members, config, runs)) in [
        (INIT, "--config.entrypoint /serve", false),
        (BUSYBOX, "--config.entrypoint /serve", true),
        (BUSYBOX, "--config.cmd /serve", true),
        (BUSYBOX, "--config.cmd /bin/sh", false),
        (BUSYBOX, "--config.entrypoint /bin/sh", true),
        (BUSYBOX, "--config.cmd /sbin/init", false),
        (NO_PROGRAM, "--config.cmd /serve", true),
        (NONE, "--config.cmd bash", true),
        (NONE, "--config.env A=1", false),
    ]
    .into_iter()
    .enumerate()
    {
        let directory = scratch(&format!("container-init-{number}"));
        program_image(&directory, members, config);
        good(&directory, None, &["--layer", "oci:image:v1"]);
        assert_eq!(
            top_layer(&directory).is_some(),
            runs,
            "{members:?} {config}"
        );
    }
    // A higher layer may have the init.
    let directory = scratch("container-init-above");
    program_image(&directory, NONE, "--config.cmd /serve");
    archive(&directory.join("init.tar"), INIT);
    let words = ["--layer", "oci:image:v1", "--layer", "init.tar"];
    good(&directory, None, &words);
    assert_eq!(top_layer(&directory), None);
    let message = bad(&directory, &[&words[..], &["--user", "7"]].concat());
    assert_eq!(
        message,
        "layerinit: use --env and --user: the image has an init, which starts; --entrypoint starts a program in its \
         place\n"
    );
    good(
        &directory,
        None,
        &[&words[..], &["--entrypoint", "/serve"]].concat(),
    );
    assert!(top_layer(&directory).is_some());
    let message = bad(
        &directory,
        &[&words[..], &["--entrypoint", "/sbin/init"]].concat(),
    );
    assert_eq!(
        message,
        "layerinit: use --entrypoint: it is the init that starts without this option\n"
    );
}

#[test]
fn a_hostile_configuration_of_a_program_gives_a_message() {
    let directory = scratch("container-run-hostile");
    for (config, what) in [
        (
            "--config.cmd a --config.stopsignal SIGX",
            "StopSignal: \"SIGX\": no signal",
        ),
        ("--config.cmd ''", "the name of the program is empty"),
    ] {
        fs::remove_dir_all(&directory).unwrap();
        fs::create_dir(&directory).unwrap();
        program_image(&directory, &["'etc/', D"], config);
        assert_eq!(
            bad(&directory, &["--no-cache", "--layer", "oci:image:v1"]),
            format!("layerinit: read the configuration of the image: {what}\n")
        );
    }
}
