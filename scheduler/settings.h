/* settings: the settings of queues, each different set kept once: a million queues share a few. */
#pragma once

#include <stdint.h>

#include "common/conf/conf.h"

struct settings;

struct settings *settings_new(const struct conf *conf);
void settings_free(struct settings **s);

/* Of queue number `queue` named "domain/vmta". Borrowed; stays as long as the settings. */
const struct conf_queue *settings_get(struct settings *s, uint32_t queue, struct slice name);
