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

uint32_t
rollups_queue(const struct scheduler *s, uint32_t queue)
{
	const struct rollups *r = s->rollups;

	if (r != NULL && queue < r->cap && r->of[queue].to != 0 &&
	    r->of[queue].until_boot_us > loop_boot_us(s->loop))
		queue = redirects_end(s, r->of[queue].to);
	return core_redirected(s->core, queue);
}

/* The domain of the rollup queue for these hosts, NULL: the queue is for itself. */
static const char *
target(struct scheduler *s, uint32_t queue, struct slice name, struct slice best)
{
	struct slice hosts[ROUTE_BEST_BYTES / 2], vmta = name, domain = slice_cut(&vmta, '/');
	size_t n = 0;

	/* Whoever says by hand where the mail goes means it. */
	if (dispatch_ops.settings(s, queue, name)->smtp_hosts != NULL || conf_is_rollup(domain))
		return NULL;
	while (best.p != NULL && best.n > 0 && n < sizeof hosts / sizeof *hosts) {
		hosts[n] = slice_cut(&best, ',');
		n += hosts[n].n > 0 && hosts[n].p[0] != '#';
	}
	return conf_rollup(s->conf, domain, vmta, hosts, n);
}

bool
rollups_route(struct scheduler *s, uint32_t queue, struct slice best, uint64_t until_boot_us)
{
	struct core_queue_view v;
	struct core_now now;
	struct slice vmta;
	const char *domain;
	uint32_t to, fresh;

	if (!conf_has_rollups(s->conf) || best.n == 0)
		return false;
	now = scheduler_now(s);
	if (!core_queue_view(s->core, &now, queue, &v))
		return false;
	domain = target(s, queue, v.name, best);
	/* One that an operator has paused keeps its mail: there it would go out. */
	if (domain == NULL || v.paused) {
		if (s->rollups != NULL && queue < s->rollups->cap)
			s->rollups->of[queue].to = 0;
		return false;
	}
	vmta = v.name;
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

	if (core_queue_view(s->core, &now, queue, &v) && v.entries > 0)
		(void)rollups_route(s, queue, providers_hosts(s->providers, queue),
				    now.boot_us + RELOAD_US);
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
