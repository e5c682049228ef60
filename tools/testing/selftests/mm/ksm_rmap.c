// SPDX-License-Identifier: GPL-2.0
/*
 * Does the rmap walk of a KSM page find every mapping of it?
 *
 * A mapping that the walk misses is not noticed at once: contents stay right.
 * But its page can never again be swapped out, migrated or taken offline.
 *
 * So ask the walk itself, through idle page tracking: mark the page idle, touch
 * it through one mapping, and see whether it still counts as idle.  It does so
 * only if the walk has not found that mapping.  Repeat for each mapping.
 *
 * These are the promises of rmap, however it keeps them: the tests pass on
 * kernels with and without an index in struct ksm_rmap_item.
 */
#include "kselftest_harness.h"
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "ksm_rmap.h"

#define MAX_PEERS	64
#define NR_UNRELATED	800	/* VMAs */

/* Seconds: a limit for what takes some on an emulated CPU, if that is shared */
#define SLOW		150

/*
 * Test processes other than the test itself, which is peer 0: each obeys the
 * test through a socket pair that was there before the first of them was forked,
 * so a peer can have a peer forked from itself.
 */
static struct peer {
	pid_t pid;
	int sock[2];	/* the test's end, the peer's end */
} peers[MAX_PEERS + 1];

enum op {
	OP_MAP,		/* map @nr pages, fill them with @arg, @arg + 1, ... */
	OP_FILL,	/* write content @arg to the page at @addr */
	OP_HOLDS,	/* does the page at @addr hold content @arg? */
	OP_TOUCH,	/* access the page at @addr, accessed bit included */
	OP_UNMAP,	/* munmap the page at @addr */
	OP_FORK,	/* fork peer @arg */
	OP_EXPECT_SIGBUS,	/* ask for an early warning of memory failure */
	OP_SIGBUS_ADDR,	/* address of that warning, 0 for none so far */
	OP_EXIT,
};

struct request {
	enum op op;
	char *addr;
	unsigned long arg;
	size_t nr;
};

struct mapping {
	int peer;
	char *addr;
};

static int idle_fd;
static unsigned long sigbus_addr;

static unsigned long obey(const struct request *req);

static void serve(int self)
{
	unsigned long reply;
	struct request req;

	/* A peer must see the test's end of its socket close when the test dies */
	for (int i = 1; i <= MAX_PEERS; i++)
		close(peers[i].sock[0]);
	while (recv(peers[self].sock[1], &req, sizeof(req), 0) == sizeof(req)) {
		if (req.op == OP_EXIT)
			break;
		reply = obey(&req);
		if (send(peers[self].sock[1], &reply, sizeof(reply), 0) < 0)
			break;
	}
	_exit(0);
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	__atomic_store_n(&sigbus_addr, (unsigned long)info->si_addr,
			 __ATOMIC_RELAXED);
}

static unsigned long obey(const struct request *req)
{
	struct sigaction action = {
		.sa_sigaction = on_sigbus,
		.sa_flags = SA_SIGINFO | SA_RESTART,
	};
	char *p;
	pid_t pid;

	switch (req->op) {
	case OP_MAP:
		p = map_area(req->nr);
		for (size_t i = 0; p && i < req->nr; i++)
			fill_page(p + i * psize(), req->arg + i);
		return (unsigned long)p;
	case OP_FILL:
		fill_page(req->addr, req->arg);
		return 0;
	case OP_HOLDS:
		return page_holds(req->addr, req->arg);
	case OP_TOUCH:
		flush_tlb();
		FORCE_READ(*req->addr);
		return 0;
	case OP_UNMAP:
		return munmap(req->addr, psize());
	case OP_FORK:
		pid = fork();
		if (!pid)
			serve(req->arg);
		return pid;
	case OP_EXPECT_SIGBUS:
		if (sigaction(SIGBUS, &action, NULL))
			return errno;
		return prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY,
			     0, 0) ? errno : 0;
	case OP_SIGBUS_ADDR:
		return __atomic_load_n(&sigbus_addr, __ATOMIC_RELAXED);
	default:
		return -1;
	}
}

static unsigned long __ask(struct __test_metadata *_metadata, int peer,
			   enum op op, char *addr, unsigned long arg, size_t nr)
{
	struct request req = { op, addr, arg, nr };
	unsigned long reply = 0;

	if (!peer)
		return obey(&req);
	ASSERT_EQ(sizeof(req), send(peers[peer].sock[0], &req, sizeof(req),
				    MSG_NOSIGNAL));
	if (op == OP_EXIT)
		return 0;
	ASSERT_EQ(sizeof(reply), recv(peers[peer].sock[0], &reply,
				      sizeof(reply), 0)) {
		TH_LOG("no answer from peer %d (pid %d)", peer, peers[peer].pid);
	}
	return reply;
}

#define ask(peer, op, addr, arg) __ask(_metadata, peer, op, addr, arg, 0)

/* Returns: where @peer has mapped @nr pages with contents @tag, @tag + 1, ... */
static char *__map_by(struct __test_metadata *_metadata, int peer, size_t nr,
		      unsigned long tag)
{
	char *area = (char *)__ask(_metadata, peer, OP_MAP, NULL, tag, nr);

	ASSERT_NE(NULL, area);
	return area;
}

#define map_by(peer, nr, tag) __map_by(_metadata, peer, nr, tag)

/* Fork peer @child from peer @parent */
static void __fork_peer(struct __test_metadata *_metadata, int child,
			int parent)
{
	pid_t pid = ask(parent, OP_FORK, NULL, child);

	ASSERT_LT(0, pid);
	peers[child].pid = pid;
}

