// SPDX-License-Identifier: GPL-2.0
/*
 * Does rmap find the mappings of a KSM page that children have by fork, and those
 * of their parents?  See ksm_rmap.c.
 */
#include "kselftest_harness.h"
#include <sys/prctl.h>

#include "vm_util.h"
#include "ksm_rmap_util.h"
#include "ksm_rmap_peers.h"
#include "ksm_rmap_checks.h"
#include "ksm_rmap_fixture.h"

TEST_F(ksm_rmap, fork)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) },
			       { 1, self->one }, { 1, NULL } };
	struct mapping before[] = { m[0], m[1] };

	m[3].addr = m[1].addr;
	fill_page(m[1].addr, 1);
	ASSERT_OK(merge(before, ARRAY_SIZE(before)));
	ASSERT_OK(fork_peer(1, 0));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
	/* Now the child's mappings have rmap_items too */
	ASSERT_TRUE(ksm_scan(2));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
}

TEST_F(ksm_rmap, fork_child_only)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) } };
	struct mapping child[] = { { 1, m[0].addr }, { 1, m[1].addr } };

	fill_page(m[1].addr, 1);
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(fork_peer(1, 0));
	ASSERT_EQ(0, munmap(m[0].addr, self->page));
	ASSERT_EQ(0, munmap(m[1].addr, self->page));
	ASSERT_OK(check_found(child, ARRAY_SIZE(child), 1));
	ASSERT_TRUE(ksm_scan(2));
	ASSERT_OK(check_found(child, ARRAY_SIZE(child), 1));
}

TEST_F(ksm_rmap, fork_grandchild)
{
	struct mapping m[6] = { { 0, self->one }, { 0, new_area(1) } };
	struct mapping before[] = { m[0], m[1] };

	fill_page(m[1].addr, 1);
	ASSERT_OK(merge(before, ARRAY_SIZE(before)));
	ASSERT_OK(fork_peer(1, 0));
	ASSERT_OK(fork_peer(2, 1));
	for (int i = 2; i < 6; i++)
		m[i] = (struct mapping){ i / 2, m[i % 2].addr };
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));

	/* The grandchild outlives its parent */
	struct mapping rest[] = { m[0], m[1], m[4], m[5] };

	ASSERT_OK(exit_peer(1));
	ASSERT_OK(check_found(rest, ARRAY_SIZE(rest), 1));
	ASSERT_TRUE(ksm_scan(2));
	ASSERT_OK(check_found(rest, ARRAY_SIZE(rest), 1));
}

TEST_F(ksm_rmap, fork_child_that_wrote)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) },
			       { 1, self->one } };
	struct mapping before[] = { m[0], m[1] };

	fill_page(m[1].addr, 1);
	ASSERT_OK(merge(before, ARRAY_SIZE(before)));
	ASSERT_OK(fork_peer(1, 0));
	ASSERT_OK(ask(1, OP_FILL, m[1].addr, 5));
	ASSERT_OK(check_unmerged(1, m[1].addr, 5));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
	ASSERT_TRUE(ksm_scan(2));
	ASSERT_OK(check_unmerged(1, m[1].addr, 5));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
}

TEST_F(ksm_rmap, fork_parent_that_exited)
{
	struct mapping m[3] = { { 0, self->one } }, parent[3] = { m[0] };

	ASSERT_OK(fork_peer(1, 0));
	for (int i = 1; i < 3; i++) {
		parent[i].peer = 1;
		ASSERT_OK(map_by(1, 1, 1, &parent[i].addr));
		m[i] = (struct mapping){ 2, parent[i].addr };
	}
	ASSERT_OK(merge(parent, ARRAY_SIZE(parent)));
	ASSERT_OK(fork_peer(2, 1));
	ASSERT_OK(exit_peer(1));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
	/* ksmd drops the rmap_items of the parent, and makes the child's own */
	ASSERT_TRUE(ksm_scan(2));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
}

/*
 * Fork has shared pages with a process in which they are not for KSM: ksmd never
 * scans them there.  Which of two equal pages becomes the KSM page, depends on
 * which ksmd comes to first, so have it both ways.
 */
TEST_F(ksm_rmap, fork_child_of_unmergeable_parent)
{
	char *area = new_area(2);
	struct mapping first[] = { { 1, NULL }, { 2, area } };
	struct mapping last[] = { { 2, area + self->page }, { 3, NULL } };

	for (int i = 0; i < 2; i++)
		ASSERT_OK(ask(0, OP_UNMERGEABLE, area + i * self->page, 0));
	ASSERT_OK(fork_peer(1, 0));
	ASSERT_OK(map_by(1, 1, 100, &first[0].addr));
	ASSERT_OK(fork_peer(2, 0));
	for (int i = 0; i < 2; i++)
		ASSERT_OK(ask(2, OP_MERGEABLE, area + i * self->page, 0));
	ASSERT_OK(fork_peer(3, 0));
	ASSERT_OK(map_by(3, 1, 101, &last[1].addr));

	ASSERT_OK(merge(first, ARRAY_SIZE(first)));
	ASSERT_OK(merge(last, ARRAY_SIZE(last)));
	ASSERT_OK(check_found(first, ARRAY_SIZE(first), 100));
	ASSERT_OK(check_found(last, ARRAY_SIZE(last), 101));
	for (int i = 0; i < 2; i++) {
		const struct mapping parent = { 0, area + i * self->page };

		ASSERT_OK(check_found_or_copied(&parent, 100 + i));
	}
}

