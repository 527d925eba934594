/* threads: each thread of the scheduler is a coroutine; it stops where it waits, and wherever the
 * disk lets it pause. What it allocates lies in an arena that is empty again after a kill. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "tests/sim/sim.h"

#define STACK_BYTES (1u << 20)
#define ARENA_BYTES (256u << 20)
#define CLASSES     32

enum state { UNUSED, READY, WAITS_LOOP, WAITS_COND, WAITS_MUTEX, WAITS_JOIN, DONE };

struct thread {
	enum state state;
	const void *on;
	ucontext_t uc;
	void *stack;
	void *(*fn)(void *arg);
	void *arg;
};

static struct thread threads[SIM_THREADS];
static int now = -1; /* which runs */
static ucontext_t world;
static unsigned lazy[SIM_THREADS]; /* how often it is passed over, in percent: a slow disk, a busy
				      processor */

/* Memory --------------------------------------------------------------------------------------- */
struct head {
	uint32_t class; /* log2 of the bytes behind it */
	uint32_t back;  /* from the head to where the block begins */
	uint64_t bytes;
};
struct unused {
	struct unused *next;
};
static char *arena;
static size_t arena_used;
static struct unused *unused[CLASSES];

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t m);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);
int __real_posix_memalign(void **out, size_t align, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t m);
void *__wrap_realloc(void *p, size_t n);
void __wrap_free(void *p);
char *__wrap_strdup(const char *s);
int __wrap_posix_memalign(void **out, size_t align, size_t n);

static bool
in_arena(const void *p)
{
	return arena != NULL && (const char *)p >= arena && (const char *)p < arena + ARENA_BYTES;
}

static void *
take(size_t n, size_t align)
{
	unsigned class = 5;
	size_t whole = n + sizeof(struct head) + (align > 16 ? align : 0);
	struct head *h;
	char *p;

	while (((size_t)1 << class) < whole)
		class ++;
	if (unused[class] != NULL) {
		p = (char *)unused[class];
		unused[class] = unused[class]->next;
	} else {
		HOLDS(arena_used + ((size_t)1 << class) <= ARENA_BYTES,
		      "the scheduler's memory is used up");
		p = arena + arena_used;
		arena_used += (size_t)1 << class;
	}
	h = (struct head *)(void *)p;
	if (align > 16) {
		uintptr_t at = ((uintptr_t)p + sizeof *h + align - 1) & ~(uintptr_t)(align - 1);

		h = (struct head *)at - 1;
	}
	*h = (struct head){ class, (uint32_t)((char *)h - p), n };
	return h + 1;
}

void *
__wrap_malloc(size_t n)
{
	return now < 0 ? __real_malloc(n) : take(n, 0);
}

void *
__wrap_calloc(size_t n, size_t m)
{
	return now < 0 ? __real_calloc(n, m) : memset(take(n * m, 0), 0, n * m);
}

void
__wrap_free(void *p)
{
	struct head *h = (struct head *)p - 1;
	struct unused *u;

	if (!in_arena(p)) {
		__real_free(p);
		return;
	}
	u = (struct unused *)(void *)((char *)h - h->back);
	uint32_t class = h->class;
	u->next = unused[class];
	unused[class] = u;
}

void *
__wrap_realloc(void *p, size_t n)
{
	struct head *h = (struct head *)p - 1;
	void *q;

	if (p != NULL ? !in_arena(p) : now < 0)
		return __real_realloc(p, n);
	q = now < 0 ? __real_malloc(n) : take(n, 0);
	if (p != NULL) {
		memcpy(q, p, h->bytes < n ? h->bytes : n);
		__wrap_free(p);
	}
	return q;
}

char *
__wrap_strdup(const char *s)
{
	return memcpy(__wrap_malloc(strlen(s) + 1), s, strlen(s) + 1);
}

int
__wrap_posix_memalign(void **out, size_t align, size_t n)
{
	if (now < 0)
		return __real_posix_memalign(out, align, n);
	*out = take(n, align);
	return 0;
}

