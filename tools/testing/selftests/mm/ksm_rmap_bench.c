// SPDX-License-Identifier: GPL-2.0
/*
 * What does one complete rmap walk of a KSM page cost?
 *
 * Writing a page's bit to the page_idle bitmap walks all of its mappings, once.
 * Time that, with the page shared as often as asked for, in an anon_vma that
 * has as many VMAs as asked for, and forked as often as asked for.
 *
 * A walk that finds nothing is fast too: so check that it finds each mapping.
 * With two memory nodes by migrating the page, which succeeds only if all of
 * its mappings are found; with one, by swapping it out where that is possible, or
 * by touching it through one mapping after the other.
 *
 * Walking one page over and over, all that the walk reads is in the CPU's caches. As
 * reclaim and compaction do it, it is not: so a sweep walks many pages in turn.
 *
 * Other modes measure other things that go by the mappings: memory failure, swap-in,
 * and what an application has to wait for while its page is walked.
 */
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "vm_util.h"
#include "ksm_rmap_util.h"

#define MAX_SHARERS	256	/* per KSM page, by default (max_page_sharing) */
#define MAX_PAGES	256	/* that a sweep walks */
#define MAX_FORKS	8000
#define MAX_RUNS	1000
#define MAX_PROCESSES	30000
#define MAX_SAMPLES	1000000	/* of one operation */
#define FORK_EVERY	500	/* rounds: with many VMAs, it takes long */
#define MAX_FORKED	5	/* times, for the same reason */
#define EXTRA		16	/* pages for the application's operations */

static enum { WALK, FAILURE, SWAPIN, SWEEP, WAIT } mode;
/* In which of the VMAs the sharers are: a search for the last takes longest */
static enum { EVENLY, FIRST, LAST } place;
static const char *const places[] = { "evenly", "first", "last" };
static unsigned long vmas = 1, sharers = 2, forks, runs = 5;
static unsigned long pages = 1;	/* KSM pages, each with as many sharers */
static unsigned long processes, seconds = 3;
static bool own_pages, split_late;
static char *area, *extra;
/* Those of the first page, then those of the next */
static char *mapping[MAX_PAGES * MAX_SHARERS];
/* Index 0 is the benchmark itself */
static pid_t pids[MAX_FORKS + 1];
static int to_child[MAX_FORKS + 1], from_child[MAX_FORKS + 1];
static int idle_fd;

/* In one process */
static unsigned long nr_mapped(void)
{
	return sharers * pages;
}

static unsigned long nr_mappings(void)
{
	return nr_mapped() * (forks + 1);
}

static unsigned long pages_per_vma(void)
{
	return (nr_mapped() + vmas - 1) / vmas;
}

static bool is_mergeable(void)
{
	return sharers > 1 || own_pages;
}

static void split(void)
{
	const unsigned long size = pages_per_vma() * psize();

	for (unsigned long i = 1; i < vmas; i += 2)
		if (mprotect(area + i * size, size, PROT_READ))
			ksft_exit_fail_msg("VMA %lu of %lu: %s (vm.max_map_count?)\n",
					   i, vmas, strerror(errno));
}

/* Of the i-th of what is mapped, in the pages of all VMAs */
static unsigned long page_of(unsigned long i)
{
	const unsigned long nr = vmas * pages_per_vma();

	switch (place) {
	case FIRST:
		return i;
	case LAST:
		return nr - nr_mapped() + i;
	default:
		return i * nr / nr_mapped();
	}
}

/*
 * | r r | w w | r r | ...: as many VMAs as asked for, a page or more in each, and
 * the shared ones evenly distributed, or as asked for.  Nothing else need be present.
 */
