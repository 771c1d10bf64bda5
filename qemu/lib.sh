# Functions of the scripts in this directory, which source it.
# shellcheck shell=bash
set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C

repo=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/layerinit
mkdir -p "$cache"

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# as_root COMMAND...: runs the command as root, with sudo if necessary.
as_root() {
	if [[ $EUID == 0 ]]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "root is needed for: $* (and there is no sudo)"
	fi
}

# need COMMAND=PACKAGE...: installs the Debian package of each missing command. On other distributions, fails with the
# names of the packages.
need() {
	local item missing=()
	PATH=$PATH:/usr/sbin:/sbin
	for item; do
		command -v "${item%=*}" >/dev/null || missing+=("${item#*=}")
	done
	[[ ${#missing[@]} -gt 0 ]] || return 0
	if ! command -v apt-get dpkg-deb >/dev/null; then
		die "please install the counterparts of these Debian packages: ${missing[*]}"
	fi
	say "installing ${missing[*]} (once, through apt)"
	install_packages "${missing[@]}" >"$cache/apt.log" 2>&1 ||
		{ tail -n 20 "$cache/apt.log" >&2; die "apt cannot install ${missing[*]}"; }
}

# need_files FILE=PACKAGE...: the same for files that are not commands.
need_files() {
	local item missing=()
	for item; do
		[[ -e ${item%=*} ]] || missing+=("missing-${item#*=}=${item#*=}")
	done
	[[ ${#missing[@]} == 0 ]] || need "${missing[@]}"
}

# The package lists of this machine may be missing or outdated.
install_packages() {
	local install=(apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends)
	export DEBIAN_FRONTEND=noninteractive
	as_root "${install[@]}" "$@" || { as_root apt-get update && as_root "${install[@]}" "$@"; }
}

# busybox_static: prints the path of a static busybox, unpacked. Installing it would replace a dynamic one.
busybox_static() { busybox_of trixie; }

# busybox_of SUITE[:ARCHITECTURE]: the same for another architecture.
busybox_of() {
	local deb dir
	deb=$("$repo/qemu/kernel/debian-package" "$1" busybox-static | tail -n 1)
	dir=$cache/busybox/$(basename "$deb" .deb)
	[[ -e $dir ]] || unpack "$dir" "$deb"
	find "$dir" -type f -path '*/bin/busybox'
}

# newer_mkfs_erofs: prints the path of mkfs.erofs from Debian 13, for images that an older one cannot make (lzma, zstd
# and more). It runs with the unpacked libraries and dynamic linker of its suite.
newer_mkfs_erofs() { erofs_utils trixie; }

# newest_mkfs_erofs: the same from Debian unstable, for metadata compression, 48-bit addresses and more.
newest_mkfs_erofs() { erofs_utils sid; }

# erofs_utils SUITE: prints the path of the suite's mkfs.erofs; fsck.erofs is beside it.
erofs_utils() {
	local deb debs dir program libraries=lib/x86_64-linux-gnu
	deb=$("$repo/qemu/kernel/debian-package" "$1" erofs-utils) ||
		die "there is no erofs-utils of Debian $1, whose mkfs.erofs is needed for lzma and more; see above"
	dir=$cache/erofs-utils/$(basename "$deb" .deb)
	if [[ ! -e $dir ]]; then
		debs=$(with_libraries "$1" "$deb") || die "the libraries of Debian $1's erofs-utils are missing; see above"
		# shellcheck disable=SC2086 # one word a line
		unpack "$dir" $debs
	fi
	for program in mkfs.erofs fsck.erofs; do
		[[ ! -e $dir/$program ]] || continue
		cat >"$dir/$program.$$" <<-END
			#!/bin/sh
			exec '$dir/usr/$libraries/ld-linux-x86-64.so.2' --library-path '$dir/usr/$libraries' \
				'$dir/usr/bin/$program' "\$@"
		END
		chmod 755 "$dir/$program.$$"
		mv "$dir/$program.$$" "$dir/$program"
	done
	[[ $("$dir/mkfs.erofs" --help 2>&1) == *lzma* ]] || die "$dir/mkfs.erofs does not run, or has no lzma"
	echo "$dir/mkfs.erofs"
}

# with_libraries SUITE DEB: prints the path of a package, and those of all libraries on which it depends, directly or
# indirectly.
with_libraries() {
	local todo=("$2") deb name
	local -A known=()
	while [[ ${#todo[@]} -gt 0 ]]; do
		deb=${todo[0]}
		todo=("${todo[@]:1}")
		echo "$deb"
		for name in $(dpkg-deb -f "$deb" Depends Pre-Depends | sed 's/^[A-Z][A-Za-z-]*: //' |
			tr ',' '\n' | sed -n 's/^ *\(\(lib\|zlib\)[^ |:]*\).*/\1/p'); do
			[[ ! ${known[$name]-} ]] || continue
			known[$name]=1
			deb=$("$repo/qemu/kernel/debian-package" "$1" "$name") || return
			todo+=("$deb")
		done
	done
}

# build_treesum FILE [CC]: compiles the program that computes the checksum of a tree, for the host and for guests.
build_treesum() {
	"${2-cc}" -O2 -Wall -static -o "$1" "$repo/qemu/kernel/test/memback.c" ||
		die "qemu/kernel/test/memback.c cannot be built (is there a static libc? libc6-dev)"
}

# unpack DIR DEB...: unpacks packages into a new directory. If that fails, there is no directory.
unpack() {
	local dir=$1 tmp deb
	mkdir -p "${dir%/*}"
	tmp=$(mktemp -d "$dir.XXXXXX")
	for deb in "${@:2}"; do
		dpkg-deb -x "$deb" "$tmp" || { rm -r "$tmp"; die "$deb cannot be unpacked"; }
	done
	chmod 755 "$tmp"
	mv -T "$tmp" "$dir"
}

# debian_system: prints the path of an EROFS image of a Debian with systemd. mmdebstrap makes it once.
debian_system() {
	local packages=systemd-sysv,udev,dbus,login sources=$cache/apt/trixie/sources file dir
	file=$cache/debian-trixie-$(sha256sum <<<"$packages" | cut -c 1-8).erofs
	if [[ ! -e $file ]]; then
		need mmdebstrap=mmdebstrap mkfs.erofs=erofs-utils
		dir=$(mktemp -d "$cache/debian.XXXXXX")
		"$repo/qemu/kernel/debian-package" trixie base-files >/dev/null # writes $sources
		# shellcheck disable=SC2016 # mmdebstrap's shell is to expand it
		as_root mmdebstrap --quiet --mode=root --variant=minbase --include="$packages" \
			--customize-hook='chroot "$1" passwd --quiet --delete root' \
			--customize-hook='rm -f "$1"/etc/hostname "$1"/etc/resolv.conf' \
			trixie "$dir/root" "$sources"/*.sources >&2
		as_root mkfs.erofs --quiet -zlz4hc "$dir/erofs" "$dir/root" >&2
		mv "$dir/erofs" "$file"
		as_root rm -rf "$dir"
	fi
	echo "$file"
}

# only FILE...: prints the only path that a pattern matches.
only() {
	[[ $# == 1 && -e $1 ]] || die "expected one file, found: $*"
	printf '%s\n' "$1"
}

# example PAGE HEADING [NUMBER]: prints a block of docs/PAGE.md: the first, or the NUMBERth, below the heading.
example() {
	local text
	text=$(awk -v heading="$2" -v number="${3:-1}" '
		/^```/ { inside = !inside; if (inside && here) count++; next }
		inside { if (here && count == number) print; next }
		/^##/ { title = $0; sub(/^#+ /, "", title); here = title == heading; count = 0 }
	' "$repo/docs/$1.md")
	[[ $text ]] || die "docs/$1.md has no block ${3:-1} below the heading $2"
	printf '%s\n' "$text"
}

# use_kernel NAME: sets $kernel, and $kernel_dir and $version if it has modules. Fails if there is no such kernel.
# shellcheck disable=SC2034 # for the caller
use_kernel() {
	kernel_dir='' version=''
	case $1 in
	[0-9]*)
		kernel_dir=$("$repo/qemu/fetch-kernel" "$1") && kernel=$(only "$kernel_dir"/boot/vmlinuz-*) &&
			version=${kernel##*/vmlinuz-}
		;;
	*) kernel=$("$repo/qemu/kernel/build" "--$1" | tail -n 1) ;;
	esac
}

# built_programs: builds /init and the tool, and prints their directory.
built_programs() {
	local messages
	command -v cargo >/dev/null || die "a Rust toolchain is needed (cargo is not in PATH)"
	messages=$(cd "$repo" && cargo build --release --quiet --message-format json-render-diagnostics)
	grep -o '"executable":"[^"]*/init"' <<<"$messages" | sed 's/.*:"//; s,/init"$,,'
}

# built_init FEATURE,...: builds an /init with these cargo features only, and prints its path.
built_init() {
	local messages
	messages=$(cd "$repo" && cargo build --release --quiet --no-default-features --features "$1" --bin init \
		--target-dir "target/features/$1" --message-format json-render-diagnostics)
	grep -o '"executable":"[^"]*/init"' <<<"$messages" | sed 's/.*:"//; s,"$,,'
}
