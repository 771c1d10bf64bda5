// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What reading an EROFS image costs, from the initrd's memory and through a loop
 * device over /sys/firmware/initrd. Runs as /init in a guest (qemu/kernel/figures),
 * which counts instructions, so that the clock is a measure.
 *
 * A line of /manifest is NAME OFFSET LENGTH. For each, and for memback and loop, prints
 *
 *   figure NAME METHOD MOUNT ALL TENTH MEMORY-MOUNT MEMORY-ALL MEMORY-TENTH
 *
 * in microseconds: mounting, reading every file, reading every tenth, all with empty
 * caches; and by how many kB less memory is available after each than before.
 *
 * Then the image "uncompressed" beside a copy of it in a tmpfs, METHOD being tmpfs, or
 * memback: reading every file once and again, and the kB that both take; and the image
 * "program", from whose program (and a copy of it) the second and third figure are:
 *
 *   read METHOD FIRST SECOND MEMORY
 *   exec METHOD FIRST SECOND FAULTS-FIRST FAULTS-SECOND
 *
 * If there is a list /modules, only these two images are measured. The modules are loaded, and
 * METHOD is dax rather than memback: the image is copied to /dev/pmem0 and mounted with dax=always.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void stop(const char *what)
{
	printf("FIGURES-FAILED: %s: %m\n", what);
	reboot(RB_AUTOBOOT);
	exit(1);
}

static double microseconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void order(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		stop(path);
	close(fd);
}

/* kB that are available, once it is quiet; pages on the lists of the processor are free, too */
static long available(void)
{
	static const char *const files[] = { "/proc/meminfo", "/proc/zoneinfo" };
	char line[256];
	long sum = 0, n;

	usleep(100000);	/* inodes and mounts are freed some time after they are let go */
	order("/proc/sys/vm/stat_refresh", "1\n");
	for (int i = 0; i < 2; i++) {
		FILE *f = fopen(files[i], "r");

		if (!f)
			stop(files[i]);
		while (fgets(line, sizeof(line), f)) {
			if (sscanf(line, "MemAvailable: %ld", &n) == 1)
				sum += n;
			else if (sscanf(line, " count: %ld", &n) == 1)
				sum += n * 4;
		}
		fclose(f);
	}
	return sum;
}

/* As /init does it; the device goes when the last mount on it does. */
static void mount_loop(unsigned long long offset, unsigned long long length)
{
	struct loop_config config = {
		.block_size = 512,
		.info = { .lo_offset = offset, .lo_sizelimit = length,
			  .lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR },
	};
	int control = open("/dev/loop-control", O_RDWR), number, device;
	char path[32];

	number = ioctl(control, LOOP_CTL_GET_FREE);
	snprintf(path, sizeof(path), "/dev/loop%d", number);
	device = open(path, O_RDONLY);
	config.fd = open("/sys/firmware/initrd", O_RDONLY);
	if (device < 0 || ioctl(device, LOOP_CONFIGURE, &config) < 0)
		stop(path);
	if (mount(path, "/mnt", "erofs", MS_RDONLY, NULL) < 0)
		stop("mount of the loop device");
	close(device);
	close(config.fd);
	close(control);
}

static void mount_memback(unsigned long long offset, unsigned long long length)
{
	char option[64];

	snprintf(option, sizeof(option), "memback=%llu:%llu", offset, length);
	if (mount("none", "/mnt", "erofs", MS_RDONLY, option) < 0)
		stop(option);
}

/* loads the modules of the list; returns whether there is one */
static int load_modules(void)
{
	FILE *list = fopen("/modules", "r");
	char path[256];
	int fd;

	if (!list)
		return 0;
	while (fscanf(list, "%255s", path) == 1) {
		fd = open(path, O_RDONLY);
		/* crc32c-intel, for processors that have the instruction */
		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != ENODEV))
			stop(path);
		close(fd);
	}
	fclose(list);
	return 1;
}

static void mount_dax(unsigned long long offset, unsigned long long length)
{
	int in = open("/sys/firmware/initrd", O_RDONLY), out;
	unsigned long long done;
	static char buf[65536];
	ssize_t n;

	for (int tries = 0; (out = open("/dev/pmem0", O_WRONLY)) < 0; tries++) {
		if (tries == 1000)
			stop("/dev/pmem0");
		usleep(10000);	/* the driver makes it some time after its module is loaded */
	}
	for (done = 0; done < length; done += n) {
		n = pread(in, buf, sizeof(buf) < length - done ? sizeof(buf) : length - done, offset + done);
		if (n <= 0 || pwrite(out, buf, n, done) != n)
			stop("copying to /dev/pmem0");
	}
	if (fsync(out) < 0)
		stop("fsync of /dev/pmem0");
	close(in);
	close(out);
	if (mount("/dev/pmem0", "/mnt", "erofs", MS_RDONLY, "dax=always") < 0)
		stop("mount with dax=always");
}

static int every, number, failed;

static int read_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	static char buf[65536];
	ssize_t n;
	int fd;

	(void)st, (void)ftw;
	if (type != FTW_F || number++ % every)
		return 0;
	fd = open(path, O_RDONLY);
	do
		n = fd < 0 ? -1 : read(fd, buf, sizeof(buf));
	while (n > 0);
	failed |= n < 0;
	close(fd);
	return 0;
}

