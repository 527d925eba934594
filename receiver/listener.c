#include "receiver/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/base/mem.h"

#define ACCEPTS_A_TURN 64
#define PAUSE_US       100000u /* when the system has no descriptors left */
#define REFUSED_MAX    16      /* sessions above the limit, open only to be refused in good form */
#define REFUSAL        "421 4.3.2 Too many connections"

struct listener {
	struct listeners *all;
	int fd;
	const char *source;
	struct watch watch;
};

struct listeners {
	struct session_pool *pool;
	unsigned max_sessions;
	bool accepting;
	int spare_fd; /* given up to refuse a client when there are no others */
	struct timer pause;
	unsigned n;
	struct listener one[LISTENERS_MAX];
};

static void
watch_all(struct listeners *l)
{
	bool on = l->accepting && !timer_is_set(&l->pause);

	for (unsigned i = 0; i < l->n; i++)
		watch_set(&l->one[i].watch, on ? EV_READ : 0);
}

static void
on_pause_over(void *arg)
{
	watch_all(arg);
}

/* In a flood: no session, no waiting until the client has read it. */
static void
refuse_at_once(int fd)
{
	static const char said[] = REFUSAL "\r\n";

	if (send(fd, said, sizeof said - 1, MSG_NOSIGNAL) < 0)
		log_debug("refused client is gone already");
	close(fd);
}

/* The client in the queue is told why, so that it does not wait for nothing; then a short pause. */
static void
refuse_without_descriptor(struct listener *l)
{
	struct listeners *all = l->all;
	int fd;

	if (all->spare_fd >= 0) {
		close(all->spare_fd);
		fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0)
			refuse_at_once(fd);
		all->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	}
	timer_set(&all->pause, PAUSE_US);
	watch_all(all);
}

/* False when there is nothing more to accept just now. */
static bool
accept_one(struct listener *l)
{
	struct session_pool *pool = l->all->pool;
	struct sockaddr_storage peer;
	socklen_t len = sizeof peer;
	int fd = accept4(l->fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd >= 0) {
		/* The descriptors kept back for segments and such are not for clients. */
		if (pool->n >= l->all->max_sessions + REFUSED_MAX)
			refuse_at_once(fd);
		else
			session_open(pool, fd, (struct sockaddr *)&peer, l->source,
				     pool->n >= l->all->max_sessions ? REFUSAL : NULL);
		return true;
	}
	switch (errno) {
	case EAGAIN:
#if EAGAIN != EWOULDBLOCK
	case EWOULDBLOCK:
#endif
		return false;
	case EMFILE:
	case ENFILE:
	case ENOBUFS:
	case ENOMEM:
		refuse_without_descriptor(l);
		return false;
	default:
		return true; /* that client is gone (ECONNABORTED and the like): the next one */
	}
}

static void
on_connection(void *arg, short what)
{
	struct listener *l = arg;

	(void)what;
	for (int i = 0; i < ACCEPTS_A_TURN && accept_one(l); i++)
		;
}

struct listeners *
listeners_new(struct session_pool *pool, const int *fds, unsigned n, unsigned max_sessions)
{
	struct listeners *l = mem_zalloc(sizeof *l);
	const struct conf_listener *conf;
	size_t n_conf = conf_listeners(pool->conf, &conf);

	CHECK(n <= LISTENERS_MAX);
	l->pool = pool;
	l->max_sessions = max_sessions;
	l->n = n;
	l->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	timer_init(&l->pause, pool->loop, on_pause_over, l);
	for (unsigned i = 0; i < n; i++) {
		int flags = fcntl(fds[i], F_GETFL);

		CHECK(flags >= 0 && fcntl(fds[i], F_SETFL, flags | O_NONBLOCK) == 0);
		l->one[i].all = l;
		l->one[i].fd = fds[i];
		l->one[i].source = i < n_conf ? conf[i].source : NULL;
		watch_init(&l->one[i].watch, pool->loop, fds[i], on_connection, &l->one[i]);
	}
	return l;
}

void
listeners_free(struct listeners **lp)
{
	struct listeners *l = *lp;

	if (l == NULL)
		return;
	for (unsigned i = 0; i < l->n; i++) {
		watch_clear(&l->one[i].watch);
		close(l->one[i].fd);
	}
	timer_clear(&l->pause);
	if (l->spare_fd >= 0)
		close(l->spare_fd);
	mem_free(l);
	*lp = NULL;
}

void
listeners_set(struct listeners *l, bool accepting)
{
	l->accepting = accepting;
	watch_all(l);
}
