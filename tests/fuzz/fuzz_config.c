/* fuzz: one configuration file through snapshot, parse and the questions that processes ask. */
#include <netinet/in.h>
#include <stdlib.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "common/conf/conf.h"
#include "common/conf/conf_rollup_ips.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What mx-rollup-list says of a domain, and the names that it gives to queues. */
static bool
reaches(void *arg, const char *hosts)
{
	CHECK(hosts[0] != '\0');
	return (*(unsigned *)arg)++ % 2 == 1;
}

static void
ask_rollup(const struct conf *c, struct slice domain, struct slice vmta, const struct slice *mx)
{
	struct sockaddr_storage v4 = { .ss_family = AF_INET }, v6 = { .ss_family = AF_INET6 };
	struct conf_rollup_ips ips = { .n = 0 };
	char name[SMTP_DOMAIN_MAX + 1];
	struct buf hosts = { 0 };
	struct slice patterns[4];
	struct conf_rolled to;
	unsigned asked = 0;

	CHECK(conf_rollup_ips_hosts(conf_rollup_base(domain), &hosts) == false);
	if (!conf_rollup(c, domain, vmta, mx, 2, reaches, &asked, &to))
		return;
	CHECK(conf_is_rollup(slice_str(to.queue)) && (to.by_ip || to.hosts == NULL));
	CHECK(conf_rollup_patterns(c, slice_str(to.queue), patterns, 4) > 0);
	CHECK(to.by_ip || conf_rollup_names(c, slice_str(to.queue), mx[0]) ||
	      conf_rollup_names(c, slice_str(to.queue), mx[1]));
	CHECK(conf_rollup_ips_add(&ips, &v6) && conf_rollup_ips_add(&ips, &v4));
	if (conf_rollup_ips_name(&ips, slice_str(to.queue), name)) {
		CHECK(slice_is(conf_rollup_base(slice_str(name)), to.queue));
		CHECK(conf_rollup_ips_hosts(slice_str(name), &hosts));
		CHECK(slice_is(buf_slice(&hosts), "[0.0.0.0];[IPv6:::]"));
	}
	buf_clear(&hosts);
}

/* Limits of all that may have some, and where they stand. */
static void
ask_limits(const struct conf *c, struct slice domain, struct slice vmta)
{
	static const char *const scopes[] = { "provider", "job", "sender", "virtual-mta", "source-ip",
					      "queue-source-ip", "mx", "destination" };
	static const char *const names[] = { "a", "10.1.2.3", "a.b/{default}", "x.a.b" };
	const struct slice mx[] = { SLICE_LIT("a.b"), SLICE_LIT("x.a.b") };
	const struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a010203) };
	const struct conf_source_ip *ips;
	const struct conf_provider *p;
	size_t n = conf_source_ips(c, &ips), n_providers = conf_providers(c, &p);
	struct conf_limits normal, backoff;
	struct conf_setting s;

	for (unsigned i = 0; i < n && i < 4; i++) {
		conf_queue_source(c, domain, vmta, i, false, &normal);
		conf_queue_source(c, domain, vmta, i, true, &backoff);
		CHECK(normal.max_smtp_out <= 20000 && backoff.max_smtp_out <= 20000);
	}
	CHECK(conf_provider_find(c, mx, 2) < (int)n_providers);
	for (size_t i = 0; i < n_providers && i < 4; i++)
		CHECK(conf_provider_limits(c, slice_str(p[i].name)) == &p[i].limits);
	CHECK(conf_mx_connection_limit(c, mx[1]) > 0);
	CHECK(conf_ip_connection_limit(c, (const struct sockaddr *)&to) > 0);
	(void)conf_job_limits(c, domain);
	(void)conf_sender_limits(c, domain);
	(void)conf_queue_to(c, domain, vmta);
	ask_rollup(c, domain, vmta, mx);
	for (size_t i = 0; i < sizeof scopes / sizeof *scopes * 4; i++) {
		if (conf_limit_find(c, scopes[i / 4], slice_str(names[i % 4]), SLICE_LIT("10.1.2.3"),
				    i / 4 == 5 ? "source-ip-max-msg-rate" : "max-msg-rate", &s))
			CHECK(s.value != NULL && s.file != NULL && s.line > 0);
	}
}

