/* resolver: over a real channel, with a real name server (nsd) behind libunbound. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/proc/route.h"
#include "resolver/resolver.h"
#include "tests/lib/child.h"

#define ANSWERS_MAX 2048

static char dir[64];
static pid_t nsd_pid;
static char server[64]; /* "127.0.0.1@PORT" */

static const char zone_head[] =
	"$ORIGIN test.\n$TTL 300\n"
	"@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n"
	"good MX 10 mx1.good\ngood MX 20 mx2.good\n"
	"mx1.good A 192.0.2.1\nmx1.good A 192.0.2.2\nmx1.good AAAA 2001:db8::1\nmx2.good A "
	"192.0.2.3\n"
	"implicit A 192.0.2.10\nimplicit AAAA 2001:db8::10\n"
	"nullmx MX 0 .\nnullmx A 192.0.2.11\n"
	"dotplus MX 0 .\ndotplus MX 10 mx2.good\n"
	"dead MX 10 nowhere\ndead A 192.0.2.12\n"
	"nomx TXT \"x\"\n"
	"alias CNAME good\n"
	"c1 CNAME c2\nc2 CNAME c3\nc3 CNAME c4\nc4 CNAME c5\nc5 CNAME c6\nc6 CNAME c7\nc7 CNAME "
	"c8\n"
	"c8 CNAME good\nloop1 CNAME loop2\nloop2 CNAME loop1\n"
	"cnamemx MX 10 mxalias\nmxalias CNAME mx2.good\n"
	"literal MX 10 192.0.2.55.\nliteral2 MX 10 192.0.2.55.\nliteral2 MX 20 mx2.good\n"
	"self MX 5 better\nself MX 10 me\nself MX 10 peer\nself MX 20 worse\nbetter A 192.0.2.20\n"
	"me A 192.0.2.21\npeer A 192.0.2.22\nworse A 192.0.2.23\nonlyself MX 10 me\nonlyself MX 20 "
	"worse\n"
	"otherport MX 10 notme\nnotme A 192.0.2.24\n"
	"equal MX 10 e1\nequal MX 10 e2\nequal MX 10 e3\ne1 A 192.0.2.31\ne2 A 192.0.2.32\ne3 A "
	"192.0.2.33\n"
	"mixed MX 10 x.servfail\nmixed MX 20 mx2.good\nonlybroken MX 10 x.servfail\n"
	"weird MX 10 a\\032b\nweird MX 20 mx2.good\n"
	"short 1 MX 10 shorthost\nshorthost 1 A 192.0.2.40\n"
	"long 604800 MX 10 longhost\nlonghost 604800 A 192.0.2.41\n";

static void
put_file(const char *name, const char *text)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof path, "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static int
udp_socket(int *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof a;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (bind(fd, (struct sockaddr *)&a, n) != 0 ||
	    getsockname(fd, (struct sockaddr *)&a, &n) != 0)
		return -1;
	*port = ntohs(a.sin_port);
	return fd;
}

