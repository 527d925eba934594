/* What the core is told with a route: targets, their limits, the provider; and what a reload
 * changes of it. The core's own functions are taken down here instead of called. */
#include <arpa/inet.h>
#include <unistd.h>

#include "tests/unit/conf/fixture.h"

#define core_route               told_route
#define core_route_targets       told_targets
#define core_route_target_limits told_target_limits
#define core_route_provider      told_provider
#define core_routes_void         told_void
#define rollups_route            told_rollup
#define rollups_reconfigured     told_rollups
#define anchors_route            told_anchor
#define anchors_forget           told_forget
#define dispatch_ops             told_ops
#define scheduler_now            told_now
#define proc_heritage            told_heritage
#include "scheduler/routes.c"

struct told {
	char order[200]; /* the calls, a letter each */
	uint32_t queue, provider;
	char name[100];
	struct core_target_limits limits[ROUTE_TARGETS_MAX];
	uint16_t n_limits;
	bool rolled_up; /* so is said of each queue */
};
static struct told told;

static void
note(char call, uint32_t queue)
{
	size_t n = strlen(told.order);

	assert_true(n + 1 < sizeof told.order);
	told.order[n] = call;
	told.queue = queue;
}

void
told_route(struct core *c, const struct core_now *now, uint32_t queue, unsigned status,
	   uint32_t slot, uint64_t generation, uint16_t n_targets, uint64_t expires_boot_us,
	   const char *text)
{
	(void)c, (void)now, (void)status, (void)slot, (void)generation, (void)n_targets,
		(void)text;
	assert_int_equal(expires_boot_us, 66);
	note('R', queue);
}

void
told_targets(struct core *c, uint32_t queue, const struct core_target *targets, uint16_t n)
{
	(void)c, (void)targets, (void)n;
	note('T', queue);
}

void
told_target_limits(struct core *c, uint32_t queue, const struct core_target_limits *limits,
		   uint16_t n)
{
	(void)c;
	note('L', queue);
	memcpy(told.limits, limits, n * sizeof *limits);
	told.n_limits = n;
}

void
told_provider(struct core *c, const struct core_now *now, uint32_t queue, uint32_t provider,
	      struct slice name)
{
	(void)c, (void)now;
	note('P', queue);
	told.provider = provider;
	str_copy(told.name, sizeof told.name, name);
}

void
told_void(struct core *c, const struct core_now *now)
{
	(void)c, (void)now;
	note('V', 0);
}

bool
told_rollup(struct scheduler *s, uint32_t queue, const struct route *r, uint64_t *until_boot_us)
{
	(void)s;
	assert_int_equal(*until_boot_us, 77);
	*until_boot_us = 66;
	assert_true(queue > 0 && r->n_targets > 0);
	return told.rolled_up;
}

void
told_rollups(struct scheduler *s)
{
	(void)s;
	note('U', 0);
}

void
told_anchor(struct scheduler *s, uint32_t number, unsigned status, const struct route *r,
	    uint64_t until_boot_us)
{
	(void)s, (void)until_boot_us;
	assert_true(r != NULL && status == ROUTE_GOOD);
	note('A', number);
}

void
told_forget(struct scheduler *s)
{
	(void)s;
	note('F', told.queue);
}

static const struct conf_queue *
told_settings(void *ctx, uint32_t queue, struct slice name)
{
	static struct conf_queue q = { .default_smtp_port = 25 };

	(void)ctx, (void)name;
	q.smtp_hosts = queue == 2 ? "hand.test;b.test" : NULL;
	return &q;
}

const struct core_ops told_ops = { .settings = told_settings };

struct core_now
told_now(const struct scheduler *s)
{
	(void)s;
	return (struct core_now){ 1, 1 };
}

struct heritage *
told_heritage(struct proc *p)
{
	static struct heritage h = { .conf_generation = 1 };

	(void)p;
	return &h;
}

/* ---------------------------------------------------------------------------------------------- */
struct world {
	struct scheduler s;
	struct route_object *resolver;
	int fd;
	uint64_t generation;
	bool rolled_up;
};

static struct world *
world_new(const char *conf)
{
	struct world *w = mem_zalloc(sizeof *w);

	memset(&told, 0, sizeof told);
	w->s.conf = parsed(conf);
	w->s.providers = providers_new();
	w->fd = route_object_create();
	assert_int_equal(route_object_map(&w->resolver, w->fd, true), 0);
	assert_int_equal(route_object_map(&w->s.routes, w->fd, false), 0);
	return w;
}

static void
drop(const struct conf *conf)
{
	struct conf *c = (struct conf *)(uintptr_t)conf;

	conf_free(&c);
}

static void
world_free(struct world *w)
{
	drop(w->s.conf);
	providers_free(&w->s.providers);
	route_object_unmap(&w->s.routes);
	route_object_unmap(&w->resolver);
	close(w->fd);
	target_names_free(&w->s.target_names);
	mem_free(w);
}