static void build(void)
{
	const unsigned long nr = vmas * pages_per_vma(), page = psize();
	const unsigned long all = nr + (mode == WAIT ? EXTRA : 0);

	area = map_area(all);
	if (!area)
		ksft_exit_fail_msg("cannot map %lu pages\n", all);
	extra = area + nr * page;
	if (!is_mergeable() && madvise(area, all * page, MADV_UNMERGEABLE))
		ksft_exit_fail_perror("madvise");
	/* Sharers of one page are as far apart as they can be */
	for (unsigned long i = 0; i < nr_mapped(); i++) {
		const unsigned long which = i % pages;
		char *p = area + page_of(i) * page;

		mapping[which * sharers + i / pages] = p;
		fill_page(p, which + 1);
	}
	/* Split only now, so that all have the one anon_vma of the first fault */
	if (!split_late)
		split();
}

/*
 * Where @pid has each of the pages mapped, in the order of mapping[]: pagemap entries.
 * In one read, as a system call is slow in User Mode Linux.
 *
 * Returns: nr_mapped() entries, valid until the next call
 */
static const uint64_t *read_pagemap(pid_t pid)
{
	const unsigned long nr = vmas * pages_per_vma();
	static uint64_t *entries, *ours;
	char path[64];
	int fd;

	if (!entries)
		entries = calloc(nr + nr_mapped(), sizeof(*entries));
	if (!entries)
		ksft_exit_fail_perror("calloc");
	ours = entries + nr;
	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open(path, O_RDONLY);
	if (fd < 0 || pread(fd, entries, nr * sizeof(*entries),
			    (uintptr_t)area / psize() * sizeof(*entries)) !=
			      (ssize_t)(nr * sizeof(*entries)))
		ksft_exit_fail_perror(path);
	close(fd);
	for (unsigned long i = 0; i < nr_mapped(); i++)
		ours[i] = entries[(mapping[i] - area) / psize()];
	return ours;
}

/* Page frame numbers of all KSM pages, or of the ordinary ones */
static const unsigned long *read_pfns(void)
{
	const uint64_t *entries = read_pagemap(getpid());
	static unsigned long pfns[MAX_PAGES];

	for (unsigned long i = 0; i < pages; i++)
		pfns[i] = PAGEMAP_PFN(entries[i * sharers]);
	return pfns;
}

/* Returns: how many mappings of the first @nr processes are of the pages of @pfns */
static unsigned long count_mapped(const unsigned long *pfns, unsigned long nr)
{
	unsigned long found = 0;

	for (unsigned long i = 0; i < nr; i++) {
		const uint64_t *entries = read_pagemap(pids[i]);

		for (unsigned long j = 0; j < nr_mapped(); j++)
			found += PAGEMAP_PRESENT(entries[j]) &&
				 PAGEMAP_PFN(entries[j]) == pfns[j / sharers];
	}
	return found;
}

static void merge(void)
{
	const unsigned long nr = nr_mapped() * (own_pages ? forks + 1 : 1);
	const unsigned long *pfns;
	unsigned long same = 0, merged = 0;

	for (int scans = 0; scans < 20 && (same < nr || merged < pages); scans++) {
		if (!ksm_scan(3))
			ksft_exit_fail_msg("ksmd does not complete its scans\n");
		pfns = read_pfns();
		same = count_mapped(pfns, nr / nr_mapped());
		for (merged = 0; merged < pages; merged++)
			if (!pfn_is_ksm(pfns[merged]))
				break;
	}
	if (same < nr || merged < pages)
		ksft_exit_fail_msg("ksmd merged %lu of %lu pages\n", same, nr);
}

static void touch(unsigned long i)
{
	flush_tlb();
	FORCE_READ(*mapping[i]);
}

/* A child touches what it is told to, until it is told nothing more */
static void child(int from_parent, int to_parent)
{
	unsigned long i;

	if (own_pages)
		build();
	if (write(to_parent, &mapping[0], sizeof(mapping[0])) < 0)
		_exit(1);
	while (read(from_parent, &i, sizeof(i)) == sizeof(i)) {
		touch(i);
		if (write(to_parent, &i, sizeof(i)) != sizeof(i))
			break;
	}
	_exit(0);
}

