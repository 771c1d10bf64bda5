# The layers and initrds that the rows boot. Sourced by run-rows and bench.
# shellcheck shell=bash
#
# The sourcing script sets $work, the directory of this run with the subdirectories layers, trees and images; $busybox,
# $layerinit and $init; $applets, the names of busybox's applets; and $guest_cc, the compiler for guests of another
# architecture. Everything is made once, below $work.
#
# image_NAME FILE writes an initrd for the kernel of $kernel_dir and $version (empty if it has no
# modules); disk_NAME FILE writes a disk.

# ---- layers -------------------------------------------------------------------------

# layer NAME [MKFS-OPTION...]: prints the path of the layer's EROFS image.
layer() {
	local file=$work/layers/$1.erofs
	[[ -e $file ]] || mkfs.erofs --quiet --all-root -T 0 -U "$(uuid "$1")" "${@:2}" "$file" "$(tree "$1")"
	echo "$file"
}

# archive NAME: prints the path of a cpio archive of the layer's tree.
archive() {
	local file=$work/layers/$1.cpio
	[[ -e $file ]] || pack "$(tree "$1")" >"$file"
	echo "$file"
}

pack() { (cd "${1:?there is no tree to pack}" && find . | sort | cpio --quiet --reproducible -R 0:0 -o -H newc); }
uuid() { sha256sum <<<"$1" | sed -E 's/^(.{8})(.{4})(.{4})(.{4})(.{12}).*/\1-\2-\3-\4-\5/'; }

# tree NAME: prints the path of the layer's tree, which the function tree_NAME makes.
tree() {
	local dir=$work/trees/$1
	if [[ ! -e $dir ]]; then
		mkdir -p "$dir"
		(cd "$dir" && "tree_${1%%-*}" "${1#*-}")
		chmod -R u=rwX,go=rX "$dir"
	fi
	echo "$dir"
}

# digests NAME FILE...: writes the checksums of the files, for the guest to compare.
digests() {
	mkdir -p manifest
	sha256sum "${@:2}" | sed 's,  ,  /,' >"manifest/$1"
}

# our_check NAME MESSAGE COMMAND: adds a check to the layer, which qemu/guest/check runs.
our_check() {
	mkdir -p checks
	printf 'check "%s" %s\n' "$2" "$3" >>"checks/$1"
}

