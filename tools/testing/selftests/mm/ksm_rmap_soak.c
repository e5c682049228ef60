// SPDX-License-Identifier: GPL-2.0
/*
 * Does rmap find every mapping of every KSM page, whatever happens to them?
 *
 * Some processes, and children which these fork, map, write, free, move, split,
 * swap out, migrate and unmap pages at random, all at once, while ksmd merges the
 * pages, its knobs are turned, and memory is taken offline.  Each process knows
 * what its every byte must be.  At a checkpoint all of them pause, and ksmd is
 * stopped:
 *
 * - every byte is as it was last written;
 * - the kernel counts as many mappings of a KSM page as the processes have;
 * - the page can be migrated, which it can be only if rmap finds them all.  One
 *   that cannot, is walked for each of its mappings by way of page_idle.
 *
 * What a process does as its Nth operation depends on nothing but the seed, on
 * which process it is, on N, and on what it has mapped by then.  So a seed can
 * be replayed, also with some kinds of operations left out, which is how a run
 * that fails is made smaller.  What depends on time, like ksmd, is not replayed.
 */
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <time.h>

#include "vm_util.h"
#include "ksm_rmap_util.h"
#include "ksm_rmap_soak.h"

/* Seconds: no operation takes that long, not on an emulated CPU either */
#define HANGS		300

struct shared *shared;
static int idle_fd, flags_fd, count_fd;
static bool only_count;			/* what rmap misses, and go on */

void wrong(const char *format, ...)
{
	char text[sizeof(shared->why)];
	va_list args;
	int len = 0;

	if (self)
		len = snprintf(text, sizeof(text), "process %d (pid %d, depth %d), operation %lu: ",
			       (int)(self - shared->proc), self->pid, self->depth,
			       self->n);
	va_start(args, format);
	vsnprintf(text + len, sizeof(text) - len, format, args);
	va_end(args);
	dprintf(1, "# %s\n", text);
	if (!__atomic_exchange_n(&shared->failed, true, __ATOMIC_SEQ_CST))
		snprintf(shared->why, sizeof(shared->why), "%s", text);
	shared->end = true;
	if (self) {
		__atomic_store_n(&self->state, EXITED, __ATOMIC_SEQ_CST);
		_exit(1);
	}
}

static int new_bell(void)
{
	const int bell = eventfd(0, EFD_NONBLOCK);

	if (bell < 0)
		ksft_exit_fail_perror("eventfd");
	return bell;
}

void ring(int bell)
{
	eventfd_write(bell, 1);
}

void sleep_until_rung(int bell)
{
	struct pollfd fd = { .fd = bell, .events = POLLIN };
	eventfd_t count;

	if (poll(&fd, 1, 20) > 0)
		eventfd_read(bell, &count);
}

/* ---- checkpoints ---------------------------------------------------------- */

static struct entry {
	unsigned long pfn;
	struct proc *proc;
	char *addr;
} *entries;

static struct {
	unsigned long checkpoints, mappings, pages;
	unsigned long missed;	/* mappings, if we go on after that */
	unsigned long sharing;	/* pages_sharing, the sum of all checkpoints */
	unsigned long swapped_in, copied;	/* pages, before we began */
	unsigned long busy;	/* pages that do not move, but all mappings are found */
} seen;

