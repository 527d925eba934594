/* reload: another configuration takes the place of the old one, between two turns; and the operator's
 * `sluice reload`, which the master answers. */
#include <string.h>

#include "common/base/mem.h"
#include "scheduler/control.h"

/* Requests that wait for the answer of the reload under way, and those that came meanwhile: they want one that
 * began after they asked. */
struct reload {
	struct request *waiting[OPERATOR_CLIENTS_MAX], *later[OPERATOR_CLIENTS_MAX];
	unsigned n_waiting, n_later;
};

/* The configuration ---------------------------------------------------------------------------- */
bool
reload_reception_is_wanted(const struct conf *conf)
{
	const struct conf_acct_file *files;
	size_t n = conf_acct_files(conf, &files);

	for (size_t i = 0; i < n; i++) {
		if (files[i].r)
			return true;
	}
	return false;
}

/* What the driver knows by the number of a source IP. One that is gone has no number; 0 has no address to be told. */
static void
renumber(struct scheduler *s, const uint32_t *map, size_t n)
{
	for (uint32_t i = 0; i < CORE_CONNECTIONS_MAX; i++) {
		struct conn *c = &s->conns[i];

		if (c->used && c->source_ip < n)
			c->source_ip = map[c->source_ip] == CORE_NONE ? 0 : map[c->source_ip];
	}
	for (size_t i = 0; i < s->n_old_claims; i++) {
		uint32_t *source = &s->old_claims[i].grant.source_ip;

		if (*source < n)
			*source = map[*source] == CORE_NONE ? 0 : map[*source];
	}
}

static bool
same_text(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

void
reload_commit(struct scheduler *s, const struct conf *conf, const struct conf *old)
{
	struct core_now now = scheduler_now(s);
	const struct conf_source_ip *ips;
	size_t n_old = conf_source_ips(old, &ips);
	uint32_t *map = core_source_map(old, conf);

	s->conf = conf;
	settings_free(&s->settings);
	s->settings = settings_new(conf, s->overrides);
	s->wants_reception = reload_reception_is_wanted(conf);
	core_reconfigure(s->core, &now, old, conf);
	core_resolver_up(s->core, &now); /* what it was asked before is asked again */
	routes_reconfigured(s, old);
	if (!same_text(conf_global(old)->name_server, conf_global(conf)->name_server))
		core_routes_void(s->core, &now);
	renumber(s, map, n_old);
	acts_reconfigured(s);
	backoff_reconfigured(s);
	charges_reconfigured(s);
	mem_free(map);
	stats_reconfigured(s);
	scheduler_kick(s);
}

/* The command ---------------------------------------------------------------------------------- */
static void
ask(struct scheduler *s, struct request *r)
{
	struct reload *rl = s->reload;

	rl->waiting[rl->n_waiting++] = r;
	if (rl->n_waiting == 1)
		proc_ask_reload(s->proc);
}

bool
control_reload(struct request *r)
{
	struct scheduler *s = r->s;

	if (s->reload == NULL)
		s->reload = mem_zalloc(sizeof *s->reload);
	if (s->draining) {
		control_fail(r, 1, "the instance is stopping");
		return true;
	}
	if (s->reload->n_waiting == 0)
		ask(s, r);
	else if (s->reload->n_later < OPERATOR_CLIENTS_MAX)
		s->reload->later[s->reload->n_later++] = r;
	else {
		control_fail(r, 1, "too many reloads are asked for");
		return true;
	}
	return false;
}

static void
answer(struct request *r, const struct reload_answer *a)
{
	buf_put_slice(&r->text, a->data);
	r->keep_data = true;
	if (a->status != 0 || a->message.n > 0)
		control_fail(r, (int)a->status, "%.*s", (int)a->message.n, a->message.p);
	control_finish(r);
}

void
reload_answered(struct scheduler *s, const struct reload_answer *a)
{
	struct reload *rl = s->reload;
	struct request *later[OPERATOR_CLIENTS_MAX];
	unsigned n_later;

	if (rl == NULL)
		return;
	for (unsigned i = 0; i < rl->n_waiting; i++)
		answer(rl->waiting[i], a);
	n_later = rl->n_later;
	memcpy(later, rl->later, sizeof later);
	rl->n_waiting = rl->n_later = 0;
	for (unsigned i = 0; i < n_later; i++)
		ask(s, later[i]);
}
