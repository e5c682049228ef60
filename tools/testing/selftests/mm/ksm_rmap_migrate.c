// SPDX-License-Identifier: GPL-2.0
/*
 * Does rmap find the mappings of a KSM page when it is migrated: by compaction, to
 * another node, when its memory goes offline?  See ksm_rmap.c.
 */
#include "kselftest_harness.h"
#include <linux/mempolicy.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>

#include "vm_util.h"
#include "ksm_rmap_util.h"
#include "ksm_rmap_peers.h"
#include "ksm_rmap_checks.h"
#include "ksm_rmap_fixture.h"

/* Returns: pages of a pageblock, which may be more than 64 MiB where a page is 64 KiB */
static size_t pageblock_pages(void)
{
	unsigned int order = 0;
	FILE *info = fopen("/proc/pagetypeinfo", "r");

	if (info) {
		if (fscanf(info, "Page block order: %u", &order) != 1)
			order = 0;
		fclose(info);
	}
	return 1UL << order;
}

/* Leave holes in 64 MiB of memory, wherever that is, or in more than one pageblock */
static void make_holes(struct __test_metadata *_metadata)
{
	const size_t least = (64 << 20) / psize(), block = pageblock_pages();
	const size_t nr = block < least ? least : block + block / 2;
	char *bulk = map_apart(nr);

	ASSERT_NE(NULL, bulk);
	write_pages(bulk, nr);
	ASSERT_EQ(0, punch_holes(bulk, nr));
}

enum { PAIRS = 64 };	/* of KSM pages */

/*
 * Have pageblocks with holes on either side of KSM pages, with contents @tag and so
 * on, and between them; see punch_holes().
 *
 * Returns: how many of them have moved
 */
static int compact_pairs(struct __test_metadata *_metadata,
			 struct mapping m[PAIRS][2], unsigned long tag)
{
	unsigned long pfn[PAIRS];
	char *area[2];
	int moved = 0;

	make_holes(_metadata);

	/* Only what is at the beginning of a stride is the same in both areas */
	for (int j = 0; j < 2; j++) {
		area[j] = new_area(PAIRS * HOLE_STRIDE);
		for (int i = 0; i < PAIRS * HOLE_STRIDE; i++) {
			char *p = area[j] + i * psize();

			if (i % HOLE_STRIDE) {
				fill_page(p, 1000000 * (j + 1) + tag + i);
			} else {
				fill_page(p, tag + i);
				m[i / HOLE_STRIDE][j] = (struct mapping){ 0, p };
			}
		}
	}
	ASSERT_TRUE(ksm_scan(3));
	for (int i = 0; i < PAIRS; i++) {
		ASSERT_TRUE(are_merged(m[i], 2));
		pfn[i] = pfn_at(&m[i][0]);
	}

	for (int j = 0; j < 2; j++)
		ASSERT_EQ(0, punch_holes(area[j], PAIRS * HOLE_STRIDE));
	make_holes(_metadata);
	write_num(COMPACT_MEMORY, 1);
	for (int i = 0; i < PAIRS; i++)
		moved += pfn_at(&m[i][0]) != pfn[i];
	return moved;
}

TEST_F_TIMEOUT(ksm_rmap, migration_by_compaction, SLOW)
{
	struct mapping m[PAIRS][2];
	unsigned long tag = 0;
	int moved = 0;

	if (access(COMPACT_MEMORY, W_OK))
		SKIP(return, "no vm.compact_memory: needs CONFIG_COMPACTION");

	/* They may happen to be at the high end: try with some more pages then */
	for (int tries = 0; !moved && tries < 10; tries++) {
		tag += 10000;
		moved = compact_pairs(_metadata, m, tag);
	}
	/* They moved only if both mappings were found, and replaced */
	for (int i = 0; i < PAIRS; i++)
		ASSERT_OK(check_found(m[i], ARRAY_SIZE(m[i]), tag + i * HOLE_STRIDE));
	ASSERT_LT(0, moved) {
		TH_LOG("compaction did not move any of %d KSM pages", PAIRS);
	}
	TH_LOG("compaction moved %d of %d KSM pages", moved, PAIRS);
}

