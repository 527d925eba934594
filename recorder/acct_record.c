#include "recorder/acct_record.h"

#include <stdio.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/json.h"
#include "common/rules/rules_category.h"

#define CATEGORY_BYTES (RULE_CATEGORY_MAX + 1)

#define ACCT_DBT (ACCT_D | ACCT_B | ACCT_T)

/* Name, types that have it. The order is that of the d, b, t columns, then what r has besides, then
 * what no default layout names, then ours. */
// clang-format off
#define COLUMNS(X) \
	X(type,               ACCT_DBT | ACCT_R | ACCT_TQ) \
	X(timeLogged,         ACCT_DBT | ACCT_R | ACCT_TQ) \
	X(timeQueued,         ACCT_DBT) \
	X(orig,               ACCT_DBT | ACCT_R) \
	X(rcpt,               ACCT_DBT | ACCT_R) \
	X(orcpt,              ACCT_DBT | ACCT_R) \
	X(dsnAction,          ACCT_DBT) \
	X(dsnStatus,          ACCT_DBT | ACCT_TQ) \
	X(dsnDiag,            ACCT_DBT | ACCT_TQ) \
	X(dsnMta,             ACCT_DBT | ACCT_TQ) \
	X(bounceCat,          ACCT_DBT) \
	X(srcType,            ACCT_DBT | ACCT_R) \
	X(srcMta,             ACCT_DBT | ACCT_R) \
	X(dlvType,            ACCT_DBT | ACCT_TQ) \
	X(dlvSourceIp,        ACCT_DBT | ACCT_TQ) \
	X(dlvDestinationIp,   ACCT_DBT | ACCT_TQ) \
	X(dlvEsmtpAvailable,  ACCT_DBT) \
	X(dlvSize,            ACCT_DBT) \
	X(vmta,               ACCT_DBT | ACCT_R | ACCT_TQ) \
	X(jobId,              ACCT_DBT | ACCT_R) \
	X(envId,              ACCT_DBT | ACCT_R) \
	X(queue,              ACCT_DBT | ACCT_TQ) \
	X(vmtaPool,           ACCT_DBT) \
	X(rcvSourceIp,        ACCT_R) \
	X(rcvDestinationIp,   ACCT_R) \
	X(userString,         ACCT_DBT | ACCT_R | ACCT_TQ) \
	X(eventId,            ACCT_DBT | ACCT_R | ACCT_TQ) \
	X(grantStamp,         ACCT_DBT | ACCT_R | ACCT_TQ) \
	X(maybeDup,           ACCT_DBT | ACCT_R | ACCT_TQ)
// clang-format on

enum column {
#define X(name, types) COL_##name,
	COLUMNS(X)
#undef X
		COL_COUNT
};
_Static_assert(COL_COUNT <= ACCT_COLUMNS_MAX, "columns of a layout");

static const struct {
	const char *name;
	unsigned types;
} columns[] = {
#define X(name, types) [COL_##name] = { #name, types },
	COLUMNS(X)
#undef X
};

/* The default columns of a file that holds only this. */
static const uint8_t order_dbt[] = {
	COL_type,
	COL_timeLogged,
	COL_timeQueued,
	COL_orig,
	COL_rcpt,
	COL_orcpt,
	COL_dsnAction,
	COL_dsnStatus,
	COL_dsnDiag,
	COL_dsnMta,
	COL_bounceCat,
	COL_srcType,
	COL_srcMta,
	COL_dlvType,
	COL_dlvSourceIp,
	COL_dlvDestinationIp,
	COL_dlvEsmtpAvailable,
	COL_dlvSize,
	COL_vmta,
	COL_jobId,
	COL_envId,
	COL_queue,
	COL_vmtaPool,
};
static const uint8_t order_r[] = {
	COL_type,   COL_timeLogged,  COL_orig,
	COL_rcpt,   COL_orcpt,       COL_srcType,
	COL_srcMta, COL_rcvSourceIp, COL_rcvDestinationIp,
	COL_vmta,   COL_jobId,       COL_envId,
};
static const uint8_t order_tq[] = {
	COL_type,        COL_timeLogged,       COL_queue,      COL_vmta,
	COL_dsnStatus,   COL_dsnDiag,          COL_dsnMta,     COL_dlvType,
	COL_dlvSourceIp, COL_dlvDestinationIp, COL_userString,
};
static const uint8_t order_ours[] = { COL_eventId, COL_grantStamp, COL_maybeDup };

