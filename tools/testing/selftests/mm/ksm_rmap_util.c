// SPDX-License-Identifier: GPL-2.0
/*
 * What the tests of KSM's reverse mapping (rmap), the stress test ksm_rmap_soak
 * and the benchmark ksm_rmap_bench have in common: KSM's settings and counters,
 * mergeable memory, one rmap walk of one page at will, and memory that can be
 * swapped out, compacted or taken offline.
 */
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "vm_util.h"
#include "ksm_rmap_util.h"

/*
 * What ksm_knobs_reset() sets; what was there before is set again at the end,
 * whether the test passes or fails.
 */
static struct {
	const char *path;
	unsigned long wanted;
	unsigned long saved;
	bool present;
} knobs[] = {
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

static pid_t knobs_owner;

/**
 * ksm_rmap_missing() - can this machine ask rmap for the mappings of a KSM page?
 *
 * Return: what it lacks, as one line of text, or NULL.
 */
const char *ksm_rmap_missing(void)
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

/**
 * ksm_knob() - read a setting or counter
 * @path: of a file that holds one number
 *
 * Return: the number, or -1 where the kernel does not have it.
 */
long ksm_knob(const char *path)
{
	char buf[32];

	return read_file(path, buf, sizeof(buf)) > 0 ? atol(buf) : -1;
}

/**
 * ksm_counter() - read a file of /sys/kernel/mm/ksm
 * @name: of the file
 *
 * Return: the number in it, or -1 where the kernel does not have it.
 */
long ksm_counter(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), KSM_SYSFS "%s", name);
	return ksm_knob(path);
}

/**
 * ksm_stat_of() - read one of the counters in /proc/PID/ksm_stat
 * @pid: process
 * @name: of the counter
 *
 * Return: the counter, or -1 where there is none of that name.
 */
long ksm_stat_of(pid_t pid, const char *name)
{
	char path[64], text[512], *at;

	snprintf(path, sizeof(path), "/proc/%d/ksm_stat", pid);
	if (read_file(path, text, sizeof(text)) <= 0)
		return -1;
	at = strstr(text, name);
	return at ? atol(at + strlen(name)) : -1;
}

/**
 * ksm_knobs_restore() - set KSM's settings as they were at ksm_knobs_save()
 *
 * Done at exit.  Does nothing the second time, and in children.
 */
void ksm_knobs_restore(void)
{
	if (getpid() != knobs_owner)
		return;
	knobs_owner = 0;

	ksmd_fails(0, NULL);
	write_num(knobs[0].path, 2);
	for (size_t i = 1; i < ARRAY_SIZE(knobs); i++)
		if (knobs[i].present &&
		    ksm_knob(knobs[i].path) != (long)knobs[i].saved)
			write_num(knobs[i].path, knobs[i].saved);
	write_num(knobs[0].path, knobs[0].saved);
}

/**
 * exit_on_signal() - a signal handler that has the settings restored
 * @sig: the signal
 */
void exit_on_signal(int sig)
{
	/* A second one would cut short what exit() does */
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	exit(128 + sig);	/* by way of ksm_knobs_restore() */
}

/**
 * ksm_knobs_reset() - unmerge everything, stop ksmd, and set what tests expect
 *
 * Exits if the kernel refuses a setting that it has.
 */
void ksm_knobs_reset(void)
{
	ksmd_fails(0, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++)
		if (knobs[i].present &&
		    ksm_knob(knobs[i].path) != (long)knobs[i].wanted)
			write_num(knobs[i].path, knobs[i].wanted);
}

/**
 * ksm_knobs_save() - have KSM's settings restored when this process exits
 *
 * To be called once, and in the main process: its children restore nothing.
 */
void ksm_knobs_save(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++) {
		long value = ksm_knob(knobs[i].path);

		knobs[i].present = value >= 0;
		knobs[i].saved = value;
	}
	knobs_owner = getpid();
	atexit(ksm_knobs_restore);
	signal(SIGINT, exit_on_signal);
	signal(SIGTERM, exit_on_signal);
	signal(SIGHUP, exit_on_signal);
}

/**
 * ksm_scan() - let ksmd complete some full scans, and stop it
 * @n: how many at least; how many more depends on sleep_millisecs
 *
 * Return: false if it took more than a minute.
 */
bool ksm_scan(int n)
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

/**
 * ksmd_pid() - find ksmd
 *
 * Return: its process ID, or 0 if there is no such kernel thread.
 */
pid_t ksmd_pid(void)
{
	static pid_t pid;

	if (!pid)
		pid = kthread_find("ksmd");
	return pid;
}

/**
 * allocations_fail() - have some of the allocations of a task fail
 * @pid: the task
 * @percent: how many of 100 fail, until this is called again with 0
 * @cache: name of the slab cache whose allocations fail; NULL for all, and for
 *	   pages as well
 *
 * Return: false on kernels without CONFIG_FAULT_INJECTION_DEBUG_FS, and if the
 * cache serves others, too (CONFIG_SLAB_MERGE_DEFAULT).
 */
bool allocations_fail(pid_t pid, int percent, const char *cache)
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

