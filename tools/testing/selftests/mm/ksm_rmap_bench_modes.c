// SPDX-License-Identifier: GPL-2.0
/*
 * What ksm_rmap_bench measures: walks of a KSM page, sweeps over many, memory failure,
 * swap-in, and how long an application waits meanwhile.
 */
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "vm_util.h"
#include "ksm_rmap_util.h"
#include "ksm_rmap_bench.h"

#define MAX_SAMPLES	1000000	/* of one operation */
#define FORK_EVERY	500	/* rounds: with many VMAs, it takes long */
#define MAX_FORKED	5	/* times, for the same reason */

static unsigned long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

/*
 * Warm up; and a page that is not on the LRU would not be walked: it may be on its
 * way there, until the page cache is dropped.
 *
 * Returns: its page frame number
 */
static unsigned long get_walked(void)
{
	const unsigned long pfn = pfn_of(getpid(), mapping[0]);

	if (!idle_set(idle_fd, pfn) || !idle_get(idle_fd, pfn))
		write_num(DROP_CACHES, 1);
	if (!idle_set(idle_fd, pfn) || !idle_get(idle_fd, pfn))
		ksft_exit_fail_msg("pfn %#lx is not walked\n", pfn);
	return pfn;
}

static char cgroup[CGROUP_PATH], old_cgroup[512];
static int holder[2];

static void leave_cgroup(void)
{
	if (getpid() != pids[0])
		return;
	enter_cgroup(old_cgroup, 0);
	remove_cgroup(cgroup);
}

const char *swap_missing(void)
{
	char text[512], path[256], *line;
	const char *missing;

	if (read_file("/proc/self/cgroup", text, sizeof(text)) <= 0)
		return "no /proc/self/cgroup: needs CONFIG_MEMCG";
	line = strstr(text, "0::");
	if (!line || sscanf(line, "0::%255[^\n]", path) != 1)
		return "no cgroup v2 at /sys/fs/cgroup";
	snprintf(old_cgroup, sizeof(old_cgroup), "/sys/fs/cgroup%s", path);
	missing = make_cgroup(cgroup);
	if (missing)
		return missing;
	atexit(leave_cgroup);
	return enter_cgroup(cgroup, 0) ? NULL : "cannot enter a cgroup";
}

/* In the swap cache it stays a KSM page */
static void hold(char *p)
{
	const int error = hold_pages(holder, p, 1);

	if (error)
		ksft_exit_fail_msg("vmsplice: %s\n", strerror(-error));
}

/* Returns: mappings that are swap entries; memory failure leaves such, too */
static size_t swap_entries(const void *unused)
{
	size_t swapped = 0;

	for (unsigned long i = 0; i <= forks; i++) {
		const uint64_t *entries = read_pagemap(pids[i]);

		for (unsigned long j = 0; j < nr_mapped(); j++)
			swapped += !!(entries[j] & PM_SWAP);
	}
	return swapped;
}

/* Returns: mappings that are swapped out */
static unsigned long swap_out(void)
{
	return swap_out_all(cgroup, nr_mappings(), swap_entries, NULL);
}

static bool can_swap;	/* and not migrate */

void prefer_swapping(void)
{
	can_swap = access(NODE1, F_OK) && !swap_missing();
}

/* Returns: mappings that are swapped out with the page; they are back, if ours */
static unsigned long found_by_swapping(void)
{
	unsigned long found;

	hold(mapping[0]);
	found = swap_out();
	for (unsigned long i = 0; i < sharers; i++)
		FORCE_READ(*mapping[i]);
	release_pages(holder);
	return found;
}

/* Returns: mappings found by migration, by @swap_out_and_count if possible, or by touching */
static unsigned long all_found(unsigned long (*swap_out_and_count)(void))
{
	unsigned long found = found_by_migration();

	if (found < nr_mappings() && can_swap)
		found = swap_out_and_count();
	/* A child's may be swapped out, and is not after it is touched */
	if (found < nr_mappings())
		found = all_found_by_touching();
	return found;
}

