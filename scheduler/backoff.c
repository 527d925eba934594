#include "scheduler/backoff_impl.h"

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/kill_point.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/base/planted.h"
#include "scheduler/notify.h"
#include "scheduler/state.h"

#define LATER_US     60000000u /* timers are not set further ahead */
#define SOON_US      10000u    /* ends that come one after the other share a wake-up */
#define ENDS_A_TURN  256
#define SWEPT_A_TICK 16
#define ROWS_A_TICK  64

struct backoff {
	struct backoff_rows *rows;
	size_t swept;       /* rows that were looked at */
	struct timer timer; /* the next end */
	uint64_t timer_at;  /* boot clock; BACKOFF_NEVER: it is not set */
	struct over { /* that the core has ended */
		uint32_t queue;
		unsigned why; /* enum core_backoff_end */
	} * over;
	size_t n_over, cap_over;
	struct timer over_timer;
	uint64_t bad;
};

/* Objects ------------------------------------------------------------------------------------- */
static struct slice
vmta_of(struct slice name)
{
	(void)slice_cut(&name, '/');
	return name;
}

/* What the scope of a rule is called for this queue and source IP; empty: there is none. */
static struct slice
object_name(const struct scheduler *s, unsigned scope, uint32_t queue, uint32_t source_ip)
{
	const struct conf_source_ip *ips;
	size_t n = conf_source_ips(s->conf, &ips);

	switch (scope) {
	case CONF_RULE_SOURCE_IP:
		return source_ip < n ? slice_str(ips[source_ip].text) : SLICE_NONE;
	case CONF_RULE_VMTA:
		return vmta_of(names_get(s->names, queue));
	case CONF_RULE_PROVIDER:
		return providers_of(s->providers, queue);
	default:
		return names_get(s->names, queue);
	}
}

bool
backoff_has_scope(const struct scheduler *s, unsigned scope, uint32_t queue, uint32_t source_ip)
{
	return object_name(s, scope, queue, source_ip).n > 0;
}

struct backoff_row *
backoff_scope_row(struct scheduler *s, unsigned scope, uint32_t queue, uint32_t source_ip)
{
	struct slice name = object_name(s, scope, queue, source_ip);

	return name.n == 0 ? NULL
			   : backoff_rows_make(s->backoff->rows, (enum conf_rule_scope)scope, name);
}

struct backoff_row *
backoff_scope_find(struct scheduler *s, unsigned scope, uint32_t queue, uint32_t source_ip)
{
	return backoff_rows_find(s->backoff->rows, (enum conf_rule_scope)scope,
				 object_name(s, scope, queue, source_ip));
}

const struct backoff_row *
backoff_own(const struct scheduler *s, uint32_t queue)
{
	return backoff_rows_find(s->backoff->rows, CONF_RULE_QUEUE, names_get(s->names, queue));
}

uint32_t
backoff_number(struct scheduler *s)
{
	return backoff_rows_number(s->backoff->rows);
}

struct backoff_rows *
backoff_table(struct scheduler *s)
{
	return s->backoff->rows;
}

bool
backoff_is_known(const struct scheduler *s)
{
	return s->backoff != NULL && backoff_rows_count(s->backoff->rows) > 0;
}

const struct backoff_row *
backoff_of_source(const struct scheduler *s, struct slice source)
{
	return backoff_rows_find(s->backoff->rows, CONF_RULE_SOURCE_IP, source);
}

static const enum conf_rule_scope wider[] = { CONF_RULE_VMTA, CONF_RULE_PROVIDER };

const struct backoff_row *
backoff_of(const struct scheduler *s, uint32_t queue)
{
	const struct backoff_rows *rows = s->backoff->rows;
	const struct backoff_row *own = backoff_own(s, queue), *row;

	if (own != NULL && own->on)
		return own;
	if (notify_is_queue(names_get(s->names, queue)))
		return NULL;
	for (size_t i = 0; i < sizeof wider / sizeof wider[0]; i++) {
		if (backoff_rows_on(rows, wider[i]) == 0)
			continue;
		row = backoff_rows_find(rows, wider[i], object_name(s, wider[i], queue, CORE_NONE));
		if (row != NULL && backoff_row_holds(row, own))
			return row;
	}
	return NULL;
}

