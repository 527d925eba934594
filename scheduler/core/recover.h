/* recover: how the rate returns after back-off (directive `recover`). Pure: no core, no clock.
 *
 *   steps      "10%,25%,50% every 10m": percentages of the normal limit, each for the pace, from
 *              the end of back-off on.
 *   automatic  a controller: a little below what was delivered before, up as long as no reply
 *              matches, down at a match. How much of what it sends is refused tells it how far.
 *
 * Rates are in thousandths of a recipient a second (mps); 0: none. */
#pragma once

#include "common/conf/conf.h"

/* Of the controller. */
#define RECOVER_START_PERCENT   90
#define RECOVER_ROUGH_US        20000000ull /* what was delivered in less says too little */
#define RECOVER_DOWN_PERMILLE   950       /* of what is taken to be allowed */
#define RECOVER_HOLD_US         300000ull /* so long answers come to what was sent before a step down */
#define RECOVER_JUDGE           8         /* the next one is after so many answers, ... */
#define RECOVER_JUDGE_LEAST     3         /* of the slow as many as they send in the time above, at least this */
#define RECOVER_JUDGE_US        1000000ull /* ... or so long */
#define RECOVER_NEWS_PERCENT    105       /* of what was allowed: more is */
#define RECOVER_BLOCK_PERCENT   50 /* where nothing is delivered, down to so much, ... */
#define RECOVER_PROBE_PERCENT   70 /* ... or so much when hardly anything was sent any more */
#define RECOVER_EVERY_US        1000000ull /* steps up; those of the slow are rarer */
#define RECOVER_RETURN_RCPTS    50 /* the way back takes as long as so many recipients, at least ... */
#define RECOVER_RETURN_US       5000000ull
#define RECOVER_RETURN_MAX_US   60000000ull /* ... and at most this */
#define RECOVER_SEARCH_PERMILLE 100         /* up each second where nothing was refused before */
#define RECOVER_IDLE_PERCENT    200 /* of what is taken to be allowed: without mail, and a normal limit to come to, no further */
#define RECOVER_ROUGH_PERMILLE  250         /* the same while nothing is known at all */
#define RECOVER_LEAST_MPS       17          /* one a minute */
#define RECOVER_UNKNOWN_MPS     1000 /* where nothing was delivered before, and there is no limit */

/*      refused: a little below what is delivered of it
 *   way back up --------------------------------------> (again the way back up)
 *        |  \                                   ^
 *        |   `-- refused, nothing delivered --> block: less and less, until something is
 *        v       delivered; then back to the mean of the time with the block in it
 *   search: up steadily, from a little above where it was refused, until it is refused */
struct recover_auto {
	uint64_t rate_mps;
	uint64_t ceiling_mps; /* what is taken to be allowed */
	uint64_t sure_mps;    /* held until the last step up */
	uint64_t low_mps;     /* where the last step down led */
	uint64_t next_us;     /* of the next step up */
	uint64_t step_us;     /* of the last one */
	uint64_t down_us;     /* of the last step down */
	uint64_t clean_us;    /* without a match since then, as far as there was mail to see it */
	uint64_t delivered, matched; /* since the last step down; recipients, replies */
	uint64_t went;               /* recipients delivered since the last step up */
	uint64_t might;              /* thousandths: recipients that might have gone since then */
	bool waits;                  /* for what was under way when it began */
	bool rough;                  /* it has begun without knowing what was delivered before */
	bool blocked;                /* nothing at all is delivered any more */
	/* Since the last block ended, it included: thousandths of what was delivered; and the
	 * ceiling before the block of now. */
	uint64_t since_us, sum, before_mps;
};

/* `before_mps` was delivered for `before_us`. `normal_mps` 0: no limit. `rate_mps`: where it was before a restart, 0: it
 * begins. */
void recover_auto_begin(struct recover_auto *r, uint64_t before_mps, uint64_t before_us, uint64_t normal_mps,
			uint64_t rate_mps, uint64_t now_us);
/* A reply matched. True: the rate is another one. */
bool recover_auto_match(struct recover_auto *r, uint64_t now_us);
/* So many recipients were delivered. */
void recover_auto_delivered(struct recover_auto *r, uint64_t n, uint64_t now_us);
/* Makes the step that is due. True: it has come to the normal limit. */
bool recover_auto_step(struct recover_auto *r, uint64_t normal_mps, uint64_t now_us);

/* So long after the end of back-off: the percentage, and how long it still holds; 100: over. */
unsigned recover_percent(const struct conf_recover *how, uint64_t since_us, uint64_t *left_us);

uint64_t recover_mps_of(const struct conf_rate *r);
/* A limit that allows this rate: as a whole number in about a second, or one in longer. */
struct conf_rate recover_rate_of(uint64_t mps);
