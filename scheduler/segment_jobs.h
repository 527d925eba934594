/* segment_jobs: the slow work on segment files, off the loop, in two threads: what somebody waits
 * for never stands behind what is made or removed for later. */
#pragma once

#include "common/event/loop.h"
#include "scheduler/offload.h"

enum segment_job_kind {
	SEGMENT_JOB_CREATE,  /* for later: written full, at a pace that leaves the disk to others */
	SEGMENT_JOB_RESERVE, /* at once: blocks reserved, stamped */
	SEGMENT_JOB_STAMP,
	SEGMENT_JOB_REMOVE,
};

/* Embedded at the start of what the caller needs; allocated by it, freed by its `done`. */
struct segment_job {
	struct offload_job base;
	struct segment_jobs *jobs;
	enum segment_job_kind kind;
	uint32_t number;
	uint64_t epoch; /* of RESERVE and STAMP */
	uint64_t bytes; /* of CREATE and RESERVE */
	int rc;         /* result */
	void *arg;
	void (*done)(void *arg, struct segment_job *job); /* in the loop */
};

struct segment_jobs *segment_jobs_new(struct loop *loop, int dir, const unsigned char instance[16]);
/* Waits for what runs; the rest is dropped. */
void segment_jobs_free(struct segment_jobs **j);
void segment_jobs_add(struct segment_jobs *j, struct segment_job *job);
