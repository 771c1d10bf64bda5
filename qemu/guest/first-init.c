/*
 * The real init of the boots that qemu/bench measures. It writes a record to the kernel log, whose
 * timestamp is comparable with that of the kernel's "Run /init as init process", and starts
 * /sbin/bench-init, which measures the rest. It has one page and no C library, so that the time of
 * reading it from a compressed image is negligible.
 */
#include <asm/unistd.h>
#include <fcntl.h>

static const char line[] = "<6>bench: real init\n";

static long call(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c)
			 : "rcx", "r11", "memory");
	return result;
}

/* The stack from the kernel: the number of arguments, the arguments, NULL, the environment. */
__attribute__((used, noreturn)) static void start(long *stack)
{
	char **arguments = (char **)(stack + 1), **environment = arguments + *stack + 1;

	call(__NR_write, call(__NR_open, (long)"/dev/kmsg", O_WRONLY | O_CLOEXEC, 0), (long)line, sizeof(line) - 1);
	call(__NR_execve, (long)"/sbin/bench-init", (long)arguments, (long)environment);
	for (;;)
		call(__NR_pause, 0, 0, 0);
}

__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start\n");
