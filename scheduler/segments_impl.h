/* segments_impl: what the files of segments share. */
#pragma once

#include "scheduler/segment_jobs.h"
#include "scheduler/segment_pool.h"
#include "scheduler/segments.h"

struct request {
	unsigned owner;
	uint32_t generation;
	uint64_t bytes;
	segments_opened *fn;
	void *arg;
};

struct segments {
	struct loop *loop;
	struct committer *committer;
	struct segment_jobs *jobs;
	segments_opened *fn;
	void *arg;
	int dir;
	unsigned char instance[16];
	uint64_t ordinary; /* bytes of an ordinary file: SEGMENT_BYTES, less on a small disk */
	struct segment_table t;
	struct segment_pool pool;
	unsigned waiting[RECEIVERS_MAX]; /* requests on their way, by receiver */
	bool unheard[RECEIVERS_MAX];     /* may live from before, and has not said all yet */
	unsigned n_unheard;
	bool creating;                   /* one for the pool */
	bool tight;                      /* no file is made, none kept beyond SEGMENT_POOL_LOW */
	uint64_t create_not_before_us, retire_not_before_us;
	uint64_t files;
};

/* A free segment's file goes, and its row with it. */
void segments_retire(struct segments *s, uint32_t number);
/* A sealed one: free when empty, else thin or not. */
void segments_weigh(struct segments *s, uint32_t number);