#define fork_peer(child, parent) __fork_peer(_metadata, child, parent)

/* Have @peer, a child of the test, exit */
static void __exit_peer(struct __test_metadata *_metadata, int peer)
{
	ask(peer, OP_EXIT, NULL, 0);
	ASSERT_EQ(peers[peer].pid, waitpid(peers[peer].pid, NULL, 0));
}

#define exit_peer(peer) __exit_peer(_metadata, peer)

static unsigned long pfn_at(const struct mapping *m)
{
	return pfn_of(peers[m->peer].pid, m->addr);
}

/* Do all of the @n mappings map one and the same KSM page? */
static bool are_merged(const struct mapping *m, int n)
{
	unsigned long pfn = pfn_at(&m[0]);

	for (int i = 1; i < n; i++)
		if (pfn_at(&m[i]) != pfn)
			return false;
	return pfn && pfn_is_ksm(pfn);
}

/*
 * Have ksmd merge the pages at all of @m.  Once it has looked at them three
 * times it should be done; but it may find some page busy, or skip it.
 */
static void __merge(struct __test_metadata *_metadata, const struct mapping *m,
		    int n)
{
	int scans = 0;

	for (; !are_merged(m, n) && scans < 30; scans += 3)
		ASSERT_TRUE(ksm_scan(3));
	ASSERT_TRUE(are_merged(m, n)) {
		TH_LOG("not merged after %d scans", scans);
	}
}

#define merge(m) ({							\
	__auto_type __m = &(m);						\
									\
	__merge(_metadata, *__m, ARRAY_SIZE(*__m));			\
})

enum found { FOUND, MISSED, NO_ORACLE };

static enum found walk_finds(struct __test_metadata *_metadata,
			     unsigned long pfn, const struct mapping *m)
{
	enum found ret = NO_ORACLE;

	for (int tries = 0; tries < 6; tries++) {
		if (tries) {
			/*
			 * The page was locked, and not walked; or it was not
			 * on the LRU, but in a batch on its way there.  What
			 * drains these batches is dropping the page cache.
			 */
			write_num("/proc/sys/vm/drop_caches", 1);
			usleep(1000 << tries);
		}
		if (!idle_set(idle_fd, pfn))
			continue;
		/* The control: what nobody touches stays idle */
		if (!idle_get(idle_fd, pfn))
			continue;
		ask(m->peer, OP_TOUCH, m->addr, 0);
		if (!idle_get(idle_fd, pfn))
			return FOUND;
		ret = MISSED;
	}
	return ret;
}

/*
 * The central assertion: all @n mappings map one KSM page, its content is that
 * of @tag through each of them, and the walk finds each of them.
 */
static void __assert_found(struct __test_metadata *_metadata,
			   const struct mapping *m, int n, unsigned long tag)
{
	unsigned long pfn = pfn_at(&m[0]);

	ASSERT_TRUE(are_merged(m, n));
	for (int i = 0; i < n; i++) {
		ASSERT_TRUE(ask(m[i].peer, OP_HOLDS, m[i].addr, tag));
		switch (walk_finds(_metadata, pfn, &m[i])) {
		case FOUND:
			break;
		case MISSED:
			ASSERT_TRUE(false) {
				TH_LOG("rmap misses mapping %d of %d: pfn %#lx at %p of pid %d",
				       i + 1, n, pfn, m[i].addr,
				       peers[m[i].peer].pid);
			}
			break;
		case NO_ORACLE:
			ASSERT_TRUE(false) {
				TH_LOG("pfn %#lx does not stay idle untouched",
				       pfn);
			}
		}
	}
	/* The walk must not have changed what is mapped */
	ASSERT_TRUE(are_merged(m, n));
}

#define assert_found(m, tag) ({						\
	__auto_type __m = &(m);						\
									\
	__assert_found(_metadata, *__m, ARRAY_SIZE(*__m), tag);		\
})

/* The page at @addr of @peer is its own, and not a KSM page, with content @tag */
static void __assert_unmerged(struct __test_metadata *_metadata, int peer,
			      char *addr, unsigned long tag)
{
	const struct mapping m = { peer, addr };

	ASSERT_TRUE(ask(peer, OP_HOLDS, addr, tag));
	ASSERT_NE(0, pfn_at(&m));
	ASSERT_FALSE(pfn_is_ksm(pfn_at(&m)));
}

#define assert_unmerged(peer, addr, tag) \
	__assert_unmerged(_metadata, peer, addr, tag)

/* Where the vma that contains @addr starts and ends */
static void __vma_bounds(struct __test_metadata *_metadata, char *addr,
			 char **start, char **end)
{
	unsigned long from, to;
	char line[512];
	FILE *maps = fopen("/proc/self/maps", "r");

	ASSERT_NE(NULL, maps);
	*start = NULL;
	while (fgets(line, sizeof(line), maps))
		if (sscanf(line, "%lx-%lx", &from, &to) == 2 &&
		    from <= (unsigned long)addr && (unsigned long)addr < to) {
			*start = (char *)from;
			*end = (char *)to;
		}
	fclose(maps);
	ASSERT_NE(NULL, *start);
}

/* A split, merge or growth that did not happen would test nothing */
#define assert_vma(addr, from, to) do {					\
	char *__start, *__end;						\
									\
	__vma_bounds(_metadata, addr, &__start, &__end);		\
	ASSERT_EQ((void *)(from), (void *)__start);			\
	ASSERT_EQ((void *)(to), (void *)__end);				\
} while (0)

