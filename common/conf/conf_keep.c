/* conf_keep: the settings that only a start can change. */
#include <stdio.h>

#include "common/base/check.h"
#include "common/conf/conf_impl.h"

/* A field of struct conf_global as text. */
static void
field_text(char *dst, size_t bytes, const struct conf_directive *d, const void *at)
{
	const char *text;

	switch (d->type) {
	case CONF_TYPE_BOOL:
		snprintf(dst, bytes, "%s", *(const bool *)at ? "true" : "false");
		return;
	case CONF_TYPE_COUNT:
	case CONF_TYPE_COUNT_U:
	case CONF_TYPE_INTERVAL:
	case CONF_TYPE_INTERVAL_N:
	case CONF_TYPE_SIZE:
	case CONF_TYPE_SIZE_U: /* in bytes and microseconds: shown only where they differ */
		snprintf(dst, bytes, "%llu",
			 d->size == sizeof(uint64_t) ? (unsigned long long)*(const uint64_t *)at
						     : (unsigned long long)*(const uint32_t *)at);
		return;
	default:
		CHECK(d->size == sizeof(char *));
		text = *(const char *const *)at;
		str_copy(dst, bytes, slice_str(text != NULL ? text : "(none)"));
	}
}

void
conf_keep(struct conf *c, const struct conf_global *running,
	  void (*told)(void *arg, const struct conf_kept *kept), void *arg)
{
	const struct conf_scope *scope = conf_schema_scope(CONF_SCOPE_GLOBAL);

	for (size_t i = 0; i < scope->n_rows; i++) {
		const struct conf_directive *d = &scope->rows[i];
		struct conf_kept kept = { .name = d->name };
		const struct conf_value *v;
		char *ours;
		const char *theirs;

		if (!d->restart)
			continue;
		ours = (char *)&c->global + d->offset;
		theirs = (const char *)running + d->offset;
		field_text(kept.running, sizeof kept.running, d, theirs);
		field_text(kept.configured, sizeof kept.configured, d, ours);
		memcpy(ours, theirs, d->size);
		v = conf_block_value(c->root, d);
		kept.file = v != NULL ? c->files[v->file] : NULL;
		kept.line = v != NULL ? v->line : 0;
		if (told != NULL && strcmp(kept.running, kept.configured) != 0)
			told(arg, &kept);
	}
}