/* Children map the same pages at the same addresses, theirs or the parent's */
static void fork_all(void)
{
	int down[2], up[2];
	char *first;

	for (unsigned long i = 1; i <= forks; i++) {
		if (pipe(down) || pipe(up))
			ksft_exit_fail_perror("pipe");
		pids[i] = fork();
		if (pids[i] < 0)
			ksft_exit_fail_perror("fork");
		if (!pids[i]) {
			/* The other children's pipes, to see them closed */
			if (i > 1)
				syscall(__NR_close_range, to_child[1],
					from_child[i - 1], 0);
			close(down[1]);
			child(down[0], up[1]);
		}
		close(down[0]);
		close(up[1]);
		to_child[i] = down[1];
		from_child[i] = up[0];
	}
	if (own_pages)
		build();
	for (unsigned long i = 1; i <= forks; i++)
		if (read(from_child[i], &first, sizeof(first)) !=
		    sizeof(first) || first != mapping[0])
			ksft_exit_fail_msg("child %lu has no pages at %p\n", i,
					   mapping[0]);
}

static void reap_all(void)
{
	for (unsigned long i = 1; i <= forks; i++) {
		close(to_child[i]);
		close(from_child[i]);
	}
	for (unsigned long i = 1; i <= forks; i++)
		waitpid(pids[i], NULL, 0);
}

/* Returns: mappings that follow their page to another node; 0 if one page stays */
static unsigned long found_by_migration(void)
{
	for (unsigned long i = 0; i < pages; i++) {
		char *page = mapping[i * sharers];
		const int node = page_node(0, page);

		if (node < 0 || page_move_to_node(0, page, !node))
			return 0;
	}
	return count_mapped(read_pfns(), forks + 1);
}

/* A mapping of a child, or of the benchmark itself */
struct toucher {
	unsigned long child, which;
};

static bool touch_by(void *arg)
{
	const struct toucher *t = arg;
	unsigned long told = t->which;

	if (!t->child)
		touch(told);
	else if (write(to_child[t->child], &told, sizeof(told)) < 0 ||
		 read(from_child[t->child], &told, sizeof(told)) < 0)
		ksft_exit_fail_perror("child");
	return true;
}

/* Returns: mappings of @pfn, which is of @page, whose access the walk notices */
static unsigned long found_by_touching(unsigned long pfn, unsigned long page)
{
	unsigned long found = 0;

	for (unsigned long i = 0; i <= forks; i++) {
		for (unsigned long j = 0; j < sharers; j++) {
			struct toucher toucher = { i, page * sharers + j };
			const enum walk walk = walk_finds(idle_fd, pfn, touch_by,
							  &toucher, 1);

			if (walk == WALK_NONE)
				ksft_exit_fail_msg("an untouched page does not stay idle\n");
			found += walk == WALK_FOUND;
		}
	}
	return found;
}

/* The same for all pages, wherever they are */
static unsigned long all_found_by_touching(void)
{
	unsigned long found = 0;

	for (unsigned long i = 0; i < pages; i++) {
		const char *first = mapping[i * sharers];

		FORCE_READ(*first);
		found += found_by_touching(pfn_of(getpid(), first), i);
	}
	return found;
}

static int compare(const void *a, const void *b)
{
	const unsigned long x = *(unsigned long *)a, y = *(unsigned long *)b;

	return (x > y) - (x < y);
}

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

/* Returns: what this machine lacks to swap out, or NULL; in a cgroup then */
static const char *swap_missing(void)
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