/* One record about to be written. */
struct row {
	const struct acct_layout *layout;
	const struct event *event;
	const struct event_rcpt *rcpt; /* NULL: tq */
	enum acct_type type;
	unsigned number;   /* within the event */
	struct buf *value; /* scratch */
};

static const char *
type_name(enum acct_type type)
{
	switch (type) {
	case ACCT_D:
		return "d";
	case ACCT_B:
		return "b";
	case ACCT_T:
		return "t";
	case ACCT_TQ:
		return "tq";
	case ACCT_R:
		return "r";
	}
	return "";
}

static void
add_columns(struct acct_layout *l, const uint8_t *order, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		bool there = false;

		for (unsigned k = 0; k < l->n_columns; k++)
			there = there || l->columns[k] == order[i];
		if (!there)
			l->columns[l->n_columns++] = order[i];
	}
}

void
acct_layout_init(struct acct_layout *l, const struct conf_acct_file *conf,
		 const unsigned char instance[16])
{
	static const uint8_t user_string = COL_userString;

	memset(l, 0, sizeof *l);
	l->types = (conf->d ? ACCT_D : 0u) | (conf->b ? ACCT_B : 0u) | (conf->t ? ACCT_T : 0u) |
		   (conf->tq ? ACCT_TQ : 0u) | (conf->r ? ACCT_R : 0u);
	l->json = conf->json;
	l->iso_times = conf->iso_times;
	l->user_string = conf->user_string;
	snprintf(l->id_prefix, sizeof l->id_prefix, "%02x%02x%02x%02x", instance[0], instance[1],
		 instance[2], instance[3]);
	if (l->types & ACCT_DBT)
		add_columns(l, order_dbt, sizeof order_dbt);
	if (l->types & ACCT_R)
		add_columns(l, order_r, sizeof order_r);
	if (l->types & ACCT_TQ)
		add_columns(l, order_tq, sizeof order_tq);
	if (l->user_string != NULL)
		add_columns(l, &user_string, 1);
	add_columns(l, order_ours, sizeof order_ours);
}

/* Values ----------------------------------------------------------------------------------------
 */

