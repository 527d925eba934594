#include "common/rules/rules_wait.h"

#include <ctype.h>

#define SECOND_US 1000000ull

static const struct unit {
	const char *word;
	uint64_t us;
} units[] = {
	{ "s", SECOND_US },
	{ "sec", SECOND_US },
	{ "secs", SECOND_US },
	{ "second", SECOND_US },
	{ "seconds", SECOND_US },
	{ "m", 60 * SECOND_US },
	{ "min", 60 * SECOND_US },
	{ "mins", 60 * SECOND_US },
	{ "minute", 60 * SECOND_US },
	{ "minutes", 60 * SECOND_US },
	{ "h", 3600 * SECOND_US },
	{ "hr", 3600 * SECOND_US },
	{ "hrs", 3600 * SECOND_US },
	{ "hour", 3600 * SECOND_US },
	{ "hours", 3600 * SECOND_US },
	{ "d", 86400 * SECOND_US },
	{ "day", 86400 * SECOND_US },
	{ "days", 86400 * SECOND_US },
};

/* Words that a time to wait stands behind, and words behind which it is something else. */
static const char *const leads[] = { "in",     "for",     "after", "wait", "least",
				     "within", "another", "retry", "about" };
static const char *const others[] = { "per", "every", "each", "last", "past", "than" };

#define N_OF(a) (sizeof(a) / sizeof *(a))

static bool
is_word(char c)
{
	return isalnum((unsigned char)c) || c == '_';
}

static void
skip_blanks(struct slice *s)
{
	while (s->n > 0 && (s->p[0] == ' ' || s->p[0] == '-' || s->p[0] == ','))
		*s = slice_sub(*s, 1);
}

/* Digits off the front, at most `most` of them; false when there are none, or more. */
static bool
take_number(struct slice *s, unsigned most, uint64_t *out)
{
	size_t n = 0;

	*out = 0;
	while (n < s->n && n <= most && isdigit((unsigned char)s->p[n]))
		*out = *out * 10 + (uint64_t)(s->p[n++] - '0');
	if (n == 0 || n > most)
		return false;
	*s = slice_sub(*s, n);
	return true;
}

static struct slice
take_letters(struct slice *s)
{
	size_t n = 0;
	struct slice word;

	while (n < s->n && isalpha((unsigned char)s->p[n]))
		n++;
	word = slice_of(s->p, n);
	*s = slice_sub(*s, n);
	return word;
}

static uint64_t
unit_of(struct slice word)
{
	for (size_t i = 0; i < N_OF(units); i++) {
		if (slice_eq_nocase(word, slice_str(units[i].word)))
			return units[i].us;
	}
	return 0;
}

/* "00:05:00" or "05:00" off the front. */
static bool
take_clock(struct slice *s, uint64_t *us)
{
	struct slice rest = *s;
	uint64_t part, seconds = 0;
	unsigned n = 0;

	for (;;) {
		if (!take_number(&rest, 2, &part) || (n > 0 && part > 59))
			return false;
		seconds = seconds * 60 + part;
		n++;
		if (rest.n == 0 || rest.p[0] != ':')
			break;
		rest = slice_sub(rest, 1);
	}
	/* Two parts are as well a time of the day. */
	if (n != 3 || (rest.n > 0 && is_word(rest.p[0])))
		return false;
	*us = seconds * SECOND_US;
	*s = rest;
	return true;
}

