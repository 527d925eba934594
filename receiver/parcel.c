#include "receiver/parcel.h"

#include <stdio.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/ipc/new_message.h"
#include "common/ipc/reception.h"
#include "common/queue/record.h"

void
parcel_maker_init(struct parcel_maker *m, const struct conf *conf, unsigned slot)
{
	const struct conf_acct_file *files;
	const struct conf_pool *pools;
	size_t n_files = conf_acct_files(conf, &files);
	size_t n_pools = conf_pools(conf, &pools);

	memset(m, 0, sizeof *m);
	m->conf = conf;
	m->host_name = conf_global(conf)->host_name;
	for (size_t i = 0; i < n_files; i++)
		m->receptions |= files[i].r;
	m->pool_turns = mem_calloc(n_pools + 1, sizeof *m->pool_turns);
	for (size_t i = 0; i < n_pools; i++)
		m->pool_turns[i] = slot; /* receivers do not all begin with the same member */
}

void
parcel_maker_clear(struct parcel_maker *m)
{
	mem_free(m->pool_turns);
	m->pool_turns = NULL;
}

/* The virtual MTA of a message and, when a pool was named, the pool. */
struct choice {
	const char *vmta;
	const char *pool;
};

static bool
choose_named(struct parcel_maker *m, struct slice name, struct choice *out)
{
	const struct conf_vmta *vmtas;
	const struct conf_pool *pools;
	size_t n = conf_vmtas(m->conf, &vmtas);
	int i = conf_vmta_find(m->conf, name);

	out->pool = "";
	if (i >= 0 && (size_t)i < n) {
		out->vmta = vmtas[i].name;
		return true;
	}
	conf_pools(m->conf, &pools);
	i = conf_pool_find(m->conf, name);
	if (i < 0 || pools[i].n_vmtas == 0)
		return false;
	out->pool = pools[i].name;
	out->vmta = vmtas[pools[i].vmtas[m->pool_turns[i]++ % pools[i].n_vmtas]].name;
	return true;
}

static const char *
choose_vmta(struct parcel_maker *m, const struct conf_client *rules, const struct header_value *v,
	    struct choice *out)
{
	if (v->given && v->n == 0 && rules->allow_empty_x_virtual_mta) {
		choose_named(m, SLICE_LIT("{default}"), out);
		return NULL;
	}
	if (v->given && v->n > 0 && choose_named(m, header_value_slice(v), out))
		return NULL;
	if (v->given && rules->reject_invalid_virtual_mta)
		return "550 5.7.1 Unknown virtual MTA";
	if (rules->default_virtual_mta == NULL ||
	    !choose_named(m, slice_str(rules->default_virtual_mta), out))
		CHECK(choose_named(m, SLICE_LIT("{default}"), out));
	return NULL;
}

static void
scan_header(struct header_scan *scan, const struct parcel_source *src)
{
	const struct conf_client *c = src->rules;
	struct header_rules rules = { .max_hops = c->max_message_hops,
				      .job_name = c->jobid_header };

	rules.process[HEADER_VIRTUAL_MTA] = c->process_x_virtual_mta;
	rules.retain[HEADER_VIRTUAL_MTA] = c->retain_x_virtual_mta;
	rules.process[HEADER_JOB] = c->process_x_job;
	rules.retain[HEADER_JOB] = c->retain_x_job;
	rules.process[HEADER_ENVID] = c->process_x_envid;
	header_scan(scan, &rules, buf_slice(src->body));
}

/* The fields that we put in front of the message. */
static void
put_trace(struct buf *out, const struct parcel_maker *m, const struct parcel_source *src,
	  const struct header_scan *scan)
{
	bool hide = src->rules->hide_message_source;
	char date[64];
	char id[ID_TEXT_BYTES];

	clock_rfc5322(date, src->wall_us);
	id_message_text(id, src->id);
	if (src->rules->add_received_header) {
		struct header_trace t = {
			.helo = hide ? NULL : src->smtp->helo,
			.client = hide ? NULL : src->peer,
			.host_name = m->host_name,
			.with = src->smtp->esmtp ? "ESMTP" : "SMTP",
			.id = id,
			.date = date,
		};
		header_put_received(out, &t);
	}
	if (src->rules->add_message_id_header && !scan->message_id)
		buf_printf(out, "Message-ID: <%s@%.255s>\r\n", id, m->host_name);
	if (src->rules->add_date_header && !scan->date)
		buf_printf(out, "Date: %s\r\n", date);
}

static void
put_news(struct parcel *p, const struct parcel_maker *m, const struct record_envelope *env,
	 const struct parcel_source *src, uint64_t body_bytes)
{
	struct buf reception = { 0 };
	struct new_message n = {
		.vmta = env->vmta,
		.sender_domain = envelope_sender_domain(src->envelope),
		.job = env->job,
		.received_wall_us = env->received_wall_us,
		.n_entries = env->n_entries,
		.entries = env->entries,
		.owed = src->owed,
	};

	if (m->receptions) {
		reception_encode(&reception, env, body_bytes);
		n.reception = buf_slice(&reception);
	}
	new_message_encode(&p->news, &n);
	buf_clear(&reception);
	p->n_entries = env->n_entries;
}