/**
 * ksmd_fails() - the same for ksmd
 * @percent: see allocations_fail()
 * @cache: see allocations_fail()
 *
 * Return: see allocations_fail().
 */
bool ksmd_fails(int percent, const char *cache)
{
	return allocations_fail(ksmd_pid(), percent, cache);
}

/**
 * map_apart() - map memory in a VMA that has no neighbours
 * @nr: pages, none of them huge
 *
 * Inaccessible pages on either side keep its VMA, and so its anon_vma, apart from
 * others.
 *
 * Return: the memory, or NULL with errno set.
 */
char *map_apart(size_t nr)
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

/**
 * map_area() - map mergeable memory in a VMA that has no neighbours
 * @nr: pages
 *
 * Return: the memory, or NULL with errno set.
 */
char *map_area(size_t nr)
{
	char *p = map_apart(nr);

	if (p && madvise(p, nr * psize(), MADV_MERGEABLE))
		return NULL;
	return p;
}

/**
 * fill_page() - write to a page
 * @p: its beginning
 * @tag: which of the possible contents it gets; not 0
 */
void fill_page(char *p, unsigned long tag)
{
	unsigned long *word = (unsigned long *)p;

	for (size_t i = 0; i < psize() / sizeof(*word); i++)
		word[i] = tag * 0x10001 + i;
}

/**
 * page_holds() - does a page have the content that fill_page() writes?
 * @p: its beginning
 * @tag: as for fill_page()
 *
 * Return: whether all of it is equal.
 */
bool page_holds(const char *p, unsigned long tag)
{
	const unsigned long *word = (const unsigned long *)p;

	for (size_t i = 0; i < psize() / sizeof(*word); i++)
		if (word[i] != tag * 0x10001 + i)
			return false;
	return true;
}

/**
 * pagemap_of() - read the pagemap entry of a page of any process
 * @pid: the process, which may have exited
 * @p: address in it
 *
 * Return: the entry, see PM_PRESENT and so on; 0 if there is none.
 */
uint64_t pagemap_of(pid_t pid, const char *p)
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

/**
 * pfn_of() - where is a page of a process?
 * @pid: the process, which may have exited
 * @p: address in it
 *
 * Return: page frame number; 0 if no page is present there.
 */
unsigned long pfn_of(pid_t pid, const char *p)
{
	uint64_t entry = pagemap_of(pid, p);

	return PAGEMAP_PRESENT(entry) ? PAGEMAP_PFN(entry) : 0;
}

/**
 * kpageflags_of() - read the flags of a page
 * @pfn: page frame number
 *
 * Return: its flags, see KPF_KSM and so on; 0 if they cannot be read.
 */
uint64_t kpageflags_of(unsigned long pfn)
{
	int fd = open("/proc/kpageflags", O_RDONLY);
	uint64_t flags = 0;

	if (fd < 0 || pageflags_get(pfn, fd, &flags))
		flags = 0;
	if (fd >= 0)
		close(fd);
	return flags;
}

/**
 * pfn_is_ksm() - is it a KSM page?
 * @pfn: page frame number
 *
 * Return: whether it is one.
 */
bool pfn_is_ksm(unsigned long pfn)
{
	return kpageflags_of(pfn) & KPF_KSM;
}

/**
 * idle_open() - open the bitmap of idle pages
 *
 * Return: a file descriptor, or -1 with errno set.
 */
int idle_open(void)
{
	return open(IDLE_BITMAP, O_RDWR);
}

static unsigned long misses;

/**
 * walk_finds() - does the rmap walk of a page find one of its mappings?
 * @fd: from idle_open()
 * @pfn: page frame number
 * @touch: accesses the page through that mapping, after flush_tlb() in the process
 *	   which has it; returns false if it cannot
 * @arg: argument of @touch
 * @tries: how often to ask, at most; WALK_TRIES gets over what passes
 *
 * Return: WALK_FOUND; WALK_MISSED if all tries missed it that were walks at all;
 * WALK_NONE if none was, or @touch has failed.
 */
enum walk walk_finds(int fd, unsigned long pfn, bool (*touch)(void *arg),
		     void *arg, int tries)
{
	enum walk ret = WALK_NONE;

	for (int i = 0; i < tries; i++) {
		if (i) {
			/*
			 * The page was locked, and not walked; or it was not
			 * on the LRU, but in a batch on its way there.  What
			 * drains these batches is dropping the page cache.
			 */
			write_num(DROP_CACHES, 1);
			usleep(1000 << i);
		}
		if (!idle_set(fd, pfn))
			continue;
		/* The control: what nobody touches stays idle */
		if (!idle_get(fd, pfn))
			continue;
		if (!touch(arg))
			return WALK_NONE;
		if (!idle_get(fd, pfn))
			return WALK_FOUND;
		ret = WALK_MISSED;
		misses++;
	}
	return ret;
}

/**
 * walk_misses() - how many walks have missed a mapping, for whatever reason?
 *
 * Return: the number of them in this process so far, those included after which
 * walk_finds() has tried again, and found it.
 */
unsigned long walk_misses(void)
{
	return misses;
}

