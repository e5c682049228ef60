// SPDX-License-Identifier: GPL-2.0
/*
 * Does rmap find the mappings of a KSM page that is swapped out, and comes back?  Is
 * nobody's data lost?  See ksm_rmap.c.
 */
#include "kselftest_harness.h"
#include <sys/swap.h>

#include "vm_util.h"
#include "ksm_rmap_util.h"
#include "ksm_rmap_peers.h"
#include "ksm_rmap_checks.h"
#include "ksm_rmap_fixture.h"

TEST_F_TIMEOUT(ksm_rmap, swap_out_and_in, SLOW)
{
	enum { NR = 16 };	/* pages */
	struct mapping m[NR][3];
	const char *missing = make_cgroup(self->cgroup);

	if (missing)
		SKIP(return, "%s", missing);

	/* Charge to this cgroup what the two peers map */
	for (int j = 0; j < 3; j++) {
		const int peer = j ? 2 : 1;
		char *area;

		if (j < 2) {
			ASSERT_OK(fork_peer(peer, 0));
			ASSERT_TRUE(enter_cgroup(self->cgroup, peer_pid(peer)));
		}
		ASSERT_OK(map_by(peer, NR, 1000, &area));
		for (int i = 0; i < NR; i++)
			m[i][j] = (struct mapping){ peer,
						    area + i * self->page };
	}
	ASSERT_TRUE(ksm_scan(3));
	for (int i = 0; i < NR; i++)
		ASSERT_OK(merge(m[i], ARRAY_SIZE(m[i])));

	EXPECT_EQ(3 * NR, swap_out(self->cgroup, m[0], 3 * NR));

	/* Each comes back through one mapping after the other */
	for (int i = 0; i < NR; i++)
		for (int j = 0; j < 3; j++)
			EXPECT_OK(check_holds(m[i][j].peer, m[i][j].addr, 1000 + i));
	ASSERT_TRUE(ksm_scan(3));
	for (int i = 0; i < NR; i++) {
		ASSERT_OK(merge(m[i], ARRAY_SIZE(m[i])));
		ASSERT_OK(check_found(m[i], ARRAY_SIZE(m[i]), 1000 + i));
	}
}

/*
 * Reclaim asks rmap whether a page has been referenced, but does not wait for the
 * anon_vma lock to know.  While somebody has that, the page stays, until later.
 */
TEST_F_TIMEOUT(ksm_rmap, swap_out_while_vmas_change, SLOW)
{
	enum { NR = 256, ROUNDS = 4 };	/* pages, two of each */
	const size_t page = self->page;
	char *area = new_area(NR + 3);
	struct changer changer = { .page = area + page };
	struct mapping m[NR];
	const char *missing = make_cgroup(self->cgroup);

	if (missing)
		SKIP(return, "%s", missing);

	/* The anon_vmas of parent and child have one lock */
	ASSERT_OK(fork_peer(1, 0));
	ASSERT_TRUE(enter_cgroup(self->cgroup, peer_pid(1)));
	for (int i = 0; i < NR; i++) {
		m[i] = (struct mapping){ 1, area + (i + 3) * page };
		ASSERT_OK(ask(1, OP_FILL, m[i].addr, 1000 + i / 2));
	}
	for (int round = 0; round < ROUNDS; round++) {
		for (int i = 0; i < NR; i += 2)
			ASSERT_OK(merge(&m[i], 2));

		ASSERT_OK(change_vmas(&changer));
		EXPECT_EQ(NR, swap_out(self->cgroup, m, NR));
		ASSERT_OK(stop_changing(&changer));

		for (int i = 0; i < NR; i++)
			ASSERT_OK(ask(1, OP_TOUCH, m[i].addr, 0));
		for (int i = 0; i < NR; i++)
			ASSERT_OK(check_found_or_copied(&m[i], 1000 + i / 2));
	}
	ASSERT_LT(0, changer.forks);
}

/* Reclaim what @cgroup has, of all kinds, as memory.reclaim does by itself */
static void reclaim_all_kinds(const char *cgroup)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/memory.reclaim", cgroup);
	for (int i = 0; i < 8; i++) {
		write_text(path, "64M");
		usleep(100000);
	}
}

