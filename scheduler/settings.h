/* settings: the settings of queues, each different set kept once: a million queues share a few. */
#pragma once

#include <stdint.h>

#include "common/conf/conf.h"
#include "scheduler/overrides.h"

struct settings;

/* `overrides` are looked at beside the configuration; NULL: none. */
struct settings *settings_new(const struct conf *conf, struct overrides *overrides);
void settings_free(struct settings **s);
/* The overrides of this queue, or of any, changed: they are put together anew when they are asked for. What was
 * given out stays as it is. */
void settings_forget(struct settings *s, uint32_t queue);
void settings_forget_all(struct settings *s);

/* Of queue number `queue` named "domain/vmta". Borrowed; stays as long as the settings. */
const struct conf_queue *settings_get(struct settings *s, uint32_t queue, struct slice name);
