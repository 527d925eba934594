/* The server machine with any bytes: replies are well formed, and the pieces in which the bytes
 * come change nothing. */
#include <stdlib.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "common/smtp/smtp_server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct run {
	struct smtp_server s;
	struct buf in, out, kept; /* kept: addresses and bodies in the order of events */
	bool closed;
};

static void
keep(struct run *r, const struct address *a)
{
	CHECK(a->local.n <= SMTP_LOCAL_PART_MAX && a->domain.n <= SMTP_DOMAIN_MAX);
	CHECK(a->kind == ADDRESS_NULL || a->local.n > 0);
	address_put(&r->kept, a);
	buf_putc(&r->kept, '\n');
}

/* One event; false when there is nothing to do. */
static bool
step(struct run *r, struct slice *left)
{
	switch (smtp_server_next(&r->s, left, &r->out)) {
	case SMTP_SERVER_SENDER:
		keep(r, &r->s.mail.sender);
		CHECK(r->s.mail.size <= 1000);
		break;
	case SMTP_SERVER_RECIPIENT:
		keep(r, &r->s.recipient);
		break;
	case SMTP_SERVER_BODY:
		CHECK(r->s.run.n > 0);
		buf_put_slice(&r->kept, r->s.run);
		return true;
	case SMTP_SERVER_RESET:
		return true;
	case SMTP_SERVER_DATA:
		CHECK(r->s.n_rcpts > 0);
		break;
	case SMTP_SERVER_MESSAGE:
		CHECK(r->s.data.bytes <= 1000);
		break;
	case SMTP_SERVER_CLOSE:
		r->closed = true;
		return false;
	case SMTP_SERVER_MORE:
	case SMTP_SERVER_WAITING:
		return false;
	}
	smtp_server_answer(&r->s, &r->out, NULL);
	return true;
}

static void
run(struct run *r, const uint8_t *data, size_t size, size_t piece)
{
	memset(r, 0, sizeof *r);
	smtp_server_init(&r->s, "mta.example", 1000, 2);
	smtp_server_greet(&r->s, &r->out, NULL);
	for (size_t at = 0; at < size && !r->closed; at += piece) {
		size_t n = size - at < piece ? size - at : piece;
		struct slice left;
		char *exact;

		buf_put(&r->in, data + at, n);
		exact = memcpy(mem_alloc(r->in.len), r->in.data + r->in.start, r->in.len);
		left = slice_of(exact, r->in.len);
		while (step(r, &left))
			;
		buf_consume(&r->in, r->in.len - left.n);
		CHECK(r->closed || r->in.len <= SMTP_COMMAND_MAX);
		mem_free(exact);
	}
}

static void
check_replies(struct slice out)
{
	while (out.n > 0) {
		struct slice line = slice_cut(&out, '\n');

		CHECK(line.n >= 5 && line.n < 512 && line.p[line.n - 1] == '\r');
		CHECK(line.p[0] >= '2' && line.p[0] <= '5' &&
		      (line.p[3] == ' ' || line.p[3] == '-'));
		for (size_t i = 0; i + 1 < line.n; i++)
			CHECK(line.p[i] >= ' ' && line.p[i] <= '~'); /* nothing of the client's */
	}
}

static void
run_clear(struct run *r)
{
	buf_clear(&r->in);
	buf_clear(&r->out);
	buf_clear(&r->kept);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct run whole, pieces;

	if (size == 0 || size > 65536)
		return 0;
	run(&whole, data, size, size);
	run(&pieces, data, size, 1 + data[size - 1] % 13);
	check_replies(buf_slice(&whole.out));
	CHECK(slice_eq(buf_slice(&whole.out), buf_slice(&pieces.out)));
	/* Of refused bodies more or fewer runs may have come; without one all is equal. */
	if (memmem(whole.out.data, whole.out.len, "\r\n550 5.6", 9) == NULL &&
	    memmem(whole.out.data, whole.out.len, "\r\n552 5.3", 9) == NULL &&
	    whole.s.state != SMTP_SERVER_STATE_BODY)
		CHECK(slice_eq(buf_slice(&whole.kept), buf_slice(&pieces.kept)));
	run_clear(&whole);
	run_clear(&pieces);
	return 0;
}