/*
 * Peer 1 has a KSM page left that nobody else maps, and says MADV_FREE.  Then a
 * third page with that content is merged with it: it belongs to who did not say so.
 */
static void free_and_reclaim(struct __test_metadata *_metadata, char *cgroup,
			     int third)
{
	struct mapping m[] = { { 1, NULL }, { 1, NULL } };
	const char *missing = make_cgroup(cgroup);

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_OK(fork_peer(1, 0));
	ASSERT_OK(fork_peer(2, 0));
	ASSERT_TRUE(enter_cgroup(cgroup, peer_pid(1)));
	ASSERT_TRUE(enter_cgroup(cgroup, peer_pid(2)));
	ASSERT_OK(map_by(1, BULK, 200, NULL));
	for (int i = 0; i < 2; i++)
		ASSERT_OK(map_by(1, 1, 7, &m[i].addr));
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(ask(1, OP_UNMAP, m[0].addr, 0));
	ASSERT_OK(ask(1, OP_FREE, m[1].addr, 0));
	m[0].peer = third;
	ASSERT_OK(map_by(third, 1, 7, &m[0].addr));
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));

	reclaim_all_kinds(cgroup);
	/* Or MADV_FREE of peer 1 has wiped it */
	EXPECT_OK(check_holds(third, m[0].addr, 7));
}

TEST_F_TIMEOUT(ksm_rmap, madv_free_before_another_page_is_merged, SLOW)
{
	free_and_reclaim(_metadata, self->cgroup, 1);
}

TEST_F_TIMEOUT(ksm_rmap, madv_free_before_a_page_of_another_is_merged, SLOW)
{
	free_and_reclaim(_metadata, self->cgroup, 2);
}

/* What unmerging has copied is shared by fork, and the child says MADV_FREE */
TEST_F_TIMEOUT(ksm_rmap, madv_free_of_an_unmerged_page, SLOW)
{
	enum { NR = BULK };	/* pages */
	char *area[2];
	const char *missing = make_cgroup(self->cgroup);
	int lost = 0;

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_OK(fork_peer(1, 0));
	ASSERT_TRUE(enter_cgroup(self->cgroup, peer_pid(1)));
	for (int i = 0; i < 2; i++)
		ASSERT_OK(map_by(1, NR, 1000, &area[i]));
	ASSERT_TRUE(ksm_scan(4));
	for (int i = 0; i < NR; i++) {
		const struct mapping m[] = { { 1, area[0] + i * self->page },
					     { 1, area[1] + i * self->page } };

		ASSERT_OK(merge(m, 2));
	}
	write_num(KSM_SYSFS "run", 2);
	ASSERT_OK(fork_peer(2, 1));
	for (int i = 0; i < NR; i++)
		ASSERT_OK(ask(2, OP_FREE, area[0] + i * self->page, 0));

	reclaim_all_kinds(self->cgroup);
	for (int i = 0; i < NR; i++)
		lost += !!check_holds(1, area[0] + i * self->page, 1000 + i);
	EXPECT_EQ(0, lost) {
		TH_LOG("MADV_FREE of peer 2 has wiped %d of %d pages of peer 1",
		       lost, NR);
	}
}

/*
 * Has peers 1 and 2, forked here, map BULK pages each, at @area[0] and @area[1].  Those
 * of equal content, m[2 * i] and m[2 * i + 1], are merged, and swapped out by both.
 */
static void swap_out_merged(struct __test_metadata *_metadata, const char *cgroup,
			    char *area[2], struct mapping m[2 * BULK])
{
	for (int j = 0; j < 2; j++) {
		ASSERT_OK(fork_peer(1 + j, 0));
		ASSERT_TRUE(enter_cgroup(cgroup, peer_pid(1 + j)));
		ASSERT_OK(map_by(1 + j, BULK, 1000, &area[j]));
		for (int i = 0; i < BULK; i++)
			m[2 * i + j] = (struct mapping){ 1 + j,
							 area[j] + i * psize() };
	}
	for (int i = 0; i < BULK; i++)
		ASSERT_OK(merge(&m[2 * i], 2));
	ASSERT_EQ(2 * BULK, swap_out(cgroup, m, 2 * BULK));
}

