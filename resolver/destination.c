#include "resolver/destination.h"

#include <arpa/inet.h>

#include "common/base/err.h"
#include "resolver/dns_answer.h"

bool
destination_address(struct slice text, uint16_t port, struct sockaddr_storage *out)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)out;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
	char copy[64];

	memset(out, 0, sizeof *out);
	if (slice_starts_nocase(text, "IPv6:"))
		text = slice_sub(text, 5);
	if (text.n == 0 || text.n >= sizeof copy || memchr(text.p, '\0', text.n) != NULL)
		return false;
	str_copy(copy, sizeof copy, text);
	if (inet_pton(AF_INET, copy, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		return true;
	}
	if (inet_pton(AF_INET6, copy, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
		return true;
	}
	return false;
}

static bool
port_parse(struct slice text, uint16_t *port)
{
	uint64_t v;

	if (!slice_u64(text, 65535, &v) || v == 0)
		return false;
	*port = (uint16_t)v;
	return true;
}

static bool
name_parse(struct slice text, char dst[DESTINATION_NAME_BYTES])
{
	if (text.n > 1 && text.p[text.n - 1] == '.')
		text.n--;
	if (!dns_name_ok(text))
		return false;
	str_copy(dst, DESTINATION_NAME_BYTES, text);
	str_lower(dst, text.n);
	return true;
}

/* `[...]` with an optional `:port` behind. */
static bool
bracketed(struct destination_item *item, struct slice text)
{
	const char *end = memchr(text.p, ']', text.n);
	struct slice inside, behind;

	if (end == NULL)
		return false;
	inside = slice_of(text.p + 1, (size_t)(end - text.p) - 1);
	behind = slice_sub(text, (size_t)(end - text.p) + 1);
	if (behind.n > 0 && (behind.p[0] != ':' || !port_parse(slice_sub(behind, 1), &item->port)))
		return false;
	if (destination_address(inside, item->port, &item->addr)) {
		item->kind = DESTINATION_ADDRESS;
		str_copy(item->name, sizeof item->name, text);
		return true;
	}
	item->kind = DESTINATION_HOST;
	return name_parse(inside, item->name);
}

static bool
item_parse(struct destination_item *item, struct slice text)
{
	const char *colon;
	bool mx = slice_starts_nocase(text, "lookup-mx:");

	if (mx)
		text = slice_trim(slice_sub(text, strlen("lookup-mx:")));
	if (text.n == 0)
		return false;
	if (!mx && text.p[0] == '[')
		return bracketed(item, text);
	/* An IPv6 address without brackets has colons, none of them before a port. */
	if (!mx && destination_address(text, item->port, &item->addr)) {
		item->kind = DESTINATION_ADDRESS;
		str_copy(item->name, sizeof item->name, text);
		return true;
	}
	colon = memrchr(text.p, ':', text.n);
	if (colon != NULL) {
		size_t at = (size_t)(colon - text.p);

		if (!port_parse(slice_trim(slice_sub(text, at + 1)), &item->port))
			return false;
		text = slice_trim(slice_of(text.p, at));
	}
	if (!mx && destination_address(text, item->port, &item->addr)) {
		item->kind = DESTINATION_ADDRESS;
		str_copy(item->name, sizeof item->name, text);
		return true;
	}
	item->kind = mx ? DESTINATION_MX : DESTINATION_HOST;
	return name_parse(text, item->name);
}

static int
hosts_parse(struct destination *out, struct slice value, uint16_t port)
{
	uint16_t group = 0;

	while (value.p != NULL) {
		struct slice level = slice_cut(&value, ';');
		bool any = false;

		while (level.p != NULL) {
			struct slice text = slice_trim(slice_cut(&level, ','));
			struct destination_item *item = &out->items[out->n];

			if (text.n == 0)
				continue; /* `a;` and `a, ,b` harm nobody */
			if (out->n == ROUTE_MX_MAX)
				return -E_BAD;
			item->port = port;
			item->group = group;
			if (!item_parse(item, text))
				return -E_BAD;
			out->n++;
			any = true;
		}
		group = (uint16_t)(group + any);
	}
	return out->n > 0 ? 0 : -E_BAD;
}

int
destination_parse(struct destination *out, struct slice key)
{
	struct slice rest = key, value = slice_cut(&rest, '\n');
	struct destination_item *item = &out->items[0];
	uint16_t port = 25;

	memset(out, 0, sizeof *out);
	if (rest.p != NULL && !port_parse(rest, &port))
		return -E_BAD;
	if (value.n > 0 && value.p[0] == '=') {
		out->by_hand = true;
		return hosts_parse(out, slice_sub(value, 1), port);
	}
	item->port = port;
	out->n = 1;
	if (value.n > 0 && value.p[0] == '[')
		return bracketed(item, value) && item->kind == DESTINATION_ADDRESS ? 0 : -E_BAD;
	item->kind = DESTINATION_MX;
	return name_parse(value, item->name) ? 0 : -E_BAD;
}