/* What a rule says is whole, and lists name rules that are there. */
static void
ask_rules(const struct conf *c)
{
	const struct conf_provider *providers;
	const struct conf_rule_list *lists;
	const struct conf_rule *rules;
	size_t n = conf_rules(c, &rules), n_lists = conf_rule_lists(c, &lists), n_providers = conf_providers(c, &providers);

	for (size_t i = 0; i < n; i++) {
		const struct conf_rule *r = &rules[i];
		struct buf out = { 0 };

		CHECK(r->pattern != NULL && r->list != NULL && r->file != NULL && r->line > 0);
		CHECK(r->provider < (int)n_providers && r->scope < CONF_RULE_SCOPES && r->stages < 64);
		CHECK(r->after.n == 0 || r->after.window_us > 0);
		CHECK((r->actions.set & 3) != 3); /* both modes */
		CHECK(r->recover == NULL || r->recover->automatic || (r->recover->n > 0 && r->recover->every_us > 0));
		CHECK(conf_rule_find(c, r->key) >= 0 && conf_rule_find(c, r->key) <= (int)i);
		conf_actions_put(&out, &r->actions);
		CHECK((out.len > 0) == (r->actions.set != 0));
		buf_clear(&out);
	}
	for (size_t i = 0; i < n_lists; i++) {
		CHECK(conf_rule_list_find(c, slice_str(lists[i].name)) == (int)i);
		CHECK(lists[i].n_own <= lists[i].n && lists[i].then < (int)n_lists && lists[i].then != (int)i);
		for (unsigned k = 0; k < lists[i].n; k++)
			CHECK(lists[i].rules[k] < n);
	}
}

static void
ask(const struct conf *c)
{
	static const char *const domains[] = { "a.b", "x.a.b", "gmail.com", "[10.1.2.3]", "" };
	const struct sockaddr_in peer = { .sin_family = AF_INET,
					  .sin_addr.s_addr = htonl(0x7f000001) };
	const struct conf_listener *l;
	const struct conf_vmta *v;
	const struct conf_pool *p;
	struct conf_client client;
	size_t n = conf_vmtas(c, &v);

	CHECK(n >= 1 && v[0].n_sources >= 1);
	for (size_t i = 0; i < n && i < 8; i++) {
		for (size_t k = 0; k < sizeof domains / sizeof *domains; k++) {
			struct buf out = { 0 };
			struct conf_queue q;
			struct json j;

			conf_queue(c, slice_str(domains[k]), slice_str(v[i].name), &q);
			CHECK(q.rules < (int)conf_rule_lists(c, &(const struct conf_rule_list *){ NULL }));
			CHECK(q.retry_after.n >= 1 && q.retry_after.n <= RETRY_STEPS_MAX);
			CHECK(q.max_smtp_out >= 1 && q.default_smtp_port >= 1);
			CHECK(q.backoff_retry_after.n >= 1 && q.backoff.max_smtp_out >= 1);
			ask_limits(c, slice_str(domains[k]), slice_str(v[i].name));
			json_init(&j, &out);
			conf_show_settings(c, slice_str(domains[k]), slice_str(v[i].name), &j);
			buf_clear(&out);
		}
		CHECK(conf_vmta_find(c, slice_str(v[i].name)) == (int)i);
	}
	ask_rules(c);
	n = conf_pools(c, &p);
	for (size_t i = 0; i < n; i++)
		CHECK(p[i].n_vmtas >= 1 && conf_pool_find(c, slice_str(p[i].name)) == (int)i);
	n = conf_listeners(c, &l);
	CHECK(n >= 1 && n <= LISTENERS_MAX);
	conf_client(c, (const struct sockaddr *)&peer, l[0].source, &client);
	CHECK(client.max_message_size >= 1 && client.max_message_size <= MESSAGE_BYTES_MAX);
}

/* A queue's name, whoever gave it: what is taken for addresses are some. */
static void
take_apart(struct slice domain)
{
	struct slice base = conf_rollup_base(domain);
	struct buf hosts = { 0 };

	CHECK(base.p + base.n == domain.p + domain.n);
	CHECK(conf_rollup_ips_hosts(domain, &hosts) == (base.n < domain.n));
	CHECK(base.n == domain.n || (conf_is_rollup(base) && hosts.data[0] == '['));
	buf_clear(&hosts);
}

/* libconfig's own words for what it does not take: the scan before it leaves it nothing to say. */
static void
no_words_of_the_library(struct slice report)
{
	static const char *const words[] = { ": syntax error\n", ": duplicate setting name\n",
					     ": mismatched element type in array\n",
					     ": memory exhausted\n" };

	for (size_t i = 0; report.n > 0 && i < sizeof words / sizeof *words; i++)
		CHECK(memmem(report.p, report.n, words[i], strlen(words[i])) == NULL);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buf snapshot = { 0 };
	struct conf_report r = { 0 };
	struct conf *c = NULL;
	size_t lines = 0;
	int rc;

	if (size > 65536)
		return 0;
	take_apart(slice_of(data, size < SMTP_DOMAIN_MAX ? size : SMTP_DOMAIN_MAX));
	conf_snapshot_text(&snapshot, "f", slice_of(data, size));
	rc = conf_parse(buf_slice(&snapshot), &c, &r);
	CHECK((rc == 0) == (r.n_errors == 0) && (rc == 0) == (c != NULL));
	for (size_t i = 0; i < r.text.len; i++)
		lines += buf_slice(&r.text).p[i] == '\n';
	CHECK(r.n_errors + r.n_warnings > CONF_ERRORS_MAX || lines == r.n_errors + r.n_warnings);
	no_words_of_the_library(buf_slice(&r.text));
	if (c != NULL)
		ask(c);
	conf_free(&c);
	conf_report_clear(&r);
	buf_clear(&snapshot);
	return 0;
}
