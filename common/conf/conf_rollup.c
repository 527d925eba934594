#include "common/conf/conf_rollup.h"

#include "common/base/check.h"
#include "common/conf/conf_domain.h"
#include "common/conf/conf_per.h"
#include "common/conf/conf_rollup_ips.h"
#include "common/conf/conf_words.h"

bool
conf_is_rollup(struct slice domain)
{
	struct slice end = SLICE_LIT(".rollup");

	return domain.n > end.n && slice_eq_nocase(slice_sub(domain, domain.n - end.n), end);
}

bool
conf_rollup_words(struct slice s, struct slice *mx, struct slice *queue, bool *by_ip)
{
	struct slice words[4] = { { NULL, 0 } };
	size_t n = 0;

	while (s.p != NULL && n < 4) {
		struct slice word = slice_trim(slice_cut(&s, ' '));

		if (word.n > 0)
			words[n++] = word;
	}
	*mx = words[0];
	*queue = words[1];
	*by_ip = n == 3 && slice_is(words[2], "rollup-by-ip");
	/* Names with addresses before them are given to the queues of rollup-by-ip. */
	return (n == 2 || *by_ip) && conf_words_mx(*mx) && conf_words_host(*queue) &&
	       conf_is_rollup(*queue) && conf_rollup_base(*queue).n == queue->n;
}

/* Building ------------------------------------------------------------------------------------ */
static const char *
lower_str(struct conf_arena *a, struct slice s)
{
	char text[300];

	CHECK(s.n < sizeof text); /* a host name */
	str_copy(text, sizeof text, s);
	str_lower(text, s.n);
	return conf_arena_str(a, slice_of(text, s.n));
}

static struct conf_rollup_queue *
queue_of(struct conf *c, struct slice domain, size_t most)
{
	struct conf_rollup_queue **at = &c->rollups;

	while (*at != NULL && !slice_eq_nocase(slice_str((*at)->domain), domain))
		at = &(*at)->next;
	if (*at == NULL) {
		*at = conf_arena_zalloc(&c->arena, sizeof **at);
		(*at)->domain = lower_str(&c->arena, domain);
		(*at)->mx = conf_arena_zalloc(&c->arena, most * sizeof *(*at)->mx);
	}
	return *at;
}

/* All of the same preference. */
static const char *
hosts_of(struct conf_arena *a, const struct conf_rollup_queue *q)
{
	struct buf text = { 0 };
	const char *hosts = NULL;
	bool patterns = false;

	for (size_t i = 0; i < q->n_mx; i++) {
		patterns |= strchr(q->mx[i], '*') != NULL;
		buf_printf(&text, "%s%s", i > 0 ? "," : "", q->mx[i]);
	}
	if (!patterns)
		hosts = conf_arena_str(a, buf_slice(&text));
	buf_clear(&text);
	return hosts;
}

void
conf_rollup_build(struct conf *c)
{
	const struct conf_block *b = conf_block_skip(c->root->children, CONF_SCOPE_ROLLUP);
	const struct conf_value *v = b != NULL ? conf_block_get(b, "mx") : NULL;

	for (size_t i = 0; v != NULL && i < v->v.strings->n; i++) {
		struct slice mx, domain;
		struct conf_rollup_queue *q;
		bool by_ip;

		CHECK(conf_rollup_words(slice_str(v->v.strings->s[i]), &mx, &domain, &by_ip));
		q = queue_of(c, domain, v->v.strings->n);
		q->mx[q->n_mx++] = lower_str(&c->arena, mx);
		q->by_ip |= by_ip;
	}
	for (struct conf_rollup_queue *q = c->rollups; q != NULL; q = q->next)
		q->hosts = hosts_of(&c->arena, q);
}

void
conf_rollup_domain(struct conf *c, const struct conf_block *b)
{
	c->has_queue_to |= conf_block_get(b, "queue-to") != NULL;
}

/* Asking -------------------------------------------------------------------------------------- */
struct search {
	const struct conf_directive *d;
	const struct conf_value *value;
};

static void
note_value(void *arg, const struct conf_block *block)
{
	struct search *s = arg;
	const struct conf_value *v = conf_block_value(block, s->d);

	if (v != NULL)
		s->value = v;
}

static const struct conf_value *
value_of(const struct conf *c, struct slice domain, struct slice vmta, const char *directive)
{
	struct search s = { .d = conf_schema_find(CONF_SCOPE_DOMAIN, directive) };
	int v = conf_vmta_find(c, vmta);

	conf_domain_all(c, v < 0 ? 0 : (unsigned)v, domain, note_value, &s);
	return s.value;
}

