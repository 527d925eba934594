/* control_show: commands that look. */
#include <stdlib.h>
#include <unistd.h>

#include "common/base/mem.h"
#include "scheduler/backoff_rows.h"
#include "scheduler/control.h"
#include "scheduler/limit_words.h"
#include "scheduler/quarantine.h"

static const char *const wait_names[] = {
	[CORE_WAIT_NONE] = "none",
	[CORE_WAIT_EMPTY] = "empty",
	[CORE_WAIT_CONNECTIONS] = "connections",
	[CORE_WAIT_RATE] = "rate",
	[CORE_WAIT_PAUSED] = "paused",
	[CORE_WAIT_RETRY] = "retry",
	[CORE_WAIT_SOURCES] = "sources",
	[CORE_WAIT_DNS] = "dns",
	[CORE_WAIT_BACKOFF] = "backoff",
};

/* Queues --------------------------------------------------------------------------------------- */
static void
write_text(struct json *j, const char *key, const struct buf *text)
{
	json_key(j, key);
	if (text->len > 0)
		json_string(j, buf_slice(text));
	else
		json_null(j);
}

/* By which limit, where it stands, until when: that of the core's table it waits for, else what its
 * refusal names. */
static void
write_blocked(struct json *j, struct scheduler *s, const struct core_queue_view *v)
{
	struct core_now now = scheduler_now(s);
	struct buf limit = { 0 }, config = { 0 };
	uint64_t until = v->until_wall_us;
	const char *by = wait_names[v->wait];
	struct core_limit_view of;
	struct limit_words w;

	if (!v->paused && core_blocking_limit(s->core, &now, v->number, &of)) {
		/* The steps behind back-off; one that is learned stands for its rate. */
		if (of.recover && !v->backoff)
			by = wait_names[CORE_WAIT_BACKOFF];
		limit_words(s, &of, &w);
		limit_words_line(&w, &limit);
		limit_words_place(&w, &config);
		/* Room for some bytes is not yet room for a body: of volume the queue knows better. */
		if (of.next_room_wall_us != 0 &&
		    (of.measure != CORE_MEASURE_VOLUME || of.next_room_wall_us > until))
			until = of.next_room_wall_us;
	} else if (v->limit != NULL) {
		limit_words_of_queue(s, v->name, v->limit, &limit, &config);
	} else if (v->wait == CORE_WAIT_SOURCES && v->only_sources) {
		limit_words_of_queue(s, v->name, "backoff-use-source", &limit, &config);
	}
	json_key(j, "blocked");
	json_object_begin(j);
	json_key_str(j, "by", by);
	write_text(j, "limit", &limit);
	write_text(j, "config", &config);
	json_key_time(j, "until", until);
	json_object_end(j);
	buf_clear(&limit);
	buf_clear(&config);
}

struct slice
control_reply(struct slice diagnostic)
{
	static const char *const kinds[] = { "smtp;", "x-sluice;", "x-pmta;" };

	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
		size_t n = strlen(kinds[i]);

		if (diagnostic.n >= n && memcmp(diagnostic.p, kinds[i], n) == 0)
			return slice_sub(diagnostic, n);
	}
	return diagnostic;
}

static void
write_string(struct json *j, const char *key, const char *text)
{
	json_key(j, key);
	if (text != NULL && text[0] != '\0')
		json_string(j, slice_str(text));
	else
		json_null(j);
}

/* What `recover` allows at present: 95.2/s, 12.5/m. */
static void
write_learned(struct json *j, struct scheduler *s, uint32_t queue)
{
	struct core_backoff_view v;
	char text[32];

	json_key(j, "learnedRate");
	if (!core_backoff_view(s->core, queue, CORE_NONE, &v) || v.rate_mps == 0) {
		json_null(j);
		return;
	}
	limit_words_rate((double)v.rate_mps / 1e3, text, sizeof text);
	json_string(j, slice_str(text));
}