# A small system: busybox, the checks, text and incompressible data.
tree_base() {
	local applet
	mkdir -p bin sbin etc usr/share/base dev proc sys run tmp
	cp "$busybox" bin/busybox
	for applet in ${applets:-$("$busybox" --list)}; do
		[[ $applet == busybox ]] || ln -s busybox "bin/$applet"
	done
	cp "$repo/qemu/guest/check" sbin/init
	seq 200000 >usr/share/base/text
	seq 400000 | gzip -9n >usr/share/base/data
	: >usr/share/base/empty
	echo base >etc/winner
	echo 'from base' >etc/removed
	digests base bin/busybox sbin/init usr/share/base/*
}

# Above base: adds, replaces and removes files.
tree_app() {
	mkdir -p opt/app etc
	seq 300000 >opt/app/text
	echo app >etc/winner
	mknod etc/removed c 0 0
	digests app opt/app/*
	our_check app 'the whiteout does not work' 'test ! -e /etc/removed'
}

# The uppermost layer, a cpio archive.
tree_etc() {
	mkdir -p etc
	echo etc >etc/winner
	echo guest >etc/hostname
	digests etc etc/hostname
}

# base without mount points: /init creates them.
tree_lean() {
	tree_base
	rmdir dev proc sys run tmp
}

# many-N: number N of very many small layers.
tree_many() {
	mkdir -p many etc
	echo "$1" >"many/$1"
	echo "many-$1" >etc/winner
	digests "many-$1" "many/$1"
}

# pages-N: small files, whose data follows their inodes up to the end of the image.
tree_pages() {
	local file
	mkdir -p "pages-$1" etc
	for file in {1..60}; do
		echo "file $file" >"pages-$1/$file"
	done
	echo "pages-$1" >etc/winner
	digests "pages-$1" "pages-$1"/*
}

tree_empty() { mkdir -p etc dev proc sys run; echo empty >etc/winner; }

# For an archive without directories: these are in lower layers, one of them behind a symlink.
tree_parents() { mkdir -p opt/deep etc; echo parents >etc/winner; ln -s ../../usr/share opt/deep/link; chmod g+s opt/deep; }
tree_orphans() {
	mkdir -p etc opt/deep/link/base
	echo orphans >etc/winner
	echo orphan >opt/deep/file
	echo orphan >opt/deep/link/base/orphan
	mkdir checks
	cat >checks/orphans <<-'END'
	check 'a parent directory was not taken from below' same "$(stat -c %a /opt/deep)" 2755
	check 'a link on the way was not followed' same "$(cat /usr/share/base/orphan)" orphan
	check 'the link is gone' test -L /opt/deep/link
	check 'a directory was hidden' test -e /usr/share/base/text
	END
}
# orphans TREE: prints an archive of the tree without its directories, except /checks.
orphans() { (cd "$1" && { echo checks; find . -type f | sort; } | cpio --quiet --reproducible -R 0:0 -o -H newc); }

# A directory, and a higher layer that makes it opaque.
tree_pile() { mkdir -p pile/sub etc; echo old >pile/old; echo old >pile/sub/old; echo pile >etc/winner; }
tree_opaque() {
	mkdir -p pile etc
	setfattr -n trusted.overlay.opaque -v y pile
	echo new >pile/new
	echo opaque >etc/winner
	our_check opaque 'the opaque directory shows more than its own' same '"$(ls /pile)" new'
}

# Archives as systemd-stub makes them, one for each kind of file.
tree_extra() {
	mkdir -p ".extra/$1"
	echo "$1" >".extra/$1/file"
	our_check "extra-$1" "no $1 of the boot loader" "same \"\$(cat '/.extra/$1/file')\" '$1'"
}

# A unit for a Debian with systemd that looks for what systemd-stub passes on.
tree_stub() {
	local units=etc/systemd/system
	mkdir -p "$units/multi-user.target.wants" usr/bin
	cp "$repo/qemu/guest/stub/stub-check" usr/bin
	cp "$repo/qemu/guest/stub/stub-check.service" "$units"
	ln -s ../stub-check.service "$units/multi-user.target.wants"
}

# extension-KIND: an extension image for any system (systemd-sysext(8)), with the file KIND-check.
tree_extension() {
	local files=usr/share release=usr/lib/extension-release.d
	[[ $1 != confext ]] || files=etc release=etc/extension-release.d
	mkdir -p "$files" "$release"
	echo ID=_any >"$release/extension-release.more"
	echo "$1" >"$files/$1-check"
}

# A system with its kernel, as bootc images have it.
tree_bootc() {
	tree_base
	mkdir -p usr/lib/modules
	cp -a "$kernel_dir/lib/modules/$version" usr/lib/modules/
	cp -L "$kernel_dir/boot/vmlinuz-$version" "usr/lib/modules/$version/vmlinuz"
}

# init-NAME: a layer above base whose init is broken or unusual.
tree_init() {
	mkdir -p sbin etc usr/lib/system
	echo "init-$1" >etc/winner
	case $1 in
	dangling) ln -s /usr/lib/nowhere sbin/odd-init ;;
	absolute) ln -s /usr/lib/system/init sbin/odd-init; cp "$repo/qemu/guest/check" usr/lib/system/init ;;
	script) printf '#!/bin/nothing\n' >sbin/odd-init; chmod +x sbin/odd-init ;;
	elf) cp "$(command -v sha256sum)" sbin/odd-init ;; # a dynamic program without its libraries
	esac
}

# ---- initrds ------------------------------------------------------------------------

# build FILE ARGUMENT...: writes an image with the loader for this kernel and these arguments of layerinit build.
build() {
	local modules=()
	[[ ! $kernel_dir ]] || modules=(--modules "$kernel_dir" --kernel "$version")
	"$layerinit" build -o "$1" "${modules[@]}" "${@:2}"
}

# loader: prints the path of the loader without layers.
loader() {
	local file=$work/loader-${version:-built}
	[[ -e $file ]] || build "$file" >&2
	echo "$file"
}

# busybox and its shell, for an archive in front of the loader.
tree_shell() { mkdir -p bin; cp "$busybox" bin/busybox; ln -s busybox bin/sh; }

# files LAYER...: prints an archive with these layers as /layers/*, to put in front of a loader.
files() {
	local name number=10 dir
	dir=$(mktemp -d "$work/trees/files.XXXXXX")
	mkdir "$dir/layers"
	for name; do
		cp "$(layer "$name")" "$dir/layers/$number-$name.erofs"
		number=$((number + 10))
	done
	pack "$dir"
}

# An initrd of 500 MiB: one layer has a large file, whose end the guest reads, and another layer follows it.
tree_noise() {
	local sum
	mkdir -p usr/share/noise etc
	head -c 480M /dev/urandom >usr/share/noise/data
	echo noise >etc/winner
	sum=$(tail -c 1M usr/share/noise/data | sha256sum)
	our_check noise 'the end of the large file differs' "same \"\$(tail -c 1048576 /usr/share/noise/data | sha256sum)\" '$sum'"
}
image_large_initrd() { cat "$(loader)" "$(layer base)" "$(layer noise)" "$(layer app -zlz4hc)" >"$1"; }

# Megabytes of zeros between the layers, which /init skips with SEEK_DATA.
image_gap() { cat "$(loader)" <(head -c 3M /dev/zero) "$(layer base)" <(head -c 2M /dev/zero) "$(layer app -zlz4hc)" >"$1"; }

# A container image like those of Alpine: the init of busybox, and another program as Entrypoint.
tree_container() {
	tree_base
	rm sbin/init
	ln -s ../bin/busybox sbin/init
	mkdir -p etc
	echo 'www:x:33:34::/srv:' >etc/passwd
	cat >bin/serve <<-'END'
	#!/bin/sh
	read -r _ _ up <<-IP
	$(ifconfig lo | grep UP)
	IP
	echo "CONTAINER $1 user=$(id -u):$(id -g) dir=$(pwd) A=$A HOME=$HOME pid1=$(cat /proc/1/comm) lo=${up%% *}"
	(sleep 0.1 &)
	echo console >/dev/stdout
	# More than fits into the terminal's buffer, whose content must not be lost when the program ends.
	seq 1000
	echo LAST-WORDS
	exit 7
	END
	chmod 755 bin/serve
}
image_container() {
	local dir=$work/trees/oci
	mkdir -p "$dir"
	tar -C "$(tree container)" --owner=0 --group=0 -cf "$dir/layer.tar" .
	(
		cd "$dir"
		umoci init --layout image
		umoci new --image image:v1
		umoci raw add-layer --image image:v1 layer.tar
		umoci config --image image:v1 --config.entrypoint serve --config.cmd 'a b' --config.env A=1 \
			--config.user www --config.workingdir /data --config.stopsignal SIGQUIT
	)
	build "$1" --layer "oci:$dir/image:v1"
}

image_bootc() { build "$1" --layer "$(tree bootc)" --layer "$(tree app)"; }
image_inside() { build "$1" --layer "$(tree base)" --layer "$(tree app)" --layers-inside; }

# As iPXE makes it: members for the files, but none for their directory.
image_newc() {
	local out=$1 dir=$work/trees/newc
	mkdir -p "$dir/layers"
	cp "$(layer base)" "$dir/layers/10-base.erofs"
	cp "$(layer app -zlz4hc)" "$dir/layers/20-app.erofs"
	cp "$(loader)" "$out"
	(cd "$dir" && printf '%s\n' layers/10-base.erofs layers/20-app.erofs | cpio --quiet -o -H newc) >>"$out"
}

# pad FILE OFFSET MODULUS: appends zeros until the size of the file is OFFSET modulo MODULUS.
pad() {
	local size
	size=$(stat -c %s "$1")
	truncate -s $((size + ($2 - size % $3 + $3) % $3)) "$1"
}

image_three() { build "$1" --layer "$(tree base)" --layer "$(layer app -zlz4hc)" --layer "$(archive etc)"; }
# verified FILE OPTION...: writes a loader with a shell and a list of its layers.
verified() {
	BUSYBOX=$busybox LAYERINIT_INIT=$init build "$@" --verify \
		--spec "$repo/initramfs-spec/loader" --spec "$repo/initramfs-spec/shell"
}
verified_layers() { echo --layer "$(layer base)" --layer "$(layer app -zlz4hc)" --layer "$(archive etc)"; }
# shellcheck disable=SC2046
image_verified() { verified "$1" $(verified_layers); }
# Lists that are signed with a key of this run.
signed() {
	local key=$work/minisign
	[[ -e $key.key ]] || minisign -G -W -p "$key.pub" -s "$key.key" >/dev/null
	# shellcheck disable=SC2046
	verified "$1" $(verified_layers) --key "$key.pub" --sign "$key.key" "${@:2}"
}
image_signed() { signed "$1" --list-version 7 --minimum-version 7; }
image_signed_old() { signed "$1" --list-version 6 --minimum-version 7; }
image_signed_bit() { image_signed "$1" && flip "$1" $(($(grep -abo "trusted comment: version:" "$1" | tail -n 1 | cut -d: -f1) + 25)); }
image_verified_moduleless() { kernel_dir='' verified "$1" --layer "$(layer base)" --layer "$(layer app -zlz4hc)" --layer "$(archive etc)"; }
image_verified_inside() { verified "$1" --layer "$(tree base)" --layer "$(tree app)" --layers-inside; }
# A list made with sha256sum, in an image made with cat.
image_verified_by_hand() {
	local dir=$work/trees/verified-by-hand
	mkdir -p "$dir"
	(cd "$work/layers" && sha256sum "$(layer base)" "$(layer app -zlz4hc)" "$(archive etc)") >"$dir/list"
	cat >"$dir/spec" <<-END
		dir /etc 0755 0 0
		dir /etc/layerinit 0755 0 0
		file /etc/layerinit/layers.sha256 $dir/list 0644 0 0
	END
	LAYERINIT_INIT=$init build "$dir/loader" --spec "$repo/initramfs-spec/loader" --spec "$dir/spec"
	truncate -s %4096 "$dir/loader"
	cat "$dir/loader" "$(layer base)" "$(layer app -zlz4hc)" "$(archive etc)" >"$1"
}
# flip FILE OFFSET: flips a bit.
flip() {
	local byte
	byte=$(od -An -tu1 -j "$2" -N1 "$1")
	printf '%b' "\\x$(printf %x $((byte ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
image_verified_bit() {
	image_verified "$1"
	flip "$1" $(($(stat -c %s "$1") - $(stat -c %s "$(archive etc)") - 5000))
}
image_verified_list() {
	local app at
	image_verified "$1"
	app=$(sha256sum "$(layer app -zlz4hc)")
	at=$(grep -abo "${app:0:64}" "$1")
	# Of the digits of this layer, the first that is still a digit after the bit is flipped.
	app=${app%%[0-9]*}
	flip "$1" $((${at%%:*} + ${#app}))
}
image_verified_appended() { image_verified "$1" && cat "$(archive parents)" >>"$1"; }
image_verified_twice() { image_verified "$1" && cat "$(archive etc)" >>"$1"; }
# verified_again FILE LAYER...: writes the loader of the image "verified", and other layers.
verified_again() {
	local first
	image_verified "$1"
	first=$("$layerinit" list "$1" | sed -n '/ erofs /{s/ .*//p;q}')
	truncate -s $((first)) "$1"
	cat "${@:2}" >>"$1"
}
image_verified_removed() { verified_again "$1" "$(layer base)" "$(archive etc)"; }
image_verified_exchanged() { verified_again "$1" "$(layer base)" "$(layer lean)" "$(archive etc)"; }
image_verified_swapped() { verified_again "$1" "$(layer app -zlz4hc)" "$(layer base)" "$(archive etc)"; }
tree_other() { mkdir -p bin; printf '#!/bin/sh\necho unpacked by the kernel\n' >init; chmod +x init; }
image_verified_other_init() { image_verified_inside "$1" && cat "$(archive other)" >>"$1"; }
tree_credentials() { mkdir -p srv/credentials; echo secret >srv/credentials/key; }
tree_shadow() { mkdir -p etc; echo root::0:: >etc/shadow; }
image_verified_except() {
	verified "$1" --layer "$(layer base)" --layer "$(layer app -zlz4hc)" --verify-except credentials:/srv/credentials
	cat "$(archive credentials)" >>"$1"
}
image_verified_except_other() {
	verified "$1" --layer "$(layer base)" --layer "$(layer app -zlz4hc)" --verify-except credentials:/srv/credentials
	cat "$(archive shadow)" >>"$1"
}

