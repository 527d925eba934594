#include "common/ipc/results.h"

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/wire.h"
#include "common/queue/claims.h"

/* Encoded: u32 flags, u64 wall, u64 boot, four strings (u16 length), u16 n, then for each recipient
 *
 *   u8 marks   which of these stand below; what is missing is as in the recipient before
 *   index      varint (missing: one more than before)
 *   outcome    u8 action, 3 bytes of status, u16 code
 *   text       varints prefix, suffix, middle: the text begins with `prefix` bytes of the one
 * before and ends with `suffix` bytes of it; the `middle` bytes between them follow
 *
 *   stamp      varint: 0 the claim's, 1 none, else so much less than the base, plus 2
 *   rule       u8: 0 none, else which of the rules' keys
 *
 * The base, a u64 behind the strings, is there when FLAG_STAMPS stands in the flags; u8 n and n keys of
 * rules, when FLAG_RULES does.
 *
 * Replies to the recipients of one message mostly differ in the address that they quote, so this
 * keeps a thousand of them whole where plain texts would not fit. */
enum marks { MARK_INDEX = 1, MARK_OUTCOME = 2, MARK_TEXT = 4, MARK_STAMP = 8, MARK_RULE = 16 };

#define FLAG_STAMPS 0x80000000u
#define FLAG_RULES  0x40000000u
#define STAMP_MOST  ((1ull << 35) - 1) /* five bytes; a talk of ten hours */

#define IP_BYTES_MAX    64
#define MTA_BYTES_MAX   256
#define ESMTP_BYTES_MAX 512
#define TAIL_BYTES      2 /* n */

/* The worst case without any text and rule fits: marks, index, outcome, stamp. */
_Static_assert(4 + 8 + 8 + 8 + 4 * 2 + 2 * IP_BYTES_MAX + MTA_BYTES_MAX + ESMTP_BYTES_MAX +
			       TAIL_BYTES + CLAIM_RCPT_MAX * (1 + 3 + 6 + 5) + 3 <=
		       CLAIM_RESULT_BYTES,
	       "all recipients of a claim fit its slot, whatever the texts");

static struct slice
cut(struct slice s, size_t max)
{
	return s.n <= max ? s : slice_of(s.p, max);
}

static void
put_text16(struct buf *out, struct slice s, size_t max)
{
	s = cut(s, max);
	wire_put_u16(out, (uint16_t)s.n);
	buf_put_slice(out, s);
}

static void
put_varint(struct buf *out, uint64_t v)
{
	while (v >= 0x80) {
		wire_put_u8(out, (uint8_t)(v | 0x80));
		v >>= 7;
	}
	wire_put_u8(out, (uint8_t)v);
}

static void
put_difference(struct buf *out, struct slice before, struct slice now)
{
	size_t most = before.n < now.n ? before.n : now.n, prefix = 0, suffix = 0;

	while (prefix < most && before.p[prefix] == now.p[prefix])
		prefix++;
	while (suffix < most - prefix &&
	       before.p[before.n - 1 - suffix] == now.p[now.n - 1 - suffix])
		suffix++;
	put_varint(out, (uint32_t)prefix);
	put_varint(out, (uint32_t)suffix);
	put_varint(out, (uint32_t)(now.n - prefix - suffix));
	buf_put(out, now.p + prefix, now.n - prefix - suffix);
}

static bool
same_outcome(const struct result_rcpt *a, const struct result_rcpt *b)
{
	return a->action == b->action && a->code == b->code &&
	       memcmp(a->status, b->status, sizeof a->status) == 0;
}

/* The latest stamp of a recipient by itself, 0: there is none. */
static uint64_t
stamp_base(const struct results *r, bool *any)
{
	uint64_t base = 0;

	*any = false;
	for (size_t i = 0; i < r->n_rcpts; i++) {
		*any |= r->rcpts[i].stamp_boot_us != 0;
		if (r->rcpts[i].stamp_boot_us > base)
			base = r->rcpts[i].stamp_boot_us;
	}
	return base;
}

static void
put_stamp(struct buf *out, uint64_t base, uint64_t stamp)
{
	if (stamp <= EVENT_STAMP_NONE)
		put_varint(out, stamp);
	else
		put_varint(out, base - stamp + 2 < STAMP_MOST ? base - stamp + 2 : STAMP_MOST);
}

