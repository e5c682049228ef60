/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Unit tests for what struct ksm_rmap_item remembers, and when it forgets it: it
 * cannot be seen from userspace.  Included at the end of mm/ksm.c.
 */
#ifdef CONFIG_KSM_KUNIT_TEST

#include <kunit/test.h>

#define TEST_ADDR	0x40000000UL
#define TEST_PGOFF	0x1234567UL	/* pages; not what TEST_ADDR suggests */

/* A VMA of eight pages, in an mm of its own, and an rmap_item for the third one */
struct ksm_test {
	struct mm_struct *mm;
	struct vm_area_struct vma;
	struct anon_vma anon_vma;
	struct anon_vma_chain avc;
	struct ksm_rmap_item item;
};

static int ksm_test_init(struct kunit *test)
{
	struct ksm_test *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, t);
	t->mm = mm_alloc();
	KUNIT_ASSERT_NOT_NULL(test, t->mm);
	test->priv = t;

	/* The first reference is the vma's: the last one would free it */
	t->anon_vma.root = &t->anon_vma;
	atomic_set(&t->anon_vma.refcount, 1);

	t->vma.vm_mm = t->mm;
	t->vma.vm_start = TEST_ADDR;
	t->vma.vm_end = TEST_ADDR + 8 * PAGE_SIZE;
	t->vma.vm_pgoff = TEST_PGOFF;
	t->vma.anon_vma = &t->anon_vma;
	INIT_LIST_HEAD(&t->vma.anon_vma_chain);
	t->avc.vma = &t->vma;
	t->avc.anon_vma = &t->anon_vma;
	list_add(&t->avc.same_vma, &t->vma.anon_vma_chain);

	t->item.mm = t->mm;
	t->item.address = TEST_ADDR + 2 * PAGE_SIZE;
	return 0;
}

static void ksm_test_exit_mm(struct kunit *test)
{
	struct ksm_test *t = test->priv;

	if (t)
		mmput(t->mm);
}

/* As in try_to_merge_with_ksm_page() */
static void ksm_test_get(struct ksm_test *t)
{
	mmap_read_lock(t->mm);
	rmap_item_get_anon_vma(&t->item, &t->vma);
	mmap_read_unlock(t->mm);
}

static void ksm_test_expect_restarted(struct kunit *test, struct ksm_test *t)
{
	KUNIT_EXPECT_EQ(test, t->item.oldchecksum, 0);
	KUNIT_EXPECT_EQ(test, t->item.age, 0);
	KUNIT_EXPECT_EQ(test, t->item.remaining_skips, 0);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->anon_vma.refcount), 1);
}

static void ksm_test_size(struct kunit *test)
{
	KUNIT_EXPECT_EQ(test, sizeof(struct ksm_rmap_item),
			IS_ENABLED(CONFIG_64BIT) ? 64 : 36);
	/* One place for what is never needed at the same time */
	KUNIT_EXPECT_EQ(test,
			offsetof(struct ksm_rmap_item, linear_page_index),
			offsetof(struct ksm_rmap_item, oldchecksum));
}

static void ksm_test_get_and_put(struct kunit *test)
{
	struct ksm_test *t = test->priv;

	/* A large index leaves no byte of the unstable arm zero */
	t->vma.vm_pgoff = -1UL - 2;
	t->item.address |= UNSTABLE_FLAG;
	ksm_test_get(t);
	KUNIT_EXPECT_PTR_EQ(test, t->item.anon_vma, &t->anon_vma);
	KUNIT_EXPECT_EQ(test, t->item.linear_page_index, -1UL);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->anon_vma.refcount), 2);

	rmap_item_put_anon_vma(&t->item);
	ksm_test_expect_restarted(test, t);
}

/* The index does not cover the whole of the unstable arm on 32-bit */
static void ksm_test_put_restarts_all(struct kunit *test)
{
	struct ksm_test *t = test->priv;

	t->item.oldchecksum = -1;
	t->item.age = -1;
	t->item.remaining_skips = -1;
	ksm_test_get(t);
	rmap_item_put_anon_vma(&t->item);
	ksm_test_expect_restarted(test, t);
}

static void ksm_test_index_of_split_vma(struct kunit *test)
{
	struct ksm_test *t = test->priv;

	ksm_test_get(t);
	KUNIT_EXPECT_EQ(test, t->item.linear_page_index, TEST_PGOFF + 2);
	rmap_item_put_anon_vma(&t->item);

	/* The second part of it: another start, another offset, the same index */
	t->vma.vm_start += 2 * PAGE_SIZE;
	t->vma.vm_pgoff += 2;
	ksm_test_get(t);
	KUNIT_EXPECT_EQ(test, t->item.linear_page_index, TEST_PGOFF + 2);
	rmap_item_put_anon_vma(&t->item);
}

static void ksm_test_break_cow_restarts(struct kunit *test)
{
	struct ksm_test *t = test->priv;

	t->vma.vm_pgoff = -1UL - 2;
	ksm_test_get(t);
	break_cow(&t->item);
	ksm_test_expect_restarted(test, t);
}

