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
#define RETIRE_US      500000u /* for the ACK of a client whose SYN came before */
#define BACKLOG_MOST   4096
#define REFUSED_MAX    16 /* sessions above the limit, open only to be refused in good form */
#define REFUSAL        "421 4.3.2 Too many connections"

struct listener {
	struct listener *next;
	struct listeners *all;
	int fd;
	char *address; /* as written */
	char *source;  /* client rule, NULL: none */
	struct watch watch;
	bool kept;           /* while the set changes: it is in the new one */
	struct timer retire; /* set: not in the configuration any more */
};

struct listeners {
	struct session_pool *pool;
	unsigned max_sessions;
	bool accepting;
	int spare_fd; /* given up to refuse a client when there are no others */
	struct timer pause;
	struct listener *first;
};

static void
watch_all(struct listeners *l)
{
	bool on = l->accepting && !timer_is_set(&l->pause);

	for (struct listener *one = l->first; one != NULL; one = one->next)
		watch_set(&one->watch, on ? EV_READ : 0);
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

static void
close_one(struct listener *l)
{
	struct listener **at = &l->all->first;

	while (*at != l)
		at = &(*at)->next;
	*at = l->next;
	watch_clear(&l->watch);
	timer_clear(&l->retire);
	close(l->fd);
	mem_free(l->address);
	mem_free(l->source);
	mem_free(l);
}

static void
on_retired(void *arg)
{
	struct listener *l = arg;

	/* Who is in the backlog has been told by the kernel that it is connected. */
	for (int i = 0; i < BACKLOG_MOST && accept_one(l); i++)
		;
	close_one(l);
}

static struct listener *
find(struct listeners *l, const char *address)
{
	struct listener *one = l->first;

	while (one != NULL && (timer_is_set(&one->retire) || strcmp(one->address, address) != 0))
		one = one->next;
	return one;
}

/* Makes one, or gives one that is there its rule. Takes the descriptor. */
static void
open_one(struct listeners *l, const struct conf_listener *conf, int fd)
{
	struct listener *one = find(l, conf->text);

	if (one != NULL) {
		close(fd); /* the same socket */
		mem_free(one->source);
	} else {
		int flags = fcntl(fd, F_GETFL);

		CHECK(flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0);
		one = mem_zalloc(sizeof *one);
		one->next = l->first;
		l->first = one;
		one->all = l;
		one->fd = fd;
		one->address = mem_strdup(conf->text);
		timer_init(&one->retire, l->pool->loop, on_retired, one);
		watch_init(&one->watch, l->pool->loop, fd, on_connection, one);
	}
	one->kept = true;
	one->source = conf->source != NULL ? mem_strdup(conf->source) : NULL;
}

struct listeners *
listeners_new(struct session_pool *pool)
{
	struct listeners *l = mem_zalloc(sizeof *l);

	l->pool = pool;
	l->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	timer_init(&l->pause, pool->loop, on_pause_over, l);
	return l;
}

void
listeners_change(struct listeners *l, const struct conf *conf, const int *fds, unsigned n,
		 unsigned max_sessions)
{
	const struct conf_listener *list;

	CHECK(n <= conf_listeners(conf, &list));
	l->max_sessions = max_sessions;
	for (struct listener *one = l->first; one != NULL; one = one->next)
		one->kept = false;
	for (unsigned i = 0; i < n; i++)
		open_one(l, &list[i], fds[i]);
	for (struct listener *one = l->first; one != NULL; one = one->next) {
		if (!one->kept && !timer_is_set(&one->retire))
			timer_set(&one->retire, RETIRE_US);
	}
	watch_all(l);
}

void
listeners_free(struct listeners **lp)
{
	struct listeners *l = *lp;

	if (l == NULL)
		return;
	while (l->first != NULL)
		close_one(l->first);
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
