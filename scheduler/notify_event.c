#include "scheduler/notify_event.h"

#include "common/base/wire.h"

#define MINUTE_US 60000000u

/* u8 NOTIFY_BLOB, u64 key, u8 kind, u8 scope, u64 when, u64 until, u64 retry, the texts. Upgrade: a
 * new field goes behind; what is left over is of a later version. */
static void
put_text(struct buf *out, struct slice s, size_t most)
{
	wire_put_bytes(out, slice_of(s.p, s.n < most ? s.n : most));
}

void
notify_event_encode(struct buf *out, const struct notify_event *e)
{
	wire_put_u8(out, NOTIFY_BLOB);
	wire_put_u64(out, e->key);
	wire_put_u8(out, (uint8_t)e->kind);
	wire_put_u8(out, (uint8_t)e->scope);
	wire_put_u64(out, e->wall_us);
	wire_put_u64(out, e->until_us);
	wire_put_u64(out, e->retry_us);
#define X(name, bytes) put_text(out, e->name, bytes);
	NOTIFY_TEXTS(X)
#undef X
}

bool
notify_event_decode(struct notify_event *out, struct slice blob)
{
	struct wire_reader r;
	unsigned kind;

	*out = (struct notify_event){ 0 };
	wire_read_init(&r, blob);
	if (wire_u8(&r) != NOTIFY_BLOB)
		return false;
	out->key = wire_u64(&r);
	kind = wire_u8(&r);
	out->kind = (enum notify_kind)kind;
	out->scope = wire_u8(&r);
	out->wall_us = wire_u64(&r);
	out->until_us = wire_u64(&r);
	out->retry_us = wire_u64(&r);
#define X(name, bytes) out->name = wire_bytes(&r, bytes);
	NOTIFY_TEXTS(X)
#undef X
	return !r.bad && kind >= NOTIFY_BACKOFF && kind < NOTIFY_KINDS && out->key != 0 &&
	       out->to.n > 0;
}

unsigned
notify_pace_room(const struct notify_pace *p, uint64_t boot_us, uint64_t *next)
{
	unsigned room = 0;

	*next = UINT64_MAX;
	for (unsigned i = 0; i < NOTIFY_A_MINUTE; i++) {
		uint64_t free_at = p->sent_us[i] == 0 ? 0 : p->sent_us[i] + MINUTE_US;

		room += free_at <= boot_us;
		if (free_at > boot_us && free_at < *next)
			*next = free_at;
	}
	return room;
}

void
notify_pace_sent(struct notify_pace *p, uint64_t boot_us)
{
	unsigned oldest = 0;

	for (unsigned i = 1; i < NOTIFY_A_MINUTE; i++) {
		if (p->sent_us[i] < p->sent_us[oldest])
			oldest = i;
	}
	p->sent_us[oldest] = boot_us;
}