/* A port that is free for both. */
static int
free_port(void)
{
	for (int i = 0; i < 100; i++) {
		struct sockaddr_in a = { .sin_family = AF_INET,
					 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
		int port, udp = udp_socket(&port),
			  tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		bool is_free;

		a.sin_port = htons((uint16_t)port);
		is_free = udp >= 0 && bind(tcp, (struct sockaddr *)&a, sizeof a) == 0;
		close(tcp);
		close(udp);
		if (is_free)
			return port;
	}
	return -1;
}

/* True when something answers at the port. */
static bool
answers(int port)
{
	static const unsigned char query[] = { 0, 1, 0,   0,   0,   1,   0, 0, 0, 0, 0,
					       0, 4, 't', 'e', 's', 't', 0, 0, 6, 0, 1 };
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_port = htons((uint16_t)port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct timeval tv = { 0, 50000 };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	char reply[512];
	bool got;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
	got = connect(fd, (struct sockaddr *)&a, sizeof a) == 0 &&
	      send(fd, query, sizeof query, 0) > 0 && recv(fd, reply, sizeof reply, 0) > 12;
	close(fd);
	if (!got)
		usleep(20000);
	return got;
}

static void
put_zones(void)
{
	char *zone = NULL;
	size_t zone_bytes = 0;
	FILE *f = open_memstream(&zone, &zone_bytes);

	fputs(zone_head, f);
	for (int i = 0; i < 30; i++)
		fprintf(f, "many MX %d m%d\nm%d A 192.0.2.%d\n", 100 - i, i, i, 100 + i);
	for (int i = 0; i < 60; i++) /* too large for UDP */
		fprintf(f, "large MX %d a-rather-long-name-for-a-host-number-%d.large\n", i, i);
	fputs("a-rather-long-name-for-a-host-number-7.large A 192.0.2.50\n", f);
	for (int i = 0; i < 40; i++)
		fprintf(f, "addresses A 198.51.100.%d\naddresses AAAA 2001:db8::%x\n", i + 1,
			i + 1);
	for (int i = 0; i < 1000; i++)
		fprintf(f, "d%d MX 10 mx1.good\n", i);
	fclose(f);
	put_file("test.zone", zone);
	free(zone);
	put_file("invalid.zone",
		 "$ORIGIN invalid.\n$TTL 300\n@ SOA ns h 1 3600 600 86400 60\n@ NS ns\n"
		 "ns A 127.0.0.1\nmail MX 10 ns\n");
}

/* False: it can not listen there, somebody came before it; or it does not answer. */
static bool
nsd_at(int port)
{
	char text[4096];

	snprintf(text, sizeof text,
		 "server:\n port: %d\n ip-address: 127.0.0.1\n username: \"\"\n chroot: \"\"\n "
		 "zonesdir: \"%s\"\n"
		 " pidfile: \"%s/pid\"\n logfile: \"%s/log\"\n database: \"\"\n xfrdfile: "
		 "\"%s/xfrd\"\n"
		 " zonelistfile: \"%s/zonelist\"\n xfrdir: \"%s\"\n server-count: 1\n "
		 "rrl-ratelimit: 0\n"
		 "remote-control:\n control-enable: no\n"
		 "zone:\n name: test\n zonefile: test.zone\n"
		 "zone:\n name: invalid\n zonefile: invalid.zone\n"
		 "zone:\n name: servfail.test\n zonefile: missing.zone\n",
		 port, dir, dir, dir, dir, dir, dir);
	put_file("nsd.conf", text);
	snprintf(text, sizeof text, "%s/nsd.conf", dir);
	nsd_pid = child_fork();
	if (nsd_pid == 0) {
		execl("/usr/sbin/nsd", "nsd", "-d", "-c", text, (char *)NULL);
		_exit(127);
	}
	for (int i = 0; i < 2000 && nsd_pid != 0; i++) {
		if (answers(port))
			return true;
		if (waitpid(nsd_pid, NULL, WNOHANG) != 0)
			nsd_pid = 0;
	}
	if (nsd_pid != 0) {
		kill(nsd_pid, SIGKILL);
		waitpid(nsd_pid, NULL, 0);
		nsd_pid = 0;
	}
	return false;
}

static int
start_nsd(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_resolver.XXXXXX");
	if (mkdtemp(dir) == NULL)
		return -1;
	put_zones();
	for (int i = 0; i < 5; i++) {
		int port = free_port();

		snprintf(server, sizeof server, "127.0.0.1@%d", port);
		if (port > 0 && nsd_at(port))
			return 0;
	}
	fputs("nsd does not answer\n", stderr);
	return -1;
}

static int
stop_nsd(void **state)
{
	static const char *const names[] = { "nsd.conf", "test.zone", "invalid.zone", "pid",
					     "log",      "xfrd",      "zonelist" };
	char path[128];

	(void)state;
	if (nsd_pid > 0) {
		kill(nsd_pid, SIGTERM);
		waitpid(nsd_pid, NULL, 0);
	}
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		snprintf(path, sizeof path, "%s/%s", dir, names[i]);
		unlink(path);
	}
	rmdir(dir);
	return 0;
}

/* The world around the resolver: a loop with both ends of the channel on it.
 * ------------------------ */

struct world {
	struct loop *loop;
	struct resolver *resolver;
	struct channel *scheduler;
	struct route_object *routes;
	int routes_fd;
	struct sockaddr_storage own[2];
	struct timer limit;
	bool late;
	unsigned wanted, n;
	struct message answers[ANSWERS_MAX];
	char texts[ANSWERS_MAX][256];
};

static void
on_answers(void *arg)
{
	struct world *w = arg;
	struct message m;
	struct slice payload;

	while (channel_recv(w->scheduler, &m, &payload) > 0) {
		assert_int_equal(m.kind, MESSAGE_ROUTE);
		assert_true(w->n < ANSWERS_MAX);
		str_copy(w->texts[w->n], sizeof w->texts[0], payload);
		w->answers[w->n++] = m;
	}
	if (w->n >= w->wanted)
		loop_stop(w->loop);
}

static void
on_limit(void *arg)
{
	struct world *w = arg;

	w->late = true;
	loop_stop(w->loop);
}

static void
turn(void *arg)
{
	struct world *w = arg;

	resolver_turn(w->resolver);
	if (w->scheduler != NULL)
		channel_flush(w->scheduler);
}

static void
connect_channel(struct world *w)
{
	struct channel_fds a, b;

	assert_int_equal(channel_create(&a), 0);
	b.memfd = fcntl(a.memfd, F_DUPFD_CLOEXEC, 3);
	b.wake_scheduler = fcntl(a.wake_scheduler, F_DUPFD_CLOEXEC, 3);
	b.wake_other = fcntl(a.wake_other, F_DUPFD_CLOEXEC, 3);
	channel_close(&w->scheduler);
	assert_int_equal(channel_open(&w->scheduler, &a, 'S', w->loop, on_answers, w), 0);
	resolver_channel(w->resolver, &b);
}

static struct world *
world_new(const char *name_server, uint64_t timeout_us)
{
	struct world *w = mem_zalloc(sizeof *w);
	struct sockaddr_in *own = (struct sockaddr_in *)&w->own[0];
	struct resolver_options o = {
		.name_server = name_server, .starts = 7, .seed = 1, .timeout_us = timeout_us
	};

	own->sin_family = AF_INET;
	own->sin_port = htons(25);
	inet_pton(AF_INET, "192.0.2.21", &own->sin_addr);
	w->own[1] = w->own[0];
	own = (struct sockaddr_in *)&w->own[1];
	own->sin_port = htons(2525);
	inet_pton(AF_INET, "192.0.2.24", &own->sin_addr);
	w->loop = loop_new();
	w->routes_fd = route_object_create();
	assert_true(w->routes_fd >= 0);
	assert_int_equal(route_object_map(&w->routes, w->routes_fd, 0), 0);
	o.routes_fd = w->routes_fd;
	o.own = w->own;
	o.n_own = 2;
	assert_int_equal(resolver_open(&w->resolver, w->loop, &o), 0);
	connect_channel(w);
	loop_set_turn_end(w->loop, turn, w);
	timer_init(&w->limit, w->loop, on_limit, w);
	return w;
}

static void
world_free(struct world *w)
{
	channel_close(&w->scheduler);
	resolver_close(&w->resolver);
	route_object_unmap(&w->routes);
	close(w->routes_fd);
	timer_clear(&w->limit);
	loop_free(&w->loop);
	mem_free(w);
}

static void
send_ask(struct world *w, uint64_t token, const char *key)
{
	struct message m = { .kind = MESSAGE_ASK };

	m.u.ask.token = token;
	assert_int_equal(channel_send(w->scheduler, &m, slice_str(key)), 0);
	channel_flush(w->scheduler);
}

static void
await(struct world *w, unsigned n)
{
	w->wanted = n;
	w->late = false;
	timer_set(&w->limit, 10000000);
	if (w->n < n)
		loop_run(w->loop);
	timer_stop(&w->limit);
	assert_false(w->late);
}

/* Asks one key; the answer is in answers[0], its route in *r. */
static const struct message *
ask(struct world *w, const char *key, struct route *r)
{
	w->n = 0;
	send_ask(w, 42, key);
	await(w, 1);
	assert_int_equal(w->n, 1);
	assert_int_equal(w->answers[0].u.route.token, 42);
	assert_int_equal(route_get(w->routes, w->answers[0].u.route.slot,
				   w->answers[0].u.route.generation, r),
			 0);
	assert_int_equal(r->status, w->answers[0].u.route.status);
	assert_int_equal(r->n_targets, w->answers[0].u.route.n_targets);
	assert_int_equal(r->expires_boot_us, w->answers[0].u.route.expires_boot_us);
	return &w->answers[0];
}

/* "10 mx1.good.test 192.0.2.1:25|..." ; the addresses of one host sorted, for their order is
 * random. */
static int
by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void
describe(const struct route *r, char *dst, size_t bytes)
{
	char lines[ROUTE_TARGETS_MAX][400], *sorted[ROUTE_TARGETS_MAX];
	unsigned from = 0;

	dst[0] = '\0';
	for (unsigned i = 0; i < r->n_targets; i++) {
		const struct sockaddr_storage *a = &r->targets[i].addr;
		char text[INET6_ADDRSTRLEN];
		bool v4 = a->ss_family == AF_INET;

		inet_ntop(a->ss_family,
			  v4 ? (const void *)&((const struct sockaddr_in *)a)->sin_addr
			     : (const void *)&((const struct sockaddr_in6 *)a)->sin6_addr,
			  text, sizeof text);
		snprintf(lines[i], sizeof lines[i], "%u %s %s:%u|", r->targets[i].preference,
			 r->hosts[r->targets[i].mx], text,
			 ntohs(v4 ? ((const struct sockaddr_in *)a)->sin_port
				  : ((const struct sockaddr_in6 *)a)->sin6_port));
		sorted[i] = lines[i];
	}
	for (unsigned i = 0; i <= r->n_targets; i++) {
		if (i < r->n_targets && r->targets[i].mx == r->targets[from].mx)
			continue;
		qsort(sorted + from, i - from, sizeof *sorted, by_text);
		for (; from < i; from++)
			strncat(dst, sorted[from], bytes - strlen(dst) - 1);
	}
}

static void
test_answers(void **state)
{
	// clang-format off
	static const struct {
		const char *key;
		enum route_status status;
		const char *targets;
		const char *text;
	} rows[] = {
		{ "good.test", ROUTE_GOOD, "10 mx1.good.test 192.0.2.1:25|10 mx1.good.test 192.0.2.2:25|"
					   "10 mx1.good.test 2001:db8::1:25|20 mx2.good.test 192.0.2.3:25|", "" },
		{ "good.test\n2525", ROUTE_GOOD, "10 mx1.good.test 192.0.2.1:2525|10 mx1.good.test 192.0.2.2:2525|"
					   "10 mx1.good.test 2001:db8::1:2525|20 mx2.good.test 192.0.2.3:2525|", "" },
		{ "implicit.test", ROUTE_GOOD, "0 implicit.test 192.0.2.10:25|0 implicit.test 2001:db8::10:25|", "" },
		{ "nullmx.test", ROUTE_NULL_MX, "", "null MX" },
		{ "dotplus.test", ROUTE_GOOD, "10 mx2.good.test 192.0.2.3:25|", "" },
		{ "dead.test", ROUTE_UNUSABLE, "", "dead.test" },
		{ "nomx.test", ROUTE_NO_MX, "", "nomx.test" },
		{ "nothere.test", ROUTE_NO_DOMAIN, "", "nothere.test: no such domain" },
		{ "x.servfail.test", ROUTE_TEMPORARY, "", "MX of x.servfail.test: SERVFAIL" },
		{ "unknown.example", ROUTE_TEMPORARY, "", "MX of unknown.example: " }, /* refused by nsd */
		{ "alias.test", ROUTE_GOOD, "10 mx1.good.test 192.0.2.1:25|10 mx1.good.test 192.0.2.2:25|"
					   "10 mx1.good.test 2001:db8::1:25|20 mx2.good.test 192.0.2.3:25|", "" },
		{ "c1.test\n26", ROUTE_GOOD, "10 mx1.good.test 192.0.2.1:26|10 mx1.good.test 192.0.2.2:26|"
					   "10 mx1.good.test 2001:db8::1:26|20 mx2.good.test 192.0.2.3:26|", "" },
		{ "loop1.test", ROUTE_TEMPORARY, "", "loop1.test" },
		{ "cnamemx.test", ROUTE_GOOD, "10 mxalias.test 192.0.2.3:25|", "" },
		{ "literal.test", ROUTE_UNUSABLE, "", "literal.test" },
		{ "literal2.test", ROUTE_GOOD, "20 mx2.good.test 192.0.2.3:25|", "" },
		{ "self.test", ROUTE_GOOD, "5 better.test 192.0.2.20:25|", "" },
		{ "onlyself.test", ROUTE_LOOP, "", "back to this host" },
		{ "onlyself.test\n26", ROUTE_GOOD, "10 me.test 192.0.2.21:26|20 worse.test 192.0.2.23:26|", "" },
		{ "otherport.test", ROUTE_GOOD, "10 notme.test 192.0.2.24:25|", "" },
		{ "mixed.test", ROUTE_GOOD, "20 mx2.good.test 192.0.2.3:25|", "" },
		{ "onlybroken.test", ROUTE_TEMPORARY, "", "address of x.servfail.test: SERVFAIL" },
		{ "weird.test", ROUTE_GOOD, "20 mx2.good.test 192.0.2.3:25|", "" },
		{ "large.test", ROUTE_GOOD, "7 a-rather-long-name-for-a-host-number-7.large.test 192.0.2.50:25|", "" },
		{ "mail.invalid", ROUTE_GOOD, "10 ns.invalid 127.0.0.1:25|", "" },
		{ "GOOD.Test", ROUTE_GOOD, "10 mx1.good.test 192.0.2.1:25|10 mx1.good.test 192.0.2.2:25|"
					   "10 mx1.good.test 2001:db8::1:25|20 mx2.good.test 192.0.2.3:25|", "" },
		{ "[192.0.2.9]", ROUTE_GOOD, "0 [192.0.2.9] 192.0.2.9:25|", "" },
		{ "=127.0.0.1:2600", ROUTE_GOOD, "0 127.0.0.1 127.0.0.1:2600|", "" },
		{ "=mx2.good.test:2626\n2525", ROUTE_GOOD, "0 mx2.good.test 192.0.2.3:2626|", "" },
		{ "=[192.0.2.21]:25", ROUTE_GOOD, "0 [192.0.2.21]:25 192.0.2.21:25|", "" }, /* by hand: as told */
		{ "=[192.0.2.77];mx2.good.test,[IPv6:2001:db8::5]:99;lookup-mx:good.test\n2525", ROUTE_GOOD, NULL, "" },
		{ "=nowhere.test;e1.test", ROUTE_GOOD, "1 e1.test 192.0.2.31:25|", "" },
		{ "=lookup-mx:nullmx.test;e1.test", ROUTE_GOOD, "0 e1.test 192.0.2.31:25|", "" },
		{ "=nowhere.test", ROUTE_UNUSABLE, "", "nowhere.test" },
		{ "=lookup-mx:nothere.test", ROUTE_NO_DOMAIN, "", "nothere.test" },
		{ "=lookup-mx:x.servfail.test,nowhere.test", ROUTE_TEMPORARY, "", "MX of x.servfail.test" },
		{ "=", ROUTE_NO_DOMAIN, "", "not a name" },
		{ "", ROUTE_NO_DOMAIN, "", "not a name" },
		{ "a..test", ROUTE_NO_DOMAIN, "", "a..test" },
		{ "bad name.test", ROUTE_NO_DOMAIN, "", "not a name" },
		{ "good.test\n70000", ROUTE_NO_DOMAIN, "", "not a name" },
	};
	// clang-format on
	struct world *w = world_new(server, 0);
	char got[8192];
	struct route r;

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		const struct message *m = ask(w, rows[i].key, &r);

		if (r.status != rows[i].status || strstr(w->texts[0], rows[i].text) == NULL)
			fail_msg("%s: status %d, text \"%s\"", rows[i].key, r.status, w->texts[0]);
		assert_int_equal(m->u.route.generation >> 32, 7);
		describe(&r, got, sizeof got);
		if (rows[i].targets != NULL && strcmp(got, rows[i].targets) != 0)
			fail_msg("%s: %s", rows[i].key, got);
		assert_true((r.status == ROUTE_GOOD) == (w->texts[0][0] == '\0'));
	}
	ask(w, rows[30].key, &r);
	describe(&r, got, sizeof got);
	assert_int_equal(strncmp(got, "0 [192.0.2.77] 192.0.2.77:2525|1 ", 33), 0);
	assert_non_null(strstr(got, "1 [IPv6:2001:db8::5]:99 2001:db8::5:99|"));
	assert_non_null(strstr(got, "1 mx2.good.test 192.0.2.3:2525|"));
	assert_non_null(
		strstr(got, "2 mx1.good.test 2001:db8::1:2525|3 mx2.good.test 192.0.2.3:2525|"));
	world_free(w);
}

