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
 * These are promises of rmap, however it keeps them: no test depends on what is
 * in struct ksm_rmap_item.
 *
 * Here: pages that are merged, written to and unmerged.  ksm_rmap_vma.c and so on
 * have the tests of other things that happen to KSM pages.
 */
#include "kselftest_harness.h"
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

#include "vm_util.h"
#include "ksm_rmap_util.h"
#include "ksm_rmap_peers.h"
#include "ksm_rmap_checks.h"
#include "ksm_rmap_fixture.h"

TEST_F(ksm_rmap, merge_two_pages)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) } };

	fill_page(m[1].addr, 1);
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
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
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 2));
	EXPECT_EQ(ARRAY_SIZE(m), ksm_get_self_merging_pages());
}

TEST_F_TIMEOUT(ksm_rmap, merge_one_sharer_in_each_of_many_processes, SLOW)
{
	struct mapping m[MAX_PEERS + 1] = { { 0, self->one } };

	for (int i = 1; i <= MAX_PEERS; i++) {
		ASSERT_OK(fork_peer(i, 0));
		/* What it has from the test would make it two */
		ASSERT_OK(ask(i, OP_UNMAP, self->one, 0));
		m[i].peer = i;
		ASSERT_OK(map_by(i, 1, 1, &m[i].addr));
	}
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
}

TEST_F_TIMEOUT(ksm_rmap, merge_among_hundreds_of_vmas, SLOW)
{
	const size_t nr = 800, page = self->page;
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
	ASSERT_OK(check_vma(m[2].addr, m[2].addr, m[2].addr + page));
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
}

static void merge_parts(struct __test_metadata *_metadata, size_t size)
{
	const size_t page = psize(), nr = size / page;
	char *area, *base = mmap(NULL, 3 * size, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int huge = 0;

	ASSERT_NE(MAP_FAILED, base);
	area = base + -(uintptr_t)base % size;
	if (madvise(area, 2 * size, MADV_HUGEPAGE))
		SKIP(return, "no huge pages: needs CONFIG_TRANSPARENT_HUGEPAGE");
	for (size_t i = 0; i < 2 * nr; i++)
		fill_page(area + i * page, 1000 + i % nr);
	for (size_t i = 0; i < 2; i++)
		huge += !!(kpageflags_of(pfn_of(getpid(), area + i * size)) & KPF_THP);
	TH_LOG("%d of 2 are huge pages of %zu KiB", huge, size >> 10);
	ASSERT_EQ(0, madvise(area, 2 * size, MADV_MERGEABLE));
	ASSERT_TRUE(ksm_scan(4));
	for (size_t i = 0; i < nr; i += nr < 16 ? 1 : nr / 16) {
		const struct mapping m[] = {
			{ 0, area + i * page },
			{ 0, area + size + i * page },
		};

		ASSERT_OK(merge(m, ARRAY_SIZE(m)));
		ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1000 + i));
	}
	ASSERT_EQ(0, munmap(base, 3 * size));
}

/*
 * Equal pages of two huge pages, which have to be split to be merged: of all sizes
 * that ksm_rmap.sh sees to
 */
TEST_F_TIMEOUT(ksm_rmap, merge_parts_of_huge_pages, SLOW)
{
	merge_parts(_metadata, 2UL << 20);
	if (self->page < 64UL << 10)
		merge_parts(_metadata, 64UL << 10);
}

enum { MERGED, WRITTEN, UNMERGED };

static const struct {
	const char *name;
	long expected[3];
} counters[] = {
	{ "pages_shared", { 4, 4, 0 } },
	{ "pages_sharing", { 10, 9, 0 } },
	/* self->one, and two that were written to */
	{ "pages_unshared", { 1, 3, 0 } },
	{ "pages_volatile", { 0, 0, 0 } },
	{ "ksm_zero_pages", { 3, 2, 0 } },
	{ "stable_node_chains", { 1, 1, 0 } },
	{ "stable_node_dups", { 3, 3, 0 } },
};

static void expect_counters(struct __test_metadata *_metadata, int step)
{
	for (size_t i = 0; i < ARRAY_SIZE(counters); i++) {
		EXPECT_EQ(counters[i].expected[step],
			  ksm_counter(counters[i].name)) {
			TH_LOG("%s, step %d", counters[i].name, step);
		}
	}
}

/*
 *  area: |  2  |  2  | ... |  2  |  3  |  3  |  3  |  3  |  0  |  0  |  0  |
 *         10 pages, in KSM pages  one KSM page with       the zero page
 *         with 4, 4, 2 mappings   4 mappings
 */
