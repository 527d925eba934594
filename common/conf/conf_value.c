#include "common/conf/conf_value.h"

#include <ctype.h>

#define SECOND_US 1000000ull

struct unit {
	const char *name;
	uint64_t factor;
};

/* Largest first: intervals must name them in this order. */
static const struct unit interval_units[] = {
	{ "w", 7 * 86400 * SECOND_US }, { "d", 86400 * SECOND_US }, { "h", 3600 * SECOND_US },
	{ "m", 60 * SECOND_US },        { "s", SECOND_US },
};

/* The short name of each factor first: the one that is printed. */
static const struct unit window_units[] = {
	{ "d", 86400 * SECOND_US }, { "h", 3600 * SECOND_US },    { "m", 60 * SECOND_US },
	{ "s", SECOND_US },         { "day", 86400 * SECOND_US }, { "hr", 3600 * SECOND_US },
	{ "min", 60 * SECOND_US },  { "sec", SECOND_US },
};

static const struct unit size_units[] = {
	{ "t", 1ull << 40 }, { "g", 1ull << 30 }, { "m", 1ull << 20 },
	{ "k", 1ull << 10 }, { "b", 1 },
};

#define N_UNITS(table) (sizeof(table) / sizeof *(table))

/* Index of the unit named by the whole of `s`, -1 if none. */
static int
unit_find(const struct unit *table, size_t n, struct slice s)
{
	for (size_t i = 0; i < n; i++) {
		if (slice_eq_nocase(s, slice_str(table[i].name)))
			return (int)i;
	}
	return -1;
}

/* Cuts the leading digits off *s; false when there are none or they exceed `max`. */
static bool
cut_number(struct slice *s, uint64_t max, uint64_t *out)
{
	size_t n = 0;

	while (n < s->n && isdigit((unsigned char)s->p[n]))
		n++;
	if (!slice_u64(slice_of(s->p, n), max, out))
		return false;
	*s = slice_sub(*s, n);
	return true;
}

/* Cuts the leading letters off *s. */
static struct slice
cut_letters(struct slice *s)
{
	size_t n = 0;

	while (n < s->n && isalpha((unsigned char)s->p[n]))
		n++;
	struct slice word = slice_of(s->p, n);
	*s = slice_sub(*s, n);
	return word;
}

/* "[M]unit" into microseconds. */
static bool
window_parse(struct slice s, uint64_t *us)
{
	uint64_t m = 1;
	int u;

	if (s.n > 0 && isdigit((unsigned char)s.p[0]) && !cut_number(&s, CONF_WINDOW_US, &m))
		return false;
	u = unit_find(window_units, N_UNITS(window_units), s);
	if (u < 0 || m == 0 || m > CONF_WINDOW_US / window_units[u].factor)
		return false;
	*us = m * window_units[u].factor;
	return true;
}

static bool
size_parse(struct slice s, uint64_t max, uint64_t *bytes)
{
	uint64_t n, factor = 1;

	if (!cut_number(&s, max, &n))
		return false;
	if (s.n > 0) {
		int u = unit_find(size_units, N_UNITS(size_units), s);

		if (u < 0)
			return false;
		factor = size_units[u].factor;
	}
	if (n > max / factor)
		return false;
	*bytes = n * factor;
	return true;
}

static bool
is_unlimited(struct slice s)
{
	return slice_is(s, "0") || slice_eq_nocase(s, SLICE_LIT("unlimited"));
}

bool
conf_value_rate(struct slice s, struct conf_rate *out)
{
	struct conf_rate r = { 0, 0 };

	if (!is_unlimited(s)) {
		struct slice n = slice_cut(&s, '/');

		if (s.p == NULL || !slice_u64(n, CONF_RATE_MAX, &r.n) || r.n == 0 ||
		    !window_parse(s, &r.window_us))
			return false;
	}
	*out = r;
	return true;
}

