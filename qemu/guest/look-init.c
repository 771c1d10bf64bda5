/*
 * The real init of the boots of qemu/handover: writes everything that it inherits to the second serial
 * port, one fact a line, and ends the guest. It reads each thing before it changes it, and calls last
 * what opens files.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

extern char **environ;
static char text[1 << 20];
static FILE *out;

static void link_fact(const char *fact, const char *path)
{
	char target[4096] = "";

	fprintf(out, "%s %s\n", fact, readlink(path, target, sizeof(target) - 1) < 0 ? strerror(errno) : target);
}

/* Prints every line of a file, or those that begin with one of the words. */
static void file_fact(const char *fact, const char *path, const char *const *words)
{
	char line[8192];
	const char *const *word;
	FILE *file = fopen(path, "re");

	if (!file) {
		fprintf(out, "%s %s: %s\n", fact, path, strerror(errno));
		return;
	}
	while (fgets(line, sizeof(line), file)) {
		for (word = words; word && *word && strncmp(line, *word, strlen(*word)); word++)
			;
		if (!word || *word)
			fprintf(out, "%s %s%s", fact, line, strchr(line, '\n') ? "" : "\n");
	}
	fclose(file);
}

static void descriptors(void)
{
	char path[64], target[4096];
	int fd;

	/* By number, because an open /proc/self/fd would be a descriptor, too. */
	for (fd = 0; fd < 1024; fd++) {
		int flags = fcntl(fd, F_GETFD), status = fcntl(fd, F_GETFL);

		if (flags < 0)
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		memset(target, 0, sizeof(target));
		if (readlink(path, target, sizeof(target) - 1) < 0)
			strcpy(target, strerror(errno));
		fprintf(out, "descriptor %d %s flags=%#x status=%#o tty=%d\n", fd, target, flags, status, isatty(fd));
	}
}

static void terminal(void)
{
	struct termios modes;

	if (tcgetattr(0, &modes)) {
		fprintf(out, "terminal %s\n", strerror(errno));
		return;
	}
	fprintf(out, "terminal input=%#o output=%#o control=%#o local=%#o speed=%#o\n", modes.c_iflag, modes.c_oflag,
		modes.c_cflag, modes.c_lflag, cfgetospeed(&modes));
	fprintf(out, "terminal foreground=%d session=%d\n", tcgetpgrp(0), tcgetsid(0));
	fprintf(out, "terminal controlling=%s\n", open("/dev/tty", O_RDWR | O_CLOEXEC) < 0 ? strerror(errno) : "yes");
}

static void process(void)
{
	static const char *const status[] = { "Umask", "Uid", "Gid", "FDSize", "Groups", "NStgid", "Threads", "SigPnd",
		"ShdPnd", "SigBlk", "SigIgn", "SigCgt", "Cap", "NoNewPrivs", "Seccomp", "Speculation_Store_Bypass",
		"Cpus_allowed:", "Mems_allowed:", "THP", "untag", NULL };
	static const char *const spaces[] = { "cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts", NULL };
	const char *const *space;
	char path[64];
	int value = 0;

	fprintf(out, "process pid=%d ppid=%d group=%d session=%d\n", getpid(), getppid(), getpgrp(), getsid(0));
	fprintf(out, "process nice=%d policy=%d\n", getpriority(PRIO_PROCESS, 0), sched_getscheduler(0));
	fprintf(out, "process securebits=%d dumpable=%d keepcaps=%d timerslack=%d\n", prctl(PR_GET_SECUREBITS),
		prctl(PR_GET_DUMPABLE), prctl(PR_GET_KEEPCAPS), prctl(PR_GET_TIMERSLACK));
	prctl(PR_GET_CHILD_SUBREAPER, &value);
	fprintf(out, "process subreaper=%d\n", value);
	prctl(PR_GET_PDEATHSIG, &value);
	fprintf(out, "process deathsignal=%d\n", value);
	fprintf(out, "process execfn=%s secure=%lu\n", (char *)getauxval(AT_EXECFN), getauxval(AT_SECURE));
	file_fact("status", "/proc/self/status", status);
	file_fact("limit", "/proc/self/limits", NULL);
	file_fact("oom_score_adj", "/proc/self/oom_score_adj", NULL);
	file_fact("personality", "/proc/self/personality", NULL);
	file_fact("coredump_filter", "/proc/self/coredump_filter", NULL);
	file_fact("comm", "/proc/self/comm", NULL);
	file_fact("cgroup", "/proc/self/cgroup", NULL);
	for (space = spaces; *space; space++) {
		snprintf(path, sizeof(path), "/proc/self/ns/%s", *space);
		link_fact("namespace", path);
	}
	link_fact("cwd", "/proc/self/cwd");
	link_fact("root", "/proc/self/root");
	link_fact("exe", "/proc/self/exe");
	fprintf(out, "children %s\n", waitpid(-1, NULL, WNOHANG) < 0 ? strerror(errno) : "there are some");
}

