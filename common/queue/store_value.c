#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/crc32c.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/queue/store_impl.h"

/* LMDB's codes in our words; what it said goes to the log, where it is decided. */
int
store_error(int rc, const char *what)
{
	if (rc == 0)
		return 0;
	if (rc == MDB_NOTFOUND)
		return -E_MISSING;
	log_error("store=%s lmdb=%d error=\"%s\"", what, rc, mdb_strerror(rc));
	switch (rc) {
	case MDB_MAP_FULL:
	case MDB_TXN_FULL:
	case MDB_DBS_FULL:
	case MDB_READERS_FULL:
	case ENOSPC:
		return -E_FULL;
	case MDB_CORRUPTED:
	case MDB_PAGE_NOTFOUND:
	case MDB_PANIC:
		return -E_CRC;
	case MDB_INVALID:
	case MDB_VERSION_MISMATCH:
	case MDB_INCOMPATIBLE:
		return -E_FORMAT;
	default:
		return -E_IO;
	}
}

/* Every value: u32 CRC32C of key and rest, then the rest. */
uint32_t
store_value_crc(MDB_val key, const void *rest, size_t n)
{
	return crc32c(crc32c(0, key.mv_data, key.mv_size), rest, n);
}

bool
store_value_check(MDB_val key, MDB_val value, struct slice *rest)
{
	uint32_t crc;

	/* A length that LMDB read from a damaged page is not to be followed. */
	if (key.mv_size > STORE_KEY_MAX || value.mv_size < 4 || value.mv_size > STORE_VALUE_MAX)
		return false;
	memcpy(&crc, value.mv_data, 4);
	*rest = slice_of((const char *)value.mv_data + 4, value.mv_size - 4);
	return le32toh(crc) == store_value_crc(key, rest->p, rest->n);
}

MDB_val
store_receptions_key(char dst[STORE_KEY_MAX], unsigned i)
{
	CHECK(i < STORE_RECEPTIONS_ROWS_MAX);
	if (i == 0)
		snprintf(dst, STORE_KEY_MAX, "%s", STORE_RECEPTIONS_KEY);
	else
		snprintf(dst, STORE_KEY_MAX, "%s.%u", STORE_RECEPTIONS_KEY, i);
	return (MDB_val){ strlen(dst), dst };
}

void
store_key_encode(unsigned char dst[STORE_KEY_BYTES], struct entry_key key)
{
	uint64_t m = htobe64(key.message);
	uint16_t o = htobe16(key.ordinal);

	memcpy(dst, &m, 8);
	memcpy(dst + 8, &o, 2);
}

bool
store_key_decode(MDB_val v, struct entry_key *out)
{
	uint64_t m;
	uint16_t o;

	if (v.mv_size != STORE_KEY_BYTES)
		return false;
	memcpy(&m, v.mv_data, 8);
	memcpy(&o, (const char *)v.mv_data + 8, 2);
	*out = (struct entry_key){ .message = be64toh(m), .ordinal = be16toh(o) };
	return true;
}

bool
store_number_decode(MDB_val v, uint32_t *out)
{
	if (v.mv_size != STORE_NUMBER_BYTES)
		return false;
	memcpy(out, v.mv_data, STORE_NUMBER_BYTES);
	*out = be32toh(*out);
	return true;
}

/* The row's layout. The loop over a million of them at start is why it is not done by wire.h.
 * Upgrade: a new field goes behind `flags` under a higher layout number; 0 is this one. */
// clang-format off
#define ROW_FIELDS(X) \
	X(32, queue) X(32, segment) X(64, epoch) X(32, offset) X(32, due_s) X(32, received_s) \
	X(32, job) X(32, sender_domain) X(16, attempts) X(16, n_rcpts) X(32, first_rcpt) X(32, kbytes)
// clang-format on

size_t
store_row_encode(unsigned char *dst, const struct store_row *row)
{
	unsigned char *p = dst;

#define X(bits, name)                                                                              \
	{                                                                                          \
		uint##bits##_t v = htole##bits(row->name);                                         \
		memcpy(p, &v, sizeof v);                                                           \
		p += sizeof v;                                                                     \
	}
	ROW_FIELDS(X)
#undef X
	*p++ = row->flags;
	*p++ = 0; /* layout */
	CHECK(p - dst == STORE_ROW_BYTES - 4);
	if (row->done.n > 0) {
		CHECK(row->done.n == (row->n_rcpts + 7u) / 8 && row->done.n <= STORE_DONE_MAX);
		memcpy(p, row->done.p, row->done.n);
		p += row->done.n;
	}
	return (size_t)(p - dst);
}

bool
store_row_decode(struct slice s, struct store_row *row)
{
	const char *p = s.p;

	if (s.n < STORE_ROW_BYTES - 4)
		return false;
#define X(bits, name)                                                                              \
	{                                                                                          \
		uint##bits##_t v;                                                                  \
		memcpy(&v, p, sizeof v);                                                           \
		row->name = le##bits##toh(v);                                                      \
		p += sizeof v;                                                                     \
	}
	ROW_FIELDS(X)
#undef X
	row->flags = (uint8_t)*p++;
	if (*p++ != 0)
		return false;
	row->done = slice_sub(s, STORE_ROW_BYTES - 4);
	return row->done.n == 0 || row->done.n == (row->n_rcpts + 7u) / 8;
}
