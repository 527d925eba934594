/* sim: a random world around the scheduler's core: workers that die, hosts that refuse, DNS that
 * fails, mail that comes, is paused, withdrawn and expires, clocks that jump. After every step
 * core_check() holds, and a model that reads only the stream of decisions holds these:
 *
 *   every recipient ends in exactly one of delivered, bounced, given up, withdrawn; no entry is
 * claimed twice; no window has more grants than its limit, no tenth of it more than its share; no
 * more connections than allowed; nothing goes to a dead worker; and when the faults end, everything
 * gets done: no queue is forgotten.
 *
 * sim [-s SEED] [-n EPISODES] [-l STEPS] [-p PLANTED] [-q]   One episode is one seed; a violation aborts and
 * names it. */
#include <time.h>
#include <unistd.h>

#include "scheduler/core/state.h"
#include "tests/sim/world.h"

/* Planted ------------------------------------------------------------------------------------ */
static const char *planted = "";

static bool
is_planted(const char *name)
{
	return strcmp(planted, name) == 0;
}

bool __real_backoff_names(const struct core *c, uint32_t qi, uint32_t source);
bool __wrap_backoff_names(const struct core *c, uint32_t qi, uint32_t source);
uint32_t __real_backoff_find(const struct core *c, uint32_t qi, uint32_t source);
uint32_t __wrap_backoff_find(const struct core *c, uint32_t qi, uint32_t source);
void __real_entries_transfer(struct core *c, uint32_t e, uint32_t qi);
void __wrap_entries_transfer(struct core *c, uint32_t e, uint32_t qi);
bool __real_redirect_step(struct core *c, uint32_t qi);
bool __wrap_redirect_step(struct core *c, uint32_t qi);
uint64_t __real_map_get(const struct map *m, uint64_t key);
uint64_t __wrap_map_get(const struct map *m, uint64_t key);
void __real_limits_queue_learned(struct core *c, uint32_t qi, const struct conf_rate *r);
void __wrap_limits_queue_learned(struct core *c, uint32_t qi, const struct conf_rate *r);

/* Any source IP is good in back-off. */
bool
__wrap_backoff_names(const struct core *c, uint32_t qi, uint32_t source)
{
	return is_planted("any-source") || __real_backoff_names(c, qi, source);
}

/* Back-off for a source IP holds nothing. */
uint32_t
__wrap_backoff_find(const struct core *c, uint32_t qi, uint32_t source)
{
	return is_planted("no-twins") && source != CORE_NONE ? CORE_NONE
							     : __real_backoff_find(c, qi, source);
}

/* Mail that is sent elsewhere comes to a queue nobody named. */
void
__wrap_entries_transfer(struct core *c, uint32_t e, uint32_t qi)
{
	uint32_t other = (qi + 1) % QUEUES;

	if (other == c->entries[e].queue)
		other = (other + 1) % QUEUES;
	__real_entries_transfer(c, e, is_planted("astray") ? other : qi);
}

/* Mail is to go elsewhere, and does not. */
bool
__wrap_redirect_step(struct core *c, uint32_t qi)
{
	return !is_planted("stuck") && __real_redirect_step(c, qi);
}

/* A queue's disabled source IPs are forgotten. */
uint64_t
__wrap_map_get(const struct map *m, uint64_t key)
{
	return is_planted("disabled-used") && w.core && m == &w.core->disabled ? MAP_NONE
									       : __real_map_get(m, key);
}

/* The rate returns at once. */
void
__wrap_limits_queue_learned(struct core *c, uint32_t qi, const struct conf_rate *r)
{
	const struct conf_rate none = { 0 };

	__real_limits_queue_learned(c, qi, is_planted("at-once") ? &none : r);
}

/* The world ---------------------------------------------------------------------------------- */
static void
random_rate(struct conf_rate *r)
{
	static const unsigned n[] = { 1, 3, 7, 20, 100, 200, 1000 };
	static const unsigned window[] = { 1, 2, 10, 60 };

	*r = (struct conf_rate){ 0, 0 };
	if (percent(60))
		*r = (struct conf_rate){ n[below(7)], window[below(4)] * SECOND };
}

/* Limits of a scope that several share: roomier, and often none. */
static void
random_limits(struct conf_limits *l)
{
	static const unsigned n[] = { 2, 9, 30, 150, 500 };
	static const unsigned window[] = { 1, 2, 10, 60 };

	memset(l, 0, sizeof(*l));
	if (percent(25))
		l->max_msg_rate = (struct conf_rate){ n[below(5)], window[below(4)] * SECOND };
	if (percent(25))
		l->max_connect_rate = (struct conf_rate){ n[below(5)], window[below(4)] * SECOND };
	if (percent(10))
		l->max_data_volume_rate = (struct conf_rate){ 1000 * 1024 * (1 + below(40)),
							      window[below(4)] * SECOND };
	if (percent(25))
		l->max_smtp_out = 1 + below(8);
}

static void
random_scopes(void)
{
	for (unsigned i = 0; i < SOURCES; i++) {
		random_limits(&w.sources[i].l);
	}
	for (unsigned i = 0; i < VMTAS; i++)
		random_limits(&w.vmtas[i].l);
	for (unsigned i = 0; i < PROVS; i++)
		random_limits(&w.provs[i].l);
	for (unsigned i = 0; i < TAGS; i++) {
		random_limits(&w.jobs[i].l);
		random_limits(&w.senders[i].l);
	}
	for (unsigned i = 0; i < HOSTS; i++) {
		w.ip[i].l.max_smtp_out = percent(30) ? 1 + below(4) : 0;
		for (unsigned s = 0; s < SOURCES; s++)
			w.mx[i][s].l.max_smtp_out = s             ? w.mx[i][0].l.max_smtp_out
						    : percent(30) ? 1 + below(4)
								  : 0;
	}
	for (unsigned q = 0; q < QUEUES; q++) {
		struct conf_queue *s = &w.queues[q].settings;

		s->source_limits = percent(40);
		for (unsigned i = 0; i < SOURCES && s->source_limits; i++) {
			random_limits(&w.queues[q].at_normal[i]);
			random_limits(&w.queues[q].at_backoff[i]);
		}
	}
}

static void
own_scopes(void)
{
	for (unsigned q = 0; q < QUEUES; q++) {
		take_mode(q);
		w.queues[q].provider = -1;
	}
}

static void
random_settings(struct conf_queue *s)
{
	static const unsigned rcpts[] = { 1, 2, 3, 1000 };

	memset(s, 0, sizeof(*s));
	s->max_smtp_out = percent(85) ? 1 + below(6) : 60; /* more than are decided at one go */
	random_rate(&s->max_msg_rate);
	random_rate(&s->max_connect_rate);
	if (percent(60)) {
		random_rate(&s->backoff.max_msg_rate);
		random_rate(&s->backoff.max_connect_rate);
		s->backoff.max_smtp_out = below(4);
		s->backoff_retry_after = (struct conf_intervals){ .n = 1, .us = { 20 * SECOND } };
	}
	s->max_msg_per_connection = percent(50) ? CONF_UNLIMITED : 1 + below(4);
	s->max_rcpt_per_transaction = rcpts[below(4)];
	s->mx_connection_attempts = 1 + below(percent(80) ? 10 : 60);
	s->retry_after.n = 1 + below(3);
	for (unsigned i = 0; i < s->retry_after.n; i++)
		s->retry_after.us[i] = (1 + below(30)) * SECOND;
	s->retry_recipients_after_us = (1 + below(20)) * SECOND;
	s->retry_after_dns_error_us = (1 + below(10)) * SECOND;
	s->bounce_after_us = percent(20) ? CONF_NEVER : (10 + below(300)) * SECOND;
	s->connection_idle_timeout_us = percent(50) ? 0 : (1 + below(10)) * SECOND;
	s->retry_upon_new_mail = percent(30);
	s->bounce_upon_5xx_greeting = percent(50);
	s->discard = percent(3);
}

/* Two configurations; the second calls source IPs 3 and 4 by each other's number and does
 * without 1. */
static const struct conf_vmta_source one[] = { { 0, "", 1 } },
				     two[] = { { 1, "a", 1 }, { 2, "b", 3 } },
				     three[] = { { 2, "b", 1 }, { 3, "c", 1 }, { 4, "d", 2 } },
				     four[] = { { 2, "b", 1 } };
static struct conf_vmta vmtas[2][VMTAS] = {
	{ { .name = "{default}", .n_sources = 1, .sources = one },
	  { .name = "m1", .n_sources = 2, .sources = two },
	  { .name = "m2", .n_sources = 3, .sources = three } },
	{ { .name = "{default}", .n_sources = 1, .sources = one },
	  { .name = "m2", .n_sources = 3, .sources = three },
	  { .name = "m1", .n_sources = 1, .sources = four } }
};
static const uint32_t renumbered[2][SOURCES] = { { 0, 1, 2, 4, 3 }, { 0, CORE_NONE, 2, 4, 3 } };

/* The configuration of now. */
static struct core_world
world_now(void)
{
	static const char *const texts[] = { "", "a", "b", "c", "d" };

	for (unsigned i = 0; i < VMTAS; i++) {
		vmtas[0][i].limits = w.vmtas[i].l;
		vmtas[1][(VMTAS - i) % VMTAS].limits = w.vmtas[i].l;
	}
	for (unsigned i = 0; i < SOURCES; i++)
		w.source_ips[i] = (struct conf_source_ip){
			.text = texts[physical(i)],
			.limits = w.sources[physical(i)].l,
		};
	return (struct core_world){ .workers = WORKERS,
				    .total_max_smtp_out = w.total_max,
				    .n_source_ips = SOURCES,
				    .n_vmtas = VMTAS,
				    .vmtas = vmtas[w.conf],
				    .source_ips = w.source_ips };
}

static void
make_core(uint64_t next_lease)
{
	w.room_to_move = UINT32_MAX;
	static const char *const names[] = { "{default}", "m1", "m2" };
	struct core_world cw = world_now();

	w.core = core_new_in(&ops, NULL, &cw, next_lease);
	w.wall_shift = (int64_t)(w.now.wall_us - w.now.boot_us);
	for (unsigned i = 0; i < QUEUES; i++) {
		char name[64];

		snprintf(name, sizeof(name), "d%u.example/%s", i, names[i % 3]);
		core_queue_add(w.core, i, slice_str(name));
	}
}

static void
begin(uint64_t seed)
{
	core_free(&w.core);
	for (unsigned i = 0; i < w.n_kept; i++)
		free(w.kept[i].memory);
	memset(&w, 0, sizeof(w));
	w.seed = seed;
	w.rng = seed * 0x9e3779b97f4a7c15ull + 88172645463325252ull;
	w.now = (struct core_now){ 1000 * SECOND + below(1000000), 1800000000 * SECOND };
	w.total_max = percent(50) ? 1 + below(8) : 1000;
	w.burst = percent(20) ? 40 : 1;
	for (unsigned i = 0; i < QUEUES; i++)
		random_settings(&w.queues[i].settings);
	if (percent(70))
		random_scopes();
	own_scopes();
	w.keeps = percent(50);
	make_core(1);
	for (unsigned i = 0; i < WORKERS; i++)
		w.room[i] = w.burst > 1 ? 40 : 4;
}

static void
pass_time(uint64_t us)
{
	w.now.boot_us += us;
	w.now.wall_us += us;
}

static void
add_entry(void)
{
	struct model_entry *e = NULL;

	for (unsigned i = 0, at = below(ENTRIES); i < ENTRIES && !e; i++) {
		if (!w.entries[(at + i) % ENTRIES].used)
			e = &w.entries[(at + i) % ENTRIES];
	}
	if (!e)
		return;
	memset(e, 0, sizeof(*e));
	e->used = true;
	e->held = percent(70);
	e->queue = w.burst > 1 && percent(80) ? 0 : below(QUEUES);
	e->n_rcpts = percent(70) ? 1 : 1 + below(8);
	e->received_s = (uint32_t)(w.now.boot_us / SECOND);
	e->row_received_s = (uint32_t)(w.now.wall_us / SECOND);
	e->due_s = percent(80) ? 0 : e->row_received_s + below(60);
	e->message = ++w.next_message;
	e->kbytes = below(1000);
	e->job = below(TAGS);
	e->sender = below(TAGS);

	uint8_t done = 0;
	struct core_entry_facts f = {
		.key = { e->message, 0 },
		.queue = e->queue,
		.segment = below(8),
		.offset16 = (uint32_t)rnd(),
		.epoch = 7,
		.received_s = e->row_received_s,
		.due_s = e->due_s,
		.first_rcpt = below(100),
		.n_rcpts = (uint16_t)e->n_rcpts,
		.kbytes = e->kbytes,
		.job = e->job + 1,
		.sender_domain = e->sender + 1,
		.committed = !e->held,
	};
	if (e->n_rcpts > 1 && percent(20)) {
		done = 1;
		e->fate[0] = DELIVERED;
		f.done = slice_of(&done, 1);
	}
	e->index = core_entry_add(w.core, &w.now, &f);
}

static void
finish_entry(struct model_entry *e)
{
	for (unsigned r = 0; r < e->n_rcpts; r++)
		HOLDS(e->fate[r] != ALIVE);
	core_entry_gone(w.core, &w.now, e->index);
	e->used = false;
	w.done++;
}

static void
end_claim(struct model_claim *k)
{
	struct model_entry *e = &w.entries[k->slot];

	k->used = false;
	e->claimed = false;
	unuse_count(&w.jobs[e->job]);
	unuse_count(&w.senders[e->sender]);
	w.room[k->worker]++;
	if (w.up[k->worker])
		core_worker_room(w.core, &w.now, k->worker);
}

/* The worker asks for some of its recipients. */
static void
ask_rcpts(struct model_claim *k)
{
	for (unsigned i = 0; i < 8; i++) {
		uint64_t stamp, deadline;

		if (!k->one_by_one || !(k->bits >> i & 1) || k->asked >> i & 1 || percent(20))
			continue;
		HOLDS(!core_rcpt_ask(w.core, &w.now, k->entry, k->lease + 100000, i, &stamp,
				     &deadline));
		if (!core_rcpt_ask(w.core, &w.now, k->entry, k->lease, i, &stamp, &deadline)) {
			k->refused |= (uint8_t)(1 << i);
			return;
		}
		HOLDS(stamp == w.now.boot_us && deadline > stamp);
		use_msg(&k->scopes, w.now.boot_us);
		w.queues[w.entries[k->slot].queue].attempted++;
		k->asked |= (uint8_t)(1 << i);
		k->stamps[i] = stamp;
		if (percent(10)) { /* each once */
			pass_time(below(1000));
			HOLDS(!core_rcpt_ask(w.core, &w.now, k->entry, k->lease, i, &stamp,
					     &deadline));
		}
	}
}

/* One recipient that was charged was not attempted after all. */
static void
give_back(struct model_claim *k, unsigned i)
{
	if (k->adopted)
		return;
	if (k->one_by_one && !(k->asked >> i & 1))
		return;
	unuse_msg(&k->scopes, k->one_by_one ? k->stamps[i] : k->stamp, 1);
	w.queues[w.entries[k->slot].queue].attempted--;
}

static void
return_claim(struct model_claim *k)
{
	for (unsigned r = 0; r < 8; r++) {
		if (k->bits >> r & 1)
			give_back(k, r);
	}
	if (!k->adopted)
		unuse_bytes(&k->scopes, k->stamp, k->bytes);
	HOLDS(!core_returned(w.core, &w.now, k->entry, k->lease + 100000));
	HOLDS(core_returned(w.core, &w.now, k->entry, k->lease));
	end_claim(k);
	HOLDS(!core_returned(w.core, &w.now, k->entry, k->lease));
}

static void
settle_claim(struct model_claim *k)
{
	struct model_entry *e = &w.entries[k->slot];
	struct core_rcpt_result rcpts[20];
	struct core_result r = { .entry = k->entry, .lease = k->lease, .rcpts = rcpts };
	struct core_decision d;
	bool lost = k->conn == CORE_NONE;
	unsigned alive = 0, delivered = 0;

	r.host_failed = !w.calm && percent(10);
	r.connection_gone = r.host_failed && percent(80);
	r.maybe_dup = percent(3);
	if (!w.calm && percent(10)) /* nonsense */
		rcpts[r.n_rcpts++] =
			(struct core_rcpt_result){ (uint16_t)below(70000), (uint8_t)below(256) };
	if (r.n_rcpts && rcpts[0].index < 8)
		r.n_rcpts = 0;
	for (unsigned i = 0; i < 8; i++) {
		unsigned x = w.calm ? 0 : below(100);
		uint8_t action = x < 60   ? EVENT_DELIVERED
				 : x < 70 ? EVENT_BOUNCED
				 : x < 90 ? EVENT_DEFERRED
					  : EVENT_UNATTEMPTED;

		if (!(k->bits >> i & 1))
			continue;
		if (k->one_by_one && !k->adopted && !(k->asked >> i & 1))
			action = EVENT_UNATTEMPTED;
		else if (lost)
			action = EVENT_DEFERRED;
		if (action == EVENT_UNATTEMPTED)
			give_back(k, i);
		delivered += action == EVENT_DELIVERED;
		if (action != EVENT_UNATTEMPTED || percent(50))
			rcpts[r.n_rcpts++] = (struct core_rcpt_result){ (uint16_t)i, action };
		if (action == EVENT_DELIVERED)
			e->fate[i] = DELIVERED;
		if (action == EVENT_BOUNCED)
			e->fate[i] = BOUNCED;
	}
	r.body_bytes = delivered ? 1 + rnd() % k->bytes : 0;
	if (!k->adopted && !r.maybe_dup)
		unuse_bytes(&k->scopes, k->stamp, k->bytes - r.body_bytes);
	HOLDS(core_settle(w.core, &w.now, &r, &d));
	for (unsigned i = 0; i < e->n_rcpts; i++) {
		alive += e->fate[i] == ALIVE;
		if (d.done.n)
			HOLDS((d.done.p[0] >> i & 1) == (e->fate[i] != ALIVE));
	}
	HOLDS(d.finished == (alive == 0));
	HOLDS(d.attempts >= e->attempts && d.attempts <= e->attempts + 1);
	HOLDS(!(e->row_flags & ~d.row_flags) && (!r.maybe_dup || d.row_flags == 1));
	e->attempts = d.attempts;
	e->row_flags = d.row_flags;
	e->due_s = d.due_s;
	if (r.connection_gone && !lost) {
		w.conns[k->conn].open = false;
		w.conns[k->conn].closing = true;
	}
	HOLDS(lost || !r.host_failed || w.conns[k->conn].closing);
	end_claim(k);
	HOLDS(!core_settle(w.core, &w.now, &r, &d));
	if (d.finished) {
		e->leaving = true;
		if (percent(70))
			finish_entry(e);
	}
}

static void
forget_conn(uint32_t number)
{
	struct model_conn *cn = &w.conns[number];

	for (unsigned i = 0; i < cn->scopes.n; i++)
		unuse_count(cn->scopes.of[i]);
	unuse_count(cn->mx);
	unuse_count(cn->ip);
	w.n_conns--;
	for (unsigned i = 0; i < CLAIMS; i++) {
		if (w.claims[i].conn == number)
			w.claims[i].conn = CORE_NONE;
	}
	memset(cn, 0, sizeof(*cn));
}