/* The row's own members, of an object that the caller ends. */
static void
write_row(struct json *j, const struct backoff_row *row)
{
	json_object_begin(j);
	json_key_time(j, "since", row->since_wall_us);
	json_key_time(j, "until", row->until_wall_us);
	write_string(j, "reason", row->reason);
	write_string(j, "rule", row->rule);
	write_string(j, "sourceIp", row->source_ip);
	json_key_str(j, "scope", conf_rule_scope_name(row->scope));
}

/* By its own row, or by that of a wider scope. */
static void
write_backoff(struct json *j, struct scheduler *s, uint32_t queue)
{
	const struct backoff_row *row = backoff_of(s, queue);
	uint32_t to;

	json_key(j, "backoff");
	if (row == NULL) {
		json_null(j);
		return;
	}
	write_row(j, row);
	to = backoff_target(s, queue);
	json_key(j, "rerouteTo");
	if (to != queue)
		json_string(j, names_get(s->names, to));
	else
		json_null(j);
	write_learned(j, s, queue);
	json_object_end(j);
}

/* What slows all queues on one source IP, and is in back-off in none of them. */
static void
write_source_backoff(struct json *j, const struct scheduler *s, const char *ip)
{
	const struct backoff_row *row = backoff_of_source(s, slice_str(ip));
	bool on = row != NULL && row->on;

	json_key_str(j, "mode", on ? "backoff" : "normal");
	json_key(j, "backoff");
	if (!on) {
		json_null(j);
		return;
	}
	write_row(j, row);
	json_object_end(j);
}

static void
write_changes(struct json *j, struct scheduler *s, uint32_t queue)
{
	static const char *const modes[] = { "normal", "backoff" };
	struct backoff_change changes[BACKOFF_CHANGES];
	unsigned n = backoff_changes(s, queue, changes);

	json_key(j, "modeEvent");
	json_array_begin(j);
	for (unsigned i = 0; i < n; i++) {
		json_object_begin(j);
		json_key_time(j, "time", changes[i].wall_us);
		json_key_str(j, "from", modes[!changes[i].to_backoff]);
		json_key_str(j, "to", modes[changes[i].to_backoff]);
		json_key_str(j, "reason", changes[i].reason);
		json_object_end(j);
	}
	json_array_end(j);
}

static void
write_queue(struct json *j, struct scheduler *s, const struct core_queue_view *v)
{
	json_object_begin(j);
	json_key_string(j, "name", v->name);
	json_key_u64(j, "rcp", v->rcpts);
	json_key_u64(j, "kb", v->kbytes);
	json_key_u64(j, "conn", v->connections);
	json_key_bool(j, "paused", v->paused);
	json_key_str(j, "mode", backoff_of(s, v->number) != NULL ? "backoff" : "normal");
	json_key_time(j, "retryTime", v->retry_at_wall_us);
	json_key(j, "event");
	json_array_begin(j);
	if (v->last_error.n > 0) {
		json_object_begin(j);
		json_key_str(j, "type", "error");
		json_key_time(j, "time", v->last_error_wall_us);
		json_key_string(j, "text", control_reply(v->last_error));
		json_object_end(j);
	}
	json_array_end(j);
	write_backoff(j, s, v->number);
	write_blocked(j, s, v);
	json_key_u64(j, "delivered", v->delivered);
	json_key_u64(j, "bounced", v->bounced);
	json_key_u64(j, "transient", v->transient);
	json_key_u64(j, "attempted", v->attempted);
	json_key_u64(j, "msgRate", v->msg_rate);
	write_changes(j, s, v->number);
	json_object_end(j);
}

/* Queues written in one turn. */
#define WRITE_A_TURN 512

/* What a queue is sorted by; the rest is looked up again when it is written. */
struct found {
	struct slice name; /* the core's, for good */
	uint64_t rcpts, kbytes;
	uint32_t number;
};

struct collected {
	struct request *r;
	struct slice pattern;
	bool paused, connected, errors, backoff, normal;
	int (*order)(const void *a, const void *b);
	uint32_t cursor;
	bool complete; /* and sorted */
	size_t written;
	uint64_t most;
	struct found *found;
	size_t n, cap;
	uint64_t total_rcpts, with_rcpts;
};

