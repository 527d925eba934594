#include "tests/lib/child.h"

#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

pid_t
child_fork(void)
{
	static const int crashes[] = { SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS };
	pid_t pid = fork();

	for (size_t i = 0; pid == 0 && i < sizeof crashes / sizeof *crashes; i++)
		signal(crashes[i], SIG_DFL);
	return pid;
}

bool
child_sleeps(pid_t pid)
{
	char path[64], text[256] = "", *state;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	f = fopen(path, "r");
	if (f == NULL)
		return true;
	state = fgets(text, sizeof text, f) != NULL ? strrchr(text, ')') : NULL;
	fclose(f);
	return state == NULL || (state[2] != 'R' && state[2] != 'D');
}
