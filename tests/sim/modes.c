/* modes: back-off, seen from outside. Replies match rules by chance; and
 *
 *   - the core is in back-off exactly where the rows say so, but for the turn in which that changes
 *   - what an event said of a queue's mode is never forgotten: its row is as new, or newer
 *   - in back-off no mail stays in a queue whose mail goes elsewhere */
#include <stdio.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/conf/conf.h"
#include "common/ipc/reply_match.h"
#include "scheduler/backoff_impl.h"
#include "tests/sim/sim.h"

#define QUEUES 256 /* numbers that are watched */
#define NAMES  64
#define TURNS  200 /* something may be on its way for so long */

bool sim_flips;
struct sim_flip_counts sim_flip_counts;

static unsigned odd_mode[QUEUES], odd_mail[QUEUES];
/* What the last event said. */
static struct said {
	char name[100];
	bool on;
	uint64_t wall_us;
} said[NAMES];
static unsigned n_said;

void
modes_begin(void)
{
	n_said = 0;
	memset(odd_mode, 0, sizeof odd_mode);
	memset(odd_mail, 0, sizeof odd_mail);
}

bool
modes_match(struct message *m, struct buf *payload)
{
	const struct conf *conf = process_the_conf();
	const struct conf_rule *rules;
	size_t n = conf_rules(conf, &rules);
	struct reply_match told = { .n = 1 + sim_below(2),
				    .text = SLICE_LIT("421 4.7.0 too many messages") };

	if (n == 0 || sim_calm || !sim_flips)
		return false;
	for (unsigned i = 0; i < told.n; i++) {
		uint32_t rule = sim_below((unsigned)n);

		told.rules[i] = (struct reply_match_rule){ rule, rules[rule].key, sim_percent(80) };
	}
	m->kind = MESSAGE_REPLY_MATCH;
	m->u.reply_match.conf_generation = 1;
	m->u.reply_match.code = 421;
	m->u.reply_match.stage = CONF_STAGE_DOT;
	reply_match_encode(payload, &told);
	sim_flip_counts.matches++;
	return true;
}

/* Events --------------------------------------------------------------------------------------- */
void
modes_event(const struct event *e)
{
	char name[sizeof said[0].name];
	unsigned i = 0;

	if (e->kind != EVENT_MODE || e->queue.n == 0)
		return;
	snprintf(name, sizeof name, "%.*s/%.*s", (int)e->queue.n, e->queue.p, (int)e->vmta.n,
		 e->vmta.p);
	while (i < n_said && strcmp(said[i].name, name) != 0)
		i++;
	HOLDS(i < NAMES, "more than %d queues change their mode", NAMES);
	n_said += i == n_said;
	sim_flip_counts.flips += e->mode == 2;
	str_copy(said[i].name, sizeof said[i].name, slice_str(name));
	said[i].on = e->mode == 2;
	said[i].wall_us = e->wall_us;
}

void
modes_after_start(struct scheduler *s)
{
	for (unsigned i = 0; i < n_said; i++) {
		const struct backoff_row *row = backoff_rows_find(backoff_table(s), CONF_RULE_QUEUE,
								  slice_str(said[i].name));

		HOLDS(row != NULL &&
			      (row->on == said[i].on || row->since_wall_us > said[i].wall_us),
		      "queue %s is %s, an event of %llu says it is %s", said[i].name,
		      row == NULL ? "not known"
		      : row->on   ? "in back-off"
				  : "normal",
		      (unsigned long long)said[i].wall_us, said[i].on ? "in back-off" : "normal");
	}
}

/* Each turn ------------------------------------------------------------------------------------ */
static void
look_at(void *arg, uint32_t queue)
{
	struct scheduler *s = arg;
	struct core_now now = { sim_clock.boot_us, sim_clock.wall_us };
	struct core_queue_view v;
	bool is, stays;

	if (queue >= QUEUES || !core_queue_view(s->core, &now, queue, &v))
		return;
	is = backoff_of(s, queue) != NULL;
	odd_mode[queue] = v.backoff != is ? odd_mode[queue] + 1 : 0;
	HOLDS(odd_mode[queue] < TURNS, "queue %.*s is %s for the core, and %s by its row",
	      (int)v.name.n, v.name.p, v.backoff ? "in back-off" : "normal",
	      is ? "in back-off" : "normal");
	stays = is && v.entries > 0 && core_redirected(s->core, queue) == queue &&
		backoff_target(s, queue) != queue;
	odd_mail[queue] = stays ? odd_mail[queue] + 1 : 0;
	HOLDS(odd_mail[queue] < TURNS, "queue %.*s keeps %llu entries that are to go elsewhere",
	      (int)v.name.n, v.name.p, (unsigned long long)v.entries);
}

void
modes_look(struct scheduler *s)
{
	uint32_t cursor = 0;

	if (sim_flips && backoff_is_known(s))
		(void)core_each_queue(s->core, &cursor, QUEUES, look_at, s);
}