static void
collect(void *arg, uint32_t queue)
{
	struct collected *c = arg;
	struct core_now now = scheduler_now(c->r->s);
	struct core_queue_view v;
	void *p = c->found;

	if (!core_queue_view(c->r->s->core, &now, queue, &v))
		return;
	c->total_rcpts += v.rcpts;
	c->with_rcpts += v.rcpts > 0;
	if (c->pattern.n > 0 && !control_matches(v.name, c->pattern))
		return;
	if ((c->paused && !v.paused) || (c->connected && v.connections == 0) ||
	    (c->errors && v.last_error.n == 0))
		return;
	if ((c->backoff && backoff_of(c->r->s, queue) == NULL) ||
	    (c->normal && backoff_of(c->r->s, queue) != NULL))
		return;
	mem_grow(&p, &c->cap, c->n + 1, sizeof *c->found);
	c->found = p;
	c->found[c->n++] = (struct found){ v.name, v.rcpts, v.kbytes, v.number };
}

static int
by_rcpts(const void *a, const void *b)
{
	const struct found *x = a, *y = b;

	if (x->rcpts != y->rcpts)
		return x->rcpts > y->rcpts ? -1 : 1;
	return slice_cmp(x->name, y->name);
}

static int
by_size(const void *a, const void *b)
{
	const struct found *x = a, *y = b;

	if (x->kbytes != y->kbytes)
		return x->kbytes > y->kbytes ? -1 : 1;
	return slice_cmp(x->name, y->name);
}

static int
by_name(const void *a, const void *b)
{
	const struct found *x = a, *y = b;

	return slice_cmp(x->name, y->name);
}

static bool
show_some(struct request *r)
{
	struct collected *c = r->state;
	struct core_now now = scheduler_now(r->s);
	struct core_queue_view v;

	if (!c->complete) {
		if (core_each_queue(r->s->core, &c->cursor, CONTROL_LOOK_A_TURN, collect, c))
			return false;
		c->complete = true;
		if (c->n > 0)
			qsort(c->found, c->n, sizeof *c->found, c->order);
		if (c->most > c->n)
			c->most = c->n;
		json_key(&r->json, "queue");
		json_array_begin(&r->json);
	}
	for (unsigned i = 0; i < WRITE_A_TURN && c->written < c->most; i++) {
		if (core_queue_view(r->s->core, &now, c->found[c->written++].number, &v))
			write_queue(&r->json, r->s, &v);
	}
	if (c->written < c->most && r->client != NULL)
		return false;
	json_array_end(&r->json);
	json_key_u64(&r->json, "matching", c->n);
	json_key_u64(&r->json, "totalRcp", c->total_rcpts);
	json_key_u64(&r->json, "totalQueuesWithRcp", c->with_rcpts);
	mem_free(c->found);
	mem_free(c);
	return true;
}

static bool
show_queues(struct request *r, const char *default_sort, struct slice pattern,
	    uint64_t default_items)
{
	struct collected *c;
	struct slice sort = control_option(r, "sort"), mode = control_option(r, "mode");
	struct slice items = control_option(r, "maxitems");
	uint64_t most = default_items;

	if (items.n > 0 && !slice_u64(items, UINT32_MAX, &most)) {
		control_fail(r, 2, "--maxitems takes a whole number");
		return true;
	}
	if (mode.n > 0 && !slice_is(mode, "normal") && !slice_is(mode, "backoff")) {
		control_fail(r, 2, "--mode is normal or backoff");
		return true;
	}
	if (sort.n == 0)
		sort = slice_str(default_sort);
	if (!slice_is(sort, "rcpt") && !slice_is(sort, "name") && !slice_is(sort, "size")) {
		control_fail(r, 2, "--sort is rcpt, name or size");
		return true;
	}
	c = mem_zalloc(sizeof *c);
	*c = (struct collected){ .r = r, .pattern = pattern, .most = most };
	c->order = slice_is(sort, "rcpt") ? by_rcpts : slice_is(sort, "size") ? by_size : by_name;
	c->paused = control_flag(r, "paused");
	c->connected = control_flag(r, "connected");
	c->errors = control_flag(r, "errors");
	c->backoff = slice_is(mode, "backoff");
	c->normal = slice_is(mode, "normal");
	r->state = c;
	/* A few queues are answered at once. */
	return show_some(r) || control_go_on(r, show_some);
}

