/* crc32c: the Castagnoli checksum (RFC 3720, appendix B.4), by the CPU's instruction where it has one. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Continues `crc` (0 to begin) over `n` bytes. */
uint32_t crc32c(uint32_t crc, const void *p, size_t n);