TEST_F_TIMEOUT(ksm_rmap, counters_say_what_is_mapped, SLOW)
{
	/* struct ksm_rmap_item, which must not grow, on 64-bit */
	const long item = 64;
	char *area;

	ASSERT_TRUE(ksm_scan(2));
	if (ksm_counter("pages_unshared") + ksm_counter("pages_volatile") != 1)
		SKIP(return, "something else on this machine is mergeable");
	area = map_area(17);
	ASSERT_NE(NULL, area);
	for (int i = 0; i < 14; i++)
		fill_page(area + i * self->page, i < 10 ? 2 : 3);
	memset(area + 14 * self->page, 0, 3 * self->page);
	write_num(KSM_SYSFS "max_page_sharing", 4);
	write_num(KSM_SYSFS "use_zero_pages", 1);
	/* Pages that a scan skips count as volatile */
	write_num(KSM_SYSFS "smart_scan", 0);

	ASSERT_TRUE(ksm_scan(4));
	expect_counters(_metadata, MERGED);
	EXPECT_EQ(14, ksm_get_self_merging_pages());
	EXPECT_EQ(3, ksm_get_self_zero_pages());
	/* None for the zero page, which is not anonymous */
	EXPECT_EQ(15, ksm_stat_of(getpid(), "ksm_rmap_items"));
	if (sizeof(long) == 8) {
		EXPECT_EQ((10 + 3) * (long)self->page - 15 * item,
			  ksm_counter("general_profit"));
	}

	fill_page(area + 13 * self->page, 200);
	fill_page(area + 16 * self->page, 201);
	ASSERT_TRUE(ksm_scan(4));
	expect_counters(_metadata, WRITTEN);
	EXPECT_EQ(13, ksm_get_self_merging_pages());
	EXPECT_EQ(2, ksm_get_self_zero_pages());

	write_num(KSM_SYSFS "run", 2);
	expect_counters(_metadata, UNMERGED);
	EXPECT_EQ(0, ksm_stat_of(getpid(), "ksm_rmap_items"));
}

/* What has been written to since /proc/PID/clear_refs, stays so when it is merged */
TEST_F(ksm_rmap, merge_keeps_soft_dirty)
{
	enum { NR = 6 };	/* pages: two pairs, two of zeroes */
	struct mapping m[] = { { 0, NULL }, { 0, NULL } };
	struct mapping clean[] = { { 0, NULL }, { 0, NULL } };
	char *area = new_area(NR);

	fill_page(area, 7);
	fill_page(area + self->page, 7);
	ASSERT_TRUE(write_text("/proc/self/clear_refs", "4"));
	fill_page(area + 2 * self->page, 8);
	fill_page(area + 3 * self->page, 8);
	memset(area + 4 * self->page, 0, 2 * self->page);
	if (!(pagemap_of(getpid(), area + 2 * self->page) & PM_SOFT_DIRTY))
		SKIP(return, "no soft-dirty: needs CONFIG_MEM_SOFT_DIRTY");
	ASSERT_FALSE(pagemap_of(getpid(), area) & PM_SOFT_DIRTY);

	write_num(KSM_SYSFS "use_zero_pages", 1);
	for (int i = 0; i < 2; i++) {
		clean[i].addr = area + i * self->page;
		m[i].addr = area + (2 + i) * self->page;
	}
	ASSERT_OK(merge(clean, ARRAY_SIZE(clean)));
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_EQ(2, ksm_get_self_zero_pages());
	for (int i = 0; i < NR; i++) {
		EXPECT_EQ(i >= 2, !!(pagemap_of(getpid(), area + i * self->page) &
				     PM_SOFT_DIRTY)) {
			TH_LOG("page %d", i);
		}
	}
}

/* Userfaultfd still reports the next write to a page after it is merged */
TEST_F(ksm_rmap, merge_keeps_uffd_wp)
{
	enum { NR = 4 };	/* pages: a pair, two of zeroes */
	const int uffd = open_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	char *area = new_area(NR);
	struct mapping m[] = { { 0, area }, { 0, area + self->page } };
	struct uffdio_writeprotect protect = {
		.range = { (uintptr_t)area, NR * self->page },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};

	if (uffd < 0)
		SKIP(return, "no userfaultfd that protects from writes");
	fill_page(area, 7);
	fill_page(area + self->page, 7);
	memset(area + 2 * self->page, 0, 2 * self->page);
	ASSERT_EQ(0, uffd_register(uffd, area, NR * self->page, false, true,
				   false));
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_WRITEPROTECT, &protect));

	write_num(KSM_SYSFS "use_zero_pages", 1);
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_EQ(2, ksm_get_self_zero_pages());
	for (int i = 0; i < NR; i++) {
		EXPECT_TRUE(pagemap_of(getpid(), area + i * self->page) &
			    PM_UFFD_WP) {
			TH_LOG("page %d", i);
		}
	}
	close(uffd);
}