/* Switching ------------------------------------------------------------------------------------ */
bool
threads_inside(void)
{
	return now >= 0;
}

static void
leave(enum state state, const void *on)
{
	int self = now;

	threads[self].state = state;
	threads[self].on = on;
	now = -1;
	swapcontext(&threads[self].uc, &world);
	now = self;
	threads[self].state = READY;
}

static void
enter(void)
{
	struct thread *t = &threads[now];

	t->fn(t->arg);
	for (;;) {
		for (int i = 0; i < SIM_THREADS; i++) {
			if (threads[i].state == WAITS_JOIN && threads[i].on == t)
				threads[i].state = READY;
		}
		leave(DONE, NULL);
	}
}

static void
prepare(struct thread *t)
{
	getcontext(&t->uc);
	t->uc.uc_stack.ss_sp = t->stack;
	t->uc.uc_stack.ss_size = STACK_BYTES;
	t->uc.uc_link = NULL;
	t->state = READY;
	makecontext(&t->uc, enter, 0);
}

static int
start(void *(*fn)(void *arg), void *arg)
{
	for (int i = 0; i < SIM_THREADS; i++) {
		struct thread *t = &threads[i];

		if (t->state != UNUSED)
			continue;
		if (t->stack == NULL)
			t->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		HOLDS(t->stack != MAP_FAILED, "no memory for a stack");
		t->fn = fn;
		t->arg = arg;
		prepare(t);
		return i;
	}
	sim_broken("more than %d threads", SIM_THREADS);
}

static void (*main_fn)(void *arg);

static void *
main_thread(void *arg)
{
	main_fn(arg);
	return NULL;
}

void
threads_start(void (*fn)(void *arg), void *arg)
{
	if (arena == NULL)
		arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	HOLDS(arena != MAP_FAILED, "no memory for an arena");
	main_fn = fn;
	HOLDS(start(main_thread, arg) == 0, "the first thread is not the first");
}

void
threads_begin(void)
{
	static const unsigned some[] = { 0, 0, 0, 60, 95 };

	for (int i = 0; i < SIM_THREADS; i++)
		lazy[i] = some[sim_below(sizeof some / sizeof *some)];
}

int
threads_pick(bool loop_is_ready)
{
	int can[SIM_THREADS];
	unsigned n = 0;

	for (int i = 0; i < SIM_THREADS; i++) {
		if ((threads[i].state == READY ||
		     (threads[i].state == WAITS_LOOP && loop_is_ready)) &&
		    !sim_percent(lazy[i]))
			can[n++] = i;
	}
	return n == 0 ? -1 : can[sim_below(n)];
}

void
threads_run(int thread)
{
	now = thread;
	threads[thread].state = READY;
	swapcontext(&world, &threads[thread].uc);
	now = -1;
}

void
threads_pause(unsigned percent)
{
	if (now >= 0 && sim_percent(percent))
		leave(READY, NULL);
}

void
threads_wait_for_loop(void)
{
	leave(WAITS_LOOP, NULL);
}

bool
threads_main_waits(void)
{
	return threads[0].state == WAITS_LOOP;
}

void
threads_kill(void)
{
	for (int i = 0; i < SIM_THREADS; i++)
		threads[i].state = UNUSED;
	arena_used = 0;
	memset(unused, 0, sizeof unused);
}

/* What the scheduler and LMDB call ----------------------------------------------------------------
 */
int __wrap_pthread_create(pthread_t *out, const pthread_attr_t *attr, void *(*fn)(void *),
			  void *arg);
int __wrap_pthread_join(pthread_t thread, void **out);
int __wrap_pthread_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *attr);
int __wrap_pthread_mutex_destroy(pthread_mutex_t *m);
int __wrap_pthread_mutex_lock(pthread_mutex_t *m);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *m);
int __wrap_pthread_mutex_consistent(pthread_mutex_t *m);
int __wrap_pthread_cond_init(pthread_cond_t *c, const pthread_condattr_t *attr);
int __wrap_pthread_cond_destroy(pthread_cond_t *c);
int __wrap_pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m);
int __wrap_pthread_cond_signal(pthread_cond_t *c);
int __wrap_pthread_cond_broadcast(pthread_cond_t *c);
int __wrap_pthread_key_create(pthread_key_t *key, void (*fn)(void *));
int __wrap_pthread_key_delete(pthread_key_t key);
void *__wrap_pthread_getspecific(pthread_key_t key);
int __wrap_pthread_setspecific(pthread_key_t key, const void *p);