FIXTURE(ksm_rmap)
{
	size_t page;	/* bytes */
	char *one;	/* a page on its own, content 1, in every test */
};

FIXTURE_SETUP(ksm_rmap)
{
	const char *missing = ksm_rmap_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ksm_knobs_reset();
	self->page = psize();
	idle_fd = idle_open();
	ASSERT_LE(0, idle_fd);
	flush_tlb();	/* maps its memory now, not below a stack later */
	for (int i = 1; i <= MAX_PEERS; i++) {
		const struct timeval timeout = { .tv_sec = 10 };

		ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0,
					peers[i].sock));
		ASSERT_EQ(0, setsockopt(peers[i].sock[0], SOL_SOCKET,
					SO_RCVTIMEO, &timeout,
					sizeof(timeout)));
	}
	peers[0].pid = getpid();
	self->one = map_area(1);
	ASSERT_NE(NULL, self->one);
	fill_page(self->one, 1);
}

/* Peers exit when they see the test's end of their sockets close */
FIXTURE_TEARDOWN(ksm_rmap)
{
	for (int i = 1; i <= MAX_PEERS; i++)
		close(peers[i].sock[0]);
}

/* A new area of @nr pages, with contents 100, 101 and so on */
static char *__new_area(struct __test_metadata *_metadata, size_t nr)
{
	char *area = map_area(nr);

	ASSERT_NE(NULL, area);
	for (size_t i = 0; i < nr; i++)
		fill_page(area + i * psize(), 100 + i);
	return area;
}

#define new_area(nr) __new_area(_metadata, nr)

/*
 *   merge
 */

TEST_F(ksm_rmap, merge_two_pages)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) } };

	fill_page(m[1].addr, 1);
	merge(m);
	assert_found(m, 1);
	EXPECT_EQ(2, ksm_get_self_merging_pages());
}

TEST_F_TIMEOUT(ksm_rmap, merge_256_sharers_in_one_anon_vma, SLOW)
{
	struct mapping m[256];
	char *area = new_area(ARRAY_SIZE(m));

	for (size_t i = 0; i < ARRAY_SIZE(m); i++) {
		m[i] = (struct mapping){ 0, area + i * self->page };
		fill_page(m[i].addr, 2);
	}
	merge(m);
	assert_found(m, 2);
	EXPECT_EQ(ARRAY_SIZE(m), ksm_get_self_merging_pages());
}

TEST_F_TIMEOUT(ksm_rmap, merge_one_sharer_in_each_of_many_processes, SLOW)
{
	struct mapping m[MAX_PEERS + 1] = { { 0, self->one } };

	for (int i = 1; i <= MAX_PEERS; i++) {
		fork_peer(i, 0);
		/* What it has from the test would make it two */
		ASSERT_EQ(0, ask(i, OP_UNMAP, self->one, 0));
		m[i].peer = i;
		m[i].addr = map_by(i, 1, 1);
	}
	merge(m);
	assert_found(m, 1);
}

TEST_F_TIMEOUT(ksm_rmap, merge_among_hundreds_of_vmas, SLOW)
{
	const size_t nr = NR_UNRELATED, page = self->page;
	char *area = new_area(nr);
	struct mapping m[] = {
		{ 0, self->one },
		{ 0, area },
		{ 0, area + nr / 2 * page },
		{ 0, area + (nr - 2) * page },
	};

	for (size_t i = 1; i < ARRAY_SIZE(m); i++)
		fill_page(m[i].addr, 1);
	/* Every other page read-only: a vma each, all with one anon_vma */
	for (size_t i = 1; i < nr; i += 2)
		ASSERT_EQ(0, mprotect(area + i * page, page, PROT_READ));
	assert_vma(m[2].addr, m[2].addr, m[2].addr + page);
	merge(m);
	assert_found(m, 1);
}

/*
 *   COW
 */

TEST_F(ksm_rmap, cow)
{
	char *area = new_area(8);
	struct mapping m[8], others[7];

	for (int i = 0, j = 0; i < 8; i++) {
		m[i] = (struct mapping){ 0, area + i * self->page };
		fill_page(m[i].addr, 2);
		if (i != 3)
			others[j++] = m[i];
	}
	merge(m);

	/* The writer has a page of its own, the others do not notice */
	fill_page(m[3].addr, 3);
	assert_unmerged(0, m[3].addr, 3);
	assert_found(others, 2);

	/* Nor when ksmd has noticed that the writer's is not a KSM page */
	ASSERT_TRUE(ksm_scan(3));
	assert_unmerged(0, m[3].addr, 3);
	assert_found(others, 2);
	EXPECT_EQ(7, ksm_get_self_merging_pages());

	/* And once it is equal again, it is merged again */
	fill_page(m[3].addr, 2);
	merge(m);
	assert_found(m, 2);
	EXPECT_EQ(8, ksm_get_self_merging_pages());
}

/* @nr private pages of a file of its own, mergeable, from page @offset on */
static char *__new_file_area(struct __test_metadata *_metadata, size_t nr,
			     unsigned long offset)
{
	int fd = memfd_create("ksm_rmap", 0);
	char *area;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, (offset + nr) * psize()));
	area = mmap(NULL, nr * psize(), PROT_READ | PROT_WRITE, MAP_PRIVATE,
		    fd, offset * psize());
	ASSERT_NE(MAP_FAILED, area);
	close(fd);
	madvise(area, nr * psize(), MADV_NOHUGEPAGE);
	ASSERT_EQ(0, madvise(area, nr * psize(), MADV_MERGEABLE));
	return area;
}

