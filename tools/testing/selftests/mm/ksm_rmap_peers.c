// SPDX-License-Identifier: GPL-2.0
/*
 * Processes that do what a test of KSM's reverse mapping tells them.
 *
 * A test has other processes than itself map, merge, move, fork and so on.  Each of
 * these, called a peer, obeys it through a socket pair that was there before the
 * first of them was forked, so a peer can have a peer forked from itself.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vm_util.h"
#include "ksm_rmap_util.h"
#include "ksm_rmap_peers.h"

#define PEER		"peer"	/* argument of a peer that is executed */

static struct peer {
	pid_t pid;
	int sock[2];	/* the test's end, the peer's end */
} peers[MAX_PEERS + 1];

struct request {
	enum op op;
	char *addr;
	unsigned long arg;
	size_t nr;
};

static int holder[2], own_sock;
static pid_t tests_pid;		/* the process that runs one test after the other */
static pid_t *last_group;	/* of the test before: all tests share it */
static unsigned long sigbus_addr, sigbus_count;

/**
 * wrong() - say what has gone wrong
 * @format: as for printf()
 *
 * Return: the text, valid until the next call.
 */
const char *wrong(const char *format, ...)
{
	static char text[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return text;
}

/* ---- what a peer does ---- */

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

static int advise(const struct request *req, size_t nr, int advice)
{
	return madvise(req->addr, nr * psize(), advice) ? errno : 0;
}

/* Returns: what was asked for, or 0 or an errno */
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
		return munmap(req->addr, psize()) ? errno : 0;
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
		return advise(req, req->nr ?: 1, MADV_MERGEABLE);
	case OP_UNMERGEABLE:
		return advise(req, req->nr ?: 1, MADV_UNMERGEABLE);
	case OP_FREE:
		return advise(req, 1, MADV_FREE);
	case OP_HUGEPAGE:
		return advise(req, req->nr, MADV_HUGEPAGE);
	case OP_HOLD:
		return -hold_pages(holder, req->addr, req->nr ?: 1);
	case OP_RELEASE:
		return -release_pages(holder);
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
		return advise(req, 1, MADV_HWPOISON);
	case OP_OFFLINE:
		return advise(req, 1, MADV_SOFT_OFFLINE);
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

/* ---- what a process does that does not answer ---- */

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
 * For a message: the state of a process, the clock ticks that it has spent in user
 * mode and in the kernel, and where in the kernel it is.
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
 * What they have merged is not to be counted by the next one.
 *
 * Returns: a process of it that is left after 20 seconds, or 0
 */
static pid_t see_last_test_gone(void)
{
	pid_t pid = 0;

	for (int tries = 0; *last_group && tries < 200; tries++) {
		pid = process_of(*last_group);
		if (!pid)
			break;
		usleep(100000);
	}
	return pid;
}

/* The next test may be one of another program */
static void see_last_test_gone_at_exit(void)
{
	pid_t left;

	if (getpid() != tests_pid)
		return;
	left = see_last_test_gone();
	if (!left)
		return;
	ksft_print_msg("process %d of the last test does not end: %s\n", left,
		       whereabouts(left));
	ksm_knobs_restore();
	fflush(NULL);
	_exit(KSFT_FAIL);
}

/* A test that is running would change the settings after they are restored */
static void stop_on_signal(int sig)
{
	if (getpid() == tests_pid && *last_group)
		kill(-*last_group, SIGKILL);
	exit_on_signal(sig);
}

/* ---- for fixtures ---- */

/**
 * prepare_tests() - what main() does first
 * @argc: its argument
 * @argv: its argument
 *
 * Does not return in a peer that is executed.
 */
void prepare_tests(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], PEER)) {
		serve_executed(atoi(argv[2]));
		exit(KSFT_FAIL);
	}
	last_group = mmap(NULL, psize(), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (last_group == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	tests_pid = getpid();
	if (!ksm_rmap_missing())
		ksm_knobs_save();
	/* This comes before the settings are restored */
	atexit(see_last_test_gone_at_exit);
	signal(SIGINT, stop_on_signal);
	signal(SIGTERM, stop_on_signal);
	signal(SIGHUP, stop_on_signal);
}

/**
 * set_up() - for FIXTURE_SETUP(), after ksm_rmap_missing()
 *
 * Return: what has gone wrong, or NULL.
 */
const char *set_up(void)
{
	/* On an emulated CPU of a busy host, an answer may take some */
	const struct timeval timeout = { .tv_sec = 60 };
	const pid_t left = see_last_test_gone();

	if (left)
		return wrong("process %d of the test before does not end: %s",
			     left, whereabouts(left));
	*last_group = getpgrp();
	ksm_knobs_reset();
	flush_tlb();	/* maps its memory now, not below a stack later */
	for (int i = 1; i <= MAX_PEERS; i++) {
		if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, peers[i].sock) ||
		    setsockopt(peers[i].sock[0], SOL_SOCKET, SO_RCVTIMEO,
			       &timeout, sizeof(timeout)))
			return wrong("socketpair: %s", strerror(errno));
	}
	peers[0].pid = getpid();
	return NULL;
}

