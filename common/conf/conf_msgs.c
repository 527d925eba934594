#include "common/conf/conf_msgs.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/base/check.h"
#include "common/base/mem.h"

#define TEXT_MAX 600

struct conf_msg {
	unsigned file, line, seq;
	bool is_warning;
	char *text;
};

/* Text for one line: what would break it or move the terminal's cursor becomes \xNN. */
static char *
one_line(const char *text)
{
	struct buf b = { 0 };
	char *copy;

	for (const char *p = text; *p != '\0'; p++) {
		unsigned char c = (unsigned char)*p;

		if (c < 0x20 || c == 0x7f)
			buf_printf(&b, "\\x%02x", c);
		else
			buf_putc(&b, (char)c);
	}
	copy = mem_memdup0(buf_slice(&b).p, b.len);
	buf_clear(&b);
	return copy;
}

__attribute__((format(printf, 5, 0))) static void
add(struct conf_msgs *m, unsigned file, unsigned line, bool is_warning, const char *fmt, va_list ap)
{
	char text[TEXT_MAX];
	void *v = m->v;
	unsigned *count = is_warning ? &m->n_warnings : &m->n_errors;

	if (*count >= CONF_ERRORS_MAX) {
		(*count)++;
		return;
	}
	(*count)++;
	vsnprintf(text, sizeof text, fmt, ap);
	mem_grow(&v, &m->cap, m->n + 1, sizeof *m->v);
	m->v = v;
	m->v[m->n] = (struct conf_msg){ .file = file,
					.line = line > 0 ? line : 1,
					.seq = (unsigned)m->n,
					.is_warning = is_warning,
					.text = one_line(text) };
	m->n++;
}

void
conf_msgs_error(struct conf_msgs *m, unsigned file, unsigned line, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	add(m, file, line, false, fmt, ap);
	va_end(ap);
}

void
conf_msgs_warn(struct conf_msgs *m, unsigned file, unsigned line, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	add(m, file, line, true, fmt, ap);
	va_end(ap);
}

static int
msg_order(const void *pa, const void *pb)
{
	const struct conf_msg *a = pa, *b = pb;

	if (a->file != b->file)
		return a->file < b->file ? -1 : 1;
	if (a->line != b->line)
		return a->line < b->line ? -1 : 1;
	return a->seq < b->seq ? -1 : a->seq > b->seq;
}

void
conf_msgs_first(struct conf_msgs *m, struct buf *out)
{
	bool told = false;

	for (size_t i = 0; i < m->n; i++) {
		if (!told && !m->v[i].is_warning) {
			buf_puts(out, m->v[i].text);
			told = true;
		}
		mem_free(m->v[i].text);
	}
	mem_free(m->v);
	memset(m, 0, sizeof *m);
}

void
conf_msgs_flush(struct conf_msgs *m, const char *const *names, struct conf_report *r)
{
	if (m->n > 0)
		qsort(m->v, m->n, sizeof *m->v, msg_order);
	for (size_t i = 0; i < m->n; i++) {
		struct conf_msg *g = &m->v[i];

		buf_printf(&r->text, "%s:%u: %s%s\n", names[g->file], g->line,
			   g->is_warning ? "warning: " : "", g->text);
		mem_free(g->text);
	}
	if (m->n_errors + m->n_warnings > m->n)
		buf_printf(&r->text, "%s:1: %u more errors and warnings are not shown\n", names[0],
			   m->n_errors + m->n_warnings - (unsigned)m->n);
	r->n_errors += m->n_errors;
	r->n_warnings += m->n_warnings;
	mem_free(m->v);
	memset(m, 0, sizeof *m);
}

void
conf_report_clear(struct conf_report *r)
{
	buf_clear(&r->text);
	r->n_errors = r->n_warnings = 0;
}