TEST_F(ksm_rmap, migration_to_another_node)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) },
			       { 1, self->one }, { 1, NULL } };
	struct mapping before[] = { m[0], m[1] };
	int from, to;
	unsigned long pfn;

	if (access(NODE1, F_OK))
		SKIP(return, "needs two memory nodes, try numa=fake=2");
	fill_page(m[1].addr, 1);
	ASSERT_OK(merge(before, ARRAY_SIZE(before)));
	ASSERT_OK(fork_peer(1, 0));
	m[3].addr = m[1].addr;
	pfn = pfn_at(&m[0]);

	from = page_node(0, m[0].addr);
	ASSERT_LE(0, from) {
		TH_LOG("move_pages: %s (needs CONFIG_NUMA_MIGRATION)",
		       strerror(-from));
	}
	to = !from;

	for (int i = 0; i < 2; i++, to = from) {
		ASSERT_EQ(0, page_move_to_node(0, m[1].addr, to));
		ASSERT_EQ(to, page_node(0, m[0].addr));
		ASSERT_NE(pfn, pfn_at(&m[0]));
		pfn = pfn_at(&m[0]);
		ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
	}
}

/* @nr equal pages to be merged by node, the first two on node 1, the others on 0 */
static char *new_area_on_two_nodes(struct __test_metadata *_metadata, size_t nr)
{
	char *area = new_area(nr);

	write_num(KSM_SYSFS "merge_across_nodes", 0);
	for (size_t i = 0; i < nr; i++) {
		fill_page(area + i * psize(), 100);
		ASSERT_EQ(0, page_move_to_node(0, area + i * psize(), i < 2));
	}
	return area;
}

/* With merge_across_nodes=0, a KSM page comes to where there is one like it */
TEST_F(ksm_rmap, migration_to_a_node_with_the_same)
{
	if (access(NODE1, F_OK))
		SKIP(return, "needs two memory nodes, try numa=fake=2");

	char *area = new_area_on_two_nodes(_metadata, 4);
	struct mapping there[] = { { 0, area }, { 0, area + self->page } };
	struct mapping here[] = { { 0, area + 2 * self->page },
				  { 0, area + 3 * self->page } };
	struct mapping moved[] = { here[0] };

	ASSERT_OK(merge(there, ARRAY_SIZE(there)));
	ASSERT_OK(merge(here, ARRAY_SIZE(here)));
	ASSERT_NE(pfn_at(&there[0]), pfn_at(&here[0]));

	/* The only one that has the page, when it is moved */
	fill_page(here[1].addr, 1000);
	ASSERT_TRUE(ksm_scan(1));
	ASSERT_EQ(0, page_move_to_node(0, here[0].addr, 1));

	/* Without memory, ksmd has to try again */
	if (ksmd_fails(100, NULL)) {
		ASSERT_TRUE(ksm_scan(1));
		ksmd_fails(0, NULL);
		ASSERT_OK(check_found(moved, ARRAY_SIZE(moved), 100));
		ASSERT_OK(check_found(there, ARRAY_SIZE(there), 100));
	}
	for (int i = 0; i < 3; i++) {
		ASSERT_TRUE(ksm_scan(1));
		ASSERT_OK(check_found(moved, ARRAY_SIZE(moved), 100));
		ASSERT_OK(check_found(there, ARRAY_SIZE(there), 100));
	}

	struct mapping all[] = { there[0], there[1], moved[0] };

	ASSERT_OK(check_found(all, ARRAY_SIZE(all), 100));
}

