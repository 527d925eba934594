/* check: our own bugs stop the process here, loudly; the supervisor restarts it. */
#pragma once

/* Prints `file:line: what` to stderr and aborts. */
_Noreturn void check_failed(const char *file, int line, const char *what);

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (__builtin_expect(!(cond), 0))                                                  \
			check_failed(__FILE__, __LINE__, #cond);                                   \
	} while (0)