/*
 * A KSM page that was swapped out comes back as an ordinary page of who touches it
 * first.  It is in the swap cache when the second comes, and its anon_vma is not
 * there any more: KASAN sees who looks at that.
 */
TEST_F_TIMEOUT(ksm_rmap, swapped_in_after_the_first_has_exited, SLOW)
{
	enum { NR = BULK };	/* pages */
	struct mapping m[2 * NR];
	char *area[2];
	const char *missing = make_cgroup(self->cgroup);

	if (missing)
		SKIP(return, "%s", missing);
	swap_out_merged(_metadata, self->cgroup, area, m);
	ASSERT_EQ((void *)area[0], (void *)area[1]);	/* so the same index */

	for (int i = 0; i < NR; i++)
		EXPECT_OK(check_holds(1, area[0] + i * self->page, 1000 + i));
	ASSERT_OK(exit_peer(1));
	for (int i = 0; i < NR; i++) {
		EXPECT_OK(check_holds(2, area[0] + i * self->page, 1000 + i));
		ASSERT_OK(check_unmerged(2, area[0] + i * self->page, 1000 + i));
	}
	/* It is an ordinary page now, which rmap finds or cannot move */
	for (int i = 0; i < 8; i++) {
		const struct mapping second = { 2, area[0] + i * self->page };

		EXPECT_OK(check_walk(pfn_at(&second), &second));
	}
}

/*
 * A page that comes back from swap to a parent and to its child is not copied for the
 * second: it is at the same index.  That need not be the offset in the file which the
 * VMA maps.
 */
TEST_F_TIMEOUT(ksm_rmap, private_file_mapping_swapped_in, SLOW)
{
	enum { NR = BULK };	/* pages */
	char *area = new_file_area(2 * NR, 32);
	struct mapping m[2 * 2 * NR];
	const char *missing = make_cgroup(self->cgroup);
	int shared = 0;

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_OK(fork_peer(1, 0));
	ASSERT_TRUE(enter_cgroup(self->cgroup, peer_pid(1)));
	for (int i = 0; i < 2 * NR; i++) {
		m[i] = (struct mapping){ 1, area + i * self->page };
		m[2 * NR + i] = (struct mapping){ 2, m[i].addr };
		ASSERT_OK(ask(1, OP_FILL, m[i].addr, 1000 + i / 2));
	}
	for (int i = 0; i < 2 * NR; i += 2)
		ASSERT_OK(merge(&m[i], 2));
	ASSERT_OK(fork_peer(2, 1));
	ASSERT_EQ(2 * 2 * NR, swap_out(self->cgroup, m, 2 * 2 * NR));

	for (int i = 0; i < 2 * NR; i += 2) {
		const struct mapping both[] = { m[i], m[2 * NR + i] };

		for (int j = 0; j < 2; j++)
			EXPECT_OK(check_holds(both[j].peer, both[j].addr, 1000 + i / 2));
		shared += pfn_at(&both[0]) == pfn_at(&both[1]);
	}
	EXPECT_EQ(NR, shared);
}

/*
 * Finds @nr pages at @area whose swap entries can be read as one large folio: they
 * follow each other, and the first one is aligned.  Returns: which is the first, or -1
 */
static int find_slots(pid_t pid, const char *area, int pages, size_t nr)
{
	unsigned long slot, last = 0;
	size_t found = 0;

	for (int i = 0; i < pages; i++) {
		/* Bits 5 to 54 of the entry are the offset in the swap device */
		slot = pagemap_of(pid, area + i * psize()) << 9 >> 14;
		if (found && slot == last + 1)
			found++;
		else
			found = slot % nr == 0;
		if (found == nr)
			return i + 1 - nr;
		last = slot;
	}
	return -1;
}

/*
 * Swap-in may read the pages around the one that is touched, too, and map them all
 * as one large folio.  Others that have the same swap entries come to it in the swap
 * cache, but rmap does not find them there.
 */
