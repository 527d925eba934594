/* backoff_reroute: where the mail of a queue goes: reroute-to-virtual-mta, or its twin while the
 * queue is in back-off. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/base/log.h"
#include "scheduler/backoff_impl.h"
#include "scheduler/notify.h"
#include "scheduler/state.h"

#define CHAIN_MAX 32 /* reroutes that mail follows in a row */

/* By its name: its number changes when its mail goes elsewhere. Never itself, if the pool has
 * another one. */
static const char *
member_of(const struct scheduler *s, const struct conf_pool *pool, uint32_t queue)
{
	struct slice vmta = names_get(s->names, queue);
	const struct conf_vmta *vmtas;
	uint64_t at = XXH3_64bits(vmta.p, vmta.n) % pool->n_vmtas;

	(void)slice_cut(&vmta, '/');
	(void)conf_vmtas(s->conf, &vmtas);
	if (pool->n_vmtas > 1 && slice_eq_nocase(vmta, slice_str(vmtas[pool->vmtas[at]].name)))
		at = (at + 1) % pool->n_vmtas;
	return vmtas[pool->vmtas[at]].name;
}

const char *
backoff_member(const struct scheduler *s, const char *name, uint32_t queue)
{
	const struct conf_pool *pools;
	const struct conf_vmta *vmtas;
	int vmta = conf_vmta_find(s->conf, slice_str(name));
	int pool = conf_pool_find(s->conf, slice_str(name));

	(void)conf_vmtas(s->conf, &vmtas);
	if (vmta >= 0)
		return vmtas[vmta].name;
	(void)conf_pools(s->conf, &pools);
	if (pool < 0 || pools[pool].n_vmtas == 0)
		return NULL;
	return member_of(s, &pools[pool], queue);
}

/* What the configuration says now; of a pool the member that the flip has chosen, as long as it is
 * one. */
static const char *
of_backoff(const struct scheduler *s, const struct backoff_row *row, const struct conf_queue *q)
{
	int pool = q->backoff_reroute != NULL
			   ? conf_pool_find(s->conf, slice_str(q->backoff_reroute))
			   : -1;
	const struct conf_pool *pools;
	const struct conf_vmta *vmtas;

	if (pool < 0 || row->scope != CONF_RULE_QUEUE)
		return q->backoff_reroute;
	(void)conf_pools(s->conf, &pools);
	(void)conf_vmtas(s->conf, &vmtas);
	for (unsigned i = 0; i < pools[pool].n_vmtas; i++) {
		if (strcmp(vmtas[pools[pool].vmtas[i]].name, row->reroute) == 0)
			return row->reroute;
	}
	return q->backoff_reroute;
}

/* The queue's next one; itself: none. *itself: it says that it is its own. */
static uint32_t
next_of(struct scheduler *s, uint32_t queue, bool *itself)
{
	const struct backoff_row *row = backoff_is_known(s) ? backoff_of(s, queue) : NULL;
	struct slice name = names_get(s->names, queue), d;
	const struct conf_queue *q = settings_get(s->settings, queue, name);
	const char *to;

	*itself = false;
	/* What tells of all this goes its own way. */
	if (notify_is_queue(name))
		return queue;
	to = row == NULL ? q->reroute : of_backoff(s, row, q);
	if (to == NULL || to[0] == '\0' || (to = backoff_member(s, to, queue)) == NULL)
		return queue;
	d = slice_cut(&name, '/');
	*itself = slice_eq_nocase(name, slice_str(to));
	return *itself ? queue : scheduler_queue(s, d, slice_str(to));
}

enum end {
	END_THERE,
	END_ITSELF,
	END_LOOP,
	END_HOME, /* a loop that leads back to where it began */
};

