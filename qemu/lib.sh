# Shared by the scripts of this directory. Sourced, never run.
# shellcheck shell=bash
set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C

repo=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/layerinit
mkdir -p "$cache"

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# as_root COMMAND...: runs it as root, through sudo if need be.
as_root() {
	if [[ $EUID == 0 ]]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "root is needed for: $* (and there is no sudo)"
	fi
}

# need COMMAND=PACKAGE...: installs the Debian package of each command that is
# missing. On another distribution it says what to install, and stops.
need() {
	local item missing=()
	PATH=$PATH:/usr/sbin:/sbin
	for item; do
		command -v "${item%=*}" >/dev/null || missing+=("${item#*=}")
	done
	[[ ${#missing[@]} -gt 0 ]] || return 0
	if ! command -v apt-get dpkg-deb >/dev/null; then
		die "please install what Debian calls: ${missing[*]}"
	fi
	say "installing ${missing[*]} (once, through apt)"
	install_packages "${missing[@]}" >"$cache/apt.log" 2>&1 ||
		{ tail -n 20 "$cache/apt.log" >&2; die "apt could not install ${missing[*]}"; }
}

# The machine's own package lists may be missing or older than its mirror.
install_packages() {
	local install=(apt-get install -y --no-install-recommends)
	export DEBIAN_FRONTEND=noninteractive
	as_root "${install[@]}" "$@" || { as_root apt-get update && as_root "${install[@]}" "$@"; }
}

# busybox_static: prints the path of a static busybox. It is taken out of its
# package, so that a dynamic one on this machine need not go.
busybox_static() {
	local deb dir
	deb=$("$repo/qemu/kernel/debian-package" trixie busybox-static | tail -n 1)
	dir=$cache/busybox/$(basename "$deb" .deb)
	[[ -e $dir ]] || unpack "$dir" "$deb"
	find "$dir" -type f -path '*/bin/busybox'
}

# unpack DIR DEB...: all or nothing.
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

# only FILE...: the one path that a pattern was to match.
only() {
	[[ $# == 1 && -e $1 ]] || die "expected one file, found: $*"
	printf '%s\n' "$1"
}

# built_programs: builds /init and the tool, and prints the directory they are in.
built_programs() {
	local messages
	command -v cargo >/dev/null || die "a Rust toolchain is needed (cargo is not in PATH)"
	messages=$(cd "$repo" && cargo build --release --quiet --message-format json-render-diagnostics)
	grep -o '"executable":"[^"]*/init"' <<<"$messages" | sed 's/.*:"//; s,/init"$,,'
}
