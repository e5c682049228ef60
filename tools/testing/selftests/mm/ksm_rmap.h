/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What ksm_rmap (does the walk find every mapping?) and ksm_rmap_bench (what
 * does it cost?) have in common: the KSM knobs, mergeable memory, one rmap walk of
 * one page at will, and memory that can be swapped out.
 */
#ifndef _KSM_RMAP_H
#define _KSM_RMAP_H

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vm_util.h"

#define KSM_SYSFS	"/sys/kernel/mm/ksm/"
#define IDLE_BITMAP	"/sys/kernel/mm/page_idle/bitmap"
#define NODE1		"/sys/devices/system/node/node1"
#define MEMORY		"/sys/devices/system/memory/"
#define UNPOISON	"/sys/kernel/debug/hwpoison/unpoison-pfn"
#define KPF_KSM		BIT_ULL(21)

#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE	101
#endif

/* Pages: more than x86 flushes one by one, so that the whole TLB goes */
#define FLUSH_PAGES	64

/* Whatever was set at the start is set again at the end, pass or fail */
static struct {
	const char *path;
	unsigned long wanted;
	unsigned long saved;
	bool present;
} ksm_knobs[] = {
	/* Before the two below, which refuse as long as anything is merged */
	{ KSM_SYSFS "run", 2 },
	{ KSM_SYSFS "max_page_sharing", 256 },
	{ KSM_SYSFS "merge_across_nodes", 1 },
	{ KSM_SYSFS "pages_to_scan", 100000 },
	{ KSM_SYSFS "sleep_millisecs", 0 },
	{ KSM_SYSFS "smart_scan", 1 },
	{ KSM_SYSFS "use_zero_pages", 0 },
	{ KSM_SYSFS "stable_node_chains_prune_millisecs", 2000 },
	/* Short per-CPU lists of free pages: compaction does not see these */
	{ "/proc/sys/vm/percpu_pagelist_high_fraction", 100000 },
};

static pid_t ksm_knobs_owner;

/* Returns: the knob's value, or -1 where the kernel does not have it */
static inline long ksm_knob(const char *path)
{
	char buf[32];

	return read_file(path, buf, sizeof(buf)) > 0 ? atol(buf) : -1;
}

/* The same for what is in /sys/kernel/mm/ksm */
static inline long ksm_counter(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), KSM_SYSFS "%s", name);
	return ksm_knob(path);
}

/* Returns: false if it is not there, or refused */
static inline bool write_text(const char *path, const char *text)
{
	const ssize_t len = strlen(text);
	int fd = open(path, O_WRONLY);
	bool done;

	if (fd < 0)
		return false;
	done = write(fd, text, len) == len;
	close(fd);
	return done;
}

/* Returns: the process ID of ksmd, or 0 */
static inline pid_t ksmd_pid(void)
{
	static pid_t pid;
	char text[16];
	glob_t g;

	if (pid || glob("/proc/[0-9]*/comm", 0, NULL, &g))
		return pid;
	for (size_t i = 0; !pid && i < g.gl_pathc; i++)
		if (read_file(g.gl_pathv[i], text, sizeof(text)) > 0 &&
		    !strcmp(text, "ksmd\n"))
			pid = atoi(g.gl_pathv[i] + strlen("/proc/"));
	globfree(&g);
	return pid;
}

/*
 * Let @percent of 100 allocations fail that @pid makes, or just those of one slab
 * @cache, if that is not NULL; until called again with 0 percent.
 *
 * Returns: false on kernels without CONFIG_FAULT_INJECTION_DEBUG_FS, and if the
 * cache serves others, too (CONFIG_SLAB_MERGE_DEFAULT)
 */
