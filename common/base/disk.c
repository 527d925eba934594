#include "common/base/disk.h"

#include <sys/statvfs.h>

#define SHARE 16
#define MIB   (1u << 20)

bool
disk_room(int fd, uint64_t *bytes, uint64_t *free_bytes)
{
	struct statvfs st;

	if (fstatvfs(fd, &st) != 0)
		return false;
	*bytes = (uint64_t)st.f_blocks * st.f_frsize;
	*free_bytes = (uint64_t)st.f_bavail * st.f_frsize;
	return true;
}

uint64_t
disk_file_share(uint64_t bytes, uint64_t most)
{
	/* What its own records take does not make a file system of 1 GiB a small one. */
	uint64_t share = (bytes + bytes / SHARE) / SHARE / MIB * MIB;

	if (bytes == 0 || share >= most)
		return most;
	return share > MIB ? share : MIB;
}

uint64_t
disk_file_bytes(int fd, uint64_t most)
{
	uint64_t bytes = 0, free_bytes;

	(void)disk_room(fd, &bytes, &free_bytes);
	return disk_file_share(bytes, most);
}
