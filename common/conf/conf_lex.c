#include "common/conf/conf_lex.h"

#include <ctype.h>

void
conf_lex_init(struct conf_lex *x, struct slice all)
{
	*x = (struct conf_lex){ .all = all, .line = 1 };
}

static int
peek(const struct conf_lex *x, size_t ahead)
{
	return ahead < x->all.n - x->at ? (unsigned char)x->all.p[x->at + ahead] : -1;
}

static void
step(struct conf_lex *x)
{
	if (x->all.p[x->at] == '\n')
		x->line++;
	x->at++;
}

static void
skip_line(struct conf_lex *x)
{
	while (peek(x, 0) >= 0 && peek(x, 0) != '\n')
		step(x);
}

/* Past the closing mark; false at the end of the file. */
static bool
skip_block_comment(struct conf_lex *x)
{
	x->at += 2;
	for (; peek(x, 0) >= 0; step(x)) {
		if (peek(x, 0) == '*' && peek(x, 1) == '/') {
			x->at += 2;
			return true;
		}
	}
	return false;
}

/* Blanks and comments; false at a comment that does not end. */
static bool
skip_blank(struct conf_lex *x)
{
	for (;;) {
		int c = peek(x, 0);

		if (c == ' ' || c == '\t' || c == '\n' || c == '\f' ||
		    (c == '\r' && peek(x, 1) == '\n'))
			step(x);
		else if (c == '#' || (c == '/' && peek(x, 1) == '/'))
			skip_line(x);
		else if (c == '/' && peek(x, 1) == '*') {
			struct conf_lex begin = *x;

			if (!skip_block_comment(x)) {
				*x = begin;
				return false;
			}
		} else
			return true;
	}
}

static bool
is_name_byte(int c)
{
	return c >= 0 && (isalnum(c) || c == '-' || c == '_' || c == '*');
}

static void
lex_string(struct conf_lex *x, struct conf_token *t)
{
	size_t from = ++x->at;

	for (; peek(x, 0) >= 0; step(x)) {
		if (peek(x, 0) == '"') {
			t->kind = CONF_TOKEN_STRING;
			t->text = slice_of(x->all.p + from, x->at - from);
			x->at++;
			return;
		}
#ifdef PLANTED_BUGS
		if (peek(x, 0) == '\\')
			x->at++; /* also when nothing follows */
#else
		if (peek(x, 0) == '\\' && (peek(x, 1) == '"' || peek(x, 1) == '\\'))
			x->at++;
#endif
	}
	t->kind = CONF_TOKEN_OPEN_STRING;
}

static void
lex_digits(struct conf_lex *x)
{
	while (peek(x, 0) >= 0 && isdigit(peek(x, 0)))
		x->at++;
}

static void
lex_exponent(struct conf_lex *x, struct conf_token *t)
{
	size_t sign = peek(x, 1) == '+' || peek(x, 1) == '-';

	if ((peek(x, 0) == 'e' || peek(x, 0) == 'E') && peek(x, 1 + sign) >= 0 &&
	    isdigit(peek(x, 1 + sign))) {
		t->kind = CONF_TOKEN_FLOAT;
		x->at += 1 + sign;
		lex_digits(x);
	}
}

static void
lex_number(struct conf_lex *x, struct conf_token *t)
{
	size_t from = x->at;

	t->kind = CONF_TOKEN_INT;
	if (peek(x, 0) == '0' && (peek(x, 1) == 'x' || peek(x, 1) == 'X') && peek(x, 2) >= 0 &&
	    isxdigit(peek(x, 2))) {
		for (x->at += 2; peek(x, 0) >= 0 && isxdigit(peek(x, 0));)
			x->at++;
	} else {
		if (peek(x, 0) == '-' || peek(x, 0) == '+')
			x->at++;
		lex_digits(x);
		if (peek(x, 0) == '.') {
			t->kind = CONF_TOKEN_FLOAT;
			x->at++;
			lex_digits(x);
		}
		lex_exponent(x, t);
	}
	if (t->kind == CONF_TOKEN_INT && peek(x, 0) == 'L')
		x->at += peek(x, 1) == 'L' ? 2 : 1;
	t->text = slice_of(x->all.p + from, x->at - from);
}

static bool
starts_number(const struct conf_lex *x)
{
	int c = peek(x, 0), d = peek(x, 1);

	if (c == '-' || c == '+')
		return d >= 0 && (isdigit(d) || d == '.');
	return isdigit(c) || c == '.';
}

static void
lex_name(struct conf_lex *x, struct conf_token *t)
{
	size_t from = x->at;

	while (is_name_byte(peek(x, 0)))
		x->at++;
	t->text = slice_of(x->all.p + from, x->at - from);
	t->kind = slice_eq_nocase(t->text, SLICE_LIT("true")) ||
				  slice_eq_nocase(t->text, SLICE_LIT("false"))
			  ? CONF_TOKEN_BOOL
			  : CONF_TOKEN_NAME;
}

struct conf_token
conf_lex_next(struct conf_lex *x)
{
	struct conf_token t = { .kind = CONF_TOKEN_END, .at = x->at, .line = x->line };
	int c;

	bool ends = skip_blank(x);

	t.at = x->at;
	t.line = x->line;
	if (!ends) {
		t.kind = CONF_TOKEN_OPEN_COMMENT;
		x->at = x->all.n;
		return t;
	}
	c = peek(x, 0);
	if (c < 0)
		return t;
	if (c == '"')
		lex_string(x, &t);
	else if (isalpha(c) || c == '*')
		lex_name(x, &t);
	else if (starts_number(x))
		lex_number(x, &t);
	else {
		t.kind = c != '\0' && strchr("=:,;{}()[]", c) != NULL ? CONF_TOKEN_MARK
								      : CONF_TOKEN_STRANGE;
		t.text = slice_of(x->all.p + x->at, 1);
		x->at++;
	}
	return t;
}
