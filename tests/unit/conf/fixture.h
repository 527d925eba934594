/* fixture: a configuration from a text, for every test that needs no file on disk. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/conf/conf.h"

#define N_OF(a) (sizeof(a) / sizeof *(a))

/* Fails the test with the report when there is an error in it. The caller's, for conf_free(). */
static inline struct conf *
parsed(const char *text)
{
	struct conf_report r = { 0 };
	struct buf snapshot = { 0 };
	struct conf *c = NULL;

	conf_snapshot_text(&snapshot, "f", slice_str(text));
	if (conf_parse(buf_slice(&snapshot), &c, &r) != 0)
		fail_msg("%.*s", (int)r.text.len, buf_slice(&r.text).p);
	/* Nothing may be borrowed from the snapshot. */
	memset(snapshot.data, 'x', snapshot.len);
	buf_clear(&snapshot);
	conf_report_clear(&r);
	return c;
}

/* What holds for the queue of that name, DOMAIN/VMTA. */
static inline struct conf_queue
queue_of(const struct conf *c, const char *name)
{
	struct slice vmta = slice_str(name), domain = slice_cut(&vmta, '/');
	struct conf_queue q;

	conf_queue(c, domain, vmta, &q);
	return q;
}
