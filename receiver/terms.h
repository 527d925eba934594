/* terms: the configuration that sessions work by. A session changes its terms between two messages,
 * never within one; the last session that goes takes the old ones along. */
#pragma once

#include "receiver/parcel.h"

struct terms {
	unsigned owners;
	struct conf *conf; /* held */
	struct parcel_maker maker;
};

/* `slot`: of the receiver. */
struct terms *terms_new(const struct conf *conf, unsigned slot);
struct terms *terms_hold(struct terms *t);
void terms_put(struct terms **t);
