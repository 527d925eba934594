#include "common/smtp/smtp_client_command.h"

#include <inttypes.h>

#include "common/base/check.h"
#include "common/base/limits.h"

bool
smtp_client_address_ok(struct slice address)
{
	bool quoted = false;

	if (address.n > SMTP_PATH_MAX - 2)
		return false;
	for (size_t i = 0; i < address.n; i++) {
		unsigned char c = (unsigned char)address.p[i];

		if (c < 0x20 || c == 0x7f)
			return false;
		if (c == '"')
			quoted = !quoted;
		else if (!quoted && (c == ' ' || c == '<' || c == '>'))
			return false;
		else if (quoted && c == '\\' && ++i < address.n &&
			 ((unsigned char)address.p[i] < 0x20 || address.p[i] == 0x7f))
			return false;
	}
	return !quoted;
}

bool
smtp_client_address_utf8(struct slice address)
{
	for (size_t i = 0; i < address.n; i++) {
		if ((unsigned char)address.p[i] >= 0x80)
			return true;
	}
	return false;
}

bool
smtp_client_helo_ok(struct slice name)
{
	if (name.n == 0 || name.n > SMTP_DOMAIN_MAX)
		return false;
	for (size_t i = 0; i < name.n; i++) {
		if (name.p[i] <= ' ' || name.p[i] >= 0x7f)
			return false;
	}
	return true;
}

void
smtp_client_put_mail(struct buf *out, const struct smtp_client_mail *m)
{
	CHECK(smtp_client_address_ok(m->sender));
	buf_put(out, "MAIL FROM:<", 11);
	buf_put_slice(out, m->sender);
	buf_put(out, ">", 1);
	if (m->with_size)
		buf_printf(out, " SIZE=%" PRIu64, m->size);
	if (m->body_8bit)
		buf_put(out, " BODY=8BITMIME", 14);
	if (m->utf8)
		buf_put(out, " SMTPUTF8", 9);
	buf_put(out, "\r\n", 2);
}

void
smtp_client_put_rcpt(struct buf *out, struct slice address)
{
	CHECK(smtp_client_address_ok(address));
	buf_put(out, "RCPT TO:<", 9);
	buf_put_slice(out, address);
	buf_put(out, ">\r\n", 3);
}
