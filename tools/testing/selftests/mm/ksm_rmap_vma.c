// SPDX-License-Identifier: GPL-2.0
/*
 * Does rmap find the mappings of a KSM page in VMAs that are moved, split, merged
 * and grown, or whose offsets are those of a file?  See ksm_rmap.c.
 */
#include "kselftest_harness.h"
#include <fcntl.h>

#include "vm_util.h"
#include "ksm_rmap_util.h"
#include "ksm_rmap_peers.h"
#include "ksm_rmap_checks.h"
#include "ksm_rmap_fixture.h"

TEST_F(ksm_rmap, mremap_before_merging)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(4) } };

	fill_page(m[1].addr + 2 * self->page, 1);
	ASSERT_OK(move_area(m[1].addr, 4, &m[1].addr));
	m[1].addr += 2 * self->page;
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
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
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));

	/* Merged pages do not move: the contents do */
	ASSERT_OK(move_area(area, 4, &area));
	m[2].addr = area + 2 * self->page;
	ASSERT_OK(check_unmerged(0, m[2].addr, 1));
	ASSERT_OK(check_found(others, ARRAY_SIZE(others), 1));

	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
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
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));

	/* The page at 3 goes to 0, in place of the one that was merged there */
	ASSERT_EQ((void *)m[1].addr,
		  sys_mremap(m[2].addr, self->page, self->page,
			     MREMAP_MAYMOVE | MREMAP_FIXED, m[1].addr));
	ASSERT_OK(check_unmerged(0, m[1].addr, 1));

	struct mapping rest[] = { m[0], m[1] };

	ASSERT_OK(merge(rest, ARRAY_SIZE(rest)));
	ASSERT_OK(check_found(rest, ARRAY_SIZE(rest), 1));
}

/*
 *  | 100 | 101 | 102 | 103 | 104 |  1  | 106 |  1  |
 *                                   ^           ^
 */
struct divided {
	char *area;
	struct mapping m[3];
};

static void prepare_divided(struct __test_metadata *_metadata, struct divided *d,
			    char *one)
{
	d->area = new_area(8);
	d->m[0] = (struct mapping){ 0, one };
	d->m[1] = (struct mapping){ 0, d->area + 5 * psize() };
	d->m[2] = (struct mapping){ 0, d->area + 7 * psize() };
	fill_page(d->m[1].addr, 1);
	fill_page(d->m[2].addr, 1);
	ASSERT_OK(merge(d->m, ARRAY_SIZE(d->m)));
	ASSERT_OK(check_vma(d->area, d->area, d->area + 8 * psize()));
}

TEST_F(ksm_rmap, split_by_mprotect)
{
	struct divided d;
	size_t page = self->page;

	prepare_divided(_metadata, &d, self->one);
	/* | r  r  r | w  w  1  w  1 | */
	ASSERT_EQ(0, mprotect(d.area, 3 * page, PROT_READ));
	ASSERT_OK(check_vma(d.m[1].addr, d.area + 3 * page, d.area + 8 * page));
	ASSERT_OK(check_found(d.m, ARRAY_SIZE(d.m), 1));
	/* | r  r  r | w  w  1 | r | 1 | */
	ASSERT_EQ(0, mprotect(d.area + 6 * page, page, PROT_READ));
	ASSERT_OK(check_vma(d.m[2].addr, d.area + 7 * page, d.area + 8 * page));
	ASSERT_OK(check_found(d.m, ARRAY_SIZE(d.m), 1));
}

TEST_F(ksm_rmap, split_by_munmap)
{
	struct divided d;
	size_t page = self->page;

	prepare_divided(_metadata, &d, self->one);
	/* | w  w |   | w  w  1  w  1 | */
	ASSERT_EQ(0, munmap(d.area + 2 * page, page));
	ASSERT_OK(check_vma(d.m[1].addr, d.area + 3 * page, d.area + 8 * page));
	ASSERT_OK(check_found(d.m, ARRAY_SIZE(d.m), 1));
	/*              |  1  w  1 | */
	ASSERT_EQ(0, munmap(d.area, 5 * page));
	ASSERT_OK(check_vma(d.m[1].addr, d.area + 5 * page, d.area + 8 * page));
	ASSERT_OK(check_found(d.m, ARRAY_SIZE(d.m), 1));
}