/* Returns: mappings found; @cost is of @runs walks, in nanoseconds */
static unsigned long measure_walk(unsigned long *cost)
{
	const unsigned long pfn = get_walked();
	unsigned long found;
	unsigned long long from;

	for (unsigned long i = 0; i < runs; i++) {
		from = now();
		idle_set(idle_fd, pfn);
		cost[i] = now() - from;
	}
	found = found_by_migration();
	if (found < nr_mappings() && can_swap)
		found = found_by_swapping();
	if (found < nr_mappings())
		found = all_found_by_touching();
	return found;
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

/* Returns: mappings found; @cost is of @runs sweeps less the writes, in nanoseconds */
static unsigned long measure_sweep(unsigned long *cost)
{
	unsigned long long from, with, without;
	unsigned long found;

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
	found = found_by_migration();
	if (found < nr_mappings() && can_swap)
		found = swap_out();
	if (found < nr_mappings())
		found = all_found_by_touching();
	return found;
}

static pid_t unrelated[MAX_PROCESSES];

static void ignore(int sig)
{
}

/*
 * Memory failure looks at all processes that are to be killed early, which those
 * forked from one such are: have as many as asked for that map nothing of ours.
 */
static void fork_unrelated(void)
{
	const struct sigaction action = {
		.sa_handler = ignore,
		.sa_flags = SA_RESTART,
	};

	if (sigaction(SIGBUS, &action, NULL) ||
	    prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0))
		ksft_exit_fail_perror("PR_MCE_KILL");
	for (unsigned long i = 0; i < processes; i++) {
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

static void reap_unrelated(void)
{
	for (unsigned long i = 0; i < processes; i++)
		kill(unrelated[i], SIGKILL);
	for (unsigned long i = 0; i < processes; i++)
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

/* Returns: mappings that memory failure has replaced */
static unsigned long measure_failure(unsigned long *cost)
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

/* Returns: mappings that are back, contents and all, and found or @copies */
static unsigned long measure_swap_in(unsigned long *cost, unsigned long *copies)
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

/* What happens to the page all the time; returns whether it did */
static const struct kind {
	const char *name;
	bool (*once)(void);
	const char *(*missing)(void);
} kinds[] = {
	{ "none" },
	{ "walk", walk },
	{ "migrate", move_to_other_node, move_missing },
	{ "compact", compact, compact_missing },
	{ "swap", swap, swap_missing },
};

static const struct kind *kind_by_name(const char *name)
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
static unsigned long completed;

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

static struct operation {
	const char *name;
	bool (*once)(void);
	unsigned long count, *cost;
} operations[] = {
	{ "mprotect", do_mprotect },
	{ "mmap", do_mmap },
	{ "fault", do_fault },
	{ "fork", do_fork },
};

static void print_case(void)
{
	printf("%lu VMAs%s, %lu sharers%s%s, %lu forks%s: ", vmas,
	       split_late ? " split late" : "", sharers, place ? " in the " : "",
	       place ? places[place] : "", forks,
	       own_pages ? " with own pages" : "");
}

static void print_latency(const struct kind *kind, unsigned long found, bool csv)
{
	const unsigned long total = nr_mappings();

	if (!csv) {
		print_case();
		printf("%lu times %s in %lu s\n", completed, kind->name, seconds);
	}
	for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
		struct operation *o = &operations[i];

		if (!o->count)
			continue;
		qsort(o->cost, o->count, sizeof(*o->cost), compare);
		if (csv)
			printf("%lu,%lu,%lu,%d,%d,%lu,%lu,%lu,%s,%lu,%s,%lu,%lu,%lu,%lu,%lu\n",
			       vmas, sharers, forks, own_pages, split_late,
			       total, found, seconds, kind->name, completed,
			       o->name, o->count, o->cost[o->count / 2],
			       o->cost[o->count * 99 / 100],
			       o->cost[o->count * 999 / 1000],
			       o->cost[o->count - 1]);
		else
			printf("%s: %lu times, ns: median %lu, 99%% %lu, 99.9%% %lu, max %lu\n",
			       o->name, o->count, o->cost[o->count / 2],
			       o->cost[o->count * 99 / 100],
			       o->cost[o->count * 999 / 1000],
			       o->cost[o->count - 1]);
	}
	if (!csv)
		printf("found %lu of %lu mappings\n", found, total);
}

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

/* Returns: mappings found afterwards */
static unsigned long measure_latency(const struct kind *kind, bool csv)
{
	const struct sigaction interrupt = { .sa_handler = ignore };
	const bool swaps = kind->once == swap;
	unsigned long found = 0;
	unsigned long long from, end;
	pthread_t thread;

	for (size_t i = 0; i < ARRAY_SIZE(operations); i++)
		operations[i].cost = map_samples();
	sigaction(SIGUSR1, &interrupt, NULL);
	if (kind->once == walk)
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
	if (swaps)
		release_pages(holder);
	else
		found = found_by_migration();
	if (found < nr_mappings() && can_swap)
		found = swap_out();
	/* A child's may be swapped out, and is not after it is touched */
	if (found < nr_mappings())
		found = all_found_by_touching();
	print_latency(kind, found, csv);
	return found;
}

/* @cost: of each sweep, sorted, in nanoseconds */
static void print_sweep(const unsigned long *cost, unsigned long found, bool csv)
{
	const double nr = nr_mappings();
	const double q1 = cost[runs / 4] / nr, median = cost[runs / 2] / nr,
		     q3 = cost[runs * 3 / 4] / nr;

	if (csv) {
		printf("%lu,%lu,%lu,%d,%lu,%lu,%lu,%lu,%.2f,%.2f,%.2f\n", vmas, sharers,
		       forks, own_pages, pages, nr_mappings(), found, runs, q1,
		       median, q3);
		return;
	}
	print_case();
	printf("a sweep over %lu pages takes %.2f ns per mapping\n", pages, median);
	printf("median of %lu, quartiles %.2f and %.2f\n", runs, q1, q3);
	printf("found %lu of %lu mappings\n", found, nr_mappings());
}

static void read_counters(long *shared, long *sharing)
{
	*shared = ksm_knob(KSM_SYSFS "pages_shared");
	*sharing = ksm_knob(KSM_SYSFS "pages_sharing");
}

static unsigned long parse(const char *arg, char option, unsigned long min,
			   unsigned long max)
{
	char *end;
	unsigned long value = strtoul(arg, &end, 10);

	if (*end || value < min || value > max) {
		fprintf(stderr, "-%c %s: must be a number from %lu to %lu\n",
			option, arg, min, max);
		exit(KSFT_FAIL);
	}
	return value;
}

/* Returns: whether the options make sense with each other */
static bool go_together(const struct kind *kind)
{
	if (split_late && own_pages)
		return false;
	if (mode == WAIT && pages > 1 && kind->once != walk)
		return false;
	return mode != SWAPIN || (!forks && !own_pages);
}

static int place_by_name(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(places); i++)
		if (!strcmp(places[i], name))
			return i;
	fprintf(stderr, "-a %s: must be evenly, first or last\n", name);
	exit(KSFT_FAIL);
}

#define OPTIONS	"v:s:f:pch"	/* of all modes */

static const struct {
	const char *name, *options, *what;
} modes[] = {
	[WALK] = { "walk", "Sa:r:", "a walk" },
	[FAILURE] = { "failure", "Sa:m:", "memory failure" },
	[SWAPIN] = { "swapin", "Sa:", "swap-in" },
	[SWEEP] = { "sweep", "n:r:", "a sweep" },
	[WAIT] = { "wait", "Sn:t:k:", "an operation" },
};

static void help(const char *self)
{
	printf("usage: %s MODE [OPTION]...\n"
	       "  walk     measure walks of one KSM page, over and over\n"
	       "  sweep    measure walks of many pages in turn: the time per mapping\n"
	       "  failure  measure memory failure\n"
	       "  swapin   measure swap-in from the swap cache, through each mapping\n"
	       "  wait     measure how long an application's operations take meanwhile\n"
	       "All modes:\n"
	       "  -v VMAS      VMAs in the anon_vma, default 1\n"
	       "  -s SHARERS   pages of these that share the KSM page, 2 to %d, default 2;\n"
	       "               1 for an ordinary page, with which KSM has nothing to do\n"
	       "  -f FORKS     children forked after merging, up to %d, default 0\n"
	       "  -p           children are forked before, and share pages of their own\n"
	       "  -c           print values separated by commas; -cc names them, and exits\n"
	       "all but sweep:\n"
	       "  -S           the VMAs are split after merging, not before\n"
	       "walk, failure, swapin:\n"
	       "  -a PLACE     where among the VMAs the sharers are: evenly (default),\n"
	       "               first, last\n"
	       "walk, sweep:\n"
	       "  -r RUNS      how many to measure, default 5\n"
	       "sweep, and wait with -k walk:\n"
	       "  -n PAGES     KSM pages, each with as many sharers, up to %d, default 1\n"
	       "failure:\n"
	       "  -m NUMBER    other processes, up to %d, default 0\n"
	       "wait:\n"
	       "  -t SECONDS   how long to measure, default 3\n"
	       "  -k KIND      what happens to the page all the time: walk, migrate, compact,\n"
	       "               swap; or none, the default\n",
	       self, MAX_SHARERS, MAX_FORKS, MAX_PAGES, MAX_PROCESSES);
}

static bool mode_by_name(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		if (!strcmp(modes[i].name, name)) {
			mode = i;
			return true;
		}
	}
	return false;
}

