#include "common/proc/user.h"

#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/str.h"

int
user_find(const char *name, struct user *out)
{
	struct passwd *pw = getpwnam(name);
	uint64_t uid;

	if (pw == NULL && slice_u64(slice_str(name), INT32_MAX, &uid))
		pw = getpwuid((uid_t)uid);
	if (pw == NULL)
		return -E_MISSING;
	out->uid = pw->pw_uid;
	out->gid = pw->pw_gid;
	str_copy(out->name, sizeof out->name, slice_str(pw->pw_name));
	return 0;
}

int
user_drop(const struct user *u)
{
	if (initgroups(u->name, u->gid) != 0 || setresgid(u->gid, u->gid, u->gid) != 0 ||
	    setresuid(u->uid, u->uid, u->uid) != 0)
		return -err_errno();
	if (u->uid != 0 && (setuid(0) == 0 || seteuid(0) == 0))
		return -E_SYSTEM; /* the way back is open: refuse to go on */
	(void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	return 0;
}

/* Exactly these capabilities, effective and permitted. */
static int
set_capabilities(uint32_t mask)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { .effective = mask, .permitted = mask } };

	return syscall(SYS_capset, &head, data) == 0 ? 0 : -err_errno();
}

int
user_drop_but_ports(const struct user *u)
{
	int rc;

	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0)
		return -err_errno();
	rc = user_drop(u);
	(void)prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
	if (rc != 0 || u->uid == 0)
		return rc;
	/* Where root itself lacks it (a container), there is none to keep. */
	return set_capabilities(1u << CAP_NET_BIND_SERVICE) == 0 ? 0 : set_capabilities(0);
}

void
user_drop_capabilities(void)
{
	if (geteuid() != 0)
		(void)set_capabilities(0); /* less is always allowed */
}

void
user_no_new_privileges(void)
{
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
}
