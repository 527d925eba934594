/* json: an append writer of JSON text; commas come by themselves. No reader: that is jansson's. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/buf.h"

/* Embedded; writes to *out, which the caller owns. */
struct json {
	struct buf *out;
	bool comma; /* a value stands before: the next one needs a comma */
};

void json_init(struct json *j, struct buf *out);
void json_object_begin(struct json *j);
void json_object_end(struct json *j);
void json_array_begin(struct json *j);
void json_array_end(struct json *j);
void json_key(struct json *j, const char *key); /* key: plain ASCII, not escaped */

/* Foreign bytes: controls escaped, what is not UTF-8 becomes U+FFFD. */
void json_string(struct json *j, struct slice s);
void json_u64(struct json *j, uint64_t v);
void json_i64(struct json *j, int64_t v);
void json_bool(struct json *j, bool v);
void json_null(struct json *j);

/* key and value in one. */
void json_key_string(struct json *j, const char *key, struct slice s);
void json_key_str(struct json *j, const char *key, const char *s); /* NULL writes null */
void json_key_u64(struct json *j, const char *key, uint64_t v);
void json_key_bool(struct json *j, const char *key, bool v);
/* ISO 8601 UTC from wall µs; 0 writes null. */
void json_key_time(struct json *j, const char *key, uint64_t wall_us);
