#include "common/smtp/smtp_ehlo.h"

#define X(name, text) text,
static const char *const keywords[] = { SMTP_EHLO_TABLE(X) };
static const char *const mechanisms[] = { SMTP_EHLO_AUTH_TABLE(X) };
#undef X

void
smtp_ehlo_begin(struct smtp_ehlo *e)
{
	memset(e, 0, sizeof *e);
}

/* The next word; blanks and tabs part words. Empty at the end. */
static struct slice
next_word(struct slice *rest)
{
	struct slice s = slice_trim(*rest);
	size_t n = 0;

	while (n < s.n && s.p[n] != ' ' && s.p[n] != '\t')
		n++;
	*rest = slice_sub(s, n);
	return slice_of(s.p, n);
}

static int
find_word(const char *const *table, size_t n, struct slice word)
{
	for (size_t i = 0; i < n; i++) {
		if (slice_eq_nocase(word, slice_str(table[i])))
			return (int)i;
	}
	return -1;
}

/* SIZE: digits (RFC 1870: up to 20). More than we can count is no limit; so is 0. */
static void
take_size(struct smtp_ehlo *e, struct slice rest)
{
	uint64_t v;

	e->size = slice_u64(next_word(&rest), UINT64_MAX, &v) ? v : 0;
}

/* LIMITS: NAME=VALUE words; a limit of 0 would forbid all mail and is taken as not given. */
static void
take_limits(struct smtp_ehlo *e, struct slice rest)
{
	struct slice word;

	while ((word = next_word(&rest)).n > 0) {
		struct slice name = slice_cut(&word, '=');
		uint64_t v;

		if (!slice_u64(word, 999999, &v)) /* RFC 9422 4: up to six digits */
			continue;
		if (slice_eq_nocase(name, SLICE_LIT("RCPTMAX")))
			e->rcpt_max = (uint32_t)v;
		else if (slice_eq_nocase(name, SLICE_LIT("MAILMAX")))
			e->mail_max = (uint32_t)v;
		else if (slice_eq_nocase(name, SLICE_LIT("RCPTDOMAINMAX")))
			e->domain_max = (uint32_t)v;
	}
}

static void
take_auth(struct smtp_ehlo *e, struct slice rest)
{
	struct slice word;

	while ((word = next_word(&rest)).n > 0) {
		int i = find_word(mechanisms, SMTP_EHLO_AUTH_NUMBERS, word);

		if (i >= 0)
			e->auth |= (uint8_t)(1u << i);
	}
}

void
smtp_ehlo_line(struct smtp_ehlo *e, struct slice text)
{
	struct slice rest = text;
	struct slice word;
	int i;

	if (e->keywords >= EHLO_KEYWORDS_MAX)
		return;
	e->keywords++;
#ifdef PLANTED_BUGS
	/* Looks for the blank behind a bare `SIZE` without asking whether anything stands there. */
	if (slice_eq_nocase(text, SLICE_LIT("SIZE")) && text.p[text.n] == ' ')
		e->size = 1;
#endif
	word = next_word(&rest);
	if (slice_starts_nocase(word, "AUTH=")) {
		/* The form before RFC 2554, still sent beside the other one. */
		rest = slice_of(word.p + 5, (size_t)(rest.p + rest.n - word.p) - 5);
		word.n = 4;
	}
	i = find_word(keywords, SMTP_EHLO_NUMBERS, word);
	if (i == SMTP_EHLO_NUMBER_AUTH) {
		take_auth(e, rest); /* twice is common: both forms add up */
	} else if (i >= 0 && (e->has & (1u << i)) == 0) {
		if (i == SMTP_EHLO_NUMBER_SIZE)
			take_size(e, rest);
		if (i == SMTP_EHLO_NUMBER_LIMITS)
			take_limits(e, rest);
	}
	if (i >= 0)
		e->has |= (uint16_t)(1u << i);
}

void
smtp_ehlo_print(const struct smtp_ehlo *e, struct buf *out)
{
	bool first = true;

	for (size_t i = 0; i < SMTP_EHLO_NUMBERS; i++) {
		if ((e->has & (1u << i)) == 0)
			continue;
		buf_puts(out, first ? "" : " ");
		buf_puts(out, keywords[i]);
		first = false;
	}
}