# The kernel, kexec and a script are in a layer of their own. The first boot starts the script, which boots the same
# kernel with the retained initrd.
image_kexec() { build "$1" --layer "$(tree base)" --layer "$(tree kexec)" --layer "$(archive etc)"; }
tree_kexec() {
	local deb dir=$work/kexec-tools library
	deb=$("$repo/qemu/kernel/debian-package" bookworm kexec-tools)
	# shellcheck disable=SC2046 # one word a line
	unpack "$dir" $(with_libraries bookworm "$deb")
	mkdir -p boot etc lib lib64 sbin
	cp "$dir/sbin/kexec" sbin
	cp -L "$dir"/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 lib64
	for library in $(LD_LIBRARY_PATH=$(echo "$dir"{,/usr}/lib/x86_64-linux-gnu | tr ' ' :) ldd sbin/kexec |
		sed -n 's/.*=> \(\/[^ ]*\).*/\1/p'); do
		cp -L "$library" lib
	done
	cp "$(only "$kernel_dir"/boot/vmlinuz-*)" boot/vmlinuz
	{
		echo '#!/bin/busybox sh'
		example bootloaders kexec | sed 's,^kexec,/sbin/kexec,
			s,--reuse-cmdline,& --append=init=/sbin/init \&\& echo KEXEC now >/dev/console,'
	} >sbin/again
	chmod +x sbin/again
	echo kexec >etc/winner
}
# Without kernel modules.
image_moduleless() {
	"$layerinit" build -o "$@" --layer "$(tree base)" --layer "$(layer app -zlz4hc)" --layer "$(archive etc)"
}
image_moduleless_inside() { image_moduleless "$1" --layers-inside; }
# moduleless FILE LAYER...: writes a loader without kernel modules, and the layers, images or archives.
moduleless() { "$layerinit" build -o "$1" && cat "${@:2}" >>"$1"; }
# A layer with a cluster that cannot be decompressed, in the middle of its only file.
image_damaged() {
	local broken=$work/layers/damaged.erofs size
	cp "$(layer app -zlz4hc)" "$broken"
	size=$(stat -c %s "$broken")
	head -c 4096 /dev/zero | tr '\0' '\377' |
		dd of="$broken" bs=4096 seek=$((size / 8192)) conv=notrunc status=none
	moduleless "$1" "$(layer base)" "$broken"
}
# The second layer takes 300 MB in a tmpfs.
tree_zeros() { mkdir -p zeros; head -c "$1M" /dev/zero >zeros/data; }
image_no_room() { moduleless "$1" "$(layer base)" "$(layer zeros-300 -zlz4hc)"; }
image_layers_500() {
	local number layers=()
	for number in {001..499}; do
		layers+=("$(layer "many-$number")")
	done
	moduleless "$1" "$(layer base)" "${layers[@]}"
}
image_base() { build "$1" --layer "$(tree base)"; }
# An /init without the cargo features disk, extract, systemd and watchdog.
image_layers_only() {
	build "$1" --init "$(built_init gzip,lz4,xz,zstd)" \
		--layer "$(tree base)" --layer "$(layer app -zlz4hc)" --layer "$(archive etc)"
}
# An /init for musl, built for size (docs/tiny.toml).
image_tiny() {
	local init
	init=$("$repo/qemu/cross" "$arch-tiny")
	build "$1" --init "$init" --layer "$(tree base)" --layer "$(layer app -zlz4hc)" --layer "$(archive etc)"
}
# Modules without signatures, for a kernel that requires them.
image_stripped() { build "$1" --strip-module-signatures --layer "$(tree lean)"; }
image_one() { build "$1" --layer "$(tree lean)"; }

# An archive with microcode in front of the loader, as distributions make it.
image_microcode() {
	local out=$1 dir=$work/trees/microcode
	mkdir -p "$dir/kernel/x86/microcode"
	head -c 2048 /dev/zero >"$dir/kernel/x86/microcode/GenuineIntel.bin"
	{ pack "$dir"; cat "$(loader)" "$(layer base)" "$(layer app -zlz4hc)" "$(archive etc)"; } >"$out"
}

image_two() { cat "$(loader)" "$(layer base)" "$(layer app -zlz4hc)" >"$1"; }

# Blocks of 512 bytes, and a length that is not a multiple of the page size: followed by other data, and at the end.
image_pages() {
	local out=$1 mkfs file number layers=()
	mkfs=$(newer_mkfs_erofs)
	for number in 1 2; do
		file=$work/layers/pages-$number.erofs
		"$mkfs" --quiet --all-root -T 0 -b512 "$file" "$(tree "pages-$number")"
		[[ $(($(stat -c %s "$file") % 4096)) != 0 ]] || die "the size of $file is a multiple of 4096"
		layers+=(--layer "$file")
	done
	build "$out" --layer "$(tree base)" "${layers[@]}"
}

# The commands of docs/images.md, literally.
image_by_hand() {
	local out=$1 dir=$work/trees/by-hand
	mkdir "$dir"
	cp "$(loader)" "$dir/loader.cpio"
	cp -a "$(tree base)" "$dir/base"
	cp -a "$(tree app)" "$dir/app"
	cp -a "$(tree etc)" "$dir/etc"
	(
		cd "$dir"
		truncate -s %4096 loader.cpio
		mkfs.erofs -zlz4hc base.erofs base/
		mkfs.erofs -zlz4hc app.erofs app/
		(cd etc && find . | cpio -o -H newc) > etc.cpio
		cat loader.cpio base.erofs app.erofs etc.cpio > initrd.img
	)
	mv "$dir/initrd.img" "$out"
}

# A layer at a multiple of 4, but not of 8.
image_offset4() {
	local out=$1
	cp "$(loader)" "$out"
	pad "$out" 4 512
	cat "$(layer base)" "$(layer app -zlz4hc)" >>"$out"
}

image_files() { { files base app; cat "$(loader)"; } >"$1"; }
image_many() {
	local out=$1 number layers=()
	for number in {01..63}; do
		layers+=("$(layer "many-$number")")
	done
	cat "$(loader)" "$(layer base)" "${layers[@]}" >"$out"
}

# More archives in a row than /init keeps as separate layers: it merges them.
image_archives() {
	local out=$1 number dir
	dir=$(mktemp -d "$work/trees/archives.XXXXXX")
	mkdir "$dir/layers"
	cp "$(layer base)" "$dir/layers/000.erofs"
	for number in {001..040}; do
		cp "$(archive "many-$number")" "$dir/layers/$number.cpio"
	done
	{ pack "$dir"; cat "$(loader)"; } >"$out"
}

# A changed build time in the superblock, whose checksum therefore does not match.
image_checksum() {
	local out=$1 broken=$work/layers/checksum.erofs
	cp "$(layer app -zlz4hc)" "$broken"
	printf '\x55' | dd of="$broken" bs=1 seek=$((1024 + 24)) conv=notrunc status=none
	cat "$(loader)" "$(layer base)" "$broken" >"$out"
}

image_no_init() { build "$1" --layer "$(tree empty)"; }
image_init_dangling() { build "$1" --layer "$(tree base)" --layer "$(tree init-dangling)"; }
image_init_absolute() { build "$1" --layer "$(tree base)" --layer "$(tree init-absolute)"; }
image_init_script() { build "$1" --layer "$(tree base)" --layer "$(tree init-script)"; }
image_init_elf() { build "$1" --layer "$(tree base)" --layer "$(tree init-elf)"; }
image_no_modules() { "$layerinit" build -o "$1" --layer "$(tree base)"; }

# A loader with only /init: no /dev, no console, no mount points.
image_bare() {
	local out=$1 dir=$work/trees/bare
	mkdir -p "$dir"
	cp "$init" "$dir/init"
	{ pack "$dir"; cat "$(layer base)" "$(archive etc)"; } >"$out"
}

# The same, with a name other than /init.
image_other_name() {
	local out=$1 dir=$work/trees/other
	mkdir -p "$dir/other"
	cp "$init" "$dir/other/name"
	{ pack "$dir"; cat "$(layer base)" "$(archive etc)"; } >"$out"
}

# The initramfs is the system: there are no layers.
image_self() {
	local out=$1 dir=$work/trees/self
	cp -a "$(tree base)" "$dir"
	cp "$init" "$dir/init"
	pack "$dir" >"$out"
}

# A shell in the loader, for a system without an init, and for a good one.
image_shell_no_init() { { cat "$(archive shell)" "$(loader)" "$(layer empty)"; } >"$1"; }
image_shell_junk() { { cat "$(archive shell)" "$(loader)"; echo junk; } >"$1"; }
image_shell_three() { { cat "$(archive shell)" "$(loader)" "$(layer base)" "$(layer app -zlz4hc)" "$(archive etc)"; } >"$1"; }

# A shell, and the drivers of a console and a keyboard.
image_console() { build "$1" --module virtio_pci --module virtio_console && { files base app; cat "$(archive shell)" "$1"; } >"$1.both" && mv "$1.both" "$1"; }
image_keyboard() {
	local out=$1
	build "$out" --module xhci_pci --module usbhid --module hid_generic --layer "$(tree base)"
	{ cat "$(archive shell)" "$out"; } >"$out.shell"
	mv "$out.shell" "$out"
}

