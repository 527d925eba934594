/* route_cache: slots, generations, and who gives way when there are more keys than slots. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "resolver/route_cache.h"

struct world {
	struct route_cache *cache;
	struct route_object *object;
	int fd;
};

static void
begin(struct world *w, uint64_t starts)
{
	w->fd = route_object_create();
	assert_true(w->fd >= 0);
	assert_int_equal(route_cache_open(&w->cache, w->fd, starts), 0);
	assert_int_equal(route_object_map(&w->object, w->fd, 0), 0);
}

static void
end(struct world *w)
{
	route_cache_close(&w->cache);
	route_object_unmap(&w->object);
	close(w->fd);
}

static struct cached_route
put(struct world *w, const char *key, uint64_t now, uint64_t ttl)
{
	static struct lookup_result r;
	struct cached_route out;

	memset(&r, 0, sizeof r);
	r.route.status = ROUTE_NO_MX;
	r.ttl_us = ttl;
	snprintf(r.text, sizeof r.text, "about %s", key);
	route_cache_put(w->cache, slice_str(key), now, &r, &out);
	return out;
}

static bool
has(struct world *w, const char *key, uint64_t now, struct cached_route *out)
{
	return route_cache_get(w->cache, slice_str(key), now, out);
}

static void
test_life(void **state)
{
	struct cached_route a, b, got;
	struct route r;
	struct world w;

	(void)state;
	begin(&w, 9);
	assert_false(has(&w, "a", 0, &got));
	a = put(&w, "a", 100, 50);
	assert_int_equal(a.generation >> 32, 9);
	assert_int_equal(a.expires_boot_us, 150);
	assert_true(has(&w, "a", 149, &got));
	assert_string_equal(got.text, "about a");
	assert_int_equal(got.slot, a.slot);
	assert_false(has(&w, "a", 150, &got));
	assert_false(has(&w, "aa", 100, &got));
	/* Renewed: another slot and generation; the old one can still be read. */
	b = put(&w, "a", 200, 50);
	assert_true(b.generation > a.generation && b.slot != a.slot);
	assert_int_equal(route_get(w.object, a.slot, a.generation, &r), 0);
	assert_int_equal(route_get(w.object, b.slot, b.generation, &r), 0);
	assert_true(route_get(w.object, b.slot, a.generation, &r) < 0);
	end(&w);
}

static void
test_full(void **state)
{
	struct cached_route got, first = { 0 };
	struct world w;
	char key[32];

	(void)state;
	begin(&w, 1);
	for (unsigned i = 0; i < ROUTE_SLOTS; i++) {
		snprintf(key, sizeof key, "k%u", i);
		got = put(&w, key, 1, 1000);
		if (i == 0)
			first = got;
	}
	assert_true(has(&w, "k0", 2, &got)); /* now k1 is the least used */
	got = put(&w, "new", 2, 1000);
	assert_true(has(&w, "k0", 2, &got));
	assert_int_equal(got.slot, first.slot);
	assert_false(has(&w, "k1", 2, &got));
	assert_true(has(&w, "k2", 2, &got));
	/* All slots in use: a renewed key keeps its own. */
	first = put(&w, "k2", 3, 1000);
	assert_int_equal(first.slot, got.slot);
	for (unsigned i = 0; i < 3 * ROUTE_SLOTS; i++) {
		snprintf(key, sizeof key, "m%u", i);
		got = put(&w, key, 4, 1000);
		assert_true(got.slot < ROUTE_SLOTS);
	}
	assert_false(has(&w, "new", 5, &got));
	end(&w);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_life),
		cmocka_unit_test(test_full),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
