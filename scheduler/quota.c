#include "scheduler/quota.h"

#include <sys/statvfs.h>

bool
quota_is_reached(uint64_t disk_bytes, uint64_t free_bytes, unsigned map_percent)
{
	uint64_t reserve = disk_bytes / 100 * (100 - QUOTA_PERCENT);

	if (reserve > QUOTA_RESERVE_BYTES)
		reserve = QUOTA_RESERVE_BYTES;
	return free_bytes < reserve || map_percent >= QUOTA_PERCENT;
}

bool
quota_is_reached_at(int fd, unsigned map_percent)
{
	struct statvfs st;

	if (fstatvfs(fd, &st) != 0)
		return false;
	return quota_is_reached((uint64_t)st.f_blocks * st.f_frsize,
				(uint64_t)st.f_bavail * st.f_frsize, map_percent);
}
