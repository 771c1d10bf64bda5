// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Uses the files of a memback mount in every way that user space has of getting at pages:
 *
 *   in-place DIR CACHED [all]
 *
 * DIR has this program as "program" and a file "data" that is SIZE bytes long. CACHED is how many
 * pages of "data" are in the page cache once all of it has been mapped: 0 if it is in place. With
 * "all", what the kernel's configuration may leave out has to be there. Each failure is a line "FAIL".
 *
 *   in-place write FILE     writes "data"
 *   in-place run            calls marker() and exits with 42
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE	((3 << 20) + 100)	/* ends in the middle of a page */
#define PAGE	((size_t)sysconf(_SC_PAGESIZE))
#define PAGES	((SIZE + PAGE - 1) / PAGE)
#define COUNT(a) (sizeof(a) / sizeof(*(a)))

static const char *dir, *subject = "";
static char program[PATH_MAX], data[PATH_MAX];
static int failures, all, fd;
static unsigned long long cached;

static void fail(const char *format, ...)
{
	va_list args;

	failures++;
	printf("FAIL in-place %s, %s: ", dir, subject);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
}

static unsigned char byte_at(size_t i)
{
	return (i * 31 + (i >> 12) * 7 + 3) & 0xff;
}

/* the first byte that is not as it should be, or n */
static size_t differs(const void *p, size_t start, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (((const volatile unsigned char *)p)[i] != byte_at(start + i))
			break;
	return i;
}

static void expect(const void *p, size_t start, size_t n, const char *what)
{
	size_t i = differs(p, start, n);

	if (i < n)
		fail("%s: byte %zu is wrong", what, start + i);
}

/* mincore() looks at the page cache where nothing is mapped yet */
static unsigned long long in_cache(void)
{
	unsigned char *p = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_SHARED, fd, 0), vec[PAGES];
	unsigned long long n = 0;

	if (p == MAP_FAILED || mincore(p, PAGES * PAGE, vec) < 0)
		fail("mincore: %m");
	for (size_t i = 0; i < PAGES; i++)
		n += vec[i] & 1;
	munmap(p, PAGES * PAGE);
	return n;
}

static unsigned char *map(int prot, int flags)
{
	unsigned char *p = mmap(NULL, PAGES * PAGE, prot, flags, fd, 0);

	if (p == MAP_FAILED) {
		fail("mmap: %m");
		exit(1);
	}
	return p;
}

static void unmap(void *p)
{
	munmap(p, PAGES * PAGE);
}

/* what the configuration may leave out: with "all" it is a failure that it is not there */
static void missing(const char *what)
{
	if (all)
		fail("%s: %m", what);
	else
		printf("in-place: without %s (%m)\n", what);
}

static int wait_for(pid_t pid)
{
	int status = -1;

	waitpid(pid, &status, 0);
	return status;
}

__attribute__((noinline)) void marker(void)
{
	__asm__ volatile ("" ::: "memory");
}

static pid_t run(const char *path)
{
	pid_t pid = fork();

	if (!pid) {
		execl(path, path, "run", NULL);
		_exit(1);
	}
	return pid;
}

static void expect_runs(const char *path)
{
	int status = wait_for(run(path));

	if (!WIFEXITED(status) || WEXITSTATUS(status) != 42)
		fail("%s ended with status %#x", path, status);
}

/* --- reading --- */