/* RFC 3463, section 3, in PowerMTA's way of saying it; class 0 is any. */
static const struct {
	uint8_t cls, subject, detail;
	const char *text;
	const char *category; /* of a bounce; NULL: other */
} statuses[] = {
	{ 2, 0, 0, "success", NULL },
	{ 0, 0, 0, "undefined status", NULL },
	{ 0, 1, 0, "other address status", NULL },
	{ 0, 1, 1, "bad destination mailbox address", "bad-mailbox" },
	{ 0, 1, 2, "bad destination system address", "bad-domain" },
	{ 0, 1, 3, "bad destination mailbox address syntax", "bad-mailbox" },
	{ 0, 1, 4, "destination mailbox address ambiguous", "bad-mailbox" },
	{ 0, 1, 5, "destination mailbox address valid", NULL },
	{ 0, 1, 6, "mailbox has moved", "bad-mailbox" },
	{ 0, 1, 7, "bad sender's mailbox address syntax", "invalid-sender" },
	{ 0, 1, 8, "bad sender's system address", "invalid-sender" },
	{ 0, 1, 10, "recipient address has null MX", "bad-domain" },
	{ 0, 2, 0, "other or undefined mailbox status", NULL },
	{ 0, 2, 1, "mailbox disabled, not accepting messages", "inactive-mailbox" },
	{ 0, 2, 2, "mailbox full", "quota-issues" },
	{ 0, 2, 3, "message length exceeds administrative limit", "policy-related" },
	{ 0, 2, 4, "mailing list expansion problem", NULL },
	{ 0, 3, 0, "other or undefined mail system status", NULL },
	{ 0, 3, 1, "mail system full", "quota-issues" },
	{ 0, 3, 2, "system not accepting network messages", NULL },
	{ 0, 3, 3, "system not capable of selected features", "protocol-errors" },
	{ 0, 3, 4, "message too big for system", "policy-related" },
	{ 0, 3, 5, "system incorrectly configured", "bad-configuration" },
	{ 0, 4, 0, "other or undefined network or routing status", "routing-errors" },
	{ 0, 4, 1, "no answer from host", "no-answer-from-host" },
	{ 0, 4, 2, "bad connection", "bad-connection" },
	{ 0, 4, 3, "directory server failure", "routing-errors" },
	{ 0, 4, 4, "unable to route", "routing-errors" },
	{ 0, 4, 5, "mail system congestion", NULL },
	{ 0, 4, 6, "routing loop detected", "routing-errors" },
	{ 0, 4, 7, "delivery time expired", "message-expired" },
	{ 0, 5, 0, "other or undefined protocol status", "protocol-errors" },
	{ 0, 5, 1, "invalid command", "protocol-errors" },
	{ 0, 5, 2, "syntax error", "protocol-errors" },
	{ 0, 5, 3, "too many recipients", "protocol-errors" },
	{ 0, 5, 4, "invalid command arguments", "protocol-errors" },
	{ 0, 5, 5, "wrong protocol version", "protocol-errors" },
	{ 0, 6, 0, "other or undefined media error", "content-related" },
	{ 0, 6, 1, "media not supported", "content-related" },
	{ 0, 6, 2, "conversion required and prohibited", "content-related" },
	{ 0, 6, 3, "conversion required but not supported", "content-related" },
	{ 0, 6, 4, "conversion with loss performed", "content-related" },
	{ 0, 6, 5, "conversion failed", "content-related" },
	{ 0, 7, 0, "other or undefined security status", "policy-related" },
	{ 0, 7, 1, "delivery not authorized, message refused", "policy-related" },
	{ 0, 7, 2, "mailing list expansion prohibited", "policy-related" },
	{ 0, 7, 3, "security conversion required but not possible", "policy-related" },
	{ 0, 7, 4, "security features not supported", "policy-related" },
	{ 0, 7, 5, "cryptographic failure", "policy-related" },
	{ 0, 7, 6, "cryptographic algorithm not supported", "policy-related" },
	{ 0, 7, 7, "message integrity failure", "policy-related" },
};

/* Row of the table, -1 when the code has none. */
static int
find_status(const uint8_t status[3])
{
	for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
		if ((statuses[i].cls == 0 || statuses[i].cls == status[0]) &&
		    statuses[i].subject == status[1] && statuses[i].detail == status[2])
			return (int)i;
	}
	return -1;
}

void
acct_put_status(struct buf *out, const uint8_t status[3])
{
	int i = find_status(status);

	if (status[0] == 0)
		return; /* the event had none */
	buf_printf(out, "%u.%u.%u (%s)", status[0], status[1], status[2],
		   i >= 0 ? statuses[i].text : "undefined status");
}

static const char *
bounce_category(const struct row *r, char named[CATEGORY_BYTES])
{
	int i;

	if (r->type == ACCT_D)
		return "success";
	if (r->rcpt->category.n > 0) {
		str_copy(named, CATEGORY_BYTES, r->rcpt->category);
		return rules_bounce_category(named);
	}
	i = find_status(r->rcpt->status);
	return i >= 0 && statuses[i].category != NULL ? statuses[i].category : "other";
}

static const char *
dsn_action(uint8_t action)
{
	static const char *const names[] = {
#define X(name, dsn) [EVENT_##name] = dsn,
		EVENT_ACTIONS(X)
#undef X
	};

	return action < sizeof names / sizeof names[0] ? names[action] : "";
}

static const char *
delivery_type(const struct row *r)
{
	/* The only delivery without an attempt. */
	return r->event->kind == EVENT_OUTCOME && r->type == ACCT_D ? "discard" : "smtp";
}

static void
put_time(struct buf *out, const struct row *r, uint64_t wall_us)
{
	char text[CLOCK_ISO_BYTES];

	if (wall_us == 0)
		return;
	if (r->layout->iso_times)
		buf_puts(out, clock_acct(text, wall_us));
	else
		buf_printf(out, "%llu", (unsigned long long)(wall_us / 1000000u));
}

