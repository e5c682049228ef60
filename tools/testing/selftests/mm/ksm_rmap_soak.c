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
#include <linux/mempolicy.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "vm_util.h"
#include "ksm_rmap_util.h"

#define NR_SLOTS	2048	/* pages of a process */
#define FILE_PAGES	(4 * NR_SLOTS)
#define MAX_RANGE	16	/* pages of an operation */
#define MAX_ROOTS	8
#define MAX_DEPTH	2	/* of children of children */
#define MAX_CHILDREN	2	/* of a process, at a time */
#define MAX_PROCS	(MAX_ROOTS * (1 + 2 + 4))
#define NR_TAGS		40	/* contents that are there often */

#define HUGE_SIZE	(2UL << 20)	/* bytes: a huge page, where there are such */

#define RECLAIM		"/sys/fs/cgroup/memory.reclaim"

/* Seconds: no operation takes that long, not on an emulated CPU either */
#define HANGS		300

/* A page of a process: whether it is mapped, and what is in it */
struct slot {
	bool mapped, readonly;
	bool freed;		/* MADV_FREE: may be zeroes by now */
	unsigned int file;	/* page of the file, from 1; 0 for anonymous */
	unsigned int tag;	/* fill_page()'s; 0 for zeroes */
	unsigned int mark;	/* word that is inverted; 0 for none */
};

enum state { FREE, RUNNING, PAUSED, EXITED };
enum command { NONE, CHECK, TOUCH, OFFLINE };

struct proc {
	enum state state;
	pid_t pid;
	int depth;		/* 0 for one that was not forked from another */
	uint64_t id;
	unsigned long n;	/* operations so far */
	enum command command;
	char *addr;
	int bell;		/* rung when it is to look at command, and stop */
};

static struct shared {
	bool stop, end, failed;
	char why[512];		/* the first of what was wrong */
	int bell;		/* rung when a process has paused or obeyed */
	unsigned long ops, procs;
	unsigned long done[64], refused[64];	/* by kind of operation */
	struct proc proc[MAX_PROCS];
} *shared;

static struct slot slots[NR_SLOTS];
static char *area;
static struct proc *self;
static int file_fd, zero_fd, idle_fd, flags_fd, count_fd;
static unsigned int children;
static uint64_t excluded;		/* kinds of operations, a bit each */
static bool only_count;			/* what rmap misses, and go on */

/* ------------------------------------------------------------------------- */

struct random {
	uint64_t state;
};