/* Everything is decided: makes the record's bytes. */
static struct parcel *
assemble(struct parcel_maker *m, const struct parcel_source *src, const struct header_scan *scan,
	 const struct choice *choice)
{
	struct parcel *p = mem_zalloc(sizeof *p);
	struct envelope_grouped grouped;
	char src_mta[SMTP_DOMAIN_MAX + 64];
	uint64_t body_bytes;
	unsigned flags = (src->smtp->data.dot_line ? RECORD_DOT_LINES : 0u) |
			 (src->smtp->data.eight_bit ? RECORD_8BIT : 0u);
	int n = snprintf(src_mta, sizeof src_mta, src->peer[0] != '\0' ? "%s (%s)" : "%s%s",
			 src->smtp->helo, src->peer);
	struct record_envelope env = {
		.id = src->id,
		.received_wall_us = src->wall_us,
		.sender = envelope_sender(src->envelope),
		.src_mta = slice_of(src_mta, (size_t)n),
		.src_ip = slice_str(src->peer),
		.dst_ip = slice_str(src->local),
		.vmta = slice_str(choice->vmta),
		.pool = slice_str(choice->pool),
		.job = header_value_slice(&scan->values[HEADER_JOB]),
		.envid = header_value_slice(&scan->values[HEADER_ENVID]),
	};

	CHECK(n > 0 && (size_t)n < sizeof src_mta);
	envelope_group(src->envelope, m->conf, slice_str(choice->vmta), &grouped);
	env.rcpts = grouped.rcpts;
	env.n_rcpts = grouped.n_rcpts;
	env.entries = grouped.entries;
	env.n_entries = grouped.n_entries;

	p->id = src->id;
	put_trace(&p->trace, m, src, scan);
	body_bytes = p->trace.len + scan->piece_bytes;
	if (p->trace.len > 0)
		p->pieces[p->n_pieces++] = buf_slice(&p->trace);
	for (size_t i = 0; i < scan->n_pieces; i++)
		p->pieces[p->n_pieces++] = scan->pieces[i];
	record_encode(&p->head, &env, flags, p->pieces, p->n_pieces);
	p->total = record_total(p->head.len, body_bytes);
	p->padding = record_padding(p->head.len, body_bytes);
	put_news(p, m, &env, src, body_bytes);
	p->body = *src->body; /* moved: the pieces stay where they are */
	buf_init(src->body);
	return p;
}

const char *
parcel_make(struct parcel_maker *m, const struct parcel_source *src, struct parcel **out)
{
	struct header_scan scan;
	struct choice choice;
	const char *refusal;

	scan_header(&scan, src);
	refusal = header_refusal(&scan);
	if (refusal == NULL && src->owed.n > 0)
		choice = (struct choice){ CONF_VMTA_NOTIFY, "" };
	else if (refusal == NULL)
		refusal = choose_vmta(m, src->rules, &scan.values[HEADER_VIRTUAL_MTA], &choice);
	if (refusal != NULL)
		return refusal;
	*out = assemble(m, src, &scan, &choice);
	if ((*out)->news.len > IPC_PAYLOAD_MAX || (*out)->head.len > ENVELOPE_BYTES_MAX) {
		*src->body = (*out)->body;
		buf_init(&(*out)->body);
		parcel_free(*out);
		*out = NULL;
		return "452 4.5.3 Too many recipients";
	}
	return NULL;
}

void
parcel_drop_bytes(struct parcel *p)
{
	buf_clear(&p->head);
	buf_clear(&p->trace);
	buf_clear(&p->body);
	p->n_pieces = 0;
}

void
parcel_free(struct parcel *p)
{
	if (p == NULL)
		return;
	parcel_drop_bytes(p);
	buf_clear(&p->news);
	mem_free(p);
}

void
parcel_push(struct parcel_list *l, struct parcel *p)
{
	p->next = NULL;
	if (l->head == NULL)
		l->head = p;
	else
		*l->tail = p;
	l->tail = &p->next;
}

struct parcel *
parcel_pop(struct parcel_list *l)
{
	struct parcel *p = l->head;

	if (p != NULL) {
		l->head = p->next;
		p->next = NULL;
	}
	return p;
}

void
parcel_prepend(struct parcel_list *l, struct parcel_list *from)
{
	if (from->head == NULL)
		return;
	*from->tail = l->head;
	if (l->head == NULL)
		l->tail = from->tail;
	l->head = from->head;
	from->head = NULL;
}

struct parcel *
parcel_take(struct parcel_list *l, msg_id_t id)
{
	for (struct parcel **at = &l->head; *at != NULL; at = &(*at)->next) {
		struct parcel *p = *at;

		if (p->id != id)
			continue;
		*at = p->next;
		if (p->next == NULL)
			l->tail = at; /* the list's new end; unused when it became empty */
		p->next = NULL;
		return p;
	}
	return NULL;
}