static inline bool allocations_fail(pid_t pid, int percent, const char *cache)
{
	static const char *const kinds[] = { "failslab", "fail_page_alloc" };
	static const char *const settings[][2] = {
		{ "task-filter", "Y" }, { "times", "-1" }, { "verbose", "0" },
		{ "ignore-gfp-wait", "N" }, { "ignore-gfp-highmem", "N" },
		{ "min-order", "0" },
	};
	char path[128], text[16];

	if (access("/sys/kernel/debug/failslab/probability", W_OK))
		return false;
	if (cache) {
		snprintf(path, sizeof(path), "/sys/kernel/slab/%s/failslab", cache);
		if (!write_text(path, percent ? "1" : "0"))
			return false;
	}
	snprintf(path, sizeof(path), "/proc/%d/make-it-fail", pid);
	if (!write_text(path, percent ? "1" : "0"))
		return false;
	write_text("/sys/kernel/debug/failslab/cache-filter", cache ? "Y" : "N");
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		for (size_t j = 0; j < ARRAY_SIZE(settings); j++) {
			snprintf(path, sizeof(path), "/sys/kernel/debug/%s/%s",
				 kinds[i], settings[j][0]);
			/* Not each of them has all of these */
			write_text(path, settings[j][1]);
		}
		snprintf(path, sizeof(path), "/sys/kernel/debug/%s/probability",
			 kinds[i]);
		snprintf(text, sizeof(text), "%d", i && cache ? 0 : percent);
		write_text(path, text);
	}
	return true;
}

static inline bool ksmd_fails(int percent, const char *cache)
{
	return allocations_fail(ksmd_pid(), percent, cache);
}

static inline void ksm_knobs_restore(void)
{
	if (getpid() != ksm_knobs_owner)
		return;
	ksm_knobs_owner = 0;

	ksmd_fails(0, NULL);
	write_num(ksm_knobs[0].path, 2);
	for (size_t i = 1; i < ARRAY_SIZE(ksm_knobs); i++)
		if (ksm_knobs[i].present &&
		    ksm_knob(ksm_knobs[i].path) != (long)ksm_knobs[i].saved)
			write_num(ksm_knobs[i].path, ksm_knobs[i].saved);
	write_num(ksm_knobs[0].path, ksm_knobs[0].saved);
}

static inline void ksm_knobs_signal(int sig)
{
	exit(128 + sig);	/* by way of ksm_knobs_restore() */
}

/* Unmerge everything, and leave ksmd stopped with all knobs as @wanted says */
static inline void ksm_knobs_reset(void)
{
	ksmd_fails(0, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(ksm_knobs); i++)
		if (ksm_knobs[i].present &&
		    ksm_knob(ksm_knobs[i].path) != (long)ksm_knobs[i].wanted)
			write_num(ksm_knobs[i].path, ksm_knobs[i].wanted);
}

/* Once, in the main process: its children must not restore anything */
static inline void ksm_knobs_save(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(ksm_knobs); i++) {
		long value = ksm_knob(ksm_knobs[i].path);

		ksm_knobs[i].present = value >= 0;
		ksm_knobs[i].saved = value;
	}
	ksm_knobs_owner = getpid();
	atexit(ksm_knobs_restore);
	signal(SIGINT, ksm_knobs_signal);
	signal(SIGTERM, ksm_knobs_signal);
}

/* Returns: what this machine lacks for the oracle, or NULL */
static inline const char *ksm_rmap_missing(void)
{
	if (geteuid())
		return "must be run as root";
	if (access(KSM_SYSFS "run", W_OK))
		return "no " KSM_SYSFS "run: needs CONFIG_KSM";
	if (access(IDLE_BITMAP, W_OK))
		return "no " IDLE_BITMAP ": needs CONFIG_IDLE_PAGE_TRACKING";
	if (access("/proc/kpageflags", R_OK))
		return "no /proc/kpageflags: needs CONFIG_PROC_PAGE_MONITOR";
	return NULL;
}

/*
 * Let ksmd complete at least @n full scans, and stop it.  How many more, depends
 * on sleep_millisecs.
 *
 * Returns: false when it took more than a minute.
 */
static inline bool ksm_scan(int n)
{
	long end = ksm_get_full_scans() + n;
	int ms = 60 * 1000;

	write_num(KSM_SYSFS "run", 1);
	while (ksm_get_full_scans() < end && --ms)
		usleep(1000);
	/* Writing 0 waits for ksmd to finish the batch that it is at */
	write_num(KSM_SYSFS "run", 0);
	return ms;
}

