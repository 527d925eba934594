/* conf_domain: which domain blocks hold for a queue, and in which order they win.
 *
 * A virtual MTA's beat its pool's, these beat the global ones; inside one scope a.b beats [*.]a.b
 * beats *.a.b (the longest first) beats *; a name written out beats one that came from a macro. */
#pragma once

#include "common/conf/conf_impl.h"
#include "common/conf/conf_macro.h"

/* Numbers of the scopes that hold domain blocks. */
#define CONF_HOLDER_GLOBAL 0u
static inline unsigned
conf_holder_pool(unsigned pool)
{
	return 1 + pool;
}
static inline unsigned
conf_holder_vmta(const struct conf *c, unsigned vmta)
{
	return 1 + (unsigned)c->n_pools + vmta;
}

/* Enters every domain of `block`, which stands in `holder`. */
void conf_domain_add(struct conf *c, struct conf_expansion *e, unsigned holder,
		     const struct conf_block *block);
/* After the last conf_domain_add(). */
void conf_domain_added(struct conf *c);
void conf_domain_clear(struct conf *c);

/* Calls back with each block that holds in `holder` for `domain`, the weakest first. */
void conf_domain_each(const struct conf *c, unsigned holder, struct slice domain,
		      void (*fn)(void *arg, const struct conf_block *block), void *arg);
/* The same over all scopes of the virtual MTA (number), the global one first; for a queue of
 * rollup-by-ip: as for NAME.rollup. */
void conf_domain_all(const struct conf *c, unsigned vmta, struct slice domain,
		     void (*fn)(void *arg, const struct conf_block *block), void *arg);

/* Warns where a wide name in a virtual MTA or pool hides a narrower one outside of it. */
void conf_domain_warn_hidden(struct conf *c, struct conf_loader *x);