/* It is in back-off that keeps a message to probe with, and has none. */
static bool
wants_probe(struct scheduler *s, uint32_t queue)
{
	const struct conf_queue *q = settings_get(s->settings, queue, names_get(s->names, queue));
	struct core_now now = scheduler_now(s);
	struct core_queue_view v;

	return q->backoff_probe_after_us != 0 && backoff_of(s, queue) != NULL &&
	       core_redirected(s->core, queue) == queue &&
	       core_queue_view(s->core, &now, queue, &v) && v.entries == 0;
}

/* Along the chain, up to the last queue before one that was met already; or (`is_new`: a message that
 * has no queue yet) to the first that wants a probe. */
static uint32_t
chain_end(struct scheduler *s, uint32_t queue, bool is_new, enum end *how)
{
	uint32_t met[CHAIN_MAX], next;
	unsigned n = 0;
	bool itself;

	*how = END_THERE;
	for (met[n++] = queue; n < CHAIN_MAX && (next = next_of(s, queue, &itself)) != queue;
	     met[n++] = queue = next) {
		for (unsigned i = 0; i < n; i++) {
			if (met[i] == next) {
				*how = i == 0 ? END_HOME : END_LOOP;
				return queue;
			}
		}
		if (is_new && wants_probe(s, queue))
			return queue;
	}
	if (n == 1 && itself)
		*how = END_ITSELF;
	return queue;
}

uint32_t
backoff_target(struct scheduler *s, uint32_t queue)
{
	enum end how;

	return chain_end(s, queue, false, &how);
}

bool
backoff_sends_away(struct scheduler *s, uint32_t queue)
{
	enum end how;

	return chain_end(s, queue, false, &how) != queue && how != END_HOME;
}

uint32_t
backoff_target_of_new(struct scheduler *s, uint32_t queue)
{
	enum end how;

	return chain_end(s, queue, true, &how);
}

/* Once for each change of mode. A virtual MTA that all mail goes to may well be named by a setting
 * that holds for it, too: then its mail stays, and that is meant. */
static void
report(struct scheduler *s, uint32_t queue, uint32_t last, enum end how)
{
	struct slice name = names_get(s->names, queue), at = names_get(s->names, last);

	if (how == END_LOOP || how == END_HOME) {
		if (backoff_loop_is_news(s, queue))
			log_warn("queue=%.*s reroute=loop new_mail_in=%.*s", (int)name.n, name.p,
				 (int)at.n, at.p);
		backoff_tell_loop(s);
	} else if (how == END_ITSELF && backoff_of(s, queue) != NULL &&
		   backoff_loop_is_news(s, queue)) {
		log_warn("queue=%.*s reroute=itself stays=yes", (int)name.n, name.p);
	}
}

void
backoff_reroute(struct scheduler *s, uint32_t queue, uint32_t entry, bool tell)
{
	const struct conf_queue *q;
	struct core_now now = scheduler_now(s);
	struct core_queue_view v;
	enum end how;
	uint32_t to = chain_end(s, queue, false, &how), fresh;
	bool probes;

	if (tell)
		report(s, queue, to, how);
	/* What waits in a loop has come to its last queue: it would go round and round. */
	if (to == queue || how == END_HOME)
		return;
	q = settings_get(s->settings, queue, names_get(s->names, queue));
	probes = q->backoff_probe_after_us != 0 && backoff_of(s, queue) != NULL;
	/* The only one is the probe, also while it is in flight. */
	if (probes && entry == CORE_NONE && core_queue_view(s->core, &now, queue, &v) && v.entries == 1)
		return;
	fresh = probes ? redirects_make_but_one(s, queue, to, entry) : redirects_make(s, queue, to);
	if (fresh == 0 && core_redirected(s->core, queue) == queue &&
	    backoff_reroute_later(s, queue))
		log_info("queue=%.*s reroute=waits to=%.*s why=\"%s\"", (int)names_get(s->names, queue).n,
			 names_get(s->names, queue).p, (int)names_get(s->names, to).n,
			 names_get(s->names, to).p,
			 core_redirected(s->core, to) == queue ? "its mail is on its way here"
							       : "what waits bounces first");
}