static void
test_bounds(void **state)
{
	struct world *w = world_new(server, 0);
	struct route r;

	(void)state;
	ask(w, "many.test", &r);
	assert_int_equal(r.n_hosts, ROUTE_MX_MAX);
	assert_int_equal(r.targets[0].preference, 71); /* the best ones stay */
	assert_int_equal(r.targets[ROUTE_MX_MAX - 1].preference, 71 + ROUTE_MX_MAX - 1);
	ask(w, "addresses.test", &r);
	if (r.n_targets == 0)
		fail_msg("addresses.test: %s", w->texts[0]);
	assert_int_equal(r.n_targets, 16);
	assert_int_equal(r.targets[0].addr.ss_family, AF_INET);
	assert_int_equal(r.targets[15].addr.ss_family, AF_INET6);
	world_free(w);
}

/* What tells which domains go to the same hosts: those of the lowest preference, with an address or
 * not. */
static void
test_best_hosts(void **state)
{
	static const struct {
		const char *key, *best;
	} rows[] = {
		{ "good.test", "mx1.good.test" },
		{ "alias.test\n2525", "mx1.good.test" },
		{ "equal.test", "e1.test,e2.test,e3.test" },
		{ "implicit.test", "implicit.test" },
		{ "mixed.test", "x.servfail.test" },
		{ "dotplus.test", "mx2.good.test" },
		{ "=mx2.good.test,MX1.good.test;e1.test\n25", "mx1.good.test,mx2.good.test" },
		{ "=lookup-mx:equal.test\n25", "e1.test,e2.test,e3.test" },
		{ "=[192.0.2.77];e1.test\n25", "[192.0.2.77]" },
	};
	struct world *w = world_new(server, 0);
	struct route r;

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		ask(w, rows[i].key, &r);
		if (strcmp(r.best, rows[i].best) != 0)
			fail_msg("%s: %s", rows[i].key, r.best);
	}
	world_free(w);
}

