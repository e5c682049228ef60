// SPDX-License-Identifier: GPL-2.0
/*
 * Does a KSM page keep the rmap_items, its keys, that lead to its mappings, and no
 * others?  See ksm_rmap.c.
 */
#include "kselftest_harness.h"

#include "vm_util.h"
#include "ksm_rmap_util.h"
#include "ksm_rmap_peers.h"
#include "ksm_rmap_checks.h"
#include "ksm_rmap_fixture.h"

/* What those who have gone leave behind must not make the walk longer and longer */
TEST_F_TIMEOUT(ksm_rmap, fork_over_many_generations, SLOW)
{
	enum { GENERATIONS = 100 };
	struct mapping m[] = { { 1, NULL }, { 1, NULL } };
	unsigned long before, after;
	int last = 1;

	write_num(KSM_SYSFS "smart_scan", 0);
	ASSERT_OK(fork_peer(1, 0));
	for (int i = 0; i < 2; i++)
		ASSERT_OK(map_by(1, 1, 7, &m[i].addr));
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	before = walk_time(pfn_at(&m[0]));
	for (int i = 0; i < GENERATIONS; i++) {
		const int next = 3 - last;

		ASSERT_OK(fork_peer(next, last));
		/* ksmd comes to it before its parent exits, or after, or both */
		if (i % 3)
			ASSERT_TRUE(ksm_scan(1));
		ASSERT_OK(end_peer(last));
		if (i % 3 != 1)
			ASSERT_TRUE(ksm_scan(1));
		last = next;
	}
	m[0].peer = last;
	m[1].peer = last;
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 7));
	ASSERT_TRUE(ksm_scan(2));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 7));
	after = walk_time(pfn_at(&m[0]));
	TH_LOG("a walk takes %lu ns, after %d generations %lu", before,
	       GENERATIONS, after);
	/* Of two mappings with a key each it takes some more, of 64 keys 20 times as long */
	EXPECT_GT(4 * before, after);
}

/* Returns: how many objects of the slab cache @name there are, or -1 */
static long slab_objects(const char *name)
{
	char path[64], line[256];
	long objects = -1;
	FILE *slabs = fopen("/proc/slabinfo", "r");

	if (!slabs)
		return -1;
	/* What is freed counts for as long as the cache, or KASAN, keeps it */
	snprintf(path, sizeof(path), "/sys/kernel/slab/%s/shrink", name);
	write_num(path, 1);
	while (objects < 0 && fgets(line, sizeof(line), slabs))
		if (!strncmp(line, name, strlen(name)))
			sscanf(line + strlen(name), " %ld", &objects);
	fclose(slabs);
	return objects;
}

/*
 * For tests that count keys: stable nodes, and the keys that they have, go at the
 * next scan.
 *
 * Returns: why they cannot be counted, or NULL
 */
static const char *set_up_slab_objects(void)
{
	if (slab_objects("ksm_rmap_item") < 0)
		return "needs slabs that are not merged: slab_nomerge";
	write_num(KSM_SYSFS "smart_scan", 0);
	write_num(KSM_SYSFS "stable_node_chains_prune_millisecs", 0);
	return NULL;
}

