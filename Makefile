# SPDX-License-Identifier: GPL-2.0
#
# The driver: a verb runs the script of that name in harness/. `make help` lists them.

define HELP
make                       the main job: builds both kernels, boots both, and prints
                           what a reverse mapping walk costs before and after
make kselftest TARGETS=mm  the kernel's mm selftests with ours, in the patched kernel
make check                 checks of the series and the harness; no kernel is built
make tree                  build/6.12/linux: the base and the series, as git commits
make save                  the commits of that tree back into patches/ and new files
make mbox                  the series as mail, and as one file for git am: needs only git
make check-builds          compiles what the series changes in configurations that no test
                           boots: without swap, NUMA, ..., with clang, PREEMPT_RT
make docs                  the documents that the series changes, as HTML: nothing may warn
make differences           records how the series of the bases differ, for make check
make build                 both kernels; `make unpatched` or `make patched` for one
make prefixes              builds the series patch by patch, and boots each
make kunit                 KSM's KUnit tests in User Mode Linux, of 64 and 32 bits
make soak                  everything at once to KSM pages, at random: every mapping
                           must be found; five minutes, or SOAK="-n 1000000"
make coverage              which lines of the series the tests execute: all must be,
                           or have their reason in bases/
make check-tool            ksm_rmap_check on Debian's own kernels, 6.1 and 6.12, and on ours;
                           or KERNELS="6.1 patched"; with SAVE=1, README shows what it says
make deb                   the patched kernel as Debian packages, and ksm-rmap-tests: the tests,
                           the benchmark and ksm_rmap_check, for any kernel
make check-deb             such packages, of the test configuration: installs, boots, tests and
                           removes them, on a disk of their own
make compare               all mm selftests on both kernels, test by test
make mutants               breaks the series in each way known: the tests must notice
make bench                 what a walk costs, and whom it keeps waiting, in time: unpatched,
                           Linux 7.3 and patched by turns, in User Mode Linux
make results               the main job, with its figures put into results/
make clean                 removes what was made, but for downloaded packages

BASE=6.12                  the kernel to work on: this one, or another of bases/
LINUX=/path/to/tree        a kernel tree of yours (copied, never written to); its version
                           chooses the base
KSFT="ksm ksm_rmap"        only these categories of the mm selftests
ARCH=i386                  kselftest: the tests of KSM's reverse mapping, on kernels
                           for 32-bit x86, with PAE and without
ARCH=arm64                 make, build, kselftest of KSM and rmap, soak, mutants, results: on arm64,
                           emulated, with pages of 4 KiB; with PAGES=64k, of 64 KiB. New: not one
                           of these has been run to its end yet
FLAVOR=debug               kernels with KASAN, lockdep, kmemleak, allocations that fail,
                           and CONFIG_DEBUG_VM_KSM_RMAP, for kselftest and soak
FLAVOR=kcsan               the same with KCSAN: data races of mm/ksm.c
KERNEL=unpatched           kselftest and soak on that kernel
MUTANTS="forks-skipped"    only these of mutants/
SOAK="-s 5 -t 300"         options of ksm_rmap_soak: the seed of a run to repeat, ...
CONFIG=/path               deb: the kernel configuration to start from
FRAGMENT=/path             deb: options to be changed in it
MODULES=loaded             deb: only those modules that this machine has loaded
MODULES=/path              deb: only those in this file, written by lsmod on another machine
DEBUG=1                    deb: with debug information
ACCEL=tcg                  boot without KVM even where it works
endef

TARGETS ?= mm
ifneq ($(filter-out i386 arm64 x86 x86_64,$(ARCH)),)
$(error ARCH=$(ARCH): leave it out, or say i386 or arm64)
endif
ifneq ($(and $(filter i386,$(ARCH)),$(filter-out kselftest,$(or $(MAKECMDGOALS),all))),)
$(error ARCH=i386 is for kselftest; leave it out)
endif
ifneq ($(and $(filter arm64,$(ARCH)),$(filter-out all build unpatched patched kselftest soak mutants results help, \
	$(or $(MAKECMDGOALS),all))),)
$(error ARCH=arm64 is for make, build, kselftest, soak, mutants and results; leave it out)
endif
ifneq ($(if $(filter arm64,$(ARCH)),$(filter-out 4k 64k,$(PAGES)),$(PAGES)),)
$(error PAGES=$(PAGES): leave it out, or say ARCH=arm64 PAGES=64k)
endif
ifeq ($(ARCH),arm64)
override FLAVOR := arm64$(if $(filter 64k,$(PAGES)),-64k)$(if $(FLAVOR),-$(FLAVOR))
export FLAVOR
endif

.PHONY: all kselftest check check-tool check-builds deb check-deb docs tree save mbox prefixes kunit soak coverage compare mutants \
	bench differences results build unpatched patched clean help
.NOTPARALLEL:

all:
	@harness/walk

kselftest:
	$(if $(filter-out mm,$(TARGETS)),$(error TARGETS=$(TARGETS): only the mm selftests are run here, use TARGETS=mm))
	@harness/$(if $(filter i386,$(ARCH)),i386,kselftest)

check check-builds deb check-deb docs tree save mbox coverage compare bench differences clean:
	@harness/$@

prefixes:
	@harness/prefixes --boot

kunit:
	@harness/kunit
	@harness/kunit 32

soak:
	@harness/soak $(SOAK)

check-tool:
	@harness/check-tool $(KERNELS)

mutants:
	@harness/mutants $(MUTANTS)

results:
	@harness/walk --save

build:
	@harness/build all

unpatched patched:
	@harness/build $@

help:
	$(info $(HELP))
	@:
