/* answer: the daemon's JSON, taken apart and shown to people. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "common/base/str.h"

struct json_t; /* of jansson, whose header knows another json_string() than ours */

struct answer {
	struct json_t *root; /* owned */
	struct json_t *data; /* borrowed; an object */
	const char *message; /* borrowed; "" when there is none */
	bool success;
};

/* {"data":{...},"status":"success"|"error","message":"..."}. 0 or -E_BAD. */
int answer_parse(struct answer *out, struct slice json);
void answer_clear(struct answer *a);

/* Tables for arrays of objects, `name: value` for the rest; what it has no columns for is shown as
 * it comes. */
void answer_print(const struct answer *a, FILE *to);
/* Of a reload: the report's lines as they are, then the generation that is in force. */
void answer_print_reload(const struct answer *a, FILE *to);
