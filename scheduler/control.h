/* control: the operator socket: frames in, commands, JSON out. One table names every command. */
#pragma once

#include "common/base/buf.h"
#include "common/base/json.h"
#include "common/ipc/operator.h"
#include "scheduler/state.h"

struct request;
/* A slice of a command's work, a few ms at most; true when it is done. */
typedef bool control_step(struct request *r);

/* Queues looked at in one turn. */
#define CONTROL_LOOK_A_TURN 8192

/* One request while it is answered. Commands write their data object's members with `json`; what takes
 * longer keeps the request: it goes on in slices (control_go_on()), or calls control_finish() later. */
struct request {
	struct scheduler *s;
	struct control_client *client; /* NULL: it has gone away */
	struct slice words[OPERATOR_WORDS_MAX];
	unsigned n_words;   /* arguments behind the command's own words */
	struct slice *args;
	unsigned n_args;
	struct buf text;    /* the JSON */
	struct json json;
	bool keep_data;     /* also when it fails */
	int status;         /* exit status for the command, 0 done */
	char message[256];  /* why, when status != 0; or a remark */
	control_step *step; /* NULL: nothing is left to be done in slices */
	bool waits;         /* set by a step that can do nothing before a commit or the reader thread is done */
	void *state;        /* the command's own */
	struct request *next; /* of those that go on in slices */
};

/* True: answered (or failed); false: control_finish() comes later. */
typedef bool control_fn(struct request *r);

void control_fail(struct request *r, int status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void control_finish(struct request *r);
/* control_finish() comes when all that was done so far is on disk. */
void control_finish_when_durable(struct request *r);
/* `step` is called once in a turn until it is done; then control_finish(), unless it set r->step to NULL to do
 * that itself. Returns false, for the command to return. */
bool control_go_on(struct request *r, control_step *step);
/* One slice of each request that goes on; true when one of them can go on at once. Once per turn. */
bool control_turn(struct scheduler *s);

/* Who asked. */
unsigned control_uid(const struct request *r);

/* "--name=value" among the arguments; empty when it is not there. */
struct slice control_option(const struct request *r, const char *name);
/* "--name", with a value or without. */
bool control_given(const struct request *r, const char *name);
bool control_flag(const struct request *r, const char *name);
/* The n-th argument that is no option; empty when there is none. */
struct slice control_word(const struct request *r, unsigned n);
/* A queue as it is called: the domain in lower case, the virtual MTA as the configuration writes it. `name` itself
 * when it names no such virtual MTA. `out` has room for NAME_BYTES_MAX + 1. */
struct slice control_queue_name(const struct request *r, struct slice name, char *out);
/* Does queue name `d/v` match `pattern` (`D/V` with `*` for either side, or `D`)? */
bool control_matches(struct slice name, struct slice pattern);

/* control_show.c */
/* The reply as it was received, or what happened: an accounting diagnostic without its "smtp;", "x-sluice;". */
struct slice control_reply(struct slice diagnostic);
control_fn control_show_status, control_show_queues, control_show_topqueues, control_show_queue, control_show_domains,
	control_show_vmtas, control_show_sources, control_show_workers, control_show_settings;
/* control_act.c */
control_fn control_set_queue, control_pause, control_resume, control_schedule, control_stop;
/* control_limits.c */
control_fn control_set_limit, control_disable_source, control_enable_source, control_show_disabled;
/* show_limits.c */
control_fn control_show_limits;
/* reload.c */
control_fn control_reload;
/* control_select.c */
control_fn control_list, control_delete;
