// SPDX-License-Identifier: GPL-2.0
/*
 * A plugin of QEMU: how often is each instruction of the kernel executed?
 *
 * gcc -shared -fPIC -o profile.so profile.c; qemu -plugin profile.so,out=FILE: when
 * QEMU ends, it writes a line "address count" (hexadecimal, decimal) to FILE for each
 * instruction that was executed.
 *
 * QEMU's header is not in Debian's packages: what is used of its interface, version 1,
 * is declared here.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Where x86-64 has the kernel's text, without CONFIG_RANDOMIZE_BASE: bytes */
#define TEXT	0xffffffff81000000UL
#define SIZE	(64UL << 20)

struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { QEMU_PLUGIN_INLINE_ADD_U64 };

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t idx);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *insn, int op, void *ptr,
						uint64_t imm);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*cb)(uint64_t id,
							struct qemu_plugin_tb *tb));
void qemu_plugin_register_atexit_cb(uint64_t id, void (*cb)(uint64_t id, void *data), void *data);
int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv);

int qemu_plugin_version = 1;
static uint64_t *counts;	/* of the instruction at TEXT + index */
static FILE *out;

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		const uint64_t at = qemu_plugin_insn_vaddr(insn) - TEXT;

		if (at < SIZE)
			qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64,
								   &counts[at], 1);
	}
}

static void ended(uint64_t id, void *data)
{
	for (uint64_t at = 0; at < SIZE; at++)
		if (counts[at])
			fprintf(out, "%lx %lu\n", TEXT + at, counts[at]);
	fclose(out);
}

int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	if (argc != 1 || strncmp(argv[0], "out=", 4)) {
		fprintf(stderr, "profile: say out=FILE\n");
		return 1;
	}
	out = fopen(argv[0] + 4, "w");
	counts = mmap(NULL, SIZE * sizeof(*counts), PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (!out || counts == MAP_FAILED) {
		perror("profile");
		return 1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, ended, NULL);
	return 0;
}