TEST_F(ksm_rmap, split_by_madvise)
{
	struct divided d;
	size_t page = self->page;

	prepare_divided(_metadata, &d, self->one);
	/* | not mergeable | w  1  w  1 | */
	ASSERT_EQ(0, madvise(d.area, 4 * page, MADV_UNMERGEABLE));
	ASSERT_OK(check_vma(d.m[1].addr, d.area + 4 * page, d.area + 8 * page));
	ASSERT_OK(check_found(d.m, ARRAY_SIZE(d.m), 1));
}

TEST_F(ksm_rmap, split_after_mremap)
{
	struct divided d;
	size_t page = self->page;

	prepare_divided(_metadata, &d, self->one);
	ASSERT_OK(move_area(d.area, 8, &d.area));
	d.m[1].addr = d.area + 5 * page;
	d.m[2].addr = d.area + 7 * page;
	ASSERT_OK(merge(d.m, ARRAY_SIZE(d.m)));
	ASSERT_EQ(0, mprotect(d.area, 3 * page, PROT_READ));
	ASSERT_OK(check_vma(d.m[1].addr, d.area + 3 * page, d.area + 8 * page));
	ASSERT_OK(check_found(d.m, ARRAY_SIZE(d.m), 1));
}

TEST_F(ksm_rmap, fork_and_split)
{
	struct divided d;
	const size_t page = self->page;

	prepare_divided(_metadata, &d, self->one);
	ASSERT_OK(fork_peer(1, 0));

	/* Different vmas in parent and child, both with the page's index */
	ASSERT_EQ(0, mprotect(d.area, 3 * page, PROT_READ));
	ASSERT_OK(check_vma(d.m[1].addr, d.area + 3 * page, d.area + 8 * page));
	ASSERT_OK(ask(1, OP_UNMAP, d.area + 4 * page, 0));

	struct mapping m[] = { d.m[0], d.m[1], d.m[2], { 1, d.m[0].addr },
			       { 1, d.m[1].addr }, { 1, d.m[2].addr } };

	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
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
	ASSERT_OK(check_vma(m[2].addr, area + 4 * page, area + 8 * page));
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_EQ(0, mprotect(area, 4 * page, PROT_READ | PROT_WRITE));
	ASSERT_OK(check_vma(m[2].addr, area, area + 8 * page));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
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
	ASSERT_OK(merge(old, ARRAY_SIZE(old)));
	ASSERT_EQ((void *)area, mremap(area, 4 * page, 8 * page, 0));
	ASSERT_OK(check_vma(m[1].addr, area, area + 8 * page));
	ASSERT_OK(check_found(old, ARRAY_SIZE(old), 1));

	/* And what comes in the part that is new */
	fill_page(m[2].addr, 1);
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
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
	ASSERT_OK(merge(old, ARRAY_SIZE(old)));
	ASSERT_EQ((void *)area, mmap(area, 4 * page, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
				     -1, 0));
	madvise(area, 4 * page, MADV_NOHUGEPAGE);
	ASSERT_EQ(0, madvise(area, 4 * page, MADV_MERGEABLE));
	ASSERT_OK(check_vma(m[1].addr, area, area + 8 * page));
	ASSERT_OK(check_found(old, ARRAY_SIZE(old), 1));

	fill_page(m[2].addr, 1);
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
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
	ASSERT_OK(check_vma(top - page, top - 7 * page, top));
	fill_page(m[1].addr, 1);
	fill_page(m[2].addr, 1);
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));

	for (int i = 8; i <= 20; i++)
		fill_page(top - i * page, 100 + i);
	ASSERT_OK(check_vma(top - page, top - 20 * page, top));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
}