static void reads(void)
{
	static unsigned char buf[200001];
	struct iovec iov[2] = { { buf, 5000 }, { buf + 5000, 7777 } };

	for (size_t pos = 0; pos < SIZE; pos += 99991) {
		ssize_t n = pread(fd, buf, sizeof(buf), pos);
		ssize_t left = SIZE - pos < sizeof(buf) ? SIZE - pos : sizeof(buf);

		if (n != left)
			fail("pread at %zu: %zd (%m)", pos, n);
		else
			expect(buf, pos, n, "pread");
	}
	if (preadv(fd, iov, 2, 4095) != 12777)
		fail("preadv: %m");
	expect(buf, 4095, 12777, "preadv");
	if (pread(fd, buf, 1, SIZE) || pread(fd, buf, 1, 1ULL << 40))
		fail("something is read behind the end");
	if (syscall(SYS_pread64, fd, 8UL, 4096UL, 0UL) >= 0 || errno != EFAULT)
		fail("read to a bad address: %m");
	if (posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED) || readahead(fd, 0, SIZE) ||
	    posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL) || posix_fadvise(fd, 0, 0, POSIX_FADV_NORMAL) ||
	    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM) || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED))
		fail("fadvise: %m");
	if (posix_fadvise(fd, 0, 0, 77) != EINVAL)
		fail("fadvise takes any advice");
	if (in_cache())
		fail("reading left %llu pages in the page cache", in_cache());
}

static void splices(void)
{
	static unsigned char buf[SIZE];
	unsigned char *p = map(PROT_READ, MAP_SHARED);
	int pipes[2], out = memfd_create("out", 0);
	loff_t pos = 4000;
	off_t from = 100;
	ssize_t n;

	if (sendfile(out, fd, &from, SIZE - 100) != SIZE - 100)
		fail("sendfile: %m");
	if (pread(out, buf, SIZE, 0) != SIZE - 100)
		fail("read of what was sent: %m");
	expect(buf, 100, SIZE - 100, "sendfile");
	if (pipe(pipes) < 0)
		fail("pipe: %m");
	n = splice(fd, &pos, pipes[1], NULL, 9000, 0);
	if (n <= 0 || read(pipes[0], buf, n) != n)
		fail("splice: %zd (%m)", n);
	else
		expect(buf, 4000, n, "splice");
	/* pages of the mapping in a pipe outlive the mapping */
	struct iovec iov = { p + 4096, 20000 };
	n = vmsplice(pipes[1], &iov, 1, 0);
	unmap(p);
	if (n != 20000 || read(pipes[0], buf, n) != n)
		fail("vmsplice: %zd (%m)", n);
	else
		expect(buf, 4096, n, "vmsplice");
	close(pipes[0]);
	close(pipes[1]);
	close(out);
}

/* --- mappings --- */

static void mappings(void)
{
	static const int advice[] = {
		MADV_SEQUENTIAL, MADV_RANDOM, MADV_WILLNEED, MADV_COLD, MADV_PAGEOUT, MADV_DONTNEED,
		MADV_POPULATE_READ, MADV_NORMAL,
	};
	unsigned char *p = map(PROT_READ, MAP_SHARED), *q, vec[PAGES];

	expect(p, 0, SIZE, "shared mapping");
	for (size_t i = SIZE; i < PAGES * PAGE; i++)
		if (p[i])
			fail("byte %zu behind the end is %#x", i, p[i]);
	if (mincore(p, SIZE, vec) < 0 || !(vec[0] & 1) || !(vec[PAGES - 1] & 1))
		fail("mincore: %m");
	if (in_cache() != cached)
		fail("%llu pages are in the page cache, not %llu", in_cache(), cached);
	for (size_t i = 0; i < COUNT(advice); i++) {
		if (madvise(p, PAGES * PAGE, advice[i]) < 0)
			fail("madvise %d: %m", advice[i]);
		expect(p, 0, SIZE, "after madvise");
	}
	q = mremap(p, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + (64 << 20));
	if (q == MAP_FAILED)
		fail("mremap: %m");
	else
		expect(q, 0, SIZE, "after mremap"), p = q;
	if (mprotect(p, PAGES * PAGE, PROT_READ | PROT_WRITE) >= 0 || errno != EACCES)
		fail("a shared mapping becomes writable: %m");
	unmap(p);
	/* in the middle, more than once, populated */
	p = mmap(NULL, 9 * PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_POPULATE, fd, 5 * PAGE);
	q = mmap(NULL, 3 * PAGE, PROT_READ, MAP_SHARED, fd, 7 * PAGE);
	expect(p, 5 * PAGE, 9 * PAGE, "populated");
	expect(q, 7 * PAGE, 3 * PAGE, "second mapping");
	munmap(p, 9 * PAGE);
	expect(q, 7 * PAGE, 3 * PAGE, "second mapping alone");
	munmap(q, 3 * PAGE);
	if (in_cache() != cached)
		fail("in the end %llu pages are in the page cache, not %llu", in_cache(), cached);
}

