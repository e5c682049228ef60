/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the two parts of the stress test ksm_rmap_soak share.  ksm_rmap_soak.c stops
 * the processes and checks them, ksm_rmap_soak_ops.c is what they do.
 */
#ifndef __KSM_RMAP_SOAK_H__
#define __KSM_RMAP_SOAK_H__

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define NR_SLOTS	2048	/* pages of a process */
#define MAX_ROOTS	8
#define MAX_DEPTH	2	/* of children of children */
#define MAX_CHILDREN	2	/* of a process, at a time */
#define MAX_PROCS	(MAX_ROOTS * (1 + 2 + 4))

enum state { FREE, RUNNING, PAUSED, EXITED };
enum command { NONE, CHECK, TOUCH, OFFLINE };

struct proc {
	enum state state;
	pid_t pid;
	int depth;		/* 0 for one that was not forked from another */
	uint64_t id;
	unsigned long n;	/* operations so far */
	enum command command;
	char *addr;
	int bell;		/* rung when it is to look at command, and stop */
};

struct shared {
	bool stop, end, failed;
	char why[512];		/* the first of what was wrong */
	int bell;		/* rung when a process has paused or obeyed */
	unsigned long ops, procs;
	unsigned long done[64], refused[64];	/* by kind of operation */
	struct proc proc[MAX_PROCS];
};

struct random {
	uint64_t state;
};

/* ksm_rmap_soak.c */

extern struct shared *shared;

/* Any process: say what is wrong, and let all of them come to an end */
void wrong(const char *format, ...) __printf(1, 2);
void ring(int bell);
/*
 * Returns when @bell has been rung, or after 20 ms, for what rings none: a child
 * that exits, a process that dies
 */
void sleep_until_rung(int bell);

/* ksm_rmap_soak_ops.c */

extern struct proc *self;		/* NULL in the main process */
extern uint64_t excluded;		/* kinds of operations, a bit each */

uint64_t mix(uint64_t a, uint64_t b);
/* The address of a slot, the same in all processes */
char *at(unsigned int slot);
/* NULL after the last one */
const char *kind_name(size_t kind);
/* The main process: do something to all of them, then sleep for up to 20 ms */
void disturb(struct random *r);
/* Note which children have exited, and whether they should have */
void reap(void);
void set_up_slots(void);
/* Fork process @root, which is to do what @seed says */
void start(unsigned int root, uint64_t seed);

#endif /* __KSM_RMAP_SOAK_H__ */