/*
 * Memory of @nr pages, none of them huge, with inaccessible pages on either side
 * which keep its vma, and so its anon_vma, apart from others.
 */
static inline char *map_apart(size_t nr)
{
	const size_t size = nr * psize();
	char *p = mmap(NULL, size + 2 * psize(), PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	p += psize();
	if (mprotect(p, size, PROT_READ | PROT_WRITE))
		return NULL;
	madvise(p, size, MADV_NOHUGEPAGE);	/* EINVAL if not built in */
	return p;
}

/* The same, mergeable */
static inline char *map_area(size_t nr)
{
	char *p = map_apart(nr);

	if (p && madvise(p, nr * psize(), MADV_MERGEABLE))
		return NULL;
	return p;
}

/* Make the page at @p one of those that have content @tag, not 0 */
static inline void fill_page(char *p, unsigned long tag)
{
	unsigned long *word = (unsigned long *)p;

	for (size_t i = 0; i < psize() / sizeof(*word); i++)
		word[i] = tag * 0x10001 + i;
}

static inline bool page_holds(const char *p, unsigned long tag)
{
	const unsigned long *word = (const unsigned long *)p;

	for (size_t i = 0; i < psize() / sizeof(*word); i++)
		if (word[i] != tag * 0x10001 + i)
			return false;
	return true;
}

/* The pagemap entry for the page at @p of process @pid; 0 for none */
static inline uint64_t pagemap_of(pid_t pid, const char *p)
{
	uint64_t entry = 0;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return 0;
	if (pread(fd, &entry, sizeof(entry),
		  (uintptr_t)p / psize() * sizeof(entry)) != sizeof(entry))
		entry = 0;
	close(fd);
	return entry;
}

/* Page frame number of what @pid has at @p; 0 when it is not present */
static inline unsigned long pfn_of(pid_t pid, const char *p)
{
	uint64_t entry = pagemap_of(pid, p);

	return PAGEMAP_PRESENT(entry) ? PAGEMAP_PFN(entry) : 0;
}

/* What /proc/kpageflags has of page @pfn, or 0 */
static inline unsigned long long kpageflags_of(unsigned long pfn)
{
	int fd = open("/proc/kpageflags", O_RDONLY);
	uint64_t flags = 0;

	if (fd < 0 || pageflags_get(pfn, fd, &flags))
		flags = 0;
	if (fd >= 0)
		close(fd);
	return flags;
}

static inline bool pfn_is_ksm(unsigned long pfn)
{
	return kpageflags_of(pfn) & KPF_KSM;
}

/*
 * Take a block of memory offline, and back.  That is tried for as long as it takes,
 * so have somebody do it who can be killed.
 *
 * Returns: whether it has been offline
 */
static inline bool take_memory(unsigned long block)
{
	pid_t pid, ended = 0;
	char path[64], state[16];
	int status = 1;

	snprintf(path, sizeof(path), MEMORY "memory%lu/state", block);
	if (access(path, W_OK))
		return false;
	pid = fork();
	if (!pid)
		_exit(write_text(path, "offline") ? 0 : 1);
	if (pid < 0)
		return false;
	for (int ms = 0; !ended && ms < 3000; ms++) {
		usleep(1000);
		ended = waitpid(pid, &status, WNOHANG);
	}
	if (!ended) {
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
	}
	/* Killed too late, it may have done it all the same */
	for (int ms = 0; ms < 3000; ms += 100) {
		if (read_file(path, state, sizeof(state)) > 0 &&
		    !strcmp(state, "online\n"))
			break;
		write_text(path, "online");
		usleep(100000);
	}
	return !status;
}

/* Returns: a userfaultfd with @features, for what user code does, or -1 */
static inline int open_uffd(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = syscall(__NR_userfaultfd,
			 O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static inline int idle_open(void)
{
	return open(IDLE_BITMAP, O_RDWR);
}

/*
 * One complete rmap walk of page @pfn: it clears the accessed bit of every
 * mapping which the walk finds, and then marks the page idle.
 */
static inline bool idle_set(int fd, unsigned long pfn)
{
	uint64_t bits = BIT_ULL(pfn % 64);

	return pwrite(fd, &bits, sizeof(bits), pfn / 64 * sizeof(bits)) ==
	       sizeof(bits);
}

/*
 * Another walk: the page is no longer idle if that finds a mapping through
 * which it has been accessed.
 */
static inline bool idle_get(int fd, unsigned long pfn)
{
	uint64_t bits = 0;

	if (pread(fd, &bits, sizeof(bits), pfn / 64 * sizeof(bits)) !=
	    sizeof(bits))
		return false;
	return bits & BIT_ULL(pfn % 64);
}

/*
 * The walk clears accessed bits without a TLB flush, so the next access may
 * not set them again.  Flush, without touching the vmas under test.
 */
static inline void flush_tlb(void)
{
	static char *flush;
	const size_t size = FLUSH_PAGES * psize();

	if (!flush) {
		flush = mmap(NULL, size, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		if (flush == MAP_FAILED)
			ksft_exit_fail_perror("mmap");
	}
	/* A fork leaves the pages write-protected: there must be changes */
	for (size_t i = 0; i < size; i += psize())
		flush[i]++;
	if (mprotect(flush, size, PROT_READ) ||
	    mprotect(flush, size, PROT_READ | PROT_WRITE))
		ksft_exit_fail_perror("mprotect");
}

/*
 * What is mapped more than once is not for MADV_PAGEOUT to reclaim: it takes a
 * cgroup.  Make one, and store its path in @cgroup.
 *
 * Returns: what this machine lacks to swap it out, or NULL
 */
static inline const char *make_cgroup(char cgroup[64])
{
	char path[128], swaps[256];

	if (read_file("/proc/swaps", swaps, sizeof(swaps)) <= 0 ||
	    !strchr(strchr(swaps, '\n') + 1, '\n'))
		return "no swap: try zram";
	strcpy(cgroup, "/sys/fs/cgroup/ksm_rmap.XXXXXX");
	if (!mkdtemp(cgroup))
		return "no cgroup v2 at /sys/fs/cgroup";
	snprintf(path, sizeof(path), "%s/memory.reclaim", cgroup);
	if (access(path, W_OK)) {
		rmdir(cgroup);
		return "no memory.reclaim: +memory in cgroup.subtree_control of the root";
	}
	return NULL;
}

/* Once nobody is in it; who has exited may be for some ms yet */
static inline void remove_cgroup(const char *cgroup)
{
	for (int ms = 5000; rmdir(cgroup) && errno == EBUSY && ms; ms--)
		usleep(1000);
}

/* Swap out what is charged to @cgroup, once: some of that may stay */
static inline void reclaim_cgroup(const char *cgroup)
{
	char path[128], stat[16];

	/* Has the kernel sum up the statistics, which reclaim goes by */
	snprintf(path, sizeof(path), "%s/memory.stat", cgroup);
	read_file(path, stat, sizeof(stat));

	/* EAGAIN: not as much as was asked for.  Swappiness is from 6.16 on. */
	snprintf(path, sizeof(path), "%s/memory.reclaim", cgroup);
	if (!write_text(path, "64M swappiness=max") && errno != EAGAIN)
		write_text(path, "64M");
}

/*
 * Have a pipe refer to @nr pages at @p, without a copy and without pinning them: in
 * the swap cache, they stay there, whatever the swap device.
 *
 * Returns: 0, or an errno
 */
static inline int hold_pages(int holder[2], char *p, size_t nr)
{
	struct iovec iov = { p, nr * psize() };

	if (pipe(holder) ||
	    fcntl(holder[1], F_SETPIPE_SZ, nr * psize()) < 0 ||
	    vmsplice(holder[1], &iov, 1, 0) != (ssize_t)(nr * psize()))
		return errno;
	return 0;
}

/* Returns: 0, or not if nothing was held */
static inline int release_page(int holder[2])
{
	return close(holder[0]) || close(holder[1]);
}

#endif