TEST_F(ksm_rmap, private_file_mapping_at_an_offset)
{
	const size_t page = self->page;
	char *file = new_file_area(8, 32);
	struct mapping m[] = { { 0, self->one }, { 0, file },
			       { 0, file + 5 * page } };

	fill_page(m[1].addr, 1);
	fill_page(m[2].addr, 1);
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));

	/* Split, the page that is left in the second part starts elsewhere */
	ASSERT_EQ(0, mprotect(file + page, 3 * page, PROT_READ));
	ASSERT_OK(check_vma(m[2].addr, file + 4 * page, file + 8 * page));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
}

/* The pages' index is neither that in the file, nor the address where they are now */
TEST_F(ksm_rmap, private_file_mapping_moved)
{
	const size_t page = self->page;
	char *file = new_file_area(8, 32), *to = map_area(8);
	struct mapping m[] = { { 0, self->one }, { 0, to }, { 0, to + 5 * page } };

	ASSERT_NE(NULL, to);
	fill_page(file, 1);
	fill_page(file + 5 * page, 1);
	ASSERT_EQ(to, mremap(file, 8 * page, 8 * page,
			     MREMAP_MAYMOVE | MREMAP_FIXED, to));
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));

	ASSERT_EQ(0, mprotect(to + page, 3 * page, PROT_READ));
	ASSERT_OK(check_vma(m[2].addr, to + 4 * page, to + 8 * page));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
}

/* Anonymous memory, whose offsets are those of a file */
TEST_F(ksm_rmap, private_mapping_of_dev_zero)
{
	int fd = open("/dev/zero", O_RDWR);
	struct mapping m[] = { { 0, self->one }, { 0, NULL }, { 1, NULL } };
	struct mapping before[2];

	ASSERT_LE(0, fd);
	m[1].addr = mmap(NULL, 4 * self->page, PROT_READ | PROT_WRITE, MAP_PRIVATE,
			 fd, 37 * (off_t)self->page);
	ASSERT_NE(MAP_FAILED, m[1].addr);
	close(fd);
	ASSERT_EQ(0, madvise(m[1].addr, 4 * self->page, MADV_MERGEABLE));
	m[1].addr += self->page;
	m[2].addr = m[1].addr;
	fill_page(m[1].addr, 1);
	memcpy(before, m, sizeof(before));
	ASSERT_OK(merge(before, ARRAY_SIZE(before)));
	ASSERT_EQ(0, munmap(m[1].addr + self->page, self->page));
	ASSERT_OK(fork_peer(1, 0));
	ASSERT_OK(check_found(m, ARRAY_SIZE(m), 1));
}

/* Walks, while the process wants the anon_vma lock that they hold, and forks */
TEST_F_TIMEOUT(ksm_rmap, walk_while_vmas_change, SLOW)
{
	struct mapping m[128];
	char *area = new_area(ARRAY_SIZE(m) + 2);
	struct changer changer = { .page = area + self->page };
	unsigned long misses;

	for (size_t i = 0; i < ARRAY_SIZE(m); i++) {
		m[i] = (struct mapping){ 0, area + (i + 2) * self->page };
		fill_page(m[i].addr, 5);
	}
	ASSERT_OK(merge(m, ARRAY_SIZE(m)));
	ASSERT_OK(change_vmas(&changer));
	misses = walk_misses();
	for (int round = 0; round < 4; round++)
		ASSERT_OK(check_found(m, ARRAY_SIZE(m), 5));
	ASSERT_OK(stop_changing(&changer));
	/* Nobody has the page locked: no walk is excused */
	EXPECT_EQ(misses, walk_misses());
	ASSERT_LT(0, changer.forks);
}

int main(int argc, char **argv)
{
	prepare_tests(argc, argv);
	return test_harness_run(argc, argv);
}