/* The same, but all KSM pages with that content have as many sharers as they may */
TEST_F(ksm_rmap, migration_to_a_node_with_the_same_but_full)
{
	if (access(NODE1, F_OK))
		SKIP(return, "needs two memory nodes, try numa=fake=2");

	char *area = new_area_on_two_nodes(_metadata, 4);
	struct mapping there[] = { { 0, area }, { 0, area + self->page } };
	struct mapping here[] = { { 0, area + 2 * self->page },
				  { 0, area + 3 * self->page } };
	struct mapping moved[] = { here[0] };

	write_num(KSM_SYSFS "max_page_sharing", 2);
	ASSERT_OK(merge(there, ARRAY_SIZE(there)));
	ASSERT_OK(merge(here, ARRAY_SIZE(here)));
	fill_page(here[1].addr, 1000);
	ASSERT_TRUE(ksm_scan(1));
	ASSERT_EQ(0, page_move_to_node(0, here[0].addr, 1));

	/* Without memory for a chain, ksmd has to try again */
	if (ksmd_fails(100, "ksm_stable_node")) {
		ASSERT_TRUE(ksm_scan(1));
		ksmd_fails(0, "ksm_stable_node");
		EXPECT_EQ(0, ksm_counter("stable_node_chains"));
		ASSERT_OK(check_found(moved, ARRAY_SIZE(moved), 100));
	}
	ASSERT_TRUE(ksm_scan(2));
	EXPECT_EQ(1, ksm_counter("stable_node_chains"));
	EXPECT_EQ(2, ksm_counter("stable_node_dups"));
	ASSERT_OK(check_found(moved, ARRAY_SIZE(moved), 100));
	ASSERT_OK(check_found(there, ARRAY_SIZE(there), 100));
}

/*
 * With merge_across_nodes=0, two KSM pages with the same content change places; one
 * of them may be in a chain.  ksmd comes to the one before it has seen that the
 * other has gone.
 */
static void change_places(struct __test_metadata *_metadata, bool chain)
{
	const size_t page = psize();
	char *area = new_area_on_two_nodes(_metadata, chain ? 6 : 4);
	struct mapping comes[] = { { 0, area }, { 0, area + page } };
	struct mapping goes[] = { { 0, area + 2 * page }, { 0, area + 3 * page } };
	struct mapping full[] = { { 0, area + 4 * page }, { 0, area + 5 * page } };
	struct mapping one[] = { comes[0] }, other[] = { goes[0] };

	write_num(KSM_SYSFS "smart_scan", 0);
	write_num(KSM_SYSFS "max_page_sharing", chain ? 2 : 256);
	/* Time to stop ksmd in, so that ksm_scan(1) is one scan */
	write_num(KSM_SYSFS "sleep_millisecs", 200);
	ASSERT_OK(merge(comes, ARRAY_SIZE(comes)));
	if (chain) {
		for (int scans = 0; scans < 30 && ksm_counter("pages_sharing") < 3; scans++)
			ASSERT_TRUE(ksm_scan(1));
		ASSERT_EQ(1, ksm_counter("stable_node_chains"));
		/* Which two are together is ksmd's choice */
		if (!are_merged(goes, 2)) {
			const bool first = pfn_at(&goes[0]) == pfn_at(&full[0]);
			const struct mapping with = full[!first];

			full[!first] = goes[1];
			goes[1] = with;
		}
	}
	ASSERT_OK(merge(goes, ARRAY_SIZE(goes)));
	/* Each of them with one sharer, so that there is room for one more */
	fill_page(comes[1].addr, 1000);
	fill_page(goes[1].addr, 1001);
	ASSERT_TRUE(ksm_scan(1));
	ASSERT_EQ(0, page_move_to_node(0, comes[0].addr, 0));
	ASSERT_EQ(0, page_move_to_node(0, goes[0].addr, 1));
	for (int i = 0; i < 3; i++) {
		ASSERT_TRUE(ksm_scan(1));
		ASSERT_OK(check_found(one, ARRAY_SIZE(one), 100));
		ASSERT_OK(check_found(other, ARRAY_SIZE(other), 100));
		if (chain)
			ASSERT_OK(check_found(full, ARRAY_SIZE(full), 100));
	}
}

TEST_F_TIMEOUT(ksm_rmap, migration_of_two_that_change_places, SLOW)
{
	if (access(NODE1, F_OK))
		SKIP(return, "needs two memory nodes, try numa=fake=2");
	change_places(_metadata, false);
}

TEST_F_TIMEOUT(ksm_rmap, migration_of_two_that_change_places_in_a_chain, SLOW)
{
	if (access(NODE1, F_OK))
		SKIP(return, "needs two memory nodes, try numa=fake=2");
	change_places(_metadata, true);
}

