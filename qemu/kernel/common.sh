# Sourced by build and check-patches: from a Debian source package to a
# configured kernel tree.
# shellcheck shell=bash

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/layerinit/kernel
# Built again from the same inputs, or on top of another variant: the same kernel.
export ARCH=x86_64 KBUILD_BUILD_USER=layerinit KBUILD_BUILD_HOST=layerinit KBUILD_BUILD_VERSION=1

# select_release 6.12|7.x: sets where the source comes from, the configuration that every variant begins with, and
# the patches in their order; the letter that introduces them (0000) is none.
select_release() {
	case $1 in
	6.12) suite=trixie version=6.12 suffix='' base=(base.config base-6.12.config) series=("$here"/patches/*.patch) ;;
	7.x) suite=sid version=7.2 suffix=-7.x base=(base.config) series=("$here"/patches-7.x/*.patch) ;;
	esac
	[[ ${series[0]} != */0000-* ]] || series=("${series[@]:1}")
}

# The path of the newest source package: source_package SUITE VERSION
source_package() {
	"$here/debian-package" "$1" "linux-source-$2" ||
		die "the source of Linux $2 is missing; see above"
}

# Stops other kernel builds: two at once would only take turns.
lock_builds() {
	mkdir -p "$cache"
	exec {lock}>"$cache/lock"
	flock -n "$lock" || { say "waiting for another kernel build"; flock "$lock"; }
}

# Installs what a kernel build needs, or says what that is.
install_tools() {
	local missing=() tool package
	[[ $(uname -m) = x86_64 ]] || die "builds on x86_64 only; this machine is $(uname -m)"
	while read -r tool package; do
		case $tool in
		*.h) [[ -e /usr/include/$tool || -e /usr/include/x86_64-linux-gnu/$tool ]] ;;
		*) command -v "$tool" >/dev/null ;;
		esac || missing+=("$package")
	done <<-END
		gcc gcc
		ld binutils
		make make
		bc bc
		bison bison
		flex flex
		xz xz-utils
		patch patch
		perl perl
		libelf.h libelf-dev
		openssl/ssl.h libssl-dev
		stdio.h libc6-dev
	END
	[[ ${#missing[@]} -gt 0 ]] || return 0
	[[ $EUID -eq 0 ]] || die "missing; install them and try again: apt-get install ${missing[*]}"
	say "installing ${missing[*]}"
	{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >&2 ||
		die "apt-get could not install: ${missing[*]}"
}

# A new directory with the source of PACKAGE.deb; removed when the script ends.
unpack() { # PACKAGE.deb
	work=$(mktemp -d "$cache/build.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	dpkg-deb --fsys-tarfile "$1" | tar -xO --wildcards './usr/src/linux-source-*.tar.xz' |
		tar -xJ -C "$work" --strip-components=1 || die "cannot unpack $1 (disk full?)"
	cd "$work" || exit
	KBUILD_BUILD_TIMESTAMP=$(date -u -r Makefile)
	export KBUILD_BUILD_TIMESTAMP
}

apply() { # PATCH, without fuzz
	patch -p1 -s --fuzz=0 --no-backup-if-mismatch <"$1" >&2
}

# Runs COMMAND, and shows its output only if it fails.
quietly() {
	"$@" >>log 2>&1 || { tail -n 40 log >&2; die "failed: $*"; }
}

# Configures the tree; every line of the fragments has to end up in .config.
configure() { # FRAGMENT...
	local line lost=0
	(cd "$here" && cat "$@") >wanted
	quietly make tinyconfig
	quietly scripts/kconfig/merge_config.sh -m .config wanted
	quietly make olddefconfig
	while read -r line; do
		case $line in
		CONFIG_*) grep -qxF -- "$line" .config ;;
		'# CONFIG_'*' is not set') ! grep -q "^${line:2:-11}=" .config ;;
		esac || { say "not in the configuration: $line"; lost=1; }
	done <wanted
	((!lost)) || die "a dependency is missing, or this kernel does not know the name (see above)"
}
