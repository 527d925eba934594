#include "common/proc/role.h"

const char *
role_name(enum role role)
{
	// clang-format off
	static const char *const names[] = {
		[ROLE_SCHEDULER] = "scheduler",
		[ROLE_RESOLVER] = "resolver",
		[ROLE_RECORDER] = "recorder",
		[ROLE_WORKER] = "worker",
		[ROLE_RECEIVER] = "receiver",
		[ROLE_MASTER] = "master",
	};
	// clang-format on

	return (unsigned)role <= ROLE_MASTER ? names[role] : "unknown";
}
