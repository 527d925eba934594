/* segment_file: what segment.c and segment_cache.c share of a segment file: its name and header. */
#pragma once

#include <stdint.h>

#include "common/queue/segment.h"

#define SEGMENT_NAME_BYTES 24

void segment_name(char name[SEGMENT_NAME_BYTES], uint32_t number);
/* Opens and checks header and size. The descriptor or -E_*. */
int segment_file_open(int dir, uint32_t number, int flags, const unsigned char instance[16],
		      struct segment_info *info);
/* Checks the first bytes of a file. 0, -E_CRC, -E_FORMAT, -E_FOREIGN. */
int segment_header_decode(struct slice s, uint32_t number, const unsigned char instance[16],
			  struct segment_info *out);
