/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of KSM's reverse mapping (rmap), the stress test ksm_rmap_soak
 * and the benchmark ksm_rmap_bench have in common.  Functions are described in
 * ksm_rmap_util.c.
 */
#ifndef __KSM_RMAP_UTIL_H__
#define __KSM_RMAP_UTIL_H__

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

#define KSM_SYSFS	"/sys/kernel/mm/ksm/"
#define IDLE_BITMAP	"/sys/kernel/mm/page_idle/bitmap"
#define NODE1		"/sys/devices/system/node/node1"
#define MEMORY		"/sys/devices/system/memory/"
#define UNPOISON	"/sys/kernel/debug/hwpoison/unpoison-pfn"
#define COMPACT_MEMORY	"/proc/sys/vm/compact_memory"
#define DROP_CACHES	"/proc/sys/vm/drop_caches"

#ifndef KPF_THP
#define KPF_THP		0x400000ULL	/* bit 22; vm_util.h of older kernels has none */
#endif

#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE	101
#endif

/* KSM */

const char *ksm_rmap_missing(void);
void ksm_knobs_save(void);
void ksm_knobs_restore(void);
void exit_on_signal(int sig);
void ksm_knobs_reset(void);
long ksm_knob(const char *path);
long ksm_counter(const char *name);
long ksm_stat_of(pid_t pid, const char *name);
bool ksm_scan(int n);
pid_t ksmd_pid(void);
bool allocations_fail(pid_t pid, int percent, const char *cache);
bool ksmd_fails(int percent, const char *cache);

/* Pages */

char *map_apart(size_t nr);
char *map_area(size_t nr);
void fill_page(char *p, unsigned long tag);
bool page_holds(const char *p, unsigned long tag);
uint64_t pagemap_of(pid_t pid, const char *p);
unsigned long pfn_of(pid_t pid, const char *p);
uint64_t kpageflags_of(unsigned long pfn);
bool pfn_is_ksm(unsigned long pfn);

/* The rmap walk, by way of page_idle */

/* Times to ask, for a page that may be locked, or on its way to the LRU */
#define WALK_TRIES	6

enum walk {
	WALK_FOUND,
	WALK_MISSED,
	WALK_NONE,	/* the page was not walked, as far as one can see */
};

int idle_open(void);
enum walk walk_finds(int fd, unsigned long pfn, bool (*touch)(void *arg),
		     void *arg, int tries);
unsigned long walk_misses(void);

/**
 * idle_set() - mark a page idle, which takes one complete rmap walk of it
 * @fd: from idle_open()
 * @pfn: page frame number
 *
 * The walk clears the accessed bit of each mapping that it finds.  Inline, since
 * this is what the benchmark measures.
 *
 * Return: false if the bitmap cannot be written to.
 */
static inline bool idle_set(int fd, unsigned long pfn)
{
	const uint64_t bits = 1ULL << pfn % 64;

	return pwrite(fd, &bits, sizeof(bits), pfn / 64 * sizeof(bits)) ==
	       sizeof(bits);
}

/**
 * idle_get() - is a page still idle?
 * @fd: from idle_open()
 * @pfn: page frame number
 *
 * Takes another rmap walk.
 *
 * Return: false if that finds a mapping through which the page was accessed after
 * idle_set(); also if the page was not marked idle, since it was not walked.
 */
static inline bool idle_get(int fd, unsigned long pfn)
{
	uint64_t bits = 0;

	if (pread(fd, &bits, sizeof(bits), pfn / 64 * sizeof(bits)) !=
	    sizeof(bits))
		return false;
	return bits >> pfn % 64 & 1;
}

/* What walks are for: reclaim, compaction, memory that goes offline */

#define CGROUP_PATH	64	/* bytes */

const char *make_cgroup(char cgroup[CGROUP_PATH]);
bool enter_cgroup(const char *cgroup, pid_t pid);
void remove_cgroup(const char *cgroup);
void reclaim_cgroup(const char *cgroup);
size_t swap_out_all(const char *cgroup, size_t wanted,
		    size_t (*count)(const void *arg), const void *arg);
int hold_pages(int holder[2], char *p, size_t nr);
int release_pages(int holder[2]);

#define HOLE_STRIDE	32	/* pages, of which one stays */

void write_pages(char *p, size_t nr);
int punch_holes(char *p, size_t nr);

bool take_memory(unsigned long block);

#endif /* __KSM_RMAP_UTIL_H__ */