static void
step_conn(uint32_t number)
{
	struct model_conn *cn = &w.conns[number];

	if (cn->opening) {
		unsigned x = w.calm ? 0 : below(100), why;

		if (x < 70) {
			cn->opening = false;
			cn->open = true;
			cn->pipelining = percent(70);
			core_opened_as(w.core, &w.now, number, percent(80) ? 0 : 1 + below(3),
				       cn->pipelining);
			return;
		}
		why = below(6);
		if (why == CORE_FAIL_NOT_ATTEMPTED || why == CORE_FAIL_SOURCE ||
		    why == CORE_FAIL_DENIED || why == CORE_FAIL_NO_RESOURCES) {
			for (unsigned i = 0; i < cn->scopes.n; i++)
				stream_take(&cn->scopes.of[i]->connects, cn->stamp, 1);
			for (unsigned i = 0; i < cn->tags.n; i++)
				stream_take(&cn->tags.of[i]->connects, cn->stamp, 1);
		}
		forget_conn(number);
		core_open_failed(w.core, &w.now, number, (enum core_failure)why,
				 slice_str("refused"));
	} else if (cn->closing || (cn->open && !w.calm && percent(5))) {
		forget_conn(number);
		core_closed(w.core, &w.now, number, slice_str("gone"));
	}
}

static void
kill_worker(unsigned worker)
{
	if (!w.up[worker])
		return;
	w.up[worker] = false;
	for (uint32_t i = 0; i < 256; i++) {
		struct model_conn *cn = &w.conns[i];

		if ((cn->opening || cn->open || cn->closing) && cn->worker == worker)
			forget_conn(i);
	}
	core_worker_down(w.core, &w.now, worker);
}

static void
start_worker(unsigned worker)
{
	if (w.up[worker])
		return;
	w.up[worker] = true;
	core_worker_connections(w.core, &w.now, worker, below(3) ? 0 : 1 + below(6));
	core_worker_up(w.core, &w.now, worker);
}

static void
answer_limits(unsigned queue, uint16_t n)
{
	struct core_target_limits *l = w.queues[queue].hosts;

	for (unsigned i = 0; i < n; i++) {
		unsigned mx = (queue + i / 2) % HOSTS, ip = (queue + i) % HOSTS;

		l[i] = (struct core_target_limits){ mx + 1, ip + 1,
						    (uint32_t)w.mx[mx][0].l.max_smtp_out,
						    (uint32_t)w.ip[ip].l.max_smtp_out };
	}
}

static void
change_provider(unsigned queue)
{
	static const char *const names[PROVS] = { "p0", "p1", "p2" };
	struct model_queue *q = &w.queues[queue];
	int p = percent(60) ? q->provider : (int)below(PROVS + 1) - 1;

	if (q->provider >= 0 && p != q->provider) {
		const struct conf_limits *l = &w.provs[q->provider].l;
		uint64_t longest = l->max_msg_rate.window_us;

		if (l->max_connect_rate.window_us > longest)
			longest = l->max_connect_rate.window_us;
		if (l->max_data_volume_rate.window_us > longest)
			longest = l->max_data_volume_rate.window_us;
		q->provider_until[q->provider] = w.now.boot_us + longest;
	}
	q->provider = p;
	core_route_provider(w.core, &w.now, queue, p < 0 ? CORE_NONE : (uint32_t)p,
			    p < 0 ? SLICE_NONE : slice_str(names[p]));
}

static void
answer(unsigned queue)
{
	struct core_target t[8];
	uint16_t n = (uint16_t)(1 + below(6));
	unsigned status = CORE_ROUTE_GOOD;

	if (!w.queues[queue].asked)
		return;
	w.queues[queue].asked = false;
	if (!w.calm && percent(20))
		status = below(6);
	if (status == CORE_ROUTE_GOOD) {
		bool limits = percent(70);

		for (unsigned i = 0; i < n; i++)
			t[i] = (struct core_target){ percent(50) ? i + 1 : 0,
						     (uint16_t)(10 * (i / 2)), (uint16_t)(i / 2) };
		memset(w.queues[queue].hosts, 0, sizeof(w.queues[queue].hosts));
		if (limits || percent(30))
			core_route_targets(w.core, queue, t, n);
		if (limits) {
			answer_limits(queue, n);
			core_route_target_limits(w.core, queue, w.queues[queue].hosts, n);
		}
		change_provider(queue);
	}
	core_route(w.core, &w.now, queue, status, below(100), 1 + rnd() % 1000000, status ? 0 : n,
		   w.now.boot_us + below(60) * SECOND, "no such domain");
}

/* One queue's mail becomes another's; what comes meanwhile goes there too. */
static void
redirect(void)
{
	uint32_t from = below(QUEUES), to = below(QUEUES);
	bool busy = core_redirected(w.core, from) != from,
	     loop = core_redirected(w.core, to) == from;

	uint32_t kept = percent(50) ? below(ENTRIES) : CORE_NONE;

	if (busy && percent(30)) {
		bool over = core_redirect_over(w.core, &w.now, from);

		HOLDS(over == (core_redirected(w.core, from) == from));
		return;
	}
	if (percent(60)) {
		HOLDS(core_redirect(w.core, &w.now, from, to, from) == (!busy && !loop));
		return;
	}
	HOLDS(core_redirect_but_one(w.core, &w.now, from, to, from, &kept) == (!busy && !loop));
	if (!busy && !loop && kept != CORE_NONE) {
		struct core_entry_facts f;

		core_entry_get(w.core, kept, &f);
		HOLDS(f.queue == from && f.sent_by == from);
	}
}

static void
may_move(uint32_t room)
{
	w.room_to_move = room;
	core_move_room(w.core, &w.now, room);
}

/* The number of now of a source IP; CORE_NONE: it is not there. */
static uint32_t
number_of(unsigned source)
{
	return w.conf && source == 1 ? CORE_NONE : physical(source);
}