/* beyond the last page there is nothing */
static void beyond(void)
{
	pid_t pid = fork();

	if (!pid) {
		unsigned char *p = mmap(NULL, (PAGES + 2) * PAGE, PROT_READ, MAP_SHARED, fd, 0);
		volatile unsigned char c = p[SIZE - 1];

		c = p[PAGES * PAGE];
		(void)c;
		_exit(0);
	}
	int status = wait_for(pid);

	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGBUS)
		fail("reading behind the last page: status %#x, not SIGBUS", status);
}

/* read first or not; writable from the start or later */
static void private_writes(void)
{
	static unsigned char buf[SIZE];

	for (int i = 0; i < 4; i++) {
		unsigned char *p = map(i & 1 ? PROT_READ | PROT_WRITE : PROT_READ, MAP_PRIVATE);

		if (i & 2)
			expect(p, 0, SIZE, "private mapping");
		if (mprotect(p, PAGES * PAGE, PROT_READ | PROT_WRITE) < 0)
			fail("mprotect: %m");
		for (size_t at = 0; at < SIZE; at += 3 * PAGE)
			p[at]++;
		p[SIZE] = 1;	/* behind the end, in the last page */
		for (size_t at = 0; at < SIZE; at += 3 * PAGE) {
			if (p[at] != (unsigned char)(byte_at(at) + 1))
				fail("a private write at %zu is lost", at);
			if (at + 1 < SIZE)
				expect(p + at + 1, at + 1, 1, "beside a private write");
		}
		pid_t pid = fork();
		if (!pid) {
			p[0] = 77, p[PAGE] = 78;
			_exit(p[3 * PAGE] != (unsigned char)(byte_at(3 * PAGE) + 1) ||
			      p[2 * PAGE] != byte_at(2 * PAGE));
		}
		if (wait_for(pid))
			fail("a child sees something else");
		if (p[0] != (unsigned char)(byte_at(0) + 1) || p[PAGE] != byte_at(PAGE))
			fail("a child's write is seen in the parent");
		if (madvise(p, PAGES * PAGE, MADV_DONTNEED) < 0)
			fail("MADV_DONTNEED: %m");
		expect(p, 0, SIZE, "after MADV_DONTNEED");
		unmap(p);
	}
	unsigned char *p = map(PROT_READ, MAP_SHARED);

	expect(p, 0, SIZE, "shared mapping after private writes");
	unmap(p);
	if (pread(fd, buf, SIZE, 0) != SIZE)
		fail("read: %m");
	expect(buf, 0, SIZE, "read after private writes");
}

static long locked_kb(void)
{
	char line[200];
	long kb = -1;
	FILE *f = fopen("/proc/self/status", "r");

	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "VmLck: %ld", &kb);
	if (f)
		fclose(f);
	return kb;
}

static void locks(void)
{
	unsigned char *p = map(PROT_READ, MAP_PRIVATE), *q = map(PROT_READ | PROT_WRITE, MAP_PRIVATE);
	unsigned char vec[PAGES];

	if (mlock(p, PAGES * PAGE) < 0 || mlock(q, PAGES * PAGE) < 0)
		fail("mlock: %m");
	if (locked_kb() < (long)(PAGES * PAGE / 1024))
		fail("the writable mapping is not locked: %ld kB", locked_kb());
	if (mincore(p, SIZE, vec) < 0 || !(vec[0] & vec[PAGES / 2] & vec[PAGES - 1] & 1))
		fail("mlock did not map all pages: %m");
	q[0]++;
	pid_t pid = fork();
	if (!pid)
		_exit(differs(p, 0, SIZE) != SIZE || differs(q + 1, 1, SIZE - 1) != SIZE - 1);
	if (wait_for(pid))
		fail("a child of a process with locked memory sees something else");
	expect(p, 0, SIZE, "locked");
	if (munlock(p, PAGES * PAGE) < 0 || munlock(q, PAGES * PAGE) < 0)
		fail("munlock: %m");
	/* and one that is still locked when it goes */
	if (mlock2(q, PAGE * 7, MLOCK_ONFAULT) < 0)
		fail("mlock2: %m");
	expect(q + 1, 1, SIZE - 1, "locked on fault");
	unmap(p);
	unmap(q);
}

