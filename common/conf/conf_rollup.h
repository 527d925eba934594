/* conf_rollup: queues made of several domains: by queue-to, by hand, and by their MX hosts. */
#pragma once

#include "common/conf/conf_impl.h"

/* One queue of mx-rollup-list, with all MX hosts that are named for it. */
struct conf_rollup_queue {
	struct conf_rollup_queue *next;
	const char *domain; /* lower case */
	const char **mx;    /* patterns */
	size_t n_mx;
	const char *hosts; /* as smtp-hosts; NULL: there are patterns among them */
	bool by_ip;
};

/* The words of one entry: "MX QUEUE [rollup-by-ip]"; false when it is not of that form. */
bool conf_rollup_words(struct slice s, struct slice *mx, struct slice *queue, bool *by_ip);

void conf_rollup_build(struct conf *c);
/* Queues that can take no mail: nobody says where it would go. */
void conf_rollup_warn(struct conf *c, struct conf_loader *x);
/* The directives of a domain block. */
void conf_rollup_domain(struct conf *c, const struct conf_block *b);
