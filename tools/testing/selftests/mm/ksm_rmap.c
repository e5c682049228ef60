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
 * These are the promises of rmap, however it keeps them: the tests pass on
 * kernels with and without an index in struct ksm_rmap_item.
 */
#include "kselftest_harness.h"
#include <dirent.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <sys/klog.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "ksm_rmap.h"

#define MAX_PEERS	64
#define NR_UNRELATED	800	/* VMAs */
#define PEER		"peer"	/* argument of a peer that is executed */

/* Seconds: a limit for what takes some on an emulated CPU, if that is shared */
#define SLOW		150

/*
 * Test processes other than the test itself, which is peer 0: each obeys the
 * test through a socket pair that was there before the first of them was forked,
 * so a peer can have a peer forked from itself.
 */
static struct peer {
	pid_t pid;
	int sock[2];	/* the test's end, the peer's end */
} peers[MAX_PEERS + 1];

enum op {
	OP_MAP,		/* map @nr pages, fill them with @arg, @arg + 1, ... */
	OP_FILL,	/* write content @arg to the page at @addr */
	OP_HOLDS,	/* does the page at @addr hold content @arg? */
	OP_TOUCH,	/* access the page at @addr, accessed bit included */
	OP_UNMAP,	/* munmap the page at @addr */
	OP_REPLACE,	/* map another page at @addr, with content @arg */
	OP_MOVE,	/* mremap the page at @addr to @arg, with flags @nr too */
	OP_MERGEABLE,	/* MADV_MERGEABLE for the page at @addr, or @nr pages */
	OP_UNMERGEABLE,	/* MADV_UNMERGEABLE, the same */
	OP_FREE,	/* MADV_FREE */
	OP_HOLD,	/* take a reference to the page at @addr, or @nr pages */
	OP_RELEASE,	/* drop it */
	OP_FORK,	/* fork peer @arg */
	OP_EXEC,	/* be merged as a whole, and execute the program anew */
	OP_POISON,	/* MADV_HWPOISON for the page at @addr */
	OP_OFFLINE,	/* MADV_SOFT_OFFLINE */
	OP_EXPECT_SIGBUS,	/* survive it; if @arg, ask for an early one */
	OP_SIGBUS_ADDR,	/* address of the last signal, 0 for none so far */
	OP_SIGBUS_COUNT,	/* how many there were */
	OP_EXIT,
};

struct request {
	enum op op;
	char *addr;
	unsigned long arg;
	size_t nr;
};

struct mapping {
	int peer;
	char *addr;
};

static int idle_fd, holder[2], own_sock;
static pid_t *last_group;	/* of the test before: all tests share it */
static unsigned long sigbus_addr, sigbus_count;

static unsigned long obey(const struct request *req);

static void serve(int self)
{
	unsigned long reply;
	struct request req;

	own_sock = peers[self].sock[1];
	/*
	 * A peer must see the test's end of its socket close when the test dies.
	 * What forked this one may have closed its own already.
	 */
	for (int i = 1; i <= MAX_PEERS; i++) {
		if (peers[i].sock[0] >= 0)
			close(peers[i].sock[0]);
		peers[i].sock[0] = -1;
	}
	while (recv(own_sock, &req, sizeof(req), 0) == sizeof(req)) {
		if (req.op == OP_EXIT)
			break;
		reply = obey(&req);
		if (send(own_sock, &reply, sizeof(reply), 0) < 0)
			break;
	}
	_exit(0);
}

/* A peer that is executed, with its end of the socket pair as the argument */
static void serve_executed(int sock)
{
	const unsigned long reply = 0;

	for (int i = 1; i <= MAX_PEERS; i++)
		peers[i].sock[0] = -1;
	peers[1].sock[1] = sock;
	if (send(sock, &reply, sizeof(reply), 0) == sizeof(reply))
		serve(1);
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	__atomic_store_n(&sigbus_addr, (unsigned long)info->si_addr,
			 __ATOMIC_RELAXED);
	__atomic_add_fetch(&sigbus_count, 1, __ATOMIC_RELAXED);
}

static unsigned long obey(const struct request *req)
{
	struct sigaction action = {
		.sa_sigaction = on_sigbus,
		.sa_flags = SA_SIGINFO | SA_RESTART,
	};
	char *p, text[16];
	pid_t pid;

	switch (req->op) {
	case OP_MAP:
		p = map_area(req->nr);
		for (size_t i = 0; p && i < req->nr; i++)
			fill_page(p + i * psize(), req->arg + i);
		return (unsigned long)p;
	case OP_FILL:
		fill_page(req->addr, req->arg);
		return 0;
	case OP_HOLDS:
		return page_holds(req->addr, req->arg);
	case OP_TOUCH:
		flush_tlb();
		FORCE_READ(*req->addr);
		return 0;
	case OP_UNMAP:
		return munmap(req->addr, psize());
	case OP_REPLACE:
		p = mmap(req->addr, psize(), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		if (p == MAP_FAILED)
			return errno;
		fill_page(p, req->arg);
		return 0;
	case OP_MOVE:
		p = sys_mremap(req->addr, psize(), psize(),
			       MREMAP_MAYMOVE | MREMAP_FIXED | req->nr,
			       (void *)req->arg);
		return p == MAP_FAILED ? errno : 0;
	case OP_MERGEABLE:
		return madvise(req->addr, (req->nr ?: 1) * psize(),
			       MADV_MERGEABLE);
	case OP_UNMERGEABLE:
		return madvise(req->addr, (req->nr ?: 1) * psize(),
			       MADV_UNMERGEABLE);
	case OP_FREE:
		return madvise(req->addr, psize(), MADV_FREE);
	case OP_HOLD:
		return hold_pages(holder, req->addr, req->nr ?: 1);
	case OP_RELEASE:
		return release_page(holder);
	case OP_FORK:
		pid = fork();
		if (!pid)
			serve(req->arg);
		return pid;
	case OP_EXEC:
		if (prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0))
			return errno;
		snprintf(text, sizeof(text), "%d", own_sock);
		execl("/proc/self/exe", "ksm_rmap", PEER, text,
		      (char *)NULL);
		return errno;
	case OP_POISON:
		return madvise(req->addr, psize(), MADV_HWPOISON) ? errno : 0;
	case OP_OFFLINE:
		return madvise(req->addr, psize(), MADV_SOFT_OFFLINE) ? errno : 0;
	case OP_EXPECT_SIGBUS:
		if (sigaction(SIGBUS, &action, NULL))
			return errno;
		return prctl(PR_MCE_KILL, PR_MCE_KILL_SET,
			     req->arg ? PR_MCE_KILL_EARLY : PR_MCE_KILL_LATE,
			     0, 0) ? errno : 0;
	case OP_SIGBUS_ADDR:
		return __atomic_load_n(&sigbus_addr, __ATOMIC_RELAXED);
	case OP_SIGBUS_COUNT:
		return __atomic_load_n(&sigbus_count, __ATOMIC_RELAXED);
	default:
		return -1;
	}
}

/* Where in the kernel a CPU runs @pid, if one does, and if SysRq can tell */
static void where_it_runs(pid_t pid, char *text, size_t size)
{
	static char log[65536];
	char mark[32], *line, *p;
	size_t len = 0;

	if (!write_text("/proc/sysrq-trigger", "l"))
		return;
	usleep(200000);
	if (klogctl(3 /* read all */, log, sizeof(log) - 1) < 0)
		return;
	snprintf(mark, sizeof(mark), "PID: %d ", pid);
	for (line = NULL, p = log; (p = strstr(p, mark)); p++)
		line = p;
	for (line = line ? strtok(line, "\n") : NULL;
	     line && !strstr(line, "</TASK>") && len < size; line = strtok(NULL, "\n")) {
		p = strstr(line, "+0x");
		if (!p)
			continue;
		*p = '\0';
		while (p > line && p[-1] != ' ' && p[-1] != ':')
			p--;
		len += snprintf(text + len, size - len, "%s ", p);
	}
}

/*
 * What a process does that does not answer, for a message: its state, the clock
 * ticks it has spent in user mode and in the kernel, and where in the kernel it is.
 */
static const char *whereabouts(pid_t pid)
{
	static char text[600];
	char path[32], stat[512] = "", stack[512] = "", state = '?', *p;
	unsigned long user = 0, kernel = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (read_file(path, stat, sizeof(stat)) <= 0)
		return "gone";
	p = strrchr(stat, ')');
	if (p)
		sscanf(p, ") %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
		       &state, &user, &kernel);
	snprintf(path, sizeof(path), "/proc/%d/stack", pid);
	read_file(path, stack, sizeof(stack));
	if (state == 'R')
		where_it_runs(pid, stack, sizeof(stack));
	for (p = stack; *p; p++)
		if (*p == '\n')
			*p = ' ';
	snprintf(text, sizeof(text), "state %c, user %lu, kernel %lu ticks %s",
		 state, user, kernel, stack);
	return text;
}

static unsigned long __ask(struct __test_metadata *_metadata, int peer,
			   enum op op, char *addr, unsigned long arg, size_t nr)
{
	struct request req = { op, addr, arg, nr };
	unsigned long reply = 0;

	if (!peer)
		return obey(&req);
	ASSERT_EQ(sizeof(req), send(peers[peer].sock[0], &req, sizeof(req),
				    MSG_NOSIGNAL));
	if (op == OP_EXIT)
		return 0;
	ASSERT_EQ(sizeof(reply), recv(peers[peer].sock[0], &reply,
				      sizeof(reply), 0)) {
		TH_LOG("Expected an answer to op %d from peer %d (pid %d): %s",
		       op, peer, peers[peer].pid, whereabouts(peers[peer].pid));
	}
	return reply;
}

#define ask(peer, op, addr, arg) __ask(_metadata, peer, op, addr, arg, 0)

/* Returns: where @peer has mapped @nr pages with contents @tag, @tag + 1, ... */
static char *__map_by(struct __test_metadata *_metadata, int peer, size_t nr,
		      unsigned long tag)
{
	char *area = (char *)__ask(_metadata, peer, OP_MAP, NULL, tag, nr);

	ASSERT_NE(NULL, area);
	return area;
}

#define map_by(peer, nr, tag) __map_by(_metadata, peer, nr, tag)

/* Fork peer @child from peer @parent */
static void __fork_peer(struct __test_metadata *_metadata, int child,
			int parent)
{
	pid_t pid = ask(parent, OP_FORK, NULL, child);

	ASSERT_LT(0, pid);
	peers[child].pid = pid;
}

#define fork_peer(child, parent) __fork_peer(_metadata, child, parent)

/* Have @peer, a child of the test, exit */
static void __exit_peer(struct __test_metadata *_metadata, int peer)
{
	ask(peer, OP_EXIT, NULL, 0);
	ASSERT_EQ(peers[peer].pid, waitpid(peers[peer].pid, NULL, 0));
}

#define exit_peer(peer) __exit_peer(_metadata, peer)

/* Have @peer, which need not be a child of the test, exit, and wait for that */
static void __end_peer(struct __test_metadata *_metadata, int peer)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/maps", peers[peer].pid);
	ask(peer, OP_EXIT, NULL, 0);
	/* What it has forked is not reaped by it, but has no memory any more */
	for (int ms = 10000; ms; ms--) {
		char text[16];

		if (read_file(path, text, sizeof(text)) <= 0)
			return;
		usleep(1000);
	}
	ASSERT_TRUE(false) {
		TH_LOG("peer %d does not exit", peer);
	}
}

#define end_peer(peer) __end_peer(_metadata, peer)

static unsigned long pfn_at(const struct mapping *m)
{
	return pfn_of(peers[m->peer].pid, m->addr);
}

/* Do all of the @n mappings map one and the same KSM page? */
static bool are_merged(const struct mapping *m, int n)
{
	unsigned long pfn = pfn_at(&m[0]);

	for (int i = 1; i < n; i++)
		if (pfn_at(&m[i]) != pfn)
			return false;
	return pfn && pfn_is_ksm(pfn);
}

/*
 * Have ksmd merge the pages at all of @m.  Once it has looked at them three
 * times it should be done; but it may find some page busy, or skip it.
 */
static void __merge(struct __test_metadata *_metadata, const struct mapping *m,
		    int n)
{
	int scans = 0;

	for (; !are_merged(m, n) && scans < 30; scans += 3)
		ASSERT_TRUE(ksm_scan(3));
	ASSERT_TRUE(are_merged(m, n)) {
		TH_LOG("not merged after %d scans", scans);
	}
}

#define merge(m) ({							\
	__auto_type __m = &(m);						\
									\
	__merge(_metadata, *__m, ARRAY_SIZE(*__m));			\
})

enum found { FOUND, MISSED, NO_ORACLE };

static unsigned long misses;	/* walks that missed a mapping, for whatever reason */

static enum found walk_finds(struct __test_metadata *_metadata,
			     unsigned long pfn, const struct mapping *m)
{
	enum found ret = NO_ORACLE;

	for (int tries = 0; tries < 6; tries++) {
		if (tries) {
			/*
			 * The page was locked, and not walked; or it was not
			 * on the LRU, but in a batch on its way there.  What
			 * drains these batches is dropping the page cache.
			 */
			write_num("/proc/sys/vm/drop_caches", 1);
			usleep(1000 << tries);
		}
		if (!idle_set(idle_fd, pfn))
			continue;
		/* The control: what nobody touches stays idle */
		if (!idle_get(idle_fd, pfn))
			continue;
		ask(m->peer, OP_TOUCH, m->addr, 0);
		if (!idle_get(idle_fd, pfn))
			return FOUND;
		ret = MISSED;
		misses++;
	}
	return ret;
}

