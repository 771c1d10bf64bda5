# The boot loaders of the rows. Sourced by run-rows and memory.
# shellcheck shell=bash
#
# loader_NAME makes the files that QEMU boots without -kernel and -initrd, in the current directory, which is empty, and
# writes QEMU's arguments to the file qemu, one a line. It reads
#
#   $kernel     the kernel's file
#   $initrd     the initrd
#   ${parts[@]} the initrd in pieces, the loader first, then one file for each layer, with the names that they
#               have in docs/bootloaders.md
#   $words      the command line
#
# Configurations and commands are those of docs/bootloaders.md.

# U-Boot for QEMU's arm64 machine.
u_boot=/usr/lib/u-boot/qemu_arm64/u-boot.bin

# loader_packages NAME: installs what a boot loader needs: firmware and boot loaders that are packages with files only.
loader_packages() {
	need mcopy=mtools mkfs.vfat=dosfstools
	case $1 in
	u-boot*)
		need mkimage=u-boot-tools dtc=device-tree-compiler sfdisk=fdisk
		need_files "$u_boot=u-boot-qemu"
		return
		;;
	esac
	need python3=python3 grub-mkrescue=grub-common xorriso=xorriso syslinux=syslinux
	need_files /usr/lib/grub/i386-pc/linux.mod=grub-pc-bin /usr/lib/grub/x86_64-efi/linux.mod=grub-efi-amd64-bin \
		/usr/share/OVMF/OVMF_CODE_4M.fd=ovmf /usr/lib/systemd/boot/efi/systemd-bootx64.efi=systemd-boot-efi \
		/usr/lib/ISOLINUX/isolinux.bin=isolinux /usr/lib/syslinux/modules/bios/ldlinux.c32=syslinux-common \
		/usr/lib/ipxe/qemu/efi-virtio.rom=ipxe-qemu /usr/lib/python3/dist-packages/pefile.py=python3-pefile
}

# ---- the page -----------------------------------------------------------------------

# page HEADING [NUMBER]: prints an example with the command line of the row.
page() {
	local text
	text=$(example bootloaders "$@")
	sed -E "s#console=tty[A-Z0-9]+( retain_initrd)?#$words#" <<<"$text"
}

# page_files DIR: copies the kernel and the pieces to a directory.
page_files() {
	mkdir -p "$1"
	cp "$kernel" "$1/vmlinuz"
	cp "${parts[@]}" "$1"
}

# run_page HEADING [NUMBER]: runs the commands of an example, with the row's kernel and trees for those of the reader.
run_page() {
	local commands tools
	commands=$(page "$@")
	tools=$(systemd_tools)
	ln -sfn "$(tree base)" base
	ln -sfn "$(tree app)" app
	(
		# ukify's modules are those of Debian's python3.
		export PATH=$tools/usr/bin:/usr/bin:/bin:/usr/sbin:/sbin LAYERINIT_INIT=${LAYERINIT_INIT:-$init}
		stubs=$tools/usr/lib/systemd/boot/efi
		uname() { echo row; }
		eval "$commands"
	)
}