TEST_F_TIMEOUT(ksm_rmap, swapped_in_as_a_large_folio, SLOW)
{
	enum { NR = BULK };	/* pages, mapped by both peers */
	const size_t page = self->page;
	/* Pages of a size that ksm_rmap.sh has switched on */
	const size_t nr = (page < 65536 ? 65536 : 2 << 20) / page;
	const char *missing = make_cgroup(self->cgroup);
	const char *device = getenv("KSM_RMAP_SWAP");	/* swap of our own */
	char *area[2], *to[2];
	struct mapping m[2 * NR];
	int first;

	if (missing)
		SKIP(return, "%s", missing);
	if (access("/sys/kernel/mm/transparent_hugepage/enabled", F_OK))
		SKIP(return, "no transparent huge pages");
	swap_out_merged(_metadata, self->cgroup, area, m);
	first = find_slots(peer_pid(1), area[0], NR, nr);
	ASSERT_LE(0, first);

	/* The address must be aligned like the swap entry */
	for (int j = 0; j < 2; j++) {
		ASSERT_OK(map_by(1 + j, 2 * nr, 5000, &to[j]));
		to[j] += -(uintptr_t)to[j] % (nr * page);
		for (size_t i = 0; i < nr; i++)
			ASSERT_OK(ask(1 + j, OP_MOVE, area[j] + (first + i) * page,
				      (unsigned long)to[j] + i * page));
		ASSERT_OK(ask_nr(1 + j, OP_HUGEPAGE, to[j], 0, nr));
	}

	ASSERT_OK(ask(1, OP_TOUCH, to[0], 0));
	if (!(kpageflags_of(pfn_of(peer_pid(1), to[0])) & KPF_THP))
		SKIP(return, "swap-in makes no large folio of what others have swapped out");
	for (size_t i = 0; i < nr; i++) {
		const struct mapping back[] = { { 1, to[0] + i * page },
						{ 2, to[1] + i * page } };

		/* One half comes back by page faults, the other one by swapoff */
		if (i == nr / 2 && device) {
			ASSERT_EQ(0, swapoff(device));
			ASSERT_EQ(0, swapon(device, 0));
		}
		for (int j = 0; j < 2; j++)
			EXPECT_OK(check_holds(1 + j, back[j].addr, 1000 + first + i));
		EXPECT_NE(pfn_at(&back[0]), pfn_at(&back[1]));
		/* page_idle walks a folio by its first page */
		for (int j = 0; j < 2 && !i; j++)
			EXPECT_OK(check_walk(pfn_at(&back[j]), &back[j]));
	}
}

/*
 * A page that comes back from swap may have swap entries in processes that have
 * nothing to do with the one it comes back to, if it was a KSM page before.  If it
 * becomes one again, they must not miss it.
 */
TEST_F_TIMEOUT(ksm_rmap, merged_again_with_other_swap_entries, SLOW)
{
	enum { NR = BULK };	/* pages */
	struct mapping m[2 * NR];
	char *area[2], *other;
	const char *missing = make_cgroup(self->cgroup);
	int merged = 0;

	if (missing)
		SKIP(return, "%s", missing);
	swap_out_merged(_metadata, self->cgroup, area, m);

	/* Back to peer 1, where it is merged with another, which is scanned first */
	for (int i = 0; i < NR; i++)
		EXPECT_OK(check_holds(1, m[2 * i].addr, 1000 + i));
	ASSERT_OK(map_by(1, NR, 1000, &other));
	ASSERT_LT((unsigned long)other, (unsigned long)area[0]);
	ASSERT_TRUE(ksm_scan(4));
	for (int i = 0; i < NR; i++) {
		const struct mapping pair[] = { m[2 * i],
						{ 1, other + i * self->page } };

		merged += are_merged(pair, 2);
	}
	EXPECT_LT(0, merged);

	for (int i = 0; i < NR; i++) {
		ASSERT_OK(ask(2, OP_TOUCH, m[2 * i + 1].addr, 0));
		ASSERT_OK(check_found_or_copied(&m[2 * i + 1], 1000 + i));
		ASSERT_OK(check_found_or_copied(&m[2 * i], 1000 + i));
	}
}

