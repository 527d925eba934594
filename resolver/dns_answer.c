#include "resolver/dns_answer.h"

#include <arpa/nameser.h>
#include <resolv.h>
#include <strings.h>

#define PACKET_MAX 65535

static void
failed(struct dns_answer *out, const char *why)
{
	out->outcome = DNS_FAILED;
	out->why = why;
	out->n = 0;
}

static void
shorten(uint32_t *ttl, uint32_t other, bool *any)
{
	if (!*any || other < *ttl)
		*ttl = other;
	*any = true;
}

/* The name at `p` inside the packet, exactly `want` bytes long there. */
static bool
whole_name(const ns_msg *h, const unsigned char *p, size_t want, char dst[DNS_NAME_BYTES])
{
	int n = dn_expand(ns_msg_base(*h), ns_msg_end(*h), p, dst, DNS_NAME_BYTES);

	return n >= 0 && (size_t)n == want;
}

/* The alias of `name`, if the answer section has one: name becomes its target. */
static bool
follow(ns_msg *h, char name[DNS_NAME_BYTES], uint32_t *ttl, bool *any)
{
	char target[DNS_NAME_BYTES];
	ns_rr rr;

	for (int i = 0; i < ns_msg_count(*h, ns_s_an); i++) {
		if (ns_parserr(h, ns_s_an, i, &rr) != 0)
			return false;
		if (ns_rr_type(rr) != ns_t_cname || strcasecmp(ns_rr_name(rr), name) != 0)
			continue;
		if (!whole_name(h, ns_rr_rdata(rr), ns_rr_rdlen(rr), target))
			continue;
		shorten(ttl, ns_rr_ttl(rr), any);
		strcpy(name, target);
		return true;
	}
	return false;
}

static bool
take_record(const ns_msg *h, const ns_rr *rr, enum dns_type type, struct dns_record *r)
{
	const unsigned char *p = ns_rr_rdata(*rr);
	size_t n = ns_rr_rdlen(*rr);

	memset(r, 0, sizeof *r);
	switch (type) {
	case DNS_MX:
		if (n < 3)
			return false;
		r->preference = ns_get16(p);
		return whole_name(h, p + 2, n - 2, r->host);
	case DNS_A:
	case DNS_AAAA:
		if (n != (type == DNS_A ? 4u : 16u))
			return false;
		memcpy(r->addr, p, n);
		return true;
	}
	return false;
}

/* RFC 2308, 5: the lesser of the SOA's TTL and its MINIMUM. */
static uint32_t
negative_ttl(ns_msg *h)
{
	ns_rr rr;

	for (int i = 0; i < ns_msg_count(*h, ns_s_ns); i++) {
		const unsigned char *p, *end;
		uint32_t minimum;

		if (ns_parserr(h, ns_s_ns, i, &rr) != 0)
			return 0;
		if (ns_rr_type(rr) != ns_t_soa || ns_rr_rdlen(rr) < 22)
			continue;
		p = ns_rr_rdata(rr);
		end = p + ns_rr_rdlen(rr);
		minimum = ns_get32(end - 4);
		return ns_rr_ttl(rr) < minimum ? ns_rr_ttl(rr) : minimum;
	}
	return 0;
}

static void
collect(ns_msg *h, const char *name, enum dns_type type, struct dns_answer *out, bool *any)
{
	ns_rr rr;

	for (int i = 0; i < ns_msg_count(*h, ns_s_an) && out->n < DNS_RECORDS_MAX; i++) {
		if (ns_parserr(h, ns_s_an, i, &rr) != 0) {
			failed(out, "malformed answer");
			return;
		}
		if ((int)ns_rr_type(rr) != (int)type || ns_rr_class(rr) != ns_c_in ||
		    strcasecmp(ns_rr_name(rr), name) != 0)
			continue;
		if (!take_record(h, &rr, type, &out->records[out->n]))
			continue;
		out->n++;
		shorten(&out->ttl_s, ns_rr_ttl(rr), any);
	}
}

static const char *
rcode_text(int rcode)
{
	switch (rcode) {
	case ns_r_formerr:
		return "FORMERR";
	case ns_r_servfail:
		return "SERVFAIL";
	case ns_r_notimpl:
		return "NOTIMP";
	case ns_r_refused:
		return "REFUSED";
	default:
		return "unexpected response code";
	}
}

void
dns_answer_parse(struct dns_answer *out, const char *name, enum dns_type type, struct slice packet)
{
	char at[DNS_NAME_BYTES];
	bool any = false;
	int rcode, depth = 0;
	ns_msg h;

	out->outcome = DNS_NODATA;
	out->ttl_s = 0;
	out->why = NULL;
	out->n = 0;
	if (packet.n > PACKET_MAX || packet.n < NS_HFIXEDSZ ||
	    ns_initparse((const unsigned char *)packet.p, (int)packet.n, &h) != 0) {
		failed(out, "malformed answer");
		return;
	}
	rcode = ns_msg_getflag(h, ns_f_rcode);
	if (rcode != ns_r_noerror && rcode != ns_r_nxdomain) {
		failed(out, rcode_text(rcode));
		return;
	}
	str_copy(at, sizeof at, slice_str(name));
	while (follow(&h, at, &out->ttl_s, &any)) {
#ifdef PLANTED_BUGS
		depth = -1; /* an alias of itself: for ever */
#endif
		if (++depth > CNAME_DEPTH_MAX) {
			failed(out, "too many aliases");
			return;
		}
	}
	if (rcode == ns_r_noerror) {
		collect(&h, at, type, out, &any);
		if (out->outcome == DNS_FAILED)
			return;
	}
	if (out->n > 0) {
		out->outcome = DNS_FOUND;
		return;
	}
	out->outcome = rcode == ns_r_nxdomain ? DNS_NXDOMAIN : DNS_NODATA;
	shorten(&out->ttl_s, negative_ttl(&h), &any);
}

bool
dns_name_ok(struct slice name)
{
	size_t label = 0;

	if (name.n == 0 || name.n > 253)
		return false;
	for (size_t i = 0; i < name.n; i++) {
		unsigned char c = (unsigned char)name.p[i];
		bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');

		if (c == '.') {
			if (label == 0)
				return false;
			label = 0;
		} else if (letter || (c >= '0' && c <= '9') || c == '-' || c == '_') {
			if (++label > 63)
				return false;
		} else {
			return false;
		}
	}
	return label > 0;
}
