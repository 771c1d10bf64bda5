# What qemu/bench boots: the same content in the ways that there are. Sourced by it, after images.sh.
# shellcheck shell=bash
#
# As in images.sh, image_NAME writes $out for $kernel_dir and $version. What a boot needs on the
# kernel command line besides is left in $out.words. $size is the content's, in MiB.

# ---- content ------------------------------------------------------------------------

tree_content() {
	mkdir -p content dev proc sys run
	"$work/bench-content" content "$size" | sed 's,^,/content/,' >content.list
}

tree_top() { mkdir -p sbin; cp "$work/first-init" sbin/init; cp "$work/bench-init" sbin; }

# programs: compiles the programs of the guest, and the one that writes the content.
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

# append: adds both layers to $out, page by page, and tells $out.words where they lie.
append() {
	local file ranges=''
	for file in $(the_layers); do
		truncate -s %4096 "$out"
		ranges+=${ranges:+,}$(stat -c %s "$out"):$(stat -c %s "$file")
		cat "$file" >>"$out"
	done
	echo "$* layers=$ranges" >"$out.words"
}

# spec_of INIT [FILE...]: a spec with the program as /init, and these files in /.
spec_of() {
	local name
	for name in dev proc sys run; do echo "dir /$name 755 0 0"; done
	echo 'nod /dev/console 600 0 0 c 5 1'
	echo "file /init $1 755 0 0"
	for name in "${@:2}"; do echo "file /${name##*/} $name 644 0 0"; done
}

by_spec() { "$layerinit" build -o "$out" --spec "$out.spec"; }

# ---- the kernel alone, and what it unpacks ------------------------------------------

# Nothing to do: the measure for the memory.
image_nothing() {
	{
		spec_of "$work/first-init"
		echo 'nod /dev/kmsg 600 0 0 c 1 11'
		echo 'dir /sbin 755 0 0'
		echo "file /sbin/bench-init $work/bench-init 755 0 0"
	} >"$out.spec"
	by_spec
	echo >"$out.words"
}

# The content as the initramfs, and its init as /init.
image_cpio() {
	image_nothing
	pack "$(tree content)" >>"$out"
}
image_cpio_gz() { compressed gzip -9n; }
image_cpio_zst() { compressed zstd -q -15 -T1; }
image_cpio_lz4() { compressed lz4 -q -l -9; }
# compressed COMMAND...: made once; it is the same for every kernel.
compressed() {
	local file=$work/layers/cpio.$1
	image_cpio
	[[ -e $file ]] || "$@" <"$out" >"$file"
	cp "$file" "$out"
}

# ---- ours ---------------------------------------------------------------------------

# stripped_loader: prints the path of a loader with modules whose signatures need no checking.
stripped_loader() {
	"$layerinit" build -o "$out.stripped" --modules "$kernel_dir" --kernel "$version" --strip-module-signatures >&2
	echo "$out.stripped"
}

# Behind the loader.
image_ours() { cat "$(loader)" >"$out"; append; }
image_ours_stripped() { cat "$(stripped_loader)" >"$out"; append; }
image_ours_plain() { cat "$(loader)" "$(layer content-plain)" "$(layer top)" >"$out"; echo >"$out.words"; }

# In the loader, as /layers.
image_ours_files() { { files content top; cat "$(loader)"; } >"$out"; echo >"$out.words"; }

# ---- others, with layers ------------------------------------------------------------

# plain_modules LOADER: prints the paths of its modules, decompressed, in an order in which they can
# be loaded.
plain_modules() {
	local dir=$out.parts name file
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

# The bare C program: bare LOADER WORD...
bare() {
	local modules
	mapfile -t modules < <(plain_modules "$1")
	spec_of "$work/bare-init" "${modules[@]}" >"$out.spec"
	by_spec
	modules=("${modules[@]##*/}")
	append "${@:2}" "${modules[0]:+modules=$(IFS=,; echo "${modules[*]}")}"
}
image_c() { bare "$(loader)" source=/sys/firmware/initrd; }
image_c_stripped() { bare "$(stripped_loader)" source=/sys/firmware/initrd; }
image_c_memback() { bare "$(loader)" source=memback; }
image_c_freed() { bare "$(loader)" source=/sys/firmware/initrd free=1; }
image_c_memback_freed() { bare "$(loader)" source=memback free=1; }

# A busybox script: layers behind its archive, or in it, as dracut has them.
image_script() { script; append; }
image_dracut() {
	local dir=$out.layers
	script
	mkdir -p "$dir/layers"
	cp "$(layer content -zlz4hc)" "$dir/layers/10-content.erofs"
	cp "$(layer top -zlz4hc)" "$dir/layers/20-top.erofs"
	pack "$dir" >>"$out"
	rm -r "$dir"
	echo >"$out.words"
}
script() {
	local modules
	mapfile -t modules < <(plain_modules "$(loader)")
	{ [[ ${#modules[@]} == 0 ]] || printf '/%s\n' "${modules[@]##*/}"; } >"$out.modules"
	{
		spec_of "$repo/qemu/guest/script-init" "${modules[@]}"
		echo 'dir /bin 755 0 0'
		echo "file /bin/busybox $busybox 755 0 0"
		echo "file /modules $out.modules 644 0 0"
	} >"$out.spec"
	by_spec
}

# ---- many, or much, of something ----------------------------------------------------

tree_bottom() { mkdir -p dev proc sys run; : >content.list; }
tree_small() { echo "$1" >"small-$1"; }
tree_members() { mkdir members && (cd members && seq "$1" | split -l 1 -a 5); }
tree_large() { truncate -s 500M "large-$1"; }

# small_layers FILE...: an initrd of the loader, a system with nothing in it, and these images.
small_layers() { cat "$(loader)" "$(layer bottom)" "$(layer top)" "$@" >"$out"; echo >"$out.words"; }

image_layers_2() { small_layers; }
image_layers_64() {
	local number layers=()
	for number in {01..62}; do
		layers+=("$(layer "small-$number")")
	done
	small_layers "${layers[@]}"
}

# 2000 files in the loader, which are deleted.
image_loader_2000() {
	small_layers
	{ pack "$(tree members-2000)"; cat "$out"; } >"$out.more"
	mv "$out.more" "$out"
}

image_members_1() { small_layers "$(archive members-1)"; }
image_members_100k() { small_layers "$(archive members-100000)"; }
image_initrd_1g() { small_layers "$(layer large-1)" "$(layer large-2)"; }
