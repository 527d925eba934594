#include "receiver/envelope.h"

#include <stdlib.h>

#include "common/base/check.h"
#include "common/base/mem.h"

/* NEW may carry each address and its queue's name beside lengths: see message_build(). */
#define TEXT_MAX ((IPC_PAYLOAD_MAX - (256u << 10)) / 3)
#define KEPT_MAX (64u << 10)

void
envelope_clear(struct envelope *e)
{
	buf_clear(&e->text);
	mem_free(e->rcpts);
	memset(e, 0, sizeof *e);
}

void
envelope_reset(struct envelope *e)
{
	if (e->text.cap > KEPT_MAX) {
		envelope_clear(e);
		return;
	}
	buf_reset(&e->text);
	e->n = 0;
	e->sender_n = e->sender_domain = 0;
}

void
envelope_begin(struct envelope *e, const struct address *sender)
{
	envelope_reset(e);
	address_put(&e->text, sender);
	e->sender_n = e->text.len;
	e->sender_domain = e->sender_n - sender->domain.n;
}

bool
envelope_add(struct envelope *e, const struct address *rcpt)
{
	struct envelope_rcpt *r;
	void *p = e->rcpts;

	if (e->text.len + 64 * e->n > TEXT_MAX)
		return false;
	mem_grow(&p, &e->cap, e->n + 1, sizeof *e->rcpts);
	e->rcpts = p;
	r = &e->rcpts[e->n++];
	r->at = (uint32_t)e->text.len;
	address_put(&e->text, rcpt);
	r->n = (uint16_t)(e->text.len - r->at);
	r->domain = (uint16_t)(r->n - rcpt->domain.n);
	return true;
}

struct slice
envelope_sender(const struct envelope *e)
{
	return slice_of(buf_slice(&e->text).p, e->sender_n);
}

struct slice
envelope_sender_domain(const struct envelope *e)
{
	return slice_sub(envelope_sender(e), e->sender_domain);
}

/* qsort() has no argument: the text that the offsets mean. */
static const char *sort_text;

static struct slice
domain_of(const struct envelope_rcpt *r)
{
	return slice_of(sort_text + r->at + r->domain, (size_t)r->n - r->domain);
}

/* The domain of its queue. */
static struct slice
queue_of(const struct envelope_rcpt *r)
{
	return r->queue_to != NULL ? slice_str(r->queue_to) : domain_of(r);
}

static int
compare(const void *a, const void *b)
{
	const struct envelope_rcpt *x = a;
	const struct envelope_rcpt *y = b;
	int c = slice_cmp(queue_of(x), queue_of(y));

	/* As given within a queue: `at` only grows. */
	return c != 0 ? c : (x->at > y->at) - (x->at < y->at);
}

/* In the order of their queues. */
static void
sort(struct envelope *e, const struct conf *conf, struct slice vmta)
{
	bool any = false;

	for (size_t i = 0; i < e->n; i++)
		e->rcpts[i].queue_to = NULL;
	if (e->n > 1)
		qsort(e->rcpts, e->n, sizeof *e->rcpts, compare);
	for (size_t i = 0; i < e->n; i++) {
		struct envelope_rcpt *r = &e->rcpts[i];

		if (i > 0 && slice_eq(domain_of(r), domain_of(r - 1)))
			r->queue_to = r[-1].queue_to;
		else
			r->queue_to = conf_queue_to(conf, domain_of(r), vmta);
		any |= r->queue_to != NULL;
	}
	if (any && e->n > 1)
		qsort(e->rcpts, e->n, sizeof *e->rcpts, compare);
}

void
envelope_group(struct envelope *e, const struct conf *conf, struct slice vmta, struct envelope_grouped *out)
{
	static struct slice *rcpts;
	static struct record_entry *entries;
	static size_t rcpts_cap, entries_cap;
	void *p;

	CHECK(e->n > 0 && e->n <= SMTP_RCPT_MAX);
	p = rcpts;
	mem_grow(&p, &rcpts_cap, e->n, sizeof *rcpts);
	rcpts = p;
	p = entries;
	mem_grow(&p, &entries_cap, e->n, sizeof *entries);
	entries = p;

	sort_text = buf_slice(&e->text).p;
	sort(e, conf, vmta);
	memset(out, 0, sizeof *out);
	for (size_t i = 0; i < e->n; i++) {
		struct slice domain = queue_of(&e->rcpts[i]);
		struct record_entry *last = &entries[out->n_entries > 0 ? out->n_entries - 1 : 0];

		rcpts[i] = slice_of(sort_text + e->rcpts[i].at, e->rcpts[i].n);
		if (out->n_entries == 0 || last->count == ENTRY_RCPT_MAX ||
		    !slice_eq(last->domain, domain)) {
			last = &entries[out->n_entries++];
			*last = (struct record_entry){ .domain = domain, .first = (uint32_t)i };
		}
		last->count++;
	}
	out->rcpts = rcpts;
	out->n_rcpts = (uint32_t)e->n;
	out->entries = entries;
}
