/* A DNS answer of any bytes to each kind of question; and, for a first byte of 'k', the rest as the
 * key of a route. */
#include <stdint.h>
#include <string.h>

#include "common/base/check.h"
#include "resolver/destination.h"
#include "resolver/dns_answer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
parse_key(struct slice key)
{
	struct destination d;

	if (destination_parse(&d, key) != 0)
		return;
	CHECK(d.n > 0 && d.n <= ROUTE_MX_MAX);
	for (unsigned i = 0; i < d.n; i++) {
		CHECK(memchr(d.items[i].name, '\0', sizeof d.items[i].name) != NULL);
		CHECK(d.items[i].port != 0);
		if (d.items[i].kind == DESTINATION_ADDRESS)
			CHECK(d.items[i].addr.ss_family == AF_INET ||
			      d.items[i].addr.ss_family == AF_INET6);
		else
			CHECK(dns_name_ok(slice_str(d.items[i].name)));
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const enum dns_type types[] = { DNS_MX, DNS_A, DNS_AAAA };
	static struct dns_answer a;

	if (size > 0 && data[0] == 'k') {
		parse_key(slice_of(data + 1, size - 1));
		return 0;
	}
	for (int i = 0; i < 3; i++) {
		dns_answer_parse(&a, "a.test", types[i], slice_of(data, size));
		CHECK(a.n <= DNS_RECORDS_MAX && (a.outcome == DNS_FOUND) == (a.n > 0));
		CHECK((a.why != NULL) == (a.outcome == DNS_FAILED));
		for (unsigned k = 0; k < a.n; k++)
			CHECK(memchr(a.records[k].host, '\0', DNS_NAME_BYTES) != NULL);
	}
	return 0;
}
