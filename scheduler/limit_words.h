/* limit_words: a limit as operators read it: directive, value, what it belongs to, where it was
 * written. */
#pragma once

#include "scheduler/state.h"

struct limit_words {
	const char *scope; /* "queue", "queue-source-ip", "source-ip", "virtual-mta", "provider",
			    * "job", "sender", "mx", "destination", "all" */
	const char *directive;
	struct slice
		object; /* queue, address, name; empty for all. Borrowed until the next core call */
	const char *source; /* of a queue or MX host: the source IP; else NULL */
	char value[40];     /* what is in force: "500/h", "20" */
	const char *file;   /* NULL: default, or an operator's */
	unsigned line;
	const char *origin; /* "set by operator until ..."; NULL: the file's */
};

void limit_words(struct scheduler *s, const struct core_limit_view *v, struct limit_words *out);
/* The same without where it was written: quicker. */
void limit_words_short(struct scheduler *s, const struct core_limit_view *v,
		       struct limit_words *out);
/* A rate that was found out: "95.2/s", "12.5/m". */
void limit_words_rate(double a_second, char *out, size_t bytes);
/* "source-ip-max-msg-rate 500/h on 192.0.2.10". */
void limit_words_line(const struct limit_words *w, struct buf *out);
/* "FILE:LINE" or the origin; nothing for a default. */
void limit_words_place(const struct limit_words *w, struct buf *out);
/* A limit of the queue that the core names by its directive alone. */
void limit_words_of_queue(struct scheduler *s, struct slice queue, const char *directive,
			  struct buf *line, struct buf *place);