#define new_file_area(nr, offset) __new_file_area(_metadata, nr, offset)

/*
 * Smart scan has ksmd skip a page according to the age of its rmap_item, which
 * it has only as long as it is not in the stable tree.  If that were taken for
 * an age which has the place in the tree, or were left behind there, then with
 * such a large offset ksmd would skip the page, and do so 255 times.
 */
TEST_F(ksm_rmap, cow_at_a_large_offset)
{
	const unsigned long offset = sizeof(long) == 8 ? 0xffff00000000 : 0x7fff;
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) },
			       { 0, new_file_area(1, offset) } };
	struct mapping others[] = { m[0], m[1] };
	long skipped;

	fill_page(m[1].addr, 1);
	fill_page(m[2].addr, 1);
	merge(m);
	assert_found(m, 1);

	fill_page(m[2].addr, 2);
	assert_unmerged(0, m[2].addr, 2);
	/* Slow, or there are many more scans than were asked for */
	write_num(KSM_SYSFS "sleep_millisecs", 200);
	skipped = ksm_knob(KSM_SYSFS "pages_skipped");
	ASSERT_TRUE(ksm_scan(1));
	EXPECT_EQ(skipped, ksm_knob(KSM_SYSFS "pages_skipped"));
	assert_found(others, 1);

	/* One scan for the checksum, another to merge, two in case of a skip */
	fill_page(m[2].addr, 1);
	ASSERT_TRUE(ksm_scan(4));
	assert_found(m, 1);
}

/*
 *   unmerge
 */

TEST_F(ksm_rmap, unmerge_by_madvise)
{
	char *area = new_area(8);
	struct mapping m[8], kept[4];

	for (int i = 0; i < 8; i++) {
		m[i] = (struct mapping){ 0, area + i * self->page };
		fill_page(m[i].addr, 2);
		if (i >= 4)
			kept[i - 4] = m[i];
	}
	merge(m);

	ASSERT_EQ(0, madvise(area, 4 * self->page, MADV_UNMERGEABLE));
	for (int i = 0; i < 4; i++)
		assert_unmerged(0, m[i].addr, 2);
	assert_found(kept, 2);

	/* ksmd leaves them alone now */
	ASSERT_TRUE(ksm_scan(3));
	for (int i = 0; i < 4; i++)
		assert_unmerged(0, m[i].addr, 2);
	assert_found(kept, 2);
	EXPECT_EQ(4, ksm_get_self_merging_pages());
}

TEST_F(ksm_rmap, unmerge_by_run_2)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) } };

	fill_page(m[1].addr, 1);
	merge(m);

	ASSERT_EQ(0, ksm_stop());
	assert_unmerged(0, m[0].addr, 1);
	assert_unmerged(0, m[1].addr, 1);
	EXPECT_EQ(0, ksm_get_self_merging_pages());
	EXPECT_EQ(0, ksm_knob(KSM_SYSFS "pages_shared"));
	EXPECT_EQ(0, ksm_knob(KSM_SYSFS "pages_sharing"));

	merge(m);
	assert_found(m, 1);
}

TEST_F(ksm_rmap, unmerge_by_prctl)
{
	struct mapping m[3], others[2];

	/* One who is not concerned by what this process asks for itself */
	fork_peer(1, 0);
	for (int i = 0; i < 2; i++) {
		m[i + 1].peer = 1;
		m[i + 1].addr = map_by(1, 1, 4);
		others[i] = m[i + 1];
	}

	if (prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0)) {
		ASSERT_EQ(EINVAL, errno);
		SKIP(return, "no PR_SET_MEMORY_MERGE: kernel older than 6.4");
	}
	m[0].peer = 0;
	m[0].addr = mmap(NULL, self->page, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, m[0].addr);
	fill_page(m[0].addr, 4);
	merge(m);
	assert_found(m, 4);

	ASSERT_EQ(0, prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0));
	assert_unmerged(0, m[0].addr, 4);
	assert_found(others, 4);
}

/*
 *   mremap
 */

/*
 *  area: | 100 | 101 |  1  | 103 |   --->   to: | 100 | 101 |  1  | 103 |
 *
 * From then on its addresses and offsets have nothing to do with each other.
 */
static char *__move_area(struct __test_metadata *_metadata, char *area,
			 size_t nr)
{
	char *to = map_area(nr);

	ASSERT_NE(NULL, to);
	ASSERT_EQ((void *)to, sys_mremap(area, nr * psize(), nr * psize(),
					 MREMAP_MAYMOVE | MREMAP_FIXED, to));
	return to;
}

#define move_area(area, nr) __move_area(_metadata, area, nr)

TEST_F(ksm_rmap, mremap_before_merging)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(4) } };

	m[1].addr += 2 * self->page;
	fill_page(m[1].addr, 1);
	m[1].addr = move_area(m[1].addr - 2 * self->page, 4) + 2 * self->page;
	merge(m);
	assert_found(m, 1);
}

TEST_F(ksm_rmap, mremap_after_merging)
{
	char *area = new_area(4);
	struct mapping m[] = {
		{ 0, self->one },
		{ 0, new_area(1) },
		{ 0, area + 2 * self->page },
	};
	struct mapping others[] = { m[0], m[1] };

	fill_page(m[1].addr, 1);
	fill_page(m[2].addr, 1);
	merge(m);

	/* Merged pages do not move: the contents do */
	m[2].addr = move_area(area, 4) + 2 * self->page;
	assert_unmerged(0, m[2].addr, 1);
	assert_found(others, 1);

	merge(m);
	assert_found(m, 1);
}