#ifdef UFFD_FEATURE_RWP
/* The next access to a page still traps after it is merged */
TEST_F(ksm_rmap, merge_keeps_uffd_rwp)
{
	enum { NR = 4 };	/* pages: a pair, two of zeroes */
	const int uffd = open_uffd(UFFD_FEATURE_RWP | UFFD_FEATURE_RWP_ASYNC);
	char *area = new_area(NR);
	struct mapping m[] = { { 0, area }, { 0, area + self->page } };
	struct uffdio_register whole = {
		.range = { (uintptr_t)area, NR * self->page },
		.mode = UFFDIO_REGISTER_MODE_RWP,
	};
	struct uffdio_rwprotect protect = {
		.range = whole.range,
		.mode = UFFDIO_RWPROTECT_MODE_RWP,
	};

	if (uffd < 0)
		SKIP(return, "no userfaultfd that protects from accesses");
	fill_page(area, 7);
	fill_page(area + self->page, 7);
	memset(area + 2 * self->page, 0, 2 * self->page);
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_REGISTER, &whole));
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_RWPROTECT, &protect));

	write_num(KSM_SYSFS "use_zero_pages", 1);
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_EQ(2, ksm_get_self_zero_pages());
	for (int i = 0; i < NR; i++) {
		char *p = area + i * self->page;

		EXPECT_TRUE(pagemap_of(getpid(), p) & PM_UFFD_WP) {
			TH_LOG("page %d is not protected", i);
		}
		FORCE_READ(*p);
		EXPECT_FALSE(pagemap_of(getpid(), p) & PM_UFFD_WP) {
			TH_LOG("page %d: no trap", i);
		}
	}
	ASSERT_EQ(2, ksm_get_self_zero_pages());
	close(uffd);
}
#endif

#ifdef __aarch64__
#define PROT_TAGGED	0x20	/* PROT_MTE */
#define GRANULE		16	/* bytes that have one memory tag */

static void set_tag(char *p, unsigned long tag)
{
	const unsigned long tagged = (unsigned long)p | tag << 56;

	asm volatile(".arch armv8.5-a+memtag\n\tstg %0, [%1]" : : "r"(tagged), "r"(p) : "memory");
}

static unsigned long tag_of(const char *p)
{
	unsigned long tagged = (unsigned long)p;

	asm volatile(".arch armv8.5-a+memtag\n\tldg %0, [%1]" : "+r"(tagged) : "r"(p) : "memory");
	return tagged >> 56 & 15;
}

/* A page has its memory tags still when others with its content are merged */
TEST_F(ksm_rmap, merge_keeps_memory_tags)
{
	enum { NR = 3 };	/* pages, two of them with the same tags */
	struct mapping m[] = { { 0, new_area(1) }, { 0, new_area(1) } };
	char *area = map_area(NR);

	ASSERT_NE(NULL, area);
	if (mprotect(area, NR * self->page, PROT_READ | PROT_WRITE | PROT_TAGGED))
		SKIP(return, "no memory tags: needs CONFIG_ARM64_MTE, and a CPU with that");
	fill_page(m[0].addr, 7);
	fill_page(m[1].addr, 7);
	for (int i = 0; i < NR; i++) {
		char *p = area + i * self->page;

		fill_page(p, 7);
		/* An emulator may have none for memory that was added later */
		if (!access(NODE1, F_OK))
			page_move_to_node(0, p, 1);
		for (size_t at = 0; at < self->page; at += GRANULE)
			set_tag(p + at, 5 + i / 2);
		if (tag_of(p) != 5 + i / 2)
			SKIP(return, "this memory has no tags");
	}

	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_TRUE(ksm_scan(3));
	for (int i = 0; i < NR; i++) {
		char *p = area + i * self->page;
		size_t lost = 0;

		for (size_t at = 0; at < self->page; at += GRANULE)
			lost += tag_of(p + at) != 5 + i / 2;
		EXPECT_EQ(0, lost) {
			TH_LOG("page %d", i);
		}
		EXPECT_TRUE(page_holds(p, 7));
	}
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 7));
}
#endif

