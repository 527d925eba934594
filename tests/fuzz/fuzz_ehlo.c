/* The lines of an EHLO answer, parted by line feeds. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/smtp/smtp_ehlo.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice rest = slice_of(data, size);
	struct smtp_ehlo e = { 0 };
	struct buf b = { 0 };

	while (rest.p != NULL) {
		struct slice line = slice_cut(&rest, '\n');
		uint16_t before = e.has;
		char *own = malloc(line.n > 0 ? line.n : 1);

		CHECK(own != NULL);
		if (line.n > 0)
			memcpy(own, line.p, line.n);
		smtp_ehlo_line(&e, slice_of(own, line.n));
		free(own);
		CHECK((e.has & before) == before);
		CHECK(e.keywords <= EHLO_KEYWORDS_MAX && e.has < 1u << SMTP_EHLO_NUMBERS);
		CHECK(e.rcpt_max <= 999999 && e.mail_max <= 999999 && e.domain_max <= 999999);
		CHECK(e.size == 0 || (e.has & SMTP_EHLO_SIZE));
		CHECK(e.rcpt_max == 0 || (e.has & SMTP_EHLO_LIMITS));
		CHECK(e.auth == 0 || (e.has & SMTP_EHLO_AUTH));
	}
	smtp_ehlo_print(&e, &b);
	CHECK((b.len == 0) == (e.has == 0));
	buf_clear(&b);
	return 0;
}
