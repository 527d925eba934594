#include "scheduler/rollups.h"

#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/proc/route.h"
#include "scheduler/state.h"

#define QUEUES_A_TURN 128
/* After a reload the answers that made the routes are not at hand: then new mail asks again after
 * so long. */
#define RELOAD_US 60000000u

struct rollups {
	struct forward {
		uint32_t to; /* 0: none */
		uint64_t until_boot_us;
	} * of; /* by queue number */
	size_t cap;
	uint32_t cursor; /* of the search after a reload */
	bool searching;
};

static struct rollups *
rollups_of(struct scheduler *s)
{
	if (s->rollups == NULL)
		s->rollups = mem_zalloc(sizeof *s->rollups);
	return s->rollups;
}

void
rollups_close(struct scheduler *s)
{
	if (s->rollups == NULL)
		return;
	mem_free(s->rollups->of);
	mem_free(s->rollups);
	s->rollups = NULL;
}

static void
put(struct rollups *r, uint32_t queue, uint32_t to, uint64_t until_boot_us)
{
	void *p = r->of;
	size_t before = r->cap;

	mem_grow(&p, &r->cap, (size_t)queue + 1, sizeof *r->of);
	r->of = p;
	if (r->cap > before)
		memset(r->of + before, 0, (r->cap - before) * sizeof *r->of);
	r->of[queue] = (struct forward){ to, until_boot_us };
}

bool
rollups_has(const struct scheduler *s, uint32_t queue)
{
	const struct rollups *r = s->rollups;

	return r != NULL && queue < r->cap && r->of[queue].to != 0 &&
	       r->of[queue].until_boot_us > loop_boot_us(s->loop);
}

uint32_t
rollups_queue(const struct scheduler *s, uint32_t queue)
{
	if (rollups_has(s, queue))
		queue = redirects_end(s, s->rollups->of[queue].to);
	return core_redirected(s->core, queue);
}

/* Which rollup queue -------------------------------------------------------------------------- */
struct question {
	struct scheduler *s;
	uint32_t what;         /* as of routes_ask_for() */
	const struct route *r; /* NULL: the hosts' names are all that is known */
	uint64_t until_boot_us;
	struct anchor_view anchor; /* the last one that was asked for */
	bool later;                /* it is known later; */
	bool undecided;            /* nobody can say now */
};

/* The addresses of the domain's hosts of the lowest preference; of the named ones, if there is a
 * queue that names them. False: they are not known whole, or too many. */
static bool
ips_of(const struct question *q, const char *queue, struct conf_rollup_ips *ips)
{
	bool fits = true;

	ips->n = 0;
	for (uint16_t i = 0; q->r != NULL && i < q->r->n_best; i++) {
		const struct route_target *t = &q->r->targets[i];

		if (queue == NULL || conf_rollup_names(q->s->conf, slice_str(queue),
						       slice_str(q->r->hosts[t->mx])))
			fits &= conf_rollup_ips_add(ips, &t->addr);
	}
	return fits && ips->n > 0;
}

/* Whether the domain has all addresses of these hosts. What is not known stops the search: else it
 * would depend on the hour which queue of the list is the first. */
static bool
reaches(void *arg, const char *hosts)
{
	struct question *q = arg;
	struct conf_rollup_ips own;

	if (q->later || q->undecided)
		return false;
	q->undecided = !ips_of(q, NULL, &own);
	if (q->undecided)
		return false;
	q->undecided = !anchors_get(q->s, hosts, q->what, &q->anchor, &q->later);
	if (q->later)
		return false;
	/* Whatever is decided holds no longer than what it was decided by. */
	if (q->until_boot_us > q->anchor.until_boot_us)
		q->until_boot_us = q->anchor.until_boot_us;
	return !q->undecided && q->anchor.ips.n > 0 &&
	       conf_rollup_ips_within(&q->anchor.ips, &own);
}