/* Each of three equal hosts is first about equally often: chi-square, two degrees of freedom, p <
 * 10^-6. */
static void
test_equal_preferences(void **state)
{
	struct world *w = world_new(server, 0);
	unsigned first[3] = { 0 }, expected = 200;
	double chi = 0;
	struct route r;

	(void)state;
	for (unsigned i = 0; i < 3 * expected; i++) {
		char key[32];

		snprintf(key, sizeof key, "equal.test\n%u",
			 1000 + i); /* each a lookup of its own */
		ask(w, key, &r);
		assert_int_equal(r.n_targets, 3);
		first[r.hosts[0][1] - '1']++;
	}
	for (int i = 0; i < 3; i++)
		chi += ((double)first[i] - expected) * ((double)first[i] - expected) / expected;
	assert_true(chi < 27.6);
	world_free(w);
}

static void
test_ttl_and_cache(void **state)
{
	static const struct {
		const char *key;
		uint64_t ttl_s;
	} rows[] = {
		{ "short.test", 30 },   { "long.test", 86400 },   { "good.test", 300 },
		{ "nothere.test", 60 }, { "x.servfail.test", 5 }, { "nullmx.test", 300 },
	};
	struct world *w = world_new(server, 0);
	struct stat_resolver stat;
	struct route r, r2;

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		uint64_t before = clock_boot_us();

		ask(w, rows[i].key, &r);
		assert_in_range(r.expires_boot_us, before + (rows[i].ttl_s - 2) * 1000000u,
				clock_boot_us() + rows[i].ttl_s * 1000000u);
		ask(w, rows[i].key, &r2);
		assert_int_equal(r.generation, r2.generation); /* of the cache */
	}
	resolver_stat(w->resolver, &stat);
	assert_int_equal(stat.lookups, 6);
	assert_int_equal(stat.answered, 12);
	assert_int_equal(stat.failed, 1);
	assert_int_equal(stat.inflight, 0);
	world_free(w);
}

