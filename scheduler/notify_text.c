#include "scheduler/notify_text.h"

#include "common/base/clock.h"
#include "common/conf/conf.h"

#define WIDTH       700 /* bytes of a line behind its label; RFC 5322 2.1.1 allows 998 */
#define SUBJECT_MAX 200
#define LABEL       15

/* Foreign text: what is not printable ASCII is written out, so that no line ends or begins within
 * it and no terminal obeys it. */
static void
put_safe(struct buf *b, struct slice s, size_t most, const char *fold)
{
	size_t used = 0;

	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];
		bool plain = c >= 0x20 && c < 0x7f;

		if (used >= most) {
			if (fold == NULL)
				return;
			buf_puts(b, fold);
			used = 0;
		}
		if (plain)
			buf_putc(b, (char)c);
		else
			buf_printf(b, "\\x%02x", c);
		used += plain ? 1 : 4;
	}
}

static void
put_line(struct buf *b, const char *label, struct slice s)
{
	static const char fold[] = "\r\n                 ";

	if (s.n == 0)
		return;
	buf_printf(b, "%-*s", LABEL, label);
	put_safe(b, s, WIDTH, fold);
	buf_puts(b, "\r\n");
}

static void
put_time(struct buf *b, const char *label, uint64_t wall_us)
{
	char text[64];

	if (wall_us != 0)
		put_line(b, label, slice_str(clock_rfc5322(text, wall_us)));
}

/* What it is about, with its kind where it is no queue. */
static void
put_object(struct buf *b, const struct notify_event *e, size_t most)
{
	if (e->kind == NOTIFY_SOURCE_OFF || e->kind == NOTIFY_SOURCE_ON) {
		buf_puts(b, "source IP ");
		put_safe(b, e->source_ip, most, NULL);
		buf_puts(b, " of ");
	} else if (e->scope != CONF_RULE_QUEUE && e->scope < CONF_RULE_SCOPES) {
		buf_printf(b, "%s ", conf_rule_scope_name((enum conf_rule_scope)e->scope));
	}
	put_safe(b, e->name, most, NULL);
}

static const char *
became(enum notify_kind kind)
{
	switch (kind) {
	case NOTIFY_BACKOFF:
		return "is in back-off";
	case NOTIFY_NORMAL:
		return "is out of back-off";
	case NOTIFY_SOURCE_OFF:
		return "is disabled";
	default:
		return "is enabled again";
	}
}

static void
put_to(struct buf *b, struct slice to)
{
	buf_puts(b, "To:");
	while (to.n > 0) {
		struct slice one = slice_cut(&to, '\n');

		buf_putc(b, ' ');
		put_safe(b, one, WIDTH, NULL);
		buf_puts(b, to.n > 0 ? ",\r\n" : "\r\n");
	}
}

static size_t
count(const struct notify_event *events, size_t n, enum notify_kind kind)
{
	size_t all = 0;

	for (size_t i = 0; i < n; i++)
		all += events[i].kind == kind;
	return all;
}

static void
put_subject(struct buf *b, const struct notify_event *events, size_t n)
{
	const char *between = ": ";

	buf_puts(b, "Subject: [sluice] ");
	if (n == 1) {
		put_object(b, events, SUBJECT_MAX);
		buf_printf(b, " %s\r\n", became(events->kind));
		return;
	}
	buf_printf(b, "%zu changes", n);
	for (unsigned kind = NOTIFY_BACKOFF; kind < NOTIFY_KINDS; kind++) {
		static const char *const words[] = { "", "into back-off", "out of back-off",
						     "source IPs disabled", "source IPs enabled" };
		size_t of = count(events, n, (enum notify_kind)kind);

		if (of == 0)
			continue;
		buf_printf(b, "%s%zu %s", between, of, words[kind]);
		between = ", ";
	}
	buf_puts(b, "\r\n");
}

/* What a reader would find twice without it: the same events are the same message, however often it
 * was written. */
static void
put_header(struct buf *b, const struct notify_from *from, const struct notify_event *events,
	   size_t n)
{
	char date[64];

	buf_printf(b, "Date: %s\r\n", clock_rfc5322(date, from->wall_us));
	buf_printf(b, "From: Sluice <postmaster@%.255s>\r\n", from->host_name);
	put_to(b, events->to);
	put_subject(b, events, n);
	buf_printf(b, "Message-ID: <notify.%llx.%zx@%.255s>\r\n", (unsigned long long)events->key,
		   n, from->host_name);
	buf_puts(b, "Auto-Submitted: auto-generated\r\n"
		    "MIME-Version: 1.0\r\n"
		    "Content-Type: text/plain; charset=us-ascii\r\n"
		    "Content-Transfer-Encoding: 7bit\r\n\r\n");
}

