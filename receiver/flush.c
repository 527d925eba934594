#include "receiver/flush.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/kill_point.h"
#include "common/base/mem.h"

#ifdef KILL_POINTS
#define IOV_CHUNK 2 /* a record takes several calls: there is a middle to die in */
#else
#define IOV_CHUNK 1000 /* below IOV_MAX */
#endif

enum job_state { IDLE, GIVEN, DONE, LEAVE };

struct flush {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t given;
	enum job_state state; /* under lock; the fields below belong to whose turn it is */
	struct segment_writer *writer;
	struct iovec *iov;
	size_t n;
	int rc;
	uint64_t offset;
	bool busy; /* the loop's view */
	int fd;    /* eventfd: a group is done */
	struct watch watch;
	void (*on_done)(void *arg, int rc, uint64_t offset);
	void *arg;
};

static int
write_group(struct flush *f)
{
	int rc;

	f->offset = f->writer->end;
	KILL_POINT("before-append");
	for (size_t at = 0; at < f->n; at += IOV_CHUNK) {
		size_t n = f->n - at < IOV_CHUNK ? f->n - at : IOV_CHUNK;
		int64_t offset = segment_append(f->writer, f->iov + at, (int)n);

		if (offset < 0)
			return (int)offset;
		KILL_POINT("mid-append");
	}
	KILL_POINT("after-append-before-sync");
	rc = segment_sync(f->writer);
	KILL_POINT("after-sync");
	return rc;
}

static void *
run(void *arg)
{
	struct flush *f = arg;
	uint64_t one = 1;

	pthread_mutex_lock(&f->lock);
	for (;;) {
		while (f->state != GIVEN && f->state != LEAVE)
			pthread_cond_wait(&f->given, &f->lock);
		if (f->state == LEAVE)
			break;
		pthread_mutex_unlock(&f->lock);
		f->rc = write_group(f);
		pthread_mutex_lock(&f->lock);
		if (f->state == GIVEN)
			f->state = DONE;
		CHECK(write(f->fd, &one, sizeof one) == sizeof one);
	}
	pthread_mutex_unlock(&f->lock);
	return NULL;
}

static void
on_event(void *arg, short what)
{
	struct flush *f = arg;
	uint64_t count;
	bool done;

	(void)what;
	if (read(f->fd, &count, sizeof count) != sizeof count)
		return;
	pthread_mutex_lock(&f->lock);
	done = f->state == DONE;
	if (done)
		f->state = IDLE;
	pthread_mutex_unlock(&f->lock);
	if (done) {
		f->busy = false;
		f->on_done(f->arg, f->rc, f->offset);
	}
}

struct flush *
flush_new(struct loop *loop, void (*on_done)(void *arg, int rc, uint64_t offset), void *arg)
{
	struct flush *f = mem_zalloc(sizeof *f);

	f->on_done = on_done;
	f->arg = arg;
	f->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	CHECK(f->fd >= 0);
	CHECK(pthread_mutex_init(&f->lock, NULL) == 0 && pthread_cond_init(&f->given, NULL) == 0);
	watch_init(&f->watch, loop, f->fd, on_event, f);
	watch_set(&f->watch, EV_READ);
	CHECK(pthread_create(&f->thread, NULL, run, f) == 0);
	return f;
}

void
flush_free(struct flush **fp)
{
	struct flush *f = *fp;

	if (f == NULL)
		return;
	pthread_mutex_lock(&f->lock);
	f->state = LEAVE;
	pthread_cond_signal(&f->given);
	pthread_mutex_unlock(&f->lock);
	pthread_join(f->thread, NULL);
	watch_clear(&f->watch);
	close(f->fd);
	pthread_cond_destroy(&f->given);
	pthread_mutex_destroy(&f->lock);
	mem_free(f);
	*fp = NULL;
}

bool
flush_is_busy(const struct flush *f)
{
	return f->busy;
}

void
flush_start(struct flush *f, struct segment_writer *w, struct iovec *iov, size_t n)
{
	CHECK(!f->busy && n > 0);
	f->busy = true;
	f->writer = w;
	f->iov = iov;
	f->n = n;
	pthread_mutex_lock(&f->lock);
	f->state = GIVEN;
	pthread_cond_signal(&f->given);
	pthread_mutex_unlock(&f->lock);
}