/* The keys of pages that are shared by fork do not outlive these pages */
TEST_F_TIMEOUT(ksm_rmap, keys_go_with_their_pages, SLOW)
{
	/* Pages: so many that the objects which a slab cache keeps do not matter */
	enum { NR = 6000 };
	const char *missing = set_up_slab_objects();
	long before, during, after;
	char *area, *other;

	if (missing)
		SKIP(return, "%s", missing);
	/* A search drops stale nodes on its way: have others in the tree, which stay */
	ASSERT_OK(fork_peer(4, 0));
	for (int i = 0; i < 2; i++)
		ASSERT_OK(map_by(4, NR, 1000 + NR, NULL));
	ASSERT_TRUE(ksm_scan(3));
	EXPECT_EQ(NR, ksm_counter("pages_shared"));
	before = slab_objects("ksm_rmap_item");
	ASSERT_OK(fork_peer(1, 0));
	ASSERT_OK(map_by(1, NR, 1000, &area));
	ASSERT_OK(ask_nr(1, OP_UNMERGEABLE, area, 0, NR));
	ASSERT_OK(fork_peer(2, 1));
	ASSERT_OK(ask_nr(2, OP_MERGEABLE, area, 0, NR));
	ASSERT_OK(map_by(2, NR, 1000, &other));
	ASSERT_LT((unsigned long)other, (unsigned long)area);
	ASSERT_TRUE(ksm_scan(4));
	EXPECT_EQ(NR + NR, ksm_counter("pages_sharing"));
	/* Half of them have one more rmap_item, which goes last and is not needed */
	ASSERT_OK(fork_peer(3, 0));
	ASSERT_OK(map_by(3, NR / 2, 1000, NULL));
	ASSERT_TRUE(ksm_scan(3));
	EXPECT_EQ(NR + NR + NR / 2, ksm_counter("pages_sharing"));
	ASSERT_OK(end_peer(2));
	ASSERT_TRUE(ksm_scan(2));
	EXPECT_EQ(NR + NR / 2, ksm_counter("pages_shared"));
	ASSERT_OK(exit_peer(3));
	ASSERT_TRUE(ksm_scan(2));
	EXPECT_EQ(NR, ksm_counter("pages_shared"));
	/* Nobody's rmap_items are left but those of self->one, one a process */
	EXPECT_GE(3, ksm_counter("pages_volatile"));
	during = slab_objects("ksm_rmap_item");

	/* ksmd does not look for pages that are gone as often as it may scan */
	write_num(KSM_SYSFS "stable_node_chains_prune_millisecs", 1000000);
	ASSERT_OK(exit_peer(1));
	ASSERT_TRUE(ksm_scan(2));
	EXPECT_LT(during - NR / 4, slab_objects("ksm_rmap_item"));
	write_num(KSM_SYSFS "stable_node_chains_prune_millisecs", 0);
	ASSERT_TRUE(ksm_scan(2));
	after = slab_objects("ksm_rmap_item");
	TH_LOG("%ld rmap_items before, %ld while they share, %ld after", before,
	       during, after);
	EXPECT_GT(before + NR / 4, after);
}

/*
 * Once swapped out and in, a page may stay in the swap cache for long.  Meanwhile
 * others come to share it, and write to it: their keys must go.
 */
TEST_F_TIMEOUT(ksm_rmap, keys_go_from_the_swap_cache, SLOW)
{
	enum { NR = 200, ROUNDS = 4 };	/* pages */
	struct mapping m[] = { { 1, NULL }, { 1, NULL }, { 2, NULL } };
	const size_t page = self->page;
	unsigned long pfn, before, after;
	char *area;
	const char *missing = make_cgroup(self->cgroup);

	if (missing)
		SKIP(return, "%s", missing);
	write_num(KSM_SYSFS "smart_scan", 0);
	ASSERT_OK(fork_peer(1, 0));
	ASSERT_TRUE(enter_cgroup(self->cgroup, peer_pid(1)));
	for (int i = 0; i < 2; i++)
		ASSERT_OK(map_by(1, 1, 7, &m[i].addr));
	ASSERT_OK(map_by(1, BULK, 200, NULL));
	ASSERT_OK(merge(m, 2));
	/* The reference keeps it in the swap cache, whatever the swap device */
	ASSERT_OK(ask(1, OP_HOLD, m[0].addr, 0));
	ASSERT_EQ(2, swap_out(self->cgroup, m, 2));
	/* And so does the other swap entry, while this one comes back */
	ASSERT_OK(ask(1, OP_TOUCH, m[0].addr, 0));
	pfn = pfn_at(&m[0]);
	before = walk_time(pfn);

	ASSERT_OK(fork_peer(2, 0));
	ASSERT_OK(map_by(2, NR * ROUNDS, 1000, &area));
	for (int round = 0; round < ROUNDS; round++, area += NR * page) {
		for (int i = 0; i < NR; i++)
			ASSERT_OK(ask(2, OP_FILL, area + i * page, 7));
		ASSERT_TRUE(ksm_scan(3));
		m[2].addr = area + (NR - 1) * page;
		ASSERT_EQ(pfn, pfn_at(&m[2]));
		for (int i = 0; i < NR; i++)
			ASSERT_OK(ask(2, OP_FILL, area + i * page, 2000 + i));
		ASSERT_TRUE(ksm_scan(1));
	}
	after = walk_time(pfn);
	TH_LOG("a walk takes %lu ns, after %d others %lu", before, NR * ROUNDS,
	       after);
	EXPECT_GT(4 * before, after);
	ASSERT_OK(ask(1, OP_TOUCH, m[1].addr, 0));
	ASSERT_EQ(pfn, pfn_at(&m[1]));
	ASSERT_OK(check_found(m, 2, 7));
	ASSERT_OK(ask(1, OP_RELEASE, NULL, 0));
}