/* The domain of the rollup queue for these hosts in `name`; false: the queue is for itself. */
static bool
target(struct question *q, uint32_t queue, struct slice full, struct slice best,
       char name[SMTP_DOMAIN_MAX + 1])
{
	struct slice hosts[ROUTE_BEST_HOSTS], vmta = full, domain = slice_cut(&vmta, '/');
	struct conf_rollup_ips ips;
	struct conf_rolled to;

	/* Whoever says by hand where the mail goes means it. */
	if (dispatch_ops.settings(q->s, queue, full)->smtp_hosts != NULL)
		return false;
	if (!conf_rollup(q->s->conf, domain, vmta, hosts, route_best_hosts(best, hosts), reaches, q,
			 &to) ||
	    q->later || q->undecided)
		return false;
	str_copy(name, SMTP_DOMAIN_MAX + 1, slice_str(to.queue));
	if (!to.by_ip)
		return true;
	if (to.hosts != NULL)
		return conf_rollup_ips_name(&q->anchor.ips, slice_str(to.queue), name);
	q->undecided = !ips_of(q, to.queue, &ips);
	return !q->undecided && conf_rollup_ips_name(&ips, slice_str(to.queue), name);
}

static void
not_rolled_up(struct scheduler *s, uint32_t queue)
{
	if (s->rollups != NULL && queue < s->rollups->cap)
		s->rollups->of[queue].to = 0;
}

static bool
roll_up(struct scheduler *s, uint32_t queue, struct slice full, const char *domain,
	uint64_t until_boot_us)
{
	struct core_now now = scheduler_now(s);
	struct slice vmta = full;
	uint32_t to, fresh;

	slice_cut(&vmta, '/');
	to = scheduler_queue(s, slice_str(domain), vmta);
	fresh = redirects_make(s, queue, to);
	if (fresh == 0 && core_redirected(s->core, queue) == queue)
		return false;
	if (fresh == 0)
		fresh = queue; /* on its way already */
	put(rollups_of(s), fresh, to, until_boot_us);
	core_route_elsewhere(s->core, &now, fresh);
	return true;
}

/* True: it is another queue's, or that will be known soon. */
static bool
decide(struct question *q, struct slice best)
{
	struct scheduler *s = q->s;
	struct core_now now = scheduler_now(s);
	uint32_t queue = q->what & ~ROUTES_ROLLUP;
	char domain[SMTP_DOMAIN_MAX + 1];
	struct core_queue_view v;

	if (best.n == 0 || !core_queue_view(s->core, &now, queue, &v))
		return false;
	/* One that an operator has paused keeps its mail: there it would go out. */
	if (!v.paused && target(q, queue, v.name, best, domain))
		return roll_up(s, queue, v.name, domain, q->until_boot_us);
	not_rolled_up(s, queue);
	return q->later;
}

bool
rollups_route(struct scheduler *s, uint32_t what, const struct route *r, uint64_t *until_boot_us)
{
	struct question q = { .s = s, .what = what, .r = r, .until_boot_us = *until_boot_us };
	bool elsewhere;

	if (!conf_has_rollups(s->conf))
		return false;
	elsewhere = decide(&q, slice_of(r->best, strnlen(r->best, sizeof r->best)));
	*until_boot_us = q.until_boot_us;
	return elsewhere;
}

/* After a reload ------------------------------------------------------------------------------- */
void
rollups_reconfigured(struct scheduler *s)
{
	struct rollups *r = rollups_of(s);

	if (r->cap > 0)
		memset(r->of, 0, r->cap * sizeof *r->of);
	r->cursor = 0;
	r->searching = conf_has_rollups(s->conf);
}

static void
look_again(void *arg, uint32_t queue)
{
	struct scheduler *s = arg;
	struct core_now now = scheduler_now(s);
	struct core_queue_view v;

	struct question q = { .s = s, .what = queue, .until_boot_us = now.boot_us + RELOAD_US };

	if (!core_queue_view(s->core, &now, queue, &v) || v.entries == 0)
		return;
	(void)decide(&q, providers_hosts(s->providers, queue));
	if (q.undecided) /* it is the addresses that decide */
		routes_ask_for(s, ROUTES_ROLLUP | queue);
}

bool
rollups_turn(struct scheduler *s)
{
	struct rollups *r = s->rollups;

	if (r == NULL || !r->searching || committer_is_full(s->committer))
		return false;
	r->searching = core_each_queue(s->core, &r->cursor, QUEUES_A_TURN, look_again, s);
	return r->searching;
}
