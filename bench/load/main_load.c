/* sluice-load: an SMTP load generator that keeps a ledger of what was acknowledged. */
#include <getopt.h>
#include <math.h>
#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "bench/load/load_run.h"
#include "common/base/clock.h"
#include "common/base/mem.h"

#define TARGETS_MAX 16
#define LEDGER_BUF  (256u << 10)

struct options {
	struct load_run *run;
	const char *targets[TARGETS_MAX];
	int n_targets;
	const char *ledger, *domains, *format, *vmtas, *bind;
	unsigned domain_count;
	char tag[24];
	bool has_seed;
};

static struct load_run the_run;

static const char usage[] =
	"usage: sluice-load -t ADDRESS:PORT [-t ...] -m MESSAGES|--duration S [options]\n"
	"  -t, --target A:P        where to send to; sessions take several in turn\n"
	"  -s, --sessions N        at once (1)\n"
	"  -m, --messages N        in all\n"
	"      --duration S        stop after S seconds\n"
	"      --size 2k|20k|N|mix of a message (2k)\n"
	"      --domains A,B,..    of recipients, message by message (load.example)\n"
	"      --domain-count N --domain-format d%d.example\n"
	"      --rcpts N           of each message (1); --spread: of as many domains\n"
	"      --rate R            messages a second\n"
	"      --from ADDRESS      sender (load@load.example)\n"
	"      --vmta A,B,..       X-Virtual-MTA, message by message;  --job J: X-Job\n"
	"                          (%d in it: the message's number)\n"
	"      --pipelining        when offered;  --eight-bit: bodies with UTF-8\n"
	"      --per-connection N  messages, then a new connection\n"
	"      --reconnect         survive lost and refused connections\n"
	"      --insist            send again what gets a 4xx, under a new id\n"
	"      --bind ADDRESS      local address;  --timeout S: of silence (60)\n"
	"      --ledger FILE  --seed N  --tag WORD (of the ids; from the clock)\n"
	"Ends with a JSON summary; exit 0 when every message was settled. SIGTERM: no new "
	"message.\n";

// clang-format off
enum { DURATION = 256, SIZE, DOMAINS, COUNT, FORMAT, RCPTS, SPREAD, RATE, FROM, VMTA, JOB, PIPELINING,
	EIGHT_BIT, PER_CONNECTION, RECONNECT, INSIST, BIND, TIMEOUT, LEDGER, SEED, TAG, VERSION };
static const struct option option_table[] = {
	{ "target", required_argument, NULL, 't' },
	{ "sessions", required_argument, NULL, 's' },
	{ "messages", required_argument, NULL, 'm' },
	{ "duration", required_argument, NULL, DURATION },
	{ "size", required_argument, NULL, SIZE },
	{ "domains", required_argument, NULL, DOMAINS },
	{ "domain-count", required_argument, NULL, COUNT },
	{ "domain-format", required_argument, NULL, FORMAT },
	{ "rcpts", required_argument, NULL, RCPTS },
	{ "spread", no_argument, NULL, SPREAD },
	{ "rate", required_argument, NULL, RATE },
	{ "from", required_argument, NULL, FROM },
	{ "vmta", required_argument, NULL, VMTA },
	{ "job", required_argument, NULL, JOB },
	{ "pipelining", no_argument, NULL, PIPELINING },
	{ "eight-bit", no_argument, NULL, EIGHT_BIT },
	{ "per-connection", required_argument, NULL, PER_CONNECTION },
	{ "reconnect", no_argument, NULL, RECONNECT },
	{ "insist", no_argument, NULL, INSIST },
	{ "bind", required_argument, NULL, BIND },
	{ "timeout", required_argument, NULL, TIMEOUT },
	{ "ledger", required_argument, NULL, LEDGER },
	{ "seed", required_argument, NULL, SEED },
	{ "tag", required_argument, NULL, TAG },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, VERSION },
	{ NULL, 0, NULL, 0 },
};
// clang-format on

/* A whole number within bounds, `k` and `M` allowed behind it. */
static bool
number(const char *text, uint64_t least, uint64_t most, uint64_t *out)
{
	char *end;
	unsigned long long v = strtoull(text, &end, 0);

	if (*end == 'k' || *end == 'K')
		v *= 1024, end++;
	else if (*end == 'M')
		v *= 1024 * 1024, end++;
	*out = v;
	return end != text && *end == '\0' && *text != '-' && v >= least && v <= most;
}

static bool
count(const char *text, unsigned least, unsigned most, unsigned *out)
{
	uint64_t v;

	if (!number(text, least, most, &v))
		return false;
	*out = (unsigned)v;
	return true;
}

