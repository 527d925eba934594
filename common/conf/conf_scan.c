#include "common/conf/conf_scan.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/conf/conf_lex.h"

/* What may come next inside a bracket:
 *
 *   group:  NAME -> EQUALS -> VALUE -> AFTER -> NAME ...     } at NAME and AFTER
 *   list:             (first) VALUE -> AFTER -> VALUE ...     ) at the first VALUE and AFTER
 *   array: as a list, of scalars of one type                                              */
enum want { WANT_NAME, WANT_EQUALS, WANT_VALUE, WANT_AFTER };

/* A bracket that is open, innermost last; the file itself is a group. */
struct frame {
	char open; /* { ( [, 0 for the file */
	enum want want;
	bool empty;        /* of a list: nothing in it yet */
	bool after_string; /* a string that follows joins the one before */
	unsigned line;
	size_t first_name;         /* of this group in names */
	enum conf_token_kind kind; /* of the elements of an array */
	bool wide;                 /* they are 64-bit integers */
};

struct name {
	struct slice text;
	unsigned line;
};

struct scanner {
	struct conf_scan *s;
	struct conf_lex lex;
	struct conf_msgs *m;
	unsigned file;
	struct frame frames[CONF_DEPTH_MAX + 1];
	unsigned depth;
	struct name *names;
	size_t n_names, cap_names;
	size_t setting; /* mark of the innermost named setting */
	size_t whole;   /* what stands before this offset is whole but for open brackets ... */
	char closers[CONF_DEPTH_MAX + 1]; /* ... which these close */
	unsigned whole_depth;
	unsigned last_line; /* of the token before: where a file that ends too early is wrong */
};

static char
closer_of(char open)
{
	return open == '{' ? '}' : open == '(' ? ')' : ']';
}

/* The text up to `end` would be taken by the library, once the open brackets are closed. */
static void
whole_until(struct scanner *c, size_t end)
{
	c->whole = end;
	c->whole_depth = c->depth;
	for (unsigned i = 0; i < c->depth; i++)
		c->closers[i] = closer_of(c->frames[c->depth - i].open);
}

static void
mark_add(struct scanner *c, unsigned line)
{
	void *v = c->s->marks;

	mem_grow(&v, &c->s->cap_marks, c->s->n_marks + 1, sizeof *c->s->marks);
	c->s->marks = v;
	c->s->marks[c->s->n_marks++] = (struct conf_mark){ .line = line };
}

