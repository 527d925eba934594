/* core_conf: a core for a configuration. */
#include "common/base/mem.h"
#include "common/conf/conf.h"
#include "scheduler/core/core.h"

static struct core_world
world_of(const struct conf *conf)
{
	const struct conf_source_ip *ips;
	struct core_world w = {
		.workers = conf_global(conf)->workers,
		.total_max_smtp_out = conf_global(conf)->total_max_smtp_out,
		.n_source_ips = conf_source_ips(conf, &ips),
	};

	w.source_ips = ips;
	w.n_vmtas = conf_vmtas(conf, &w.vmtas);
	return w;
}

struct core *
core_new(const struct core_ops *ops, void *ctx, const struct conf *conf, uint64_t next_lease)
{
	struct core_world w = world_of(conf);

	return core_new_in(ops, ctx, &w, next_lease);
}

uint32_t *
core_source_map(const struct conf *old, const struct conf *conf)
{
	const struct conf_source_ip *was, *is;
	size_t n_was = conf_source_ips(old, &was), n_is = conf_source_ips(conf, &is);
	uint32_t *map = mem_calloc(n_was, sizeof(*map));

	for (size_t i = 1; i < n_was; i++) {
		map[i] = CORE_NONE;
		for (uint32_t k = 1; k < n_is && map[i] == CORE_NONE; k++) {
			if (slice_eq(slice_str(was[i].text), slice_str(is[k].text)))
				map[i] = k;
		}
	}
	return map;
}

void
core_reconfigure(struct core *c, const struct core_now *now, const struct conf *old,
		 const struct conf *conf)
{
	uint32_t *map = core_source_map(old, conf);
	struct core_world w = world_of(conf);

	core_reconfigure_in(c, now, &w, map);
	mem_free(map);
}
