//! The signals that end a faulty program, and the alternate stack for their handler.
//!
//! Source: sigaction(2), sigaltstack(2), signal-safety(7).

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

/// The signals with which the kernel and the C library end a faulty program.
pub const FAULTS: [(c_int, &str); 7] = [
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGSYS, "SIGSYS"),
    (libc::SIGTRAP, "SIGTRAP"),
];

/// Bytes of stack for the handler, besides the frame that the kernel pushes.
const STACK_SIZE: usize = 32 << 10;

/// A signal of a fault, as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct FaultSignal {
    /// Its number.
    pub signal: c_int,
    /// What raised it.
    pub origin: Origin,
    /// The address of the instruction, on the architectures for which it is known.
    pub instruction: Option<usize>,
}

/// What raised a signal (si_code of sigaction(2)).
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// The kernel, because of an access to this address or an instruction at it.
    Address(usize),
    /// The kernel, without an address.
    Kernel,
    /// The process with this id, by kill(2) or abort(3).
    Process(c_int),
}

static HANDLER: OnceLock<fn(&FaultSignal)> = OnceLock::new();

/// Installs `handler` for each of [`FAULTS`]. It runs on the thread's alternate stack, if the thread has one,
/// and must keep to signal-safety(7). If it returns, the signal ends the program. execve(2) restores the
/// default dispositions.
pub fn install_handler(handler: fn(&FaultSignal)) {
    let _ = HANDLER.set(handler);
    let mut action = default_action();
    action.sa_sigaction = entry as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the call fills a set that this function owns.
    unsafe { libc::sigfillset(&mut action.sa_mask) };
    for (signal, _) in FAULTS {
        // SAFETY: `entry` has the signature that SA_SIGINFO requires; no old action is returned.
        unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
    }
}

fn default_action() -> libc::sigaction {
    // SAFETY: all fields are integers or an optional function, for which zeros are valid: SIG_DFL, no flags,
    // an empty set.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

extern "C" fn entry(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a pointer to the signal's information.
    let info = unsafe { &*info };
    let origin = match info.si_code {
        libc::SI_KERNEL => Origin::Kernel,
        code if code > 0 => {
            // SAFETY: signals of these numbers that the kernel raises carry an address.
            Origin::Address(unsafe { info.si_addr() } as usize)
        }
        _ => {
            // SAFETY: signals that a process sends carry its id.
            Origin::Process(unsafe { info.si_pid() })
        }
    };
    let instruction = instruction(context);
    if let Some(handler) = HANDLER.get() {
        handler(&FaultSignal {
            signal,
            origin,
            instruction,
        });
    }
    // SAFETY: the default action is a valid one.
    unsafe { libc::sigaction(signal, &default_action(), ptr::null_mut()) };
    // SAFETY: the signal is blocked here, and ends the program when this function returns.
    unsafe { libc::raise(signal) };
}

/// The address of the instruction at which the thread was interrupted.
fn instruction(context: *mut c_void) -> Option<usize> {
    // SAFETY: with SA_SIGINFO the kernel passes a pointer to the thread's context.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    #[cfg(target_arch = "x86_64")]
    let at = context.uc_mcontext.gregs.get(libc::REG_RIP as usize);
    #[cfg(target_arch = "x86")]
    let at = context.uc_mcontext.gregs.get(libc::REG_EIP as usize);
    #[cfg(target_arch = "aarch64")]
    let at = Some(&context.uc_mcontext.pc);
    #[cfg(target_arch = "arm")]
    let at = Some(&context.uc_mcontext.arm_pc);
    #[cfg(any(target_arch = "riscv64", target_arch = "riscv32"))]
    let at = context.uc_mcontext.__gregs.first();
    #[cfg(not(any(
        target_arch = "x86_64",
        target_arch = "x86",
        target_arch = "aarch64",
        target_arch = "arm",
        target_arch = "riscv64",
        target_arch = "riscv32"
    )))]
    let at: Option<&usize> = {
        let _ = context;
        None
    };
    at.map(|at| *at as usize)
}

/// Sends `signal` to the first thread, whose handler then runs.
pub fn pass_to_first_thread(signal: c_int) {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: tgkill(2) takes three integers; the id of the first thread is that of its process.
    unsafe { libc::syscall(libc::SYS_tgkill, process, process, signal) };
}

/// The alternate signal stack of this thread: after a stack overflow the handler cannot use the other one.
pub struct AlternateStack {
    /// The stack that the kernel was given.
    _memory: Box<[MaybeUninit<u8>]>,
}

impl AlternateStack {
    /// Sets up an alternate stack. `None` if the kernel refuses: handlers then run on the thread's own stack.
    pub fn new() -> Option<Self> {
        // SAFETY: getauxval(3) takes an integer, and returns 0 for an unknown one.
        let frame = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) };
        let size = usize::try_from(frame).ok()?.checked_add(STACK_SIZE)?;
        let mut memory = Box::new_uninit_slice(size);
        let stack = libc::stack_t {
            ss_sp: memory.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: size,
        };
        // SAFETY: the memory has that size, and is freed only after `drop` has disabled the stack.
        let done = unsafe { libc::sigaltstack(&stack, ptr::null_mut()) };
        (done == 0).then_some(Self { _memory: memory })
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        let none = libc::stack_t {
            ss_sp: ptr::null_mut(),
            ss_flags: libc::SS_DISABLE,
            ss_size: 0,
        };
        // SAFETY: no handler runs on the stack, because this thread runs here.
        unsafe { libc::sigaltstack(&none, ptr::null_mut()) };
    }
}

/// Wraps the work of a thread so that the thread has an alternate signal stack.
pub fn with_signal_stack<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    move || {
        let _stack = AlternateStack::new();
        work()
    }
}
