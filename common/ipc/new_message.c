#include "common/ipc/new_message.h"

#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/wire.h"

#define ENTRY_BYTES_MIN 12 /* of an encoded entry: length of the domain, first, count */

void
new_message_encode(struct buf *out, const struct new_message *m)
{
	wire_put_bytes(out, m->vmta);
	wire_put_bytes(out, m->sender_domain);
	wire_put_bytes(out, m->job);
	wire_put_u64(out, m->received_wall_us);
	wire_put_u16(out, m->n_entries);
	for (unsigned i = 0; i < m->n_entries; i++) {
		wire_put_bytes(out, m->entries[i].domain);
		wire_put_u32(out, m->entries[i].first);
		wire_put_u32(out, m->entries[i].count);
	}
	wire_put_bytes(out, m->reception);
	wire_put_bytes(out, m->owed);
}

/* The entries follow each other without a gap, from recipient 0 on, none of them empty. */
static int
decode_entries(struct wire_reader *r, struct record_entry *entries, unsigned n)
{
	uint32_t next = 0;

	for (unsigned i = 0; i < n; i++) {
		struct record_entry *e = &entries[i];

		e->domain = wire_bytes(r, NAME_BYTES_MAX);
		e->first = wire_u32(r);
		e->count = wire_u32(r);
		if (r->bad || e->first != next || e->count == 0 || e->count > ENTRY_RCPT_MAX)
			return -E_BAD;
		next += e->count;
	}
	return 0;
}

int
new_message_decode(struct new_message *out, struct slice s, struct buf *scratch)
{
	struct wire_reader r;
	struct record_entry *entries;

	*out = (struct new_message){ 0 };
	wire_read_init(&r, s);
	out->vmta = wire_bytes(&r, NAME_BYTES_MAX);
	out->sender_domain = wire_bytes(&r, NAME_BYTES_MAX);
	out->job = wire_bytes(&r, NAME_BYTES_MAX);
	out->received_wall_us = wire_u64(&r);
	out->n_entries = wire_u16(&r);
	if (r.bad || out->n_entries == 0 || wire_left(&r) / ENTRY_BYTES_MIN < out->n_entries)
		return -E_BAD;
	buf_reset(scratch);
	entries =
		(struct record_entry *)(void *)buf_room(scratch, out->n_entries * sizeof *entries);
	buf_added(scratch, out->n_entries * sizeof *entries);
	if (decode_entries(&r, entries, out->n_entries) != 0)
		return -E_BAD;
	out->entries = entries;
	out->reception = wire_bytes(&r, IPC_PAYLOAD_MAX);
	out->owed = wire_bytes(&r, IPC_PAYLOAD_MAX);
	return wire_done(&r) && out->owed.n % 8 == 0 ? 0 : -E_BAD;
}
