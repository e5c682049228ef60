// SPDX-License-Identifier: GPL-2.0
/*
 * What the tests of KSM's reverse mapping do to KSM pages, and what they check.
 */
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vm_util.h"
#include "ksm_rmap_util.h"
#include "ksm_rmap_peers.h"
#include "ksm_rmap_checks.h"

static int idle_bitmap(void)
{
	static int fd = -1;

	if (fd < 0)
		fd = idle_open();
	return fd;
}

/* ---- memory of the test itself ---- */

/**
 * new_area() - map mergeable memory, see map_area()
 * @nr: pages, which get contents 100, 101 and so on
 *
 * Return: the memory.  Exits if there is none.
 */
char *new_area(size_t nr)
{
	char *area = map_area(nr);

	if (!area)
		ksft_exit_fail_perror("map_area");
	for (size_t i = 0; i < nr; i++)
		fill_page(area + i * psize(), 100 + i);
	return area;
}

/**
 * new_file_area() - map a file of its own privately, mergeable
 * @nr: pages
 * @offset: of the first one in the file, in pages
 *
 * Return: the memory.  Exits if there is none.
 */
char *new_file_area(size_t nr, uint64_t offset)
{
	const int fd = memfd_create("ksm_rmap", 0);
	char *area;

	if (fd < 0 || ftruncate(fd, (offset + nr) * psize()))
		ksft_exit_fail_perror("memfd");
	area = mmap(NULL, nr * psize(), PROT_READ | PROT_WRITE, MAP_PRIVATE,
		    fd, offset * psize());
	if (area == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	close(fd);
	madvise(area, nr * psize(), MADV_NOHUGEPAGE);
	if (madvise(area, nr * psize(), MADV_MERGEABLE))
		ksft_exit_fail_perror("MADV_MERGEABLE");
	return area;
}

/**
 * move_area() - move memory to another place
 * @area: address of the first page
 * @nr: pages
 * @to: gets the new address
 *
 *  area: | 100 | 101 |  1  | 103 |   --->   to: | 100 | 101 |  1  | 103 |
 *
 * From then on its addresses and offsets have nothing to do with each other.
 *
 * Return: what has gone wrong, or NULL.
 */
const char *move_area(char *area, size_t nr, char **to)
{
	*to = map_area(nr);
	if (*to && sys_mremap(area, nr * psize(), nr * psize(),
			      MREMAP_MAYMOVE | MREMAP_FIXED, *to) == *to)
		return NULL;
	return wrong("mremap: %s", strerror(errno));
}

static void *keep_changing(void *arg)
{
	struct changer *changer = arg;
	pid_t pid;

	while (!__atomic_load_n(&changer->stop, __ATOMIC_RELAXED)) {
		for (int i = 0; i < 50; i++) {
			mprotect(changer->page, psize(), PROT_READ);
			mprotect(changer->page, psize(), PROT_READ | PROT_WRITE);
		}
		pid = fork();
		if (!pid)
			_exit(0);
		waitpid(pid, NULL, 0);
		changer->forks++;
	}
	return NULL;
}

/**
 * change_vmas() - start to change a VMA of the test, and to fork, all the time
 * @changer: the thread that does, and its page
 *
 * Return: what has gone wrong, or NULL.
 */
const char *change_vmas(struct changer *changer)
{
	int error;

	changer->stop = false;
	error = pthread_create(&changer->thread, NULL, keep_changing, changer);
	return error ? wrong("pthread_create: %s", strerror(error)) : NULL;
}

/**
 * stop_changing() - stop what change_vmas() has started
 * @changer: the thread
 *
 * Return: what has gone wrong, or NULL.
 */
const char *stop_changing(struct changer *changer)
{
	int error;

	__atomic_store_n(&changer->stop, true, __ATOMIC_RELAXED);
	error = pthread_join(changer->thread, NULL);
	return error ? wrong("pthread_join: %s", strerror(error)) : NULL;
}

/* ---- KSM pages ---- */

/**
 * pfn_at() - where is the page of a mapping?
 * @m: the mapping
 *
 * Return: its page frame number; 0 if it is not present.
 */
unsigned long pfn_at(const struct mapping *m)
{
	return pfn_of(peer_pid(m->peer), m->addr);
}

/**
 * are_merged() - do mappings all map one and the same KSM page?
 * @m: the mappings
 * @n: how many
 *
 * Return: whether they do.
 */
bool are_merged(const struct mapping *m, int n)
{
	unsigned long pfn = pfn_at(&m[0]);

	for (int i = 1; i < n; i++)
		if (pfn_at(&m[i]) != pfn)
			return false;
	return pfn && pfn_is_ksm(pfn);
}

/**
 * merge() - have ksmd merge pages
 * @m: mappings of pages with equal contents
 * @n: how many
 *
 * Once ksmd has looked at them three times it should be done; but it may find some
 * page busy, or skip it.
 *
 * Return: what has gone wrong, or NULL.
 */
const char *merge(const struct mapping *m, int n)
{
	int scans = 0;

	for (; !are_merged(m, n) && scans < 30; scans += 3)
		if (!ksm_scan(3))
			return "ksmd does not complete its scans";
	return are_merged(m, n) ? NULL : wrong("not merged after %d scans", scans);
}

/**
 * merge_in_place() - have a page become a KSM page where it is
 * @shared: a mapping of it
 * @tag: its content
 * @other: gets the address of the page that it is merged with; may be NULL
 *
 * Of two equal pages, that is the one which ksmd scans last.
 *
 * Return: what has gone wrong, or NULL.
 */
const char *merge_in_place(const struct mapping *shared, unsigned long tag, char **other)
{
	const unsigned long pfn = pfn_at(shared);
	struct mapping m[] = { *shared, *shared };
	const char *why = map_by(shared->peer, 1, tag, &m[1].addr);

	if (why)
		return why;
	/* Areas are mapped downwards, and scanned upwards */
	if (m[1].addr >= shared->addr)
		return wrong("%p is above %p", m[1].addr, shared->addr);
	why = merge(m, 2);
	if (why)
		return why;
	if (pfn_at(shared) != pfn)
		return "the other page has become the KSM page";
	if (other)
		*other = m[1].addr;
	return NULL;
}

/**
 * scan_partly() - have ksmd begin another scan, and stop it after some of it
 * @pages: how many it is to scan at least; less than there are
 *
 * Sets pages_to_scan and sleep_millisecs.
 *
 * Return: what has gone wrong, or NULL.
 */
const char *scan_partly(int pages)
{
	const long scans = ksm_get_full_scans();
	long before, now = 0;

	write_num(KSM_SYSFS "pages_to_scan", 1);
	write_num(KSM_SYSFS "sleep_millisecs", 20);
	before = ksm_counter("pages_scanned");
	write_num(KSM_SYSFS "run", 1);
	for (int ms = 10000; ms; ms--) {
		now = ksm_counter("pages_scanned");
		if (now >= before + pages)
			break;
		usleep(1000);
	}
	write_num(KSM_SYSFS "run", 0);
	if (ksm_get_full_scans() != scans)
		return "ksmd has completed the scan";
	if (now < before + pages)
		return wrong("ksmd has scanned %ld pages, not %d", now - before, pages);
	write_num(KSM_SYSFS "pages_to_scan", 100000);
	write_num(KSM_SYSFS "sleep_millisecs", 0);
	return NULL;
}

struct mappings {
	const struct mapping *m;
	int n;
};

static size_t count_swapped(const void *arg)
{
	const struct mappings *all = arg;
	size_t out = 0;

	for (int i = 0; i < all->n; i++)
		out += !!(pagemap_of(peer_pid(all->m[i].peer), all->m[i].addr) &
			  PM_SWAP);
	return out;
}

/**
 * swap_out() - swap out what mappings map, see swap_out_all()
 * @cgroup: the cgroup that it is charged to
 * @m: the mappings
 * @n: how many
 *
 * Return: how many are swapped out.
 */
int swap_out(const char *cgroup, const struct mapping *m, int n)
{
	const struct mappings all = { m, n };

	return swap_out_all(cgroup, n, count_swapped, &all);
}

/* ---- checks ---- */

/**
 * walk_time() - how long does one rmap walk of a page take?
 * @pfn: page frame number
 *
 * Return: nanoseconds, with the system call; the least of 200 walks.
 */
unsigned long walk_time(unsigned long pfn)
{
	unsigned long ns, least = -1UL;
	const int fd = idle_bitmap();
	struct timespec a, b;

	for (int i = 0; i < 200; i++) {
		clock_gettime(CLOCK_MONOTONIC, &a);
		idle_set(fd, pfn);
		clock_gettime(CLOCK_MONOTONIC, &b);
		ns = (b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec;
		least = ns < least ? ns : least;
	}
	return least;
}

struct toucher {
	const struct mapping *m;
	const char *why;	/* it could not */
};

static bool touch(void *arg)
{
	struct toucher *t = arg;

	t->why = ask(t->m->peer, OP_TOUCH, t->m->addr, 0);
	return !t->why;
}

/**
 * check_walk() - does the rmap walk of a page find one of its mappings?
 * @pfn: page frame number
 * @m: the mapping
 *
 * Return: what is wrong, or NULL.
 */
const char *check_walk(unsigned long pfn, const struct mapping *m)
{
	struct toucher toucher = { m };

	switch (walk_finds(idle_bitmap(), pfn, touch, &toucher, WALK_TRIES)) {
	case WALK_FOUND:
		return NULL;
	case WALK_MISSED:
		return wrong("rmap misses a mapping: pfn %#lx at %p of pid %d",
			     pfn, m->addr, peer_pid(m->peer));
	default:
		return toucher.why ?:
		       wrong("pfn %#lx does not stay idle untouched, flags %#llx",
			     pfn, (unsigned long long)kpageflags_of(pfn));
	}
}

/**
 * check_found() - the central assertion
 * @m: mappings
 * @n: how many
 * @tag: content of what they map
 *
 * All of them map one KSM page, its content is right through each of them, and the
 * walk finds each of them.
 *
 * Return: what is wrong, or NULL.
 */
const char *check_found(const struct mapping *m, int n, unsigned long tag)
{
	unsigned long pfn = pfn_at(&m[0]);

	if (!are_merged(m, n))
		return wrong("%d mappings are not of one KSM page", n);
	for (int i = 0; i < n; i++) {
		const char *why = check_holds(m[i].peer, m[i].addr, tag) ?:
				  check_walk(pfn, &m[i]);

		if (why)
			return why;
	}
	/* The walk must not have changed what is mapped */
	if (!are_merged(m, n))
		return wrong("%d mappings are not of one KSM page after the walks", n);
	return NULL;
}

/**
 * check_found_or_copied() - if a mapping is of a KSM page, the walk finds it
 * @m: the mapping
 * @tag: content of what it maps, in any case
 *
 * Return: what is wrong, or NULL.
 */
const char *check_found_or_copied(const struct mapping *m, unsigned long tag)
{
	const unsigned long pfn = pfn_at(m);
	const char *why;

	if (!pfn)
		return wrong("nothing is present at %p of peer %d", m->addr, m->peer);
	why = check_holds(m->peer, m->addr, tag);
	if (why || !pfn_is_ksm(pfn))
		return why;
	return check_walk(pfn, m);
}

/**
 * check_unmerged() - has a peer a page of its own, and no KSM page?
 * @peer: 0 to MAX_PEERS
 * @addr: address in it
 * @tag: content of the page
 *
 * Return: what is wrong, or NULL.
 */
const char *check_unmerged(int peer, char *addr, unsigned long tag)
{
	const struct mapping m = { peer, addr };
	const char *why = check_holds(peer, addr, tag);

	if (why)
		return why;
	if (!pfn_at(&m))
		return wrong("nothing is present at %p of peer %d", addr, peer);
	if (pfn_is_ksm(pfn_at(&m)))
		return wrong("a KSM page is at %p of peer %d", addr, peer);
	return NULL;
}

/**
 * check_vma() - does a VMA of the test start and end where it should?
 * @addr: address in it
 * @start: its first address
 * @end: the address after its last
 *
 * A split, merge or growth that did not happen would test nothing.
 *
 * Return: what is wrong, or NULL.
 */
const char *check_vma(const char *addr, const char *start, const char *end)
{
	struct procmap_fd procmap;
	const char *from, *to;
	bool found;

	if (open_self_procmap(&procmap))
		return "/proc/self/maps cannot be opened";
	found = find_vma_procmap(&procmap, (void *)addr);
	close_procmap(&procmap);
	if (!found)
		return wrong("there is no VMA at %p", addr);
	from = (const char *)(uintptr_t)procmap.query.vma_start;
	to = (const char *)(uintptr_t)procmap.query.vma_end;
	if (from == start && to == end)
		return NULL;
	return wrong("the VMA at %p is %p to %p, not %p to %p", addr, from, to,
		     start, end);
}