static bool
seconds(const char *text, double *out)
{
	char *end;

	*out = strtod(text, &end);
	return end != text && *end == '\0' && isfinite(*out) && *out > 0;
}

static bool
read_size(const char *text, size_t *out)
{
	uint64_t v;

	if (strcmp(text, "mix") == 0) {
		*out = LOAD_SIZE_MIX;
		return true;
	}
	if (!number(text, 1, LOAD_SIZE_MAX, &v))
		return false;
	*out = v;
	return true;
}

/* An option of the mail; false when its value is bad. */
static bool
mail_option(struct options *o, int c, const char *value)
{
	struct load_plan *p = &o->run->plan;

	switch (c) {
	case SIZE:
		return read_size(value, &p->size_bytes);
	case DOMAINS:
		o->domains = value;
		return true;
	case COUNT:
		return count(value, 1, 10000000, &o->domain_count);
	case FORMAT:
		o->format = value;
		return true;
	case RCPTS:
		return count(value, 1, LOAD_RCPTS_MAX, &p->rcpts);
	case SPREAD:
		p->spread = true;
		return true;
	case FROM:
		p->sender = value;
		return true;
	case VMTA:
		o->vmtas = value;
		return true;
	case JOB:
		p->job = value;
		return true;
	case EIGHT_BIT:
		p->eight_bit = true;
		return true;
	case SEED:
		o->has_seed = true;
		return number(value, 0, UINT64_MAX, &p->seed);
	case TAG:
		str_copy(o->tag, sizeof o->tag, slice_str(value));
		return value[0] != '\0';
	default:
		return false;
	}
}

static bool
run_option(struct options *o, int c, const char *value)
{
	struct load_options *r = &o->run->opt;

	switch (c) {
	case 't':
		if (o->n_targets == TARGETS_MAX)
			return false;
		o->targets[o->n_targets++] = value;
		return true;
	case 's':
		return count(value, 1, 100000, &r->sessions);
	case 'm':
		return number(value, 1, UINT64_MAX - 1, &r->messages);
	case DURATION:
		return seconds(value, &r->duration_s);
	case RATE:
		return seconds(value, &r->rate);
	case PIPELINING:
		r->pipelining = true;
		return true;
	case PER_CONNECTION:
		return count(value, 1, 1000000, &r->per_connection);
	case RECONNECT:
		r->reconnect = true;
		return true;
	case INSIST:
		r->insist = true;
		return true;
	case BIND:
		o->bind = value;
		return true;
	case TIMEOUT:
		return seconds(value, &r->timeout_s);
	case LEDGER:
		o->ledger = value;
		return true;
	default:
		return mail_option(o, c, value);
	}
}

static bool
read_options(struct options *o, int argc, char **argv)
{
	int c;

	while ((c = getopt_long(argc, argv, "t:s:m:h", option_table, NULL)) != -1) {
		if (c == 'h' || c == VERSION) {
			fputs(c == 'h' ? usage : "sluice-load " SLUICE_VERSION "\n", stdout);
			exit(EXIT_SUCCESS);
		}
		if (c == '?' || !run_option(o, c, optarg)) {
			if (c != '?')
				fprintf(stderr, "sluice-load: %s is no good value\n", optarg);
			return false;
		}
	}
	return optind == argc && o->n_targets > 0 &&
	       (o->run->opt.messages != UINT64_MAX || o->run->opt.duration_s > 0);
}

/* `A,B,C` as an array of strings. */
static void
split(const char *text, char ***out, size_t *n)
{
	struct slice rest = slice_str(text);
	size_t cap = 1;

	for (const char *p = text; *p != '\0'; p++)
		cap += *p == ',';
	*out = mem_calloc(cap, sizeof **out);
	*n = 0;
	while (rest.p != NULL) {
		struct slice one = slice_trim(slice_cut(&rest, ','));

		if (one.n > 0)
			(*out)[(*n)++] = mem_memdup0(one.p, one.n);
	}
}

/* `format` holds %d once, for the number; nothing else of printf. */
static bool
number_domains(struct load_plan *p, const char *format, unsigned n)
{
	const char *at = strstr(format, "%d");

	if (at == NULL)
		return false;
	p->domains = mem_calloc(n, sizeof *p->domains);
	p->n_domains = n;
	for (unsigned i = 0; i < n; i++) {
		struct buf b = { 0 };

		buf_printf(&b, "%.*s%u%s", (int)(at - format), format, i, at + 2);
		p->domains[i] = mem_memdup0(buf_slice(&b).p, b.len);
		buf_clear(&b);
	}
	return true;
}

