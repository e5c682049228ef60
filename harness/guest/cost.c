// SPDX-License-Identifier: GPL-2.0
/*
 * What must not cost more when KSM's rmap walk gets cheaper?
 *
 * Prints a line of comma-separated values a case: name, unit, runs, minimum,
 * median and maximum cost, and a count that shows that what was measured did
 * happen.  Exits with 1 if it did not.  Costs include reading the clock.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "vm_util.h"
#include "ksm_rmap_util.h"

#define NR		4096	/* pages, most of the time */
#define RUNS		15
#define FORKS		101
#define ROUNDS		15
#define PROCESSES	200
#define SMART_SCANS	64	/* some pages are skipped eight times in a row */
#define SLEEP_MS	100	/* for ksm_scan() to stop ksmd after just one scan */

/* Nanoseconds that @what takes */
#define TIME(what) \
	({ double _start = now(CLOCK_MONOTONIC); what; now(CLOCK_MONOTONIC) - _start; })
#define must(ok, what) do { if (!(ok)) ksft_exit_fail_msg("%s\n", what); } while (0)

enum end { RUN_2, MADVISE, MUNMAP };

static double cost[NR];		/* nanoseconds */
static clockid_t ksmd;		/* its CPU time; or the time of day */
static int signals;

static double now(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * 1e9 + ts.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* @ns: the cost of each of @runs */
static void report(const char *name, const char *unit, double *ns, int runs, long check, long want)
{
	if (check != want)
		ksft_exit_fail_msg("%s: counted %ld, not %ld\n", name, check, want);
	qsort(ns, runs, sizeof(*ns), compare);
	printf("%s,%s,%d,%.1f,%.1f,%.1f,%ld\n", name, unit, runs, ns[0], ns[runs / 2],
	       ns[runs - 1], check);
}

/*
 * Nanoseconds a page that ksmd takes for exactly one full scan of NR pages.  Where CPU
 * time is counted in timer ticks (User Mode Linux), how long the scan takes: there has
 * to be a CPU for ksmd then, besides the one that waits.
 */
static double scan(void)
{
	const long scans = ksm_get_full_scans();
	double ns;

	/* Or RCU would free things at ksmd's cost, or ksmd still be asleep at ours */
	usleep(2 * SLEEP_MS * 1000);
	ns = now(ksmd);
	if (ksmd == CLOCK_MONOTONIC) {
		write_num(KSM_SYSFS "run", 1);
		while (ksm_get_full_scans() == scans)
			;
		ns = now(ksmd) - ns;
	}
	must(ksm_scan(ksmd != CLOCK_MONOTONIC) && ksm_get_full_scans() == scans + 1,
	     "raise SLEEP_MS");
	if (ksmd != CLOCK_MONOTONIC) {
		ns = now(ksmd) - ns;
		if (!((unsigned long)ns % 1000000)) {
			ksmd = CLOCK_MONOTONIC;
			return scan();
		}
	}
	return ns / NR;
}

/* Apart from areas whose anon_vma the processes forked before have, too */
static char *ordinary(size_t nr)
{
	char *p = map_apart(nr);

	must(p, "mmap");
	return p;
}

/* NR mergeable pages, each @group with the same content, which ksmd has seen once */
static char *mergeable(int group)
{
	char *p = map_area(NR);

	must(p, "mmap");
	for (int i = 0; i < NR; i++)
		fill_page(p + i * psize(), i / group + 1);
	scan();
	return p;
}

static void discard(char *p)
{
	write_num(KSM_SYSFS "run", 2);
	munmap(p, NR * psize());
}

/* Returns: how many of NR pages are present, and no KSM pages */
static long count(const char *p)
{
	long ret = 0;

	for (const char *end = p + NR * psize(); p < end; p += psize())
		ret += pfn_of(getpid(), p) && !pfn_is_ksm(pfn_of(getpid(), p));
	usleep(SLEEP_MS * 1000);	/* for RCU to free all these files */
	return ret;
}

/* Write to each page, which is not present or merged */
static void measure_writes(const char *name, char *p)
{
	for (int i = 0; i < NR; i++)
		cost[i] = TIME(p[i * psize()] = 1);
	report(name, "ns", cost, NR, count(p), NR);
}

static bool run_child(bool exec)
{
	int status = -1;
	pid_t pid = fork();

	if (!pid && exec)
		execl("/proc/self/exe", "cost", "exit", NULL);
	if (!pid)
		_exit(exec);
	return waitpid(pid, &status, 0) == pid && !status;
}

static void measure_fork(const char *name, bool exec)
{
	int done = run_child(exec);	/* has things allocated and read */

	for (int i = 0; i < FORKS; i++)
		cost[i] = TIME(done += run_child(exec));
	report(name, "ns", cost, FORKS, done, FORKS + 1);
}

static bool touch(void *p)
{
	flush_tlb();
	FORCE_READ(*(char *)p);
	return true;
}

static void measure_walk(char *p)
{
	const unsigned long pfn = pfn_of(getpid(), p);
	int found = 0, fd = idle_open();

	/* It may be on its way to the LRU, and is not walked before it is there */
	write_num(DROP_CACHES, 1);
	for (int i = 0; i < RUNS; i++) {
		cost[i] = TIME(idle_set(fd, pfn));
		found += walk_finds(fd, pfn, touch, p, 1) == WALK_FOUND;
	}
	report("walk_ordinary", "ns", cost, RUNS, found, RUNS);
}

/* Swap out pages which a pipe keeps in the swap cache, and read them */
static void measure_swap_in(void)
{
	char *page = ordinary(RUNS);
	unsigned long pfn[RUNS];
	int holder[2], same = 0;

	for (int i = 0; i < RUNS; i++) {
		fill_page(page + i * psize(), i + 1);
		pfn[i] = pfn_of(getpid(), page + i * psize());
	}
	must(!hold_pages(holder, page, RUNS), "vmsplice");
	madvise(page, RUNS * psize(), MADV_PAGEOUT);
	if (pfn_of(getpid(), page) == pfn[0]) {
		printf("SKIP: swap_in_ordinary: not swapped out: is there swap?\n");
		return;
	}
	for (int i = 0; i < RUNS; i++, page += psize()) {
		same += !!(pagemap_of(getpid(), page) & PM_SWAP);
		cost[i] = TIME(FORCE_READ(*page));
		same += pfn_of(getpid(), page) == pfn[i];
	}
	report("swap_in_ordinary", "ns", cost, RUNS, same, 2 * RUNS);
}

static void count_signal(int sig)
{
	signals++;
}

static void measure_memory_failure(void)
{
	char *page = ordinary(RUNS);
	unsigned long pfn;

	if (access(UNPOISON, W_OK)) {
		printf("SKIP: memory_failure_ordinary: no " UNPOISON "\n");
		return;
	}
	for (int i = 0; i < PROCESSES; i++)
		while (!fork())
			if (!prctl(PR_SET_PDEATHSIG, SIGKILL))
				pause();
	/* Who asks for signals is looked for among all processes */
	signal(SIGBUS, count_signal);
	prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0);
	for (int i = 0; i < RUNS; i++, page += psize()) {
		*page = 1;
		pfn = pfn_of(getpid(), page);
		cost[i] = TIME(madvise(page, psize(), MADV_HWPOISON));
		munmap(page, psize());
		unpoison_memory(pfn);
	}
	report("memory_failure_ordinary", "ns", cost, RUNS, signals, RUNS);
}

