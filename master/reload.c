#include "master/reload.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/json.h"
#include "common/base/log.h"
#include "common/proc/reload_answer.h"
#include "master/master.h"
#include "master/notify.h"

static void begin(struct reload *r, bool asked);

/* The end -----------------------------------------------------------------------------------------
 */

static void
log_report(const struct reload *r, bool good)
{
	struct slice rest = buf_slice(&r->report);
	char escaped[2048];

	while (rest.p != NULL) {
		struct slice line = slice_cut(&rest, '\n');

		if (line.n > 1000)
			line.n = 1000;
		if (line.n > 0)
			log_line(good ? LOG_LEVEL_WARN : LOG_LEVEL_ERROR, "reload=%s says=\"%s\"",
				 good ? "done" : "refused",
				 str_escape(escaped, sizeof escaped, line));
	}
}

/* The members of the answer's data. */
static void
write_data(const struct reload *r, struct buf *out)
{
	struct slice rest = buf_slice(&r->report);
	struct json j;

	json_init(&j, out);
	json_key_u64(&j, "generation", r->in->conf_generation);
	json_key(&j, "report");
	json_array_begin(&j);
	while (rest.p != NULL) {
		struct slice line = slice_cut(&rest, '\n');

		if (line.n > 0)
			json_string(&j, line);
	}
	json_array_end(&j);
	json_key(&j, "restart");
	json_array_begin(&j);
	buf_put_slice(out, buf_slice(&r->restarts));
	json_array_end(&j);
}

static void
tell_scheduler(struct reload *r, bool good, const char *message)
{
	struct buf data = { 0 };
	struct reload_answer a = { .status = good ? 0 : 1, .message = slice_str(message) };
	int fd;

	write_data(r, &data);
	a.data = buf_slice(&data);
	fd = reload_answer_write(&a);
	if (fd >= 0) {
		children_reloaded(r->children, fd);
		close(fd);
	} else {
		log_error("reload answer=lost error=\"%s\"", err_text(fd));
	}
	buf_clear(&data);
}

static void
finish(struct reload *r, bool good, const char *message)
{
	unsigned took_ms = (unsigned)((clock_boot_us() - r->began_boot_us) / 1000);
	char status[300], escaped[1000];

	r->state = RELOAD_IDLE;
	timer_stop(&r->timer);
	log_report(r, good);
	if (good)
		log_info("reload=done generation=%llu took_ms=%u",
			 (unsigned long long)r->in->conf_generation, took_ms);
	else
		log_error("reload=refused generation=%llu took_ms=%u because=\"%s\"",
			  (unsigned long long)r->in->conf_generation, took_ms,
			  str_escape(escaped, sizeof escaped, slice_str(message)));
	if (r->told) {
		r->told = false;
		snprintf(status, sizeof status, "READY=1\nSTATUS=%s %.200s",
			 good ? "running;" : "running; reload refused:",
			 good ? "reloaded" : message);
		notify_send(status);
	}
	if (r->asked)
		tell_scheduler(r, good, message);
	buf_reset(&r->report);
	buf_reset(&r->restarts);
	if (r->again) {
		r->again = false;
		begin(r, r->again_asked);
	}
}

/* The first line that is no warning, as the reason. */
static void
refuse_by_report(struct reload *r)
{
	struct slice rest = buf_slice(&r->report);
	char message[240];
	unsigned n = 0;

	message[0] = '\0';
	while (rest.p != NULL) {
		struct slice line = slice_cut(&rest, '\n');
		char text[600];

		str_copy(text, sizeof text, line);
		if (line.n == 0 || strstr(text, ": warning: ") != NULL)
			continue;
		if (n++ == 0)
			str_copy(message, sizeof message - 40, line);
	}
	if (n > 1)
		snprintf(message + strlen(message), 40, " (and %u more)", n - 1);
	finish(r, false, message);
}

static void
drop(struct reload *r, const char *why)
{
	children_drop(r->children);
	instance_drop(&r->next);
	finish(r, false, why);
}

/* Step by step ------------------------------------------------------------------------------------
 */

static void
advance(struct reload *r)
{
	if (r->state == RELOAD_PREPARING &&
	    children_unprepared(r->children, CHILDREN_ALL, r->next.generation) == 0) {
		/* From here on there is no way back: who dies now comes up with it. The scheduler
		 * first: what receivers name it must know. */
		instance_commit(r->in, &r->next);
		r->state = RELOAD_FIRST;
		timer_set(&r->timer, master_times.commit_ms * 1000ull);
		children_commit(r->children, CHILDREN_MASK(ROLE_SCHEDULER), r->in->conf_generation);
	}
	if (r->state == RELOAD_FIRST &&
	    children_uncommitted(r->children, CHILDREN_MASK(ROLE_SCHEDULER),
				 r->in->conf_generation) == 0) {
		r->state = RELOAD_REST;
		children_commit(r->children, CHILDREN_ALL, r->in->conf_generation);
	}
	if (r->state == RELOAD_REST &&
	    children_uncommitted(r->children, CHILDREN_ALL, r->in->conf_generation) == 0)
		finish(r, true, "");
}

