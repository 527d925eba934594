/* Errors and warnings: one row for each kind, with the line and what the message says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/conf/conf.h"

#define N_OF(a) (sizeof(a) / sizeof *(a))

struct row {
	const char *text;
	const char *at; /* how the one line of the report begins; NULL: no report at all */
	const char *says;
};

/* Parses `text` as file f; the caller clears *r. */
static int
parse(const char *text, struct conf_report *r)
{
	struct buf snapshot = { 0 };
	struct conf *c = NULL;
	int rc;

	conf_snapshot_text(&snapshot, "f", slice_str(text));
	rc = conf_parse(buf_slice(&snapshot), &c, r);
	assert_true((rc == 0) == (c != NULL));
	assert_true((rc == 0) == (r->n_errors == 0));
	conf_free(&c);
	buf_clear(&snapshot);
	return rc;
}

static unsigned
lines_of(struct slice s)
{
	unsigned n = 0;

	for (size_t i = 0; i < s.n; i++)
		n += s.p[i] == '\n';
	return n;
}

/* The only line of the report that is (or is not) a warning; cut out in place. */
static const char *
only_line(struct conf_report *r, bool is_error)
{
	char *line, *save = NULL, *hit = NULL;

	buf_putc(&r->text, '\0');
	for (line = strtok_r(r->text.data + r->text.start, "\n", &save); line != NULL;
	     line = strtok_r(NULL, "\n", &save)) {
		if ((strstr(line, ": warning: ") == NULL) != is_error)
			continue;
		if (hit != NULL)
			fail_msg("two lines: %s and %s", hit, line);
		hit = line;
	}
	return hit ? hit : "nothing";
}

static void
expect(const struct row *row, bool is_error)
{
	struct conf_report r = { 0 };
	const char *line;

	parse(row->text, &r);
	assert_true(lines_of(buf_slice(&r.text)) == r.n_errors + r.n_warnings);
	line = only_line(&r, is_error);
	if (r.n_errors != (row->at != NULL && is_error) ||
	    (row->at != NULL &&
	     (strncmp(line, row->at, strlen(row->at)) != 0 || strstr(line, row->says) == NULL)) ||
	    (row->at == NULL && strcmp(line, "nothing") != 0))
		fail_msg("%s\ngave\n%s (%u errors) instead of\n%s ... %s", row->text, line,
			 r.n_errors, row->at ? row->at : "nothing", row->says ? row->says : "");
	conf_report_clear(&r);
}

/* A value in a global, a domain, a source and so on. */
#define G(s)    s "\n"
#define D(s)    "domains = ( {\nname = \"a.b\";\n" s " } );\n"
#define SRC(s)  "sources = ( { match = \"10/8\"; " s " } );\n"
#define V(s)    "virtual-mtas = ( { name = \"v\"; " s " } );\n"
#define LIST(s) "smtp-pattern-lists = ( { name = \"l\"; rules = ( {\n" s " } ); } );\n"

#define SIXTEEN "0123456789abcdef"