TEST_F(ksm_rmap, fork_unmergeable_child)
{
	char *area = new_area(4);
	struct mapping first[] = { { 0, area }, { 0, area + self->page } };
	struct mapping last[] = { { 0, area + 2 * self->page },
				  { 0, area + 3 * self->page } };
	struct mapping shared[] = { { 1, first[1].addr }, { 1, last[0].addr } };

	fill_page(first[1].addr, 200);
	fill_page(last[0].addr, 201);
	ASSERT_OK(fork_peer(1, 0));
	for (int i = 0; i < 2; i++)
		ASSERT_OK(ask(1, OP_UNMERGEABLE, shared[i].addr, 0));
	fill_page(first[0].addr, 200);
	fill_page(last[1].addr, 201);

	ASSERT_OK(merge(first, ARRAY_SIZE(first)));
	ASSERT_OK(merge(last, ARRAY_SIZE(last)));
	/* Who made it a KSM page, has no use for it any more */
	fill_page(first[1].addr, 1000);
	fill_page(last[0].addr, 1001);
	ASSERT_TRUE(ksm_scan(3));
	for (int i = 0; i < 2; i++)
		ASSERT_OK(check_found_or_copied(&shared[i], 200 + i));
}

/*
 * ksmd makes a page a KSM page, and then cannot replace the other by it.  Whoever
 * shares that page by fork still has it then.
 */
TEST_F_TIMEOUT(ksm_rmap, fork_and_merge_that_fails, SLOW)
{
	enum { CHILDREN = 20 };
	char *busy, *shared;

	ASSERT_OK(fork_peer(1, 0));
	ASSERT_OK(map_by(1, 1, 100, &busy));
	ASSERT_OK(fork_peer(2, 0));
	ASSERT_OK(map_by(2, 1, 100, &shared));
	write_num(KSM_SYSFS "smart_scan", 0);
	ASSERT_OK(ask(1, OP_HOLD, busy, 0));
	ASSERT_TRUE(ksm_scan(3));
	for (int i = 3; i < 3 + CHILDREN; i++) {
		const struct mapping m[] = { { 2, shared }, { i, shared } };

		/* Seen for the first time: not yet merged with anything */
		ASSERT_OK(fork_peer(i, 2));
		/*
		 * Nor is there always memory: for a node, first of all since
		 * all share one KSM page once there was one; or at all
		 */
		if ((i % 4 == 3 && ksmd_fails(100, "ksm_stable_node")) ||
		    (i % 4 == 1 && ksmd_fails(50, NULL))) {
			ASSERT_TRUE(ksm_scan(3));
			ksmd_fails(0, NULL);
		}
		ASSERT_TRUE(ksm_scan(1));
		ASSERT_OK(check_found_or_copied(&m[0], 100));
		ASSERT_OK(check_found_or_copied(&m[1], 100));
	}
	ASSERT_OK(ask(1, OP_RELEASE, NULL, 0));
}

/* Fork copies some of the zero pages that KSM has placed, and not others */
TEST_F(ksm_rmap, fork_counts_zero_pages)
{
	enum { NR = 12 };	/* pages */
	const long before = ksm_counter("ksm_zero_pages");
	char *area = map_area(NR + 1);

	ASSERT_NE(NULL, area);
	memset(area, 0, NR * self->page);
	fill_page(area + NR * self->page, 1);
	ASSERT_EQ(0, madvise(area, 2 * self->page, MADV_DONTFORK));
	ASSERT_EQ(0, madvise(area + 2 * self->page, 3 * self->page,
			     MADV_WIPEONFORK));
	write_num(KSM_SYSFS "use_zero_pages", 1);
	ASSERT_TRUE(ksm_scan(4));
	ASSERT_EQ(before + NR, ksm_counter("ksm_zero_pages"));

	ASSERT_OK(fork_peer(1, 0));
	EXPECT_EQ(before + NR + NR - 5, ksm_counter("ksm_zero_pages"));
	EXPECT_EQ(NR, ksm_get_self_zero_pages());
	EXPECT_EQ(NR - 5, ksm_stat_of(peer_pid(1), "ksm_zero_pages"));
	/* Of the last page; ksmd has not come to the child yet */
	EXPECT_LT(0, ksm_stat_of(getpid(), "ksm_rmap_items"));
	EXPECT_EQ(0, ksm_stat_of(peer_pid(1), "ksm_rmap_items"));
	ASSERT_OK(exit_peer(1));
	EXPECT_EQ(before + NR, ksm_counter("ksm_zero_pages"));
	ASSERT_EQ(0, munmap(area, (NR + 1) * self->page));
	EXPECT_EQ(before, ksm_counter("ksm_zero_pages"));
}