static struct slice
of_rcpt(const struct row *r, struct slice of)
{
	return r->rcpt != NULL ? of : SLICE_NONE;
}

/* When it was granted; 0: it was not, no RCPT was sent for it. */
static uint64_t
stamp_of(const struct row *r)
{
	if (r->rcpt == NULL || r->rcpt->stamp_boot_us == 0)
		return r->event->stamp_boot_us;
	return r->rcpt->stamp_boot_us == EVENT_STAMP_NONE ? 0 : r->rcpt->stamp_boot_us;
}

/* The value of a column, as it is: not quoted yet. */
static void
put_value(struct buf *out, const struct row *r, enum column c)
{
	const struct event *e = r->event;
	char category[CATEGORY_BYTES];

	if ((columns[c].types & r->type) == 0)
		return;
	switch (c) {
	case COL_type:
		buf_puts(out, type_name(r->type));
		break;
	case COL_timeLogged:
		put_time(out, r, e->wall_us);
		break;
	case COL_timeQueued:
		put_time(out, r, e->received_wall_us);
		break;
	case COL_orig:
		buf_put_slice(out, e->sender);
		break;
	case COL_rcpt:
		buf_put_slice(out, r->rcpt->address);
		break;
	case COL_orcpt:
		break; /* not kept yet */
	case COL_dsnAction:
		buf_puts(out, dsn_action(r->rcpt->action));
		break;
	case COL_dsnStatus:
		if (r->rcpt != NULL)
			acct_put_status(out, r->rcpt->status);
		else
			buf_puts(out, "4.4.1 (no answer from host)");
		break;
	case COL_dsnDiag:
		buf_put_slice(out, r->rcpt != NULL ? r->rcpt->diag : e->reason);
		break;
	case COL_dsnMta:
		buf_put_slice(out, e->dsn_mta);
		break;
	case COL_bounceCat:
		buf_puts(out, bounce_category(r, category));
		break;
	case COL_srcType:
		buf_puts(out, "smtp");
		break;
	case COL_srcMta:
		buf_put_slice(out, e->src_mta);
		break;
	case COL_dlvType:
		buf_puts(out, delivery_type(r));
		break;
	case COL_dlvSourceIp:
		buf_put_slice(out, e->dlv_source_ip);
		break;
	case COL_dlvDestinationIp:
		buf_put_slice(out, e->dlv_destination_ip);
		break;
	case COL_dlvEsmtpAvailable:
		for (size_t i = 0; i < e->dlv_esmtp.n; i++) /* a list, as PowerMTA writes it */
			buf_putc(out, e->dlv_esmtp.p[i] == ' ' ? ',' : e->dlv_esmtp.p[i]);
		break;
	case COL_dlvSize:
		if (e->body_bytes > 0)
			buf_printf(out, "%llu", (unsigned long long)e->body_bytes);
		break;
	case COL_vmta:
		/* What was asked for, until a member is chosen. */
		buf_put_slice(out, r->type == ACCT_R && e->pool.n > 0 ? e->pool : e->vmta);
		break;
	case COL_jobId:
		buf_put_slice(out, e->job);
		break;
	case COL_envId:
		buf_put_slice(out, e->envid);
		break;
	case COL_queue:
		buf_put_slice(out, e->queue);
		break;
	case COL_vmtaPool:
		buf_put_slice(out, e->pool);
		break;
	case COL_rcvSourceIp:
		buf_put_slice(out, of_rcpt(r, e->src_ip));
		break;
	case COL_rcvDestinationIp:
		buf_put_slice(out, of_rcpt(r, e->dst_ip));
		break;
	case COL_userString:
		if (r->layout->user_string != NULL)
			buf_puts(out, r->layout->user_string);
		break;
	case COL_eventId:
		buf_printf(out, "%s-%llx-%u", r->layout->id_prefix, (unsigned long long)e->lsn,
			   r->number);
		break;
	case COL_grantStamp:
		if (stamp_of(r) > 0)
			buf_printf(out, "%llu", (unsigned long long)stamp_of(r));
		break;
	case COL_maybeDup:
		buf_puts(out, e->maybe_dup ? "1" : "0");
		break;
	case COL_COUNT:
		CHECK(!"a column");
	}
}

/* CSV -------------------------------------------------------------------------------------------
 */

