/* What is decided about a queue's mail when its route is known: by its MX hosts' names, or by their
 * addresses, which may have to be asked for. The core and the resolver are played here. */
#include <arpa/inet.h>

#include "tests/unit/conf/fixture.h"

#define core_queue_view      played_view
#define core_redirected      played_redirected
#define core_route_elsewhere played_elsewhere
#define core_each_queue      played_each
#define scheduler_now        played_now
#define scheduler_queue      played_queue
#define redirects_make       played_make
#define redirects_end        played_end
#define providers_hosts      played_hosts
#define committer_is_full    played_full
#define routes_ask_for       played_ask
#define loop_boot_us         played_boot_us
#define dispatch_ops         played_ops
#include "scheduler/anchors.c"
#include "scheduler/rollups.c"

#define A 7u /* the queue that it is about: a.test/v, or what `name` says */

static struct {
	const char *name, *best;
	char to[SMTP_DOMAIN_MAX + 40]; /* where its mail went */
	uint32_t asked[8];             /* of routes_ask_for() */
	size_t n_asked;
	uint64_t now, until; /* that the last decision holds */
	bool paused, by_hand;
} play;

bool
played_view(const struct core *c, const struct core_now *now, uint32_t queue,
	    struct core_queue_view *v)
{
	(void)c, (void)now;
	memset(v, 0, sizeof *v);
	v->name = slice_str(play.name);
	v->paused = play.paused;
	v->entries = 1;
	return queue == A;
}

uint32_t
played_redirected(const struct core *c, uint32_t queue)
{
	(void)c;
	return queue;
}

void
played_elsewhere(struct core *c, const struct core_now *now, uint32_t queue)
{
	(void)c, (void)now;
	assert_int_equal(queue, A);
}

bool
played_each(const struct core *c, uint32_t *cursor, unsigned most,
	    void (*fn)(void *arg, uint32_t queue), void *arg)
{
	(void)c, (void)cursor, (void)most;
	fn(arg, A);
	return false;
}

struct core_now
played_now(const struct scheduler *s)
{
	(void)s;
	return (struct core_now){ .boot_us = play.now, .wall_us = play.now };
}

uint64_t
played_boot_us(const struct loop *l)
{
	(void)l;
	return play.now;
}

uint32_t
played_queue(struct scheduler *s, struct slice domain, struct slice vmta)
{
	(void)s;
	snprintf(play.to, sizeof play.to, "%.*s/%.*s", (int)domain.n, domain.p, (int)vmta.n,
		 vmta.p);
	return 99;
}

uint32_t
played_make(struct scheduler *s, uint32_t from, uint32_t to)
{
	(void)s;
	assert_true(from == A && to == 99);
	return from;
}

uint32_t
played_end(const struct scheduler *s, uint32_t queue)
{
	(void)s;
	return queue;
}

struct slice
played_hosts(const struct providers *p, uint32_t queue)
{
	(void)p, (void)queue;
	return slice_str(play.best);
}

bool
played_full(const struct committer *c)
{
	(void)c;
	return false;
}

void
played_ask(struct scheduler *s, uint32_t what)
{
	(void)s;
	assert_true(play.n_asked < N_OF(play.asked));
	play.asked[play.n_asked++] = what;
}

static const struct conf_queue *
played_settings(void *ctx, uint32_t queue, struct slice name)
{
	static struct conf_queue q;

	(void)ctx, (void)queue, (void)name;
	q.smtp_hosts = play.by_hand ? "x.test" : NULL;
	return &q;
}

const struct core_ops played_ops = { .settings = played_settings };

/* ---------------------------------------------------------------------------------------------- */
/* "HOST ADDRESS,HOST ADDRESS"; '!' before it: not known whole. */
static struct route
route_of(const char *text)
{
	static struct route r;
	struct slice rest = slice_str(text);

	memset(&r, 0, sizeof r);
	rest = slice_sub(rest, text[0] == '!');
	while (rest.p != NULL && rest.n > 0) {
		struct slice address = slice_cut(&rest, ','), host = slice_cut(&address, ' ');
		struct sockaddr_storage *ss = &r.targets[r.n_targets].addr;
		char copy[64];

		str_copy(copy, sizeof copy, address);
		ss->ss_family = strchr(copy, ':') ? AF_INET6 : AF_INET;
		assert_int_equal(
			inet_pton(ss->ss_family, copy,
				  ss->ss_family == AF_INET
					  ? (void *)&((struct sockaddr_in *)ss)->sin_addr
					  : (void *)&((struct sockaddr_in6 *)ss)->sin6_addr),
			1);
		snprintf(r.best + strlen(r.best), sizeof r.best - strlen(r.best), "%s%.*s",
			 r.n_hosts > 0 ? "," : "", (int)host.n, host.p);
		str_copy(r.hosts[r.n_hosts], ROUTE_HOST_BYTES, host);
		r.targets[r.n_targets++].mx = r.n_hosts++;
	}
	r.n_best = text[0] == '!' ? 0 : r.n_targets;
	return r;
}