/* The keys of the recipients' rules, each once. */
struct rule_keys {
	unsigned n;
	uint64_t keys[RESULT_RULES_MAX];
};

/* Which of them, from 1; 0: none. */
static unsigned
rule_place(const struct rule_keys *k, uint64_t rule)
{
	for (unsigned i = 0; rule != 0 && i < k->n; i++) {
		if (k->keys[i] == rule)
			return i + 1;
	}
	return 0;
}

static void
collect_rules(const struct results *r, struct rule_keys *k)
{
	k->n = 0;
	for (size_t i = 0; i < r->n_rcpts && k->n < RESULT_RULES_MAX; i++) {
		if (r->rcpts[i].rule != 0 && rule_place(k, r->rcpts[i].rule) == 0)
			k->keys[k->n++] = r->rcpts[i].rule;
	}
}

/* The recipients with texts of at most `text_max` bytes; false when that does not fit into `room`.
 */
static bool
put_rcpts(struct buf *out, const struct results *r, const struct rule_keys *rules, size_t text_max,
	  size_t room)
{
	static const struct result_rcpt none;
	const struct result_rcpt *before = &none;
	size_t start = out->len;
	uint32_t expected = 0;
	unsigned rule = 0, rule_before = 0;
	bool any;
	uint64_t base = stamp_base(r, &any);

	for (size_t i = 0; i < r->n_rcpts; i++) {
		const struct result_rcpt *q = &r->rcpts[i];
		struct slice text = cut(q->diag, text_max), old = cut(before->diag, text_max);
		unsigned marks = (q->index != expected ? MARK_INDEX : 0u) |
				 (same_outcome(q, before) ? 0u : MARK_OUTCOME) |
				 (slice_eq(text, old) ? 0u : MARK_TEXT) |
				 (q->stamp_boot_us == before->stamp_boot_us ? 0u : MARK_STAMP);

		rule = rule_place(rules, q->rule);
		marks |= rule != rule_before ? MARK_RULE : 0u;
		wire_put_u8(out, (uint8_t)marks);
		if (marks & MARK_INDEX)
			put_varint(out, q->index);
		if (marks & MARK_OUTCOME) {
			wire_put_u8(out, q->action);
			buf_put(out, q->status, sizeof q->status);
			wire_put_u16(out, q->code);
		}
		if (marks & MARK_TEXT)
			put_difference(out, old, text);
		if (marks & MARK_STAMP)
			put_stamp(out, base, q->stamp_boot_us);
		if (marks & MARK_RULE)
			wire_put_u8(out, (uint8_t)rule);
		rule_before = rule;
		if (out->len - start > room)
			return false;
		expected = q->index + 1u;
		before = q;
	}
	return true;
}

/* Takes back what was appended behind `len`. */
static void
shorten(struct buf *out, size_t len)
{
	out->len = len;
}

/* Everything before the recipients. */
static void
put_head(struct buf *out, const struct results *r, const struct rule_keys *rules)
{
	bool stamps;
	uint64_t base = stamp_base(r, &stamps);

	wire_put_u32(out, r->flags | (stamps ? FLAG_STAMPS : 0) | (rules->n > 0 ? FLAG_RULES : 0));
	wire_put_u64(out, r->wall_us);
	wire_put_u64(out, r->boot_us);
	put_text16(out, r->dlv_source_ip, IP_BYTES_MAX);
	put_text16(out, r->dlv_destination_ip, IP_BYTES_MAX);
	put_text16(out, r->dsn_mta, MTA_BYTES_MAX);
	put_text16(out, r->dlv_esmtp, ESMTP_BYTES_MAX);
	if (stamps)
		wire_put_u64(out, base);
	if (rules->n > 0)
		wire_put_u8(out, (uint8_t)rules->n);
	for (unsigned i = 0; i < rules->n; i++)
		wire_put_u64(out, rules->keys[i]);
	wire_put_u16(out, (uint16_t)r->n_rcpts);
}