void
backoff_has_number(struct scheduler *s, uint32_t from, uint32_t fresh)
{
	if (s->backoff == NULL || PLANTED(flip_untold))
		return;
	backoff_tell_number(s, from, fresh);
	for (size_t i = 0; i < s->backoff->n_over; i++) {
		if (s->backoff->over[i].queue == from)
			s->backoff->over[i].queue = fresh;
	}
}

/* On disk ------------------------------------------------------------------------------------- */
void
backoff_put(struct scheduler *s, const struct backoff_row *row)
{
	struct buf b = { 0 };

	backoff_row_encode(&b, row);
	committer_put_backoff(s->committer, row->number, buf_slice(&b));
	buf_clear(&b);
}

/* The row, the event of its change and who is to be told of it, in one batch. Should the batch be cut between them, the
 * event brings the row. */
static void
keep(struct scheduler *s, const struct backoff_row *row, struct slice reason, struct slice rule)
{
	struct slice rest = slice_str(row->name);
	struct event e = {
		.kind = EVENT_MODE,
		.wall_us = loop_wall_us(s->loop),
		.mode = row->on ? 2 : 1,
		.rule = rule,
		.reason = reason,
		.dlv_source_ip = row->on ? slice_str(row->source_ip) : SLICE_NONE,
		.mode_number = row->number,
	};
	struct buf b = { 0 };

	if (row->scope == CONF_RULE_QUEUE) {
		e.queue = slice_cut(&rest, '/');
		e.vmta = rest;
		e.queue_number = names_find(s->names, slice_str(row->name));
	} else if (row->scope == CONF_RULE_VMTA) {
		e.vmta = rest;
	} else if (row->scope == CONF_RULE_PROVIDER) {
		e.provider = rest;
	} else {
		e.dlv_source_ip = rest;
	}
	backoff_row_encode(&b, row);
	e.mode_row = buf_slice(&b);
	e.owed_number = notify_mode(s, row, reason, rule, &e.owed_row);
	committer_event(s->committer, &e);
	if (!PLANTED(flip_unkept))
		committer_put_backoff(s->committer, row->number, buf_slice(&b));
	buf_clear(&b);
}

static void
log_change(const struct backoff_row *row, struct slice reason, struct slice rule)
{
	char esc[REPLY_KEPT_MAX * 2];

	log_info("%s=%s mode=%s rule=%.*s reason=\"%s\"", conf_rule_scope_name(row->scope),
		 row->name, row->on ? "backoff" : "normal", (int)rule.n, rule.n > 0 ? rule.p : "",
		 str_escape(esc, sizeof esc, reason));
}

/* Ends ---------------------------------------------------------------------------------------- */
static void
watch_ends(struct scheduler *s, uint64_t next)
{
	uint64_t now = loop_boot_us(s->loop), after = LATER_US;

	if (next == BACKOFF_NEVER)
		return;
	if (next <= now + SOON_US)
		after = SOON_US;
	else if (next - now < LATER_US)
		after = next - now;
	/* One that ends sooner is not put off by those that come. */
	if (s->backoff->timer_at <= now + after)
		return;
	s->backoff->timer_at = now + after;
	timer_set(&s->backoff->timer, after);
}

static void
on_end(void *arg)
{
	struct scheduler *s = arg;
	struct backoff_row *row;
	uint64_t next;

	s->backoff->timer_at = BACKOFF_NEVER;
	for (unsigned i = 0; (row = backoff_rows_ended(s->backoff->rows, loop_boot_us(s->loop),
						       &next)) != NULL;
	     i++) {
		if (i == ENDS_A_TURN || committer_is_full(s->committer)) {
			watch_ends(s, 0);
			return;
		}
		backoff_leave(s, row, SLICE_LIT("its time is over"), SLICE_NONE);
	}
	watch_ends(s, next);
}

static bool
exempt_from(struct scheduler *s, uint32_t queue, const struct backoff_row *row)
{
	return row != NULL && row->on &&
	       backoff_row_exempt(backoff_scope_row(s, CONF_RULE_QUEUE, queue, CORE_NONE), row);
}

/* The queue is taken out of what holds for it by wider scopes, until that ends. The caller keeps its
 * row, once. */
static bool
exempt(struct scheduler *s, uint32_t queue, struct slice reason)
{
	bool some = false;

	for (size_t i = 0; i < sizeof wider / sizeof wider[0]; i++)
		some |= exempt_from(s, queue, backoff_scope_find(s, wider[i], queue, CORE_NONE));
	if (some)
		backoff_row_note(backoff_scope_find(s, CONF_RULE_QUEUE, queue, CORE_NONE), reason,
				 loop_wall_us(s->loop));
	return some;
}

