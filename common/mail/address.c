#include "common/mail/address.h"

#include <arpa/inet.h>

#include "common/base/err.h"
#include "common/base/limits.h"

#define LABEL_MAX 63

/* What may stand where; one table so that no test of a byte is written twice. */
enum { C_ATEXT = 1, C_LETDIG = 2, C_QTEXT = 4, C_DTEXT = 8 };

static unsigned
class_of(char ch)
{
	unsigned char c = (unsigned char)ch;
	unsigned m = 0;

	if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'))
		m |= C_ATEXT | C_LETDIG;
	if (c != '\0' && strchr("!#$%&'*+-/=?^_`{|}~", c) != NULL)
		m |= C_ATEXT;
	if (c >= 32 && c <= 126 && c != '"' && c != '\\')
		m |= C_QTEXT;
	if (c >= 33 && c <= 126 && c != '[' && c != ']' && c != '\\')
		m |= C_DTEXT;
	return m;
}

static size_t
run_of(struct slice s, size_t i, unsigned mask)
{
	while (i < s.n && (class_of(s.p[i]) & mask) != 0)
		i++;
	return i;
}

/* Each take_ function reads one element at s[*at] and moves *at behind it. */
static int
take_dot_string(struct slice s, size_t *at)
{
	size_t i = *at;

	for (;;) {
		size_t from = i;

		i = run_of(s, i, C_ATEXT);
		if (i - *at > SMTP_LOCAL_PART_MAX)
			return -E_TOO_BIG;
		if (i == from)
			return -E_BAD; /* empty, two dots, or a dot at the end */
		if (i == s.n || s.p[i] != '.')
			break;
		i++;
	}
	*at = i;
	return 0;
}

static int
take_quoted_string(struct slice s, size_t *at)
{
	size_t i = *at + 1;

	for (;;) {
		if (i - *at >= SMTP_LOCAL_PART_MAX)
			return -E_TOO_BIG;
		if (i == s.n)
			return -E_BAD;
		if (s.p[i] == '"')
			break;
		if (s.p[i] == '\\') { /* any printable byte may follow */
			i++;
			if (i == s.n || s.p[i] < 32 || s.p[i] > 126)
				return -E_BAD;
		} else if ((class_of(s.p[i]) & C_QTEXT) == 0) {
			return -E_BAD;
		}
		i++;
	}
	*at = i + 1;
	return 0;
}

static int
take_domain(struct slice s, size_t *at)
{
	size_t i = *at;

	for (;;) {
		size_t from = i;

		while (i < s.n && ((class_of(s.p[i]) & C_LETDIG) != 0 || s.p[i] == '-'))
			i++;
		if (i - from > LABEL_MAX || i - *at > SMTP_DOMAIN_MAX)
			return -E_TOO_BIG;
		if (i == from || s.p[from] == '-' || s.p[i - 1] == '-')
			return -E_BAD;
		if (i == s.n || s.p[i] != '.')
			break;
		i++;
	}
	*at = i;
	return 0;
}

static bool
literal_is_valid(struct slice in)
{
	char text[INET6_ADDRSTRLEN];
	unsigned char addr[16];
	size_t tag;

	if (slice_starts_nocase(in, "IPv6:")) {
		in = slice_sub(in, 5);
		if (in.n >= sizeof text)
			return false;
		str_copy(text, sizeof text, in);
		return inet_pton(AF_INET6, text, addr) == 1;
	}
	if (in.n < sizeof text) {
		str_copy(text, sizeof text, in);
		if (inet_pton(AF_INET, text, addr) == 1)
			return true;
	}
	/* General-address-literal: tag ":" dtext, for families yet to come. */
	tag = 0;
	while (tag < in.n && ((class_of(in.p[tag]) & C_LETDIG) != 0 || in.p[tag] == '-'))
		tag++;
	return tag > 0 && in.p[tag - 1] != '-' && tag + 1 < in.n && in.p[tag] == ':';
}

