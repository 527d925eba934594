/* providers: which one a queue belongs to, by name: an event tells whose limits were charged. */
#include <string.h>

#include "common/base/mem.h"
#include "scheduler/state.h"

/* A name that some queue has already, or a new copy: there are few, and they are set when a route comes. */
static const char *
kept(const struct scheduler *s, uint32_t queue, struct slice name)
{
	if (queue < s->n_providers && s->providers[queue] != NULL && slice_is(name, s->providers[queue]))
		return s->providers[queue];
	for (size_t i = 0; i < s->n_provider_names; i++) {
		if (slice_is(name, s->provider_names[i]))
			return s->provider_names[i];
	}
	return NULL;
}

void
providers_set(struct scheduler *s, uint32_t queue, struct slice name)
{
	void *p = s->providers;
	const char *one = name.n > 0 ? kept(s, queue, name) : NULL;

	if (name.n == 0 && queue >= s->n_providers)
		return;
	if (name.n > 0 && one == NULL) {
		void *names = s->provider_names;

		mem_grow(&names, &s->cap_provider_names, s->n_provider_names + 1, sizeof *s->provider_names);
		s->provider_names = names;
		one = s->provider_names[s->n_provider_names++] = mem_memdup0(name.p, name.n);
	}
	if (queue >= s->n_providers) {
		mem_grow(&p, &s->cap_providers, (size_t)queue + 1, sizeof *s->providers);
		s->providers = p;
		memset(s->providers + s->n_providers, 0, (queue + 1 - s->n_providers) * sizeof *s->providers);
		s->n_providers = (size_t)queue + 1;
	}
	s->providers[queue] = one;
}

struct slice
providers_of(const struct scheduler *s, uint32_t queue)
{
	return queue < s->n_providers && s->providers[queue] != NULL ? slice_str(s->providers[queue]) : SLICE_NONE;
}

void
providers_close(struct scheduler *s)
{
	for (size_t i = 0; i < s->n_provider_names; i++)
		mem_free((void *)(uintptr_t)s->provider_names[i]);
	mem_free(s->provider_names);
	mem_free(s->providers);
	s->provider_names = s->providers = NULL;
	s->n_provider_names = s->n_providers = s->cap_provider_names = s->cap_providers = 0;
}
