# The images of qemu/bench and qemu/handover: the same content, booted in different ways. Sourced after images.sh.
# shellcheck shell=bash
#
# As in images.sh, image_NAME FILE writes an initrd for $kernel_dir and $version. It writes further words for the kernel
# command line to FILE.words. $size is the size of the content in MiB.

# ---- content ------------------------------------------------------------------------

tree_content() {
	mkdir -p content dev proc sys run
	"$work/bench-content" content "$size" | sed 's,^,/content/,' >content.list
}

tree_top() { mkdir -p sbin; cp "$work/first-init" sbin/init; cp "$work/bench-init" sbin; }

# programs: compiles the programs of the guest and the generator of the content.
programs() {
	local name
	for name in bare-init bench-init bench-content; do
		cc -O2 -Wall -Wextra -static -o "$work/$name" "$repo/qemu/guest/$name.c" ||
			die "$name.c cannot be compiled (is a static libc installed? libc6-dev)"
	done
	cc -Os -Wall -Wextra -static -nostdlib -fno-stack-protector -Wl,-z,noseparate-code -Wl,--build-id=none \
		-s -o "$work/first-init" "$repo/qemu/guest/first-init.c" || die "first-init.c cannot be compiled"
}

# the_layers: prints the paths of the two images, the lower one first.
the_layers() { layer content -zlz4hc; layer top -zlz4hc; }

# append FILE WORD...: appends both layers to the file at multiples of 4096, and writes the words and the offsets and
# sizes of the layers to FILE.words.
append() {
	local layer ranges=''
	for layer in $(the_layers); do
		truncate -s %4096 "$1"
		ranges+=${ranges:+,}$(stat -c %s "$1"):$(stat -c %s "$layer")
		cat "$layer" >>"$1"
	done
	echo "${*:2} layers=$ranges" >"$1.words"
}

# append_plain FILE: appends the uncompressed layers as "layerinit build --erofs-compression none" makes them: at multiples of
# 4096, without inline tails.
append_plain() {
	local name
	for name in content-plain top-plain; do
		truncate -s %4096 "$1"
		cat "$(layer "$name" -Enoinline_data)" >>"$1"
	done
	echo >"$1.words"
}

# spec_of INIT [FILE...]: prints a spec with the program as /init, and the files in /.
spec_of() {
	local name
	for name in dev proc sys run; do echo "dir /$name 755 0 0"; done
	echo 'nod /dev/console 600 0 0 c 5 1'
	echo "file /init $1 755 0 0"
	for name in "${@:2}"; do echo "file /${name##*/} $name 644 0 0"; done
}

# by_spec FILE: writes the archive that FILE.spec describes.
by_spec() { "$layerinit" build -o "$1" --spec "$1.spec"; }

# ---- the kernel alone ---------------------------------------------------------------

# Nothing to mount: the time of the kernel alone.
image_nothing() {
	local out=$1
	{
		spec_of "$work/first-init"
		echo 'nod /dev/kmsg 600 0 0 c 1 11'
		echo 'dir /sbin 755 0 0'
		echo "file /sbin/bench-init $work/bench-init 755 0 0"
	} >"$out.spec"
	by_spec "$out"
	echo >"$out.words"
}

# The content as the initramfs, and its init as /init.
image_cpio() {
	local out=$1
	image_nothing "$out"
	pack "$(tree content)" >>"$out"
}
image_cpio_gz() { compressed "$1" gzip -9n; }
image_cpio_zst() { compressed "$1" zstd -q -15 -T1; }
image_cpio_lz4() { compressed "$1" lz4 -q -l -9; }
# compressed FILE COMMAND...: writes image_cpio, compressed. It is the same for every kernel.
compressed() {
	local packed=$work/layers/cpio.$2
	image_cpio "$1"
	[[ -e $packed ]] || "${@:2}" <"$1" >"$packed"
	cp "$packed" "$1"
}

# ---- layerinit ----------------------------------------------------------------------

# stripped_loader: prints the path of a loader whose modules have no signatures.
stripped_loader() {
	local file=$work/loader-stripped-$version
	[[ -e $file ]] || build "$file" --strip-module-signatures >&2
	echo "$file"
}

# Layers after the loader.
image_ours() { cat "$(loader)" >"$1"; append "$1"; }
image_ours_stripped() { cat "$(stripped_loader)" >"$1"; append "$1"; }
image_ours_plain() { cat "$(loader)" >"$1"; append_plain "$1"; }

# moduleless_loader: prints the path of a loader without modules, so that /init extracts the layers.
moduleless_loader() {
	local file=$work/loader-moduleless
	[[ -e $file ]] || "$layerinit" build -o "$file" >&2
	echo "$file"
}