/* With merge_across_nodes=0, ksmd finds a KSM page that has gone to another node */
TEST_F(ksm_rmap, migration_of_one_that_ksmd_looks_for)
{
	char *area = new_area(3);
	struct mapping moved[] = { { 0, area + self->page },
				   { 0, area + 2 * self->page } };
	struct mapping late = { 0, area };

	if (access(NODE1, F_OK))
		SKIP(return, "needs two memory nodes, try numa=fake=2");
	write_num(KSM_SYSFS "merge_across_nodes", 0);
	/* Time to stop ksmd in, so that ksm_scan(1) is one scan */
	write_num(KSM_SYSFS "sleep_millisecs", 200);
	write_num(KSM_SYSFS "smart_scan", 0);
	for (int i = 0; i < 3; i++) {
		char *page = area + i * self->page;

		fill_page(page, i ? 100 : 1000);
		ASSERT_EQ(0, page_move_to_node(0, page, 0));
	}
	ASSERT_OK(merge(moved, ARRAY_SIZE(moved)));

	/* One scan to see that it does not change, the next to look for the same */
	fill_page(late.addr, 100);
	ASSERT_TRUE(ksm_scan(1));
	ASSERT_EQ(0, page_move_to_node(0, moved[0].addr, 1));
	ASSERT_EQ(0, page_node(0, late.addr));
	for (int i = 0; i < 3; i++) {
		ASSERT_TRUE(ksm_scan(1));
		ASSERT_OK(check_found(moved, ARRAY_SIZE(moved), 100));
		ASSERT_OK(check_found_or_copied(&late, 100));
	}
}

/*
 * While merge_across_nodes is 1, ksmd has no use for the unstable tree of node 1.
 * What is still in it must not be found when it is 0 again, in the middle of a
 * scan: it may be freed.  Here it is not, for the sake of kernels that do find it.
 */
TEST_F(ksm_rmap, unstable_tree_of_a_node_not_used_for_a_while)
{
	enum { NR = 32 };	/* pages */
	char *area = new_area(NR + 1), *stale = map_area(1);
	struct mapping m[] = { { 0, stale }, { 0, area + NR * self->page } };

	if (access(NODE1, F_OK))
		SKIP(return, "needs two memory nodes, try numa=fake=2");
	ASSERT_NE(NULL, stale);
	ASSERT_LT((unsigned long)stale, (unsigned long)area);
	write_num(KSM_SYSFS "smart_scan", 0);
	write_num(KSM_SYSFS "merge_across_nodes", 0);
	fill_page(stale, 7);
	ASSERT_EQ(0, page_move_to_node(0, stale, 1));
	for (int i = 0; i <= NR; i++)
		ASSERT_EQ(0, page_move_to_node(0, area + i * self->page, 0));
	ASSERT_TRUE(ksm_scan(3));
	write_num(KSM_SYSFS "merge_across_nodes", 1);
	ASSERT_TRUE(ksm_scan(2));

	/* One scan to see that it does not change, half of the next, the rest */
	fill_page(m[1].addr, 7);
	ASSERT_EQ(0, page_move_to_node(0, m[1].addr, 1));
	write_num(KSM_SYSFS "sleep_millisecs", 200);
	ASSERT_TRUE(ksm_scan(1));
	ASSERT_FALSE(are_merged(m, 2));
	ASSERT_OK(scan_partly(NR / 2));
	write_num(KSM_SYSFS "merge_across_nodes", 0);
	ASSERT_EQ(0, ksm_counter("merge_across_nodes"));
	write_num(KSM_SYSFS "sleep_millisecs", 200);
	ASSERT_TRUE(ksm_scan(1));
	EXPECT_FALSE(are_merged(m, 2)) {
		TH_LOG("found in a tree from before");
	}
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 7));
}

enum { MOVING = 64 };	/* pages */

struct mover {
	void *pages[MOVING];
	int moved;	/* how often all of them were */
	bool stop;
};

static void *keep_moving(void *arg)
{
	struct mover *mover = arg;
	int nodes[MOVING], status[MOVING];

	while (!__atomic_load_n(&mover->stop, __ATOMIC_RELAXED)) {
		for (int i = 0; i < MOVING; i++)
			nodes[i] = mover->moved % 2;
		syscall(__NR_move_pages, 0, (unsigned long)MOVING, mover->pages,
			nodes, status, MPOL_MF_MOVE_ALL);
		mover->moved++;
	}
	return NULL;
}