bool
conf_value_volume(struct slice s, struct conf_rate *out)
{
	struct conf_rate r = { 0, 0 };

	if (!is_unlimited(s)) {
		struct slice n = slice_cut(&s, '/');

		if (s.p == NULL || !size_parse(n, CONF_VOLUME_MAX, &r.n) || r.n == 0 ||
		    !window_parse(s, &r.window_us))
			return false;
	}
	*out = r;
	return true;
}

bool
conf_value_interval(struct slice s, uint64_t *us)
{
	uint64_t sum = 0;
	int last = -1;

	if (slice_is(s, "0")) {
		*us = 0;
		return true;
	}
	if (s.n == 0)
		return false;
	while (s.n > 0) {
		uint64_t n;
		int u;

		if (!cut_number(&s, CONF_INTERVAL_US, &n))
			return false;
		u = unit_find(interval_units, N_UNITS(interval_units), cut_letters(&s));
		if (u <= last || n > (CONF_INTERVAL_US - sum) / interval_units[u].factor)
			return false;
		sum += n * interval_units[u].factor;
		last = u;
	}
	*us = sum;
	return true;
}

bool
conf_value_intervals(struct slice s, struct conf_intervals *out)
{
	struct conf_intervals v = { 0 };

	while (s.p != NULL) {
		struct slice one = slice_trim(slice_cut(&s, ','));

		if (v.n == RETRY_STEPS_MAX)
			return false;
		if (!conf_value_interval(one, &v.us[v.n]) || v.us[v.n] == 0)
			return false;
		v.n++;
	}
	if (v.n == 0)
		return false;
	*out = v;
	return true;
}

bool
conf_value_size(struct slice s, uint64_t *bytes)
{
	return size_parse(s, CONF_SIZE_MAX, bytes);
}

static void
put_window(struct buf *b, uint64_t us)
{
	for (size_t i = 0; i < 4; i++) {
		const struct unit *u = &window_units[i];

		if (us % u->factor != 0)
			continue;
		if (us != u->factor)
			buf_printf(b, "%llu", (unsigned long long)(us / u->factor));
		buf_puts(b, u->name);
		return;
	}
	buf_printf(b, "%lluus", (unsigned long long)us); /* none that was parsed */
}

static void
put_bytes(struct buf *b, uint64_t n, const char *plain)
{
	for (size_t i = 0; n > 0 && i < N_UNITS(size_units) - 1; i++) {
		if (n % size_units[i].factor == 0) {
			buf_printf(b, "%llu%s", (unsigned long long)(n / size_units[i].factor),
				   size_units[i].name);
			return;
		}
	}
	buf_printf(b, "%llu%s", (unsigned long long)n, plain);
}

void
conf_value_put_rate(struct buf *b, const struct conf_rate *r)
{
	if (r->n == 0) {
		buf_puts(b, "unlimited");
		return;
	}
	buf_printf(b, "%llu/", (unsigned long long)r->n);
	put_window(b, r->window_us);
}

void
conf_value_put_volume(struct buf *b, const struct conf_rate *r)
{
	if (r->n == 0) {
		buf_puts(b, "unlimited");
		return;
	}
	put_bytes(b, r->n, "");
	buf_putc(b, '/');
	put_window(b, r->window_us);
}

void
conf_value_put_interval(struct buf *b, uint64_t us)
{
	if (us == CONF_NEVER) {
		buf_puts(b, "never");
		return;
	}
	if (us < SECOND_US) {
		buf_putc(b, '0');
		return;
	}
	for (size_t i = 0; i < N_UNITS(interval_units); i++) {
		const struct unit *u = &interval_units[i];

		if (us >= u->factor)
			buf_printf(b, "%llu%s", (unsigned long long)(us / u->factor), u->name);
		us %= u->factor;
	}
}

void
conf_value_put_intervals(struct buf *b, const struct conf_intervals *v)
{
	for (unsigned i = 0; i < v->n; i++) {
		if (i > 0)
			buf_putc(b, ',');
		conf_value_put_interval(b, v->us[i]);
	}
}

void
conf_value_put_size(struct buf *b, uint64_t bytes)
{
	if (bytes == CONF_UNLIMITED)
		buf_puts(b, "unlimited");
	else
		put_bytes(b, bytes, "");
}