/* The node of a page that has become another's */
static void ksm_test_stale_node_restarts(struct kunit *test)
{
	struct ksm_test *t = test->priv;
	struct ksm_stable_node *node;
	struct page *page;

	page = alloc_page(GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, page);
	node = alloc_stable_node();
	KUNIT_ASSERT_NOT_NULL(test, node);
	mutex_lock(&ksm_thread_mutex);
	if (!RB_EMPTY_ROOT(root_stable_tree)) {
		mutex_unlock(&ksm_thread_mutex);
		free_stable_node(node);
		__free_page(page);
		kunit_skip(test, "there are KSM pages");
	}
	INIT_HLIST_HEAD(&node->hlist);
	node->kpfn = page_to_pfn(page);
	node->rmap_hlist_len = 0;
	DO_NUMA(node->nid = 0);
	rb_link_node(&node->node, NULL, &root_stable_tree->rb_node);
	rb_insert_color(&node->node, root_stable_tree);

	t->vma.vm_pgoff = -1UL - 2;
	ksm_test_get(t);
	stable_tree_append(&t->item, node, false);
	KUNIT_EXPECT_TRUE(test, t->item.address & STABLE_FLAG);
	KUNIT_EXPECT_EQ(test, t->item.linear_page_index, -1UL);

	remove_rmap_item_from_tree(&t->item);
	KUNIT_EXPECT_FALSE(test, t->item.address & STABLE_FLAG);
	KUNIT_EXPECT_TRUE(test, RB_EMPTY_ROOT(root_stable_tree));
	mutex_unlock(&ksm_thread_mutex);
	ksm_test_expect_restarted(test, t);
	__free_page(page);
}

static void ksm_test_smart_scan(struct kunit *test)
{
	struct ksm_test *t = test->priv;
	struct folio *folio = kunit_kzalloc(test, sizeof(*folio), GFP_KERNEL);
	bool smart_scan;

	KUNIT_ASSERT_NOT_NULL(test, folio);
	mutex_lock(&ksm_thread_mutex);
	smart_scan = ksm_smart_scan;
	ksm_smart_scan = true;

	/* In the stable tree there is an index, whatever it looks like */
	t->item.linear_page_index = -1UL;
	t->item.address |= STABLE_FLAG;
	KUNIT_EXPECT_FALSE(test, should_skip_rmap_item(folio, &t->item));
	KUNIT_EXPECT_EQ(test, t->item.linear_page_index, -1UL);

	/* Elsewhere, a page is skipped once it is old enough */
	t->item.address &= PAGE_MASK;
	t->item.age = 0;
	t->item.remaining_skips = 0;
	for (int i = 0; i < 4; i++) {
		KUNIT_EXPECT_EQ(test, t->item.age, i);
		KUNIT_EXPECT_FALSE(test, should_skip_rmap_item(folio, &t->item));
	}
	KUNIT_EXPECT_TRUE(test, should_skip_rmap_item(folio, &t->item));
	ksm_pages_skipped--;

	ksm_smart_scan = smart_scan;
	mutex_unlock(&ksm_thread_mutex);
}

static void ksm_test_walk_finds(struct kunit *test)
{
	struct ksm_stable_node node = { .hlist = HLIST_HEAD_INIT };
	struct ksm_test *t = test->priv;
	const unsigned long addr = t->item.address;

	KUNIT_EXPECT_FALSE(test, rmap_walk_finds(&node, &t->vma, addr));
	ksm_test_get(t);
	t->item.address |= STABLE_FLAG;
	hlist_add_head(&t->item.hlist, &node.hlist);
	KUNIT_EXPECT_TRUE(test, rmap_walk_finds(&node, &t->vma, addr));

	/* Another address, the same address at another index, another family */
	KUNIT_EXPECT_FALSE(test, rmap_walk_finds(&node, &t->vma,
						 addr + PAGE_SIZE));
	t->vma.vm_pgoff++;
	KUNIT_EXPECT_FALSE(test, rmap_walk_finds(&node, &t->vma, addr));
	t->vma.vm_pgoff--;
	t->avc.anon_vma = NULL;
	KUNIT_EXPECT_FALSE(test, rmap_walk_finds(&node, &t->vma, addr));
	rmap_item_put_anon_vma(&t->item);
}

static struct kunit_case ksm_test_cases[] = {
	KUNIT_CASE(ksm_test_size),
	KUNIT_CASE(ksm_test_get_and_put),
	KUNIT_CASE(ksm_test_put_restarts_all),
	KUNIT_CASE(ksm_test_index_of_split_vma),
	KUNIT_CASE(ksm_test_break_cow_restarts),
	KUNIT_CASE(ksm_test_stale_node_restarts),
	KUNIT_CASE(ksm_test_smart_scan),
	KUNIT_CASE(ksm_test_walk_finds),
	{}
};

static struct kunit_suite ksm_test_suite = {
	.name = "ksm",
	.init = ksm_test_init,
	.exit = ksm_test_exit_mm,
	.test_cases = ksm_test_cases,
};

kunit_test_suite(ksm_test_suite);

#endif