/* mounts and reads every Nth file (0: none); returns the time of what is asked for */
static double measure(int memback, unsigned long long offset, unsigned long long length, int n,
		      long *memory)
{
	long before;
	double start, time;

	sync();
	order("/proc/sys/vm/drop_caches", "3\n");
	before = available();
	start = microseconds();
	if (memback)
		mount_memback(offset, length);
	else
		mount_loop(offset, length);
	time = microseconds() - start;
	if (n) {
		every = n, number = 0;
		start = microseconds();
		if (nftw("/mnt", read_file, 16, FTW_PHYS) < 0 || failed)
			stop("a file cannot be read");
		time = microseconds() - start;
	}
	*memory = before - available();
	if (umount("/mnt") < 0)
		stop("umount");
	return time;
}

static double read_all(void *unused)
{
	double start = microseconds();

	(void)unused;
	every = 1, number = 0;
	if (nftw(".", read_file, 16, FTW_PHYS) < 0 || failed)
		stop("a file cannot be read");
	return microseconds() - start;
}

static double execute(void *faults)
{
	double start = microseconds();
	pid_t pid = vfork();
	struct rusage usage;
	int status = -1;

	if (!pid) {
		execl("./program", "./program", NULL);
		_exit(127);
	}
	if (wait4(pid, &status, 0, &usage) != pid || status)
		stop("./program");
	*(long *)faults = usage.ru_minflt + usage.ru_majflt;
	return microseconds() - start;
}

/* copies what the working directory has to a tmpfs */
static int copy_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	char to[4096];
	int in, out;

	(void)ftw;
	snprintf(to, sizeof(to), "/tmpfs/%s", path);
	if (type == FTW_D) {
		if (strcmp(path, ".") && mkdir(to, 0755) < 0)
			stop(to);
	} else if (type == FTW_F) {
		in = open(path, O_RDONLY);
		out = open(to, O_WRONLY | O_CREAT, st->st_mode);
		while (sendfile(out, in, NULL, 1 << 20) > 0)
			;
		close(in);
		close(out);
	}
	return 0;
}

/* the image in place, then a copy of it in a tmpfs */
static void beside_tmpfs(int dax, const char *name, unsigned long long offset, unsigned long long length)
{
	const char *method = dax ? "dax" : "memback";
	int program = !strcmp(name, "program");

	for (int tmpfs = 0; tmpfs < 2; tmpfs++) {
		long faults[2] = {}, before;
		double time[2];

		if (dax)
			mount_dax(offset, length);
		order("/proc/sys/vm/drop_caches", "3\n");
		before = available();
		if (!dax)
			mount_memback(offset, length);
		if (chdir("/mnt") < 0)
			stop("/mnt");
		if (tmpfs) {
			if (mount("none", "/tmpfs", "tmpfs", 0, NULL) < 0 ||
			    nftw(".", copy_file, 16, FTW_PHYS) < 0 || chdir("/tmpfs") < 0)
				stop("copying to /tmpfs");
			before = available();
		}
		for (int i = 0; i < 2; i++)
			time[i] = program ? execute(&faults[i]) : read_all(NULL);
		if (program)
			printf("exec %s %.0f %.0f %ld %ld\n", tmpfs ? "tmpfs" : method, time[0], time[1],
			       faults[0], faults[1]);
		else
			printf("read %s %.0f %.0f %ld\n", tmpfs ? "tmpfs" : method, time[0], time[1],
			       before - available());
		if (chdir("/") < 0 || umount("/mnt") < 0 || (tmpfs && umount("/tmpfs") < 0))
			stop("umount");
	}
}

int main(void)
{
	unsigned long long offset, length;
	char line[256], name[64];
	FILE *manifest;
	int dax;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (const char *dirs = "/proc\0/sys\0/dev\0/mnt\0/tmpfs\0"; *dirs; dirs += strlen(dirs) + 1)
		mkdir(dirs, 0755);
	if (mount("proc", "/proc", "proc", 0, NULL) || mount("sysfs", "/sys", "sysfs", 0, NULL) ||
	    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL))
		stop("mount of /proc, /sys and /dev");
	dax = load_modules();
	manifest = fopen("/manifest", "r");
	if (!manifest)
		stop("/manifest");
	while (fgets(line, sizeof(line), manifest)) {
		if (sscanf(line, "%63s %llu %llu", name, &offset, &length) != 3)
			continue;
		if (!strcmp(name, "uncompressed") || !strcmp(name, "program"))
			beside_tmpfs(dax, name, offset, length);
		for (int memback = 1; memback >= 0 && !dax && strcmp(name, "program"); memback--) {
			long memory[3];
			double time[3];

			measure(memback, offset, length, 1, memory);	/* grows what is kept for good */
			time[0] = measure(memback, offset, length, 0, memory);
			time[1] = measure(memback, offset, length, 1, memory + 1);
			time[2] = measure(memback, offset, length, 10, memory + 2);
			printf("figure %s %s %.0f %.0f %.0f %ld %ld %ld\n", name,
			       memback ? "memback" : "loop", time[0], time[1], time[2],
			       memory[0], memory[1], memory[2]);
		}
	}
	puts("FIGURES-DONE");
	reboot(RB_AUTOBOOT);
	return 1;
}
