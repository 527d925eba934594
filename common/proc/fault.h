/* fault: SIGBUS: a mapped file that ends early, or a disk that cannot be read under a map.
 *
 * Where foreign or old bytes are read through a map, the reading runs guarded and the fault becomes
 * an error of that one read. Anywhere else it ends the process, with a line that says where; the
 * master starts a new one. */
#pragma once

/* The handler; once in a process, before there are threads. */
void fault_init(void);

/* fn(arg), or -E_IO when a SIGBUS came out of it: fn was then left where it stood, so it holds no
 * lock and what it had allocated is lost. Not nested. Any thread. */
int fault_guarded(int (*fn)(void *arg), void *arg);
