/* control_select: `list` and `delete`: entries picked by queue, job, age, sender, recipient, envelope id.
 *
 * What the index knows (queue, job, age) is picked at once; what stands in the records is read by the
 * reader thread, a bounded number at a time, so the loop never waits. */
#include <stdio.h>

#include "common/base/log.h"
#include "common/base/mem.h"
#include "scheduler/control.h"

#define READS_MAX 64

struct picked {
	uint32_t entry;
	struct entry_key key;
};

struct selection {
	struct request *r;
	bool deleting;
	struct slice queue, orig, rcpt, envid;
	uint32_t job; /* name number; UINT32_MAX: a job that nobody has */
	uint64_t received_before_s;
	uint64_t most;
	struct picked *picked;
	size_t n, cap, next;
	unsigned reading;
	uint64_t shown, deleted, busy;
	bool finished;
	unsigned char *matches; /* by queue number */
	size_t cap_matches;
};

struct reading {
	struct selection *sel;
	struct picked p;
};

static void advance(struct selection *sel);

/* Picking from the index ----------------------------------------------------------------------- */
enum { UNKNOWN, MATCHES, DIFFERS };

/* Each queue's name is compared once, however many entries it holds. */
static bool
queue_matches(struct selection *sel, uint32_t queue)
{
	void *p = sel->matches;
	size_t before = sel->cap_matches;

	if (sel->queue.n == 0)
		return true;
	mem_grow(&p, &sel->cap_matches, (size_t)queue + 1, 1);
	sel->matches = p;
	if (sel->cap_matches > before)
		memset(sel->matches + before, UNKNOWN, sel->cap_matches - before);
	if (sel->matches[queue] == UNKNOWN)
		sel->matches[queue] =
			control_matches(names_get(sel->r->s->names, queue), sel->queue) ? MATCHES : DIFFERS;
	return sel->matches[queue] == MATCHES;
}

static void
pick_entry(void *arg, uint32_t entry)
{
	struct selection *sel = arg;
	struct core_entry_facts f;
	void *p = sel->picked;

	core_entry_get(sel->r->s->core, entry, &f);
	if (!f.committed)
		return; /* nobody was told yet that it is queued */
	if (sel->job != 0 && f.job != sel->job)
		return;
	if (!queue_matches(sel, f.queue))
		return;
	if (sel->received_before_s != 0 && f.received_s > sel->received_before_s)
		return;
	mem_grow(&p, &sel->cap, sel->n + 1, sizeof *sel->picked);
	sel->picked = p;
	sel->picked[sel->n++] = (struct picked){ entry, f.key };
}

/* Reading -------------------------------------------------------------------------------------- */
static bool
address_matches(struct slice address, struct slice pattern)
{
	if (pattern.n > 2 && pattern.p[0] == '*' && pattern.p[1] == '@') {
		struct slice domain = slice_sub(pattern, 1);

		return address.n > domain.n && slice_eq_nocase(slice_sub(address, address.n - domain.n), domain);
	}
	return slice_eq_nocase(address, pattern);
}

static void
show(struct selection *sel, const struct core_entry_facts *f, const struct record *rec, unsigned index)
{
	struct scheduler *s = sel->r->s;
	struct json *j = &sel->r->json;
	char id[ID_TEXT_BYTES], reply[REPLY_KEPT_MAX];
	int n = store_last_reply(s->store, f->key, reply, sizeof reply);

	json_object_begin(j);
	json_key_str(j, "id", id_entry_text(id, f->key));
	json_key_string(j, "queue", names_get(s->names, f->queue));
	json_key_string(j, "orig", rec != NULL ? rec->env.sender : SLICE_NONE);
	json_key_string(j, "rcpt", settle_rcpt_address(rec, f, index));
	json_key_time(j, "timeQueued", (uint64_t)f->received_s * 1000000u);
	json_key_u64(j, "attempts", f->attempts);
	json_key_time(j, "nextDue", (uint64_t)f->due_s * 1000000u);
	json_key(j, "lastReply");
	if (n > 0)
		json_string(j, control_reply(slice_of(reply, (size_t)n)));
	else
		json_null(j);
	json_key_string(j, "jobId", names_get(s->names, f->job));
	json_key_string(j, "envId", rec != NULL ? rec->env.envid : SLICE_NONE);
	json_key_u64(j, "kb", f->kbytes);
	json_object_end(j);
	sel->shown++;
}

static void
delete_rcpts(struct selection *sel, const struct core_entry_facts *f, uint32_t entry, const unsigned char *bits,
	     unsigned n)
{
	struct core_now now = scheduler_now(sel->r->s);

	if (n == 0)
		return;
	if (!core_entry_withdraw(sel->r->s->core, &now, entry)) {
		sel->busy += n;
		return;
	}
	sel->deleted += n;
	settle_delete(sel->r->s, entry, bits, f->due_s);
}