image_extract() { cat "$(moduleless_loader)" >"$1"; append "$1"; }
image_extract_plain() { cat "$(moduleless_loader)" >"$1"; append_plain "$1"; }
image_extract_files() { { files content top; cat "$(moduleless_loader)"; } >"$1"; echo >"$1.words"; }

# Layers in /layers of the loader.
image_ours_files() { { files content top; cat "$(loader)"; } >"$1"; echo >"$1.words"; }

# ---- other programs that mount layers -----------------------------------------------

# plain_modules LOADER DIRECTORY: decompresses the modules of the loader into a new directory, and prints their paths in
# an order in which the kernel can load them.
plain_modules() {
	local dir=$2 name file
	[[ $kernel_dir ]] || return 0
	mkdir "$dir"
	(cd "$dir" && cpio --quiet -id --no-absolute-filenames '*.ko*' <"$1")
	for name in erofs overlay loop; do
		modprobe -d "$kernel_dir" -S "$version" --show-depends "$name"
	done | awk '$1 == "insmod" && !seen[$2]++ { sub(".*/", "", $2); sub("[.]ko.*", "", $2); print $2 }' |
		while read -r name; do
			file=$(find "$dir" -name "$name.ko*")
			case $file in
			*.xz) xz -d "$file" ;;
			*.zst) zstd -q --rm -d "$file" ;;
			*.gz) gzip -d "$file" ;;
			esac
			find "$dir" -name "$name.ko"
		done
}

# bare FILE LOADER WORD...: writes the C program guest/bare-init.c with the modules of the loader, and the layers.
bare() {
	local modules
	mapfile -t modules < <(plain_modules "$2" "$1.parts")
	spec_of "$work/bare-init" "${modules[@]}" >"$1.spec"
	by_spec "$1"
	modules=("${modules[@]##*/}")
	append "$1" "${@:3}" "${modules[0]:+modules=$(IFS=,; echo "${modules[*]}")}"
}
image_c() { bare "$1" "$(loader)" source=/sys/firmware/initrd; }
image_c_stripped() { bare "$1" "$(stripped_loader)" source=/sys/firmware/initrd; }
image_c_memback() { bare "$1" "$(loader)" source=memback; }
image_c_freed() { bare "$1" "$(loader)" source=/sys/firmware/initrd free=1; }
image_c_memback_freed() { bare "$1" "$(loader)" source=memback free=1; }

# A busybox script, with layers after its archive, or in it as dracut stores them.
image_script() { script "$1"; append "$1"; }
image_dracut() {
	local out=$1 dir=$1.layers
	script "$out"
	mkdir -p "$dir/layers"
	cp "$(layer content -zlz4hc)" "$dir/layers/10-content.erofs"
	cp "$(layer top -zlz4hc)" "$dir/layers/20-top.erofs"
	pack "$dir" >>"$out"
	rm -r "$dir"
	echo >"$out.words"
}
script() {
	local modules
	mapfile -t modules < <(plain_modules "$(loader)" "$1.parts")
	{ [[ ${#modules[@]} == 0 ]] || printf '/%s\n' "${modules[@]##*/}"; } >"$1.modules"
	{
		spec_of "$repo/qemu/guest/script-init" "${modules[@]}"
		echo 'dir /bin 755 0 0'
		echo "file /bin/busybox $busybox 755 0 0"
		echo "file /modules $1.modules 644 0 0"
	} >"$1.spec"
	by_spec "$1"
}

# ---- large images -------------------------------------------------------------------

tree_bottom() { mkdir -p dev proc sys run; : >content.list; }
tree_small() { echo "$1" >"small-$1"; }
tree_members() { mkdir members && (cd members && seq "$1" | split -l 1 -a 5); }
tree_large() { truncate -s 500M "large-$1"; }

# small_layers FILE IMAGE...: writes the loader, an empty system, and these images.
small_layers() { cat "$(loader)" "$(layer bottom)" "$(layer top)" "${@:2}" >"$1"; echo >"$1.words"; }

image_layers_2() { small_layers "$1"; }
image_layers_64() {
	local out=$1 number layers=()
	for number in {01..62}; do
		layers+=("$(layer "small-$number")")
	done
	small_layers "$out" "${layers[@]}"
}

# 2000 files in the loader, which /init deletes.
image_loader_2000() {
	local out=$1
	small_layers "$out"
	{ pack "$(tree members-2000)"; cat "$out"; } >"$out.more"
	mv "$out.more" "$out"
}

image_members_1() { small_layers "$1" "$(archive members-1)"; }
image_members_100k() { small_layers "$1" "$(archive members-100000)"; }
image_initrd_1g() { small_layers "$1" "$(layer large-1)" "$(layer large-2)"; }
