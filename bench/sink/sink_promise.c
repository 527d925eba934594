#include "bench/sink/sink_promise.h"

void
sink_promise_clear(struct sink_promise *p)
{
	buf_clear(&p->envelope);
	buf_clear(&p->lines);
}

void
sink_promise_forget(struct sink_promise *p)
{
	p->n_rcpts = 0;
	buf_reset(&p->envelope);
}

void
sink_promise_sender(struct sink_promise *p, struct slice sender)
{
	sink_promise_forget(p);
	buf_put_slice(&p->envelope, sender);
	buf_putc(&p->envelope, '\0');
}

void
sink_promise_rcpt(struct sink_promise *p, struct slice rcpt)
{
	p->n_rcpts++;
	buf_put_slice(&p->envelope, rcpt);
	buf_putc(&p->envelope, '\0');
}

struct slice
sink_promise_first_rcpt(const struct sink_promise *p)
{
	struct slice rest = buf_slice(&p->envelope);

	if (p->n_rcpts == 0)
		return SLICE_NONE;
	slice_cut(&rest, '\0');
	return slice_cut(&rest, '\0');
}

void
sink_promise_make(struct sink_promise *p, const char *provider, const char *peer,
		  const struct sink_body *b)
{
	struct slice rest = buf_slice(&p->envelope), sender = slice_cut(&rest, '\0');
	struct buf *l = &p->lines;

	p->made = true;
	for (size_t i = 0; i < p->n_rcpts; i++) {
		buf_putc(l, ' ');
		buf_puts(l, provider);
		buf_putc(l, ' ');
		buf_puts(l, peer);
		buf_putc(l, ' ');
		sink_log_field(l, slice_str(sink_body_key(b)));
		buf_putc(l, ' ');
		sink_log_field(l, slice_cut(&rest, '\0'));
		buf_putc(l, ' ');
		sink_log_hex64(l, sink_body_hash(b));
		buf_putc(l, ' ');
		sink_log_u64(l, b->bytes);
		buf_putc(l, ' ');
		sink_log_field(l, sender);
		buf_putc(l, '\n');
	}
}

size_t
sink_promise_write(struct sink_promise *p, struct sink_log *log, const char *word, uint64_t now_us)
{
	struct slice rest = buf_slice(&p->lines);
	size_t n = 0;

	for (; rest.n > 0; n++) {
		struct slice line = slice_cut(&rest, '\n');

		buf_puts(&log->buf, word);
		sink_log_u64(&log->buf, now_us);
		buf_put_slice(&log->buf, line);
		buf_putc(&log->buf, '\n');
	}
	sink_log_added(log);
	buf_reset(&p->lines);
	p->made = false;
	return n;
}
