/* admission: may this spool be run? What belongs to another instance, is of another format, or does
 * not fit together is refused before anything is written. */
#pragma once

#include "common/queue/spool.h"
#include "common/queue/store.h"

/* 0, or -E_* with the file and the reason in the log. Reads only. */
int admission_check(const struct spool *spool, const struct store_meta *meta);
