/* charges, the driver's side: the file that outlives the process, kept in step with the clocks and
 * the disk; and what happened before a reboot, told again by the event log. */
#include <string.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "scheduler/charges.h"
#include "scheduler/state.h"

#define SYNC_EVERY_US 10000000u

/* The past ------------------------------------------------------------------------------------- */
struct rebuild {
	struct scheduler *s;
	struct charges_past past;
	struct core_now now;
	unsigned char boot_id[16];
	uint64_t oldest_age_us, events, counted;
	bool whole; /* the first event ever was among them */
};

/* How long ago it was granted; false: the file has it, or it is of no boot that is known. */
static bool
age_of(const struct rebuild *rb, const struct event *e, const unsigned char boot_id[16],
       uint64_t stamp, uint64_t *age)
{
	uint64_t boot = rb->now.boot_us, then;

	if (memcmp(boot_id, rb->boot_id, 16) == 0) {
		*age = stamp < boot ? boot - stamp : 0;
		return !rb->past.has_boot;
	}
	if (rb->past.has_boot && memcmp(boot_id, rb->past.boot_id, 16) == 0) {
		then = stamp +
		       (uint64_t)rb->past.shift_us; /* perhaps before the boot: less than 0 */
		*age = (int64_t)(boot - then) > 0 ? boot - then : 0;
		return stamp > rb->past.synced_boot_us;
	}
	/* By the wall clock, from when it was logged: later than the grant. */
	*age = rb->now.wall_us > e->wall_us ? rb->now.wall_us - e->wall_us : 0;
	return true;
}

static uint32_t
source_ip_of(const struct scheduler *s, struct slice text)
{
	const struct conf_source_ip *ips;
	size_t n = conf_source_ips(s->conf, &ips);

	for (size_t i = 0; text.n > 0 && i < n; i++) {
		if (slice_eq(text, slice_str(ips[i].text)))
			return (uint32_t)i;
	}
	return text.n > 0 ? CORE_NONE : 0;
}

/* The number of a job or sender domain; one without mail has none, and needs one if it has limits. */
static uint32_t
number_of(struct scheduler *s, enum conf_override_scope scope, struct slice name)
{
	struct conf_limits l = { 0 };
	uint32_t number = names_find(s->names, name);
	bool limited = scope == CONF_OVER_JOB ? conf_job_limits(s->conf, name) != NULL
					      : conf_sender_limits(s->conf, name) != NULL;

	if (number == 0 && name.n > 0 &&
	    (limited || overrides_apply(s->overrides, scope, name, &l)))
		number = scheduler_name(s, name);
	return number;
}

static uint32_t
sender_domain_of(struct scheduler *s, struct slice sender)
{
	char text[NAME_BYTES_MAX];
	size_t at = sender.n;

	while (at > 0 && sender.p[at - 1] != '@')
		at--;
	if (at == 0 || sender.n - at > sizeof text)
		return 0;
	memcpy(text, sender.p + at, sender.n - at);
	str_lower(text, sender.n - at);
	return number_of(s, CONF_OVER_SENDER, slice_of(text, sender.n - at));
}

static uint32_t
provider_of(struct scheduler *s, struct slice name)
{
	struct conf_limits l = { 0 };

	return providers_number(s->providers, s->conf, name,
				overrides_apply(s->overrides, CONF_OVER_PROVIDER, name, &l));
}

static void
count(struct rebuild *rb, const struct event *e, const unsigned char boot_id[16], uint64_t stamp,
      struct core_past *p)
{
	if (p->rcpts + p->connects + p->bytes == 0 || !age_of(rb, e, boot_id, stamp, &p->age_us))
		return;
	core_charge_event(rb->s->core, &rb->now, p);
	rb->counted++;
}

/* Recipients that were asked for one by one have stamps of their own, in order: those of one stamp
 * go together. */
static void
count_rcpts(struct rebuild *rb, const struct event *e, const unsigned char boot_id[16],
	    struct core_past *p)
{
	uint64_t last = e->stamp_boot_us;

	p->bytes = e->volume_bytes;
	for (size_t i = 0; i < e->n_rcpts; i++) {
		const struct event_rcpt *r = &e->rcpts[i];
		uint64_t stamp = r->stamp_boot_us ? r->stamp_boot_us : e->stamp_boot_us;

		if (r->action == EVENT_UNATTEMPTED || r->stamp_boot_us == EVENT_STAMP_NONE)
			continue;
		if (stamp != last) {
			count(rb, e, boot_id, last, p);
			p->rcpts = 0;
			p->bytes = 0;
			last = stamp;
		}
		p->rcpts++;
	}
	count(rb, e, boot_id, last, p);
}

static void
count_event(struct rebuild *rb, const struct event *e, const unsigned char boot_id[16])
{
	struct scheduler *s = rb->s;
	uint32_t queue = names_find(s->names, e->queue);
	struct core_past p = { .queue = queue != 0 ? queue : CORE_NONE,
			       .source_ip = source_ip_of(s, e->dlv_source_ip),
			       .vmta = e->vmta,
			       .provider_number = provider_of(s, e->provider) };

	if (p.provider_number != 0)
		p.provider = e->provider;
	if (e->kind == EVENT_RESULT || e->kind == EVENT_CONNECT || e->kind == EVENT_ATTEMPT) {
		p.job = number_of(s, CONF_OVER_JOB, e->job);
		p.sender_domain = sender_domain_of(s, e->sender);
	}

	if (e->lsn == 1)
		rb->whole = true;
	/* Grants since the oldest event was logged have theirs behind it. */
	if (rb->events++ == 0)
		rb->oldest_age_us = rb->now.wall_us > e->wall_us ? rb->now.wall_us - e->wall_us : 0;
	if (e->kind == EVENT_RESULT) {
		count_rcpts(rb, e, boot_id, &p);
	} else if (e->kind == EVENT_CONNECT || e->kind == EVENT_ATTEMPT) {
		p.connects = 1;
		count(rb, e, boot_id, e->stamp_boot_us, &p);
	}
}

