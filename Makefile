# One Makefile, no recursion. `make help` lists the targets; config.mk holds local settings.
-include config.mk

VARIANT ?= release
prefix  ?= /usr/local
DESTDIR ?=
VERSION := 0.1.0

B := build/$(VARIANT)
PYTHON ?= /usr/bin/python3

# libunbound by hand: its .pc wants the packages of its own libraries.
PKGS     := libconfig libevent_core lmdb jansson smartcols libpcre2-8
PKG_CF   := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS := $(shell pkg-config --libs $(PKGS) 2>/dev/null || echo -lconfig -levent_core -llmdb -ljansson -lsmartcols -lpcre2-8) -lunbound -lresolv -lpthread

# Reply rules are searched by Vectorscan; `make NO_VECTORSCAN=1` builds without, and PCRE2 does it all, slower.
# Only programs that name it are linked with it (--as-needed): it is nine megabytes.
export NO_VECTORSCAN
ifeq ($(NO_VECTORSCAN),)
HS_CF    := $(shell pkg-config --cflags libhs 2>/dev/null || echo -I/usr/include/hs)
PKG_LIBS += -lhs
else
HS_CF    := -DNO_VECTORSCAN
endif

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings \
	-Wpointer-arith -Wformat=2 -Wvla -Wundef
HARDEN := -fPIE -fstack-protector-strong
CFLAGS_release := -O2 -g -D_FORTIFY_SOURCE=2
CFLAGS_asan    := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
CFLAGS_fuzz    := -O1 -g -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all \
	-fprofile-instr-generate -fcoverage-mapping
# Negative controls: builds that break the promise on purpose; the tests must turn red on them.
CFLAGS_nosync   := $(CFLAGS_release) -DNEGATIVE_NO_SEGMENT_SYNC
CFLAGS_earlyack := $(CFLAGS_release) -DNEGATIVE_EARLY_ACKNOWLEDGE
# Named places in the code die on request (common/base/kill_point.h).
CFLAGS_torture  := $(CFLAGS_release) -DKILL_POINTS
# A store that fits where valgrind keeps what it maps, to count instructions.
CFLAGS_counted  := $(CFLAGS_release) '-DSTORE_MAP_BYTES=(1ull<<30)'
# A build with one planted bug for each fuzz target, which the fuzzers must find.
CFLAGS_planted  := $(CFLAGS_fuzz) -DPLANTED_BUGS

# The simulator's: small bounds, and faults that can be switched on (tests/sim).
CFLAGS_sim := -O2 -g -include tests/sim/small.h -DSIM_PLANTED

CC_fuzz    := clang
CC_planted := clang
CC := $(or $(CC_$(VARIANT)),gcc)

ALL_CFLAGS = -std=c11 -D_GNU_SOURCE -DSLUICE_VERSION='"$(VERSION)"' $(WARN) $(HARDEN) $(PKG_CF) -I. \
	$(CFLAGS_$(VARIANT)) $(CFLAGS)
ALL_LDFLAGS = -pie -Wl,-z,relro,-z,now,--as-needed $(filter -fsanitize=address% -fprofile-instr-generate,$(CFLAGS_$(VARIANT))) $(LDFLAGS)