/* The parent's rmap_item is for an address that the child has left */
TEST_F(ksm_rmap, mremap_to_where_another_sharer_was)
{
	char *area = new_area(4);
	struct mapping m[] = {
		{ 0, self->one },
		{ 0, area },
		{ 0, area + 3 * self->page },
	};

	fill_page(m[1].addr, 1);
	fill_page(m[2].addr, 1);
	merge(m);

	/* The page at 3 goes to 0, in place of the one that was merged there */
	ASSERT_EQ((void *)m[1].addr,
		  sys_mremap(m[2].addr, self->page, self->page,
			     MREMAP_MAYMOVE | MREMAP_FIXED, m[1].addr));
	assert_unmerged(0, m[1].addr, 1);

	struct mapping rest[] = { m[0], m[1] };

	merge(rest);
	assert_found(rest, 1);
}

/*
 *   VMAs that are split, merged and grown
 */

/*
 *  | 100 | 101 | 102 | 103 | 104 |  1  | 106 |  1  |
 *                                   ^           ^
 */
struct divided {
	char *area;
	struct mapping m[3];
};

static void __prepare_divided(struct __test_metadata *_metadata,
			      struct divided *d, char *one)
{
	d->area = new_area(8);
	d->m[0] = (struct mapping){ 0, one };
	d->m[1] = (struct mapping){ 0, d->area + 5 * psize() };
	d->m[2] = (struct mapping){ 0, d->area + 7 * psize() };
	fill_page(d->m[1].addr, 1);
	fill_page(d->m[2].addr, 1);
	merge(d->m);
	assert_vma(d->area, d->area, d->area + 8 * psize());
}

TEST_F(ksm_rmap, split_by_mprotect)
{
	struct divided d;
	size_t page = self->page;

	__prepare_divided(_metadata, &d, self->one);
	/* | r  r  r | w  w  1  w  1 | */
	ASSERT_EQ(0, mprotect(d.area, 3 * page, PROT_READ));
	assert_vma(d.m[1].addr, d.area + 3 * page, d.area + 8 * page);
	assert_found(d.m, 1);
	/* | r  r  r | w  w  1 | r | 1 | */
	ASSERT_EQ(0, mprotect(d.area + 6 * page, page, PROT_READ));
	assert_vma(d.m[2].addr, d.area + 7 * page, d.area + 8 * page);
	assert_found(d.m, 1);
}

TEST_F(ksm_rmap, split_by_munmap)
{
	struct divided d;
	size_t page = self->page;

	__prepare_divided(_metadata, &d, self->one);
	/* | w  w |   | w  w  1  w  1 | */
	ASSERT_EQ(0, munmap(d.area + 2 * page, page));
	assert_vma(d.m[1].addr, d.area + 3 * page, d.area + 8 * page);
	assert_found(d.m, 1);
	/*              |  1  w  1 | */
	ASSERT_EQ(0, munmap(d.area, 5 * page));
	assert_vma(d.m[1].addr, d.area + 5 * page, d.area + 8 * page);
	assert_found(d.m, 1);
}

TEST_F(ksm_rmap, split_by_madvise)
{
	struct divided d;
	size_t page = self->page;

	__prepare_divided(_metadata, &d, self->one);
	/* | not mergeable | w  1  w  1 | */
	ASSERT_EQ(0, madvise(d.area, 4 * page, MADV_UNMERGEABLE));
	assert_vma(d.m[1].addr, d.area + 4 * page, d.area + 8 * page);
	assert_found(d.m, 1);
}

TEST_F(ksm_rmap, split_after_mremap)
{
	struct divided d;
	size_t page = self->page;

	__prepare_divided(_metadata, &d, self->one);
	d.area = move_area(d.area, 8);
	d.m[1].addr = d.area + 5 * page;
	d.m[2].addr = d.area + 7 * page;
	merge(d.m);
	ASSERT_EQ(0, mprotect(d.area, 3 * page, PROT_READ));
	assert_vma(d.m[1].addr, d.area + 3 * page, d.area + 8 * page);
	assert_found(d.m, 1);
}

TEST_F(ksm_rmap, vma_merged_with_neighbour)
{
	const size_t page = self->page;
	char *area = new_area(8);
	struct mapping m[] = {
		{ 0, self->one },
		{ 0, area + 1 * page },
		{ 0, area + 6 * page },
	};

	fill_page(m[1].addr, 1);
	fill_page(m[2].addr, 1);
	/* | r  1  r  r | w  w  1  w |  --->  | w  1  w  w  w  w  1  w | */
	ASSERT_EQ(0, mprotect(area, 4 * page, PROT_READ));
	assert_vma(m[2].addr, area + 4 * page, area + 8 * page);
	merge(m);
	ASSERT_EQ(0, mprotect(area, 4 * page, PROT_READ | PROT_WRITE));
	assert_vma(m[2].addr, area, area + 8 * page);
	assert_found(m, 1);
}