static void print_names(void)
{
	switch (mode) {
	case WAIT:
		printf("vmas,sharers,forks,own_pages,split_late,mappings,found,");
		printf("seconds,kind,completed,operation,count,");
		printf("p50_ns,p99_ns,p999_ns,max_ns\n");
		break;
	case SWEEP:
		printf("vmas,sharers,forks,own_pages,pages,mappings,found,runs,");
		printf("q1_ns_per_mapping,median_ns_per_mapping,q3_ns_per_mapping\n");
		break;
	default:
		printf("vmas,sharers,forks,own_pages,mappings,found,runs,");
		printf("min_ns,median_ns,max_ns,shared,sharing,");
		printf("cow_shared,cow_sharing,unmerged_shared,unmerged_sharing,");
		printf("split_late,measures,processes,copies,place\n");
	}
}

/* Returns: what this machine lacks for the mode, or NULL */
static const char *mode_missing(const struct kind *kind)
{
	const char *missing = ksm_rmap_missing();

	if (missing)
		return missing;
	if (mode == FAILURE && access(UNPOISON, W_OK))
		return "no " UNPOISON ": needs CONFIG_HWPOISON_INJECT";
	if (mode == SWAPIN)
		return swap_missing();
	if (mode == WAIT && kind->missing)
		return kind->missing();
	return NULL;
}