static const struct row errors[] = {
	/* unknown names */
	{ G("\nworkes = 4;"), "f:2: ", "unknown directive workes; did you mean workers?" },
	{ D("max-mgs-rate = \"1/h\";"), "f:3: ", "did you mean max-msg-rate?" },
	{ D("max-smtp-msg-rate = \"1/h\";"), "f:3: ", "it belongs into virtual-mta blocks" },
	{ V("workers = 4;"), "f:1: ", "it belongs outside of all blocks" },
	{ G("qqqqqqqqqq = 4;"), "f:1: unknown directive qqqqqqqqqq", "" },
	{ G("domain = ( { name = \"a.b\"; } );"), "f:1: ", "did you mean domains?" },
	/* wrong types */
	{ G("workers = \"4\";"), "f:1: workers: ", "a string where an integer is expected" },
	{ G("workers = 4.0;"), "f:1: workers: ", "a float where an integer" },
	{ G("workers = [ 4 ];"), "f:1: workers: ", "a list or group where" },
	{ G("spool = 4;"), "f:1: spool: ", "an integer where a path" },
	{ D("retry-upon-new-mail = 1;"), "f:3: ", "an integer where a boolean is expected" },
	{ D("retry-upon-new-mail = \"yes\";"), "f:3: ", "true or false, without quotes" },
	{ D("use-starttls = 1;"), "f:3: ", "an integer where a boolean" },
	{ G("domains = { name = \"a.b\"; };"), "f:1: domains: ", "list of groups" },
	{ G("domains = ( \"a.b\" );"), "f:1: domains: ", "each element is a group" },
	{ G("domains = ( {\nname = 5; } );"), "f:2: domain: name: ", "an integer where" },
	{ G("dns = 5;"), "f:1: dns: ", "write a group" },
	{ G("postmaster = [ 1 ];"), "f:1: postmaster: ", "a list or group where" },
	/* quantities as bare integers */
	{ D("max-msg-rate = 1000;"), "f:3: ", "the bare integer 1000 has no unit" },
	{ D("bounce-after = 3600;"), "f:3: ", "the bare integer 3600 has no unit" },
	{ D("max-data-volume-rate = 3600;"), "f:3: ", "the bare integer 3600 has no unit" },
	{ D("retry-after = 600;"), "f:3: ", "the bare integer 600 has no unit" },
	{ D("source-ip-max-msg-rate = 600;"), "f:3: ", "the bare integer 600 has no unit" },
	{ SRC("max-message-size = 1000000;"), "f:1: ", "the bare integer 1000000 has no unit" },
	/* values that are not of their form */
	{ D("max-msg-rate = \"1000\";"), "f:3: ", "bad rate \"1000\"" },
	{ D("max-msg-rate = \"1000/x\";"), "f:3: domain \"a.b\": max-msg-rate: ", "bad rate" },
	{ D("max-data-volume-rate = \"1x/h\";"), "f:3: ", "bad volume rate " },
	{ D("retry-after = \"10m,\";"), "f:3: ", "bad intervals " },
	{ D("retry-recipients-after = \"never\";"), "f:3: ", "bad interval " },
	{ D("bounce-after = \"4\";"), "f:3: ", "bad interval or never " },
	{ D("smtp-hosts = \"a b\";"), "f:3: ", "bad hosts " },
	{ D("backoff-notify = [ \"a@b.c\",\n\"x\" ];"), "f:4: ", "bad mail addresses \"x\"" },
	{ D("source-ip-max-msg-rate = \"10/99 1/h\";"), "f:3: ", "bad rate per CIDR " },
	{ D("source-ip-max-msg-rate = \"1/h\";"), "f:3: ", "bad rate per CIDR " },
	{ D("source-ip-max-msg-rate = [ \"10/8 1/h\",\n\"11/8 1\"\n];"), "f:4: ", "bad rate" },
	{ D("source-ip-max-smtp-out = \"10/8 0\";"), "f:3: ", "bad count per CIDR " },
	{ D("max-cold-virtual-mta-msg = \"1/h\";"), "f:3: ", "bad daily steps " },
	{ D("recover = \"10%\";"), "f:3: ", "bad recovery " },
	{ D("backoff-use-source = [ \"1.2.3\" ];"), "f:3: ", "bad IP addresses " },
	{ D("allow-destinations = [ \"127/8\", \"x\" ];"), "f:3: ", "bad CIDRs \"x\"" },
	{ D("type = \"smpt\";"), "f:3: ", "did you mean \"smtp\"?" },
	{ D("type = \"bogus-thing\";"), "f:3: ", "is none of smtp, pipe" },
	{ D("bounce-upon-no-mx = \"later\";"), "f:3: ", "is none of never" },
	{ D("dkim-sign = \"maybe\";"), "f:3: ", "is none of if-x-dkim" },
	{ D("disable-acct-records = \"d,x\";"), "f:3: ", "is none of d, b, t, tq" },
	{ G("ip-connection-limit = \"10/8 x\";"), "f:1: ", "bad count per CIDR " },
	{ G("spool = \"relative\";"), "f:1: ", "bad path " },
	{ G("log-file = \"stdout\";"), "f:1: ", "bad path or word " },
	{ G("host-name = \"a b\";"), "f:1: ", "bad host names " },
	{ G("name-server = \"1.2.3.4@x\";"), "f:1: ", "bad name servers " },
	{ G("user = \"a b\";"), "f:1: ", "bad name " },
	{ G("smtp-listeners = ( {\naddress = \"127.0.0.1\"; } );"),
	  "f:2: ", "bad address and port " },
	{ G("sources = ( { match = \"10/99\"; } );"), "f:1: ", "bad CIDR or name " },
	{ V("smtp-source-hosts = (\n{ ip = \"1.2.3\"; } );"), "f:2: ", "bad IP address " },
	{ V("smtp-source-host = \"1.2.3 x\";"), "f:1: ", "bad address and name " },
	{ G("domains = ( { name = \"a.*.b\"; } );"), "f:1: ", "bad domain pattern " },
	{ G("domains = ( { name = \"[10/99]\"; } );"), "f:1: ", "bad domain pattern " },
	{ G("virtual-mtas = ( { name = \"a b\"; } );"), "f:1: ", "bad name " },
	{ LIST("reply = \"x\"; actions = \"skip-mx\";"), "f:2: ", "bad regular expression " },
	{ LIST("reply = \"/x/\"; actions = \"skip\";"), "f:2: ", "unknown action" },
	{ LIST("reply = \"/x/\"; actions = [ \"skip-mx\",\n\"bounce-queue\"];"),
	  "f:3: ", "exclude" },
	{ LIST("reply = \"/x/\"; actions = \"skip-mx\"; after = \"unlimited\";"),
	  "f:2: ", "bad threshold " },
	{ LIST("reply = \"/x/\"; actions = \"skip-mx\"; scope = \"host\";"),
	  "f:2: ", "none of queue" },
	{ LIST("reply = \"/(/\"; actions = \"skip-mx\";"), "f:2: ", "/(/ does not compile: missing closing" },
	{ LIST("reply = \"/a/\"; actions = \"skip-mx\"; },\n{ reply = \"/(*UTF)a/\"; actions = \"skip-mx\";"),
	  "f:3: ", "does not compile" },
	{ LIST("reply = \"/x/\"; actions = [ \"mode=normal\",\n\"mode=backoff\"];"), "f:3: ", "exclude" },
	{ LIST("reply = \"/x/\"; actions = [ \"mode=normal\",\n\"backoff-to-normal-after=1h\"];"),
	  "f:3: ", "works only behind mode=backoff" },
	{ LIST("reply = \"/x/\"; actions = [ \"skip-mx\",\n\"reenable-after=1h\"];"),
	  "f:3: ", "works only behind disable-source-ip" },
	{ LIST("reply = \"/x/\"; actions = \"skip-mx\"; after = \"3\";"), "f:2: ", "bad threshold \"3\"" },
	{ LIST("reply = \"/x/\"; actions = \"skip-mx\"; after = \"0/10m\";"), "f:2: ", "bad threshold" },
	{ LIST("reply = \"/x/\"; actions = \"skip-mx\"; after = 3;"), "f:2: ", "the bare integer 3 has no unit" },
	{ LIST("reply = \"/x/\"; actions = \"skip-mx\"; recover = \"50%,10% every 1m\";"),
	  "f:2: ", "bad recovery" },
	{ LIST("reply = \"/x/\"; actions = \"skip-mx\";\ncategory = \"" SIXTEEN SIXTEEN SIXTEEN SIXTEEN "\";"),
	  "f:3: ", "longer than 63 bytes" },
	{ LIST("reply = \"/x/\"; actions = \"skip-mx\"; stage = \"mail,eom\";"), "f:2: ", "none of connect" },
	{ LIST("reply = \"/x/\"; actions = \"skip-mx\"; list = \"l\";"), "f:2: ", "unknown directive list" },
	{ G("smtp-pattern-lists = ( { name = \"l\";\nthen = \"m\"; } );"),
	  "f:2: ", "there is no smtp-pattern-list \"m\"" },
	{ G("smtp-pattern-lists = ( { name = \"l\";\nthen = \"l\"; } );"), "f:2: ", "it leads back to it" },
	{ G("smtp-pattern-lists = ( { name = \"l\"; then = \"m\"; }, { name = \"k\"; then = \"l\"; },\n"
	    "{ name = \"m\"; then = \"n\"; },\n{ name = \"n\"; } );\n"
	    "smtp-pattern-lists = ( );"),
	  "f:4: ", "stands twice" },
	/* ranges */
	{ G("workers = 0;"), "f:1: ", "0 is out of range 1..64" },
	{ G("workers = 65;"), "f:1: ", "65 is out of range 1..64" },
	{ G("workers = -1;"), "f:1: ", "-1 is out of range" },
	{ G("total-max-smtp-out = 0;"), "f:1: ", "0 is out of range; the least is 1" },
	{ G("thread-min-priority = -21;"), "f:1: ", "out of range -20..20" },
	{ D("max-smtp-out = 0;"), "f:3: ", "out of range" },
	{ D("max-rcpt-per-transaction = 1001;"), "f:3: ", "out of range 1..1000" },
	{ D("default-smtp-port = 65536;"), "f:3: ", "out of range" },
	{ D("connection-idle-timeout = \"11m\";"), "f:3: ", "11m is out of range 0..10m" },
	{ D("connect-timeout = \"0\";"), "f:3: ", "out of range 1s..1h" },
	{ D("backoff-to-normal-after = \"0s\";"), "f:3: ", "is out of range; the least is 1s" },
	{ D("reenable-source-ip-after = \"0s\";"), "f:3: ", "is out of range; the least is 1s" },
	{ G("acct-files = ( { path = \"/a/b\"; max-size = \"999k\"; } );"),
	  "f:1: ", "the least is 1M" },
	/* integers that libconfig would wrap */
	{ G("workers = 3000000000;"), "f:1: ", "the integer 3000000000 does not fit" },
	{ D("max-smtp-out = -2147483649;"), "f:3: ", "does not fit" },
	{ D("max-smtp-out = 0x100000000;"), "f:3: ", "does not fit" },
	{ D("max-smtp-out = 99999999999999999999L;"), "f:3: ", "does not fit" },
	{ D("max-msg-rate = 3000000000;"), "f:3: ", "does not fit" },
	/* syntax */
	{ G("workers = ;"), "f:1: ", "syntax error" },
	{ G("workers = 4;\nuse.dots = 4;"), "f:2: ", "names hold no dots" },
	{ D("use-starttls = yes;"), "f:3: ", "booleans are true and false" },
	{ G("workers = 4;\nspool = \"/a"), "f:2: ", "never ends" },
	{ G("workers = 4;\n/* a"), "f:2: ", "never ends" },
	{ G("@include \"/etc/passwd\""), "f:1: ", "@include is not taken" },
	{ G("workers = 4; %"), "f:1: ", "syntax error: % where a name should stand" },
	{ G("postmaster = [ \"a@b.c\", 1 ];"), "f:1: ", "mismatched element type" },
	{ G("postmaster = ((((((((((((((((((((((((((((((((((1"), "f:1: ", "nested deeper" },
	{ G("workers = 4;;"), "f:1: ", "syntax error: ; where a name should stand" },
	{ G("workers 4;"), "f:1: ", "syntax error: 4 where = should stand" },
	{ G("workers = 4 5;"), "f:1: ", "syntax error: 5 where ; or a name should stand" },
	{ G("workers = 4; }"), "f:1: ", "syntax error: } where a name should stand" },
	{ G("workers =\n"), "f:1: ", "syntax error: the file ends where a value should stand" },
	{ G("workers = 4; \001"), "f:1: ", "syntax error: byte 0x01 where" },
	{ G("workers = 4; \r "), "f:1: ", "syntax error: byte 0x0d where" },
	{ G("domains = (\n{ name = \"a.b\"; },\n);"), "f:3: ", "syntax error: ) where a value" },
	{ G("domains = (\n{ name = \"a.b\"; } { } );"), "f:2: ", "syntax error: { where , or )" },
	{ G("domains = (\n{ name = \"a.b\"; max-smtp-out = 1;\n"),
	  "f:2: ", "syntax error: the file ends inside the { of line 2" },
	{ G("postmaster = [ \"a@b.c\" \"d\",\n{ } ];"), "f:2: ", "syntax error: { where a value" },
	{ G("postmaster = [ \"a@b.c\", \n ];"), "f:2: ", "syntax error: ] where a value" },
	{ G("postmaster = [ \"a@b.c\" ); workes = 4;"), "f:1: ", "syntax error: ) where , or ]" },
	{ G("user = \"a\\x00b\";"), "f:1: ", "may not hold \\x00" },
	/* what stands twice */
	{ G("workers = 4;\nworkers = 5;"),
	  "f:2: ", "workers stands twice in this group, first in line 1" },
	{ D("max-smtp-out = 1;\nmax-smtp-out = 2;"), "f:4: ", "stands twice" },
	{ G("smtp-listeners = ( { address = \"127.0.0.1:1\"; },\n{ address = \"127.0.0.1:1\"; } "
	    ");"),
	  "f:2: ", "smtp-listener 127.0.0.1:1 stands already in f:1" },
	{ G("smtp-listeners = ( { address = \"[::1]:1\"; },\n{ address = \"[0::1]:1\"; } );"),
	  "f:2: ", "stands already in f:1" },
	/* required */
	{ G("domains = (\n{ max-smtp-out = 1; } );"), "f:2: domain: name is missing", "" },
	{ G("virtual-mtas = ( { } );"), "f:1: virtual-mta: name is missing", "" },
	{ G("sources = ( { smtp-service = true; } );"), "f:1: source: match is missing", "" },
	{ G("smtp-listeners = ( { } );"), "f:1: smtp-listener: address is missing", "" },
	{ G("acct-files = ( { } );"), "f:1: acct-file: path is missing", "" },
	{ V("smtp-source-hosts = ( { name = \"a.b\"; } );"), "f:1: ", "ip is missing" },
	{ LIST("reply = \"/x/\";"), "f:1: rule: actions is missing", "" },
	{ G("virtual-mta-pools = ( { name = \"p\"; } );"), "f:1: ", "virtual-mtas is missing" },
	/* names that are not defined */
	{ SRC("default-virtual-mta = \"x\";"),
	  "f:1: ", "there is no virtual-mta or virtual-mta-pool \"x\"" },
	{ D("backoff-reroute-to-virtual-mta = \"x\";"),
	  "f:3: ", "there is no virtual-mta or virtual-mta-pool" },
	{ D("smtp-pattern-list = \"x\";"),
	  "f:3: ", "there is no smtp-pattern-list \"x\" in smtp-pattern-lists" },
	{ G("virtual-mta-pools = ( { name = \"p\"; virtual-mtas = [ \"x\" ]; } );"),
	  "f:1: ", "there is no virtual-mta \"x\"" },
	{ V("cold-virtual-mta = \"x\";"), "f:1: ", "there is no virtual-mta \"x\"" },
	{ G("smtp-listeners = ( { address = \"127.0.0.1:1\"; source = \"x\"; } );"),
	  "f:1: ", "there is no source \"x\" in sources" },
	{ LIST("reply = \"/x/\"; actions = \"skip-mx\"; provider = \"x\";"),
	  "f:2: ", "there is no provider \"x\"" },
	{ G("domains = ( { name = \"$x\"; } );"), "f:1: ", "there is no domain-macro \"x\"" },
	{ V("") SRC("default-virtual-mta = \"w\";"), "f:2: ", "did you mean \"v\"?" },
	{ G("domain-macros = ( { name = \"m\"; domains = [\n\"a.$x\" ]; } );"),
	  "f:2: ", "there is no domain-macro \"x\"" },
	/* what contradicts itself */
	{ G("domain-macros = ( { name = \"m\"; domains = [ \"$n\" ]; },\n"
	    "{ name = \"n\"; domains = [ \"$m\" ]; } );"),
	  "f:2: ", "$m leads back to it" },
	{ G("domain-macros = ( { name = \"m\"; domains = [ \"$m\" ]; } );\n"
	    "domains = ( { name = \"$m\"; } );"),
	  "f:1: ", "$m leads back to it" },
	{ G("domain-macros = ( { name = \"m\"; domains = [ \"*.a\" ]; } );\n"
	    "domains = ( { name = \"b.$m\"; } );"),
	  "f:2: ", "its macros make \"b.*.a\"" },
	{ V("") "virtual-mta-pools = ( { name = \"v\"; virtual-mtas = [ \"v\" ]; } );",
	  "f:2: ", "belongs to a virtual MTA already, in f:1" },
	{ V("") "virtual-mta-pools = ( { name = \"p\"; virtual-mtas = [ ]; } );",
	  "f:2: ", "is empty" },
	{ V("") "virtual-mta-pools = ( { name = \"p\"; virtual-mtas = [ \"v\" ]; },\n"
		"{ name = \"q\"; virtual-mtas = [ \"p\" ]; } );",
	  "f:3: ", "\"p\" is a pool" },
	{ V("") "virtual-mta-pools = (\n{ name = \"p\"; virtual-mtas = [ \"v\" ]; domains = ( { "
		"name = "
		"\"*\"; } ); },\n{ name = \"q\"; virtual-mtas = [ \"v\" ]; domains = ( { name = "
		"\"*\"; "
		"} ); } );",
	  "f:4: ", "is in the pools \"p\" and \"q\", which both have domains" },
	/* limits */
	{ D("max-msg-rate = \"5/0m\";"),
	  "f:3: domain \"a.b\": max-msg-rate: ", "bad rate \"5/0m\"" },
	{ D("backoff-max-msg-rate = \"5/31d\";"), "f:3: ", "bad rate \"5/31d\"" },
	{ D("source-ip-max-msg-rate = [ \"0/0 5/h\",\n\"10/8 5/721h\" ];"),
	  "f:4: ", "bad rate per CIDR \"10/8 5/721h\"" },
	{ D("source-ip-max-smtp-out = \"0/0 0\";"), "f:3: ", "bad count per CIDR" },
	{ D("backoff-source-ip-max-data-volume-rate = \"0/0 5x/h\";"), "f:3: ", "bad volume rate" },
	{ D("backoff-max-smtp-out = 0;"), "f:3: ", "out of range 1..20000" },
	{ D("queue-priority = 101;"), "f:3: ", "out of range 0..100" },
	{ D("smtp-out-rampup-interval = 5;"), "f:3: ", "the bare integer 5 has no unit" },
	{ G("providers = ( { name = \"g\"; mx = [ \"a.b\",\n\"*a.b\" ]; } );"),
	  "f:2: ", "bad MX patterns \"*a.b\"" },
	{ G("providers = ( { name = \"g\"; } );"), "f:1: ", "mx is missing" },
	{ G("mx-connection-limit = \"a.*.b 5\";"), "f:1: ", "bad count per MX" },
	{ G("ip-connection-limit = \"0/0 20001\";"), "f:1: ", "bad count per CIDR" },
	{ D("queue-to = \"*.a\";"), "f:3: ", "bad queue \"*.a\"" },
	{ D("queue-to = \"a.b/v\";"), "f:3: ", "bad queue \"a.b/v\"" },
	{ G("mx-rollup-list = { mx = [ \"a.b c.rollup\",\n\"a.b\" ]; };"),
	  "f:2: ", "bad rollups \"a.b\"" },
	{ G("mx-rollup-list = { mx = \"a.b c.rollup by-ip\"; };"), "f:1: ", "bad rollups" },
	{ G("mx-rollup-list = { mx = \"a.b c.d\"; };"), "f:1: ", "bad rollups \"a.b c.d\"" },
	{ G("mx-rollup-list = { mx = \"a.b .rollup\"; };"), "f:1: ", "bad rollups" },
	{ G("mx-rollup-list = { mx = \"a.b 192.0.2.1.c.rollup\"; };"), "f:1: ", "bad rollups" },
	{ G("jobs = ( { max-msg-rate = \"5/h\"; } );"), "f:1: job: name is missing", "" },
	{ G("smtp-source-hosts = ( { ip = \"::1\";\nmax-msg-rate = \"5/h\"; } );")
		  V("smtp-source-hosts = ( { ip = \"0::1\";\nmax-msg-rate = \"6/h\"; } );"),
	  "f:4: smtp-source-host \"0::1\": max-msg-rate: ", "\"6/h\" contradicts \"5/h\" in f:2" },
	{ V("") "virtual-mta-pools = (\n{ name = \"p\"; virtual-mtas = \"v\"; max-smtp-out = 5; "
		"},\n"
		"{ name = \"q\"; virtual-mtas = \"v\"; max-smtp-out = 6; } );",
	  "f:4: virtual MTA \"v\" would inherit max-smtp-out ", "\"6\" and \"5\" of f:3" },
};