TEST_F(ksm_rmap, vma_grown_upwards_by_mremap)
{
	const size_t page = self->page;
	char *area = new_area(8);
	struct mapping m[] = { { 0, self->one }, { 0, area + page },
			       { 0, area + 6 * page } };
	struct mapping old[] = { m[0], m[1] };

	fill_page(m[1].addr, 1);
	ASSERT_EQ(0, munmap(area + 4 * page, 4 * page));
	merge(old);
	ASSERT_EQ((void *)area, mremap(area, 4 * page, 8 * page, 0));
	assert_vma(m[1].addr, area, area + 8 * page);
	assert_found(old, 1);

	/* And what comes in the part that is new */
	fill_page(m[2].addr, 1);
	merge(m);
	assert_found(m, 1);
}

TEST_F(ksm_rmap, vma_grown_downwards_by_mmap)
{
	const size_t page = self->page;
	char *area = new_area(8);
	struct mapping m[] = { { 0, self->one }, { 0, area + 6 * page },
			       { 0, area + page } };
	struct mapping old[] = { m[0], m[1] };

	fill_page(m[1].addr, 1);
	ASSERT_EQ(0, munmap(area, 4 * page));
	merge(old);
	ASSERT_EQ((void *)area, mmap(area, 4 * page, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
				     -1, 0));
	madvise(area, 4 * page, MADV_NOHUGEPAGE);
	ASSERT_EQ(0, madvise(area, 4 * page, MADV_MERGEABLE));
	assert_vma(m[1].addr, area, area + 8 * page);
	assert_found(old, 1);

	fill_page(m[2].addr, 1);
	merge(m);
	assert_found(m, 1);
}

TEST_F(ksm_rmap, stack_grown_before_and_after_merging)
{
	/* Pages: room to grow into, the guard gap of 256 included */
	const size_t page = self->page, room = 1024;
	char *top, *base = mmap(NULL, room * page, PROT_NONE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, base);
	top = base + room * page;
	ASSERT_EQ(0, munmap(base, room * page));
	ASSERT_EQ((void *)(top - 4 * page),
		  mmap(top - 4 * page, 4 * page, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE |
		       MAP_GROWSDOWN, -1, 0));
	madvise(top - 4 * page, 4 * page, MADV_NOHUGEPAGE);
	ASSERT_EQ(0, madvise(top - 4 * page, 4 * page, MADV_MERGEABLE));

	struct mapping m[] = { { 0, self->one }, { 0, top - 2 * page },
			       { 0, top - 7 * page } };

	/* The first from the vma's beginning, the other from its growth */
	for (int i = 1; i <= 7; i++)
		fill_page(top - i * page, 100 + i);
	assert_vma(top - page, top - 7 * page, top);
	fill_page(m[1].addr, 1);
	fill_page(m[2].addr, 1);
	merge(m);
	assert_found(m, 1);

	for (int i = 8; i <= 20; i++)
		fill_page(top - i * page, 100 + i);
	assert_vma(top - page, top - 20 * page, top);
	assert_found(m, 1);
}

/*
 *   fork, after merging
 */

TEST_F(ksm_rmap, fork)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) },
			       { 1, self->one }, { 1, NULL } };
	struct mapping before[] = { m[0], m[1] };

	m[3].addr = m[1].addr;
	fill_page(m[1].addr, 1);
	merge(before);
	fork_peer(1, 0);
	assert_found(m, 1);
	/* Now the child's mappings have rmap_items too */
	ASSERT_TRUE(ksm_scan(2));
	assert_found(m, 1);
}

TEST_F(ksm_rmap, fork_child_only)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) } };
	struct mapping child[] = { { 1, m[0].addr }, { 1, m[1].addr } };

	fill_page(m[1].addr, 1);
	merge(m);
	fork_peer(1, 0);
	ASSERT_EQ(0, munmap(m[0].addr, self->page));
	ASSERT_EQ(0, munmap(m[1].addr, self->page));
	assert_found(child, 1);
	ASSERT_TRUE(ksm_scan(2));
	assert_found(child, 1);
}

TEST_F(ksm_rmap, fork_grandchild)
{
	struct mapping m[6] = { { 0, self->one }, { 0, new_area(1) } };
	struct mapping before[] = { m[0], m[1] };

	fill_page(m[1].addr, 1);
	merge(before);
	fork_peer(1, 0);
	fork_peer(2, 1);
	for (int i = 2; i < 6; i++)
		m[i] = (struct mapping){ i / 2, m[i % 2].addr };
	assert_found(m, 1);

	/* The grandchild outlives its parent */
	struct mapping rest[] = { m[0], m[1], m[4], m[5] };

	exit_peer(1);
	assert_found(rest, 1);
	ASSERT_TRUE(ksm_scan(2));
	assert_found(rest, 1);
}

TEST_F(ksm_rmap, fork_child_that_wrote)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) },
			       { 1, self->one } };
	struct mapping before[] = { m[0], m[1] };

	fill_page(m[1].addr, 1);
	merge(before);
	fork_peer(1, 0);
	ask(1, OP_FILL, m[1].addr, 5);
	assert_unmerged(1, m[1].addr, 5);
	assert_found(m, 1);
	ASSERT_TRUE(ksm_scan(2));
	assert_unmerged(1, m[1].addr, 5);
	assert_found(m, 1);
}

TEST_F(ksm_rmap, fork_parent_that_exited)
{
	struct mapping m[3] = { { 0, self->one } }, parent[3] = { m[0] };

	fork_peer(1, 0);
	for (int i = 1; i < 3; i++) {
		parent[i].peer = 1;
		parent[i].addr = map_by(1, 1, 1);
		m[i] = (struct mapping){ 2, parent[i].addr };
	}
	merge(parent);
	fork_peer(2, 1);
	exit_peer(1);
	assert_found(m, 1);
	/* ksmd drops the rmap_items of the parent, and makes the child's own */
	ASSERT_TRUE(ksm_scan(2));
	assert_found(m, 1);
}