static void
begin(struct scheduler *s, const char *list)
{
	memset(s, 0, sizeof *s);
	memset(&play, 0, sizeof play);
	play.name = "a.test/v";
	play.now = 1000000;
	s->conf = parsed(list);
}

static void
end(struct scheduler *s)
{
	struct conf *c = (struct conf *)(uintptr_t)s->conf;

	rollups_close(s);
	anchors_free(&s->anchors);
	conf_free(&c);
}

/* What its route says, and where its mail goes then; "": it stays; "?": it waits for an answer. */
static void
expect(struct scheduler *s, const char *route, const char *want)
{
	struct route r = route_of(route);
	bool done;

	play.to[0] = '\0';
	play.n_asked = 0;
	play.until = 900000000;
	done = rollups_route(s, A, &r, &play.until);
	if (strcmp(want, "?") == 0 ? !done || play.to[0] != '\0'
				   : done != (want[0] != '\0') || strcmp(play.to, want) != 0)
		fail_msg("%s: %s, %s instead of %s", route, done ? "yes" : "no", play.to, want);
}

static void
answer(struct scheduler *s, uint32_t number, const char *route, uint64_t until)
{
	struct route r = route_of(route);

	play.n_asked = 0;
	anchors_route(s, number, ROUTE_GOOD, &r, until);
}

static void
test_patterns(void **state)
{
	static const struct {
		const char *route, *to;
	} rows[] = {
		{ "a.o.test 10.0.0.1", "10.0.0.1.o.rollup/v" },
		{ "A.O.test 10.0.0.1,b.o.test 10.0.0.1", "10.0.0.1.o.rollup/v" },
		{ "a.o.test 10.0.0.2,b.o.test 10.0.0.1", "10.0.0.1+10.0.0.2.o.rollup/v" },
		{ "b.o.test 10.0.0.1,a.o.test 10.0.0.2", "10.0.0.1+10.0.0.2.o.rollup/v" },
		{ "a.o.test 2001:db8::1,a.o.test 10.0.0.1", "10.0.0.1+2001:db8::1.o.rollup/v" },
		/* those of other hosts are not used */
		{ "a.o.test 10.0.0.1,x.test 10.0.0.3", "10.0.0.1.o.rollup/v" },
		{ "x.test 10.0.0.1", "" },
		/* nobody knows them whole, or they cannot stand in a name */
		{ "!a.o.test 10.0.0.1", "" },
		{ "a.o.test ::ffff:10.0.0.1", "" },
		/* the first of the list wins; by names, whatever is known of addresses */
		{ "!a.o.test 10.0.0.1,mx.first.test 10.0.0.9", "first.rollup/v" },
		/* what cannot be said now is not left to the next one */
		{ "!a.o.test 10.0.0.1,mx.last.test 10.0.0.9", "" },
		{ "mx.last.test 10.0.0.9", "last.rollup/v" },
	};
	struct scheduler s;

	(void)state;
	begin(&s, "mx-rollup-list = { mx = [ \"mx.first.test first.rollup\", \"*.o.test o.rollup "
		  "rollup-by-ip\", \"mx.last.test last.rollup\" ]; };");
	for (size_t i = 0; i < N_OF(rows); i++) {
		expect(&s, rows[i].route, rows[i].to);
		assert_int_equal(play.n_asked, 0);
	}
	play.paused = true;
	expect(&s, rows[0].route, "");
	play.paused = false;
	play.by_hand = true;
	expect(&s, rows[0].route, "");
	play.by_hand = false;
	play.name = "10.0.0.1.o.rollup/v"; /* one itself */
	expect(&s, rows[0].route, "");
	end(&s);
}