static void
random_backoff(struct core_backoff *how, struct conf_recover *r, uint32_t *sources)
{
	*how = (struct core_backoff){
		.source_ip = CORE_NONE,
		.until_wall_us = percent(70) ? w.now.wall_us + below(20000000) : 0,
		.after_delivery = percent(30),
		.probe_us = percent(20) ? (1 + below(20)) * SECOND : 0,
	};
	*r = (struct conf_recover){ .automatic = percent(40) };
	if (!r->automatic)
		*r = (struct conf_recover){ .every_us = (1 + below(5)) * SECOND,
					    .n = 2,
					    .percent = { (uint8_t)(1 + below(30)), 50 } };
	if (percent(50))
		how->recover = r;
	how->only_sources = percent(25);
	for (unsigned i = 0; i < SOURCES && how->only_sources; i++) {
		if (percent(50) && number_of(i) != CORE_NONE)
			sources[how->n_sources++] = number_of(i);
	}
	how->sources = sources;
}

/* Back-off begins anew, or for the first time. */
static void
enter(unsigned queue)
{
	struct model_queue *q = &w.queues[queue];
	uint32_t sources[SOURCES];
	struct core_backoff how;
	struct conf_recover r;
	struct model_backoff *b = &q->whole;
	unsigned source = CORE_NONE;

	random_backoff(&how, &r, sources);
	if (percent(40)) {
		source = below(SOURCES);
		b = &q->by_source[source];
		how.source_ip = number_of(source);
		if (how.source_ip == CORE_NONE)
			return;
		if (!b->on)
			q->held[source].msgs.n = q->held[source].connects.n = 0;
	}
	HOLDS(core_backoff_enter(w.core, &w.now, queue, &how) == (!b->on || b->over));
	q->entered = true;
	if (!b->on || b->over || b->probe_us == 0 || b->probe_at > w.now.boot_us + how.probe_us)
		b->probe_at = w.now.boot_us + how.probe_us;
	*b = (struct model_backoff){ .on = true,
				     .until = how.until_wall_us,
				     .after_delivery = how.after_delivery,
				     .automatic = how.recover && r.automatic,
				     .only = how.only_sources,
				     .probe_us = source == CORE_NONE ? how.probe_us : 0,
				     .probe_at = b->probe_at };
	if (how.recover)
		b->how = r;
	for (unsigned i = 0; i < how.n_sources; i++)
		b->sources |= 1u << physical(sources[i]);
	take_mode(queue);
}

/* What has gone by of a way back has, also when the clock is set back behind where that began. */
static void
set_clock(int64_t by_us)
{
	int64_t by;

	w.now.wall_us += (uint64_t)by_us;
	by = (int64_t)(w.now.wall_us - w.now.boot_us) - w.wall_shift;
	HOLDS(!core_backoff_leave(w.core, &w.now, CORE_NONE, CORE_NONE, false)); /* it looks at the clock */
	if (by <= (int64_t)SECOND && by >= -(int64_t)SECOND)
		return;
	w.wall_shift += by;
	for (unsigned i = 0; i < QUEUES; i++) {
		struct model_backoff *b = &w.queues[i].whole;

		if (b->on && b->over && b->ended > w.now.wall_us)
			b->ended += (uint64_t)by;
		take_mode(i);
	}
}

/* After a restart: as it was kept. */
static void
enter_again(unsigned queue, unsigned source, const struct core_backoff_view *was)
{
	struct model_queue *q = &w.queues[queue];
	struct model_backoff *b = source == CORE_NONE ? &q->whole : &q->by_source[source];
	uint32_t sources[SOURCES];
	struct core_backoff how = {
		.source_ip = source == CORE_NONE ? CORE_NONE : number_of(source),
		.since_wall_us = was->since_wall_us,
		.until_wall_us = was->until_wall_us,
		.after_delivery = was->after_delivery,
		.only_sources = b->only,
		.sources = sources,
		.recover = &b->how,
		.before_mps = was->before_mps,
		.rate_mps = was->rate_mps,
		.ended_wall_us = was->ended_wall_us,
		.probe_us = b->probe_us,
		.probe_next_wall_us = b->probe_us ? w.now.wall_us + 1 : 0,
	};

	b->probe_at = w.now.boot_us;
	if (b->ended > w.now.wall_us)
		b->ended = w.now.wall_us;
	for (unsigned i = 0; i < SOURCES && b->only; i++) {
		if (b->sources >> i & 1 && number_of(i) != CORE_NONE)
			sources[how.n_sources++] = number_of(i);
	}
	HOLDS(b->on && core_backoff_enter(w.core, &w.now, queue, &how));
}

static void
leave(unsigned queue, unsigned source, bool at_once)
{
	struct model_queue *q = &w.queues[queue];
	struct model_backoff *b = source == CORE_NONE ? &q->whole : &q->by_source[source];
	uint32_t number = source == CORE_NONE ? CORE_NONE : number_of(source);

	if (source != CORE_NONE && number == CORE_NONE)
		return;
	HOLDS(core_backoff_leave(w.core, &w.now, queue, number, at_once) == (b->on && !b->over));
	if (b->on && (!b->over || at_once))
		model_leave(queue, source, at_once);
}

/* A source IP is disabled for a queue, or for all, or not any more; a later word replaces it. */
static void
tell_disabled(unsigned queue, unsigned source)
{
	uint64_t until = queue == QUEUES ? w.disabled_until[source]
					 : w.queues[queue].disabled_until[source];

	if (number_of(source) != CORE_NONE)
		core_source_disable(w.core, &w.now, queue == QUEUES ? CORE_NONE : queue,
				    number_of(source), until != 0, until);
}

static void
disable(unsigned queue, unsigned source, bool on)
{
	uint64_t *until = queue == QUEUES ? &w.disabled_until[source]
					  : &w.queues[queue].disabled_until[source];

	*until = !on ? 0 : percent(20) ? UINT64_MAX : w.now.boot_us + 1 + below(20000000);
	tell_disabled(queue, source);
}

/* A new core, and one with another configuration, is told what is disabled. */
static void
tell_all_disabled(void)
{
	for (unsigned q = 0; q <= QUEUES; q++) {
		for (unsigned i = 0; i < SOURCES; i++)
			tell_disabled(q, i);
	}
}

/* As core_sources_all_disabled() should have it. */
static void
look_at_sources(unsigned queue)
{
	const struct core_world cw = world_now();
	const struct conf_vmta *v = NULL;
	static const char *const names[] = { "{default}", "m1", "m2" };
	bool all = true;

	for (size_t i = 0; i < cw.n_vmtas; i++) {
		if (strcmp(cw.vmtas[i].name, names[queue % VMTAS]) == 0)
			v = &cw.vmtas[i];
	}
	for (size_t i = 0; i < v->n_sources; i++) {
		unsigned source = physical(v->sources[i].source_ip);

		all = all && (w.disabled_until[source] > w.now.boot_us ||
			      w.queues[queue].disabled_until[source] > w.now.boot_us);
	}
	HOLDS(core_sources_all_disabled(w.core, &w.now, queue) == all);
}