static unsigned long vm_event(const char *name)
{
	FILE *events = fopen("/proc/vmstat", "r");
	unsigned long value, found = 0;
	char key[64];

	while (events && fscanf(events, "%63s %lu", key, &value) == 2)
		if (!strcmp(key, name))
			found = value;
	if (events)
		fclose(events);
	return found;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* Returns: false when not all processes pause, or end */
static bool wait_for(bool (*is)(const struct proc *p), const char *what)
{
	const double end = now() + HANGS;

	for (int i = 0; i < MAX_PROCS; i++) {
		struct proc *p = &shared->proc[i];

		while (!is(p)) {
			reap();
			if (shared->failed && what)
				return false;
			if (now() > end) {
				if (what)
					wrong("process %d (pid %d) does not %s in operation %lu",
					      i, p->pid, what, p->n);
				return false;
			}
			sleep_until_rung(shared->bell);
		}
	}
	return true;
}

static bool rests(const struct proc *p)
{
	const enum state state = __atomic_load_n(&p->state, __ATOMIC_SEQ_CST);

	return state == FREE || state == PAUSED;
}

static bool is_gone(const struct proc *p)
{
	return __atomic_load_n(&p->state, __ATOMIC_SEQ_CST) == FREE;
}

static bool has_obeyed(const struct proc *p)
{
	return is_gone(p) ||
	       __atomic_load_n(&p->command, __ATOMIC_SEQ_CST) == NONE;
}

static uint64_t word_at(int fd, unsigned long pfn)
{
	uint64_t word = 0;

	if (pread(fd, &word, sizeof(word), pfn * sizeof(word)) != sizeof(word))
		return 0;
	return word;
}

static int by_pfn(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;

	return (x->pfn > y->pfn) - (x->pfn < y->pfn);
}

/* Returns: how many mappings of KSM pages there are, which @entries then lists */
static size_t list_mappings(void)
{
	static uint64_t pagemap[NR_SLOTS];
	size_t nr = 0;

	for (int i = 0; i < MAX_PROCS; i++) {
		struct proc *p = &shared->proc[i];
		char path[64];
		int fd;

		if (is_gone(p))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/pagemap", p->pid);
		fd = open(path, O_RDONLY);
		if (fd < 0 || pread(fd, pagemap, sizeof(pagemap),
				    (uintptr_t)at(0) / psize() * sizeof(*pagemap)) !=
		    sizeof(pagemap))
			wrong("%s: %s", path, strerror(errno));
		close(fd);
		for (unsigned int j = 0; j < NR_SLOTS; j++) {
			unsigned long pfn = PAGEMAP_PFN(pagemap[j]);

			if (!PAGEMAP_PRESENT(pagemap[j]) ||
			    !(word_at(flags_fd, pfn) & KPF_KSM))
				continue;
			entries[nr++] = (struct entry) { pfn, p, at(j) };
		}
	}
	qsort(entries, nr, sizeof(*entries), by_pfn);
	return nr;
}

static void give(struct proc *p, enum command order)
{
	__atomic_store_n(&p->command, order, __ATOMIC_SEQ_CST);
	ring(p->bell);
}

/* Have the process of @e do @order to its page.  Returns: whether it has */
static bool tell(const struct entry *e, enum command order, const char *what)
{
	e->proc->addr = e->addr;
	give(e->proc, order);
	return wait_for(has_obeyed, what);
}

/*
 * Migrate the page, to the other node or to where it will not fail: that works
 * only if rmap finds all of its mappings.
 */
static bool moves(const struct entry *e)
{
	const bool nodes = !access(NODE1, F_OK);
	unsigned long pfn;

	if (!nodes && access(UNPOISON, W_OK))
		return false;
	for (int tries = 0; tries < 4; tries++) {
		/* It may be in a batch on its way to the LRU */
		if (tries == 2)
			write_num(DROP_CACHES, 1);
		if (nodes)
			page_move_to_node(e->proc->pid, e->addr, tries % 2);
		else if (!tell(e, OFFLINE, "soft-offline a page"))
			return false;
		pfn = pfn_of(e->proc->pid, e->addr);
		if (!pfn || pfn == e->pfn)
			continue;
		if (!nodes)
			unpoison_memory(e->pfn);
		return true;
	}
	return false;
}

static bool touch_it(void *arg)
{
	return tell(arg, TOUCH, "access a page");
}

/* Returns: where in the @nr entries the next page begins */
static size_t after_page_of(size_t i, size_t nr)
{
	const unsigned long pfn = entries[i].pfn;

	while (i < nr && entries[i].pfn == pfn)
		i++;
	return i;
}

/* Does the kernel count as many mappings of each page as there are? */
static bool counts_agree(size_t nr, bool or_fail)
{
	size_t next;

	for (size_t i = 0; i < nr; i = next) {
		unsigned long counted = word_at(count_fd, entries[i].pfn);

		next = after_page_of(i, nr);
		if (counted == next - i)
			continue;
		if (or_fail)
			wrong("pfn %#lx is mapped %zu times, the kernel says %lu",
			      entries[i].pfn, next - i, counted);
		return false;
	}
	return true;
}

/*
 * Are all mappings found?  They must be, whatever ksmd has or has not seen yet.
 *
 * Returns: how many there are
 */
static size_t check_rmap(void)
{
	size_t nr = list_mappings(), next;

	/* khugepaged and kcompactd do not pause: they may take or move a page */
	for (int tries = 20; !counts_agree(nr, !tries) && tries; tries--) {
		usleep(20000);
		nr = list_mappings();
	}
	seen.mappings += nr;
	for (size_t i = 0; i < nr && !shared->failed; i = next) {
		next = after_page_of(i, nr);
		seen.pages++;
		if (moves(&entries[i]))
			continue;
		seen.busy++;
		for (size_t j = i; j < next && !shared->failed; j++) {
			struct entry *e = &entries[j];
			const enum walk walk = walk_finds(idle_fd, e->pfn, touch_it,
							  e, WALK_TRIES);

			if (walk == WALK_FOUND)
				continue;
			if (only_count) {
				seen.missed++;
				continue;
			}
			wrong("%s pfn %#lx: %p of process %d (pid %d, depth %d)",
			      walk == WALK_NONE ? "no walk of" : "rmap misses a mapping of",
			      e->pfn, e->addr, (int)(e->proc - shared->proc),
			      e->proc->pid, e->proc->depth);
		}
	}
	return nr;
}

static void check_contents(void)
{
	for (int i = 0; i < MAX_PROCS; i++)
		if (!is_gone(&shared->proc[i]))
			give(&shared->proc[i], CHECK);
	wait_for(has_obeyed, "check its pages");
}

static void checkpoint(void)
{
	long shared_pages, sharing;
	size_t nr;

	seen.sharing += ksm_counter("pages_sharing");
	__atomic_store_n(&shared->stop, true, __ATOMIC_SEQ_CST);
	/* Twice: one may be forked into a slot that has been looked at */
	if (!wait_for(rests, "pause") || !wait_for(rests, "pause"))
		goto out;
	write_num(KSM_SYSFS "run", 0);
	ksmd_fails(0, NULL);
	check_rmap();
	/* Also brings back what is swapped out, with ksmd stopped */
	check_contents();
	check_rmap();
	write_num(KSM_SYSFS "pages_to_scan", 100000);
	write_num(KSM_SYSFS "sleep_millisecs", 0);
	if (!ksm_scan(3))
		wrong("ksmd does not complete its scans");
	shared_pages = ksm_counter("pages_shared");
	sharing = ksm_counter("pages_sharing");
	nr = check_rmap();
	/* Whether rmap misses one of them is what the rest is about */
	if (shared_pages + sharing != (long)nr)
		ksft_print_msg("%zu mappings of KSM pages, counted as %ld + %ld\n",
			       nr, shared_pages, sharing);
	check_contents();
	seen.checkpoints++;
out:
	write_num(KSM_SYSFS "run", 1);
	__atomic_store_n(&shared->stop, false, __ATOMIC_SEQ_CST);
	for (int i = 0; i < MAX_PROCS; i++)
		ring(shared->proc[i].bell);
}

/* Nothing is left of what KSM did */
static void check_counters(void)
{
	static const char *const names[] = {
		"pages_shared", "pages_sharing", "pages_unshared",
		"pages_volatile", "stable_node_chains", "stable_node_dups",
		"ksm_zero_pages",
	};

	write_num(KSM_SYSFS "run", 2);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (ksm_counter(names[i]))
			wrong("%s is %ld in the end", names[i],
			      ksm_counter(names[i]));
	}
}

