/* conf_macro: domain-macros: $NAME in a domain stands for each of the macro's domains. */
#pragma once

#include "common/conf/conf_load.h"

#define CONF_EXPANSIONS_MAX 1000000 /* of all names of a configuration */

/* Reports loops and undefined macros, each once; sets the state that conf_macro_expand() reads. */
void conf_macro_check(struct conf_loader *x);

struct conf_expansion {
	struct conf_loader *x;
	size_t budget;   /* starts as CONF_EXPANSIONS_MAX */
	const char *why; /* of a failure: "no macro", "loop", "too many"; NULL after a known bad
			    macro */
	char at[80];     /* the name at fault */
};

/* Calls back with each domain that `text` stands for; itself when it holds no $. False at the first
 * thing that is wrong. */
bool conf_macro_expand(struct conf_expansion *e, const char *text,
		       bool (*fn)(void *arg, const char *domain), void *arg);