static const struct row warnings[] = {
	{ "\nmx-rollup-list = { mx = [ \"*.x.test x.rollup\" ]; };", "f:2: warning: mx-rollup-list: ",
	  "no smtp-hosts" },
	{ "mx-rollup-list = { mx = [ \"*.x.test x.rollup\" ]; };\n"
	  "domains = ( { name = \"x.rollup\"; smtp-hosts = \"a.test\"; } );",
	  NULL, NULL },
	{ "mx-rollup-list = { mx = [ \"*.x.test x.rollup\" ]; };\nvirtual-mtas = ( { name = \"v\";\n"
	  "domains = ( { name = \"x.rollup\"; smtp-hosts = \"a.test\"; } ); } );",
	  NULL, NULL },
	{ "mx-rollup-list = { mx = [ \"mx.x.test x.rollup\" ]; };", NULL, NULL },
	{ D("max-msg-rate = \"0\";"), "f:3: warning: ", "\"0\" means unlimited" },
	{ D("use-dane = true;"), "f:3: warning: domain \"a.b\": use-dane: ", "not supported yet" },
	{ G("http-listeners = ( { address = \"127.0.0.1:1\"; tls-ciphers = \"x\"; } );"),
	  "f:1: warning: http-listeners: not supported yet", "" },
	{ D("source-ip-max-msg-rate = [ \"10/8 5/h\",\n\"0/0 0\" ];"),
	  "f:4: warning: ", "\"0\" means unlimited" },
	{ D("source-ip-max-smtp-out = [ \"10.1/16 5\", \"10/8 2\", \"10.1.0.0/16 6\" ];"),
	  "f:3: warning: domain \"a.b\": source-ip-max-smtp-out: ", "one CIDR stands twice" },
	{ G("mx-connection-limit = [ \"*.a.b 5\", \"*.A.b 6\" ];"),
	  "f:1: warning: mx-connection-limit: ", "one MX pattern stands twice" },
	{ G("jobs = ( { name = \"g\"; max-msg-rate = \"0\"; } );"),
	  "f:1: warning: ", "\"0\" means unlimited" },
	{ V("max-smtp-out = 7;") "virtual-mta-pools = ( { name = \"p\"; virtual-mtas = \"v\"; "
				 "max-smtp-out = 5; },\n"
				 "{ name = \"q\"; virtual-mtas = \"v\"; max-smtp-out = 6; } );",
	  NULL, NULL },
	{ D("type = \"pipe\";"), "f:3: warning: ", "\"pipe\" is not supported yet" },
	{ D("bounce-upon-no-mx = \"1d\";"), "f:3: warning: ", "\"1d\" is not supported yet" },
	{ G("mx-rollup-list = { mx = [ \"a.b c.rollup\", \"e.f d.rollup rollup-by-ip\", \"*.x.test x.rollup rollup-by-ip\" ]; };"), NULL, NULL },
	{ LIST("reply = \"/x/\"; actions = [ \"reconnect\", \"retry-tls\" ];"), "f:2: warning: rule: actions: ",
	  "\"retry-tls\" is not supported yet" },
	{ G("acct-files = ( { path = \"|cat\"; } );"), "f:1: warning: ", "not supported yet" },
	{ D("max-msg-per-hour = 5;"), "f:3: warning: ", "an old spelling of max-msg-rate" },
	{ D("max-msg-per-hour = \"5/h\";"), "f:3: warning: ", "an old spelling of max-msg-rate" },
	{ D("route = \"a.b:25\";"), "f:3: warning: ", "an old spelling of smtp-hosts" },
	{ D("max-smtp-out = 1; },\n{ name = \"A.b\"; max-msg-rate = \"1/h\";"),
	  "f:4: warning: ", "domain \"A.b\" is merged with the one in f:2" },
	{ V("domains = (\n{ name = \"*\"; max-smtp-out = 1; } );") "domains = (\n{ name = \"a.b\"; "
								   "max-smtp-out = 2; } );",
	  "f:2: warning: ", "max-smtp-out hides that of the narrower domain \"a.b\" in f:4" },
	{ V("domains = (\n{ name = \"*.b\"; max-smtp-out = 1; } );") "domains = (\n{ name = "
								     "\"a.b\"; "
								     "max-smtp-out = 2; } );",
	  "f:2: warning: ", "max-smtp-out hides that of the narrower domain \"a.b\" in f:4" },
	{ G("domain-macros = ( { name = \"m\"; domains = [ \"a.b\", \"c.d\" ]; } );")
		  V("domains = (\n{ name = \"*\"; max-smtp-out = 1; } );") "domains = (\n{ name = "
									   "\"$m\"; "
									   "max-smtp-out = 2; } );",
	  "f:3: warning: ", "max-smtp-out hides that of the narrower domain \"$m\" in f:5" },
	{ D("backoff-max-msg-rate = \"2/m\"; max-msg-rate = \"100/h\";"),
	  "f:3: warning: domain \"a.b\": backoff-max-msg-rate: ",
	  "\"2/m\" is above the normal \"100/h\" of f:3" },
	{ D("max-smtp-out = 5; backoff-max-smtp-out = 6;"),
	  "f:3: warning: ", "\"6\" is above the normal \"5\"" },
	{ D("max-connect-rate = \"5/m\"; },\n{ name = \"c.d\"; max-connect-rate = \"1/m\"; "
	    "backoff-max-connect-rate = \"2/m\";"),
	  "f:4: warning: domain \"c.d\": ", "above the normal \"1/m\" of f:4" },
	{ G("domains = ( { name = \"*\"; max-data-volume-rate = \"1m/h\"; },\n"
	    "{ name = \"a.b\"; backoff-max-data-volume-rate = \"2m/h\"; } );"),
	  "f:2: warning: domain \"a.b\": ", "above the normal \"1m/h\" of f:1" },
	/* nothing to warn of */
	{ D("backoff-max-msg-rate = \"100/h\"; max-msg-rate = \"2/m\";"), NULL, NULL },
	{ D("backoff-max-msg-rate = \"100/h\";"), NULL, NULL },
	{ D("backoff-max-smtp-out = 20; max-smtp-out = 20;"), NULL, NULL },
	{ V("domains = (\n{ name = \"*.c\"; max-smtp-out = 1; } );") "domains = (\n{ name = "
								     "\"a.b\"; "
								     "max-smtp-out = 2; } );",
	  NULL, NULL },
	{ V("domains = (\n{ name = \"*\"; max-smtp-out = 1; },{ name = \"a.b\"; max-smtp-out = 3; "
	    "} "
	    ");") "domains = (\n{ name = \"a.b\"; max-smtp-out = 2; } );",
	  NULL, NULL },
	{ V("domains = (\n{ name = \"*\"; max-smtp-out = 1; } );") "domains = (\n{ name = \"a.b\"; "
								   "default-smtp-port = 2; } );",
	  NULL, NULL },
	{ G(""), NULL, NULL },
	{ "", NULL, NULL },
	{ "workers = 4; # the last line, without its end", NULL, NULL },
	{ "workers = 4; // likewise", NULL, NULL },
	{ "workers = 4; /* likewise */", NULL, NULL },
	{ "\xef\xbb\xbfworkers = 4;\r\nreceivers = 2;\r\n", NULL, NULL },
	{ G("workers = 64L; receivers = 0x10;"), NULL, NULL },
	{ G("name-server = [ \"192.0.2.1\", \"::1@53\" ];"), NULL, NULL },
	{ G("host-name = [ \"a.b\", \"c.d\" ];"), NULL, NULL },
	{ SRC("default-virtual-mta = \"{default}\";"), NULL, NULL },
	{ G("domains = ( );"), NULL, NULL },
	{ G("domains = [ ];"), NULL, NULL },
	{ D("max-msg-per-connection = \"unlimited\";"), NULL, NULL },
	{ D("bounce-after = \"never\";"), NULL, NULL },
	{ G("domains = ( { name = \"[192.0.2/24]\"; } );"), NULL, NULL },
	{ G("domains = ( { name = \"a.rollup\"; } );"), NULL, NULL },
};