/* A route of "HOST ADDRESS" each, all of one preference, named `best`. */
static void
route(struct world *w, uint32_t queue, const char *const *hosts, const char *best)
{
	static struct route r;
	struct message m = { .kind = MESSAGE_ROUTE };

	memset(&r, 0, sizeof r);
	r.generation = ++w->generation;
	for (; *hosts != NULL; hosts++) {
		struct sockaddr_in *in = (void *)&r.targets[r.n_targets].addr;
		struct slice address = slice_str(*hosts), host = slice_cut(&address, ' ');

		in->sin_family = AF_INET;
		in->sin_port = htons(
			(uint16_t)(2525 + w->generation)); /* an address is one at all its ports */
		assert_int_equal(inet_pton(AF_INET, address.p, &in->sin_addr), 1);
		str_copy(r.hosts[r.n_hosts], ROUTE_HOST_BYTES, host);
		r.targets[r.n_targets++].mx = r.n_hosts++;
	}
	str_copy(r.best, sizeof r.best, slice_str(best));
	route_put(w->resolver, 3, &r);
	m.u.route.token = 1ull << 32 | queue;
	m.u.route.slot = 3;
	m.u.route.generation = r.generation;
	m.u.route.n_targets = r.n_targets;
	m.u.route.expires_boot_us = 77;
	memset(&told, 0, sizeof told);
	told.rolled_up = w->rolled_up;
	on_route(&w->s, &m, SLICE_NONE);
}

static const char *const two[] = { "MX1.google.com 192.0.2.1", "mx2.google.com 192.0.2.2", NULL };
static const char *const other[] = { "mx1.GOOGLE.com 192.0.2.2", NULL };

static void
test_told_in_order(void **state)
{
	struct world *w =
		world_new("providers = ( { name = \"google\"; mx = \"*.google.com\"; } );");
	uint32_t google, hosts;

	(void)state;
	route(w, 7, two, "mx1.google.com,mx2.google.com");
	assert_string_equal(told.order, "TLPR"); /* the provider just before the route */
	assert_int_equal(told.queue, 7);
	assert_string_equal(told.name, "google");
	google = told.provider;
	route(w, 8, other, "mx1.google.com");
	assert_int_equal(told.provider, google);
	/* two domains of one host; another MX, another provider */
	route(w, 9, other, "mx.example");
	assert_string_equal(told.name, "mx.example");
	hosts = told.provider;
	route(w, 10, two, "mx.example");
	assert_int_equal(told.provider, hosts);
	assert_int_not_equal(hosts, google);
	route(w, 10, two, "mx1.google.com,mx2.google.com");
	assert_int_equal(told.provider, google);
	/* no name at all */
	route(w, 11, two, "");
	assert_true(told.provider == CORE_NONE);
	/* its mail is another queue's: it is told nothing of hosts */
	w->rolled_up = true;
	route(w, 7, two, "mx1.google.com,mx2.google.com");
	assert_string_equal(told.order, "");
	world_free(w);
}

static void
test_target_limits(void **state)
{
	struct world *w = world_new("mx-connection-limit = [ \"mx1.google.com 4\" ];\n"
				    "ip-connection-limit = [ \"192.0.2.2 5\" ];\n");
	struct core_target_limits first[2];

	(void)state;
	route(w, 7, two, "x");
	assert_int_equal(told.n_limits, 2);
	memcpy(first, told.limits, sizeof first);
	assert_int_equal(first[0].mx_limit, 4);
	assert_int_equal(first[0].ip_limit, 0);
	assert_int_equal(first[1].mx_limit, 0);
	assert_int_equal(first[1].ip_limit, 5);
	assert_true(first[0].mx_id != first[1].mx_id && first[0].ip_id != first[1].ip_id);
	assert_true(first[0].ip_id != 0);
	/* the same host, whatever its case; the same address of another host */
	route(w, 8, other, "x");
	assert_true(told.limits[0].mx_id == first[0].mx_id);
	assert_true(told.limits[0].ip_id == first[1].ip_id);
	assert_int_equal(told.limits[0].mx_limit, 4);
	assert_int_equal(told.limits[0].ip_limit, 5);
	world_free(w);
}

static void
reload(struct world *w, const char *text)
{
	const struct conf *old = w->s.conf;

	memset(&told, 0, sizeof told);
	w->s.conf = parsed(text);
	routes_reconfigured(&w->s, old);
	drop(old);
}

