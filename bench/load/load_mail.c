#include "bench/load/load_mail.h"

#include <stdio.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/base/check.h"
#include "common/base/mem.h"

#define LAP_LINES 8192
#define LINE_ROOM 100

static const char final_dot[] = ".\r\n";

/* The same lines twice over, so that a run of up to LAP_LINES from any line is one piece. */
struct load_pool {
	char *plain, *wire;
	size_t plain_at[2 * LAP_LINES + 1], wire_at[2 * LAP_LINES + 1];
};

static uint64_t
mix(uint64_t z)
{
	z += 0x9e3779b97f4a7c15u;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* A line without CRLF: 0 to 78 bytes; one in sixteen begins with a dot, some are a dot alone. */
static size_t
make_line(char line[LINE_ROOM], uint64_t random, bool eight_bit)
{
	size_t n = random % 20 == 0 ? (random >> 8) % 20 : 60 + (random >> 8) % 19;

	for (size_t i = 0; i < n; i++) {
		uint64_t r = mix(random + i);

		line[i] = r % 7 == 0 && i > 0 && i + 1 < n ? ' ' : (char)('!' + (r >> 8) % 94);
	}
	if ((random >> 32) % 16 == 0 && n > 0)
		line[0] = '.';
	if ((random >> 32) % 64 == 0)
		n = 1, line[0] = '.';
	if (eight_bit && (random >> 40) % 8 == 0 && n >= 4)
		memcpy(line + 1, "\xc3\xa9", 2);
	return n;
}

static size_t
put_line(char *to, size_t at, const char *line, size_t n, bool stuff)
{
	if (stuff && n > 0 && line[0] == '.')
		to[at++] = '.';
	memcpy(to + at, line, n);
	memcpy(to + at + n, "\r\n", 2);
	return at + n + 2;
}

struct load_pool *
load_pool_new(uint64_t seed, bool eight_bit)
{
	struct load_pool *p = mem_zalloc(sizeof *p);

	p->plain = mem_alloc(2 * LAP_LINES * LINE_ROOM);
	p->wire = mem_alloc(2 * LAP_LINES * LINE_ROOM);
	for (size_t i = 0; i < 2 * LAP_LINES; i++) {
		char line[LINE_ROOM];
		size_t n = make_line(line, mix(seed ^ mix(i % LAP_LINES)), eight_bit);

		p->plain_at[i + 1] = put_line(p->plain, p->plain_at[i], line, n, false);
		p->wire_at[i + 1] = put_line(p->wire, p->wire_at[i], line, n, true);
	}
	return p;
}

void
load_pool_free(struct load_pool **p)
{
	if (*p == NULL)
		return;
	mem_free((*p)->plain);
	mem_free((*p)->wire);
	mem_free(*p);
	*p = NULL;
}

static size_t
mail_size(const struct load_plan *plan, uint64_t random)
{
	unsigned r = (unsigned)(random % 100);

	if (plan->size_bytes != LOAD_SIZE_MIX)
		return plan->size_bytes;
	return r < 50 ? 2048 : r < 83 ? 8192 : r < 99 ? 20480 : 102400;
}

/* "%d" stands for the message's number. */
static void
put_job(struct buf *h, const char *job, uint64_t number)
{
	const char *mark = strstr(job, "%d");

	if (mark == NULL)
		buf_printf(h, "X-Job: %s\r\n", job);
	else
		buf_printf(h, "X-Job: %.*s%llu%s\r\n", (int)(mark - job), job, (unsigned long long)number, mark + 2);
}

static void
make_head(struct load_mail *m, const struct load_plan *plan, const char *date)
{
	struct buf *h = &m->head;

	buf_reset(h);
	if (plan->n_vmtas > 0)
		buf_printf(h, "X-Virtual-MTA: %s\r\n", plan->vmtas[m->number % plan->n_vmtas]);
	if (plan->job != NULL)
		put_job(h, plan->job, m->number);
	buf_printf(h, "Date: %s\r\nFrom: Load <%s>\r\nTo: ", date, plan->sender);
	load_rcpt_put(h, plan, m->number, 0);
	buf_printf(h,
		   "\r\nSubject: load %s\r\nMessage-ID: <%s@load.example>\r\nX-Load-Id: %s\r\n"
		   "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
		   "Content-Transfer-Encoding: %s\r\n\r\n",
		   m->id, m->id, m->id, plan->eight_bit ? "8bit" : "7bit");
}

/* The most whole lines from `first` that fit into `bytes`. */
static size_t
lines_within(const struct load_pool *p, size_t first, size_t bytes)
{
	size_t low = 0, high = LAP_LINES;

	while (low < high) {
		size_t mid = (low + high + 1) / 2;

		if (p->plain_at[first + mid] - p->plain_at[first] <= bytes)
			low = mid;
		else
			high = mid - 1;
	}
	return low;
}

void
load_mail_make(struct load_mail *m, const struct load_plan *plan, uint64_t number, const char *date)
{
	const struct load_pool *p = plan->pool;
	uint64_t random = mix(plan->seed ^ mix(number));
	size_t first = (random >> 32) % LAP_LINES, size = mail_size(plan, random);
	size_t from = p->plain_at[first], lap = p->plain_at[first + LAP_LINES] - from;
	size_t head_n, left, lines;
	XXH64_state_t state;

	m->number = number;
	snprintf(m->id, sizeof m->id, "%.20s-%llu", plan->tag, (unsigned long long)number);
	make_head(m, plan, date);
	head_n = m->head.len;
	buf_printf(&m->head, "message %s of %zu bytes\r\n", m->id, size);
	left = size > m->head.len ? size - m->head.len : 0;
	m->laps = left / lap;
	lines = lines_within(p, first, left % lap);
	m->bytes = m->head.len + m->laps * lap + p->plain_at[first + lines] - from;

	XXH64_reset(&state, 0);
	XXH64_update(&state, buf_slice(&m->head).p + head_n, m->head.len - head_n);
	for (size_t i = 0; i < m->laps; i++)
		XXH64_update(&state, p->plain + from, lap);
	XXH64_update(&state, p->plain + from, p->plain_at[first + lines] - from);
	m->hash = XXH64_digest(&state);

	m->lap = m->rest = p->wire + p->wire_at[first];
	m->lap_n = p->wire_at[first + LAP_LINES] - p->wire_at[first];
	m->rest_n = p->wire_at[first + lines] - p->wire_at[first];
	m->wire_bytes = m->head.len + m->laps * m->lap_n + m->rest_n + sizeof final_dot - 1;
}

void
load_mail_clear(struct load_mail *m)
{
	buf_clear(&m->head);
}

/* Adds what of `s` lies behind *skip; takes its length off *skip. */
static int
add_piece(struct iovec *iov, int n, int max, struct slice s, size_t *skip)
{
	if (*skip >= s.n) {
		*skip -= s.n;
		return n;
	}
	if (n < max)
		iov[n++] = (struct iovec){ (void *)(uintptr_t)(s.p + *skip), s.n - *skip };
	*skip = 0;
	return n;
}

int
load_mail_pieces(const struct load_mail *m, size_t offset, struct iovec *iov, int max)
{
	int n = add_piece(iov, 0, max, buf_slice(&m->head), &offset);

	for (size_t i = 0; i < m->laps && n < max; i++)
		n = add_piece(iov, n, max, slice_of(m->lap, m->lap_n), &offset);
	n = add_piece(iov, n, max, slice_of(m->rest, m->rest_n), &offset);
	return add_piece(iov, n, max, slice_of(final_dot, sizeof final_dot - 1), &offset);
}

void
load_rcpt_put(struct buf *b, const struct load_plan *plan, uint64_t number, unsigned k)
{
	size_t domain = (number + (plan->spread ? k : 0)) % plan->n_domains;

	buf_printf(b, "u-%s-%llu", plan->tag, (unsigned long long)number);
	if (plan->rcpts > 1)
		buf_printf(b, ".%u", k);
	buf_putc(b, '@');
	buf_puts(b, plan->domains[domain]);
}