/*
 * The central assertion: all @n mappings map one KSM page, its content is that
 * of @tag through each of them, and the walk finds each of them.
 */
static void __assert_found(struct __test_metadata *_metadata,
			   const struct mapping *m, int n, unsigned long tag)
{
	unsigned long pfn = pfn_at(&m[0]);

	ASSERT_TRUE(are_merged(m, n));
	for (int i = 0; i < n; i++) {
		ASSERT_TRUE(ask(m[i].peer, OP_HOLDS, m[i].addr, tag));
		switch (walk_finds(_metadata, pfn, &m[i])) {
		case FOUND:
			break;
		case MISSED:
			ASSERT_TRUE(false) {
				TH_LOG("rmap misses mapping %d of %d: pfn %#lx at %p of pid %d",
				       i + 1, n, pfn, m[i].addr,
				       peers[m[i].peer].pid);
			}
			break;
		case NO_ORACLE:
			ASSERT_TRUE(false) {
				TH_LOG("pfn %#lx does not stay idle untouched, flags %#llx",
				       pfn, kpageflags_of(pfn));
			}
		}
	}
	/* The walk must not have changed what is mapped */
	ASSERT_TRUE(are_merged(m, n));
}

#define assert_found(m, tag) ({						\
	__auto_type __m = &(m);						\
									\
	__assert_found(_metadata, *__m, ARRAY_SIZE(*__m), tag);		\
})

/* The content at @m is @tag, and if that is a KSM page, rmap finds it */
static void __assert_found_or_copied(struct __test_metadata *_metadata,
				     const struct mapping *m, unsigned long tag)
{
	const unsigned long pfn = pfn_at(m);

	ASSERT_NE(0, pfn);
	ASSERT_TRUE(ask(m->peer, OP_HOLDS, m->addr, tag));
	if (pfn_is_ksm(pfn))
		ASSERT_EQ(FOUND, walk_finds(_metadata, pfn, m)) {
			TH_LOG("rmap misses KSM pfn %#lx at %p of pid %d", pfn,
			       m->addr, peers[m->peer].pid);
		}
}

#define assert_found_or_copied(m, tag) \
	__assert_found_or_copied(_metadata, m, tag)

/* The page at @addr of @peer is its own, and not a KSM page, with content @tag */
static void __assert_unmerged(struct __test_metadata *_metadata, int peer,
			      char *addr, unsigned long tag)
{
	const struct mapping m = { peer, addr };

	ASSERT_TRUE(ask(peer, OP_HOLDS, addr, tag));
	ASSERT_NE(0, pfn_at(&m));
	ASSERT_FALSE(pfn_is_ksm(pfn_at(&m)));
}

#define assert_unmerged(peer, addr, tag) \
	__assert_unmerged(_metadata, peer, addr, tag)

/* Where the vma that contains @addr starts and ends */
static void __vma_bounds(struct __test_metadata *_metadata, char *addr,
			 char **start, char **end)
{
	unsigned long from, to;
	char line[512];
	FILE *maps = fopen("/proc/self/maps", "r");

	ASSERT_NE(NULL, maps);
	*start = NULL;
	while (fgets(line, sizeof(line), maps))
		if (sscanf(line, "%lx-%lx", &from, &to) == 2 &&
		    from <= (unsigned long)addr && (unsigned long)addr < to) {
			*start = (char *)from;
			*end = (char *)to;
		}
	fclose(maps);
	ASSERT_NE(NULL, *start);
}

/* A split, merge or growth that did not happen would test nothing */
#define assert_vma(addr, from, to) do {					\
	char *__start, *__end;						\
									\
	__vma_bounds(_metadata, addr, &__start, &__end);		\
	ASSERT_EQ((void *)(from), (void *)__start);			\
	ASSERT_EQ((void *)(to), (void *)__end);				\
} while (0)

FIXTURE(ksm_rmap)
{
	size_t page;	/* bytes */
	char *one;	/* a page on its own, content 1, in every test */
	char cgroup[64];	/* of tests that make one */
};

/* Returns: a process of process group @group, which is not a zombie, or 0 */
static pid_t process_of(pid_t group)
{
	char path[64], stat[512], state, *p;
	struct dirent *entry;
	pid_t of, pid = 0;
	DIR *proc = opendir("/proc");

	while (proc && !pid && (entry = readdir(proc))) {
		snprintf(path, sizeof(path), "/proc/%d/stat", atoi(entry->d_name));
		if (read_file(path, stat, sizeof(stat)) <= 0)
			continue;
		p = strrchr(stat, ')');
		if (p && sscanf(p, ") %c %*d %d", &state, &of) == 2 &&
		    of == group && state != 'Z')
			pid = atoi(entry->d_name);
	}
	if (proc)
		closedir(proc);
	return pid;
}

/*
 * The harness has killed the test before if that ran out of time, and its peers.
 * What they have merged is not to be counted by this one.
 */
static void __see_them_gone(struct __test_metadata *_metadata)
{
	pid_t pid = 0;

	for (int tries = 0; *last_group && tries < 200; tries++) {
		pid = process_of(*last_group);
		if (!pid)
			break;
		usleep(100000);
	}
	ASSERT_EQ(0, pid) {
		TH_LOG("Expected process %d of the test before to end: %s",
		       pid, whereabouts(pid));
	}
	*last_group = getpgrp();
}

/* Returns: what this machine lacks for the tests, or NULL */
static const char *__set_up(struct __test_metadata *_metadata)
{
	const char *missing = ksm_rmap_missing();

	if (missing)
		return missing;
	__see_them_gone(_metadata);
	ksm_knobs_reset();
	idle_fd = idle_open();
	ASSERT_LE(0, idle_fd);
	flush_tlb();	/* maps its memory now, not below a stack later */
	for (int i = 1; i <= MAX_PEERS; i++) {
		/* On an emulated CPU of a busy host, an answer may take some */
		const struct timeval timeout = { .tv_sec = 60 };

		ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0,
					peers[i].sock));
		ASSERT_EQ(0, setsockopt(peers[i].sock[0], SOL_SOCKET,
					SO_RCVTIMEO, &timeout,
					sizeof(timeout)));
	}
	peers[0].pid = getpid();
	return NULL;
}

#define set_up() __set_up(_metadata)

/* Peers exit when they see the test's end of their sockets close */
static void tear_down(void)
{
	for (int i = 1; i <= MAX_PEERS; i++)
		close(peers[i].sock[0]);
}

/* The same with a cgroup, in which the pages of peers can be swapped out */
static const char *__set_up_with_cgroup(struct __test_metadata *_metadata,
					char cgroup[64])
{
	const char *missing = set_up();

	return missing ?: make_cgroup(cgroup);
}

#define set_up_with_cgroup(cgroup) __set_up_with_cgroup(_metadata, cgroup)

static void tear_down_with_cgroup(const char *cgroup)
{
	tear_down();
	remove_cgroup(cgroup);
}

FIXTURE_SETUP(ksm_rmap)
{
	const char *missing = set_up();

	if (missing)
		SKIP(return, "%s", missing);
	self->page = psize();
	self->one = map_area(1);
	ASSERT_NE(NULL, self->one);
	fill_page(self->one, 1);
}

FIXTURE_TEARDOWN(ksm_rmap)
{
	tear_down_with_cgroup(self->cgroup);
}

/* A new area of @nr pages, with contents 100, 101 and so on */
static char *__new_area(struct __test_metadata *_metadata, size_t nr)
{
	char *area = map_area(nr);

	ASSERT_NE(NULL, area);
	for (size_t i = 0; i < nr; i++)
		fill_page(area + i * psize(), 100 + i);
	return area;
}

#define new_area(nr) __new_area(_metadata, nr)

/*
 *   merge
 */

TEST_F(ksm_rmap, merge_two_pages)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) } };

	fill_page(m[1].addr, 1);
	merge(m);
	assert_found(m, 1);
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
	merge(m);
	assert_found(m, 2);
	EXPECT_EQ(ARRAY_SIZE(m), ksm_get_self_merging_pages());
}

TEST_F_TIMEOUT(ksm_rmap, merge_one_sharer_in_each_of_many_processes, SLOW)
{
	struct mapping m[MAX_PEERS + 1] = { { 0, self->one } };

	for (int i = 1; i <= MAX_PEERS; i++) {
		fork_peer(i, 0);
		/* What it has from the test would make it two */
		ASSERT_EQ(0, ask(i, OP_UNMAP, self->one, 0));
		m[i].peer = i;
		m[i].addr = map_by(i, 1, 1);
	}
	merge(m);
	assert_found(m, 1);
}

TEST_F_TIMEOUT(ksm_rmap, merge_among_hundreds_of_vmas, SLOW)
{
	const size_t nr = NR_UNRELATED, page = self->page;
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
	assert_vma(m[2].addr, m[2].addr, m[2].addr + page);
	merge(m);
	assert_found(m, 1);
}

/* What the counter @name of /proc/@pid/ksm_stat is, or -1 */
static long ksm_stat_of(pid_t pid, const char *name)
{
	char path[64], text[512], *at;

	snprintf(path, sizeof(path), "/proc/%d/ksm_stat", pid);
	if (read_file(path, text, sizeof(text)) <= 0)
		return -1;
	at = strstr(text, name);
	return at ? atol(at + strlen(name)) : -1;
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

static void __expect_counters(struct __test_metadata *_metadata, int step)
{
	for (size_t i = 0; i < ARRAY_SIZE(counters); i++) {
		EXPECT_EQ(counters[i].expected[step],
			  ksm_counter(counters[i].name)) {
			TH_LOG("%s, step %d", counters[i].name, step);
		}
	}
}

#define expect_counters(step) __expect_counters(_metadata, step)

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
	expect_counters(MERGED);
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
	expect_counters(WRITTEN);
	EXPECT_EQ(13, ksm_get_self_merging_pages());
	EXPECT_EQ(2, ksm_get_self_zero_pages());

	write_num(KSM_SYSFS "run", 2);
	expect_counters(UNMERGED);
	EXPECT_EQ(0, ksm_stat_of(getpid(), "ksm_rmap_items"));
}

/*
 *   COW
 */

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
	merge(m);

	/* The writer has a page of its own, the others do not notice */
	fill_page(m[3].addr, 3);
	assert_unmerged(0, m[3].addr, 3);
	assert_found(others, 2);

	/* Nor when ksmd has noticed that the writer's is not a KSM page */
	ASSERT_TRUE(ksm_scan(3));
	assert_unmerged(0, m[3].addr, 3);
	assert_found(others, 2);
	EXPECT_EQ(7, ksm_get_self_merging_pages());

	/* And once it is equal again, it is merged again */
	fill_page(m[3].addr, 2);
	merge(m);
	assert_found(m, 2);
	EXPECT_EQ(8, ksm_get_self_merging_pages());
}

/* @nr private pages of a file of its own, mergeable, from page @offset on */
static char *__new_file_area(struct __test_metadata *_metadata, size_t nr,
			     unsigned long offset)
{
	int fd = memfd_create("ksm_rmap", 0);
	char *area;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, (offset + nr) * psize()));
	area = mmap(NULL, nr * psize(), PROT_READ | PROT_WRITE, MAP_PRIVATE,
		    fd, offset * psize());
	ASSERT_NE(MAP_FAILED, area);
	close(fd);
	madvise(area, nr * psize(), MADV_NOHUGEPAGE);
	ASSERT_EQ(0, madvise(area, nr * psize(), MADV_MERGEABLE));
	return area;
}

#define new_file_area(nr, offset) __new_file_area(_metadata, nr, offset)

/*
 * Smart scan has ksmd skip a page according to the age of its rmap_item, which
 * it has only as long as it is not in the stable tree.  If that were taken for
 * an age which has the place in the tree, or were left behind there, then with
 * such a large offset ksmd would skip the page, and do so 255 times.
 */
TEST_F(ksm_rmap, cow_at_a_large_offset)
{
	const unsigned long offset = sizeof(long) == 8 ? 0xffff00000000 : 0x7fff;
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) },
			       { 0, new_file_area(1, offset) } };
	struct mapping others[] = { m[0], m[1] };
	long skipped;

	fill_page(m[1].addr, 1);
	fill_page(m[2].addr, 1);
	merge(m);
	assert_found(m, 1);

	fill_page(m[2].addr, 2);
	assert_unmerged(0, m[2].addr, 2);
	/* Slow, or there are many more scans than were asked for */
	write_num(KSM_SYSFS "sleep_millisecs", 200);
	skipped = ksm_knob(KSM_SYSFS "pages_skipped");
	ASSERT_TRUE(ksm_scan(1));
	EXPECT_EQ(skipped, ksm_knob(KSM_SYSFS "pages_skipped"));
	assert_found(others, 1);

	/* One scan for the checksum, another to merge, two in case of a skip */
	fill_page(m[2].addr, 1);
	ASSERT_TRUE(ksm_scan(4));
	assert_found(m, 1);
}

/*
 *   unmerge
 */

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
	merge(m);

	ASSERT_EQ(0, madvise(area, 4 * self->page, MADV_UNMERGEABLE));
	for (int i = 0; i < 4; i++)
		assert_unmerged(0, m[i].addr, 2);
	assert_found(kept, 2);

	/* ksmd leaves them alone now */
	ASSERT_TRUE(ksm_scan(3));
	for (int i = 0; i < 4; i++)
		assert_unmerged(0, m[i].addr, 2);
	assert_found(kept, 2);
	EXPECT_EQ(4, ksm_get_self_merging_pages());
}