/* And out of those of source IPs: that is no change of its mode. */
static bool
exempt_from_sources(struct scheduler *s, uint32_t queue)
{
	const struct conf_source_ip *ips;
	size_t n = conf_source_ips(s->conf, &ips);
	bool some = false;

	for (size_t i = 1; i < n && backoff_rows_on(s->backoff->rows, CONF_RULE_SOURCE_IP) > 0; i++)
		some |= exempt_from(s, queue, backoff_of_source(s, slice_str(ips[i].text)));
	return some;
}

static void
on_over(void *arg)
{
	struct scheduler *s = arg;
	struct backoff *b = s->backoff;
	size_t n = b->n_over;

	for (size_t i = 0; i < n; i++) {
		struct over o = b->over[i];
		struct core_backoff_view v;
		struct backoff_row *row;
		struct slice reason = o.why == CORE_BACKOFF_DELIVERY
					      ? SLICE_LIT("a message was delivered")
					      : SLICE_LIT("its rate has recovered");
		bool on, wide;

		row = backoff_rows_find(b->rows, CONF_RULE_QUEUE, names_get(s->names, o.queue));
		if (o.why == CORE_BACKOFF_STEPS) {
			if (row != NULL && backoff_note_recovery(s, row))
				backoff_put(s, row);
			continue;
		}
		/* A reply has matched meanwhile: it goes on. */
		if (core_backoff_view(s->core, o.queue, CORE_NONE, &v) && v.ended_wall_us == 0)
			continue;
		backoff_untold(s, o.queue);
		on = row != NULL && row->on;
		/* Of a wider scope it goes on for the others, and this queue is out of it: mail that was
		 * taken speaks against each of them, a rate that was learned against its own. */
		wide = (!on || o.why == CORE_BACKOFF_DELIVERY) && exempt(s, o.queue, reason);
		row = backoff_scope_find(s, CONF_RULE_QUEUE, o.queue, CORE_NONE);
		if (on)
			backoff_leave(s, row, reason, SLICE_NONE);
		else if (wide)
			keep(s, row, reason, SLICE_NONE);
		if (wide)
			backoff_reroute_soon(s, o.queue);
	}
	memmove(b->over, b->over + n, (b->n_over - n) * sizeof *b->over);
	b->n_over -= n;
}

void
backoff_over(struct scheduler *s, uint32_t queue, uint32_t source_ip, unsigned why)
{
	struct backoff *b = s->backoff;
	void *p = b->over;

	if (source_ip != CORE_NONE) /* its row's scope ends it, for all queues */
		return;
	mem_grow(&p, &b->cap_over, b->n_over + 1, sizeof *b->over);
	b->over = p;
	b->over[b->n_over++] = (struct over){ queue, why };
	timer_set(&b->over_timer, 0);
}

/* Flips --------------------------------------------------------------------------------------- */
void
backoff_enter(struct scheduler *s, struct backoff_row *row, struct backoff_why *why, uint32_t queue,
	      uint32_t entry)
{
	struct core_now now = scheduler_now(s);
	struct slice name = names_get(s->names, queue);
	const struct conf_queue *q = settings_get(s->settings, queue, name);
	const char *member;
	bool flipped;

	if (row->scope == CONF_RULE_QUEUE && q->backoff_reroute != NULL &&
	    (member = backoff_member(s, q->backoff_reroute, queue)) != NULL)
		why->reroute = slice_str(member);
	flipped = backoff_row_enter(s->backoff->rows, row, why, now.wall_us, now.boot_us);
	KILL_POINT("flip-begun");
	watch_ends(s, row->until_boot_us);
	backoff_in_force(s, row, queue, !flipped);
	(void)backoff_note_recovery(s, row);
	if (!flipped) {
		backoff_put(s, row);
		return;
	}
	log_change(row, why->reason, why->rule);
	keep(s, row, why->reason, why->rule);
	KILL_POINT("flip-put");
	if (row->scope == CONF_RULE_QUEUE)
		backoff_reroute(s, queue, entry, true);
	scheduler_kick(s);
}

/* Out of back-off: to where mail goes then, if that is elsewhere. */
static void
reroute_back(struct scheduler *s, const struct backoff_row *row)
{
	uint32_t queue;

	if (row->scope == CONF_RULE_QUEUE &&
	    (queue = names_find(s->names, slice_str(row->name))) != 0)
		backoff_reroute_soon(s, queue);
}

