// SPDX-License-Identifier: GPL-2.0
/*
 * What a process of ksm_rmap_soak does at random to its pages, and the main process
 * to all of them.
 *
 * A process keeps a model of its pages: which are mapped, and what is in them.  An
 * operation changes both the pages and the model.
 */
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "vm_util.h"
#include "ksm_rmap_util.h"
#include "ksm_rmap_soak.h"

#define MAX_RANGE	16	/* pages of an operation */
#define NR_TAGS		40	/* contents that are there often */

/* Bytes: a huge page, of the CPU's own or of a size that can be switched on */
#define HUGE_SIZE	(2UL << 20)

#define RECLAIM		"/sys/fs/cgroup/memory.reclaim"

/* A page of a process: whether it is mapped, and what is in it */
struct slot {
	bool mapped, readonly;
	bool freed;		/* MADV_FREE: may be zeroes by now */
	unsigned int file;	/* page of the file, from 1; 0 for anonymous */
	unsigned int tag;	/* fill_page()'s; 0 for zeroes */
	unsigned int mark;	/* word that is inverted; 0 for none */
};

struct proc *self;
uint64_t excluded;
static struct slot slots[NR_SLOTS];
static char *area;
static int file_fd, zero_fd;
static unsigned int file_pages;	/* 4 * NR_SLOTS, or less where these are large */
static unsigned int children;

uint64_t mix(uint64_t a, uint64_t b)
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

char *at(unsigned int slot)
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

	if (s->file && s->file + more > file_pages)
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
	const unsigned int kind = pick(r, 8), any = 1 + pick(r, file_pages - n);
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

const char *kind_name(size_t kind)
{
	return kind < ARRAY_SIZE(kinds) ? kinds[kind].name : NULL;
}

void disturb(struct random *r)
{
	operate(r, true, 0, 0);
	usleep(pick(r, 20000));
}

/* ---- a process ------------------------------------------------------------ */

void reap(void)
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

void set_up_slots(void)
{
	char *page = malloc(psize());

	file_pages = (4 * NR_SLOTS << 12) / psize();
	/* Not mapped yet when the processes are forked: no family of them all */
	area = mmap(NULL, NR_SLOTS * psize() + HUGE_SIZE, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area != MAP_FAILED)
		area += -(uintptr_t)area % HUGE_SIZE;
	zero_fd = open("/dev/zero", O_RDWR);
	file_fd = memfd_create("ksm_rmap_soak", 0);
	if (area == MAP_FAILED || !page || file_fd < 0 || zero_fd < 0)
		ksft_exit_fail_perror("set up");
	for (unsigned int i = 1; i <= file_pages; i++) {
		fill_page(page, file_tag(i));
		if (write(file_fd, page, psize()) != (ssize_t)psize())
			ksft_exit_fail_perror("write");
	}
	free(page);
}

void start(unsigned int root, uint64_t seed)
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
