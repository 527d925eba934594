#include "common/smtp/smtp_client_outcome.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"

void
smtp_client_outcomes_begin(struct smtp_client_outcomes *o, size_t n)
{
	void *p = o->rows;

	mem_grow(&p, &o->cap, n, sizeof *o->rows);
	o->rows = p;
	o->n = n;
	o->rule = 0;
	if (n > 0)
		memset(o->rows, 0, n * sizeof *o->rows);
	buf_reset(&o->texts);
}

void
smtp_client_outcomes_clear(struct smtp_client_outcomes *o)
{
	mem_free(o->rows);
	buf_clear(&o->texts);
	memset(o, 0, sizeof *o);
}

/* Where `text` stands among the kept texts: at their end, or again where it stood just before. */
static uint32_t
keep_text(struct smtp_client_outcomes *o, struct slice text)
{
	struct slice all = buf_slice(&o->texts);

	if (all.n >= text.n && slice_eq(slice_sub(all, all.n - text.n), text))
		return (uint32_t)(all.n - text.n);
	buf_put_slice(&o->texts, text);
	return (uint32_t)all.n;
}

static void
settle_at(struct smtp_client_outcome *row, struct verdict v, uint64_t rule, uint32_t at, size_t n)
{
	row->rule = rule;
	row->verdict = v;
	row->state = SMTP_CLIENT_OUTCOME_SETTLED;
	row->text_at = at;
	row->text_n = (uint16_t)n;
}

void
smtp_client_outcomes_settle(struct smtp_client_outcomes *o, size_t i, struct verdict v,
			    struct slice text)
{
	CHECK(i < o->n && text.n <= UINT16_MAX);
	settle_at(&o->rows[i], v, o->rule, keep_text(o, text), text.n);
}

size_t
smtp_client_outcomes_settle_all(struct smtp_client_outcomes *o,
				enum smtp_client_outcome_state state, struct verdict v,
				struct slice text)
{
	uint32_t at = keep_text(o, text);
	size_t n = 0;

	CHECK(text.n <= UINT16_MAX);
	for (size_t i = 0; i < o->n; i++) {
		if (o->rows[i].state != state)
			continue;
		settle_at(&o->rows[i], v, o->rule, at, text.n);
		n++;
	}
	return n;
}

struct slice
smtp_client_outcomes_text(const struct smtp_client_outcomes *o, size_t i)
{
	CHECK(i < o->n);
	return slice_sub(
		slice_of(buf_slice(&o->texts).p, o->rows[i].text_at + (size_t)o->rows[i].text_n),
		o->rows[i].text_at);
}
