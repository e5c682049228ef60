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
 * its mappings are found; with one, by touching it through one after the other.
 */
#include <errno.h>
#include <getopt.h>
#include <linux/mempolicy.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "ksm_rmap.h"

#define MAX_SHARERS	256	/* per KSM page, by default (max_page_sharing) */
#define MAX_FORKS	1000
#define MAX_RUNS	1000

static unsigned long vmas = 1, sharers = 2, forks, runs = 5;
static bool own_pages;
static char *mapping[MAX_SHARERS];
/* Index 0 is the benchmark itself */
static pid_t pids[MAX_FORKS + 1];
static int to_child[MAX_FORKS + 1], from_child[MAX_FORKS + 1];
static int idle_fd;

/*
 * | r r | w w | r r | ...: as many VMAs as asked for, a page or more in each, and
 * the shared ones evenly distributed.  Nothing else need be present.
 */
static void build(void)
{
	const unsigned long per_vma = (sharers + vmas - 1) / vmas;
	const unsigned long nr = vmas * per_vma, page = psize();
	char *area = map_area(nr);

	if (!area)
		ksft_exit_fail_msg("cannot map %lu pages\n", nr);
	if (sharers == 1 && !own_pages && madvise(area, nr * page, MADV_UNMERGEABLE))
		ksft_exit_fail_perror("madvise");
	for (unsigned long i = 0; i < sharers; i++) {
		mapping[i] = area + i * nr / sharers * page;
		fill_page(mapping[i], 1);
	}
	/* Split only now, so that all have the one anon_vma of the first fault */
	for (unsigned long i = 1; i < vmas; i += 2)
		if (mprotect(area + i * per_vma * page, per_vma * page,
			     PROT_READ))
			ksft_exit_fail_msg("VMA %lu of %lu: %s (vm.max_map_count?)\n",
					   i, vmas, strerror(errno));
}

