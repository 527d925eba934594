/* operator: the frames between `sluice` (or the monitor) and the scheduler, on a SEQPACKET socket.
 *
 * A frame: u32 magic, u16 version, u16 kind, u32 bytes, payload; at most OPERATOR_FRAME_MAX in all. A
 * request's payload is u16 count and that many length-prefixed words: command and arguments, e.g.
 * {"show","queues","*"+"/x","--mode=normal"}. The answer is any number of DATA frames whose payloads make
 * one JSON text `{"data":{...},"status":"success"|"error","message":"..."}`, then END {u32 exit code}. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/un.h>

#include "common/base/buf.h"
#include "common/base/limits.h"
#include "common/base/str.h"

#define OPERATOR_MAGIC       0x314f4c53u /* "SLO1" */
#define OPERATOR_VERSION     1
#define OPERATOR_WORDS_MAX   64
#define OPERATOR_SOCKET_NAME "control.sock" /* in the run directory, 0660 */

enum operator_kind { OPERATOR_REQUEST = 1, OPERATOR_DATA, OPERATOR_END };

struct operator_frame {
	enum operator_kind kind;
	struct slice payload;
};
void operator_encode(struct buf *out, enum operator_kind kind, struct slice payload);
/* A whole frame as received. 0 or -E_BAD, -E_FORMAT (other version). */
int operator_decode(struct operator_frame *out, struct slice frame);

void operator_words_encode(struct buf *out, const struct slice *words, size_t n);
/* At most OPERATOR_WORDS_MAX into words[]; the number of them or -E_BAD. */
int operator_words_decode(struct slice payload, struct slice *words);

/* The address of a socket's path of any length. *dir_fd is -1 or must stay open until the address was used
 * and is then the caller's to close. 0 or -E_*. */
int operator_address(struct sockaddr_un *out, const char *path, int *dir_fd);

/* Client side: connects, sends, collects the JSON of the answer (blocking, with a timeout for each
 * frame). The exit code of END, or -E_MISSING / -E_REFUSED (no daemon), -E_TIMEOUT, -E_BAD. */
int operator_call(const char *socket_path, const struct slice *words, size_t n, unsigned timeout_ms,
		  struct buf *json);
