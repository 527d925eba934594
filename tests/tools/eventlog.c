/* eventlog SPOOL: the event log of a spool as lines of fields parted by tabs, for tests: an event
 * first, then each of its recipients, numbers before texts. A stamp of 0 is none. */
#include <stdio.h>
#include <string.h>

#include "common/base/err.h"
#include "common/event_log/event_log.h"
#include "common/queue/spool.h"

static const char *const kinds[] = { "none",
#define X(name, help) #name,
				     EVENT_KINDS(X)
#undef X
};
static const char *const actions[] = {
#define X(name, dsn) #name,
	EVENT_ACTIONS(X)
#undef X
};

static void
text(struct slice s)
{
	char out[600];

	printf("\t%s", str_escape(out, sizeof out, s));
}

static void
print(const struct event *e)
{
	printf("event\t%llu\t%s\t%llu\t%llu\t%llu\t%llu", (unsigned long long)e->lsn,
	       kinds[e->kind], (unsigned long long)e->wall_us, (unsigned long long)e->stamp_boot_us,
	       (unsigned long long)e->body_bytes, (unsigned long long)e->volume_bytes);
	text(e->queue);
	text(e->vmta);
	text(e->provider);
	text(e->dlv_source_ip);
	text(e->job);
	text(e->sender);
	text(e->reason);
	printf("\t%llu\n", (unsigned long long)e->mode);
	for (size_t i = 0; i < e->n_rcpts; i++) {
		const struct event_rcpt *r = &e->rcpts[i];
		uint64_t stamp = r->stamp_boot_us == 0                  ? e->stamp_boot_us
				 : r->stamp_boot_us == EVENT_STAMP_NONE ? 0
									: r->stamp_boot_us;

		printf("rcpt\t%llu\t%s\t%llu", (unsigned long long)e->lsn, actions[r->action],
		       (unsigned long long)stamp);
		text(r->address);
		putchar('\n');
	}
}

int
main(int argc, char **argv)
{
	struct event_position none = { 0, 0 }, at;
	struct event_reader *r;
	struct spool spool;
	struct event e;
	const char *why = "";
	int rc;

	if (argc != 2)
		return 2;
	rc = spool_open(&spool, argv[1], &why);
	if (rc == 0)
		rc = event_reader_open(&r, spool.events_fd, spool.instance, none);
	if (rc != 0) {
		fprintf(stderr, "%s: %s\n", argv[1], *why ? why : err_text(rc));
		return 1;
	}
	while ((rc = event_read(r, none, &e, &at)) == 1)
		print(&e);
	event_reader_close(&r);
	spool_close(&spool);
	if (rc < 0)
		fprintf(stderr, "%s: %s\n", argv[1], err_text(rc));
	return rc < 0;
}
