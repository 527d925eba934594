#include "common/base/check.h"

#include <stdio.h>
#include <stdlib.h>

void
check_failed(const char *file, int line, const char *what)
{
	fprintf(stderr, "<2>bug: %s:%d: CHECK(%s)\n", file, line, what);
	abort();
}
