#include "scheduler/core/recover.h"

/* After a long pause the steps that were missed are not all made up for. */
#define CATCH_UP_US (10 * RECOVER_EVERY_US)

static uint64_t
at_least(uint64_t mps)
{
	return mps > RECOVER_LEAST_MPS ? mps : RECOVER_LEAST_MPS;
}

/* How long the way back takes. */
static uint64_t
return_us(const struct recover_auto *r)
{
	uint64_t us = RECOVER_RETURN_RCPTS * 1000000000ull / at_least(r->ceiling_mps);

	if (us < RECOVER_RETURN_US)
		return RECOVER_RETURN_US;
	return us < RECOVER_RETURN_MAX_US ? us : RECOVER_RETURN_MAX_US;
}

/* Steps of the slow are rarer: there may be a hundred thousand of them. */
static uint64_t
every_us(const struct recover_auto *r)
{
	uint64_t us = return_us(r) / 20;

	return r->rough || us < RECOVER_EVERY_US ? RECOVER_EVERY_US : us;
}

static void
down(struct recover_auto *r, uint64_t ceiling_mps, uint64_t low_mps, uint64_t now_us)
{
	r->ceiling_mps = at_least(ceiling_mps);
	r->rate_mps = r->low_mps = r->sure_mps = at_least(low_mps);
	r->down_us = r->step_us = now_us;
	r->next_us = now_us + every_us(r);
	r->clean_us = r->delivered = r->matched = r->might = r->went = 0;
}

void
recover_auto_begin(struct recover_auto *r, uint64_t before_mps, uint64_t before_us,
		   uint64_t normal_mps, uint64_t rate_mps, uint64_t now_us)
{
	bool rough = before_us < RECOVER_ROUGH_US;
	uint64_t rate = rate_mps;

	if (!rate)
		rate = before_mps * RECOVER_START_PERCENT / 100;
	if (!rate && normal_mps)
		rate = normal_mps / 10;
	else if (!rate)
		rate = RECOVER_UNKNOWN_MPS;
	if (normal_mps && rate > normal_mps)
		rate = normal_mps;
	*r = (struct recover_auto){ .since_us = now_us, .before_mps = before_mps };
	r->rough = r->waits = !rate_mps && (rough || !before_mps);
	if (rough && before_us <= now_us) {
		r->since_us = now_us - before_us;
		r->sum = before_mps * before_us / 1000000;
	}
	down(r, rate_mps ? rate : before_mps ? before_mps : rate, rate, now_us);
	/* As good as nothing is known: what is under way is waited for. */
	if (r->waits)
		r->rate_mps = RECOVER_LEAST_MPS;
}

/* What is delivered on average, the time when nothing was included: a peer that counts in long
 * windows takes all at once what it allows, and then nothing. */
static void
block_ends(struct recover_auto *r, uint64_t now_us)
{
	uint64_t us = now_us - r->since_us, mean, rate = r->rate_mps;

	us = us > RECOVER_JUDGE_US ? us : RECOVER_JUDGE_US;
	mean = r->sum * 1000000 / us;
	if (mean > r->before_mps)
		mean = r->before_mps;
	if (mean < r->before_mps / 10)
		mean = r->before_mps / 10;
	down(r, mean > rate ? mean : rate, rate, now_us);
	r->blocked = false;
	r->since_us = now_us;
	r->sum = 0;
}

void
recover_auto_delivered(struct recover_auto *r, uint64_t n, uint64_t now_us)
{
	r->sum += n * 1000;
	r->went += n;
	if (r->blocked)
		block_ends(r, now_us);
	if (r->waits || now_us >= r->down_us + RECOVER_HOLD_US)
		r->delivered += n;
}

/* Beyond the ceiling the rate that is refused has only held since the last step up: the one before
 * is sure. */
static uint64_t
base(const struct recover_auto *r)
{
	uint64_t sure = r->sure_mps > r->ceiling_mps ? r->sure_mps : r->ceiling_mps;

	return sure < r->rate_mps ? sure : r->rate_mps;
}

/* Where that is news, because more is allowed than it was, the ceiling is taken to be as far above
 * it as the last second was, on average. */
static uint64_t
beyond(const struct recover_auto *r, uint64_t now_us)
{
	uint64_t us = now_us - r->step_us;

	if (r->sure_mps <= r->ceiling_mps * RECOVER_NEWS_PERCENT / 100)
		return 0;
	us = us < RECOVER_EVERY_US ? us : RECOVER_EVERY_US;
	return (r->rate_mps - r->sure_mps) * us / RECOVER_EVERY_US;
}

/* So many answers say enough: of the slow fewer. */
static uint64_t
judge(const struct recover_auto *r)
{
	uint64_t n = r->rate_mps * RECOVER_HOLD_US / 1000000000;

	if (n < RECOVER_JUDGE_LEAST)
		return RECOVER_JUDGE_LEAST;
	return n < RECOVER_JUDGE ? n : RECOVER_JUDGE;
}