TEST_F(ksm_rmap, unmerge_by_run_2)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) } };

	fill_page(m[1].addr, 1);
	merge(m);

	ASSERT_EQ(0, ksm_stop());
	assert_unmerged(0, m[0].addr, 1);
	assert_unmerged(0, m[1].addr, 1);
	EXPECT_EQ(0, ksm_get_self_merging_pages());
	EXPECT_EQ(0, ksm_knob(KSM_SYSFS "pages_shared"));
	EXPECT_EQ(0, ksm_knob(KSM_SYSFS "pages_sharing"));

	merge(m);
	assert_found(m, 1);
}

TEST_F(ksm_rmap, unmerge_by_prctl)
{
	struct mapping m[3], others[2];

	/* One who is not concerned by what this process asks for itself */
	fork_peer(1, 0);
	for (int i = 0; i < 2; i++) {
		m[i + 1].peer = 1;
		m[i + 1].addr = map_by(1, 1, 4);
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
	merge(m);
	assert_found(m, 4);

	ASSERT_EQ(0, prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0));
	assert_unmerged(0, m[0].addr, 4);
	assert_found(others, 4);
}

/* An rmap_item is left, and its anon_vma with no vma, until ksmd comes past */
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
		merge(m);
		ASSERT_EQ(0, munmap(m[gone].addr, self->page));
		assert_found(left, 10 + gone);
		ASSERT_TRUE(ksm_scan(1));
		assert_found(left, 10 + gone);
	}
}

/*
 *   mremap
 */

/*
 *  area: | 100 | 101 |  1  | 103 |   --->   to: | 100 | 101 |  1  | 103 |
 *
 * From then on its addresses and offsets have nothing to do with each other.
 */
static char *__move_area(struct __test_metadata *_metadata, char *area,
			 size_t nr)
{
	char *to = map_area(nr);

	ASSERT_NE(NULL, to);
	ASSERT_EQ((void *)to, sys_mremap(area, nr * psize(), nr * psize(),
					 MREMAP_MAYMOVE | MREMAP_FIXED, to));
	return to;
}

#define move_area(area, nr) __move_area(_metadata, area, nr)

TEST_F(ksm_rmap, mremap_before_merging)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(4) } };

	m[1].addr += 2 * self->page;
	fill_page(m[1].addr, 1);
	m[1].addr = move_area(m[1].addr - 2 * self->page, 4) + 2 * self->page;
	merge(m);
	assert_found(m, 1);
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
	merge(m);

	/* Merged pages do not move: the contents do */
	m[2].addr = move_area(area, 4) + 2 * self->page;
	assert_unmerged(0, m[2].addr, 1);
	assert_found(others, 1);

	merge(m);
	assert_found(m, 1);
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
	merge(m);

	/* The page at 3 goes to 0, in place of the one that was merged there */
	ASSERT_EQ((void *)m[1].addr,
		  sys_mremap(m[2].addr, self->page, self->page,
			     MREMAP_MAYMOVE | MREMAP_FIXED, m[1].addr));
	assert_unmerged(0, m[1].addr, 1);

	struct mapping rest[] = { m[0], m[1] };

	merge(rest);
	assert_found(rest, 1);
}

/*
 *   VMAs that are split, merged and grown
 */

/*
 *  | 100 | 101 | 102 | 103 | 104 |  1  | 106 |  1  |
 *                                   ^           ^
 */
struct divided {
	char *area;
	struct mapping m[3];
};

static void __prepare_divided(struct __test_metadata *_metadata,
			      struct divided *d, char *one)
{
	d->area = new_area(8);
	d->m[0] = (struct mapping){ 0, one };
	d->m[1] = (struct mapping){ 0, d->area + 5 * psize() };
	d->m[2] = (struct mapping){ 0, d->area + 7 * psize() };
	fill_page(d->m[1].addr, 1);
	fill_page(d->m[2].addr, 1);
	merge(d->m);
	assert_vma(d->area, d->area, d->area + 8 * psize());
}

TEST_F(ksm_rmap, split_by_mprotect)
{
	struct divided d;
	size_t page = self->page;

	__prepare_divided(_metadata, &d, self->one);
	/* | r  r  r | w  w  1  w  1 | */
	ASSERT_EQ(0, mprotect(d.area, 3 * page, PROT_READ));
	assert_vma(d.m[1].addr, d.area + 3 * page, d.area + 8 * page);
	assert_found(d.m, 1);
	/* | r  r  r | w  w  1 | r | 1 | */
	ASSERT_EQ(0, mprotect(d.area + 6 * page, page, PROT_READ));
	assert_vma(d.m[2].addr, d.area + 7 * page, d.area + 8 * page);
	assert_found(d.m, 1);
}

TEST_F(ksm_rmap, split_by_munmap)
{
	struct divided d;
	size_t page = self->page;

	__prepare_divided(_metadata, &d, self->one);
	/* | w  w |   | w  w  1  w  1 | */
	ASSERT_EQ(0, munmap(d.area + 2 * page, page));
	assert_vma(d.m[1].addr, d.area + 3 * page, d.area + 8 * page);
	assert_found(d.m, 1);
	/*              |  1  w  1 | */
	ASSERT_EQ(0, munmap(d.area, 5 * page));
	assert_vma(d.m[1].addr, d.area + 5 * page, d.area + 8 * page);
	assert_found(d.m, 1);
}

TEST_F(ksm_rmap, split_by_madvise)
{
	struct divided d;
	size_t page = self->page;

	__prepare_divided(_metadata, &d, self->one);
	/* | not mergeable | w  1  w  1 | */
	ASSERT_EQ(0, madvise(d.area, 4 * page, MADV_UNMERGEABLE));
	assert_vma(d.m[1].addr, d.area + 4 * page, d.area + 8 * page);
	assert_found(d.m, 1);
}

TEST_F(ksm_rmap, split_after_mremap)
{
	struct divided d;
	size_t page = self->page;

	__prepare_divided(_metadata, &d, self->one);
	d.area = move_area(d.area, 8);
	d.m[1].addr = d.area + 5 * page;
	d.m[2].addr = d.area + 7 * page;
	merge(d.m);
	ASSERT_EQ(0, mprotect(d.area, 3 * page, PROT_READ));
	assert_vma(d.m[1].addr, d.area + 3 * page, d.area + 8 * page);
	assert_found(d.m, 1);
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
	assert_vma(m[2].addr, area + 4 * page, area + 8 * page);
	merge(m);
	ASSERT_EQ(0, mprotect(area, 4 * page, PROT_READ | PROT_WRITE));
	assert_vma(m[2].addr, area, area + 8 * page);
	assert_found(m, 1);
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
	merge(old);
	ASSERT_EQ((void *)area, mremap(area, 4 * page, 8 * page, 0));
	assert_vma(m[1].addr, area, area + 8 * page);
	assert_found(old, 1);

	/* And what comes in the part that is new */
	fill_page(m[2].addr, 1);
	merge(m);
	assert_found(m, 1);
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
	merge(old);
	ASSERT_EQ((void *)area, mmap(area, 4 * page, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
				     -1, 0));
	madvise(area, 4 * page, MADV_NOHUGEPAGE);
	ASSERT_EQ(0, madvise(area, 4 * page, MADV_MERGEABLE));
	assert_vma(m[1].addr, area, area + 8 * page);
	assert_found(old, 1);

	fill_page(m[2].addr, 1);
	merge(m);
	assert_found(m, 1);
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
	assert_vma(top - page, top - 7 * page, top);
	fill_page(m[1].addr, 1);
	fill_page(m[2].addr, 1);
	merge(m);
	assert_found(m, 1);

	for (int i = 8; i <= 20; i++)
		fill_page(top - i * page, 100 + i);
	assert_vma(top - page, top - 20 * page, top);
	assert_found(m, 1);
}

/*
 *   fork, after merging
 */

TEST_F(ksm_rmap, fork)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) },
			       { 1, self->one }, { 1, NULL } };
	struct mapping before[] = { m[0], m[1] };

	m[3].addr = m[1].addr;
	fill_page(m[1].addr, 1);
	merge(before);
	fork_peer(1, 0);
	assert_found(m, 1);
	/* Now the child's mappings have rmap_items too */
	ASSERT_TRUE(ksm_scan(2));
	assert_found(m, 1);
}

TEST_F(ksm_rmap, fork_child_only)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) } };
	struct mapping child[] = { { 1, m[0].addr }, { 1, m[1].addr } };

	fill_page(m[1].addr, 1);
	merge(m);
	fork_peer(1, 0);
	ASSERT_EQ(0, munmap(m[0].addr, self->page));
	ASSERT_EQ(0, munmap(m[1].addr, self->page));
	assert_found(child, 1);
	ASSERT_TRUE(ksm_scan(2));
	assert_found(child, 1);
}

TEST_F(ksm_rmap, fork_grandchild)
{
	struct mapping m[6] = { { 0, self->one }, { 0, new_area(1) } };
	struct mapping before[] = { m[0], m[1] };

	fill_page(m[1].addr, 1);
	merge(before);
	fork_peer(1, 0);
	fork_peer(2, 1);
	for (int i = 2; i < 6; i++)
		m[i] = (struct mapping){ i / 2, m[i % 2].addr };
	assert_found(m, 1);

	/* The grandchild outlives its parent */
	struct mapping rest[] = { m[0], m[1], m[4], m[5] };

	exit_peer(1);
	assert_found(rest, 1);
	ASSERT_TRUE(ksm_scan(2));
	assert_found(rest, 1);
}

TEST_F(ksm_rmap, fork_child_that_wrote)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) },
			       { 1, self->one } };
	struct mapping before[] = { m[0], m[1] };

	fill_page(m[1].addr, 1);
	merge(before);
	fork_peer(1, 0);
	ask(1, OP_FILL, m[1].addr, 5);
	assert_unmerged(1, m[1].addr, 5);
	assert_found(m, 1);
	ASSERT_TRUE(ksm_scan(2));
	assert_unmerged(1, m[1].addr, 5);
	assert_found(m, 1);
}

TEST_F(ksm_rmap, fork_parent_that_exited)
{
	struct mapping m[3] = { { 0, self->one } }, parent[3] = { m[0] };

	fork_peer(1, 0);
	for (int i = 1; i < 3; i++) {
		parent[i].peer = 1;
		parent[i].addr = map_by(1, 1, 1);
		m[i] = (struct mapping){ 2, parent[i].addr };
	}
	merge(parent);
	fork_peer(2, 1);
	exit_peer(1);
	assert_found(m, 1);
	/* ksmd drops the rmap_items of the parent, and makes the child's own */
	ASSERT_TRUE(ksm_scan(2));
	assert_found(m, 1);
}

TEST_F(ksm_rmap, fork_and_split)
{
	struct divided d;
	const size_t page = self->page;

	__prepare_divided(_metadata, &d, self->one);
	fork_peer(1, 0);

	/* Different vmas in parent and child, both with the page's index */
	ASSERT_EQ(0, mprotect(d.area, 3 * page, PROT_READ));
	assert_vma(d.m[1].addr, d.area + 3 * page, d.area + 8 * page);
	ASSERT_EQ(0, ask(1, OP_UNMAP, d.area + 4 * page, 0));

	struct mapping m[] = { d.m[0], d.m[1], d.m[2], { 1, d.m[0].addr },
			       { 1, d.m[1].addr }, { 1, d.m[2].addr } };

	assert_found(m, 1);
}

/*
 * Fork has shared pages with a process in which they are not for KSM: ksmd will
 * never come by there.  Which of two equal pages becomes the KSM page, depends on
 * which ksmd comes to first, so have it both ways.
 */
TEST_F(ksm_rmap, fork_child_of_unmergeable_parent)
{
	char *area = new_area(2);
	struct mapping first[] = { { 1, NULL }, { 2, area } };
	struct mapping last[] = { { 2, area + self->page }, { 3, NULL } };

	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, ask(0, OP_UNMERGEABLE, area + i * self->page, 0));
	fork_peer(1, 0);
	first[0].addr = map_by(1, 1, 100);
	fork_peer(2, 0);
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, ask(2, OP_MERGEABLE, area + i * self->page, 0));
	fork_peer(3, 0);
	last[1].addr = map_by(3, 1, 101);

	merge(first);
	merge(last);
	assert_found(first, 100);
	assert_found(last, 101);
	for (int i = 0; i < 2; i++) {
		const struct mapping parent = { 0, area + i * self->page };

		assert_found_or_copied(&parent, 100 + i);
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
	fork_peer(1, 0);
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, ask(1, OP_UNMERGEABLE, shared[i].addr, 0));
	fill_page(first[0].addr, 200);
	fill_page(last[1].addr, 201);

	merge(first);
	merge(last);
	/* Who made it a KSM page, has no use for it any more */
	fill_page(first[1].addr, 1000);
	fill_page(last[0].addr, 1001);
	ASSERT_TRUE(ksm_scan(3));
	for (int i = 0; i < 2; i++)
		assert_found_or_copied(&shared[i], 200 + i);
}

/*
 * ksmd makes a page a KSM page, and then cannot replace the other by it.  Whoever
 * shares that page by fork still has it then.
 */
