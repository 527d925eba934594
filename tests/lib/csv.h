/* csv: a strict reader of RFC 4180, to check what was written. */
#pragma once

#include <stddef.h>

struct csv; /* a header line and rows of as many fields */

/* NULL when it is not CSV: bare CR or LF, stray quotes, rows of other lengths, no CRLF at the end.
 */
struct csv *csv_parse(const char *p, size_t n);
void csv_free(struct csv **c);
size_t csv_rows(const struct csv *c); /* header not counted */
/* The field of that column; NULL when there is no such. */
const char *csv_get(const struct csv *c, size_t row, const char *column);
/* Lines as a reader sees them that knows no quotes. */
size_t csv_lines(const char *p, size_t n);