/*
 * Of two equal pages, the one that ksmd comes to cannot become a KSM page: there are
 * swap entries of it elsewhere.  Nor can the one that it has seen before: that has
 * been replaced by a KSM page since, which was in the swap cache.
 */
TEST_F_TIMEOUT(ksm_rmap, merge_with_one_that_is_merged_by_now, SLOW)
{
	enum { NR = 32 };	/* pages */
	struct mapping m[4], ksm[2], other[2];
	char *area;
	const char *missing = make_cgroup(self->cgroup);

	if (missing)
		SKIP(return, "%s", missing);
	write_num(KSM_SYSFS "smart_scan", 0);
	write_num(KSM_SYSFS "max_page_sharing", 2);
	for (int i = 1; i <= 3; i++) {
		ASSERT_OK(fork_peer(i, 0));
		ASSERT_TRUE(enter_cgroup(self->cgroup, peer_pid(i)));
	}
	ASSERT_OK(map_by(1, NR, 1000, &area));
	for (int i = 0; i < 2; i++) {
		m[i] = (struct mapping){ 1, area + (1 + i) * self->page };
		ASSERT_OK(ask(1, OP_FILL, m[i].addr, 7));
		ksm[i] = m[i];
	}
	ASSERT_OK(merge(ksm, ARRAY_SIZE(ksm)));
	ASSERT_OK(ask(1, OP_HOLD, m[0].addr, 0));
	for (int i = 0; i < 2; i++) {
		m[2 + i].peer = 2 + i;
		ASSERT_OK(map_by(2 + i, 1, 7, &m[2 + i].addr));
		other[i] = m[2 + i];
	}
	ASSERT_OK(merge(other, ARRAY_SIZE(other)));
	ASSERT_NE(pfn_at(&ksm[0]), pfn_at(&other[0]));
	ASSERT_EQ(4, swap_out(self->cgroup, m, 4));

	/* An ordinary page now, which peer 3 has swapped out */
	ASSERT_OK(ask(2, OP_TOUCH, other[0].addr, 0));
	ASSERT_NE(0, pfn_at(&other[0]));
	ASSERT_FALSE(pfn_is_ksm(pfn_at(&other[0])));

	/* ksmd has seen one with that content when the KSM page comes there */
	for (int i = 3; i < NR; i++)
		ASSERT_OK(ask(1, OP_TOUCH, area + i * self->page, 0));
	ASSERT_OK(ask(1, OP_FILL, area, 7));
	write_num(KSM_SYSFS "sleep_millisecs", 200);
	ASSERT_TRUE(ksm_scan(1));
	ASSERT_OK(scan_partly(NR / 2));
	ASSERT_OK(ask(1, OP_MOVE, ksm[0].addr, (unsigned long)area));
	ksm[0].addr = area;
	for (int i = 0; i < 2; i++)
		ASSERT_OK(ask(1, OP_TOUCH, ksm[i].addr, 0));
	ASSERT_OK(check_found(ksm, ARRAY_SIZE(ksm), 7));
	ASSERT_TRUE(ksm_scan(2));
	ASSERT_OK(check_found(ksm, ARRAY_SIZE(ksm), 7));
	for (int i = 0; i < 2; i++)
		EXPECT_OK(check_holds(2 + i, other[i].addr, 7));
	ASSERT_OK(ask(1, OP_RELEASE, NULL, 0));
}

/*
 * A KSM page that was swapped out, but is still in the swap cache, is mapped as it
 * is by whoever touches it next, and rmap must find it there, whatever has happened
 * to the swap entry meanwhile, and to who had an rmap_item.
 *
 *      m[0]     m[1]     m[2]
 *    |  1  | 101 |  1  | 103 |  1  |
 *
 * All of these belong to peer 1, and m[1] is what something happens to.
 */
FIXTURE(swap_cache)
{
	char cgroup[CGROUP_PATH];
};