bool
recover_auto_match(struct recover_auto *r, uint64_t now_us)
{
	uint64_t low, answers, allowed, ceiling = r->ceiling_mps;
	bool few;

	if (r->waits || now_us < r->down_us + RECOVER_HOLD_US)
		return false;
	answers = r->delivered + ++r->matched;
	few = answers < RECOVER_JUDGE;
	if (answers < judge(r) && now_us < r->down_us + RECOVER_HOLD_US + RECOVER_JUDGE_US)
		return false;
	r->rough = false;
	if (r->delivered == 0) {
		if (!r->blocked)
			r->before_mps = ceiling;
		r->blocked = true;
		allowed = r->rate_mps * (few ? RECOVER_PROBE_PERCENT : RECOVER_BLOCK_PERCENT) / 100;
		down(r, allowed, allowed, now_us);
		return true;
	}
	/* Few answers say little: half as many good ones are taken to be behind them. */
	allowed = base(r) * (r->delivered + RECOVER_JUDGE / 2) / (answers + RECOVER_JUDGE / 2);
	low = allowed * RECOVER_DOWN_PERMILLE / 1000;
	down(r, allowed + beyond(r, now_us), low, now_us);
	return true;
}

/* ceiling - (ceiling - low) * (1 - t)^3: fast from far below, slow near it, and faster beyond. */
static uint64_t
on_the_way(const struct recover_auto *r, uint64_t return_us)
{
	int64_t left = 1000 - (int64_t)(r->clean_us * 1000 / return_us);
	int64_t gap = (int64_t)(r->ceiling_mps - r->low_mps);

	return (uint64_t)((int64_t)r->ceiling_mps - gap * left / 1000 * left / 1000 * left / 1000);
}

/* What was under way when it began has been answered by now: with what was delivered before it is
 * what the provider took in about a second. */
static void
first_second(struct recover_auto *r, uint64_t now_us)
{
	uint64_t known = r->before_mps + r->delivered * 1000;

	r->waits = false;
	r->rough = known < RECOVER_JUDGE * 1000 / 2; /* hardly anything */
	if (r->rough)
		down(r, r->ceiling_mps, r->low_mps, now_us);
	else
		down(r, known, known * RECOVER_START_PERCENT / 100, now_us);
}

bool
recover_auto_step(struct recover_auto *r, uint64_t normal_mps, uint64_t now_us)
{
	uint64_t us = now_us - r->step_us, back = return_us(r), rate, permille, most = UINT64_MAX;

	if (now_us < r->next_us)
		return false;
	if (r->waits) {
		first_second(r, now_us);
		return false;
	}
	us = us < CATCH_UP_US ? us : CATCH_UP_US;
	r->might += r->rate_mps * us / 1000000;
	/* Without mail nothing is refused either: that says little. */
	r->clean_us += r->delivered * 2000 + 2000 >= r->might ? us : us / 4;
	rate = r->rate_mps;
	permille = r->rough ? RECOVER_ROUGH_PERMILLE : RECOVER_SEARCH_PERMILLE;
	if (!r->rough && r->clean_us <= 2 * back)
		rate = on_the_way(r, back);
	else
		rate += rate * permille / 1000 * us / 1000000;
	if (!normal_mps && r->went * 2000 + 2000 < r->rate_mps * us / 1000000)
		most = r->ceiling_mps * RECOVER_IDLE_PERCENT / 100;
	r->went = 0;
	r->sure_mps = r->rate_mps;
	rate = rate > r->rate_mps ? rate : r->rate_mps + 1;
	if (r->rate_mps < most)
		r->rate_mps = rate < most ? rate : most;
	r->step_us = now_us;
	r->next_us = now_us + every_us(r);
	if (!normal_mps || r->rate_mps < normal_mps)
		return false;
	r->rate_mps = normal_mps;
	return true;
}

unsigned
recover_percent(const struct conf_recover *how, uint64_t since_us, uint64_t *left_us)
{
	uint64_t step = how->every_us ? since_us / how->every_us : how->n;

	*left_us = 0;
	if (step >= how->n || how->percent[step] >= 100)
		return 100;
	*left_us = how->every_us - since_us % how->every_us;
	return how->percent[step];
}

uint64_t
recover_mps_of(const struct conf_rate *r)
{
	return r->window_us ? (uint64_t)((unsigned __int128)r->n * 1000000000u / r->window_us) : 0;
}

struct conf_rate
recover_rate_of(uint64_t mps)
{
	uint64_t n = (mps + 999) / 1000;

	if (mps == 0)
		return (struct conf_rate){ 0 };
	return (struct conf_rate){ .n = n, .window_us = n * 1000000000u / mps };
}