/*
 * While a page is being migrated, it is not there for ksmd to see.  It must not
 * be forgotten for that.
 */
TEST_F_TIMEOUT(ksm_rmap, migration_while_ksmd_scans, SLOW)
{
	enum { ROUNDS = 40 };
	struct mover mover = { };
	struct mapping m[MOVING];
	char *area = new_area(MOVING);
	pthread_t thread;
	int merged = 0;

	if (access(NODE1, F_OK))
		SKIP(return, "needs two memory nodes, try numa=fake=2");
	/* It would skip the pages of a pair at different times */
	write_num(KSM_SYSFS "smart_scan", 0);
	for (int i = 0; i < MOVING; i++) {
		m[i] = (struct mapping){ 0, area + i * self->page };
		fill_page(m[i].addr, 2 + i / 2);
		mover.pages[i] = m[i].addr;
	}
	for (int round = 0; round < ROUNDS; round++) {
		for (int i = 0; i < MOVING; i += 2)
			ASSERT_OK(merge(&m[i], 2));
		mover.stop = false;
		ASSERT_EQ(0, pthread_create(&thread, NULL, keep_moving, &mover));
		write_num(KSM_SYSFS "run", 1);
		usleep(20000 + round * 100);
		write_num(KSM_SYSFS "run", 0);
		__atomic_store_n(&mover.stop, true, __ATOMIC_RELAXED);
		ASSERT_EQ(0, pthread_join(thread, NULL));

		for (int i = 0; i < MOVING; i++) {
			ASSERT_OK(check_found_or_copied(&m[i], 2 + i / 2));
			merged += pfn_is_ksm(pfn_at(&m[i]));
		}
	}
	TH_LOG("%d of %d pages were left merged, in %d moves of all pages",
	       merged, ROUNDS * MOVING, mover.moved);
	ASSERT_LT(ROUNDS, mover.moved);
	ASSERT_LT(0, merged);
}

/*
 * A KSM page comes to where ksmd has another page in the unstable tree.  That page's
 * rmap_item must leave the tree even if the KSM page cannot be merged for now, since
 * an equal one is locked.
 */
