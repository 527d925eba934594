/* spool: the directory that holds the queue: its layout, its lock, its identity.
 *
 *   SPOOL/format      "sluice spool 1\n" and the instance id in hex; written once, synced
 *   SPOOL/lock        fcntl-locked by the running instance; the master's pid as text
 *   SPOOL/lmdb/       the rows (store.h)
 *   SPOOL/segments/   records (segment.h)
 *   SPOOL/events/     the event log (event_log.h)
 *   SPOOL/claims/     one mapped claim table per worker (claims.h)
 *   SPOOL/cursors/    the recorder's positions
 *   SPOOL/charges     what was charged to limits (scheduler/charges.h) */
#pragma once

#include <stdint.h>

struct spool {
	int fd, segments_fd, events_fd, claims_fd, cursors_fd;
	int lock_fd; /* -1 unless this process or its parent took the lock */
	int lock_file_fd; /* the file `lock`, where lock_fd is the folder itself */
	unsigned char instance[16];
	char path[4096];
};

/* Makes what is missing (0750, owner as running; names synced), checks the format. Refuses (never
 * resets) a directory that holds files but no or another format: -E_FORMAT. 0 or -E_*, then with *why
 * set to a static text that follows the path: "it holds files but ...". */
int spool_open(struct spool *s, const char *path, const char **why);
/* The same, but nothing is made: -E_MISSING, -E_FORMAT. For those who look. */
int spool_look(struct spool *s, const char *path, const char **why);
/* Takes the lock: a lock of the spool's folder (flock; not all file systems have it) and a write lock of the
 * open file SPOOL/lock (F_OFD_SETLK), held as long as this process or a child forked afterwards keeps
 * lock_fd. The folder's holds also when the file is removed or replaced meanwhile. So a master started after a killed one waits (up to 4 s)
 * until the last of the old children has gone. -E_LOCKED at once while the old master itself lives.
 * Warns in the log on tmpfs, NFS, overlayfs, FUSE. */
int spool_lock(struct spool *s);
void spool_close(struct spool *s);