static int
take_literal(struct slice s, size_t *at)
{
	size_t end = run_of(s, *at + 1, C_DTEXT);

	if (end - *at > SMTP_DOMAIN_MAX)
		return -E_TOO_BIG;
	if (end == s.n || s.p[end] != ']')
		return -E_BAD;
	if (!literal_is_valid(slice_of(s.p + *at + 1, end - *at - 1)))
		return -E_BAD;
	*at = end + 1;
	return 0;
}

/* `@a,@b:` before the mailbox. */
static int
take_route(struct slice s, size_t *at)
{
	size_t i = *at;
	int rc;

	while (i < s.n && s.p[i] == '@') {
		i++;
		rc = i < s.n && s.p[i] == '[' ? take_literal(s, &i) : take_domain(s, &i);
		if (rc != 0)
			return rc;
		if (i < s.n && s.p[i] == ':') {
			*at = i + 1;
			return 0;
		}
		if (i == s.n || s.p[i] != ',')
			return -E_BAD;
		i++;
	}
	return -E_BAD;
}

static int
take_mailbox(struct slice s, size_t *at, struct address *out)
{
	size_t from = *at;
	size_t i = from;
	size_t domain;
	int rc;

	rc = i < s.n && s.p[i] == '"' ? take_quoted_string(s, &i) : take_dot_string(s, &i);
	if (rc != 0)
		return rc;
	out->local = slice_of(s.p + from, i - from);
	out->domain = SLICE_NONE;
	out->kind = ADDRESS_LOCAL;
	if (i < s.n && s.p[i] == '@') {
		domain = ++i;
#ifdef PLANTED_BUGS
		if (s.p[i] == '[') { /* reads behind `local@` */
#else
		if (i < s.n && s.p[i] == '[') {
#endif
			out->kind = ADDRESS_LITERAL;
			rc = take_literal(s, &i);
		} else {
			out->kind = ADDRESS_DOMAIN;
			rc = take_domain(s, &i);
		}
		if (rc != 0)
			return rc;
		out->domain = slice_of(s.p + domain, i - domain);
	} else if (!slice_eq_nocase(out->local, SLICE_LIT("postmaster"))) {
		return -E_BAD;
	}
	if (i - from > SMTP_PATH_MAX - 2)
		return -E_TOO_BIG;
	*at = i;
	return 0;
}

int
address_parse_path(struct slice *s, struct address *out)
{
	size_t i = 1;
	int rc;

	memset(out, 0, sizeof *out);
	if (s->n < 2 || s->p[0] != '<')
		return -E_BAD;
	if (s->p[1] == '>') {
		*s = slice_sub(*s, 2);
		return 0; /* kind is ADDRESS_NULL */
	}
	if (s->p[1] == '@') {
		rc = take_route(*s, &i);
		if (rc != 0)
			return rc;
	}
	rc = take_mailbox(*s, &i, out);
	if (rc != 0)
		return rc;
	if (i == s->n || s->p[i] != '>')
		return -E_BAD;
	*s = slice_sub(*s, i + 1);
	return 0;
}

int
address_parse_mailbox(struct slice s, struct address *out)
{
	size_t i = 0;
	int rc;

	memset(out, 0, sizeof *out);
	rc = take_mailbox(s, &i, out);
	if (rc != 0)
		return rc;
	return i == s.n && out->kind != ADDRESS_LOCAL ? 0 : -E_BAD;
}

bool
address_is_domain(struct slice s)
{
	size_t i = 0;

	return take_domain(s, &i) == 0 && i == s.n;
}

bool
address_is_literal(struct slice s)
{
	size_t i = 0;

	return s.n > 0 && s.p[0] == '[' && take_literal(s, &i) == 0 && i == s.n;
}

void
address_put(struct buf *out, const struct address *a)
{
	char *domain;

	if (a->kind == ADDRESS_NULL)
		return;
	buf_put_slice(out, a->local);
	if (a->kind == ADDRESS_LOCAL)
		return;
	buf_putc(out, '@');
	domain = buf_room(out, a->domain.n);
	memcpy(domain, a->domain.p, a->domain.n);
	str_lower(domain, a->domain.n);
	buf_added(out, a->domain.n);
}
