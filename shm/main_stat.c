/* sluice-stat: shows the shared-memory objects. Opens RUN/shm/NAME and nothing else, asks nobody.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "shm/stat_view.h"

#define DEFAULT_RUN "/run/sluice"
#define TEXT_ROWS   50

enum output { OUTPUT_TEXT, OUTPUT_JSON, OUTPUT_PROMETHEUS };

struct options {
	const char *run_dir;
	enum output output;
	double every_s; /* 0: once */
};

static void
usage(FILE *to)
{
	fputs("usage: sluice-stat [-r RUN_DIR] [--json | --prometheus] [-w SECONDS]\n"
	      "  -r RUN_DIR      directory of the instance, default " DEFAULT_RUN "\n"
	      "  --json          one JSON object\n"
	      "  --prometheus    text exposition format\n"
	      "  -w SECONDS      again and again\n"
	      "  --version\n",
	      to);
}

/* 0 go on, else the exit status + 1. */
static int
parse(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{ "run", required_argument, NULL, 'r' },
		{ "json", no_argument, NULL, 'j' },
		{ "prometheus", no_argument, NULL, 'p' },
		{ "watch", required_argument, NULL, 'w' },
		{ "version", no_argument, NULL, 'V' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	char *end;
	int c;

	while ((c = getopt_long(argc, argv, "r:w:h", longs, NULL)) != -1) {
		switch (c) {
		case 'r':
			o->run_dir = optarg;
			break;
		case 'j':
			o->output = OUTPUT_JSON;
			break;
		case 'p':
			o->output = OUTPUT_PROMETHEUS;
			break;
		case 'w':
			o->every_s = strtod(optarg, &end);
			if (*end == '\0' && end != optarg && o->every_s >= 0.1 &&
			    o->every_s <= 86400)
				break;
			fputs("sluice-stat: -w wants 0.1 to 86400 seconds\n", stderr);
			return 3;
		case 'V':
			puts("sluice-stat " SLUICE_VERSION);
			return 1;
		case 'h':
			usage(stdout);
			return 1;
		default:
			usage(stderr);
			return 3;
		}
	}
	if (optind == argc)
		return 0;
	usage(stderr);
	return 3;
}

/* One picture to stdout. The exit status. */
static int
show(const struct options *o, struct buf *out)
{
	struct stat_view v = { 0 };
	uint64_t boot_us = clock_boot_us();
	int status = 0;

	stat_view_read(&v, o->run_dir);
	stat_view_settle(&v, clock_wall_us());
	buf_reset(out);
	if (v.notes.len > 0)
		fprintf(stderr, "sluice-stat: %.*s", (int)v.notes.len,
			v.notes.data + v.notes.start);
	if (v.scheduler_rc != 0) {
		fprintf(stderr, "sluice-stat: %s/shm/scheduler: %s\n", o->run_dir,
			err_text(v.scheduler_rc));
		status = 1;
	}
	if (v.n_processes > 0) {
		if (o->output == OUTPUT_JSON)
			stat_view_json(&v, boot_us, out);
		else if (o->output == OUTPUT_PROMETHEUS)
			stat_view_prometheus(&v, boot_us, out);
		else
			stat_view_text(&v, boot_us, clock_wall_us(), TEXT_ROWS, out);
	}
	if (o->every_s > 0 && o->output == OUTPUT_TEXT && isatty(STDOUT_FILENO))
		fputs("\033[H\033[2J", stdout);
	if (out->len > 0)
		fwrite(out->data + out->start, 1, out->len, stdout);
	if (fflush(stdout) != 0)
		status = 1;
	stat_view_clear(&v);
	return status;
}

int
main(int argc, char **argv)
{
	struct options o = { .run_dir = DEFAULT_RUN };
	struct buf out = { 0 };
	struct timespec pause;
	int status = parse(argc, argv, &o);

	if (status != 0)
		return status - 1;
	do {
		status = show(&o, &out);
		if (o.every_s <= 0 || ferror(stdout))
			break;
		pause.tv_sec = (time_t)o.every_s;
		pause.tv_nsec = (long)((o.every_s - (double)pause.tv_sec) * 1e9);
	} while (nanosleep(&pause, NULL) == 0);
	buf_clear(&out);
	return status;
}