/*
 * While a page is swapped out, each of a family of processes has its rmap_item
 * dropped.  One key leads to all of them.
 */
TEST_F_TIMEOUT(ksm_rmap, keys_of_a_family_that_is_swapped_out, SLOW)
{
	/* Pages; with those of peers 1 to LAST, what a slab cache keeps does not matter */
	enum { NR = 64, LAST = 50 };
	struct mapping m[LAST + 1];
	const char *missing = set_up_slab_objects() ?: make_cgroup(self->cgroup);
	long before, after;

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_OK(fork_peer(1, 0));
	ASSERT_TRUE(enter_cgroup(self->cgroup, peer_pid(1)));
	for (int i = 1; i >= 0; i--) {
		m[i].peer = 1;
		ASSERT_OK(map_by(1, NR, 1000, &m[i].addr));
	}
	ASSERT_OK(merge(m, 2));
	for (int i = 2; i <= LAST; i++) {
		ASSERT_OK(fork_peer(i, 1));
		m[i] = (struct mapping){ i, m[1].addr };
	}
	ASSERT_TRUE(ksm_scan(3));
	/* The reference keeps it in the swap cache, whatever the swap device */
	ASSERT_OK(ask_nr(1, OP_HOLD, m[1].addr, 0, NR));
	ASSERT_EQ(LAST + 1, swap_out(self->cgroup, m, LAST + 1));
	before = slab_objects("ksm_rmap_item");
	ASSERT_TRUE(ksm_scan(2));
	after = slab_objects("ksm_rmap_item");
	TH_LOG("%ld rmap_items and keys, %ld when all is swapped out", before, after);
	EXPECT_LT(after, before - NR * LAST);

	for (int i = 0; i <= LAST; i++)
		ASSERT_OK(ask(m[i].peer, OP_TOUCH, m[i].addr, 0));
	ASSERT_OK(check_found(m, LAST + 1, 1000));
	ASSERT_OK(ask(1, OP_RELEASE, NULL, 0));
}

/* Without memory for a key that the parent needs, the rmap_item stays until there is */
TEST_F(ksm_rmap, keys_without_memory)
{
	for (int smart_scan = 0; smart_scan < 2; smart_scan++) {
		struct mapping parent[] = { { 1 + 2 * smart_scan, NULL } };
		struct mapping child = { parent->peer + 1, NULL };
		const unsigned long tag = 100 + smart_scan;

		write_num(KSM_SYSFS "smart_scan", smart_scan);
		ASSERT_OK(fork_peer(parent->peer, 0));
		ASSERT_OK(map_by(parent->peer, 1, tag, &parent->addr));
		child.addr = parent->addr;
		ASSERT_OK(ask(parent->peer, OP_UNMERGEABLE, parent->addr, 0));
		ASSERT_OK(fork_peer(child.peer, parent->peer));
		ASSERT_OK(ask(child.peer, OP_MERGEABLE, child.addr, 0));
		ASSERT_OK(merge_in_place(&child, tag, NULL));

		ASSERT_OK(ask(child.peer, OP_FILL, child.addr, 1000));
		if (ksmd_fails(100, "ksm_rmap_item")) {
			ASSERT_TRUE(ksm_scan(2));
			ksmd_fails(0, "ksm_rmap_item");
			ASSERT_OK(check_found(parent, ARRAY_SIZE(parent), tag));
		} else {
			TH_LOG("without CONFIG_FAILSLAB there is memory");
		}
		ASSERT_TRUE(ksm_scan(2));
		ASSERT_OK(check_found(parent, ARRAY_SIZE(parent), tag));
	}
}