int main(int argc, char **argv)
{
	long shared[3], sharing[3];
	unsigned long cost[MAX_RUNS], found = 0, copies = 0, total;
	const struct rlimit files = { 4 * MAX_FORKS, 4 * MAX_FORKS };
	const struct kind *kind = kind_by_name("none");
	int option, csv = 0;
	const char *missing;
	char options[32];

	if (argc < 2 || !mode_by_name(argv[1])) {
		if (argc > 1 && strcmp(argv[1], "-h"))
			fprintf(stderr, "%s: no such mode\n", argv[1]);
		help(argv[0]);
		return argc == 2 && !strcmp(argv[1], "-h") ? KSFT_PASS : KSFT_FAIL;
	}
	snprintf(options, sizeof(options), OPTIONS "%s", modes[mode].options);
	optind = 2;
	while ((option = getopt(argc, argv, options)) != -1) {
		switch (option) {
		case 'v':
			vmas = parse(optarg, option, 1, 1000000);
			break;
		case 's':
			sharers = parse(optarg, option, 1, MAX_SHARERS);
			break;
		case 'f':
			forks = parse(optarg, option, 0, MAX_FORKS);
			break;
		case 'r':
			runs = parse(optarg, option, 1, MAX_RUNS);
			break;
		case 'p':
			own_pages = true;
			break;
		case 'S':
			split_late = true;
			break;
		case 'a':
			place = place_by_name(optarg);
			break;
		case 'n':
			pages = parse(optarg, option, 1, MAX_PAGES);
			break;
		case 'm':
			processes = parse(optarg, option, 0, MAX_PROCESSES);
			break;
		case 't':
			seconds = parse(optarg, option, 1, 600);
			break;
		case 'k':
			kind = kind_by_name(optarg);
			break;
		case 'c':
			csv++;
			break;
		default:
			help(argv[0]);
			return option == 'h' ? KSFT_PASS : KSFT_FAIL;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "%s: is no option, see -h\n", argv[optind]);
		return KSFT_FAIL;
	}
	if (csv > 1) {
		print_names();
		return KSFT_PASS;
	}
	if (!go_together(kind)) {
		fprintf(stderr, "these options do not go together, see -h\n");
		return KSFT_FAIL;
	}

	pids[0] = getpid();
	missing = mode_missing(kind);
	if (missing) {
		printf("SKIP: %s\n", missing);
		return KSFT_SKIP;
	}
	can_swap = (mode == SWEEP || (mode == WAIT && kind->once == walk) ||
		    (mode == WALK && !forks)) &&
		   access(NODE1, F_OK) && !swap_missing();
	/* Two files a child */
	if (setrlimit(RLIMIT_NOFILE, &files))
		ksft_exit_fail_perror("setrlimit");
	ksm_knobs_save();
	ksm_knobs_reset();
	idle_fd = idle_open();

	if (mode == FAILURE)
		fork_unrelated();
	if (own_pages)
		fork_all();
	else
		build();
	if (is_mergeable())
		merge();
	if (split_late)
		split();
	read_counters(&shared[0], &sharing[0]);
	if (!own_pages)
		fork_all();
	total = nr_mappings();
	switch (mode) {
	case WALK:
		found = measure_walk(cost);
		break;
	case FAILURE:
		found = measure_failure(cost);
		break;
	case SWAPIN:
		found = measure_swap_in(cost, &copies);
		break;
	case SWEEP:
		found = measure_sweep(cost);
		break;
	case WAIT:
		found = measure_latency(kind, csv);
		reap_all();
		return found == total ? KSFT_PASS : KSFT_FAIL;
	}
	qsort(cost, runs, sizeof(*cost), compare);
	reap_all();
	reap_unrelated();
	if (mode == SWEEP) {
		print_sweep(cost, found, csv);
		return found == total ? KSFT_PASS : KSFT_FAIL;
	}

	/* ksmd counts the copy out when it next comes across it */
	if (mode != FAILURE)
		fill_page(mapping[0], 2);
	/* Without mergeable memory, it would not scan at all */
	if (is_mergeable() && !ksm_scan(2))
		ksft_exit_fail_msg("ksmd does not complete its scans\n");
	read_counters(&shared[1], &sharing[1]);
	ksm_stop();
	read_counters(&shared[2], &sharing[2]);

	if (csv) {
		printf("%lu,%lu,%lu,%d,%lu,%lu,%lu,%lu,%lu,%lu", vmas, sharers,
		       forks, own_pages, total, found, runs, cost[0],
		       cost[runs / 2], cost[runs - 1]);
		for (int i = 0; i < 3; i++)
			printf(",%ld,%ld", shared[i], sharing[i]);
		printf(",%d,%d,%lu,%lu,%d\n", split_late, mode, processes,
		       copies, place);
	} else {
		print_case();
		printf("%s takes %lu ns (median of %lu, %lu to %lu)\n",
		       modes[mode].what, cost[runs / 2], runs, cost[0],
		       cost[runs - 1]);
		if (mode == FAILURE)
			printf("with %lu unrelated processes\n", processes);
		if (mode == SWAPIN)
			printf("%lu of the mappings have a copy\n", copies);
		printf("found %lu of %lu mappings\n", found, total);
		printf("pages_shared/pages_sharing: ");
		printf("merged %ld/%ld, after a COW %ld/%ld, unmerged %ld/%ld\n",
		       shared[0], sharing[0], shared[1], sharing[1], shared[2],
		       sharing[2]);
	}
	return found == total ? KSFT_PASS : KSFT_FAIL;
}