# The driver of QEMU's watchdog, a real init that does not open the watchdog, and a check that opens it and disarms it
# with a V.
tree_watchdog() {
	mkdir -p sbin etc
	echo watchdog >etc/winner
	printf '#!/bin/busybox sh\necho "<2>nobody pings" >/dev/kmsg\nexec busybox sleep 1000\n' >sbin/odd-init
	chmod +x sbin/odd-init
	our_check watchdog 'the watchdog is busy' 'sh -c "printf V >/dev/watchdog"'
}
image_watchdog() {
	local out=$1
	build "$out" --module i6300esb --layer "$(tree base)" --layer "$(tree watchdog)"
	{ cat "$(archive shell)" "$out"; } >"$out.shell"
	mv "$out.shell" "$out"
}

# A truncated layer. An archive of many small files, whose pages take more memory than their bytes. A script that starts
# /init, in an archive in front of the loader.
image_cut_off() { { cat "$(loader)" "$(layer base)"; head -c 2000 "$(layer app)"; } >"$1"; }
tree_files() { mkdir files && (cd files && seq "$1" | command split -l 1 -a 4); }
image_many_files() { { cat "$(loader)" "$(layer base)"; gzip -1nc "$(archive files-20000)"; } >"$1"; }
tree_before() { tree_shell; printf '#!/bin/sh\nexec /init "$@"\n' >before && chmod +x before; }
image_before() { cat "$(archive before)" "$(loader)" "$(layer base)" >"$1"; }
# A real init below /run, over which /init mounts a tmpfs.
tree_hidden() { mkdir run && cp -L "$(tree base)/sbin/init" run/init; }
image_hidden() { cat "$(loader)" "$(layer base)" "$(layer hidden)" >"$1"; }

# Memory that /init must free: an archive of 16 MB in front of the loader, and a layer of 16 MB that "rd.layers.skip=1"
# omits.
tree_ballast() { mkdir -p ballast; head -c 4M < <(seq 2000000 | gzip -1n) >one; cat one one one one >ballast/data; rm one; }
image_ballast() { cat "$(archive ballast)" "$(loader)" "$(layer base)" "$(layer ballast)" >"$1"; }
# More than /init frees before it starts the real init; a child frees the rest.
image_ballast_more() { cat "$(archive ballast)" "$(archive ballast)" "$(loader)" "$(layer base)" "$(layer ballast)" >"$1"; }

# The same with 2000 files.
tree_crowd() { mkdir -p crowd/sub && (cd crowd && seq 500000 | command split -l 250 -a 4 && mv xac* sub); }
image_crowd() { cat "$(archive crowd)" "$(loader)" "$(layer base)" >"$1"; }

# Archives between the layers, some of them compressed.
image_interleaved() { cat "$(loader)" "$(layer base)" "$(archive etc)" "$(layer app -zlz4hc)" >"$1"; }
image_compressed() {
	local out=$1
	cp "$(loader)" "$out.plain"
	gzip -9n <"$out.plain" >"$out"
	pad "$out" 0 4
	cat "$(layer base)" >>"$out"
	zstd -q -19 -c "$(archive etc)" >>"$out"
}

# Directories as layers, in every form that the tool writes.
image_as() {
	local out=$1
	build "$out" --layer "$(tree base)" --as erofs --layer "$(tree app)" --as cpio.zst \
		--layer "$(tree many-1)" --as cpio.gz --layer "$(tree many-2)" --as cpio.xz \
		--layer "$(tree many-3)" --as cpio.lz4 --layer "$(tree etc)" --as cpio
}

image_orphans() {
	local out=$1
	build "$out" --layer "$(tree base)" --layer "$(tree parents)"
	orphans "$(tree orphans)" | gzip -9n >>"$out"
}
image_orphans_file() {
	local out=$1 dir=$work/trees/orphans-file
	mkdir -p "$dir/layers"
	cp "$(layer base)" "$dir/layers/10-base"
	cp "$(layer parents)" "$dir/layers/20-parents"
	orphans "$(tree orphans)" >"$dir/layers/30-orphans"
	{ pack "$dir"; cat "$(loader)"; } >"$out"
}
image_opaque_erofs() { build "$1" --layer "$(tree base)" --layer "$(tree pile)" --layer "$(tree opaque)"; }
image_opaque_cpio() { build "$1" --layer "$(tree base)" --layer "$(tree pile)" --layer "$(tree opaque)" --as cpio.zst; }

# As systemd-stub does: small archives after the initrd, each at a multiple of 4.
image_stub() {
	local out=$1 kind
	build "$out" --layer "$(tree base)" --layer "$(tree app)"
	for kind in credentials global_credentials sysext; do
		cat "$(archive "extra-$kind")" >>"$out"
		pad "$out" 0 4
	done
}

# Several initrd files, each padded to a multiple of 4, as GRUB and systemd-boot do.
image_grub() {
	local out=$1 file dir=$work/trees/grub
	mkdir -p "$dir"
	gzip -9n <"$(loader)" >"$dir/1"
	cp "$(layer base)" "$dir/2"
	"$layerinit" build -o "$dir/3" --spec /dev/null --layer "$(tree app)" --as cpio.xz
	zstd -q -19 -c "$(archive etc)" >"$dir/4"
	cat "$(archive extra-odd)" >"$dir/5"
	printf '\0\0\0' >>"$dir/5"
	: >"$out"
	for file in "$dir"/?; do
		cat "$file" >>"$out"
		pad "$out" 0 4
	done
}

# A bootconfig at the end: the text, its size and checksum, the magic.
image_bootconfig() {
	local out=$1 text=$1.text size sum
	printf 'init.trailer = works\n' >"$text"
	image_three "$out"
	truncate -s %4 "$text"
	size=$(stat -c %s "$text")
	sum=$(od -An -v -tu1 "$text" | tr -s ' ' '\n' | awk '{ sum += $1 } END { print sum }')
	{ cat "$text"; little_endian "$size"; little_endian "$sum"; echo '#BOOTCONFIG'; } >>"$out"
}

little_endian() { printf '%08x' "$1" | sed -E 's/(..)(..)(..)(..)/\\x\4\\x\3\\x\2\\x\1/' | xargs -0 printf '%b'; }

# The loader without the device node of the console, as made by an unprivileged cpio.
image_no_node() {
	local out=$1 dir=$work/trees/no-node
	mkdir -p "$dir"
	(cd "$dir" && cpio --quiet -id -f 'dev/*' '/dev/*' <"$(loader)")
	[[ -x $dir/init && ! -e $dir/dev/console ]] || return
	{ pack "$dir"; cat "$(layer base)" "$(layer app -zlz4hc)"; } >"$out"
}

# ---- equal content ------------------------------------------------------------------

# For these images, FILE.sum has the checksum of all files of the root, with owners, modes, times and xattrs. The
# functions compute it on this machine from the sources of the layers, which they merge in FILE.merged, as root.

# treesum: prints the path of the program that computes the checksum of a tree.
treesum() {
	local file=$work/treesum
	[[ -e $file ]] || build_treesum "$file"
	echo "$file"
}

