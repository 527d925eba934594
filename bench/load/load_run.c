#include "bench/load/load_run.h"

#include <inttypes.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/mem.h"

#define TICK_US 100000u
#define END_US  2000000u /* for the answers to QUIT */

static bool
is_over(const struct load_run *r)
{
	return r->in_flight == 0 && (r->todo == 0 || r->stopping || r->alive == 0);
}

static void
finish(struct load_run *r)
{
	if (r->ended)
		return;
	r->ended = true;
	timer_set(&r->end, END_US);
	for (unsigned i = 0; i < r->opt.sessions; i++)
		load_session_quit(&r->sessions[i]);
}

/* Boot time at which the next message may begin. */
static uint64_t
next_due_us(const struct load_run *r)
{
	if (r->opt.rate <= 0)
		return 0;
	return r->start_us + (uint64_t)((double)r->begun * 1e6 / r->opt.rate);
}

static void
give(struct load_run *r, struct load_session *s)
{
	r->todo--;
	r->in_flight++;
	r->begun++;
	load_session_mail(s, r->next_number++);
}

/* Gives messages to idle sessions as far as the rate allows; else sets the timer. */
static void
serve(struct load_run *r)
{
	while (r->idle != NULL && r->todo > 0 && !r->stopping) {
		struct load_session *s = r->idle;
		uint64_t now = loop_boot_us(r->loop), due = next_due_us(r);

		if (due > now) {
			timer_set(&r->pace, due - now);
			return;
		}
		r->idle = s->next;
		s->next = NULL;
		give(r, s);
	}
}

static void
on_pace(void *arg)
{
	serve(arg);
}

void
load_run_idle(struct load_run *r, struct load_session *s)
{
	if (r->ended) {
		load_session_quit(s);
		return;
	}
	s->next = r->idle;
	r->idle = s;
	serve(r);
}

void
load_run_settled(struct load_run *r, struct load_session *s)
{
	(void)s;
	CHECK(r->in_flight > 0);
	r->in_flight--;
	if (is_over(r))
		finish(r);
}

void
load_run_returned(struct load_run *r, struct load_session *s)
{
	r->todo++;
	r->stats.returned++;
	load_run_settled(r, s);
	serve(r);
}

void
load_run_forget(struct load_run *r, struct load_session *s)
{
	struct load_session **at = &r->idle;

	while (*at != NULL && *at != s)
		at = &(*at)->next;
	if (*at == s)
		*at = s->next;
	s->next = NULL;
}

void
load_run_dead(struct load_run *r, struct load_session *s)
{
	load_run_forget(r, s);
	CHECK(r->alive > 0);
	r->alive--;
	if (is_over(r))
		finish(r);
	if (r->alive == 0)
		loop_stop(r->loop);
}

const char *
load_run_date(struct load_run *r)
{
	uint64_t now = loop_wall_us(r->loop);

	if (now / 1000000 != r->date_s) {
		r->date_s = now / 1000000;
		clock_rfc5322(r->date, now);
	}
	return r->date;
}

void
load_run_write(struct load_run *r, const struct load_session *s, unsigned k, bool unknown)
{
	struct buf rcpt = { 0 };

	if (r->ledger == NULL)
		return;
	load_rcpt_put(&rcpt, &r->plan, s->mail.number, k);
	fprintf(r->ledger, "%s%" PRIu64 " %s %.*s %016" PRIx64 " %zu\n", unknown ? "unknown " : "",
		clock_wall_us(), s->mail.id, (int)rcpt.len, buf_slice(&rcpt).p, s->mail.hash,
		s->mail.bytes);
	buf_clear(&rcpt);
}

static void
on_tick(void *arg)
{
	struct load_run *r = arg;
	uint64_t now = loop_boot_us(r->loop);
	uint64_t timeout_us = (uint64_t)(r->opt.timeout_s * 1e6);

	if (r->ledger != NULL)
		fflush(r->ledger);
	if (r->opt.duration_s > 0 && (double)(now - r->start_us) > r->opt.duration_s * 1e6)
		load_run_stop(r);
	for (unsigned i = 0; i < r->opt.sessions; i++) {
		struct load_session *s = &r->sessions[i];

		if (s->fd >= 0 && s->state != LOAD_IDLE && now > s->active_us + timeout_us)
			load_session_expire(s);
	}
	timer_set(&r->tick, TICK_US);
}

static void
on_end(void *arg)
{
	loop_stop(((struct load_run *)arg)->loop);
}

void
load_run_stop(struct load_run *r)
{
	r->stopping = true;
	if (is_over(r))
		finish(r);
}

bool
load_run(struct load_run *r)
{
	r->todo = r->opt.messages;
	r->start_us = clock_boot_us();
	r->alive = r->opt.sessions;
	timer_init(&r->pace, r->loop, on_pace, r);
	timer_init(&r->tick, r->loop, on_tick, r);
	timer_init(&r->end, r->loop, on_end, r);
	timer_set(&r->tick, TICK_US);
	for (unsigned i = 0; i < r->opt.sessions && !r->ended; i++)
		load_session_connect(&r->sessions[i]);
	if (r->alive > 0)
		loop_run(r->loop);
	for (unsigned i = 0; i < r->opt.sessions; i++)
		load_session_clear(&r->sessions[i]);
	timer_clear(&r->pace);
	timer_clear(&r->tick);
	timer_clear(&r->end);
	return r->todo == 0 || r->opt.messages == UINT64_MAX;
}
