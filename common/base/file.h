/* file: writing at an offset, and making files whole: a name is given only to what is on disk. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* pwrite() of all of it. 0 or -E_*. */
int file_write(int fd, const void *p, size_t n, uint64_t at);

/* How fast a file is filled: after each piece, which is synced, the disk is left alone `rest` times
 * as long as the piece took, unless (or until) somebody sets *hurry. */
struct file_pace {
	unsigned rest;
	const atomic_bool *hurry;
};
/* Writes zeros from `from` to `to`. Without a pace at once, and not synced. 0 or -E_*. */
int file_fill(int fd, uint64_t from, uint64_t to, const struct file_pace *pace);

/* Makes file `name` in `dir`: `write` puts the content into an empty file of another name; that is
 * synced, then named, and the name synced. A crash leaves all of it or NAME.new. 0 or -E_*. */
int file_make(int dir, const char *name, int (*write)(int fd, void *arg), void *arg);
