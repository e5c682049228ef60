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

#define TEST_AGE	5

/* As in try_to_merge_with_ksm_page() */
static void ksm_test_set_key(struct ksm_test *t)
{
	t->item.age = TEST_AGE;
	mmap_read_lock(t->mm);
	rmap_item_set_key(&t->item, t->vma.anon_vma,
			  linear_page_index(&t->vma, t->item.address & PAGE_MASK));
	mmap_read_unlock(t->mm);
}

/* All but the age starts again */
static void ksm_test_expect_put(struct kunit *test, struct ksm_test *t)
{
	KUNIT_EXPECT_EQ(test, t->item.oldchecksum, 0);
	KUNIT_EXPECT_EQ(test, t->item.age, TEST_AGE);
	KUNIT_EXPECT_EQ(test, t->item.remaining_skips, 0);
	KUNIT_EXPECT_EQ(test, t->item.address, TEST_ADDR + 2 * PAGE_SIZE);
	KUNIT_EXPECT_NULL(test, t->item.head);
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

static void ksm_test_set_and_put(struct kunit *test)
{
	struct ksm_test *t = test->priv;

	/* A large index leaves no byte of the unstable arm zero */
	t->vma.vm_pgoff = -1UL - 2;
	ksm_test_set_key(t);
	KUNIT_EXPECT_PTR_EQ(test, t->item.anon_vma, &t->anon_vma);
	KUNIT_EXPECT_EQ(test, t->item.linear_page_index, -1UL);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->anon_vma.refcount), 2);

	rmap_item_put_key(&t->item);
	ksm_test_expect_put(test, t);
}

/* The index does not cover the whole of the unstable arm on 32-bit */
static void ksm_test_put_restarts_all(struct kunit *test)
{
	struct ksm_test *t = test->priv;

	t->item.oldchecksum = -1;
	t->item.remaining_skips = -1;
	ksm_test_set_key(t);
	rmap_item_put_key(&t->item);
	ksm_test_expect_put(test, t);
}

static void ksm_test_index_of_split_vma(struct kunit *test)
{
	struct ksm_test *t = test->priv;

	ksm_test_set_key(t);
	KUNIT_EXPECT_EQ(test, t->item.linear_page_index, TEST_PGOFF + 2);
	rmap_item_put_key(&t->item);

	/* The second part of it: another start, another offset, the same index */
	t->vma.vm_start += 2 * PAGE_SIZE;
	t->vma.vm_pgoff += 2;
	ksm_test_set_key(t);
	KUNIT_EXPECT_EQ(test, t->item.linear_page_index, TEST_PGOFF + 2);
	rmap_item_put_key(&t->item);
}

/* The item's page becomes another's: its stable node is stale from then on */
static struct page *ksm_test_stale_node(struct kunit *test)
{
	struct ksm_test *t = test->priv;
	struct ksm_stable_node *node;
	struct page *page;

	page = alloc_page(GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, page);
	node = alloc_stable_node();
	KUNIT_ASSERT_NOT_NULL(test, node);
	INIT_HLIST_HEAD(&node->hlist);
	node->kpfn = page_to_pfn(page);
	node->rmap_hlist_len = 0;
	node->head = &migrate_nodes;
	list_add(&node->list, node->head);

	t->vma.vm_pgoff = -1UL - 2;
	ksm_test_set_key(t);
	stable_tree_append(&t->item, node, false);
	KUNIT_EXPECT_TRUE(test, t->item.address & STABLE_FLAG);
	KUNIT_EXPECT_EQ(test, t->item.linear_page_index, -1UL);
	return page;
}

static void ksm_test_put_with_stale_node(struct kunit *test)
{
	struct ksm_test *t = test->priv;
	struct page *page;

	mutex_lock(&ksm_thread_mutex);
	page = ksm_test_stale_node(test);
	KUNIT_EXPECT_TRUE(test, remove_rmap_item_from_tree(&t->item, true));
	mutex_unlock(&ksm_thread_mutex);
	ksm_test_expect_put(test, t);
	__free_page(page);
}

static void ksm_test_smart_scan(struct kunit *test)
{
	struct ksm_test *t = test->priv;
	struct folio *folio = kunit_kzalloc(test, sizeof(*folio), GFP_KERNEL);
	struct page *page;
	bool smart_scan;

	KUNIT_ASSERT_NOT_NULL(test, folio);
	mutex_lock(&ksm_thread_mutex);
	smart_scan = ksm_smart_scan;
	ksm_smart_scan = true;

	/* In the stable tree there is an index, whatever it looks like */
	page = ksm_test_stale_node(test);
	KUNIT_EXPECT_FALSE(test, should_skip_rmap_item(folio, &t->item));
	KUNIT_EXPECT_FALSE(test, t->item.address & STABLE_FLAG);
	KUNIT_EXPECT_EQ(test, t->item.age, TEST_AGE + 1);

	/* Elsewhere, a page is skipped once it is old enough */
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
	__free_page(page);
}

/* An inherited key comes from the slab cache, since list_key() may free it */
static struct ksm_rmap_item *ksm_test_key(struct kunit *test, bool inherited,
					  struct anon_vma *anon_vma, pgoff_t pgoff)
{
	struct ksm_test *t = test->priv;
	struct ksm_rmap_item *key;

	if (inherited)
		key = kmem_cache_zalloc(rmap_item_cache, GFP_KERNEL);
	else
		key = kunit_kzalloc(test, sizeof(*key), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, key);
	key->mm = inherited ? NULL : t->mm;
	key->anon_vma = anon_vma;
	get_anon_vma(anon_vma);
	key->linear_page_index = pgoff;
	return key;
}

