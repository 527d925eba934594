#include "tests/lib/csv.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"

struct csv {
	char **fields;
	size_t n, cap;
	size_t width; /* fields of the header */
};

/* One field from *at on, which goes to what ended it. NULL: not CSV. */
static char *
take_field(const char *p, size_t n, size_t *at)
{
	char *out = mem_alloc(n - *at + 1);
	size_t o = 0, i = *at;
	bool good = true;

	if (i < n && p[i] == '"') {
		for (i++; good; i++) {
			if (i >= n) {
				good = false;
			} else if (p[i] == '"') {
				if (i + 1 >= n || p[i + 1] != '"')
					break;
				out[o++] = p[i++];
			} else {
				out[o++] = p[i];
			}
		}
		i++;
	} else {
		for (; i < n && p[i] != ',' && p[i] != '\r' && p[i] != '\n'; i++) {
			good = good && p[i] != '"';
			out[o++] = p[i];
		}
	}
	/* Behind a field: a comma, or the end of the line. */
	good = good && ((i < n && p[i] == ',') || (i + 1 < n && p[i] == '\r' && p[i + 1] == '\n'));
	out[o] = '\0';
	*at = i;
	if (good)
		return out;
	mem_free(out);
	return NULL;
}

struct csv *
csv_parse(const char *p, size_t n)
{
	struct csv *c = mem_zalloc(sizeof *c);
	size_t width = 0;

	for (size_t at = 0; at < n;) {
		char *field = take_field(p, n, &at);

		if (field == NULL)
			goto bad;
		mem_grow((void **)&c->fields, &c->cap, c->n + 1, sizeof *c->fields);
		c->fields[c->n++] = field;
		width++;
		if (p[at] == ',') {
			at++;
			continue;
		}
		at += 2;
		if (c->width == 0)
			c->width = width;
		if (width != c->width)
			goto bad;
		width = 0;
	}
	if (width != 0 || c->width == 0)
		goto bad;
	return c;
bad:
	csv_free(&c);
	return NULL;
}

void
csv_free(struct csv **c)
{
	if (*c == NULL)
		return;
	for (size_t i = 0; i < (*c)->n; i++)
		mem_free((*c)->fields[i]);
	mem_free((*c)->fields);
	mem_free(*c);
	*c = NULL;
}

size_t
csv_rows(const struct csv *c)
{
	return c->n / c->width - 1;
}

const char *
csv_get(const struct csv *c, size_t row, const char *column)
{
	for (size_t i = 0; i < c->width; i++) {
		if (strcmp(c->fields[i], column) == 0 && row < csv_rows(c))
			return c->fields[(row + 1) * c->width + i];
	}
	return NULL;
}

size_t
csv_lines(const char *p, size_t n)
{
	size_t lines = 0;

	for (size_t i = 0; i < n; i++)
		lines += p[i] == '\n';
	return lines;
}
