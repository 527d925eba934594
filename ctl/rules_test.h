/* rules_test: `sluice rules test`: which rules of the configuration these replies match, and what
 * would be done. Asks nobody: reads the configuration and the replies. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "common/base/buf.h"
#include "common/conf/conf.h"

struct rules_test {
	const struct conf *conf;
	int list;       /* -1: each of them */
	int provider;   /* -1: none */
	unsigned stage; /* 0: not known */
};

/* `replies`: one or more, of one or more lines each. To *out as lines, or as the rows of a JSON
 * array that `json` writes (NULL: lines). How many of them were no reply. */
unsigned rules_test_run(const struct rules_test *t, struct slice replies, FILE *out,
			struct json *json);

/* Names into numbers; -E_MISSING and why in *why. Each may be NULL: not given. */
int rules_test_select(struct rules_test *t, const char *list, const char *provider,
		      const char *stage, struct buf *why);

/* The bytes behind what the command line names: "-" is standard input, a file that is there is
 * read, anything else is a reply itself. 0 or -E_*. */
int rules_test_read(const char *what, struct buf *out);