/* UFFDIO_MOVE moves no page that is shared; and a zero page, but that is not KSM's then */
TEST_F(ksm_rmap, uffdio_move)
{
	enum { NR = 3 };	/* pages: a pair, one of zeroes */
	const int uffd = open_uffd(UFFD_FEATURE_MOVE);
	char *area = new_area(NR), *to = map_area(NR);
	struct mapping m[] = { { 0, area }, { 0, area + self->page } };
	struct uffdio_move move = {
		.dst = (uintptr_t)to, .src = (uintptr_t)area,
		.len = self->page,
	};

	if (uffd < 0)
		SKIP(return, "no userfaultfd that moves pages");
	ASSERT_NE(NULL, to);
	fill_page(area + self->page, 100);
	memset(area + 2 * self->page, 0, self->page);
	write_num(KSM_SYSFS "use_zero_pages", 1);
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_EQ(1, ksm_get_self_zero_pages());
	ASSERT_EQ(0, uffd_register(uffd, to, NR * self->page, true, false, false));

	EXPECT_EQ(-1, ioctl(uffd, UFFDIO_MOVE, &move));
	EXPECT_EQ(EBUSY, errno);
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 100));

	move.src += 2 * self->page;
	move.move = 0;
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_MOVE, &move));
	EXPECT_EQ(0, *to);
	EXPECT_EQ(0, ksm_get_self_zero_pages());
	ASSERT_EQ(0, munmap(to, NR * self->page));
	EXPECT_EQ(0, ksm_get_self_zero_pages());
	close(uffd);
}

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
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));

	/* The writer has a page of its own, the others do not notice */
	fill_page(m[3].addr, 3);
	ASSERT_OK(check_unmerged(0, m[3].addr, 3));
	ASSERT_OK(check_found(others, ARRAY_SIZE(others), 2));

	/* Nor when ksmd has noticed that the writer's is not a KSM page */
	ASSERT_TRUE(ksm_scan(3));
	ASSERT_OK(check_unmerged(0, m[3].addr, 3));
	ASSERT_OK(check_found(others, ARRAY_SIZE(others), 2));
	EXPECT_EQ(7, ksm_get_self_merging_pages());

	/* And once it is equal again, it is merged again */
	fill_page(m[3].addr, 2);
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 2));
	EXPECT_EQ(8, ksm_get_self_merging_pages());
}

/*
 * Smart scan has ksmd skip a page according to the age of its rmap_item, which
 * it has only as long as it is not in the stable tree.  If that were taken for
 * an age which has the place in the tree, or were left behind there, then with
 * such a large offset ksmd would skip the page, and do so 255 times; or 127 times
 * where a page is 64 KiB, since no file is larger than that.
 */
TEST_F(ksm_rmap, cow_at_a_large_offset)
{
	/* Pages, from the beginning of the file, which has less than 8 EiB */
	const uint64_t most = (INT64_MAX >> pshift()) & ~0xffffffffULL;
	const uint64_t large = most < 0xffff00000000 ? most : 0xffff00000000;
	const uint64_t offset = sizeof(long) == 8 ? large : 0x7fff;
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) },
			       { 0, new_file_area(1, offset) } };
	struct mapping others[] = { m[0], m[1] };
	long skipped;

	fill_page(m[1].addr, 1);
	fill_page(m[2].addr, 1);
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));

	fill_page(m[2].addr, 2);
	ASSERT_OK(check_unmerged(0, m[2].addr, 2));
	/* Slow, or there are many more scans than were asked for */
	write_num(KSM_SYSFS "sleep_millisecs", 200);
	skipped = ksm_knob(KSM_SYSFS "pages_skipped");
	ASSERT_TRUE(ksm_scan(1));
	EXPECT_EQ(skipped, ksm_knob(KSM_SYSFS "pages_skipped"));
	ASSERT_OK(check_found(others, ARRAY_SIZE(others), 1));

	/* One scan for the checksum, another to merge, two in case of a skip */
	fill_page(m[2].addr, 1);
	ASSERT_TRUE(ksm_scan(4));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
}

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
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));

	ASSERT_EQ(0, madvise(area, 4 * self->page, MADV_UNMERGEABLE));
	for (int i = 0; i < 4; i++)
		ASSERT_OK(check_unmerged(0, m[i].addr, 2));
	ASSERT_OK(check_found(kept, ARRAY_SIZE(kept), 2));

	/* ksmd leaves them alone now */
	ASSERT_TRUE(ksm_scan(3));
	for (int i = 0; i < 4; i++)
		ASSERT_OK(check_unmerged(0, m[i].addr, 2));
	ASSERT_OK(check_found(kept, ARRAY_SIZE(kept), 2));
	EXPECT_EQ(4, ksm_get_self_merging_pages());
}