static void
test_errors(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_OF(errors); i++)
		expect(&errors[i], true);
}

static void
test_warnings(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_OF(warnings); i++)
		expect(&warnings[i], false);
}

/* A replaced value is named beside the merge. */
static void
test_replaced_value(void **state)
{
	struct conf_report r = { 0 };

	(void)state;
	assert_int_equal(parse("domains = ( { name = \"a.b\"; max-smtp-out = 1; },\n"
			       "{ name = \"a.b\"; max-smtp-out = 2; } );",
			       &r),
			 0);
	assert_int_equal(r.n_warnings, 2);
	buf_putc(&r.text, '\0');
	assert_non_null(
		strstr(buf_slice(&r.text).p,
		       "f:2: warning: domain \"a.b\": max-smtp-out: \"2\" replaces \"1\" of "
		       "f:1\n"));
	conf_report_clear(&r);
}

/* What is behind a syntax error is not held against what stands before it. */
static void
test_behind_syntax_error(void **state)
{
	static const struct row row = {
		"sources = ( { match = \"10/8\"; default-virtual-mta = \"v\"; } );\n"
		"domains = ( { name = \"a.b\"; max-smtp-out = 1; } );\n"
		"virtual-mtas = ( { domains = ( { ??? name = \"a\"; } ); name = \"v\" } );\n",
		"f:3: ", "syntax error: ? where a name or } should stand"
	};

	(void)state;
	expect(&row, true);
}