void
backoff_leave(struct scheduler *s, struct backoff_row *row, struct slice reason, struct slice rule)
{
	if (!backoff_row_leave(s->backoff->rows, row, reason, loop_wall_us(s->loop)))
		return;
	backoff_in_force(s, row, CORE_NONE, false);
	(void)backoff_note_recovery(s, row);
	log_change(row, reason, rule);
	keep(s, row, reason, rule);
	reroute_back(s, row);
	scheduler_kick(s);
}

bool
backoff_out(struct scheduler *s, uint32_t queue, struct slice reason, struct slice rule)
{
	bool wide = exempt(s, queue, reason), sources = exempt_from_sources(s, queue);
	struct backoff_row *own = backoff_scope_find(s, CONF_RULE_QUEUE, queue, CORE_NONE);
	bool was_on = own != NULL && own->on;

	/* However many held it: one event of it, and one mail. */
	if (was_on) {
		backoff_leave(s, own, reason, rule);
	} else if (wide) {
		keep(s, own, reason, rule);
		backoff_queue(s, queue);
	} else if (sources) {
		backoff_put(s, own);
	}
	if (sources)
		backoff_tell_sources(s, queue);
	return was_on || wide || sources;
}

bool
backoff_count(struct scheduler *s, unsigned rule, uint32_t queue, uint32_t source_ip)
{
	const struct conf_rule *rules, *r;
	struct backoff_count *c;
	struct slice name;
	struct buf b = { 0 };
	bool fires;

	CHECK(rule < conf_rules(s->conf, &rules));
	r = &rules[rule];
	name = object_name(s, r->scope, queue, source_ip);
	/* The scope has no object here: the queue alone, as the rule's action. */
	c = backoff_counts_get(s->backoff->rows, r->key, name.n > 0 ? r->scope : CONF_RULE_QUEUE,
			       name.n > 0 ? name : names_get(s->names, queue));
	fires = backoff_count_add(c, &r->after, loop_wall_us(s->loop));
	backoff_count_encode(&b, c);
	committer_put_backoff(s->committer, c->number, buf_slice(&b));
	buf_clear(&b);
	return fires;
}

/* Commands ------------------------------------------------------------------------------------ */
/* What is left of a back-off that is over, its steps. */
static void
end_recovery(struct scheduler *s, uint32_t queue)
{
	struct backoff_row *own = backoff_scope_find(s, CONF_RULE_QUEUE, queue, CORE_NONE);
	struct core_now now = scheduler_now(s);

	if (backoff_of(s, queue) != NULL)
		return;
	(void)core_backoff_leave(s->core, &now, queue, CORE_NONE, true);
	if (own != NULL && backoff_note_recovery(s, own))
		backoff_put(s, own);
	scheduler_kick(s);
}

void
backoff_command(struct scheduler *s, uint32_t queue, bool on)
{
	struct slice name = names_get(s->names, queue);
	const struct conf_queue *q = settings_get(s->settings, queue, name);
	struct backoff_why why = { .reason = SLICE_LIT("by command"),
				   .for_us = q->backoff_to_normal_after_us };

	_Static_assert(BACKOFF_NEVER == CONF_NEVER, "one value for no end");
	if (notify_is_queue(name))
		return;
	if (on)
		backoff_enter(s, backoff_scope_row(s, CONF_RULE_QUEUE, queue, CORE_NONE), &why,
			      queue, CORE_NONE);
	else if (!backoff_out(s, queue, SLICE_LIT("by command"), SLICE_NONE))
		end_recovery(s, queue);
}

bool
backoff_end_wide(struct scheduler *s, struct slice pattern)
{
	struct slice vmta = pattern, domain = slice_cut(&vmta, '/');
	struct backoff_row *row;
	bool some = false;
	size_t on = 0;

	for (unsigned k = CONF_RULE_QUEUE + 1; k < CONF_RULE_SCOPES; k++)
		on += backoff_rows_on(s->backoff->rows, k);
	if (on == 0 || !slice_is(domain, "*"))
		return false;
	for (size_t i = 0; (row = backoff_rows_at(s->backoff->rows, i)) != NULL; i++) {
		bool whole = vmta.p == NULL || slice_is(vmta, "*") ||
			     (row->scope == CONF_RULE_VMTA &&
			      slice_eq_nocase(vmta, slice_str(row->name)));

		if (!row->on || row->scope == CONF_RULE_QUEUE || !whole)
			continue;
		backoff_leave(s, row, SLICE_LIT("by command"), SLICE_NONE);
		some = true;
	}
	return some;
}

