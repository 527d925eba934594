/* Addresses: what is taken is within the bounds, and taken again in the same way. */
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/mail/address.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check_inside(struct slice whole, struct slice part)
{
	if (part.n > 0)
		CHECK(part.p >= whole.p && part.p + part.n <= whole.p + whole.n);
}

static void
check_taken(struct slice whole, const struct address *a)
{
	struct buf again = { 0 };
	struct slice s;
	struct address b;

	check_inside(whole, a->local);
	check_inside(whole, a->domain);
	CHECK(a->local.n <= SMTP_LOCAL_PART_MAX && a->domain.n <= SMTP_DOMAIN_MAX);
	for (size_t i = 0; i < a->local.n; i++)
		CHECK(a->local.p[i] >= ' ' && a->local.p[i] <= '~');
	buf_putc(&again, '<');
	address_put(&again, a);
	buf_putc(&again, '>');
	CHECK(again.len <= SMTP_PATH_MAX);
	s = buf_slice(&again);
	CHECK(address_parse_path(&s, &b) == 0 && s.n == 0);
	CHECK(b.kind == a->kind && slice_eq(b.local, a->local));
	CHECK(slice_eq_nocase(b.domain, a->domain));
	/* The domain is what stands behind the last @: a quoted one decides nothing. */
	if (a->kind == ADDRESS_DOMAIN)
		CHECK(memchr(a->domain.p, '@', a->domain.n) == NULL &&
		      address_is_domain(a->domain));
	buf_clear(&again);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *exact = size > 0 ? memcpy(mem_alloc(size), data, size) : NULL;
	struct slice s = slice_of(exact, size);
	struct slice rest = s;
	struct address a;

	if (address_parse_path(&rest, &a) == 0) {
		CHECK(rest.n < s.n && rest.p[-1] == '>');
		check_taken(s, &a);
	} else {
		CHECK(rest.n == s.n);
	}
	if (address_parse_mailbox(s, &a) == 0)
		check_taken(s, &a);
	address_is_domain(s);
	address_is_literal(s);
	mem_free(exact);
	return 0;
}