TEST_F_TIMEOUT(ksm_rmap, fork_and_merge_that_fails, SLOW)
{
	enum { CHILDREN = 20 };
	char *busy, *shared;

	fork_peer(1, 0);
	busy = map_by(1, 1, 100);
	fork_peer(2, 0);
	shared = map_by(2, 1, 100);
	write_num(KSM_SYSFS "smart_scan", 0);
	ASSERT_EQ(0, ask(1, OP_HOLD, busy, 0));
	ASSERT_TRUE(ksm_scan(3));
	for (int i = 3; i < 3 + CHILDREN; i++) {
		const struct mapping m[] = { { 2, shared }, { i, shared } };

		/* Seen for the first time: not yet merged with anything */
		fork_peer(i, 2);
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
		assert_found_or_copied(&m[0], 100);
		assert_found_or_copied(&m[1], 100);
	}
	ask(1, OP_RELEASE, NULL, 0);
}

/*
 *   private file mapping
 */

TEST_F(ksm_rmap, private_file_mapping_at_an_offset)
{
	const size_t page = self->page;
	char *file = new_file_area(8, 32);
	struct mapping m[] = { { 0, self->one }, { 0, file },
			       { 0, file + 5 * page } };

	fill_page(m[1].addr, 1);
	fill_page(m[2].addr, 1);
	merge(m);
	assert_found(m, 1);

	/* Split, the page that is left in the second part starts elsewhere */
	ASSERT_EQ(0, mprotect(file + page, 3 * page, PROT_READ));
	assert_vma(m[2].addr, file + 4 * page, file + 8 * page);
	assert_found(m, 1);
}

/*
 *   what the walk is for: migration, swap-out, memory failure
 */

enum { STRIDE = 32 };	/* pages: one is kept, the others are freed */

static void __free_all_but_first(struct __test_metadata *_metadata, char *area,
				 size_t nr)
{
	for (size_t i = 0; i < nr; i += STRIDE)
		ASSERT_EQ(0, madvise(area + (i + 1) * psize(),
				     (STRIDE - 1) * psize(), MADV_DONTNEED));
}

#define free_all_but_first(area, nr) __free_all_but_first(_metadata, area, nr)

/* Leave holes in 64 MiB of memory, wherever that is */
static void __make_holes(struct __test_metadata *_metadata)
{
	const size_t nr = (64 << 20) / psize();
	char *bulk = mmap(NULL, nr * psize(), PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, bulk);
	madvise(bulk, nr * psize(), MADV_NOHUGEPAGE);
	for (size_t i = 0; i < nr; i++)
		bulk[i * psize()] = 1;
	free_all_but_first(bulk, nr);
}

#define make_holes() __make_holes(_metadata)

enum { PAIRS = 64 };	/* of KSM pages */

/*
 * Compaction moves pages from the low end of a zone to the high end, but into
 * pageblocks that are in use already.  So have such pageblocks on either side of
 * the KSM pages, with contents @tag and so on, and holes in between.
 *
 * Returns: how many of them have moved
 */
static int __compact_pairs(struct __test_metadata *_metadata,
			   struct mapping m[PAIRS][2], unsigned long tag)
{
	unsigned long pfn[PAIRS];
	char *area[2];
	int moved = 0;

	make_holes();

	/* Only what is at the beginning of a stride is the same in both areas */
	for (int j = 0; j < 2; j++) {
		area[j] = new_area(PAIRS * STRIDE);
		for (int i = 0; i < PAIRS * STRIDE; i++) {
			char *p = area[j] + i * psize();

			if (i % STRIDE) {
				fill_page(p, 1000000 * (j + 1) + tag + i);
			} else {
				fill_page(p, tag + i);
				m[i / STRIDE][j] = (struct mapping){ 0, p };
			}
		}
	}
	ASSERT_TRUE(ksm_scan(3));
	for (int i = 0; i < PAIRS; i++) {
		ASSERT_TRUE(are_merged(m[i], 2));
		pfn[i] = pfn_at(&m[i][0]);
	}

	for (int j = 0; j < 2; j++)
		free_all_but_first(area[j], PAIRS * STRIDE);
	make_holes();
	write_num("/proc/sys/vm/compact_memory", 1);
	for (int i = 0; i < PAIRS; i++)
		moved += pfn_at(&m[i][0]) != pfn[i];
	return moved;
}

TEST_F_TIMEOUT(ksm_rmap, migration_by_compaction, SLOW)
{
	struct mapping m[PAIRS][2];
	unsigned long tag = 0;
	int moved = 0;

	if (access("/proc/sys/vm/compact_memory", W_OK))
		SKIP(return, "no vm.compact_memory: needs CONFIG_COMPACTION");

	/* They may happen to be at the high end: try with some more pages then */
	for (int tries = 0; !moved && tries < 10; tries++) {
		tag += 10000;
		moved = __compact_pairs(_metadata, m, tag);
	}
	/* They moved only if both mappings were found, and replaced */
	for (int i = 0; i < PAIRS; i++)
		assert_found(m[i], tag + i * STRIDE);
	ASSERT_LT(0, moved) {
		TH_LOG("compaction did not move any of %d KSM pages", PAIRS);
	}
	TH_LOG("compaction moved %d of %d KSM pages", moved, PAIRS);
}

/* Returns: the node that has the page at @addr, or -errno */
static int node_of(char *addr)
{
	int status = -ENOENT;

	if (syscall(__NR_move_pages, 0, 1UL, &addr, NULL, &status, 0))
		return -errno;
	return status;
}

/* Have @addr, which must be present, on @node */
static void __move_to_node(struct __test_metadata *_metadata, char *addr, int node)
{
	void *page = addr;
	int status = -1;

	ASSERT_EQ(0, syscall(__NR_move_pages, 0, 1UL, &page, &node, &status,
			     MPOL_MF_MOVE_ALL));
	ASSERT_EQ(node, node_of(addr));
}

#define move_to_node(addr, node) __move_to_node(_metadata, addr, node)

TEST_F(ksm_rmap, migration_to_another_node)
{
	struct mapping m[] = { { 0, self->one }, { 0, new_area(1) },
			       { 1, self->one }, { 1, NULL } };
	struct mapping before[] = { m[0], m[1] };
	int from, to, status = -1;
	unsigned long pfn;

	if (access(NODE1, F_OK))
		SKIP(return, "needs two memory nodes, try numa=fake=2");
	fill_page(m[1].addr, 1);
	merge(before);
	fork_peer(1, 0);
	m[3].addr = m[1].addr;
	pfn = pfn_at(&m[0]);

	from = node_of(m[0].addr);
	ASSERT_LE(0, from) {
		TH_LOG("move_pages: %s (needs CONFIG_NUMA_MIGRATION)",
		       strerror(-from));
	}
	to = !from;

	for (int i = 0; i < 2; i++, to = from) {
		ASSERT_EQ(0, syscall(__NR_move_pages, 0, 1UL, &m[1].addr, &to,
				     &status, MPOL_MF_MOVE_ALL));
		ASSERT_EQ(to, status);
		ASSERT_EQ(to, node_of(m[0].addr));
		ASSERT_NE(pfn, pfn_at(&m[0]));
		pfn = pfn_at(&m[0]);
		assert_found(m, 1);
	}
}

/* @nr equal pages to be merged by node, the first two on node 1, the others on 0 */
static char *__new_area_on_two_nodes(struct __test_metadata *_metadata, size_t nr)
{
	char *area = new_area(nr);

	write_num(KSM_SYSFS "merge_across_nodes", 0);
	for (size_t i = 0; i < nr; i++) {
		fill_page(area + i * psize(), 100);
		move_to_node(area + i * psize(), i < 2);
	}
	return area;
}

#define new_area_on_two_nodes(nr) __new_area_on_two_nodes(_metadata, nr)

/* With merge_across_nodes=0, a KSM page comes to where there is one like it */
TEST_F(ksm_rmap, migration_to_a_node_with_the_same)
{
	if (access(NODE1, F_OK))
		SKIP(return, "needs two memory nodes, try numa=fake=2");

	char *area = new_area_on_two_nodes(4);
	struct mapping there[] = { { 0, area }, { 0, area + self->page } };
	struct mapping here[] = { { 0, area + 2 * self->page },
				  { 0, area + 3 * self->page } };
	struct mapping moved[] = { here[0] };

	merge(there);
	merge(here);
	ASSERT_NE(pfn_at(&there[0]), pfn_at(&here[0]));

	/* The only one that has the page, when it is moved */
	fill_page(here[1].addr, 1000);
	ASSERT_TRUE(ksm_scan(1));
	move_to_node(here[0].addr, 1);

	/* Without memory, ksmd has to try again */
	if (ksmd_fails(100, NULL)) {
		ASSERT_TRUE(ksm_scan(1));
		ksmd_fails(0, NULL);
		assert_found(moved, 100);
		assert_found(there, 100);
	}
	for (int i = 0; i < 3; i++) {
		ASSERT_TRUE(ksm_scan(1));
		assert_found(moved, 100);
		assert_found(there, 100);
	}

	struct mapping all[] = { there[0], there[1], moved[0] };

	assert_found(all, 100);
}

/* The same, but all KSM pages with that content have as many sharers as they may */
TEST_F(ksm_rmap, migration_to_a_node_with_the_same_but_full)
{
	if (access(NODE1, F_OK))
		SKIP(return, "needs two memory nodes, try numa=fake=2");

	char *area = new_area_on_two_nodes(4);
	struct mapping there[] = { { 0, area }, { 0, area + self->page } };
	struct mapping here[] = { { 0, area + 2 * self->page },
				  { 0, area + 3 * self->page } };
	struct mapping moved[] = { here[0] };

	write_num(KSM_SYSFS "max_page_sharing", 2);
	merge(there);
	merge(here);
	fill_page(here[1].addr, 1000);
	ASSERT_TRUE(ksm_scan(1));
	move_to_node(here[0].addr, 1);

	/* Without memory for a chain, ksmd has to try again */
	if (ksmd_fails(100, "ksm_stable_node")) {
		ASSERT_TRUE(ksm_scan(1));
		ksmd_fails(0, "ksm_stable_node");
		EXPECT_EQ(0, ksm_counter("stable_node_chains"));
		assert_found(moved, 100);
	}
	ASSERT_TRUE(ksm_scan(2));
	EXPECT_EQ(1, ksm_counter("stable_node_chains"));
	EXPECT_EQ(2, ksm_counter("stable_node_dups"));
	assert_found(moved, 100);
	assert_found(there, 100);
}

/*
 * With merge_across_nodes=0, two KSM pages with the same content change places; one
 * of them may be in a chain.  ksmd comes to the one before it has seen that the
 * other has gone.
 */
static void __change_places(struct __test_metadata *_metadata, bool chain)
{
	const size_t page = psize();
	char *area = new_area_on_two_nodes(chain ? 6 : 4);
	struct mapping comes[] = { { 0, area }, { 0, area + page } };
	struct mapping goes[] = { { 0, area + 2 * page }, { 0, area + 3 * page } };
	struct mapping full[] = { { 0, area + 4 * page }, { 0, area + 5 * page } };
	struct mapping one[] = { comes[0] }, other[] = { goes[0] };

	write_num(KSM_SYSFS "smart_scan", 0);
	write_num(KSM_SYSFS "max_page_sharing", chain ? 2 : 256);
	/* Time to stop ksmd in, so that ksm_scan(1) is one scan */
	write_num(KSM_SYSFS "sleep_millisecs", 200);
	merge(comes);
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
	merge(goes);
	/* Each of them with one sharer, so that there is room for one more */
	fill_page(comes[1].addr, 1000);
	fill_page(goes[1].addr, 1001);
	ASSERT_TRUE(ksm_scan(1));
	move_to_node(comes[0].addr, 0);
	move_to_node(goes[0].addr, 1);
	for (int i = 0; i < 3; i++) {
		ASSERT_TRUE(ksm_scan(1));
		assert_found(one, 100);
		assert_found(other, 100);
		if (chain)
			assert_found(full, 100);
	}
}

TEST_F_TIMEOUT(ksm_rmap, migration_of_two_that_change_places, SLOW)
{
	if (access(NODE1, F_OK))
		SKIP(return, "needs two memory nodes, try numa=fake=2");
	__change_places(_metadata, false);
}