/* Errors that end the scan. ------------------------------------------------------------------- */
__attribute__((format(printf, 3, 4))) static bool
stop(struct scanner *c, unsigned line, const char *fmt, ...)
{
	char text[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	conf_msgs_error(c->m, c->file, line, "%s", text);
	c->s->line = line;
	return false;
}

/* What stands where something else is wanted; false. */
static bool
unexpected(struct scanner *c, const struct conf_token *t, const char *wanted, const char *hint)
{
	switch (t->kind) {
	case CONF_TOKEN_OPEN_STRING:
		return stop(c, t->line, "syntax error: the string that begins here never ends");
	case CONF_TOKEN_OPEN_COMMENT:
		return stop(c, t->line, "syntax error: the comment that begins here never ends");
	case CONF_TOKEN_END:
		if (c->depth > 0)
			return stop(c, c->last_line,
				    "syntax error: the file ends inside the %c of line %u",
				    c->frames[c->depth].open, c->frames[c->depth].line);
		return stop(c, c->last_line, "syntax error: the file ends where %s should stand",
			    wanted);
	case CONF_TOKEN_STRANGE:
		if (t->text.p[0] == '@')
			return stop(c, t->line,
				    "@include is not taken; write include = [ \"FILE\" ];");
		if (!isgraph((unsigned char)t->text.p[0]))
			return stop(c, t->line, "syntax error: byte 0x%02x where %s should stand%s",
				    (unsigned char)t->text.p[0], wanted, hint);
		break;
	default:
		break;
	}
	return stop(c, t->line, "syntax error: %s%.*s%s where %s should stand%s",
		    t->kind == CONF_TOKEN_STRING ? "\"" : "",
		    (int)(t->text.n < 60 ? t->text.n : 60), t->text.p,
		    t->kind == CONF_TOKEN_STRING ? "\"" : "", wanted, hint);
}

/* Names --------------------------------------------------------------------------------------- */
static bool
name_taken(const struct scanner *c, size_t first, struct slice name)
{
	for (size_t i = first; i < c->n_names; i++) {
		if (slice_eq(c->names[i].text, name))
			return true;
	}
	return false;
}

/* A name of the same length that the group does not hold, written over the twin at `t`, so that
 * the library reads on. False if there is none. */
static bool
rename_twin(struct scanner *c, const struct conf_token *t, size_t first)
{
	static const char alphabet[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ*";
	const size_t letters = sizeof alphabet - 1;
	char *p = c->s->text + t->at;
	size_t n = t->text.n;

	for (size_t i = 0; i < letters * letters; i++) {
		p[0] = alphabet[i / letters];
		p[n - 1] = alphabet[i % letters];
		if (!name_taken(c, first, slice_of(p, n)))
			return true;
	}
	return false;
}

static void
name_add(struct scanner *c, struct slice text, unsigned line)
{
	void *v = c->names;

	mem_grow(&v, &c->cap_names, c->n_names + 1, sizeof *c->names);
	c->names = v;
	c->names[c->n_names++] = (struct name){ text, line };
}

static bool
setting_begin(struct scanner *c, const struct conf_token *t)
{
	struct frame *f = &c->frames[c->depth];
	size_t first = f->first_name;
	struct slice name = t->text;

	c->setting = c->s->n_marks;
	mark_add(c, t->line);
	f->want = WANT_EQUALS;
	if (c->n_names - first >= CONF_GROUP_NAMES_MAX)
		return stop(c, t->line, "more than %d settings in one group", CONF_GROUP_NAMES_MAX);
	for (size_t i = first; i < c->n_names; i++) {
		if (!slice_eq(c->names[i].text, name))
			continue;
		conf_msgs_error(c->m, c->file, t->line,
				"%.*s stands twice in this group, first in line %u",
				(int)(name.n < 80 ? name.n : 80), name.p, c->names[i].line);
		if (!rename_twin(c, t, first)) {
			c->s->line = t->line;
			return false;
		}
		c->s->marks[c->setting].twice = true;
		name = slice_of(c->s->text + t->at, name.n);
		break;
	}
	name_add(c, name, t->line);
	return true;
}

/* Values -------------------------------------------------------------------------------------- */
static bool
int_fits(struct slice text)
{
	char digits[48];
	bool wide = text.p[text.n - 1] == 'L';
	bool hex = text.n > 1 && (text.p[1] == 'x' || text.p[1] == 'X');
	long long v;

	while (text.p[text.n - 1] == 'L')
		text.n--;
	if (text.n >= sizeof digits)
		return false;
	str_copy(digits, sizeof digits, text);
	errno = 0;
	v = strtoll(digits, NULL, hex ? 16 : 10);
	return errno == 0 && (wide || (v >= INT32_MIN && v <= INT32_MAX));
}

static void
check_int(struct scanner *c, const struct conf_token *t)
{
	if (int_fits(t->text))
		return;
	c->s->marks[c->setting].bad_int = true;
	conf_msgs_error(c->m, c->file, t->line,
			"the integer %.*s does not fit into 32 bits; quantities are strings with a "
			"unit, as in \"3G\" or \"1000/h\"",
			(int)(t->text.n < 40 ? t->text.n : 40), t->text.p);
}

/* \x00 would end the string early. */
static bool
holds_nul(struct slice s)
{
	for (size_t i = 0; i + 1 < s.n; i++) {
		if (s.p[i] != '\\')
			continue;
		if (s.p[i + 1] == 'x' && i + 3 < s.n && s.p[i + 2] == '0' && s.p[i + 3] == '0')
			return true;
		i++;
	}
	return false;
}

/* An array holds scalars of one type only. */
static bool
fits_array(struct frame *f, const struct conf_token *t)
{
	bool wide = t->kind == CONF_TOKEN_INT && t->text.p[t->text.n - 1] == 'L';

	if (f->open != '[')
		return true;
	if (f->empty) {
		f->kind = t->kind;
		f->wide = wide;
	}
	return f->kind == t->kind && f->wide == wide;
}

static bool
is_scalar(const struct conf_token *t)
{
	return t->kind == CONF_TOKEN_STRING || t->kind == CONF_TOKEN_INT ||
	       t->kind == CONF_TOKEN_FLOAT || t->kind == CONF_TOKEN_BOOL;
}

static bool
scalar(struct scanner *c, const struct conf_token *t, bool joins)
{
	struct frame *f = &c->frames[c->depth];

	if (f->open == '(' || f->open == '[') {
		if (!joins)
			mark_add(c, t->line);
		if (!fits_array(f, t))
			return stop(c, t->line,
				    "syntax error: mismatched element type in array; the elements "
				    "before are of another");
	}
	if (t->kind == CONF_TOKEN_STRING && holds_nul(t->text))
		return stop(c, t->line, "a string may not hold \\x00");
	if (t->kind == CONF_TOKEN_INT)
		check_int(c, t);
	f->empty = false;
	f->after_string = t->kind == CONF_TOKEN_STRING;
	f->want = WANT_AFTER;
	whole_until(c, c->lex.at);
	return true;
}

static bool
push(struct scanner *c, const struct conf_token *t)
{
	struct frame *f = &c->frames[c->depth];
	char open = t->text.p[0];

	if (c->depth == CONF_DEPTH_MAX)
		return stop(c, t->line, "brackets nested deeper than %d", CONF_DEPTH_MAX);
	if (f->open == '(')
		mark_add(c, t->line);
	f->want = WANT_AFTER; /* once it is closed */
	f->empty = f->after_string = false;
	c->depth++;
	c->frames[c->depth] = (struct frame){ .open = open,
					      .want = open == '{' ? WANT_NAME : WANT_VALUE,
					      .empty = true,
					      .line = t->line,
					      .first_name = c->n_names };
	whole_until(c, c->lex.at);
	return true;
}

static bool
pop(struct scanner *c)
{
	c->n_names = c->frames[c->depth].first_name;
	c->depth--;
	whole_until(c, c->lex.at);
	return true;
}

/* Whether `t` closes the innermost bracket. */
static bool
closes(const struct scanner *c, const struct conf_token *t)
{
	const struct frame *f = &c->frames[c->depth];

	return c->depth > 0 && conf_token_is(t, closer_of(f->open));
}

/* Tokens by what is wanted -------------------------------------------------------------------- */
static bool
at_name(struct scanner *c, const struct conf_token *t)
{
	if (closes(c, t))
		return pop(c);
	if (t->kind == CONF_TOKEN_NAME)
		return setting_begin(c, t);
	return unexpected(c, t, c->depth > 0 ? "a name or }" : "a name", "");
}

static bool
at_equals(struct scanner *c, const struct conf_token *t)
{
	if (conf_token_is(t, '=') || conf_token_is(t, ':')) {
		c->frames[c->depth].want = WANT_VALUE;
		return true;
	}
	return unexpected(c, t, "=",
			  t->text.n > 0 && t->text.p[0] == '.'
				  ? "; names hold no dots, write _ instead"
				  : "");
}

static bool
at_value(struct scanner *c, const struct conf_token *t)
{
	const struct frame *f = &c->frames[c->depth];
	bool opens = conf_token_is(t, '{') || conf_token_is(t, '(') || conf_token_is(t, '[');

	if (is_scalar(t))
		return scalar(c, t, false);
	if (opens && f->open != '[')
		return push(c, t);
	if (f->empty && f->open != '{' && closes(c, t))
		return pop(c);
	return unexpected(c, t, "a value",
			  t->kind == CONF_TOKEN_NAME
				  ? "; booleans are true and false, words stand in quotes"
				  : "");
}

static bool
at_after(struct scanner *c, const struct conf_token *t)
{
	struct frame *f = &c->frames[c->depth];
	bool list = f->open == '(' || f->open == '[';

	if (t->kind == CONF_TOKEN_STRING && f->after_string)
		return scalar(c, t, true);
	if (closes(c, t))
		return pop(c);
	f->after_string = false;
	if (list && conf_token_is(t, ',')) {
		f->want = WANT_VALUE;
		return true;
	}
	if (!list && (conf_token_is(t, ',') || conf_token_is(t, ';'))) {
		f->want = WANT_NAME;
		return true;
	}
	if (!list && t->kind == CONF_TOKEN_NAME)
		return setting_begin(c, t);
	return unexpected(c, t,
			  f->open == '('   ? ", or )"
			  : f->open == '[' ? ", or ]"
					   : "; or a name",
			  "");
}

/* True while there is more. */
static bool
take(struct scanner *c, const struct conf_token *t)
{
	enum want want = c->frames[c->depth].want;

	if (t->kind == CONF_TOKEN_END && c->depth == 0 && (want == WANT_NAME || want == WANT_AFTER))
		return false;
	switch (want) {
	case WANT_NAME:
		return at_name(c, t);
	case WANT_EQUALS:
		return at_equals(c, t);
	case WANT_VALUE:
		return at_value(c, t);
	case WANT_AFTER:
		return at_after(c, t);
	}
	return false;
}

/* The library knows no CR: a line may end in CR LF here. */
static void
blank_cr(char *p, size_t n)
{
	for (size_t i = 0; i + 1 < n; i++) {
		if (p[i] == '\r' && p[i + 1] == '\n')
			p[i] = ' ';
	}
}

void
conf_scan(struct conf_scan *s, struct slice content, unsigned file, struct conf_msgs *m)
{
	struct scanner c = { .s = s, .m = m, .file = file };
	struct conf_token t;
	size_t n;

	memset(s, 0, sizeof *s);
	/* A byte order mark, if there is one, is no text. */
	if (content.n >= 3 && memcmp(content.p, "\xef\xbb\xbf", 3) == 0)
		content = slice_sub(content, 3);
	s->text = mem_zalloc(content.n + CONF_DEPTH_MAX + 2);
	if (content.n > 0)
		memcpy(s->text, content.p, content.n);
	n = strlen(s->text);
	s->text[n] = '\n'; /* the library wants one behind a comment in the last line */
	blank_cr(s->text, n);
	/* Names are slices of the borrowed content: the copy may be renamed under them. */
	conf_lex_init(&c.lex, slice_of(content.p, n));
	t.line = 1;
	do {
		c.last_line = t.line;
		t = conf_lex_next(&c.lex);
	} while (take(&c, &t));
	if (s->line == 0 && n < content.n)
		stop(&c, t.line, "a byte that is zero: no text file");
	if (s->line > 0) {
		s->open = c.whole_depth;
		memcpy(s->text + c.whole, c.closers, c.whole_depth);
		s->text[c.whole + c.whole_depth] = '\0';
	}
	mem_free(c.names);
}

void
conf_scan_clear(struct conf_scan *s)
{
	mem_free(s->text);
	mem_free(s->marks);
	memset(s, 0, sizeof *s);
}
