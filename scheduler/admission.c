#include "scheduler/admission.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/event_log/event_file.h"
#include "common/queue/claims.h"
#include "common/queue/record.h"
#include "common/queue/segment.h"
#include "common/queue/segment_file.h"

struct checking {
	const struct spool *spool;
	const struct store_meta *meta;
	int rc;
};

static void
refuse(struct checking *c, int rc, const char *file, uint64_t number, const char *why)
{
	log_error("spool=%s %s=%llu refused=yes error=\"%s\"%s; nothing was changed",
		  c->spool->path, file, (unsigned long long)number, err_text(rc), why);
	c->rc = rc;
}

/* A receiver writes only after the commit that named the epoch: mail of an epoch that the rows do
 * not know was queued after them. */
static void
check_segment(void *arg, uint32_t number)
{
	struct checking *c = arg;
	char head[RECORD_HEADER_BYTES];
	struct segment_info info;
	struct record_header h;
	int fd = segment_file_open(c->spool->segments_fd, number, O_RDONLY, c->spool->instance,
				   &info);

	if (fd == -E_FOREIGN)
		refuse(c, fd, "segment", number, "");
	if (fd < 0)
		return; /* what lives in it is told one by one */
	if (info.epoch >= c->meta->next_epoch &&
	    pread(fd, head, sizeof head, SEGMENT_HEADER_BYTES) == (ssize_t)sizeof head &&
	    record_header_decode(slice_of(head, sizeof head), &h) == 0 && h.epoch == info.epoch)
		refuse(c, -E_BAD, "segment", number,
		       " the rows (lmdb/) are older than the mail in it: an old copy was put "
		       "back?");
	close(fd);
}

static void
check_events(struct checking *c)
{
	struct event_file_header h;
	int fd;

	if (c->meta->event_file == 0)
		return; /* never begun */
	fd = event_file_open(c->spool->events_fd, c->meta->event_file, O_RDONLY, c->spool->instance,
			     &h);
	/* The last commit may cover all of a file, and the next one was never begun. */
	if (fd == -E_MISSING && c->meta->event_offset <= EVENT_FILE_HEADER_BYTES)
		return;
	if (fd < 0)
		refuse(c, fd, "events", c->meta->event_file,
		       " the event log does not go with the rows");
	else
		close(fd);
}

int
admission_check(const struct spool *spool, const struct store_meta *meta)
{
	struct checking c = { .spool = spool, .meta = meta };
	int rc = segment_each(spool->segments_fd, check_segment, &c);

	if (rc != 0)
		return rc;
	check_events(&c);
	for (unsigned w = 0; w < WORKERS_MAX; w++) {
		rc = claim_table_check(spool->claims_fd, w, spool->instance);
		if (rc != 0 && rc != -E_MISSING)
			refuse(&c, rc, "claims worker", w, "");
	}
	return c.rc;
}
