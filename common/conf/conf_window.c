/* conf_window: the longest window of all rates there are. */
#include "common/base/check.h"
#include "common/conf/conf_impl.h"
#include "common/conf/conf_type.h"
#include "common/conf/conf_value.h"

static uint64_t
longer(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t
window_of_list(const struct conf_value *v)
{
	uint64_t longest = 0;

	for (size_t i = 0; i < v->v.strings->n; i++) {
		struct slice what, value;
		struct conf_rate r;

		CHECK(conf_type_pair(slice_str(v->v.strings->s[i]), &what, &value));
		CHECK(v->d->type == CONF_TYPE_CIDR_RATE ? conf_value_rate(value, &r)
							: conf_value_volume(value, &r));
		longest = longer(longest, r.window_us);
	}
	return longest;
}

uint64_t
conf_window_of(const struct conf_value *v)
{
	switch (v->d->type) {
	case CONF_TYPE_RATE:
	case CONF_TYPE_VOLUME:
		return v->v.rate.window_us;
	case CONF_TYPE_CIDR_RATE:
	case CONF_TYPE_CIDR_VOLUME:
		return window_of_list(v);
	default:
		return 0;
	}
}

uint64_t
conf_window_longest(const struct conf_block *b)
{
	uint64_t longest = 0;

	for (const struct conf_value *v = b->values; v != NULL; v = v->next)
		longest = longer(longest, conf_window_of(v));
	for (const struct conf_block *k = b->children; k != NULL; k = k->next)
		longest = longer(longest, conf_window_longest(k));
	return longest;
}

uint64_t
conf_longest_window(const struct conf *c)
{
	return c->longest_window;
}
