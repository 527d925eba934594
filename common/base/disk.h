/* disk: what a file system has, and what of it one file of ours may take. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Bytes of the file system of `fd`, and those that are free to us. False: it cannot be asked. */
bool disk_room(int fd, uint64_t *bytes, uint64_t *free_bytes);
/* Size of a pre-written file there: `most`, but no more than a 16th of the file system; whole MiB, at least
 * one. */
uint64_t disk_file_bytes(int fd, uint64_t most);
/* The same of a file system of `bytes` (0: unknown). */
uint64_t disk_file_share(uint64_t bytes, uint64_t most);