int
__wrap_pthread_create(pthread_t *out, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	(void)attr;
	*out = (pthread_t)start(fn, arg);
	return 0;
}

int
__wrap_pthread_join(pthread_t thread, void **out)
{
	struct thread *t = &threads[thread];

	if (out != NULL)
		*out = NULL;
	while (t->state != DONE)
		leave(WAITS_JOIN, t);
	t->state = UNUSED;
	return 0;
}

int
__wrap_pthread_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *attr)
{
	(void)attr;
	memset(m, 0, sizeof *m);
	return 0;
}

int
__wrap_pthread_mutex_destroy(pthread_mutex_t *m)
{
	(void)m;
	return 0;
}

/* The first word says who has it. The world around takes its turns whole. */
int
__wrap_pthread_mutex_lock(pthread_mutex_t *m)
{
	int *owner = (int *)(void *)m;

	if (now < 0)
		return 0;
	while (*owner != 0)
		leave(WAITS_MUTEX, m);
	*owner = now + 1;
	return 0;
}

int
__wrap_pthread_mutex_unlock(pthread_mutex_t *m)
{
	int *owner = (int *)(void *)m;

	if (now < 0)
		return 0;
	HOLDS(*owner == now + 1, "a mutex is given back by who has it not");
	*owner = 0;
	for (int i = 0; i < SIM_THREADS; i++) {
		if (threads[i].state == WAITS_MUTEX && threads[i].on == m)
			threads[i].state = READY;
	}
	threads_pause(5);
	return 0;
}

int
__wrap_pthread_mutex_consistent(pthread_mutex_t *m)
{
	(void)m;
	return 0;
}

int
__wrap_pthread_cond_init(pthread_cond_t *c, const pthread_condattr_t *attr)
{
	(void)attr;
	memset(c, 0, sizeof *c);
	return 0;
}

int
__wrap_pthread_cond_destroy(pthread_cond_t *c)
{
	(void)c;
	return 0;
}

int
__wrap_pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m)
{
	*(int *)(void *)m = 0;
	for (int i = 0; i < SIM_THREADS; i++) {
		if (threads[i].state == WAITS_MUTEX && threads[i].on == m)
			threads[i].state = READY;
	}
	leave(WAITS_COND, c);
	return __wrap_pthread_mutex_lock(m);
}

int
__wrap_pthread_cond_signal(pthread_cond_t *c)
{
	for (int i = 0; i < SIM_THREADS; i++) {
		if (threads[i].state == WAITS_COND && threads[i].on == c) {
			threads[i].state = READY;
			break;
		}
	}
	return 0;
}

int
__wrap_pthread_cond_broadcast(pthread_cond_t *c)
{
	for (int i = 0; i < SIM_THREADS; i++) {
		if (threads[i].state == WAITS_COND && threads[i].on == c)
			threads[i].state = READY;
	}
	return 0;
}

int __wrap_nanosleep(const struct timespec *t, struct timespec *left);

int
__wrap_nanosleep(const struct timespec *t, struct timespec *left)
{
	(void)t;
	(void)left;
	threads_pause(100);
	return 0;
}

int
__wrap_pthread_key_create(pthread_key_t *key, void (*fn)(void *))
{
	(void)fn;
	*key = 0;
	return 0;
}

int
__wrap_pthread_key_delete(pthread_key_t key)
{
	(void)key;
	return 0;
}

void *
__wrap_pthread_getspecific(pthread_key_t key)
{
	(void)key;
	return NULL;
}

int
__wrap_pthread_setspecific(pthread_key_t key, const void *p)
{
	(void)key;
	(void)p;
	return 0;
}