static void
step_operator(void)
{
	unsigned q = below(QUEUES);
	struct model_entry *e = &w.entries[below(ENTRIES)];

	switch (below(13)) {
	case 12:
		disable(percent(15) ? QUEUES : q, below(SOURCES), percent(60));
		break;
	case 8:
	case 9:
		enter(q);
		break;
	case 10:
		leave(q, percent(60) ? CORE_NONE : below(SOURCES), percent(50));
		break;
	case 11:
		core_cap_connections(w.core, &w.now, q, below(4),
				     w.now.wall_us + below(10) * SECOND);
		if (percent(30))
			core_defer_queue(w.core, &w.now, q,
					 percent(50) ? 0 : w.now.wall_us + below(20) * SECOND);
		break;
	case 7:
		if (percent(30))
			redirect();
		break;
	case 6:
		may_move(percent(50) ? below(4) : 100);
		break;
	case 0:
	case 1:
		w.queues[q].paused = !w.queues[q].paused && percent(40);
		core_pause(w.core, &w.now, q, w.queues[q].paused);
		break;
	case 2:
		core_schedule(w.core, &w.now, q, percent(50));
		break;
	case 3:
		if (percent(5))
			core_settings_changed(w.core, &w.now);
		break;
	case 4:
		if (percent(5)) /* the wall clock is set */
			set_clock(((int64_t)below(7200) - 3600) * (int64_t)SECOND);
		break;
	default:
		if (!e->used || e->leaving)
			break;
		HOLDS(core_entry_withdraw(w.core, &w.now, e->index) == !e->claimed);
		if (e->claimed)
			break;
		for (unsigned r = 0; r < e->n_rcpts; r++)
			e->fate[r] = e->fate[r] == ALIVE ? WITHDRAWN : e->fate[r];
		e->leaving = true;
	}
}

/* What is held of a source IP that is gone is no matter of its limits any more. */
static bool
is_of_source(const struct model_limits *l, unsigned source)
{
	bool is = l == &w.sources[source];

	for (unsigned q = 0; q < QUEUES; q++)
		is = is || l == &w.queues[q].at[source] || l == &w.queues[q].held[source];
	for (unsigned i = 0; i < HOSTS; i++)
		is = is || l == &w.mx[i][source];
	return is;
}

static void
forget_scopes(struct model_scopes *s, unsigned source)
{
	static struct model_limits nobody;

	for (unsigned i = 0; i < s->n; i++) {
		if (is_of_source(s->of[i], source))
			s->of[i] = &nobody;
	}
}

static void
forget_limits(struct model_limits *l)
{
	l->msgs.n = l->connects.n = l->bytes.n = l->conns = 0;
}

static void
forget_source(unsigned source)
{
	for (uint32_t i = 0; i < 1024; i++) {
		forget_scopes(&w.conns[i].scopes, source);
		if (w.conns[i].mx && is_of_source(w.conns[i].mx, source))
			w.conns[i].mx = NULL;
	}
	for (unsigned k = 0; k < CLAIMS; k++)
		forget_scopes(&w.claims[k].scopes, source);
	forget_limits(&w.sources[source]);
	for (unsigned q = 0; q < QUEUES; q++) {
		forget_limits(&w.queues[q].at[source]);
		forget_limits(&w.queues[q].held[source]);
		w.queues[q].by_source[source].on = false;
		take_mode(q);
	}
	for (unsigned i = 0; i < HOSTS; i++)
		forget_limits(&w.mx[i][source]);
}

static void
reload(void)
{
	w.conf = !w.conf;
	struct core_world cw;

	if (w.conf)
		forget_source(1); /* it is another one */
	cw = world_now();
	core_reconfigure_in(w.core, &w.now, &cw, renumbered[w.conf]);
	tell_all_disabled();
	core_check(w.core);
}

/* The scheduler dies and comes back: rows, charges and claims are left. ---------------------- */
static void
load_entry(struct model_entry *e)
{
	uint8_t done = 0;
	uint32_t wall_s;
	struct core_entry_facts f = {
		.key = { e->message, 0 },
		.queue = e->queue,
		.epoch = 7,
		.received_s = e->row_received_s,
		.due_s = e->due_s,
		.n_rcpts = (uint16_t)e->n_rcpts,
		.attempts = e->attempts,
		.kbytes = e->kbytes,
		.job = e->job + 1,
		.sender_domain = e->sender + 1,
		.row_flags = e->row_flags,
		.done = slice_of(&done, 1),
		.committed = true,
	};

	for (unsigned r = 0; r < e->n_rcpts; r++)
		done |= (uint8_t)((e->fate[r] != ALIVE) << r);
	if (done == 0)
		f.done = SLICE_NONE;
	e->index = core_entry_add(w.core, &w.now, &f);
	/* Its age is what the wall clock of now says; what comes from the future is new. */
	wall_s = (uint32_t)(w.now.wall_us / SECOND);
	e->received_s = (uint32_t)(w.now.boot_us / SECOND);
	if (wall_s > e->row_received_s)
		e->received_s -= wall_s - e->row_received_s;
	e->held = false;
}

static void
adopt_claim(struct model_claim *k)
{
	struct model_entry *e = &w.entries[k->slot];

	k->entry = e->index;
	k->adopted = true;
	k->one_by_one = false;
	k->bits = 0;
	for (unsigned r = 0; r < e->n_rcpts; r++)
		k->bits |= (uint8_t)((e->fate[r] == ALIVE) << r);
	core_adopt(w.core, &w.now, e->index, k->lease, k->conn, k->worker,
		   k->conn == CORE_NONE ? below(SOURCES) : physical(w.conns[k->conn].source));
}

static void
adopt_conns(void)
{
	for (uint32_t i = 0; i < 1024; i++) {
		struct model_conn *cn = &w.conns[i];
		bool busy = false;

		for (unsigned k = 0; k < CLAIMS; k++)
			busy = busy || (w.claims[k].used && w.claims[k].conn == i);
		if ((!cn->opening && !cn->open && !cn->closing) || (busy && cn->open))
			continue;
		if (cn->open && percent(50))
			HOLDS(core_adopt_connection(w.core, &w.now, i, cn->queue, cn->worker,
						    physical(cn->source)));
		else
			forget_conn(i);
	}
}