static void stat_fact(const char *path)
{
	struct statfs filesystem;
	struct stat stat;

	if (lstat(path, &stat) || statfs(path, &filesystem))
		fprintf(out, "file %s %s\n", path, strerror(errno));
	else
		fprintf(out, "file %s mode=%#o owner=%d:%d filesystem=%#lx\n", path, stat.st_mode, stat.st_uid, stat.st_gid,
			(unsigned long)filesystem.f_type);
}

/* Prints the sorted entries of a directory, and with `depth` those of its subdirectories. */
static void tree(const char *directory, int depth)
{
	struct dirent **names;
	char path[4096], target[4096];
	struct stat stat;
	int i, n = scandir(directory, &names, NULL, alphasort);

	for (i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%s", directory, names[i]->d_name);
		if (strcmp(names[i]->d_name, ".") == 0 || strcmp(names[i]->d_name, "..") == 0 || lstat(path, &stat))
			continue;
		memset(target, 0, sizeof(target));
		if (S_ISLNK(stat.st_mode) && readlink(path, target, sizeof(target) - 1) < 0)
			strcpy(target, strerror(errno));
		fprintf(out, "entry %s mode=%#o owner=%d:%d device=%#lx %s\n", path, stat.st_mode, stat.st_uid, stat.st_gid,
			(unsigned long)stat.st_rdev, target);
		if (depth && S_ISDIR(stat.st_mode))
			tree(path, depth - 1);
	}
}

/* Prints the other running programs, which are the processes with a command line. */
static void others(void)
{
	char path[64], line[256] = "";
	int pid;

	for (pid = 2; pid < 4096; pid++) {
		FILE *file;

		snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
		file = fopen(path, "re");
		if (!file)
			continue;
		if (fread(line, 1, sizeof(line) - 1, file) > 0)
			fprintf(out, "program %s\n", line);
		fclose(file);
	}
}

int main(int argc, char **argv)
{
	const char *const paths[] = { "/", "/dev", "/proc", "/sys", "/run", "/dev/pts", "/dev/shm", "/tmp", NULL };
	const char *const settings[] = { "printk", "printk_devkmsg", "core_pattern", "ctrl-alt-del", "hostname", "modprobe",
		"panic", "tainted", NULL };
	const char *const *path;
	char name[128];
	FILE *port;
	int i;

	out = fmemopen(text, sizeof(text), "w");
	for (i = 0; i < argc; i++)
		fprintf(out, "argument %d [%s]\n", i, argv[i]);
	for (i = 0; environ[i]; i++)
		fprintf(out, "environment [%s]\n", environ[i]);
	descriptors();
	process();
	terminal();
	file_fact("mount", "/proc/self/mountinfo", NULL);
	for (path = paths; *path; path++)
		stat_fact(*path);
	for (path = settings; *path; path++) {
		snprintf(name, sizeof(name), "/proc/sys/kernel/%s", *path);
		file_fact(*path, name, NULL);
	}
	tree("/dev", 0);
	tree("/dev/pts", 0);
	tree("/run", 2);
	others();
	fclose(out);
	port = fopen("/dev/ttyS1", "w");
	if (port) {
		fputs(text, port);
		fclose(port);
	}
	/* handover accepts only a complete list. */
	port = fopen("/dev/kmsg", "w");
	if (port) {
		fputs("<2>handover: looked\n", port);
		fclose(port);
	}
	reboot(RB_AUTOBOOT);
}