static void *toucher(void *p)
{
	for (unsigned int i = 0, at = (uintptr_t)&i; i < 3000; i++) {
		at = at * 1103515245 + 12345;
		size_t pos = at % SIZE;

		if (((volatile unsigned char *)p)[pos] != byte_at(pos))
			return "a byte is wrong";
		if (i % 500 == 499)
			madvise(p, PAGES * PAGE, MADV_DONTNEED);
	}
	return NULL;
}

static void threads(void)
{
	unsigned char *p = map(PROT_READ, MAP_PRIVATE);
	pthread_t t[4];
	void *what;

	for (size_t i = 0; i < COUNT(t); i++)
		pthread_create(&t[i], NULL, toucher, p);
	for (size_t i = 0; i < COUNT(t); i++) {
		pthread_join(t[i], &what);
		if (what)
			fail("%s", (char *)what);
	}
	unmap(p);
}

/* --- the kernel gets at the pages --- */

static void direct_io(void)
{
	unsigned char *p = map(PROT_READ, MAP_SHARED), *back;
	int disk;

	mknod("/ram0", S_IFBLK | 0600, 1 << 8);
	disk = open("/ram0", O_RDWR | O_DIRECT);
	if (disk < 0) {
		missing("/dev/ram0");
		unmap(p);
		return;
	}
	back = aligned_alloc(PAGE, 64 * PAGE);
	if (pwrite(disk, p + PAGE, 64 * PAGE, 0) != (ssize_t)(64 * PAGE) ||
	    pread(disk, back, 64 * PAGE, 0) != (ssize_t)(64 * PAGE))
		fail("direct I/O: %m");
	expect(back, PAGE, 64 * PAGE, "direct I/O");
	free(back);
	close(disk);
	unmap(p);
}

static void other_process(void)
{
	static unsigned char buf[SIZE];
	unsigned char *p = map(PROT_READ, MAP_PRIVATE);
	struct iovec to = { buf, SIZE }, from = { p, SIZE };
	int pipes[2];
	pid_t pid;
	char c;

	if (pipe(pipes) < 0)
		fail("pipe: %m");
	pid = fork();
	if (!pid) {
		close(pipes[1]);
		_exit(read(pipes[0], &c, 1) < 0);
	}
	close(pipes[0]);
	if (process_vm_readv(pid, &to, 1, &from, 1, 0) != SIZE)
		missing("process_vm_readv");
	else
		expect(buf, 0, SIZE, "process_vm_readv");
	close(pipes[1]);
	wait_for(pid);
	unmap(p);
}

static void futexes(void)
{
	unsigned char *p = map(PROT_READ, MAP_SHARED), *q = map(PROT_READ | PROT_WRITE, MAP_PRIVATE);
	unsigned int value = *(unsigned int *)p;

	if (syscall(SYS_futex, p, FUTEX_WAIT_PRIVATE, value + 1, NULL) != -1 || errno != EAGAIN)
		fail("FUTEX_WAIT_PRIVATE: %m");
	/* no process can change the word: see Documentation/filesystems/erofs.rst */
	if (!cached && (syscall(SYS_futex, p, FUTEX_WAIT, value + 1, NULL) != -1 || errno != EFAULT))
		fail("FUTEX_WAIT: %m");
	if (syscall(SYS_futex, q, FUTEX_WAKE, 1) != 0)
		fail("FUTEX_WAKE in a private mapping: %m");
	unmap(p);
	unmap(q);
}