FIXTURE_VARIANT(swap_cache)
{
	bool run_2;	/* everything is unmerged */
	bool ksmd;	/* scans, and drops the rmap_items of what is not there */
	bool forked;	/* it happens in a child, which has m[3] to m[5] */
	bool own;	/* the child has rmap_items of its own */
	int present;	/* which is mapped again before, other than m[0] */
	enum op op;	/* what happens to m[1]; 0 for nothing */
	int to;		/* OP_MOVE: where m[to] is, or a new place */
	int flags;	/* OP_MOVE: for mremap() */
};

FIXTURE_VARIANT_ADD(swap_cache, touched)
{
};

FIXTURE_VARIANT_ADD(swap_cache, unmerged)
{
	.run_2 = true,
};

FIXTURE_VARIANT_ADD(swap_cache, dropped)
{
	.ksmd = true,
};

FIXTURE_VARIANT_ADD(swap_cache, dropped_forked)
{
	.ksmd = true,
	.forked = true,
};

/* The child's rmap_items do not lead to the parent */
FIXTURE_VARIANT_ADD(swap_cache, dropped_child_present)
{
	.ksmd = true,
	.forked = true,
	.own = true,
	.present = 4,
};

FIXTURE_VARIANT_ADD(swap_cache, dropped_other_present)
{
	.ksmd = true,
	.present = 2,
};

FIXTURE_VARIANT_ADD(swap_cache, moved)
{
	.op = OP_MOVE,
	.to = -1,
};

FIXTURE_VARIANT_ADD(swap_cache, moved_forked)
{
	.op = OP_MOVE,
	.to = -1,
	.forked = true,
};

FIXTURE_VARIANT_ADD(swap_cache, moved_other_present)
{
	.op = OP_MOVE,
	.to = -1,
	.present = 2,
};

FIXTURE_VARIANT_ADD(swap_cache, moved_dontunmap)
{
	.op = OP_MOVE,
	.to = -1,
	.flags = MREMAP_DONTUNMAP,
};

FIXTURE_VARIANT_ADD(swap_cache, moved_to_sharer)
{
	.op = OP_MOVE,
	.to = 0,
};

FIXTURE_VARIANT_ADD(swap_cache, moved_to_sharer_forked)
{
	.op = OP_MOVE,
	.to = 0,
	.forked = true,
};

FIXTURE_VARIANT_ADD(swap_cache, moved_to_sharer_other_present)
{
	.op = OP_MOVE,
	.to = 0,
	.present = 2,
};

FIXTURE_VARIANT_ADD(swap_cache, moved_to_sharer_dontunmap)
{
	.op = OP_MOVE,
	.to = 0,
	.flags = MREMAP_DONTUNMAP,
};

FIXTURE_VARIANT_ADD(swap_cache, moved_to_present_sharer)
{
	.op = OP_MOVE,
	.to = 2,
	.present = 2,
};

FIXTURE_VARIANT_ADD(swap_cache, unmergeable)
{
	.op = OP_UNMERGEABLE,
};

FIXTURE_VARIANT_ADD(swap_cache, unmergeable_forked)
{
	.op = OP_UNMERGEABLE,
	.forked = true,
};

FIXTURE_VARIANT_ADD(swap_cache, unmergeable_other_present)
{
	.op = OP_UNMERGEABLE,
	.present = 2,
};