# content_tree ADD: prints the path of a tree with the test files in the directory content-ADD, and with the program that
# computes their checksum.
content_tree() {
	local dir=$work/trees/content-$1
	if [[ ! -e $dir ]]; then
		mkdir -p "$dir/content-$1" "$dir/bin"
		as_root "$repo/qemu/kernel/test/make-tree" "$dir/content-$1"
		if [[ ${guest_cc-} ]]; then build_treesum "$dir/bin/treesum" "$guest_cc"; else cp "$(treesum)" "$dir/bin/treesum"; fi
		as_root chown -hR 0:0 "$dir/bin"
		as_root chown 0:0 "$dir" "$dir/content-$1"
		as_root touch -d @1700000000 "$dir"/bin/* "$dir/bin" "$dir"
	fi
	echo "$dir"
}

# add_content FILE ADD MKFS [OPTION...]: appends a layer of content_tree to the file, ADD bytes after a multiple of 4096.
add_content() {
	local image=$1.layer tree
	tree=$(content_tree "$2")
	: >"$image"
	as_root "$3" --quiet -T1700000000 "${@:4}" "$image" "$tree"
	pad "$1" "$2" 4096
	cat "$image" >>"$1"
	rm "$image"
	merge "$1.merged" "$tree"
}

# add_layer FILE NAME, add_archive FILE NAME: appends the layer or archive NAME.
add_layer() {
	cat "$(layer "$2")" >>"$1"
	merge "$1.merged" "$(tree "$2")" root 0
}
add_archive() {
	local time path
	pad "$1" 0 4
	cat "$(archive "$2")" >>"$1"
	# The kernel sets the times of directories at the end, in reverse order, and so does /init: an existing
	# directory keeps its time.
	as_root find "$1.merged" -mindepth 1 -type d -printf '%T@ %p\0' >"$1.times"
	merge "$1.merged" "$(tree "$2")" root
	while read -r -d '' time path; do
		as_root touch -d "@$time" "$path"
	done <"$1.times"
}

# merge DIRECTORY TREE [root [SECONDS]]: merges the tree into the directory as overlayfs would. With "root", all files
# belong to root; with SECONDS, all files have that time.
merge() {
	local copy=$1.copy
	as_root cp -a "$2" "$copy"
	[[ ! ${3-} ]] || as_root chown -hR 0:0 "$copy"
	[[ ! ${4-} ]] || as_root find "$copy" -exec touch -h -d "@$4" {} +
	mkdir -p "$1"
	as_root cp -a "$copy/." "$1"
	as_root rm -rf --one-file-system "$copy"
}

# sum_up FILE: writes FILE.sum. Like guest/check, it omits the directories on which /init mounts filesystems.
sum_up() {
	as_root "$(treesum)" hash "$1.merged" dev proc sys run >"$1.sum"
	as_root rm -rf --one-file-system "$1.merged"
}

# content_base FILE: writes the loader and the layer base.
content_base() {
	cp "$(loader)" "$1"
	pad "$1" 0 4096
	add_layer "$1" base
}

# content FILE MKFS [OPTION...]: writes an image of content_tree at three offsets, and an archive on top.
content() {
	local add
	content_base "$1"
	for add in 0 512 4; do
		add_content "$1" "$add" "${@:2}"
	done
	add_archive "$1" etc
	sum_up "$1"
}

image_content_lz4() { content "$1" mkfs.erofs -zlz4; }
image_content_lz4hc() { content "$1" mkfs.erofs -zlz4hc,12 -C65536; }
image_content_plain() { content "$1" mkfs.erofs -Enoinline_data; }
image_content_chunks() { content "$1" mkfs.erofs --chunksize=4096; }
image_content_lzma() {
	local out=$1 mkfs
	mkfs=$(newer_mkfs_erofs)
	content "$out" "$mkfs" -zlzma -C65536
}
# Two images and an archive.
image_content_two() {
	content_base "$1"
	add_content "$1" 0 mkfs.erofs -zlz4hc
	add_archive "$1" etc
	sum_up "$1"
}
# Images with blocks of each size up to that of a page of most kernels.
image_content_blocks() {
	local out=$1 mkfs
	mkfs=$(newer_mkfs_erofs)
	content_base "$out"
	add_content "$out" 0 "$mkfs" -b512
	add_content "$out" 512 "$mkfs" -b1024 -zlz4hc
	add_content "$out" 4 "$mkfs" -b2048 -zlz4hc -C16384
	sum_up "$out"
}
image_content_2() {
	content_base "$1"
	add_content "$1" 4 mkfs.erofs -zlz4hc
	sum_up "$1"
}
image_content_64() {
	local out=$1 number
	content_base "$out"
	for number in {01..62}; do
		add_layer "$out" "many-$number"
	done
	add_content "$out" 512 mkfs.erofs -zlz4hc
	add_archive "$out" etc
	sum_up "$out"
}

# matrix_tree NUMBER: prints the path of a tree with a file of each kind in the directory matrix-NUMBER. The first tree
# has the program that computes checksums, and a check of the nanoseconds, which that program ignores.
matrix_tree() {
	local dir=$work/trees/matrix-$1 top number
	if [[ ! -e $dir ]]; then
		top=$dir/matrix-$1
		mkdir -p "$top/many"
		seq 30000 >"$top/text"
		ln "$top/text" "$top/many/again"
		ln -s ../text "$top/many/link"
		head -c 70000 /dev/urandom >"$top/noise"
		head -c 9000 "$top/noise" >"$top/part"
		truncate -s 300000 "$top/sparse"
		echo end >>"$top/sparse"
		: >"$top/empty"
		mkfifo "$top/pipe"
		as_root mknod "$top/node" b 8 300
		for number in {1..60}; do echo "$number" >"$top/many/$number"; done
		as_root chown -hR 0:0 "$dir"
		as_root chown 1000:1001 "$top/part"
		as_root chmod 6755 "$top/part"
		as_root chmod 1711 "$top/many"
		as_root setfattr -n user.mime.type -v text/plain "$top/text"
		as_root setfattr -n trusted.note -v kept "$top/many"
		as_root setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 "$top/empty"
		# user::rw-, user:1000:rw-, group::r--, mask::rw-, other::r--
		as_root setfattr -n system.posix_acl_access -v \
			0x0200000001000600ffffffff02000600e803000004000400ffffffff10000600ffffffff20000400ffffffff "$top/noise"
		if [[ $1 == 0 ]]; then
			mkdir "$dir"/{bin,checks}
			cp "$(treesum)" "$dir/bin/treesum"
			cat >"$dir/checks/matrix" <<-'CHECK'
			for matrix in /matrix-*; do
				check "$matrix/text has not its nanoseconds" same "$(stat -c %y $matrix/text)" '2023-11-14 22:13:20.123456789 +0000'
				check "$matrix/many has not its nanoseconds" same "$(stat -c %y $matrix/many)" '2023-11-14 22:13:20.123456789 +0000'
			done
			CHECK
			as_root chown -R 0:0 "$dir"/{bin,checks}
		fi
		as_root find "$dir" -exec touch -hd '2023-11-14 22:13:20.123456789Z' {} +
	fi
	echo "$dir"
}

# matrix_options: prints lines with a release of erofs-utils and options for its mkfs.erofs. With 48-bit addresses or
# compressed metadata, only extended inodes have nanoseconds of their own.
matrix_options() {
	cat <<-END
	1.5
	1.5 -Eforce-inode-extended
	1.5 -Enoinline_data
	1.5 --chunksize=4096
	1.5 --chunksize=65536 -Eforce-chunk-indexes
	1.5 -zlz4
	1.5 -zlz4hc,12 -C65536
	1.5 -zlz4hc -Elegacy-compress
	1.5 -zlz4hc -C65536 -Elegacy-compress
	1.5 -zlz4hc -C131072 -Eztailpacking
	1.5 -zlz4hc -C1048576
	1.5 -zlz4 --max-extent-bytes=65536
	1.8 -b512
	1.8 -b1024 -zlz4hc
	1.8 -b2048 -zlz4hc -C16384 -Efragments
	1.8 -zlzma
	1.8 -zlzma,level=9,dictsize=4194304 -C1048576
	1.8 -zlzma -C65536 -Efragments,dedupe
	1.8 -zdeflate
	1.8 -zdeflate,9 -C65536 -Eztailpacking
	1.8 -zdeflate -C65536 -Eall-fragments
	1.8 -zzstd
	1.8 -zzstd,19 -C65536
	1.8 -zzstd -C1048576 -Eztailpacking
	1.8 -zzstd -C65536 -Eall-fragments,dedupe
	1.8 -zlz4hc -C65536 -Eall-fragments
	1.8 -zlz4hc -C65536 -Ededupe,ztailpacking
	1.8 -zlz4hc:lzma -C65536
	1.8 -zzstd --xattr-prefix=trusted. --xattr-prefix=user.mime.
	1.8 -Exattr-name-filter --xattr-prefix=security.cap
	1.9 -E48bit,force-inode-extended
	1.9 -E48bit,force-inode-extended -zlz4hc
	1.9 -E48bit,force-inode-extended -zzstd -C65536 -Efragments
	1.9 -E48bit,force-inode-extended -zlzma -C65536 -Ededupe,all-fragments
	1.9 -E48bit,force-inode-extended -zlz4hc -C65536 -Eztailpacking --MZ
	1.9 -E48bit,force-inode-extended --chunksize=8192
	1.9 -Eforce-inode-extended -m4096 -zlz4hc
	1.9 -Eforce-inode-extended -m65536 -zzstd -C65536
	1.9 -Eforce-inode-extended -m16384:lzma -zlz4hc -C16384 -Efragments,ztailpacking
	1.9 -Eforce-inode-extended -m65536 -zzstd -C65536 --zD -Eall-fragments --xattr-prefix=trusted.
	1.9 -zlzma -C65536 --zD=1
	1.9 -zdeflate --MZ=id
	1.9 -zzstd -b512
	END
}

# An image for each line of matrix_options, and a loader without kernel modules.
image_matrix() {
	local out=$1 number=0 release options mkfs tree
	"$layerinit" build -o "$out"
	pad "$out" 0 4096
	add_layer "$out" base
	while read -r release options; do
		case $release in
		1.5) mkfs=mkfs.erofs ;;
		1.8) mkfs=$(newer_mkfs_erofs) ;;
		*) mkfs=$(newest_mkfs_erofs) ;;
		esac
		tree=$(matrix_tree "$number")
		: >"$out.layer"
		# shellcheck disable=SC2086 # several options
		as_root "$mkfs" --quiet $options "$out.layer" "$tree" </dev/null
		pad "$out" 4 4096
		cat "$out.layer" >>"$out"
		merge "$out.merged" "$tree"
		number=$((number + 1))
	done < <(matrix_options)
	rm "$out.layer"
	sum_up "$out"
}

# ---- disks --------------------------------------------------------------------------

# disk NAME: prints the path of a disk, which the function disk_NAME makes in a file of 64 MiB.
disk() {
	local file=$work/disks/$1
	if [[ ! -e $file ]]; then
		mkdir -p "$work/disks"
		truncate -s 64M "$file"
		if ! "disk_$1" "$file" >"$file.log" 2>&1; then
			rm "$file"
			say "cannot make the disk $1: $(tail -n 3 "$file.log")"
			return 1
		fi
	fi
	echo "$file"
}

# ext4 FILE OFFSET OPTION...: makes an ext4 of 56 MiB at this offset in the file.
ext4() {
	mkfs.ext4 -q -F -b 4096 -U 0f0f0f0f-0101-4202-8303-040404040404 -E "offset=$2,root_owner=0:0" "${@:3}" "$1" 56M
}

# The tree "base" on the only partition of a GPT, twice; and on the whole disk.
disk_gpt() {
	local out=$1
	sfdisk --quiet "$out" <<-END
		label: gpt
		start=2048, size=120000, name=system, uuid=5EC0DE00-1111-4222-8333-444455556666
	END
	ext4 "$out" $((1 << 20)) -L root -d "$(tree base)"
}
disk_other() { cp "$(disk gpt)" "$1"; }
disk_quota() { ext4 "$1" 0 -O quota -L root -d "$(tree base)"; }
disk_whole() { ext4 "$1" 0 -L root -d "$(tree base)"; }

# Damaged group descriptors; a superblock with a bad checksum.
disk_damaged() { disk_whole "$1"; head -c 512 /dev/urandom | dd of="$1" bs=4096 seek=1 conv=notrunc status=none; }
disk_checksum() { disk_whole "$1"; printf '\x55' | dd of="$1" bs=1 seek=$((1024 + 0x30)) conv=notrunc status=none; }

# For rd.overlay=: a good filesystem; one that overlayfs has marked as volatile; one without a free block; one that cannot
# hold an upper directory.
disk_data() { mkfs.ext4 -q -F -L data "$1"; }
# An upper directory of another base, after four boots.
disk_stale() {
	local out=$1 dir=$work/trees/stale
	mkdir -p "$dir/layerinit/"{upper/etc,work}
	echo 4 | tee "$dir/layerinit/upper/boots" >"$dir/layerinit/upper/etc/boots"
	printf 'layerinit-upper 1\nlayer erofs UUID=%s,DIGEST=0123456789abcdef base\n' "$(uuid stale)" >"$dir/layerinit/stack"
	mkfs.ext4 -q -F -L data -d "$dir" "$out"
}
# An upper directory with a record of a later version.
disk_newer() {
	local out=$1 dir=$work/trees/newer
	mkdir -p "$dir/layerinit/upper"
	printf 'layerinit-upper 2\n' >"$dir/layerinit/stack"
	mkfs.ext4 -q -F -L data -d "$dir" "$out"
}
disk_volatile() {
	local out=$1 dir=$work/trees/volatile
	mkdir -p "$dir/layerinit/"{upper,work/work/incompat/volatile}
	mkfs.ext4 -q -F -L data -d "$dir" "$out"
}
disk_full() {
	local out=$1 dir=$work/trees/full
	mkdir -p "$dir/layerinit/"{upper,work}
	mkfs.ext4 -q -F -L data -m 0 -d "$dir" "$out"
	head -c 64M /dev/urandom >"$out.much"
	debugfs -w -R "write $out.much much" "$out"
	rm "$out.much"
}
disk_vfat() { mkfs.vfat -n DATA "$1" >/dev/null; }
disk_xfs_data() { truncate -s 300M "$1" && mkfs.xfs -q -L data "$1"; }
disk_btrfs_data() { truncate -s 128M "$1" && mkfs.btrfs -q -L data "$1" >/dev/null; }
disk_f2fs_data() { mkfs.f2fs -q -l data "$1" >/dev/null; }

# The tree "base" on other filesystems, whose drivers need modules that modules.dep does not name. vfat has no symlinks.
disk_btrfs() { truncate -s 128M "$1" && mkfs.btrfs -q -L root --rootdir "$(tree base)" "$1" >/dev/null; }
# A btrfs on two devices.
disk_btrfs_half() {
	local out=$1
	truncate -s 128M "$out" "$out.other"
	mkfs.btrfs -q -L root -d raid1 -m raid1 "$out" "$out.other" >/dev/null
	rm "$out.other"
}
disk_f2fs() { truncate -s 128M "$1" && mkfs.f2fs -q -l root "$1" >/dev/null && sload.f2fs -f "$(tree base)" "$1" >/dev/null; }
disk_xfs() {
	local out=$1
	{ printf '/dev/null\n0 0\nd--755 0 0\n' && proto "$(tree base)" && echo '$'; } >"$out.proto"
	truncate -s 300M "$out" && mkfs.xfs -q -L root -p "$out.proto" "$out"
}
# proto DIRECTORY: prints the files of the directory as a protofile for mkfs.xfs.
proto() {
	local path
	for path in "$1"/*; do
		if [[ -L $path ]]; then
			echo "${path##*/} l--777 0 0 $(readlink "$path")"
		elif [[ -d $path ]]; then
			echo "${path##*/} d--755 0 0"
			proto "$path"
			echo '$'
		elif [[ -e $path ]]; then
			echo "${path##*/} ---$(stat -c %a "$path") 0 0 $path"
		fi
	done
}
disk_vfat_root() {
	local out=$1 dir=$work/trees/vfat
	cp -a "$(tree base)" "$dir"
	find "$dir" -type l -delete
	mkfs.vfat -n ROOT "$out" >/dev/null
	mcopy -s -i "$out" "$dir"/* ::
}

# For rd.layers.from=: images and archives in the directories a and b, a link to one of these directories, and other
# directories with files that are not layers.
tree_media() {
	mkdir -p a b junk links empty
	cp "$(layer base)" a/10-base.erofs
	cp "$(layer app -zlz4hc)" a/20-app.erofs
	zstd -q -c "$(archive etc)" >a/30-etc.cpio.zst
	cp a/10-base.erofs b
	cp "$(layer many-1)" b/20-many.erofs
	cp a/10-base.erofs junk
	echo 'no image' >junk/20-text
	mkdir junk/30-directory
	ln -s ../../a/20-app.erofs links/20
	ln -s /a/10-base.erofs links/10
	ln -s around links/around
	ln -s ../../../../init links/out
}
disk_sys() { mkfs.ext4 -q -F -L sys -d "$(tree media)" "$1"; }
disk_sys_dirty() { disk_sys "$1" && debugfs -w -R 'feature needs_recovery' "$1"; }
disk_sys_xfs() {
	local out=$1
	printf '/dev/null\n0 0\nd--755 0 0\n10-base.erofs ---644 0 0 %s\n$\n' "$(layer base)" >"$out.proto"
	truncate -s 300M "$out" && mkfs.xfs -q -L sys -p "$out.proto" "$out"
}
disk_sys_btrfs() { truncate -s 128M "$1" && mkfs.btrfs -q -L sys --rootdir "$(tree media)" "$1" >/dev/null; }
disk_sys_f2fs() { truncate -s 128M "$1" && mkfs.f2fs -q -l sys "$1" >/dev/null && sload.f2fs -f "$(tree media)" "$1" >/dev/null; }
disk_sys_erofs() { mkfs.erofs --quiet --all-root -T 0 "$1" "$(tree media)"; }
disk_sys_vfat() {
	local out=$1
	mkfs.vfat -n BOOT "$out" >/dev/null
	mmd -i "$out" ::layers
	mcopy -i "$out" "$(layer base)" ::layers/10-base.erofs
	mcopy -i "$out" "$(layer app -zlz4hc)" ::layers/20-app.erofs
	echo 'no layer' | mcopy -i "$out" - ::config.txt
}
disk_sys_exfat() {
	local out=$1
	truncate -s 64M "$out"
	mkfs.exfat -L SYS "$out" >/dev/null
	echo 'no layer' >"$work/trees/text"
	"$repo/qemu/exfat-add" "$out" 10-base.erofs="$(layer base)" 20-app.erofs="$(layer app -zlz4hc)" config.txt="$work/trees/text"
	fsck.exfat -n "$out" >/dev/null
}
# Images at multiples of 1 MiB, and then an archive, without a filesystem.
disk_sys_raw() {
	local out=$1
	cp "$(layer base)" "$out"
	truncate -s %1M "$out"
	cat "$(layer app -zlz4hc)" "$(archive etc)" >>"$out"
	truncate -s 64M "$out"
}
squashfs() { [[ -e $work/layers/base.squashfs ]] || mksquashfs "$(tree base)" "$work/layers/base.squashfs" -quiet -no-progress -all-root >&2; echo "$work/layers/base.squashfs"; }
disk_sys_squashfs() {
	local out=$1 dir=$work/trees/squashfs
	mkdir "$dir"
	cp "$(squashfs)" "$dir/filesystem.squashfs"
	mkfs.ext4 -q -F -L sys -d "$dir" "$out"
}
disk_squashfs() { cp "$(squashfs)" "$1" && truncate -s %1M "$1"; }

# An image of 400 MB, whose init prints first how much has been read from the disk.
tree_large() {
	tree_base
	rm -r manifest
	echo large >etc/winner
	head -c 400M /dev/urandom >usr/share/base/large
	cat >sbin/disk-read <<-'END'
	#!/bin/busybox sh
	read -r _ _ sectors _ </sys/block/vda/stat
	echo "<2>disk-read: $((sectors / 2)) KiB" >/dev/kmsg
	exec /sbin/init "$@"
	END
	chmod +x sbin/disk-read
}
disk_sys_large() {
	local out=$1 dir=$work/trees/sys-large
	mkdir "$dir"
	mv "$(layer large)" "$dir/large.erofs"
	rm -r "$work/trees/large"
	truncate -s 500M "$out"
	mkfs.ext4 -q -F -L sys -d "$dir" "$out"
	rm -r "$dir"
}
disk_sys_debian() {
	local out=$1 dir=$work/trees/sys-debian
	mkdir "$dir"
	cp "$(debian_system)" "$dir/debian.erofs"
	truncate -s 600M "$out"
	mkfs.ext4 -q -F -L sys -d "$dir" "$out"
	rm -r "$dir"
}

# The ISO of docs/disks.md, with GRUB's console on the serial port.
disk_iso() {
	local out=$1 dir=$work/trees/iso kernel='' kernel_dir='' version=''
	use_kernel 6.12-generic
	mkdir -p "$dir/boot/grub" "$dir/live"
	cp "$kernel" "$dir/boot/vmlinuz"
	image_drivers "$dir/boot/initrd.img"
	cp "$(layer base)" "$dir/live/10-base.erofs"
	cp "$(layer app -zlz4hc)" "$dir/live/20-app.erofs"
	cat >"$dir/boot/grub/grub.cfg" <<-'END'
	serial
	terminal_output serial
	linux /boot/vmlinuz console=ttyS0 no_timer_check rd.layers.from=LABEL=LIVE:/live
	initrd /boot/initrd.img
	boot
	END
	grub-mkrescue --directory=/usr/lib/grub/i386-pc -o "$out" "$dir" -- -volid LIVE
}

# A Debian with systemd, which reports the result of its boot (qemu/guest/demo).
disk_debian() {
	local out=$1 dir=$work/trees/debian units=etc/systemd/system base
	base=$(debian_system)
	fsck.erofs --extract="$dir" "$base" >/dev/null
	install -m 755 "$repo/qemu/guest/demo/"{demo-check,booted-from} "$dir/usr/bin"
	install -m 644 "$repo/qemu/guest/demo/demo-check.service" "$dir/$units"
	mkdir -p "$dir/$units/multi-user.target.wants"
	ln -s ../demo-check.service "$dir/$units/multi-user.target.wants/"
	echo demo >"$dir/etc/hostname"
	truncate -s 800M "$out"
	mkfs.ext4 -q -F -L root -d "$dir" "$out"
	rm -r "$dir"
}

# The loader alone, for root=.
virtio=(--module virtio_pci --module virtio_blk)
image_loader() {
	local out=$1 module=()
	[[ ! $kernel_dir ]] || module=("${virtio[@]}")
	build "$out" "${module[@]}"
}
image_shell_disk() { image_loader "$1" && { cat "$(archive shell)" "$1"; } >"$1.both" && mv "$1.both" "$1"; }
image_top_disk() { build "$1" "${virtio[@]}" && cat "$(layer app -zlz4hc)" >>"$1"; }
image_squashfs() { build "$@" --layer "$(squashfs)" --layer "$(layer app -zlz4hc)"; }
image_squashfs_inside() { image_squashfs "$1" --layers-inside; }
image_app() { cat "$(loader)" "$(layer app -zlz4hc)" >"$1"; }
image_stub_check() { build "$1" "${virtio[@]}" --layer "$(tree stub)"; }
image_base_disk() { build "$1" "${virtio[@]}" --layer "$(tree base)"; }
# A layer with the label of a disk.
image_labelled() { image_base_disk "$1" && cat "$(layer app -L data)" >>"$1"; }
image_files_disk() { build "$1" "${virtio[@]}" && { files base app; cat "$1"; } >"$1.both" && mv "$1.both" "$1"; }

# The drivers in docs/disks.md, for a kernel that has all of them as modules.
drivers=(virtio_pci virtio_blk virtio_scsi virtio_mmio sd_mod nvme ahci usb-storage uas xhci-pci
	sdhci-pci mmc_block sr_mod ext4 xfs btrfs f2fs vfat exfat isofs squashfs nls_cp437 nls_iso8859-1 nls_ascii nls_utf8)
image_quota() { build "$1" "${drivers[@]/#/--module=}" --module=quota_v2; }
image_exfat() { build "$1" "${virtio[@]}" --module exfat --module nls_utf8; }
image_discs() { build "$1" --module=virtio_pci --module=virtio_scsi --module=sr_mod --module=ext4; }
image_drivers() { build "$1" "${drivers[@]/#/--module=}"; }
image_base_drivers() { build "$1" "${drivers[@]/#/--module=}" --layer "$(tree base)"; }

# The same with a file of modprobe.d.
image_options() {
	local out=$1 dir=$work/trees/options
	mkdir -p "$dir/etc/modprobe.d"
	echo 'options loop max_loop=3' >"$dir/etc/modprobe.d/test.conf"
	image_drivers "$out"
	pack "$dir" >"$out.options"
	cat "$out.options" "$out" >"$out.both"
	mv "$out.both" "$out"
}

# ---- dm-verity ----------------------------------------------------------------------

# verity NAME DATA HASH: makes the hash tree of a file, and writes the root hash to $work/NAME.roothash.
verity() {
	veritysetup format --salt=0102 --uuid=00010203-0405-4607-8809-0a0b0c0d0e0f "$2" "$3" "${@:4}" |
		sed -n 's/^Root hash:[[:blank:]]*//p' >"$work/$1.roothash"
}
half() { sed -E 's/^(.{8})(.{4})(.{4})(.{4})(.{12})$/\1-\2-\3-\4-\5/' <<<"$1"; }

