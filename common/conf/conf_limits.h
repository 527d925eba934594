/* conf_limits: what may be used by source IPs, virtual MTAs, providers, jobs, senders, MX hosts and
 * destinations, and by a queue from each source IP. */
#pragma once

#include "common/conf/conf_impl.h"
#include "common/conf/conf_per.h"

/* The source-ip-... directives, and their twins in back-off. */
enum conf_source_measure {
	CONF_SOURCE_MSG,
	CONF_SOURCE_CONNECT,
	CONF_SOURCE_VOLUME,
	CONF_SOURCE_SMTP_OUT,
	CONF_SOURCE_MEASURES
};

/* Those of one domain block. */
struct conf_source_limits {
	const struct conf_per *of[2][CONF_SOURCE_MEASURES]; /* normal, back-off; NULL: not given */
};

/* After virtual MTAs, pools and source IPs. */
void conf_limits_build(struct conf *c);
/* The source-ip-... directives of a domain block. */
void conf_limits_domain(struct conf *c, struct conf_block *b);
/* The twins that nobody gave: put before the values of the blocks, and taken as the default behind
 * them. */
void conf_limits_twins_begin(struct conf_queue *q);
void conf_limits_twins_end(struct conf_queue *q);

/* Errors and warnings about limits; part of conf_check(). */
void conf_limits_check(struct conf_loader *x);
