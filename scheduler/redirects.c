#include "scheduler/redirects.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/kill_point.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "scheduler/state.h"

/* So few entries have their rows rewritten in about one commit: no redirect is remembered, and no
 * number is used up. Should that commit not come, they are what they were, and whoever moved them
 * finds them there. */
#ifndef REDIRECT_FEW
#define REDIRECT_FEW 256
#endif

struct redirects {
	struct redirect {
		uint32_t to; /* 0: none */
		bool used;
	} * of; /* by number */
	size_t cap;
	uint32_t n;
};

static void
put(struct redirects *r, uint32_t from, uint32_t to)
{
	void *p = r->of;
	size_t before = r->cap;

	mem_grow(&p, &r->cap, (size_t)from + 1, sizeof *r->of);
	r->of = p;
	if (r->cap > before)
		memset(r->of + before, 0, (r->cap - before) * sizeof *r->of);
	r->n += r->of[from].to == 0;
	r->of[from] = (struct redirect){ .to = to };
}

static void
load(void *arg, uint32_t from, uint32_t to)
{
	struct scheduler *s = arg;

	if (from == 0 || to == 0)
		return;
	put(s->redirects, from, to);
	names_reserve(s->names, from);
	names_reserve(s->names, to);
}

int
redirects_load(struct scheduler *s)
{
	uint64_t bad = 0;
	int rc;

	s->redirects = mem_zalloc(sizeof *s->redirects);
	rc = store_load_redirects(s->store, load, s, &bad);
	/* Their rows' queues have lost their names: the records say where they belong. */
	if (bad > 0)
		log_error("store table=redirects damaged_rows=%llu", (unsigned long long)bad);
	return rc;
}

static uint32_t
next_of(const struct redirects *r, uint32_t queue)
{
	return r != NULL && queue < r->cap ? r->of[queue].to : 0;
}

uint32_t
redirects_end(const struct scheduler *s, uint32_t queue)
{
	const struct redirects *r = s->redirects;
	uint32_t next;

	/* There is no loop but in a damaged store. */
	for (uint32_t i = 0; (next = next_of(r, queue)) != 0 && i < r->n; i++)
		queue = next;
	return queue;
}

uint32_t
redirects_row(struct scheduler *s, uint32_t queue)
{
	struct redirects *r = s->redirects;
	uint32_t next;

	for (uint32_t i = 0; (next = next_of(r, queue)) != 0 && i < r->n; i++) {
		r->of[queue].used = true;
		queue = next;
	}
	return queue;
}

void
redirects_loaded(struct scheduler *s, bool some_unread)
{
	struct redirects *r = s->redirects;
	uint32_t n = 0;

	for (uint32_t i = 1; i < r->cap && !some_unread; i++) {
		if (r->of[i].to == 0 || r->of[i].used)
			continue;
		committer_del_redirect(s->committer, i);
		r->of[i].to = 0;
		n++;
	}
	r->n -= n;
	if (r->n + n > 0)
		log_info("redirects=%u unused=%u", r->n, n);
}

void
redirects_close(struct scheduler *s)
{
	if (s->redirects == NULL)
		return;
	mem_free(s->redirects->of);
	mem_free(s->redirects);
	s->redirects = NULL;
}

/* The queue keeps its name under a new number. */
static uint32_t
fresh_number(struct scheduler *s, uint32_t from)
{
	struct slice name = names_get(s->names, from);
	char *text = mem_memdup0(name.p, name.n);
	uint32_t fresh;

	names_unname(s->names, from);
	fresh = scheduler_name(s, slice_of(text, name.n));
	names_keep(s->names, fresh);
	mem_free(text);
	return fresh;
}

/* What else is kept by the queue's number. */
static void
renumber(struct scheduler *s, uint32_t from, uint32_t fresh)
{
	for (uint32_t i = 0; i < CORE_CONNECTIONS_MAX; i++) {
		if (s->conns[i].used && s->conns[i].queue == from)
			s->conns[i].queue = fresh;
	}
	settings_forget(s->settings, fresh);
	providers_renumber(s->providers, from, fresh);
	stats_renumber(s, from, fresh);
	backoff_has_number(s, from, fresh);
}

/* Its row says the old number. Should this not come to the disk it is moved, as all others are. */
static void
keep_entry(struct scheduler *s, uint32_t entry)
{
	struct core_entry_facts f;
	struct store_row row;

	if (entry == CORE_NONE)
		return;
	core_entry_get(s->core, entry, &f);
	row = settle_row(&f);
	committer_put_row(s->committer, COMMIT_SETTLE, f.key, &row);
}

static uint32_t
make(struct scheduler *s, uint32_t from, uint32_t to, uint32_t *kept)
{
	struct core_now now = scheduler_now(s);
	struct core_queue_view v;
	uint64_t began_us = clock_boot_us();
	uint32_t fresh = from;

	/* What is to bounce does so here. */
	if (!core_queue_view(s->core, &now, from, &v) || v.bouncing || core_redirected(s->core, from) != from ||
	    core_redirected(s->core, to) == from)
		return 0;
	/* A job or sender domain may be called as the queue is: then the number has to keep its
	 * name. */
	if (v.entries > REDIRECT_FEW && !names_is_held(s->names, from)) {
		/* In this order: the old number's name and state go with it. */
		put(s->redirects, from, to);
		committer_put_redirect(s->committer, from, to);
		KILL_POINT("redirect-begun");
		fresh = fresh_number(s, from);
	}
	if (kept != NULL)
		CHECK(core_redirect_but_one(s->core, &now, from, to, fresh, kept));
	else
		CHECK(core_redirect(s->core, &now, from, to, fresh));
	if (fresh != from) {
		renumber(s, from, fresh);
		if (kept != NULL)
			keep_entry(s, *kept);
		if (v.paused || v.retry_level > 0 || v.retry_at_wall_us > 0)
			settle_queue_row(s, fresh);
		log_info("queue=%.*s number=%u redirected_to=%u entries=%llu number=%u "
			 "took_us=%llu",
			 (int)names_get(s->names, fresh).n, names_get(s->names, fresh).p, from, to,
			 (unsigned long long)v.entries, fresh,
			 (unsigned long long)(clock_boot_us() - began_us));
		KILL_POINT("redirect-made");
	}
	scheduler_kick(s);
	return fresh;
}

uint32_t
redirects_make(struct scheduler *s, uint32_t from, uint32_t to)
{
	return make(s, from, to, NULL);
}

uint32_t
redirects_make_but_one(struct scheduler *s, uint32_t from, uint32_t to, uint32_t entry)
{
	return make(s, from, to, &entry);
}
