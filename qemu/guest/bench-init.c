/*
 * Started by first-init.c, which has written a record to the kernel log: measures the memory, reads
 * files, and prints the results in one line:
 *
 *   BENCH init=US real=US available=KB settled=KB tenth=US all=US files=N bytes=N STEP=US...
 *   BENCH init=US real=US once=US files=N bytes=N STEP=US...
 *
 * It waits for children that it did not start, because a child of /init may free the rest of a large
 * loader. init and real are times since the start of the kernel's clock, the others are durations.
 * settled is the available memory a second later. With bench_read=later on the kernel command line,
 * it then reads every tenth file of the list /content.list (if there is one), drops the caches, and
 * reads all files. With bench_read=once it reads all files before anything else, while the kernel may
 * have other work, and prints the second line. STEP is a step in the report of layerinit's /init.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what, const char *object)
{
	dprintf(1, "BENCH-FAIL %s %s: %s\n", what, object, strerror(errno));
	for (;;)
		pause();
}

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static int opened(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC);

	if (fd < 0)
		fail("open", path);
	return fd;
}

/* Reads a whole file of /proc, which may take several reads. */
static char *text(const char *path)
{
	static char buffer[1 << 16];
	int fd = opened(path, O_RDONLY);
	size_t have = 0;
	ssize_t more;

	while ((more = read(fd, buffer + have, sizeof(buffer) - 1 - have)) > 0)
		have += more;
	close(fd);
	buffer[have] = 0;
	return buffer;
}

/* Kilobytes: MemAvailable, and the free pages on per-processor lists. */
static long available(void)
{
	const char *line = strstr(text("/proc/meminfo"), "MemAvailable:");
	long kilobytes, count;

	if (!line || sscanf(line, "MemAvailable: %ld", &kilobytes) != 1)
		fail("read", "MemAvailable");
	for (line = text("/proc/zoneinfo"); (line = strstr(line, " count: ")); line++)
		if (sscanf(line, " count: %ld", &count) == 1)
			kilobytes += count * (sysconf(_SC_PAGESIZE) / 1024);
	return kilobytes;
}

/* The timestamp of the first record with this text. */
static long long stamp(const char *words)
{
	int fd = opened("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	char record[8192], *comma;
	ssize_t length;

	for (;;) {
		length = read(fd, record, sizeof(record) - 1);
		if (length < 0 && errno == EPIPE) /* records were overwritten; read the next one */
			continue;
		if (length <= 0)
			fail("find in the kernel log", words);
		record[length] = 0;
		comma = strchr(record, ',');
		comma = comma ? strchr(comma + 1, ',') : NULL;
		if (comma && strstr(comma, words)) {
			close(fd);
			return atoll(comma + 1);
		}
	}
}

struct reading {
	long long files, bytes, us;
};

/* Reads every STEP-th file of the list. */
static struct reading reading(char *list, int step)
{
	static char buffer[1 << 16];
	struct reading sum = { 0 };
	long long begun = now();
	char *path = list, *end;
	ssize_t length;
	int fd, number;

	for (number = 0; (end = strchr(path, '\n')); path = end + 1, number++) {
		if (number % step)
			continue;
		*end = 0;
		fd = opened(path, O_RDONLY);
		*end = '\n';
		while ((length = read(fd, buffer, sizeof(buffer))) > 0)
			sum.bytes += length;
		if (length < 0)
			fail("read a file of", "/content.list");
		close(fd);
		sum.files++;
	}
	sum.us = now() - begun;
	return sum;
}

static char *file_list(void)
{
	int fd = opened("/content.list", O_RDONLY);
	struct stat info;
	ssize_t more;
	off_t have = 0;
	char *list;

	fstat(fd, &info);
	list = calloc(1, info.st_size + 1);
	while (list && (more = read(fd, list + have, info.st_size - have)) > 0)
		have += more;
	close(fd);
	return list;
}

/* Prints "steps_us":{"NAME":N,...} of the report, if there is one. */
static void print_steps(void)
{
	const char *at = "", *comma;
	char name[32];
	long long us;
	int length;

	if (!access("/run/initramfs/layerinit.json", R_OK))
		at = strstr(text("/run/initramfs/layerinit.json"), "\"steps_us\"");
	at = at ? strchr(at, '{') : NULL;
	while (at && sscanf(at + 1, " \"%31[^\"]\": %lld%n", name, &us, &length) == 2) {
		dprintf(1, " %s=%lld", name, us);
		comma = at + 1 + length;
		at = *comma == ',' ? comma : NULL;
	}
}

int main(void)
{
	struct reading tenth = { 0 }, all = { 0 };
	const char *when = getenv("bench_read");
	long before, settled;
	char *list;

	if (when && access("/content.list", R_OK))
		when = NULL;
	if (when && !strcmp(when, "once"))
		all = reading(file_list(), 1);
	mkdir("/proc", 0755);
	mount("proc", "/proc", "proc", 0, ""); /* fails if it is mounted already */
	while (wait(NULL) > 0)
		;
	if (all.us) {
		dprintf(1, "BENCH init=%lld real=%lld once=%lld files=%lld bytes=%lld",
			stamp("Run /init as init process"), stamp("bench: real init"), all.us, all.files,
			all.bytes);
		print_steps();
		dprintf(1, "\n");
		for (;;)
			pause();
	}
	before = available();
	sleep(1);
	settled = available();
	if (when) {
		list = file_list();
		tenth = reading(list, 10);
		if (write(opened("/proc/sys/vm/drop_caches", O_WRONLY), "3", 1) != 1)
			fail("write to", "drop_caches");
		all = reading(list, 1);
	}
	dprintf(1, "BENCH init=%lld real=%lld available=%ld settled=%ld tenth=%lld all=%lld files=%lld bytes=%lld",
		stamp("Run /init as init process"), stamp("bench: real init"), before, settled,
		tenth.us, all.us, all.files, all.bytes);
	print_steps();
	dprintf(1, "\n");
	for (;;)
		pause();
}