static uint64_t mix(uint64_t a, uint64_t b)
{
	uint64_t x = a * 0x9e3779b97f4a7c15ULL + b;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

/* Returns: 0 to @below - 1 */
static unsigned int pick(struct random *r, unsigned int below)
{
	r->state = mix(r->state, 1);
	return (r->state >> 32) % below;
}

/* Any process: say what is wrong, and let all of them come to an end */
static void __printf(1, 2) wrong(const char *format, ...)
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

static void ring(int bell)
{
	eventfd_write(bell, 1);
}

/*
 * Returns when @bell has been rung, or after 20 ms, for what rings none: a child
 * that exits, a process that dies
 */
static void sleep_until_rung(int bell)
{
	struct pollfd fd = { .fd = bell, .events = POLLIN };
	eventfd_t count;

	if (poll(&fd, 1, 20) > 0)
		eventfd_read(bell, &count);
}

static char *at(unsigned int slot)
{
	return area + slot * psize();
}

static unsigned int file_tag(unsigned int page)
{
	return page ? 1 + page % NR_TAGS : 0;
}

static unsigned long word_of(const struct slot *s, unsigned long i)
{
	const unsigned long word = s->tag ? s->tag * 0x10001UL + i : 0;

	return s->mark && s->mark == i ? ~word : word;
}

static void check(unsigned int slot)
{
	const struct slot *s = &slots[slot];
	const unsigned long *word = (const unsigned long *)at(slot);

	if (!s->mapped)
		return;
	if (s->freed && !word[0] && !memcmp(word, word + 1, psize() - sizeof(*word)))
		return;
	for (unsigned long i = 0; i < psize() / sizeof(*word); i++)
		if (word[i] != word_of(s, i))
			wrong("%p holds %#lx, and not %#lx", &word[i], word[i],
			      word_of(s, i));
}

/* Not where there is nothing but what keeps the place, which cannot be read */
static bool is_mapped(unsigned int slot)
{
	return !madvise(at(slot), psize(), MADV_POPULATE_READ);
}

/* After an operation that failed, and may have unmapped something before */
static void look_what_is_mapped(unsigned int first, unsigned int n)
{
	for (unsigned int i = first; i < first + n; i++)
		slots[i].mapped = is_mapped(i);
}

static void forget(unsigned int first, unsigned int n)
{
	for (unsigned int i = first; i < first + n; i++) {
		slots[i].tag = file_tag(slots[i].file);
		slots[i].mark = 0;
		slots[i].freed = false;
	}
}

/* Returns: how many of the @n slots from @first on are mapped, or are not */
static unsigned int run_of(unsigned int first, unsigned int n, bool mapped)
{
	unsigned int i;

	for (i = 0; i < n && first + i < NR_SLOTS; i++)
		if (slots[first + i].mapped != mapped)
			break;
	return i;
}

static bool advise(unsigned int first, unsigned int n, int advice)
{
	return !madvise(at(first), n * psize(), advice);
}

/* ---- what a process does: to @n mapped pages, from slot @first on --------- */

static bool make_writable(unsigned int first, unsigned int n)
{
	unsigned int i;

	for (i = first; i < first + n; i++)
		if (slots[i].readonly)
			break;
	if (i == first + n)
		return true;
	if (mprotect(at(first), n * psize(), PROT_READ | PROT_WRITE))
		return false;	/* too many VMAs */
	for (i = first; i < first + n; i++)
		slots[i].readonly = false;
	return true;
}

static bool op_write(struct random *r, unsigned int first, unsigned int n)
{
	if (!make_writable(first, n))
		return false;
	for (unsigned int i = first; i < first + n; i++) {
		const unsigned int kind = pick(r, 16);
		unsigned int tag = 1 + pick(r, NR_TAGS);

		if (!kind)
			tag = 0;
		else if (kind < 3)
			tag = 1000 + pick(r, 1 << 20);
		if (tag)
			fill_page(at(i), tag);
		else
			memset(at(i), 0, psize());
		slots[i].tag = tag;
		slots[i].mark = 0;
		slots[i].freed = false;
	}
	return true;
}

static bool op_mark(struct random *r, unsigned int first, unsigned int n)
{
	if (!make_writable(first, n))
		return false;
	for (unsigned int i = first; i < first + n; i++) {
		unsigned long *word = (unsigned long *)at(i);
		const unsigned int old = slots[i].mark;

		if (slots[i].freed)
			continue;
		slots[i].mark = 1 + pick(r, 3);
		word[slots[i].mark] = word_of(&slots[i], slots[i].mark);
		if (old)
			word[old] = word_of(&slots[i], old);
	}
	return true;
}

static bool op_read(struct random *r, unsigned int first, unsigned int n)
{
	for (unsigned int i = first; i < first + n; i++)
		check(i);
	return true;
}

static bool op_unmap(struct random *r, unsigned int first, unsigned int n)
{
	const bool done = !munmap(at(first), n * psize());

	look_what_is_mapped(first, n);
	return done;
}

static bool op_discard(struct random *r, unsigned int first, unsigned int n)
{
	if (madvise(at(first), n * psize(), MADV_DONTNEED))
		return false;
	forget(first, n);
	return true;
}

/* Its content is either what it was, or zeroes, until it is written to */
static bool op_free(struct random *r, unsigned int first, unsigned int n)
{
	for (unsigned int i = first; i < first + n; i++)
		if (slots[i].file || slots[i].readonly)
			return false;
	/* If it fails, it may have come half way */
	for (unsigned int i = first; i < first + n; i++)
		slots[i].freed = true;
	return advise(first, n, MADV_FREE);
}

static bool op_move(struct random *r, unsigned int first, unsigned int n)
{
	const unsigned int to = pick(r, NR_SLOTS - n + 1);
	bool done;

	if (to < first + n && first < to + n)
		return false;
	done = sys_mremap(at(first), n * psize(), n * psize(), MREMAP_MAYMOVE |
			  MREMAP_FIXED, at(to)) != MAP_FAILED;
	for (unsigned int i = 0; i < n; i++) {
		/* It may have come half way, one VMA after the other */
		if (done || (!is_mapped(first + i) && is_mapped(to + i))) {
			slots[to + i] = slots[first + i];
			slots[first + i].mapped = false;
		}
	}
	if (!done) {
		look_what_is_mapped(first, n);
		look_what_is_mapped(to, n);
	}
	return done;
}

static bool op_dontunmap(struct random *r, unsigned int first, unsigned int n)
{
	const unsigned int to = pick(r, NR_SLOTS);

	if (to == first)
		return false;
	if (sys_mremap(at(first), psize(), psize(), MREMAP_MAYMOVE |
		       MREMAP_FIXED | MREMAP_DONTUNMAP, at(to)) == MAP_FAILED) {
		look_what_is_mapped(to, 1);
		return false;
	}
	slots[to] = slots[first];
	forget(first, 1);
	return true;
}

/* Move the page itself by userfaultfd, to where it is missing */
static bool op_uffd_move(struct random *r, unsigned int first, unsigned int n)
{
	const unsigned int to = pick(r, NR_SLOTS);
	struct uffdio_register reg = {
		.range = { (uintptr_t)at(to), psize() },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	struct uffdio_move move = {
		.dst = (uintptr_t)at(to), .src = (uintptr_t)at(first),
		.len = psize(), .mode = UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES,
	};
	bool done = false;
	int fd;

	if (to == first || !slots[to].mapped || slots[to].file ||
	    slots[first].file || slots[to].readonly || slots[first].readonly)
		return false;
	fd = open_uffd(UFFD_FEATURE_MOVE);
	if (fd < 0)
		return false;
	if (!ioctl(fd, UFFDIO_REGISTER, &reg)) {
		if (!madvise(at(to), psize(), MADV_DONTNEED)) {
			forget(to, 1);
			done = !ioctl(fd, UFFDIO_MOVE, &move);
		}
		ioctl(fd, UFFDIO_UNREGISTER, &reg.range);
	}
	close(fd);
	if (done) {
		slots[to] = slots[first];
		forget(first, 1);
	}
	return done;
}

/* In place, from the last page before some that are not mapped */
static bool op_grow(struct random *r, unsigned int first, unsigned int n)
{
	const unsigned int last = first + run_of(first, NR_SLOTS, true) - 1;
	unsigned int more = run_of(last + 1, n, false);
	const struct slot *s = &slots[last];

	if (s->file && s->file + more > FILE_PAGES)
		more = 0;
	if (!more || sys_mremap(at(last), psize(), (1 + more) * psize(), 0,
				NULL) == MAP_FAILED)
		return false;
	for (unsigned int i = 1; i <= more; i++) {
		slots[last + i] = *s;
		slots[last + i].file = s->file ? s->file + i : 0;
	}
	forget(last + 1, more);
	return true;
}

static bool op_shrink(struct random *r, unsigned int first, unsigned int n)
{
	const unsigned int keep = 1 + pick(r, n);
	const bool done = sys_mremap(at(first), n * psize(), keep * psize(), 0,
				     NULL) != MAP_FAILED;

	look_what_is_mapped(first, n);
	return done;
}

static bool op_protect(struct random *r, unsigned int first, unsigned int n)
{
	const bool readonly = pick(r, 2);

	if (mprotect(at(first), n * psize(),
		     readonly ? PROT_READ : PROT_READ | PROT_WRITE)) {
		/* Which of them it got to is not known: make them alike */
		for (unsigned int i = first; i < first + n; i++)
			slots[i].readonly = true;
		return false;
	}
	for (unsigned int i = first; i < first + n; i++)
		slots[i].readonly = readonly;
	return true;
}

static bool op_unmergeable(struct random *r, unsigned int first, unsigned int n)
{
	return advise(first, n, MADV_UNMERGEABLE);
}

static bool op_mergeable(struct random *r, unsigned int first, unsigned int n)
{
	return advise(first, n, MADV_MERGEABLE);
}

static bool op_pageout(struct random *r, unsigned int first, unsigned int n)
{
	return advise(first, n, MADV_PAGEOUT);
}

static bool op_cold(struct random *r, unsigned int first, unsigned int n)
{
	return advise(first, n, MADV_COLD);
}

static bool op_migrate(struct random *r, unsigned int first, unsigned int n)
{
	const int node = pick(r, 2), how = pick(r, 2);
	int nodes[MAX_RANGE], status[MAX_RANGE];
	void *pages[MAX_RANGE];

	for (unsigned int i = 0; i < n; i++) {
		pages[i] = at(first + i);
		nodes[i] = node;
	}
	return syscall(__NR_move_pages, 0, (unsigned long)n, pages, nodes, status,
		       how ? MPOL_MF_MOVE_ALL : MPOL_MF_MOVE) >= 0;
}

static bool op_offline(struct random *r, unsigned int first, unsigned int n)
{
	const unsigned long pfn = pfn_of(getpid(), at(first));

	/* A page that cannot be put back is gone */
	if (!pfn || access(UNPOISON, W_OK) ||
	    madvise(at(first), psize(), MADV_SOFT_OFFLINE))
		return false;
	unpoison_memory(pfn);
	return true;
}

static void work(void);

static bool op_fork(struct random *r, unsigned int first, unsigned int n)
{
	const int depth = self->depth + 1;
	const uint64_t id = mix(self->id, self->n);
	struct proc *p = NULL;
	enum state free;
	pid_t pid;

	if (depth > MAX_DEPTH || children == MAX_CHILDREN)
		return false;
	for (int i = 0; i < MAX_PROCS; i++) {
		p = &shared->proc[i];
		free = FREE;
		/* From here on a checkpoint waits for it */
		if (__atomic_compare_exchange_n(&p->state, &free, RUNNING, false,
						__ATOMIC_SEQ_CST,
						__ATOMIC_SEQ_CST))
			break;
		p = NULL;
	}
	if (!p)
		return false;
	p->pid = 0;
	p->depth = depth;
	p->id = id;
	p->n = 0;
	p->command = NONE;
	pid = fork();
	if (pid < 0) {
		p->state = FREE;
		return false;
	}
	if (!pid) {
		self = p;
		work();
	}
	children++;
	return true;
}

static bool map(struct random *r, unsigned int first, unsigned int n)
{
	const unsigned int kind = pick(r, 8), any = 1 + pick(r, FILE_PAGES - n);
	/* Private /dev/zero is anonymous, but its offsets are those of a file */
	const unsigned int page = kind < 2 ? any : 0;
	const bool anon = kind > 2;
	char *p;

	p = mmap(at(first), n * psize(), PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_FIXED | (anon ? MAP_ANONYMOUS : 0),
		 page ? file_fd : anon ? -1 : zero_fd,
		 anon ? 0 : (off_t)(any - 1) * psize());
	if (p == MAP_FAILED) {
		look_what_is_mapped(first, n);
		return false;
	}
	for (unsigned int i = 0; i < n; i++)
		slots[first + i] = (struct slot) {
			.mapped = true,
			.file = page ? page + i : 0,
		};
	forget(first, n);
	return advise(first, n, MADV_MERGEABLE);
}

/* A huge page: some of its pages are equal to each other, and to others */
static bool op_huge(struct random *r, unsigned int first, unsigned int n)
{
	const unsigned int nr = HUGE_SIZE / psize();
	char *p;

	if (nr < 2 || nr > NR_SLOTS)
		return false;
	first -= first % nr;
	p = mmap(at(first), HUGE_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED) {
		look_what_is_mapped(first, nr);
		return false;
	}
	for (unsigned int i = first; i < first + nr; i++)
		slots[i] = (struct slot) { .mapped = true };
	if (madvise(p, HUGE_SIZE, MADV_HUGEPAGE))
		return false;
	/* One page is enough for all of it to be there, as zeroes */
	op_write(r, first + pick(r, nr), 1);
	for (unsigned int i = 0; i < 32; i++)
		op_write(r, first + pick(r, nr), 1);
	return advise(first, nr, MADV_MERGEABLE);
}

/* ---- what happens to all of them ------------------------------------------ */

static bool all_unmerge(struct random *r, unsigned int first, unsigned int n)
{
	write_num(KSM_SYSFS "run", 2);
	write_num(KSM_SYSFS "run", 1);
	return true;
}

static bool all_stop(struct random *r, unsigned int first, unsigned int n)
{
	write_num(KSM_SYSFS "run", 0);
	usleep(pick(r, 20000));
	write_num(KSM_SYSFS "run", 1);
	return true;
}

/* Returns: false if refused, as it is while there are KSM pages */
static bool set(const char *path, unsigned long value)
{
	char text[32];

	snprintf(text, sizeof(text), "%lu", value);
	return write_text(path, text);
}

/* These are refused as long as anything is merged */
static bool set_unmerged(const char *path, unsigned long value)
{
	bool done;

	write_num(KSM_SYSFS "run", 2);
	done = set(path, value);
	write_num(KSM_SYSFS "run", 1);
	return done;
}

static bool all_sharing(struct random *r, unsigned int first, unsigned int n)
{
	static const int values[] = { 2, 3, 8, 256 };

	return set_unmerged(KSM_SYSFS "max_page_sharing", values[pick(r, 4)]);
}

static bool all_nodes(struct random *r, unsigned int first, unsigned int n)
{
	return set_unmerged(KSM_SYSFS "merge_across_nodes", pick(r, 2));
}

static bool all_zero(struct random *r, unsigned int first, unsigned int n)
{
	return set(KSM_SYSFS "use_zero_pages", pick(r, 2));
}

static bool all_smart(struct random *r, unsigned int first, unsigned int n)
{
	return set(KSM_SYSFS "smart_scan", pick(r, 2));
}

static bool all_speed(struct random *r, unsigned int first, unsigned int n)
{
	static const int pages[] = { 100, 1000, 100000 }, ms[] = { 0, 1, 20 };

	return set(KSM_SYSFS "pages_to_scan", pages[pick(r, 3)]) &&
	       set(KSM_SYSFS "sleep_millisecs", ms[pick(r, 3)]);
}

static bool all_compact(struct random *r, unsigned int first, unsigned int n)
{
	return set(COMPACT_MEMORY, 1);
}

static bool all_drop(struct random *r, unsigned int first, unsigned int n)
{
	return set(DROP_CACHES, 1);
}

static bool all_reclaim(struct random *r, unsigned int first, unsigned int n)
{
	return set(RECLAIM, (1 + pick(r, 8)) << 20);
}

static bool all_swapoff(struct random *r, unsigned int first, unsigned int n)
{
	char line[256], path[256] = "";
	FILE *swaps = fopen("/proc/swaps", "r");
	bool done;

	while (swaps && fgets(line, sizeof(line), swaps))
		if (line[0] == '/')
			sscanf(line, "%255s", path);
	if (swaps)
		fclose(swaps);
	if (!path[0])
		return false;
	done = !swapoff(path);
	if (done && swapon(path, 0))
		wrong("swapon %s: %s", path, strerror(errno));
	return done;
}

/* Of ksmd's allocations: of rmap_items, of nodes, of pages for copies */
static bool all_fail(struct random *r, unsigned int first, unsigned int n)
{
	static const int percent[] = { 0, 1, 10, 30 };

	return ksmd_fails(percent[pick(r, ARRAY_SIZE(percent))], NULL);
}

static bool all_memory(struct random *r, unsigned int first, unsigned int n)
{
	return take_memory(pick(r, 64));
}

static const struct kind {
	const char *name;
	bool (*fn)(struct random *r, unsigned int first, unsigned int n);
	unsigned int weight;
	bool all;		/* done by the main process */
} kinds[] = {
	{ "write", op_write, 24 },
	{ "mark", op_mark, 8 },
	{ "read", op_read, 16 },
	{ "unmap", op_unmap, 4 },
	{ "discard", op_discard, 4 },
	{ "free", op_free, 4 },
	{ "move", op_move, 6 },
	{ "dontunmap", op_dontunmap, 3 },
	{ "uffd_move", op_uffd_move, 3 },
	{ "grow", op_grow, 3 },
	{ "shrink", op_shrink, 3 },
	{ "protect", op_protect, 8 },
	{ "unmergeable", op_unmergeable, 3 },
	{ "mergeable", op_mergeable, 4 },
	{ "pageout", op_pageout, 6 },
	{ "cold", op_cold, 2 },
	{ "migrate", op_migrate, 4 },
	{ "offline", op_offline, 1 },
	{ "fork", op_fork, 1 },
	{ "huge", op_huge, 1 },
	{ "unmerge", all_unmerge, 2, true },
	{ "stop", all_stop, 4, true },
	{ "sharing", all_sharing, 1, true },
	{ "nodes", all_nodes, 1, true },
	{ "zero", all_zero, 2, true },
	{ "smart", all_smart, 2, true },
	{ "speed", all_speed, 6, true },
	{ "compact", all_compact, 3, true },
	{ "drop", all_drop, 3, true },
	{ "reclaim", all_reclaim, 12, true },
	{ "swapoff", all_swapoff, 2, true },
	{ "fail", all_fail, 8, true },
	{ "memory", all_memory, 1, true },
};

static void operate(struct random *r, bool all, unsigned int first,
		    unsigned int n)
{
	unsigned int weight = 0, at, i;
	bool done;

	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		weight += kinds[i].all == all ? kinds[i].weight : 0;
	at = pick(r, weight);
	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (kinds[i].all != all)
			continue;
		if (at < kinds[i].weight)
			break;
		at -= kinds[i].weight;
	}
	if (excluded & (1ULL << i))
		return;
	done = kinds[i].fn(r, first, n);
	__atomic_add_fetch(done ? &shared->done[i] : &shared->refused[i], 1,
			   __ATOMIC_RELAXED);
}

/* ---- a process ------------------------------------------------------------ */

static void reap(void)
{
	pid_t pid;
	int status;

	for (;;) {
		pid = waitpid(-1, &status, WNOHANG);
		if (pid <= 0)
			return;
		children--;
		for (int i = 0; i < MAX_PROCS; i++) {
			struct proc *p = &shared->proc[i];

			if (p->pid != pid || p->state == FREE)
				continue;
			__atomic_store_n(&p->state, FREE, __ATOMIC_SEQ_CST);
			ring(shared->bell);
			if (status && !shared->failed)
				wrong("process %d (pid %d) died in operation %lu: %s %d",
				      i, pid, p->n,
				      WIFSIGNALED(status) ? "signal" : "status",
				      WIFSIGNALED(status) ? WTERMSIG(status) :
				      WEXITSTATUS(status));
		}
	}
}

static void pause_if_asked(void)
{
	if (!__atomic_load_n(&shared->stop, __ATOMIC_SEQ_CST))
		return;
	__atomic_store_n(&self->state, PAUSED, __ATOMIC_SEQ_CST);
	ring(shared->bell);
	while (__atomic_load_n(&shared->stop, __ATOMIC_SEQ_CST)) {
		reap();
		switch (__atomic_load_n(&self->command, __ATOMIC_SEQ_CST)) {
		case CHECK:
			for (unsigned int i = 0; i < NR_SLOTS; i++)
				check(i);
			break;
		case TOUCH:
			flush_tlb();
			FORCE_READ(*self->addr);
			break;
		case OFFLINE:
			madvise(self->addr, psize(), MADV_SOFT_OFFLINE);
			break;
		case NONE:
			sleep_until_rung(self->bell);
			continue;
		}
		__atomic_store_n(&self->command, NONE, __ATOMIC_SEQ_CST);
		ring(shared->bell);
	}
	__atomic_store_n(&self->state, RUNNING, __ATOMIC_SEQ_CST);
}

static void work(void)
{
	struct random r = { self->id };
	const unsigned long life = self->depth ? 200 + pick(&r, 2000) : -1UL;

	self->pid = getpid();
	children = 0;
	__atomic_add_fetch(&shared->procs, 1, __ATOMIC_RELAXED);
	while (!shared->end && self->n < life) {
		unsigned int first, n, found;

		pause_if_asked();
		reap();
		r.state = mix(self->id, ++self->n);
		first = pick(&r, NR_SLOTS);
		n = 1 + pick(&r, MAX_RANGE);
		found = run_of(first, n, true);
		if (found)
			operate(&r, false, first, found);
		else
			map(&r, first, run_of(first, n, false));
		__atomic_add_fetch(&shared->ops, 1, __ATOMIC_RELAXED);
	}
	while (children) {
		pause_if_asked();
		reap();
		usleep(1000);
	}
	__atomic_store_n(&self->state, EXITED, __ATOMIC_SEQ_CST);
	_exit(0);
}

static void start(unsigned int root, uint64_t seed)
{
	struct proc *p = &shared->proc[root];
	pid_t pid;

	p->state = RUNNING;
	p->id = mix(seed, root + 1);
	pid = fork();
	if (pid < 0)
		ksft_exit_fail_perror("fork");
	if (!pid) {
		self = p;
		work();
	}
	p->pid = pid;
	children++;
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
				    (uintptr_t)area / psize() * sizeof(*pagemap)) !=
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
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (set & (1ULL << i)) {
			strcat(text, text[0] ? "," : "");
			strcat(text, kinds[i].name);
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
	char *page;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	entries = malloc(sizeof(*entries) * MAX_PROCS * NR_SLOTS);
	/* Not mapped yet when the processes are forked: no family of them all */
	area = mmap(NULL, NR_SLOTS * psize() + HUGE_SIZE, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area != MAP_FAILED)
		area += -(uintptr_t)area % HUGE_SIZE;
	page = malloc(psize());
	zero_fd = open("/dev/zero", O_RDWR);
	file_fd = memfd_create("ksm_rmap_soak", 0);
	idle_fd = idle_open();
	flags_fd = open("/proc/kpageflags", O_RDONLY);
	count_fd = open("/proc/kpagecount", O_RDONLY);
	if (shared == MAP_FAILED || !entries || area == MAP_FAILED || !page ||
	    file_fd < 0 || zero_fd < 0 || idle_fd < 0 || flags_fd < 0 || count_fd < 0)
		ksft_exit_fail_perror("set up");
	for (unsigned int i = 1; i <= FILE_PAGES; i++) {
		fill_page(page, file_tag(i));
		if (write(file_fd, page, psize()) != (ssize_t)psize())
			ksft_exit_fail_perror("write");
	}
	free(page);
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
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		ksft_print_msg("%-12s %8lu done %8lu not possible\n", kinds[i].name,
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
		operate(&r, true, 0, 0);
		usleep(pick(&r, 20000));
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
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
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

		for (i = 0; i < ARRAY_SIZE(kinds); i++)
			if (!strcmp(kinds[i].name, name))
				break;
		if (i == ARRAY_SIZE(kinds)) {
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
	       "  -p  processes, up to %d, default 4; their children not counted\n"
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
		.seed = time(NULL), .seconds = 60, .roots = 4, .every = 20000,
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