/* A directive used often is warned of once, and too many errors end in a count. */
static void
test_many(void **state)
{
	struct buf text = { 0 };
	struct conf_report r = { 0 };

	(void)state;
	buf_puts(&text, "domains = ( { name = \"z\"; }");
	for (int i = 0; i < 3000; i++)
		buf_printf(&text, ",\n{ name = \"d%d.b\"; use-dane = true; max-smtp-out = %d; }", i,
			   i == 5 ? 0 : 1);
	buf_puts(&text, " );");
	buf_putc(&text, '\0');
	parse(buf_slice(&text).p, &r);
	assert_int_equal(r.n_errors, 1);
	assert_int_equal(r.n_warnings, 1);
	buf_putc(&r.text, '\0');
	assert_non_null(strstr(buf_slice(&r.text).p, "(and in 2999 more places)"));
	conf_report_clear(&r);

	for (size_t i = 0; i < text.len; i++) {
		char *p = text.data + text.start + i;

		if (memcmp(p, "out = 1", i + 7 < text.len ? 7 : 0) == 0 && i + 7 < text.len)
			p[6] = '0';
	}
	parse(buf_slice(&text).p, &r);
	assert_int_equal(r.n_errors, 3000);
	assert_int_equal(lines_of(buf_slice(&r.text)), CONF_ERRORS_MAX + 2);
	conf_report_clear(&r);
	buf_clear(&text);
}