TEST_F(ksm_rmap, fork_and_split)
{
	struct divided d;
	const size_t page = self->page;

	__prepare_divided(_metadata, &d, self->one);
	fork_peer(1, 0);

	/* Different vmas in parent and child, both with the page's index */
	ASSERT_EQ(0, mprotect(d.area, 3 * page, PROT_READ));
	assert_vma(d.m[1].addr, d.area + 3 * page, d.area + 8 * page);
	ASSERT_EQ(0, ask(1, OP_UNMAP, d.area + 4 * page, 0));

	struct mapping m[] = { d.m[0], d.m[1], d.m[2], { 1, d.m[0].addr },
			       { 1, d.m[1].addr }, { 1, d.m[2].addr } };

	assert_found(m, 1);
}

/*
 *   private file mapping
 */

TEST_F(ksm_rmap, private_file_mapping_at_an_offset)
{
	const size_t page = self->page;
	char *file = new_file_area(8, 32);
	struct mapping m[] = { { 0, self->one }, { 0, file },
			       { 0, file + 5 * page } };

	fill_page(m[1].addr, 1);
	fill_page(m[2].addr, 1);
	merge(m);
	assert_found(m, 1);

	/* Split, the page that is left in the second part starts elsewhere */
	ASSERT_EQ(0, mprotect(file + page, 3 * page, PROT_READ));
	assert_vma(m[2].addr, file + 4 * page, file + 8 * page);
	assert_found(m, 1);
}

/*
 *   what the walk is for: migration, swap-out, memory failure
 */

/*
 * Compaction moves pages from the low end of a zone to the high end, but into
 * pageblocks that are in use already.  So have KSM pages in many pageblocks,
 * with holes in between, and expect some to move.
 */
TEST_F_TIMEOUT(ksm_rmap, migration_by_compaction, SLOW)
{
	enum { PAIRS = 64, STRIDE = 32, BULK = 16384 };
	const size_t page = self->page;
	struct mapping m[PAIRS][2];
	unsigned long pfn[PAIRS];
	char *area[2], *bulk;
	int moved = 0, tries;
	cpu_set_t cpu;

	if (access("/proc/sys/vm/compact_memory", W_OK))
		SKIP(return, "no vm.compact_memory: needs CONFIG_COMPACTION");

	/* Only what is at the beginning of a stride is the same in both areas */
	for (int j = 0; j < 2; j++) {
		area[j] = new_area(PAIRS * STRIDE);
		for (int i = 0; i < PAIRS * STRIDE; i++) {
			char *p = area[j] + i * page;

			if (i % STRIDE)
				fill_page(p, 1000000 * (j + 1) + i);
			else
				m[i / STRIDE][j] = (struct mapping){ 0, p };
		}
	}
	ASSERT_TRUE(ksm_scan(3));
	for (int i = 0; i < PAIRS; i++) {
		ASSERT_TRUE(are_merged(m[i], 2));
		pfn[i] = pfn_at(&m[i][0]);
	}

	/*
	 * Free what is in between.  That goes to this CPU's own list of free
	 * pages, unknown to compaction; freeing much more here gets it out.
	 */
	CPU_ZERO(&cpu);
	CPU_SET(sched_getcpu(), &cpu);
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(cpu), &cpu));
	for (int i = 0; i < PAIRS; i++)
		for (int j = 0; j < 2; j++)
			ASSERT_EQ(0, madvise(m[i][j].addr + page,
					     (STRIDE - 1) * page,
					     MADV_DONTNEED));
	for (tries = 0; !moved && tries < 10; tries++) {
		bulk = mmap(NULL, BULK * page, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		ASSERT_NE(MAP_FAILED, bulk);
		madvise(bulk, BULK * page, MADV_NOHUGEPAGE);
		for (int i = 0; i < BULK; i++)
			bulk[i * page] = 1;
		ASSERT_EQ(0, munmap(bulk, BULK * page));

		write_num("/proc/sys/vm/compact_memory", 1);
		for (int i = 0; i < PAIRS; i++)
			moved += pfn_at(&m[i][0]) != pfn[i];
	}
	/* They moved only if both mappings were found, and replaced */
	for (int i = 0; i < PAIRS; i++)
		assert_found(m[i], 100 + i * STRIDE);
	ASSERT_LT(0, moved) {
		TH_LOG("compaction did not move any of %d KSM pages", PAIRS);
	}
	TH_LOG("compaction moved %d of %d KSM pages in %d tries", moved, PAIRS,
	       tries);
}

/* Returns: the node that has the page at @addr, or -errno */
static int node_of(char *addr)
{
	int status = -ENOENT;

	if (syscall(__NR_move_pages, 0, 1UL, &addr, NULL, &status, 0))
		return -errno;
	return status;
}

TEST_F(ksm_rmap, migration_to_another_node)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) },
			       { 1, self->one }, { 1, NULL } };
	struct mapping before[] = { m[0], m[1] };
	int from, to, status = -1;
	unsigned long pfn;

	if (access("/sys/devices/system/node/node1", F_OK))
		SKIP(return, "needs two memory nodes, try numa=fake=2");
	fill_page(m[1].addr, 1);
	merge(before);
	fork_peer(1, 0);
	m[3].addr = m[1].addr;
	pfn = pfn_at(&m[0]);

	from = node_of(m[0].addr);
	ASSERT_LE(0, from) {
		TH_LOG("move_pages: %s (needs CONFIG_NUMA_MIGRATION)",
		       strerror(-from));
	}
	to = !from;

	for (int i = 0; i < 2; i++, to = from) {
		ASSERT_EQ(0, syscall(__NR_move_pages, 0, 1UL, &m[1].addr, &to,
				     &status, MPOL_MF_MOVE_ALL));
		ASSERT_EQ(to, status);
		ASSERT_EQ(to, node_of(m[0].addr));
		ASSERT_NE(pfn, pfn_at(&m[0]));
		pfn = pfn_at(&m[0]);
		assert_found(m, 1);
	}
}

