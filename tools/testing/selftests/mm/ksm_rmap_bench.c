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
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "vm_util.h"
#include "ksm_rmap_util.h"
#include "ksm_rmap_bench.h"

#define MAX_SHARERS	256	/* per KSM page, by default (max_page_sharing) */
#define MAX_PAGES	256	/* that a sweep walks */
#define MAX_FORKS	8000
#define MAX_RUNS	1000

static enum { WALK, FAILURE, SWAPIN, SWEEP, WAIT } mode;
/* In which of the VMAs the sharers are: a search for the last takes longest */
static enum { EVENLY, FIRST, LAST } place;
static const char *const places[] = { "evenly", "first", "last" };
unsigned long sharers = 2, forks, runs = 5, pages = 1;
static unsigned long vmas = 1, processes, seconds = 3;
static bool own_pages, split_late;
static char *area;
char *extra;
char *mapping[MAX_PAGES * MAX_SHARERS];
pid_t pids[MAX_FORKS + 1];
static int to_child[MAX_FORKS + 1], from_child[MAX_FORKS + 1];
int idle_fd;

unsigned long nr_mapped(void)
{
	return sharers * pages;
}

unsigned long nr_mappings(void)
{
	return nr_mapped() * (forks + 1);
}

static unsigned long pages_per_vma(void)
{
	return (nr_mapped() + vmas - 1) / vmas;
}

bool is_mergeable(void)
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

/* In one read, as a system call is slow in User Mode Linux */
const uint64_t *read_pagemap(pid_t pid)
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

const unsigned long *read_pfns(void)
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

unsigned long found_by_migration(void)
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

unsigned long found_by_touching(unsigned long pfn, unsigned long page)
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

unsigned long all_found_by_touching(void)
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
	if (mode == WAIT && pages > 1 && !kind->all_pages)
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
	if (mode == SWEEP || (mode == WAIT && kind->all_pages) || (mode == WALK && !forks))
		prefer_swapping();
	/* Two files a child */
	if (setrlimit(RLIMIT_NOFILE, &files))
		ksft_exit_fail_perror("setrlimit");
	ksm_knobs_save();
	ksm_knobs_reset();
	idle_fd = idle_open();

	if (mode == FAILURE)
		fork_unrelated(processes);
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
		found = measure_latency(kind, seconds);
		print_latency(kind, found, csv);
		reap_all();
		return found == total ? KSFT_PASS : KSFT_FAIL;
	}
	qsort(cost, runs, sizeof(*cost), compare);
	reap_all();
	reap_unrelated(processes);
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
