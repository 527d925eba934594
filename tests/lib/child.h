/* child: fork() for unit tests. */
#pragma once

#include <sys/types.h>

/* As fork(). cmocka turns a crash into a failed test and goes on with the next one, by handlers that a child
 * inherits: a child that crashed would run the rest of the tests, and fork again. Here it dies of it. */
pid_t child_fork(void);
