# The boot loaders of the rows. Sourced by run-rows.
# shellcheck shell=bash
#
# loader_NAME makes in the current directory, which is empty, what QEMU boots without -kernel and -initrd, and
# writes QEMU's arguments to the file qemu, one a line. It finds
#
#   $kernel     the kernel's file
#   ${parts[@]} the initrd in pieces, the loader first, then one file for each layer
#   $words      the command line

# The firmware and boot loaders that are packages with files only.
loader_packages() {
	need python3=python3 grub-mkrescue=grub-common xorriso=xorriso mcopy=mtools mkfs.vfat=dosfstools syslinux=syslinux
	need_files /usr/lib/grub/i386-pc/linux.mod=grub-pc-bin /usr/lib/grub/x86_64-efi/linux.mod=grub-efi-amd64-bin \
		/usr/share/OVMF/OVMF_CODE_4M.fd=ovmf /usr/lib/systemd/boot/efi/systemd-bootx64.efi=systemd-boot-efi \
		/usr/lib/ISOLINUX/isolinux.bin=isolinux /usr/lib/syslinux/modules/bios/ldlinux.c32=syslinux-common \
		/usr/lib/ipxe/qemu/efi-virtio.rom=ipxe-qemu /usr/lib/python3/dist-packages/pefile.py=python3-pefile
}

# ---- firmware -----------------------------------------------------------------------

# bios DRIVE-OPTION: QEMU's own SeaBIOS, and a disk.
bios() { printf '%s\n' -drive "$1,format=raw,snapshot=on" >qemu; }

# uefi DRIVE-OPTION [VARIANT]: OVMF and a disk.
uefi() { ovmf "${2-}" && printf '%s\n' -drive "$1,format=raw,snapshot=on" >>qemu; }

# ovmf [VARIANT]: OVMF with variables of its own, vars.fd. The variant "ms" has Secure Boot on, with
# Microsoft's keys, and needs System Management Mode, which keeps its variables from the kernel.
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

# esp FILE DIR: makes a FAT filesystem of a folder, as an EFI system partition or a boot partition.
esp() {
	truncate -s $(($(du -sm "$2" | cut -f 1) + 34))M "$1"
	mkfs.vfat -F 32 -n BOOT "$1" >/dev/null
	mcopy -s -i "$1" "$2"/* ::
}

# ---- boot loaders -------------------------------------------------------------------

# grub_config FOLDER: prints a configuration that boots the pieces below FOLDER.
grub_config() {
	cat <<-END
		serial --unit=0 --speed=115200
		terminal_input serial
		terminal_output serial
		set timeout=0
		menuentry 'layers' {
			linux $1/vmlinuz $words
			initrd $(printf "$1/%s " "${parts[@]##*/}")
		}
	END
}

grub_iso() {
	mkdir -p iso/boot/grub
	cp "$kernel" iso/boot/vmlinuz
	cp "${parts[@]}" iso/boot
	grub_config /boot >iso/boot/grub/grub.cfg
	grub-mkrescue -o disk.iso iso >mkrescue.log 2>&1 || { cat mkrescue.log >&2; return 1; }
}

# GRUB on an ISO, started by a BIOS or by UEFI, with one initrd= for each piece.
loader_grub() { grub_iso && bios "file=$PWD/disk.iso,media=cdrom"; }
loader_grub-efi() { grub_iso && uefi "file=$PWD/disk.iso,media=cdrom"; }

# The same with Secure Boot: Debian's shim, GRUB and kernel are signed. A locked-down kernel boots an initrd
# as any other: nobody signs it.
loader_secure-boot() {
	local deb dir
	mkdir -p esp/EFI/{BOOT,debian} shim
	for deb in $("$repo/qemu/kernel/debian-package" trixie shim-signed grub-efi-amd64-signed); do
		dpkg-deb -x "$deb" shim
	done
	dir=shim/usr/lib
	cp "$dir/shim/shimx64.efi.signed" esp/EFI/BOOT/BOOTX64.EFI
	cp "$dir/grub/x86_64-efi-signed/grubx64.efi.signed" esp/EFI/BOOT/grubx64.efi
	cp "$kernel" esp/vmlinuz
	cp "${parts[@]}" esp
	grub_config '' >esp/EFI/debian/grub.cfg
	esp disk.img esp
	uefi "file=$PWD/disk.img,if=virtio" ms
}

# OVMF alone, which gets kernel and initrd from QEMU, with the certificate $work/signer.der in its db.
loader_enrolled() {
	cat "${parts[@]}" >initrd
	ovmf
	"$repo/qemu/enroll" vars.fd "$work/signer.der"
	printf '%s\n' -kernel "$kernel" -initrd "$PWD/initrd" -append "$words" >>qemu
}