static void merge(void)
{
	const unsigned long nr = sharers * (own_pages ? forks + 1 : 1);
	unsigned long pfn = 0, same = 0;

	for (int scans = 0; scans < 20 && same < nr; scans++) {
		if (!ksm_scan(3))
			ksft_exit_fail_msg("ksmd does not complete its scans\n");
		pfn = pfn_of(getpid(), mapping[0]);
		for (same = 0; same < nr; same++)
			if (pfn_of(pids[same / sharers],
				   mapping[same % sharers]) != pfn)
				break;
	}
	if (same < nr || !pfn_is_ksm(pfn))
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
			for (unsigned long j = 1; j < i; j++)
				close(to_child[j]);
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

/* Returns: mappings that follow the page to another node, 0 if it stays */
static unsigned long found_by_migration(void)
{
	const unsigned long old = pfn_of(getpid(), mapping[0]);
	unsigned long new, found = 0;
	int status = -1;

	for (int node = 0; node < 2; node++) {
		if (syscall(__NR_move_pages, 0, 1UL, &mapping[0], &node,
			    &status, MPOL_MF_MOVE_ALL) < 0)
			return 0;
		new = pfn_of(getpid(), mapping[0]);
		if (new == old)
			continue;
		for (unsigned long i = 0; i <= forks; i++)
			for (unsigned long j = 0; j < sharers; j++)
				found += pfn_of(pids[i], mapping[j]) == new;
		return found;
	}
	return 0;
}

/* Returns: mappings through which an access is noticed by the walk */
static unsigned long found_by_touching(void)
{
	const unsigned long pfn = pfn_of(getpid(), mapping[0]);
	unsigned long found = 0;

	for (unsigned long i = 0; i <= forks; i++) {
		for (unsigned long j = 0; j < sharers; j++) {
			unsigned long told = j;

			idle_set(idle_fd, pfn);
			if (!idle_get(idle_fd, pfn))
				ksft_exit_fail_msg("an untouched page does not stay idle\n");
			if (!i)
				touch(j);
			else if (write(to_child[i], &told, sizeof(told)) < 0 ||
				 read(from_child[i], &told, sizeof(told)) < 0)
				ksft_exit_fail_perror("child");
			found += !idle_get(idle_fd, pfn);
		}
	}
	return found;
}

static int compare(const void *a, const void *b)
{
	const unsigned long x = *(unsigned long *)a, y = *(unsigned long *)b;

	return (x > y) - (x < y);
}

/* Sorted costs of @runs walks, in nanoseconds */
static void measure(unsigned long *cost)
{
	const unsigned long pfn = pfn_of(getpid(), mapping[0]);
	struct timespec from, to;

	/*
	 * Warm up; and a page that is not on the LRU would not be walked: it may
	 * be on its way there, until the page cache is dropped.
	 */
	if (!idle_set(idle_fd, pfn) || !idle_get(idle_fd, pfn))
		write_num("/proc/sys/vm/drop_caches", 1);
	if (!idle_set(idle_fd, pfn) || !idle_get(idle_fd, pfn))
		ksft_exit_fail_msg("pfn %#lx is not walked\n", pfn);
	for (unsigned long i = 0; i < runs; i++) {
		clock_gettime(CLOCK_MONOTONIC, &from);
		idle_set(idle_fd, pfn);
		clock_gettime(CLOCK_MONOTONIC, &to);
		cost[i] = (to.tv_sec - from.tv_sec) * 1000000000UL +
			  to.tv_nsec - from.tv_nsec;
	}
	qsort(cost, runs, sizeof(*cost), compare);
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

static void help(const char *self)
{
	printf("usage: %s [-v VMAs] [-s sharers] [-f forks] [-p] [-r runs] [-c]\n"
	       "  -v  VMAs in the anon_vma, default 1\n"
	       "  -s  pages of these that share the KSM page, 2 to %d, default 2;\n"
	       "      1 for an ordinary page, with which KSM has nothing to do\n"
	       "  -f  children forked after merging, up to %d, default 0\n"
	       "  -p  children are forked before, and share pages of their own\n"
	       "  -r  walks to measure, default 5\n"
	       "  -c  print values separated by commas; -cc names them, and exits\n",
	       self, MAX_SHARERS, MAX_FORKS);
}

int main(int argc, char **argv)
{
	long shared[3], sharing[3];
	unsigned long cost[MAX_RUNS], found, total;
	const struct rlimit files = { 4 * MAX_FORKS, 4 * MAX_FORKS };
	int option, csv = 0;
	const char *missing;

	while ((option = getopt(argc, argv, "v:s:f:r:pch")) != -1) {
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
		case 'c':
			csv++;
			break;
		default:
			help(argv[0]);
			return option == 'h' ? KSFT_PASS : KSFT_FAIL;
		}
	}
	if (csv > 1) {
		printf("vmas,sharers,forks,own_pages,mappings,found,runs,");
		printf("min_ns,median_ns,max_ns,shared,sharing,");
		printf("cow_shared,cow_sharing,unmerged_shared,unmerged_sharing\n");
		return KSFT_PASS;
	}

	missing = ksm_rmap_missing();
	if (missing) {
		printf("SKIP: %s\n", missing);
		return KSFT_SKIP;
	}
	/* Two files a child */
	if (setrlimit(RLIMIT_NOFILE, &files))
		ksft_exit_fail_perror("setrlimit");
	ksm_knobs_save();
	ksm_knobs_reset();
	idle_fd = idle_open();

	pids[0] = getpid();
	if (own_pages)
		fork_all();
	else
		build();
	if (sharers > 1 || own_pages)
		merge();
	read_counters(&shared[0], &sharing[0]);
	if (!own_pages)
		fork_all();
	measure(cost);
	total = sharers * (forks + 1);
	found = found_by_migration();
	if (found < total)
		found = found_by_touching();
	reap_all();

	/* ksmd counts the copy out when it next comes across it */
	fill_page(mapping[0], 2);
	ksm_scan(2);
	read_counters(&shared[1], &sharing[1]);
	ksm_stop();
	read_counters(&shared[2], &sharing[2]);

	if (csv) {
		printf("%lu,%lu,%lu,%d,%lu,%lu,%lu,%lu,%lu,%lu", vmas, sharers,
		       forks, own_pages, total, found, runs, cost[0],
		       cost[runs / 2], cost[runs - 1]);
		for (int i = 0; i < 3; i++)
			printf(",%ld,%ld", shared[i], sharing[i]);
		printf("\n");
	} else {
		printf("%lu VMAs, %lu sharers, %lu forks%s: ", vmas, sharers,
		       forks, own_pages ? " with own pages" : "");
		printf("a walk takes %lu ns (median of %lu, %lu to %lu)\n",
		       cost[runs / 2], runs, cost[0], cost[runs - 1]);
		printf("found %lu of %lu mappings\n", found, total);
		printf("pages_shared/pages_sharing: ");
		printf("merged %ld/%ld, after a COW %ld/%ld, unmerged %ld/%ld\n",
		       shared[0], sharing[0], shared[1], sharing[1], shared[2],
		       sharing[2]);
	}
	return found == total ? KSFT_PASS : KSFT_FAIL;
}
