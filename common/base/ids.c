#include "common/base/ids.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/base/str.h"

const char *
id_message_text(char dst[ID_TEXT_BYTES], msg_id_t id)
{
	snprintf(dst, ID_TEXT_BYTES, "%016" PRIx64, id);
	return dst;
}

const char *
id_entry_text(char dst[ID_TEXT_BYTES], struct entry_key key)
{
	snprintf(dst, ID_TEXT_BYTES, "%016" PRIx64 ".%u", key.message, (unsigned)key.ordinal);
	return dst;
}

bool
id_parse(const char *text, struct entry_key *out)
{
	uint64_t ordinal = 0;
	msg_id_t id = 0;
	size_t i;

	for (i = 0; i < 16; i++) {
		char c = text[i];

		if (c >= '0' && c <= '9')
			id = id << 4 | (unsigned)(c - '0');
		else if (c >= 'a' && c <= 'f')
			id = id << 4 | (unsigned)(c - 'a' + 10);
		else
			return false;
	}
	if (text[16] != '\0') {
		if (text[16] != '.' || !slice_u64(slice_str(text + 17), UINT16_MAX, &ordinal))
			return false;
	}
	out->message = id;
	out->ordinal = (uint16_t)ordinal;
	return true;
}