/* A process exits, all of whose pages are merged with one another, 16 to a page */
static void measure_exits(void)
{
	double end[ROUNDS], drop[ROUNDS];
	long merged = 0;
	int filled[2];
	pid_t pid;
	char c = 0;

	must(!pipe(filled), "pipe");
	for (int i = 0; i < ROUNDS; i++) {
		pid = fork();
		must(pid >= 0, "fork");
		if (!pid) {
			char *p = map_area(NR);

			for (int j = 0; p && j < NR; j++)
				fill_page(p + j * psize(), j / 16 + 1);
			if (write(filled[1], &c, p ? 1 : 0) != 1)
				_exit(1);
			for (;;)
				pause();
		}
		must(read(filled[0], &c, 1) == 1, "the child has no pages");
		for (int j = 0; j < 3; j++)
			scan();
		merged += ksm_counter("pages_sharing");
		end[i] = TIME(kill(pid, SIGKILL); waitpid(pid, NULL, 0)) / NR;
		drop[i] = scan();
	}
	report("exit_merged", "ns/page", end, ROUNDS, merged, (NR - NR / 16) * ROUNDS);
	report("scan_exited", "ns/page", drop, ROUNDS, ksm_counter("pages_shared"), 0);
}

/* Scans that find no more to merge, with @change of pages that change each time */
static void measure_scans(const char *name, const char *counter, char *change, long wanted)
{
	scan();
	for (int i = 0; i < ROUNDS; i++) {
		for (int j = 1; change && j <= NR; j++)
			change[j * psize() - 1]++;
		cost[i] = scan();
	}
	report(name, "ns/page", cost, ROUNDS, ksm_counter(counter), wanted);
}