static void user_faults(void)
{
	unsigned char *p = map(PROT_READ, MAP_PRIVATE);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { (uintptr_t)p, PAGES * PAGE }, .mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC);

	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) < 0)
		missing("userfaultfd");
	else if (ioctl(uffd, UFFDIO_REGISTER, &reg) >= 0 || errno != EINVAL)
		fail("userfaultfd takes the mapping: %m");
	close(uffd);
	unmap(p);
}

/* --- programs --- */

static void executed(void)
{
	char merged[PATH_MAX], lower[PATH_MAX];

	expect_runs(program);
	/* the same through an overlay */
	snprintf(lower, sizeof(lower), "lowerdir=%s:/empty", dir);
	mkdir("/empty", 0755);
	mkdir("/merged", 0755);
	if (mount("overlay", "/merged", "overlay", MS_RDONLY, lower) < 0) {
		missing("overlay");
		return;
	}
	snprintf(merged, sizeof(merged), "/merged/%s", strrchr(program, '/') + 1);
	expect_runs(merged);
	snprintf(merged, sizeof(merged), "/merged/%s", strrchr(data, '/') + 1);
	int below = fd;

	fd = open(merged, O_RDONLY);
	unsigned char *p = map(PROT_READ, MAP_PRIVATE);
	expect(p, 0, SIZE, "through an overlay");
	unmap(p);
	close(fd);
	fd = below;
	if (umount("/merged") < 0)
		fail("umount of the overlay: %m");
}

#ifdef __x86_64__
/* where marker() is in the file */
static uint64_t marker_offset(void)
{
	int self = open(program, O_RDONLY);
	Elf64_Ehdr eh;
	Elf64_Phdr ph;
	uint64_t found = 0;

	if (pread(self, &eh, sizeof(eh), 0) != sizeof(eh))
		fail("read of the ELF header: %m");
	for (int i = 0; i < eh.e_phnum; i++)
		if (pread(self, &ph, sizeof(ph), eh.e_phoff + i * sizeof(ph)) == sizeof(ph) &&
		    ph.p_type == PT_LOAD && (uintptr_t)marker - ph.p_vaddr < ph.p_filesz)
			found = (uintptr_t)marker - ph.p_vaddr + ph.p_offset;
	close(self);
	return found;
}

static void breakpoint(void)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		execl(program, program, "run", NULL);
		_exit(1);
	}
	waitpid(pid, &status, 0);
	errno = 0;
	long text = ptrace(PTRACE_PEEKTEXT, pid, marker, NULL);

	if (errno || ptrace(PTRACE_POKETEXT, pid, marker, (void *)((text & ~0xffL) | 0xcc)) < 0)
		fail("PTRACE_POKETEXT: %m");
	ptrace(PTRACE_CONT, pid, NULL, NULL);
	waitpid(pid, &status, 0);
	if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP)
		fail("no stop at the breakpoint: status %#x", status);
	kill(pid, SIGKILL);
	wait_for(pid);
	expect_runs(program);	/* without a breakpoint */
}

static void uprobe(void)
{
	struct perf_event_attr attr = { .size = sizeof(attr) };
	FILE *f = fopen("/sys/bus/event_source/devices/uprobe/type", "r");
	uint64_t count, sum = 0;
	int events[16], cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (!f || fscanf(f, "%u", &attr.type) != 1) {
		missing("uprobes");
		return;
	}
	fclose(f);
	attr.config1 = (uintptr_t)program;
	attr.config2 = marker_offset();
	for (int i = 0; i < cpus; i++) {
		events[i] = syscall(SYS_perf_event_open, &attr, -1, i, -1, 0);
		if (events[i] < 0)
			fail("perf_event_open: %m");
	}
	expect_runs(program);
	expect_runs(program);
	for (int i = 0; i < cpus; i++) {
		if (read(events[i], &count, sizeof(count)) == sizeof(count))
			sum += count;
		close(events[i]);
	}
	if (sum != 2)
		fail("the probe was hit %llu times, not 2", (unsigned long long)sum);
	expect_runs(program);
}
#endif

