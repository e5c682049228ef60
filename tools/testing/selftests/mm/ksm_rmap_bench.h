/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the two parts of the benchmark ksm_rmap_bench share.  ksm_rmap_bench.c has the
 * pages and the processes that map them, ksm_rmap_bench_modes.c measures.
 */
#ifndef __KSM_RMAP_BENCH_H__
#define __KSM_RMAP_BENCH_H__

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define MAX_PROCESSES	30000
#define EXTRA		16	/* pages for the application's operations */
#define NR_OPERATIONS	4	/* of the application */

/* ksm_rmap_bench.c */

/* As the options say; memory failure and swap-in set runs */
extern unsigned long sharers, forks, runs;
extern unsigned long pages;	/* KSM pages, each with as many sharers */
/* Pages of the first KSM page, then those of the next */
extern char *mapping[];
extern char *extra;		/* EXTRA pages, behind those of the VMAs */
/* Index 0 is the benchmark itself */
extern pid_t pids[];
extern int idle_fd;

/* In one process */
unsigned long nr_mapped(void);
/* In all of them */
unsigned long nr_mappings(void);
bool is_mergeable(void);
/*
 * Where @pid has each of the pages mapped, in the order of mapping[]: pagemap entries.
 *
 * Returns: nr_mapped() entries, valid until the next call
 */
const uint64_t *read_pagemap(pid_t pid);
/* Page frame numbers of all KSM pages, or of the ordinary ones */
const unsigned long *read_pfns(void);
/* Returns: mappings that follow their page to another node; 0 if one page stays */
unsigned long found_by_migration(void);
/* Returns: mappings of @pfn, which is of @page, whose access the walk notices */
unsigned long found_by_touching(unsigned long pfn, unsigned long page);
/* The same for all pages, wherever they are */
unsigned long all_found_by_touching(void);

/* ksm_rmap_bench_modes.c */

/* What happens to the page all the time */
struct kind {
	const char *name;
	bool (*once)(void);	/* returns whether it did */
	const char *(*missing)(void);	/* what this machine lacks for it, or NULL */
	bool all_pages;		/* not only to the first */
};

/* What the application does, and how long it takes each time, in nanoseconds */
struct operation {
	const char *name;
	bool (*once)(void);
	unsigned long count, *cost;
};

extern struct operation operations[NR_OPERATIONS];
extern unsigned long completed;	/* times that the kind happened */

/* Returns: what this machine lacks to swap out, or NULL; in a cgroup then */
const char *swap_missing(void);
/* With one node, look for mappings by swapping out, if that is possible */
void prefer_swapping(void);

/* Returns: mappings found; @cost is of @runs walks, in nanoseconds */
unsigned long measure_walk(unsigned long *cost);
/* Returns: mappings found; @cost is of @runs sweeps less the writes, in nanoseconds */
unsigned long measure_sweep(unsigned long *cost);

/* Processes that map nothing of ours, for memory failure to look at */
void fork_unrelated(unsigned long nr);
void reap_unrelated(unsigned long nr);
/* Returns: mappings that memory failure has replaced */
unsigned long measure_failure(unsigned long *cost);
/* Returns: mappings that are back, contents and all, and found or @copies */
unsigned long measure_swap_in(unsigned long *cost, unsigned long *copies);

/* Exits if there is none */
const struct kind *kind_by_name(const char *name);
/* Returns: mappings found afterwards; results are in operations[] and completed */
unsigned long measure_latency(const struct kind *kind, unsigned long seconds);

#endif /* __KSM_RMAP_BENCH_H__ */
