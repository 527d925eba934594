#include "bench/sink/sink_stats.h"

#include <stdio.h>

void
sink_stats_faults(struct sink_stats *to, const struct sink_faults *from)
{
#define X(name) to->faults.name += from->name;
	SINK_FAULTS(X)
#undef X
}

void
sink_stats_add(struct sink_stats *to, const struct sink_stats *from)
{
#define X(name) to->name += from->name;
	SINK_COUNTERS(X)
#undef X
	for (int s = 0; s < SINK_STAGE_COUNT; s++)
		for (int d = 0; d < 6; d++)
			to->replies[s][d] += from->replies[s][d];
	sink_stats_faults(to, &from->faults);
	if (from->first_mail_us != 0 &&
	    (to->first_mail_us == 0 || from->first_mail_us < to->first_mail_us))
		to->first_mail_us = from->first_mail_us;
	if (from->last_250_us > to->last_250_us)
		to->last_250_us = from->last_250_us;
}

void
sink_stats_json(struct json *j, const struct sink_stats *s)
{
#define X(name) json_key_u64(j, #name, s->name);
	SINK_COUNTERS(X)
#undef X
	for (int st = 0; st < SINK_STAGE_COUNT; st++) {
		for (int d = 4; d <= 5; d++) {
			char key[32];

			snprintf(key, sizeof key, "%s_%dxx", sink_stage_name((enum sink_stage)st),
				 d);
			json_key_u64(j, key, s->replies[st][d]);
		}
	}
#define X(name) json_key_u64(j, #name, s->faults.name);
	SINK_FAULTS(X)
#undef X
	json_key_u64(j, "first_mail_us", s->first_mail_us);
	json_key_u64(j, "last_250_us", s->last_250_us);
}