unsigned long measure_walk(unsigned long *cost)
{
	const unsigned long pfn = get_walked();
	unsigned long long from;

	for (unsigned long i = 0; i < runs; i++) {
		from = now();
		idle_set(idle_fd, pfn);
		cost[i] = now() - from;
	}
	return all_found(found_by_swapping);
}

/*
 * Of the bitmap, what has a bit of each of the pages, and all between; and as much
 * without a bit. A write is cut short after so many bytes.
 */
#define WRITE_WORDS	(4096 / sizeof(uint64_t))
static uint64_t *ones, *zeroes;
static unsigned long first_word, nr_words;

/* Walk each of the pages once, if @bits are ones */
static void sweep(const uint64_t *bits)
{
	unsigned long nr;

	for (unsigned long i = 0; i < nr_words; i += nr) {
		const size_t size = sizeof(*bits);

		nr = nr_words - i < WRITE_WORDS ? nr_words - i : WRITE_WORDS;
		/* Between pages that are far apart */
		if (!memcmp(ones + i, zeroes + i, nr * size))
			continue;
		if (pwrite(idle_fd, bits + i, nr * size,
			   (first_word + i) * size) != (ssize_t)(nr * size))
			ksft_exit_fail_perror(IDLE_BITMAP);
	}
}

static void prepare_sweep(void)
{
	const unsigned long *pfns = read_pfns();
	unsigned long last_word = 0, missing = 0;

	first_word = -1UL;
	for (unsigned long i = 0; i < pages; i++) {
		const unsigned long word = pfns[i] / 64;

		first_word = word < first_word ? word : first_word;
		last_word = word > last_word ? word : last_word;
	}
	nr_words = last_word - first_word + 1;
	ones = calloc(nr_words, sizeof(*ones));
	zeroes = calloc(nr_words, sizeof(*zeroes));
	if (!ones || !zeroes)
		ksft_exit_fail_perror("calloc");
	for (unsigned long i = 0; i < pages; i++)
		ones[pfns[i] / 64 - first_word] |= BIT_ULL(pfns[i] % 64);

	/* Pages that are on their way to the LRU are not walked */
	write_num(DROP_CACHES, 1);
	sweep(ones);
	for (unsigned long i = 0; i < pages; i++)
		missing += !idle_get(idle_fd, pfns[i]);
	if (missing)
		ksft_exit_fail_msg("%lu of %lu pages are not walked\n", missing, pages);
}

unsigned long measure_sweep(unsigned long *cost)
{
	unsigned long long from, with, without;

	prepare_sweep();
	for (unsigned long i = 0; i < runs; i++) {
		from = now();
		sweep(zeroes);
		without = now() - from;
		from = now();
		sweep(ones);
		with = now() - from;
		cost[i] = with > without ? with - without : 0;
	}
	return all_found(swap_out);
}

static pid_t unrelated[MAX_PROCESSES];

static void ignore(int sig)
{
}

/*
 * Memory failure looks at all processes that are to be killed early, which those
 * forked from one such are: have as many as asked for that map nothing of ours.
 */
void fork_unrelated(unsigned long nr)
{
	const struct sigaction action = {
		.sa_handler = ignore,
		.sa_flags = SA_RESTART,
	};

	if (sigaction(SIGBUS, &action, NULL) ||
	    prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0))
		ksft_exit_fail_perror("PR_MCE_KILL");
	for (unsigned long i = 0; i < nr; i++) {
		unrelated[i] = fork();
		if (unrelated[i] < 0)
			ksft_exit_fail_perror("fork");
		if (!unrelated[i]) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			while (getppid() == pids[0])
				pause();
			_exit(0);
		}
	}
}

void reap_unrelated(unsigned long nr)
{
	for (unsigned long i = 0; i < nr; i++)
		kill(unrelated[i], SIGKILL);
	for (unsigned long i = 0; i < nr; i++)
		waitpid(unrelated[i], NULL, 0);
}

/* Returns: what memory failure of the page at @p takes, in nanoseconds */
static unsigned long poison(char *p)
{
	const unsigned long long from = now();

	if (madvise(p, psize(), MADV_HWPOISON))
		ksft_exit_fail_perror("MADV_HWPOISON");
	return now() - from;
}

