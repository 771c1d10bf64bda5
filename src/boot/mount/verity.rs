//! The root device with dm-verity: the kernel verifies each block when it is read.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;

use log::{debug, info};
use rustix::fs::{CWD, FileType, Mode, major, makedev, minor, mknodat};
use rustix::io::Errno;

use super::device::DeviceFinder;
use crate::bytes::ReadAt;
use crate::device::{DeviceQuery, MatchedDevice};
use crate::error::{Context, Error, Result};
use crate::format::verity::{Format, LENGTH};
use crate::module::loader::Loader;
use crate::plan::verity::{NAME, Signature, Verity};
use crate::sys::dm;
use crate::sys::keyring::{PAYLOAD_MAX, ThreadKey};

const CONTROL: &str = "/dev/mapper/control";

/// MISC_MAJOR and MAPPER_CTRL_MINOR (include/uapi/linux/major.h, include/linux/miscdevice.h).
const CONTROL_NUMBER: (u32, u32) = (10, 236);

/// The key that has the signature while the kernel reads it.
const SIGNATURE_KEY: &str = "layerinit:root";

/// The parameters of the target that name the key (Documentation/admin-guide/device-mapper/verity.rst).
const SIGNATURE_PARAMETERS: [&str; 2] = ["root_hash_sig_key_desc", SIGNATURE_KEY];

/// Sets up /dev/mapper/root.
///
/// # Errors
/// A device is missing or has no hash tree, or the kernel refuses it or the signature of the root hash. Without a
/// signature, the kernel notices a wrong root hash when it reads the first block.
pub fn open(finder: &mut DeviceFinder, verity: &Verity, loader: &mut Loader) -> Result<()> {
    let signature = verity.signature.as_ref().map(read_signature).transpose()?;
    let query = |word, spec| DeviceQuery {
        word,
        spec,
        degraded: false,
    };
    let data = finder.find(query("systemd.verity_root_data", &verity.data), loader)?;
    let hash = finder.find(query("systemd.verity_root_hash", &verity.hash), loader)?;
    let format = match &verity.format {
        Some(format) => format.clone(),
        None => superblock(&hash, verity.hash_offset)?,
    };
    let sectors = format.sectors().unwrap_or_default();
    if sectors.saturating_mul(512) > data.device.size {
        let (size, blocks, block) = (data.device.size, format.data_blocks, format.data_block);
        let what =
            format!("it has {size} bytes, and the hash tree is for {blocks} blocks of {block}");
        return Err(Error::new("use", data.path.display(), what));
    }
    let number = |found: &MatchedDevice| format!("{}:{}", found.device.major, found.device.minor);
    let mut parameters = verity.behaviour.parameters();
    if signature.is_some() {
        parameters.extend(SIGNATURE_PARAMETERS);
    }
    let table = format.table(
        &number(&data),
        &number(&hash),
        verity.hash_offset,
        &verity.root_hash,
        &parameters,
    );
    set_up(NAME, &format, &table, signature.as_deref(), loader)?;
    info!(
        "/dev/mapper/{NAME}: verified by dm-verity, data on {}, hash tree on {}{}",
        data.path.display(),
        hash.path.display(),
        match signature {
            Some(_) => ", root hash signed",
            None => "",
        }
    );
    Ok(())
}

/// The signature of the root hash.
fn read_signature(signature: &Signature) -> Result<Vec<u8>> {
    match signature {
        Signature::Inline(bytes) => Ok(bytes.clone()),
        Signature::File(path) => {
            let hint = "root-hash-signature= names a file of the initramfs: add it to the loader with --spec, or give \
                        base64:...";
            let file = File::open(path)
                .during("open", path)
                .map_err(|error| error.hint(hint))?;
            let mut bytes = Vec::new();
            let read = file
                .take(PAYLOAD_MAX.saturating_add(1))
                .read_to_end(&mut bytes);
            read.during("read", path).map(|_| bytes)
        }
    }
}

/// Sets up the device /dev/mapper/`name` with a table for `format`, which has [`SIGNATURE_PARAMETERS`] if there is a
/// signature. Returns its number.
///
/// # Errors
/// The kernel has no dm-verity, or refuses the table or the signature.
pub(super) fn set_up(
    name: &str,
    format: &Format,
    table: &str,
    signature: Option<&[u8]>,
    loader: &mut Loader,
) -> Result<u64> {
    // The kernel would run modprobe for its hash algorithm.
    let modules = [
        "dm_mod",
        "dm_verity",
        &format!("crypto-{}", format.algorithm),
    ];
    loader.load_requested(&modules.map(String::from));
    let sectors = format.sectors().unwrap_or_default();
    debug!("/dev/mapper/{name}: 0 {sectors} verity {table}");
    let control = control()?;
    // The name that veritysetup uses, so that it can close the device.
    let uuid = format!("CRYPT-VERITY-{}-{name}", format.uuid.replace('-', ""));
    let path = format!("/dev/mapper/{name}");
    // Deleted when the kernel has verified it, as libcryptsetup does.
    let _key = signature
        .map(|signature| ThreadKey::add(SIGNATURE_KEY, signature))
        .transpose()
        .during("add", "the signature to the keyring")
        .map_err(|error| error.hint("the kernel needs CONFIG_KEYS, and takes 1 to 32767 bytes"))?;
    let created = dm::create(&control, name, &uuid).during("create", &path)?;
    dm::load(&control, name, "verity", sectors, table)
        .and_then(|()| dm::resume(&control, name))
        .inspect_err(|_| {
            let _ = dm::remove(&control, name);
        })
        .during("set up", format_args!("{path} (dm-verity {table})"))
        .map_err(|error| {
            let hint = advice(&error, signature.is_some());
            error.hint(hint)
        })?;
    link(&path, created)?;
    Ok(created)
}

