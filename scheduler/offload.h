/* offload: a thread for slow work (segments, reading records); jobs come back to the loop in order. */
#pragma once

#include "common/event/loop.h"

struct offload;

/* Embedded at the start of what a job needs; owned by the caller until `done` is called with it. */
struct offload_job {
	void (*work)(struct offload_job *job); /* in the thread */
	void (*done)(struct offload_job *job); /* in the loop; frees it */
	struct offload_job *next;
};

struct offload *offload_new(struct loop *loop);
/* Waits for the job that runs; it and the others are freed without `done` (one mem_free() of each: what else a
 * job owns goes with the process). */
void offload_free(struct offload **o);
void offload_add(struct offload *o, struct offload_job *job);