/* A thousand domains asked at once, each twice: one lookup and one answer to each asker. */
static void
test_many_at_once(void **state)
{
	struct world *w = world_new(server, 0);
	bool seen[2000] = { false };
	struct stat_resolver stat;
	char key[32];

	(void)state;
	for (unsigned i = 0; i < 2000; i++) {
		snprintf(key, sizeof key, "d%u.test", i % 1000);
		send_ask(w, i, key);
	}
	await(w, 2000);
	for (unsigned i = 0; i < 2000; i++) {
		const struct message *m = &w->answers[i];

		assert_int_equal(m->u.route.status, ROUTE_GOOD);
		assert_true(m->u.route.token < 2000 && !seen[m->u.route.token]);
		seen[m->u.route.token] = true;
	}
	resolver_stat(w->resolver, &stat);
	assert_int_equal(stat.lookups, 1000);
	world_free(w);
}

/* The name server is silent: an answer in time all the same, and nothing left behind. */
static void
test_silent_server(void **state)
{
	int port, fd = udp_socket(&port);
	char silent[64];
	struct world *w;
	struct route r;

	(void)state;
	assert_true(fd >= 0);
	snprintf(silent, sizeof silent, "127.0.0.1@%d", port);
	w = world_new(silent, 200000);
	ask(w, "good.test", &r);
	assert_int_equal(r.status, ROUTE_TEMPORARY);
	assert_non_null(strstr(w->texts[0], "good.test: DNS did not answer in time"));
	ask(w, "=e1.test", &r);
	assert_int_equal(r.status, ROUTE_TEMPORARY);
	world_free(w);
	close(fd);
}