/* A page that has more than one mapping is not for MADV_PAGEOUT to reclaim */
static void swap_out(const char *cgroup)
{
	static const char * const how[] = { "64M swappiness=max", "64M" };
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/memory.reclaim", cgroup);
	fd = open(path, O_WRONLY);
	/* EAGAIN: not as much as was asked for.  Swappiness is from 6.16 on. */
	for (size_t i = 0; i < ARRAY_SIZE(how); i++)
		if (write(fd, how[i], strlen(how[i])) >= 0 || errno == EAGAIN)
			break;
	close(fd);
}

static bool is_swapped(const struct mapping *m)
{
	return pagemap_of(peers[m->peer].pid, m->addr) & PM_SWAP;
}

TEST_F_TIMEOUT(ksm_rmap, swap_out_and_in, SLOW)
{
	enum { NR = 16 };	/* pages */
	char cgroup[] = "/sys/fs/cgroup/ksm_rmap.XXXXXX";
	char path[64], swaps[256];
	struct mapping m[NR][3];
	int tries, out = 0;
	bool can_reclaim;

	if (read_file("/proc/swaps", swaps, sizeof(swaps)) <= 0 ||
	    !strchr(strchr(swaps, '\n') + 1, '\n'))
		SKIP(return, "no swap: try zram");
	if (!mkdtemp(cgroup))
		SKIP(return, "no cgroup v2 at /sys/fs/cgroup");
	snprintf(path, sizeof(path), "%s/memory.reclaim", cgroup);
	can_reclaim = !access(path, W_OK);
	if (!can_reclaim) {
		rmdir(cgroup);
		SKIP(return, "no memory.reclaim: +memory in cgroup.subtree_control of the root");
	}

	/* Charge to this cgroup what the two peers map */
	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	for (int j = 0; j < 3; j++) {
		const int peer = j ? 2 : 1;
		char *area;

		if (j < 2) {
			fork_peer(peer, 0);
			write_num(path, peers[peer].pid);
		}
		area = map_by(peer, NR, 1000);
		for (int i = 0; i < NR; i++)
			m[i][j] = (struct mapping){ peer,
						    area + i * self->page };
	}
	ASSERT_TRUE(ksm_scan(3));
	for (int i = 0; i < NR; i++)
		merge(m[i]);

	/*
	 * KSM pages are active at first.  That reclaim learns how many active
	 * pages there are, and deactivates them, may take a cgroup as small as
	 * this two seconds.
	 */
	for (tries = 0; out < NR && tries < 40; tries++) {
		swap_out(cgroup);
		usleep(tries ? 250000 : 0);
		out = 0;
		for (int i = 0; i < NR; i++)
			out += is_swapped(&m[i][0]) && is_swapped(&m[i][1]) &&
			       is_swapped(&m[i][2]);
	}
	EXPECT_EQ(NR, out) {
		TH_LOG("%d of %d pages swapped out in %d tries", out, NR,
		       tries);
	}

	/* Each comes back through one mapping after the other */
	for (int i = 0; i < NR; i++)
		for (int j = 0; j < 3; j++)
			EXPECT_TRUE(ask(m[i][j].peer, OP_HOLDS, m[i][j].addr,
					1000 + i));
	ASSERT_TRUE(ksm_scan(3));
	for (int i = 0; i < NR; i++) {
		merge(m[i]);
		assert_found(m[i], 1000 + i);
	}

	exit_peer(1);
	exit_peer(2);
	rmdir(cgroup);
}

/* Each process that asked for it is told where it maps a page that failed */
TEST_F(ksm_rmap, memory_failure)
{
	struct mapping m[3] = { };
	const char *unpoison = "/sys/kernel/debug/hwpoison/unpoison-pfn";
	unsigned long pfn;

	if (access(unpoison, W_OK))
		SKIP(return, "no %s: the page could not be put back, needs CONFIG_HWPOISON_INJECT",
		     unpoison);
	/* Fork before, so that no process maps the page at two addresses */
	fork_peer(1, 0);
	fork_peer(2, 0);
	for (int i = 0; i < 3; i++) {
		m[i].peer = i;
		m[i].addr = map_by(i, 1, 7);
		ASSERT_EQ(0, ask(i, OP_EXPECT_SIGBUS, NULL, 0));
	}
	merge(m);
	pfn = pfn_at(&m[0]);
	ASSERT_EQ(0, madvise(m[0].addr, self->page, MADV_HWPOISON));
	EXPECT_EQ(0, unpoison_memory(pfn));

	for (int i = 0; i < 3; i++) {
		EXPECT_EQ((unsigned long)m[i].addr,
			  ask(i, OP_SIGBUS_ADDR, NULL, 0));
		EXPECT_EQ(0, pfn_at(&m[i]));
	}
}

int main(int argc, char **argv)
{
	if (!ksm_rmap_missing())
		ksm_knobs_save();
	return test_harness_run(argc, argv);
}