TEST_F(ksm_rmap, unmerge_by_run_2)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) } };

	fill_page(m[1].addr, 1);
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));

	ASSERT_EQ(0, ksm_stop());
	ASSERT_OK(check_unmerged(0, m[0].addr, 1));
	ASSERT_OK(check_unmerged(0, m[1].addr, 1));
	EXPECT_EQ(0, ksm_get_self_merging_pages());
	EXPECT_EQ(0, ksm_knob(KSM_SYSFS "pages_shared"));
	EXPECT_EQ(0, ksm_knob(KSM_SYSFS "pages_sharing"));

	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
}

TEST_F(ksm_rmap, unmerge_by_prctl)
{
	struct mapping m[3], others[2];

	/* One who is not concerned by what this process asks for itself */
	ASSERT_OK(fork_peer(1, 0));
	for (int i = 0; i < 2; i++) {
		m[i + 1].peer = 1;
		ASSERT_OK(map_by(1, 1, 4, &m[i + 1].addr));
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
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 4));

	ASSERT_EQ(0, prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0));
	ASSERT_OK(check_unmerged(0, m[0].addr, 4));
	ASSERT_OK(check_found(others, ARRAY_SIZE(others), 4));
}

/* An rmap_item is left, and its anon_vma with no VMA, until ksmd scans again */
TEST_F(ksm_rmap, unmap_one_sharer)
{
	/* Wherever it is in the list of the stable node */
	for (int gone = 0; gone < 3; gone++) {
		struct mapping m[3], left[2];
		int n = 0;

		for (int i = 0; i < 3; i++) {
			m[i] = (struct mapping){ 0, new_area(1) };
			fill_page(m[i].addr, 10 + gone);
			if (i != gone)
				left[n++] = m[i];
		}
		ASSERT_OK(merge(m, ARRAY_SIZE(m)));
		ASSERT_EQ(0, munmap(m[gone].addr, self->page));
		ASSERT_OK(check_found(left, ARRAY_SIZE(left), 10 + gone));
		ASSERT_TRUE(ksm_scan(1));
		ASSERT_OK(check_found(left, ARRAY_SIZE(left), 10 + gone));
	}
}

/*
 * ksmd must be awake when one process enters while the last one leaves.  That they
 * are so close is not in the test's hands: it takes a kernel that is slow to enter.
 */
TEST_F_TIMEOUT(ksm_rmap, enter_while_the_last_leaves, SLOW)
{
	struct mapping m[] = { { 2, NULL }, { 2, NULL } };
	unsigned long area;

	/* Or ksmd may look at the two pages by turns, and never at both in one scan */
	write_num(KSM_SYSFS "smart_scan", 0);
	/* Not even this process is mergeable */
	ASSERT_EQ(0, munmap(self->one, self->page));
	ASSERT_TRUE(ksm_scan(1));
	ASSERT_OK(fork_peer(1, 0));
	ASSERT_OK(fork_peer(2, 0));
	ASSERT_OK(map_by(1, 1, 8, NULL));
	write_num(KSM_SYSFS "run", 1);
	usleep(100000);

	ASSERT_OK(ask_later(2, OP_MAP, NULL, 7, 2));
	usleep(100000);
	ASSERT_OK(exit_peer(1));
	ASSERT_OK(answer_of(2, &area));
	ASSERT_NE(0, area);
	m[0].addr = (char *)area;
	m[1].addr = m[0].addr + self->page;
	ASSERT_OK(ask(2, OP_FILL, m[1].addr, 7));
	for (int ms = 20000; !are_merged(m, 2) && ms; ms--)
		usleep(1000);
	EXPECT_TRUE(are_merged(m, 2)) {
		TH_LOG("ksmd sleeps, and there are pages to scan");
	}
	write_num(KSM_SYSFS "run", 0);
}

int main(int argc, char **argv)
{
	prepare_tests(argc, argv);
	return test_harness_run(argc, argv);
}
