/* texts: one copy of each text that many queues keep, such as the reply that all of them got. */
#pragma once

#include "scheduler/core/map.h"

#include "common/base/str.h"

/* Embedded; zero-initialised is empty. */
struct texts {
	struct map by_hash; /* -> struct text * */
};

/* A copy of `s`, perhaps shared, NUL-terminated; texts_drop() it. */
const char *texts_take(struct texts *t, struct slice s);
void texts_drop(struct texts *t, const char *s); /* NULL is fine */
void texts_clear(struct texts *t);
