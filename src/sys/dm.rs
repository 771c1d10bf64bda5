//! Device-mapper's ioctls. Source: include/uapi/linux/dm-ioctl.h, drivers/md/dm-ioctl.c.

use std::os::fd::AsFd;

use rustix::io::{Errno, Result};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// `struct dm_ioctl`.
#[repr(C)]
struct DmIoctl {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// `struct dm_target_spec`.
#[repr(C)]
struct TargetSpec {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; 16],
}

/// The longest parameters of a target, with their NUL, in bytes.
const PARAMETERS_MAX: usize = 2048;

/// What the kernel gets: the header, and for a table one target with its parameters.
#[repr(C)]
struct DmRequest {
    header: DmIoctl,
    target: TargetSpec,
    parameters: [u8; PARAMETERS_MAX],
}

const _: () = assert!(size_of::<DmIoctl>() == 312);
const _: () = assert!(size_of::<TargetSpec>() == 40);

const DM_DEV_CREATE: Opcode = opcode::read_write::<DmIoctl>(0xfd, 3);
const DM_DEV_REMOVE: Opcode = opcode::read_write::<DmIoctl>(0xfd, 4);
const DM_DEV_SUSPEND: Opcode = opcode::read_write::<DmIoctl>(0xfd, 6);
const DM_TABLE_LOAD: Opcode = opcode::read_write::<DmIoctl>(0xfd, 9);

const DM_READONLY_FLAG: u32 = 1;

/// Copies text into a field that ends with a NUL.
fn set(field: &mut [u8], text: &str) -> Result<()> {
    match field.get_mut(..text.len()) {
        Some(start) if text.len() < PARAMETERS_MAX => {
            start.copy_from_slice(text.as_bytes());
            match field.get(text.len()) {
                Some(0) => Ok(()),
                _ => Err(Errno::NAMETOOLONG),
            }
        }
        _ => Err(Errno::NAMETOOLONG),
    }
}

impl DmRequest {
    fn new(name: &str) -> Result<Self> {
        let mut request = Self {
            header: DmIoctl {
                version: [4, 0, 0],
                data_size: size_of::<Self>() as u32,
                data_start: size_of::<DmIoctl>() as u32,
                target_count: 0,
                open_count: 0,
                flags: 0,
                event_nr: 0,
                padding: 0,
                dev: 0,
                name: [0; 128],
                uuid: [0; 129],
                data: [0; 7],
            },
            target: TargetSpec {
                sector_start: 0,
                length: 0,
                status: 0,
                next: 0,
                target_type: [0; 16],
            },
            parameters: [0; PARAMETERS_MAX],
        };
        set(&mut request.header.name, name)?;
        Ok(request)
    }

    fn call<const OPCODE: Opcode>(&mut self, control: impl AsFd) -> Result<()> {
        // SAFETY: the kernel reads and writes `data_size` bytes from the header on (copy_params, copy_to_user in
        // ctl_ioctl), which is the size of this struct. Any bytes are valid for its fields.
        let update = unsafe { Updater::<OPCODE, _>::new(self) };
        // SAFETY: as above; the struct holds no pointers.
        unsafe { ioctl(control, update) }
    }
}

/// Creates a device without a table. Returns its number, as of `stat(2)`.
///
/// # Errors
/// The errno of DM_DEV_CREATE: EBUSY if the name is taken.
pub fn create(control: impl AsFd, name: &str, uuid: &str) -> Result<u64> {
    let mut request = DmRequest::new(name)?;
    set(&mut request.header.uuid, uuid)?;
    request.call::<DM_DEV_CREATE>(control)?;
    Ok(request.header.dev)
}

/// Loads a table of one target, read-only. `sectors` is its length in units of 512 bytes.
pub fn load(
    control: impl AsFd,
    name: &str,
    target: &str,
    sectors: u64,
    parameters: &str,
) -> Result<()> {
    let mut request = DmRequest::new(name)?;
    request.header.flags = DM_READONLY_FLAG;
    request.header.target_count = 1;
    request.target.length = sectors;
    set(&mut request.target.target_type, target)?;
    set(&mut request.parameters, parameters)?;
    request.call::<DM_TABLE_LOAD>(control)
}

/// Makes a loaded table active.
pub fn resume(control: impl AsFd, name: &str) -> Result<()> {
    DmRequest::new(name)?.call::<DM_DEV_SUSPEND>(control)
}

/// Removes a device that is not in use.
pub fn remove(control: impl AsFd, name: &str) -> Result<()> {
    DmRequest::new(name)?.call::<DM_DEV_REMOVE>(control)
}
