/* ids: the numbers by which mail is known to every process. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* A message, unique for the life of a spool; leased to receivers in blocks; 0 is none. */
typedef uint64_t msg_id_t;

/* One entry: a message's recipients in one queue. `ordinal` counts the entries of the message. */
struct entry_key {
	msg_id_t message;
	uint16_t ordinal;
};

/* Text form: 16 hex digits, for an entry `.ordinal` in decimal behind it. */
#define ID_TEXT_BYTES 24
const char *id_message_text(char dst[ID_TEXT_BYTES], msg_id_t id);
const char *id_entry_text(char dst[ID_TEXT_BYTES], struct entry_key key);
/* Reads either form; ordinal 0 when it is not named. False when it is neither. */
bool id_parse(const char *text, struct entry_key *out);
