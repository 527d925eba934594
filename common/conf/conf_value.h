/* conf_value: the written forms of quantities (rates, volumes, intervals, sizes), read and printed.
 * Pure; also for `sluice set limit NAME=VALUE`. */
#pragma once

#include "common/conf/conf.h"

#define CONF_RATE_MAX    UINT32_MAX                          /* N of a rate */
#define CONF_VOLUME_MAX  (1ull << 50)                        /* N of a volume rate, bytes */
#define CONF_SIZE_MAX    (1ull << 50)                        /* of a size, bytes */
#define CONF_WINDOW_US   (30ull * 86400 * 1000 * 1000)       /* longest window of a rate */
#define CONF_INTERVAL_US (10ull * 365 * 86400 * 1000 * 1000) /* longest interval */

/* All return false, with *out untouched, when `s` is not of the form. */

/* "unlimited", "0" (both n = 0), "N/[M]unit"; unit s sec m min h hr d day. */
bool conf_value_rate(struct slice s, struct conf_rate *out);
/* As a rate, with N[b|k|m|g|t] bytes. */
bool conf_value_volume(struct slice s, struct conf_rate *out);
/* "1w2d12h", "90s", "0"; units w d h m s, each at most once, the larger first. */
bool conf_value_interval(struct slice s, uint64_t *us);
/* "10m,30m,1h": 1 to RETRY_STEPS_MAX intervals above zero, blanks around commas allowed. */
bool conf_value_intervals(struct slice s, struct conf_intervals *out);
/* "250M", "1024": bytes. */
bool conf_value_size(struct slice s, uint64_t *bytes);

/* The shortest form that reads back to the same value. */
void conf_value_put_rate(struct buf *b, const struct conf_rate *r);
void conf_value_put_volume(struct buf *b, const struct conf_rate *r);
void conf_value_put_interval(struct buf *b, uint64_t us); /* CONF_NEVER: "never" */
void conf_value_put_intervals(struct buf *b, const struct conf_intervals *v);
void conf_value_put_size(struct buf *b, uint64_t bytes); /* CONF_UNLIMITED: "unlimited" */
