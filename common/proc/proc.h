/* proc: the skeleton of every child: privileges, configuration, loop, and the line to the master. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/conf/conf.h"
#include "common/event/loop.h"
#include "common/ipc/channel.h"
#include "common/proc/reload_answer.h"
#include "common/proc/role.h"

struct proc; /* opaque */

/* What the skeleton tells the process; each may be NULL. */
struct proc_hooks {
	/* A channel to `peer`/`slot` of life `generation`; replaces an older one to the same slot. The scheduler gets
	 * one per receiver, worker, resolver, recorder; every other process gets its one to the scheduler.
	 * The process owns fds (give them to channel_open). */
	void (*on_channel)(void *arg, enum role peer, unsigned slot, uint32_t generation, const struct channel_fds *fds);
	/* To the scheduler: that process is dead (reaped) and a new one may follow. To others: the scheduler is dead. */
	void (*on_peer_gone)(void *arg, enum role peer, unsigned slot, uint32_t generation);
	/* Finish what runs, take nothing new, then proc_done(). When the master is dead (proc_is_orphaned()) there
	 * is a quarter of a second for it. */
	void (*on_drain)(void *arg);
	/* Reload. Could the process work by `conf`, as generation `generation`? NULL, or why not. Nothing changes yet;
	 * on_commit or on_drop follows. */
	const char *(*on_prepare)(void *arg, const struct conf *conf, uint64_t generation);
	/* From now on `conf` is in force (proc_conf() gives it). `old` and what was borrowed from it live at least until
	 * the next reload; conf_hold() keeps it longer. A receiver finds its listeners in the heritage: they are its
	 * own, also those of an address that it had before. */
	void (*on_commit)(void *arg, const struct conf *conf, const struct conf *old);
	void (*on_drop)(void *arg);
	/* Scheduler: how the reload went that proc_ask_reload() asked for. */
	void (*on_reloaded)(void *arg, const struct reload_answer *answer);
};

/* Parses the configuration, opens the log, drops to `user`, sets no_new_privs and signals, makes the
 * loop, watches the control socket. NULL when that is impossible (logged). */
struct proc *proc_begin(struct heritage *h, const struct proc_hooks *hooks, void *arg);
void proc_ready(struct proc *p); /* tells the master: started well */
int proc_run(struct proc *p);    /* the loop; the exit status for the process */
void proc_done(struct proc *p);  /* drained: ends proc_run() with status 0 */
void proc_fail(struct proc *p);  /* ends proc_run() with status 1: the master starts a new one */
/* Scheduler to master: an operator asked to stop the whole instance. */
void proc_ask_stop(struct proc *p);
/* Scheduler to master: an operator asked to read the configuration anew; on_reloaded follows. */
void proc_ask_reload(struct proc *p);
/* Scheduler to master: this process broke the rules of its channel; nobody else can make it a new one. */
void proc_ask_kill(struct proc *p, enum role peer, unsigned slot, uint32_t generation);

/* The master is dead: this process is gone within a quarter of a second, whatever it does. */
bool proc_is_orphaned(const struct proc *p);

struct loop *proc_loop(struct proc *p);
const struct conf *proc_conf(struct proc *p);
/* The configuration of that generation: in force, prepared, or the one before; else NULL. */
const struct conf *proc_conf_of(struct proc *p, uint64_t generation);
struct heritage *proc_heritage(struct proc *p);