/* With these rules, and texts as long as fit; false: not even without any text. */
static bool
encode_with(struct buf *out, const struct results *r, const struct rule_keys *rules)
{
	size_t start = out->len, head, room, good = 0, bad = REPLY_KEPT_MAX;

	put_head(out, r, rules);
	head = out->len;
	room = CLAIM_RESULT_BYTES - (head - start);
	if (put_rcpts(out, r, rules, REPLY_KEPT_MAX, room))
		return true;
	/* The longest texts are cut first: the largest bound (nearly) that lets all fit. */
	while (bad - good > 1) {
		size_t middle = (good + bad) / 2;

		shorten(out, head);
		if (put_rcpts(out, r, rules, middle, room))
			good = middle;
		else
			bad = middle;
	}
	shorten(out, head);
	if (put_rcpts(out, r, rules, good, room))
		return true;
	shorten(out, start);
	return false;
}

void
results_encode(struct buf *out, const struct results *r)
{
	struct rule_keys rules;

	CHECK(r->n_rcpts <= CLAIM_RCPT_MAX);
	collect_rules(r, &rules);
	if (encode_with(out, r, &rules))
		return;
	/* A thousand recipients that have nothing in common: what they met matters more than its name. */
	rules.n = 0;
	CHECK(encode_with(out, r, &rules));
}

/* Decoding ---------------------------------------------------------------------------------------
 */

static struct slice
get_text16(struct wire_reader *r, size_t max)
{
	size_t n = wire_u16(r);

	if (n > max)
		r->bad = true;
	return wire_raw(r, n);
}

static uint32_t
get_varint(struct wire_reader *r)
{
	uint32_t v = 0;

	for (unsigned shift = 0; shift < 21; shift += 7) {
		uint8_t b = wire_u8(r);

		v |= (uint32_t)(b & 0x7f) << shift;
		if ((b & 0x80) == 0)
			return v;
	}
	r->bad = true;
	return 0;
}

/* The text that differs from `before`, put together at *at, which has room for REPLY_KEPT_MAX. */
static struct slice
get_difference(struct wire_reader *r, struct slice before, char *at)
{
	size_t prefix = get_varint(r), suffix = get_varint(r), n = get_varint(r);
	struct slice middle;

	if (r->bad || prefix + suffix > before.n || prefix + suffix + n > REPLY_KEPT_MAX) {
		r->bad = true;
		return SLICE_NONE;
	}
	middle = wire_raw(r, n);
	if (r->bad)
		return SLICE_NONE;
	if (prefix > 0)
		memcpy(at, before.p, prefix);
	if (n > 0)
		memcpy(at + prefix, middle.p, n);
	if (suffix > 0)
		memcpy(at + prefix + n, before.p + before.n - suffix, suffix);
	return slice_of(at, prefix + n + suffix);
}

static uint64_t
get_stamp(struct wire_reader *r, uint64_t base)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 35; shift += 7) {
		uint8_t b = wire_u8(r);

		v |= (uint64_t)(b & 0x7f) << shift;
		if ((b & 0x80) == 0) {
			r->bad |= v >= 2 && base < v; /* before there was time */
			return v < 2 ? v : base - (v - 2);
		}
	}
	r->bad = true;
	return 0;
}

/* `rcpts` has room for n, `texts` for n * REPLY_KEPT_MAX bytes. */
static int
get_rcpts(struct wire_reader *r, struct result_rcpt *rcpts, size_t n, char *texts, uint64_t base,
	  const struct rule_keys *rules)
{
	struct result_rcpt now = { 0 };
	uint32_t index = 0;
	unsigned rule = 0;

	for (size_t i = 0; i < n; i++) {
		unsigned marks = wire_u8(r);

		if (marks & MARK_INDEX)
			index = get_varint(r);
		if (marks & MARK_OUTCOME) {
			struct slice status;

			now.action = wire_u8(r);
			status = wire_raw(r, sizeof now.status);
			if (!r->bad)
				memcpy(now.status, status.p, sizeof now.status);
			now.code = wire_u16(r);
		}
		if (marks & MARK_TEXT) {
			now.diag = get_difference(r, now.diag, texts);
			texts += now.diag.n;
		}
		if (marks & MARK_STAMP)
			now.stamp_boot_us = get_stamp(r, base);
		if (marks & MARK_RULE)
			rule = wire_u8(r);
		if (r->bad || index > UINT16_MAX || rule > rules->n ||
		    marks > (MARK_INDEX | MARK_OUTCOME | MARK_TEXT | MARK_STAMP | MARK_RULE) ||
		    now.action >= EVENT_ACTION_COUNT)
			return -E_BAD;
		now.rule = rule > 0 ? rules->keys[rule - 1] : 0;
		now.index = (uint16_t)index++;
		rcpts[i] = now;
	}
	return 0;
}