static void unpoison(unsigned long pfn)
{
	if (unpoison_memory(pfn))
		ksft_exit_fail_msg("pfn %#lx stays poisoned\n", pfn);
}

unsigned long measure_failure(unsigned long *cost)
{
	const unsigned long pfn = get_walked();
	char *other = map_area(1);
	unsigned long other_pfn, found;

	/* The first one frees what pages the CPU has kept, be they few or many */
	if (!other)
		ksft_exit_fail_perror("mmap");
	*other = 1;
	other_pfn = pfn_of(getpid(), other);
	poison(other);
	munmap(other, psize());
	unpoison(other_pfn);

	runs = 1;
	cost[0] = poison(mapping[0]);
	found = swap_entries(NULL);
	unpoison(pfn);
	return found;
}

unsigned long measure_swap_in(unsigned long *cost, unsigned long *copies)
{
	const unsigned long pfn = get_walked();
	unsigned long out;
	unsigned long long from;

	runs = sharers;
	hold(mapping[0]);
	out = swap_out();
	if (out < sharers)
		ksft_exit_fail_msg("%lu of %lu mappings are swapped out\n", out,
				   sharers);
	for (unsigned long i = 0; i < sharers; i++) {
		from = now();
		FORCE_READ(*mapping[i]);
		cost[i] = now() - from;
	}
	for (unsigned long i = 0; i < sharers; i++) {
		if (!page_holds(mapping[i], 1))
			ksft_exit_fail_msg("mapping %lu: wrong content\n", i);
		*copies += pfn_of(getpid(), mapping[i]) != pfn;
	}
	release_pages(holder);
	return *copies + (*copies < sharers ? found_by_touching(pfn, 0) : 0);
}

static bool move_to_other_node(void)
{
	static int node = -1;

	if (node < 0) {
		node = page_node(0, mapping[0]);
		if (node < 0)
			return false;
		node = !node;
	}
	if (page_move_to_node(0, mapping[0], node))
		return false;
	node = !node;
	return true;
}

static const char *move_missing(void)
{
	if (access(NODE1, F_OK))
		return "no " NODE1 ": needs two memory nodes";
	if (page_node(0, &pids[0]) < 0)
		return "no move_pages: needs CONFIG_MIGRATION";
	return NULL;
}

/*
 * For holes to move into, see punch_holes(), have many of them, on either node.  There
 * the page stays, unless it can be moved to the other node, among what is allocated
 * there.
 */
static bool compact(void)
{
	const size_t nr = (32 << 20) / psize();
	const unsigned long nodes = 3;
	static char *bulk;
	unsigned long pfn;

	if (!bulk) {
		bulk = map_apart(nr);
		if (!bulk)
			ksft_exit_fail_perror("mmap");
		syscall(__NR_mbind, bulk, nr * psize(), MPOL_INTERLEAVE, &nodes,
			8 * sizeof(nodes), 0);
	}
	write_pages(bulk, nr / 2);
	move_to_other_node();
	write_pages(bulk + nr / 2 * psize(), nr / 2);
	punch_holes(bulk, nr);
	pfn = pfn_of(getpid(), mapping[0]);
	write_num(COMPACT_MEMORY, 1);
	return pfn_of(getpid(), mapping[0]) != pfn;
}

static const char *compact_missing(void)
{
	if (access(COMPACT_MEMORY, W_OK))
		return "no " COMPACT_MEMORY ": needs CONFIG_COMPACTION";
	return NULL;
}

static bool swap(void)
{
	bool done;

	reclaim_cgroup(cgroup);
	done = swap_entries(NULL) == nr_mappings();
	for (unsigned long i = 0; i < sharers; i++)
		FORCE_READ(*mapping[i]);
	return done;
}

static bool walk(void)
{
	sweep(ones);
	return true;
}

static const struct kind kinds[] = {
	{ .name = "none" },
	{ .name = "walk", .once = walk, .all_pages = true },
	{ .name = "migrate", .once = move_to_other_node, .missing = move_missing },
	{ .name = "compact", .once = compact, .missing = compact_missing },
	{ .name = "swap", .once = swap, .missing = swap_missing },
};