/**
 * tear_down() - for FIXTURE_TEARDOWN()
 *
 * Peers exit when they see the test's end of their sockets close.
 */
void tear_down(void)
{
	for (int i = 1; i <= MAX_PEERS; i++)
		close(peers[i].sock[0]);
}

/**
 * tear_down_with_cgroup() - the same with a cgroup that peers are in
 * @cgroup: its path; an empty one for none
 */
void tear_down_with_cgroup(const char *cgroup)
{
	tear_down();
	remove_cgroup(cgroup);
}

/* ---- peers ---- */

/**
 * peer_pid() - which process is it?
 * @peer: 0 for the test itself, or a peer that has been forked
 *
 * Return: its process ID.
 */
pid_t peer_pid(int peer)
{
	return peers[peer].pid;
}

/**
 * ask_later() - ask a peer to do something, and do not wait for that
 * @peer: 1 to MAX_PEERS
 * @op: what to do
 * @addr: address in it
 * @arg: see enum op
 * @nr: see enum op
 *
 * Return: what has gone wrong, or NULL.
 */
const char *ask_later(int peer, enum op op, char *addr, unsigned long arg, size_t nr)
{
	const struct request req = { op, addr, arg, nr };

	if (send(peers[peer].sock[0], &req, sizeof(req), MSG_NOSIGNAL) == sizeof(req))
		return NULL;
	return wrong("cannot ask peer %d (pid %d) for op %d: %s", peer,
		     peers[peer].pid, op, strerror(errno));
}

/**
 * answer_of() - wait for the answer to ask_later()
 * @peer: 1 to MAX_PEERS
 * @answer: gets what obey() returns
 *
 * Return: what has gone wrong, or NULL; not whether the peer could do it.
 */
const char *answer_of(int peer, unsigned long *answer)
{
	if (recv(peers[peer].sock[0], answer, sizeof(*answer), 0) == sizeof(*answer))
		return NULL;
	return wrong("no answer from peer %d (pid %d): %s", peer,
		     peers[peer].pid, whereabouts(peers[peer].pid));
}

static const char *get(int peer, enum op op, char *addr, unsigned long arg,
		       size_t nr, unsigned long *answer)
{
	const struct request req = { op, addr, arg, nr };

	if (peer)
		return ask_later(peer, op, addr, arg, nr) ?: answer_of(peer, answer);
	*answer = obey(&req);
	return NULL;
}

/**
 * ask_nr() - have a peer do something to some pages
 * @peer: 0 to MAX_PEERS
 * @op: what to do; one of those that succeed or fail
 * @addr: address in it
 * @arg: see enum op
 * @nr: see enum op
 *
 * Return: what has gone wrong, or NULL.
 */
const char *ask_nr(int peer, enum op op, char *addr, unsigned long arg, size_t nr)
{
	unsigned long error = 0;
	const char *why = get(peer, op, addr, arg, nr, &error);

	if (why || !error)
		return why;
	return wrong("peer %d (pid %d), op %d at %p: %s", peer, peers[peer].pid,
		     op, addr, strerror(error));
}