/* exec keeps PR_SET_MEMORY_MERGE; and the old pages, which a child still has */
TEST_F(ksm_rmap, exec_with_memory_merge)
{
	struct mapping m[] = { { 2, NULL }, { 2, NULL }, { 1, NULL }, { 1, NULL } };

	ASSERT_OK(fork_peer(1, 0));
	for (int i = 2; i < 4; i++) {
		ASSERT_OK(map_by(1, 1, 7, &m[i].addr));
		m[i - 2].addr = m[i].addr;
	}
	struct mapping before[] = { m[2], m[3] };

	ASSERT_OK(merge(before, ARRAY_SIZE(before)));
	ASSERT_OK(fork_peer(2, 1));
	ASSERT_OK(ask(1, OP_EXEC, NULL, 0));
	ASSERT_TRUE(ksm_scan(2));
	struct mapping left[] = { m[0], m[1] };

	ASSERT_OK(check_found(left, ARRAY_SIZE(left), 7));

	/* Nobody says MADV_MERGEABLE for these */
	for (int i = 2; i < 4; i++) {
		ASSERT_OK(map_by(1, 1, 8, &m[i].addr));
		ASSERT_OK(ask(1, OP_REPLACE, m[i].addr, 7));
	}
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 7));
}

/* A child that KSM does not know, since there was no memory for that */
TEST_F(ksm_rmap, fork_of_a_child_that_ksmd_does_not_know)
{
	struct mapping m[] = { { 1, NULL }, { 1, NULL } };
	struct mapping child[] = { { 2, NULL }, { 2, NULL } };

	ASSERT_OK(fork_peer(1, 0));
	for (int i = 0; i < 2; i++) {
		ASSERT_OK(map_by(1, 1, 7, &m[i].addr));
		child[i].addr = m[i].addr;
	}
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	if (!allocations_fail(peer_pid(1), 100, "ksm_mm_slot"))
		TH_LOG("ksmd does know it: needs CONFIG_FAILSLAB, slab_nomerge");
	ASSERT_OK(fork_peer(2, 1));
	allocations_fail(peer_pid(1), 0, "ksm_mm_slot");
	ASSERT_OK(ask(1, OP_FILL, m[0].addr, 1000));
	ASSERT_TRUE(ksm_scan(2));
	ASSERT_OK(check_found(child, ARRAY_SIZE(child), 7));
	ASSERT_OK(end_peer(1));
	ASSERT_TRUE(ksm_scan(2));
	ASSERT_OK(check_found(child, ARRAY_SIZE(child), 7));
}

/*
 * ksmd has made the child's page a KSM page, and has not looked at the parent: it
 * never does, since that has not asked for it.
 */
TEST_F(ksm_rmap, shared_with_a_parent_that_ksmd_does_not_scan)
{
	struct mapping parent = { 1, NULL }, child = { 2, NULL };
	char *to;

	ASSERT_OK(fork_peer(1, 0));
	ASSERT_OK(map_by(1, 1, 100, &parent.addr));
	child.addr = parent.addr;
	ASSERT_OK(ask(1, OP_UNMERGEABLE, parent.addr, 0));
	ASSERT_OK(fork_peer(2, 1));
	ASSERT_OK(ask(2, OP_MERGEABLE, child.addr, 0));
	ASSERT_OK(merge_in_place(&child, 100, NULL));

	struct mapping m[] = { parent, child };

	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 100));
	/* For the same reason, mremap() moves the parent's share as it is */
	ASSERT_OK(map_by(1, 1, 101, &to));
	ASSERT_OK(ask(1, OP_MOVE, parent.addr, (unsigned long)to));
	m[0].addr = to;
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 100));
}

/* A child has moved its share before the parent's page became a KSM page */
TEST_F(ksm_rmap, shared_with_a_child_that_moved_before)
{
	struct mapping parent = { 1, NULL }, child = { 2, NULL };

	ASSERT_OK(fork_peer(1, 0));
	ASSERT_OK(map_by(1, 1, 100, &parent.addr));
	ASSERT_OK(map_by(1, 1, 101, &child.addr));
	ASSERT_OK(fork_peer(2, 1));
	/* ksmd would make an rmap_item for it otherwise */
	ASSERT_OK(ask(2, OP_UNMERGEABLE, parent.addr, 0));
	ASSERT_OK(ask(2, OP_MOVE, parent.addr, (unsigned long)child.addr));
	ASSERT_OK(merge_in_place(&parent, 100, NULL));

	struct mapping m[] = { parent, child };

	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 100));
}

