#include "scheduler/offload.h"

#include <pthread.h>
#include <stdbool.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/mem.h"

struct list {
	struct offload_job *first;
	struct offload_job **last;
};

struct offload {
	pthread_t thread;
	pthread_mutex_t mutex;
	pthread_cond_t wake;
	struct list todo;
	struct list finished;
	bool leave;
	int fd;
	struct watch watch;
};

static void
list_init(struct list *l)
{
	l->first = NULL;
	l->last = &l->first;
}

static void
list_add(struct list *l, struct offload_job *job)
{
	job->next = NULL;
	*l->last = job;
	l->last = &job->next;
}

static struct offload_job *
list_take(struct list *l)
{
	struct offload_job *job = l->first;

	if (job != NULL) {
		l->first = job->next;
		if (l->first == NULL)
			l->last = &l->first;
	}
	return job;
}

static void *
thread_main(void *arg)
{
	struct offload *o = arg;

	pthread_mutex_lock(&o->mutex);
	while (!o->leave) {
		struct offload_job *job = list_take(&o->todo);
		uint64_t one = 1;

		if (job == NULL) {
			pthread_cond_wait(&o->wake, &o->mutex);
			continue;
		}
		pthread_mutex_unlock(&o->mutex);
		job->work(job);
		pthread_mutex_lock(&o->mutex);
		list_add(&o->finished, job);
		CHECK(write(o->fd, &one, sizeof one) == (ssize_t)sizeof one);
	}
	pthread_mutex_unlock(&o->mutex);
	return NULL;
}

static void
on_finished(void *arg, short what)
{
	struct offload *o = arg;
	struct list mine;
	struct offload_job *job;
	uint64_t n;

	(void)what;
	if (read(o->fd, &n, sizeof n) < 0)
		return;
	list_init(&mine);
	pthread_mutex_lock(&o->mutex);
	while ((job = list_take(&o->finished)) != NULL)
		list_add(&mine, job);
	pthread_mutex_unlock(&o->mutex);
	while ((job = list_take(&mine)) != NULL)
		job->done(job);
}

struct offload *
offload_new(struct loop *loop)
{
	struct offload *o = mem_zalloc(sizeof *o);

	list_init(&o->todo);
	list_init(&o->finished);
	o->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	CHECK(o->fd >= 0);
	watch_init(&o->watch, loop, o->fd, on_finished, o);
	watch_set(&o->watch, EV_READ);
	CHECK(pthread_mutex_init(&o->mutex, NULL) == 0);
	CHECK(pthread_cond_init(&o->wake, NULL) == 0);
	CHECK(pthread_create(&o->thread, NULL, thread_main, o) == 0);
	return o;
}

void
offload_free(struct offload **op)
{
	struct offload *o = *op;
	struct offload_job *job;

	if (o == NULL)
		return;
	pthread_mutex_lock(&o->mutex);
	o->leave = true;
	pthread_cond_signal(&o->wake);
	pthread_mutex_unlock(&o->mutex);
	pthread_join(o->thread, NULL);
	while ((job = list_take(&o->todo)) != NULL || (job = list_take(&o->finished)) != NULL)
		mem_free(job);
	watch_clear(&o->watch);
	close(o->fd);
	pthread_mutex_destroy(&o->mutex);
	pthread_cond_destroy(&o->wake);
	mem_free(o);
	*op = NULL;
}

void
offload_add(struct offload *o, struct offload_job *job)
{
	pthread_mutex_lock(&o->mutex);
	list_add(&o->todo, job);
	pthread_cond_signal(&o->wake);
	pthread_mutex_unlock(&o->mutex);
}