/* Have ksmd merge @nr pages at @area with others like them, and then see writes */
static void merge_and_write(struct __test_metadata *_metadata, char *area, size_t nr,
			    unsigned long tag, bool one_content)
{
	const long sharing = ksm_counter("pages_sharing");

	for (size_t i = 0; i < nr; i++)
		fill_page(area + i * psize(), tag + (one_content ? 0 : i));
	ASSERT_TRUE(ksm_scan(3));
	ASSERT_EQ(sharing + (long)nr, ksm_counter("pages_sharing"));
	/* What nobody else has */
	for (size_t i = 0; i < nr; i++)
		fill_page(area + i * psize(), (unsigned long)area / psize() + i);
	ASSERT_TRUE(ksm_scan(2));
	ASSERT_EQ(sharing, ksm_counter("pages_sharing"));
}

/*
 * Of one anon_vma, so many VMAs have the same index that ksmd does not look at them
 * all before it keeps a key.  A page must not collect keys for that.
 */
TEST_F_TIMEOUT(ksm_rmap, keys_of_many_vmas_at_one_index, SLOW)
{
	/* Pages: merged one by one, or all at once */
	enum { ONE = 64, NR = 600, ROUNDS = 8 };
	/* KSM_KEY_LOOKS is 256: for so many keys, no more than so many VMAs are looked at */
	enum { VMAS = 300, KEYS = 256 };
	const size_t size = NR * self->page, stride = size + self->page;
	char *area = map_apart(NR + 1), *away, *equal;
	const char *missing = set_up_slab_objects();
	long before, after;

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_NE(NULL, area);
	away = mmap(NULL, VMAS * stride, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, away);
	/* What is moved away leaves a hole; the VMA that fills it gets the same anon_vma */
	fill_page(area + size, 1000);
	for (int i = 0; i < VMAS; i++) {
		ASSERT_NE(MAP_FAILED,
			  sys_mremap(area, size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
				     away + i * stride));
		ASSERT_EQ((void *)area,
			  mmap(area, size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		madvise(area, size, MADV_NOHUGEPAGE);	/* as in map_apart() */
	}
	ASSERT_EQ(0, madvise(area, size, MADV_MERGEABLE));
	for (int i = 0; i < NR; i++)
		fill_page(area + i * self->page, (unsigned long)area / self->page + i);
	equal = map_area(2 * ONE);
	ASSERT_NE(NULL, equal);
	for (int i = 0; i < 2 * ONE; i++)
		fill_page(equal + i * self->page, 2000 + i / 2);
	ASSERT_TRUE(ksm_scan(3));
	ASSERT_EQ(ONE, ksm_counter("pages_shared"));
	before = slab_objects("ksm_rmap_item");

	/* Again and again the same keys: one for each page */
	for (int round = 0; round < ROUNDS; round++)
		merge_and_write(_metadata, area, ONE, 2000, false);
	after = slab_objects("ksm_rmap_item");
	TH_LOG("%d times the same %d keys: %ld objects more", ROUNDS, ONE,
	       after - before);
	EXPECT_GT(before + 4 * ONE, after);

	/* Each time other keys, all for the same page */
	before = after;
	for (int done = 0; done + 200 <= NR; done += 200)
		merge_and_write(_metadata, area + done * self->page, 200, 2000, true);
	after = slab_objects("ksm_rmap_item");
	TH_LOG("%d keys of one page: %ld objects more", NR, after - before);
	EXPECT_GT(before + KEYS + 3 * ONE, after);
}

int main(int argc, char **argv)
{
	prepare_tests(argc, argv);
	return test_harness_run(argc, argv);
}