/// What to do if the kernel refuses a table. Sources: verity_verify_root_hash() in drivers/md/dm-verity-verify-sig.c,
/// verify_pkcs7_message_sig() in certs/system_keyring.c.
fn advice(error: &Error, is_signed: bool) -> &'static str {
    let has = |errno| error.has(&[errno]);
    match is_signed {
        true if has(Errno::NOKEY) => {
            "no certificate in the kernel's keyrings has made the signature: build the signer's into the kernel \
             (CONFIG_SYSTEM_TRUSTED_KEYS), or enroll it in UEFI's db or as a MOK"
        }
        true if has(Errno::KEYREJECTED) => {
            "the signature is not one of this root hash, or its certificate is revoked (UEFI's dbx)"
        }
        true if has(Errno::BADMSG) => {
            "the signature is damaged, or not PKCS#7 in DER (openssl smime -sign -noattr -nocerts -binary -outform der)"
        }
        true if has(Errno::NOPKG) => {
            "the kernel lacks the hash algorithm or the key algorithm of the signature"
        }
        true => {
            "it needs CONFIG_DM_VERITY, or the module dm_verity in the loader, and \
             CONFIG_DM_VERITY_VERIFY_ROOTHASH_SIG for the signature"
        }
        false if has(Errno::NOKEY) => {
            "the kernel wants a signature (dm_verity.require_signatures): \
             systemd.verity_root_options=root-hash-signature=PATH"
        }
        false => "it needs CONFIG_DM_VERITY, or the module dm_verity in the loader",
    }
}

/// Reads the superblock of the hash device.
fn superblock(hash: &MatchedDevice, offset: u64) -> Result<Format> {
    let mut bytes = [0; LENGTH];
    let object = || {
        format!(
            "dm-verity superblock of {} at {offset:#x}",
            hash.path.display()
        )
    };
    let file = hash.device.open()?;
    file.read_exact_at(&mut bytes, offset)
        .during("read", object())?;
    Format::parse(&bytes).map_err(|what| Error::new("read", object(), what))
}

/// Opens the driver. Creates its node where there is no devtmpfs.
fn control() -> Result<File> {
    if !Path::new(CONTROL).exists() {
        fs::create_dir_all("/dev/mapper").during("create", "/dev/mapper")?;
        let (major, minor) = CONTROL_NUMBER;
        let device = makedev(major, minor);
        match mknodat(
            CWD,
            CONTROL,
            FileType::CharacterDevice,
            Mode::RUSR | Mode::WUSR,
            device,
        ) {
            Err(Errno::EXIST) => {}
            done => done.during("create", CONTROL)?,
        }
    }
    let mut options = File::options();
    let file = options.read(true).write(true).open(CONTROL);
    file.during("open", CONTROL).map_err(|error| {
        error.hint("it needs CONFIG_BLK_DEV_DM, or the module dm_mod in the loader")
    })
}

/// Links the name of the device to its node, as udev does.
fn link(path: &str, number: u64) -> Result<()> {
    let target = format!("../dm-{}", minor(number));
    debug!("{path}: device {}:{}", major(number), minor(number));
    match symlink(&target, path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        done => done.during("create", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_a_signature_has_its_advice() {
        let advice = |errno, is_signed| {
            let error = Err::<(), _>(errno).during("set up", "/dev/mapper/root");
            let error = error.unwrap_err();
            super::advice(&error, is_signed)
        };
        for (errno, words) in [
            (Errno::NOKEY, "enroll it in UEFI's db"),
            (Errno::KEYREJECTED, "not one of this root hash"),
            (Errno::BADMSG, "not PKCS#7 in DER"),
            (Errno::NOPKG, "lacks the hash algorithm"),
            // "Unrecognized verity feature request".
            (Errno::INVAL, "CONFIG_DM_VERITY_VERIFY_ROOTHASH_SIG"),
        ] {
            assert!(advice(errno, true).contains(words), "{errno}");
        }
        assert!(advice(Errno::NOKEY, false).contains("require_signatures"));
        let missing = "it needs CONFIG_DM_VERITY, or the module dm_verity in the loader";
        assert_eq!(advice(Errno::INVAL, false), missing);
    }
}