FIXTURE_SETUP(swap_cache)
{
	const char *missing = ksm_rmap_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_OK(set_up());
	missing = make_cgroup(self->cgroup);
	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(swap_cache)
{
	tear_down_with_cgroup(self->cgroup);
}

/* With two memory nodes, the page at @m can be migrated */
static void move_to_other_node(struct __test_metadata *_metadata, const struct mapping *m)
{
	const pid_t pid = peer_pid(m->peer);
	int node;

	if (access(NODE1, F_OK))
		return;
	node = page_node(pid, m->addr);
	ASSERT_LE(0, node);
	ASSERT_EQ(0, page_move_to_node(pid, m->addr, !node));
}

/* The page at @m can be replaced, if its frame can be put back afterwards */
static void soft_offline(struct __test_metadata *_metadata, const struct mapping *m)
{
	const unsigned long pfn = pfn_at(m);

	if (access(UNPOISON, W_OK))
		return;
	EXPECT_OK(ask(m->peer, OP_OFFLINE, m->addr, 0));
	if (pfn_at(m) != pfn)
		EXPECT_EQ(0, unpoison_memory(pfn));
}

TEST_F_TIMEOUT(swap_cache, found_or_copied, SLOW)
{
	const int who = variant->forked ? 2 : 1, n = variant->forked ? 6 : 3;
	const size_t page = psize();
	struct mapping m[6], *it;
	char *area, *to;
	unsigned long pfn;

	ASSERT_OK(fork_peer(1, 0));
	ASSERT_TRUE(enter_cgroup(self->cgroup, peer_pid(1)));
	ASSERT_OK(map_by(1, 5, 100, &area));
	ASSERT_OK(map_by(1, BULK, 200, &to));
	for (int i = 0; i < 3; i++) {
		m[i] = (struct mapping){ 1, area + 2 * i * page };
		m[i + 3] = (struct mapping){ 2, m[i].addr };
		ASSERT_OK(ask(1, OP_FILL, m[i].addr, 1));
	}
	ASSERT_OK(merge(m, 3));

	/* The reference keeps it in the swap cache, whatever the swap device */
	pfn = pfn_at(&m[0]);
	ASSERT_OK(ask(1, OP_HOLD, m[0].addr, 0));
	if (variant->own) {
		ASSERT_OK(fork_peer(2, 1));
		ASSERT_TRUE(ksm_scan(2));
		ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
	}
	ASSERT_EQ(variant->own ? 6 : 3,
		  swap_out(self->cgroup, m, variant->own ? 6 : 3));
	if (variant->forked && !variant->own)
		ASSERT_OK(fork_peer(2, 1));
	if (variant->present) {
		it = &m[variant->present];
		ASSERT_OK(ask(it->peer, OP_TOUCH, it->addr, 0));
		ASSERT_EQ(pfn, pfn_at(it));
		ASSERT_TRUE(pfn_is_ksm(pfn));
	}

	it = &m[variant->forked ? 4 : 1];
	if (variant->op == OP_MOVE) {
		if (variant->to >= 0)
			to = m[variant->to].addr;
		ASSERT_OK(ask_nr(who, OP_MOVE, it->addr, (unsigned long)to,
				 variant->flags));
		it->addr = to;
	} else if (variant->op == OP_UNMERGEABLE) {
		ASSERT_OK(ask(who, OP_UNMERGEABLE, it->addr, 0));
	}
	if (variant->run_2)
		write_num(KSM_SYSFS "run", 2);
	if (variant->ksmd)
		ASSERT_TRUE(ksm_scan(1));

	/* All come back; and again, when ksmd has seen what became of them */
	for (int scanned = 0; scanned < 2; scanned++) {
		for (int i = 0; i < n; i++)
			ASSERT_OK(ask(m[i].peer, OP_TOUCH, m[i].addr, 0));
		for (int i = 0; i < n; i++)
			ASSERT_OK(check_found_or_copied(&m[i], 1));
		if (variant->run_2 && !scanned)
			ASSERT_OK(check_unmerged(who, it->addr, 1));
		else if (!variant->run_2)
			ASSERT_EQ(pfn, pfn_at(it));	/* no need for a copy */
		if (!scanned)
			ASSERT_TRUE(ksm_scan(1));
	}

	/* What is not found cannot be moved, nor taken offline */
	ASSERT_OK(ask(1, OP_RELEASE, NULL, 0));
	if (variant->forked)
		ASSERT_OK(ask(2, OP_RELEASE, NULL, 0));
	for (int i = 0; i < n; i++) {
		pfn = pfn_at(&m[i]);
		move_to_other_node(_metadata, &m[i]);
		soft_offline(_metadata, &m[i]);
		/* If this machine can do one of these */
		if (!access(NODE1, F_OK) || !access(UNPOISON, W_OK))
			ASSERT_NE(pfn, pfn_at(&m[i]));
		ASSERT_OK(check_holds(m[i].peer, m[i].addr, 1));
	}
}

/*
 * swapoff maps a page that is in the swap cache at each swap entry that it has, and
 * has no memory for copies: the cgroup is at its limit.
 */
FIXTURE(swapoff)
{
	char cgroup[CGROUP_PATH];
	const char *device;
};

FIXTURE_VARIANT(swapoff)
{
	bool moved;	/* by mremap, all that is swapped out */
	bool forked;	/* it is a child that has it swapped out, and no rmap_item */
};

FIXTURE_VARIANT_ADD(swapoff, after_mremap)
{
	.moved = true,
};

FIXTURE_VARIANT_ADD(swapoff, after_fork)
{
	.forked = true,
};

FIXTURE_VARIANT_ADD(swapoff, after_fork_and_mremap)
{
	.moved = true,
	.forked = true,
};

FIXTURE_SETUP(swapoff)
{
	const char *missing;
	char swaps[256];

	self->device = getenv("KSM_RMAP_SWAP");
	if (!self->device)
		SKIP(return, "no swap of our own to turn off: see ksm_rmap.sh");
	missing = ksm_rmap_missing();
	if (missing)
		SKIP(return, "%s", missing);
	/* Nowhere else can a page be swapped to */
	ASSERT_LT(0, read_file("/proc/swaps", swaps, sizeof(swaps)));
	ASSERT_NE(NULL, strstr(swaps, self->device));
	ASSERT_EQ(1, strlen(strchr(strchr(swaps, '\n') + 1, '\n')));
	ASSERT_OK(set_up());
	missing = make_cgroup(self->cgroup);
	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(swapoff)
{
	/* EBUSY if it is on */
	swapon(self->device, 0);
	tear_down_with_cgroup(self->cgroup);
}

TEST_F_TIMEOUT(swapoff, finds_room, SLOW)
{
	enum { NR = 200 };	/* sharers */
	const size_t page = psize();
	const int who = variant->forked ? 2 : 1;
	struct mapping m[NR];
	char *area, *to, path[128];
	unsigned long pfn;

	ASSERT_OK(fork_peer(1, 0));
	ASSERT_TRUE(enter_cgroup(self->cgroup, peer_pid(1)));
	ASSERT_OK(map_by(1, NR, 100, &area));
	ASSERT_OK(map_by(1, NR, 1000, &to));
	for (int i = 0; i < NR; i++) {
		m[i] = (struct mapping){ 1, area + i * page };
		ASSERT_OK(ask(1, OP_FILL, m[i].addr, 7));
	}
	ASSERT_OK(merge(m, NR));
	/* The reference keeps it in the swap cache */
	pfn = pfn_at(&m[0]);
	ASSERT_OK(ask(1, OP_HOLD, m[0].addr, 0));
	ASSERT_EQ(NR, swap_out(self->cgroup, m, NR));

	if (variant->forked)
		ASSERT_OK(fork_peer(2, 1));
	for (int i = 0; i < NR; i++) {
		m[i].peer = who;
		if (!variant->moved)
			continue;
		ASSERT_OK(ask(who, OP_MOVE, m[i].addr, (unsigned long)to + i * page));
		m[i].addr = to + i * page;
	}

	/*
	 * Room for what else has been swapped out, and for what CPUs charge in
	 * advance, but not for copies
	 */
	snprintf(path, sizeof(path), "%s/memory.swap.current", self->cgroup);
	const long swapped = ksm_knob(path);

	snprintf(path, sizeof(path), "%s/memory.current", self->cgroup);
	const long current = ksm_knob(path);

	snprintf(path, sizeof(path), "%s/memory.max", self->cgroup);
	write_num(path, current + swapped + NR / 2 * page);
	ASSERT_EQ(0, swapoff(self->device));
	for (int i = 0; i < NR; i++)
		ASSERT_EQ(pfn, pfn_at(&m[i]));
	ASSERT_TRUE(write_text(path, "max"));
	ASSERT_EQ(0, swapon(self->device, 0));
	ASSERT_OK(check_found(m, NR, 7));
	ASSERT_OK(ask(1, OP_RELEASE, NULL, 0));
}

int main(int argc, char **argv)
{
	prepare_tests(argc, argv);
	return test_harness_run(argc, argv);
}