static void
test_reload(void **state)
{
	static const char
		none[] = "",
		rollups[] = "mx-rollup-list = { mx = \"mx1.google.com a.rollup\"; };",
		google[] = "providers = ( { name = \"google\"; mx = \"*.google.com\"; } );",
		limited[] = "providers = ( { name = \"google\"; mx = \"*.google.com\"; "
			    "max-smtp-out = 3; } );\n"
			    "mx-connection-limit = \"* 4\";",
		more[] = "providers = ( { name = \"google\"; mx = \"*.google.com\"; } );\n"
			 "mx-connection-limit = \"*  4\"; ip-connection-limit = \"0/0 4\";";
	struct world *w = world_new(none);

	(void)state;
	route(w, 7, two, "mx1.google.com,mx2.google.com");
	route(w, 9, two, "mx.example");
	reload(w, google);
	assert_string_equal(told.order,
			    "PF"); /* the one queue that it is about, without asking DNS */
	assert_int_equal(told.queue, 7);
	assert_string_equal(told.name, "google");
	reload(w, limited);
	assert_string_equal(told.order, "VF");
	reload(w, limited);
	assert_string_equal(told.order, "F");
	reload(w, more);
	assert_string_equal(told.order, "VF");
	reload(w, none);
	assert_string_equal(told.order, "PVF");
	assert_string_equal(told.name, "mx1.google.com,mx2.google.com");
	/* a list of rollups comes, goes on and goes */
	reload(w, rollups);
	assert_string_equal(told.order, "VUF");
	reload(w, rollups);
	assert_string_equal(told.order, "VUF");
	reload(w, none);
	assert_string_equal(told.order, "VUF");
	world_free(w);
}

/* Answers that are not for the core. */
static void
test_flags(void **state)
{
	struct world *w = world_new("");

	(void)state;
	route(w, ROUTES_ANCHOR | 3, two, "x");
	assert_string_equal(told.order, "A");
	assert_int_equal(told.queue, 3);
	route(w, ROUTES_ROLLUP | 7, two, "x");
	assert_string_equal(told.order, "");
	w->rolled_up = true;
	route(w, ROUTES_ROLLUP | 7, two, "x");
	assert_string_equal(told.order, "");
	world_free(w);
}

/* What the resolver is asked: smtp-hosts first, whatever the queue is called. */
static void
test_key(void **state)
{
	static const struct {
		uint32_t queue;
		const char *name, *key; /* '!': it cannot be asked */
	} rows[] = {
		{ 1, "a.test/v", "a.test\n25" },
		{ 2, "a.test/v", "=hand.test;b.test\n25" },
		{ 1, "m.rollup/v", "=m1.test,m2.test\n25" },
		{ 1, "10.0.0.1+10.0.0.2+2001:db8::1.m.rollup/v",
		  "=[10.0.0.1],[10.0.0.2];[IPv6:2001:db8::1]\n25" },
		{ 2, "10.0.0.1.m.rollup/v", "=hand.test;b.test\n25" },
		{ 1, "10.0.0.1.gone.rollup/v", "=[10.0.0.1]\n25" }, /* no such entry any more */
		{ 1, "gone.rollup/v", "!" },
		{ 1, "10.0.0.rollup/v", "!" },
	};
	struct world *w = world_new("mx-rollup-list = { mx = [ \"m1.test m.rollup rollup-by-ip\", "
				    "\"m2.test m.rollup\" ]; };");
	struct buf key = { 0 };

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		const char *why = make_key(&w->s, rows[i].queue, slice_str(rows[i].name), &key);

		if ((why != NULL) != (rows[i].key[0] == '!') ||
		    (why == NULL && !slice_is(buf_slice(&key), rows[i].key)))
			fail_msg("%s: %.*s", rows[i].name, (int)key.len, key.data);
	}
	buf_clear(&key);
	world_free(w);
}

/* Its hosts are addresses: the names of its list say whose they are. */
static void
test_provider_by_ip(void **state)
{
	static const char *const address[] = { "[192.0.2.1] 192.0.2.1", NULL };
	static const struct {
		const char *queue, *provider;
	} rows[] = {
		{ "192.0.2.1.g.rollup/v", "google" },
		{ "192.0.2.1.both.rollup/v", "*.google.com,mx.example" }, /* not all of its hosts */
		{ "192.0.2.1.gone.rollup/v", "[192.0.2.1]" },
		{ "g.rollup/v", "[192.0.2.1]" }, /* with smtp-hosts */
	};
	struct world *w = world_new(
		"providers = ( { name = \"google\"; mx = \"*.google.com\"; } );\n"
		"mx-rollup-list = { mx = [ \"*.mx.google.com g.rollup rollup-by-ip\", \"mx.google.com "
		"g.rollup\",\n \"*.google.com both.rollup rollup-by-ip\", \"mx.example both.rollup\" ]; };");
	bool is_new;

	(void)state;
	w->s.names = names_new();
	for (size_t i = 0; i < N_OF(rows); i++) {
		route(w, names_number(w->s.names, slice_str(rows[i].queue), &is_new), address,
		      "[192.0.2.1]");
		assert_string_equal(told.name, rows[i].provider);
	}
	names_free(&w->s.names);
	buf_clear(&w->s.payload);
	world_free(w);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_told_in_order),
		cmocka_unit_test(test_target_limits),
		cmocka_unit_test(test_reload),
		cmocka_unit_test(test_flags),
		cmocka_unit_test(test_key),
		cmocka_unit_test(test_provider_by_ip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
