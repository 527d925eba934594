/* sluice-sink: an SMTP server that plays mailbox providers from a script and keeps a ledger of
 * what it took. For tests, the demo and dry runs. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "bench/sink/sink_session.h"
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"

#define FLUSH_US     50000u
#define LISTEN_MAX   4096
#define ACCEPT_BATCH 64

struct listener {
	struct sink_provider_state *state;
	int fd;
	struct watch watch;
	char address[SINK_PEER_BYTES];
};

struct sink {
	struct sink_shared shared;
	struct sink_provider_state *states;
	size_t n_states;
	struct listener *listeners;
	size_t n_listeners;
	struct timer flush;
	const char *script_path, *ledger_path, *trace_path, *connections_path;
	uint64_t seed;
	char *plain[LISTEN_MAX];
	size_t n_plain;
	struct sink_script *script;
};

static struct sink the_sink;

static const char usage[] =
	"usage: sluice-sink [-l ADDRESS:PORT]... | -f SCRIPT\n"
	"  -l, --listen A:P          accept everything there; port 0: any free one\n"
	"  -f, --script FILE         play the providers of this script (SIGHUP: read it again)\n"
	"      --ledger FILE         a line per recipient after its 250\n"
	"      --trace FILE          a line per command with its answer\n"
	"      --connections-log FILE  a line per accepted connection\n"
	"      --seed N              of the dice (default 1)\n"
	"Prints {\"listening\":[...]} when ready; counters as JSON on SIGUSR1, on SIGUSR2\n"
	"(and counts from zero again), and at the end.\n";

static void
print_line(struct buf *b)
{
	buf_putc(b, '\n');
	fwrite(b->data + b->start, 1, b->len, stdout);
	fflush(stdout);
	buf_clear(b);
}

static void
print_ready(const struct sink *k)
{
	struct buf b = { 0 };
	struct json j;

	json_init(&j, &b);
	json_object_begin(&j);
	json_key(&j, "listening");
	json_array_begin(&j);
	for (size_t i = 0; i < k->n_listeners; i++)
		json_string(&j, slice_str(k->listeners[i].address));
	json_array_end(&j);
	json_object_end(&j);
	print_line(&b);
}

static void
flush_logs(struct sink *k)
{
	sink_log_flush(&k->shared.ledger);
	sink_log_flush(&k->shared.trace);
	sink_log_flush(&k->shared.connections);
}

static void
print_stats(void *arg)
{
	struct sink *k = arg;
	struct sink_stats total = { 0 };
	struct buf b = { 0 };
	struct json j;

	flush_logs(k); /* who has read the counters finds the lines they count */
	json_init(&j, &b);
	json_object_begin(&j);
	json_key(&j, "provider");
	json_array_begin(&j);
	for (size_t i = 0; i < k->n_states; i++) {
		json_object_begin(&j);
		json_key_str(&j, "name", k->states[i].provider->name);
		sink_stats_json(&j, &k->states[i].stats);
		json_object_end(&j);
		sink_stats_add(&total, &k->states[i].stats);
	}
	json_array_end(&j);
	json_key(&j, "total");
	json_object_begin(&j);
	sink_stats_json(&j, &total);
	json_object_end(&j);
	json_key_u64(&j, "cpu_us", clock_cpu_us());
	json_object_end(&j);
	print_line(&b);
}

/* Counts of a new run begin; what is open stays open. */
static void
print_and_reset(void *arg)
{
	struct sink *k = arg;

	print_stats(k);
	for (size_t i = 0; i < k->n_states; i++) {
		struct sink_stats *st = &k->states[i].stats;
		uint64_t open = st->open;

		memset(st, 0, sizeof *st);
		st->open = st->peak = open;
	}
}

static void
on_flush(void *arg)
{
	struct sink *k = arg;

	flush_logs(k);
	timer_set(&k->flush, FLUSH_US);
}