/**
 * make_cgroup() - make a cgroup whose memory can be swapped out
 * @cgroup: gets its path
 *
 * What is mapped more than once is not for MADV_PAGEOUT to reclaim: it takes a
 * cgroup.
 *
 * Return: what this machine lacks to swap it out, as one line of text, or NULL.
 */
const char *make_cgroup(char cgroup[CGROUP_PATH])
{
	char path[128], swaps[256];

	if (read_file("/proc/swaps", swaps, sizeof(swaps)) <= 0 ||
	    !strchr(strchr(swaps, '\n') + 1, '\n'))
		return "no swap: try zram";
	snprintf(cgroup, CGROUP_PATH, "/sys/fs/cgroup/ksm_rmap.XXXXXX");
	if (!mkdtemp(cgroup))
		return "no cgroup v2 at /sys/fs/cgroup";
	snprintf(path, sizeof(path), "%s/memory.reclaim", cgroup);
	if (access(path, W_OK)) {
		rmdir(cgroup);
		return "no memory.reclaim: +memory in cgroup.subtree_control of the root";
	}
	return NULL;
}

/**
 * enter_cgroup() - charge to a cgroup what a process maps from now on
 * @cgroup: path of its directory
 * @pid: the process; 0 for this one
 *
 * Return: false with errno set if that is refused.
 */
bool enter_cgroup(const char *cgroup, pid_t pid)
{
	char path[512], text[16];

	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	snprintf(text, sizeof(text), "%d", pid);
	return write_text(path, text);
}

/**
 * remove_cgroup() - remove a cgroup that nobody is in
 * @cgroup: its path; an empty one is left alone
 *
 * Those who have exited may be in it for some milliseconds more.
 */
void remove_cgroup(const char *cgroup)
{
	for (int ms = 5000; rmdir(cgroup) && errno == EBUSY && ms; ms--)
		usleep(1000);
}

/**
 * reclaim_cgroup() - swap out what is charged to a cgroup, once
 * @cgroup: its path
 *
 * Up to 64 MiB of it; some of that may stay.
 */
void reclaim_cgroup(const char *cgroup)
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

/**
 * swap_out_all() - swap out what is charged to a cgroup, for as long as it takes
 * @cgroup: its path
 * @wanted: how many mappings are to be swapped out
 * @count: counts those that are
 * @arg: argument of @count
 *
 * KSM pages are active at first.  That reclaim learns how many active pages there
 * are, and deactivates them, takes two seconds when there are less than hundreds,
 * and more while a CPU is idle: the timer for that is deferrable.
 *
 * Return: how many are swapped out, after 20 seconds if that is less than @wanted.
 */
size_t swap_out_all(const char *cgroup, size_t wanted,
		    size_t (*count)(const void *arg), const void *arg)
{
	size_t out;

	for (int tries = 0; ; tries++) {
		reclaim_cgroup(cgroup);
		out = count(arg);
		if (out >= wanted || tries == 80)
			return out;
		usleep(250000);
	}
}

/**
 * hold_pages() - have a pipe refer to pages
 * @holder: gets the ends of the pipe
 * @p: address of the first page, which must be present
 * @nr: pages
 *
 * They are neither copied nor pinned: in the swap cache, they stay there, whatever
 * the swap device.
 *
 * Return: 0, or -errno.
 */
int hold_pages(int holder[2], char *p, size_t nr)
{
	struct iovec iov = { p, nr * psize() };

	if (pipe(holder) ||
	    fcntl(holder[1], F_SETPIPE_SZ, nr * psize()) < 0 ||
	    vmsplice(holder[1], &iov, 1, 0) != (ssize_t)(nr * psize()))
		return -errno;
	return 0;
}

/**
 * release_pages() - drop the references that hold_pages() has taken
 * @holder: the ends of the pipe
 *
 * Return: 0, or -errno if nothing was held.
 */
int release_pages(int holder[2])
{
	return close(holder[0]) || close(holder[1]) ? -errno : 0;
}

/**
 * write_pages() - write to each of some pages, so that all are present
 * @p: address of the first
 * @nr: pages
 */
void write_pages(char *p, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		p[i * psize()] = 1;
}

/**
 * punch_holes() - free all but the first of each HOLE_STRIDE pages
 * @p: address of the first
 * @nr: pages; a multiple of HOLE_STRIDE
 *
 * Compaction moves pages from the low end of a zone to the high end, but only into
 * pageblocks that are in use already: have many of these, with holes in them.
 *
 * Return: 0, or -errno.
 */
int punch_holes(char *p, size_t nr)
{
	for (size_t i = 0; i < nr; i += HOLE_STRIDE)
		if (madvise(p + (i + 1) * psize(), (HOLE_STRIDE - 1) * psize(),
			    MADV_DONTNEED))
			return -errno;
	return 0;
}

/**
 * take_memory() - take a block of memory offline, and back
 * @block: its number in /sys/devices/system/memory
 *
 * The kernel tries that for as long as it takes, so a child does it who can be
 * killed.
 *
 * Return: whether the block has been offline.
 */
bool take_memory(unsigned long block)
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
