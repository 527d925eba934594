/* stat_words: the fields of the stat tables as data, and the words that all three outputs use. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shm/stat.h"
#include "shm/stat_view.h"

/* A flag is a gauge of 0 and 1; a time is wall µs, 0 for none. */
enum stat_kind { STAT_KIND_counter, STAT_KIND_gauge, STAT_KIND_flag, STAT_KIND_time };

struct stat_field {
	const char *name;
	const char *help;
	size_t offset; /* of the u64 in its struct */
	enum stat_kind kind;
};

/* One kind of row: its fields and what it is called in metrics. */
struct stat_table {
	const struct stat_field *fields;
	size_t n;
};
extern const struct stat_table stat_table_queue, stat_table_source, stat_table_limit;
/* Of the block behind totals_offset of that writer's object. */
const struct stat_table *stat_table_of(enum stat_writer writer);
const char *stat_writer_name(enum stat_writer writer);

static inline uint64_t
stat_field_value(const struct stat_field *f, const void *row)
{
	return *(const uint64_t *)((const char *)row + f->offset);
}

const char *stat_state_name(uint32_t state);
/* Age of the heartbeat in ms; 0 when it lies ahead of now. */
uint64_t stat_heartbeat_ms(const struct stat_info *info, uint64_t boot_us);

/* ISO 8601 in UTC; unlike libc's it opens no zone file. */
#define STAT_TIME_BYTES 64
const char *stat_time(char dst[STAT_TIME_BYTES], uint64_t wall_us);