static void
on_end(void *arg)
{
	loop_stop(((struct sink *)arg)->shared.loop);
}

static void
on_accept(void *arg, short what)
{
	struct listener *l = arg;

	(void)what;
	for (int i = 0; i < ACCEPT_BATCH; i++) {
		struct sockaddr_storage peer, local;
		socklen_t peer_len = sizeof peer, local_len = sizeof local;
		int fd = accept4(l->fd, (struct sockaddr *)&peer, &peer_len,
				 SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0)
			return; /* none left, or it died in the queue, or descriptors ran out */
		if (getsockname(fd, (struct sockaddr *)&local, &local_len) != 0)
			local = peer;
		sink_session_start(l->state, fd, (struct sockaddr *)&peer,
				   (struct sockaddr *)&local);
	}
}

/* `ADDRESS:PORT` or `[ADDRESS]:PORT`, numbers only. */
static bool
parse_address(const char *text, struct addrinfo **out)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
				  .ai_socktype = SOCK_STREAM };
	const char *colon = strrchr(text, ':');
	char host[64];
	struct slice h;

	if (colon == NULL)
		return false;
	h = slice_of(text, (size_t)(colon - text));
	if (h.n >= 2 && h.p[0] == '[' && h.p[h.n - 1] == ']')
		h = slice_of(h.p + 1, h.n - 2);
	str_copy(host, sizeof host, h);
	return getaddrinfo(host, colon + 1, &hints, out) == 0;
}

/* 0, or prints why not. */
static int
listen_at(struct sink *k, struct sink_provider_state *state, const char *text)
{
	struct listener *l = &k->listeners[k->n_listeners];
	struct sockaddr_storage bound;
	socklen_t len = sizeof bound;
	struct addrinfo *ai;
	int fd;

	if (!parse_address(text, &ai)) {
		fprintf(stderr, "sluice-sink: %s: not ADDRESS:PORT\n", text);
		return -1;
	}
	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)) != 0 ||
	    bind(fd, ai->ai_addr, ai->ai_addrlen) != 0 || listen(fd, SOMAXCONN) != 0 ||
	    getsockname(fd, (struct sockaddr *)&bound, &len) != 0) {
		fprintf(stderr, "sluice-sink: %s: %s\n", text, strerror(errno));
		freeaddrinfo(ai);
		if (fd >= 0)
			close(fd);
		return -1;
	}
	freeaddrinfo(ai);
	l->state = state;
	l->fd = fd;
	sink_peer_text(l->address, (struct sockaddr *)&bound);
	watch_init(&l->watch, k->shared.loop, fd, on_accept, l);
	watch_set(&l->watch, EV_READ);
	k->n_listeners++;
	return 0;
}

/* Gives the providers their rules; by position, for a script that was read again. */
static void
use_script(struct sink *k, struct sink_script *script)
{
	script->before = k->script;
	k->script = script;
	k->shared.script_boot_us = clock_boot_us();
	for (size_t i = 0; i < k->n_states && i < script->n; i++) {
		sink_rules_free(&k->states[i].rules);
		k->states[i].provider = &script->providers[i];
		k->states[i].rules = sink_rules_new(&script->providers[i], k->seed);
	}
}

static struct sink_script *
read_script(const struct sink *k)
{
	struct sink_script *script = NULL;
	char err[256];

	if (k->script_path == NULL)
		return sink_script_plain(k->plain, k->n_plain);
	if (sink_script_load(&script, k->script_path, err, sizeof err) != 0)
		fprintf(stderr, "sluice-sink: %s: %s\n", k->script_path, err);
	return script;
}

/* Sessions still point into the old script: it stays. Listeners stay as they are. */
static void
on_reload(void *arg)
{
	struct sink *k = arg;
	struct sink_script *script = k->script_path != NULL ? read_script(k) : NULL;

	if (script == NULL)
		return;
	if (script->n != k->n_states) {
		fprintf(stderr,
			"sluice-sink: a script read again must keep the number of providers\n");
		sink_script_free(&script);
		return;
	}
	use_script(k, script);
	printf("{\"reloaded\":true}\n");
	fflush(stdout);
}