static void
forget_streams(struct model_limits *l)
{
	l->msgs.n = l->connects.n = l->bytes.n = 0;
}

/* Without memory that outlives the core only what a queue used is known. */
static void
forget_uses(void)
{
	for (unsigned i = 0; i < SOURCES; i++)
		forget_streams(&w.sources[i]);
	for (unsigned i = 0; i < VMTAS; i++)
		forget_streams(&w.vmtas[i]);
	for (unsigned i = 0; i < PROVS; i++)
		forget_streams(&w.provs[i]);
	for (unsigned i = 0; i < TAGS; i++) {
		forget_streams(&w.jobs[i]);
		forget_streams(&w.senders[i]);
	}
	for (unsigned q = 0; q < QUEUES; q++) {
		w.queues[q].own.bytes.n = 0;
		for (unsigned i = 0; i < SOURCES; i++) {
			forget_streams(&w.queues[q].at[i]);
			forget_streams(&w.queues[q].held[i]);
		}
	}
}

/* A new core learns providers and hosts with the next route. */
static void
forget_providers(void)
{
	for (unsigned q = 0; q < QUEUES; q++) {
		w.queues[q].provider = -1;
		memset(w.queues[q].provider_until, 0, sizeof(w.queues[q].provider_until));
		memset(w.queues[q].hosts, 0, sizeof(w.queues[q].hosts));
	}
	for (uint32_t i = 0; i < 1024; i++) {
		struct model_conn *cn = &w.conns[i];

		if (!cn->opening && !cn->open && !cn->closing)
			continue;
		for (unsigned k = 0; k < cn->scopes.n; k++)
			unuse_count(cn->scopes.of[k]);
		unuse_count(cn->mx);
		unuse_count(cn->ip);
		cn->mx = cn->ip = NULL;
		cn->scopes = scopes_of(cn->queue, cn->source);
		for (unsigned k = 0; k < cn->scopes.n; k++)
			cn->scopes.of[k]->conns++;
	}
}

/* What the dead one had in memory is gone; the same in the model. */
static void
load(uint64_t next_lease)
{
	w.restarted = true;
	make_core(next_lease);
	for (unsigned i = 0; i < ENTRIES; i++) {
		struct model_entry *e = &w.entries[i];

		if (e->used && e->leaving)
			e->used = false; /* the outcome was in the event log */
		else if (e->used)
			load_entry(e);
	}
	forget_providers();
	if (!w.keeps)
		forget_uses();
	for (unsigned q = 0; q < QUEUES && !w.keeps; q++) {
		struct stream *m = &w.queues[q].own.msgs, *c = &w.queues[q].own.connects;

		for (unsigned i = 0; i < m->n; i++)
			core_charge(w.core, &w.now, q, m->stamp[i], 1, 0);
		for (unsigned i = 0; i < c->n; i++)
			core_charge(w.core, &w.now, q, c->stamp[i], 0, 1);
	}
	for (unsigned k = 0; k < CLAIMS; k++) {
		/* A connection that was being closed has lost its number. */
		if (w.claims[k].used && w.claims[k].conn != CORE_NONE &&
		    !w.conns[w.claims[k].conn].open)
			w.claims[k].conn = CORE_NONE;
		if (w.claims[k].used)
			adopt_claim(&w.claims[k]);
	}
	adopt_conns();
}

static void
restart(void)
{
	struct core_queue_view v[QUEUES];
	struct core_backoff_view modes[QUEUES][SOURCES + 1];
	bool in[QUEUES][SOURCES + 1];
	struct core_totals t;

	for (unsigned q = 0; q < QUEUES; q++) {
		for (unsigned i = 0; i <= SOURCES; i++)
			in[q][i] = core_backoff_view(w.core, q,
						     i == SOURCES ? CORE_NONE : number_of(i),
						     &modes[q][i]) &&
				   (i == SOURCES || number_of(i) != CORE_NONE);
		HOLDS(core_queue_view(w.core, &w.now, q, &v[q]));
		w.queues[q].asked = false;
	}
	core_totals(w.core, &t);
	core_free(&w.core);
	for (unsigned i = 0; i < w.n_kept; i++)
		w.kept[i].taken = false;
	load(t.next_lease);
	for (unsigned q = 0; q < QUEUES; q++)
		core_queue_restore(w.core, q, v[q].paused, v[q].retry_level, v[q].retry_at_wall_us,
				   SLICE_NONE);
	for (unsigned q = 0; q < QUEUES; q++) {
		for (unsigned i = 0; i <= SOURCES; i++) {
			if (in[q][i])
				enter_again(q, i == SOURCES ? CORE_NONE : i, &modes[q][i]);
		}
	}
	tell_all_disabled();
	for (unsigned i = 0; i < WORKERS; i++) {
		if (w.up[i])
			core_worker_up(w.core, &w.now, i);
	}
	core_check(w.core);
}

/* What was found out goes on: leaving entries go, held ones are committed. */
static void
step_entry(void)
{
	struct model_entry *e = &w.entries[below(ENTRIES)];

	if (!e->used)
		return;
	if (e->leaving && !e->claimed) {
		finish_entry(e);
	} else if (e->held) {
		e->held = false;
		if (percent(95) || w.calm) {
			core_entry_committed(w.core, &w.now, e->index);
		} else {
			core_entry_gone(w.core, &w.now, e->index);
			e->used = false;
		}
	}
}

static void
step_claim(void)
{
	struct model_claim *k = &w.claims[below(CLAIMS)];

	for (unsigned i = 0; i < CLAIMS && !k->used; i++)
		k = k + 1 < w.claims + CLAIMS ? k + 1 : w.claims;
	if (!k->used)
		return;
	if (!w.calm && percent(10))
		return_claim(k);
	else if (w.calm || percent(60))
		settle_claim(k);
	else
		ask_rcpts(k);
}

static const struct model_limits *
seen_of(const struct core_limit_view *v)
{
	switch (v->scope) {
	case CORE_SCOPE_QUEUE:
		return &w.queues[v->queue].own;
	case CORE_SCOPE_QUEUE_SOURCE:
		return &w.queues[v->queue].at[physical(v->source_ip)];
	case CORE_SCOPE_SOURCE:
		return &w.sources[physical(v->source_ip)];
	case CORE_SCOPE_JOB:
		return &w.jobs[v->number - 1];
	case CORE_SCOPE_SENDER:
		return &w.senders[v->number - 1];
	default:
		return NULL;
	}
}

/* Twins are charged above their N, and then remember less exactly: they may count what was given
 * back until it is over. */