# Partitions of the Discoverable Partitions Specification, whose UUIDs are the root hash.
disk_verity() {
	local out=$1 data=$1.data hash=$1.hash root
	truncate -s 56M "$data"
	mkfs.ext4 -q -F -b 4096 -L root -E root_owner=0:0 -d "$(tree base)" "$data"
	verity dps "$data" "$hash"
	root=$(<"$work/dps.roothash")
	sfdisk --quiet "$out" <<-END
		label: gpt
		start=2048, size=114688, name=root, uuid=$(half "${root:0:32}")
		start=116736, size=8192, name=root-verity, uuid=$(half "${root:32}")
	END
	dd if="$data" of="$out" bs=1M seek=1 conv=notrunc status=none
	dd if="$hash" of="$out" bs=1M seek=57 conv=notrunc status=none
	rm "$data" "$hash"
}
# A flipped bit in a data block that the mount does not read, but the start of /sbin/init does.
disk_verity_bit() {
	local at
	cp "$(disk verity)" "$1"
	at=$(grep -abo GUEST-OK "$1" | head -n 1)
	flip "$1" "${at%%:*}"
}
# The hash tree after the data, on the same device.
disk_verity_behind() { verity_behind erofs "$1" "$(layer base)"; }
disk_verity_squashfs() {
	mksquashfs "$(tree base)" "$1.squashfs" -quiet -no-progress -all-root >/dev/null
	verity_behind squashfs "$1" "$1.squashfs"
}
verity_behind() {
	local blocks=$((($(stat -c %s "$3") + 4095) / 4096))
	dd if="$3" of="$2" bs=1M conv=notrunc status=none
	verity "$1" "$2" "$2" --data-blocks=$blocks --hash-offset=$((blocks * 4096))
	echo $((blocks * 4096)) >"$work/$1.offset"
}