static int
open_all(struct sink *k, struct sink_script *script)
{
	size_t n = 0;

	if (sink_log_open(&k->shared.ledger, k->ledger_path) != 0 ||
	    sink_log_open(&k->shared.trace, k->trace_path) != 0 ||
	    sink_log_open(&k->shared.connections, k->connections_path) != 0) {
		fprintf(stderr, "sluice-sink: cannot open a log file: %s\n", strerror(errno));
		return -1;
	}
	for (size_t i = 0; i < script->n; i++)
		n += script->providers[i].n_listen;
	k->listeners = mem_calloc(n + 1, sizeof *k->listeners);
	k->states = mem_calloc(script->n, sizeof *k->states);
	k->n_states = script->n;
	for (size_t i = 0; i < script->n; i++)
		k->states[i].shared = &k->shared;
	use_script(k, script);
	for (size_t i = 0; i < script->n; i++)
		for (size_t a = 0; a < script->providers[i].n_listen; a++)
			if (listen_at(k, &k->states[i], script->providers[i].listen[a]) != 0)
				return -1;
	return 0;
}

static bool
read_options(struct sink *k, int argc, char **argv)
{
	static const struct option options[] = {
		{ "listen", required_argument, NULL, 'l' },
		{ "script", required_argument, NULL, 'f' },
		{ "ledger", required_argument, NULL, 'L' },
		{ "trace", required_argument, NULL, 'T' },
		{ "connections-log", required_argument, NULL, 'C' },
		{ "seed", required_argument, NULL, 's' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "l:f:h", options, NULL)) != -1) {
		switch (c) {
		case 'h':
		case 'V':
			fputs(c == 'h' ? usage : "sluice-sink " SLUICE_VERSION "\n", stdout);
			exit(EXIT_SUCCESS);
		case 'l':
			if (k->n_plain < LISTEN_MAX)
				k->plain[k->n_plain++] = optarg;
			break;
		case 'f':
			k->script_path = optarg;
			break;
		case 'L':
			k->ledger_path = optarg;
			break;
		case 'T':
			k->trace_path = optarg;
			break;
		case 'C':
			k->connections_path = optarg;
			break;
		case 's':
			k->seed = strtoull(optarg, NULL, 0);
			break;
		default:
			return false;
		}
	}
	return optind == argc && (k->n_plain > 0) != (k->script_path != NULL);
}

static void
raise_descriptors(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
}

int
main(int argc, char **argv)
{
	struct sink *k = &the_sink;
	struct sink_script *script;

	k->seed = 1;
	if (!read_options(k, argc, argv)) {
		fputs(usage, stderr);
		return 2;
	}
	script = read_script(k);
	if (script == NULL)
		return 2;
	raise_descriptors();
	signal(SIGPIPE, SIG_IGN);
	k->shared.loop = loop_new();
	if (open_all(k, script) != 0)
		return 1;
	loop_on_signal(k->shared.loop, SIGTERM, on_end, k);
	loop_on_signal(k->shared.loop, SIGINT, on_end, k);
	loop_on_signal(k->shared.loop, SIGUSR1, print_stats, k);
	loop_on_signal(k->shared.loop, SIGUSR2, print_and_reset, k);
	loop_on_signal(k->shared.loop, SIGHUP, on_reload, k);
	timer_init(&k->flush, k->shared.loop, on_flush, k);
	timer_set(&k->flush, FLUSH_US);
	print_ready(k);
	loop_run(k->shared.loop);
	print_stats(k);
	sink_log_close(&k->shared.ledger);
	sink_log_close(&k->shared.trace);
	sink_log_close(&k->shared.connections);
	return 0;
}
