#include "common/conf/conf_rollup_ips.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "common/conf/conf.h"

static int
order(const struct conf_rollup_ip *a, const struct conf_rollup_ip *b)
{
	if (a->family != b->family)
		return a->family == AF_INET ? -1 : 1;
	return memcmp(a->bytes, b->bytes, sizeof a->bytes);
}

/* Where it is, or belongs. */
static size_t
place(const struct conf_rollup_ips *ips, const struct conf_rollup_ip *ip, bool *is_there)
{
	size_t at = 0;

	while (at < ips->n && order(&ips->of[at], ip) < 0)
		at++;
	*is_there = at < ips->n && order(&ips->of[at], ip) == 0;
	return at;
}

static const char *
ip_text(const struct conf_rollup_ip *ip, char text[INET6_ADDRSTRLEN])
{
	return inet_ntop(ip->family, ip->bytes, text, INET6_ADDRSTRLEN);
}

bool
conf_rollup_ips_add(struct conf_rollup_ips *ips, const struct sockaddr_storage *address)
{
	struct conf_rollup_ip ip = { .family = address->ss_family };
	char text[INET6_ADDRSTRLEN];
	bool is_there;
	size_t at;

	if (ip.family == AF_INET)
		memcpy(ip.bytes, &((const struct sockaddr_in *)address)->sin_addr, 4);
	else
		memcpy(ip.bytes, &((const struct sockaddr_in6 *)address)->sin6_addr, 16);
	/* IPv4 in the clothes of IPv6: its dots could not be told from those of the name. */
	if (ip.family != AF_INET && strchr(ip_text(&ip, text), '.') != NULL)
		return false;
	at = place(ips, &ip, &is_there);
	if (is_there)
		return true;
	if (ips->n == CONF_ROLLUP_IPS_MAX)
		return false;
	memmove(&ips->of[at + 1], &ips->of[at], (ips->n - at) * sizeof ips->of[0]);
	ips->of[at] = ip;
	ips->n++;
	return true;
}

bool
conf_rollup_ips_within(const struct conf_rollup_ips *some, const struct conf_rollup_ips *all)
{
	bool is_there = true;

	for (size_t i = 0; i < some->n && is_there; i++)
		(void)place(all, &some->of[i], &is_there);
	return is_there;
}

bool
conf_rollup_ips_name(const struct conf_rollup_ips *ips, struct slice queue,
		     char name[SMTP_DOMAIN_MAX + 1])
{
	struct buf b = { 0 };
	char text[INET6_ADDRSTRLEN];
	bool fits;

	for (size_t i = 0; i < ips->n; i++)
		buf_printf(&b, "%s%s", i > 0 ? "+" : "", ip_text(&ips->of[i], text));
	buf_printf(&b, ".%.*s", (int)queue.n, queue.p);
	fits = ips->n > 0 && b.len <= SMTP_DOMAIN_MAX;
	str_copy(name, SMTP_DOMAIN_MAX + 1, buf_slice(&b));
	buf_clear(&b);
	return fits;
}

/* Taking apart --------------------------------------------------------------------------------- */
static bool
read_ip(struct slice text, struct sockaddr_storage *out)
{
	char copy[INET6_ADDRSTRLEN];

	memset(out, 0, sizeof *out);
	if (text.n == 0 || text.n >= sizeof copy || memchr(text.p, '\0', text.n) != NULL)
		return false;
	str_copy(copy, sizeof copy, text);
	out->ss_family = memchr(text.p, ':', text.n) != NULL ? AF_INET6 : AF_INET;
	return inet_pton(out->ss_family, copy,
			 out->ss_family == AF_INET6
				 ? (void *)&((struct sockaddr_in6 *)out)->sin6_addr
				 : (void *)&((struct sockaddr_in *)out)->sin_addr) == 1;
}

static bool
read_ips(struct slice text, struct conf_rollup_ips *ips)
{
	struct sockaddr_storage ip;

	ips->n = 0;
	while (text.p != NULL) {
		if (!read_ip(slice_cut(&text, '+'), &ip) || !conf_rollup_ips_add(ips, &ip))
			return false;
	}
	return ips->n > 0;
}

/* Its addresses; and what is behind them, n = 0: there are none. An IPv4 address ends at the first
 * dot at which it is whole, whatever digits NAME begins with. */
static struct slice
split(struct slice domain, struct conf_rollup_ips *ips)
{
	/* Nearly all domains leave here. */
	if (!conf_is_rollup(domain))
		return SLICE_NONE;
	for (size_t i = 0; i < domain.n; i++) {
		struct slice behind = slice_sub(domain, i + 1);

		if (domain.p[i] == '.' && conf_is_rollup(behind) &&
		    read_ips(slice_of(domain.p, i), ips))
			return behind;
	}
	return SLICE_NONE;
}

struct slice
conf_rollup_base(struct slice domain)
{
	struct conf_rollup_ips ips;
	struct slice behind = split(domain, &ips);

	return behind.n > 0 ? behind : domain;
}

bool
conf_rollup_ips_hosts(struct slice domain, struct buf *hosts)
{
	struct conf_rollup_ips ips;
	char text[INET6_ADDRSTRLEN];

	if (split(domain, &ips).n == 0)
		return false;
	/* As in other routes: without a way for IPv6 nothing waits for it. */
	for (size_t i = 0; i < ips.n; i++) {
		const struct conf_rollup_ip *ip = &ips.of[i];

		if (i > 0)
			buf_putc(hosts, ip->family == ips.of[i - 1].family ? ',' : ';');
		buf_printf(hosts, "[%s%s]", ip->family == AF_INET6 ? "IPv6:" : "",
			   ip_text(ip, text));
	}
	return true;
}
