/* user: giving up root for good. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

struct user {
	uid_t uid;
	gid_t gid;
	char name[64];
};

/* Looks up a user by name or number. 0, -E_MISSING. */
int user_find(const char *name, struct user *out);

/* Becomes `u` with its groups, in a way that cannot be taken back; core dumps and /proc/self stay
 * ours. 0 or -E_*: then the process must not go on. */
int user_drop(const struct user *u);

/* The same, but ports below 1024 can still be bound: the master opens the listeners of a reload. */
int user_drop_but_ports(const struct user *u);
/* Gives up every capability that is left. */
void user_drop_capabilities(void);

/* No new privileges by exec, ever. */
void user_no_new_privileges(void);