TEST_F_TIMEOUT(ksm_rmap, migration_of_two_that_change_places_in_a_chain, SLOW)
{
	if (access(NODE1, F_OK))
		SKIP(return, "needs two memory nodes, try numa=fake=2");
	__change_places(_metadata, true);
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
		move_to_node(page, 0);
	}
	merge(moved);

	/* One scan to see that it does not change, the next to look for the same */
	fill_page(late.addr, 100);
	ASSERT_TRUE(ksm_scan(1));
	move_to_node(moved[0].addr, 1);
	ASSERT_EQ(0, node_of(late.addr));
	for (int i = 0; i < 3; i++) {
		ASSERT_TRUE(ksm_scan(1));
		assert_found(moved, 100);
		assert_found_or_copied(&late, 100);
	}
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
			__merge(_metadata, &m[i], 2);
		mover.stop = false;
		ASSERT_EQ(0, pthread_create(&thread, NULL, keep_moving, &mover));
		write_num(KSM_SYSFS "run", 1);
		usleep(20000 + round * 100);
		write_num(KSM_SYSFS "run", 0);
		__atomic_store_n(&mover.stop, true, __ATOMIC_RELAXED);
		ASSERT_EQ(0, pthread_join(thread, NULL));

		for (int i = 0; i < MOVING; i++) {
			assert_found_or_copied(&m[i], 2 + i / 2);
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
	ASSERT_LE(0, node_of(area)) {
		TH_LOG("move_pages fails: needs CONFIG_NUMA_MIGRATION");
	}
	write_num(KSM_SYSFS "smart_scan", 0);

	/* Only mapped where ksmd does not look, once the child has gone */
	for (int i = 0; i < MOVING; i++) {
		m[i] = (struct mapping){ 0, moved + i * self->page };
		fill_page(m[i].addr, 1000 + i);
	}
	fork_peer(1, 0);
	ASSERT_EQ(0, __ask(_metadata, 1, OP_MERGEABLE, moved, 0, MOVING));
	map_by(1, MOVING, 1000);
	for (int i = 0; i < MOVING; i++) {
		__merge(_metadata, &m[i], 1);
		pfns[i] = pfn_at(&m[i]);
	}
	exit_peer(1);
	ASSERT_TRUE(ksm_scan(2));

	for (int i = 0; i < 2 * MOVING; i++)
		fill_page(equal + i * self->page, 1000 + i / 2);
	for (int i = 0; i < MOVING; i++) {
		for (int j = 0; j < 2; j++) {
			pair[j].peer = 0;
			pair[j].addr = equal + (2 * i + j) * self->page;
		}
		mover.pages[i] = pair[0].addr;
		merge(pair);
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
		__assert_found(_metadata, &m[i], 1, 1000 + i);
}

struct changer {
	char *page;	/* whose vma is split off, and merged again */
	int forks;
	bool stop;
};

static void *keep_changing(void *arg)
{
	struct changer *changer = arg;
	pid_t pid;

	while (!__atomic_load_n(&changer->stop, __ATOMIC_RELAXED)) {
		for (int i = 0; i < 50; i++) {
			mprotect(changer->page, psize(), PROT_READ);
			mprotect(changer->page, psize(), PROT_READ | PROT_WRITE);
		}
		pid = fork();
		if (!pid)
			_exit(0);
		waitpid(pid, NULL, 0);
		changer->forks++;
	}
	return NULL;
}

/* Walks, while the process wants the anon_vma lock that they hold, and forks */
TEST_F_TIMEOUT(ksm_rmap, walk_while_vmas_change, SLOW)
{
	struct mapping m[128];
	char *area = new_area(ARRAY_SIZE(m) + 2);
	struct changer changer = { area + self->page };
	pthread_t thread;

	for (size_t i = 0; i < ARRAY_SIZE(m); i++) {
		m[i] = (struct mapping){ 0, area + (i + 2) * self->page };
		fill_page(m[i].addr, 5);
	}
	merge(m);
	ASSERT_EQ(0, pthread_create(&thread, NULL, keep_changing, &changer));
	misses = 0;
	for (int round = 0; round < 4; round++)
		assert_found(m, 5);
	__atomic_store_n(&changer.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	/* Nobody has the page locked: no walk is excused */
	EXPECT_EQ(0, misses);
	ASSERT_LT(0, changer.forks);
}

static bool is_swapped(const struct mapping *m)
{
	return pagemap_of(peers[m->peer].pid, m->addr) & PM_SWAP;
}

/* Charge to @cgroup what @peer maps from now on */
static void enter_cgroup(const char *cgroup, int peer)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	write_num(path, peers[peer].pid);
}

/*
 * Swap out what all @n of @m map, which is charged to @cgroup.
 *
 * KSM pages are active at first.  That reclaim learns how many active pages there
 * are, and deactivates them, takes two seconds when there are less than hundreds, and
 * more while a CPU is idle: the timer for that is deferrable.
 *
 * Returns: how many are swapped out
 */
static int swap_out_all(const char *cgroup, const struct mapping *m, int n)
{
	int out = 0;

	for (int tries = 0; out < n && tries < 80; tries++) {
		reclaim_cgroup(cgroup);
		usleep(tries ? 250000 : 0);
		out = 0;
		for (int i = 0; i < n; i++)
			out += is_swapped(&m[i]);
	}
	return out;
}

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
			fork_peer(peer, 0);
			enter_cgroup(self->cgroup, peer);
		}
		area = map_by(peer, NR, 1000);
		for (int i = 0; i < NR; i++)
			m[i][j] = (struct mapping){ peer,
						    area + i * self->page };
	}
	ASSERT_TRUE(ksm_scan(3));
	for (int i = 0; i < NR; i++)
		merge(m[i]);

	EXPECT_EQ(3 * NR, swap_out_all(self->cgroup, m[0], 3 * NR));

	/* Each comes back through one mapping after the other */
	for (int i = 0; i < NR; i++)
		for (int j = 0; j < 3; j++)
			EXPECT_TRUE(ask(m[i][j].peer, OP_HOLDS, m[i][j].addr,
					1000 + i));
	ASSERT_TRUE(ksm_scan(3));
	for (int i = 0; i < NR; i++) {
		merge(m[i]);
		assert_found(m[i], 1000 + i);
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
	struct changer changer = { area + page };
	struct mapping m[NR];
	const char *missing = make_cgroup(self->cgroup);
	pthread_t thread;

	if (missing)
		SKIP(return, "%s", missing);

	/* The anon_vmas of parent and child have one lock */
	fork_peer(1, 0);
	enter_cgroup(self->cgroup, 1);
	for (int i = 0; i < NR; i++) {
		m[i] = (struct mapping){ 1, area + (i + 3) * page };
		ask(1, OP_FILL, m[i].addr, 1000 + i / 2);
	}
	for (int round = 0; round < ROUNDS; round++) {
		for (int i = 0; i < NR; i += 2)
			__merge(_metadata, &m[i], 2);

		changer.stop = false;
		ASSERT_EQ(0, pthread_create(&thread, NULL, keep_changing, &changer));
		EXPECT_EQ(NR, swap_out_all(self->cgroup, m, NR));
		__atomic_store_n(&changer.stop, true, __ATOMIC_RELAXED);
		ASSERT_EQ(0, pthread_join(thread, NULL));

		for (int i = 0; i < NR; i++)
			ask(1, OP_TOUCH, m[i].addr, 0);
		for (int i = 0; i < NR; i++)
			assert_found_or_copied(&m[i], 1000 + i / 2);
	}
	ASSERT_LT(0, changer.forks);
}

/*
 *   nobody's data is lost
 */

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
static void __free_and_reclaim(struct __test_metadata *_metadata, char *cgroup,
			       int third)
{
	enum { BULK = 300 };	/* pages: see swap_out_all() */
	struct mapping m[] = { { 1, NULL }, { 1, NULL } };
	const char *missing = make_cgroup(cgroup);

	if (missing)
		SKIP(return, "%s", missing);
	fork_peer(1, 0);
	fork_peer(2, 0);
	enter_cgroup(cgroup, 1);
	enter_cgroup(cgroup, 2);
	map_by(1, BULK, 200);
	for (int i = 0; i < 2; i++)
		m[i].addr = map_by(1, 1, 7);
	merge(m);
	ASSERT_EQ(0, ask(1, OP_UNMAP, m[0].addr, 0));
	ASSERT_EQ(0, ask(1, OP_FREE, m[1].addr, 0));
	m[0] = (struct mapping){ third, map_by(third, 1, 7) };
	merge(m);

	reclaim_all_kinds(cgroup);
	EXPECT_TRUE(ask(third, OP_HOLDS, m[0].addr, 7)) {
		TH_LOG("MADV_FREE of peer 1 has wiped a page of peer %d", third);
	}
}

TEST_F_TIMEOUT(ksm_rmap, madv_free_before_another_page_is_merged, SLOW)
{
	__free_and_reclaim(_metadata, self->cgroup, 1);
}

TEST_F_TIMEOUT(ksm_rmap, madv_free_before_a_page_of_another_is_merged, SLOW)
{
	__free_and_reclaim(_metadata, self->cgroup, 2);
}

/* What unmerging has copied is shared by fork, and the child says MADV_FREE */
TEST_F_TIMEOUT(ksm_rmap, madv_free_of_an_unmerged_page, SLOW)
{
	enum { NR = 300 };	/* pages: see swap_out_all() */
	char *area[2];
	const char *missing = make_cgroup(self->cgroup);
	int lost = 0;

	if (missing)
		SKIP(return, "%s", missing);
	fork_peer(1, 0);
	enter_cgroup(self->cgroup, 1);
	for (int i = 0; i < 2; i++)
		area[i] = map_by(1, NR, 1000);
	ASSERT_TRUE(ksm_scan(4));
	for (int i = 0; i < NR; i++) {
		const struct mapping m[] = { { 1, area[0] + i * self->page },
					     { 1, area[1] + i * self->page } };

		__merge(_metadata, m, 2);
	}
	write_num(KSM_SYSFS "run", 2);
	fork_peer(2, 1);
	for (int i = 0; i < NR; i++)
		ASSERT_EQ(0, ask(2, OP_FREE, area[0] + i * self->page, 0));

	reclaim_all_kinds(self->cgroup);
	for (int i = 0; i < NR; i++)
		lost += !ask(1, OP_HOLDS, area[0] + i * self->page, 1000 + i);
	EXPECT_EQ(0, lost) {
		TH_LOG("MADV_FREE of peer 2 has wiped %d of %d pages of peer 1",
		       lost, NR);
	}
}

/* Have ksmd begin another scan, and stop it after some of it */
static void __scan_partly(struct __test_metadata *_metadata, int pages)
{
	const long scans = ksm_get_full_scans();
	long before, now;

	write_num(KSM_SYSFS "pages_to_scan", 1);
	write_num(KSM_SYSFS "sleep_millisecs", 20);
	before = ksm_counter("pages_scanned");
	write_num(KSM_SYSFS "run", 1);
	for (int ms = 10000; ms; ms--) {
		now = ksm_counter("pages_scanned");
		if (now >= before + pages)
			break;
		usleep(1000);
	}
	write_num(KSM_SYSFS "run", 0);
	ASSERT_EQ(scans, ksm_get_full_scans());
	ASSERT_LE(before + pages, now);
	write_num(KSM_SYSFS "pages_to_scan", 100000);
	write_num(KSM_SYSFS "sleep_millisecs", 0);
}

#define scan_partly(pages) __scan_partly(_metadata, pages)

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
	move_to_node(stale, 1);
	for (int i = 0; i <= NR; i++)
		move_to_node(area + i * self->page, 0);
	ASSERT_TRUE(ksm_scan(3));
	write_num(KSM_SYSFS "merge_across_nodes", 1);
	ASSERT_TRUE(ksm_scan(2));

	/* One scan to see that it does not change, half of the next, the rest */
	fill_page(m[1].addr, 7);
	move_to_node(m[1].addr, 1);
	write_num(KSM_SYSFS "sleep_millisecs", 200);
	ASSERT_TRUE(ksm_scan(1));
	ASSERT_FALSE(are_merged(m, 2));
	scan_partly(NR / 2);
	write_num(KSM_SYSFS "merge_across_nodes", 0);
	ASSERT_EQ(0, ksm_counter("merge_across_nodes"));
	write_num(KSM_SYSFS "sleep_millisecs", 200);
	ASSERT_TRUE(ksm_scan(1));
	EXPECT_FALSE(are_merged(m, 2)) {
		TH_LOG("found in a tree from before");
	}
	merge(m);
	assert_found(m, 7);
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
	merge(clean);
	merge(m);
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
	merge(m);
	ASSERT_EQ(2, ksm_get_self_zero_pages());
	for (int i = 0; i < NR; i++) {
		EXPECT_TRUE(pagemap_of(getpid(), area + i * self->page) &
			    PM_UFFD_WP) {
			TH_LOG("page %d", i);
		}
	}
	close(uffd);
}

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
	merge(m);
	ASSERT_EQ(1, ksm_get_self_zero_pages());
	ASSERT_EQ(0, uffd_register(uffd, to, NR * self->page, true, false, false));

	EXPECT_EQ(-1, ioctl(uffd, UFFDIO_MOVE, &move));
	EXPECT_EQ(EBUSY, errno);
	assert_found(m, 100);

	move.src += 2 * self->page;
	move.move = 0;
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_MOVE, &move));
	EXPECT_EQ(0, *to);
	EXPECT_EQ(0, ksm_get_self_zero_pages());
	ASSERT_EQ(0, munmap(to, NR * self->page));
	EXPECT_EQ(0, ksm_get_self_zero_pages());
	close(uffd);
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

	fork_peer(1, 0);
	EXPECT_EQ(before + NR + NR - 5, ksm_counter("ksm_zero_pages"));
	EXPECT_EQ(NR, ksm_get_self_zero_pages());
	EXPECT_EQ(NR - 5, ksm_stat_of(peers[1].pid, "ksm_zero_pages"));
	/* Of the last page; ksmd has not come to the child yet */
	EXPECT_LT(0, ksm_stat_of(getpid(), "ksm_rmap_items"));
	EXPECT_EQ(0, ksm_stat_of(peers[1].pid, "ksm_rmap_items"));
	exit_peer(1);
	EXPECT_EQ(before + NR, ksm_counter("ksm_zero_pages"));
	ASSERT_EQ(0, munmap(area, (NR + 1) * self->page));
	EXPECT_EQ(before, ksm_counter("ksm_zero_pages"));
}

/*
 * A KSM page that was swapped out comes back as an ordinary page of who touches it
 * first.  It is in the swap cache when the second comes, and its anon_vma is not
 * there any more: KASAN sees who looks at that.
 */
