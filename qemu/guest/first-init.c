/*
 * The real init of the boots that qemu/bench measures: a line in the kernel log, whose stamp is
 * from the same clock as that of the kernel's own "Run /init as init process"; then the program
 * that looks around, /sbin/bench-init. It is one page without a C library, so that reading it
 * from a compressed image is no part of the figure.
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

/* The stack as the kernel leaves it: the number of arguments, they, NULL, the environment. */
__attribute__((used, noreturn)) static void start(long *stack)
{
	char **arguments = (char **)(stack + 1), **environment = arguments + *stack + 1;

	call(__NR_write, call(__NR_open, (long)"/dev/kmsg", O_WRONLY | O_CLOEXEC, 0), (long)line, sizeof(line) - 1);
	call(__NR_execve, (long)"/sbin/bench-init", (long)arguments, (long)environment);
	for (;;)
		call(__NR_pause, 0, 0, 0);
}

__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start\n");
