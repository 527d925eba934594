/* child: fork() for unit tests, and what became of it. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

/* As fork(). cmocka turns a crash into a failed test and goes on with the next one, by handlers that a child
 * inherits: a child that crashed would run the rest of the tests, and fork again. Here it dies of it. */
pid_t child_fork(void);

/* It waits for something, or is no more: what it had to do is done. On a busy machine that may take its time. */
bool child_sleeps(pid_t pid);