TEST_F_TIMEOUT(ksm_rmap, swapped_in_after_the_first_has_exited, SLOW)
{
	enum { NR = 300 };	/* pages: see swap_out_all() */
	struct mapping m[2 * NR];
	char *area[2];
	const char *missing = make_cgroup(self->cgroup);

	if (missing)
		SKIP(return, "%s", missing);
	for (int j = 0; j < 2; j++) {
		fork_peer(1 + j, 0);
		enter_cgroup(self->cgroup, 1 + j);
		area[j] = map_by(1 + j, NR, 1000);
	}
	ASSERT_EQ((void *)area[0], (void *)area[1]);	/* so the same index */
	for (int i = 0; i < 2 * NR; i++)
		m[i] = (struct mapping){ 1 + i % 2, area[0] + i / 2 * self->page };
	for (int i = 0; i < NR; i++)
		__merge(_metadata, &m[2 * i], 2);
	ASSERT_EQ(2 * NR, swap_out_all(self->cgroup, m, 2 * NR));

	for (int i = 0; i < NR; i++)
		EXPECT_TRUE(ask(1, OP_HOLDS, area[0] + i * self->page, 1000 + i));
	exit_peer(1);
	for (int i = 0; i < NR; i++) {
		EXPECT_TRUE(ask(2, OP_HOLDS, area[0] + i * self->page, 1000 + i));
		assert_unmerged(2, area[0] + i * self->page, 1000 + i);
	}
	/* It is an ordinary page now, which rmap finds or cannot move */
	for (int i = 0; i < 8; i++) {
		const struct mapping second = { 2, area[0] + i * self->page };

		EXPECT_EQ(FOUND, walk_finds(_metadata, pfn_at(&second), &second));
	}
}

/*
 * A page that comes back from swap may have swap entries in processes that have
 * nothing to do with the one it comes back to, if it was a KSM page before.  If it
 * becomes one again, they must not miss it.
 */
TEST_F_TIMEOUT(ksm_rmap, merged_again_with_other_swap_entries, SLOW)
{
	enum { NR = 300 };	/* pages: see swap_out_all() */
	struct mapping m[2 * NR];
	char *area[2], *other;
	const char *missing = make_cgroup(self->cgroup);
	int merged = 0;

	if (missing)
		SKIP(return, "%s", missing);
	for (int j = 0; j < 2; j++) {
		fork_peer(1 + j, 0);
		enter_cgroup(self->cgroup, 1 + j);
		area[j] = map_by(1 + j, NR, 1000);
	}
	for (int i = 0; i < NR; i++)
		for (int j = 0; j < 2; j++)
			m[2 * i + j] = (struct mapping){ 1 + j, area[j] +
							 i * self->page };
	for (int i = 0; i < NR; i++)
		__merge(_metadata, &m[2 * i], 2);
	ASSERT_EQ(2 * NR, swap_out_all(self->cgroup, m, 2 * NR));

	/* Back to peer 1, where it is merged with another, which is scanned first */
	for (int i = 0; i < NR; i++)
		EXPECT_TRUE(ask(1, OP_HOLDS, m[2 * i].addr, 1000 + i));
	other = map_by(1, NR, 1000);
	ASSERT_LT((unsigned long)other, (unsigned long)area[0]);
	ASSERT_TRUE(ksm_scan(4));
	for (int i = 0; i < NR; i++) {
		const struct mapping pair[] = { m[2 * i],
						{ 1, other + i * self->page } };

		merged += are_merged(pair, 2);
	}
	EXPECT_LT(0, merged);

	for (int i = 0; i < NR; i++) {
		ask(2, OP_TOUCH, m[2 * i + 1].addr, 0);
		assert_found_or_copied(&m[2 * i + 1], 1000 + i);
		assert_found_or_copied(&m[2 * i], 1000 + i);
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
		fork_peer(i, 0);
		enter_cgroup(self->cgroup, i);
	}
	area = map_by(1, NR, 1000);
	for (int i = 0; i < 2; i++) {
		m[i] = (struct mapping){ 1, area + (1 + i) * self->page };
		ask(1, OP_FILL, m[i].addr, 7);
		ksm[i] = m[i];
	}
	merge(ksm);
	ASSERT_EQ(0, ask(1, OP_HOLD, m[0].addr, 0));
	for (int i = 0; i < 2; i++) {
		m[2 + i] = (struct mapping){ 2 + i, map_by(2 + i, 1, 7) };
		other[i] = m[2 + i];
	}
	merge(other);
	ASSERT_NE(pfn_at(&ksm[0]), pfn_at(&other[0]));
	ASSERT_EQ(4, swap_out_all(self->cgroup, m, 4));

	/* An ordinary page now, which peer 3 has swapped out */
	ask(2, OP_TOUCH, other[0].addr, 0);
	ASSERT_NE(0, pfn_at(&other[0]));
	ASSERT_FALSE(pfn_is_ksm(pfn_at(&other[0])));

	/* ksmd has seen one with that content when the KSM page comes there */
	for (int i = 3; i < NR; i++)
		ask(1, OP_TOUCH, area + i * self->page, 0);
	ask(1, OP_FILL, area, 7);
	write_num(KSM_SYSFS "sleep_millisecs", 200);
	ASSERT_TRUE(ksm_scan(1));
	scan_partly(NR / 2);
	ASSERT_EQ(0, ask(1, OP_MOVE, ksm[0].addr, (unsigned long)area));
	ksm[0].addr = area;
	for (int i = 0; i < 2; i++)
		ask(1, OP_TOUCH, ksm[i].addr, 0);
	assert_found(ksm, 7);
	ASSERT_TRUE(ksm_scan(2));
	assert_found(ksm, 7);
	for (int i = 0; i < 2; i++)
		EXPECT_TRUE(ask(2 + i, OP_HOLDS, other[i].addr, 7));
	ASSERT_EQ(0, ask(1, OP_RELEASE, NULL, 0));
}

/* Equal pages of two huge pages, which have to be split to be merged */
TEST_F_TIMEOUT(ksm_rmap, merge_parts_of_huge_pages, SLOW)
{
	const size_t size = 2UL << 20, nr = size / self->page;
	char *area, *base = mmap(NULL, 3 * size, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, base);
	area = base + -(uintptr_t)base % size;
	if (madvise(area, 2 * size, MADV_HUGEPAGE))
		SKIP(return, "no huge pages: needs CONFIG_TRANSPARENT_HUGEPAGE");
	for (size_t i = 0; i < 2 * nr; i++)
		fill_page(area + i * self->page, 1000 + i % nr);
	ASSERT_EQ(0, madvise(area, 2 * size, MADV_MERGEABLE));
	ASSERT_TRUE(ksm_scan(4));
	for (size_t i = 0; i < nr; i += nr / 16) {
		const struct mapping m[] = {
			{ 0, area + i * self->page },
			{ 0, area + size + i * self->page },
		};

		merge(m);
		assert_found(m, 1000 + i);
	}
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
	merge(before);
	ASSERT_EQ(0, munmap(m[1].addr + self->page, self->page));
	fork_peer(1, 0);
	assert_found(m, 1);
}

/* exec keeps PR_SET_MEMORY_MERGE; and the old pages, which a child still has */
TEST_F(ksm_rmap, exec_with_memory_merge)
{
	struct mapping m[] = { { 2, NULL }, { 2, NULL }, { 1, NULL }, { 1, NULL } };

	fork_peer(1, 0);
	for (int i = 2; i < 4; i++) {
		m[i].addr = map_by(1, 1, 7);
		m[i - 2].addr = m[i].addr;
	}
	struct mapping before[] = { m[2], m[3] };

	merge(before);
	fork_peer(2, 1);
	ASSERT_EQ(0, ask(1, OP_EXEC, NULL, 0));
	ASSERT_TRUE(ksm_scan(2));
	struct mapping left[] = { m[0], m[1] };

	assert_found(left, 7);

	/* Nobody says MADV_MERGEABLE for these */
	for (int i = 2; i < 4; i++) {
		m[i].addr = map_by(1, 1, 8);
		ASSERT_EQ(0, ask(1, OP_REPLACE, m[i].addr, 7));
	}
	merge(m);
	assert_found(m, 7);
}

/* A child that KSM does not know, since there was no memory for that */
TEST_F(ksm_rmap, fork_of_a_child_that_ksmd_does_not_know)
{
	struct mapping m[] = { { 1, NULL }, { 1, NULL } };
	struct mapping child[] = { { 2, NULL }, { 2, NULL } };

	fork_peer(1, 0);
	for (int i = 0; i < 2; i++) {
		m[i].addr = map_by(1, 1, 7);
		child[i].addr = m[i].addr;
	}
	merge(m);
	if (!allocations_fail(peers[1].pid, 100, "ksm_mm_slot"))
		TH_LOG("ksmd does know it: needs CONFIG_FAILSLAB, slab_nomerge");
	fork_peer(2, 1);
	allocations_fail(peers[1].pid, 0, "ksm_mm_slot");
	ask(1, OP_FILL, m[0].addr, 1000);
	ASSERT_TRUE(ksm_scan(2));
	assert_found(child, 7);
	end_peer(1);
	ASSERT_TRUE(ksm_scan(2));
	assert_found(child, 7);
}

/*
 * ksmd must be awake when one process enters while the last one leaves.  That they
 * are so close is not in the test's hands: it takes a kernel that is slow to enter.
 */
TEST_F_TIMEOUT(ksm_rmap, enter_while_the_last_leaves, SLOW)
{
	const struct request enter = { OP_MAP, NULL, 7, 2 };
	struct mapping m[] = { { 2, NULL }, { 2, NULL } };

	/* Or ksmd may look at the two pages by turns, and never at both in one scan */
	write_num(KSM_SYSFS "smart_scan", 0);
	/* Not even this process is mergeable */
	ASSERT_EQ(0, munmap(self->one, self->page));
	ASSERT_TRUE(ksm_scan(1));
	fork_peer(1, 0);
	fork_peer(2, 0);
	map_by(1, 1, 8);
	write_num(KSM_SYSFS "run", 1);
	usleep(100000);

	/* Without waiting for the answer */
	ASSERT_EQ(sizeof(enter), send(peers[2].sock[0], &enter, sizeof(enter),
				      MSG_NOSIGNAL));
	usleep(100000);
	exit_peer(1);
	ASSERT_EQ(sizeof(m[0].addr), recv(peers[2].sock[0], &m[0].addr,
					  sizeof(m[0].addr), 0));
	m[1].addr = m[0].addr + self->page;
	ask(2, OP_FILL, m[1].addr, 7);
	for (int ms = 20000; !are_merged(m, 2) && ms; ms--)
		usleep(1000);
	EXPECT_TRUE(are_merged(m, 2)) {
		TH_LOG("ksmd sleeps, and there are pages to scan");
	}
	write_num(KSM_SYSFS "run", 0);
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
	/* Over several blocks, of which some cannot be taken: the kernel is there */
	for (size_t i = 0; i < NR * apart; i++)
		area[i * self->page] = 1;
	/* ksmd need not look at all of them */
	ASSERT_EQ(0, madvise(area, NR * apart * self->page, MADV_UNMERGEABLE));
	for (int i = 0; i < NR; i++) {
		for (int j = 0; j < 2; j++) {
			m[i][j] = (struct mapping){ 0, area + (i * apart + j) *
						    self->page };
			fill_page(m[i][j].addr, 1000 + i);
			ASSERT_EQ(0, ask(0, OP_MERGEABLE, m[i][j].addr, 0));
		}
	}
	for (int i = 0; i < NR; i++)
		merge(m[i]);
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
		assert_found(m[i], 1000 + i);
	if (!taken)
		SKIP(return, "no block of memory can be taken");
}

