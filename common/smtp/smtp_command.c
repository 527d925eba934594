#include "common/smtp/smtp_command.h"

#include "common/base/err.h"
#include "common/base/limits.h"

static const struct {
	const char *word;
	enum smtp_verb verb;
} verbs[] = {
#define X(name) { #name, SMTP_VERB_##name },
	SMTP_VERB_TABLE(X)
#undef X
	/* clang-format off */
	{ "BDAT", SMTP_VERB_UNBUILT }, { "STARTTLS", SMTP_VERB_UNBUILT }, { "AUTH", SMTP_VERB_UNBUILT },
	{ "EXPN", SMTP_VERB_UNBUILT }, { "ETRN", SMTP_VERB_UNBUILT }, { "BURL", SMTP_VERB_UNBUILT },
	{ "SEND", SMTP_VERB_UNBUILT }, { "SOML", SMTP_VERB_UNBUILT }, { "SAML", SMTP_VERB_UNBUILT },
	{ "TURN", SMTP_VERB_UNBUILT }, { "ATRN", SMTP_VERB_UNBUILT },
	{ "GET", SMTP_VERB_FOREIGN }, { "POST", SMTP_VERB_FOREIGN }, { "PUT", SMTP_VERB_FOREIGN },
	{ "HEAD", SMTP_VERB_FOREIGN }, { "OPTIONS", SMTP_VERB_FOREIGN }, { "DELETE", SMTP_VERB_FOREIGN },
	{ "PATCH", SMTP_VERB_FOREIGN }, { "TRACE", SMTP_VERB_FOREIGN }, { "CONNECT", SMTP_VERB_FOREIGN },
	{ "PRI", SMTP_VERB_FOREIGN },
	/* clang-format on */
};

void
smtp_command_parse(struct smtp_command *c, struct slice line)
{
	struct slice rest = line;
	struct slice word = slice_cut(&rest, ' ');

	c->verb = SMTP_VERB_UNKNOWN;
	c->args = rest;
	while (c->args.n > 0 &&
	       (c->args.p[c->args.n - 1] == ' ' || c->args.p[c->args.n - 1] == '\t'))
		c->args.n--;
	for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
		if (slice_eq_nocase(word, slice_str(verbs[i].word))) {
			c->verb = verbs[i].verb;
			break;
		}
	}
}

/* Behind `FROM:` and `TO:` blanks are read over: many clients send one. */
static bool
take_word(struct slice *s, const char *word)
{
	if (!slice_starts_nocase(*s, word))
		return false;
	*s = slice_sub(*s, strlen(word));
	while (s->n > 0 && s->p[0] == ' ')
		*s = slice_sub(*s, 1);
	return true;
}

/* Parameters follow a blank or nothing does. */
static bool
params_follow(struct slice s)
{
	return s.n == 0 || s.p[0] == ' ';
}

static const char *
param_size(struct slice value, uint64_t max_size, struct smtp_mail *out)
{
#ifdef PLANTED_BUGS
	char digits[12];

	if (value.n <= 20) /* the bound of another time */
		memcpy(digits, value.p, value.n);
	__asm__ volatile("" : : "r"(digits) : "memory");
#endif
	if (value.n == 0 || value.n > 20)
		return "501 5.5.4 Invalid SIZE";
	for (size_t i = 0; i < value.n; i++) {
		if (value.p[i] < '0' || value.p[i] > '9')
			return "501 5.5.4 Invalid SIZE";
	}
	if (!slice_u64(value, UINT64_MAX, &out->size))
		out->size = UINT64_MAX; /* 20 digits may be more than 64 bits */
	return out->size > max_size ? "552 5.3.4 Message size exceeds the limit" : NULL;
}

static const char *
param_body(struct slice value, struct smtp_mail *out)
{
	if (slice_eq_nocase(value, SLICE_LIT("7BIT")))
		out->body = SMTP_BODY_7BIT;
	else if (slice_eq_nocase(value, SLICE_LIT("8BITMIME")))
		out->body = SMTP_BODY_8BITMIME;
	else
		return "501 5.5.4 Invalid BODY";
	return NULL;
}

static const char *
mail_params(struct slice rest, uint64_t max_size, struct smtp_mail *out)
{
	bool size_seen = false;
	const char *bad;

	while (rest.n > 0) {
		struct slice value = slice_cut(&rest, ' ');
		struct slice name;
		bool has_value = value.n > 0 && memchr(value.p, '=', value.n) != NULL;

		if (value.n == 0)
			continue;
		name = slice_cut(&value, '=');
		if (slice_eq_nocase(name, SLICE_LIT("SIZE"))) {
			bad = size_seen || !has_value ? "501 5.5.4 Invalid SIZE"
						      : param_size(value, max_size, out);
			size_seen = true;
		} else if (slice_eq_nocase(name, SLICE_LIT("BODY"))) {
			bad = out->body != SMTP_BODY_UNSAID || !has_value ? "501 5.5.4 Invalid BODY"
									  : param_body(value, out);
		} else {
			bad = "555 5.5.4 Parameter not recognized";
		}
		if (bad != NULL)
			return bad;
	}
	return NULL;
}

const char *
smtp_command_mail(struct slice args, uint64_t max_size, struct smtp_mail *out)
{
	int rc;

	memset(out, 0, sizeof *out);
	if (!take_word(&args, "FROM:"))
		return "501 5.5.4 Syntax: MAIL FROM:<address>";
	rc = address_parse_path(&args, &out->sender);
	if (rc == -E_TOO_BIG)
		return "501 5.1.7 Sender address too long";
	if (rc != 0 || out->sender.kind == ADDRESS_LOCAL)
		return "501 5.1.7 Bad sender address syntax";
	if (!params_follow(args))
		return "501 5.1.7 Bad sender address syntax";
	return mail_params(args, max_size, out);
}

const char *
smtp_command_rcpt(struct slice args, struct address *out)
{
	int rc;

	memset(out, 0, sizeof *out);
	if (!take_word(&args, "TO:"))
		return "501 5.5.4 Syntax: RCPT TO:<address>";
	rc = address_parse_path(&args, out);
	if (rc == -E_TOO_BIG)
		return "501 5.1.3 Recipient address too long";
	if (rc != 0 || out->kind == ADDRESS_NULL || !params_follow(args))
		return "501 5.1.3 Bad recipient address syntax";
	return slice_trim(args).n == 0 ? NULL : "555 5.5.4 Parameter not recognized";
}

const char *
smtp_command_hello(struct slice args)
{
	bool good = args.n > 0 && args.n <= SMTP_DOMAIN_MAX;

	for (size_t i = 0; good && i < args.n; i++) {
		char c = args.p[i];

		good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		       strchr(".-_:[]", c) != NULL;
		good = good && c != '\0';
	}
	return good ? NULL : "501 5.5.4 Domain name or address literal required";
}
