#include "common/conf/conf.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/conf/conf_check.h"
#include "common/conf/conf_domain.h"
#include "common/conf/conf_impl.h"
#include "common/conf/conf_limits.h"
#include "common/conf/conf_names.h"
#include "common/conf/conf_override.h"
#include "common/conf/conf_snapshot.h"

/* The files and faults of the snapshot. */
struct intake {
	struct conf *c;
	struct conf_file *files;
	size_t n, cap;
	struct conf_msgs *m;
};

static void
take_record(void *arg, enum conf_snapshot_kind kind, struct slice name, unsigned line,
	    struct slice text)
{
	struct intake *in = arg;
	void *v = in->files;

	if (kind == CONF_SNAPSHOT_RULES) {
		in->c->compiled = text;
		return;
	}
	if (kind == CONF_SNAPSHOT_FILE) {
		mem_grow(&v, &in->cap, in->n + 1, sizeof *in->files);
		in->files = v;
		in->files[in->n++] =
			(struct conf_file){ .name = conf_arena_str(&in->c->arena, name),
					    .content = text };
		return;
	}
	for (size_t i = 0; i < in->n; i++) {
		if (slice_is(name, in->files[i].name)) {
			conf_msgs_error(in->m, (unsigned)i, line, "%.*s",
					(int)(text.n < 500 ? text.n : 500), text.p);
			return;
		}
	}
}

static void
keep_names(struct conf *c, const struct intake *in)
{
	c->n_files = in->n;
	c->files = conf_arena_zalloc(&c->arena, (in->n + 1) * sizeof *c->files);
	for (size_t i = 0; i < in->n; i++)
		c->files[i] = in->files[i].name;
}

int
conf_parse(struct slice snapshot, struct conf **out, struct conf_report *r)
{
	struct conf *c = mem_zalloc(sizeof *c);
	struct conf_msgs m = { 0 };
	struct intake in = { .c = c, .m = &m };
	struct conf_loader x = { .arena = &c->arena, .msgs = &m };
	bool ok;

	c->owners = 1;
	ok = conf_snapshot_each(snapshot, take_record, &in);

	*out = NULL;
	keep_names(c, &in);
	if (ok) {
		x.files = in.files;
		x.n_files = in.n;
		x.compiled = c->compiled.n > 0;
		conf_load(&x);
		conf_check(&x);
		if (m.n_errors == 0)
			conf_build(c, &x);
		ok = m.n_errors == 0;
		conf_load_clear(&x);
	} else {
		buf_puts(&r->text, "snapshot:1: the snapshot is malformed\n");
		r->n_errors++;
	}
	conf_msgs_flush(&m, c->files, r);
	mem_free(in.files);
	if (!ok) {
		conf_free(&c);
		return -E_BAD;
	}
	*out = c;
	return 0;
}

int
conf_parse_fd(int fd, struct conf **out, struct conf_report *r)
{
	struct stat st;
	void *bytes;
	int rc;

	*out = NULL;
	if (fstat(fd, &st) != 0)
		return -err_errno();
	if (st.st_size <= 0)
		return -E_BAD;
	bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (bytes == MAP_FAILED)
		return -err_errno();
	rc = conf_parse(slice_of(bytes, (size_t)st.st_size), out, r);
	if (rc != 0) {
		munmap(bytes, (size_t)st.st_size);
		return rc;
	}
	(*out)->map = bytes;
	(*out)->map_bytes = (size_t)st.st_size;
	return 0;
}

struct conf *
conf_hold(const struct conf *c)
{
	struct conf *mine = (struct conf *)(uintptr_t)c;

	mine->owners++;
	return mine;
}

void
conf_free(struct conf **pc)
{
	struct conf *c = *pc;

	*pc = NULL;
	if (c == NULL || --c->owners > 0)
		return;
	if (c->map != NULL)
		munmap(c->map, c->map_bytes);
	conf_domain_clear(c);
	conf_names_clear(c);
	mem_free(c->source_ips);
	conf_arena_clear(&c->arena);
	mem_free(c);
}

const struct conf_global *
conf_global(const struct conf *c)
{
	return &c->global;
}

size_t
conf_listeners(const struct conf *c, const struct conf_listener **out)
{
	*out = c->listeners;
	return c->n_listeners;
}

size_t
conf_source_ips(const struct conf *c, const struct conf_source_ip **out)
{
	*out = c->source_ips;
	return c->n_source_ips;
}

size_t
conf_vmtas(const struct conf *c, const struct conf_vmta **out)
{
	*out = c->vmtas;
	return c->n_vmtas;
}