TEST_F_TIMEOUT(ksm_rmap, mremap_onto_one_in_the_unstable_tree, SLOW)
{
	char *moved = map_apart(MOVING), *equal = map_area(2 * MOVING);
	char *area = new_area(MOVING);
	struct mapping m[MOVING], pair[2];
	unsigned long pfns[MOVING];
	struct mover mover = { };
	pthread_t thread;
	int put_off = 0;

	if (access(NODE1, F_OK))
		SKIP(return, "needs two memory nodes, try numa=fake=2");
	ASSERT_NE(NULL, moved);
	ASSERT_NE(NULL, equal);
	/* Mapped downwards, as a rule */
	if (area > equal)
		SKIP(return, "needs an area that is scanned before an older one");
	ASSERT_LE(0, page_node(0, area)) {
		TH_LOG("move_pages fails: needs CONFIG_NUMA_MIGRATION");
	}
	write_num(KSM_SYSFS "smart_scan", 0);

	/* Only mapped where ksmd does not look, once the child has gone */
	for (int i = 0; i < MOVING; i++) {
		m[i] = (struct mapping){ 0, moved + i * self->page };
		fill_page(m[i].addr, 1000 + i);
	}
	ASSERT_OK(fork_peer(1, 0));
	ASSERT_OK(ask_nr(1, OP_MERGEABLE, moved, 0, MOVING));
	ASSERT_OK(map_by(1, MOVING, 1000, NULL));
	for (int i = 0; i < MOVING; i++) {
		ASSERT_OK(merge(&m[i], 1));
		pfns[i] = pfn_at(&m[i]);
	}
	ASSERT_OK(exit_peer(1));
	ASSERT_TRUE(ksm_scan(2));

	for (int i = 0; i < 2 * MOVING; i++)
		fill_page(equal + i * self->page, 1000 + i / 2);
	for (int i = 0; i < MOVING; i++) {
		for (int j = 0; j < 2; j++) {
			pair[j].peer = 0;
			pair[j].addr = equal + (2 * i + j) * self->page;
		}
		mover.pages[i] = pair[0].addr;
		ASSERT_OK(merge(pair, ARRAY_SIZE(pair)));
		ASSERT_NE(pfns[i], pfn_at(&pair[0]));
		ASSERT_EQ(pfns[i], pfn_at(&m[i]));
	}

	ASSERT_EQ((void *)area, sys_mremap(moved, MOVING * self->page,
					   MOVING * self->page,
					   MREMAP_MAYMOVE | MREMAP_FIXED, area));
	ASSERT_EQ(0, madvise(area, MOVING * self->page, MADV_MERGEABLE));
	/* They are locked some of the time: do not look at all in one moment */
	write_num(KSM_SYSFS "pages_to_scan", 1);
	write_num(KSM_SYSFS "sleep_millisecs", 1);
	ASSERT_EQ(0, pthread_create(&thread, NULL, keep_moving, &mover));
	ASSERT_TRUE(ksm_scan(1));
	__atomic_store_n(&mover.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	write_num(KSM_SYSFS "pages_to_scan", 100000);
	for (int i = 0; i < MOVING; i++) {
		m[i].addr = area + i * self->page;
		put_off += pfn_at(&m[i]) == pfns[i];
	}
	TH_LOG("%d of %d pages were put off", put_off, MOVING);
	EXPECT_LT(0, put_off);

	ASSERT_TRUE(ksm_scan(2));
	for (int i = 0; i < MOVING; i++)
		ASSERT_OK(check_found(&m[i], 1, 1000 + i));
}

/* Memory goes offline: all pages in it are migrated */
TEST_F_TIMEOUT(ksm_rmap, memory_offline, SLOW)
{
	enum { NR = 32 };	/* pairs */
	const size_t apart = (8UL << 20) / self->page;	/* pages in between */
	struct mapping m[NR][2];
	char text[32], *area = map_area(NR * apart);
	unsigned long pfn, size, block, last = -1UL;
	struct timespec begin, now;
	bool taken = false;

	if (read_file(MEMORY "block_size_bytes", text, sizeof(text)) <= 0)
		SKIP(return, "needs CONFIG_MEMORY_HOTREMOVE");
	size = strtoul(text, NULL, 16);
	ASSERT_NE(NULL, area);
	/*
	 * Over several blocks, and nodes, of which some cannot be taken: the kernel is
	 * there, or the architecture takes none that was there at boot
	 */
	write_pages(area, NR * apart);
	/* ksmd need not look at all of them */
	ASSERT_EQ(0, madvise(area, NR * apart * self->page, MADV_UNMERGEABLE));
	for (int i = 0; i < NR; i++) {
		for (int j = 0; j < 2; j++) {
			m[i][j] = (struct mapping){ 0, area + (i * apart + j) *
						    self->page };
			fill_page(m[i][j].addr, 1000 + i);
			if (i >= NR / 2 && !access(NODE1, F_OK))
				page_move_to_node(0, m[i][j].addr, 1);
			ASSERT_OK(ask(0, OP_MERGEABLE, m[i][j].addr, 0));
		}
	}
	for (int i = 0; i < NR; i++)
		ASSERT_OK(merge(m[i], ARRAY_SIZE(m[i])));
	/* Each that cannot be taken takes seconds */
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (int i = 0; i < NR && !taken; i++) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec - begin.tv_sec > SLOW / 3)
			break;
		pfn = pfn_at(&m[i][0]);
		block = pfn / (size / self->page);
		if (block == last)
			continue;
		last = block;
		taken = take_memory(block);
		if (taken)
			EXPECT_NE(pfn, pfn_at(&m[i][0]));
	}
	for (int i = 0; i < NR; i++)
		ASSERT_OK(check_found(m[i], ARRAY_SIZE(m[i]), 1000 + i));
	if (!taken)
		SKIP(return, "no block of memory can be taken");
}

int main(int argc, char **argv)
{
	prepare_tests(argc, argv);
	return test_harness_run(argc, argv);
}
