/* backoff_recovery: how far the recovery of queues has come. The core knows it; here it is noted in
 * their rows, so that it goes on after a restart. Of queues in the back-off of a wider scope it
 * begins anew. */
#include "scheduler/backoff_impl.h"
#include "scheduler/state.h"

bool
backoff_note_recovery(struct scheduler *s, struct backoff_row *row)
{
	uint32_t queue =
		row->scope == CONF_RULE_QUEUE ? names_find(s->names, slice_str(row->name)) : 0;
	struct core_backoff_view v = { .source_ip = CORE_NONE };
	uint64_t before = row->before_mps, rate = row->rate_mps;
	bool was = row->recovering;

	if (queue == 0)
		return false;
	if (!core_backoff_view(s->core, queue, CORE_NONE, &v))
		v = (struct core_backoff_view){ .source_ip = CORE_NONE };
	row->recovering = !row->on && v.ended_wall_us != 0;
	row->before_mps = row->on || row->recovering ? v.before_mps : 0;
	row->rate_mps = row->on || row->recovering ? v.rate_mps : 0;
	return was != row->recovering || before != row->before_mps || rate != row->rate_mps;
}

void
backoff_resume_recovery(struct scheduler *s)
{
	struct core_now now = scheduler_now(s);
	struct backoff_row *row;

	for (size_t i = 0; (row = backoff_rows_at(backoff_table(s), i)) != NULL; i++) {
		struct backoff_room room = { 0 };
		struct core_backoff how;
		uint32_t queue;

		if (!row->recovering || row->on)
			continue;
		queue = names_find(s->names, slice_str(row->name));
		if (queue == 0 || backoff_of(s, queue) != NULL)
			continue;
		backoff_how(s, queue, row, &how, &room);
		how.ended_wall_us = row->since_wall_us;
		(void)core_backoff_enter(s->core, &now, queue, &how);
		backoff_room_clear(&room);
	}
}
