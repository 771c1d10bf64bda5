/*
 * The lower bound of qemu/bench: only the system calls that a boot from EROFS layers needs, one after
 * the other. It does not search, check or report anything, and frees memory only with free=1. Its
 * parameters are on the kernel command line, whose unknown words are in the environment:
 *
 *   modules=NAME,...        uncompressed modules in / to load, in this order
 *   layers=OFFSET:SIZE,...  the layers, the lowest first
 *   source=FILE             the file that holds them, for a loop device each; or memback, for a kernel
 *                           that mounts them from the memory of the initrd
 *   free=1                  empty the old root, as switch_root(8) does, which frees its files and
 *                           this program
 *   init=                   ignored: the real init is /sbin/init
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void ok(long result, const char *what, const char *object)
{
	if (result >= 0)
		return;
	dprintf(2, "BENCH-FAIL %s %s: %s\n", what, object, strerror(errno));
	for (;;)
		pause();
}

static void mounted(const char *type, const char *on, unsigned long flags, const char *data)
{
	ok(mount(type, on, type, flags, data), "mount", on);
}

static void load(const char *name)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	ok(fd, "open", name);
	/* A driver for another processor fails. */
	if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != ENODEV)
		ok(-1, "load", name);
	close(fd);
}

static void by_loop(int source, int control, unsigned long long offset, unsigned long long size,
		    const char *dir)
{
	struct loop_config config = {
		.fd = source,
		.block_size = 512,
		.info.lo_offset = offset,
		.info.lo_sizelimit = size,
		.info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR,
	};
	char path[32];
	int number = ioctl(control, LOOP_CTL_GET_FREE), fd;

	ok(number, "find", "a free loop device");
	snprintf(path, sizeof(path), "/dev/loop%d", number);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ok(fd, "open", path);
	ok(ioctl(fd, LOOP_CONFIGURE, &config), "configure", path);
	ok(mount(path, dir, "erofs", MS_RDONLY, ""), "mount", dir);
	close(fd);
}

static void by_memback(unsigned long long offset, unsigned long long size, const char *dir)
{
	char data[64];

	snprintf(data, sizeof(data), "memback=%llu:%llu", offset, size);
	ok(mount("none", dir, "erofs", MS_RDONLY, data), "mount", dir);
}

/* Mounts the layers at 0, 1, ... in the working directory; returns their names, the highest first. */
static const char *layers(char *ranges, const char *name)
{
	static char lower[4096];
	char *at = lower + sizeof(lower) - 1, *range, dir[16];
	int memback = !strcmp(name, "memback"), source = -1, control = -1, number = 0, length;
	unsigned long long offset, size;

	if (!memback) {
		ok(source = open(name, O_RDONLY | O_CLOEXEC), "open", name);
		ok(control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), "open", "loop-control");
	}
	while ((range = strsep(&ranges, ","))) {
		offset = strtoull(range, &range, 10);
		size = strtoull(range + 1, NULL, 10);
		length = snprintf(dir, sizeof(dir), "%d", number++);
		ok(mkdir(dir, 0755), "create", dir);
		if (memback)
			by_memback(offset, size, dir);
		else
			by_loop(source, control, offset, size, dir);
		if (at != lower + sizeof(lower) - 1)
			*--at = ':';
		at -= length;
		memcpy(at, dir, length);
	}
	return at;
}

/* Deletes the files in the directory that are on the same filesystem. */
static void empty(int directory)
{
	DIR *stream = fdopendir(directory);
	struct stat here, there;
	struct dirent *entry;
	int below;

	ok(fstat(directory, &here), "stat", "the old root");
	while ((entry = readdir(stream))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (entry->d_type != DT_DIR) {
			unlinkat(directory, entry->d_name, 0);
			continue;
		}
		below = openat(directory, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (below < 0 || fstat(below, &there) || there.st_dev != here.st_dev)
			continue;
		empty(below);
		unlinkat(directory, entry->d_name, AT_REMOVEDIR);
	}
	closedir(stream);
}

int main(int argc, char **argv, char **environment)
{
	static const char *const moved[] = { "/dev", "/proc", "/sys", "/run" };
	char *modules = getenv("modules"), *ranges = getenv("layers"), *source = getenv("source");
	char *module, data[4096], target[32];
	unsigned int i;
	int old = getenv("free") ? open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	(void)argc;
	mounted("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
	mounted("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "");
	mounted("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, "");
	mkdir("/dev/pts", 0755);
	mounted("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620");
	mkdir("/dev/shm", 0755);
	mounted("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
	mounted("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755");

	while (modules && (module = strsep(&modules, ",")))
		load(module);

	mkdir("/run/initramfs", 0755);
	mkdir("/run/initramfs/upper", 0755);
	mkdir("/run/initramfs/layers", 0755);
	mkdir("/newroot", 0755);
	ok(chdir("/run/initramfs/layers"), "enter", "/run/initramfs/layers");
	snprintf(data, sizeof(data), "lowerdir=%s,upperdir=../upper/data,workdir=../upper/work",
		 layers(ranges, source));
	mounted("tmpfs", "../upper", 0, "mode=0755");
	mkdir("../upper/data", 0755);
	mkdir("../upper/work", 0755);
	mounted("overlay", "/newroot", 0, data);

	for (i = 0; i < sizeof(moved) / sizeof(*moved); i++) {
		snprintf(target, sizeof(target), "/newroot%s", moved[i]);
		ok(mount(moved[i], target, NULL, MS_MOVE, NULL), "move", moved[i]);
	}
	ok(chdir("/newroot"), "enter", "/newroot");
	ok(mount(".", "/", NULL, MS_MOVE, NULL), "move", "/newroot");
	ok(chroot("."), "change root to", "/newroot");
	if (old >= 0)
		empty(old);
	argv[0] = "/sbin/init";
	ok(execve(argv[0], argv, environment), "execute", argv[0]);
	return 1;
}