static void
get_rules(struct wire_reader *r, struct rule_keys *out)
{
	out->n = wire_u8(r);
	if (out->n > RESULT_RULES_MAX) {
		r->bad = true;
		out->n = 0;
	}
	for (unsigned i = 0; i < out->n; i++)
		out->keys[i] = wire_u64(r);
}

int
results_decode(struct results *out, struct slice s, struct buf *scratch)
{
	struct rule_keys rules = { 0 };
	struct wire_reader r;
	struct result_rcpt *rcpts;
	uint64_t base = 0;
	size_t array;

	*out = (struct results){ 0 };
	wire_read_init(&r, s);
	out->flags = wire_u32(&r);
	out->wall_us = wire_u64(&r);
	out->boot_us = wire_u64(&r);
	out->dlv_source_ip = get_text16(&r, IP_BYTES_MAX);
	out->dlv_destination_ip = get_text16(&r, IP_BYTES_MAX);
	out->dsn_mta = get_text16(&r, MTA_BYTES_MAX);
	out->dlv_esmtp = get_text16(&r, ESMTP_BYTES_MAX);
	if (out->flags & FLAG_STAMPS)
		base = wire_u64(&r);
	if (out->flags & FLAG_RULES)
		get_rules(&r, &rules);
	out->flags &= ~(FLAG_STAMPS | FLAG_RULES);
	out->n_rcpts = wire_u16(&r);
	if (r.bad || out->n_rcpts > CLAIM_RCPT_MAX || wire_left(&r) < out->n_rcpts)
		return -E_BAD;
	array = out->n_rcpts * sizeof *rcpts;
	buf_reset(scratch);
	rcpts = (struct result_rcpt *)(void *)buf_room(scratch,
						       array + out->n_rcpts * REPLY_KEPT_MAX);
	if (get_rcpts(&r, rcpts, out->n_rcpts, (char *)rcpts + array, base, &rules) != 0)
		return -E_BAD;
	out->rcpts = rcpts;
	return wire_done(&r) ? 0 : -E_BAD;
}

/* The strings ------------------------------------------------------------------------------------
 */

#define STRING_BYTES_MAX 2048 /* of each; a longer one is cut */

#define RESULT_STRINGS(X) X(sender) X(pool) X(job) X(envid) X(src_mta) X(src_ip) X(dst_ip) X(user)

void
result_strings_encode(struct buf *out, const struct result_strings *s)
{
	CHECK(s->n_rcpts <= CLAIM_RCPT_MAX);
#define X(name) put_text16(out, s->name, STRING_BYTES_MAX);
	RESULT_STRINGS(X)
#undef X
	wire_put_u64(out, s->received_wall_us);
	wire_put_u64(out, s->body_bytes);
	wire_put_u16(out, (uint16_t)s->n_rcpts);
	for (size_t i = 0; i < s->n_rcpts; i++)
		put_text16(out, s->rcpts[i], STRING_BYTES_MAX);
}

int
result_strings_decode(struct result_strings *out, struct slice s, struct buf *scratch)
{
	struct wire_reader r;
	struct slice *rcpts;

	*out = (struct result_strings){ 0 };
	wire_read_init(&r, s);
#define X(name) out->name = get_text16(&r, STRING_BYTES_MAX);
	RESULT_STRINGS(X)
#undef X
	out->received_wall_us = wire_u64(&r);
	out->body_bytes = wire_u64(&r);
	out->n_rcpts = wire_u16(&r);
	if (r.bad || out->n_rcpts > CLAIM_RCPT_MAX || wire_left(&r) / 2 < out->n_rcpts)
		return -E_BAD;
	buf_reset(scratch);
	rcpts = (struct slice *)(void *)buf_room(scratch, out->n_rcpts * sizeof *rcpts);
	for (size_t i = 0; i < out->n_rcpts; i++)
		rcpts[i] = get_text16(&r, STRING_BYTES_MAX);
	out->rcpts = rcpts;
	return wire_done(&r) ? 0 : -E_BAD;
}