static void
judge(struct selection *sel, const struct picked *p, const struct record *rec)
{
	unsigned char bits[(ENTRY_RCPT_MAX + 7) / 8] = { 0 };
	struct core_entry_facts f;
	unsigned n = 0;

	if (!core_entry_is(sel->r->s->core, p->entry, p->key))
		return; /* gone meanwhile */
	core_entry_get(sel->r->s->core, p->entry, &f);
	if (rec == NULL && (sel->orig.n > 0 || sel->rcpt.n > 0 || sel->envid.n > 0))
		return;
	if (sel->orig.n > 0 && !address_matches(rec->env.sender, sel->orig))
		return;
	if (sel->envid.n > 0 && !slice_eq(rec->env.envid, sel->envid))
		return;
	for (unsigned i = 0; i < f.n_rcpts; i++) {
		if (settle_rcpt_is_done(&f, i))
			continue;
		if (sel->rcpt.n > 0 && !address_matches(settle_rcpt_address(rec, &f, i), sel->rcpt))
			continue;
		bits[i / 8] |= (unsigned char)(1u << i % 8);
		n++;
		if (!sel->deleting && sel->shown < sel->most)
			show(sel, &f, rec, i);
	}
	if (sel->deleting)
		delete_rcpts(sel, &f, p->entry, bits, n);
}

static void
on_record(struct scheduler *s, void *arg, int rc, const struct record *rec)
{
	struct reading *rd = arg;
	struct selection *sel = rd->sel;

	(void)s;
	(void)rc;
	sel->reading--;
	if (sel->r->client != NULL || sel->deleting)
		judge(sel, &rd->p, rec);
	mem_free(rd);
	advance(sel);
}

static void
finish(struct selection *sel)
{
	struct json *j = &sel->r->json;

	if (sel->deleting) {
		json_key_u64(j, "matched", sel->deleted);
		json_key_u64(j, "busy", sel->busy);
		if (sel->busy > 0)
			snprintf(sel->r->message, sizeof sel->r->message,
				 "%llu recipients are being delivered now and were left",
				 (unsigned long long)sel->busy);
	} else {
		json_array_end(j);
	}
	control_finish(sel->r);
	mem_free(sel->picked);
	mem_free(sel->matches);
	mem_free(sel);
}

static void
advance(struct selection *sel)
{
	struct scheduler *s = sel->r->s;

	while (sel->reading < READS_MAX && sel->next < sel->n && (sel->deleting || sel->shown < sel->most)) {
		struct picked p = sel->picked[sel->next++];
		struct reading *rd;

		if (!core_entry_is(s->core, p.entry, p.key))
			continue;
		rd = mem_zalloc(sizeof *rd);
		rd->sel = sel;
		rd->p = p;
		sel->reading++;
		records_read(s, p.entry, on_record, rd);
	}
	if (sel->reading == 0 && !sel->finished) {
		sel->finished = true;
		finish(sel);
	}
}

/* The commands --------------------------------------------------------------------------------- */
/* "2d12h", "90s": seconds; 0 when it is none. */
static uint64_t
age_of(struct slice text)
{
	static const struct {
		char unit;
		uint64_t s;
	} units[] = { { 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 }, { 'w', 604800 } };
	uint64_t total = 0, n = 0;
	bool digits = false;

	for (size_t i = 0; i < text.n; i++) {
		char c = text.p[i];
		uint64_t unit = 0;

		if (c >= '0' && c <= '9' && n < 1000000000) {
			n = n * 10 + (uint64_t)(c - '0');
			digits = true;
			continue;
		}
		for (size_t k = 0; k < sizeof units / sizeof units[0]; k++)
			unit = units[k].unit == c ? units[k].s : unit;
		if (unit == 0 || !digits)
			return 0;
		total += n * unit;
		n = 0;
		digits = false;
	}
	return digits ? 0 : total;
}

static bool
select_entries(struct request *r, bool deleting)
{
	struct selection *sel = mem_zalloc(sizeof *sel);
	struct slice job = control_option(r, "jobId");
	struct slice older = control_option(r, "older-than");
	struct slice items = control_option(r, "maxitems");
	uint64_t age = age_of(older);
	uint32_t cursor = 0;

	*sel = (struct selection){ .r = r, .deleting = deleting, .most = 100 };
	sel->queue = control_option(r, "queue");
	sel->orig = control_option(r, "orig");
	sel->rcpt = control_option(r, "rcpt");
	sel->envid = control_option(r, "envId");
	if (older.n > 0 && age == 0)
		control_fail(r, 2, "--older-than takes an interval such as 2d12h");
	else if (items.n > 0 && !slice_u64(items, UINT32_MAX, &sel->most))
		control_fail(r, 2, "--maxitems takes a whole number");
	else if (deleting && sel->queue.n == 0 && job.n == 0)
		control_fail(r, 2, "delete needs --queue or --jobId");
	if (r->status != 0) {
		mem_free(sel);
		return true;
	}
	if (job.n > 0) {
		sel->job = names_find(r->s->names, job);
		if (sel->job == 0)
			sel->job = UINT32_MAX;
	}
	if (age > 0)
		sel->received_before_s = loop_wall_us(r->s->loop) / 1000000u - age;
	while (core_each_entry(r->s->core, CORE_NONE, &cursor, 4096, pick_entry, sel))
		;
	if (!deleting) {
		json_key(&r->json, "message");
		json_array_begin(&r->json);
	}
	/* From here on the request may end inside advance(): the caller must not touch it. */
	advance(sel);
	return false;
}

bool
control_list(struct request *r)
{
	return select_entries(r, false);
}

bool
control_delete(struct request *r)
{
	return select_entries(r, true);
}
