/* conf_lex: the tokens of a libconfig file, with their lines. Used before the library sees a byte:
 * it reads `include` lists, and finds what the library would take silently or not survive. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/base/str.h"

enum conf_token_kind {
	CONF_TOKEN_END,
	CONF_TOKEN_NAME,
	CONF_TOKEN_STRING, /* text without the quotes, escapes untouched */
	CONF_TOKEN_INT,    /* decimal, hexadecimal, with L */
	CONF_TOKEN_FLOAT,
	CONF_TOKEN_BOOL,
	CONF_TOKEN_MARK,         /* one of = : , ; { } ( ) [ ] */
	CONF_TOKEN_OPEN_STRING,  /* the file ends inside */
	CONF_TOKEN_OPEN_COMMENT, /* likewise */
	CONF_TOKEN_STRANGE,      /* any other byte */
};

struct conf_token {
	enum conf_token_kind kind;
	struct slice text;
	size_t at; /* offset of its first byte */
	unsigned line;
};

struct conf_lex {
	struct slice all;
	size_t at;
	unsigned line;
};

void conf_lex_init(struct conf_lex *x, struct slice all);
struct conf_token conf_lex_next(struct conf_lex *x);

static inline bool
conf_token_is(const struct conf_token *t, char mark)
{
	return t->kind == CONF_TOKEN_MARK && t->text.p[0] == mark;
}