/* "5 minutes", "300s", "an hour" off the front; *unit is what one of it is. */
static bool
take_part(struct slice *s, uint64_t *us, uint64_t *unit)
{
	struct slice rest = *s, word;
	uint64_t n = 1;
	bool glued;

	if (!take_number(&rest, 7, &n)) {
		word = take_letters(&rest);
		if (!slice_eq_nocase(word, SLICE_LIT("a")) &&
		    !slice_eq_nocase(word, SLICE_LIT("an")) &&
		    !slice_eq_nocase(word, SLICE_LIT("one")))
			return false;
		n = 1;
	}
	glued = rest.n > 0 && isalpha((unsigned char)rest.p[0]);
	skip_blanks(&rest);
	word = take_letters(&rest);
	*unit = unit_of(word);
	/* A letter by itself is hardly a unit; "(s)" behind the word is still the word. */
	if (*unit == 0 || (word.n == 1 && !glued) || (rest.n > 0 && rest.p[0] == '_'))
		return false;
	if (rest.n > 2 && memcmp(rest.p, "(s)", 3) == 0)
		rest = slice_sub(rest, 3);
	*us = n * *unit;
	*s = rest;
	return true;
}

/* A duration off the front: a clock's, or parts from the larger to the smaller. */
static bool
take_duration(struct slice *s, uint64_t *us)
{
	struct slice rest;
	uint64_t part, unit, next;

	if (take_clock(s, us))
		return true;
	if (!take_part(s, us, &unit))
		return false;
	for (;;) {
		rest = *s;
		skip_blanks(&rest);
		if (slice_starts_nocase(rest, "and "))
			rest = slice_sub(rest, 4);
		if (!take_part(&rest, &part, &next) || next >= unit)
			return true;
		*us += part;
		unit = next;
		*s = rest;
	}
}

/* The word that ends before p. */
static struct slice
word_before(struct slice text, const char *p)
{
	const char *end;

	while (p > text.p && (p[-1] == ' ' || p[-1] == ':' || p[-1] == '('))
		p--;
	end = p;
	while (p > text.p && isalpha((unsigned char)p[-1]))
		p--;
	return slice_of(p, (size_t)(end - p));
}

static bool
is_one_of(struct slice word, const char *const *words, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (slice_eq_nocase(word, slice_str(words[i])))
			return true;
	}
	return false;
}

static bool
in_bounds(uint64_t us)
{
	return us > 0 && us <= RULES_WAIT_MAX_US;
}

/* Places where a number or a word begins, from the front; only behind a lead, or anywhere. */
static bool
search(struct slice text, bool behind_lead, uint64_t *us)
{
	for (size_t i = 3; i < text.n; i++) { /* behind the code */
		struct slice rest = slice_sub(text, i), before;

		if (is_word(text.p[i - 1]) || !isalnum((unsigned char)text.p[i]) ||
		    strchr(".:/-#", text.p[i - 1]) != NULL)
			continue;
		if (!behind_lead && !isdigit((unsigned char)text.p[i]))
			continue;
		before = word_before(text, text.p + i);
		if (is_one_of(before, others, N_OF(others)) ||
		    (behind_lead && !is_one_of(before, leads, N_OF(leads))))
			continue;
		if (take_duration(&rest, us) && in_bounds(*us) &&
		    !slice_starts_nocase(rest, " ago"))
			return true;
	}
	return false;
}

bool
rules_wait_text(struct slice text, uint64_t *us)
{
	return search(text, true, us) || search(text, false, us);
}

bool
rules_wait_groups(struct slice text, const struct pattern_groups *groups, uint64_t *us)
{
	struct slice first = SLICE_NONE, second = SLICE_NONE, rest;
	uint64_t n, unit;

	for (unsigned i = 0; i < groups->n; i++) {
		if (groups->at[i].n > 0 && first.n == 0)
			first = groups->at[i];
		else if (groups->at[i].n > 0 && second.n == 0)
			second = groups->at[i];
	}
	if (first.n == 0)
		return false;
	rest = slice_trim(slice_of(first.p, (size_t)(text.p + text.n - first.p)));
	if (take_duration(&rest, us))
		return in_bounds(*us);
	rest = slice_trim(first);
	if (!take_number(&rest, 7, &n) || rest.n > 0)
		return false;
	unit = unit_of(slice_trim(second));
	*us = n * (unit > 0 ? unit : SECOND_US);
	return in_bounds(*us);
}
