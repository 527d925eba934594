#include "shm/stat_words.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

// clang-format off
#define FIELD(strct, name, kind, help) { #name, help, offsetof(strct, name), STAT_KIND_##kind },

#define X(name, kind, help) FIELD(struct stat_totals, name, kind, help)
static const struct stat_field totals_fields[] = { STAT_TOTALS(X) };
#undef X
#define X(name, kind, help) FIELD(struct stat_worker, name, kind, help)
static const struct stat_field worker_fields[] = { STAT_WORKER_ROW(X) };
#undef X
#define X(name, kind, help) FIELD(struct stat_receiver, name, kind, help)
static const struct stat_field receiver_fields[] = { STAT_RECEIVER_ROW(X) };
#undef X
#define X(name, kind, help) FIELD(struct stat_resolver, name, kind, help)
static const struct stat_field resolver_fields[] = { STAT_RESOLVER_ROW(X) };
#undef X
#define X(name, kind, help) FIELD(struct stat_recorder, name, kind, help)
static const struct stat_field recorder_fields[] = { STAT_RECORDER_ROW(X) };
#undef X
#define X(name, kind, help) FIELD(struct stat_queue, name, kind, help)
static const struct stat_field queue_fields[] = {
	FIELD(struct stat_queue, paused, flag, "1 when an operator paused it")
	STAT_QUEUE(X)
};
#undef X
#define X(name, kind, help) FIELD(struct stat_source, name, kind, help)
static const struct stat_field source_fields[] = {
	FIELD(struct stat_source, used,        gauge, "charged in the present window of the limit")
	FIELD(struct stat_source, windowStart, time,  "when that window began")
	FIELD(struct stat_source, disabled,    flag,  "1 when it is disabled")
	STAT_SOURCE(X)
};
#undef X

#define X(name, kind, help) FIELD(struct stat_limit, name, kind, help)
static const struct stat_field limit_fields[] = { STAT_LIMIT(X) };
#undef X

#define TABLE(f) { f, sizeof f / sizeof f[0] }
const struct stat_table stat_table_queue = TABLE(queue_fields);
const struct stat_table stat_table_source = TABLE(source_fields);
const struct stat_table stat_table_limit = TABLE(limit_fields);

static const struct {
	const char *name;
	struct stat_table table;
} writers[] = {
	[STAT_SCHEDULER] = { "scheduler", TABLE(totals_fields) },
	[STAT_WORKER]    = { "worker",    TABLE(worker_fields) },
	[STAT_RECEIVER]  = { "receiver",  TABLE(receiver_fields) },
	[STAT_RESOLVER]  = { "resolver",  TABLE(resolver_fields) },
	[STAT_RECORDER]  = { "recorder",  TABLE(recorder_fields) },
};
// clang-format on

const struct stat_table *
stat_table_of(enum stat_writer writer)
{
	return &writers[writer].table;
}

const char *
stat_writer_name(enum stat_writer writer)
{
	return writers[writer].name;
}

const char *
stat_state_name(uint32_t state)
{
	static const char *const names[] = { "starting", "running", "draining", "gone" };

	return state < sizeof names / sizeof names[0] ? names[state] : "unknown";
}

uint64_t
stat_heartbeat_ms(const struct stat_info *info, uint64_t boot_us)
{
	return boot_us > info->heartbeat_boot_us ? (boot_us - info->heartbeat_boot_us) / 1000 : 0;
}

/* Days since 1970 to a date of the Gregorian calendar, in eras of 400 years from 0000-03-01. */
static void
civil(uint64_t days, uint64_t *year, unsigned *month, unsigned *day)
{
	uint64_t z = days + 719468, era = z / 146097, in_era = z % 146097;
	uint64_t y = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146096) / 365;
	uint64_t in_year = in_era - (365 * y + y / 4 - y / 100);
	uint64_t m = (5 * in_year + 2) / 153;

	*day = (unsigned)(in_year - (153 * m + 2) / 5 + 1);
	*month = (unsigned)(m < 10 ? m + 3 : m - 9);
	*year = y + era * 400 + (*month <= 2);
}

const char *
stat_time(char dst[STAT_TIME_BYTES], uint64_t wall_us)
{
	uint64_t s = wall_us / 1000000u, year;
	unsigned month, day, of_day = (unsigned)(s % 86400u);

	civil(s / 86400u, &year, &month, &day);
	snprintf(dst, STAT_TIME_BYTES, "%04" PRIu64 "-%02u-%02uT%02u:%02u:%02uZ", year, month, day,
		 of_day / 3600, of_day / 60 % 60, of_day % 60);
	return dst;
}