static void
test_hosts(void **state)
{
	struct scheduler s;

	(void)state;
	begin(&s,
	      "mx-rollup-list = { mx = [ \"m1.test m.rollup rollup-by-ip\", \"m2.test m.rollup\", "
	      "\"n.test n.rollup rollup-by-ip\", \"x.test x.rollup\" ]; };");
	/* Asked for once, whoever waits; all of them ask again. */
	expect(&s, "x.test 10.0.0.1,y.test 10.0.0.2", "?");
	assert_true(play.n_asked == 1 && play.asked[0] == ROUTES_ANCHOR);
	assert_string_equal(anchors_hosts(&s, 0), "m1.test,m2.test");
	expect(&s, "x.test 10.0.0.1,y.test 10.0.0.2", "?");
	assert_int_equal(play.n_asked, 0);
	answer(&s, 0, "m1.test 10.0.0.1,m2.test 10.0.0.2", 50000000);
	assert_true(play.n_asked == 2 && play.asked[0] == A && play.asked[1] == A);
	expect(&s, "x.test 10.0.0.1,y.test 10.0.0.2", "10.0.0.1+10.0.0.2.m.rollup/v");
	assert_int_equal(play.n_asked, 0);
	assert_int_equal(rollups_queue(&s, A), 99);
	/* it has more; it has not all, and the next one is asked for; its names count for nothing
	 */
	expect(&s, "x.test 10.0.0.3,y.test 10.0.0.2,z.test 10.0.0.1",
	       "10.0.0.1+10.0.0.2.m.rollup/v");
	expect(&s, "m1.test 10.0.0.1,m2.test 10.0.0.9", "?");
	assert_true(play.n_asked == 1 && play.asked[0] == (ROUTES_ANCHOR | 1));
	assert_int_equal(rollups_queue(&s, A), A); /* until it is known */
	/* hosts that do not exist: nobody reaches them; then the names of the last entry decide */
	anchors_route(&s, 1, ROUTE_UNUSABLE, NULL, 50000000);
	expect(&s, "x.test 10.0.0.1", "x.rollup/v");
	assert_int_equal(play.until, 50000000); /* they may come */
	expect(&s, "y.test 10.0.0.1", "");
	assert_int_equal(play.until, 50000000);
	/* which only those are asked that know their own addresses */
	expect(&s, "!x.test 10.0.0.1,y.test 10.0.0.2", "");
	/* An answer holds as long as it says; new mail goes there no longer than that. */
	expect(&s, "x.test 10.0.0.1,y.test 10.0.0.2", "10.0.0.1+10.0.0.2.m.rollup/v");
	play.now = 49999999;
	assert_int_equal(rollups_queue(&s, A), 99);
	play.now = 50000000;
	assert_int_equal(rollups_queue(&s, A), A);
	expect(&s, "x.test 10.0.0.1,y.test 10.0.0.2", "?");
	assert_true(play.n_asked == 1 && play.asked[0] == ROUTES_ANCHOR);
	/* Not known whole: not for now, and not for another queue; it serves for a moment, however
	 * old. */
	answer(&s, 0, "!m1.test 10.0.0.1", 1);
	expect(&s, "x.test 10.0.0.1", "");
	assert_int_equal(play.n_asked, 0);
	assert_int_equal(play.until, play.now + LEAST_US);
	play.now += LEAST_US;
	expect(&s, "x.test 10.0.0.1", "?");
	anchors_route(&s, 0, ROUTE_TEMPORARY, NULL, play.now + 5000000);
	expect(&s, "x.test 10.0.0.1", "");
	/* of nobody, or of another list */
	anchors_route(&s, 77, ROUTE_TEMPORARY, NULL, 0);
	end(&s);
}

static void
test_asked_again(void **state)
{
	struct scheduler s;
	struct route r = route_of("x.test 10.0.0.1");

	(void)state;
	begin(&s, "mx-rollup-list = { mx = \"m.test m.rollup rollup-by-ip\"; };");
	/* The resolver went, and the answer with it. */
	expect(&s, "x.test 10.0.0.1", "?");
	play.n_asked = 0;
	anchors_forget(&s);
	assert_true(play.n_asked == 1 && play.asked[0] == A && s.anchors == NULL);
	expect(&s, "x.test 10.0.0.1", "?");
	assert_int_equal(play.n_asked, 1);
	/* A reload: only addresses decide, and they are not known of what waits. */
	play.n_asked = 0;
	play.best = "x.test";
	rollups_reconfigured(&s);
	assert_false(rollups_turn(&s));
	assert_true(play.n_asked == 1 && play.asked[0] == (ROUTES_ROLLUP | A));
	/* its answer is no route for the core, and may have to wait as well */
	play.n_asked = 0;
	assert_true(rollups_route(&s, ROUTES_ROLLUP | A, &r, &play.until));
	answer(&s, 0, "m.test 10.0.0.1", 900000000);
	assert_true(play.n_asked == 2 && play.asked[0] == A &&
		    play.asked[1] == (ROUTES_ROLLUP | A));
	assert_true(rollups_route(&s, ROUTES_ROLLUP | A, &r, &play.until));
	assert_string_equal(play.to, "10.0.0.1.m.rollup/v");
	end(&s);
}

/* Longer than a question may be: it is not asked, and nobody waits for it. */
static void
test_too_many_hosts(void **state)
{
	struct buf list = { 0 };
	struct scheduler s;

	(void)state;
	buf_puts(&list, "mx-rollup-list = { mx = [ ");
	for (unsigned i = 0; i < 100; i++)
		buf_printf(&list,
			   "%s\"h%u.a-long-name-that-fills-the-question.example.test m.rollup "
			   "rollup-by-ip\"",
			   i > 0 ? "," : "", i);
	buf_printf(&list, " ]; };%c", '\0');
	begin(&s, list.data);
	expect(&s, "x.test 10.0.0.1", "");
	assert_true(play.n_asked == 0 && play.until == 900000000);
	end(&s);
	buf_clear(&list);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_patterns),
		cmocka_unit_test(test_hosts),
		cmocka_unit_test(test_asked_again),
		cmocka_unit_test(test_too_many_hosts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