/* Nanoseconds for one walk, the least of some, with the system call */
static unsigned long walk_time(unsigned long pfn)
{
	unsigned long ns, least = -1UL;
	struct timespec a, b;

	for (int i = 0; i < 200; i++) {
		clock_gettime(CLOCK_MONOTONIC, &a);
		idle_set(idle_fd, pfn);
		clock_gettime(CLOCK_MONOTONIC, &b);
		ns = (b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec;
		least = ns < least ? ns : least;
	}
	return least;
}

/* What those who have gone leave behind must not make the walk longer and longer */
TEST_F_TIMEOUT(ksm_rmap, fork_over_many_generations, SLOW)
{
	enum { GENERATIONS = 100 };
	struct mapping m[] = { { 1, NULL }, { 1, NULL } };
	unsigned long before, after;
	int last = 1;

	write_num(KSM_SYSFS "smart_scan", 0);
	fork_peer(1, 0);
	for (int i = 0; i < 2; i++)
		m[i].addr = map_by(1, 1, 7);
	merge(m);
	before = walk_time(pfn_at(&m[0]));
	for (int i = 0; i < GENERATIONS; i++) {
		const int next = 3 - last;

		fork_peer(next, last);
		/* ksmd comes to it before its parent exits, or after, or both */
		if (i % 3)
			ASSERT_TRUE(ksm_scan(1));
		end_peer(last);
		if (i % 3 != 1)
			ASSERT_TRUE(ksm_scan(1));
		last = next;
	}
	m[0].peer = last;
	m[1].peer = last;
	assert_found(m, 7);
	ASSERT_TRUE(ksm_scan(2));
	assert_found(m, 7);
	after = walk_time(pfn_at(&m[0]));
	TH_LOG("a walk takes %lu ns, after %d generations %lu", before,
	       GENERATIONS, after);
	/* Of two mappings with a key each it takes some more, of 64 keys 20 times as long */
	EXPECT_GT(4 * before, after);
}

/*
 *   who maps the page without having an rmap_item
 */

/*
 * Have the page at @shared, with content @tag, become a KSM page where it is: of
 * two equal pages, that is the one which ksmd scans last.
 *
 * Returns: where @peer has the other page
 */
static char *__merge_in_place(struct __test_metadata *_metadata,
			      const struct mapping *shared, unsigned long tag)
{
	const unsigned long pfn = pfn_at(shared);
	struct mapping m[] = { *shared, *shared };

	/* Areas are mapped downwards, and scanned upwards */
	m[1].addr = map_by(shared->peer, 1, tag);
	ASSERT_LT((unsigned long)m[1].addr, (unsigned long)shared->addr);
	__merge(_metadata, m, 2);
	ASSERT_EQ(pfn, pfn_at(shared)) {
		TH_LOG("the other page has become the KSM page");
	}
	return m[1].addr;
}

#define merge_in_place(shared, tag) __merge_in_place(_metadata, shared, tag)

/*
 * ksmd has made the child's page a KSM page, and has not looked at the parent: it
 * never does, since that has not asked for it.
 */
TEST_F(ksm_rmap, shared_with_a_parent_that_ksmd_does_not_scan)
{
	struct mapping parent = { 1, NULL }, child = { 2, NULL };

	fork_peer(1, 0);
	parent.addr = map_by(1, 1, 100);
	child.addr = parent.addr;
	ASSERT_EQ(0, ask(1, OP_UNMERGEABLE, parent.addr, 0));
	fork_peer(2, 1);
	ASSERT_EQ(0, ask(2, OP_MERGEABLE, child.addr, 0));
	merge_in_place(&child, 100);

	struct mapping m[] = { parent, child };

	assert_found(m, 100);
}

/* A child has moved its share before the parent's page became a KSM page */
TEST_F(ksm_rmap, shared_with_a_child_that_moved_before)
{
	struct mapping parent = { 1, NULL }, child = { 2, NULL };

	fork_peer(1, 0);
	parent.addr = map_by(1, 1, 100);
	child.addr = map_by(1, 1, 101);
	fork_peer(2, 1);
	/* ksmd would make an rmap_item for it otherwise */
	ASSERT_EQ(0, ask(2, OP_UNMERGEABLE, parent.addr, 0));
	ASSERT_EQ(0, ask(2, OP_MOVE, parent.addr, (unsigned long)child.addr));
	merge_in_place(&parent, 100);

	struct mapping m[] = { parent, child };

	assert_found(m, 100);
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
	/* A search drops what it comes past: have others in the tree, which stay */
	fork_peer(4, 0);
	for (int i = 0; i < 2; i++)
		map_by(4, NR, 1000 + NR);
	ASSERT_TRUE(ksm_scan(3));
	EXPECT_EQ(NR, ksm_counter("pages_shared"));
	before = slab_objects("ksm_rmap_item");
	fork_peer(1, 0);
	area = map_by(1, NR, 1000);
	ASSERT_EQ(0, __ask(_metadata, 1, OP_UNMERGEABLE, area, 0, NR));
	fork_peer(2, 1);
	ASSERT_EQ(0, __ask(_metadata, 2, OP_MERGEABLE, area, 0, NR));
	other = map_by(2, NR, 1000);
	ASSERT_LT((unsigned long)other, (unsigned long)area);
	ASSERT_TRUE(ksm_scan(4));
	EXPECT_EQ(NR + NR, ksm_counter("pages_sharing"));
	/* Half of them have one more rmap_item, which goes last and is not needed */
	fork_peer(3, 0);
	map_by(3, NR / 2, 1000);
	ASSERT_TRUE(ksm_scan(3));
	EXPECT_EQ(NR + NR + NR / 2, ksm_counter("pages_sharing"));
	end_peer(2);
	ASSERT_TRUE(ksm_scan(2));
	EXPECT_EQ(NR + NR / 2, ksm_counter("pages_shared"));
	exit_peer(3);
	ASSERT_TRUE(ksm_scan(2));
	EXPECT_EQ(NR, ksm_counter("pages_shared"));
	/* Nobody's rmap_items are left but those of self->one, one a process */
	EXPECT_GE(3, ksm_counter("pages_volatile"));
	during = slab_objects("ksm_rmap_item");

	/* ksmd does not look for pages that are gone as often as it may scan */
	write_num(KSM_SYSFS "stable_node_chains_prune_millisecs", 1000000);
	exit_peer(1);
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
	enum { BULK = 300, NR = 200, ROUNDS = 4 };	/* pages: see swap_out_all() */
	struct mapping m[] = { { 1, NULL }, { 1, NULL }, { 2, NULL } };
	const size_t page = self->page;
	unsigned long pfn, before, after;
	char *area;
	const char *missing = make_cgroup(self->cgroup);

	if (missing)
		SKIP(return, "%s", missing);
	write_num(KSM_SYSFS "smart_scan", 0);
	fork_peer(1, 0);
	enter_cgroup(self->cgroup, 1);
	for (int i = 0; i < 2; i++)
		m[i].addr = map_by(1, 1, 7);
	map_by(1, BULK, 200);
	__merge(_metadata, m, 2);
	/* The reference keeps it in the swap cache, whatever the swap device */
	ASSERT_EQ(0, ask(1, OP_HOLD, m[0].addr, 0));
	ASSERT_EQ(2, swap_out_all(self->cgroup, m, 2));
	/* And so does the other swap entry, while this one comes back */
	ask(1, OP_TOUCH, m[0].addr, 0);
	pfn = pfn_at(&m[0]);
	before = walk_time(pfn);

	fork_peer(2, 0);
	area = map_by(2, NR * ROUNDS, 1000);
	for (int round = 0; round < ROUNDS; round++, area += NR * page) {
		for (int i = 0; i < NR; i++)
			ask(2, OP_FILL, area + i * page, 7);
		ASSERT_TRUE(ksm_scan(3));
		m[2].addr = area + (NR - 1) * page;
		ASSERT_EQ(pfn, pfn_at(&m[2]));
		for (int i = 0; i < NR; i++)
			ask(2, OP_FILL, area + i * page, 2000 + i);
		ASSERT_TRUE(ksm_scan(1));
	}
	after = walk_time(pfn);
	TH_LOG("a walk takes %lu ns, after %d others %lu", before, NR * ROUNDS,
	       after);
	EXPECT_GT(4 * before, after);
	ask(1, OP_TOUCH, m[1].addr, 0);
	ASSERT_EQ(pfn, pfn_at(&m[1]));
	__assert_found(_metadata, m, 2, 7);
	ASSERT_EQ(0, ask(1, OP_RELEASE, NULL, 0));
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
	fork_peer(1, 0);
	enter_cgroup(self->cgroup, 1);
	m[1] = (struct mapping){ 1, map_by(1, NR, 1000) };
	m[0] = (struct mapping){ 1, map_by(1, NR, 1000) };
	__merge(_metadata, m, 2);
	for (int i = 2; i <= LAST; i++) {
		fork_peer(i, 1);
		m[i] = (struct mapping){ i, m[1].addr };
	}
	ASSERT_TRUE(ksm_scan(3));
	/* The reference keeps it in the swap cache, whatever the swap device */
	ASSERT_EQ(0, __ask(_metadata, 1, OP_HOLD, m[1].addr, 0, NR));
	ASSERT_EQ(LAST + 1, swap_out_all(self->cgroup, m, LAST + 1));
	before = slab_objects("ksm_rmap_item");
	ASSERT_TRUE(ksm_scan(2));
	after = slab_objects("ksm_rmap_item");
	TH_LOG("%ld rmap_items and keys, %ld when all is swapped out", before, after);
	EXPECT_LT(after, before - NR * LAST);

	for (int i = 0; i <= LAST; i++)
		ask(m[i].peer, OP_TOUCH, m[i].addr, 0);
	__assert_found(_metadata, m, LAST + 1, 1000);
	ASSERT_EQ(0, ask(1, OP_RELEASE, NULL, 0));
}

/* Without memory for a key that the parent needs, the rmap_item stays until there is */
TEST_F(ksm_rmap, keys_without_memory)
{
	for (int smart_scan = 0; smart_scan < 2; smart_scan++) {
		struct mapping parent[] = { { 1 + 2 * smart_scan, NULL } };
		struct mapping child = { parent->peer + 1, NULL };
		const unsigned long tag = 100 + smart_scan;

		write_num(KSM_SYSFS "smart_scan", smart_scan);
		fork_peer(parent->peer, 0);
		parent->addr = map_by(parent->peer, 1, tag);
		child.addr = parent->addr;
		ASSERT_EQ(0, ask(parent->peer, OP_UNMERGEABLE, parent->addr, 0));
		fork_peer(child.peer, parent->peer);
		ASSERT_EQ(0, ask(child.peer, OP_MERGEABLE, child.addr, 0));
		merge_in_place(&child, tag);

		ASSERT_EQ(0, ask(child.peer, OP_FILL, child.addr, 1000));
		if (ksmd_fails(100, "ksm_rmap_item")) {
			ASSERT_TRUE(ksm_scan(2));
			ksmd_fails(0, "ksm_rmap_item");
			assert_found(parent, tag);
		} else {
			TH_LOG("without CONFIG_FAILSLAB there is memory");
		}
		ASSERT_TRUE(ksm_scan(2));
		assert_found(parent, tag);
	}
}

/* Have ksmd merge @nr pages at @area with others like them, and then see writes */
static void __merge_and_write(struct __test_metadata *_metadata, char *area,
			      size_t nr, unsigned long tag, bool one_content)
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

#define merge_and_write(area, nr, tag, one_content) \
	__merge_and_write(_metadata, area, nr, tag, one_content)

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
		merge_and_write(area, ONE, 2000, false);
	after = slab_objects("ksm_rmap_item");
	TH_LOG("%d times the same %d keys: %ld objects more", ROUNDS, ONE, after - before);
	EXPECT_GT(before + 4 * ONE, after);

	/* Each time other keys, all for the same page */
	before = after;
	for (int done = 0; done + 200 <= NR; done += 200)
		merge_and_write(area + done * self->page, 200, 2000, true);
	after = slab_objects("ksm_rmap_item");
	TH_LOG("%d keys of one page: %ld objects more", NR, after - before);
	EXPECT_GT(before + KEYS + 3 * ONE, after);
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
	char cgroup[64];
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
	const char *missing = set_up_with_cgroup(self->cgroup);

	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(inherited)
{
	tear_down_with_cgroup(self->cgroup);
}

TEST_F_TIMEOUT(inherited, is_found, SLOW)
{
	enum { BULK = 300 };	/* pages: see swap_out_all() */
	struct mapping child = { 2, NULL }, m[1] = { { 1, NULL } };
	char *other, *to;

	write_num(KSM_SYSFS "smart_scan", 0);
	fork_peer(1, 0);
	enter_cgroup(self->cgroup, 1);
	child.addr = map_by(1, 1, 100);
	m[0].addr = child.addr;
	to = map_by(1, BULK, 200);
	ASSERT_EQ(0, ask(1, OP_UNMERGEABLE, m[0].addr, 0));
	fork_peer(2, 1);
	ASSERT_EQ(0, ask(2, OP_MERGEABLE, child.addr, 0));
	other = merge_in_place(&child, 100);
	assert_found(m, 100);

	if (variant->exits) {
		end_peer(2);
	} else {
		ask(2, OP_FILL, child.addr, 1000);
		ask(2, OP_FILL, other, 1001);
	}
	ASSERT_TRUE(ksm_scan(2));
	assert_found(m, 100);

	for (int i = 0; i < variant->generations; i++) {
		fork_peer(3 + i, m[0].peer);
		end_peer(m[0].peer);
		m[0].peer = 3 + i;
		ASSERT_TRUE(ksm_scan(1));
		assert_found(m, 100);
	}
	if (variant->swapped) {
		/* The reference keeps it in the swap cache */
		ASSERT_EQ(0, ask(m[0].peer, OP_HOLD, m[0].addr, 0));
		ASSERT_EQ(1, swap_out_all(self->cgroup, m, 1));
		ASSERT_TRUE(ksm_scan(1));
	}
	if (variant->moved) {
		ASSERT_EQ(0, ask(m[0].peer, OP_MOVE, m[0].addr,
				 (unsigned long)to));
		m[0].addr = to;
	}
	ask(m[0].peer, OP_TOUCH, m[0].addr, 0);
	for (int i = 0; i < 2; i++) {
		assert_found(m, 100);
		ASSERT_TRUE(ksm_scan(1));
	}
	if (variant->swapped)
		ASSERT_EQ(0, ask(m[0].peer, OP_RELEASE, NULL, 0));
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
	char cgroup[64];
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
	const char *missing = set_up_with_cgroup(self->cgroup);

	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(swap_cache)
{
	tear_down_with_cgroup(self->cgroup);
}

/* With two memory nodes, the page at @m can be migrated */
static void __move_to_other_node(struct __test_metadata *_metadata,
				 const struct mapping *m)
{
	int node, status = -ENOENT;
	void *addr = m->addr;

	if (access(NODE1, F_OK))
		return;
	ASSERT_EQ(0, syscall(__NR_move_pages, peers[m->peer].pid, 1UL, &addr,
			     NULL, &status, 0));
	ASSERT_LE(0, status);
	node = !status;
	ASSERT_EQ(0, syscall(__NR_move_pages, peers[m->peer].pid, 1UL, &addr,
			     &node, &status, MPOL_MF_MOVE_ALL));
	ASSERT_EQ(node, status);
}

#define move_to_other_node(m) __move_to_other_node(_metadata, m)

/* The page at @m can be replaced, if its frame can be put back afterwards */
static void __soft_offline(struct __test_metadata *_metadata,
			   const struct mapping *m)
{
	const unsigned long pfn = pfn_at(m);
	int error;

	if (access(UNPOISON, W_OK))
		return;
	error = ask(m->peer, OP_OFFLINE, m->addr, 0);
	EXPECT_EQ(0, error) {
		TH_LOG("soft offline of pfn %#lx: %s", pfn, strerror(error));
	}
	if (pfn_at(m) != pfn)
		EXPECT_EQ(0, unpoison_memory(pfn));
}

#define soft_offline(m) __soft_offline(_metadata, m)

TEST_F_TIMEOUT(swap_cache, found_or_copied, SLOW)
{
	enum { BULK = 300 };	/* pages: see swap_out_all() */
	const int who = variant->forked ? 2 : 1, n = variant->forked ? 6 : 3;
	const size_t page = psize();
	struct mapping m[6], *it;
	char *area, *to;
	unsigned long pfn;

	fork_peer(1, 0);
	enter_cgroup(self->cgroup, 1);
	area = map_by(1, 5, 100);
	to = map_by(1, BULK, 200);
	for (int i = 0; i < 3; i++) {
		m[i] = (struct mapping){ 1, area + 2 * i * page };
		m[i + 3] = (struct mapping){ 2, m[i].addr };
		ask(1, OP_FILL, m[i].addr, 1);
	}
	__merge(_metadata, m, 3);

	/* The reference keeps it in the swap cache, whatever the swap device */
	pfn = pfn_at(&m[0]);
	ASSERT_EQ(0, ask(1, OP_HOLD, m[0].addr, 0));
	if (variant->own) {
		fork_peer(2, 1);
		ASSERT_TRUE(ksm_scan(2));
		assert_found(m, 1);
	}
	ASSERT_EQ(variant->own ? 6 : 3,
		  swap_out_all(self->cgroup, m, variant->own ? 6 : 3));
	if (variant->forked && !variant->own)
		fork_peer(2, 1);
	if (variant->present) {
		it = &m[variant->present];
		ask(it->peer, OP_TOUCH, it->addr, 0);
		ASSERT_EQ(pfn, pfn_at(it));
		ASSERT_TRUE(pfn_is_ksm(pfn));
	}

	it = &m[variant->forked ? 4 : 1];
	if (variant->op == OP_MOVE) {
		if (variant->to >= 0)
			to = m[variant->to].addr;
		ASSERT_EQ(0, __ask(_metadata, who, OP_MOVE, it->addr,
				   (unsigned long)to, variant->flags));
		it->addr = to;
	} else if (variant->op == OP_UNMERGEABLE) {
		ASSERT_EQ(0, ask(who, OP_UNMERGEABLE, it->addr, 0));
	}
	if (variant->run_2)
		write_num(KSM_SYSFS "run", 2);
	if (variant->ksmd)
		ASSERT_TRUE(ksm_scan(1));

	/* All come back; and again, when ksmd has seen what became of them */
	for (int scanned = 0; scanned < 2; scanned++) {
		for (int i = 0; i < n; i++)
			ask(m[i].peer, OP_TOUCH, m[i].addr, 0);
		for (int i = 0; i < n; i++)
			assert_found_or_copied(&m[i], 1);
		if (variant->run_2 && !scanned)
			assert_unmerged(who, it->addr, 1);
		else if (!variant->run_2)
			ASSERT_EQ(pfn, pfn_at(it));	/* no need for a copy */
		if (!scanned)
			ASSERT_TRUE(ksm_scan(1));
	}

	/* What is not found cannot be moved, nor taken offline */
	ASSERT_EQ(0, ask(1, OP_RELEASE, NULL, 0));
	if (variant->forked)
		ASSERT_EQ(0, ask(2, OP_RELEASE, NULL, 0));
	for (int i = 0; i < n; i++) {
		pfn = pfn_at(&m[i]);
		move_to_other_node(&m[i]);
		soft_offline(&m[i]);
		/* If this machine can do one of these */
		if (!access(NODE1, F_OK) || !access(UNPOISON, W_OK))
			ASSERT_NE(pfn, pfn_at(&m[i]));
		ASSERT_TRUE(ask(m[i].peer, OP_HOLDS, m[i].addr, 1));
	}
}

/*
 * swapoff maps a page that is in the swap cache at each swap entry that it has, and
 * has no memory for copies: the cgroup is at its limit.
 */
FIXTURE(swapoff)
{
	char cgroup[64];
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
	/* Nowhere else can a page be swapped to */
	ASSERT_LT(0, read_file("/proc/swaps", swaps, sizeof(swaps)));
	ASSERT_NE(NULL, strstr(swaps, self->device));
	ASSERT_EQ(1, strlen(strchr(strchr(swaps, '\n') + 1, '\n')));
	missing = set_up_with_cgroup(self->cgroup);
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

	fork_peer(1, 0);
	enter_cgroup(self->cgroup, 1);
	area = map_by(1, NR, 100);
	to = map_by(1, NR, 1000);
	for (int i = 0; i < NR; i++) {
		m[i] = (struct mapping){ 1, area + i * page };
		ask(1, OP_FILL, m[i].addr, 7);
	}
	__merge(_metadata, m, NR);
	/* The reference keeps it in the swap cache */
	pfn = pfn_at(&m[0]);
	ASSERT_EQ(0, ask(1, OP_HOLD, m[0].addr, 0));
	ASSERT_EQ(NR, swap_out_all(self->cgroup, m, NR));

	if (variant->forked)
		fork_peer(2, 1);
	for (int i = 0; i < NR; i++) {
		m[i].peer = who;
		if (!variant->moved)
			continue;
		ASSERT_EQ(0, ask(who, OP_MOVE, m[i].addr,
				 (unsigned long)to + i * page));
		m[i].addr = to + i * page;
	}

	/* Room for what else has been swapped out, but not for copies */
	snprintf(path, sizeof(path), "%s/memory.swap.current", self->cgroup);
	const long swapped = ksm_knob(path);

	snprintf(path, sizeof(path), "%s/memory.current", self->cgroup);
	const long current = ksm_knob(path);

	snprintf(path, sizeof(path), "%s/memory.max", self->cgroup);
	write_num(path, current + swapped + NR / 4 * page);
	ASSERT_EQ(0, swapoff(self->device));
	for (int i = 0; i < NR; i++)
		ASSERT_EQ(pfn, pfn_at(&m[i]));
	ASSERT_TRUE(write_text(path, "max"));
	ASSERT_EQ(0, swapon(self->device, 0));
	__assert_found(_metadata, m, NR, 7);
	ASSERT_EQ(0, ask(1, OP_RELEASE, NULL, 0));
}

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
	const char *missing = set_up();

	if (!missing && access(UNPOISON, W_OK))
		missing = "no " UNPOISON ": needs CONFIG_HWPOISON_INJECT";
	if (missing)
		SKIP(return, "%s", missing);
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
	unsigned long pfn, addr;
	char *area, *to;

	/* Fork before, so that the others have nothing of the parent */
	fork_peer(PARENT, 0);
	fork_peer(OTHER, 0);
	fork_peer(OTHER_WROTE, 0);
	area = map_by(PARENT, 3, 600);
	ask(PARENT, OP_FILL, area, 7);
	ask(PARENT, OP_FILL, area + 2 * psize(), 7);
	to = map_by(PARENT, 1, 8);
	for (int i = 0; i < NR; i++)
		m[i] = (struct mapping){ i, area };
	m[OTHER].addr = map_by(OTHER, 1, 7);
	m[OTHER_WROTE].addr = map_by(OTHER_WROTE, 1, 7);
	twice = (struct mapping){ PARENT, area + 2 * psize() };

	merged[0] = m[PARENT];
	merged[1] = twice;
	merged[2] = m[OTHER];
	merged[3] = m[OTHER_WROTE];
	merge(merged);
	pfn = pfn_at(&m[PARENT]);

	/* One page of the parent's is enough to tell them apart */
	for (int i = CHILD; i <= REPLACED; i++) {
		fork_peer(i, PARENT);
		ASSERT_EQ(0, ask(i, OP_UNMAP, twice.addr, 0));
	}
	ask(WROTE, OP_FILL, area, 9);
	ASSERT_EQ(0, ask(UNMAPPED, OP_UNMAP, area, 0));
	ASSERT_EQ(0, ask(MOVED, OP_MOVE, area, (unsigned long)to));
	m[MOVED].addr = to;
	ASSERT_EQ(0, ask(REPLACED, OP_REPLACE, area, 9));
	ask(OTHER_WROTE, OP_FILL, m[OTHER_WROTE].addr, 9);
	ASSERT_EQ(pfn, pfn_at(&m[CHILD]));
	ASSERT_NE(pfn, pfn_at(&m[MOVED]));

	for (int i = PARENT; i < NR; i++)
		ASSERT_EQ(0, ask(i, OP_EXPECT_SIGBUS, NULL, variant->early));
	ASSERT_EQ(0, ask(PARENT, OP_POISON, area, 0));
	EXPECT_EQ(0, unpoison_memory(pfn));

	for (int i = PARENT; i < NR; i++) {
		const bool maps = i == PARENT || i == CHILD || i == OTHER;
		/* Who caused the failure is told in any case */
		const bool told = i == PARENT || (maps && variant->early);

		EXPECT_EQ(told, ask(i, OP_SIGBUS_COUNT, NULL, 0)) {
			TH_LOG("peer %d", i);
		}
		addr = ask(i, OP_SIGBUS_ADDR, NULL, 0);
		if (i == PARENT && addr == (unsigned long)twice.addr)
			addr = (unsigned long)area;
		EXPECT_EQ(told ? (unsigned long)m[i].addr : 0, addr);
		if (maps) {
			EXPECT_EQ(0, pfn_at(&m[i]));
		} else if (i != UNMAPPED) {
			EXPECT_TRUE(ask(i, OP_HOLDS, m[i].addr,
					i == MOVED ? 7 : 9));
		}
	}
	EXPECT_EQ(0, pfn_at(&twice));
}

/* So many that some have the same hash, of which every other one has a copy */
TEST_F_TIMEOUT(memory_failure, signals_each_of_many, SLOW)
{
	enum { PARENT = 1, OTHER, CHILD };
	struct mapping m[] = { { PARENT, NULL }, { OTHER, NULL } };
	unsigned long pfn;
	char *addr;

	for (int i = 0; i < 2; i++) {
		fork_peer(m[i].peer, 0);
		m[i].addr = map_by(m[i].peer, 1, 7);
	}
	merge(m);
	pfn = pfn_at(&m[0]);
	for (int i = CHILD; i <= MAX_PEERS; i++) {
		fork_peer(i, PARENT);
		if (i % 2)
			ask(i, OP_FILL, m[0].addr, 9);
	}

	for (int i = PARENT; i <= MAX_PEERS; i++)
		ASSERT_EQ(0, ask(i, OP_EXPECT_SIGBUS, NULL, variant->early));
	ASSERT_EQ(0, ask(PARENT, OP_POISON, m[0].addr, 0));
	EXPECT_EQ(0, unpoison_memory(pfn));

	for (int i = PARENT; i <= MAX_PEERS; i++) {
		/* Who caused the failure is told in any case */
		const bool maps = i < CHILD || i % 2 == 0;
		const bool told = i == PARENT || (maps && variant->early);

		addr = i == OTHER ? m[1].addr : m[0].addr;
		EXPECT_EQ(told, ask(i, OP_SIGBUS_COUNT, NULL, 0)) {
			TH_LOG("peer %d", i);
		}
		EXPECT_EQ(told ? (unsigned long)addr : 0,
			  ask(i, OP_SIGBUS_ADDR, NULL, 0));
		if (!maps)
			EXPECT_TRUE(ask(i, OP_HOLDS, addr, 9));
	}
}

/* Of two KSM pages with the same content, one fails: only who maps that is told */
TEST_F(memory_failure, signals_who_maps_this_duplicate)
{
	struct mapping m[4];
	unsigned long pfn;
	int told[3] = { };

	write_num(KSM_SYSFS "max_page_sharing", 2);
	for (int i = 0; i < 4; i++) {
		m[i].peer = 1 + i / 2;
		if (i % 2 == 0)
			fork_peer(m[i].peer, 0);
		m[i].addr = map_by(m[i].peer, 1, 7);
	}
	__merge(_metadata, &m[0], 2);
	__merge(_metadata, &m[2], 2);
	pfn = pfn_at(&m[0]);
	ASSERT_NE(pfn, pfn_at(&m[2]));

	for (int i = 1; i <= 2; i++)
		ASSERT_EQ(0, ask(i, OP_EXPECT_SIGBUS, NULL, variant->early));
	ASSERT_EQ(0, ask(1, OP_POISON, m[0].addr, 0));
	EXPECT_EQ(0, unpoison_memory(pfn));
	for (int i = 1; i <= 2; i++)
		told[i] = ask(i, OP_SIGBUS_COUNT, NULL, 0);
	EXPECT_EQ(1, told[1]);
	EXPECT_EQ(0, told[2]);
	for (int i = 2; i < 4; i++)
		EXPECT_TRUE(ask(2, OP_HOLDS, m[i].addr, 7));
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], PEER)) {
		serve_executed(atoi(argv[2]));
		return 1;
	}
	last_group = mmap(NULL, psize(), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (last_group == MAP_FAILED)
		return 1;
	if (!ksm_rmap_missing())
		ksm_knobs_save();
	return test_harness_run(argc, argv);
}