int
conf_vmta_find(const struct conf *c, struct slice name)
{
	return conf_names_find(c, name, CONF_NAMED_VMTA);
}

size_t
conf_pools(const struct conf *c, const struct conf_pool **out)
{
	*out = c->pools;
	return c->n_pools;
}

int
conf_pool_find(const struct conf *c, struct slice name)
{
	return conf_names_find(c, name, CONF_NAMED_POOL);
}

struct slice
conf_rules_compiled(const struct conf *c)
{
	return c->compiled;
}

size_t
conf_acct_files(const struct conf *c, const struct conf_acct_file **out)
{
	*out = c->acct_files;
	return c->n_acct_files;
}

/* Clients ------------------------------------------------------------------------------------- */
static void
apply_rule(const struct conf *c, const struct conf_client_rule *r, struct conf_client *out)
{
	for (const struct conf_value *v = r->block->values; v != NULL; v = v->next) {
		if (conf_store(out, v))
			continue;
		if (v->d == c->rows.add_date_header)
			out->add_date_header = v->v.flag;
	}
}

void
conf_client(const struct conf *c, const struct sockaddr *peer, const char *listener_source,
	    struct conf_client *out)
{
	*out = c->client_defaults;
	for (size_t i = 0; i < c->n_client_rules; i++) {
		const struct conf_client_rule *r = &c->client_rules[i];

		if (r->by_name ? listener_source != NULL &&
					 strcasecmp(r->block->key, listener_source) == 0
			       : conf_net_match(&r->cidr, peer))
			apply_rule(c, r, out);
	}
	if (out->default_virtual_mta != NULL &&
	    (strcmp(out->default_virtual_mta, "{default}") == 0 ||
	     strcmp(out->default_virtual_mta, "by-smtp-source-ip") == 0))
		out->default_virtual_mta = NULL;
	if (out->max_message_size > MESSAGE_BYTES_MAX)
		out->max_message_size = MESSAGE_BYTES_MAX;
	if (out->max_rcpt_per_message > SMTP_RCPT_MAX)
		out->max_rcpt_per_message = SMTP_RCPT_MAX;
}

unsigned
conf_notify_lists(const struct conf *c, bool of_sources)
{
	return of_sources ? c->n_source_notify : c->n_backoff_notify;
}

/* Queues -------------------------------------------------------------------------------------- */
struct queue_fill {
	const struct conf *c;
	struct conf_queue *out;
};

static void
apply_domain(void *arg, const struct conf_block *block)
{
	struct queue_fill *f = arg;
	const struct conf_rows *rows = &f->c->rows;

	f->out->source_limits |= block->source_limits != NULL;
	for (const struct conf_value *v = block->values; v != NULL; v = v->next) {
		if (conf_store(f->out, v))
			continue;
		if (v->d == rows->type)
			f->out->discard = strcmp(v->text, "discard") == 0;
		else if (v->d == rows->allow_destinations)
			f->out->allow_destinations = v->v.strings->s;
		else if (v->d == rows->backoff_notify)
			f->out->backoff_notify = v->v.strings->s;
		else if (v->d == rows->source_notify)
			f->out->source_notify = v->v.strings->s;
		else if (v->d == rows->pattern_list)
			f->out->rules = conf_rule_list_find(f->c, slice_str(v->v.string));
		else if (v->d == rows->recover)
			f->out->learns = v->text != NULL && strcasecmp(v->text, "auto") == 0;
		else if (v->d == rows->bounce_upon_no_mx)
			f->out->bounce_upon_no_mx = strcmp(v->text, "true") == 0;
	}
}

void
conf_queue(const struct conf *c, struct slice domain, struct slice vmta, struct conf_queue *out)
{
	conf_queue_over(c, domain, vmta, (struct conf_overs){ NULL, 0 }, out);
}

void
conf_queue_over(const struct conf *c, struct slice domain, struct slice vmta,
		struct conf_overs over, struct conf_queue *out)
{
	struct queue_fill f = { .c = c, .out = out };
	int v = conf_vmta_find(c, vmta);

	*out = c->queue_defaults;
	conf_domain_all(c, v < 0 ? 0 : (unsigned)v, domain, apply_domain, &f);
	out->learns |= out->rules >= 0 && c->rule_lists[out->rules].learns;
	/* Before the twins in back-off take over what is normal. */
	for (size_t i = 0; i < over.n; i++)
		conf_override_store(over.v[i].override, out);
	conf_limits_twins_end(out);
}