static bool
resolve(const char *text, bool with_port, struct sockaddr_storage *to, socklen_t *len)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICSERV, .ai_socktype = SOCK_STREAM }, *ai;
	const char *colon = with_port ? strrchr(text, ':') : text + strlen(text);
	struct slice h;
	char host[256];

	if (colon == NULL)
		return false;
	h = slice_of(text, (size_t)(colon - text));
	if (h.n >= 2 && h.p[0] == '[' && h.p[h.n - 1] == ']')
		h = slice_of(h.p + 1, h.n - 2);
	str_copy(host, sizeof host, h);
	if (getaddrinfo(host, with_port ? colon + 1 : "0", &hints, &ai) != 0)
		return false;
	memcpy(to, ai->ai_addr, ai->ai_addrlen);
	*len = ai->ai_addrlen;
	freeaddrinfo(ai);
	return true;
}

static bool
prepare_sessions(struct options *o)
{
	struct load_run *r = o->run;

	if (o->bind != NULL && !resolve(o->bind, false, &r->opt.bind, &r->opt.bind_len))
		return false;
	r->opt.has_bind = o->bind != NULL;
	r->sessions = mem_calloc(r->opt.sessions, sizeof *r->sessions);
	for (unsigned i = 0; i < r->opt.sessions; i++) {
		struct load_session *s = &r->sessions[i];
		const char *target = o->targets[i % (unsigned)o->n_targets];

		load_session_init(s, r);
		if (!resolve(target, true, &s->target, &s->target_len)) {
			fprintf(stderr, "sluice-load: %s: not ADDRESS:PORT\n", target);
			return false;
		}
	}
	return true;
}

static bool
prepare(struct options *o)
{
	struct load_run *r = o->run;
	struct load_plan *p = &r->plan;

	if (!o->has_seed)
		p->seed = clock_wall_us();
	if (o->tag[0] == '\0')
		snprintf(o->tag, sizeof o->tag, "%llx", (unsigned long long)clock_wall_us());
	p->tag = o->tag;
	p->pool = load_pool_new(p->seed, p->eight_bit);
	if (o->vmtas != NULL)
		split(o->vmtas, &p->vmtas, &p->n_vmtas);
	if (o->domain_count == 0)
		split(o->domains, &p->domains, &p->n_domains);
	else if (!number_domains(p, o->format, o->domain_count))
		return false;
	if (o->ledger != NULL) {
		r->ledger = fopen(o->ledger, "we");
		if (r->ledger == NULL) {
			perror(o->ledger);
			return false;
		}
		setvbuf(r->ledger, NULL, _IOFBF, LEDGER_BUF);
	}
	return p->n_domains > 0 && prepare_sessions(o);
}

static void
print_summary(void *arg)
{
	struct load_run *r = arg;
	struct buf b = { 0 };
	struct json j;

	json_init(&j, &b);
	json_object_begin(&j);
	json_key_str(&j, "tag", r->plan.tag);
	json_key_u64(&j, "seed", r->plan.seed);
	load_stats_json(&j, &r->stats);
	json_key_u64(&j, "in_flight", r->in_flight);
	json_key_u64(&j, "cpu_us", clock_cpu_us());
	json_object_end(&j);
	buf_putc(&b, '\n');
	fwrite(buf_slice(&b).p, 1, b.len, stdout);
	fflush(stdout);
	buf_clear(&b);
}

static void
on_stop(void *arg)
{
	load_run_stop(arg);
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
	struct load_run *r = &the_run;
	struct options o = { .run = r, .domains = "load.example", .format = "d%d.example" };
	bool whole;

	r->opt = (struct load_options){ .sessions = 1, .messages = UINT64_MAX, .timeout_s = 60 };
	r->plan.sender = "load@load.example";
	r->plan.size_bytes = 2048;
	r->plan.rcpts = 1;
	if (!read_options(&o, argc, argv)) {
		fputs(usage, stderr);
		return 2;
	}
	raise_descriptors();
	signal(SIGPIPE, SIG_IGN);
	r->loop = loop_new();
	if (!prepare(&o))
		return 2;
	loop_on_signal(r->loop, SIGTERM, on_stop, r);
	loop_on_signal(r->loop, SIGINT, on_stop, r);
	loop_on_signal(r->loop, SIGUSR1, print_summary, r);
	whole = load_run(r);
	if (r->ledger != NULL && fclose(r->ledger) != 0) {
		perror("ledger");
		return 1;
	}
	print_summary(r);
	return whole ? 0 : 1;
}