/* Bytes of the UTF-8 character at p, 0 when it is none. */
static size_t
utf8_bytes(const unsigned char *p, size_t n)
{
	size_t len = p[0] < 0x80                   ? 1
		     : p[0] >= 0xc2 && p[0] < 0xe0 ? 2
		     : p[0] >= 0xe0 && p[0] < 0xf0 ? 3
		     : p[0] >= 0xf0 && p[0] < 0xf5 ? 4
						   : 0;

	if (len == 0 || len > n)
		return 0;
	for (size_t i = 1; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	}
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return len;
}

/* RFC 4180. Foreign bytes cannot end the line, nor make the file anything but UTF-8: a control
 * becomes a blank, what is not UTF-8 the replacement character. One record stays one line for every
 * reader. */
static void
put_csv(struct buf *out, struct slice s)
{
	bool plain = true;

	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];

		plain = plain && c >= 0x20 && c < 0x7f && c != '"' && c != ',';
	}
	if (plain) {
		buf_put_slice(out, s);
		return;
	}
	buf_putc(out, '"');
	for (size_t i = 0, n; i < s.n; i += n) {
		const unsigned char *p = (const unsigned char *)s.p + i;

		n = utf8_bytes(p, s.n - i);
		if (n == 0) {
			buf_puts(out, "\xef\xbf\xbd");
			n = 1;
		} else if (*p == '"') {
			buf_puts(out, "\"\"");
		} else if (*p < 0x20 || *p == 0x7f) {
			buf_putc(out, ' ');
		} else {
			buf_put(out, p, n);
		}
	}
	buf_putc(out, '"');
}

void
acct_put_header(struct buf *out, const struct acct_layout *l)
{
	if (l->json)
		return;
	for (unsigned i = 0; i < l->n_columns; i++) {
		if (i > 0)
			buf_putc(out, ',');
		buf_puts(out, columns[l->columns[i]].name);
	}
	buf_puts(out, "\r\n");
}

/* Records ---------------------------------------------------------------------------------------
 */

static void
put_row(struct buf *out, const struct row *r)
{
	const struct acct_layout *l = r->layout;
	struct json j;

	json_init(&j, out);
	if (l->json)
		json_object_begin(&j);
	for (unsigned i = 0; i < l->n_columns; i++) {
		enum column c = (enum column)l->columns[i];

		buf_reset(r->value);
		put_value(r->value, r, c);
		if (!l->json) {
			if (i > 0)
				buf_putc(out, ',');
			put_csv(out, buf_slice(r->value));
		} else if (columns[c].types & r->type) {
			json_key_string(&j, columns[c].name, buf_slice(r->value));
		}
	}
	if (l->json)
		json_object_end(&j);
	buf_puts(out, l->json ? "\n" : "\r\n");
}

/* The type of record that a recipient's outcome is, 0: none. */
static unsigned
type_of(uint8_t action)
{
	switch (action) {
	case EVENT_RECEIVED:
		return ACCT_R;
	case EVENT_DELIVERED:
		return ACCT_D;
	case EVENT_BOUNCED:
	case EVENT_EXPIRED:
	case EVENT_DELETED:
		return ACCT_B;
	case EVENT_DEFERRED:
		return ACCT_T;
	default:
		return 0;
	}
}

unsigned
acct_put_event(struct buf *out, const struct acct_layout *l, const struct event *e)
{
	struct buf value = { 0 };
	struct row r = { .layout = l, .event = e, .value = &value };
	unsigned n = 0;

	if (e->kind == EVENT_CONNECT && (l->types & ACCT_TQ)) {
		r.type = ACCT_TQ;
		put_row(out, &r);
		n++;
	}
	if (e->kind == EVENT_RECEPTION || e->kind == EVENT_RESULT || e->kind == EVENT_OUTCOME) {
		for (size_t i = 0; i < e->n_rcpts; i++) {
			unsigned type = type_of(e->rcpts[i].action) & l->types;

			if (type == 0)
				continue;
			r.type = (enum acct_type)type;
			r.rcpt = &e->rcpts[i];
			r.number = (unsigned)i;
			put_row(out, &r);
			n++;
		}
	}
	buf_clear(&value);
	return n;
}
