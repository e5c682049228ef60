/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The fixture of most tests of KSM's reverse mapping.  Whoever includes this has
 * included kselftest_harness.h, vm_util.h, and the other ksm_rmap_*.h.
 */
#ifndef __KSM_RMAP_FIXTURE_H__
#define __KSM_RMAP_FIXTURE_H__

FIXTURE(ksm_rmap)
{
	size_t page;	/* bytes */
	char *one;	/* a page on its own, content 1, in every test */
	char cgroup[CGROUP_PATH];	/* of tests that make one */
};

FIXTURE_SETUP(ksm_rmap)
{
	const char *missing = ksm_rmap_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_OK(set_up());
	self->page = psize();
	self->one = map_area(1);
	ASSERT_NE(NULL, self->one);
	fill_page(self->one, 1);
}

FIXTURE_TEARDOWN(ksm_rmap)
{
	tear_down_with_cgroup(self->cgroup);
}

#endif /* __KSM_RMAP_FIXTURE_H__ */
