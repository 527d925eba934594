#include "scheduler/quota.h"

#include "common/base/disk.h"
#include "common/base/limits.h"

static uint64_t
reserve_of(uint64_t disk_bytes, unsigned percent)
{
	uint64_t reserve = disk_bytes / 100 * (100 - percent);
	uint64_t most = QUOTA_RESERVE_BYTES / (100 - QUOTA_PERCENT) * (100 - percent);

	return reserve < most ? reserve : most;
}

enum quota
quota_check(const struct quota_facts *f, enum quota before)
{
	unsigned percent = before == QUOTA_FREE ? QUOTA_PERCENT : QUOTA_BACK_PERCENT;

	if (f->free_bytes < reserve_of(f->disk_bytes, percent))
		return QUOTA_DISK;
	if (f->map_percent >= percent)
		return QUOTA_MAP;
	return f->events_percent >= percent ? QUOTA_EVENTS : QUOTA_FREE;
}

const char *
quota_text(enum quota q)
{
	static const char *const texts[] = { "none", "disk", "map", "event-log" };

	return texts[q];
}

bool
quota_has_room(int fd, uint64_t more)
{
	uint64_t bytes, free_bytes;

	if (!disk_room(fd, &bytes, &free_bytes))
		return true;
	return free_bytes >= more && free_bytes - more >= reserve_of(bytes, QUOTA_PERCENT);
}

unsigned
quota_events_percent(struct event_position low, struct event_position end, uint64_t file_bytes, uint64_t disk_bytes)
{
	uint64_t files = disk_bytes / 4 / file_bytes;
	uint64_t used;

	if (end.file <= low.file)
		return 0; /* one file is always there */
	if (disk_bytes == 0 || files > EVENT_LOG_FILES_MAX)
		files = EVENT_LOG_FILES_MAX;
	if (files < 4)
		files = 4;
	used = (end.file - low.file) * file_bytes + end.offset;
	return used >= files * file_bytes ? 100 : (unsigned)(used * 100 / (files * file_bytes));
}
