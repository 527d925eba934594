#include "common/ipc/message.h"

#include "common/base/err.h"

#define R 'R'
#define S 'S'
#define W 'W'
#define V 'V'
#define A 'A'

static const struct row {
	const char *name;
	char from, to;
	uint32_t payload_max;
} rows[] = { [MESSAGE_NONE] = { "none", 0, 0, 0 },
#define X(name, member, from, to, payload) [MESSAGE_##name] = { #name, from, to, payload },
	     MESSAGES(X)
#undef X
};

int
message_check(const struct message *m, char from, char to)
{
	const struct row *r;

	if (m->kind == MESSAGE_NONE || m->kind >= MESSAGE_KIND_COUNT || m->zero != 0)
		return -E_BAD;
	r = &rows[m->kind];
	if ((from != 0 && from != r->from) || (to != 0 && to != r->to))
		return -E_BAD;
	return m->payload_bytes <= r->payload_max ? 0 : -E_BAD;
}

char
message_from(unsigned kind)
{
	return kind < MESSAGE_KIND_COUNT ? rows[kind].from : 0;
}

const char *
message_name(unsigned kind)
{
	return kind < MESSAGE_KIND_COUNT ? rows[kind].name : "unknown";
}
