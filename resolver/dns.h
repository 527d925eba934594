/* dns: questions to libunbound on our loop; at most DNS_INFLIGHT_MAX at once, the others wait in
 * line, but for those that a lookup cannot do without. */
#pragma once

#include <stdbool.h>

#include "common/event/loop.h"
#include "resolver/dns_answer.h"

struct dns;       /* opaque */
struct dns_query; /* one question under way */

/* `name_server`: "IP", "IP@PORT" or NULL for /etc/resolv.conf. Created in the process that uses it:
 * libunbound does not survive a fork. 0 or -E_BAD (the options do not work: tried with a name that
 * needs no net). */
int dns_open(struct dns **out, struct loop *l, const char *name_server);
void dns_close(struct dns **d);

/* Asks. `urgent`: it waits for no others, of which very many may be about servers that say nothing; whoever
 * asks so has few of them. `done` runs in dns_run(), never inside this call, exactly once unless dns_forget() came
 * first; the query is gone after it. */
struct dns_query *dns_ask(struct dns *d, const char *name, enum dns_type type, bool urgent,
			  void (*done)(void *arg, const struct dns_answer *a), void *arg);
/* Its answer is of no interest any more. */
void dns_forget(struct dns_query *q);

/* Hands out the answers that came and sends the questions there is room for; at the end of each
 * turn. */
void dns_run(struct dns *d);
