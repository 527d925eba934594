#include "tests/lib/child.h"

#include <signal.h>
#include <stddef.h>
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