# verity_image IMAGE DISK NAME OPTION...: writes a loader for the disk, and the words for its rows' command lines to
# IMAGE.words.
verity_image() {
	disk "$2" >/dev/null
	build "$1" "${drivers[@]/#/--module=}" --module=dm_verity --module=erofs --module=squashfs "${@:4}"
	echo "roothash=$(<"$work/$3.roothash")" >"$1.words"
	[[ ! -e $work/$3.offset ]] || echo "systemd.verity_root_options=hash-offset=$(<"$work/$3.offset")" >>"$1.words"
}
image_verity() { verity_image "$1" verity dps; }
image_verity_wrong() {
	disk verity >/dev/null
	tr 0-9a-f 1-9a-f0 <"$work/dps.roothash" >"$work/wrong.roothash"
	verity_image "$1" verity wrong
}
# certificate NAME: makes a key, and a certificate that its own key has signed: $work/NAME.key, .pem and .der.
certificate() {
	[[ ! -e $work/$1.der ]] || return 0
	openssl req -x509 -newkey rsa:2048 -nodes -keyout "$work/$1.key" -out "$work/$1.pem" -subj "/CN=layerinit $1" \
		-days 3650
	openssl x509 -in "$work/$1.pem" -outform der -out "$work/$1.der"
}
# signed_root NAME: makes $work/NAME.p7s, the signature of the root hash of disk_verity by the certificate NAME.
signed_root() {
	disk verity >/dev/null
	certificate "$1"
	tr -d '\n' <"$work/dps.roothash" | openssl smime -sign -noattr -nocerts -binary -inkey "$work/$1.key" \
		-signer "$work/$1.pem" -outform der -out "$work/$1.p7s"
}
# verity_signed IMAGE NAME: a loader with the signature $work/NAME.p7s.
verity_signed() {
	printf '%s\n' 'dir /etc 0755 0 0' "file /etc/root.p7s $work/$2.p7s 0644 0 0" >"$work/$2.spec"
	LAYERINIT_INIT=$init verity_image "$1" verity dps --spec "$repo/initramfs-spec/loader" --spec "$work/$2.spec"
	echo systemd.verity_root_options=root-hash-signature=/etc/root.p7s >>"$1.words"
}
image_verity_signed() { signed_root signer && verity_signed "$1" signer; }
# In the word, on a kernel for virtual machines, which has few drivers.
image_verity_signed_inline() {
	local drivers=(virtio_pci virtio_blk ext4)
	image_verity "$1"
	signed_root signer
	echo "systemd.verity_root_options=root-hash-signature=base64:$(base64 -w 0 "$work/signer.p7s")" >>"$1.words"
}
# A bit of the value that the key has made, which is at the end.
image_verity_signed_bit() {
	signed_root signer
	cp "$work/signer.p7s" "$work/bit.p7s"
	flip "$work/bit.p7s" $(($(stat -c %s "$work/bit.p7s") - 100))
	verity_signed "$1" bit
}
# By a key that is in no keyring.
image_verity_signed_foreign() {
	certificate signer
	signed_root foreign
	verity_signed "$1" foreign
}
# A good signature, of another root hash than the one that is booted.
image_verity_signed_other() {
	local root
	image_verity_signed "$1"
	root=$(tr 0-9a-f 1-9a-f0 <"$work/dps.roothash")
	sed -i "s,^roothash=.*,roothash=$root systemd.verity_root_data=/dev/vda1 systemd.verity_root_hash=/dev/vda2," "$1.words"
}
image_verity_erofs() { verity_image "$1" verity_behind erofs; }
image_verity_squashfs() { verity_image "$1" verity_squashfs squashfs; }