/*
 * Only peer 2 asks for KSM, which makes a page a KSM page that it shares with its
 * parent.  Then it has no use for that any more, and ksmd sees so.  The rest of the
 * family goes on, of which ksmd knows nothing:
 *
 *   1 --- 2 (mergeable)
 *   |
 *   3 --- 4 --- 5, each of which outlives its parent
 */
FIXTURE(inherited)
{
	char cgroup[CGROUP_PATH];
};

FIXTURE_VARIANT(inherited)
{
	bool exits;	/* peer 2 exits; or else it writes to the page */
	int generations;	/* after the parent */
	bool swapped;	/* out and in, in the end */
	bool moved;	/* to another address, before it comes back */
};

FIXTURE_VARIANT_ADD(inherited, from_one_that_wrote)
{
};

FIXTURE_VARIANT_ADD(inherited, from_one_that_exited)
{
	.exits = true,
};

FIXTURE_VARIANT_ADD(inherited, by_a_child)
{
	.exits = true,
	.generations = 1,
};

FIXTURE_VARIANT_ADD(inherited, over_three_generations)
{
	.exits = true,
	.generations = 3,
};

FIXTURE_VARIANT_ADD(inherited, and_swapped)
{
	.swapped = true,
};

FIXTURE_VARIANT_ADD(inherited, by_a_child_and_moved)
{
	.generations = 1,
	.moved = true,
};

FIXTURE_VARIANT_ADD(inherited, over_three_generations_and_swapped)
{
	.generations = 3,
	.swapped = true,
};

FIXTURE_VARIANT_ADD(inherited, over_three_generations_swapped_and_moved)
{
	.exits = true,
	.generations = 3,
	.swapped = true,
	.moved = true,
};

FIXTURE_SETUP(inherited)
{
	const char *missing = ksm_rmap_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_OK(set_up());
	missing = make_cgroup(self->cgroup);
	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(inherited)
{
	tear_down_with_cgroup(self->cgroup);
}

TEST_F_TIMEOUT(inherited, is_found, SLOW)
{
	struct mapping child = { 2, NULL }, m[1] = { { 1, NULL } };
	char *other, *to;

	write_num(KSM_SYSFS "smart_scan", 0);
	ASSERT_OK(fork_peer(1, 0));
	ASSERT_TRUE(enter_cgroup(self->cgroup, peer_pid(1)));
	ASSERT_OK(map_by(1, 1, 100, &child.addr));
	m[0].addr = child.addr;
	ASSERT_OK(map_by(1, BULK, 200, &to));
	ASSERT_OK(ask(1, OP_UNMERGEABLE, m[0].addr, 0));
	ASSERT_OK(fork_peer(2, 1));
	ASSERT_OK(ask(2, OP_MERGEABLE, child.addr, 0));
	ASSERT_OK(merge_in_place(&child, 100, &other));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 100));

	if (variant->exits) {
		ASSERT_OK(end_peer(2));
	} else {
		ASSERT_OK(ask(2, OP_FILL, child.addr, 1000));
		ASSERT_OK(ask(2, OP_FILL, other, 1001));
	}
	ASSERT_TRUE(ksm_scan(2));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 100));

	for (int i = 0; i < variant->generations; i++) {
		ASSERT_OK(fork_peer(3 + i, m[0].peer));
		ASSERT_OK(end_peer(m[0].peer));
		m[0].peer = 3 + i;
		ASSERT_TRUE(ksm_scan(1));
		ASSERT_OK(check_found(m, ARRAY_SIZE(m), 100));
	}
	if (variant->swapped) {
		/* The reference keeps it in the swap cache */
		ASSERT_OK(ask(m[0].peer, OP_HOLD, m[0].addr, 0));
		ASSERT_EQ(1, swap_out(self->cgroup, m, 1));
		ASSERT_TRUE(ksm_scan(1));
	}
	if (variant->moved) {
		ASSERT_OK(ask(m[0].peer, OP_MOVE, m[0].addr, (unsigned long)to));
		m[0].addr = to;
	}
	ASSERT_OK(ask(m[0].peer, OP_TOUCH, m[0].addr, 0));
	for (int i = 0; i < 2; i++) {
		ASSERT_OK(check_found(m, ARRAY_SIZE(m), 100));
		ASSERT_TRUE(ksm_scan(1));
	}
	if (variant->swapped)
		ASSERT_OK(ask(m[0].peer, OP_RELEASE, NULL, 0));
}

int main(int argc, char **argv)
{
	prepare_tests(argc, argv);
	return test_harness_run(argc, argv);
}
