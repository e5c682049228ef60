/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Processes, called peers, which map, merge, fork and so on as a test of KSM's
 * reverse mapping tells them.  Functions are described in ksm_rmap_peers.c.
 *
 * Those that return a const char * return what has gone wrong, as one line of text
 * that is valid until the next call, or NULL: for ASSERT_OK() and EXPECT_OK().
 */
#ifndef __KSM_RMAP_PEERS_H__
#define __KSM_RMAP_PEERS_H__

#include <stddef.h>
#include <sys/types.h>

/* Unlike those of the harness, they are one statement, which a loop can have alone */
#define ASSERT_OK(what) do {						\
	const char *__why = (what);					\
									\
	ASSERT_STREQ("", __why ?: "");					\
} while (0)

#define EXPECT_OK(what) do {						\
	const char *__why = (what);					\
									\
	EXPECT_STREQ("", __why ?: "");					\
} while (0)

/* Peer 0 is the test itself */
#define MAX_PEERS	64

/* Seconds: a limit for what takes some on an emulated CPU, if that is shared */
#define SLOW		150

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
	OP_HUGEPAGE,	/* MADV_HUGEPAGE for @nr pages at @addr */
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

const char *wrong(const char *format, ...) __printf(1, 2);

void prepare_tests(int argc, char **argv);
const char *set_up(void);
void tear_down(void);
void tear_down_with_cgroup(const char *cgroup);

pid_t peer_pid(int peer);
const char *ask(int peer, enum op op, char *addr, unsigned long arg);
const char *ask_nr(int peer, enum op op, char *addr, unsigned long arg, size_t nr);
const char *ask_later(int peer, enum op op, char *addr, unsigned long arg, size_t nr);
const char *answer_of(int peer, unsigned long *answer);
const char *map_by(int peer, size_t nr, unsigned long tag, char **area);
const char *check_holds(int peer, char *addr, unsigned long tag);
const char *sigbus_of(int peer, unsigned long *count, char **addr);
const char *fork_peer(int child, int parent);
const char *exit_peer(int peer);
const char *end_peer(int peer);

#endif /* __KSM_RMAP_PEERS_H__ */