/* Whether the name server has been asked for it. */
static bool
was_asked_for(int fd, const char *label)
{
	char packet[600];
	ssize_t n;
	bool found = false;

	while ((n = recv(fd, packet, sizeof packet, MSG_DONTWAIT)) > 0)
		found = found || memmem(packet, (size_t)n, label, strlen(label)) != NULL;
	return found;
}

static void
run_for(struct world *w, uint64_t us)
{
	timer_set(&w->limit, us);
	loop_run(w->loop);
}

/* Domains with many hosts each, of which nothing is heard, hold up no other domain. */
static void
test_many_silent_hosts(void **state)
{
	int port, fd = udp_socket(&port);
	char silent[64], key[400];
	struct world *w;

	(void)state;
	assert_true(fd >= 0);
	snprintf(silent, sizeof silent, "127.0.0.1@%d", port);
	w = world_new(silent, 0);
	for (unsigned i = 0; i < 12; i++) {
		size_t n = (size_t)snprintf(key, sizeof key, "=h%u.test", i);

		for (unsigned k = 1; k < ROUTE_MX_MAX; k++)
			n += (size_t)snprintf(key + n, sizeof key - n, ",h%u-%u.test", i, k);
		send_ask(w, i, key);
	}
	run_for(w, 50000);
	send_ask(w, 12, "late.test");
	run_for(w, 50000);
	assert_true(was_asked_for(fd, "\4late\4test"));
	world_free(w);
	close(fd);
}