/* Merge pages of which each @group have the same content, and end that again */
static void measure_merges(const char *name, int group, enum end how, const char *ending)
{
	double ns[ROUNDS], end[ROUNDS], drop[ROUNDS];
	long done = 0, left = 0;

	for (int i = 0; i < ROUNDS; i++) {
		char *p = mergeable(group);

		ns[i] = scan();
		done += NR - count(p);
		end[i] = TIME(how == RUN_2 ? ksm_stop() :
			      how == MADVISE ? madvise(p, NR * psize(), MADV_UNMERGEABLE) :
			      munmap(p, NR * psize())) / NR;
		left += count(p);
		/* ksmd sees only then that they are gone */
		drop[i] = how == MUNMAP ? scan() : 0;
		must(how == MADVISE || !ksm_counter("pages_shared"), "pages are still shared");
		discard(p);
	}
	report(name, "ns/page", ns, ROUNDS, done, NR * ROUNDS);
	report(ending, "ns/page", end, ROUNDS, left, how == MUNMAP ? 0 : NR * ROUNDS);
	if (how == MUNMAP)
		report("scan_munmapped", "ns/page", drop, ROUNDS, done, NR * ROUNDS);
}

/* Scans with smart scan on; before each, merged pages are rewritten as they were */
static void measure_smart_scans(char *p)
{
	double ns = 0, skipped = -ksm_counter("pages_skipped");

	write_num(KSM_SYSFS "smart_scan", 1);
	for (int i = 0; i < SMART_SCANS; i++) {
		for (int j = 0; j < NR; j++) {
			volatile char *first = p + j * psize();

			*first = *first;
		}
		ns += scan();
	}
	skipped += ksm_counter("pages_skipped");
	ns /= SMART_SCANS;
	skipped /= SMART_SCANS;
	report("scan_rewritten", "ns/page", &ns, 1, SMART_SCANS, SMART_SCANS);
	report("scan_rewritten_skipped", "pages", &skipped, 1, SMART_SCANS, SMART_SCANS);
	write_num(KSM_SYSFS "smart_scan", 0);
}

int main(int argc, char **argv)
{
	char *p;

	if (argc > 1)
		return KSFT_PASS;	/* run_child() */
	must(!ksm_rmap_missing(), ksm_rmap_missing());
	setlinebuf(stdout);	/* forks would print again what is left there */
	p = ordinary(NR);
	measure_writes("fault_ordinary", p);
	measure_fork("fork_exit_ordinary", false);
	measure_fork("fork_exec_ordinary", true);
	measure_walk(p);
	munmap(p, NR * psize());
	measure_swap_in();
	clock_getcpuclockid(ksmd_pid(), &ksmd);
	must(ksmd, "no CPU time of ksmd");
	ksm_knobs_save();
	ksm_knobs_reset();
	write_text(KSM_SYSFS "smart_scan", "0");	/* where there is that */
	write_num(KSM_SYSFS "sleep_millisecs", SLEEP_MS);
	p = mergeable(1);
	measure_scans("scan_unstable", "pages_unshared", NULL, NR);
	measure_scans("scan_volatile", "pages_volatile", p, NR);
	discard(p);
	p = mergeable(16);
	measure_scans("scan_merged", "pages_sharing", NULL, NR - NR / 16);
	measure_fork("fork_exit_merged", false);
	measure_writes("cow", p);
	discard(p);
	p = mergeable(16);
	scan();
	measure_smart_scans(p);
	discard(p);
	measure_merges("merge_same", NR, RUN_2, "unmerge_run_2");
	measure_merges("merge_pairs", 2, MADVISE, "unmerge_madvise");
	measure_merges("merge_16", 16, MUNMAP, "munmap_merged");
	measure_exits();
	measure_memory_failure();
	return KSFT_PASS;
}