# What the commands run: the tool of this checkout, and Debian 13's ukify with its stubs. Debian 12 has no ukify.
layerinit() {
	local word arguments=()
	for word; do
		case $word in
		/) word=${kernel%/boot/*} ;;
		/boot/vmlinuz-row) word=$kernel ;;
		esac
		arguments+=("$word")
	done
	case "$*" in
	*--uki*.addon.efi*) arguments=("${arguments[0]}" --uki-stub "$stubs/addonx64.efi.stub" "${arguments[@]:1}") ;;
	*--uki*) arguments=("${arguments[0]}" --uki-stub "$stubs/linuxx64.efi.stub" "${arguments[@]:1}") ;;
	esac
	"$layerinit" "${arguments[@]}"
}
ukify() {
	case "$*" in
	*--linux=*) command ukify "$@" --stub="$stubs/linuxx64.efi.stub" ;;
	*) command ukify "$@" --stub="$stubs/addonx64.efi.stub" ;;
	esac
}

# systemd_tools: prints the directory of Debian 13's ukify and stubs, unpacked.
systemd_tools() {
	local debs dir
	debs=$("$repo/qemu/kernel/debian-package" trixie systemd-ukify systemd-boot-efi)
	dir=$cache/systemd/$(basename "${debs##*$'\n'}" .deb)
	# shellcheck disable=SC2086 # one word a line
	[[ -e $dir ]] || unpack "$dir" $debs
	echo "$dir"
}

# ---- firmware -----------------------------------------------------------------------

# bios DRIVE-OPTION: boots the disk with QEMU's SeaBIOS.
bios() { printf '%s\n' -drive "$1,format=raw,snapshot=on" >qemu; }

# uefi DRIVE-OPTION [VARIANT]: boots the disk with OVMF.
uefi() { ovmf "${2-}" && printf '%s\n' -drive "$1,format=raw,snapshot=on" >>qemu; }

# ovmf [VARIANT]: boots with OVMF and its own copy of the variables, vars.fd. The variant "ms" has Secure Boot on, with
# Microsoft's keys, and needs System Management Mode, which protects its variables from the kernel.
ovmf() {
	local code=/usr/share/OVMF/OVMF_CODE_4M.fd vars=/usr/share/OVMF/OVMF_VARS_4M.fd machine=q35
	if [[ ${1-} == ms ]]; then
		code=${code%.fd}.ms.fd vars=${vars%.fd}.ms.fd machine=q35,smm=on
		printf '%s\n' -global driver=cfi.pflash01,property=secure,value=on >qemu
	else
		: >qemu
	fi
	cp "$vars" vars.fd
	printf '%s\n' -machine "$machine" -drive "if=pflash,format=raw,unit=0,readonly=on,file=$code" \
		-drive "if=pflash,format=raw,unit=1,file=$PWD/vars.fd" >>qemu
}

# esp FILE DIR: makes a FAT filesystem with the files of a directory, as EFI system partition or boot partition.
esp() {
	truncate -s $(($(du -sm "$2" | cut -f 1) + 34))M "$1"
	mkfs.vfat -F 32 -n BOOT "$1" >/dev/null
	mcopy -s -i "$1" "$2"/* ::
}

# ---- boot loaders -------------------------------------------------------------------

grub_iso() {
	page_files .
	page GRUB >grub.cfg
	run_page GRUB 2 >mkrescue.log 2>&1 || { cat mkrescue.log >&2; return 1; }
}

# GRUB on an ISO, started by a BIOS or by UEFI, with one initrd= for each piece.
loader_grub() { grub_iso && bios "file=$PWD/appliance.iso,media=cdrom"; }
loader_grub-efi() { grub_iso && uefi "file=$PWD/appliance.iso,media=cdrom"; }

# grub_2_12 DIR: Debian 13's GRUB, with the files in this directory. Reads the configuration.
grub_2_12() {
	local deb
	mkdir -p esp/EFI/{BOOT,debian} shim
	for deb in $("$repo/qemu/kernel/debian-package" trixie shim-signed grub-efi-amd64-signed); do
		dpkg-deb -x "$deb" shim
	done
	page_files "esp$1"
	cat >esp/EFI/debian/grub.cfg
}

# newc: needs GRUB 2.12.
loader_grub-newc() {
	page 'newc: files of /layers' | grub_2_12 /boot
	cp shim/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed esp/EFI/BOOT/BOOTX64.EFI
	esp disk.img esp
	uefi "file=$PWD/disk.img,if=virtio"
}

# GRUB with Secure Boot: Debian's shim, GRUB and kernel are signed. A locked-down kernel boots any initrd, which nothing
# signs.
loader_secure-boot() {
	page GRUB | grub_2_12 /boot
	cp shim/usr/lib/shim/shimx64.efi.signed esp/EFI/BOOT/BOOTX64.EFI
	cp shim/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed esp/EFI/BOOT/grubx64.efi
	esp disk.img esp
	uefi "file=$PWD/disk.img,if=virtio" ms
}

# OVMF with the certificate $work/signer.der in its db; QEMU passes the kernel and the initrd.
loader_enrolled() {
	ovmf
	"$repo/qemu/enroll" vars.fd "$work/signer.der"
	printf '%s\n' -kernel "$kernel" -initrd "$initrd" -append "$words" >>qemu
}

# systemd-boot and an entry of the boot loader specification.
loader_systemd-boot() {
	mkdir -p esp/EFI/BOOT esp/loader/entries
	cp /usr/lib/systemd/boot/efi/systemd-bootx64.efi esp/EFI/BOOT/BOOTX64.EFI
	page_files esp/appliance
	echo 'timeout 0' >esp/loader/loader.conf
	page systemd-boot >esp/loader/entries/appliance.conf
	esp disk.img esp
	uefi "file=$PWD/disk.img,if=virtio"
}

# SYSLINUX on a FAT filesystem.
loader_syslinux() {
	page_files boot
	page 'SYSLINUX, EXTLINUX and ISOLINUX' >boot/syslinux.cfg
	esp disk.img boot
	syslinux --install disk.img
	bios "file=$PWD/disk.img"
}

# ipxe: iPXE, the firmware of QEMU's network cards, with everything from a TFTP server. Reads the script.
ipxe() {
	page_files tftp
	cat >tftp/boot.ipxe
	printf '%s\n' -netdev "user,id=net,tftp=$PWD/tftp,bootfile=boot.ipxe" \
		-device virtio-net-pci,netdev=net -boot n >qemu
}
loader_ipxe() { page iPXE | ipxe; }
loader_ipxe-files() { page iPXE 2 | ipxe; }

# boot_uki: boots appliance.efi, with addons and a credential beside it if there are addons.
boot_uki() {
	local extra=appliance.efi.extra.d
	mkdir -p esp/EFI/BOOT
	mv appliance.efi esp/EFI/BOOT/BOOTX64.EFI
	if [[ -d $extra ]]; then
		echo secret >"$extra/word.cred"
		mv "$extra" esp/EFI/BOOT/BOOTX64.EFI.extra.d
	fi
	esp disk.img esp
	uefi "file=$PWD/disk.img,if=virtio"
}

# A unified kernel image and addons by ukify.
loader_ukify() {
	page_files .
	run_page 'Unified kernel images by hand'
	run_page 'Addons by hand'
	boot_uki
}

# ---- U-Boot ----------------------------------------------------------------------------

# u_boot_disk DIR: starts U-Boot, whose distro boot runs boot.scr of a disk.
u_boot_disk() {
	run_page U-Boot 2
	mv boot.scr "$1"
	esp boot.img "$1"
	# Behind a partition table: U-Boot looks for boot.scr in partitions.
	{ head -c 1M /dev/zero && cat boot.img; } >disk.img
	sfdisk --quiet disk.img <<<'start=2048, type=c, bootable'
	printf '%s\n' -bios "$u_boot" -drive "file=$PWD/disk.img,if=virtio,format=raw,snapshot=on" >qemu
}

loader_u-boot() {
	mkdir disk
	cp "$kernel" disk/Image
	cp "$initrd" disk/initrd.img
	page U-Boot >boot.cmd
	u_boot_disk disk
}

# Files that U-Boot joins.
loader_u-boot-files() {
	page_files disk
	mv disk/vmlinuz disk/Image
	truncate -s %4 "${parts[@]/#*\//disk/}"
	page 'Several files' >boot.cmd
	u_boot_disk disk
}

# board: writes board.dtb, the device tree of QEMU's machine.
board() {
	# The tree names devices that are only there with firmware.
	qemu-system-aarch64 -machine virt,dumpdtb=board.dtb -cpu cortex-a57 -m 512 -nodefaults -display none \
		-bios "$u_boot" >&2
}

# fit: a FIT image by layerinit build. Reads boot.cmd.
fit() {
	board
	run_page FIT
	mkdir disk
	mv image.itb disk
	cat >boot.cmd
	u_boot_disk disk
}

# signed_fit: a signed FIT image, and U-Boot with a device tree that requires the signature.
signed_fit() {
	mkdir disk
	board
	cp board.dtb u-boot.dtb
	run_page 'Signed FIT images'
	run_page 'Signed FIT images' 2
	page FIT 2 >boot.cmd
	mv image.itb disk
	u_boot_disk disk
	printf '%s\n' -dtb "$PWD/u-boot.dtb" >>qemu
}
loader_u-boot-fit-signed() { signed_fit; }

# Another image than the signed one: same commands, same command line.
loader_u-boot-fit-unsigned() {
	signed_fit
	run_page FIT
	mv image.itb disk
	u_boot_disk disk
	printf '%s\n' -dtb "$PWD/u-boot.dtb" >>qemu
}
loader_u-boot-fit() { page FIT 2 | fit; }
loader_u-boot-fit-in-place() { page 'FIT in place' | fit; }

# ---- files of layerinit build ----------------------------------------------------------

# bundle OPTION...: runs layerinit build with the kernel, its modules and the command line.
bundle() { bundle_own --kernel "$kernel" --modules="${kernel%/boot/*}" "$@"; }

# bundle_own OPTION...: the same with the kernel in a layer.
bundle_own() {
	local tools
	tools=$(systemd_tools)
	LAYERINIT_INIT=$init PATH=$tools/usr/bin:/usr/bin:/bin:/usr/sbin:/sbin "$layerinit" build --cmdline "$words" "$@"
}

# A unified kernel image with all layers.
loader_uki() {
	run_page 'Unified kernel images'
	boot_uki
}

# The kernel and its modules are in a layer.
loader_uki-own() {
	local layers=("${parts[@]:1}")
	bundle_own --uki appliance.efi --uki-stub "$(systemd_tools)/usr/lib/systemd/boot/efi/linuxx64.efi.stub" \
		--modules "${layers[@]/#/--layer=}"
	boot_uki
}
loader_iso-own() {
	local layers=("${parts[@]:1}")
	bundle_own --iso disk.iso --modules "${layers[@]/#/--layer=}"
	bios "file=$PWD/disk.iso,media=cdrom"
}

# One with the lowest layer, the other in an addon beside it.
loader_addon() {
	run_page Addons
	boot_uki
}

# One for a Debian on a disk, with credentials and extension images beside it.
loader_uki-stub() {
	local kind extra=esp/EFI/BOOT/BOOTX64.EFI.extra.d layers=("${parts[@]:1}")
	mkdir -p "$extra"
	bundle --uki esp/EFI/BOOT/BOOTX64.EFI --uki-stub "$(systemd_tools)/usr/lib/systemd/boot/efi/linuxx64.efi.stub" \
		--module virtio_pci,virtio_blk,ext4 "${layers[@]/#/--layer=}"
	# The word hello, by "systemd-creds encrypt --with-key=null --name=NAME". systemd takes this key of nobody
	# without Secure Boot and TPM.
	echo 'BYRp2vb1QySABUnaD46i+yAAAAABAAAADAAAABAAAACDsqrK9XNA6e4S77sAAAAAvsZt5eMR1W94NjZ6YkSbYDzbo1XcIk1vVUZOAA/OIxJ+aZD4DsNnTLrDSxMoBAfhs7guZA4=' >"$extra/imported.cred"
	mkdir -p esp/loader/credentials
	echo 'BYRp2vb1QySABUnaD46i+yAAAAABAAAADAAAABAAAACuTb4dSCOpVEajBpAAAAAAfrD/N/Hmzja4+Ya4r2md1K221kERlf8zDQfC/AY5ZL+rP18O/DbKEYNMf4e6iWdGFdjY0jU=' >esp/loader/credentials/loaded.cred
	for kind in sysext confext; do cp "$(layer "extension-$kind")" "$extra/more.$kind.raw"; done
	esp disk.img esp
	uefi "file=$PWD/disk.img,if=virtio"
}

# An ISO, started by a BIOS and by UEFI.
layerinit_iso() {
	run_page ISO
	"$layerinit" check appliance.iso
}
loader_iso() { layerinit_iso && bios "file=$PWD/appliance.iso,media=cdrom"; }
loader_iso-efi() { layerinit_iso && uefi "file=$PWD/appliance.iso,media=cdrom"; }

# ---- machines without a boot loader ----------------------------------------------------

# QEMU's microvm has no PCI, and one serial port. With its ACPI the kernel finds no timer that QEMU emulates without KVM.
loader_microvm() {
	printf '%s\n' -machine microvm,acpi=off -kernel "$kernel" -initrd "$initrd" -append "$words" \
		-chardev "file,id=second,path=$log.ttyS1" -device isa-serial,chardev=second,index=1 >qemu
}

# The kernel as an uncompressed ELF file, which QEMU starts at its PVH entry.
loader_pvh() {
	local setup offset length
	setup=$(od -An -tu1 -j $((0x1f1)) -N1 "$kernel")
	offset=$(od -An -tu4 -j $((0x248)) -N4 "$kernel")
	length=$(od -An -tu4 -j $((0x24c)) -N4 "$kernel")
	# The last four bytes are the size of the content.
	dd if="$kernel" bs=64K iflag=skip_bytes,count_bytes skip=$(((setup + 1) * 512 + offset)) count=$((length - 4)) \
		status=none >vmlinux.packed
	zstd -dqcf vmlinux.packed >vmlinux 2>/dev/null || xz -dc vmlinux.packed >vmlinux || lz4 -dqc vmlinux.packed >vmlinux
	printf '%s\n' -kernel "$PWD/vmlinux" -initrd "$initrd" -append "$words" >qemu
}
