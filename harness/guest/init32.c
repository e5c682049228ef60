// SPDX-License-Identifier: GPL-2.0
/*
 * The first and only program of a 32-bit guest, whose kernel cannot run what is on
 * the host's disk: mounts what the KSM tests read and write, gives them swap, runs
 * each of them (all in /tests, then /ksm_rmap_soak for a minute), prints on /dev/ttyS0
 * what run_vmtests.sh would, and switches the machine off.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE	4096	/* bytes */
#define SWAP	(256u << 20)

/* The status is what harness/lib/boot looks for in the kernel log */
static void power_off(int status)
{
	FILE *log = fopen("/dev/kmsg", "w");

	if (log) {
		fprintf(log, "ksm-rmap: exit %d\n", status);
		fclose(log);
	}
	fflush(stdout);
	/* Or what the serial port has not sent yet is lost */
	fsync(1);
	reboot(RB_POWER_OFF);
	_exit(1);
}

static void must(int succeeded, const char *what)
{
	if (succeeded)
		return;
	printf("# init32: %s: %s\n", what, strerror(errno));
	power_off(1);
}

static void mount_at(const char *type, const char *path, const char *options)
{
	mkdir(path, 0755);
	must(!mount(type, path, type, 0, options), path);
}

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	must(fd >= 0 && write(fd, text, strlen(text)) > 0, path);
	close(fd);
}

/*
 * Swap that takes its time, so that pages are seen in the swap cache. It starts
 * with what mkswap would write: the version, the last page, and at the first page's
 * end a magic number.
 */
static void add_swap(void)
{
	static char first[PAGE];
	unsigned int *info = (unsigned int *)(first + 1024);
	int file, loop;

	/* It must not be swapped out to itself */
	mount_at("tmpfs", "/swap", "size=300M,noswap");
	file = open("/swap/file", O_RDWR | O_CREAT, 0600);
	info[0] = 1;
	info[1] = SWAP / PAGE - 1;
	memcpy(first + PAGE - 10, "SWAPSPACE2", 10);
	must(file >= 0 && write(file, first, PAGE) == PAGE &&
	     !ftruncate(file, SWAP), "/swap/file");
	loop = open("/dev/loop0", O_RDWR);
	must(loop >= 0 && !ioctl(loop, LOOP_SET_FD, file), "/dev/loop0");
	must(!swapon("/dev/loop0", 0), "swapon");
	/* Tests may turn it off */
	setenv("KSM_RMAP_SWAP", "/dev/loop0", 1);
	close(loop);
	close(file);
}

/* Its output with "# " in front of each line, and its result */
static void run(int number, char *const argv[])
{
	const char *name = strrchr(argv[0], '/') + 1;
	char line[4096];
	int out[2], status;
	FILE *lines;
	pid_t pid;

	printf("# running ./%s\n", name);
	must(!pipe(out), "pipe");
	pid = fork();
	must(pid >= 0, "fork");
	if (!pid) {
		dup2(out[1], 1);
		dup2(out[1], 2);
		close(out[0]);
		close(out[1]);
		execv(argv[0], argv);
		_exit(127);
	}
	close(out[1]);
	lines = fdopen(out[0], "r");
	must(!!lines, "fdopen");
	while (fgets(line, sizeof(line), lines))
		printf("# %s", line);
	fclose(lines);
	/* Whoever a test has left behind is now a child, too */
	must(waitpid(pid, &status, 0) == pid, "waitpid");
	if (!status)
		printf("ok %d %s\n", number, name);
	else
		printf("not ok %d %s # exit=%d\n", number, name,
		       WIFEXITED(status) ? WEXITSTATUS(status) :
		       128 + WTERMSIG(status));
}

static int is_program(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

int main(void)
{
	char *const soak[] = { "/ksm_rmap_soak", "-t", "60", NULL };
	struct dirent **tests;
	int nr;

	mount_at("devtmpfs", "/dev", NULL);
	/* The console is the kernel's */
	dup2(open("/dev/ttyS0", O_WRONLY), 1);
	setvbuf(stdout, NULL, _IOLBF, 0);
	mount_at("proc", "/proc", NULL);
	mount_at("sysfs", "/sys", NULL);
	mount_at("tmpfs", "/tmp", NULL);
	mount_at("debugfs", "/sys/kernel/debug", NULL);
	mount_at("cgroup2", "/sys/fs/cgroup", NULL);
	write_text("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	add_swap();

	printf("TAP version 13\n");
	nr = scandir("/tests", &tests, is_program, alphasort);
	must(nr > 0, "/tests");
	for (int i = 0; i < nr; i++) {
		char path[512];
		char *const test[] = { path, NULL };

		snprintf(path, sizeof(path), "/tests/%s", tests[i]->d_name);
		run(i + 1, test);
	}
	run(nr + 1, soak);
	printf("1..%d\n", nr + 1);
	power_off(0);
}