bool
control_show_queues(struct request *r)
{
	return show_queues(r, "name", control_word(r, 0), 20);
}

bool
control_show_topqueues(struct request *r)
{
	return show_queues(r, "rcpt", control_word(r, 0), 20);
}

bool
control_show_queue(struct request *r)
{
	char room[NAME_BYTES_MAX + 1];
	struct core_now now = scheduler_now(r->s);
	struct slice name = control_word(r, 0);
	struct core_queue_view v;
	uint32_t queue = names_find(r->s->names, control_queue_name(r, name, room));
	struct core_totals t;

	if (name.n == 0) {
		control_fail(r, 2, "a queue is missing: D/V");
		return true;
	}
	if (queue == 0 || !core_queue_view(r->s->core, &now, queue, &v)) {
		control_fail(r, 1, "no such queue");
		return true;
	}
	core_totals(r->s->core, &t);
	json_key(&r->json, "queue");
	json_array_begin(&r->json);
	write_queue(&r->json, r->s, &v);
	json_array_end(&r->json);
	json_key_u64(&r->json, "totalRcp", t.queued_rcpts);
	json_key_u64(&r->json, "totalQueuesWithRcp", t.queues_with_mail);
	return true;
}

/* The instance --------------------------------------------------------------------------------- */
bool
control_show_status(struct request *r)
{
	struct scheduler *s = r->s;
	struct json *j = &r->json;
	uint64_t now = loop_wall_us(s->loop);
	struct core_totals t;
	struct segments_counts segments;
	uint64_t delivered, bounced;

	core_totals(s->core, &t);
	stats_outcomes(s, &delivered, &bounced);
	segments_counts(s->segments, &segments);
	json_key_str(j, "version", SLUICE_VERSION);
	json_key_u64(j, "pid", (uint64_t)getpid());
	json_key_time(j, "startTime", s->started_wall_us);
	json_key_u64(j, "uptimeSeconds", (now - s->started_wall_us) / 1000000u);
	json_key_bool(j, "draining", s->draining);
	json_key_u64(j, "configurationGeneration", proc_heritage(s->proc)->conf_generation);
	json_key_u64(j, "queues", t.queues_with_mail);
	json_key_u64(j, "totalRcp", t.queued_rcpts);
	json_key_u64(j, "totalKb", t.queued_kbytes);
	json_key_u64(j, "connections", t.connections);
	json_key(j, "traffic");
	json_object_begin(j);
	json_key_u64(j, "receivedMsg", s->totals.received);
	json_key_u64(j, "receivedRcp", s->totals.received_rcpt);
	json_key_u64(j, "attempted", t.attempted);
	json_key_u64(j, "delivered", delivered);
	json_key_u64(j, "transient", t.transient);
	json_key_u64(j, "bounced", bounced);
	json_key_u64(j, "expired", s->totals.expired);
	json_key_u64(j, "deleted", s->totals.deleted);
	json_key_u64(j, "maybeDup", s->totals.maybe_dup);
	json_key_u64(j, "connectAttempts", t.connect_attempts);
	json_key_u64(j, "connectFailed", t.connect_failed);
	json_object_end(j);
	json_key(j, "spool");
	json_object_begin(j);
	json_key_str(j, "dir", s->spool.path);
	json_key_u64(j, "mapPercent", store_fill_percent(s->store));
	json_key_u64(j, "segments", segments.files);
	json_key_u64(j, "segmentsFree", segments.unused);
	json_key_u64(j, "quarantinedRcp", quarantine_counts(s).rcpts);
	json_object_end(j);
	json_key_u64(j, "workers", s->n_workers);
	json_key_u64(j, "receivers", s->n_receivers);
	return true;
}

