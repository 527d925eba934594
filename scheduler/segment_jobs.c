#include "scheduler/segment_jobs.h"

#include <string.h>

#include "common/base/err.h"
#include "common/base/kill_point.h"
#include "common/base/mem.h"
#include "common/queue/segment.h"
#include "scheduler/quota.h"

#define FILL_REST 3 /* a quarter of the disk's time at most */

struct segment_jobs {
	struct offload *quick, *slow;
	int dir;
	unsigned char instance[16];
	atomic_bool leaving;
};

static int
reserve(struct segment_jobs *j, const struct segment_job *job)
{
	int rc = segment_reserve(j->dir, job->number, job->bytes, j->instance);

	if (rc != 0)
		return rc;
	rc = segment_stamp(j->dir, job->number, job->epoch, j->instance);
	if (rc != 0)
		(void)segment_remove(j->dir, job->number);
	return rc;
}

static void
work(struct offload_job *base)
{
	struct segment_job *job = (struct segment_job *)base;
	struct segment_jobs *j = job->jobs;
	struct file_pace pace = { FILL_REST, &j->leaving };

	/* Not into the reserve: what is queued would lack it while the file is filled. */
	if ((job->kind == SEGMENT_JOB_CREATE || job->kind == SEGMENT_JOB_RESERVE) &&
	    !quota_has_room(j->dir, job->bytes)) {
		job->rc = -E_FULL;
		return;
	}
	switch (job->kind) {
	case SEGMENT_JOB_CREATE:
		job->rc = segment_create_paced(j->dir, job->number, job->bytes, j->instance, &pace);
		break;
	case SEGMENT_JOB_RESERVE:
		job->rc = reserve(j, job);
		break;
	case SEGMENT_JOB_STAMP:
		job->rc = segment_stamp(j->dir, job->number, job->epoch, j->instance);
		KILL_POINT("segment-stamped");
		break;
	case SEGMENT_JOB_REMOVE:
		job->rc = segment_remove(j->dir, job->number);
		break;
	}
}

static void
done(struct offload_job *base)
{
	struct segment_job *job = (struct segment_job *)base;

	job->done(job->arg, job);
}

void
segment_jobs_add(struct segment_jobs *j, struct segment_job *job)
{
	bool waited_for = job->kind == SEGMENT_JOB_STAMP || job->kind == SEGMENT_JOB_RESERVE;

	job->base.work = work;
	job->base.done = done;
	job->jobs = j;
	offload_add(waited_for ? j->quick : j->slow, &job->base);
}

struct segment_jobs *
segment_jobs_new(struct loop *loop, int dir, const unsigned char instance[16])
{
	struct segment_jobs *j = mem_zalloc(sizeof *j);

	j->quick = offload_new(loop);
	j->slow = offload_new(loop);
	j->dir = dir;
	memcpy(j->instance, instance, sizeof j->instance);
	return j;
}

void
segment_jobs_free(struct segment_jobs **jp)
{
	struct segment_jobs *j = *jp;

	if (j == NULL)
		return;
	atomic_store(&j->leaving, true);
	offload_free(&j->quick);
	offload_free(&j->slow);
	mem_free(j);
	*jp = NULL;
}
