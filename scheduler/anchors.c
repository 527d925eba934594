#include "scheduler/anchors.h"

#include "common/base/mem.h"
#include "scheduler/state.h"

struct anchor {
	char *hosts;
	bool asked, is_whole;
	struct anchor_view view; /* until_boot_us 0: never answered */
	uint32_t *waiting;       /* tokens */
	size_t n_waiting, cap_waiting;
};

/* However short-lived, an answer serves for a moment: else it would be asked for without end. */
#define LEAST_US 1000000u

/* No question is longer, with a sign before it and a port behind. */
#define ANCHOR_HOSTS_MAX (ASK_BYTES_MAX - 8)

/* Few: the list's queues of rollup-by-ip. A number is an anchor's until the next reload. */
struct anchors {
	struct anchor *of;
	size_t n, cap;
};

static struct anchor *
anchor_of(struct scheduler *s, const char *hosts, uint32_t *number)
{
	struct anchors *a;
	void *p;

	if (s->anchors == NULL)
		s->anchors = mem_zalloc(sizeof *s->anchors);
	a = s->anchors;
	for (*number = 0; *number < a->n; ++*number) {
		if (strcmp(a->of[*number].hosts, hosts) == 0)
			return &a->of[*number];
	}
	p = a->of;
	mem_grow(&p, &a->cap, a->n + 1, sizeof *a->of);
	a->of = p;
	a->of[a->n] = (struct anchor){ .hosts = mem_strdup(hosts) };
	return &a->of[a->n++];
}

static void
wait_for(struct anchor *a, uint32_t token)
{
	void *p = a->waiting;

	mem_grow(&p, &a->cap_waiting, a->n_waiting + 1, sizeof *a->waiting);
	a->waiting = p;
	a->waiting[a->n_waiting++] = token;
}

bool
anchors_get(struct scheduler *s, const char *hosts, uint32_t token, struct anchor_view *out,
	    bool *later)
{
	uint32_t number;
	struct anchor *a;

	*later = false;
	*out = (struct anchor_view){ .until_boot_us = UINT64_MAX };
	if (strlen(hosts) > ANCHOR_HOSTS_MAX)
		return false;
	a = anchor_of(s, hosts, &number);
	*later = a->view.until_boot_us <= loop_boot_us(s->loop);
	if (!*later) {
		*out = a->view;
		return a->is_whole;
	}
	wait_for(a, token);
	if (!a->asked) {
		a->asked = true;
		routes_ask_for(s, ROUTES_ANCHOR | number);
	}
	return false;
}

const char *
anchors_hosts(const struct scheduler *s, uint32_t number)
{
	return s->anchors != NULL && number < s->anchors->n ? s->anchors->of[number].hosts : NULL;
}

static void
ask_anew(struct scheduler *s, struct anchor *a)
{
	uint32_t *waiting = a->waiting;
	size_t n = a->n_waiting;

	a->asked = false;
	a->waiting = NULL;
	a->n_waiting = a->cap_waiting = 0;
	for (size_t i = 0; i < n; i++)
		routes_ask_for(s, waiting[i]);
	mem_free(waiting);
}

void
anchors_route(struct scheduler *s, uint32_t number, unsigned status, const struct route *r,
	      uint64_t until_boot_us)
{
	struct anchor *a;
	bool fits = true;

	if (anchors_hosts(s, number) == NULL)
		return;
	a = &s->anchors->of[number];
	a->view = (struct anchor_view){ .until_boot_us = loop_boot_us(s->loop) + LEAST_US };
	if (a->view.until_boot_us < until_boot_us)
		a->view.until_boot_us = until_boot_us;
	for (uint16_t i = 0; r != NULL && i < r->n_best; i++)
		fits &= conf_rollup_ips_add(&a->view.ips, &r->targets[i].addr);
	/* Hosts that do not exist are known as well: nobody reaches them. */
	a->is_whole = r != NULL ? r->n_best > 0 && fits : status == ROUTE_UNUSABLE;
	ask_anew(s, a);
}

void
anchors_forget(struct scheduler *s)
{
	struct anchors *a = s->anchors;

	s->anchors = NULL;
	for (size_t i = 0; a != NULL && i < a->n; i++)
		ask_anew(s, &a->of[i]);
	anchors_free(&a);
}

void
anchors_free(struct anchors **ap)
{
	struct anchors *a = *ap;

	*ap = NULL;
	for (size_t i = 0; a != NULL && i < a->n; i++) {
		mem_free(a->of[i].hosts);
		mem_free(a->of[i].waiting);
	}
	if (a != NULL)
		mem_free(a->of);
	mem_free(a);
}
