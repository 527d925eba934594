#include "scheduler/reply_matches.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/base/log.h"
#include "common/ipc/reply_match.h"
#include "common/rules/rules_merge.h"
#include "common/rules/rules_wait.h"
#include "scheduler/backoff.h"
#include "scheduler/state.h"

#define MATCH_LINES 20 /* of the log, a second */

/* What fires ---------------------------------------------------------------------------------- */
static uint32_t
hash_of(struct slice reply)
{
	return (uint32_t)XXH3_64bits(reply.p, reply.n);
}

/* A reply whose outcome had no room for all of it is known by so much of it. */
#define FIRED_HEAD 64

static size_t
head_of(struct slice reply)
{
	return reply.n < FIRED_HEAD ? reply.n : FIRED_HEAD;
}

void
reply_matches_fired(struct scheduler *s, const struct backoff_match *m,
		    const struct rules_verdict *v)
{
	struct conn *c = &s->conns[m->connection];
	struct message close = { .kind = MESSAGE_CLOSE };
	bool refused = m->code >= 400;
	bool skip = refused && rules_verdict_has(v, CONF_ACTION_SKIP_MX);
	bool disable = refused && rules_verdict_has(v, CONF_ACTION_DISABLE_SOURCE_IP);
	/* A 421 may be what all have met whom the peer left: of which of them it said so, the worker
	 * alone knows, and has done it. */
	bool bounce =
		(rules_verdict_has(v, CONF_ACTION_BOUNCE_RCPT) && m->stage == CONF_STAGE_RCPT &&
		 m->code != 421) ||
		(refused && rules_verdict_has(v, CONF_ACTION_BOUNCE_QUEUE));

	if (m->entry != CORE_NONE && m->entry == c->entry && c->n_fired < CONN_FIRED_MOST) {
		unsigned what =
			(rules_verdict_stays(v) ? CONN_FIRED_STAY : 0) | (skip ? CONN_FIRED_SKIP : 0);

		if (bounce)
			what |= CONN_FIRED_BOUNCE;
		if (refused && rules_verdict_has(v, CONF_ACTION_BACKOFF))
			what |= CONN_FIRED_SLOW;
		c->fired[c->n_fired] =
			(struct fired){ .reply = hash_of(m->text),
					.head = hash_of(slice_of(m->text.p, head_of(m->text))),
					.bytes = (uint16_t)m->text.n,
					.what = (uint8_t)what };
		c->n_fired += what != 0;
	}
	if (c->used && (skip || disable || rules_verdict_has(v, CONF_ACTION_RECONNECT))) {
		close.u.conn.connection = m->connection;
		peer_send(&s->workers[c->worker], &close);
	}
}

/* The longest text of an outcome: only such a one may be cut. */
static size_t
longest_of(const struct results *r)
{
	size_t most = 0;

	for (size_t i = 0; i < r->n_rcpts; i++)
		most = r->rcpts[i].diag.n > most ? r->rcpts[i].diag.n : most;
	return most;
}

/* What fired by the reply that an outcome met. */
static unsigned
fired_by(const struct conn *c, struct slice diag, size_t longest)
{
	struct slice reply = slice_sub(diag, 5);

	if (!slice_starts_nocase(diag, "smtp;"))
		return 0;
	for (unsigned k = 0; k < c->n_fired; k++) {
		const struct fired *f = &c->fired[k];
		bool cut = diag.n == longest && reply.n >= FIRED_HEAD && reply.n < f->bytes;

		if (cut ? f->head == hash_of(slice_of(reply.p, FIRED_HEAD))
			: f->reply == hash_of(reply))
			return f->what;
	}
	return 0;
}

/* While the rate of the queue is learned, it finds what is allowed by being refused: such a reply
 * is no host that is down, even if it ends the last connection. */
static bool
is_learning(struct scheduler *s, uint32_t queue)
{
	struct core_backoff_view v;

	return core_backoff_view(s->core, queue, CORE_NONE, &v) && v.automatic &&
	       !settings_get(s->settings, queue, names_get(s->names, queue))
			->smtp_421_means_mx_unavailable;
}

