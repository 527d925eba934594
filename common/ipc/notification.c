#include "common/ipc/notification.h"

#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/wire.h"

void
notification_encode(struct buf *out, const struct notification *n)
{
	wire_put_bytes(out, n->to);
	wire_put_bytes(out, n->owed);
	wire_put_bytes(out, n->text);
}

int
notification_decode(struct notification *out, struct slice s)
{
	struct wire_reader r;

	wire_read_init(&r, s);
	out->to = wire_bytes(&r, IPC_PAYLOAD_MAX);
	out->owed = wire_bytes(&r, IPC_PAYLOAD_MAX);
	out->text = wire_bytes(&r, IPC_PAYLOAD_MAX);
	return wire_done(&r) && out->to.n > 0 && out->owed.n > 0 && out->owed.n % 8 == 0 &&
			       out->text.n > 0
		       ? 0
		       : -E_BAD;
}