# ---- verified layers on a disk --------------------------------------------------------

# outside NAME OPTION...: makes the loader $work/outside-NAME.img, and beside it a directory of layers for a disk.
outside() {
	# shellcheck disable=SC2046
	verified "$work/outside-$1.img" "${drivers[@]/#/--module=}" $(verified_layers) \
		--layers-outside "$work/outside-$1.d" "${@:2}" >&2
}
# outside_image IMAGE NAME OPTION...
outside_image() { outside "${@:2}" && cp "$work/outside-$2.img" "$1"; }
# outside_disk DISK NAME OPTION...: writes an ext4 with the layers of the image NAME. The options are for mkfs.ext4.
outside_disk() { ext4 "$1" 0 -L layers -d "$work/outside-$2.d" "${@:3}"; }

image_outside() { outside_image "$1" plain; }
disk_outside() { outside_disk "$1" plain; }
image_outside_verity() { outside_image "$1" verity --verity; }
disk_outside_verity() { outside_disk "$1" verity; }
# A flipped bit in a file that the mount does not read, but the start of /sbin/init does.
image_outside_bit() { outside_image "$1" bit --verity && flip_in "$work/outside-bit.d/10-base.erofs" GUEST-OK 0; }
disk_outside_bit() { outside_disk "$1" bit; }
image_outside_panic() {
	outside_image "$1" panic --verity --verity-options panic-on-corruption
	flip_in "$work/outside-panic.d/10-base.erofs" GUEST-OK 0
}
disk_outside_panic() { outside_disk "$1" panic; }
# A flipped bit in the lowest level of the tree, in the hash of the block with the EROFS superblock.
image_outside_tree() { outside_image "$1" tree --verity && flip_in "$work/outside-tree.d/10-base.erofs" 'verity' 8192; }
disk_outside_tree() { outside_disk "$1" tree; }
# An image whose tree has a root hash that is not in the list.
image_outside_other() {
	outside_image "$1" other --verity
	"$layerinit" build -o "$work/outside-lean.img" --init "$init" --layer "$(layer lean)" --verity \
		--layers-outside "$work/outside-lean.d" >&2
	cp "$work/outside-lean.d/10-lean.erofs" "$work/outside-other.d/10-base.erofs"
}
disk_outside_other() { outside_disk "$1" other; }
# flip_in FILE TEXT BYTES: flips a bit BYTES after the first occurrence of TEXT in the file.
flip_in() {
	local at
	at=$(grep -abo "$2" "$1" | head -n 1)
	flip "$1" $((${at%%:*} + $3))
}
# The first boot enables fs-verity, from the shell of the loader.
image_outside_fs_verity() {
	cc -static -O2 -o "$work/enable-verity" "$repo/qemu/guest/enable-verity.c"
	echo "file /enable-verity $work/enable-verity 0755 0 0" >"$work/enable-verity.spec"
	outside_image "$1" fs-verity --fs-verity --verify-allow rd.shell --spec "$work/enable-verity.spec"
}
disk_outside_fs_verity() { outside_disk "$1" fs-verity -O verity; }
# The list is on the disk.
outside_signed() {
	local key=$work/minisign-$2
	minisign -G -W -p "$key.pub" -s "$key.key" >/dev/null
	outside_image "$1" "$2" --key "$key.pub" --sign "$key.key" "${@:3}"
}
image_outside_signed() { outside_signed "$1" signed --list-version 7 --minimum-version 7; }
disk_outside_signed() { outside_disk "$1" signed; }
image_outside_forged() { outside_signed "$1" forged && flip "$work/outside-forged.d/layers.sha256" 3; }
disk_outside_forged() { outside_disk "$1" forged; }

# A flipped bit in the public key in the loader: in the third digit from the end, which is part of the key.
image_signed_key_bit() {
	local at
	image_signed "$1"
	at=$(grep -abo "$(tail -n 1 "$work/minisign.pub")" "$1" | head -n 1)
	flip "$1" $((${at%%:*} + 30))
}

# A flipped bit in the hash tree of the root device: in the hash of its first block, at the lowest level.
disk_verity_tree() {
	cp "$(disk verity)" "$1"
	# The hashes of the data follow the superblock and the top block.
	flip "$1" $(((57 << 20) + 2 * 4096))
}

# A disk by systemd-repart: partitions of the Discoverable Partitions Specification, whose UUIDs are the root hash.
disk_repart() {
	local definitions=$work/repart
	mkdir -p "$definitions"
	printf '%s\n' '[Partition]' Type=root-x86-64 Format=ext4 "CopyFiles=$(tree base):/" Verity=data VerityMatchKey=root \
		SizeMinBytes=40M SizeMaxBytes=40M >"$definitions/10-root.conf"
	printf '%s\n' '[Partition]' Type=root-x86-64-verity Verity=hash VerityMatchKey=root SizeMinBytes=4M SizeMaxBytes=4M \
		>"$definitions/20-root-verity.conf"
	rm "$1"
	systemd-repart --empty=create --size=64M --dry-run=no --definitions="$definitions" --json=short "$1" |
		jq -r '[.[].roothash // empty][0]' >"$work/repart.roothash"
}
image_repart() { verity_image "$1" repart repart; }
