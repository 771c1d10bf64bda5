// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Mounts every image that /manifest lists from the initrd's memory, and compares
 * it with what it was made from. Runs as /init in a guest (qemu/kernel/test-memback);
 * on the host it makes the checksums and the damaged images:
 *
 *   memback hash DIR [NAME...]       the checksum of a tree; with NAMEs, which are left
 *                                    out, not that of DIR's own metadata
 *   memback damage SEED IN OUT       an image with a few bytes changed
 *   memback length IMAGE             blocks << blkszbits
 *
 * A line of /manifest is NAME OFFSET LENGTH CHECKSUM. The checksum "damaged" stands
 * for: mount it or not, read it or not, but do not crash. "in-place:N" stands for the
 * program /in-place, which expects N pages of a file in the page cache.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/stat.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#ifndef SYS_fsopen
#define SYS_fsopen 430
#define SYS_fsconfig 431
#endif
enum { FS_SET_FLAG = 0, FS_SET_STRING = 1, FS_CREATE = 6 };

#define SUPER 1024	/* offset of the superblock */

static const char *subject = "";	/* what failures are about */
static int failures, expected_damage, problems;
static int all_of_kernel;	/* the kernel has all that the tests want to use */
static char **left_out;		/* names in the top directory; NULL: none */

static void fail(const char *format, ...)
{
	va_list args;

	if (expected_damage) {
		problems++;
		return;
	}
	failures++;
	printf("FAIL %s: ", subject);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
}

/* --- a checksum over names, metadata, xattrs and content (FNV-1a) --- */

static uint64_t sum;

static void mix(const void *data, size_t n)
{
	for (const unsigned char *p = data; n--; p++)
		sum = (sum ^ *p) * 0x100000001b3ULL;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char **)a, *(char **)b);
}

static void mix_xattrs(const char *path)
{
	static char list[16384], value[65536];
	char *names[256];
	int n = 0;
	ssize_t len = llistxattr(path, list, sizeof(list));

	if (len < 0)
		fail("llistxattr %s: %m", path);
	for (char *p = list; len > 0 && p < list + len && n < 256; p += strlen(p) + 1)
		names[n++] = p;
	qsort(names, n, sizeof(*names), by_name);
	for (int i = 0; i < n; i++) {
		ssize_t size = lgetxattr(path, names[i], value, sizeof(value));

		if (size < 0) {
			fail("lgetxattr %s %s: %m", path, names[i]);
			continue;
		}
		mix(names[i], strlen(names[i]));
		mix(value, size);
	}
}

/* the ways into a file that are not read(): each has code of its own in EROFS */
static void other_ways(const char *path, int fd, off_t size, uint64_t before)
{
	struct { struct fiemap map; struct fiemap_extent extents[64]; } fm = {
		.map = { .fm_length = ~0ULL, .fm_extent_count = 64 },
	};
	struct statx sx;
	uint64_t content = sum;
	char *map, byte[100];
	int direct;

	map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED) {
		fail("mmap %s: %m", path);
	} else {
		sum = before;
		mix(map, size);
		if (sum != content)
			fail("%s reads differently through mmap", path);
		munmap(map, size);
	}
	sum = content;
	for (off_t pos = size - 1; pos >= 0; pos -= size / 5 + 333)
		if (pread(fd, byte, sizeof(byte), pos) < 0)
			fail("pread %s at %lld: %m", path, (long long)pos);
	if (ioctl(fd, FS_IOC_FIEMAP, &fm) < 0)
		fail("fiemap %s: %m", path);
	if (syscall(SYS_statx, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW,
		    STATX_BASIC_STATS | 0x2000 /* DIOALIGN */, &sx) < 0)
		fail("statx %s: %m", path);
	if (lseek(fd, 0, SEEK_HOLE) < 0)
		fail("lseek %s: %m", path);
	direct = open(path, O_RDONLY | O_DIRECT);
	if (direct >= 0)
		fail("%s can be opened with O_DIRECT", path);
	else if (errno != EINVAL)
		fail("open O_DIRECT %s: %m", path);
}

