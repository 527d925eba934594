/* limits_none: STAND-INS, to link until scheduler/core/limits.c defines these; then this file goes.
 */
#include "scheduler/core/core.h"

void __attribute__((weak))
core_route_target_limits(struct core *c, uint32_t queue, const struct core_target_limits *limits,
			 uint16_t n)
{
	(void)c;
	(void)queue;
	(void)limits;
	(void)n;
}

void __attribute__((weak)) core_route_provider(struct core *c, const struct core_now *now,
					       uint32_t queue, uint32_t provider, struct slice name)
{
	(void)c;
	(void)now;
	(void)queue;
	(void)provider;
	(void)name;
}