/* ---- the main process ----------------------------------------------------- */

struct options {
	uint64_t seed;
	unsigned long ops, seconds, roots, every;
	bool shrink;
};

static char *exclusions(uint64_t set)
{
	static char text[512];

	text[0] = '\0';
	for (size_t i = 0; kind_name(i); i++)
		if (set & (1ULL << i)) {
			strcat(text, text[0] ? "," : "");
			strcat(text, kind_name(i));
		}
	return text;
}

static char *command(const struct options *o, uint64_t without)
{
	static char text[1024];
	int len = snprintf(text, sizeof(text), "ksm_rmap_soak -s %llu -p %lu -c %lu",
			   (unsigned long long)o->seed, o->roots, o->every);

	if (only_count)
		len += snprintf(text + len, sizeof(text) - len, " -k");
	if (without)
		len += snprintf(text + len, sizeof(text) - len, " -x %s",
				exclusions(without));
	if (o->ops)
		len += snprintf(text + len, sizeof(text) - len, " -n %lu", o->ops);
	else
		snprintf(text + len, sizeof(text) - len, " -t %lu", o->seconds);
	return text;
}

static void set_up(void)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	entries = malloc(sizeof(*entries) * MAX_PROCS * NR_SLOTS);
	idle_fd = idle_open();
	flags_fd = open("/proc/kpageflags", O_RDONLY);
	count_fd = open("/proc/kpagecount", O_RDONLY);
	if (shared == MAP_FAILED || !entries || idle_fd < 0 || flags_fd < 0 ||
	    count_fd < 0)
		ksft_exit_fail_perror("set up");
	set_up_slots();
	shared->bell = new_bell();
	for (int i = 0; i < MAX_PROCS; i++)
		shared->proc[i].bell = new_bell();
	/* Nothing else may be mapped at run time: it would land among the pages */
	flush_tlb();
}

