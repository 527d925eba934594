/* LMDB trusts its pages: a flipped bit in one of its own pointers is a fault of the process that
 * follows it, or a page in use written over. So they are looked at before it is let near them. */
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/queue/store_impl.h"
#include "common/queue/store_pages.h"

#define TOLD_MAX 8

struct told {
	const char *path;
	unsigned n;
};

static void
tell(void *arg, uint64_t page, const char *what)
{
	struct told *t = arg;

	if (t->n++ < TOLD_MAX)
		log_error("store=%s/data.mdb page=%llu damaged=\"%s\"", t->path,
			  (unsigned long long)page, what);
}

int
store_probe(const char *path, int dir)
{
	struct told told = { .path = path };
	struct store_pages pages;
	int rc = store_pages_check(dir, &pages, tell, &told);

	if (rc == -E_MISSING)
		return 0; /* new */
	if (rc != 0)
		log_error("store=%s/data.mdb refused=yes error=\"%s\" problems=%llu nothing was "
			  "changed; `sluice queue-check` tells more",
			  path, err_text(rc), (unsigned long long)pages.problems);
	else if (pages.leaked > 0)
		log_warn("store=%s/data.mdb pages_lost=%llu", path,
			 (unsigned long long)pages.leaked);
	return rc;
}