static int ksm_test_free_inherited(struct ksm_stable_node *node)
{
	struct ksm_rmap_item *key;
	struct hlist_node *next;
	int nr = 0;

	hlist_for_each_entry_safe(key, next, &node->hlist, hlist) {
		if (!is_inherited(key))
			break;
		free_inherited_key(key);
		nr++;
	}
	return nr;
}

/* Inherited keys come first, whatever comes when */
static void ksm_test_order_of_keys(struct kunit *test)
{
	struct ksm_stable_node node = { .hlist = HLIST_HEAD_INIT };
	struct ksm_test *t = test->priv;
	struct ksm_rmap_item *key;
	int nr = 0;

	for (int i = 0; i < 8; i++)
		list_key(&node, ksm_test_key(test, i % 3 == 1, &t->anon_vma, i));
	hlist_for_each_entry(key, &node.hlist, hlist)
		KUNIT_EXPECT_EQ(test, is_inherited(key), nr++ < 3);
	KUNIT_EXPECT_EQ(test, nr, 8);
	KUNIT_EXPECT_EQ(test, ksm_test_free_inherited(&node), 3);
}

/* An inherited key goes when there is one with its anon_vma, or with the root of that */
static void ksm_test_covered_keys(struct kunit *test)
{
	struct ksm_stable_node node = { .hlist = HLIST_HEAD_INIT };
	struct ksm_test *t = test->priv;
	struct anon_vma child = {
		.root = &t->anon_vma,
		.refcount = ATOMIC_INIT(1),
	};

	list_key(&node, ksm_test_key(test, true, &child, 1));
	list_key(&node, ksm_test_key(test, true, &child, 2));
	KUNIT_EXPECT_EQ(test, atomic_read(&child.refcount), 3);
	list_key(&node, ksm_test_key(test, false, &t->anon_vma, 1));
	KUNIT_EXPECT_EQ(test, atomic_read(&child.refcount), 2);
	list_key(&node, ksm_test_key(test, true, &child, 2));
	KUNIT_EXPECT_EQ(test, atomic_read(&child.refcount), 2);

	/* But the child's does not lead to all that the root's does */
	list_key(&node, ksm_test_key(test, true, &t->anon_vma, 3));
	list_key(&node, ksm_test_key(test, false, &child, 3));
	KUNIT_EXPECT_EQ(test, ksm_test_free_inherited(&node), 2);
}

#define has_other(anon_vma) has_other_key(&node, key, anon_vma, true, &looks)
static void ksm_test_other_key(struct kunit *test)
{
	struct ksm_stable_node node = { .hlist = HLIST_HEAD_INIT };
	struct ksm_test *t = test->priv;
	struct anon_vma stranger = { }, parent = {
		.root = &t->anon_vma,
		.refcount = ATOMIC_INIT(1),
	};
	struct ksm_rmap_item *key = ksm_test_key(test, true, &parent, TEST_PGOFF);
	struct ksm_rmap_item *item = ksm_test_key(test, false, &stranger, TEST_PGOFF);
	int looks = 100;

	/* A key does not replace itself */
	list_key(&node, key);
	KUNIT_EXPECT_FALSE(test, has_other(&parent));

	/* But one with the vma's own anon_vma does, an equal one, or one of the root */
	list_key(&node, item);
	KUNIT_EXPECT_TRUE(test, has_other(&stranger));
	KUNIT_EXPECT_FALSE(test, has_other(&parent));
	item->anon_vma = &t->anon_vma;
	KUNIT_EXPECT_TRUE(test, has_other(&stranger));
	item->anon_vma = &parent;
	KUNIT_EXPECT_TRUE(test, has_other(&stranger));

	/* Not at another index, nor when it has looked often enough, or need not */
	item->linear_page_index++;
	KUNIT_EXPECT_FALSE(test, has_other(&stranger));
	item->linear_page_index--;
	KUNIT_EXPECT_FALSE(test, has_other_key(&node, key, &stranger, false,
					       &looks));
	looks = 1;
	KUNIT_EXPECT_FALSE(test, has_other(&stranger));
	KUNIT_EXPECT_EQ(test, ksm_test_free_inherited(&node), 1);
}

#undef has_other

/* Nobody maps the page, nor has it swapped out */
static void ksm_test_key_not_needed(struct kunit *test)
{
	struct ksm_stable_node node = { .hlist = HLIST_HEAD_INIT };
	struct ksm_test *t = test->priv;
	struct page *page = alloc_page(GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, page);
	for (int i = 0; i < 3; i++)
		list_key(&node, ksm_test_key(test, true, &t->anon_vma, i));
	KUNIT_EXPECT_EQ(test, atomic_read(&t->anon_vma.refcount), 4);
	drop_inherited_keys(&node, page_folio(page));
	KUNIT_EXPECT_TRUE(test, hlist_empty(&node.hlist));
	KUNIT_EXPECT_EQ(test, atomic_read(&t->anon_vma.refcount), 1);
	__free_page(page);
}

static struct kunit_case ksm_test_cases[] = {
	KUNIT_CASE(ksm_test_size),
	KUNIT_CASE(ksm_test_set_and_put),
	KUNIT_CASE(ksm_test_put_restarts_all),
	KUNIT_CASE(ksm_test_index_of_split_vma),
	KUNIT_CASE(ksm_test_put_with_stale_node),
	KUNIT_CASE(ksm_test_smart_scan),
	KUNIT_CASE(ksm_test_order_of_keys),
	KUNIT_CASE(ksm_test_covered_keys),
	KUNIT_CASE(ksm_test_other_key),
	KUNIT_CASE(ksm_test_key_not_needed),
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
