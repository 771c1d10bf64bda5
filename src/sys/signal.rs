//! The signals of a fault, and the stacks that their handler runs on.
//!
//! Source: sigaction(2), sigaltstack(2), signal-safety(7).

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

/// What the kernel and the C library end a program with that has gone wrong.
pub const FAULTS: [(c_int, &str); 7] = [
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGSYS, "SIGSYS"),
    (libc::SIGTRAP, "SIGTRAP"),
];

/// Bytes of a stack for the handler, besides what the kernel puts there.
const STACK: usize = 32 << 10;

/// A signal of a fault, as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Its number.
    pub signal: c_int,
    /// Who raised it.
    pub origin: Origin,
    /// Where the thread was, on the architectures that this is known of.
    pub instruction: Option<usize>,
}

/// Who raised a signal (si_code of sigaction(2)).
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// The kernel, for an access to this address, or an instruction there.
    Address(usize),
    /// The kernel, without an address.
    Kernel,
    /// A process, as kill(2) and abort(3) do.
    Process(c_int),
}

static HANDLER: OnceLock<fn(&Fault)> = OnceLock::new();

/// Has `handler` called for each of [`FAULTS`], on the alternate stack of a thread that has one. It must
/// keep to what signal-safety(7) allows. Where it returns, the program ends by the signal. At execve(2)
/// the dispositions are the default ones again, and the stacks are gone.
pub fn catch(handler: fn(&Fault)) {
    let _ = HANDLER.set(handler);
    let mut action = default_action();
    action.sa_sigaction = entry as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the set is ours, and filled by the call.
    unsafe { libc::sigfillset(&mut action.sa_mask) };
    for (signal, _) in FAULTS {
        // SAFETY: `entry` has the signature that SA_SIGINFO asks for; the old action is not wanted.
        unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
    }
}

fn default_action() -> libc::sigaction {
    // SAFETY: a struct of integers and an optional function, for all of which zeros are valid: SIG_DFL,
    // no flags, an empty set.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

extern "C" fn entry(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a pointer to the signal's information.
    let info = unsafe { &*info };
    let origin = match info.si_code {
        libc::SI_KERNEL => Origin::Kernel,
        code if code > 0 => {
            // SAFETY: the kernel's own signals of these numbers carry an address.
            Origin::Address(unsafe { info.si_addr() } as usize)
        }
        _ => {
            // SAFETY: signals that a process sends carry its identifier.
            Origin::Process(unsafe { info.si_pid() })
        }
    };
    let instruction = instruction(context);
    if let Some(handler) = HANDLER.get() {
        handler(&Fault {
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

/// The instruction at which a thread was interrupted.
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

/// Has the first thread get `signal`, and its handler run there.
pub fn pass_to_first_thread(signal: c_int) {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: tgkill(2) takes three numbers; the first thread is called as its process is.
    unsafe { libc::syscall(libc::SYS_tgkill, process, process, signal) };
}

/// A stack of this thread for handlers of signals: a stack that is used up cannot take one.
pub struct AlternateStack {
    /// What the kernel has been told of.
    _memory: Box<[MaybeUninit<u8>]>,
}

impl AlternateStack {
    /// Tells the kernel of a new one. Where it is refused, handlers run on the thread's own stack.
    pub fn new() -> Option<Self> {
        // SAFETY: getauxval(3) takes a number; an unknown one gives 0.
        let frame = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) };
        let size = usize::try_from(frame).ok()?.checked_add(STACK)?;
        let mut memory = Box::new_uninit_slice(size);
        let stack = libc::stack_t {
            ss_sp: memory.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: size,
        };
        // SAFETY: the memory is that long, and stays until `drop` has told the kernel to forget it.
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
        // SAFETY: no handler runs on it: it is this thread that is here.
        unsafe { libc::sigaltstack(&none, ptr::null_mut()) };
    }
}

/// `work` for a thread that can take a signal of a fault whatever its stack is like.
pub fn guarded<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    move || {
        let _stack = AlternateStack::new();
        work()
    }
}
