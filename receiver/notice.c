#include "receiver/notice.h"

#include "common/base/mem.h"

static struct parcel *
notice_new(uint16_t kind, uint32_t number, uint64_t epoch)
{
	struct parcel *p = mem_zalloc(sizeof *p);

	p->notice = kind;
	p->segment = number;
	p->epoch = epoch;
	return p;
}

struct parcel *
notice_seal(const struct message *seal)
{
	struct parcel *p =
		notice_new(MESSAGE_SEG_SEAL, seal->u.seg_seal.number, seal->u.seg_seal.epoch);

	p->offset = seal->u.seg_seal.end;
	p->failed = seal->u.seg_seal.failed != 0;
	return p;
}

struct parcel *
notice_held(uint32_t number, uint64_t epoch)
{
	return notice_new(MESSAGE_SEG_HELD, number, epoch);
}

void
notice_message(const struct parcel *p, struct message *out)
{
	*out = (struct message){ .kind = p->notice };
	if (p->notice == MESSAGE_SEG_HELD) {
		out->u.seg_held.number = p->segment;
		out->u.seg_held.epoch = p->epoch;
		return;
	}
	out->u.seg_seal.number = p->segment;
	out->u.seg_seal.epoch = p->epoch;
	out->u.seg_seal.end = p->offset;
	out->u.seg_seal.failed = p->failed;
}

unsigned
notice_drop_held(struct parcel_list *l)
{
	struct parcel_list keep = { 0 };
	unsigned n = 0;

	for (struct parcel *p; (p = parcel_pop(l)) != NULL;) {
		if (p->notice != MESSAGE_SEG_HELD) {
			parcel_push(&keep, p);
			continue;
		}
		parcel_free(p);
		n++;
	}
	*l = keep;
	return n;
}