bool
control_show_sources(struct request *r)
{
	struct core_now now = scheduler_now(r->s);
	const struct conf_source_ip *ips;
	const struct conf_vmta *vmtas;
	size_t n = conf_vmtas(r->s->conf, &vmtas);
	struct json *j = &r->json;

	(void)conf_source_ips(r->s->conf, &ips);
	json_key(j, "source");
	json_array_begin(j);
	for (size_t v = 0; v < n; v++) {
		for (unsigned i = 0; i < vmtas[v].n_sources; i++) {
			const struct conf_vmta_source *src = &vmtas[v].sources[i];
			struct core_source_view view;

			core_source_view(r->s->core, &now, src->source_ip, &view);
			json_object_begin(j);
			/* Without smtp-source-hosts the kernel chooses. */
			json_key_str(j, "ip",
				     src->source_ip == 0 ? "any" : ips[src->source_ip].text);
			json_key_str(j, "name", src->helo);
			json_key_str(j, "vmta", vmtas[v].name);
			json_key(j, "worker");
			json_i64(j, view.worker);
			json_key_u64(j, "weight", src->weight);
			json_key_u64(j, "conn", view.connections);
			json_key_u64(j, "attempted", view.attempted);
			json_key_u64(j, "delivered", view.delivered);
			json_key_u64(j, "msgRate", view.msg_rate);
			json_key_u64(j, "connectRate", view.connect_rate);
			write_source_backoff(j, r->s, ips[src->source_ip].text);
			json_object_end(j);
		}
	}
	json_array_end(j);
	return true;
}

bool
control_show_workers(struct request *r)
{
	struct core_now now = scheduler_now(r->s);
	const struct conf_source_ip *ips;
	size_t n_ips = conf_source_ips(r->s->conf, &ips);
	struct json *j = &r->json;

	json_key(j, "worker");
	json_array_begin(j);
	for (unsigned w = 0; w < r->s->n_workers; w++) {
		struct peer *p = &r->s->workers[w];

		json_object_begin(j);
		json_key_u64(j, "slot", w);
		json_key_u64(j, "pid", p->pid);
		json_key_u64(j, "generation", p->generation);
		json_key_str(j, "state",
			     p->channel == NULL ? "down"
			     : p->said_hello    ? "running"
						: "starting");
		json_key(j, "sources");
		json_array_begin(j);
		for (size_t i = 0; i < n_ips; i++) {
			struct core_source_view view;

			core_source_view(r->s->core, &now, (uint32_t)i, &view);
			if (view.worker == (int)w && ips[i].text[0] != '\0')
				json_string(j, slice_str(ips[i].text));
		}
		json_array_end(j);
		json_object_end(j);
	}
	json_array_end(j);
	return true;
}

bool
control_show_settings(struct request *r)
{
	char room[NAME_BYTES_MAX + 1];
	struct slice vmta = control_word(r, 0), name;
	struct slice domain = slice_cut(&vmta, '/');
	struct buf asked = { 0 };

	if (domain.n == 0) {
		control_fail(r, 2, "a queue is missing: D/V");
		return true;
	}
	if (vmta.n == 0)
		vmta = SLICE_LIT("{default}");
	if (!slice_is(vmta, "{default}") && conf_vmta_find(r->s->conf, vmta) < 0) {
		control_fail(r, 1, "no such virtual MTA");
		return true;
	}
	buf_put_slice(&asked, domain);
	buf_putc(&asked, '/');
	buf_put_slice(&asked, vmta);
	name = vmta = control_queue_name(r, buf_slice(&asked), room);
	domain = slice_cut(&vmta, '/');
	json_key(&r->json, "setting");
	conf_show_settings_over(r->s->conf, domain, vmta, overrides_of_queue(r->s->overrides, name),
				&r->json);
	buf_clear(&asked);
	return true;
}
