/* show_limits: `show limits`: each limit in use, and what operators set. */
#include "common/base/mem.h"
#include "scheduler/control.h"
#include "scheduler/limit_words.h"

#define LIMITS_A_TURN 1024
#define ITEMS         1000 /* unless asked for more */

struct showing {
	struct request *r;
	struct slice pattern;
	uint32_t queue;    /* that is asked for; 0: none, or no such */
	struct slice vmta; /* of the queue that is asked for; empty: of a pattern or of all */
	uint32_t cursor;
	uint64_t most, matching;
};

static bool
is_source_of(const struct scheduler *s, struct slice vmta, uint32_t source_ip)
{
	const struct conf_vmta *vmtas;
	int v = conf_vmta_find(s->conf, vmta);

	(void)conf_vmtas(s->conf, &vmtas);
	for (unsigned i = 0; v >= 0 && i < vmtas[v].n_sources; i++) {
		if (vmtas[v].sources[i].source_ip == source_ip)
			return true;
	}
	return false;
}

/* For one queue: its own, and those it shares with others as far as its name tells. */
static bool
is_wanted(const struct showing *x, const struct core_limit_view *v, const struct limit_words *w)
{
	struct scheduler *s = x->r->s;

	if (x->pattern.n == 0)
		return true;
	switch (v->scope) {
	case CORE_SCOPE_QUEUE:
	case CORE_SCOPE_QUEUE_SOURCE:
		return control_matches(w->object, x->pattern);
	case CORE_SCOPE_SOURCE:
		return x->vmta.n > 0 && is_source_of(s, x->vmta, v->source_ip);
	case CORE_SCOPE_VMTA:
		return x->vmta.n > 0 && slice_eq_nocase(w->object, x->vmta);
	case CORE_SCOPE_PROVIDER:
		return x->vmta.n > 0 &&
		       w->object.n > 0 &&
		       slice_eq(providers_of(s->providers, x->queue), w->object);
	case CORE_SCOPE_ALL:
		return x->vmta.n > 0;
	default:
		return false;
	}
}

static void
write_limit(struct json *j, const struct core_limit_view *v, const struct limit_words *w)
{
	json_object_begin(j);
	json_key_str(j, "scope", w->scope);
	json_key_string(j, "object", w->object);
	json_key_str(j, "sourceIp", w->source);
	json_key_str(j, "name", w->directive);
	json_key_str(j, "value", w->value);
	json_key_str(j, "file", w->file);
	json_key(j, "line");
	if (w->file != NULL)
		json_u64(j, w->line);
	else
		json_null(j);
	json_key_str(j, "origin", w->origin);
	json_key_u64(j, "used", v->used);
	json_key_u64(j, "limit", v->n);
	json_key(j, "windowSeconds");
	if (v->window_us != 0)
		json_u64(j, v->window_us / 1000000u);
	else
		json_null(j);
	json_key_time(j, "nextRoom", v->next_room_wall_us);
	json_key_u64(j, "refused", v->refused);
	json_key_u64(j, "waiting", v->waiting);
	json_object_end(j);
}

static void
on_limit(void *arg, const struct core_limit_view *v)
{
	struct showing *x = arg;
	struct limit_words w;

	limit_words_short(x->r->s, v, &w);
	if (!is_wanted(x, v, &w))
		return;
	x->matching++;
	if (x->matching > x->most)
		return;
	limit_words(x->r->s, v, &w);
	write_limit(&x->r->json, v, &w);
}

/* Also of objects that no mail has met yet. */
static void
write_overrides(const struct showing *x)
{
	struct json *j = &x->r->json;
	const struct override *row;

	json_key(j, "override");
	json_array_begin(j);
	for (size_t i = 0; (row = overrides_at(x->r->s->overrides, i)) != NULL; i++) {
		bool of_queue = row->scope == CONF_OVER_QUEUE;

		if (row->limit == NULL)
			continue;
		if (x->pattern.n > 0 && of_queue &&
		    !control_matches(x->pattern, slice_str(row->object)) &&
		    !control_matches(slice_str(row->object), x->pattern))
			continue;
		if (x->pattern.n > 0 && !of_queue &&
		    (row->scope != CONF_OVER_VMTA ||
		     !slice_eq_nocase(slice_str(row->object), x->vmta)))
			continue;
		json_object_begin(j);
		json_key_str(j, "scope", conf_override_scope_name(row->scope));
		json_key_str(j, "object", row->object);
		json_key_str(j, "name", conf_override_name(row->limit));
		json_key_str(j, "value", conf_override_value(row->limit));
		json_key_time(j, "since", row->since_wall_us);
		json_key_time(j, "until", row->until_wall_us);
		json_object_end(j);
	}
	json_array_end(j);
}

static bool
show_some(struct request *r)
{
	struct showing *x = r->state;
	struct core_now now = scheduler_now(r->s);

	if (r->client != NULL &&
	    core_each_limit(r->s->core, &now, &x->cursor, LIMITS_A_TURN, on_limit, x))
		return false;
	json_array_end(&r->json);
	write_overrides(x);
	json_key_u64(&r->json, "matching", x->matching);
	mem_free(x);
	return true;
}

bool
control_show_limits(struct request *r)
{
	struct slice items = control_option(r, "maxitems"), pattern = control_word(r, 0);
	char room[NAME_BYTES_MAX + 1];
	struct showing *x;
	uint64_t most = ITEMS;

	if (items.n > 0 && !slice_u64(items, UINT32_MAX, &most)) {
		control_fail(r, 2, "--maxitems takes a whole number");
		return true;
	}
	x = mem_zalloc(sizeof *x);
	*x = (struct showing){ .r = r, .pattern = pattern, .most = most };
	if (pattern.n > 0 && memchr(pattern.p, '*', pattern.n) == NULL) {
		x->queue = names_find(r->s->names, control_queue_name(r, pattern, room));
		x->vmta = pattern;
		(void)slice_cut(&x->vmta, '/');
	}
	r->state = x;
	json_key(&r->json, "limit");
	json_array_begin(&r->json);
	return show_some(r) || control_go_on(r, show_some);
}