/* The scheduler dies with questions open: they end unheard, the next scheduler is answered. */
static void
test_new_scheduler(void **state)
{
	struct world *w = world_new(server, 0);
	struct route r;
	char key[32];

	(void)state;
	for (unsigned i = 0; i < 500; i++) {
		snprintf(key, sizeof key, "d%u.test", i);
		send_ask(w, i, key);
	}
	w->wanted = 1;
	timer_set(&w->limit, 10000000);
	loop_run(w->loop); /* some are answered, others running or in line */
	assert_false(w->late);
	connect_channel(w);
	ask(w, "d499.test", &r);
	assert_int_equal(r.status, ROUTE_GOOD);
	resolver_channel_gone(w->resolver);
	resolver_channel_gone(w->resolver);
	world_free(w);
}

static void
test_bad_name_server(void **state)
{
	struct resolver_options o = { .name_server = "not an address",
				      .routes_fd = route_object_create() };
	struct loop *l = loop_new();
	struct resolver *r = NULL;

	(void)state;
	assert_true(resolver_open(&r, l, &o) < 0);
	assert_null(r);
	close(o.routes_fd);
	loop_free(&l);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_answers),         cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_ttl_and_cache),   cmocka_unit_test(test_equal_preferences),
		cmocka_unit_test(test_many_at_once),    cmocka_unit_test(test_silent_server),
		cmocka_unit_test(test_many_silent_hosts),
		cmocka_unit_test(test_best_hosts),      cmocka_unit_test(test_new_scheduler),
		cmocka_unit_test(test_bad_name_server),
	};
	return cmocka_run_group_tests(tests, start_nsd, stop_nsd);
}
