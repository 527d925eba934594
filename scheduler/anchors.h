/* anchors: the addresses of the hosts that mx-rollup-list names for queues of rollup-by-ip. They are
 * asked for when a domain's answer is to be held against them; that domain waits for it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/conf/conf_rollup_ips.h"
#include "common/proc/route.h"

struct scheduler;
struct anchors;

struct anchor_view {
	struct conf_rollup_ips ips; /* none: the hosts do not exist */
	uint64_t until_boot_us;
};

/* True: known. False: not whole for now, until out->until_boot_us; or `later`: they are being asked
 * for, and `token` (as of routes_ask_for()) is asked for anew when they are known. `hosts` as in
 * smtp-hosts. */
bool anchors_get(struct scheduler *s, const char *hosts, uint32_t token, struct anchor_view *out,
		 bool *later);
/* The hosts that this number asks for; NULL: it was another list's. Borrowed. */
const char *anchors_hosts(const struct scheduler *s, uint32_t number);
/* The answer to a question of this number; NULL: it is no good. */
void anchors_route(struct scheduler *s, uint32_t number, unsigned status, const struct route *r,
		   uint64_t until_boot_us);
/* What was asked for is not coming: another resolver, other hosts. Who waits asks again. */
void anchors_forget(struct scheduler *s);
void anchors_free(struct anchors **a);