static void report(const struct options *o, double seconds)
{
	ksft_print_msg("%lu operations of %lu processes in %.0f s, %lu checkpoints\n",
		       shared->ops, shared->procs, seconds, seen.checkpoints);
	ksft_print_msg("%lu mappings of %lu KSM pages at these\n",
		       seen.mappings, seen.pages);
	ksft_print_msg("%lu of the pages found by a walk for each mapping, not by migration\n",
		       seen.busy);
	if (only_count)
		ksft_print_msg("%lu mappings missed\n", seen.missed);
	ksft_print_msg("%lu pages_sharing on average, %lu swapped in, ",
		       seen.sharing / (seen.checkpoints ?: 1),
		       vm_event("pswpin") - seen.swapped_in);
	printf("%lu copied when swapped in\n",
	       vm_event("ksm_swpin_copy") - seen.copied);
	for (size_t i = 0; kind_name(i); i++)
		ksft_print_msg("%-12s %8lu done %8lu not possible\n", kind_name(i),
			       shared->done[i], shared->refused[i]);
	if (shared->failed)
		ksft_print_msg("%s\n", shared->why);
}

/* Returns: a status of kselftest */
static int soak(const struct options *o)
{
	struct random r = { mix(o->seed, 0) };
	const double begin = now(), end = begin + o->seconds;
	unsigned long checked = 0;
	double said = begin;

	set_up();
	seen.swapped_in = vm_event("pswpin");
	seen.copied = vm_event("ksm_swpin_copy");
	write_num(KSM_SYSFS "run", 1);
	for (unsigned int i = 0; i < o->roots; i++)
		start(i, o->seed);
	while (!shared->failed && (o->ops ? shared->ops < o->ops : now() < end)) {
		reap();
		disturb(&r);
		if (shared->ops - checked >= o->every) {
			checked = shared->ops;
			checkpoint();
		}
		if (now() - said >= 30) {
			said = now();
			ksft_print_msg("%.0f s: %lu operations, %lu checkpoints, %lu mappings\n",
				       said - begin, shared->ops,
				       seen.checkpoints, seen.mappings);
		}
	}
	if (!shared->failed)
		checkpoint();
	shared->end = true;
	wait_for(is_gone, shared->failed ? NULL : "end");
	if (!shared->failed)
		check_counters();
	report(o, now() - begin);
	return shared->failed ? KSFT_FAIL : KSFT_PASS;
}

/*
 * Does it fail in two of three runs without these kinds of operations?  One is not
 * enough: when ksmd scans what is not replayed, and luck would pass for a cause.
 */
static bool fails_again(const struct options *o, uint64_t without)
{
	int status, fails = 0;

	ksft_print_msg("trying %s\n", command(o, without));
	for (int i = 0; i < 3 && fails < 2; i++) {
		pid_t pid = fork();

		if (!pid) {
			setpgid(0, 0);
			excluded = without;
			freopen("/dev/null", "w", stdout);
			_exit(soak(o));
		}
		waitpid(pid, &status, 0);
		kill(-pid, SIGKILL);	/* whoever hangs */
		ksm_knobs_reset();
		if (status)
			fails++;
		else if (!fails && i)
			break;
	}
	return fails == 2;
}

