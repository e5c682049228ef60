/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of KSM's reverse mapping do to KSM pages, and what they check.
 * Functions are described in ksm_rmap_checks.c.  What a const char * is, see
 * ksm_rmap_peers.h.
 */
#ifndef __KSM_RMAP_CHECKS_H__
#define __KSM_RMAP_CHECKS_H__

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Pages that a cgroup must have for reclaim to be quick, see swap_out_all() */
#define BULK		300

struct mapping {
	int peer;
	char *addr;
};

/* A thread that splits a page off its VMA and merges it again, and forks; zeroed at first */
struct changer {
	pthread_t thread;
	char *page;
	int forks;	/* so far */
	bool stop;
};

char *new_area(size_t nr);
char *new_file_area(size_t nr, uint64_t offset);
const char *move_area(char *area, size_t nr, char **to);
const char *change_vmas(struct changer *changer);
const char *stop_changing(struct changer *changer);

unsigned long pfn_at(const struct mapping *m);
bool are_merged(const struct mapping *m, int n);
const char *merge(const struct mapping *m, int n);
const char *merge_in_place(const struct mapping *shared, unsigned long tag, char **other);
const char *scan_partly(int pages);
int swap_out(const char *cgroup, const struct mapping *m, int n);

unsigned long walk_time(unsigned long pfn);
const char *check_walk(unsigned long pfn, const struct mapping *m);
const char *check_found(const struct mapping *m, int n, unsigned long tag);
const char *check_found_or_copied(const struct mapping *m, unsigned long tag);
const char *check_unmerged(int peer, char *addr, unsigned long tag);
const char *check_vma(const char *addr, const char *start, const char *end);

#endif /* __KSM_RMAP_CHECKS_H__ */
