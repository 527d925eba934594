/* conf_sample: the commented sample file, from the schema. A directive that is not needed stands in
 * a comment, `#NAME = VALUE;`, with its default or an example. */
#include "common/conf/conf.h"
#include "common/conf/conf_schema.h"

/* The lists of the sample with what their one block needs. */
static const struct part {
	enum conf_scope_id scope;
	const char *opening; /* of the block, with its key */
} parts[] = {
	{ CONF_SCOPE_SMTP_LISTENER, "address = \"127.0.0.1:2525\";" },
	{ CONF_SCOPE_SOURCE, "match = \"127.0.0.0/8\"; always-allow-relaying = true;" },
	{ CONF_SCOPE_VMTA, "name = \"mta1\";" },
	{ CONF_SCOPE_POOL, "name = \"pool1\"; virtual-mtas = [ \"mta1\" ];" },
	{ CONF_SCOPE_MACRO, "name = \"yahoo\"; domains = [ \"yahoo.com\", \"ymail.com\" ];" },
	{ CONF_SCOPE_DOMAIN, "name = \"*\";" },
	{ CONF_SCOPE_PROVIDER,
	  "name = \"google\"; mx = [ \"*.google.com\", \"*.googlemail.com\" ];" },
	{ CONF_SCOPE_JOB, "name = \"newsletter\";" },
	{ CONF_SCOPE_SENDER, "name = \"news.example.com\";" },
	{ CONF_SCOPE_REPLY_LIST, "name = \"common\";" },
	{ CONF_SCOPE_ACCT, "path = \"/var/log/sluice/acct.csv\"; records = \"d,b,t,tq,r\";" },
};

/* What the types of one scope hold that the others know by the part's opening. */
static bool
in_opening(const struct part *p, const struct conf_directive *d)
{
	const char *hit = p != NULL ? strstr(p->opening, d->name) : NULL;

	return hit != NULL && strncmp(hit + strlen(d->name), " =", 2) == 0;
}

static bool
is_bare(const struct conf_directive *d, const char *text)
{
	return d->type == CONF_TYPE_BOOL || text[0] == '[' || strcmp(text, "true") == 0 ||
	       strcmp(text, "false") == 0 ||
	       ((d->type == CONF_TYPE_COUNT || d->type == CONF_TYPE_COUNT_U) &&
		strspn(text, "0123456789") == strlen(text));
}

static void
put_value(struct buf *out, const struct conf_directive *d)
{
	const char *text = d->example != NULL ? d->example : d->def;
	const char *quote = is_bare(d, text) ? "" : "\"";

	buf_printf(out, "%s = %s%s%s;", d->name, quote, text, quote);
}

/* Help, then the directive in a comment, then a blank line. */
static void
put_row(struct buf *out, const struct conf_directive *d, const char *indent)
{
	buf_printf(out, "%s# %s", indent, d->help);
	if (d->arg[0] != '\0' && strstr(d->arg, "..") != NULL)
		buf_printf(out, " (%s)", d->arg);
	if (d->restart)
		buf_puts(out, "; needs a restart");
	buf_printf(out, "\n%s#", indent);
	put_value(out, d);
	buf_puts(out, "\n\n");
}

static void
put_rows(struct buf *out, enum conf_scope_id id, const struct part *p, const char *indent)
{
	const struct conf_scope *s = conf_schema_scope(id);

	for (size_t i = 0; i < s->n_rows; i++) {
		const struct conf_directive *d = &s->rows[i];

		if (!d->built || d->type == CONF_TYPE_LIST || d->type == CONF_TYPE_GROUP ||
		    d->type == CONF_TYPE_INCLUDE || d->type == CONF_TYPE_SOURCE || in_opening(p, d) ||
		    (d->type == CONF_TYPE_REPLY_LIST && id == CONF_SCOPE_REPLY_LIST))
			continue;
		put_row(out, d, indent);
	}
}

static void
put_vmta_extra(struct buf *out)
{
	buf_puts(out, "\t# Its source IPs; several take turns.\n"
		      "\t#smtp-source-hosts = ( { ip = \"192.0.2.10\"; name = "
		      "\"out1.example.com\"; weight = 1; max-msg-rate = \"20000/h\"; } );\n\n"
		      "\t# Domain settings for its mail alone.\n"
		      "\t#domains = ( { name = \"example.com\"; max-smtp-out = 5; } );\n\n");
}

static void
put_rules_extra(struct buf *out)
{
	buf_puts(out, "\t# All rules that match a reply contribute; where two contradict, the earlier one.\n"
		      "\t#rules = ( { reply = \"/^421 .*too many/\"; actions = [ \"mode=backoff\" ]; "
		      "after = \"3/10m\"; } );\n\n");
}

static void
put_part(struct buf *out, const struct part *p)
{
	const struct conf_scope *s = conf_schema_scope(p->scope);
	const struct conf_directive *list = conf_schema_find(CONF_SCOPE_GLOBAL, s->list);

	buf_printf(out, "# %s\n%s = (\n    {\n\t%s\n\n", list->help, s->list, p->opening);
	put_rows(out, p->scope, p, "\t");
	if (p->scope == CONF_SCOPE_VMTA)
		put_vmta_extra(out);
	if (p->scope == CONF_SCOPE_REPLY_LIST)
		put_rules_extra(out);
	buf_puts(out, "    }\n);\n\n");
}

void
conf_print_sample(struct buf *out)
{
	buf_puts(out,
		 "# Sluice configuration. Every setting is described in sluice.conf(5).\n"
		 "# A commented setting shows its default, or an example where there is none.\n"
		 "# `sluiced -t -c FILE` checks a file; `sluice reload` takes it over.\n\n");
	put_rows(out, CONF_SCOPE_GLOBAL, NULL, "");
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
		put_part(out, &parts[i]);
	buf_puts(out, "# Further files; their lists are added to the ones above.\n"
		      "#include = [ \"conf.d/*.conf\" ];\n");
}
