/* backoff_changes: when the mode of a queue was another one, by its own row and by those of its
 * wider scopes, which change without it. */
#include <string.h>

#include "scheduler/backoff_impl.h"
#include "scheduler/notify.h"
#include "scheduler/state.h"

enum { OWN, VMTA, PROVIDER, ROWS };

struct told {
	const struct backoff_row *row[ROWS];
	unsigned at[ROWS];
	bool on[ROWS];
};

/* The row whose next change is the oldest; ROWS: none is left. */
static unsigned
next_of(const struct told *t)
{
	unsigned best = ROWS;

	for (unsigned k = 0; k < ROWS; k++) {
		if (t->row[k] == NULL || t->at[k] == t->row[k]->n_changes)
			continue;
		if (best == ROWS || t->row[k]->changes[t->at[k]].wall_us <
					    t->row[best]->changes[t->at[best]].wall_us)
			best = k;
	}
	return best;
}

static bool
is_on(const struct told *t)
{
	return t->on[OWN] || t->on[VMTA] || t->on[PROVIDER];
}

static void
take(struct told *t, unsigned k, bool to_backoff)
{
	/* Out, and it was not in by itself: it was taken out of the others. */
	if (k == OWN && !to_backoff && !t->on[OWN])
		memset(t->on, 0, sizeof t->on);
	t->on[k] = to_backoff;
}

unsigned
backoff_changes(struct scheduler *s, uint32_t queue, struct backoff_change *out)
{
	struct told t = { .row = { backoff_own(s, queue) } };
	unsigned n = 0, k;

	if (!notify_is_queue(names_get(s->names, queue))) {
		t.row[VMTA] = backoff_scope_find(s, CONF_RULE_VMTA, queue, CORE_NONE);
		t.row[PROVIDER] = backoff_scope_find(s, CONF_RULE_PROVIDER, queue, CORE_NONE);
	}
	/* What came before the oldest that is known. */
	for (k = 0; k < ROWS; k++)
		t.on[k] = t.row[k] != NULL && t.row[k]->n_changes == BACKOFF_CHANGES &&
			  !t.row[k]->changes[0].to_backoff;
	while ((k = next_of(&t)) != ROWS) {
		const struct backoff_change *c = &t.row[k]->changes[t.at[k]++];
		bool was_on = is_on(&t);

		take(&t, k, c->to_backoff);
		if (is_on(&t) == was_on)
			continue;
		if (n == BACKOFF_CHANGES)
			memmove(out, out + 1, --n * sizeof *out);
		out[n++] = *c;
	}
	return n;
}
