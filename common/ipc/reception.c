#include "common/ipc/reception.h"

#include "common/base/mem.h"
#include "common/event_log/event.h"

void
reception_encode(struct buf *out, const struct record_envelope *env, uint64_t body_bytes)
{
	struct event e = { .kind = EVENT_RECEPTION };
	struct event_rcpt *rcpts = mem_calloc(env->n_rcpts, sizeof *rcpts);
	struct buf queues = { 0 };
	size_t at = 0;

	e.wall_us = e.received_wall_us = env->received_wall_us;
	e.message = env->id;
	e.body_bytes = body_bytes;
	e.vmta = env->vmta;
	e.pool = env->pool;
	e.job = env->job;
	e.envid = env->envid;
	e.sender = env->sender;
	e.src_mta = env->src_mta;
	e.src_ip = env->src_ip;
	e.dst_ip = env->dst_ip;
	e.user = env->user;
	/* Two passes: the queues' names must not move while slices point at them. */
	for (uint16_t i = 0; i < env->n_entries; i++) {
		buf_put_slice(&queues, env->entries[i].domain);
		buf_putc(&queues, '/');
		buf_put_slice(&queues, env->vmta);
	}
	for (uint16_t i = 0; i < env->n_entries; i++) {
		const struct record_entry *entry = &env->entries[i];
		size_t n = entry->domain.n + 1 + env->vmta.n;

		for (uint32_t k = entry->first; k < entry->first + entry->count; k++) {
			rcpts[k].index = (uint16_t)k;
			rcpts[k].action = EVENT_RECEIVED;
			rcpts[k].status[0] = 2;
			rcpts[k].address = env->rcpts[k];
			rcpts[k].queue = slice_of(buf_slice(&queues).p + at, n);
		}
		at += n;
	}
	e.rcpts = rcpts;
	e.n_rcpts = env->n_rcpts;
	event_encode(out, &e);
	buf_clear(&queues);
	mem_free(rcpts);
}
