/* Hosts of a route: what those of the lowest preference are called together. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "resolver/candidates.h"

#define N_OF(a) (sizeof(a) / sizeof *(a))

static void
add(struct candidates *c, const char *name, unsigned group, unsigned preference)
{
	struct candidate *host = candidates_add(c);

	str_copy(host->name, sizeof host->name, slice_str(name));
	host->group = (uint16_t)group;
	host->preference = (uint16_t)preference;
	host->from_mx = true;
}

/* "NAME PREFERENCE;NAME PREFERENCE", a '+' before the name: of the second group. */
static void
add_all(struct candidates *c, const char *text)
{
	struct slice rest = slice_str(text);

	while (rest.p != NULL) {
		struct slice preference = slice_cut(&rest, ';'), name = slice_cut(&preference, ' ');
		unsigned group = name.p[0] == '+';
		char copy[ROUTE_HOST_BYTES];
		uint64_t n;

		assert_true(slice_u64(preference, 65535, &n));
		str_copy(copy, sizeof copy, slice_sub(name, group));
		add(c, copy, group, (unsigned)n);
	}
}

static void
test_best(void **state)
{
	static const struct {
		const char *hosts, *best;
	} rows[] = {
		{ "mx.test 10", "mx.test" },
		{ "b.test 10;a.test 10;c.test 20", "a.test,b.test" },
		{ "c.test 20;B.Test 10;a.TEST 10;b.test 10", "a.test,b.test" },
		{ "c.test 0;a.test 1", "c.test" },
		/* smtp-hosts: the first group, whatever the preferences behind */
		{ "b.test 0;a.test 0;+0.test 0", "a.test,b.test" },
		{ "b.test 9;+0.test 0", "b.test" },
		{ "a,b.test 10", "a_b.test" },
	};

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		for (uint64_t seed = 1; seed < 20; seed++) { /* in whatever order they are tried */
			struct candidates c = { 0 };
			struct own_addrs own = { NULL, 0 };
			struct route r;
			uint64_t s = seed;

			add_all(&c, rows[i].hosts);
			candidates_sort(&c, &s);
			candidates_route(&c, &own, &s, &r);
			assert_string_equal(r.best,
					    rows[i].best); /* although none has an address */
			candidates_clear(&c);
		}
	}
}

static void
many(struct candidates *c, unsigned from, unsigned n, unsigned padding)
{
	for (unsigned i = from; i < from + n; i++) {
		char name[ROUTE_HOST_BYTES];

		snprintf(name, sizeof name, "h%04u.%0*u.test", i, (int)padding, 0);
		add(c, name, 0, 10);
	}
}

static void
test_more_than_fit(void **state)
{
	struct candidates a = { 0 }, b = { 0 }, more = { 0 }, forty = { 0 };
	uint64_t seed = 7;

	(void)state;
	/* More hosts than a route keeps: all of them name it. */
	many(&forty, 0, 40, 1);
	candidates_sort(&forty, &seed);
	assert_int_equal(forty.n, ROUTE_MX_MAX);
	assert_int_equal(strlen(forty.best), 40 * 12 + 39);

	/* More than have room: the rest in a hash, which tells one set from another. */
	many(&a, 0, 100, 60);
	many(&b, 50, 50, 60);
	many(&b, 0, 50, 60);
	many(&more, 0, 99, 60);
	many(&more, 101, 1, 60);
	candidates_sort(&a, &seed);
	candidates_sort(&b, &seed);
	candidates_sort(&more, &seed);
	assert_true(strlen(a.best) > 900 && strlen(a.best) < ROUTE_BEST_BYTES);
	assert_int_equal(strlen(strchr(a.best, '#')), 17);
	assert_string_equal(a.best, b.best);
	assert_string_not_equal(a.best, more.best);
	candidates_clear(&a);
	candidates_clear(&b);
	candidates_clear(&more);
	candidates_clear(&forty);
}

/* How many targets are all addresses of the lowest preference; none are, when one may be missing. */
static void
test_whole(void **state)
{
	static const struct {
		const char *hosts;
		unsigned addrs[3]; /* of each host, in this order; 9: one more than is kept */
		int temporary;     /* this host's lookup failed, -1 none */
		unsigned n_best, n_targets;
	} rows[] = {
		{ "a.test 1;b.test 1;c.test 2", { 2, 1, 3 }, -1, 3, 6 },
		{ "c.test 2;a.test 1;b.test 1", { 3, 2, 1 }, -1, 3, 6 },
		{ "a.test 1;b.test 1;c.test 1", { 2, 0, 3 }, -1, 5, 5 }, /* b has none, for sure */
		{ "a.test 1;b.test 1;c.test 2", { 2, 1, 3 }, 1, 0, 6 },
		{ "a.test 1;b.test 1;c.test 2", { 2, 0, 3 }, 1, 0, 5 },
		{ "a.test 1;b.test 1;c.test 2", { 2, 1, 3 }, 2, 3, 6 }, /* not one of the best */
		{ "a.test 1;b.test 2;c.test 2", { 0, 1, 3 }, -1, 0, 4 },
		{ "a.test 1;b.test 1;c.test 2", { 8, 1, 3 }, -1, 9, 12 },
		{ "a.test 1;b.test 1;c.test 2", { 9, 1, 3 }, -1, 0, 12 },
		{ "a.test 1;b.test 1;c.test 2", { 1, 1, 9 }, -1, 2, 10 },
		{ "a.test 1;+b.test 1;+c.test 2", { 1, 1, 1 }, -1, 1, 3 },
	};
	struct candidates cut = { 0 };
	uint64_t seed = 1;

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		struct candidates c = { 0 };
		struct own_addrs own = { NULL, 0 };
		struct route r;

		add_all(&c, rows[i].hosts);
		for (unsigned h = 0; h < 3; h++) {
			c.hosts[h].temporary = rows[i].temporary == (int)h;
			for (unsigned k = 0; k < rows[i].addrs[h]; k++)
				candidate_add_addr(&c.hosts[h], AF_INET,
						   &(const unsigned char[4]){ 10, 0, (unsigned char)h,
									      (unsigned char)k });
		}
		candidates_sort(&c, &seed);
		candidates_route(&c, &own, &seed, &r);
		if (r.n_best != rows[i].n_best || r.n_targets != rows[i].n_targets)
			fail_msg("row %zu: %u of %u", i, r.n_best, r.n_targets);
		candidates_clear(&c);
	}
	many(&cut, 0, ROUTE_MX_MAX, 1);
	candidates_sort(&cut, &seed);
	assert_false(cut.best_cut);
	many(&cut, ROUTE_MX_MAX, 1, 1);
	candidates_sort(&cut, &seed);
	assert_true(cut.best_cut);
	candidates_clear(&cut);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_best),
		cmocka_unit_test(test_more_than_fit),
		cmocka_unit_test(test_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