static void core_dump(void)
{
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	int pattern = open("/proc/sys/kernel/core_pattern", O_WRONLY), status;
	struct stat st = {};
	pid_t pid;

	if (pattern < 0) {
		missing("core dumps");
		return;
	}
	if (write(pattern, "/core\n", 6) < 0)
		fail("core_pattern: %m");
	close(pattern);
	pid = fork();
	if (!pid) {
		int filter = open("/proc/self/coredump_filter", O_WRONLY);
		unsigned char *p = map(PROT_READ, MAP_PRIVATE);

		setrlimit(RLIMIT_CORE, &unlimited);
		if (write(filter, "0x7f\n", 5) < 0 || differs(p, 0, SIZE) != SIZE)
			_exit(1);
		abort();
	}
	status = wait_for(pid);
	if (!WIFSIGNALED(status) || !WCOREDUMP(status) || stat("/core", &st) < 0 || st.st_size < SIZE)
		fail("no core dump: status %#x, %lld bytes", status, (long long)st.st_size);
	unlink("/core");
}

static int put(const char *path, const char *text)
{
	int to = open(path, O_WRONLY);
	int done = to >= 0 && write(to, text, strlen(text)) > 0;

	close(to);
	return done;
}

/* pages that are in place belong to no group: a small one can map a large file */
static void control_group(void)
{
	mkdir("/cgroup", 0755);
	if (mount("none", "/cgroup", "cgroup2", 0, NULL) < 0 ||
	    !put("/cgroup/cgroup.subtree_control", "+memory")) {
		missing("memory control groups");
		umount("/cgroup");
		return;
	}
	mkdir("/cgroup/small", 0755);
	put("/cgroup/small/memory.max", "2M");
	pid_t pid = fork();
	if (!pid) {
		if (!put("/cgroup/small/cgroup.procs", "0"))
			_exit(2);
		unsigned char *p = map(PROT_READ, MAP_PRIVATE);

		_exit(differs(p, 0, SIZE) != SIZE);
	}
	if (wait_for(pid))
		fail("a process in a small group failed");
	rmdir("/cgroup/small");
	umount("/cgroup");
}

static void step(const char *name, void (*function)(void))
{
	subject = name;
	function();
}

static int write_data(const char *path)
{
	FILE *f = fopen(path, "wb");

	for (size_t i = 0; f && i < SIZE; i++)
		putc(byte_at(i), f);
	return !f || fclose(f);
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 2 && !strcmp(argv[1], "run")) {
		marker();
		return 42;
	}
	if (argc == 3 && !strcmp(argv[1], "write"))
		return write_data(argv[2]);
	if (argc < 3) {
		fprintf(stderr, "usage: in-place DIR CACHED [all] | write FILE | run\n");
		return 2;
	}
	dir = argv[1];
	cached = strtoull(argv[2], NULL, 10);
	all = argc > 3;
	snprintf(program, sizeof(program), "%s/program", dir);
	snprintf(data, sizeof(data), "%s/data", dir);
	fd = open(data, O_RDONLY);
	if (fd < 0)
		fail("open: %m");

	step("read", reads);
	step("splice", splices);
	step("mmap", mappings);
	step("behind the end", beyond);
	step("private", private_writes);
	step("mlock", locks);
	step("threads", threads);
	step("direct I/O", direct_io);
	step("process_vm_readv", other_process);
	step("futex", futexes);
	step("userfaultfd", user_faults);
	step("exec", executed);
#ifdef __x86_64__
	step("ptrace", breakpoint);
	step("uprobe", uprobe);
#endif
	step("core dump", core_dump);
	step("control group", control_group);
	close(fd);
	return failures != 0;
}