# systemd-boot and an entry of the boot loader specification.
loader_systemd-boot() {
	mkdir -p esp/EFI/BOOT esp/loader/entries
	cp /usr/lib/systemd/boot/efi/systemd-bootx64.efi esp/EFI/BOOT/BOOTX64.EFI
	cp "$kernel" esp/vmlinuz
	cp "${parts[@]}" esp
	echo 'timeout 0' >esp/loader/loader.conf
	{
		printf 'title layers\nlinux /vmlinuz\n'
		printf 'initrd /%s\n' "${parts[@]##*/}"
		printf 'options %s\n' "$words"
	} >esp/loader/entries/layers.conf
	esp disk.img esp
	uefi "file=$PWD/disk.img,if=virtio"
}

syslinux_config() {
	local initrd
	printf -v initrd ',%s' "${parts[@]##*/}"
	printf 'SERIAL 0 115200\nDEFAULT layers\nLABEL layers\n LINUX vmlinuz\n INITRD %s\n APPEND %s\n' "${initrd#,}" "$words"
}

# SYSLINUX on a FAT filesystem. It knows names of eight and three characters there.
loader_syslinux() {
	mkdir boot
	cp "$kernel" boot/vmlinuz
	cp "${parts[@]}" boot
	syslinux_config >boot/syslinux.cfg
	esp disk.img boot
	syslinux --install disk.img
	bios "file=$PWD/disk.img"
}

# iPXE, the firmware of QEMU's network cards, with everything from a TFTP server.
loader_ipxe() {
	mkdir tftp
	cp "$kernel" tftp/vmlinuz
	cp "${parts[@]}" tftp
	{
		printf '#!ipxe\nkernel vmlinuz %s\n' "$words"
		printf 'initrd %s\n' "${parts[@]##*/}"
		echo boot
	} >tftp/boot.ipxe
	printf '%s\n' -netdev "user,id=net,tftp=$PWD/tftp,bootfile=boot.ipxe" \
		-device virtio-net-pci,netdev=net -boot n >qemu
}

# ---- files of layerinit build ----------------------------------------------------------

# bundle OPTION...: runs layerinit build with the kernel, its modules and the command line.
bundle() {
	local tools
	tools=$(systemd_tools)
	LAYERINIT_INIT=$init PATH=$tools/usr/bin:/usr/bin:/bin:/usr/sbin:/sbin "$layerinit" build --kernel "$kernel" \
		--modules "${kernel%/boot/*}" --cmdline "$words" "$@"
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

# A unified kernel image with all layers.
loader_uki() {
	mkdir -p esp/EFI/BOOT
	bundle --uki esp/EFI/BOOT/BOOTX64.EFI --uki-stub "$(systemd_tools)/usr/lib/systemd/boot/efi/linuxx64.efi.stub" \
		"${parts[@]/#/--layer=}"
	"$layerinit" check esp/EFI/BOOT/BOOTX64.EFI
	esp disk.img esp
	uefi "file=$PWD/disk.img,if=virtio"
}

# One with the lowest layer; the others are addons beside it, with a credential for systemd.
loader_addon() {
	local part stubs extra=esp/EFI/BOOT/BOOTX64.EFI.extra.d
	stubs=$(systemd_tools)/usr/lib/systemd/boot/efi
	mkdir -p "$extra"
	bundle --uki esp/EFI/BOOT/BOOTX64.EFI --uki-stub "$stubs/linuxx64.efi.stub" --layer "${parts[0]}"
	for part in "${parts[@]:1}"; do
		PATH=$(systemd_tools)/usr/bin:/usr/bin:/bin "$layerinit" build --uki "$extra/${part##*/}.addon.efi" \
			--uki-stub "$stubs/addonx64.efi.stub" --layer "$part"
	done
	echo secret >"$extra/word.cred"
	esp disk.img esp
	uefi "file=$PWD/disk.img,if=virtio"
}

# One for a Debian on a disk, with credentials and extension images beside it.
loader_uki-stub() {
	local kind extra=esp/EFI/BOOT/BOOTX64.EFI.extra.d
	mkdir -p "$extra"
	bundle --uki esp/EFI/BOOT/BOOTX64.EFI --uki-stub "$(systemd_tools)/usr/lib/systemd/boot/efi/linuxx64.efi.stub" \
		--module virtio_pci,virtio_blk,ext4 "${parts[@]/#/--layer=}"
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
	bundle --iso disk.iso "${parts[@]/#/--layer=}"
	"$layerinit" check disk.iso
}
loader_iso() { layerinit_iso && bios "file=$PWD/disk.iso,media=cdrom"; }
loader_iso-efi() { layerinit_iso && uefi "file=$PWD/disk.iso,media=cdrom"; }
