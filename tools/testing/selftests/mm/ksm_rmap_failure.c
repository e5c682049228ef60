// SPDX-License-Identifier: GPL-2.0
/*
 * Does memory failure signal those processes that map the KSM page, and no others?
 */
#include "kselftest_harness.h"

#include "vm_util.h"
#include "ksm_rmap_util.h"
#include "ksm_rmap_peers.h"
#include "ksm_rmap_checks.h"

/*
 * When a page fails, each process that maps it is told where, if it asked for
 * that, and once; others are not, whatever they have in common with those.
 */
FIXTURE(memory_failure)
{
};

FIXTURE_VARIANT(memory_failure)
{
	bool early;	/* they asked for it */
};

FIXTURE_VARIANT_ADD(memory_failure, early_kill)
{
	.early = true,
};

FIXTURE_VARIANT_ADD(memory_failure, late_kill)
{
	.early = false,
};

FIXTURE_SETUP(memory_failure)
{
	const char *missing = ksm_rmap_missing();

	if (!missing && access(UNPOISON, W_OK))
		missing = "no " UNPOISON ": needs CONFIG_HWPOISON_INJECT";
	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_OK(set_up());
}

FIXTURE_TEARDOWN(memory_failure)
{
	tear_down();
}

TEST_F(memory_failure, signals_who_maps_the_page)
{
	enum { PARENT = 1, CHILD, WROTE, UNMAPPED, MOVED, REPLACED, OTHER,
	       OTHER_WROTE, NR };
	struct mapping m[NR], merged[4], twice;
	unsigned long pfn, count;
	char *area, *to, *addr;

	/* Fork before, so that the others have nothing of the parent */
	ASSERT_OK(fork_peer(PARENT, 0));
	ASSERT_OK(fork_peer(OTHER, 0));
	ASSERT_OK(fork_peer(OTHER_WROTE, 0));
	ASSERT_OK(map_by(PARENT, 3, 600, &area));
	ASSERT_OK(ask(PARENT, OP_FILL, area, 7));
	ASSERT_OK(ask(PARENT, OP_FILL, area + 2 * psize(), 7));
	ASSERT_OK(map_by(PARENT, 1, 8, &to));
	for (int i = 0; i < NR; i++)
		m[i] = (struct mapping){ i, area };
	ASSERT_OK(map_by(OTHER, 1, 7, &m[OTHER].addr));
	ASSERT_OK(map_by(OTHER_WROTE, 1, 7, &m[OTHER_WROTE].addr));
	twice = (struct mapping){ PARENT, area + 2 * psize() };

	merged[0] = m[PARENT];
	merged[1] = twice;
	merged[2] = m[OTHER];
	merged[3] = m[OTHER_WROTE];
	ASSERT_OK(merge(merged, ARRAY_SIZE(merged)));
	pfn = pfn_at(&m[PARENT]);

	/* One page of the parent's is enough to tell them apart */
	for (int i = CHILD; i <= REPLACED; i++) {
		ASSERT_OK(fork_peer(i, PARENT));
		ASSERT_OK(ask(i, OP_UNMAP, twice.addr, 0));
	}
	ASSERT_OK(ask(WROTE, OP_FILL, area, 9));
	ASSERT_OK(ask(UNMAPPED, OP_UNMAP, area, 0));
	ASSERT_OK(ask(MOVED, OP_MOVE, area, (unsigned long)to));
	m[MOVED].addr = to;
	ASSERT_OK(ask(REPLACED, OP_REPLACE, area, 9));
	ASSERT_OK(ask(OTHER_WROTE, OP_FILL, m[OTHER_WROTE].addr, 9));
	ASSERT_EQ(pfn, pfn_at(&m[CHILD]));
	ASSERT_NE(pfn, pfn_at(&m[MOVED]));

	for (int i = PARENT; i < NR; i++)
		ASSERT_OK(ask(i, OP_EXPECT_SIGBUS, NULL, variant->early));
	ASSERT_OK(ask(PARENT, OP_POISON, area, 0));
	EXPECT_EQ(0, unpoison_memory(pfn));

	for (int i = PARENT; i < NR; i++) {
		const bool maps = i == PARENT || i == CHILD || i == OTHER;
		/* Who caused the failure is told in any case */
		const bool told = i == PARENT || (maps && variant->early);

		ASSERT_OK(sigbus_of(i, &count, &addr));
		EXPECT_EQ(told, count) {
			TH_LOG("peer %d", i);
		}
		if (i == PARENT && addr == twice.addr)
			addr = area;
		EXPECT_EQ((void *)(told ? m[i].addr : NULL), (void *)addr);
		if (maps)
			EXPECT_EQ(0, pfn_at(&m[i]));
		if (!maps && i != UNMAPPED)
			EXPECT_OK(check_holds(i, m[i].addr, i == MOVED ? 7 : 9));
	}
	EXPECT_EQ(0, pfn_at(&twice));
}