static void mix_file(const char *path, off_t size, int all_ways)
{
	static char buf[65536 + 7];	/* reads that are not aligned */
	uint64_t before = sum;
	int fd = open(path, O_RDONLY | O_NOFOLLOW);
	ssize_t n;

	if (fd < 0) {
		fail("open %s: %m", path);
		return;
	}
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		mix(buf, n);
	if (n < 0)
		fail("read %s: %m", path);
	else if (size && all_ways)
		other_ways(path, fd, size, before);
	close(fd);
}

static int is_left_out(const char *name)
{
	for (char **p = left_out; p && *p; p++)
		if (!strcmp(name, *p))
			return 1;
	return 0;
}

static void mix_tree(const char *path, int all_ways, int depth)
{
	char target[4096], *child;
	struct dirent **list;
	struct stat st;
	ssize_t len;
	int n;

	if (lstat(path, &st) < 0) {
		fail("lstat %s: %m", path);
		return;
	}
	const uint64_t dir = S_ISDIR(st.st_mode), dev = S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode);
	const uint64_t meta[] = {
		st.st_mode, st.st_uid, st.st_gid, st.st_mtime,
		dir ? 0 : st.st_size, dir ? 0 : st.st_nlink, dev ? st.st_rdev : 0,
	};
	if (depth || !left_out) {
		mix(meta, sizeof(meta));
		mix_xattrs(path);
	}
	if (S_ISREG(st.st_mode)) {
		mix_file(path, st.st_size, all_ways);
	} else if (S_ISLNK(st.st_mode)) {
		len = readlink(path, target, sizeof(target));
		if (len < 0)
			fail("readlink %s: %m", path);
		else
			mix(target, len);
	}
	/* a damaged image may have loops, and directories with anything in them */
	if (!dir || depth > 12 || problems > 100)
		return;
	n = scandir(path, &list, NULL, alphasort);
	if (n < 0) {
		fail("scandir %s: %m", path);
		return;
	}
	for (int i = 0; i < n; i++) {
		const char *name = list[i]->d_name;

		if (strcmp(name, ".") && strcmp(name, "..") &&
		    !(depth == 0 && is_left_out(name)) &&
		    asprintf(&child, "%s/%s", path, name) > 0) {
			mix(name, strlen(name));
			mix_tree(child, all_ways, depth + 1);
			free(child);
		}
		free(list[i]);
	}
	free(list);
}

static const char *checksum(const char *dir, int all_ways)
{
	static char text[17];

	sum = 0xcbf29ce484222325ULL;
	mix_tree(dir, all_ways, 0);
	snprintf(text, sizeof(text), "%016llx", (unsigned long long)sum);
	return text;
}

/* --- in the guest: images --- */

static int mount_memback(const char *dir, const char *range, unsigned long flags)
{
	char options[100];

	snprintf(options, sizeof(options), "memback=%s", range);
	return mount("none", dir, flags & MS_REMOUNT ? NULL : "erofs", flags, options);
}

static void expect_content(const char *dir, const char *expected)
{
	const char *found = checksum(dir, 1);

	if (strcmp(found, expected))
		fail("the content of %s differs: %s, not %s", dir, found, expected);
}

static void expect_umount(const char *dir)
{
	if (umount(dir) < 0)
		fail("umount %s: %m", dir);
}

static void good_image(const char *range, const char *expected, const char *previous)
{
	if (mount_memback("/a", range, MS_RDONLY) < 0) {
		fail("mount: %m");
		return;
	}
	expect_content("/a", expected);
	if (*previous) {	/* two at once; the first must not mind */
		if (mount_memback("/b", previous, MS_RDONLY) < 0)
			fail("mount of a second image: %m");
		else
			expect_content("/b", expected), expect_umount("/b");
		expect_content("/a", expected);
	}
	if (mount_memback("/a", range, MS_REMOUNT | MS_RDONLY) < 0)
		fail("remount with the same range: %m");
	if (!mount_memback("/a", "4:4096", MS_REMOUNT | MS_RDONLY) || errno != EINVAL)
		fail("remount with another range: %m");
	expect_umount("/a");
	/* again, and read-only although not asked to be */
	if (mount_memback("/a", range, 0) < 0) {
		fail("mount again: %m");
		return;
	}
	if (open("/a/new", O_CREAT | O_WRONLY, 0600) >= 0 || errno != EROFS)
		fail("a file can be created: %m");
	expect_content("/a", expected);
	expect_umount("/a");
}