void
conf_rollup_warn(struct conf *c, struct conf_loader *x)
{
	const struct conf_block *b = conf_block_skip(c->root->children, CONF_SCOPE_ROLLUP);
	const struct conf_value *mx = b != NULL ? conf_block_get(b, "mx") : NULL;

	for (const struct conf_rollup_queue *q = c->rollups; q != NULL; q = q->next) {
		struct search s = { .d = conf_schema_find(CONF_SCOPE_DOMAIN, "smtp-hosts") };

		for (unsigned v = 0; v < c->n_vmtas && s.value == NULL; v++)
			conf_domain_all(c, v, slice_str(q->domain), note_value, &s);
		if (mx != NULL && q->hosts == NULL && !q->by_ip && s.value == NULL)
			conf_msgs_warn(x->msgs, mx->file, mx->line,
				       "mx-rollup-list: \"%.100s\" has patterns for hosts and no "
				       "smtp-hosts: no domain is rolled up into it",
				       q->domain);
	}
}

const char *
conf_queue_to(const struct conf *c, struct slice domain, struct slice vmta)
{
	const struct conf_value *v;

	if (!c->has_queue_to)
		return NULL;
	v = value_of(c, domain, vmta, "queue-to");
	return v == NULL || slice_is(domain, v->v.string) ? NULL : v->v.string;
}

static bool
is_named(const char *pattern, const struct slice *mx, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (conf_per_mx_matches(slice_str(pattern), mx[i]))
			return true;
	}
	return false;
}

bool
conf_has_rollups(const struct conf *c)
{
	return c->rollups != NULL;
}

static const struct conf_rollup_queue *
find(const struct conf *c, struct slice domain)
{
	const struct conf_rollup_queue *q = c->rollups;

	while (q != NULL && !slice_eq_nocase(slice_str(q->domain), domain))
		q = q->next;
	return q;
}

const char *
conf_rollup_hosts(const struct conf *c, struct slice domain)
{
	const struct conf_rollup_queue *q = find(c, domain);

	return q != NULL ? q->hosts : NULL;
}

bool
conf_rollup_names(const struct conf *c, struct slice domain, struct slice mx)
{
	const struct conf_rollup_queue *q = find(c, domain);

	for (size_t i = 0; q != NULL && i < q->n_mx; i++) {
		if (conf_per_mx_matches(slice_str(q->mx[i]), mx))
			return true;
	}
	return false;
}

size_t
conf_rollup_patterns(const struct conf *c, struct slice domain, struct slice *out, size_t most)
{
	const struct conf_rollup_queue *q = find(c, domain);
	size_t n = 0;

	for (; q != NULL && n < q->n_mx && n < most; n++)
		out[n] = slice_str(q->mx[n]);
	return n;
}

static bool
all_named(const struct conf_rollup_queue *q, const struct slice *mx, size_t n)
{
	for (size_t i = 0; i < q->n_mx; i++) {
		if (!is_named(q->mx[i], mx, n))
			return false;
	}
	return true;
}

/* What a domain's answer from the DNS is held against. */
struct asked {
	struct slice vmta;
	const struct slice *mx;
	size_t n;
	bool (*reaches)(void *arg, const char *hosts);
	void *arg;
};

static bool
is_wanted(const struct conf *c, const struct conf_rollup_queue *q, const struct asked *a)
{
	/* By its addresses: whoever has them, whatever its hosts are called. */
	if (q->by_ip && q->hosts != NULL)
		return a->reaches(a->arg, q->hosts);
	/* Patterns are no hosts: somebody has to say where its mail goes. */
	return all_named(q, a->mx, a->n) &&
	       (q->hosts != NULL || q->by_ip ||
		value_of(c, slice_str(q->domain), a->vmta, "smtp-hosts") != NULL);
}

bool
conf_rollup(const struct conf *c, struct slice domain, struct slice vmta, const struct slice *mx,
	    size_t n, bool (*reaches)(void *arg, const char *hosts), void *arg,
	    struct conf_rolled *out)
{
	const struct asked a = { vmta, mx, n, reaches, arg };
	const struct conf_rollup_queue *q = c->rollups;
	const struct conf_value *v;

	if (q == NULL || conf_is_rollup(domain))
		return false;
	v = value_of(c, domain, vmta, "disable-mx-rollup");
	if (v != NULL && v->v.flag)
		return false;
	while (q != NULL && !is_wanted(c, q, &a))
		q = q->next;
	if (q == NULL)
		return false;
	*out = (struct conf_rolled){ q->domain, q->by_ip ? q->hosts : NULL, q->by_ip };
	return true;
}