static void
on_late(void *arg)
{
	struct reload *r = arg;
	char text[80] = "a process did not answer in time";
	enum role role;
	unsigned slot;

	switch (r->state) {
	case RELOAD_PREPARING:
		if (children_find_unprepared(r->children, r->next.generation, &role, &slot))
			snprintf(text, sizeof text, "%s %u did not answer in time", role_name(role),
				 slot);
		drop(r, text);
		return;
	case RELOAD_FIRST:
		log_warn("reload late=scheduler the others go on");
		r->state = RELOAD_REST;
		timer_set(&r->timer, master_times.commit_ms * 1000ull);
		children_commit(r->children, CHILDREN_ALL, r->in->conf_generation);
		return;
	case RELOAD_REST:
		log_warn("reload late=%u processes",
			 children_uncommitted(r->children, CHILDREN_ALL, r->in->conf_generation));
		finish(r, true, "");
		return;
	default:
		return;
	}
}

static void
on_kept(void *arg, const struct conf_kept *k)
{
	struct reload *r = arg;
	struct json j;

	buf_printf(&r->report,
		   "%s:%u: warning: %s: \"%s\" needs a restart, \"%s\" stays in force\n",
		   k->file != NULL ? k->file : r->path, k->file != NULL ? k->line : 1, k->name,
		   k->configured, k->running);
	if (r->restarts.len > 0)
		buf_putc(&r->restarts, ',');
	json_init(&j, &r->restarts);
	json_object_begin(&j);
	json_key_str(&j, "name", k->name);
	json_key_str(&j, "running", k->running);
	json_key_str(&j, "configured", k->configured);
	json_key_str(&j, "file", k->file);
	json_key_u64(&j, "line", k->line);
	json_object_end(&j);
}

static void
prepare(struct reload *r, int snapshot_fd)
{
	if (instance_prepare(r->in, snapshot_fd, &r->next, &r->report, on_kept, r) != 0) {
		buf_reset(&r->restarts);
		refuse_by_report(r);
		return;
	}
	r->next.generation = ++r->tried;
	r->state = RELOAD_PREPARING;
	timer_set(&r->timer, master_times.prepare_ms * 1000ull);
	children_prepare(r->children, &r->next);
	advance(r);
}

/* Not while the service manager still waits for the start. */
static void
tell_manager(struct reload *r)
{
	char text[80];
	struct timespec now;

	if (!r->started)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%llu",
		 (unsigned long long)now.tv_sec * 1000000ull +
			 (unsigned long long)now.tv_nsec / 1000);
	notify_send(text);
	r->told = true;
}

static void
begin(struct reload *r, bool asked)
{
	int rc;

	r->asked = asked;
	r->began_boot_us = clock_boot_us();
	tell_manager(r);
	log_info("reload=begun file=%s", r->path);
	rc = checker_begin(&r->checker, r->path);
	if (rc != 0) {
		finish(r, false, err_text(rc));
		return;
	}
	r->state = RELOAD_CHECKING;
}

/* From outside ------------------------------------------------------------------------------------
 */

void
reload_init(struct reload *r, struct loop *loop, struct instance *in, struct children *children,
	    const char *path)
{
	*r = (struct reload){
		.in = in, .children = children, .path = path, .tried = in->conf_generation
	};
	r->next.snapshot_fd = -1;
	timer_init(&r->timer, loop, on_late, r);
}

void
reload_clear(struct reload *r)
{
	timer_clear(&r->timer);
	buf_clear(&r->report);
	buf_clear(&r->restarts);
}

void
reload_ask(struct reload *r, bool asked)
{
	if (r->state != RELOAD_IDLE) {
		r->again_asked = asked || (r->again && r->again_asked);
		r->again = true;
		return;
	}
	if (!r->closed) {
		begin(r, asked);
		return;
	}
	r->asked = asked;
	r->began_boot_us = clock_boot_us();
	finish(r, false, "the instance is stopping");
}

void
reload_close(struct reload *r)
{
	r->closed = true;
	r->again = r->told = false;
	switch (r->state) {
	case RELOAD_CHECKING:
		kill(r->checker.pid, SIGKILL);
		return; /* ends when it is reaped */
	case RELOAD_PREPARING:
		drop(r, "the instance is stopping");
		return;
	default:
		return; /* decided: it takes its course, who has gone is not waited for */
	}
}

void
reload_stranger(struct reload *r, pid_t pid, int status)
{
	enum checker_verdict verdict;
	int fd;

	if (r->state != RELOAD_CHECKING || pid != r->checker.pid)
		return;
	verdict = checker_end(&r->checker, status, &fd, &r->report);
	if (r->closed) {
		if (fd >= 0)
			close(fd);
		finish(r, false, "the instance is stopping");
	} else if (verdict == CHECKER_GOOD) {
		prepare(r, fd);
	} else {
		refuse_by_report(r);
	}
}

void
reload_edition(struct reload *r, enum role role, unsigned slot, enum control_kind kind,
	       const char *why)
{
	char text[240];

	if (r->state == RELOAD_PREPARING && kind == CONTROL_REFUSED) {
		snprintf(text, sizeof text, "%s %u: %s", role_name(role), slot, why);
		drop(r, text);
		return;
	}
	advance(r);
}

void
reload_reaped(struct reload *r)
{
	advance(r);
}
