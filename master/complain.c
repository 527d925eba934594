#include "master/complain.h"

#include <stdarg.h>
#include <stdio.h>

#include "common/base/log.h"
#include "common/base/str.h"

void
complain(const char *fmt, ...)
{
	char text[1024], escaped[2048];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	fprintf(stderr, "sluiced: %s\n", text);
	if (log_descriptor() != 2)
		log_error("not started reason=\"%s\"",
			  str_escape(escaped, sizeof escaped, slice_str(text)));
}

void
remark(const char *fmt, ...)
{
	char text[1024], escaped[2048];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (log_descriptor() != 2)
		fprintf(stderr, "sluiced: warning: %s\n", text);
	log_warn("remark=\"%s\"", str_escape(escaped, sizeof escaped, slice_str(text)));
}
