/* limits_none_seen: STAND-INS, to link until the core defines these; then this file goes. */
#include "scheduler/core/core.h"

bool __attribute__((weak))
core_each_limit(const struct core *c, const struct core_now *now, uint32_t *cursor, unsigned most,
		void (*fn)(void *arg, const struct core_limit_view *v), void *arg)
{
	(void)c;
	(void)now;
	(void)cursor;
	(void)most;
	(void)fn;
	(void)arg;
	return false;
}

bool __attribute__((weak)) core_blocking_limit(const struct core *c, const struct core_now *now,
					       uint32_t queue, struct core_limit_view *out)
{
	(void)c;
	(void)now;
	(void)queue;
	(void)out;
	return false;
}

void __attribute__((weak)) core_limits_changed(struct core *c, const struct core_now *now,
					       enum core_scope scope, uint32_t number)
{
	(void)scope;
	(void)number;
	core_settings_changed(c, now);
}

void __attribute__((weak))
core_source_disable(struct core *c, const struct core_now *now, uint32_t queue, uint32_t source_ip,
		    bool disabled, uint64_t until_boot_us)
{
	(void)c;
	(void)now;
	(void)queue;
	(void)source_ip;
	(void)disabled;
	(void)until_boot_us;
}
