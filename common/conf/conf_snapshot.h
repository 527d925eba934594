/* conf_snapshot: all files of a configuration in one run of bytes.
 *
 * Layout (little-endian, common/base/wire.h): u32 magic, then records until the end:
 *   u8 1 (file):  bytes name, bytes content
 *   u8 2 (fault): bytes name of the file that includes, u32 line, bytes message
 *   u8 3 (rules): bytes nothing, bytes what was compiled of the rules
 * The first record is the main file. A fault (an include that is missing) is reported by
 * conf_parse(), so that all errors of all files come in one run and in order. */
#pragma once

#include "common/conf/conf.h"

#define CONF_SNAPSHOT_MAGIC 0x31434c53u /* "SLC1"; another layout takes another number */

enum conf_snapshot_kind { CONF_SNAPSHOT_FILE = 1, CONF_SNAPSHOT_FAULT = 2, CONF_SNAPSHOT_RULES = 3 };

/* Calls back for each record in order; false when the bytes are no snapshot. `line` is 0 for files.
 */
bool conf_snapshot_each(struct slice snapshot,
			void (*fn)(void *arg, enum conf_snapshot_kind kind, struct slice name,
				   unsigned line, struct slice text),
			void *arg);