/* Whatever byte a file is cut at: no crash, and a report exactly when it is refused. */
static void
test_every_cut(void **state)
{
	static const char text[] = "host-name = \"a.b\"; # c\n/* d */ workers = 4;\n"
				   "virtual-mtas = ( { name = \"v\"; smtp-source-hosts = ( { ip = "
				   "\"192.0.2.1\"; } ); } );\n"
				   "domains = ( { name = \"a\" \".b\"; max-msg-rate = \"83/10m\"; "
				   "allow-destinations = [ "
				   "\"10/8\", \"11/8\" ]; } );\n";

	(void)state;
	for (size_t n = 0; n < sizeof text; n++) {
		struct conf_report r = { 0 };
		struct buf snapshot = { 0 };
		struct conf *c = NULL;
		int rc;

		conf_snapshot_text(&snapshot, "f", slice_of(text, n));
		rc = conf_parse(buf_slice(&snapshot), &c, &r);
		assert_true((rc == 0) == (r.n_errors == 0) && r.n_errors <= 2);
		assert_int_equal(lines_of(buf_slice(&r.text)), r.n_errors + r.n_warnings);
		conf_free(&c);
		conf_report_clear(&r);
		buf_clear(&snapshot);
	}
}

static void
test_bad_snapshot(void **state)
{
	struct buf snapshot = { 0 };

	(void)state;
	conf_snapshot_text(&snapshot, "f", SLICE_LIT("workers = 4;"));
	for (size_t n = 0; n <= snapshot.len; n++) {
		struct conf_report r = { 0 };
		struct conf *c = NULL;
		int rc = conf_parse(slice_of(buf_slice(&snapshot).p, n), &c, &r);

		assert_true((rc == 0) == (n == snapshot.len) && (r.n_errors == 0) == (rc == 0));
		conf_free(&c);
		conf_report_clear(&r);
	}
	buf_clear(&snapshot);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_errors),         cmocka_unit_test(test_warnings),
		cmocka_unit_test(test_replaced_value), cmocka_unit_test(test_behind_syntax_error),
		cmocka_unit_test(test_many),           cmocka_unit_test(test_every_cut),
		cmocka_unit_test(test_bad_snapshot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