static bool
is_mode(const struct notify_event *e)
{
	return e->kind == NOTIFY_BACKOFF || e->kind == NOTIFY_NORMAL;
}

static void
put_name(struct buf *b, const struct notify_event *e)
{
	struct slice vmta = e->name;

	if (e->scope != CONF_RULE_QUEUE && e->scope < CONF_RULE_SCOPES) {
		put_line(b,
			 "Scope:", slice_str(conf_rule_scope_name((enum conf_rule_scope)e->scope)));
		put_line(b, "Name:", e->name);
		return;
	}
	put_line(b, "Queue:", e->name);
	(void)slice_cut(&vmta, '/');
	put_line(b, "Virtual MTA:", vmta);
}

/* The command that takes it back. */
static void
put_undo(struct buf *b, const struct notify_event *e)
{
	struct buf text = { 0 };

	if (!is_mode(e)) {
		buf_puts(&text, e->kind == NOTIFY_SOURCE_OFF ? "sluice enable source "
							     : "sluice disable source ");
		buf_put_slice(&text, e->source_ip);
		buf_puts(&text, " '");
		buf_put_slice(&text, e->name);
	} else {
		buf_printf(&text, "sluice set queue --mode=%s '",
			   e->kind == NOTIFY_BACKOFF ? "normal" : "backoff");
		if (e->scope == CONF_RULE_VMTA)
			buf_puts(&text, "*/");
		if (e->scope == CONF_RULE_QUEUE || e->scope == CONF_RULE_VMTA)
			buf_put_slice(&text, e->name);
		else
			buf_puts(&text, "DOMAIN/VMTA");
	}
	buf_putc(&text, '\'');
	put_line(b, "To undo:", buf_slice(&text));
	buf_clear(&text);
}

/* What is of this event alone. */
static void
put_facts(struct buf *b, const struct notify_event *e)
{
	put_line(b, "Reason:", e->reason);
	put_line(b, "Rule:", e->rule);
	put_line(b, "Pattern:", e->pattern);
	put_line(b, "Source IP:", e->source_ip);
	put_line(b, "Rerouted to:", e->reroute);
	if (e->kind == NOTIFY_BACKOFF && e->until_us == 0)
		put_line(b, "Ends:", SLICE_LIT("not by time"));
	else if (e->kind == NOTIFY_SOURCE_OFF && e->until_us == 0)
		put_line(b, "Enabled again:", SLICE_LIT("not by time"));
	else
		put_time(b, e->kind == NOTIFY_BACKOFF ? "Ends:" : "Enabled again:", e->until_us);
}

static void
put_one(struct buf *b, const struct notify_event *e)
{
	put_name(b, e);
	if (is_mode(e))
		put_line(b, "Mode:",
			 e->kind == NOTIFY_BACKOFF ? SLICE_LIT("normal -> back-off")
						   : SLICE_LIT("back-off -> normal"));
	else
		put_line(b, "Change:",
			 e->kind == NOTIFY_SOURCE_OFF ? SLICE_LIT("source IP disabled")
						      : SLICE_LIT("source IP enabled again"));
	put_time(b, "Time:", e->wall_us);
	put_facts(b, e);
	if (is_mode(e) && e->scope == CONF_RULE_QUEUE && e->retry_us == 0)
		put_line(b, "Next try:", SLICE_LIT("at once, within the limits"));
	put_time(b, "Next try:", e->retry_us);
	put_line(b, "Limits:", e->limits);
	put_undo(b, e);
}

static void
put_digest(struct buf *b, const struct notify_event *events, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		put_object(b, &events[i], WIDTH / 3);
		buf_printf(b, " %s\r\n", became(events[i].kind));
		put_time(b, "  Time:", events[i].wall_us);
		put_facts(b, &events[i]);
		buf_puts(b, "\r\n");
	}
	buf_puts(b,
		 "`sluice show queue DOMAIN/VMTA` shows the limits in force; `sluice set queue\r\n"
		 "--mode=normal DOMAIN/VMTA` ends back-off, `sluice enable source IP "
		 "DOMAIN/VMTA`\r\n"
		 "lets a source IP send again.\r\n");
}

void
notify_text(struct buf *out, const struct notify_from *from, const struct notify_event *events,
	    size_t n)
{
	put_header(out, from, events, n);
	if (n == 1)
		put_one(out, events);
	else
		put_digest(out, events, n);
}

size_t
notify_text_most(struct buf *out, const struct notify_from *from, const struct notify_event *events,
		 size_t n)
{
	for (;; n = (n + 1) / 2) {
		buf_reset(out);
		notify_text(out, from, events, n);
		if (n <= 1 || out->len <= NOTIFY_TEXT_MAX)
			return n;
	}
}