static int
read_events(struct rebuild *rb)
{
	struct scheduler *s = rb->s;
	struct event_position end = committer_synced(s->committer), pos;
	struct event_reader *r;
	struct event e;
	int rc;

	if (end.file == 0 ||
	    (rb->past.from.file != 0 && !event_position_before(rb->past.from, end)))
		return 0;
	rc = event_reader_open(&r, s->spool.events_fd, s->spool.instance, rb->past.from);
	if (rc != 0)
		return rc;
	while ((rc = event_read(r, end, &e, &pos)) == 1)
		count_event(rb, &e, event_reader_boot_id(r));
	event_reader_close(&r);
	return rc;
}

static void
rebuild(struct scheduler *s)
{
	struct rebuild rb = { .s = s, .now = scheduler_now(s) };
	int64_t known = INT64_MIN;
	int rc;

	if (s->charges == NULL || !charges_past(s->charges, &rb.past))
		return;
	clock_boot_id(rb.boot_id);
	rc = read_events(&rb);
	if (rc != 0) {
		log_error("charges events=unreadable error=\"%s\"", err_text(rc));
		charges_not_rebuilt(s->charges, rb.now.boot_us);
		return;
	}
	if (!rb.whole && rb.events > 0)
		known = (int64_t)(rb.now.boot_us - rb.oldest_age_us);
	else if (!rb.whole && committer_meta_view(s->committer)->next_lsn > 1)
		known = (int64_t)rb.now.boot_us; /* there were events, and they are gone */
	charges_rebuilt(s->charges, known);
	log_info("charges events=%llu counted=%llu", (unsigned long long)rb.events,
		 (unsigned long long)rb.counted);
}

/* Life ----------------------------------------------------------------------------------------- */
void
charges_start(struct scheduler *s)
{
	struct charges_now now = { .boot_us = clock_boot_us(), .wall_us = clock_wall_us() };
	int rc;

	clock_boot_id(now.boot_id);
	rc = charges_open(&s->charges, s->spool.fd, s->spool.instance, &now);
	if (rc != 0)
		log_error("charges open=failed error=\"%s\" limits=in_memory", err_text(rc));
}

void
charges_rebuild(struct scheduler *s)
{
	struct charges_counts c;

	if (s->charges == NULL)
		return;
	charges_counts(s->charges, &c);
	charges_reconfigured(s);
	log_info("charges slots=%zu moved=%zu damaged=%zu", c.slots, c.moved, c.damaged);
	rebuild(s);
	s->charges_thread = offload_new(s->loop);
}

/* Other limits: what a slot that nobody has taken holds may be for a longer window now. */
void
charges_reconfigured(struct scheduler *s)
{
	uint64_t longest = conf_longest_window(s->conf), window;

	if (s->charges == NULL)
		return;
	for (size_t i = 0; i < overrides_count(s->overrides); i++) {
		const struct override *row = overrides_at(s->overrides, i);

		window = row->limit != NULL ? conf_override_window(row->limit) : 0;
		if (window > longest)
			longest = window;
	}
	charges_longest(s->charges, longest);
}

struct sync_job {
	struct offload_job job;
	struct scheduler *s;
	int rc;
};

static void
sync_work(struct offload_job *job)
{
	struct sync_job *j = (struct sync_job *)(void *)job;

	j->rc = charges_sync(j->s->charges);
}

static void
sync_done(struct offload_job *job)
{
	struct sync_job *j = (struct sync_job *)(void *)job;
	struct scheduler *s = j->s;

	s->charges_syncing = false;
	if (j->rc != 0)
		log_error("charges sync=failed error=\"%s\"", err_text(j->rc));
	charges_sync_end(s->charges, j->rc);
	/* The recorder may have read all, and say nothing more. */
	scheduler_recycle_events(s);
	mem_free(j);
}

void
charges_turn(struct scheduler *s)
{
	uint64_t now = loop_boot_us(s->loop);
	struct sync_job *j;

	if (s->charges == NULL)
		return;
	charges_tick(s->charges, now, loop_wall_us(s->loop));
	if (s->charges_syncing || s->charges_thread == NULL || now < s->charges_sync_at_us)
		return;
	s->charges_sync_at_us = now + SYNC_EVERY_US;
	s->charges_syncing = true;
	charges_sync_begin(s->charges, now, committer_synced(s->committer));
	j = mem_zalloc(sizeof *j);
	j->job.work = sync_work;
	j->job.done = sync_done;
	j->s = s;
	offload_add(s->charges_thread, &j->job);
}

struct event_position
charges_events_needed(const struct scheduler *s, struct event_position low)
{
	struct event_position at;

	if (s->charges != NULL && charges_needs_events(s->charges, &at) &&
	    event_position_before(at, low))
		return at;
	return low;
}

/* An orderly end, and nothing is granted any more: twice, for what was charged and for the note
 * that says so. Then no event is asked for whose stamp is older, wherever the note says they begin.
 */
void
charges_stop(struct scheduler *s)
{
	uint64_t now = clock_boot_us();
	struct event_position at;

	offload_free(&s->charges_thread);
	if (s->charges == NULL)
		return;
	charges_tick(s->charges, now, clock_wall_us());
	if (charges_needs_events(s->charges, &at)) {
		charges_sync_begin(s->charges, now, at);
		charges_sync_end(s->charges, charges_sync(s->charges));
		(void)charges_sync(s->charges);
	}
	charges_close(&s->charges);
}