/* So many that some have the same hash, of which every other one has a copy */
TEST_F_TIMEOUT(memory_failure, signals_each_of_many, SLOW)
{
	enum { PARENT = 1, OTHER, CHILD };
	struct mapping m[] = { { PARENT, NULL }, { OTHER, NULL } };
	unsigned long pfn, count;
	char *addr, *signalled;

	for (int i = 0; i < 2; i++) {
		ASSERT_OK(fork_peer(m[i].peer, 0));
		ASSERT_OK(map_by(m[i].peer, 1, 7, &m[i].addr));
	}
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	pfn = pfn_at(&m[0]);
	for (int i = CHILD; i <= MAX_PEERS; i++) {
		ASSERT_OK(fork_peer(i, PARENT));
		if (i % 2)
			ASSERT_OK(ask(i, OP_FILL, m[0].addr, 9));
	}

	for (int i = PARENT; i <= MAX_PEERS; i++)
		ASSERT_OK(ask(i, OP_EXPECT_SIGBUS, NULL, variant->early));
	ASSERT_OK(ask(PARENT, OP_POISON, m[0].addr, 0));
	EXPECT_EQ(0, unpoison_memory(pfn));

	for (int i = PARENT; i <= MAX_PEERS; i++) {
		/* Who caused the failure is told in any case */
		const bool maps = i < CHILD || i % 2 == 0;
		const bool told = i == PARENT || (maps && variant->early);

		addr = i == OTHER ? m[1].addr : m[0].addr;
		ASSERT_OK(sigbus_of(i, &count, &signalled));
		EXPECT_EQ(told, count) {
			TH_LOG("peer %d", i);
		}
		EXPECT_EQ((void *)(told ? addr : NULL), (void *)signalled);
		if (!maps)
			EXPECT_OK(check_holds(i, addr, 9));
	}
}

/* Of two KSM pages with the same content, one fails: only who maps that is told */
TEST_F(memory_failure, signals_who_maps_this_duplicate)
{
	struct mapping m[4];
	unsigned long pfn, told[3] = { };
	char *addr;

	write_num(KSM_SYSFS "max_page_sharing", 2);
	for (int i = 0; i < 4; i++) {
		m[i].peer = 1 + i / 2;
		if (i % 2 == 0)
			ASSERT_OK(fork_peer(m[i].peer, 0));
		ASSERT_OK(map_by(m[i].peer, 1, 7, &m[i].addr));
	}
	ASSERT_OK(merge(&m[0], 2));
	ASSERT_OK(merge(&m[2], 2));
	pfn = pfn_at(&m[0]);
	ASSERT_NE(pfn, pfn_at(&m[2]));

	for (int i = 1; i <= 2; i++)
		ASSERT_OK(ask(i, OP_EXPECT_SIGBUS, NULL, variant->early));
	ASSERT_OK(ask(1, OP_POISON, m[0].addr, 0));
	EXPECT_EQ(0, unpoison_memory(pfn));
	for (int i = 1; i <= 2; i++)
		ASSERT_OK(sigbus_of(i, &told[i], &addr));
	EXPECT_EQ(1, told[1]);
	EXPECT_EQ(0, told[2]);
	for (int i = 2; i < 4; i++)
		EXPECT_OK(check_holds(2, m[i].addr, 7));
}

int main(int argc, char **argv)
{
	prepare_tests(argc, argv);
	return test_harness_run(argc, argv);
}