void
reply_matches_rule_on(struct scheduler *s, const struct conn *c, struct results *r)
{
	struct result_rcpt *rows =
		(struct result_rcpt *)(uintptr_t)r->rcpts; /* ours, in the scratch buffer */
	size_t longest = longest_of(r);

	for (size_t i = 0; i < r->n_rcpts; i++) {
		unsigned fired = fired_by(c, rows[i].diag, longest);

		if (rows[i].action == EVENT_BOUNCED && (fired & CONN_FIRED_STAY))
			rows[i].action = EVENT_DEFERRED;
		else if (rows[i].action == EVENT_DEFERRED && rows[i].code >= 400 &&
			 rows[i].code < 500 &&
			 (fired & (CONN_FIRED_BOUNCE | CONN_FIRED_STAY)) == CONN_FIRED_BOUNCE)
			rows[i].action = EVENT_BOUNCED;
		if ((fired & (CONN_FIRED_SLOW | CONN_FIRED_SKIP)) == CONN_FIRED_SLOW &&
		    is_learning(s, c->queue))
			r->flags &= ~(uint32_t)RESULT_HOST;
		if ((fired & CONN_FIRED_SKIP) && (r->flags & RESULT_MAYBE_DUP) == 0)
			r->flags |= RESULT_HOST | RESULT_CONNECTION_GONE; /* CLOSE is on its way */
	}
}

/* What workers tell --------------------------------------------------------------------------- */
/* A rule that a worker names, as a number of our configuration; -1: it has none such (any more). */
static int
rule_of(const struct scheduler *s, uint64_t generation, const struct reply_match_rule *told)
{
	const struct conf_rule *rules;
	size_t n = conf_rules(s->conf, &rules);

	if (generation == proc_heritage(s->proc)->conf_generation && told->number < n &&
	    rules[told->number].key == told->key)
		return (int)told->number;
	return conf_rule_find(s->conf, told->key);
}

static bool
is_stage(unsigned stage)
{
	return stage == 0 || (stage <= CONF_STAGE_DOT && (stage & (stage - 1)) == 0);
}

bool
reply_matches_may_log(const struct scheduler *s)
{
	return s->match_log.second != loop_boot_us(s->loop) / 1000000 ||
	       s->match_log.lines <= MATCH_LINES;
}

static void
log_match(struct scheduler *s, const struct backoff_match *m)
{
	const struct conf_rule *rules;
	struct buf places = { 0 };
	uint64_t second = loop_boot_us(s->loop) / 1000000;
	struct slice name = names_get(s->names, m->queue);
	char esc[2 * REPLY_KEPT_MAX];

	if (s->match_log.second != second)
		s->match_log.second = second, s->match_log.lines = 0;
	if (s->match_log.lines++ >= MATCH_LINES)
		return;
	(void)conf_rules(s->conf, &rules);
	for (unsigned i = 0; i < m->n; i++)
		buf_printf(&places, "%s%s:%u%s%s", i > 0 ? "," : "", rules[m->rule[i]].file,
			   rules[m->rule[i]].line, m->fresh >> i & 1 ? "" : "(again)",
			   rules[m->rule[i]].dry_run ? "(dry-run)" : "");
	log_info("queue=%.*s reply=matched rules=%.*s text=\"%s\"", (int)name.n, name.p,
		 (int)places.len, places.data + places.start, str_escape(esc, sizeof esc, m->text));
	buf_clear(&places);
}

void
reply_matches_take(struct peer *p, struct conn *c, const struct message *m, struct slice payload)
{
	struct scheduler *s = p->s;
	struct reply_match told;
	struct backoff_match match = { .entry = CORE_NONE };
	char text[REPLY_KEPT_MAX];

	if (reply_match_decode(&told, payload) != 0 || !is_stage(m->u.reply_match.stage) ||
	    m->u.reply_match.code < 200 || m->u.reply_match.code > 599) {
		log_error("worker=%u match=malformed", p->slot);
		return;
	}
	if (c->n_matches >= RULE_HITS_MAX) {
		log_debug("worker=%u connection=%u match=too-many", p->slot,
			  m->u.reply_match.connection);
		return;
	}
	c->n_matches++;
	match.queue = c->queue;
	match.source_ip = c->source_ip;
	match.connection = m->u.reply_match.connection;
	if (c->lease == m->u.reply_match.lease)
		match.entry = c->entry;
	match.stage = m->u.reply_match.stage;
	match.code = m->u.reply_match.code;
	match.wait_us =
		m->u.reply_match.wait_us <= RULES_WAIT_MAX_US ? m->u.reply_match.wait_us : 0;
	for (unsigned i = 0; i < told.n; i++) {
		int number = rule_of(s, m->u.reply_match.conf_generation, &told.rules[i]);
		bool seen = number < 0;

		for (unsigned k = 0; k < match.n && !seen; k++)
			seen = match.rule[k] == (uint32_t)number;
		if (seen)
			continue;
		match.fresh |= (uint32_t)told.rules[i].fresh << match.n;
		match.rule[match.n++] = (uint32_t)number;
	}
	for (size_t i = 0; i < told.text.n; i++)
		text[i] = (unsigned char)told.text.p[i] < ' ' || told.text.p[i] == 127
				  ? '?'
				  : told.text.p[i];
	match.text = slice_of(text, told.text.n);
	if (match.fresh == 0)
		return;
	log_match(s, &match);
	backoff_matched(s, &match);
}