DIRS := $(sort $(wildcard common/*) shm scheduler scheduler/core master receiver deliverer resolver recorder ctl bench/sink bench/load)
SRC  := $(foreach d,$(DIRS),$(wildcard $(d)/*.c))
# A file named main_X.c holds main() of the program sluice-X (main_sluiced.c, main_sluice.c: of itself).
MAINS   := $(filter %/main_sluiced.c %/main_sluice.c %/main_stat.c %/main_sink.c %/main_load.c,$(SRC))
LIB_SRC := $(filter-out $(MAINS),$(SRC))
LIB     := $(B)/libsluice.a
PROGRAMS := $(foreach p,sluiced sluice stat sink load,$(if $(filter %/main_$(p).c,$(MAINS)),$(if $(filter sluiced sluice,$(p)),$(p),sluice-$(p))))
BINS    := $(PROGRAMS:%=$(B)/bin/%)

UNIT_SRC := $(wildcard tests/unit/*/test_*.c)
UNIT     := $(UNIT_SRC:tests/unit/%.c=$(B)/unit/%)
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ     := $(FUZZ_SRC:tests/fuzz/%.c=$(B)/fuzz/%)
REPLAY   := $(FUZZ_SRC:tests/fuzz/%.c=$(B)/replay/%)
TEST_LIB_SRC := $(wildcard tests/lib/*.c)
TEST_LIB_OBJ := $(TEST_LIB_SRC:%.c=$(B)/obj/%.o)
TOOL_SRC := $(wildcard tests/tools/*.c)
TOOLS    := $(TOOL_SRC:tests/tools/%.c=$(B)/tools/%)

.DEFAULT_GOAL := all
.PHONY: all help deps check-deps check-build-deps unit replay fuzz-build layout check asan fuzz fuzz-all sim sim-core scenario lint format \
	sizes install demo run bench bench-rates bench-limits bench-rules bench-reroute bench-recover bench-flips mutants million stranger witness crash clean man tools

all: check-build-deps
	@$(MAKE) --no-print-directory bins $(filter unit replay tools,$(MAKECMDGOALS))

.PHONY: bins
bins: $(BINS)
	@:

help:
	@sed -n 's/^## //p' Makefile

# `make V=1` shows the commands.
ifeq ($(V),)
Q = @
say = @printf '  %-4s %s\n' $(1) $(patsubst build/%,%,$@)
else
say = @:
endif

# Objects ---------------------------------------------------------------------------------------
# The one file that knows the engine is compiled anew when the choice changes.
$(B)/vectorscan: FORCE
	@mkdir -p $(@D)
	@echo '$(NO_VECTORSCAN)' | cmp -s - $@ || echo '$(NO_VECTORSCAN)' > $@
.PHONY: FORCE
FORCE:
$(B)/obj/common/pattern/pattern_vectorscan.o: PKG_CF += $(HS_CF)
$(B)/obj/common/pattern/pattern_vectorscan.o: $(B)/vectorscan

$(B)/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(LIB): $(LIB_SRC:%.c=$(B)/obj/%.o)
	@rm -f $@
	$(call say,AR)
	$(Q)ar rcs $@ $^

define program_rule
$(B)/bin/$(if $(filter sluiced sluice,$(1)),$(1),sluice-$(1)): $(patsubst %.c,$(B)/obj/%.o,$(filter %/main_$(1).c,$(MAINS))) $(LIB)
	@mkdir -p $$(@D)
	$$(call say,LD)
	$$(Q)$$(CC) $$(ALL_LDFLAGS) -o $$@ $$^ $$(PKG_LIBS)
endef
$(foreach p,sluiced sluice stat sink load,$(if $(filter %/main_$(p).c,$(MAINS)),$(eval $(call program_rule,$(p)))))

$(B)/unit/%: $(B)/obj/tests/unit/%.o $(TEST_LIB_OBJ) $(LIB)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ -lcmocka $(PKG_LIBS)

# Faults of rates and passes are planted by the linker, between them and the core.
RATE_WRAP := rate_bytes rate_found_n rate_new rate_new_wide rate_place rate_place_wide rate_set_n rate_limit rate_refund \
	passes_find passes_forget_queue
$(B)/tools/rate_sim: EXTRA := $(RATE_WRAP:%=-Wl,--wrap=%)
# And between the parts of the core.
CORE_WRAP := backoff_names backoff_find entries_transfer redirect_step map_get limits_queue_learned
$(B)/tools/sim: EXTRA := $(CORE_WRAP:%=-Wl,--wrap=%)
$(B)/tools/%: $(B)/obj/tests/tools/%.o $(TEST_LIB_OBJ) $(LIB)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(ALL_LDFLAGS) $(EXTRA) -o $@ $^ $(PKG_LIBS)

# The simulator: the scheduler's sources, with stand-ins for what lies between it and the machine.
SIM_DIRS := common/base common/mail common/conf common/queue common/event_log common/ipc scheduler scheduler/core
SIM_OUT  := common/base/check.c common/base/log.c common/ipc/channel.c common/ipc/ring.c $(wildcard scheduler/control*.c) \
	$(wildcard scheduler/stats*.c) scheduler/show_limits.c $(wildcard common/ipc/operator*.c)
SIM_SRC  := $(filter-out $(SIM_OUT),$(foreach d,$(SIM_DIRS),$(wildcard $(d)/*.c))) common/proc/route.c common/pattern/pattern.c common/rules/rules_merge.c \
	$(wildcard common/net/addr.c) $(wildcard tests/sim/*.c)
SIM_WRAP := open openat close closedir pwrite pwritev writev write read fsync fdatasync ftruncate posix_fallocate fallocate \
	renameat unlinkat mmap munmap eventfd getrandom _exit malloc calloc realloc free strdup posix_memalign \
	pthread_create pthread_join pthread_mutex_init pthread_mutex_destroy pthread_mutex_lock pthread_mutex_unlock \
	pthread_mutex_consistent pthread_cond_init pthread_cond_destroy pthread_cond_wait pthread_cond_signal \
	pthread_cond_broadcast pthread_key_create pthread_key_delete pthread_getspecific pthread_setspecific \
	clock_boot_us clock_wall_us clock_boot_id store_probe quota_check nanosleep
build/sim/sim: $(SIM_SRC:%.c=build/sim/obj/%.o)
	$(call say,LD)
	$(Q)$(CC) $(ALL_LDFLAGS) $(SIM_WRAP:%=-Wl,--wrap=%) -o $@ $^ -l:liblmdb.a -lconfig -lpcre2-8 -lpthread

# A fuzz target is LLVMFuzzerTestOneInput(); libFuzzer drives it, or replay.c over its corpus.
$(B)/fuzz/%: $(B)/obj/tests/fuzz/%.o $(LIB)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(ALL_LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(PKG_LIBS)

$(B)/replay/%: $(B)/obj/tests/fuzz/%.o $(B)/obj/tests/fuzz/replay.o $(LIB)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(PKG_LIBS)

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
.SECONDARY:

## make              build everything into build/release/bin
## make deps         install the Debian packages (root)
deps:
	tests/deps install

check-build-deps:
	@tests/deps ensure build

check-deps:
	@tests/deps ensure

# Together with `all`, which asks for the binaries in a make of its own, that one builds these too: two at the same
# library are in each other's way.
BESIDE_ALL := $(filter unit replay tools,$(MAKECMDGOALS))
ifneq ($(filter all,$(MAKECMDGOALS)),)
$(BESIDE_ALL): all
	@:
else
unit: $(UNIT)
replay: $(REPLAY)
tools: $(TOOLS)
endif

## make check        build, then every test; last line: N passed, N failed, N skipped
check: check-deps
	@$(MAKE) --no-print-directory bins unit replay tools
	@$(MAKE) --no-print-directory torture-builds
	@$(MAKE) --no-print-directory VARIANT=sim build/sim/sim
	@tests/run $(if $(DATA),--data $(DATA))

## make layout       floors, pure, headers
layout: $(LIB)
	@$(PYTHON) tests/layout.py $(B)

## make asan         unit tests and corpora under ASan and UBSan
asan: check-deps
	@$(MAKE) --no-print-directory VARIANT=asan bins unit replay
	@tests/run --variant asan --only unit,fuzz

## make fuzz F=smtp_reply T=60   one fuzz target for T seconds; `make fuzz-all T=60` runs them all
T ?= 60
fuzz: check-deps
	@$(MAKE) --no-print-directory VARIANT=fuzz build/fuzz/fuzz/fuzz_$(F)
	@tests/fuzz/run --seconds $(T) $(F)

fuzz-all: check-deps
	@$(MAKE) --no-print-directory VARIANT=fuzz $(FUZZ_SRC:tests/fuzz/%.c=build/fuzz/fuzz/%)
	@$(MAKE) --no-print-directory VARIANT=planted $(FUZZ_SRC:tests/fuzz/%.c=build/planted/fuzz/%)
	@tests/fuzz/run --seconds $(T) --planted all

## make sim SECONDS=120   the scheduler on a simulated disk, clock and world; `build/sim/sim -s SEED` replays
SECONDS ?= 60
sim: check-deps
	@$(MAKE) --no-print-directory VARIANT=sim build/sim/sim
	@build/sim/sim -t $(SECONDS)

## make sim-core EPISODES=20000   random worlds around the scheduler's core alone; SEED=n replays
EPISODES ?= 20000
sim-core: check-deps
	@$(MAKE) --no-print-directory tools
	@$(B)/tools/sim $(if $(SEED),-s $(SEED)) -n $(EPISODES)

## make scenario     the scenario tests alone (K=expression picks)
scenario: check-deps
	@$(MAKE) --no-print-directory bins tools
	@$(PYTHON) -m pytest -q tests/scenario $(if $(K),-k "$(K)")

## make witness      strace: a finished fdatasync and commit before each 250
witness: check-deps
	@$(MAKE) --no-print-directory bins
	@$(MAKE) --no-print-directory VARIANT=nosync bins
	@$(MAKE) --no-print-directory VARIANT=earlyack bins
	@$(PYTHON) tests/witness.py

## make torture KILLS=500 CUTS=100   every way to break it that we know, and the crash ledger (SEED=, ONLY=STAGE,.. COUNT= replay)
KILLS ?= 500
CUTS  ?= 100
torture: check-deps torture-builds
	@$(PYTHON) tests/torture/torture.py --kills $(KILLS) --cuts $(CUTS) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY)) \
		$(if $(COUNT),--count $(COUNT))

# The builds it needs: named kill points, and the two that break the promise on purpose.
.PHONY: torture torture-builds
torture-builds:
	@$(MAKE) --no-print-directory bins
	@$(MAKE) --no-print-directory VARIANT=torture bins
	@$(MAKE) --no-print-directory VARIANT=nosync bins
	@$(MAKE) --no-print-directory VARIANT=earlyack bins

## make crash N=60   the kills alone
N ?= 60
crash:
	@$(MAKE) --no-print-directory torture ONLY=kills COUNT=$(N)

## make demo         mail through two virtual MTAs to three simulated providers, one that loses its patience, and a verdict
demo: check-deps
	@$(MAKE) --no-print-directory bins
	@$(PYTHON) bench/demo.py

## make run          the demo's daemon, left running
run: check-deps
	@$(MAKE) --no-print-directory bins
	@$(PYTHON) bench/demo.py --leave-up

## make bench        side by side with Postfix
bench: check-deps
	@$(MAKE) --no-print-directory bins
	@$(PYTHON) bench/bench.py

## make million      a queue of a million: memory, restarts, listing, deletion, expiry (MESSAGES=n QUEUES=n)
million: check-deps
	@$(MAKE) --no-print-directory bins
	@$(PYTHON) bench/million.py $(if $(MESSAGES),--messages $(MESSAGES)) $(if $(QUEUES),--queues $(QUEUES))

## make bench-rates   limits of every scope live, judged by stamps: 30 minutes (ONLY=3,7 cells; ONLY=kills; WINDOWS=n)
bench-rates: check-deps
	@$(MAKE) --no-print-directory bins tools
	@$(PYTHON) tests/rates/run.py $(if $(ONLY),--only $(ONLY)) $(if $(WINDOWS),--windows $(WINDOWS))

## make bench-limits   many queues behind limits: CPU while waiting, turns, overtaking, instructions (needs valgrind)
bench-limits: check-deps
	@$(MAKE) --no-print-directory bins tools
	@$(MAKE) --no-print-directory VARIANT=counted bins
	@$(PYTHON) tests/rates/many.py idle
	@$(PYTHON) tests/rates/many.py turns
	@$(PYTHON) tests/rates/many.py cost

## make bench-rules   reply rules: 400 patterns, Vectorscan beside PCRE2 (SEED=n; DATA=FOLDER with patterns.tsv, replies.tsv)
bench-rules: check-deps
	@$(MAKE) --no-print-directory tools
	@$(B)/tools/rules_bench $(if $(SEED),-s $(SEED)) $(if $(DATA),-d $(DATA))

## make bench-reroute a million queued messages go elsewhere: at once, and with a kill half-way (MESSAGES=n)
bench-reroute: check-deps
	@$(MAKE) --no-print-directory bins
	@$(PYTHON) tests/rates/reroute.py $(if $(MESSAGES),--messages $(MESSAGES))
	@$(PYTHON) tests/rates/reroute.py $(if $(MESSAGES),--messages $(MESSAGES)) --kill --drain

## make bench-recover   recover = "auto" against a provider with a hidden rate, beside other policies (SEED=n, POLICIES="FILE ...")
POLICIES ?= bench/recover/auto.conf bench/recover/one-a-minute.conf bench/recover/full-again.conf
bench-recover: check-deps
	@$(MAKE) --no-print-directory bins tools
	@$(B)/tools/recover_sim $(if $(SEED),-s $(SEED)) -g 85,2 $(POLICIES)
	@$(PYTHON) bench/recover.py $(if $(SEED),--seed $(SEED)) $(POLICIES)

## make bench-flips   a queue under load flips 200 times: how soon no message leaves at the old limits (FLIPS=n)
bench-flips: check-deps
	@$(MAKE) --no-print-directory bins
	@$(PYTHON) bench/late.py $(if $(FLIPS),--flips $(FLIPS))

## make mutants      patches of one line that break back-off: each has to turn a test red (ONLY=NAME,..)
mutants: check-deps
	@$(MAKE) --no-print-directory bins
	@$(PYTHON) tests/mutants/run.py $(if $(ONLY),--only $(ONLY))

## make stranger     debootstrap of a bare Debian 12, clone, make demo, make check inside it
stranger:
	@tests/stranger

## make lint         cppcheck, clang-tidy, gcc -fanalyzer
lint:
	cppcheck --quiet --std=c11 --enable=warning,portability --inline-suppr -I. $(SRC)
	clang-tidy --quiet $(SRC) -- -std=c11 -D_GNU_SOURCE -I. $(PKG_CF) $(HS_CF) -DSLUICE_VERSION='""'
	@for f in $(SRC); do gcc -std=c11 -D_GNU_SOURCE -I. $(PKG_CF) $(HS_CF) -DSLUICE_VERSION='""' -fanalyzer -O1 -c -o /dev/null $$f || exit 1; done

## make format       clang-format
format:
	clang-format -i $(SRC) $(foreach d,$(DIRS),$(wildcard $(d)/*.h)) $(wildcard tests/*/*.c tests/unit/*/*.c)

## make sizes        the ten longest functions and files
sizes:
	@$(PYTHON) tests/sizes.py

## make install      prefix= DESTDIR=
install: all
	install -d $(DESTDIR)$(prefix)/sbin $(DESTDIR)$(prefix)/bin $(DESTDIR)$(prefix)/share/man/man5 \
		$(DESTDIR)$(prefix)/share/sluice $(DESTDIR)$(prefix)/share/doc/sluice
	install -m 755 $(B)/bin/sluiced $(DESTDIR)$(prefix)/sbin/sluiced
	install -m 755 $(B)/bin/sluice $(B)/bin/sluice-stat $(B)/bin/sluice-sink $(B)/bin/sluice-load $(DESTDIR)$(prefix)/bin/
	@mkdir -p $(B)/share
	$(B)/bin/sluiced --print-sample > $(B)/share/sluice.conf.sample
	$(B)/bin/sluiced --print-manual > $(B)/share/sluice.conf.5
	sed 's,/usr/local/,$(prefix)/,g' etc/sluice.service > $(B)/share/sluice.service
	install -m 644 $(B)/share/sluice.conf.5 $(DESTDIR)$(prefix)/share/man/man5/
	install -m 644 etc/sluice.conf etc/providers.conf $(B)/share/sluice.conf.sample $(B)/share/sluice.service $(DESTDIR)$(prefix)/share/sluice/
	install -m 644 README.md INSTALL LICENSE doc/manual.md $(DESTDIR)$(prefix)/share/doc/sluice/

clean:
	rm -rf build
