#include "common/proc/fault.h"

#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/log.h"

static _Thread_local sigjmp_buf back;
static _Thread_local volatile sig_atomic_t guarded;

/* The process is lost; a second fault, inside of this, ends it too. */
static void
tell(const siginfo_t *si)
{
	log_error("signal=SIGBUS code=%s address=%p a mapped file ends early or cannot be read",
		  si->si_code == BUS_ADRERR   ? "no-such-page"
		  : si->si_code == BUS_OBJERR ? "read-error"
					      : "other",
		  si->si_addr);
}

static void
on_fault(int signal_number, siginfo_t *si, void *context)
{
	(void)context;
	if (guarded && si->si_code > 0)
		siglongjmp(back, 1);
	signal(signal_number, SIG_DFL);
	tell(si);
	raise(signal_number);
}

void
fault_init(void)
{
	/* Not blocked in the handler, so that leaving it by a jump has no mask to restore. */
	struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };

	sigemptyset(&sa.sa_mask);
	(void)sigaction(SIGBUS, &sa, NULL);
}

int
fault_guarded(int (*fn)(void *arg), void *arg)
{
	int rc;

	if (sigsetjmp(back, 0) != 0) {
		guarded = 0;
		return -E_IO;
	}
	guarded = 1;
	rc = fn(arg);
	guarded = 0;
	return rc;
}