static bool
has_twins(const struct core_limit_view *v)
{
	const struct model_queue *q = &w.queues[v->queue % QUEUES];

	return (v->scope == CORE_SCOPE_QUEUE || v->scope == CORE_SCOPE_QUEUE_SOURCE) &&
	       (q->entered || q->settings.backoff.max_msg_rate.n ||
		q->settings.backoff.max_connect_rate.n || q->settings.source_limits);
}

/* No limit counts what was given back: it is not above what was seen in its window and deadline. */
static void
look_at_limit(void *arg, const struct core_limit_view *v)
{
	const struct model_limits *l = seen_of(v);
	const struct stream *s;
	uint64_t from, seen = 0;

	(void)arg;
	if (!l || w.restarted || has_twins(v) ||
	    (v->measure != CORE_MEASURE_MSG && v->measure != CORE_MEASURE_CONNECT))
		return;
	s = v->measure == CORE_MEASURE_MSG ? &l->msgs : &l->connects;
	from = v->window_us + v->window_us / 50 + 20000;
	for (unsigned i = s->n; i-- > 0 && s->stamp[i] + from >= w.now.boot_us;)
		seen++;
	HOLDS(v->used <= seen);
}

/* What the core says of itself is what was seen. */
static void
look(void)
{
	unsigned i = below(QUEUES);
	struct core_queue_view v;

	HOLDS(core_queue_view(w.core, &w.now, i, &v));
	HOLDS(w.restarted || v.attempted == w.queues[i].attempted);
	HOLDS(v.connections == w.queues[i].own.conns);
	look_at_sources(i);
	HOLDS(v.paused == w.queues[i].paused);
	HOLDS(v.backoff == (w.queues[i].whole.on && !w.queues[i].whole.over));
	HOLDS(!v.backoff || !w.queues[i].whole.until ||
	      w.queues[i].whole.until + 1000000 > w.now.wall_us);
	if (percent(10)) {
		uint32_t cursor = 0;

		core_each_limit(w.core, &w.now, &cursor, 1000, look_at_limit, NULL);
	}
}

static void
step(void)
{
	unsigned x = below(100);

	w.steps++;
	if (x < 20)
		for (unsigned i = 1 + below(w.burst); i > 0; i--)
			add_entry();
	else if (x < 35)
		step_entry();
	else if (x < 55)
		step_claim();
	else if (x < 72)
		for (unsigned i = 0; i < 4; i++)
			step_conn(below(percent(50) ? 96 : 256));
	else if (x < 80)
		answer(below(QUEUES));
	else if (x < 92)
		pass_time(percent(80) ? below(100000) : below(5000000));
	else if (x < 97)
		step_operator();
	else if (percent(5))
		restart();
	else if (percent(10))
		reload();
	else if (percent(20))
		kill_worker(below(WORKERS));
	else
		start_worker(below(WORKERS));
	core_run(w.core, &w.now, percent(50) ? 0 : 1 + below(20));
	core_check(w.core);
	look();
}

/* The faults end: within bounded time all mail is out. */
static void
calm_down(void)
{
	w.calm = true;
	for (unsigned i = 0; i < WORKERS; i++)
		start_worker(i);
	for (unsigned i = 0; i < (QUEUES + 1) * SOURCES; i++)
		disable(i / SOURCES, i % SOURCES, false);
	for (unsigned i = 0; i < QUEUES; i++) {
		w.queues[i].paused = false;
		core_pause(w.core, &w.now, i, false);
		/* What has no source IP, or is told to be slow, would take for ever. */
		if (w.queues[i].whole.only || w.queues[i].whole.how.automatic)
			leave(i, CORE_NONE, true);
	}
	for (unsigned turn = 0; turn < 200000; turn++) {
		uint64_t next;
		unsigned left = 0;

		w.steps++;
		for (unsigned i = 0; i < ENTRIES; i++) {
			left += w.entries[i].used;
			if (w.entries[i].leaving && !w.entries[i].claimed && w.entries[i].used)
				finish_entry(&w.entries[i]);
			else if (w.entries[i].used && w.entries[i].held) {
				w.entries[i].held = false;
				core_entry_committed(w.core, &w.now, w.entries[i].index);
			}
		}
		if (left == 0)
			return;
		for (unsigned i = 0; i < CLAIMS; i++) {
			ask_rcpts(&w.claims[i]);
			if (w.claims[i].used)
				settle_claim(&w.claims[i]);
		}
		for (uint32_t i = 0; i < 256; i++)
			step_conn(i);
		for (unsigned i = 0; i < QUEUES; i++)
			answer(i);
		may_move(UINT32_MAX);
		next = core_run(w.core, &w.now, 0);
		core_check(w.core);
		if (next == UINT64_MAX)
			pass_time(1000);
		else if (next > w.now.boot_us)
			pass_time(next - w.now.boot_us < 5000 ? 5000
				  : percent(50)               ? 5000
							      : next - w.now.boot_us);
	}
	HOLDS(!"a queue is forgotten");
}

int
main(int argc, char **argv)
{
	uint64_t seed = 1, episodes = 100, steps = 0, grants = 0, opens = 0, done = 0;
	unsigned length = 3000;
	bool quiet = false;
	clock_t start = clock();
	double s;
	int opt;

	while ((opt = getopt(argc, argv, "s:n:l:p:q")) != -1) {
		if (opt == 's')
			seed = strtoull(optarg, NULL, 10);
		else if (opt == 'n')
			episodes = strtoull(optarg, NULL, 10);
		else if (opt == 'l')
			length = (unsigned)strtoul(optarg, NULL, 10);
		else if (opt == 'p')
			planted = optarg;
		else if (opt == 'q')
			quiet = true;
		else
			return 2;
	}
	for (uint64_t i = 0; i < episodes; i++) {
		begin(seed + i);
		while (w.steps < length)
			step();
		calm_down();
		steps += w.steps;
		grants += w.grants;
		opens += w.opens;
		done += w.done;
	}
	core_free(&w.core);
	s = (double)(clock() - start) / CLOCKS_PER_SEC;
	if (!quiet)
		printf("sim: seeds %llu..%llu, %llu steps (%.0f a second), %llu opens, %llu "
		       "grants, "
		       "%llu entries done, 0 violations\n",
		       (unsigned long long)seed, (unsigned long long)(seed + episodes - 1),
		       (unsigned long long)steps, (double)steps / (s > 0 ? s : 1),
		       (unsigned long long)opens, (unsigned long long)grants,
		       (unsigned long long)done);
	return 0;
}