/* Life ---------------------------------------------------------------------------------------- */
static void
load(void *arg, uint32_t number, struct slice blob)
{
	struct scheduler *s = arg;

	if (notify_is_blob(blob)) {
		backoff_rows_has_number(s->backoff->rows, number);
		s->backoff->bad += !notify_load(s, number, blob);
		return;
	}
	s->backoff->bad += !backoff_rows_restore(s->backoff->rows, number, blob,
						 loop_wall_us(s->loop), loop_boot_us(s->loop));
}

void
backoff_load(struct scheduler *s)
{
	uint64_t bad = 0;
	int rc;

	s->backoff = mem_zalloc(sizeof *s->backoff);
	s->backoff->rows = backoff_rows_new();
	notify_open(s);
	s->backoff->timer_at = BACKOFF_NEVER;
	timer_init(&s->backoff->timer, s->loop, on_end, s);
	timer_init(&s->backoff->over_timer, s->loop, on_over, s);
	rc = store_load_backoff(s->store, load, s, &bad);
	backoff_tell_open(s, backoff_rows_on(s->backoff->rows, CONF_RULE_SOURCE_IP) > 0);
	if (rc != 0 || bad + s->backoff->bad > 0)
		log_error("backoff load=%s damaged=%llu", rc != 0 ? err_text(rc) : "done",
			  (unsigned long long)(bad + s->backoff->bad));
}

/* A queue without mail is known by its row alone: it is shown, and its back-off goes on. */
static void
make_queues(struct scheduler *s)
{
	const struct backoff_row *row;

	for (size_t i = 0; (row = backoff_rows_at(s->backoff->rows, i)) != NULL; i++) {
		struct slice vmta = slice_str(row->name), domain = slice_cut(&vmta, '/');

		if (row->scope == CONF_RULE_QUEUE && domain.n > 0 && row->n_changes > 0 &&
		    conf_vmta_find(s->conf, vmta) >= 0)
			(void)scheduler_queue(s, domain, vmta);
	}
}

void
backoff_started(struct scheduler *s)
{
	make_queues(s);
	backoff_tell_started(s);
	backoff_resume_recovery(s);
	/* Of a flip whose event alone was on disk the mail has not gone anywhere; and a move of a few
	 * messages leaves no trace: it may not have come to its end. */
	if (!PLANTED(flip_left))
		backoff_tell_all(s, false);
	notify_started(s);
	watch_ends(s, 0);
}

/* A few rows: those whose rate is another one are put, those that are past go. */
static void
sweep_rows(struct scheduler *s)
{
	struct backoff *b = s->backoff;
	uint64_t wall = loop_wall_us(s->loop);
	size_t n = backoff_rows_count(b->rows);

	for (size_t i = 0; i < ROWS_A_TICK && i < n && !committer_is_full(s->committer); i++) {
		struct backoff_row *row =
			backoff_rows_at(b->rows, b->swept++ % backoff_rows_count(b->rows));

		if (backoff_row_is_past(b->rows, row, wall)) {
			committer_del_backoff(s->committer, row->number);
			backoff_rows_forget(b->rows, row);
			continue;
		}
		if ((!row->on && !row->recovering) || !backoff_note_recovery(s, row))
			continue;
		backoff_put(s, row);
		KILL_POINT("recovery-step");
	}
}

void
backoff_sweep(struct scheduler *s)
{
	uint32_t number;

	for (unsigned i = 0; i < SWEPT_A_TICK && !committer_is_full(s->committer); i++) {
		number = backoff_counts_sweep(s->backoff->rows, loop_wall_us(s->loop));
		if (number == 0)
			break;
		committer_del_backoff(s->committer, number);
	}
	sweep_rows(s);
	backoff_tell_tick(s);
}

void
backoff_close(struct scheduler *s)
{
	if (s->backoff == NULL)
		return;
	notify_close(s);
	timer_clear(&s->backoff->timer);
	timer_clear(&s->backoff->over_timer);
	backoff_rows_free(&s->backoff->rows);
	mem_free(s->backoff->over);
	backoff_tell_close(s);
	mem_free(s->backoff);
	s->backoff = NULL;
}