/* several images at once, each in a process, while the caches are being dropped */
static void all_at_once(char ranges[][64], char sums[][32], int n)
{
	int drop, status, running = n;
	pid_t pid;

	subject = "all at once";
	for (int i = 0; i < n; i++) {
		char dir[16];

		snprintf(dir, sizeof(dir), "/p%d", i);
		mkdir(dir, 0755);
		if (fork())
			continue;
		for (int round = 0; round < 3; round++) {
			if (mount_memback(dir, ranges[i], MS_RDONLY) < 0)
				fail("mount: %m");
			else
				expect_content(dir, sums[i]), expect_umount(dir);
		}
		_exit(failures != 0);
	}
	drop = open("/proc/sys/vm/drop_caches", O_WRONLY);
	if (write(drop, "4\n", 2) < 0)	/* do not log each of the following */
		fail("drop_caches: %m");
	while (running) {
		if (write(drop, "3\n", 2) < 0)
			fail("drop_caches: %m");
		pid = waitpid(-1, &status, WNOHANG);
		if (pid <= 0)
			continue;
		running--;
		if (status)
			fail("a process ended with status %#x", status);
	}
	close(drop);
}

/* every way of getting at the pages of files: see in-place.c */
static void in_place(const char *range, const char *pages)
{
	int status = -1;
	pid_t pid;

	if (mount_memback("/a", range, MS_RDONLY) < 0) {
		fail("mount: %m");
		return;
	}
	fflush(stdout);
	pid = fork();
	if (!pid) {
		execl("/in-place", "/in-place", "/a", pages, all_of_kernel ? "all" : NULL, NULL);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	if (status)
		fail("/in-place ended with status %#x", status);
	expect_umount("/a");
}

static int damaged_image(const char *range)
{
	int mounted;

	expected_damage = 1;
	problems = 0;
	mounted = !mount_memback("/a", range, MS_RDONLY);
	if (mounted) {
		checksum("/a", 1);
		if (umount("/a") < 0)
			umount2("/a", MNT_DETACH);
	}
	expected_damage = 0;
	return mounted;
}

/* --- in the guest: the interface --- */

/* sets an option in a new fs context, creates the superblock; errno and message */
static int configure(const char *key, const char *value, int create, char *message, size_t size)
{
	int fd = syscall(SYS_fsopen, "erofs", 0), err = 0;
	ssize_t n;

	if (fd < 0)
		return errno;
	if (syscall(SYS_fsconfig, fd, value ? FS_SET_STRING : FS_SET_FLAG, key, value, 0) < 0)
		err = errno;
	else if (create && syscall(SYS_fsconfig, fd, FS_CREATE, NULL, NULL, 0) < 0)
		err = errno;
	n = read(fd, message, size - 1);
	message[n > 0 ? n : 0] = 0;
	message[strcspn(message, "\n")] = 0;
	close(fd);
	return err;
}

static void expect_errno(const char *value, int create, int expected)
{
	char message[256];
	int err = configure("memback", value, create, message, sizeof(message));

	if (err != expected)
		fail("memback=%s: %s, not %s (%s)", value ?: "", strerror(err),
		     strerror(expected), message);
	else if (expected && !*message)
		fail("memback=%s: no message in the fs context", value ?: "");
}

static void interface(unsigned long long size, unsigned long long offset, unsigned long long length)
{
	static const char *const malformed[] = {
		":", "0", "0:", ":0", "+0:4096", "-1:4096", "0: 4096", " 0:4096", "0:4096\n",
		"0:4096k", "0x:1", "0:0x", "0:1:2", "0x1g:1", "0b1:1", "0,1", "",
	};
	char text[100];

	subject = "interface";
	expect_errno("0:0", 0, 0);	/* how /init asks whether the option exists */
	expect_errno(NULL, 0, EINVAL);
	for (size_t i = 0; i < sizeof(malformed) / sizeof(*malformed); i++)
		expect_errno(malformed[i], 0, EINVAL);
	expect_errno("18446744073709551616:1", 0, ERANGE);
	expect_errno("18446744073709551615:18446744073709551615", 1, ERANGE);
	expect_errno("18446744073709551615:2", 1, ERANGE);
	expect_errno("2:18446744073709551615", 1, ERANGE);
	expect_errno("0:0", 1, EINVAL);
#define EXPECT(err, ...) (snprintf(text, sizeof(text), __VA_ARGS__), expect_errno(text, 1, err))
	EXPECT(ERANGE, "0:%llu", size + 1);
	EXPECT(ERANGE, "%llu:0", size + 1);
	EXPECT(EINVAL, "%llu:0", size);
	EXPECT(EINVAL, "0:%llu", size);
	EXPECT(EINVAL, "%llu:%llu", offset, length - 1);
	EXPECT(EINVAL, "%llu:%llu", offset + 4, length - 4);
	EXPECT(0, "%llu:%llu", offset, length);
	EXPECT(0, "0x%llx:0X%llX", offset, length);
	EXPECT(0, "00%llu:0%llu", offset, length);
#undef EXPECT
}

static void expect_release(const char *text, int expected)
{
	int fd = open("/sys/firmware/initrd_release", O_WRONLY);
	int err = write(fd, text, strlen(text)) < 0 ? errno : 0;

	if (err != expected)
		fail("writing %s: %s, not %s", text, strerror(err), strerror(expected));
	close(fd);
}

/* a mapping pins the mount, and a page of it in a pipe pins the memory even without one */
static void release_of_mapped(const char *range)
{
	int fd, pipes[2];
	struct iovec iov = { NULL, 4096 };

	if (mount_memback("/a", range, MS_RDONLY) < 0 || (fd = open("/a/data", O_RDONLY)) < 0) {
		fail("%s: %m", range);
		return;
	}
	iov.iov_base = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	umount2("/a", MNT_DETACH);
	expect_release("1", EBUSY);
	if (pipe(pipes) < 0 || vmsplice(pipes[1], &iov, 1, 0) != 4096)
		fail("vmsplice: %m");
	munmap(iov.iov_base, 8192);
	expect_release("1", EBUSY);
	close(pipes[0]);
	close(pipes[1]);
}

static void release(const char *range, const char *mapped)
{
	int open_file;

	subject = "initrd_release";
	expect_release("x", EINVAL);
	if (mount_memback("/a", range, MS_RDONLY) < 0)
		fail("mount: %m");
	expect_release("1", EBUSY);
	open_file = open("/a", O_RDONLY);
	umount2("/a", MNT_DETACH);
	expect_release("1", EBUSY);	/* gone from the tree, but in use */
	close(open_file);
	release_of_mapped(mapped);
	expect_release("1", 0);
	if (!access("/sys/firmware/initrd", F_OK))
		fail("/sys/firmware/initrd is still there");
	expect_release("1", ENXIO);
	expect_errno("0:0", 1, ENXIO);
}

static int guest(void)
{
	char in_place_range[64] = "";
	char line[256], name[100], expected[32], range[64], previous[64] = "";
	unsigned long long offset = 0, length = 0;
	char ranges[8][64], sums[8][32];
	int good = 0, served = 0, damaged = 0, mounted = 0;
	struct stat initrd = {};
	FILE *manifest;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (const char *dirs = "/proc\0/sys\0/a\0/b\0"; *dirs; dirs += strlen(dirs) + 1)
		mkdir(dirs, 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	subject = "initrd";
	if (stat("/sys/firmware/initrd", &initrd) < 0)
		fail("it was not retained");
	if (!access("/initrd.image", F_OK))
		fail("it was copied to /initrd.image");

	manifest = fopen("/manifest", "r");
	while (manifest && fgets(line, sizeof(line), manifest)) {
		if (sscanf(line, "%99s %llu %llu %31s", name, &offset, &length, expected) != 4)
			continue;
		subject = name;
		snprintf(range, sizeof(range), "%llu:%llu", offset, length);
		if (!strcmp(expected, "damaged")) {
			damaged++;
			mounted += damaged_image(range);
			continue;
		}
		if (!strncmp(expected, "in-place:", 9)) {
			in_place(range, expected + 9);
			printf("in place: %s at %s\n", name, range);
			strcpy(in_place_range, range);
			served++;
			continue;
		}
		good_image(range, expected, previous);
		/* the last few; of eight neighbours there are several kinds */
		strcpy(ranges[good % 8], range);
		strcpy(sums[good % 8], expected);
		good++;
		printf("image %s at %s\n", name, range);
		strcpy(previous, range);
	}
	all_at_once(ranges, sums, good < 8 ? good : 8);
	if (!good)
		strcpy(previous, in_place_range);
	sscanf(previous, "%llu:%llu", &offset, &length);
	interface(initrd.st_size, offset, length);
	release(previous, in_place_range);
	printf("%s: %d images, %d more in place, %d damaged ones of which %d could be mounted, %d failures\n",
	       failures || !served ? "MEMBACK-FAILED" : "MEMBACK-PASSED", good, served, damaged, mounted,
	       failures);
	sync();
	reboot(RB_AUTOBOOT);	/* the debug kernel has no ACPI, and cannot power off */
	return 1;
}

/* --- on the host: images --- */

static uint32_t get32(const unsigned char *p)
{
	return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static unsigned char *load(const char *path, size_t *size)
{
	unsigned char *data = NULL;
	struct stat st;
	FILE *f = fopen(path, "rb");

	if (!f || fstat(fileno(f), &st) < 0 || !(data = malloc(st.st_size + 1)) ||
	    fread(data, 1, st.st_size, f) != (size_t)st.st_size || st.st_size < SUPER + 128) {
		fprintf(stderr, "memback: %s: not an EROFS image\n", path);
		exit(1);
	}
	fclose(f);
	*size = st.st_size;
	return data;
}

static int damage(unsigned int seed, const char *in, const char *out)
{
	size_t size;
	unsigned char *d = load(in, &size);
	FILE *f = fopen(out, "wb");

	srandom(seed);
	d[SUPER + 8] &= ~1;	/* no checksum, or nothing else would be looked at */
	for (int n = random() % 8 + 1; n; n--) {
		size_t pos;

		/* the superblock now and then; else what is not zero: metadata, data */
		if (random() % 5 == 0)
			pos = SUPER + 12 + random() % 116;
		else
			do
				pos = SUPER + 128 + random() % (size - SUPER - 128);
			while (!d[pos] && random() % 64);
		d[pos] = random() % 3 ? d[pos] ^ 1 << random() % 8 : random();
	}
	if (random() % 8 == 0)
		size = SUPER + 128 + random() % (size - SUPER - 128);
	return !f || fwrite(d, 1, size, f) != size || fclose(f);
}

int main(int argc, char **argv)
{
	if (argc >= 3 && !strcmp(argv[1], "hash")) {
		left_out = argc > 3 ? argv + 3 : NULL;
		puts(checksum(argv[2], 0));
		return failures != 0;
	}
	if (argc == 5 && !strcmp(argv[1], "damage"))
		return damage(atoi(argv[2]), argv[3], argv[4]);
	if (argc == 3 && !strcmp(argv[1], "length")) {
		size_t size;
		unsigned char *d = load(argv[2], &size);

		printf("%llu\n", (unsigned long long)get32(d + SUPER + 36) << d[SUPER + 12]);
		return 0;
	}
	all_of_kernel = getenv("all") != NULL;	/* from the kernel command line */
	if (getpid() != 1) {
		fprintf(stderr, "usage: memback hash DIR [NAME...] | damage SEED IN OUT | length IMAGE\n");
		return 2;
	}
	return guest();
}