const struct kind *kind_by_name(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (!strcmp(kinds[i].name, name))
			return &kinds[i];
	fprintf(stderr, "-k %s: must be none, walk, migrate, compact or swap\n", name);
	exit(KSFT_FAIL);
}

/* The application has the first CPU for itself */
static void run_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		ksft_exit_fail_msg("no CPU %d: wait takes two\n", cpu);
}

static bool stop;
unsigned long completed;

static void *work(void *arg)
{
	const struct kind *kind = arg;

	if (kind->once)
		run_on(1);
	while (kind->once && !__atomic_load_n(&stop, __ATOMIC_RELAXED))
		completed += kind->once();
	return NULL;
}

/*
 * What an application does, in the pages at the end of the area, which have the
 * anon_vma that a walk locks.
 */
static bool do_mprotect(void)
{
	static bool readonly;

	readonly = !readonly;
	return !mprotect(extra + 4 * psize(), psize(),
			 readonly ? PROT_READ : PROT_READ | PROT_WRITE);
}

/* All that it takes to split and merge the VMA, as others are mergeable */
static bool do_mmap(void)
{
	const size_t size = 4 * psize();
	char *p = extra + 8 * psize();

	if (munmap(p, size) ||
	    mmap(p, size, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE |
		 MAP_ANONYMOUS, -1, 0) != p)
		return false;
	madvise(p, size, MADV_NOHUGEPAGE);
	return !is_mergeable() || !madvise(p, size, MADV_MERGEABLE);
}

static bool do_fault(void)
{
	*extra = 1;
	return true;
}

static bool do_fork(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	return pid > 0 && waitpid(pid, NULL, 0) == pid;
}

struct operation operations[NR_OPERATIONS] = {
	{ "mprotect", do_mprotect },
	{ "mmap", do_mmap },
	{ "fault", do_fault },
	{ "fork", do_fork },
};

/* Samples are not what the application has, and forks */
static unsigned long *map_samples(void)
{
	const size_t size = MAX_SAMPLES * sizeof(unsigned long);
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || madvise(p, size, MADV_DONTFORK))
		ksft_exit_fail_perror("mmap");
	return p;
}

unsigned long measure_latency(const struct kind *kind, unsigned long seconds)
{
	const struct sigaction interrupt = { .sa_handler = ignore };
	const bool swaps = kind->once == swap;
	unsigned long long from, end;
	pthread_t thread;

	for (size_t i = 0; i < ARRAY_SIZE(operations); i++)
		operations[i].cost = map_samples();
	sigaction(SIGUSR1, &interrupt, NULL);
	if (kind->all_pages)
		prepare_sweep();
	else
		get_walked();
	if (swaps)
		hold(mapping[0]);
	errno = pthread_create(&thread, NULL, work, (void *)kind);
	if (errno)
		ksft_exit_fail_perror("pthread_create");
	run_on(0);
	end = now() + seconds * 1000000000ULL;
	for (unsigned long n = 0; now() < end && n < MAX_SAMPLES; n++) {
		madvise(extra, psize(), MADV_DONTNEED);
		for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
			struct operation *o = &operations[i];

			if (o->once == do_fork &&
			    ((n + 1) % FORK_EVERY || o->count == MAX_FORKED))
				continue;
			from = now();
			if (!o->once())
				ksft_exit_fail_perror(o->name);
			o->cost[o->count] = now() - from;
			/* Not at the others' expense */
			if (o->once == do_fork)
				end += o->cost[o->count];
			o->count++;
		}
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	/* Reclaim may go on for minutes, where a walk takes a second */
	pthread_kill(thread, SIGUSR1);
	pthread_join(thread, NULL);
	if (kind->once && !completed)
		ksft_exit_fail_msg("%s: not once in %lu s\n", kind->name, seconds);

	for (unsigned long i = 0; i < nr_mapped(); i++)
		if (!page_holds(mapping[i], i / sharers + 1))
			ksft_exit_fail_msg("mapping %lu: wrong content\n", i);
	if (!swaps)
		return all_found(swap_out);
	release_pages(holder);
	return all_found_by_touching();
}
