/* background: becoming a daemon. The command that was typed stays until the daemon is ready and
 * exits with how it went. */
#pragma once

/* Forks twice; returns in the daemon alone. 0 or -E_* (still in the foreground). */
int background_enter(void);

/* In the daemon: the waiting command exits with `status` now; stdin, stdout and stderr lead nowhere
 * from here on. Nothing when not in the background, or when it was told before. */
void background_tell(int status);

/* In a process that is forked before that: it must not hold the command's output open, or whoever
 * reads it waits for the end of the daemon. */
void background_child(void);