/**
 * ask() - have a peer do something to one page
 * @peer: 0 to MAX_PEERS
 * @op: what to do; one of those that succeed or fail
 * @addr: address in it
 * @arg: see enum op
 *
 * Return: what has gone wrong, or NULL.
 */
const char *ask(int peer, enum op op, char *addr, unsigned long arg)
{
	return ask_nr(peer, op, addr, arg, 0);
}

/**
 * map_by() - have a peer map mergeable memory, see map_area()
 * @peer: 0 to MAX_PEERS
 * @nr: pages
 * @tag: content of the first page, see fill_page(); that of the next is one more
 * @area: gets its address; may be NULL
 *
 * Return: what has gone wrong, or NULL.
 */
const char *map_by(int peer, size_t nr, unsigned long tag, char **area)
{
	unsigned long at = 0;
	const char *why = get(peer, OP_MAP, NULL, tag, nr, &at);

	if (area)
		*area = (char *)at;
	if (why || at)
		return why;
	return wrong("peer %d cannot map %zu pages", peer, nr);
}

/**
 * sigbus_of() - which signals has a peer had that survives them?
 * @peer: 0 to MAX_PEERS
 * @count: gets how many there were
 * @addr: gets the address of the last one, or NULL
 *
 * Return: what has gone wrong, or NULL.
 */
const char *sigbus_of(int peer, unsigned long *count, char **addr)
{
	unsigned long at = 0;
	const char *why = get(peer, OP_SIGBUS_COUNT, NULL, 0, 0, count) ?:
			  get(peer, OP_SIGBUS_ADDR, NULL, 0, 0, &at);

	*addr = (char *)at;
	return why;
}

/**
 * fork_peer() - fork a peer
 * @child: 1 to MAX_PEERS, not used so far
 * @parent: 0 to MAX_PEERS, which forks
 *
 * Return: what has gone wrong, or NULL.
 */
const char *fork_peer(int child, int parent)
{
	unsigned long pid = 0;
	const char *why = get(parent, OP_FORK, NULL, child, 0, &pid);

	if (why)
		return why;
	if ((long)pid <= 0)
		return wrong("peer %d cannot fork", parent);
	peers[child].pid = pid;
	return NULL;
}

/**
 * exit_peer() - have a child of the test exit
 * @peer: 1 to MAX_PEERS
 *
 * Return: what has gone wrong, or NULL.
 */
const char *exit_peer(int peer)
{
	const char *why = ask_later(peer, OP_EXIT, NULL, 0, 0);

	if (why)
		return why;
	if (waitpid(peers[peer].pid, NULL, 0) == peers[peer].pid)
		return NULL;
	return wrong("peer %d is no child: %s", peer, strerror(errno));
}

/**
 * end_peer() - have a peer exit that need not be a child of the test
 * @peer: 1 to MAX_PEERS
 *
 * Return: what has gone wrong, or NULL.
 */
const char *end_peer(int peer)
{
	const char *why = ask_later(peer, OP_EXIT, NULL, 0, 0);
	char path[32], text[16];

	if (why)
		return why;
	snprintf(path, sizeof(path), "/proc/%d/maps", peers[peer].pid);
	/* If nobody reaps it, it is still there, but has no memory any more */
	for (int ms = 10000; ms; ms--) {
		if (read_file(path, text, sizeof(text)) <= 0)
			return NULL;
		usleep(1000);
	}
	return wrong("peer %d does not exit", peer);
}

/**
 * check_holds() - has a peer a page with the right content?
 * @peer: 0 to MAX_PEERS
 * @addr: address in it
 * @tag: the content
 *
 * Return: what is wrong, or NULL.
 */
const char *check_holds(int peer, char *addr, unsigned long tag)
{
	unsigned long holds = 0;
	const char *why = get(peer, OP_HOLDS, addr, tag, 0, &holds);

	if (why || holds)
		return why;
	return wrong("the content at %p of peer %d is not %lu", addr, peer, tag);
}
