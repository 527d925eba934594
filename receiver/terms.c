#include "receiver/terms.h"

#include "common/base/mem.h"

struct terms *
terms_new(const struct conf *conf, unsigned slot)
{
	struct terms *t = mem_zalloc(sizeof *t);

	t->owners = 1;
	t->conf = conf_hold(conf);
	parcel_maker_init(&t->maker, t->conf, slot);
	return t;
}

struct terms *
terms_hold(struct terms *t)
{
	t->owners++;
	return t;
}

void
terms_put(struct terms **tp)
{
	struct terms *t = *tp;

	*tp = NULL;
	if (t == NULL || --t->owners > 0)
		return;
	parcel_maker_clear(&t->maker);
	conf_free(&t->conf);
	mem_free(t);
}