static void shrink(struct options o)
{
	struct options less;

	for (;;) {
		less = o;
		less.ops = o.ops / 2;
		if (less.ops < 100 || !fails_again(&less, excluded))
			break;
		o = less;
	}
	for (size_t i = 0; kind_name(i); i++)
		if (!(excluded & (1ULL << i)) &&
		    fails_again(&o, excluded | (1ULL << i)))
			excluded |= 1ULL << i;
	for (;;) {
		less = o;
		less.roots--;
		if (!less.roots || !fails_again(&less, excluded))
			break;
		o = less;
	}
	ksft_print_msg("smallest that fails in two of three runs: %s\n", command(&o, excluded));
}

static unsigned long number(const char *arg, char option, unsigned long max)
{
	char *end;
	unsigned long value = strtoul(arg, &end, 0);

	if (*end || !*arg || !value || value > max) {
		fprintf(stderr, "-%c %s: must be from 1 to %lu\n", option, arg,
			max);
		exit(KSFT_FAIL);
	}
	return value;
}

static void exclude(char *list)
{
	for (char *name = strtok(list, ","); name; name = strtok(NULL, ",")) {
		size_t i;

		for (i = 0; kind_name(i); i++)
			if (!strcmp(kind_name(i), name))
				break;
		if (!kind_name(i)) {
			fprintf(stderr, "-x %s: there are %s\n", name,
				exclusions(-1ULL));
			exit(KSFT_FAIL);
		}
		excluded |= 1ULL << i;
	}
}

static void help(const char *self)
{
	printf("usage: %s [-s seed] [-t seconds | -n operations] [-p processes]\n"
	       "                     [-c operations] [-x kinds] [-k] [-S]\n"
	       "  -s  seed, from the time by default; prints it\n"
	       "  -t  how long to run, default 60 seconds\n"
	       "  -n  the same as a number of operations, of all processes\n"
	       "  -p  processes, up to %d, default 4, or 2 if a page is 64 KiB;\n"
	       "      their children not counted\n"
	       "  -c  operations from one checkpoint to the next, default 20000\n"
	       "  -x  kinds of operations to leave out, separated by commas, of\n"
	       "      %s\n"
	       "  -k  keep going when rmap misses a mapping, and count these\n"
	       "  -S  if it fails, try to make it smaller\n",
	       self, MAX_ROOTS, exclusions(-1ULL));
}

int main(int argc, char **argv)
{
	struct options o = {
		.seed = time(NULL), .seconds = 60, .every = 20000,
		/* Each has up to six children, and 128 MiB if a page is 64 KiB */
		.roots = psize() < 65536 ? 4 : 2,
	};
	const char *missing;
	int option, status;
	pid_t pid;

	while ((option = getopt(argc, argv, "s:t:n:p:c:x:kSh")) != -1) {
		switch (option) {
		case 's':
			o.seed = number(optarg, option, -1UL);
			break;
		case 't':
			o.seconds = number(optarg, option, 1000000);
			break;
		case 'n':
			o.ops = number(optarg, option, -1UL);
			break;
		case 'p':
			o.roots = number(optarg, option, MAX_ROOTS);
			break;
		case 'c':
			o.every = number(optarg, option, -1UL);
			break;
		case 'x':
			exclude(optarg);
			break;
		case 'k':
			only_count = true;
			break;
		case 'S':
			o.shrink = true;
			break;
		default:
			help(argv[0]);
			return option == 'h' ? KSFT_PASS : KSFT_FAIL;
		}
	}

	ksft_print_header();
	missing = ksm_rmap_missing();
	if (missing)
		ksft_exit_skip("%s\n", missing);
	if (access("/proc/kpagecount", R_OK))
		ksft_exit_skip("no /proc/kpagecount: needs CONFIG_PROC_PAGE_MONITOR\n");
	ksft_set_plan(1);
	ksm_knobs_save();
	ksm_knobs_reset();
	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_msg("%s\n", command(&o, excluded));

	/* In a process of its own, so that shrinking starts afresh */
	pid = fork();
	if (!pid) {
		status = soak(&o);
		if (status && o.shrink) {
			o.ops = shared->ops;
			ksm_knobs_reset();
			shrink(o);
		}
		_exit(status);
	}
	if (waitpid(pid, &status, 0) < 0 || status) {
		ksft_test_result_fail("replay with %s\n", command(&o, excluded));
		ksft_exit_fail();
	}
	ksft_test_result_pass("every byte right, every mapping found\n");
	ksft_finished();
}
