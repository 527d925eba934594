/* kill_point: named places where a process of the torture build dies on request, by SIGKILL. In
 * every other build they are nothing at all. Who asks is tests/torture; the request lies in the
 * file that SLUICE_KILL_POINTS names. */
#pragma once

#ifdef KILL_POINTS
void kill_point(const char *name);
#define KILL_POINT(name) kill_point(name)
#else
#define KILL_POINT(name) ((void)0)
#endif
